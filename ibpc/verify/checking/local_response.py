"""Elements over a power of their neighbourhood: LRN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ibpc.verify.checking.norms import least_modulus
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box, unless


@dataclass(frozen=True)
class _Response:
    """x / (bias + rate · Σ x²)^beta, the squares being those of the `count` channels around its own."""

    count: int
    rate: float
    beta: float
    bias: float

    @classmethod
    def of(cls, step: Step) -> _Response:
        """Read the attributes of a node. Fails for those that it cannot bound."""
        count = int(step.attributes["size"])
        alpha, beta, bias = (
            float(step.attributes.get(name, np.float32(value)))
            for name, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
        )
        if count % 2 == 0:
            step.fail(f"its size {count}", "an odd number, for evaluators differ about the window of an even one")
        if alpha < 0 or beta < 0 or not bias > step.machine.smallest or len(step.box(0).shape) < 3:
            step.fail(f"alpha {alpha:g}, beta {beta:g}, bias {bias:g}", "alpha and beta of at least 0, a positive bias")
        return cls(count, alpha / count, beta, bias)

    def others(self, squares: Array) -> Array:
        """Return the base without the channel's own square."""
        return np.asarray(self.bias + self.rate * _beside(squares, self.count))

    def at(self, value: Array, others: Array) -> Array:
        """Return the response to a value, given the rest of the base."""
        return np.asarray(value / (others + self.rate * np.square(value)) ** self.beta)

    def greatest(self, lower: Array, upper: Array, least: Array, most: Array) -> Array:
        """Return the greatest response of values between two ends, with the rest of the base in [least, most]."""
        peaks = self.rate > 0 and self.beta > 0.5
        top = np.sqrt(least / (self.rate * (2.0 * self.beta - 1.0))) if peaks else np.inf
        above = self.at(np.clip(top, np.maximum(lower, 0.0), np.maximum(upper, 0.0)), least)
        return np.where(upper >= 0, above, np.maximum(self.at(lower, most), self.at(upper, most)))


@rule("LRN")
def local_response(step: Step) -> Box:
    """Bound x / (bias + alpha / size · Σ x²)^beta, with the squares of a window of channels around its own.

    With b the base without x's own square, |x| / (b + a x²)^beta falls in b. For x ≥ 0 it rises up to
    x² = b / (a (2 beta − 1)), or without end for beta ≤ 1/2, and falls from there; a small error in that position does
    not matter, since the function is flat there.

    In a plain sum the base of a binary32 execution has a relative error of γ. Others slide along the channels, adding
    one square and subtracting another: then the error is γ times the greatest base of all channels, for two terms each.
    """
    step.require_floats()
    x, machine, response = step.box(0), step.machine, _Response.of(step)
    rate, beta, bias = response.rate, response.beta, response.bias
    own_least, own_most = (rate * np.square(end) for end in (least_modulus(x), x.magnitude))
    least, most = (response.others(np.square(end)) for end in (least_modulus(x), x.magnitude))
    everything, terms = most + own_most, 2 * x.shape[1] + response.count + 8
    lost = terms * machine.unit * 2.0 * (everything + own_most).max(1, keepdims=True) / (least + own_least)
    lost = lost + 4.0 * (response.count + 4) * (1.0 + rate) * machine.smallest / bias
    relative = (1.0 - np.minimum(lost, 0.5)) ** -beta * (1.0 + (64.0 + 90.0 * beta) * machine.unit) - 1.0
    relative = relative + (response.count + 32.0) * (1.0 + beta) * 2.0**-50
    known = (lost < 0.5) & ((4.0 * everything) ** max(1.0, beta) * (1.0 + x.magnitude) < machine.largest)
    known &= 4.0 * np.square(x.magnitude).sum(1, keepdims=True) < machine.largest
    ends = -response.greatest(-x.upper, -x.lower, least, most), response.greatest(x.lower, x.upper, least, most)
    slack = [np.abs(end) * relative + 16.0 * machine.smallest * (1.0 + bias**-beta) for end in ends]
    return unless(~known, Box(ends[0] - slack[0], ends[1] + slack[1]))


def _beside(squares: Array, count: int) -> Array:
    """Return the sum over each channel's window without the channel: (count − 1) // 2 before it, the rest after."""
    before = (count - 1) // 2
    widths = [(0, 0)] * squares.ndim
    widths[1] = (before, count - 1 - before)
    views = sliding_window_view(np.pad(squares, widths), count, axis=1)
    return np.asarray(np.delete(views, before, axis=-1).sum(-1))
