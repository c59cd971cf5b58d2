"""Bounds of outputs and of rows of them: by every method, of any network, and refused where boxes do not fit."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

import ibpc
from ibpc.bounds.batching import intersected
from ibpc.errors import UsageError
from ibpc.ir import BATCH, INPUT, Node
from tests.passes.building import Net

HALVES = torch.full((2, 3), 0.5)
REAL, FLOAT32 = ibpc.Arithmetic.REAL, ibpc.Arithmetic.FLOAT32
ROWS = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -2.0]])


@pytest.fixture(scope="module")
def network() -> ibpc.Network:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    return ibpc.compile(layers.eval(), torch.zeros(1, 4))


@pytest.fixture(scope="module")
def box() -> ibpc.Interval:
    return ibpc.outer_ball(torch.rand(3, 4, generator=torch.Generator().manual_seed(1)), 0.1, clip=(0, 1))


def points_in(box: ibpc.Interval, count: int = 200) -> torch.Tensor:
    share = torch.rand(count, *box.lower.shape, generator=torch.Generator().manual_seed(2)).round(decimals=1)
    return box.lower + share * (box.upper - box.lower)


@pytest.mark.parametrize("arithmetic", ibpc.Arithmetic)
@pytest.mark.parametrize("method", sorted(ibpc.METHODS))
def test_every_method_holds_the_rows_at_all_points(network, box, method, arithmetic):
    """In float32 arithmetic all that the network computes, to the last digit; else what it computes in binary64."""
    found = ibpc.bound(network, box, ROWS, method=method, arithmetic=arithmetic)
    assert found.lower.shape == (3, 2)
    dtype = torch.float32 if arithmetic is ibpc.Arithmetic.FLOAT32 else torch.float64
    slack = 0.0 if dtype == torch.float32 else 1e-6
    judge = copy.deepcopy(network.nominal).to(dtype)
    for points in points_in(box):
        values = judge(points.clamp(box.lower, box.upper).to(dtype)).double() @ ROWS.double().T
        assert bool(((found.lower - slack <= values) & (values <= found.upper + slack)).all())


@pytest.mark.parametrize("method", sorted(ibpc.METHODS))
def test_the_arithmetic_is_the_one_asked_for(network, box, method):
    """A binary32 execution may leave the bounds of real arithmetic, so its own are wider at every end."""
    real, rounded = (ibpc.bound(network, box, ROWS, method=method, arithmetic=each) for each in (REAL, FLOAT32))
    assert bool((rounded.lower < real.lower).all() and (rounded.upper > real.upper).all())
    usual = ibpc.bound(network, box, ROWS, method=method)
    assert torch.equal(usual.lower, rounded.lower) and torch.equal(usual.upper, rounded.upper)


@pytest.mark.parametrize("method", ["ibp", "crown", "alpha-crown"])
def test_each_sample_may_have_rows_of_its_own(network, box, method):
    rows = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(3))
    rows[2, 1] = rows[0, 0]
    found = ibpc.bound(network, box, rows, method=method)
    for sample in range(3):
        alone = ibpc.Interval.bounds(box.lower[sample : sample + 1], box.upper[sample : sample + 1])
        wanted = ibpc.bound(network, alone, rows[sample], method=method)
        torch.testing.assert_close(found.lower[sample], wanted.lower[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.upper[sample], wanted.upper[0], rtol=1e-6, atol=1e-6)


def test_a_bounder_is_made_once_for_many_boxes(network, box):
    made = ibpc.bounder(network, ROWS, method="crown")
    for part in (box, ibpc.Interval.bounds(box.lower[:1], box.upper[:1])):
        found, wanted = made(part), ibpc.bound(network, part, ROWS)
        assert torch.equal(found.lower, wanted.lower) and torch.equal(found.upper, wanted.upper)


@pytest.mark.parametrize("method", sorted(ibpc.METHODS))
def test_boxes_of_one_point_have_bounds_in_order(network, method):
    """Intervals in binary32 and planes in binary64 miss each other there by their rounding."""
    point = torch.rand(50, 4, generator=torch.Generator().manual_seed(4))
    found = ibpc.bound(network, ibpc.Interval.bounds(point, point), method=method, arithmetic=REAL)
    assert bool((found.lower <= found.upper).all())


@pytest.mark.parametrize("name", ["float32", "real"])
def test_an_arithmetic_may_be_named(network, box, name):
    named, chosen = (ibpc.bound(network, box, arithmetic=each) for each in (name, ibpc.Arithmetic(name)))
    assert torch.equal(named.lower, chosen.lower) and torch.equal(named.upper, chosen.upper)


@pytest.mark.parametrize("name", ["float16", "REAL", None])
def test_an_unknown_arithmetic_is_refused_everywhere(network, box, name, tmp_path):
    digits, prop = ibpc.load_dataset("digits"), ibpc.Property.from_ball(torch.zeros(4), 0.1, 0, 3)
    for call in (
        lambda: ibpc.bound(network, box, arithmetic=name),
        lambda: ibpc.bounder(network, arithmetic=name),
        lambda: ibpc.decide(network, prop, arithmetic=name),
        lambda: ibpc.radius(network, ibpc.Ball(torch.zeros(4), 0), arithmetic=name),
        lambda: ibpc.certify(network, digits, 0.1, arithmetic=name),
        lambda: ibpc.export(network, tmp_path / "n.onnx", "interval", arithmetic=name),
    ):
        with pytest.raises(UsageError, match="arithmetic: found"):
            call()


def test_without_rows_every_output_is_bounded(network, box):
    found, wanted = ibpc.bound(network, box), ibpc.bound(network, box, torch.eye(3))
    assert torch.equal(found.lower, wanted.lower) and torch.equal(found.upper, wanted.upper)


def test_tighter_methods_are_tighter(network, box):
    widths = [
        (found.upper - found.lower).sum()
        for found in (ibpc.bound(network, box, ROWS, method=name) for name in ("ibp", "crown", "alpha-crown"))
    ]
    assert widths[0] > widths[1] > widths[2]


def test_several_inputs_and_outputs_are_one_after_the_other():
    net = Net(2)
    net.graph.add(Node("y", INPUT, {"shape": [1, 2], "range": None}, (BATCH, 1, 2)))
    net.add("flat", "Flatten", "y")
    net.add("sum", "Add", ["x", "flat"])
    net.add("difference", "Sub", ["x", "flat"])
    boxes = [ibpc.Interval.bounds(torch.zeros(1, 2), torch.ones(1, 2)), ibpc.Interval.point(torch.ones(1, 1, 2))]
    network = ibpc.Network(net.finish("sum", "difference"))
    found = ibpc.bound(network, boxes, method="ibp", arithmetic=ibpc.Arithmetic.REAL)
    assert found.lower.tolist() == [[1.0, 1.0, -1.0, -1.0]]
    assert found.upper.tolist() == [[2.0, 2.0, 0.0, 0.0]]


def test_what_may_be_no_number_is_bounded_by_nothing():
    """A sigmoid behind a logarithm lies in [0, 1], but that of NaN does not."""

    class Logarithm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(torch.log(x))

    net = ibpc.compile(Logarithm().eval(), torch.ones(1, 2))
    ends = torch.tensor([[-1.0, 0.5], [0.25, 0.5]]), torch.ones(2, 2)
    found = ibpc.bound(net, ibpc.Interval.bounds(*ends), method="ibp")
    assert found.lower[0].tolist() == [-torch.inf] * 2 and found.upper[0].tolist() == [torch.inf] * 2
    assert bool((found.lower[1] > 0).all() and (found.upper[1] < 1).all())


def test_an_outer_ball_holds_the_real_one():
    x = torch.rand(1, 50, generator=torch.Generator().manual_seed(3))
    ball = ibpc.outer_ball(x, 0.1, clip=None)
    for value, low, high in zip(x[0].tolist(), ball.lower[0].tolist(), ball.upper[0].tolist(), strict=True):
        assert Fraction(low) <= Fraction(value) - Fraction(0.1)
        assert Fraction(high) >= Fraction(value) + Fraction(0.1)
    whole = ibpc.outer_ball(x, 2.0, clip=(0, 1))
    assert bool((whole.lower == 0).all() and (whole.upper == 1).all())


def test_radii_and_ranges_may_be_those_of_each_channel():
    x, eps = torch.full((2, 3, 2, 2), 0.5), torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    low, high = torch.tensor([0.45, 0.0, 0.0])[:, None, None], torch.tensor([1.0, 0.6, 1.0])[:, None, None]
    ball = ibpc.outer_ball(x, eps, clip=(low, high))
    for channel, ends in enumerate(((0.45, 0.6), (0.3, 0.6), (0.2, 0.8))):
        torch.testing.assert_close(ball.lower[:, channel], torch.full((2, 2, 2), ends[0]))
        torch.testing.assert_close(ball.upper[:, channel], torch.full((2, 2, 2), ends[1]))
    nearest = ibpc.Interval.ball(x, eps, clip=(low, high))
    torch.testing.assert_close((nearest.lower, nearest.upper), (ball.lower, ball.upper))
    assert bool((ball.lower <= nearest.lower).all() and (ball.upper >= nearest.upper).all())


def test_a_range_may_be_written_as_lists():
    x = torch.tensor([[0.5, 0.5]])
    for make in (ibpc.outer_ball, ibpc.Interval.ball):
        ball = make(x, 1.0, ([0.0, 0.25], [1.0, 0.75]))
        assert ball.lower.tolist() == [[0.0, 0.25]] and ball.upper.tolist() == [[1.0, 0.75]]


@pytest.mark.parametrize("make", [ibpc.outer_ball, ibpc.Interval.ball])
@pytest.mark.parametrize(
    ("x", "eps", "clip", "words"),
    [
        (HALVES, torch.rand(4), None, r"eps: shape \(4,\); expected a shape that broadcasts to \(2, 3\)"),
        (HALVES, torch.rand(5, 2, 3), None, "eps: shape"),
        (HALVES, "2/255", None, "eps: found '2/255'; expected a number such as 2/255"),
        (HALVES, 0.1, ([0.0] * 4, [1.0] * 4), "clip: found tuple"),
        (HALVES, 0.1, (torch.zeros(3), torch.zeros(3) - 1), "the lower end first"),
        (HALVES, 0.1, (1, 0), "the lower end first"),
        (HALVES, 0.1, (0, torch.nan), "the lower end first"),
        (HALVES, 0.1, (0, 1, 2), "a lower and an upper end"),
        (HALVES, 0.1, 1, "a lower and an upper end"),
        (HALVES.numpy(), 0.1, None, "x: ndarray"),
        (HALVES.int(), 0.1, None, "uint8 are divided by 255"),
    ],
)
def test_what_makes_no_ball_is_refused(make, x, eps, clip, words):
    with pytest.raises(UsageError, match=words):
        make(x, eps, clip)


@pytest.mark.parametrize(
    ("x", "eps", "wanted"),
    [
        (2.0, 0.1, "1 elements further"),
        (-0.2, 0.1, "further"),
        (0.5, -0.1, "eps"),
        (0.5, torch.nan, "eps"),
        (0.5, torch.inf, "eps"),
        (torch.nan, 0.1, "not finite"),
    ],
)
def test_what_is_no_ball_is_refused(x, eps, wanted):
    """Clipped, the ball around 2 would be the point 1, of which nobody asked."""
    with pytest.raises(UsageError, match=wanted):
        ibpc.outer_ball(torch.tensor([[x]]), eps, clip=(0, 1))


def test_a_ball_without_a_range_is_whole():
    ball = ibpc.outer_ball(torch.tensor([[2.0, -3.0]]), 0.5)
    assert ball.lower.tolist() == [[1.5, -3.5]] and ball.upper.tolist() == [[2.5, -2.5]]


HALF = torch.full((1, 4), 0.5)
BAD = {
    "another shape": (ibpc.Interval.point(torch.zeros(1, 5)), None, "box 1: shape"),
    "two boxes": ([ibpc.Interval.point(HALF)] * 2, None, "boxes: found 2; expected one, for the only input"),
    "no box": ([ibpc.Interval.point(HALF), [HALF]], None, "box 2: found list; expected an Interval, or a tensor"),
    "an array": (HALF.numpy(), None, "box 1: found ndarray"),
    "ends that cross": (ibpc.Interval.bounds(HALF + 1, HALF), None, "above the upper"),
    "no samples": (ibpc.Interval.point(torch.zeros(0, 4)), None, "no sample"),
    "no numbers": (ibpc.Interval.point(HALF * torch.nan), None, "not finite"),
    "float64": (ibpc.Interval.point(HALF.double() + 1e-12), None, "float32 does not hold"),
    "rows of two": (ibpc.Interval.point(HALF), torch.ones(1, 2), "rows: shape"),
    "rows in float64": (ibpc.Interval.point(HALF), torch.full((1, 3), 0.1, dtype=torch.float64), "coefficients"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused(network, name):
    boxes, rows, wanted = BAD[name]
    with pytest.raises(UsageError, match=wanted):
        ibpc.bound(network, boxes, rows)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("crwn", "crown"), ("backward", "crown"), ("CROWN-Optimized", "alpha-crown"), ("IBP+backward", "crown-ibp")],
)
def test_an_unknown_method_is_refused(network, box, name, meant):
    """Also by the names that other tools have for it, which are spelled like others of ours."""
    prop = ibpc.Ball(torch.zeros(4), 0).within(0.1, network)
    calls = [lambda: ibpc.bound(network, box, method=name), lambda: ibpc.decide(network, prop, method=name)]
    calls += [lambda: ibpc.affine_bounds(network, box, method=name)]
    for call in calls:
        with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
            call()


def test_a_tensor_is_the_box_of_one_point(network):
    """Also for one of several inputs."""
    expected = ibpc.bound(network, ibpc.Interval.point(HALF))
    for found in (ibpc.bound(network, HALF), ibpc.bound(network, [HALF]), ibpc.bounder(network)(HALF)):
        assert torch.equal(found.lower, expected.lower) and torch.equal(found.upper, expected.upper)
    form = ibpc.affine_bounds(network, HALF).lower
    assert form(HALF).shape == (1, 3)


@pytest.mark.parametrize("method", sorted(ibpc.METHODS))
def test_kinks_beyond_what_float32_holds_are_no_error(method):
    """x · 1e-39 + 1/2 reaches 1 where no number of float32 is; choices are made in float32."""
    net = Net(3)
    net.graph.outputs = (net.add("y", "HardSigmoid", "x", {"alpha": 1e-39, "beta": 0.5}),)
    box = ibpc.Interval.bounds(torch.full((1, 3), -1e38), torch.full((1, 3), 3e38))
    found = ibpc.bound(ibpc.Network(net.graph), box, method=method)
    assert bool((found.lower <= 0.4 + 1e-6).all() and (found.lower >= 0.39).all())
    assert bool((found.upper >= 0.8 - 1e-6).all() and (found.upper <= 0.81).all())


class Cancelling(nn.Module):
    """Two halves that cancel, of which intervals know nothing, in front of what overflows where they did not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)
        self.other.load_state_dict(self.one.state_dict())
        self.last.weight.data[0] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = (torch.relu(side(x) + 100.0) * 100.0 for side in (self.one, self.other))
        return self.last(torch.exp(one - other))


