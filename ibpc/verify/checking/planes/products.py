"""Planes of products of two values."""

from __future__ import annotations

import numpy as np

from ibpc.verify.checking.planes.base import Pair, Part, Sketch, planes
from ibpc.verify.checking.planes.convex import convex
from ibpc.verify.checking.pulls import broadcast_pull
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Box


@planes("Mul")
def multiply(step: Step) -> Sketch:
    """Return planes of a product of two boxes (McCormick 1976), or of a square.

    l_y x + l_x y − l_x l_y ≤ x y ≤ u_y x + l_x y − l_x u_y, from (x − l_x)(y − l_y) ≥ 0 and (x − l_x)(u_y − y) ≥ 0.
    """
    if step.names[0] == step.names[1]:
        return convex(step, np.square, lambda x: 2.0 * x)
    x, y = step.box(0), step.box(1)
    shape = np.broadcast_shapes(x.shape, y.shape)
    low_x, low_y, high_y = (np.broadcast_to(side, shape).ravel() for side in (x.lower, y.lower, y.upper))
    parts = [
        _broadcast_part(slot, box, shape, slopes)
        for slot, box, slopes in ((0, x, (low_y, high_y)), (1, y, (low_x, low_x)))
    ]
    return Sketch(parts, -low_x * low_y, -low_x * high_y)


def _broadcast_part(slot: int, box: Box, shape: tuple[int, ...], slopes: Pair) -> Part:
    magnitude = np.broadcast_to(box.magnitude, shape).ravel()
    copies = magnitude.size // max(1, box.lower.size)
    return Part(slot, broadcast_pull(box.shape, shape), *slopes, magnitude, copies)
