"""Rows of the elementary functions, the smooth activations, and of Min, Max, Sum and Mean."""

from __future__ import annotations

import torch

from ibpc.ops.base import Call
from tests.ops.cases import Box, Case, Values

Tensor = torch.Tensor

_POSITIVE = Box((3, 4), 0.1, 4.0, 0.5)
_WIDE = Box((3, 4), -9.0, 9.0, 4.0)
_VANISHING = {"float32_tight": "widened by an absolute error where the result vanishes"}


# ── other ways to compute the same in binary32 ──────────────────────────────────────────────────────────────────
def pow_by_logarithm(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Take the exponential of y ln x."""
    return torch.exp(y * torch.log(x))


_ELEMENTARY = (
    Case("Exp", (Box((3, 4)),), name="narrow"),
    Case("Exp", (Box((3, 4), -30.0, 30.0, 9.0),), name="wide"),
    Case("Log", (_POSITIVE,), name="narrow"),
    Case("Log", (Box((3, 4), 1e-3, 900.0, 300.0),), name="wide"),
    Case("Sqrt", (_POSITIVE,), name="narrow"),
    Case("Sqrt", (Box((3, 4), 1e-3, 900.0, 300.0),), name="wide"),
    Case("Reciprocal", (_POSITIVE,), name="positive"),
    Case("Reciprocal", (Box((3, 4), -5.0, -0.2, 2.0),), name="negative"),
)

_EXPONENTS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.5)
_POWERS = (
    Case("Pow", (Box((3, 4), radius=1.0), Values(2.0)), name="square"),
    Case("Pow", (Box((3, 4), radius=1.0), Values(3.0)), name="cube"),
    Case("Pow", (Box((3, 4)), Values([0.0, 1.0, 4.0, 5.0])), name="whole exponents"),
    Case("Pow", (Box((3, 8), 0.2, 3.0, 1.0), Values(list(_EXPONENTS))), name="any exponent, positive base"),
    Case("Pow", (Box((3, 4), -3.0, -0.2, 1.0), Values([-3.0, -2.0, -1.0, 3.0])), name="inverses, negative base"),
    Case("Pow", (Box((3, 4), 0.2, 3.0, 0.5), Box((3, 4), -2.0, 2.0, 0.5)), name="boxes"),
    Case("Pow", (Box((3, 1), 0.2, 3.0, 0.5), Box((1, 4), -2.0, 2.0, 0.5)), name="boxes broadcast"),
    Case(
        "Pow",
        (Values([0.25, 1.0, 3.0]), Box((2, 3), -2.0, 2.0, 1.0)),
        name="exact base",
        evaluations=(pow_by_logarithm,),
    ),
)

_COARSE = {"attained": "the grid misses crests by more than it allows; test_smooth_rules takes a finer one"}
_TURNS = Box((3, 4), -12.0, 12.0, 5.0)
_FAR = Box((3, 4), -1e5, 1e5, 2.0)
_WAVES = tuple(
    row
    for name in ("Sin", "Cos")
    for row in (
        Case(name, (Box((3, 4)),), name="narrow", without=_VANISHING),
        Case(name, (Box((4, 4), -12.0, 12.0, 1.5),), name="up to half a turn", without=_VANISHING),
        Case(name, (_TURNS,), name="whole turns", without=_VANISHING | _COARSE),
        Case(name, (_FAR,), name="far", without=_VANISHING),
    )
)


def erf_by_polynomial(call: Call, x: Tensor) -> Tensor:
    """Abramowitz and Stegun 1964, 7.1.26."""
    t = 1.0 / (1.0 + 0.3275911 * x.abs())
    powers = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return x.sign() * (1.0 - powers * torch.exp(-x * x))


_S_SHAPED = (
    Case("Erf", (Box((3, 4)),), name="narrow", evaluations=(erf_by_polynomial,), tolerance=1e-2, without=_VANISHING),
    Case("Erf", (_WIDE,), name="wide", evaluations=(erf_by_polynomial,), tolerance=1e-2, without=_VANISHING),
)

ROWS = (*_ELEMENTARY, *_POWERS, *_WAVES, *_S_SHAPED)
