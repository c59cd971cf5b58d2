"""Search decides what bounds leave open, and never against the truth: small networks whose maximum is known exactly."""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import replace
from fractions import Fraction
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

import ibpc
from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.errors import UsageError
from ibpc.interval import Interval
from ibpc.report.terminal import show_decision
from ibpc.rounding import Arithmetic
from ibpc.verify.decide import PLANS, Decision, plan_named
from ibpc.verify.goal import Goal
from ibpc.verify.properties import Box, Case, DeclaredTensor, Property, Row
from ibpc.verify.proving.proof import Place
from ibpc.verify.search import box_parts, branching, value_parts
from ibpc.verify.search.branching import Branching, run_together
from ibpc.verify.search.roots import Roots
from ibpc.verify.search.value_parts import ValueParts
from ibpc.verify.specification import Specification

SEEDS = range(4)


def random_network(seed: int, inputs: int = 3) -> ibpc.Network:
    torch.manual_seed(seed)
    layers = [
        torch.nn.Linear(inputs, 8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 6),
        torch.nn.ReLU(),
        torch.nn.Linear(6, 1),
    ]
    return ibpc.compile(torch.nn.Sequential(*layers).eval(), torch.zeros(1, inputs))


def greatest(network: ibpc.Network, inputs: int = 3) -> float:
    """Return the maximum over [0, 1]ⁿ, found on a fine grid with local refinement; never above the true one."""
    axes = [torch.linspace(0, 1, 33)] * inputs
    points = torch.cartesian_prod(*axes)
    with torch.no_grad():
        best = points[network.nominal(points)[:, 0].topk(50).indices]
        for radius in (0.03, 0.01, 0.003, 0.001):
            steps = torch.tensor(list(itertools.product((-radius, 0.0, radius), repeat=inputs)))
            points = (best[:, None] + steps).clamp(0, 1).flatten(0, 1)
            best = points[network.nominal(points)[:, 0].topk(50).indices]
        return float(network.nominal(best).max())


def at_least(bound: float, inputs: int = 3) -> Property:
    """Unsafe: y ≥ bound over [0, 1]ⁿ."""
    box = Box((Fraction(0),) * inputs, (Fraction(1),) * inputs)
    row = Row(((0, Fraction(-1)),), (), -Fraction(bound))
    return Property("p", (DeclaredTensor("X", (inputs,)),), (DeclaredTensor("Y", (1,)),), (Case(box, ((row,),)),))


def searched(network: ibpc.Network, prop: Property, seconds: float) -> Branching:
    branching = Branching(Roots(walk_of(network.snapshot()), prop, Arithmetic.FLOAT32), 0, 0)
    branching.run(time.monotonic() + seconds)
    return branching


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cut", ["inputs", "signs"])
def test_what_lies_above_the_maximum_is_refuted_and_what_lies_below_is_not(seed, cut, monkeypatch):
    if cut == "signs":
        monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    network = random_network(seed)
    most = greatest(network)
    assert searched(network, at_least(most + 0.01), 60).is_refuted
    below = searched(network, at_least(most - 0.01), 3)
    assert not below.is_refuted


