"""Nodes of constants that have the same results in every execution, which are then constants again.

These are moves, integer arithmetic, and single operations that IEEE 754 rounds correctly, on floats that are not
flushed to zero. Elementary functions and sums of many floats may differ between executions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from ibpc.verify.checking.moves import MOVES

# Copies of elements, and results that depend only on shapes and attributes. (Scattering may compute: `may_be_exact`.)
_COPIES: Final = frozenset({*MOVES, "Constant", "ConstantOfShape", "EyeLike", "Pad", "Shape", "Size", "Trilu", "Where"})
# On floats: one correctly rounded operation per element, or a choice among elements.
_ROUNDED: Final = frozenset(
    {
        *("Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Div", "Equal", "Floor", "Greater"),
        *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "NonZero", "Not", "Or", "ReduceMax"),
        *("ReduceMin", "Relu", "Round", "Sign", "Sqrt", "Sub", "Xor"),
    }
)
_INTEGERS_ONLY: Final = frozenset(
    {
        *("ArgMax", "ArgMin", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CumSum", "MatMul", "Mod"),
        *("OneHot", "Range", "ReduceProd", "ReduceSum", "Sum"),
    }
)
# Totals of many integers: on overflow one machine wraps around and another saturates.
_ADDING: Final = frozenset({"CumSum", "MatMul", "ReduceProd", "ReduceSum", "Sum"})
_LAST_TOTAL: Final = 2.0**31 - 1.0
WHOLE_TYPES: Final = _COPIES | _ROUNDED | _INTEGERS_ONLY
_SUMS: Final = ("Add", "Mean", "Sub", "Sum")
_PASSED_ON: Final = _COPIES | {"Neg"}
_CASTS: Final = ("Cast", "CastLike")
_LEAST_NORMAL: Final = 2.0**-126
_LAST_WHOLE: Final = 2**24

Arrays = Sequence[NDArray[Any]]


def may_be_exact(op_type: str, attributes: Mapping[str, Any]) -> bool:
    """Return whether nodes of a type are exact on some constants."""
    if attributes.get("reduction", b"none") != b"none":
        return False
    return op_type in WHOLE_TYPES or op_type == "DequantizeLinear"


def is_exact(op_type: str, operands: Arrays, results: Arrays) -> bool:
    """Return whether every execution of a node of a type that may be exact has these results."""
    arrays = (*operands, *results)
    if op_type in _COPIES:
        return True
    if any(array.dtype.kind not in "biuf" for array in arrays):
        return False
    if op_type == "DequantizeLinear":
        return _is_one_product(operands, results)
    if op_type in ("Div", "Mod") and _has_no_quotient(operands):
        return False
    if all(array.dtype.kind in "biu" for array in arrays):
        return op_type not in _ADDING or _may_total(op_type, operands) <= _LAST_TOTAL
    if op_type not in _ROUNDED or not all(_is_plain(array) for array in arrays):
        return False
    # Converting a number outside the range of an integer type may give anything.
    return op_type not in _CASTS or results[0].dtype.kind not in "iu" or _is_kept(operands[0], results[0])


def summed(nodes: Sequence[onnx.NodeProto]) -> frozenset[str]:
    """Return the values that sums read, behind moves and negations too: a fused product there is not rounded."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in _SUMS or (node.op_type in _PASSED_ON and not found.isdisjoint(node.output)):
            found.update(node.input)
    return frozenset(found)


def is_rounded_product(op_type: str, operands: Arrays, results: Arrays) -> bool:
    """Return whether a node multiplies floats, and the products are not numbers of their type."""
    if op_type != "Mul" or results[0].dtype.kind != "f":
        return False
    return not np.array_equal(np.multiply(*(array.astype(np.float64) for array in operands)), results[0])


def _has_no_quotient(operands: Arrays) -> bool:
    """Return whether an integer is divided by 0, or may be the least one divided by −1: machines trap."""
    divisor = operands[1]
    if divisor.dtype.kind not in "iu":
        return False
    return bool((divisor == 0).any()) or (divisor.dtype.kind == "i" and bool((divisor == -1).any()))


def _may_total(op_type: str, operands: Arrays) -> float:
    """Return a bound of the moduli of all intermediate sums or products of a node."""
    moduli = [np.abs(array.astype(np.float64)) for array in operands]
    if op_type == "ReduceProd":
        return float(np.prod(np.maximum(moduli[0], 1.0)))
    totals = [float(modulus.sum()) for modulus in moduli]
    if op_type == "MatMul":
        return totals[0] * totals[1]
    return sum(totals) if op_type == "Sum" else totals[0]


def _is_plain(array: NDArray[Any]) -> bool:
    """Return whether all numbers are finite and none is small enough to be flushed to zero."""
    if array.dtype.kind != "f":
        return True
    size = np.abs(array)
    return array.dtype.itemsize >= 4 and bool((np.isfinite(array) & ((size == 0) | (size >= _LEAST_NORMAL))).all())


def _is_kept(number: NDArray[Any], converted: NDArray[Any]) -> bool:
    return number.dtype.kind != "f" or bool((np.trunc(number.astype(np.float64)) == converted.astype(np.float64)).all())


def _is_one_product(operands: Arrays, results: Arrays) -> bool:
    """Return whether (x − zero point) · scale is one product of binary32 numbers."""
    x, scale, *zero = operands
    if any(array.dtype.kind not in "iu" for array in (x, *zero)):
        return False
    moduli = [int(np.abs(array.astype(np.int64)).max(initial=0)) for array in (x, *zero)]
    floats = (scale, *results)
    return sum(moduli) <= _LAST_WHOLE and all(array.dtype == np.float32 and _is_plain(array) for array in floats)
