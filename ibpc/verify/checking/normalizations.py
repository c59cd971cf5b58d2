"""Elements over a norm of their group: RMSNormalization and LpNormalization."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from ibpc.verify.checking.groups import Groups, Missed, finite, in_arithmetic, normalized_dimensions, positive_epsilon
from ibpc.verify.checking.norms import least_modulus
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box, unless


@rule("RMSNormalization")
def rms_normalization(step: Step) -> Box:
    """Bound x / √(mean x² + ε) · scale over the dimensions from `axis` on.

    The sum of squares has a relative error of γₙ, which the root halves, and underflow is relative to ε; root and
    quotient are within 8 ulps each.
    """
    step.require_floats()
    axis, scale, _ = normalized_dimensions(step)
    epsilon, machine = positive_epsilon(step), step.machine
    groups = Groups.of(step, prod(step.value(0).shape[:axis]), scale, np.zeros(()))
    x, size = groups.x, groups.x.shape[-1]
    value = _over_norm(x, lambda own, others: np.sqrt((own * own + others) / size + epsilon), 2)
    relative = (size + 64.0) * machine.unit + 16.0 * machine.smallest / epsilon + size * 2.0**-50
    known = (4.0 * size * np.square(x.magnitude).mean(-1, keepdims=True) < machine.largest) & (relative < 0.25)
    absolute = np.full(x.shape, 16.0 * machine.smallest * (1.0 + epsilon**-0.5))
    missed = Missed(np.full(x.shape, relative), absolute, np.broadcast_to(known, x.shape))
    return in_arithmetic(step, groups, value, missed)


@rule("LpNormalization")
def lp_normalization(step: Step) -> Box:
    """Bound x / ‖x‖ₚ along an axis, p 1 or 2; it is 0 if all elements are 0.

    Errors are as in RMSNormalization; where the sum may be small enough for underflow to matter, nothing is known.
    """
    step.require_floats()
    power, machine = int(step.attributes.get("p", 2)), step.machine
    if power not in (1, 2):
        step.fail(f"its norm {power}", "1 or 2")
    x = step.box(0)
    axis = int(step.attributes.get("axis", -1)) % len(x.shape)
    box, lost = finite(Box(np.moveaxis(x.lower, axis, -1), np.moveaxis(x.upper, axis, -1)))
    size = box.shape[-1]

    def norm(own: Array, others: Array) -> Array:
        total = own**power + others
        return np.where(total > 0, total, 1.0) ** (1.0 / power)

    value = _over_norm(box, norm, power)
    least, most = ((end**power).sum(-1, keepdims=True) for end in (least_modulus(box), box.magnitude))
    enough = (least >= 4.0 * (size + 4) * machine.smallest / (machine.unit or 1.0)) | (most == 0)
    known = (4.0 * most < machine.largest) & enough
    relative = 2.0 * (size + 48.0) * machine.unit + size * 2.0**-49
    slack = [np.abs(end) * relative + 16.0 * machine.smallest for end in (value.lower, value.upper)]
    found = unless(lost | ~known, Box(value.lower - slack[0], value.upper + slack[1]))
    return Box(np.moveaxis(found.lower, -1, axis), np.moveaxis(found.upper, -1, axis))


def _over_norm(x: Box, norm: Callable[[Array, Array], Array], power: float) -> Box:
    """Bound x_i over a norm of |x_i| and the sum S of the other |x_j|ᵖ: it rises in x_i, and its modulus falls in S.

    In the upper bound S is at its least for x_i ≥ 0 and at its greatest for x_i < 0; in the lower bound vice versa.
    Sums without one term are computed as differences, moved outward by their rounding.
    """
    powers = [end**power for end in (least_modulus(x), x.magnitude)]
    totals = [each.sum(-1, keepdims=True) for each in powers]
    slack = x.shape[-1] * 2.0**-51
    least = np.maximum(totals[0] * (1.0 - slack) - powers[0], 0.0)
    most = np.maximum(totals[1] * (1.0 + slack) - powers[1], 0.0)
    lower = x.lower / norm(np.abs(x.lower), np.where(x.lower >= 0, most, least))
    return Box(lower, x.upper / norm(np.abs(x.upper), np.where(x.upper >= 0, least, most)))
