"""Windows at computed positions: the results of ScatterND into them, found by running the file at every position.

The shape of `x[a:b]` with computed a and b is known only at run time, so values in such a window are not bounded. They
end at a ScatterND into a tensor of static shape: the ONNX reference evaluator runs the nodes in between for all
integers that a and b can be, and the box is the hull of all results. Those nodes must be exact in every execution: they
move elements, or compute with integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ibpc.errors import ModelError
from ibpc.verify.checking.evaluator import running
from ibpc.verify.checking.exact import WHOLE_TYPES
from ibpc.verify.checking.values import Box, Constant, Value, is_whole

_MOST_POSITIONS: Final = 4096
_DATA: Final = "data that is written to"
_WHOLE_NUMBERS: Final = {6: np.int32, 7: np.int64}
_EXACT_TYPES: Final = (*_WHOLE_NUMBERS, onnx.TensorProto.BOOL)
_MOVING: Final = frozenset(
    {
        *("Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "GatherND", "Identity"),
        *("Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
    }
)


def is_cut(node: onnx.NodeProto, values: Mapping[str, Value]) -> bool:
    """Return whether a node is a Slice whose start or end the network computes."""
    return node.op_type == "Slice" and any(isinstance(values.get(name), Box) for name in node.input[1:3])


def written(
    node: onnx.NodeProto,
    nodes: Sequence[onnx.NodeProto],
    opset: int,
    values: Mapping[str, Value],
    types: Mapping[str, int],
) -> Box:
    """Return the box of ScatterND into a tensor of static shape; `types` are the element types of the file's values.

    Raises ModelError if there are too many positions, or if the written values are computed with rounding.
    """
    if any(attribute.name == "reduction" and attribute.s not in (b"none", b"") for attribute in node.attribute):
        raise _failure(node, "it computes with what it writes")
    makers = {name: each for each in nodes for name in each.output if name}
    region, known, numbers = _region(node, makers, values)
    for maker in (makers[name] for name in region):
        is_whole_type = maker.op_type in WHOLE_TYPES and types.get(maker.output[0]) in _EXACT_TYPES
        # The reference evaluator is wrong in GatherElements of many rows.
        if maker.op_type == "GatherElements" or not (maker.op_type in _MOVING or is_whole_type):
            raise _failure(node, f"{maker.op_type} may round what it writes", "moved elements and whole numbers")
    data = values[node.input[0]]
    fed = [*known, *numbers, _DATA]
    last = onnx.NodeProto()
    last.CopyFrom(node)
    last.input[0] = _DATA
    graph = helper.make_graph(
        [*(each for each in nodes if each.output[0] in region), last],
        "window",
        [onnx.ValueInfoProto(name=name) for name in fed],
        [onnx.ValueInfoProto(name=node.output[0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    run = running(model, f"node {node.name or node.output[0]}")
    ends = (data.lower, data.upper) if isinstance(data, Box) else (data.wide,)
    lower, upper = np.full(data.shape, np.inf), np.full(data.shape, -np.inf)
    for chosen in _all_numbers(node, numbers, makers):
        for end in ends:
            (found,) = run({**known, **chosen, _DATA: end.astype(np.float64)})
            lower, upper = np.minimum(lower, found), np.maximum(upper, found)
    return Box(lower, upper)


def _region(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], values: Mapping[str, Value]
) -> tuple[set[str], dict[str, NDArray[Any]], dict[str, Box]]:
    """Return what indices and updates are computed from: nodes by their first output, constants, and integers.

    A value of which only the shape matters, such as x in Shape(Slice(x)), is replaced by a constant of zeros.
    """
    region: set[str] = set()
    known: dict[str, NDArray[Any]] = {}
    numbers: dict[str, Box] = {}
    waiting = [(name, False) for name in node.input[1:] if name]
    seen: set[tuple[str, bool]] = set()
    while waiting:
        entry = name, only_shape = waiting.pop()
        if entry in seen:
            continue
        seen.add(entry)
        value, maker = values.get(name), makers.get(name)
        if isinstance(value, Constant):
            known[name] = value.array
        elif isinstance(value, Box) and maker is not None and _is_whole_number(maker, value):
            numbers[name] = value
        elif isinstance(value, Box) and only_shape:
            known[name] = np.zeros(value.shape)
        elif maker is None:
            raise _failure(node, f"{name}, which it writes, is an input of the network")
        else:
            region.add(maker.output[0])
            through = maker.op_type == "Shape" or (maker.op_type == "Slice" and only_shape)
            waiting += [(each, through and slot == 0) for slot, each in enumerate(maker.input) if each]
    if overlap := {name for name in known if (name, False) in seen and isinstance(values[name], Box)}:
        raise _failure(node, f"more than the shape of {min(overlap)} counts")
    return region, known, numbers


def _is_whole_number(maker: onnx.NodeProto, value: Box) -> bool:
    is_cast = maker.op_type == "Cast" and _type_of(maker) in _WHOLE_NUMBERS
    return is_cast and is_whole(value.lower) and is_whole(value.upper)


def _type_of(maker: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in maker.attribute if attribute.name == "to"), 0)


def _all_numbers(
    node: onnx.NodeProto, numbers: Mapping[str, Box], makers: Mapping[str, onnx.NodeProto]
) -> list[dict[str, NDArray[Any]]]:
    """Return all combinations of the numbers' values. Raises ModelError for too many."""
    sizes = [box.upper - box.lower + 1.0 for box in numbers.values()]
    if not np.prod([size.prod() for size in sizes]) <= _MOST_POSITIONS:
        raise _failure(node, "its position is one of too many", f"at most {_MOST_POSITIONS:,}")
    ranges = [
        range(int(low), int(high) + 1)
        for box in numbers.values()
        for low, high in zip(box.lower.ravel(), box.upper.ravel(), strict=True)
    ]
    result = []
    for chosen in product(*ranges):
        rest, found = list(chosen), {}
        for name, box in numbers.items():
            own, rest = rest[: box.lower.size], rest[box.lower.size :]
            found[name] = np.array(own, _WHOLE_NUMBERS[_type_of(makers[name])]).reshape(box.shape)
        result.append(found)
    return result


def _failure(node: onnx.NodeProto, found: str, expected: str = "") -> ModelError:
    return ModelError.at(f"node {node.name or node.output[0]}", f"the checker cannot bound it: {found}", expected)
