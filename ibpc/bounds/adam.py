"""Adam (Kingma and Ba 2015, arXiv 1412.6980) for many small problems at once, each with its own pace.

The right step length differs between forms and samples by orders of magnitude: multipliers are as large as the
coefficients of a form, and parts of a search begin near their best. A step that gained nothing is undone, and the next
one of that form and sample is shorter. After a gain steps grow again: bounds are not smooth, and along a kink many
steps in a row gain nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

_SHORTER, _LONGER = 0.7, 2.0
_FIRST, _SECOND, _LEAST = 0.9, 0.999, 1e-8


class Adam:
    """Ascent of parameters (R, B, …) at a rate; remembers the best that each form and sample has had."""

    def __init__(self, rate: float) -> None:
        self.best: dict[str, Tensor] = {}
        self._rate, self._moments = rate, dict[str, tuple[Tensor, Tensor]]()

    def keep(self, parameters: Mapping[str, Tensor], better: Tensor) -> None:
        """Remember the parameters of the forms and samples whose values are now `better` (R, B)."""
        everywhere = bool(better.all())
        for name, parameter in parameters.items():
            value = parameter.detach()
            if name not in self.best or everywhere:
                self.best[name] = value.clone()
            else:
                torch.where(_spread(better, value), value, self.best[name], out=self.best[name])

    @torch.no_grad()
    def step(self, parameters: Mapping[str, Tensor], number: int, pace: Tensor) -> None:
        """Move the parameters, in place, from the best ones along their gradients; `number` counts steps from 1.

        `pace` (R, B) scales the rate. Gradients that are not finite count as 0.
        """
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            gradient = torch.nan_to_num(parameter.grad, 0.0, 0.0, 0.0)
            if name not in self._moments:
                self._moments[name] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            first, second = self._moments[name]
            first.lerp_(gradient, 1.0 - _FIRST)
            second.mul_(_SECOND).addcmul_(gradient, gradient, value=1.0 - _SECOND)
            length = _spread(self._rate / (1.0 - _FIRST**number) * pace, parameter)
            size = second.sqrt().div_(sqrt(1.0 - _SECOND**number)).add_(_LEAST)
            parameter.copy_(self.best[name]).addcdiv_(first * length, size)


def paced(pace: Tensor, better: Tensor) -> Tensor:
    """Return the paces (R, B), at most 1, after a step that gained something where `better`."""
    return torch.where(better, (_LONGER * pace).clamp(max=1.0), _SHORTER * pace)


def _spread(factor: Tensor, like: Tensor) -> Tensor:
    """Return a factor (R, B) with as many dimensions as parameters (R, B, …)."""
    return factor.reshape(*factor.shape, *[1] * (like.dim() - 2))
