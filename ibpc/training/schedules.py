"""Schedules of ε, κ and the learning rate, as functions of the step.

A run of `epochs · per_epoch` steps begins with a warm-up at ε = 0 and the first κ. Then ε climbs and κ falls to their
final values over the same ramp, and both stay there. The learning rate has a warm-up of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi
from types import MappingProxyType
from typing import Final

from ibpc.training.fields import value

_BEND: Final = 0.25
_POWER: Final = 4


# ── shapes: progress → share ────────────────────────────────────────────────────────────────────────────────────
def linear(progress: float) -> float:
    """Return the share of the final ε at `progress` of the ramp, both in [0, 1]: `progress` (Gowal et al. 2018)."""
    return progress


def smooth(progress: float) -> float:
    """Return α p⁴ for p < 1/4 and then a straight line to 1, with α such that the slope is continuous.

    (The schedule of Shi et al. 2021 after CROWN-IBP, Zhang et al. 2020, arXiv 1906.06316.)
    """
    alpha = 1.0 / ((1.0 - _BEND) * _POWER * _BEND ** (_POWER - 1) + _BEND**_POWER)
    if progress < _BEND:
        return float(alpha * progress**_POWER)
    start = alpha * _BEND**_POWER
    return float(start + (1.0 - start) * (progress - _BEND) / (1.0 - _BEND))


def cosine(progress: float) -> float:
    """Return (1 − cos πp) / 2: slow at both ends."""
    return (1.0 - cos(pi * progress)) / 2.0


SHAPES: Final[Mapping[str, Callable[[float], float]]] = MappingProxyType(
    {"linear": linear, "smooth": smooth, "cosine": cosine}
)


# ── learning rates: progress → factor ───────────────────────────────────────────────────────────────────────────
def constant(progress: float, at: tuple[float, ...], factor: float) -> float:
    """Return the factor of the first learning rate at `progress` of the run: 1."""
    return 1.0


def steps(progress: float, at: tuple[float, ...], factor: float) -> float:
    """Return factorⁿ after n of the shares `at` of the run."""
    return float(factor ** sum(progress >= share for share in at))


def annealed(progress: float, at: tuple[float, ...], factor: float) -> float:
    """Return (1 + cos πp) / 2 at `progress` p of the run (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    return (1.0 + cos(pi * progress)) / 2.0


DECAYS: Final[Mapping[str, Callable[[float, tuple[float, ...], float], float]]] = MappingProxyType(
    {"constant": constant, "steps": steps, "cosine": annealed}
)


# ── options of a recipe ─────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Schedule:
    """How ε and κ change over a run."""

    warmup: float = value(0.0, "Epochs at ε = 0 before the ramp", type="number", minimum=0)
    ramp: float = value(
        0.5, "Share of the steps after the warm-up over which ε and κ change", type="number", minimum=0, maximum=1
    )
    shape: str = value("linear", "How ε climbs over the ramp", enum=list(SHAPES))
    eps_multiplier: float = value(
        1.0, "ε at the end of the ramp, in units of the recipe's ε", type="number", exclusiveMinimum=0, maximum=10
    )
    kappa_start: float = value(1.0, "Weight of the nominal loss before the ramp", type="number", minimum=0, maximum=1)
    kappa_end: float = value(0.5, "Weight of the nominal loss after the ramp", type="number", minimum=0, maximum=1)


@dataclass(frozen=True)
class LearningRate:
    """How the learning rate changes over a run."""

    warmup: float = value(
        0.0, "Epochs over which it climbs linearly from 0 to the optimizer's", type="number", minimum=0
    )
    shape: str = value(
        "steps", "How it falls: not at all, by a factor at some points, or as a cosine to 0", enum=list(DECAYS)
    )
    factor: float = value(0.2, "Factor at each step", type="number", exclusiveMinimum=0, exclusiveMaximum=1)
    at: tuple[float, ...] = value(
        (0.75, 0.9),
        "When the steps come, as shares of the run in ascending order",
        type="array",
        items={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    )


# ── the timeline of a run ───────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Moment:
    """The values of one step: ε in pixels of [0, 1], κ, and the learning rate."""

    step: int
    eps: float
    kappa: float
    learning_rate: float


@dataclass(frozen=True)
class Timeline:
    """The schedules of one run. `eps` is the recipe's ε, `rate` the first learning rate."""

    schedule: Schedule
    learning_rate: LearningRate
    eps: float
    rate: float
    epochs: int
    per_epoch: int

    @property
    def total(self) -> int:
        """The number of steps of the run."""
        return self.epochs * self.per_epoch

    def progress(self, step: int) -> float:
        """Return the progress of the ramp at `step`, counted from 0: 0 before the ramp, 1 after it."""
        first = round(self.schedule.warmup * self.per_epoch)
        length = self.schedule.ramp * (self.total - first)
        if step < first:
            return 0.0
        return min(1.0, (step - first) / length) if length > 0 else 1.0

    @property
    def reached(self) -> float:
        """The share of the final ε in the last step: about 1, unless warm-up and ramp are longer than the run."""
        return SHAPES[self.schedule.shape](self.progress(self.total - 1))

    def climbed(self, step: int) -> float:
        """Return the factor of the learning rate in its warm-up at `step`: (step + 1) / length, at most 1.

        (Goyal et al. 2017, arXiv 1706.02677, section 2.2.)
        """
        length = self.learning_rate.warmup * self.per_epoch
        return min(1.0, (step + 1) / length) if length > 0 else 1.0

    def at(self, step: int) -> Moment:
        """Return the values of a step, counted from 0."""
        share = SHAPES[self.schedule.shape](self.progress(step))
        decay = DECAYS[self.learning_rate.shape](step / self.total, self.learning_rate.at, self.learning_rate.factor)
        start, end = self.schedule.kappa_start, self.schedule.kappa_end
        return Moment(
            step,
            eps=self.eps * self.schedule.eps_multiplier * share,
            kappa=start + (end - start) * share,
            learning_rate=self.rate * self.climbed(step) * decay,
        )
