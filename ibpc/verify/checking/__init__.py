"""Bounds of an ONNX model once more: independent of the compiler, from the file alone, in plain numpy.

It knows nothing of the compiler's operators, passes, lowering and bounds. It walks a box through the nodes of the
file in binary64, rounding made outward at every step; one short rule for each ONNX type, by kind:

    linear.py       sums of products with constants, and sums
    windows.py      convolutions and pools
    monotone.py     functions that never fall
    products.py     products, quotients, powers, and what rises and falls
    steps.py        functions that jump: rounding, conversions, remainders, quantization
    choices.py      comparisons, logic, and choices between values
    moves.py        what only moves elements
    positions.py    windows at computed positions

A type without a rule is an error that names the node: the claim is then not confirmed.
"""

from ibpc.verify.checking import choices, linear, monotone, moves, products, steps, windows
from ibpc.verify.checking.checker import Checker

__all__ = ["Checker", "choices", "linear", "monotone", "moves", "products", "steps", "windows"]
