"""The element types of ONNX tensors. Inside a network all values are floating-point, whatever the file declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ops.onnx import Builder, OnnxNode, Value

FLOAT: Final = 1
BOOL: Final = 9
DOUBLE: Final = 11

# The numbers are those of onnx.TensorProto.DataType.
NUMBERS: Final[Mapping[str, int]] = {
    "float": FLOAT,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": BOOL,
    "double": DOUBLE,
    "uint32": 12,
    "uint64": 13,
}
NAMES: Final[Mapping[int, str]] = {number: name for name, number in NUMBERS.items()}
RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "uint8": (0, 2**8 - 1),
    "int8": (-(2**7), 2**7 - 1),
    "uint16": (0, 2**16 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}


def name_of(number: int, where: str) -> str:
    """Return the name of an element type. Raises GraphError for unsupported types."""
    if number not in NAMES:
        wanted = ", ".join(NUMBERS)
        raise GraphError.at(where, f"element type {number} of onnx.TensorProto.DataType", f"one of {wanted}")
    return NAMES[number]


def holds(target: str, source: str) -> bool:
    """Return whether a cast between these types changes no value, given that values of integer types are whole."""
    if source == "bool":
        return True
    if source not in RANGES or target not in RANGES:
        return source == target
    least, greatest = RANGES[target]
    return least <= RANGES[source][0] and RANGES[source][1] <= greatest


def number(node: OnnxNode, slot: int, builder: Builder) -> Value:
    """Return the input of a slot, constants of booleans or integers as floating-point ones."""
    value = node.operand(slot)
    if value.constant is None or value.constant.is_floating_point():
        return value
    return builder.constant(floating(value.constant, f"node {node.name}"))


def floating(constant: Tensor, where: str) -> Tensor:
    """Return booleans or integers as float32. Raises GraphError for integers that float32 cannot represent."""
    if constant.dtype == torch.bool:
        return constant.float()
    result = constant.float()
    if bool((result.double() != constant.double()).any()) or bool((result.abs() >= 2.0**53).any()):
        raise GraphError.at(where, "an integer that float32 cannot represent", "integers up to 2²⁴")
    return result