@pytest.mark.parametrize("method", sorted(ibpc.METHODS))
def test_bounds_are_never_no_numbers(method):
    """Where boxes of intervals are infinite a weight of 0 makes NaN of them, which no tighter bound would replace."""
    torch.manual_seed(0)
    module = Cancelling().eval()
    box = ibpc.outer_ball(torch.rand(3, 4), 0.3)
    found = ibpc.bound(ibpc.compile(module, torch.zeros(1, 4)), box, method=method)
    assert not bool(found.lower.isnan().any() or found.upper.isnan().any())
    if method in ("crown", "alpha-crown", "mip"):
        assert bool(((found.upper - found.lower) < 0.5).all())


def test_what_is_no_number_says_nothing_where_bounds_meet():
    """Infinite boxes may make NaN of an interval bound, and a search of a linear one: the other one counts."""
    nothing, low, high = (torch.tensor([[each]]) for each in (torch.nan, 1.0, 2.0))
    for first, lower, upper in (
        (ibpc.Interval.bounds(nothing, nothing), low, high),
        (ibpc.Interval.bounds(low, high), nothing, nothing),
    ):
        found = intersected(first, lower, upper)
        assert found.lower.item() == 1.0 and found.upper.item() == 2.0


def test_outputs_pay_for_no_product_with_an_identity():
    """Bounds of 256 values at a point are off by the rounding of what computes them, not of sums of 256 terms."""
    network = ibpc.compile(torch.nn.LayerNorm(16).eval(), torch.zeros(1, 16, 16))
    box = ibpc.Interval.point(torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)))
    whole, own = ibpc.bound(network, box, method="ibp"), ibpc.node_bounds(network, box, method="ibp")
    (last,) = own.values()
    assert whole.width.max() <= 1.01 * last.width.max()


@pytest.mark.parametrize("table", [[[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 2.0]], [[1.0, -1.0], [0.0, 1.0]]])
def test_square_tables_of_rows_are_rows_like_others(table):
    """At a point they are bounded by what they make of the outputs, whatever table there is."""
    torch.manual_seed(0)
    network = ibpc.compile(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).eval(), torch.zeros(1, 3))
    x, rows = torch.rand(4, 3), torch.tensor(table)
    for method in ("ibp", "crown", "forward"):
        found = ibpc.bound(network, x, rows, method=method)
        assert torch.allclose(found.lower.float(), network.nominal(x) @ rows.T, atol=1e-4), method
