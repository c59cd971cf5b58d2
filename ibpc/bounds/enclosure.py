"""Bounds of a network's outputs, or of rows of them, over boxes of inputs: one call for every bounding method."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf, prod

import torch

from ibpc import rounding
from ibpc.bounds import method_named
from ibpc.bounds.definedness import Definedness
from ibpc.errors import Problem, UsageError, raise_all
from ibpc.interval import Interval
from ibpc.ir import format_shape
from ibpc.network import Network
from ibpc.rounding import Arithmetic, plain_products


def enclose(
    network: Network,
    boxes: Sequence[Interval],
    rows: torch.Tensor | None,
    method: str,
    arithmetic: Arithmetic,
    timeout: float = inf,
) -> Interval:
    """Return bounds (B, R) of rows (R, K) · outputs over boxes (B, …), one for each input; K counts all outputs, flat.

    Without rows they are bounds of every output. A sample of which some value may be no number has [−∞, ∞]. Methods
    that go on tightening stop after `timeout` seconds. Raises UsageError for an unknown method, and for boxes and rows
    that do not fit.
    """
    deadline = time.monotonic() + timeout
    graph, device = network.snapshot(), network.device
    outputs = sum(prod(shape[1:]) for shape in graph.shapes_of(graph.outputs))
    matrix = torch.eye(outputs) if rows is None else rows
    raise_all(UsageError, [*_misfits(graph.shapes_of(graph.inputs), boxes), *_bad_rows(matrix, outputs)])
    moved = tuple(Interval.bounds(box.lower.float().to(device), box.upper.float().to(device)) for box in boxes)
    with plain_products():
        found = method_named(method)(graph, matrix.float(), arithmetic, device, deadline)(*moved)
        doubts = Definedness(graph, arithmetic, device).doubts(moved, deadline)
    lower, upper = found.lower.clone(), found.upper.clone()
    unknown = torch.tensor([doubt is not None for doubt in doubts], device=lower.device)
    lower[unknown], upper[unknown] = -inf, inf
    return Interval.bounds(lower, upper)


def outer_ball(x: torch.Tensor, eps: float | torch.Tensor, clip: tuple[float, float] | None = None) -> Interval:
    """Return the L∞ ball of radius `eps` around x (B, …) within `clip`, its ends rounded outward to float32.

    Raises UsageError for a radius or a point that is no number, a negative radius, and a ball that lies outside `clip`.
    """
    radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    if not bool((radius >= 0).all() and radius.isfinite().all()):
        raise UsageError.at("eps", f"found {eps}", "numbers of at least 0")
    if not bool(x.isfinite().all()):
        raise UsageError.at("x", "numbers that are not finite", "a point")
    low, high = (-inf, inf) if clip is None else clip
    outside = int(((x + radius < low) | (x - radius > high)).sum())
    if outside:
        raise UsageError.at("x", f"{outside:,} elements further than eps from {clip}", "points of that range")
    return Interval.bounds(*rounding.outer_ball(x, eps, clip))


def _misfits(shapes: Sequence[tuple[int, ...]], boxes: Sequence[Interval]) -> list[Problem]:
    """Return what is wrong with boxes for inputs of these shapes."""
    if len(shapes) != len(boxes):
        return [Problem("boxes", f"{len(boxes)}", f"one for each of {len(shapes)} inputs")]
    if any(box.lower.numel() == 0 for box in boxes):
        return [Problem("boxes", "no sample", "one or more")]
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


def _bad_rows(rows: torch.Tensor, outputs: int) -> list[Problem]:
    """Return what is wrong with rows for so many outputs."""
    if rows.dim() != 2 or rows.shape[1] != outputs:
        return [Problem("rows", f"shape {format_shape(tuple(rows.shape))}", f"(rows, {outputs})")]
    if not torch.equal(rows.float().double(), rows.double()) or not bool(rows.isfinite().all()):
        return [Problem("rows", "coefficients that float32 does not hold", "finite float32 numbers")]
    return []
