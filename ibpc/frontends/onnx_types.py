"""Which types of number an ONNX node may compute in, the network's values being floating numbers.

Booleans are 0 and 1, integers whole numbers. That is exact for what binary32 has (up to 2²⁴) as long as nothing rounds
a quotient; what may wrap round is bounded by nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from onnx import TensorProto

from ibpc.frontends.onnx_fold import type_name

_FLOATING: Final = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})
_WHOLE: Final = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
# Sums of these may wrap round: they are only made, moved and compared.
_NARROW: Final = frozenset(
    {
        *(TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16),
        *(TensorProto.UINT32, TensorProto.UINT64),
    }
)
_MOVING: Final = frozenset(
    {
        *("Compress", "DepthToSpace", "GatherElements", "GatherND", "ReverseSequence", "SpaceToDepth", "Trilu"),
        *("ArgMax", "ArgMin", "Cast", "CastLike", "Clip", "Concat", "DynamicQuantizeLinear", "Expand", "Flatten"),
        *("Gather", "Identity", "Max", "MaxPool", "Min", "OneHot", "QuantizeLinear", "ReduceMax", "ReduceMin"),
        *("Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
    }
)
# Operators whose results lie in the range of their type, whatever their operands are.
_WITHIN: Final = _MOVING | {"Mod", "NonZero", "Pow", "Sign", "TopK"}
_ROUNDING: Final = frozenset({"Div", "Mean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean"})


def unfit_type(operator: str, found: Iterable[int]) -> str | None:
    """Return why a node whose outputs have the element types `found` cannot be imported, if so."""
    types = frozenset(found)
    if operator in _ROUNDING and types & _WHOLE:
        return f"its result is rounded to {_named(types)}; expected FLOAT"
    if operator not in _MOVING and types & _NARROW:
        return f"it computes in {_named(types)}, which may wrap round; expected FLOAT"
    unknown = types - _FLOATING - _WHOLE - _NARROW
    return f"it computes in {_named(unknown)}; expected FLOAT" if unknown else None


def may_wrap(operator: str, element_type: int) -> bool:
    """Return whether a result of that type may lie beyond its range, where machines wrap round."""
    return element_type in _WHOLE - {TensorProto.BOOL} and operator not in _WITHIN


def _named(types: Iterable[int]) -> str:
    return ", ".join(type_name(number) for number in sorted(types))