def classified(seed: int, count: int = 4) -> ibpc.Network:
    """A random network of three inputs and some outputs, too steep for bounds alone."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(3, 12), torch.nn.ReLU(), torch.nn.Linear(12, 8), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(8, count)).eval()
    for layer in module[::2]:
        layer.weight.data *= 2.0
    return ibpc.compile(module, torch.zeros(1, 3))


@pytest.mark.parametrize("seed", SEEDS)
def test_disjuncts_that_are_searched_side_by_side_each_keep_their_own_verdict(seed, monkeypatch, tmp_path):
    """Each output may exceed its bound, but for those whose bound is above the maximum; some have two rows."""
    monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    network = classified(seed)
    points = torch.cartesian_prod(*[torch.linspace(0, 1, 33)] * 3)
    with torch.no_grad():
        most = network.nominal(points).amax(0).tolist()
    spread = max(most) - min(most) + 1.0
    reached = [seed % 2 == number % 2 for number in range(4)]
    rows = [
        Row(((number, Fraction(-1)),), (), -Fraction(top + (-0.02 if is_reached else 0.05) * spread))
        for number, (top, is_reached) in enumerate(zip(most, reached, strict=True))
    ]
    disjuncts = [(row,) for row in rows] + [(rows[0], rows[1])]
    case = Case(Box((Fraction(0),) * 3, (Fraction(1),) * 3), tuple(disjuncts))
    prop = Property("p", (DeclaredTensor("X", (3,)),), (DeclaredTensor("Y", (4,)),), (case,))
    roots = Roots(walk_of(network.snapshot()), prop, Arithmetic.FLOAT32)
    searches = [Branching(roots, 0, disjunct) for disjunct in range(5)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(
        s.is_refuted for s, r in zip(searches, reached, strict=False) if not r
    ):
        run_together(searches, 0.1, deadline)
    assert [search.is_refuted for search in searches[:4]] == [not is_reached for is_reached in reached]
    assert all(search.margin < 0 for search, is_reached in zip(searches, reached, strict=False) if is_reached)
    assert searches[4].is_refuted
    refuted = [number for number, search in enumerate(searches) if search.is_refuted]
    kept = replace(prop, cases=(replace(case, disjuncts=tuple(disjuncts[number] for number in refuted)),))
    proofs = (tuple(searches[number].proof for number in refuted),)
    decision = Decision(ibpc.Verdict.VERIFIED, "bab", Arithmetic.FLOAT32, 1.0, ((inf,) * len(refuted),), None, proofs)
    network.save(tmp_path / "model")
    ibpc.write_certificate(tmp_path / "c.json", tmp_path / "model", network, kept, decision)
    assert [claim.detail for claim in ibpc.check(tmp_path / "c.json") if not claim.holds] == []


def curved_network(kind: type[torch.nn.Module], steepness: float) -> ibpc.Network:
    torch.manual_seed(1)
    layers = [torch.nn.Linear(2, 6), kind(), torch.nn.Linear(6, 4), kind(), torch.nn.Linear(4, 1)]
    for layer in layers[:3:2]:
        layer.weight.data *= steepness
    return ibpc.compile(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("kind", "steepness", "share"),
    [("Sigmoid", 6, 0.6), ("Tanh", 3, 0.4), ("LeakyReLU", 3, 0.05), ("Hardtanh", 3, 0.3), ("Softsign", 3, 0.8)],
)
def test_operators_other_than_relu_are_cut_too(kind, steepness, share, monkeypatch):
    """The search refutes what lies between the maximum and what bounds alone reach, and nothing below the maximum."""
    monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    monkeypatch.setattr(branching, "MOST_VARIABLES", 0)
    network = curved_network(getattr(torch.nn, kind), steepness)
    most = greatest(network, 2)
    bound = METHODS["alpha-crown"].bounder(walk_of(network.snapshot()), torch.ones(1, 1), Arithmetic.FLOAT32)
    above = float(bound(Interval.bounds(torch.zeros(1, 2), torch.ones(1, 2))).upper)
    assert searched(network, at_least(most + share * (above - most), 2), 120).is_refuted
    assert not searched(network, at_least(most - 1e-3, 2), 1).is_refuted


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cut", ["inputs", "signs"])
def test_nothing_is_lost_where_more_parts_wait_than_are_bounded_at_once(seed, cut, monkeypatch):
    """Of all parts that wait the worst one bounds the margin from below, at any time."""
    module, limit, at_once = (box_parts, "_MOST_BOXES", 3) if cut == "inputs" else (value_parts, "_MOST_PARTS", 1)
    monkeypatch.setattr(module, limit, at_once)
    if cut == "signs":
        monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    network = random_network(seed)
    most = greatest(network)
    roots = Roots(walk_of(network.snapshot()), at_least(most - 0.01), Arithmetic.FLOAT32)
    parts = Branching(roots, 0, 0)._first_part()
    waited = 0
    with torch.no_grad():
        for _ in range(40):
            parts.advance(inf)
            waited = max(waited, parts.waiting)
            assert parts.waiting
            assert parts.margin <= -0.01
    assert waited > at_once, "all parts were bounded at once"
    assert searched(network, at_least(most + 0.01), 60).is_refuted


@pytest.mark.parametrize("seed", SEEDS)
def test_halves_of_boxes_that_nothing_refutes_all_wait(seed, monkeypatch):
    """No part is refuted where all of the box is unsafe: each that was bounded left two in its place."""
    monkeypatch.setattr(box_parts, "_MOST_BOXES", 3)
    roots = Roots(walk_of(random_network(seed).snapshot()), at_least(-1e3), Arithmetic.FLOAT32)
    parts, bounded = Branching(roots, 0, 0)._first_part(), 0
    with torch.no_grad():
        for _ in range(20):
            bounded += parts.advance(inf)
            assert parts.waiting == 1 + bounded
    assert bounded > 40


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_parts_are_judged_all_together_as_each_by_itself(seed, strict):
    """Also where a bound is 0, which refutes a strict row alone, or so near that only exact numbers can tell."""
    numbers = np.random.default_rng(seed)
    third = Fraction(1, 3)
    rows = tuple(
        Row(((0, Fraction(int(numbers.integers(1, 9)), 8)), (1, sign * third)), (), Fraction(int(bound), 4), strict)
        for sign, bound in zip((1, -1, 1), numbers.integers(-4, 5, 3), strict=True)
    )
    case = Case(Box((Fraction(0),), (Fraction(1),)), (rows,))
    goal = Goal(case, rows, 2, torch.device("cpu"))
    lower = torch.from_numpy(numbers.integers(-3, 4, (len(goal.forms), 300)) / 4.0)
    lower[:, ::7] += 1e-17
    lower[0, ::11] = -torch.inf
    lower[-1, ::13] = torch.nan
    specification = Specification([case], 2)
    below, above = specification.sides
    for part, found in enumerate(goal.judge(lower)):
        low, high = torch.full((2, len(specification.matrix)), torch.inf, dtype=torch.float64)
        low[below] = lower[: len(below), part].nan_to_num(-torch.inf)
        high[above] = -lower[len(below) :, part].nan_to_num(-torch.inf)
        (alone,) = specification.refutations(0, low, high)
        assert found.refuted == alone.refuted
        assert found.margin <= alone.margin
        assert found.margin == pytest.approx(alone.margin, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_decide_agrees_with_the_maximum(seed):
    network = random_network(seed)
    most = greatest(network)
    assert ibpc.decide(network, at_least(most + 0.02), timeout=60).verdict is ibpc.Verdict.VERIFIED
    assert ibpc.decide(network, at_least(most - 0.02), timeout=60).verdict is ibpc.Verdict.FALSIFIED


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_each_method_is_at_least_as_tight_as_the_one_before(seed, arithmetic):
    network = random_network(seed)
    most = greatest(network)
    box = Interval.bounds(torch.zeros(1, 3), torch.ones(1, 3))
    found = {
        name: METHODS[name].bounder(walk_of(network.snapshot()), torch.eye(1), arithmetic)(box)
        for name in ("ibp", "crown-ibp", "crown", "alpha-crown")
    }
    uppers = [float(bounds.upper) for bounds in found.values()]
    lowers = [float(bounds.lower) for bounds in found.values()]
    assert uppers == sorted(uppers, reverse=True) and lowers == sorted(lowers)
    assert uppers[-1] >= most
    assert uppers[-1] < uppers[0]


def test_multipliers_count_where_a_sign_is_known():
    """y = relu(x) + relu(−x) over [−1, 1] is |x| ≤ 1; with the sign of x known both sides are exact."""
    module = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    module[0].weight.data, module[2].weight.data = torch.tensor([[1.0], [-1.0]]), torch.ones(1, 2)
    network = ibpc.compile(module.eval(), torch.zeros(1, 1))
    prop = at_least(1.001, inputs=1)
    assert searched(network, prop, 10).is_refuted


def both_at_least(bounds: tuple[float, float], inputs: int) -> Property:
    """Unsafe: y₀ ≥ the first bound and y₁ ≥ the second over [−1, 1]ⁿ."""
    box = Box((Fraction(-1),) * inputs, (Fraction(1),) * inputs)
    rows = tuple(Row(((index, Fraction(-1)),), (), -Fraction(bound)) for index, bound in enumerate(bounds))
    return Property("p", (DeclaredTensor("X", (inputs,)),), (DeclaredTensor("Y", (2,)),), (Case(box, (rows,)),))


def test_parts_change_the_row_where_their_own_refutes_nothing(monkeypatch):
    """y = (relu(x), relu(−x)) is never above 0.1 twice, but each row is, and their sum: no row refutes all parts."""
    monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    first = torch.nn.Linear(1, 2, bias=False)
    first.weight.data = torch.tensor([[1.0], [-1.0]])
    network = ibpc.compile(torch.nn.Sequential(first, torch.nn.ReLU()).eval(), torch.zeros(1, 1))
    assert searched(network, both_at_least((0.1, 0.1), 1), 10).is_refuted


@pytest.mark.parametrize("seed", SEEDS)
def test_of_two_rows_only_points_where_both_hold_count(seed, monkeypatch):
    monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)]
    network = ibpc.compile(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 2))
    with torch.no_grad():
        y = network.nominal(torch.cartesian_prod(*[torch.linspace(-1, 1, 401)] * 2))
    first = float(y[:, 0].median())
    most = float(y[y[:, 0] >= first, 1].max())
    assert searched(network, both_at_least((first + 0.02, most + 0.02), 2), 60).is_refuted
    assert not searched(network, both_at_least((first, most - 0.001), 2), 1).is_refuted


def tent(top: list[float], width: float) -> ibpc.Network:
    """y = 1 at `top` and falls to 0 at a distance (L1) of `width`."""
    count = len(top)
    first, second = torch.nn.Linear(count, 2 * count), torch.nn.Linear(2 * count, 1)
    first.weight.data = torch.cat([torch.eye(count), -torch.eye(count)])
    first.bias.data = torch.tensor([-x for x in top] + top)
    second.weight.data, second.bias.data = torch.full((1, 2 * count), -1.0 / width), torch.ones(1)
    module = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU())
    return ibpc.compile(module.eval(), torch.zeros(1, count))


@pytest.mark.parametrize("cut", ["inputs", "signs"])
def test_no_part_of_a_box_is_left_out(cut, monkeypatch):
    """A counterexample may hide anywhere: tops of narrow tents all over the box are never refuted."""
    if cut == "signs":
        monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    for top in ((0.03, 0.56), (0.29, 0.97), (0.56, 0.8), (0.8, 0.03), (0.97, 0.29)):
        prop = at_least(0.9, inputs=2)
        found = Branching(Roots(walk_of(tent(list(top), 0.02).snapshot()), prop, Arithmetic.FLOAT32), 0, 0)
        while found.bounded < 60 and not found.is_over:
            found.run(time.monotonic() + 0.02)
        assert not found.is_refuted


def test_plans_name_known_methods():
    assert plan_named("auto") == ("attack", "ibp", "crown-ibp", "bab")
    for plan in PLANS.values():
        assert all(name in METHODS or name == "bab" for name in plan)
    with pytest.raises(UsageError, match="bounding method"):
        plan_named("crwon")


@pytest.mark.parametrize("name", ["crown-ibp", "crown", "alpha-crown"])
def test_linear_bounds_of_sums_that_overflow_binary32_claim_nothing(name):
    """In binary64 nothing overflows: the range of binary32 has to be looked at."""
    layer = torch.nn.Linear(2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[1e30, -1e30]]), torch.zeros(1)
    network = ibpc.compile(torch.nn.Sequential(layer).eval(), torch.zeros(1, 2))
    method = METHODS[name].bounder(walk_of(network.snapshot()), torch.eye(1), Arithmetic.FLOAT32)
    box = method(Interval.bounds(torch.full((1, 2), 1e9), torch.full((1, 2), 2e9)))
    assert not (box.lower > -torch.inf).any() and not (box.upper < torch.inf).any()


@pytest.mark.parametrize("top", [(0.03, 0.56), (0.29, 0.97), (0.8, 0.03)])
def test_the_search_finds_what_no_gradient_leads_to(top):
    """Beside a narrow tent the network is 0 with slope 0: only the boxes that are left tell where its top is."""
    decision = ibpc.decide(tent(list(top), 0.002), at_least(0.5, inputs=2), timeout=20)
    assert decision.verdict is ibpc.Verdict.FALSIFIED


@pytest.mark.parametrize(("margin", "shown"), [(0.25, "excluded, least margin 0.25 (bab"), (inf, "excluded (bab")])
def test_a_margin_is_shown_where_there_is_one(margin, shown, capsys):
    decision = Decision(ibpc.Verdict.VERIFIED, "bab", Arithmetic.REAL, 1.0, ((margin,),))
    show_decision(Path("net.onnx"), at_least(0.0), decision)
    assert shown in capsys.readouterr().out


class SumsThenCurves(torch.nn.Module):
    """Values of one number a sample, without an axis for features, in front of a kink, a curve and a product."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 8)

    def forward(self, x):
        y = torch.relu(self.first(x))
        total, other = y[:, :4].sum(1), y[:, 4:].sum(1)
        bent = torch.relu(total - other) + torch.sigmoid(other - 0.3 * total)
        return torch.stack([bent, torch.relu(total)], 1)


