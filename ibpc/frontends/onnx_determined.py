"""Which nodes compute the same from constants in every IEEE-754 execution, so that what they give is a number again.

Moves and choices do, integers from integers, and single operations that are rounded once, to a number that no machine
flushes to zero. Sums, curves and half precision, which runtimes may carry on in more digits, do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from ibpc.rounding import SMALLEST

Arrays = Sequence[NDArray[Any]]

_COPIES: Final = frozenset(
    (
        *("Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "EyeLike"),
        *("Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape"),
        *("ScatterElements", "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"),
        *("Transpose", "Trilu", "Unsqueeze", "Where"),
    )
)
_ROUNDED: Final = frozenset(
    (
        *("Abs", "Add", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Clip", "Div", "Equal", "Floor", "Greater"),
        *("GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "NonZero"),
        *("ReduceMax", "ReduceMin", "Relu", "Round", "Sign", "Sqrt", "Sub"),
    )
)
_ON_INTEGERS: Final = frozenset(
    (
        *("And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CumSum", "MatMul", "Mod", "Not"),
        *("OneHot", "Or", "Range", "ReduceProd", "ReduceSum", "Xor"),
    )
)
_SUMS: Final = ("Add", "Mean", "Sub", "Sum")
_PASSED_ON: Final = _COPIES | {"Neg"}
# Where a result is beyond its type, runtimes wrap it round or cut it off.
_TOTALS: Final = frozenset(("CumSum", "MatMul", "ReduceProd", "ReduceSum"))
_CASTS: Final = ("Cast", "CastLike")
_DEQUANTIZE: Final = "DequantizeLinear"
_LAST_WHOLE: Final = 2**24
_LAST_OF_INT32: Final = 2.0**31


def is_determined(node: onnx.NodeProto, operands: Arrays, results: Arrays) -> bool:
    """Return whether every execution of a node has these results, from these constants."""
    arrays = (*operands, *results)
    are_whole = all(array.dtype.kind != "f" for array in arrays)
    if any(each.name == "reduction" and each.s not in (b"", b"none") for each in node.attribute):
        return are_whole
    if node.op_type in _COPIES:
        return True
    if are_whole and node.op_type in _ON_INTEGERS:
        return node.op_type not in _TOTALS or _most_of(node.op_type, operands) < _LAST_OF_INT32
    if node.op_type == _DEQUANTIZE:
        return _is_one_product(operands) and all(map(_is_plain, results))
    if node.op_type in _CASTS:
        return _is_plain(results[0]) and _is_kept(operands[0], results[0])
    if node.op_type == "Div" and not all(np.isfinite(array).all() for array in arrays):
        return False  # The sign of a zero, which tells the sign of a quotient, is nobody's to tell.
    return node.op_type in _ROUNDED and all(map(_is_plain, arrays))


def expect_integer_quotients(node: onnx.NodeProto, operands: Arrays) -> None:
    """Raise ValueError where integers are divided that have no quotient, or one beyond their type: machines trap."""
    if node.op_type not in ("Div", "Mod") or any(array.dtype.kind not in "iu" for array in operands):
        return
    dividend, divisor = np.broadcast_arrays(*operands)
    least = np.iinfo(dividend.dtype).min
    if bool(((divisor == 0) | ((dividend == least) & (least < 0) & (divisor == -1))).any()):
        raise ValueError("it divides an integer by 0, or the least one by −1; expected quotients of its type")


def summed(nodes: Iterable[onnx.NodeProto]) -> frozenset[str]:
    """Return the values that sums read, behind moves and negations too: a fused product there is not rounded."""
    found: set[str] = set()
    for node in reversed(list(nodes)):
        if node.op_type in _SUMS or (node.op_type in _PASSED_ON and not found.isdisjoint(node.output)):
            found.update(node.input)
    return frozenset(found)


def is_rounded_product(node: onnx.NodeProto, operands: Arrays, results: Arrays) -> bool:
    """Return whether a node multiplies floats, and the products are not numbers of their type."""
    if node.op_type != "Mul" or results[0].dtype.kind != "f":
        return False
    return not np.array_equal(np.multiply(*(array.astype(np.float64) for array in operands)), results[0])


def _most_of(kind: str, operands: Arrays) -> float:
    """Return what no total of integers exceeds, nor a part of it."""
    sizes = [np.abs(array.astype(np.float64)) for array in operands]
    if kind == "ReduceProd":
        return float(np.prod(np.maximum(sizes[0], 1.0)))
    return float(np.prod([size.sum() for size in (sizes if kind == "MatMul" else sizes[:1])]))


def _is_plain(array: NDArray[Any]) -> bool:
    """Return whether numbers are integers, or floats of 32 bits or more in the normal range."""
    if array.dtype.kind != "f":
        return True
    size = np.abs(array)
    return array.dtype.itemsize >= 4 and bool(((size == 0) | (size >= SMALLEST)).all())


def _is_kept(number: NDArray[Any], converted: NDArray[Any]) -> bool:
    """Return whether a conversion to integers has them: of a number beyond their range runtimes make what they like."""
    if number.dtype.kind != "f" or converted.dtype.kind == "f":
        return True
    return bool((np.trunc(number.astype(np.float64)) == converted.astype(np.float64)).all())


def _is_one_product(operands: Arrays) -> bool:
    """Return whether (x − zero point) · scale takes one rounding: binary32 has the difference."""
    x, scale, *zero = operands
    most = sum(int(np.abs(array.astype(np.int64)).max(initial=0)) for array in (x, *zero))
    return most <= _LAST_WHOLE and _is_plain(scale)
