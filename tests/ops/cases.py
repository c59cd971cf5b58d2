"""THE table: a few rows per operator, which fan out into every property of `tests/ops/harness.py`.

To add rows, write `tests/ops/rows_<group>.py` with a module constant `ROWS: tuple[Case, ...]`; it is found by its name.
Every registered operator but Input needs at least two rows. A row is

    Case(
        "Conv",                                                  # operator
        operands=(Box((3, 6, 6)),),                              # in slot order
        attributes={"strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1]},   # defaults may be left out
        parameters={"weight": Uniform((4, 3, 3, 3)), "bias": Uniform((4,))},         # by role
        name="strided",                                          # unique among the operator's rows
    )

Operands are one of
- `Box(shape, low=-2.0, high=2.0, radius=0.3)`: ranges over a box. `shape` is that of one sample, without the batch
  (the harness runs batches of 2 and 3). Every drawn box lies inside [low, high], so `low=0.1` keeps a box positive.
  Radii are drawn from [0, radius], a few of them zero, a few equal to `radius`; a few boxes straddle, touch or sit
  exactly at zero where [low, high] allows it.
- `Uniform(shape, low=-1.0, high=1.0)` or `Values(nested list)`: exact, the same for the whole batch (a Constant node;
  the rules get it as a plain tensor). `shape` is the whole shape, without a batch.
Parameters are `Uniform` or `Values`. Everything is drawn from a generator seeded by the row's name, is a binary32
number, and so has the same value in float32 and float64.

Optional fields (leave them alone unless a property needs one):
- `loose="reason"`: why the interval rule is sound but its bounds are not attained. Without it every bound must be
  attained by a point of the box: affine operators to rounding, others within 1e-6 (all-lower and all-upper corners of
  the operands in every combination, a fine grid along the diagonals, sign-gradient corners).
- `evaluations=(rule, …)`: further ways to compute the nominal rule in binary32, `rule(call, *operands, **parameters)`:
  the same function with its sums in another order. Give them for each operator that sums (see `rows_core.py`).
- `growth=1.0`: factor on the greatest widening that `Arithmetic.FLOAT32` may cost. The limit is, per output,
  growth · 32 γ(n + 32) · (Σ |∂y/∂x| max|x| + |y(0)|) for affine operators, n the number of inputs that reach the
  output, and growth · 32 γ(n + 32) · max(|lower|, |upper|, Σ |∂y/∂x| max|x|) for the others.
- `tolerance=1e-5`: relative and absolute tolerance against ONNX Runtime in float32 (the ONNX reference evaluator runs
  in float64 and must agree to 1e-9 · tolerance / 1e-5).
- `without={"onnx_runtime": "reason"}`: properties that fail for this row, and why. The names are the keys of
  `harness.PROPERTIES`; the suite fails for an unknown name, an empty reason, and a property that holds after all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """An operand that ranges over boxes inside [low, high]; `shape` of one sample, `radius` the greatest."""

    shape: Shape
    low: float = -2.0
    high: float = 2.0
    radius: float = 0.3


@dataclass(frozen=True)
class Uniform:
    """An exact tensor drawn uniformly from [low, high]."""

    shape: Shape
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True)
class Values:
    """An exact tensor, written out."""

    values: Any


@dataclass(frozen=True)
class Case:
    """One row of the table; the module's docstring says what each field means."""

    operator: str
    operands: tuple[Box | Uniform | Values, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Uniform | Values] = field(default_factory=dict)
    name: str = ""
    loose: str = ""
    evaluations: tuple[Callable[..., Any], ...] = ()
    growth: float = 1.0
    tolerance: float = 1e-5
    without: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.operator}-{self.name}"


def rows() -> tuple[Case, ...]:
    """Return the rows of all modules `rows_*.py` beside this one."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("rows_*.py"))
    return tuple(row for name in found for row in import_module(f"tests.ops.{name}").ROWS)
