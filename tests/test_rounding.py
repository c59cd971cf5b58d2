"""The rounding that binary32 bounds pay for, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import isfinite
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibpc.api import compile
from ibpc.bounds import METHODS
from ibpc.bounds.values import Step, Values, advance, walk_of
from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Node
from ibpc.network import Network
from ibpc.ops import operators
from ibpc.ops.rules import Call
from ibpc.rounding import (
    SMALLEST,
    UNIT,
    WIDE_UNIT,
    Arithmetic,
    down,
    gamma,
    inflation,
    outer_ball,
    plain_products,
    up,
    vanishing,
)
from ibpc.verify.replay import Replay

Row = tuple[list[float], list[float], list[float], float]

singles = st.floats(width=32, allow_nan=False, allow_infinity=False)


class TestGamma:
    def test_one_product_is_off_by_one_rounding(self) -> None:
        assert gamma(1) == pytest.approx(2.0**-24, rel=1e-6)

    @given(st.integers(1, 2**20))
    def test_it_covers_the_product_of_all_roundings(self, terms: int) -> None:
        growth = (1 + Fraction(UNIT)) ** min(terms, 200)
        assert growth - 1 <= Fraction(gamma(min(terms, 200)))
        assert gamma(terms) >= terms * UNIT

    @given(st.integers(1, 2**20), st.integers(1, 2**20))
    def test_errors_of_consecutive_sums_add_up(self, first: int, second: int) -> None:
        joint = gamma(first) + gamma(second) + gamma(first) * gamma(second)
        assert joint <= gamma(first + second) * (1 + 1e-12)

    def test_a_sum_too_long_for_the_model_is_an_error(self) -> None:
        gamma(2**22 - 1)
        with pytest.raises(GraphError, match="4194304"):
            gamma(2**22)


class TestSteps:
    @given(singles, st.integers(0, 64))
    def test_they_move_by_at_least_the_ulps_asked_for(self, value: float, ulps: int) -> None:
        tensor = torch.tensor(value)
        need = Fraction(abs(value)) * Fraction(2 * ulps * UNIT)
        low, high = float(down(tensor, ulps)), float(up(tensor, ulps))
        if isfinite(low):
            assert Fraction(low) <= Fraction(value) - need
        if isfinite(high):
            assert Fraction(high) >= Fraction(value) + need

    @given(singles)
    def test_they_do_not_move_much_further(self, value: float) -> None:
        allowed = abs(value) * 8 * UNIT + 8 * SMALLEST
        low, high = float(down(torch.tensor(value))), float(up(torch.tensor(value)))
        assert not isfinite(low) or value - low <= allowed
        assert not isfinite(high) or high - value <= allowed

    @given(singles)
    def test_they_are_strict(self, value: float) -> None:
        tensor = torch.tensor(value)
        assert down(tensor) < tensor < up(tensor)

    def test_they_pass_the_normal_range_even_where_results_are_flushed(self) -> None:
        for value in (0.0, 1e-45, -1e-45, SMALLEST, -SMALLEST):
            assert float(down(torch.tensor(value))) <= value - SMALLEST
            assert float(up(torch.tensor(value))) >= value + SMALLEST

    def test_nan_stays_nan_and_infinity_claims_nothing(self) -> None:
        assert down(torch.tensor(torch.nan)).isnan()
        assert up(torch.tensor(torch.nan)).isnan()
        assert up(torch.tensor(torch.inf)) == torch.inf
        assert down(torch.tensor(-torch.inf)) == -torch.inf
        assert not down(torch.tensor(torch.inf)).isfinite()
        assert not up(torch.tensor(-torch.inf)).isfinite()


def _row_of_a_gemm(
    weight: list[float], lower: list[float], upper: list[float], bias: float
) -> tuple[Fraction | float, Fraction | float]:
    """Return the bounds of one output in binary32: exact fractions, or what is not finite as it is."""
    arrays = {"weight": torch.tensor([weight]), "bias": torch.tensor([bias])}
    shapes = {role: tuple(value.shape) for role, value in arrays.items()}
    call = Call({}, ((-1, len(weight)),), shapes, (-1, 1), Arithmetic.FLOAT32)
    made = Interval.nonnegative if min(lower) >= 0.0 else Interval.bounds
    box = made(torch.tensor([lower]), torch.tensor([upper]))
    found = operators()["Gemm"].rules.interval(call, box, **arrays)
    low, high = float(found.lower), float(found.upper)
    return (Fraction(low) if isfinite(low) else low, Fraction(high) if isfinite(high) else high)


def _rounded_sums(weight: list[float], point: list[float], bias: float) -> list[float]:
    """Return w·x + b in binary32: forward, backward, smallest or largest first, in pairs, as fused multiply-adds."""
    products = [np.float32(w) * np.float32(x) for w, x in zip(weight, point, strict=True)]
    ordered = sorted(products, key=abs)
    orders = [products, products[::-1], ordered, ordered[::-1]]
    sums = [float(_running(order, np.float32(0)) + np.float32(bias)) for order in orders]
    sums.extend(float(_running(order, np.float32(bias))) for order in orders)
    while len(products) > 1:
        products = [_running(products[at : at + 2], np.float32(0)) for at in range(0, len(products), 2)]
    sums.append(float(products[0] + np.float32(bias)))
    return [*sums, _fused(weight, point, bias)]


def _fused(weight: list[float], point: list[float], bias: float) -> float:
    """Return w·x + b with one rounding per product and sum (by way of binary64, where the sum is all but exact)."""
    total = np.float32(bias)
    for w, x in zip(weight, point, strict=True):
        total = np.float32(w * x + float(total))
    return float(total)


def _running(values: list[np.float32], total: np.float32) -> np.float32:
    for value in values:
        total = total + value
    return total


def _numbers(exponent: int) -> st.SearchStrategy[float]:
    """Binary32 numbers of about that binary exponent, and zero."""
    signed = st.builds(
        lambda mantissa, shift: mantissa * 2.0 ** (exponent + shift),
        st.floats(1.0, 2.0, width=32) | st.floats(-2.0, -1.0, width=32),
        st.integers(-6, 6),
    )
    return st.one_of(signed, signed, signed, st.just(0.0)).map(lambda value: float(np.float32(value)))


@st.composite
def _rows(draw: st.DrawFn) -> Row:
    """A row of weights with a box: wide, narrow or of no width, of any sign or of none below 0.

    Weights that cancel; from denormals to overflows.
    """
    size = draw(st.integers(1, 6))
    weights = _numbers(draw(st.sampled_from([0, 0, 20, 66, 100, 118])))
    ends_of = _numbers(draw(st.sampled_from([0, 0, 8, -30, -126, -143])))
    weight, ends, others = (
        draw(st.lists(source, min_size=size, max_size=size)) for source in (weights, *[ends_of] * 2)
    )
    if draw(st.booleans()):
        ends, others = ([abs(end) for end in side] for side in (ends, others))
    width = draw(st.sampled_from(["wide", "narrow", "none"]))
    if width == "narrow":
        others = [float(np.nextafter(np.float32(end), np.float32(np.inf))) for end in ends]
    elif width == "none":
        others = ends
    if draw(st.booleans()):
        weight, ends, others = weight + [-w for w in weight], ends * 2, others * 2
    lower, upper = map(list, zip(*map(sorted, zip(ends, others, strict=True)), strict=True))
    return weight, lower, upper, draw(_numbers(draw(st.sampled_from([0, 30, -140]))))


# Of which 4096 copies, added up one after the other, are rounded upward nearly every time.
LOPSIDED = 2.063251495361328


class TestAffineRows:
    """The rule of Gemm in binary32, attacked with cancellation, large weights, tiny values and denormals."""

    @settings(max_examples=150, deadline=None)
    @given(_rows())
    def test_bounds_contain_the_exact_range(self, row: Row) -> None:
        weight, lower, upper, bias = row
        low, high = _row_of_a_gemm(weight, lower, upper, bias)
        terms = [(Fraction(w) * Fraction(a), Fraction(w) * Fraction(b)) for w, a, b in zip(*row[:3], strict=True)]
        exact = Fraction(bias) + sum(map(min, terms)), Fraction(bias) + sum(map(max, terms))
        assert not low > exact[0], float(low - exact[0])
        assert not high < exact[1], float(exact[1] - high)

    @settings(max_examples=150, deadline=None)
    @given(_rows(), st.randoms(use_true_random=False))
    def test_bounds_contain_rounded_sums(self, row: Row, random: Random) -> None:
        weight, lower, upper, bias = row
        low, high = _row_of_a_gemm(weight, lower, upper, bias)
        corner = [a if w > 0 else b for w, a, b in zip(*row[:3], strict=True)]
        mixed = [random.choice(pair) for pair in zip(lower, upper, strict=True)]
        for point in (lower, upper, corner, mixed):
            with np.errstate(over="ignore", invalid="ignore"):
                values = _rounded_sums(weight, point, bias)
            for value in values:
                assert not low > value
                assert not high < value

    def test_a_long_sum_at_the_edge_of_a_box_around_zero_stays_inside(self) -> None:
        """The center is 0: what the sum's rounding adds, 5·10⁻⁵ of it, is paid by the radius alone."""
        count, edge = 4096, LOPSIDED
        total = float(_running([np.float32(edge)] * count, np.float32(0)))
        assert total > (1 + 4e-5) * count * edge, "the sum is not rounded upward"
        low, high = _row_of_a_gemm([1.0] * count, [-edge] * count, [edge] * count, 0.0)
        assert low <= -total
        assert high >= total

    def test_a_long_sum_of_numbers_above_zero_stays_inside(self) -> None:
        """The box is a point: what the sum's rounding adds is paid by the center's modulus alone."""
        count = 4096
        total = float(_running([np.float32(LOPSIDED)] * count, np.float32(0)))
        assert total > (1 + 4e-5) * count * LOPSIDED, "the sum is not rounded upward"
        for sign in (1.0, -1.0):
            low, high = _row_of_a_gemm([sign] * count, [LOPSIDED] * count, [LOPSIDED] * count, 0.0)
            assert low <= sign * total <= high

    def test_so_does_that_of_an_operator_without_a_weight(self) -> None:
        count, edge = 4096, LOPSIDED
        total = float(_running([np.float32(edge)] * count, np.float32(0)))
        call = Call({"axes": [1], "keepdims": 1}, ((-1, count),), {}, (-1, 1), Arithmetic.FLOAT32)
        ends = torch.full((1, count), edge)
        box = operators()["ReduceSum"].rules.interval(call, Interval.bounds(-ends, ends))
        assert float(box.lower) <= -total
        assert float(box.upper) >= total

    def test_an_overflow_is_no_finite_claim(self) -> None:
        low, high = _row_of_a_gemm([2.0, -2.0], [3e38, 3e38], [3e38, 3e38], 0.0)
        assert not isfinite(low)
        assert not isfinite(high)


