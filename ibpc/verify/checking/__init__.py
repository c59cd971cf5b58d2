"""Bounds of an ONNX model once more: independent of the compiler, from the file alone, in plain numpy.

It shares nothing with the compiler's operators, passes, lowering and bounds. It walks a box through the nodes of the
file in binary64, rounding outward at every step; one short rule for each ONNX type, by kind:

    linear.py           sums of products with constants, and sums
    windows.py          convolutions and pools
    einsum.py           sums of products over labelled dimensions
    resize.py           interpolation
    monotone.py         functions that never fall
    products.py         products, quotients, powers, and functions that rise and fall
    gates.py            x · gate(x): HardSwish, Gelu, Swish, Mish
    exponentials.py     softmax, and logarithms of sums of exponentials
    norms.py            sums of moduli and powers, their roots, and products, along axes and over windows
    standardizations.py elements less the mean of their group, over its deviation
    normalizations.py   elements over a norm of their group
    local_response.py   elements over a power of their neighbourhood
    steps.py            functions that jump: rounding, conversions, remainders, quantization
    choices.py          comparisons, logic, and choices between values
    moves.py            operators that only move elements
    positions.py        windows at computed positions

`values` holds what rules take and return, `rules` the registry, `arithmetic` the cost of rounding. `onnx_file` reads
the model and recognizes the `activations` that it spells out, `checker` walks through it over one of the `regions` of a
box, `evaluator` runs nodes of constants. `planes/` bounds nonlinear operators by two affine functions, `backward` pulls
rows back through them and through the `pulls` of affine ones, and `proofs` reads the tree of a search.

A type without a rule is an error that names the node: the claim is then not confirmed.
"""

from importlib import import_module
from pkgutil import iter_modules

from ibpc.verify.checking.checker import Checker

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Checker"]
