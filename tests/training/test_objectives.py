"""Loss terms against values worked by hand."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from ibpc.training.objectives import blend, certified, correct, nominal_loss, robust_loss
from ibpc.training.regularizers import l1_norm

LABELS = torch.tensor([0, 2])


def test_nominal_loss_is_the_mean_cross_entropy():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    first = log(exp(2) + 1 + exp(1)) - 2
    assert nominal_loss(logits, LABELS).item() == pytest.approx((first + log(3)) / 2)


def test_robust_loss_takes_the_worst_logits_relative_to_the_label():
    margins = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]])
    first = log(1 + exp(-1) + exp(2))
    second = log(1 + exp(-3) + exp(-0.5))
    assert robust_loss(margins, LABELS).item() == pytest.approx((first + second) / 2)


def test_robust_loss_bounds_the_loss_of_every_point_below_its_margins():
    torch.manual_seed(0)
    margins = torch.randn(2, 3).scatter(1, LABELS[:, None], 0.0)
    for _ in range(200):
        slack = torch.rand(2, 3).scatter(1, LABELS[:, None], 0.0)
        logits = -(margins + slack)
        assert nominal_loss(logits, LABELS) <= robust_loss(margins, LABELS) + 1e-6


def test_robust_loss_of_exact_margins_is_the_nominal_loss():
    logits = torch.randn(2, 3, dtype=torch.float64)
    margins = logits.gather(1, LABELS[:, None]) - logits
    assert robust_loss(margins, LABELS).item() == pytest.approx(nominal_loss(logits, LABELS).item())


def test_blend():
    nominal, robust = torch.tensor(2.0), torch.tensor(10.0)
    assert [blend(nominal, robust, kappa).item() for kappa in (1.0, 0.25, 0.0)] == [2.0, 8.0, 10.0]


def test_correct():
    assert correct(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), LABELS).tolist() == [False, True]


def test_certified_needs_every_other_margin_to_be_positive():
    margins = torch.tensor([[0.0, 0.1, 0.2], [0.0, 0.1, 0.0], [0.0, -0.1, 0.2], [0.0, float("nan"), 0.2]])
    assert certified(margins).tolist() == [True, False, False, False]


def test_l1_norm():
    weights = [torch.tensor([[1.0, -2.0]]), torch.tensor([[-0.5], [0.0]])]
    assert l1_norm(weights).item() == 3.5
