"""Gemm: the fully connected layer y = x Wᵀ + b, with an optional specification merged into it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._biases import BIAS, BIAS_MAGNITUDE, expect_biases, magnitude
from ibpc.ops.base import Fill, Layer, LayerPlan, Operator, Role, register
from ibpc.ops.combinators import Sharing, affine
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Operand, Rules
from ibpc.rounding import FLUSHED, RAISED, Arithmetic, inflation, unraised, vanishing


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return …×M for x …×K and weight M×K; with a specification S×M the result is …×S."""
    (x,), weight = operands, parameters["weight"]
    if len(weight) != 2 or not x or x[-1] != weight[1]:
        raise GraphError.at(
            "Gemm", f"x {format_shape(x)} with weight {format_shape(weight)}", "as many features as weight[1]"
        )
    expect_biases(parameters, weight[0], "Gemm")
    specification = parameters.get("specification", weight[:1] * 2)
    if len(specification) != 2 or specification[1] != weight[0]:
        raise GraphError.at("Gemm", f"specification of shape {specification}", f"(rows, {weight[0]})")
    return (*x[:-1], specification[0])


def nominal(
    call: Call,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    specification: Tensor | None = None,
    bias_magnitude: Tensor | None = None,
) -> Tensor:
    """y = x Wᵀ + b; with a specification S, y = x (S W)ᵀ + S b (elision: Gowal et al. 2018, section 3)."""
    if specification is not None:
        weight = specification @ weight
        bias = None if bias is None else specification @ bias
    return F.linear(x, weight, bias)


def absolute(
    call: Call,
    radius: Tensor,
    *,
    offset: Tensor | float | None,
    weight: Tensor,
    specification: Tensor | None = None,
    **_: Tensor,
) -> Tensor:
    """|S W| radius + offset."""
    if specification is not None:
        weight = specification @ weight
    if isinstance(offset, float):
        offset = torch.full_like(weight[:, 0], offset)
    return F.linear(radius, weight.abs(), offset)


def pull(
    call: Call,
    forms: Tensor,
    *,
    weight: Tensor,
    specification: Tensor | None = None,
    **_: Tensor,
) -> Tensor:
    """Return forms · S W."""
    return (forms if specification is None else forms @ specification) @ weight


