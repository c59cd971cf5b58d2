"""Rows of the elementary functions, the smooth activations, and of Min, Max, Sum and Mean."""

from __future__ import annotations

import torch
from torch import Tensor

from ibpc.ops.rules import Call
from tests.ops.cases import Box, Case, Uniform, Values

_POSITIVE = Box((3, 4), 0.1, 4.0, 0.5)
_WIDE = Box((3, 4), -9.0, 9.0, 4.0)
_LIMITS = {"attained": "the value beside a jump is a limit; test_smooth_rules compares with it"}
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
_UNCHECKED = {"checker": "it takes constant exponents above 0 only"}
_POWERS = (
    Case("Pow", (Box((3, 4), radius=1.0), Values(2.0)), name="square"),
    Case("Pow", (Box((3, 4), radius=1.0), Values(3.0)), name="cube"),
    Case("Pow", (Box((3, 4)), Values([0.0, 1.0, 4.0, 5.0])), name="whole exponents", without=_UNCHECKED),
    Case(
        "Pow",
        (Box((3, 8), 0.2, 3.0, 1.0), Values(list(_EXPONENTS))),
        name="any exponent, positive base",
        without=_UNCHECKED,
    ),
    Case(
        "Pow",
        (Box((3, 4), -3.0, -0.2, 1.0), Values([-3.0, -2.0, -1.0, 3.0])),
        name="inverses, negative base",
        without=_UNCHECKED,
    ),
    Case("Pow", (Box((3, 4), 0.2, 3.0, 0.5), Box((3, 4), -2.0, 2.0, 0.5)), name="boxes", without=_UNCHECKED),
    Case(
        "Pow",
        (Box((3, 1), 0.2, 3.0, 0.5), Box((1, 4), -2.0, 2.0, 0.5)),
        name="boxes broadcast",
        without=_UNCHECKED,
    ),
    Case(
        "Pow",
        (Values([0.25, 1.0, 3.0]), Box((2, 3), -2.0, 2.0, 1.0)),
        name="exact base",
        evaluations=(pow_by_logarithm,),
        without=_UNCHECKED,
    ),
)

_COARSE = {"attained": "the grid misses crests by more than it allows; test_smooth_rules takes a finer one"}
_TURNS = Box((3, 4), -12.0, 12.0, 5.0)
_FAR = Box((3, 4), -1e5, 1e5, 2.0)
_WAVES = tuple(
    row
    for name, without in (("Sin", _VANISHING), ("Cos", {}))
    for row in (
        Case(name, (Box((3, 4)),), name="narrow", without=without),
        Case(name, (Box((4, 4), -12.0, 12.0, 1.5),), name="up to half a turn", without=without),
        Case(name, (_TURNS,), name="whole turns", without=_COARSE),
        Case(name, (_FAR,), name="far", without=without),
    )
)


def erf_by_polynomial(call: Call, x: Tensor) -> Tensor:
    """Abramowitz and Stegun 1964, 7.1.26."""
    t = 1.0 / (1.0 + 0.3275911 * x.abs())
    powers = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return x.sign() * (1.0 - powers * torch.exp(-x * x))


_S_SHAPED = (
    Case("Erf", (Box((3, 4)),), name="narrow", evaluations=(erf_by_polynomial,), tolerance=1e-2, without=_VANISHING),
    Case("Erf", (_WIDE,), name="wide", evaluations=(erf_by_polynomial,), tolerance=1e-2),
)


def gelu_by_erf(call: Call, x: Tensor) -> Tensor:
    """Add erf to 1."""
    return 0.5 * x * (1.0 + erf_by_polynomial(call, x * 0.5**0.5))


