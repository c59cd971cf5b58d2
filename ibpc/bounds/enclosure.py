"""Bounds of a network's outputs, or of rows of them, over boxes of inputs: one call for every bounding method."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import torch
from torch import Tensor

from ibpc import rounding
from ibpc.bounds import method_named
from ibpc.bounds.definedness import Definedness
from ibpc.bounds.values import Walk, walk_of
from ibpc.errors import Problem, UsageError, raise_all
from ibpc.interval import Interval, Range, ends_of_range, expect_ball
from ibpc.ir import format_shape
from ibpc.network import Network
from ibpc.rounding import Arithmetic, plain_products


class Encloser:
    """Bounds of rows of a network's outputs by one method, made ready once for any number of boxes.

    It keeps the weights that the network has now. Raises UsageError for an unknown method, and for rows that do not
    fit.
    """

    def __init__(
        self,
        network: Network,
        rows: Tensor | None,
        method: str,
        arithmetic: Arithmetic,
        deadline: float = inf,
    ) -> None:
        graph, device = network.snapshot(), network.device
        outputs = sum(prod(shape[1:]) for shape in graph.shapes_of(graph.outputs))
        matrix, self._places = distinct(wanted_rows(rows, outputs))
        self._shapes, self._device, self._deadline = graph.shapes_of(graph.inputs), device, deadline
        bounder = method_named(method).bounder
        with plain_products():
            self._bound = bounder(walk_of(graph, device), matrix.float(), arithmetic, deadline)
        self._definedness = Definedness(Walk(graph, device), arithmetic)

    def __call__(self, *given: Interval | Tensor) -> Interval:
        """Return bounds (B, R) over boxes (B, …), one for each input; a tensor is the box of one point.

        A sample for which some value may be NaN or ±∞ gets [−∞, ∞]. Raises UsageError for boxes that do not fit.
        """
        boxes = boxes_given(given)
        raise_all(UsageError, misfits(self._shapes, boxes, self._places))
        moved = moved_to(self._device, boxes)
        with plain_products():
            found = self._bound(*moved)
            unknown = self._unknown(moved, found)[:, None]
        lower = found.lower.masked_fill(unknown | found.lower.isnan(), -inf)
        upper = found.upper.masked_fill(unknown | found.upper.isnan(), inf)
        if self._places is not None:
            places = self._places.to(lower.device)
            lower, upper = lower.gather(1, places), upper.gather(1, places)
        return Interval.bounds(lower, upper)

    def _unknown(self, boxes: tuple[Interval, ...], found: Interval) -> Tensor:
        """Return for which samples some value may be NaN or ±∞, (B,), of those that have a bound at all."""
        unknown = ~((found.lower > -inf) | (found.upper < inf)).any(1)
        bounded = (~unknown).nonzero()[:, 0]
        if len(bounded):
            doubts = self._definedness.doubts(tuple(box.map(lambda end: end[bounded]) for box in boxes), self._deadline)
            unknown[bounded] = torch.tensor([doubt is not None for doubt in doubts], device=unknown.device)
        return unknown


def wanted_rows(rows: Tensor | None, outputs: int) -> Tensor:
    """Return the rows, by default one for each output. Raises UsageError for rows that do not fit."""
    wanted = torch.eye(outputs) if rows is None else torch.as_tensor(rows).detach()
    raise_all(UsageError, _bad_rows(wanted, outputs))
    return wanted


def moved_to(device: torch.device, boxes: Sequence[Interval]) -> tuple[Interval, ...]:
    """Return the boxes in float32 on a device."""
    return tuple(box.map(lambda end: end.float().to(device)) for box in boxes)


def distinct(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return rows (R, K) as they are; for rows per sample (B, R, K) the distinct ones and their indices (B, R)."""
    if rows.dim() == 2:
        return rows, None
    distinct, places = torch.unique(rows.flatten(0, 1), dim=0, return_inverse=True)
    return distinct, places.reshape(rows.shape[:2])


