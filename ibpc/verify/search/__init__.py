"""Branch and bound: cut a box, or values in front of nonlinear operators, into parts until bounds refute every part.

`branching` searches for one proof, starting from the values over a whole box in `roots`; `boxes`, `products` and
`values` are the ways to cut, `parts` is their common base, `neurons` chooses the next neuron.
"""
