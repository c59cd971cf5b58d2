"""The constants that a linear form picks up at affine nodes, and the cost of rounding at every node.

At an affine node a form a gains a·b, with b the constant that the operator adds, and loses |a|·c for rounding. Where
only nonlinear operators read the node, their planes pay for that ahead, which saves passes over its coefficients: a
coefficient a of their result becomes a p (a > 0) or a q (a < 0) at the node, so a p b − |a p| c and a q b − |a q| c are
just two more offsets.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ibpc.bounds.coefficients import dotted, weighed
from ibpc.bounds.forms import Form, Units, dense, zeros
from ibpc.bounds.patches import Patches
from ibpc.bounds.values import WIDENED, Step, Steps, Values
from ibpc.interval import Interval
from ibpc.ir import VIEWS
from ibpc.ops.rules import BilinearRules, Operand


class Payments:
    """The constants and rounding costs at the nodes of a walk over known values.

    `slack` is the allowance for binary64 rounding relative to every product; `may_synchronize` tells whether the
    contents of a tensor may be looked at, which waits for the device.
    """

    def __init__(self, walk: Steps, values: Values, slack: float, may_synchronize: bool) -> None:
        self._walk, self._values, self._slack, self._may_synchronize = walk, values, slack, may_synchronize
        self._charges: dict[str, Tensor | None] = {}

    def is_finite(self, factor: Tensor) -> bool:
        """Return whether a factor is known to be finite, so that its products need no check."""
        return self._may_synchronize and bool(factor.detach().sum().isfinite())

    @cached_property
    def ahead(self) -> frozenset[str]:
        """The affine nodes that are paid for by the nodes that read them, all of which are nonlinear.

        Empty without `slack`: then each form mostly has its own planes.
        """
        if not self._slack:
            return frozenset()
        steps = self._walk.steps
        straight = {name for name, step in steps.items() if step.operator.is_affine}
        linear = straight | {name for name, step in steps.items() if isinstance(step.operator.rules, BilinearRules)}
        read_linearly = {operand for name in linear for operand in steps[name].operands}
        return frozenset(straight - read_linearly)

    def paid(self, step: Step, form: Form) -> Tensor:
        """Return the constant part of a form at an affine node, less the cost of rounding there, (R, B)."""
        name = step.node.name
        constant, charge = self._constant(step), self.charge(name)
        if isinstance(form, Patches) and (charge is None or self.is_finite(charge)):
            total = zeros(form) if constant is None else form.dotted(constant)
            return total if charge is None else total - form.dotted_moduli(charge)
        if isinstance(form, Units):
            total = zeros(form) if constant is None else form.signs[:, None] * form.seen(constant)
            return total if charge is None else total - form.signs.abs()[:, None] * form.seen(charge)
        form = dense(form)
        total = zeros(form) if constant is None else dotted(form, constant)
        return total if charge is None else total - weighed(form.abs(), charge, self.is_finite)

    def due(self, step: Step, form: Form) -> Tensor | float:
        """Return the payment at an affine node that a form has arrived at: 0 if it was paid ahead."""
        return 0.0 if step.node.name in self.ahead else self.paid(step, form)

    def charge(self, name: str) -> Tensor | None:
        """Return the cost of rounding at a node per unit of |a|, None for 0."""
        if name not in self._charges:
            error, box = self._values.errors[name], self._values.box(name)
            is_exact = error is None and self._walk.steps[name].node.operator in VIEWS
            self._charges[name] = None if is_exact else _charge_of(box, error, self._slack)
        return self._charges[name]

    def paid_ahead(self, operand: str) -> tuple[Tensor | float, Tensor | float]:
        """Return the constant of a node that is paid for ahead, and the cost per unit of |a| there."""
        constant, charge = self._constant(self._walk.steps[operand]), self.charge(operand)
        cost = 0.0 if charge is None else charge
        return (0.0, cost) if constant is None else (constant, cost + self._slack * constant.abs())

    def is_folded(self, name: str, operand: str) -> bool:
        """Return whether a node's mixtures include the payment of an operand: one paid for ahead, of the same shape."""
        if operand not in self.ahead or not isinstance(self._values.known[operand], Interval):
            return False
        return self._values.box(operand).lower.shape[1:] == self._values.box(name).lower.shape[1:]

    def _constant(self, step: Step) -> Tensor | None:
        """Return the constant (1, *shape) that an affine node adds, None for 0: its value with all boxes set to 0."""
        name, known = step.node.name, self._walk.constants
        if name not in known:
            operands = tuple(self._values.known[operand] for operand in step.operands)
            constant = _at_zero(step, operands)
            known[name] = None if not constant.requires_grad and self._is_zero(constant) else constant
        return known[name]

    def _is_zero(self, factor: Tensor) -> bool:
        """Return whether a factor is known to be zero everywhere."""
        return self._may_synchronize and not bool(factor.detach().any())


def _at_zero(step: Step, operands: tuple[Operand, ...]) -> Tensor:
    """Return the value (1, …) of an affine operator with all operands that are boxes set to 0."""
    zeros = [x.lower.new_zeros(1, *x.lower.shape[1:]) if isinstance(x, Interval) else x for x in operands]
    return step.operator.rules.nominal(step.call, *zeros, **step.parameters)


def _charge_of(box: Interval, error: Tensor | None, slack: float) -> Tensor | None:
    """Return the cost of E and of binary64 rounding, None where there is neither."""
    if error is None and not slack:
        return None
    size = torch.maximum(box.lower.abs(), box.upper.abs()) * slack
    return size if error is None else size + error * WIDENED
