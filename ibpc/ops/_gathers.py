"""Operators that move elements of a sample by constant indices, imported as one Gather.

The indices are found by applying the ONNX operator to the array 0, 1, 2, … in the shape of one sample: the result holds
the positions to gather from the flattened sample.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import BATCH, format_shape
from ibpc.ops._shapes import feature_axis, positive_axis
from ibpc.ops.onnx import Builder, OnnxNode, Value


def positive_indices(indices: Tensor, size: int, where: str) -> Tensor:
    """Return indices counted from the front as int64. Raises GraphError for one out of range."""
    found = indices.long()
    if bool(((found < -size) | (found >= size)).any()):
        raise GraphError.at(where, f"an index outside of a dimension of {size}", f"indices from {-size} to {size - 1}")
    return torch.where(found < 0, found + size, found)


def positions_of(x: Value) -> Tensor:
    """Return 0, 1, 2, … in the shape of one sample, with size 1 in place of the batch."""
    sizes = (1, *x.shape[1:])
    return torch.arange(prod(sizes)).reshape(sizes)


def taken(x: Value, positions: Tensor, where: str, builder: Builder) -> Value:
    """Return the elements of each sample at `positions` (1×…), as N×…. Raises GraphError if dimension 0 is not 1."""
    if x.constant is None and x.shape[0] != BATCH:
        raise GraphError.at(where, f"a value of shape {format_shape(x.shape)}", "the batch in dimension 0")
    if positions.dim() == 0 or positions.shape[0] != 1:
        raise GraphError.at(where, "it mixes or drops the batch", "indices within each sample")
    flat = x if len(x.shape) == 2 else builder.add("Reshape", [x], {"shape": [prod(x.shape[1:])]})
    return builder.add("Gather", [flat], {"axis": 1}, {"indices": positions[0].contiguous()})


def elements_at(data: Tensor, indices: Tensor, axis: int, where: str) -> Tensor:
    """Return data[…, indices[…], …] along the axis (ONNX GatherElements), in the shape of the indices."""
    if indices.dim() != data.dim():
        raise GraphError.at(where, f"indices of rank {indices.dim()} for data of rank {data.dim()}", "equal ranks")
    return torch.gather(data, axis, positive_indices(indices, data.shape[axis], where))


def slices_at(data: Tensor, indices: Tensor, shared: int, where: str) -> Tensor:
    """Return the slices of data at the tuples in the last dimension of the indices (ONNX GatherND).

    The first `shared` dimensions of both are batch dimensions.
    """
    depth = indices.shape[-1] if indices.dim() else 0
    if depth < 1 or shared + depth > data.dim() or data.shape[:shared] != indices.shape[:shared]:
        found = f"indices of shape {format_shape(tuple(indices.shape))} for {format_shape(tuple(data.shape))}"
        raise GraphError.at(where, f"{found}, {shared} batch dimensions", "tuples that fit into the data")
    own = torch.meshgrid(*(torch.arange(size) for size in data.shape[:shared]), indexing="ij") if shared else ()
    rest = indices.dim() - 1 - shared
    own = tuple(grid.reshape(*grid.shape, *[1] * rest) for grid in own)
    sizes = data.shape[shared : shared + depth]
    given = tuple(positive_indices(indices[..., slot], size, where) for slot, size in enumerate(sizes))
    return data[(*own, *given)]


def moved_data(node: OnnxNode) -> Value:
    """Return input 0. Raises GraphError if it is constant, because then the indices depend on the network's input."""
    x = node.operand(0)
    if x.constant is not None:
        raise GraphError.at(
            f"node {node.name}", "it looks up a table at indices that depend on the network's input", "constant indices"
        )
    return x


def read_elements(node: OnnxNode, builder: Builder) -> Value:
    """Import GatherElements at constant indices as a Gather from the flattened sample."""
    x, where = moved_data(node), f"node {node.name}"
    axis = positive_axis(int(node.attributes.get("axis", 0)), len(x.shape), where)
    return taken(x, elements_at(positions_of(x), node.known(1), axis, where), where, builder)


def read_nd(node: OnnxNode, builder: Builder) -> Value:
    """Import GatherND at constant indices as a Gather from the flattened sample."""
    x, where = moved_data(node), f"node {node.name}"
    shared = int(node.attributes.get("batch_dims", 0))
    return taken(x, slices_at(positions_of(x), node.known(1), shared, where), where, builder)


def read_compress(node: OnnxNode, builder: Builder) -> Value:
    """Import Compress with a constant condition: along a feature axis, or of the flattened sample."""
    x, where = moved_data(node), f"node {node.name}"
    chosen = node.known(1).flatten().nonzero().flatten()
    given = node.attributes.get("axis")
    if given is None:
        everything = positions_of(x).flatten()
        return taken(x, everything[positive_indices(chosen, everything.numel(), where)][None], where, builder)
    axis = feature_axis(int(given), len(x.shape), where)
    indices = positive_indices(chosen, x.shape[axis], where)
    return builder.add("Gather", [x], {"axis": axis}, {"indices": indices})


def read_reversed(node: OnnxNode, builder: Builder) -> Value:
    """Import ReverseSequence with constant lengths: the first elements of each sequence in reverse order."""
    x, where = moved_data(node), f"node {node.name}"
    time, batch = int(node.attributes.get("time_axis", 0)), int(node.attributes.get("batch_axis", 1))
    moved = positions_of(x)
    lengths = node.known(1).flatten().tolist()
    if len(lengths) != moved.shape[batch] or any(not 0 <= length <= moved.shape[time] for length in lengths):
        raise GraphError.at(where, f"sequence lengths {lengths}", "one for each sequence, none longer than it")
    for row, length in zip(moved.movedim((batch, time), (0, 1)), lengths, strict=True):
        row[:length] = row[:length].flip(0)
    return taken(x, moved, where, builder)