@st.composite
def _summands(draw: st.DrawFn) -> tuple[Interval, Fraction, Fraction]:
    """A box of one number in any form, and its exact ends: bounds, of any sign or not below 0, or center and radius."""
    source = _numbers(draw(st.sampled_from([0, 0, 20, 100, 118, -126, -143])))
    first, second = draw(source), draw(source)
    form = draw(st.sampled_from(["bounds", "nonnegative", "around", "scaled"]))
    if form in ("bounds", "nonnegative"):
        ends = sorted(map(abs, (first, second)) if form == "nonnegative" else (first, second))
        made = Interval.nonnegative if form == "nonnegative" else Interval.bounds
        return made(*(torch.tensor([[end]]) for end in ends)), Fraction(ends[0]), Fraction(ends[1])
    factor = draw(st.sampled_from([1.0, -1.0, 2.0**-24, -(2.0**-24)])) if form == "scaled" else 1.0
    share = abs(second) if factor > 0 else -abs(second)
    center, radius = Fraction(first), Fraction(share) * Fraction(factor)
    parts = torch.tensor([[first]]), torch.tensor([[share]])
    box = Interval.scaled(*parts, factor) if form == "scaled" else Interval.around(*parts)
    return box, center - radius, center + radius


class TestSums:
    """The rule of Add and Sub in binary32: the rounding is of the size of the result, which may be that of nothing."""

    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(["Add", "Sub"]), _summands(), _summands())
    def test_bounds_contain_the_exact_range_and_every_rounded_sum(
        self, name: str, x: tuple[Interval, Fraction, Fraction], y: tuple[Interval, Fraction, Fraction]
    ) -> None:
        call = Call({}, ((-1, 1), (-1, 1)), {}, (-1, 1), Arithmetic.FLOAT32)
        found = operators()[name].rules.interval(call, x[0], y[0])
        low, high = (Fraction(end) if isfinite(end) else end for end in (float(found.lower), float(found.upper)))
        ends = y[1:] if name == "Add" else (-y[2], -y[1])
        assert not low > x[1] + ends[0]
        assert not high < x[2] + ends[1]
        for one in map(_nearest, x[1:]):
            for other in map(_nearest, ends):
                if x[1] <= one <= x[2] and ends[0] <= other <= ends[1]:
                    with np.errstate(over="ignore"):
                        value = float(np.float32(one) + np.float32(other))
                    assert not low > value
                    assert not high < value

    def test_bounds_whose_center_is_no_binary32_number_pay_for_it(self) -> None:
        """2²⁴ to 2²⁴ + 2 has the center 2²⁴ + 1, which becomes 2²⁴, radius 0: less 2²⁴ it is still 0 to 2."""
        call = Call({}, ((-1, 1), (-1, 1)), {}, (-1, 1), Arithmetic.FLOAT32)
        x = Interval.bounds(torch.tensor([[2.0**24]]), torch.tensor([[2.0**24 + 2]]))
        number = Interval.around(torch.tensor([[2.0**24]]), torch.tensor([[0.0]]))
        found = operators()["Sub"].rules.interval(call, x, number)
        assert float(found.lower) <= 0.0
        assert float(found.upper) >= 2.0

    def test_what_cancels_is_not_paid_for(self) -> None:
        """A billion less a billion, of radius 1 each: rounding of the operands' size would be 4,000."""
        call = Call({}, ((-1, 1), (-1, 1)), {}, (-1, 1), Arithmetic.FLOAT32)
        billion = Interval.around(torch.tensor([[1e9]]), torch.tensor([[1.0]]))
        found = operators()["Sub"].rules.interval(call, billion, billion)
        assert -2.001 < float(found.lower) <= -2.0
        assert 2.0 <= float(found.upper) < 2.001


