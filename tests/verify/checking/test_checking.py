"""The checker's bounds: against the official ONNX cases, ONNX Runtime, hand values, other orders, and the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ibpc
from ibpc.bounds import method_named
from ibpc.bounds.values import walk_of
from ibpc.errors import ModelError, PropertyError
from ibpc.exports import nominal_model
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic
from ibpc.verify.certificates.check_property import check_property
from ibpc.verify.certificates.schema import read_certificate
from ibpc.verify.checking import Checker
from ibpc.verify.checking.arithmetic import MACHINES
from ibpc.verify.checking.backward import Total
from ibpc.verify.checking.rules import RULES
from tests.frontends.test_conformance import free_inputs, official_cases, with_constants
from tests.onnx_models import REFUSALS, chain, model, runtime

ARITHMETICS = tuple(MACHINES)
RADIUS = 0.03
SAMPLES = 8

# Official cases that the checker refuses or that say nothing of it, by their name, and why.
EXCLUDED: Mapping[str, str] = {
    "test_batchnorm_epsilon_training_mode*": "training mode",
    "test_batchnorm_example_training_mode*": "training mode",
    "test_dropout_default_mask*": "the mask is an output",
    "test_training_dropout*": "it is random",
    "test_maxpool_with_argmax*": "the indices are an output",
    "test_quantizelinear_blocked*": "blocked scales",
    "test_dequantizelinear*": "the scale is its only floating input",
    "test_onehot_*": "the depth is its only floating input",
    "test_mod_float_edge_cases*": "infinite inputs",
    "test_scatternd_*": "a reduction",
    "test_scatter_elements_with_reduction*": "a reduction",
    "test_scatter_elements_with_duplicate*": "a reduction",
    "test_split_zero_size*": "the outputs are empty",
    "test_averagepool_2d_ceil_last_window_starts_on_pad*": "the expected values have four digits",
    "test_reshape_allowzero_reordered*": "the input is empty",
    "test_slice_start_out_of_bounds*": "the output is empty",
    "test_isinf*": "infinite inputs",
    "test_isnan*": "infinite inputs",
    "test_reduce_sum_empty*": "the input is empty",
    "test_reduce_max_empty*": "the input is empty",
    "test_reduce_min_empty*": "the input is empty",
    "test_convtranspose_output_shape": "the output is larger than what is made, where runtimes disagree",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime divides by the size, the reference by 2.4 − 1",
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime divides by the size, the reference by 3.2 − 1",
    "test_pow": "exponents that are not positive",
    "test_pow_types*": "the exponent is the only floating input, or integers are raised",
}
PLAIN_SCATTER = ("test_scatternd", "test_scatternd_cpu")


def checked_cases() -> list:
    found = []
    for kind in sorted(RULES):
        for case in official_cases().get(kind, []):
            if not all(isinstance(array, np.ndarray) for arrays in case.data_sets[0] for array in arrays):
                continue
            if case.name in PLAIN_SCATTER or not any(fnmatchcase(case.name, pattern) for pattern in EXCLUDED):
                found.append(pytest.param(case, id=case.name))
    return found


def computed(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return all outputs flat, by ONNX Runtime, or by the reference evaluator where that refuses the model."""
    try:
        outputs = runtime(proto).run(None, dict(feeds))
    except REFUSALS:
        outputs = ReferenceEvaluator(proto).run(None, dict(feeds))
    return np.concatenate([np.asarray(output).astype(np.float64).ravel() for output in outputs])