def gelu_by_tanh(call: Call, x: Tensor) -> Tensor:
    """Add to 1 a tanh computed by an exponential."""
    doubled = (8.0 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    return 0.5 * x * (1.0 + (1.0 - 2.0 / (torch.exp(doubled) + 1.0)))


def swish_by_tanh(call: Call, x: Tensor) -> Tensor:
    """Halve 1 + tanh(alpha x / 2)."""
    return x * (0.5 * (1.0 + torch.tanh(0.5 * call["alpha"] * x)))


def mish_by_logarithm(call: Call, x: Tensor) -> Tensor:
    """Take the tanh, computed by an exponential, of ln(1 + eˣ)."""
    soft = torch.log(1.0 + torch.exp(x))
    return x * (1.0 - 2.0 / (torch.exp(2.0 * soft) + 1.0))


def hard_swish_by_sixths(call: Call, x: Tensor) -> Tensor:
    """Divide x max(min(x + 3, 6), 0) by 6."""
    return x * torch.clamp(x + 3.0, 0.0, 6.0) / 6.0


_ROUNDED = {"point": "its numbers are known up to 2⁻²²"}
_GATED = tuple(
    Case(
        name,
        (box,),
        attributes,
        name=f"{form}{size}",
        evaluations=(rule,),
        tolerance=tolerance,
        without=(_ROUNDED if form == "rounded, " else {})
        | (_VANISHING if size == "wide" and form != "mirrored, " else {}),
    )
    for name, attributes, form, rule, tolerance in (
        ("Gelu", {}, "", gelu_by_erf, 1e-2),
        ("Gelu", {"approximate": "tanh"}, "by tanh, ", gelu_by_tanh, 1e-2),
        ("Gelu", {"constants": "rounded"}, "rounded, ", gelu_by_erf, 1e-2),
        ("Mish", {}, "", mish_by_logarithm, 1e-5),
        ("HardSwish", {}, "", hard_swish_by_sixths, 1e-2),
        ("Swish", {}, "", swish_by_tanh, 1e-5),
        ("Swish", {"alpha": 1.75}, "sharper, ", swish_by_tanh, 1e-5),
        ("Swish", {"alpha": -0.5}, "mirrored, ", swish_by_tanh, 1e-5),
    )
    for size, box in (("narrow", Box((3, 4))), ("wide", Box((3, 4), -7.0, 7.0, 1.5)))
)


def celu_by_difference(call: Call, x: Tensor) -> Tensor:
    """Subtract 1 from the exponential, whatever the sign of x."""
    alpha = call["alpha"]
    return torch.relu(x) + torch.clamp(alpha * (torch.exp(x / alpha) - 1.0), max=0.0)


def selu_by_difference(call: Call, x: Tensor) -> Tensor:
    """Subtract gamma alpha from gamma alpha times the exponential."""
    both = call["gamma"] * call["alpha"]
    return torch.where(x >= 0, call["gamma"] * x, both * torch.exp(x) - both)


def hard_sigmoid_by_sum(call: Call, x: Tensor) -> Tensor:
    """Clamp alpha (x + beta / alpha)."""
    return torch.clamp(call["alpha"] * (x + call["beta"] / call["alpha"]), 0.0, 1.0)


_ONLY = "Celu of opset 18 takes no double; the conformance tests read it"
_FLOAT_ONLY = {"reference": _ONLY, "round_trip": _ONLY}
_LINEAR_UNITS = (
    *(
        Case(
            "Celu",
            (Box((3, 4), radius=1.0),),
            {"alpha": alpha},
            name=f"alpha {alpha}",
            evaluations=(celu_by_difference,),
            without=_VANISHING | _FLOAT_ONLY | ({"checker": "it takes no negative alpha"} if alpha < 0 else {}),
        )
        for alpha in (1.0, 0.375, -1.5)
    ),
    Case("Selu", (Box((3, 4)),), name="default", evaluations=(selu_by_difference,)),
    Case("Selu", (Box((3, 4), radius=1.5),), name="wide", evaluations=(selu_by_difference,)),
    Case("Selu", (Box((3, 4)),), {"alpha": -0.5, "gamma": 1.25}, name="turning", evaluations=(selu_by_difference,)),
    Case("Selu", (Box((3, 4)),), {"alpha": 0.5, "gamma": -1.25}, name="falling", evaluations=(selu_by_difference,)),
    Case("Softsign", (Box((3, 4)),), name="narrow"),
    Case("Softsign", (_WIDE,), name="wide"),
)

_PIECES = (
    *(
        Case(
            "HardSigmoid",
            (Box((3, 4), -5.0, 5.0, 2.0),),
            {"alpha": alpha, "beta": beta},
            name=f"slope {alpha}, height {beta}",
            evaluations=(hard_sigmoid_by_sum,),
            without=_VANISHING,
        )
        for alpha, beta in ((0.25, 0.5), (-0.5, 0.75), (1.5, -0.25))
    ),
    Case("ThresholdedRelu", (Box((3, 4)),), name="default"),
    Case("ThresholdedRelu", (Box((3, 4), radius=1.0),), {"alpha": 0.5}, name="rising"),
    Case("ThresholdedRelu", (Box((3, 4), radius=1.0),), {"alpha": -0.5}, name="falling", without=_LIMITS),
    Case("ThresholdedRelu", (Box((3, 4), radius=1.0),), {"alpha": 0.0}, name="at zero"),
    Case("Shrink", (Box((3, 4), radius=1.0),), name="hard"),
    Case("Shrink", (Box((3, 4), radius=1.0),), {"lambd": 0.5, "bias": 0.5}, name="soft"),
    Case("Shrink", (Box((3, 4), radius=1.0),), {"lambd": 0.25, "bias": 1.5}, name="beyond", without=_LIMITS),
    Case("Shrink", (Box((3, 4), radius=1.0),), {"lambd": 0.75, "bias": -0.5}, name="away"),
)


def sum_backwards(call: Call, *operands: Tensor) -> Tensor:
    """Add the last operand first."""
    total = operands[-1]
    for x in reversed(operands[:-1]):
        total = total + x
    return total


def mean_backwards(call: Call, *operands: Tensor) -> Tensor:
    """Multiply the sum, last operand first, by a rounded 1 / n."""
    return sum_backwards(call, *operands) * (1.0 / len(operands))


def mean_of_shares(call: Call, *operands: Tensor) -> Tensor:
    """Divide before adding."""
    return sum_backwards(call, *(x / len(operands) for x in operands))


_IN_PLACE = {"reference": "the reference evaluator's Mean adds in place and does not broadcast"}
_OF_MANY = tuple(
    Case(
        name,
        operands,
        name=form,
        evaluations=rules,
        without=_IN_PLACE if name == "Mean" and form in ("boxes broadcast", "box and constants") else {},
    )
    for name, rules in (
        ("Max", ()),
        ("Min", ()),
        ("Sum", (sum_backwards,)),
        ("Mean", (mean_backwards, mean_of_shares)),
    )
    for form, operands in (
        ("boxes", (Box((3, 4)), Box((3, 4)), Box((3, 4)))),
        ("boxes broadcast", (Box((3, 1)), Box((1, 4)))),
        ("box and constants", (Uniform((4,)), Box((3, 4), radius=1.5), Uniform((1, 3, 1)))),
        ("one box", (Box((3, 4)),)),
    )
)

ROWS = (*_OF_MANY, *_ELEMENTARY, *_POWERS, *_WAVES, *_S_SHAPED, *_GATED, *_LINEAR_UNITS, *_PIECES)