def _nearest(value: Fraction) -> Fraction:
    """Return the binary32 number nearest to a fraction within its range."""
    return Fraction(float(np.float32(float(value)))) if abs(value) < Fraction(2) ** 128 else value


def _value_of_a_row(row: Row, arithmetic: Arithmetic) -> tuple[Interval, torch.Tensor | None]:
    """Return the box and the error that `ibpc.bounds.values` gives one output of a Gemm in binary64."""
    weight, lower, upper, bias = row
    parameters = {"weight": torch.tensor([weight]).double(), "bias": torch.tensor([bias]).double()}
    shapes = {role: tuple(value.shape) for role, value in parameters.items()}
    call = Call({}, ((-1, len(weight)),), shapes, (-1, 1))
    step = Step(Node("y", "Gemm"), operators()["Gemm"], call, ("x",), parameters)
    box = Interval.bounds(torch.tensor([lower]).double(), torch.tensor([upper]).double())
    values = Values({"x": box}, {"x": None})
    advance(values, step, arithmetic)
    return values.box("y"), values.errors["y"]


class TestValues:
    """Boxes in binary64, and the E that one binary32 execution may add to a value, under the same attack."""

    @settings(max_examples=150, deadline=None)
    @given(_rows())
    def test_rounded_sums_are_off_by_at_most_the_error(self, row: Row) -> None:
        weight, lower, upper, bias = row
        box, error = _value_of_a_row(row, Arithmetic.FLOAT32)
        allowed = 0.0 if error is None else float(error)
        for point in (lower, upper):
            with np.errstate(over="ignore", invalid="ignore"):
                values = _rounded_sums(weight, point, bias)
            exact = Fraction(bias) + sum(Fraction(w) * Fraction(x) for w, x in zip(weight, point, strict=True))
            for value in values:
                assert float(box.lower) <= value <= float(box.upper) or allowed == float("inf")
                assert allowed == float("inf") or abs(Fraction(value) - exact) <= Fraction(allowed)

    @pytest.mark.parametrize("terms", [1, 2000])
    def test_the_error_is_that_of_one_sum(self, terms: int) -> None:
        box, error = _value_of_a_row(([1.0] * terms, [1.0] * terms, [2.0] * terms, 0.0), Arithmetic.FLOAT32)
        assert error is not None
        assert gamma(terms + 1) * 2 * terms <= float(error) <= 1.01 * gamma(terms + 48) * 2 * terms
        assert float(box.upper) - 2 * terms == pytest.approx(float(error), rel=1e-6)

    @pytest.mark.parametrize(
        ("weight", "x"),
        [
            ([1e30, -1e30], [1e20, 1e20]),  # products that cancel
            ([2.0, -2.0], [3e38, 3e38]),
            ([1.0, 1.0, -1.0, -1.0], [2e38, 2e38, 2e38, 2e38]),  # partial sums that cancel
            ([1e20], [1e20]),  # the value itself
        ],
    )
    def test_where_a_sum_may_leave_the_range_nothing_is_claimed(self, weight: list[float], x: list[float]) -> None:
        row = (weight, x, x, 0.0)
        box, error = _value_of_a_row(row, Arithmetic.FLOAT32)
        assert not all(isfinite(value) for value in _rounded_sums_of(row))
        assert (float(box.lower), float(box.upper)) == (float("-inf"), float("inf"))
        assert error is not None
        assert float(error) == float("inf")

    def test_sums_within_the_range_are_claimed(self) -> None:
        box, error = _value_of_a_row(([1e18, -1e18], [1e18, 1e18], [1e18, 1e18], 0.0), Arithmetic.FLOAT32)
        assert box.lower.isfinite().all()
        assert box.upper.isfinite().all()
        assert error is not None
        assert 0 < float(error) < 1e36

    def test_real_arithmetic_knows_no_range(self) -> None:
        box, error = _value_of_a_row(([1e30, -1e30], [1e20, 1e20], [1e20, 1e20], 0.0), Arithmetic.REAL)
        assert error is None
        assert float(box.lower) == float(box.upper) == 0.0


