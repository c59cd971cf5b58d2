"""Branch and bound: cut a box, or values in front of nonlinear operators, into parts until bounds refute every part.

`branching` is the search for one proof, over what `roots` keeps of a whole box; `boxes`, `products` and `values`
are the ways to cut, `parts` what they have in common, `neurons` the choice of the next neuron.
"""
