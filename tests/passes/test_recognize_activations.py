"""Formulas become the operators that they spell out, nothing else does, and bounds hold for the formula."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest
import torch

from ibpc.frontends.onnx import translate
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.ops import operators
from ibpc.ops.rules import call_of
from ibpc.passes import COMPILE, EVALUATION, RecognizeActivations
from ibpc.rounding import Arithmetic
from tests.formulas import LOOKALIKES, SPELLED, Formula, erf_gelu, spelled, tanh_gelu
from tests.onnx_models import expect_same_function, runtime
from tests.passes.building import Net, bounds, listing, nominal


def compiled(formula: Formula, **options) -> Graph:
    graph, _ = COMPILE.run(translate(spelled(formula, **options), "formula").graph)
    return graph


def operators_of(graph: Graph) -> list[str]:
    return [node.operator for node in graph.order()]


# ── what is recognized ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", SPELLED)
def test_a_formula_is_its_operator(name: str) -> None:
    operator, formula = SPELLED[name]
    graph = compiled(formula)
    assert operators_of(graph) == ["Input", operator]
    expect_same_function(spelled(formula), graph)


def test_attributes_are_those_of_the_formula() -> None:
    found = {name: compiled(formula).order()[-1] for name, (_, formula) in SPELLED.items()}
    sharpness = {name: node.attributes["alpha"] for name, node in found.items() if node.operator == "Swish"}
    quick = float(np.float32(1.702))
    assert sharpness == {"silu": 1.0, "silu, turned": 1.0, "quick gelu": quick, "swish of a quotient": 0.25}
    forms = {name: node.attributes["approximate"] for name, node in found.items() if node.operator == "Gelu"}
    assert {form for name, form in forms.items() if "erf" in name} == {"none"}
    assert {form for name, form in forms.items() if "tanh" in name} == {"tanh"}
    assert {node.attributes["constants"] for node in found.values() if node.operator == "Gelu"} == {"rounded"}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_one_stays(name: str) -> None:
    formula = LOOKALIKES[name]
    assert not {"Swish", "Mish", "Gelu", "Softsign"} & set(operators_of(compiled(formula)))


def test_numbers_that_stretch_the_value_are_not_read() -> None:
    """A constant of shape 1×1×1 changes the shape of the sample."""
    assert "Gelu" in operators_of(compiled(erf_gelu, number_shape=(1,)))
    assert "Gelu" not in operators_of(compiled(erf_gelu, start=(1, 2), number_shape=(1, 1, 1)))


def test_two_values_are_no_gate_of_one() -> None:
    net = Net(4)
    net.add("other", "Neg", "x")
    net.add("share", "Sigmoid", "other")
    net.add("y", "Mul", ["x", "share"])
    result = RecognizeActivations().run(net.finish("y"))
    assert result.changes == ()


def test_steps_that_others_read_stay_for_them() -> None:
    net = Net(4)
    net.add("share", "Sigmoid", "x")
    net.add("gate", "Mul", ["x", "share"])
    net.add("y", "Add", ["gate", "share"])
    result = RecognizeActivations().run(net.finish("y"))
    assert listing(result.graph) == (
        "graph net (x) -> (y) {\n"
        "x = Input[range=null, shape=[4]]() : N×4\n"
        "share = Sigmoid(x) : N×4\n"
        "gate = Swish[alpha=1.0](x) : N×4\n"
        "y = Add(gate, share) : N×4\n"
        "}"
    )
    assert result.changes == ("gate: the formula of Swish of x",)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(nominal(result.graph, x)[0], x * torch.sigmoid(x) + torch.sigmoid(x))


def test_what_identities_hid_is_recognized_in_evaluation() -> None:
    net = Net(4)
    net.add("same", "Identity", "x")
    net.add("share", "Sigmoid", "same")
    net.add("y", "Mul", ["x", "share"])
    graph = net.finish("y")
    assert COMPILE.run(graph)[0].node("y").operator == "Mul"
    assert EVALUATION.run(graph)[0].node("y").operator == "Swish"


def test_the_value_may_be_a_sum_or_a_product_itself() -> None:
    """The steps that compute the value are not part of the formula."""
    for kind in ("Add", "Mul", "Div"):
        net = Net(4)
        net.add("inner", kind, ["x", net.constant("two", 2.0)])
        net.add("share", "Sigmoid", "inner")
        net.add("y", "Mul", ["inner", "share"])
        graph = RecognizeActivations().run(net.finish("y")).graph
        assert graph.node("y").operator == "Swish"
        assert graph.operands("y") == ("inner",)


def test_long_sums_and_products_are_read_in_no_time() -> None:
    net = Net(4)
    previous, current = "x", net.add("h0", "Mul", ["x", "x"])
    for number in range(1, 200):
        previous, current = current, net.add(f"h{number}", ("Mul", "Add")[number % 2], [current, previous])
    net.add("share", "Sigmoid", current)
    net.add("y", "Mul", [current, "share"])
    assert RecognizeActivations().run(net.finish("y")).changes == (f"y: the formula of Swish of {current}",)


# ── bounds of the operator are bounds of the formula ────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", SPELLED)
def test_bounds_over_points_hold_what_runtimes_compute(name: str) -> None:
    """At numbers of all sizes; squares and cubes of large ones overflow in intermediate steps."""
    _, formula = SPELLED[name]
    sizes = np.float32(2.0) ** np.arange(-140, 119, dtype=np.float32)
    fine = np.linspace(-12, 12, 4001, dtype=np.float32)
    points = np.concatenate([-sizes, [0.0], sizes, fine]).astype(np.float32)
    file = spelled(formula, start=(1, len(points)))
    (value,) = runtime(file).run(None, {"x": points[None]})
    graph, _ = COMPILE.run(translate(file, "formula").graph)
    (box,) = bounds(graph, Interval.point(torch.from_numpy(points)[None]), Arithmetic.FLOAT32, torch.float32)
    computed = torch.from_numpy(value).double()
    assert bool(((box.lower <= computed) & (computed <= box.upper)).all())
    assert bool(torch.isfinite(box.lower).all()) and bool(torch.isfinite(box.upper).all())


@pytest.mark.parametrize("form", ["erf", "tanh"])
@pytest.mark.parametrize("side", [-1, 1])
def test_rounded_numbers_of_gelu_are_paid_for_in_real_arithmetic(form: str, side: int) -> None:
    """With constants as far off as is accepted, the formula differs from Gelu but stays within its bounds."""
    off = 1.0 + side * 0.6 * 2.0**-22
    x = torch.linspace(-4, 4, 2001, dtype=torch.float64)[None]
    if form == "erf":
        root = float(np.float32(sqrt(2.0) * off))
        value = x * (1.0 + torch.erf(x / root)) / 2.0
        graph = compiled(lambda o: erf_gelu(o, root=root), start=(1, 2001))
    else:
        slope, cubic = float(np.float32(sqrt(2.0 / pi) * off)), float(np.float32(0.044715))
        value = x * (1.0 + torch.tanh(slope * (x + cubic * x**3))) / 2.0
        graph = compiled(lambda o: tanh_gelu(o, slope=slope, cubic=cubic), start=(1, 2001))
    assert "Gelu" in operators_of(graph)
    assert float((nominal(graph, x)[0] - value).abs().max()) > 2.0**-26
    (box,) = bounds(graph, Interval.point(x), Arithmetic.REAL, torch.float64)
    assert bool(((box.lower <= value) & (value <= box.upper)).all())
    node, rules = graph.order()[-1], operators()["Gelu"].rules
    assert rules.relaxation is not None
    planes = rules.relaxation(call_of(graph, node), Interval.point(x))
    assert bool(((planes.lower(x) <= value) & (value <= planes.upper(x))).all())


@pytest.mark.parametrize("name", SPELLED)
def test_bounds_are_those_of_one_function_and_not_of_its_steps(name: str) -> None:
    _, formula = SPELLED[name]
    file = spelled(formula)
    low, high = torch.full((1, 6), -1.0), torch.full((1, 6), 1.0)
    raw = translate(file, "formula").graph
    recognized, _ = COMPILE.run(raw)
    (tight,) = bounds(recognized, Interval.bounds(low, high), Arithmetic.FLOAT32, torch.float32)
    (loose,) = bounds(raw, Interval.bounds(low, high), Arithmetic.FLOAT32, torch.float32)
    ratio = float(((tight.upper - tight.lower) / (loose.upper - loose.lower)).max())
    assert ratio < 0.9
