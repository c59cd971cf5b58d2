"""Loss terms against values worked by hand."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from ibpc.interval import Interval
from ibpc.training.objectives import blend, certified, correct, nominal_loss, robust_loss
from ibpc.training.regularizers import balance, l1_norm, tightness

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


def test_a_term_of_weight_0_is_left_out():
    broken = torch.tensor(float("inf"), requires_grad=True)
    whole = torch.tensor(2.0, requires_grad=True)
    assert blend(whole, broken, 1.0) is whole
    assert blend(broken, whole, 0.0) is whole


def test_correct():
    assert correct(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), LABELS).tolist() == [False, True]


def test_certified_needs_every_other_margin_to_be_positive():
    margins = torch.tensor([[0.0, 0.1, 0.2], [0.0, 0.1, 0.0], [0.0, -0.1, 0.2], [0.0, float("nan"), 0.2]])
    assert certified(margins).tolist() == [True, False, False, False]


def test_l1_norm():
    weights = [torch.tensor([[1.0, -2.0]]), torch.tensor([[-0.5], [0.0]])]
    assert l1_norm(weights).item() == 3.5


def box(lower: list[float], upper: list[float]) -> Interval:
    return Interval.bounds(torch.tensor(lower, requires_grad=True), torch.tensor(upper, requires_grad=True))


def test_tightness_counts_boxes_that_grew_by_more_than_the_tolerance():
    first = box([0.0, 0.0], [1.0, 1.0])
    same, twice, fourfold = box([0.0, 1.0], [1.0, 2.0]), box([0.0, 0.0], [3.0, 1.0]), box([-4.0, 0.0], [0.0, 4.0])
    assert tightness(first, [same, twice], 0.5).item() == 0.0
    assert tightness(first, [same, fourfold], 0.5).item() == pytest.approx((0.5 - 0.25) / 0.5 / 2)
    tightness(first, [fourfold], 0.5).backward()
    assert fourfold.upper.grad.tolist() == pytest.approx([0.0625] * 2)


def test_balance_compares_active_with_inactive_neurons():
    one_sided = box([3.0, -2.0, -1.0], [5.0, 0.0, 1.0])
    assert balance([one_sided], 0.5).item() == pytest.approx(2.0)
    inactive = box([3.0, -2.0, -1.0], [5.0, -0.5, 1.0])
    centers = [4.0, -1.25, 0.0]
    mean = sum(centers) / 3
    ratio = (centers[1] - mean) ** 2 / (centers[0] - mean) ** 2
    expected = (0.5 - 1.25 / 4 + max(0.5 - ratio, 0)) / 0.5
    assert balance([inactive], 0.5).item() == pytest.approx(expected)
    balance([inactive], 0.5).backward()
    assert inactive.lower.grad.isfinite().all()
    assert (inactive.lower.grad != 0).any()


def test_balance_of_many_neurons_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    lower = torch.randn(8, 16, 5, 5, generator=generator).sub_(0.2).requires_grad_()
    upper = (lower.detach() + torch.rand(lower.shape, generator=generator)).requires_grad_()
    found = balance([Interval.bounds(lower, upper)], 1.0)
    found.backward()
    low, up = (bound.detach().double().requires_grad_() for bound in (lower, upper))
    center = (low + up) / 2
    squares = (center - center.mean()) ** 2
    positive, negative = low > 0, up < 0
    sums = center[positive].sum(), -center[negative].sum()
    spreads = squares[positive].sum(), squares[negative].sum()
    expected = sum(1 - torch.minimum(*pair) / torch.maximum(*pair) for pair in (sums, spreads))
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for own, right in ((lower, low), (upper, up)):
        torch.testing.assert_close(own.grad.double(), right.grad, rtol=1e-4, atol=1e-9)


def test_balance_without_a_stable_neuron_is_0_with_finite_gradients():
    unstable = box([-1.0, -2.0], [1.0, 0.5])
    loss = balance([unstable], 0.5)
    loss.backward()
    assert loss.item() == 0.0
    assert unstable.lower.grad.isfinite().all()
