"""Activations spelled out in ONNX, as exporters write them, and formulas that only look like them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import pi, sqrt
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from tests.onnx_models import Sizes, model


@dataclass
class Spelling:
    """Writes nodes of one value `x`; a number among the operands becomes a constant."""

    number_shape: tuple[int, ...] = ()
    dtype: type = np.float32
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)

    def __call__(self, kind: str, *operands: str | float, **attributes: Any) -> str:
        names = [operand if isinstance(operand, str) else self._number(operand) for operand in operands]
        result = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [result], result, **attributes))
        return result

    def _number(self, value: float) -> str:
        name = f"number{len(self.constants)}"
        self.constants[name] = np.full(self.number_shape, value, self.dtype)
        return name


Formula = Callable[[Spelling], str]


def erf_gelu(o: Spelling, root: float = sqrt(2.0), half: float = 0.5) -> str:
    share = o("Add", o("Erf", o("Div", "x", root)), 1.0)
    return o("Mul", o("Mul", "x", share), half)


def scaled_erf_gelu(o: Spelling) -> str:
    share = o("Add", 1.0, o("Erf", o("Mul", sqrt(0.5), "x")))
    return o("Mul", o("Mul", "x", 0.5), share)


def halved_erf_gelu(o: Spelling) -> str:
    share = o("Add", o("Mul", o("Erf", o("Mul", "x", sqrt(0.5))), 0.5), 0.5)
    return o("Mul", share, "x")


def tanh_gelu(o: Spelling, slope: float = sqrt(2.0 / pi), cubic: float = 0.044715) -> str:
    cube = o("Mul", "x", o("Mul", "x", "x"))
    argument = o("Mul", slope, o("Add", "x", o("Mul", cubic, cube)))
    return o("Mul", 0.5, o("Mul", "x", o("Add", 1.0, o("Tanh", argument))))


def power_gelu(o: Spelling) -> str:
    cube = o("Mul", o("Pow", "x", 3.0), 0.044715)
    share = o("Add", o("Tanh", o("Mul", o("Add", "x", cube), sqrt(2.0 / pi))), 1.0)
    return o("Mul", o("Mul", "x", 0.5), share)


def fast_gelu(o: Spelling) -> str:
    bend = o("Add", o("Mul", 0.044715, o("Mul", "x", "x")), 1.0)
    share = o("Add", o("Tanh", o("Mul", o("Mul", "x", 0.7978845608), bend)), 1.0)
    return o("Mul", o("Mul", "x", 0.5), share)


def gelu_share(o: Spelling) -> str:
    return o("Add", o("Erf", o("Mul", "x", sqrt(0.5))), 1.0)


def erf_gelu_of(o: Spelling, argument: str) -> str:
    return o("Mul", o("Mul", "x", 0.5), o("Add", o("Erf", argument), 1.0))


def power_of(o: Spelling, base: float, exponent: int) -> str:
    """Return baseⁿ by products of constants alone."""
    result = o("Mul", base, base)
    for _ in range(exponent - 2):
        result = o("Mul", result, base)
    return result


SPELLED: Final[Mapping[str, tuple[str, Formula]]] = {
    "silu": ("Swish", lambda o: o("Mul", "x", o("Sigmoid", "x"))),
    "silu, turned": ("Swish", lambda o: o("Mul", o("Sigmoid", "x"), "x")),
    "quick gelu": ("Swish", lambda o: o("Mul", "x", o("Sigmoid", o("Mul", "x", 1.702)))),
    "swish of a quotient": ("Swish", lambda o: o("Mul", "x", o("Sigmoid", o("Div", "x", 4.0)))),
    "mish": ("Mish", lambda o: o("Mul", "x", o("Tanh", o("Softplus", "x")))),
    "softsign": ("Softsign", lambda o: o("Div", "x", o("Add", o("Abs", "x"), 1.0))),
    "softsign, turned": ("Softsign", lambda o: o("Div", "x", o("Add", 1.0, o("Abs", "x")))),
    "gelu by erf": ("Gelu", erf_gelu),
    "gelu by erf, scaled": ("Gelu", scaled_erf_gelu),
    "gelu by erf, halved": ("Gelu", halved_erf_gelu),
    "gelu by tanh": ("Gelu", tanh_gelu),
    "gelu by tanh and a power": ("Gelu", power_gelu),
    "gelu by tanh and a square": ("Gelu", fast_gelu),
}

# Formulas that are no activation: of them nothing may be said but what their steps say.
LOOKALIKES: Final[Mapping[str, Formula]] = {
    "sigmoid of another value": lambda o: o("Mul", "x", o("Sigmoid", o("Neg", "x"))),
    "sigmoid of a square": lambda o: o("Mul", "x", o("Sigmoid", o("Mul", "x", "x"))),
    "sigmoid of a sum": lambda o: o("Mul", "x", o("Sigmoid", o("Add", "x", 1.0))),
    "a square times a sigmoid": lambda o: o("Mul", o("Mul", "x", "x"), o("Sigmoid", "x")),
    "a sharpness between two floats": lambda o: o("Mul", "x", o("Sigmoid", o("Div", "x", 3.0))),
    "a sharpness far from 1": lambda o: o("Mul", "x", o("Sigmoid", o("Mul", "x", 2.0**-20))),
    "tanh of another softplus": lambda o: o("Mul", "x", o("Tanh", o("Softplus", o("Neg", "x")))),
    "tanh alone": lambda o: o("Mul", "x", o("Tanh", "x")),
    "gelu with another root": lambda o: erf_gelu(o, root=1.414),
    "gelu with another factor": lambda o: erf_gelu(o, half=0.4999),
    "gelu with another cubic": lambda o: tanh_gelu(o, cubic=0.0447),
    "gelu with another slope": lambda o: tanh_gelu(o, slope=0.798),
    "gelu with a difference": lambda o: o("Mul", o("Mul", "x", 0.5), o("Sub", 1.0, o("Erf", o("Mul", "x", sqrt(0.5))))),
    "silu through small numbers": lambda o: o("Mul", o("Mul", o("Mul", "x", 2.0**-5), o("Sigmoid", "x")), 2.0**5),
    "silu through great numbers": lambda o: o("Div", o("Mul", o("Mul", "x", 2.0**10), o("Sigmoid", "x")), 2.0**10),
    "gelu through small numbers": lambda o: o("Mul", o("Mul", o("Mul", "x", 2.0**-5), gelu_share(o)), 2.0**4),
    "gelu of an argument through tiny numbers": lambda o: erf_gelu_of(
        o, o("Mul", o("Mul", "x", power_of(o, 2.0**-10, 12)), o("Mul", power_of(o, 2.0**10, 12), sqrt(0.5)))
    ),
    "softsign through great numbers": lambda o: o(
        "Div", "x", o("Mul", o("Add", o("Mul", o("Abs", "x"), 2.0**10), 2.0**10), 2.0**-10)
    ),
    "gelu of an argument of many roundings": lambda o: erf_gelu_of(
        o, o("Mul", sqrt(0.5), o("Pow", o("Pow", "x", 1.0), 1.0))
    ),
    "gelu with many factors": lambda o: o("Mul", o("Mul", o("Mul", o("Mul", "x", gelu_share(o)), 1.0), 1.0), 0.5),
    "softsign with 2": lambda o: o("Div", "x", o("Add", o("Abs", "x"), 2.0)),
    "softsign of another value": lambda o: o("Div", "x", o("Add", o("Abs", o("Neg", "x")), 1.0)),
    "softsign upside down": lambda o: o("Div", o("Add", o("Abs", "x"), 1.0), "x"),
}


def spelled(formula: Formula, start: Sizes = (1, 6), **options: Any) -> onnx.ModelProto:
    """Return the model of one formula, x → y."""
    writing = Spelling(**options)
    result = formula(writing)
    writing.nodes[-1].output[0] = "y"
    assert writing.nodes[-1].name == result
    return model(writing.nodes, {"x": start}, constants=writing.constants, opset=17)
