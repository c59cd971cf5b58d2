"""Exact sums of a conjunction's rows, and their coefficients as integers that fit binary64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.errors import PropertyError
from ibpc.verify.properties import Conjunction, Row, Terms, common_denominator

Weighted: TypeAlias = tuple[Fraction, Row]


def weighted(rows: Conjunction, weights: Sequence[float]) -> Row:
    """Return the sum of a conjunction's rows times weights ≥ 0: it holds where all rows do.

    Raises PropertyError for weights of the wrong number, and if all of them are 0.
    """
    if len(weights) != len(rows) or not any(weights):
        raise PropertyError.at("proof", f"weights {list(weights)[:10]}", f"{len(rows)}, not all of them 0")
    return summed([(Fraction(weight), row) for weight, row in zip(weights, rows, strict=True) if weight])


def with_sum(rows: Conjunction) -> Iterator[Row]:
    """Yield the rows of a conjunction and, if several are about outputs, the sum of these, scaled alike."""
    yield from rows
    several = [row for row in rows if row.outputs]
    if len(several) > 1:
        yield summed([(1 / max(abs(value) for _, value in row.outputs), row) for row in several])


def summed(rows: Sequence[Weighted]) -> Row:
    """Return the sum of rows times weights > 0: it holds where all of them do, and is strict if one of them is."""
    return Row(
        _added([(weight, row.outputs) for weight, row in rows]),
        _added([(weight, row.inputs) for weight, row in rows]),
        sum((weight * row.bound for weight, row in rows), Fraction()),
        any(row.strict for _, row in rows),
    )


def _added(parts: Sequence[tuple[Fraction, Terms]]) -> Terms:
    total: dict[int, Fraction] = {}
    for weight, terms in parts:
        for index, value in terms:
            total[index] = total.get(index, Fraction()) + weight * value
    return tuple(sorted((index, value) for index, value in total.items() if value))


def whole_scale(row: Row) -> Fraction:
    """Return the least integer that makes the row's coefficients integers of at most 53 bits, or 0 if there is none.

    If binary64 rounded a coefficient, the bound would be that of another row.
    """
    bottom = common_denominator(value for _, value in row.outputs)
    if bottom is None or any(abs(value * bottom) > 2**53 for _, value in row.outputs):
        return Fraction(0)
    return Fraction(bottom)


def whole_coefficients(row: Row, outputs: int) -> NDArray[np.float64]:
    """Return the row's coefficients of all outputs (K,) times `whole_scale`."""
    scale, coefficients = whole_scale(row), np.zeros(outputs)
    for index, value in row.outputs if scale else ():
        coefficients[index] = float(value * scale)
    return coefficients
