"""Products x · gate(x), with a gate in [0, 1] that rises with x: they fall to one minimum and rise from there.

The error of an execution in the gate is some u, which the rules derive from the errors of the functions inside; its
error in the product is |x| times that, plus a few roundings of the product itself. NaN at −∞ bounds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf, pi, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.arithmetic import OWN_UNIT
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box

Function = Callable[[Array], NDArray[Any]]

_CUBIC: Final = 0.044715
_FAR: Final = 2.0**120
# The checker's own error in gates: some roundings, and a quarter of the relative error of their argument.
_OWN_GATE_ERROR: Final = 64.0 * OWN_UNIT
# Where the products are least. There they are flat: an error of 10⁻¹⁵ in the position changes the value by 10⁻³⁰.
_LEAST_OF_HARD_SWISH: Final = -1.5
_LEAST_OF_SWISH: Final = -1.2784645427610737951
_LEAST_OF_MISH: Final = -1.1924312145154952121
_LEAST_OF_GELU: Final = {b"none": -0.75179152469356445746, b"tanh": -0.75246142207101625849}


def gated(step: Step, x: Box, function: Function, place: float, error: float, missed: float = 0.0) -> Box:
    """Bound a function that falls up to `place` and rises from there.

    An execution's gate is off by `error` u, and by `missed` even without rounding. Far from 0 an execution of finite
    precision may overflow: there nothing is bounded.
    """
    ends = function(x.lower), function(x.upper)
    least, most = function(np.clip(place, x.lower, x.upper)), np.maximum(*ends)
    least = np.where(np.isnan(ends[0] + 0.0 * ends[1]), np.nan, least)
    gate_missed = error * step.machine.unit + missed + _OWN_GATE_ERROR
    bounds, slack = step.near(least, most), gate_missed * x.magnitude
    near = x.magnitude <= (_FAR if step.machine.unit else np.inf)
    return Box(np.where(near, bounds.lower - slack, -np.inf), np.where(near, bounds.upper + slack, np.inf))


def normal_gate(x: Array) -> Array:
    """Return the normal distribution (1 + erf(x / √2)) / 2."""
    return np.asarray(0.5 * (1.0 + np.vectorize(erf, otypes=[np.float64])(x * sqrt(0.5))))


def cubic_gate(x: Array) -> Array:
    """Return its approximation (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2."""
    return np.asarray(logistic(sqrt(8.0 / pi) * (x + _CUBIC * x**3)))


def logistic(x: Array) -> Array:
    """Return 1 / (1 + e⁻ˣ)."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


@rule("HardSwish")
def hard_swish(step: Step) -> Box:
    """Bound x min(max(x / 6 + 1/2, 0), 1): where it is not clipped, the gate is off by 2 u."""
    return gated(step, step.box(0), lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0), _LEAST_OF_HARD_SWISH, 4.0)


@rule("Gelu")
def gelu(step: Step) -> Box:
    """Bound x times the normal distribution of x, or its approximation by a tanh.

    The error of erf is 38 u, of tanh 30 u (see `monotone`); the relative error of their argument, up to 40 u if a file
    spells the formula out, changes them by at most 0.49 times that; the gate is half of their sum with 1.
    """
    form = step.attributes.get("approximate", b"none")
    if form not in _LEAST_OF_GELU:
        step.fail(f"its form {form!r}", "none or tanh")
    gate = normal_gate if form == b"none" else cubic_gate
    return gated(step, step.box(0), lambda x: x * gate(x), _LEAST_OF_GELU[form], 32.0, gate_error(step))


def gate_error(step: Step) -> float:
    """Return how much rounded numbers in a formula change the gate: 0.245 times their relative error of 2⁻²²."""
    return 2.0**-24 if step.attributes.get("numbers") == b"rounded" else 0.0


@rule("Swish")
def swish(step: Step) -> Box:
    """Bound x / (1 + e^(−alpha x)); with a negative alpha it is minus the function of −x with |alpha|.

    The error of the sigmoid is 26 u; that of its argument, 2 u relative, changes it by 0.23 times that.
    """
    alpha, x = float(step.attributes.get("alpha", 1.0)), step.box(0)
    if not abs(alpha) > step.machine.smallest:
        step.fail(f"alpha {alpha} may be flushed to zero")
    turned = x if alpha > 0 else Box(-x.upper, -x.lower)
    found = gated(step, turned, lambda z: z * logistic(abs(alpha) * z), _LEAST_OF_SWISH / abs(alpha), 28.0)
    return found if alpha > 0 else Box(-found.upper, -found.lower)


@rule("Mish")
def mish(step: Step) -> Box:
    """Bound x tanh(ln(1 + eˣ)).

    The error of softplus s is 18 u plus 16 u relative, that of tanh 30 u; as |tanh′| ≤ 1 and |s tanh′(s)| ≤ 0.45, the
    gate's is 56 u.
    """
    return gated(step, step.box(0), lambda x: x * np.tanh(np.logaddexp(x, 0.0)), _LEAST_OF_MISH, 60.0)