def _rounded_sums_of(row: Row) -> list[float]:
    with np.errstate(over="ignore", invalid="ignore"):
        return _rounded_sums(row[0], row[1], row[3])


class TestTerms:
    @pytest.mark.parametrize("terms", [1, 27, 4096, 2**20])
    def test_the_growth_covers_four_sums(self, terms: int) -> None:
        assert inflation(terms) >= 4 * gamma(terms + 1)
        assert inflation(terms) <= 4.1 * gamma(terms + 32)

    @pytest.mark.parametrize("terms", [1, 27, 4096, 2**20])
    def test_in_binary64_it_covers_the_sum_of_the_network_alone(self, terms: int) -> None:
        own = (3 * terms + 64) * Fraction(WIDE_UNIT)
        assert Fraction(inflation(terms, WIDE_UNIT)) >= Fraction(gamma(terms + 1)) + own
        assert inflation(terms, WIDE_UNIT) <= 1.01 * gamma(terms + 48)

    def test_every_term_may_vanish(self) -> None:
        assert vanishing(100) >= 100 * SMALLEST
        assert float(torch.tensor(vanishing(1))) > 0


class TestOuterBall:
    @given(st.floats(-2, 2, width=32), st.floats(0, 1))
    def test_it_holds_the_real_ball_and_hardly_more(self, x: float, eps: float) -> None:
        lower, upper = outer_ball(torch.tensor([x]), eps, None)
        assert lower.dtype == upper.dtype == torch.float32
        low, high = Fraction(x) - Fraction(eps), Fraction(x) + Fraction(eps)
        assert Fraction(float(lower)) <= low
        assert Fraction(float(upper)) >= high
        assert Fraction(float(torch.nextafter(lower, torch.tensor(torch.inf)))) >= low
        assert Fraction(float(torch.nextafter(upper, torch.tensor(-torch.inf)))) <= high

    def test_the_range_is_rounded_outward_too(self) -> None:
        lower, upper = outer_ball(torch.tensor([0.1, 0.7]), 1.0, (0.1, 0.7))
        assert (lower.double() <= 0.1).all()
        assert (upper.double() >= 0.7).all()

    def test_one_radius_per_feature(self) -> None:
        lower, upper = outer_ball(torch.zeros(2, 2), torch.tensor([0.5, 0.0]), None)
        assert torch.equal(upper, torch.tensor([[0.5, 0.0], [0.5, 0.0]]))
        assert torch.equal(lower, -upper)


