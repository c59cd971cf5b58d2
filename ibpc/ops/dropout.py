"""Dropout: the identity in evaluation; in training, elements are zeroed at random and the others scaled up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.errors import GraphError
from ibpc.interval import Interval, Paired
from ibpc.ops._elementwise import option_layer
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, PairedOperand, Rules


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x, as in evaluation."""
    return x


def training(call: Call, x: Tensor) -> Tensor:
    """y = x / (1 − ratio) with probability 1 − ratio and 0 otherwise, independently for each element."""
    return F.dropout(x, call["ratio"], training=True)


def scaling(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of the step: a random mask of 0 and 1 / (1 − ratio), and 0."""
    mask = training(call, torch.ones_like(x))
    return mask, torch.zeros_like(mask)


def paired(call: Call, x: PairedOperand) -> Paired:
    """Multiply both by one mask of 0 and 1 / (1 − ratio), so that the box bounds what the nominal pass computes."""
    assert isinstance(x, Paired)
    if x.is_stacked:
        mask, _ = scaling(call, x.radius)
        return Paired.stacked(x.stack * torch.cat([mask, mask]), x.radius * mask)
    mask, _ = scaling(call, x.nominal)
    return Paired.separate(x.nominal * mask, _scaled(x.interval, mask))


def _scaled(x: Interval, mask: Tensor) -> Interval:
    """Return the box times a mask ≥ 0."""
    if x.is_centered:
        return Interval.around(x.center * mask, x.radius * mask)
    return x.map(lambda end: end * mask)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Dropout in its inference form: the ratio is an attribute up to version 10 and an input after that."""
    ratio = float(node.attributes.get("ratio", 0.5))
    if node.version >= 12:
        ratio = 0.5 if node.optional(1) is None else float(node.known(1))
        if node.optional(2) is not None and bool(node.known(2)):
            raise GraphError.at(f"node {node.name}", "training_mode is true: the output is random", "false, or none")
    return builder.add("Dropout", [node.operand(0)], {"ratio": ratio})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Dropout in its inference form."""
    return writer.node("Dropout", [*operands, writer.constant(torch.tensor(call["ratio"], dtype=torch.float32))])


OPERATOR = register(
    Operator(
        name="Dropout",
        summary="The identity in evaluation, random zeros in training",
        attributes={"ratio": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=Rules(nominal, passthrough(nominal).interval, paired, None, training, scaling=scaling),
        reads=(OnnxImport("Dropout", (7, 10, 12, 13, 22), read),),
        writes=write,
        layers=(
            option_layer(
                "Dropout",
                "p",
                {
                    "description": "Probability of a zero",
                    "type": "number",
                    "minimum": 0,
                    "maximum": 1,
                    "default": 0.5,
                },
                "ratio",
            ),
        ),
    )
)
