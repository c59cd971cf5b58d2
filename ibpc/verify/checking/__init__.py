"""Bounds of an ONNX model once more: independent of the compiler, from the file alone, in plain numpy.

It knows nothing of the compiler's operators, passes, lowering and bounds. It walks a box through the nodes of the
file in binary64, rounding made outward at every step; one short rule for each ONNX type, by kind:

    linear.py           sums of products with constants, and sums
    windows.py          convolutions and pools
    einsum.py           sums of products over labelled dimensions
    resize.py           interpolation
    monotone.py         functions that never fall
    products.py         products, quotients, powers, and what rises and falls
    gates.py            x times a share of it: HardSwish, Gelu, Swish, Mish
    exponentials.py     softmax, and logarithms of sums of exponentials
    norms.py            sums of moduli and powers, their roots, and products, along axes and over windows
    standardizations.py elements less the mean of their group, over its deviation
    normalizations.py   elements over a norm of their group
    local_response.py   elements over a power of what is near them
    steps.py            functions that jump: rounding, conversions, remainders, quantization
    choices.py          comparisons, logic, and choices between values
    moves.py            what only moves elements
    positions.py        windows at computed positions

`values` are what rules take and return, `rules` the registry, `arithmetic` what rounding costs. `onnx_file` reads the
model and names the `activations` that it spells out, `checker` walks through it over one of the `regions` of a box,
`evaluator` runs nodes of constants. `planes/` has two affine functions around nonlinear ones, `backward` pulls rows
back through them and through the `pulls` of affine ones, and `proofs` reads the tree of a search.

A type without a rule is an error that names the node: the claim is then not confirmed.
"""

from ibpc.verify.checking import (
    choices,
    einsum,
    exponentials,
    gates,
    linear,
    local_response,
    monotone,
    moves,
    normalizations,
    norms,
    products,
    resize,
    standardizations,
    steps,
    windows,
)
from ibpc.verify.checking.checker import Checker

__all__ = [
    "Checker",
    "choices",
    "einsum",
    "exponentials",
    "gates",
    "linear",
    "local_response",
    "monotone",
    "moves",
    "normalizations",
    "norms",
    "products",
    "resize",
    "standardizations",
    "steps",
    "windows",
]
