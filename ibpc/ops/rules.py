"""How an operator acts: its rules on tensors, on boxes, on both together in training, and the planes that bound it.

Rules are plain functions `rule(call, *operands, **parameters)` on tensors. `ibpc.lowering` runs the same functions on
`torch.fx` proxies, so they may branch on the `call` (attributes, shapes, arithmetic) but never on values. Only `tuned`,
which is never lowered or captured, may do that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from ibpc.interval import Interval, Paired
from ibpc.ir import Attributes, Graph, Node, Shape
from ibpc.rounding import UNIT, Arithmetic

Operand: TypeAlias = Interval | Tensor
PairedOperand: TypeAlias = Paired | Tensor


# ── one application of an operator ──────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Call:
    """One application of an operator: everything that is known of it before its values are.

    `operands`, `parameters` and `output` are shapes (dimension 0 is `BATCH` where the value depends on an input).
    `unit` is the unit roundoff in which bounds are computed.
    """

    attributes: Attributes
    operands: tuple[Shape, ...]
    parameters: Mapping[str, Shape]
    output: Shape
    arithmetic: Arithmetic = Arithmetic.REAL
    unit: float = UNIT

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]


def call_of(graph: Graph, node: Node, arithmetic: Arithmetic = Arithmetic.REAL) -> Call:
    """Return the call of a node."""
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

    `anchors` are intermediate results that a rule `tuned` would otherwise compute again.
    """

    lower: Plane
    upper: Plane
    anchors: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """An affine operator on N×C×H×W written as a convolution.

    output[m, y, x] = bias[m] + Σ weight[m, c, i, j] · operand[c, y · stride − pad + i · dilation, …], zero outside
    the operand; `pads` is the padding before it, (top, left).
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

    The rules below that default to None are optional.

    `training` is the nominal rule while training (it differs for BatchNormalization and Dropout). Operators for which
    it differs have `scaling(call, x)`, which returns a and b such that a training step at the nominal operand x
    computes a · x + b.

    `tuned(call, t, plain, *boxes)` returns planes for any t in [0, 1] of the shape of `start(call, *boxes)`, with any
    further dimensions in front. At the start they are the planes of the relaxation, which are passed as `plain`. An
    operator without it is tuned between its relaxation and its constant bounds.

    `local(call, **parameters)` of an affine operator says which few elements of its operands a result depends on: a
    Kernel for those in a window, Factors where operands have the shape of the result and only the element in the same
    place counts. Without the rule, or if it returns None, a result may depend on all elements.

    `pull(call, forms, **parameters)` of an affine operator with one operand maps linear forms (N, *result) to forms of
    the operand, as the vjp of the nominal rule does, but without running that rule; without it the vjp is used.
    `rows(call, elements, **parameters)` is `pull` for one-hot forms, given by flat index, without a matrix product.

    `guiding` returns the nominal value, with a gradient for attacks to follow where the nominal gradient is 0; without
    it attacks use the nominal rule.

    For exact methods: `kinks(call, **parameters)` of a continuous elementwise operator returns, in rising order, the
    points between which it is linear. An operator `selects` if its result is the maximum of the elements in its planes'
    views. An operator with neither is encoded by its planes.
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
    """Rules of a product that is linear in each operand, and so affine if only one operand is a box."""
