"""Forms of the inputs below and above rows of outputs: they hold at every point, and their ends are those of CROWN."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ibpc
from ibpc.errors import UsageError

METHODS = ("crown-ibp", "crown", "alpha-crown")
ROWS = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -2.0]])


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Sigmoid(), nn.Flatten())
        self.row, self.last = nn.Linear(4, 18), nn.Linear(18, 3)

    def forward(self, image: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return self.last(self.image(image) * torch.tanh(self.row(row)))


@pytest.fixture(scope="module")
def network() -> ibpc.Network:
    torch.manual_seed(0)
    return ibpc.compile(TwoInputs().eval(), (torch.zeros(1, 1, 6, 6), torch.zeros(1, 4)))


@pytest.fixture(scope="module")
def boxes() -> tuple[ibpc.Interval, ibpc.Interval]:
    generator = torch.Generator().manual_seed(1)
    return tuple(ibpc.outer_ball(torch.rand(5, *shape, generator=generator), 0.3) for shape in ((1, 6, 6), (4,)))


def points_in(boxes: tuple[ibpc.Interval, ...], seed: int) -> list[torch.Tensor]:
    """Points of boxes, many of them corners."""
    generator = torch.Generator().manual_seed(seed)
    shares = [(torch.rand(box.lower.shape, generator=generator) * 3 - 1).clamp(0, 1) for box in boxes]
    points = [box.lower + share * (box.upper - box.lower) for share, box in zip(shares, boxes, strict=True)]
    return [torch.minimum(torch.maximum(x, box.lower), box.upper) for x, box in zip(points, boxes, strict=True)]


@pytest.mark.parametrize("arithmetic", ibpc.Arithmetic)
@pytest.mark.parametrize("method", METHODS)
def test_forms_hold_at_all_points(network, boxes, method, arithmetic):
    """In float32 arithmetic what the network computes in binary32 too; both sides of a form evaluated in binary64."""
    found = ibpc.affine_bounds(network, boxes, ROWS, method=method, arithmetic=arithmetic)
    assert [tuple(slope.shape) for slope in found.lower.slopes] == [(5, 2, 1, 6, 6), (5, 2, 4)]
    wide = copy.deepcopy(network.nominal).double()
    for seed in range(300):
        points = points_in(boxes, seed)
        values = [wide(*(x.double() for x in points)) @ ROWS.double().T]
        if arithmetic is ibpc.Arithmetic.FLOAT32:
            values.append(network.nominal(*points).double() @ ROWS.double().T)
        for value in values:
            assert bool((found.lower(*points) - 1e-12 <= value).all())
            assert bool((value <= found.upper(*points) + 1e-12).all())


@pytest.mark.parametrize("method", METHODS)
def test_their_ends_over_the_box_are_bounds_of_the_method(network, boxes, method):
    forms = ibpc.affine_bounds(network, boxes, ROWS, method=method)
    bounds = ibpc.bound(network, boxes, ROWS, method=method)
    for side, form, known in ((-1, forms.lower, bounds.lower), (1, forms.upper, bounds.upper)):
        end = form.offset.clone()
        for slope, box in zip(form.slopes, boxes, strict=True):
            center, radius = 0.5 * (box.lower.double() + box.upper), 0.5 * (box.upper.double() - box.lower)
            end += torch.einsum("brn,bn->br", slope.flatten(2), center.flatten(1))
            end += side * torch.einsum("brn,bn->br", slope.abs().flatten(2), radius.flatten(1))
        # `bound` may be tighter: what intervals and CROWN say counts there as well.
        assert bool((side * (end - known) >= -1e-9).all())
        assert bool((side * (end - known) <= 0.1 * (bounds.upper - bounds.lower)).all())


def test_forms_are_tighter_inside_the_box_than_its_ends(network, boxes):
    forms, bounds = ibpc.affine_bounds(network, boxes, ROWS), ibpc.bound(network, boxes, ROWS)
    middle = [0.5 * box.lower + 0.5 * box.upper for box in boxes]
    assert bool((forms.lower(*middle) > bounds.lower).all() and (forms.upper(*middle) < bounds.upper).all())


def test_rows_of_each_sample_are_its_own(network, boxes):
    own = torch.randint(-2, 3, (5, 2, 3), generator=torch.Generator().manual_seed(3)).float()
    found = ibpc.affine_bounds(network, boxes, own)
    for sample in range(5):
        alone = tuple(ibpc.Interval.bounds(box.lower[[sample]], box.upper[[sample]]) for box in boxes)
        wanted = ibpc.affine_bounds(network, alone, own[sample])
        for side, other in ((found.lower, wanted.lower), (found.upper, wanted.upper)):
            assert torch.allclose(side.offset[[sample]], other.offset, atol=1e-9)
            assert all(torch.allclose(a[[sample]], b) for a, b in zip(side.slopes, other.slopes, strict=True))


def test_without_rows_every_output_has_forms(network, boxes):
    assert ibpc.affine_bounds(network, boxes).lower.offset.shape == (5, 3)


def test_of_what_may_be_no_number_nothing_is_said():
    """The logarithm of a box that reaches below 0, behind a sigmoid, for the second of two samples."""

    class Logarithm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(torch.log(x))

    network = ibpc.compile(Logarithm().eval(), torch.ones(1, 2))
    box = ibpc.outer_ball(torch.tensor([[1.0, 2.0], [1.0, 0.1]]), 0.5)
    found = ibpc.affine_bounds(network, box)
    assert bool(found.lower.offset[0].isfinite().all() and found.upper.offset[0].isfinite().all())
    assert bool(found.lower.offset[1].isneginf().all() and found.upper.offset[1].isposinf().all())
    assert bool((found.lower.slopes[0][1] == 0).all())


@pytest.mark.parametrize(
    ("change", "found"), [({"method": "ibp"}, "ibp"), ({"rows": torch.ones(1, 2)}, "rows"), ({"timeout": -1}, "-1")]
)
def test_what_does_not_fit_is_refused(network, boxes, change, found):
    with pytest.raises(UsageError, match=found):
        ibpc.affine_bounds(network, boxes, **change)
