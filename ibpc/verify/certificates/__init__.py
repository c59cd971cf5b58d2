"""Certificates: `certificate` writes them, `schema` and `reading` read them, `check` judges their claims again."""
