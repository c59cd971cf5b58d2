"""MatMul: matrix product, batched and broadcast as in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Final, TypeAlias

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import BATCH, Attributes, Shape, format_shape
from ibpc.ops._einsums import read as read_einsum
from ibpc.ops._elementwise import export_as, option_free_layer
from ibpc.ops._planes import blended_planes, product_planes
from ibpc.ops._products import bilinear, corners, flushable
from ibpc.ops._shapes import broadcast
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import Sharing, macs_of
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value
from ibpc.ops.rules import Call, Operand, Plane, Planes
from ibpc.rounding import Arithmetic, inflation, vanishing

View: TypeAlias = Callable[[Tensor], Tensor]

MOST_PRODUCTS: Final = 2**18


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return …×I×J for …×I×K and …×K×J; an operand of rank 1 is a row on the left and a column on the right."""
    x, y = operands
    described = f"{format_shape(x)} times {format_shape(y)}"
    if not x or not y:
        raise GraphError.at("MatMul", described, "operands of rank 1 or more")
    rows, columns = x if len(x) > 1 else (1, *x), y if len(y) > 1 else (*y, 1)
    if rows[-1] != columns[-2] or rows[-1] == BATCH:
        raise GraphError.at("MatMul", described, "as many columns on the left as rows on the right, none the batch")
    outer = broadcast([rows[:-2], columns[:-2]], "MatMul")
    result = (*outer, *rows[-2:-1][: len(x) - 1], *columns[-1:][: len(y) - 1])
    if BATCH in result[1:]:
        raise GraphError.at("MatMul", f"{described}, which moves the batch", "the batch in dimension 0 of the result")
    return result


def nominal(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """z = x y."""
    return torch.matmul(x, y)


def terms(call: Call) -> int:
    """Return the products summed into one output, K."""
    return call.operands[0][-1]


def both(call: Call, x: Interval, y: Interval) -> Interval:
    """[Σₖ min, Σₖ max] over the four corners of each product x_ik y_kj.

    Exact per output: the K products of one output share no element. Where both boxes hold 0, a minimum over corners
    does not split into matrix products, so all I·K·J products are materialized, four corners each, at most
    `MOST_PRODUCTS` per sample at a time (or I·J, if that is more). In binary32 either sum is off by at most
    γ Σₖ max|x_ik| max|y_kj|, which is one more matrix product.
    """
    least, greatest = [], []
    x, y = flushable(call, x), flushable(call, y)
    for left, right in _slices(call, x, y):
        low, high = corners(left, right, torch.mul)
        least.append(low.sum(-2))
        greatest.append(high.sum(-2))
    lower, upper = sum(least[1:], least[0]), sum(greatest[1:], greatest[0])
    if call.arithmetic is Arithmetic.REAL:
        return Interval.bounds(lower, upper)
    moduli = [torch.maximum(box.lower.abs(), box.upper.abs()) for box in (x, y)]
    slack = torch.matmul(*moduli) * inflation(terms(call), call.unit) + vanishing(terms(call))
    return Interval.bounds(lower - slack, upper + slack)


def _slices(call: Call, x: Interval, y: Interval) -> Iterator[tuple[Interval, Interval]]:
    """Yield the boxes as (…, I, k, 1) and (…, 1, k, J) for successive parts k of the summed dimension."""
    inner = terms(call)
    step = max(1, MOST_PRODUCTS // prod(call.output[1:]))
    for start in range(0, inner, step):
        count = min(step, inner - start)
        left = [bound.narrow(-1, start, count).unsqueeze(-1) for bound in (x.lower, x.upper)]
        right = [bound.narrow(-2, start, count).unsqueeze(-3) for bound in (y.lower, y.upper)]
        yield Interval.bounds(*left), Interval.bounds(*right)


def relaxation(call: Call, x: Operand, y: Operand) -> Planes:
    """Return the planes of each product x_ik y_kj (`product_planes`), summed over k; exact if an operand is exact.

    The views bring x to (…, I, 1, K) and y to (…, 1, J, K); slopes broadcast between the two. For two boxes the
    offset takes I·J·K numbers on the way.
    """
    rows, columns = _views(call)
    return _summed(product_planes(_viewed(x, rows), _viewed(y, columns)), rows, columns)


def tuned(call: Call, share: Tensor, _plain: Planes, x: Interval, y: Interval) -> Planes:
    """Return planes of each product, blended by the shares (…, 2, *products); see `blended_planes`."""
    rows, columns = _views(call)
    left, right = _viewed(x, rows), _viewed(y, columns)
    assert isinstance(left, Interval)
    assert isinstance(right, Interval)
    below, above = share.unbind(share.dim() - max(left.lower.dim(), right.lower.dim()))
    return _summed(blended_planes(left, right, below, above), rows, columns)


def start(call: Call, x: Interval, y: Interval) -> Tensor:
    """Return the shares of the relaxation: 0."""
    rows, columns = _views(call)
    left, right = _viewed(x, rows), _viewed(y, columns)
    assert isinstance(left, Interval)
    assert isinstance(right, Interval)
    products = left.lower * right.lower
    return products.new_zeros(len(products), 2, *products.shape[1:])


def _views(call: Call) -> tuple[View, View]:
    """Return the views of the operands as (…, I, 1, K) and (…, 1, J, K)."""
    is_row, is_column = (len(operand) == 1 for operand in call.operands)

    def rows(value: Tensor) -> Tensor:
        return value if is_column else value.unsqueeze(-2)

    def columns(value: Tensor) -> Tensor:
        if is_column:
            return value
        return value.transpose(-1, -2) if is_row else value.transpose(-1, -2).unsqueeze(-3)

    return rows, columns


def _summed(planes: Planes, rows: View, columns: View) -> Planes:
    """Return planes of sums over the last dimension of products."""
    lower, upper = (
        Plane(plane.slopes, plane.offset.sum(-1), (rows, columns)) for plane in (planes.lower, planes.upper)
    )
    return Planes(lower, upper)


def _viewed(operand: Operand, view: View) -> Operand:
    if isinstance(operand, Interval):
        return operand.map(view)
    return view(operand)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import MatMul; with a constant matrix on the right as Gemm, whose weight is trained and takes specifications."""
    x, y = node.operand(0), node.operand(1)
    if x.constant is None and y.constant is not None and len(y.shape) == 2 and len(x.shape) > 1:
        return builder.add("Gemm", [x], {}, {"weight": y.constant.T.contiguous()})
    return builder.add("MatMul", [x, y])


OPERATOR = register(
    Operator(
        name="MatMul",
        summary="Matrix product, batched and with broadcasting",
        attributes={},
        operands=(2, 2),
        roles=(),
        shape=shape,
        macs=macs_of(terms),
        rules=replace(bilinear(nominal, terms, both, relaxation, Sharing.ALWAYS), tuned=tuned, start=start),
        reads=(OnnxImport("MatMul", (1, 9, 13), read), OnnxImport("Einsum", (12, 28), read_einsum)),
        writes=export_as("MatMul"),
        layers=(option_free_layer("MatMul"),),
    )
)