class TestPlainProducts:
    def test_settings_come_back_whatever_happens(self) -> None:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.enabled
        with pytest.raises(KeyError), plain_products():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.enabled
            raise KeyError
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.enabled) == before


class TestCancellation:
    """Networks whose logits cancel: the family of `examples/when_plain_bounds_fail.py`, here with random widths."""

    @pytest.mark.parametrize("seed", range(8))
    def test_plain_bounds_exclude_what_onnx_runtime_computes_and_float32_bounds_do_not(self, seed: int) -> None:
        network, points, margins = self._cancelling(seed)
        plain = self._bounds(network, points, "ibp", Arithmetic.REAL)
        assert not ((plain.lower <= margins) & (margins <= plain.upper)).all()
        sound = self._bounds(network, points, "ibp", Arithmetic.FLOAT32)
        assert ((sound.lower <= margins) & (margins <= sound.upper)).all()

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("name", ["crown-ibp", "crown", "alpha-crown"])
    def test_linear_bounds_in_binary64_hold_what_onnx_runtime_computes(self, name: str, seed: int) -> None:
        network, points, margins = self._cancelling(seed)
        real = self._bounds(network, points, name, Arithmetic.REAL)
        tighter = (real.lower <= margins) & (margins <= real.upper)
        assert not tighter.all()
        sound = self._bounds(network, points, name, Arithmetic.FLOAT32)
        assert ((sound.lower <= margins) & (margins <= sound.upper)).all()

    def _cancelling(self, seed: int) -> tuple[Network, torch.Tensor, torch.Tensor]:
        """Return a network, points (20, 8), and the margins (20, 1) that ONNX Runtime computes there."""
        generator = torch.Generator().manual_seed(seed)
        width = int(torch.randint(64, 200, (), generator=generator))
        scale = 300 * torch.randn(width, generator=generator)
        first, change = torch.randn(2, width, 8, generator=generator)
        module = torch.nn.Sequential(torch.nn.Linear(8, 2 * width), torch.nn.ReLU(), torch.nn.Linear(2 * width, 2))
        module[0].weight.data = torch.cat([first, first + 1e-6 * change])
        module[0].bias.data.fill_(3.0)
        module[2].weight.data = torch.stack([torch.cat([scale, -scale]), torch.zeros(2 * width)])
        module[2].bias.data.fill_(1000.0)
        network = compile(module.eval(), torch.zeros(1, 8))
        points = torch.rand(20, 8, generator=generator)
        replay = Replay.of(network)
        computed = torch.stack([replay([point]) for point in points])
        return network, points, computed[:, :1] - computed[:, 1:]

    def _bounds(self, network: Network, points: torch.Tensor, name: str, arithmetic: Arithmetic) -> Interval:
        matrix = torch.tensor([[1.0, -1.0]])
        return METHODS[name].bounder(walk_of(network.snapshot()), matrix, arithmetic)(Interval.bounds(points, points))
