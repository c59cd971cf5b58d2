"""Shape arithmetic that several operators share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from ibpc.errors import GraphError
from ibpc.ir import BATCH, Attributes, Shape, format_shape


def same_as_operand(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of the only operand."""
    return operands[0]


def broadcast(shapes: Iterable[Shape], where: str) -> Shape:
    """Return the shape that numpy broadcasting of `shapes` gives, with the batch only in dimension 0.

    Raises GraphError where two sizes differ and neither is 1, or where the batch meets another dimension.
    """
    found = tuple(shapes)
    rank = max((len(shape) for shape in found), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in found]
    result = []
    for axis, sizes in enumerate(zip(*padded, strict=True)):
        wanted = {size for size in sizes if size != 1}
        if len(wanted) > 1 or (BATCH in wanted and axis != 0):
            listed = " and ".join(format_shape(shape) for shape in found)
            raise GraphError.at(where, f"shapes {listed} do not broadcast", "equal sizes or 1 in each dimension")
        result.append(wanted.pop() if wanted else 1)
    return tuple(result)


def positive_axis(axis: int, rank: int, where: str) -> int:
    """Return `axis` counted from the front. Raises GraphError if it is out of range."""
    if not -rank <= axis < rank:
        raise GraphError.at(where, f"axis {axis}", f"an axis from {-rank} to {rank - 1}")
    return axis % rank


def element_count(shape: Shape) -> int:
    """Return the number of elements of one sample."""
    return prod(size for size in shape if size != BATCH)


def expect_rank(shape: Shape, ranks: Iterable[int], where: str) -> None:
    """Raise GraphError unless `shape` has one of the ranks."""
    allowed = tuple(ranks)
    if len(shape) not in allowed:
        wanted = " or ".join(str(rank) for rank in allowed)
        raise GraphError.at(where, f"an operand of shape {format_shape(shape)}", f"rank {wanted}")
