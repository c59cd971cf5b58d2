"""Linear properties stated in Python: rows of the outputs that stay below bounds all over a box."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from ibpc.bounds.enclosure import boxes_given
from ibpc.data import real_array
from ibpc.errors import PropertyError
from ibpc.interval import Interval
from ibpc.ir import format_shape
from ibpc.network import Network
from ibpc.verify.properties import LARGEST, Box, Case, DeclaredTensor, Property, Row


def linear_property(
    network: Network,
    box: Interval | Tensor | Sequence[Interval | Tensor],
    rows: Tensor | NDArray[Any] | Sequence[Sequence[float]],
    below: float | Tensor | NDArray[Any] | Sequence[float] = 0.0,
) -> Property:
    """Return the property that rows · outputs ≤ below holds for all points of a box: each row, or it is falsified.

    `rows` are (R, K) over all outputs, flat and one after the other; `below` is a number or (R,). The box has one
    sample, (1, …); with several inputs there is a list of boxes, and a tensor is the box of one point. All numbers are
    taken exactly as the floats that they are. Raises UsageError for what is no box, DataError for what are no numbers,
    PropertyError for what does not fit.
    """
    inputs, outputs = (_declared(network, names) for names in (network.graph.inputs, network.graph.outputs))
    table, bounds = real_array(rows, "rows"), real_array(below, "below")
    wanted = sum(output.size for output in outputs)
    if table.ndim != 2 or not len(table) or table.shape[1] != wanted:
        raise PropertyError.at("rows", f"shape {format_shape(table.shape)}", f"(rows, {wanted})")
    if bounds.shape not in ((), (len(table),)):
        raise PropertyError.at("below", f"shape {format_shape(bounds.shape)}", f"a number, or ({len(table)},)")
    ends = [bounds.item()] * len(table) if bounds.ndim == 0 else bounds.tolist()
    disjuncts = tuple((_above(row, end),) for row, end in zip(table.tolist(), ends, strict=True))
    exact = _exact(boxes_given(box), inputs)
    return Property("linear", inputs, outputs, (Case(exact, disjuncts),))


def _declared(network: Network, names: Sequence[str]) -> tuple[DeclaredTensor, ...]:
    return tuple(DeclaredTensor(name, network.graph.node(name).shape[1:]) for name in names)


def _above(row: Sequence[float], bound: float) -> Row:
    """Return the row Σ cᵢ yᵢ > bound, as −Σ cᵢ yᵢ < −bound."""
    terms = tuple((index, -Fraction(value)) for index, value in enumerate(row) if value)
    return Row(terms, (), -Fraction(bound), strict=True)


def _exact(boxes: Sequence[Interval], inputs: Sequence[DeclaredTensor]) -> Box:
    """Return the boxes as one. Raises PropertyError where they do not fit the inputs."""
    if len(boxes) != len(inputs):
        raise PropertyError.at("box", f"found {len(boxes)}", f"{len(inputs)}, one for each input")
    for box, declared in zip(boxes, inputs, strict=True):
        for end in (box.lower, box.upper):
            if tuple(end.shape) != (1, *declared.shape):
                expected = f"{format_shape((1, *declared.shape))}, one sample"
                raise PropertyError.at(f"box of {declared.name}", f"shape {format_shape(tuple(end.shape))}", expected)
    lower, upper = (_fractions(ends) for ends in zip(*((box.lower, box.upper) for box in boxes), strict=True))
    if any(low > high for low, high in zip(lower, upper, strict=True)):
        raise PropertyError.at("box", "a lower end above the upper", "a box")
    if any(abs(value) > LARGEST for value in (*lower, *upper)):
        raise PropertyError.at("box", "ends beyond the float32 range", f"at most {float(LARGEST):.7g}")
    return Box(lower, upper)


def _fractions(ends: Sequence[Tensor]) -> tuple[Fraction, ...]:
    return tuple(Fraction(value) for end in ends for value in real_array(end, "box").ravel().tolist())
