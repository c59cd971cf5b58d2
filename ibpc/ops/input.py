"""Input: where a value enters the network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ibpc.errors import unreachable
from ibpc.ir import BATCH, INPUT, Attributes, Shape
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return N×shape."""
    return (BATCH, *attributes["shape"])


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x, the value passed by the caller."""
    return x


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Refuse: the exporter declares inputs; they are no nodes."""
    unreachable("an Input node was exported as an operator")


OPERATOR = register(
    Operator(
        name=INPUT,
        summary="A network input: the shape of one sample and the range of its values",
        attributes={
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
            "range": {
                "anyOf": [
                    {"type": "null"},
                    {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
                ],
                "default": None,
            },
        },
        operands=(0, 0),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(),
        writes=write,
        layers=(),
    )
)