def assert_inside(value: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    assert ((lower <= value) & (value <= upper)).all(), np.max(np.maximum(lower - value, value - upper))


def flat(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [array.astype(np.float64).ravel() for array in arrays]


# ── every type ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_type_has_an_official_case():
    without = {kind for kind in RULES if not official_cases().get(kind)}
    assert without <= {"Dropout", "Equal", "GlobalLpPool", "Not", "Trilu"}


@pytest.mark.parametrize("case", checked_cases())
def test_official_cases_are_bounded(case):
    """A point is bounded closely by what the case expects; a box holds what is computed at points of it."""
    inputs, expected = case.data_sets[0]
    names = [value.name for value in case.model.graph.input]
    values = dict(zip(names, (np.asarray(array) for array in inputs), strict=False))
    everything = [free_inputs(case.model, values)]
    if len(everything[0]) > 1:
        everything.append(everything[0][:1])
    bounded = [free for free in everything if bounds_hold(case.model, values, free, expected)]
    assert bounded


def bounds_hold(proto: onnx.ModelProto, values: Mapping[str, np.ndarray], free: list[str], expected: list) -> bool:
    """Check the bounds with `free` as inputs and all else constant; return whether the checker takes that."""
    proto = with_constants(proto, values, free)
    points = [np.asarray(values[name]) for name in free]
    points = [point.astype(np.float32) if point.dtype == bool else point for point in points]
    wanted = np.concatenate([np.asarray(array).astype(np.float64).ravel() for array in expected])
    rng = np.random.default_rng(0)
    taken = rng.permutation(len(wanted))[:100]
    rows = np.zeros((len(taken), len(wanted)))
    rows[range(len(taken)), taken] = 1
    wanted = wanted[taken]
    try:
        for arithmetic in ARITHMETICS:
            lower, upper = Checker(proto).bound_rows(flat(points), flat(points), rows, arithmetic)
            known = np.isfinite(wanted)
            slack = 1e-6 * (1 + np.abs(wanted[known]))
            assert_inside(wanted[known], lower[known] - slack, upper[known] + slack)
            if proto.graph.node[-1].op_type not in ("TopK", "QuantizeLinear", "ArgMax", "ArgMin"):
                assert ((upper - lower)[known] <= 1e-3 * (1 + np.abs(wanted[known]))).all()
            lows, highs = ([point + side * RADIUS for point in points] for side in (-1, 1))
            lower, upper = Checker(proto).bound_rows(flat(lows), flat(highs), rows, arithmetic)
            for _ in range(SAMPLES):
                inside = [
                    (point + rng.uniform(-1, 1, point.shape) * RADIUS * 0.999).astype(point.dtype) for point in points
                ]
                value = computed(proto, dict(zip(free, inside, strict=True)))[taken]
                slack = 0.0 if arithmetic == "float32" else 1e-5 * (1 + np.abs(value))
                assert_inside(
                    value[~np.isnan(value)], (lower - slack)[~np.isnan(value)], (upper + slack)[~np.isnan(value)]
                )
    except ModelError as error:
        assert "cannot bound it" in str(error)
        return False
    return True


# ── hand values ─────────────────────────────────────────────────────────────────────────────────────────────────
def bound(proto: onnx.ModelProto, lower: list, upper: list, rows: list, arithmetic: str = "real") -> tuple:
    ends = [[np.asarray(side, np.float64)] for side in (lower, upper)]
    return Checker(proto).bound_rows(*ends, np.asarray(rows, np.float64), arithmetic)


def affine(weight: list, bias: list) -> onnx.ModelProto:
    constants = {"w": np.asarray(weight, np.float32), "b": np.asarray(bias, np.float32)}
    return chain(("Gemm", "w", "b", {"transB": 1}), start=[1, 2], constants=constants)


def test_a_row_is_pulled_back_before_it_is_bounded():
    """(x₀ + x₁) − (x₀ + x₁ − 3) is 3, although the parts range over [0, 2] and [−3, −1]."""
    proto = affine([[1, 1], [1, 1]], [0, -3])
    lower, upper = bound(proto, [0, 0], [1, 1], [[1, -1], [1, 0], [0, 2]])
    assert lower == pytest.approx([3, 0, -6])
    assert upper == pytest.approx([3, 2, -2])


def test_pulling_back_goes_through_what_is_affine():
    """−2 (W x / 4 + 1) behind Identity, Reshape, Transpose and BatchNormalization; differences cancel."""
    one = np.ones(2, np.float32)
    constants = {
        "w": np.array([[1, 1], [1, 1]], np.float32),
        "four": np.float32(4),
        "one": np.float32(1),
        "two": np.float32(-2),
        "column": np.array([2, 1]),
        "row": np.array([1, 2]),
        "scale": one,
        "shift": 0 * one,
        "variance": one - np.float32(1e-5),
    }
    proto = chain(
        ("MatMul", "w"),
        ("Div", "four"),
        ("Reshape", "column"),
        ("Add", "one"),
        ("Transpose",),
        ("Mul", "two"),
        ("BatchNormalization", "scale", "shift", "shift", "variance"),
        ("Identity",),
        ("Neg",),
        start=[1, 2],
        constants=constants,
    )
    lower, upper = bound(proto, [0, 0], [1, 1], [[1, -1], [1, 0]])
    assert lower == pytest.approx([0, 2], abs=1e-6)
    assert upper == pytest.approx([0, 3], abs=1e-6)


def test_one_element_is_bounded_without_any_rounding():
    proto = chain(("Relu",), ("Flatten",), start=[1, 2], constants={})
    for arithmetic in ARITHMETICS:
        lower, upper = bound(proto, [-1, 0.1], [1, 0.2], [[1, 0], [0, -1]], arithmetic)
        assert lower.tolist() == [0, -0.2]
        assert upper.tolist() == [1, -0.1]


@pytest.mark.parametrize(
    ("steps", "ends", "wanted"),
    [
        ([("LeakyRelu", {"alpha": 0.5})], (-2, 3), (-1, 3)),
        ([("LeakyRelu", {"alpha": -0.5})], (-2, 3), (0, 3)),
        ([("Mul", "x")], (-2, 1), (0, 4)),
        ([("Abs",)], (-2, 1), (0, 2)),
        ([("Pow", "three")], (-2, 1), (-8, 1)),
        ([("Pow", "two")], (-2, 1), (0, 4)),
        ([("Cos",)], (-1, 1), (np.cos(1), 1)),
        ([("Cos",)], (3, 3.5), (-1, np.cos(3.5))),
        ([("Sin",)], (1, 2), (np.sin(1), 1)),
        ([("Sin",)], (0, 100), (-1, 1)),
        ([("Div", "two")], (-2, 1), (-1, 0.5)),
        ([("Reciprocal",)], (1, 2), (0.5, 1)),
        ([("Reciprocal",)], (-1, 2), (-np.inf, np.inf)),
        ([("Log",)], (-1, 2), (-np.inf, np.inf)),
        ([("Elu", {"alpha": -1.0})], (-2, 0.5), (0, 1 - np.exp(-2))),
    ],
)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_hand_values(steps, ends, wanted, arithmetic):
    constants = {"two": np.float32(2), "three": np.float32(3)}
    proto = chain(*steps, start=[1, 1], constants=constants)
    lower, upper = bound(proto, [ends[0]], [ends[1]], [[1]], arithmetic)
    assert lower[0] == pytest.approx(wanted[0], abs=2e-5)
    assert upper[0] == pytest.approx(wanted[1], abs=2e-5)
    assert lower[0] <= wanted[0]
    assert upper[0] >= wanted[1]


@pytest.mark.parametrize(
    ("kind", "low", "high", "least", "most"),
    [
        ("Less", [0, 0, 2], [0.5, 2, 3], [1, 0, 0], [1, 1, 0]),
        ("GreaterOrEqual", [1, 0, 2], [1, 2, 3], [1, 0, 1], [1, 1, 1]),
        ("Equal", [1, 0, 2], [1, 2, 3], [1, 0, 0], [1, 1, 0]),
    ],
)
def test_comparisons_choose(kind, low, high, least, most):
    """Where x compares to 1: 5, else 3; and the other way round behind a Not."""
    constants = {"one": np.float32(1), "three": np.float32(3), "five": np.float32(5)}
    nodes = [
        helper.make_node(kind, ["x", "one"], ["c"]),
        helper.make_node("Not", ["c"], ["n"]),
        helper.make_node("Where", ["c", "five", "three"], ["y"]),
        helper.make_node("Where", ["n", "five", "three"], ["z"]),
        helper.make_node("Dropout", ["z"], ["d"]),
    ]
    proto = model(nodes, {"x": [1, 3]}, ("y", "d"), constants)
    lower, upper = bound(proto, low, high, np.eye(6).tolist(), "float32")
    assert lower.tolist() == [*(3 + 2 * np.array(least)), *(5 - 2 * np.array(most))]
    assert upper.tolist() == [*(3 + 2 * np.array(most)), *(5 - 2 * np.array(least))]


def test_several_inputs_and_outputs_count_one_after_the_other():
    nodes = [helper.make_node("Relu", ["a"], ["p"]), helper.make_node("Neg", ["b"], ["q"])]
    proto = model(nodes, {"a": [1, 2], "b": [1, 1]}, ("p", "q"))
    lower, upper = bound(proto, [-1, 0, 5], [1, 2, 6], [[1, 1, 1]])
    assert (lower[0], upper[0]) == pytest.approx((-6, -2))


# ── rounding ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("seed", range(5))
def test_every_order_of_a_sum_is_inside(seed):
    """Sums that cancel, at one point, forward, backward and in pairs; the exact value lies inside as well."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=200) * 10.0 ** rng.integers(-3, 4, 200)).astype(np.float32)
    w = np.concatenate([rng.normal(size=100), -rng.normal(size=100)]).astype(np.float32)
    proto = chain(("Gemm", "w"), start=[1, 200], constants={"w": w[:, None]})
    terms = w * x
    orders = [np.cumsum(part, dtype=np.float32)[-1] for part in (terms, terms[::-1], np.sort(terms))]
    exact = np.float64(sum(map(float, w.astype(np.float64) * x.astype(np.float64))))
    lower, upper = bound(proto, x, x, [[1.0]], "float32")
    for value in (*orders, exact, np.float32(w @ x)):
        assert lower[0] <= float(value) <= upper[0]
    lower, upper = bound(proto, x, x, [[1.0]], "real")
    assert lower[0] <= exact <= upper[0]
    assert upper[0] - lower[0] < 1e-9 * np.abs(terms).sum()


def test_sums_of_small_integers_do_not_round():
    """As in binarized networks: 1 − 1 is 0, and its sign is 0; with 1.1 the sum may be anything near to 0."""
    for number, wanted in ((1.0, 0.0), (1.1, 1.0)):
        weight = np.array([[number], [-number]], np.float32)
        proto = chain(("Gemm", "w"), ("Sign",), start=[1, 2], constants={"w": weight})
        for arithmetic in ARITHMETICS:
            lower, upper = bound(proto, [1, 1], [1, 1], [[1.0]], arithmetic)
            assert (lower[0], upper[0]) == (-wanted, wanted)


@pytest.mark.parametrize("unit", [1e-39, 3e-42])
def test_flushing_to_zero_is_inside(unit):
    small = np.float32(unit)
    proto = chain(("Mul", "c"), ("Mul", "d"), start=[1, 1], constants={"c": np.float32(1), "d": np.float32(2.0**100)})
    lower, upper = bound(proto, [small], [small], [[1.0]], "float32")
    assert lower[0] <= 0 < float(small) * 2.0**100 <= upper[0]


@pytest.mark.parametrize(
    ("step", "constants"),
    [
        (("Mul", "c"), {"c": np.float32(1e-40)}),
        (("Gemm", "c", {"alpha": 1e-3}), {"c": np.full((1, 1), 1e-40, np.float32)}),
        (("PRelu", "c"), {"c": np.float32(1e-40)}),
        (
            ("BatchNormalization", "s", "o", "o", "o"),
            {"s": np.full(1, 1e-40, np.float32), "o": np.zeros(1, np.float32)},
        ),
    ],
)
def test_a_constant_may_be_flushed_to_zero(step, constants):
    proto = chain(step, start=[1, 1], constants=constants)
    lower, upper = bound(proto, [-1e30], [-1e30], [[1.0]], "float32")
    assert lower[0] < 0 <= upper[0]


def test_what_overflows_is_not_bounded():
    proto = chain(("Mul", "c"), ("Mul", "d"), start=[1, 1], constants={"c": np.float32(1e30), "d": np.float32(1e-30)})
    lower, upper = bound(proto, [1e10], [1e10], [[1.0]], "float32")
    assert (lower[0], upper[0]) == (-np.inf, np.inf)
    lower, upper = bound(proto, [1e10], [1e10], [[1.0]], "real")
    assert lower[0] == pytest.approx(1e10) == upper[0]


# ── whole networks ──────────────────────────────────────────────────────────────────────────────────────────────
def networks() -> dict[str, tuple[torch.nn.Module, tuple[int, ...]]]:
    nn = torch.nn
    return {
        "mlp": (nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 4)), (6,)),
        "conv": (
            nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, groups=2, dilation=2, bias=False),
                nn.BatchNorm2d(8),
                nn.LeakyReLU(0.1),
                nn.Flatten(),
                nn.Linear(8 * 4 * 4, 5),
            ),
            (3, 16, 16),
        ),
        "pools": (
            nn.Sequential(
                nn.Conv2d(1, 4, 3),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.Sigmoid(),
                nn.AvgPool2d(2, padding=1),
                nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1),
                nn.ELU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(2, 3),
            ),
            (1, 9, 9),
        ),
    }


@pytest.fixture(params=sorted(networks()))
def network(request) -> ibpc.Network:
    torch.manual_seed(3)
    module, shape = networks()[request.param]
    for layer in module:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
    return ibpc.compile(module.eval(), torch.zeros(1, *shape))


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.3])
def test_networks(network, eps):
    """Sampled margins are inside; the bounds are never looser than the compiler's in binary32, close to its in real."""
    shape, classes = network.input_shape, network.classes
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    lower, upper = (x - np.float32(eps)).astype(np.float32), (x + np.float32(eps)).astype(np.float32)
    rows = np.eye(classes) - np.roll(np.eye(classes), 1, axis=1)
    proto = nominal_model(network.snapshot())
    checker, session = Checker(proto), runtime(proto)
    name = session.get_inputs()[0].name
    for arithmetic in Arithmetic:
        low, high = checker.bound_rows(flat([lower]), flat([upper]), rows, arithmetic.value)
        method = method_named("ibp").bounder(walk_of(network.snapshot()), torch.tensor(rows).float(), arithmetic)
        other = method(Interval.bounds(torch.from_numpy(lower)[None], torch.from_numpy(upper)[None]))
        slack = 1e-36 if arithmetic is Arithmetic.FLOAT32 else 1e-5
        assert (low >= other.lower[0].double().numpy() - slack).all()
        assert (high <= other.upper[0].double().numpy() + slack).all()
        for sample in range(20):
            rng = np.random.default_rng(sample)
            point = np.where(rng.random(shape) < 0.5, lower, upper) if sample % 2 else rng.uniform(lower, upper)
            point = np.clip(point.astype(np.float32), lower, upper)
            value = rows @ session.run(None, {name: point[None]})[0][0].astype(np.float64)
            margin = 0.0 if arithmetic is Arithmetic.FLOAT32 else 1e-5
            assert_inside(value, low - margin, high + margin)


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_type_without_a_rule_is_named():
    proto = chain(("Acos",), start=[1, 2], constants={})
    with pytest.raises(ModelError, match="step0.*Acos.*does not know the type"):
        bound(proto, [0, 0], [1, 1], [[1, 0]])


@pytest.mark.parametrize(
    ("lower", "upper", "rows"),
    [([0], [1], [[1, 0]]), ([0, 1], [1, 0], [[1, 0]]), ([0, np.nan], [1, 1], [[1, 0]]), ([0, 0], [1, 1], [[1]])],
)
def test_what_does_not_fit_is_refused(lower, upper, rows):
    with pytest.raises(PropertyError):
        bound(affine([[1, 1], [1, 1]], [0, 0]), lower, upper, rows)


def test_random_numbers_are_refused():
    nodes = [
        helper.make_node("RandomNormal", [], ["r"], "noise", shape=[1, 2]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    with pytest.raises(ModelError, match="noise.*random"):
        Checker(model(nodes, {"x": [1, 2]}))


def test_what_the_evaluator_refuses_is_named():
    proto = chain(("Reshape", "shape"), start=[1, 4], constants={"shape": np.array([3, 5])})
    with pytest.raises(ModelError, match="step0"):
        bound(proto, [0] * 4, [1] * 4, [[1.0] * 15])


def test_half_precision_is_refused():
    weight = numpy_helper.from_array(np.ones((2, 2), np.float16), "w")
    proto = chain(("Relu",), start=[1, 2], constants={})
    proto.graph.initializer.append(weight)
    with pytest.raises(ModelError, match="16-bit"):
        Checker(proto)


def test_old_operator_sets_are_refused():
    with pytest.raises(ModelError, match="operator set 6"):
        Checker(chain(("Relu",), start=[1, 2], constants={}, opset=6))


def test_nodes_may_come_in_any_order():
    proto = chain(("Relu",), ("Neg",), start=[1, 1], constants={})
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    lower, upper = bound(proto, [-1], [2], [[1.0]])
    assert (lower[0], upper[0]) == (-2, 0)


# ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_claim_about_what_the_checker_does_not_know_fails(tmp_path):
    """It is not confirmed, and the reason names the node."""
    path = tmp_path / "model.onnx"
    path.write_bytes(affine([[1, 1], [1, -1]], [3, 0]).SerializeToString())
    network = ibpc.compile(path)
    np.save(tmp_path / "x.npy", np.array([0.5, 0.5], np.float32))
    prop = ibpc.ball_property(network, tmp_path / "x.npy", 0.1, 0)
    decision = ibpc.decide(network, prop, timeout=5, method="ibp")
    certificate = tmp_path / "c.json"
    ibpc.write_certificate(certificate, path, network, prop, decision)
    assert decision.verdict is ibpc.Verdict.VERIFIED
    assert all(claim.holds for claim in ibpc.check(certificate))
    claims = list(check_property(read_certificate(certificate), chain(("Acos",), start=[1, 2], constants={}), "c"))
    assert [claim.holds for claim in claims] == [False]
    assert "Acos" in claims[0].detail


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["ends", "values", "ends of each row"])
def test_totals_hold_exact_sums_and_hardly_more(seed, kind):
    """Sums of products in exact arithmetic, with zeros, units and single terms; one term times ±1 has no error."""
    generator = np.random.default_rng(seed)
    rows = generator.choice([0.0, 0.0, 1.0, -1.0, 0.1, -0.7, 3e7], (12, 5)) * generator.choice([1.0, 1.0, 0.3], (12, 5))
    sizes = (12, 5) if kind == "ends of each row" else (5,)
    lower = generator.choice([0.0, 0.0, 1.0, -0.3, 1e8], sizes) * generator.standard_normal(sizes)
    upper = lower if kind == "values" else lower + generator.choice([0.0, 0.1, 1e-9], sizes)
    total = Total(len(rows))
    total.add(rows, lower, upper)
    found = total.bounds()
    for number, row in enumerate(rows):
        ends = (np.broadcast_to(side, rows.shape)[number] for side in (lower, upper))
        pairs = zip(row, *ends, strict=True)
        products = [(Fraction(a) * Fraction(low), Fraction(a) * Fraction(high)) for a, low, high in pairs]
        size = sum(max(map(abs, pair)) for pair in products)
        for side, exact in enumerate((sum(map(min, products)), sum(map(max, products)))):
            missed = (Fraction(found[side][number]) - exact) * (1 if side else -1)
            assert 0 <= missed <= size * 32 * Fraction(2) ** -52
            terms = [abs(a) for a, pair in zip(row, products, strict=True) if any(pair)]
            assert missed == 0 if terms in ([], [1.0]) else True


def test_totals_are_widened_by_errors_of_the_values():
    total = Total(2)
    total.widen(np.array([[1.0, -2.0], [0.0, 0.0]]), np.array([0.5, 0.25]))
    with np.errstate(invalid="ignore"):
        total.widen(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([np.inf, 0.125]))
    lower, upper = total.bounds()
    assert -1.126 < lower[0] <= -1.125
    assert lower[1] == -np.inf
    assert upper.tolist() == (-lower).tolist()


@pytest.mark.parametrize("way", ["add", "add to nothing", "add to what is unknown", "widen", "overflow"])
@pytest.mark.parametrize("coefficient", [np.nan, np.inf, -np.inf])
def test_nothing_is_known_of_a_row_with_a_coefficient_that_is_not_finite(way, coefficient):
    total, rows, zero = Total(2), np.array([[coefficient, 1.0], [0.0, 1.0]]), np.zeros(2)
    with np.errstate(invalid="ignore"):
        match way:
            case "add":
                total.add(rows, np.ones(2), np.ones(2))
            case "add to nothing":
                total.add(rows, zero, zero)
            case "add to what is unknown":
                total.add(rows, np.array([-np.inf, 0.0]), np.array([np.inf, 1.0]))
            case "widen":
                total.widen(rows, zero)
            case "overflow":
                total.add(rows, np.ones(2), np.ones(2))
                total.add(-rows, np.ones(2), np.array([np.inf, 1.0]))
        lower, upper = total.bounds()
    assert (lower[0], upper[0]) == (-np.inf, np.inf)
    assert np.isfinite([lower[1], upper[1]]).all()


@pytest.mark.parametrize("arithmetic", ["real", "float32"])
def test_coefficients_that_overflow_on_their_way_claim_nothing(arithmetic):
    """y = (x₁ − x₂) · 10³⁸ ⁹ for x₁ = 10⁻³⁸ e^a and x₂ = 2 x₁: beyond binary64, where ∞ − ∞ and 0 · ∞ are met."""
    factors = {"i": np.eye(2), "a": np.array([[1e-38, 2e-38], [0.0, 0.0]]), "c": np.array([[1.0], [-1.0]])}
    factors |= {f"b{number}": 1e38 * np.eye(2) for number in range(9)}
    order = ["i", "a", *(f"b{number}" for number in range(9)), "c"]
    nodes = [helper.make_node("Exp", ["x"], ["v"])]
    for before, name in zip(["v", *(f"v{name}" for name in order)], order, strict=False):
        nodes.append(helper.make_node("MatMul", [before, name], [f"v{name}"]))
    sizes = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 2]), ("vc", [1, 1]))
    ]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in factors.items()]
    graph = helper.make_graph(nodes, "g", sizes[:1], sizes[1:], constants)
    checker = Checker(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    found = checker.bound_rows([np.zeros(2)], [np.array([0.0, 1000.0])], np.ones((1, 1)), arithmetic)
    assert [end.item() for end in found] == [-np.inf, np.inf]


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("alias", ["Identity", "Dropout"])
def test_a_value_times_another_name_of_it_is_a_square(alias):
    nodes = [helper.make_node(alias, ["x"], ["a"]), helper.make_node("Mul", ["x", "a"], ["y"])]
    checker = Checker(model(nodes, {"x": [1, 3]}))
    low, high = checker.bound_rows([-np.ones(3)], [np.ones(3)], np.eye(3), "real")
    assert low == pytest.approx(0.0, abs=1e-9) and high == pytest.approx(1.0)


def test_dropout_that_may_drop_is_no_other_name():
    nodes = [helper.make_node("Dropout", ["x", "half", "training"], ["a"]), helper.make_node("Mul", ["x", "a"], ["y"])]
    constants = {"half": np.float32(0.5), "training": np.array(True)}
    with pytest.raises(ModelError, match="training mode"):
        Checker(model(nodes, {"x": [1, 3]}, constants=constants)).bound_rows(
            [-np.ones(3)], [np.ones(3)], np.eye(3), "real"
        )


@pytest.mark.parametrize("operands", [["x"], ["x", "c", "c"]])
def test_a_sum_of_other_than_two_operands_is_refused(operands):
    """A rule that reads two would leave the third out, and confirm bounds of another sum."""
    nodes = [helper.make_node("Add", operands, ["y"])]
    with pytest.raises(ModelError, match=f"Add of {len(operands)} operands"):
        Checker(model(nodes, {"x": [1, 3]}, constants={"c": np.ones(3, np.float32)}))


def test_a_result_too_many_is_refused():
    with pytest.raises(ModelError, match="Relu with 2 results"):
        Checker(model([helper.make_node("Relu", ["x"], ["y", "z"])], {"x": [1, 3]}))


@pytest.mark.parametrize("second", ["x", "a", "c"])
def test_a_name_of_two_values_is_refused(second):
    """Behind another name for the first of them, a reader would get the second."""
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Neg", ["c"], [second]),
        helper.make_node("Add", ["x", "a"], ["y"]),
    ]
    with pytest.raises(ModelError, match=f"a second value named {second}"):
        Checker(model(nodes, {"x": [1, 3]}, constants={"c": np.ones(3, np.float32)}))