@pytest.mark.parametrize("method", ["forward", "crown-ibp", "crown", "alpha-crown", "bab", "mip", "auto"])
@pytest.mark.parametrize("cut", ["inputs", "values"])
def test_values_without_features_are_bounded_cut_and_checked(method, cut, monkeypatch, tmp_path):
    if method == "mip":
        pytest.importorskip("highspy")
    if cut == "values":
        monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    torch.manual_seed(2)
    module = SumsThenCurves().eval()
    net = ibpc.compile(module, torch.rand(1, 3))
    with torch.no_grad():
        points = module(torch.rand(20000, 3))
    reached = float((points[:, 0] - points[:, 1]).min())
    row = Row(((0, Fraction(1)), (1, Fraction(-1))), (), Fraction(reached) - Fraction(1, 2))
    case = Case(Box((Fraction(0),) * 3, (Fraction(1),) * 3), ((row,),))
    prop = Property("p", (DeclaredTensor("X", (3,)),), (DeclaredTensor("Y", (2,)),), (case,))
    found = ibpc.decide(net, prop, method=method, timeout=20)
    assert found.verdict is (ibpc.Verdict.VERIFIED if method in ("bab", "auto") else found.verdict)
    assert found.verdict is not ibpc.Verdict.FALSIFIED
    net.save(tmp_path / "model")
    ibpc.write_certificate(tmp_path / "c.json", tmp_path / "model", net, prop, found)
    assert [claim.detail for claim in ibpc.check(tmp_path / "c.json") if not claim.holds] == []