def rows(
    call: Call,
    elements: Tensor,
    *,
    weight: Tensor,
    specification: Tensor | None = None,
    **_: Tensor,
) -> Tensor:
    """Return the forms (N, …, K): row `element` of S W at the position of that element's vector, zeros elsewhere."""
    outputs = call.output[-1]
    chosen = elements % outputs
    found = weight[chosen] if specification is None else specification[chosen] @ weight
    forms = found.new_zeros(len(elements), prod(call.output[1:-1]), found.shape[1])
    forms[torch.arange(len(elements), device=elements.device), elements // outputs] = found
    return forms.reshape(len(elements), *call.output[1:-1], found.shape[1])


def gain(call: Call, *, weight: Tensor, **_: Tensor) -> Tensor:
    """Σ |W| of each output."""
    return weight.abs().sum(1)


def terms(call: Call) -> int:
    """Return the products summed into one output: K, and M more with a specification."""
    rows, columns = call.parameters["weight"]
    return columns + rows if "specification" in call.parameters else columns


def _elided(call: Call, x: Interval, *, weight: Tensor, specification: Tensor, **parameters: Tensor) -> Interval:
    """Return the box in binary32 with a merged specification S.

    The network rounds each row of W x + b by itself before subtracting two of them, so the rounding term
    is ρ (|S| |W| (|c| + r) + |S| |b|), not ρ |S W| (…): where rows cancel, their rounding errors do not. One product
    of [r, |c|] with [|S W| + ρ |S| |W|, ρ |S| |W|] gives both; see `ibpc.ops.combinators.affine` for the rest.
    """
    growth, least = inflation(terms(call), call.unit), vanishing(terms(call))
    center = nominal(call, x.center, weight=weight, specification=specification, **parameters)
    moduli = specification.abs() @ weight.abs()
    offset = moduli.sum(1) * FLUSHED + least
    bias = magnitude(call, **parameters)
    if bias is not None:
        offset = offset + (specification.abs() @ bias) * growth
    both = torch.cat([(specification @ weight).abs() + moduli * growth, moduli * growth], 1)
    operand = torch.cat([x.radius, x.modulus], -1)
    return Interval.scaled(center, F.linear(operand, both * RAISED, offset * RAISED), unraised(growth))


_PLAIN = affine(nominal, absolute, terms, magnitude, Sharing.ALWAYS, gain)


def interval(call: Call, x: Operand, **parameters: Tensor) -> Interval:
    """Center W c + b, radius |W| r; see `_elided` for a specification in binary32."""
    merged = "specification" in parameters and call.arithmetic is Arithmetic.FLOAT32
    if merged and isinstance(x, Interval):
        return _elided(call, x, **parameters)
    return _PLAIN.interval(call, x, **parameters)


def macs(call: Call) -> int:
    """Return outputs × K products: a specification merged into the weight costs nothing per sample."""
    return prod(call.output[1:]) * call.parameters["weight"][1]


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Linear layer."""
    (x,) = operands
    if len(x) < 2:
        raise GraphError.at("Linear", f"an input of shape {format_shape(x)}", "features in the last dimension")
    parameters: dict[str, Shape] = {"weight": (options["out_features"], x[-1])}
    if options["bias"]:
        parameters["bias"] = (options["out_features"],)
    return LayerPlan({}, parameters)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Gemm: beta and transB are folded into constants; alpha, transA and non-constant operands become nodes.

    alpha is not folded: alpha · W may underflow where alpha · (W x) does not, and W x overflow where (alpha · W) x
    does not.
    """
    x, weight, addend = node.operand(0), node.known(1), node.optional(2)
    if node.attributes.get("transA", 0):
        raise GraphError.at(f"node {node.name}", "transA=1 would transpose the batch", "transA=0")
    weight = weight if node.attributes.get("transB", 0) else weight.T
    weight, alpha = weight.contiguous(), node.attributes.get("alpha", 1.0)
    beta = node.attributes.get("beta", 1.0)
    if alpha != 1.0:
        product = builder.add("Gemm", [x], {}, {"weight": weight})
        product = builder.add("Mul", [product, builder.constant(torch.tensor(alpha))])
        return product if addend is None else builder.add("Add", [product, _scaled(addend, beta, builder)])
    if addend is None:
        return builder.add("Gemm", [x], {}, {"weight": weight})
    if addend.constant is not None and addend.constant.numel() in (1, weight.shape[0]):
        bias = addend.constant.flatten().expand(weight.shape[0]).contiguous() * beta
        return builder.add("Gemm", [x], {}, {"weight": weight, "bias": bias})
    product = builder.add("Gemm", [x], {}, {"weight": weight})
    return builder.add("Add", [product, _scaled(addend, beta, builder)])


def _scaled(addend: Value, beta: float, builder: Builder) -> Value:
    if beta == 1.0:
        return addend
    if addend.constant is not None:
        return builder.constant(addend.constant * beta)
    return builder.add("Mul", [addend, builder.constant(torch.tensor(beta))])


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Gemm, as MatMul and Add where x is not a matrix."""
    weight, bias = parameters["weight"], parameters.get("bias")
    if "specification" in parameters:
        weight = parameters["specification"] @ weight
        bias = None if bias is None else parameters["specification"] @ bias
    if len(call.operands[0]) == 2:
        constants = [writer.constant(value) for value in (weight, bias) if value is not None]
        return writer.node("Gemm", [*operands, *constants], transB=1)
    product = writer.node("MatMul", [*operands, writer.constant(weight.T.contiguous())])
    return product if bias is None else writer.node("Add", [product, writer.constant(bias)])


OPERATOR = register(
    Operator(
        name="Gemm",
        summary="Fully connected layer y = x Wᵀ + b",
        attributes={},
        operands=(1, 1),
        roles=(
            Role("weight", Fill.WEIGHT),
            BIAS,
            Role("specification", Fill.ZEROS, trainable=False, optional=True),
            BIAS_MAGNITUDE,
        ),
        shape=shape,
        macs=macs,
        rules=Rules(nominal, interval, _PLAIN.paired, None, nominal, pull=pull, rows=rows),
        reads=(OnnxImport("Gemm", (1, 6, 7, 9, 11, 13), read),),
        writes=write,
        layers=(
            Layer(
                "Linear",
                {
                    "out_features": {"description": "Output features", "type": "integer", "minimum": 1},
                    "bias": {"description": "Add a bias", "type": "boolean", "default": True},
                },
                plan,
                ("out_features",),
            ),
        ),
    )
)
