"""ONNX scatters at constant indices, imported as Gathers from the concatenation of data and updates.

The target of each update is found as in `ibpc.ops._gathers`, by gathering positions of the data at the indices. Each
result then has a list of sources, of which it takes the last (no reduction), the sum, product, maximum or minimum. No
source occurs twice in a list, so the composition loses nothing against a rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import BATCH, Shape, format_shape
from ibpc.ops._gathers import elements_at, slices_at
from ibpc.ops._shapes import positive_axis
from ibpc.ops.element_types import number
from ibpc.ops.onnx import Builder, OnnxNode, Value

_REDUCTIONS: Final = ("none", "add", "mul", "max", "min")
_MOST_SOURCES: Final = 2**24
_LONGEST_PRODUCT: Final = 64


def read_elements(node: OnnxNode, builder: Builder) -> Value:
    """Import ScatterElements at constant indices."""

    def targets(data: Tensor, where: str) -> Tensor:
        axis = positive_axis(int(node.attributes.get("axis", 0)), data.dim(), where)
        return elements_at(data, _indices(node), axis, where)

    return _scattered(node, targets, builder)


def read_nd(node: OnnxNode, builder: Builder) -> Value:
    """Import ScatterND at constant indices."""

    def targets(data: Tensor, where: str) -> Tensor:
        return slices_at(data, _indices(node), 0, where)

    return _scattered(node, targets, builder)


def _indices(node: OnnxNode) -> Tensor:
    indices = node.operand(1).constant
    if indices is None:
        raise GraphError.at(
            f"node {node.name}", "it writes at indices that depend on the network's input", "constant indices"
        )
    return indices


def _scattered(node: OnnxNode, targets: Callable[[Tensor, str], Tensor], builder: Builder) -> Value:
    """Build the scatter whose updates go to `targets(positions of the data (1×…))`."""
    where, reduction = f"node {node.name}", str(node.attributes.get("reduction", "none"))
    data, updates = number(node, 0, builder), number(node, 2, builder)
    if reduction not in _REDUCTIONS:
        raise GraphError.at(where, f"reduction {reduction}", f"one of {', '.join(_REDUCTIONS)}")
    sample = (1, *data.shape[1:])
    target = targets(torch.arange(prod(sample)).reshape(sample), where)
    if target.dim() == 0 or target.shape[0] != 1 or not (_fits(data, sample) and _fits(updates, tuple(target.shape))):
        found = f"data {format_shape(data.shape)}, updates {format_shape(updates.shape)}"
        raise GraphError.at(where, f"{found} at {format_shape(tuple(target.shape))}", "writes within each sample")
    table = _sources(target.flatten(), prod(sample))
    if table.numel() > _MOST_SOURCES:
        raise GraphError.at(where, f"{len(table)} updates of one element", "fewer")
    flat, others = _flattened(data, builder), _flattened(updates, builder)
    result = _REDUCED[reduction](flat, others, table, where, builder)
    return result if len(sample) == 2 else builder.add("Reshape", [result], {"shape": list(sample[1:])})


def _fits(value: Value, sample: Shape) -> bool:
    return value.shape[:1] in ((BATCH,), (1,)) and value.shape[1:] == sample[1:]


def _flattened(value: Value, builder: Builder) -> Value:
    if value.constant is not None:
        return builder.constant(value.constant.reshape(1, -1))
    return value if len(value.shape) == 2 else builder.add("Reshape", [value], {"shape": [prod(value.shape[1:])]})


def _sources(target: Tensor, size: int) -> Tensor:
    """Return the positions of each element's updates, in order, as (most updates)×size; −1 where there are no more."""
    order = torch.argsort(target, stable=True)
    found = target[order]
    slot = torch.arange(len(found)) - torch.searchsorted(found, found)
    table = torch.full((int(slot.max()) + 1 if len(slot) else 0, size), -1)
    table[slot, found] = order
    return table


def _picked(parts: tuple[Value, ...], indices: Tensor, builder: Builder) -> Value:
    """Return the elements at the indices of the concatenated parts, each N×…."""
    joined = builder.add("Concat", parts, {"axis": 1})
    return builder.add("Gather", [joined], {"axis": 1}, {"indices": indices.contiguous()})


def _replaced(data: Value, updates: Value, table: Tensor, where: str, builder: Builder) -> Value:
    if len(table) > 1:
        raise GraphError.at(where, "it writes one element twice, in undefined order", "each index once")
    own = torch.arange(data.shape[1])
    last = table[0] if len(table) else torch.full_like(own, -1)
    return _picked((data, updates), torch.where(last < 0, own, data.shape[1] + last), builder)


def _summed(data: Value, updates: Value, table: Tensor, where: str, builder: Builder) -> Value:
    """Return the sums by a product with ones, because the binary32 bounds of MatMul hold for any order of summation."""
    own, count = torch.arange(data.shape[1]), data.shape[1] + updates.shape[1]
    sources = torch.cat([own[None], torch.where(table < 0, count, data.shape[1] + table)])
    listed = _picked((data, updates, builder.constant(torch.zeros(1, 1))), sources.T, builder)
    return builder.add("MatMul", [listed, builder.constant(torch.ones(len(sources)))])


def _multiplied(data: Value, updates: Value, table: Tensor, where: str, builder: Builder) -> Value:
    """Return the products, factor by factor in the order of the updates, as ONNX defines them."""
    if len(table) > _LONGEST_PRODUCT:
        raise GraphError.at(where, f"{len(table)} factors of one element", f"at most {_LONGEST_PRODUCT}")
    for row in table:
        sources = torch.where(row < 0, updates.shape[1], row)
        data = builder.add("Mul", [data, _picked((updates, builder.constant(torch.ones(1, 1))), sources, builder)])
    return data


def _greatest(data: Value, updates: Value, table: Tensor, where: str, builder: Builder) -> Value:
    own, width = torch.arange(data.shape[1]), len(table) + 1
    sources = torch.cat([own[None], torch.where(table < 0, own, data.shape[1] + table)])
    window = {"kernel_shape": [width], "strides": [1], "pads": [0, 0], "dilations": [1], "ceil_mode": 0}
    listed = builder.add("MaxPool", [_picked((data, updates), sources.T, builder)], window)
    return builder.add("Reshape", [listed], {"shape": [data.shape[1]]})


def _least(data: Value, updates: Value, table: Tensor, where: str, builder: Builder) -> Value:
    negative = (builder.add("Neg", [data]), builder.add("Neg", [updates]))
    return builder.add("Neg", [_greatest(*negative, table, where, builder)])


_REDUCED: Final[dict[str, Callable[[Value, Value, Tensor, str, Builder], Value]]] = {
    "none": _replaced,
    "add": _summed,
    "mul": _multiplied,
    "max": _greatest,
    "min": _least,
}
