"""How an operator acts: its rules on tensors, on boxes, on both together in training, and the planes that bound it.

Rules are plain functions `rule(call, *operands, **parameters)` on tensors. `ibpc.lowering` runs the same functions on
`torch.fx` proxies, so they may branch on the `call` (attributes, shapes, arithmetic) but never on values. Only `tuned`,
which nothing lowers or captures, may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor as Tensor  # noqa: PLC0414, for modules that import it from here

from ibpc.interval import Interval, Paired
from ibpc.ir import Attributes, Graph, Node, Shape
from ibpc.rounding import UNIT, Arithmetic

Operand: TypeAlias = Interval | Tensor
PairedOperand: TypeAlias = Paired | Tensor


# ── one application of an operator ──────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Call:
    """One application of an operator, with everything that is known before any value is.

    `operands`, `parameters` and `output` are shapes (dimension 0 is `BATCH` where the value depends on an input).
    `own` is the unit roundoff in which bounds are computed.
    """

    attributes: Attributes
    operands: tuple[Shape, ...]
    parameters: Mapping[str, Shape]
    output: Shape
    arithmetic: Arithmetic = Arithmetic.REAL
    own: float = UNIT

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]


def call_of(graph: Graph, node: Node, arithmetic: Arithmetic = Arithmetic.REAL) -> Call:
    """Return what is known of the node before any value is."""
    parameters = {role: tuple(value.shape) for role, value in graph.parameters_of(node.name).items()}
    operands = graph.shapes_of(graph.operands(node.name))
    return Call(node.attributes, operands, parameters, node.shape, arithmetic)


ScalingRule: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
ShapeRule: TypeAlias = Callable[[Attributes, tuple[Shape, ...], Mapping[str, Shape]], Shape]
NominalRule: TypeAlias = Callable[..., Tensor]
IntervalRule: TypeAlias = Callable[..., Interval]
PairedRule: TypeAlias = Callable[..., Paired]
TermsRule: TypeAlias = Callable[[Call], int]


@dataclass(frozen=True)
class Plane:
    """An affine form of an operator's operands: Σ slopes · view(operands) + offset.

    Slopes broadcast against the viewed operands. Without `views` the form is elementwise and has the shape of the
    output; a view is a linear rearrangement of an operand whose extra trailing dimension is summed (windows).
    """

    slopes: tuple[Tensor, ...]
    offset: Tensor
    views: tuple[Callable[[Tensor], Tensor], ...] = ()

    def __call__(self, *operands: Tensor) -> Tensor:
        """Evaluate the form at a point."""
        if not self.views:
            return self.offset + sum(slope * x for slope, x in zip(self.slopes, operands, strict=True))
        products = ((slope * view(x)).sum(-1) for slope, view, x in zip(self.slopes, self.views, operands, strict=True))
        return self.offset + sum(products)


@dataclass(frozen=True)
class Planes:
    """Two affine forms with lower(x) ≤ operator(x) ≤ upper(x) for every x in the box.

    `anchors` are what a rule `tuned` would have to look for in the box again.
    """

    lower: Plane
    upper: Plane
    anchors: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """How an affine operator on N×C×H×W sees windows of its operand, as a convolution does.

    output[m, y, x] = bias[m] + Σ weight[m, c, i, j] · operand[c, y · stride − pad + i · dilation, …], zero outside of
    the operand; `pads` are those before it, (top, left).
    """

    weight: Tensor
    bias: Tensor | None
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilations: tuple[int, int]
    group: int


# Σ factor · operand, element by element.
Factors: TypeAlias = tuple[float, ...]

LocalRule: TypeAlias = Callable[..., Kernel | Factors | None]
PullRule: TypeAlias = Callable[..., Tensor]
RelaxationRule: TypeAlias = Callable[..., Planes]
TunedRule: TypeAlias = Callable[..., Planes]
StartRule: TypeAlias = Callable[..., Tensor]
KinksRule: TypeAlias = Callable[..., tuple[Tensor | float, ...]]


@dataclass(frozen=True)
class Rules:
    """How an operator acts. `relaxation` is None exactly for affine operators.

    `training` is the nominal rule while training (it differs for BatchNormalization and Dropout). `tuned(call, t,
    plain, *boxes)` gives planes for any t in [0, 1], of the shape of `start(call, *boxes)` and with any dimensions in
    front, those of the relaxation, which are `plain`, at the start; an operator without it is tuned between its
    relaxation and its constant bounds. `scaling(call, x)`, of operators whose training rule is not the nominal one,
    gives the a and b of a · x + b that training at the nominal operand x is.

    `local(call, **parameters)` of an affine operator says which few elements of its operands each result depends on:
    those in a window, or, where operands have the shape of the result, the one in its place; None: nothing is said.

    `pull(call, forms, **parameters)` of an affine operator with one operand takes forms (N, *result) to forms of the
    operand: what the vjp of the nominal rule gives, without running that rule. `rows(call, elements, **parameters)` is
    what it makes of the forms (N,) that pick one element each (flat), without the products.

    `guiding` gives what the nominal rule gives, with a gradient for attacks to follow where its own is 0.

    What exact methods need: `kinks(call, **parameters)` of an elementwise continuous operator are the rising points
    between which it is straight; the result of one that `selects` is the greatest of what its planes' views show.
    """

    nominal: NominalRule
    interval: IntervalRule
    paired: PairedRule
    relaxation: RelaxationRule | None
    training: NominalRule
    tuned: TunedRule | None = None
    start: StartRule | None = None
    scaling: ScalingRule | None = None
    kinks: KinksRule | None = None
    local: LocalRule | None = None
    pull: PullRule | None = None
    rows: PullRule | None = None
    selects: bool = False
    guiding: NominalRule | None = None


class BilinearRules(Rules):
    """Rules of a product that is linear in each operand: with a single box it is affine."""
