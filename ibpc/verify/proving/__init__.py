"""How bounds were found, written down for the checker: `proof` is the tree, `evidence` packs what its leaves hold."""