@torch.no_grad()
@pytest.mark.parametrize("seed", SEEDS)
def test_a_search_over_values_suggests_the_corners_where_its_forms_are_least(seed):
    """The best corner of the box is among them long before all parts are bounded."""
    network = random_network(seed)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    best = float(network.nominal(corners).max())
    prop = at_least(best)
    (case,) = prop.cases
    goal = Goal(case, case.disjuncts[0], prop.output_count, torch.device("cpu"))
    parts = ValueParts(Roots(walk_of(network.snapshot()), prop, Arithmetic.FLOAT32), goal, 0, Place())
    assert not len(parts.suspects())
    seen, bounded = [], 0
    while bounded < 8 and parts.waiting:
        bounded += parts.advance(inf)
        seen.append(parts.suspects().float())
    points = torch.cat(seen)
    assert set(points.unique().tolist()) <= {0.0, 1.0}
    assert float(network.nominal(points).max()) >= best - 1e-6


class Difference(torch.nn.Module):
    """A network less a copy of it whose weights are a little off: slopes cancel, and what planes miss does not."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)]
        self.one, self.other = torch.nn.Sequential(*layers), copy.deepcopy(torch.nn.Sequential(*layers))
        with torch.no_grad():
            for parameter in self.other.parameters():
                parameter.add_(1e-3 * torch.randn_like(parameter))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) - self.other(x)


@pytest.mark.parametrize("seed", [0, 6])
def test_boxes_are_cut_along_every_input_where_slopes_cancel(seed):
    """Cut along the greatest slope alone, either search does not end within 60,000 boxes."""
    network = ibpc.compile(Difference(seed).eval(), torch.zeros(1, 4))
    search = searched(network, at_least(greatest(network, 4) + 0.005, 4), 0.0)
    while not search.is_over and search.bounded < 20_000:
        search.bounded += search.parts.advance(inf)
    assert search.is_refuted


@pytest.mark.parametrize("factor", ["square", "weights"])
def test_a_box_of_one_point_that_is_left_open_stays_open(factor):
    """Nothing of it can be cut, whatever the search is for; its margin is what one point has."""
    module = Square() if factor == "square" else torch.nn.Linear(2, 1)
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    network = ibpc.compile(module.eval(), torch.zeros(1, 2))
    point = torch.tensor([[0.5, 0.75]])
    value = Fraction(float(network.nominal(point).detach()))
    row = Row(((0, Fraction(-1)),), (), -value - Fraction(1, 10**9))
    box = Box((Fraction(1, 2), Fraction(3, 4)), (Fraction(1, 2), Fraction(3, 4)))
    prop = Property("p", (DeclaredTensor("X", (2,)),), (DeclaredTensor("Y", (1,)),), (Case(box, ((row,),)),))
    decision = ibpc.decide(network, prop, timeout=10)
    assert decision.verdict is ibpc.Verdict.UNKNOWN and -1e-3 < decision.margins[0][0] <= 0


class Square(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x).sum(1, keepdim=True)