def outer_ball(x: Tensor, eps: float | Tensor, clip: Range | None = None) -> Interval:
    """Return the L∞ ball of radius `eps` around x (B, …) within `clip`, its ends rounded outward to float32.

    `eps` and the ends of `clip` are numbers, or tensors that broadcast to x. Raises UsageError for what is none of
    these, a radius or point that is not finite, a negative radius, and a ball that lies outside `clip`.
    """
    expect_ball(x, eps)
    radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    if not bool(radius.isfinite().all()):
        raise UsageError.at("eps", f"found {eps}", "finite numbers")
    if not bool(x.isfinite().all()):
        raise UsageError.at("x", "numbers that are not finite", "a point")
    clip = ends_of_range(x, (-inf, inf) if clip is None else clip, torch.float64)
    outside = int(((x + radius < clip[0]) | (x - radius > clip[1])).sum())
    if outside:
        raise UsageError.at("x", f"{outside:,} elements further than eps from the range", "points of that range")
    return Interval.bounds(*rounding.outer_ball(x, eps, clip))


def boxes_given(given: object) -> tuple[Interval, ...]:
    """Return a box, or a sequence of them, as boxes: a tensor as that of one point. Raises UsageError."""
    each = tuple(given) if isinstance(given, Sequence) else (given,)
    return tuple(_box(number, box) for number, box in enumerate(each, 1))


def _box(number: int, given: object) -> Interval:
    if isinstance(given, Tensor):
        return Interval.point(given)
    if not isinstance(given, Interval):
        expected = "an Interval, or a tensor of points for an input that is not perturbed"
        raise UsageError.at(f"box {number}", f"found {type(given).__name__}", expected)
    return given


def misfits(shapes: Sequence[tuple[int, ...]], boxes: Sequence[Interval], places: Tensor | None) -> list[Problem]:
    """Return what is wrong with boxes for inputs of these shapes, also if per-sample rows have another batch size."""
    if len(shapes) != len(boxes):
        expected = f"a list of {len(shapes)}, one for each input" if len(shapes) > 1 else "one, for the only input"
        return [Problem("boxes", f"found {len(boxes)}", expected)]
    if any(box.lower.numel() == 0 for box in boxes):
        return [Problem("boxes", "no sample", "one or more")]
    if places is not None and len(places) != len(boxes[0].lower):
        return [Problem("boxes", f"{len(boxes[0].lower)} samples", f"{len(places)}, of which there are rows")]
    problems = []
    for number, (shape, box) in enumerate(zip(shapes, boxes, strict=True)):
        where, found = f"box {number + 1}", tuple(box.lower.shape)
        if found[1:] != shape[1:] or box.upper.shape != box.lower.shape or len(box.lower) != len(boxes[0].lower):
            problems.append(Problem(where, f"shape {format_shape(found)}", format_shape(shape)))
        elif not bool((box.lower <= box.upper).all() and box.lower.isfinite().all() and box.upper.isfinite().all()):
            problems.append(Problem(where, "ends that are not finite, or a lower one above the upper", "a box"))
        elif any(not torch.equal(end.float().to(end.dtype), end) for end in (box.lower, box.upper)):
            problems.append(Problem(where, "ends that float32 does not hold", "ends rounded outward, as by outer_ball"))
    return problems


def _bad_rows(rows: Tensor, outputs: int) -> list[Problem]:
    """Return what is wrong with rows for this number of outputs."""
    if rows.dim() not in (2, 3) or rows.shape[-1] != outputs:
        expected = f"(rows, {outputs}), or (samples, rows, {outputs})"
        return [Problem("rows", f"shape {format_shape(tuple(rows.shape))}", expected)]
    if not torch.equal(rows.float().double(), rows.double()) or not bool(rows.isfinite().all()):
        return [Problem("rows", "coefficients that float32 does not hold", "finite float32 numbers")]
    return []
