"""The checker reads formulas as the activations that they are, by itself, and only those."""

from __future__ import annotations

import operator

import mpmath
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import ibpc
from ibpc.errors import ModelError
from ibpc.rounding import Arithmetic
from ibpc.verify.checking import Checker
from ibpc.verify.checking.onnx_file import OnnxFile
from ibpc.verify.checking.regions import Region
from tests.formulas import LOOKALIKES, SPELLED, Formula, erf_gelu, spelled, tanh_gelu
from tests.onnx_models import model, normal, runtime
from tests.verify.test_proofs import below, failing, gap_of

ACTIVATIONS = {"Swish", "Mish", "Gelu", "Softsign"}


def kinds(formula: Formula, **options) -> set[str]:
    return {node.op_type for node in OnnxFile.of(spelled(formula, **options)).nodes}


def box_of(formula: Formula, lower: np.ndarray, upper: np.ndarray, arithmetic: str) -> tuple[np.ndarray, np.ndarray]:
    checker = Checker(spelled(formula, start=(1, len(lower))))
    return checker.bound_rows([lower], [upper], np.eye(len(lower)), arithmetic)


@pytest.mark.parametrize("name", SPELLED)
def test_a_formula_is_read_as_its_operator(name: str) -> None:
    kind, formula = SPELLED[name]
    assert ACTIVATIONS & kinds(formula) == {kind}
    assert ACTIVATIONS & kinds(formula, number_shape=(1,)) == {kind}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_one_is_not(name: str) -> None:
    assert not ACTIVATIONS & kinds(LOOKALIKES[name])


def test_numbers_of_many_dimensions_are_not_read() -> None:
    assert not ACTIVATIONS & kinds(erf_gelu, number_shape=(1, 1, 1))


@pytest.mark.parametrize(
    ("name", "dtype", "element_type"),
    [("softsign", np.int32, TensorProto.INT32), ("quick gelu", np.float64, TensorProto.DOUBLE)],
)
def test_what_another_type_computes_is_not_read(name: str, dtype: type, element_type: int) -> None:
    """Quotients of integers are others, and a node of its own could say the sharpness of a double in binary32 only."""
    file = spelled(SPELLED[name][1], dtype=dtype)
    for value in (*file.graph.input, *file.graph.output):
        value.type.tensor_type.elem_type = element_type
    assert not ACTIVATIONS & {node.op_type for node in OnnxFile.of(file).nodes}


@pytest.mark.parametrize(("kind", "count"), [("Div", 1), ("Div", 3), ("Mul", 1), ("Mul", 3), ("Add", 3)])
def test_steps_of_odd_numbers_of_operands_are_refused(kind: str, count: int) -> None:
    share = helper.make_node("Sigmoid", ["x"], ["s"])
    odd = helper.make_node(kind, ["x", "s", "x"][:count], ["a"], "odd")
    file = model([share, odd, helper.make_node("Mul", ["a", "s"], ["y"])], {"x": (1, 3)})
    with pytest.raises(ModelError, match=f"{kind} of {count} operands"):
        OnnxFile.of(file)


def test_numbers_that_give_a_scalar_a_dimension_are_not_read() -> None:
    """Of r (), r sigmoid(2 r) with a 2 of shape (1,) has one dimension more, and whoever asks for it gets that."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["x_"], keepdims=0),
        *spelled(SPELLED["quick gelu"][1], number_shape=(1,)).graph.node,
        helper.make_node("Shape", ["g"], ["sizes"]),
        helper.make_node("Cast", ["sizes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    for node in nodes[1:4]:
        node.input[:] = ["x_" if name == "x" else name for name in node.input]
        node.output[:] = ["g" if name == "y" else name for name in node.output]
    file = model(nodes, {"x": (1, 1)}, constants={"number0": np.full(1, 1.702, np.float32)})
    point = np.ones((1, 1), np.float32)
    (value,) = runtime(file).run(None, {"x": point})
    low, high = Checker(file).bound_rows([point[0]], [point[0]], np.eye(1), "real")
    assert value.item() == 2.0
    assert low <= 2.0 <= high


def test_formulas_of_constants_alone_are_computed_step_by_step() -> None:
    """The evaluator of the file's operator set knows no Gelu."""
    file = spelled(lambda o: o("Add", "x", erf_gelu(o)))
    file.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value_floats=[1.0] * 6))
    for node in file.graph.node[1:-1]:
        node.input[:] = ["c" if name == "x" else name for name in node.input]
    x = np.zeros(6)
    low, high = Checker(file).bound_rows([x], [x], np.eye(6), "real")
    assert low == pytest.approx(0.8413447, abs=1e-5) and high == pytest.approx(low, abs=1e-5)


def test_other_names_of_a_value_are_the_value() -> None:
    found = kinds(lambda o: o("Mul", o("Identity", "x"), o("Identity", o("Sigmoid", o("Identity", "x")))))
    assert ACTIVATIONS & found == {"Swish"}


def test_constants_that_cannot_be_read_are_no_numbers() -> None:
    file = spelled(SPELLED["quick gelu"][1])
    attribute = helper.make_attribute("value", numpy_helper.from_array(np.float32(2.0)))
    attribute.t.raw_data = b"abc"
    del file.graph.initializer[:]
    node = helper.make_node("Constant", [], ["number0"])
    node.attribute.append(attribute)
    file.graph.node.insert(0, node)
    with pytest.raises(ModelError, match="number0"):
        Checker(file).bound_rows([np.zeros(6)], [np.zeros(6)], np.eye(6), "real")


@pytest.mark.parametrize("name", ["gelu by erf", "silu", "mish"])
def test_values_so_far_that_a_step_overflows_have_no_bounds(name: str) -> None:
    """x (1 + e) / 2 does, where x is above a half of the greatest number."""
    x = np.full(6, 2.4e38)
    low, high = box_of(SPELLED[name][1], x, x, "float32")
    assert (low == -np.inf).all() and (high == np.inf).all()


@pytest.mark.parametrize("name", SPELLED)
def test_bounds_of_points_hold_exact_values(name: str) -> None:
    """Also where the share is tiny: there the checker's own rounding of the argument is many times the value."""
    x = np.random.default_rng(0).uniform(-60.0, 60.0, 300)
    low, high = box_of(SPELLED[name][1], x, x, "real")
    values = [exactly(spelled(SPELLED[name][1]), float(point)) for point in x]
    assert all(mpmath.mpf(low[i]) <= value <= mpmath.mpf(high[i]) for i, value in enumerate(values))


def exactly(file: onnx.ModelProto, x: float) -> mpmath.mpf:
    """Return what a formula is at a point, to 60 digits."""
    steps = {
        **{"Add": operator.add, "Mul": operator.mul, "Div": operator.truediv, "Pow": operator.pow, "Abs": abs},
        **{"Tanh": mpmath.tanh, "Erf": mpmath.erf, "Sigmoid": lambda a: 1 / (1 + mpmath.exp(-a))},
        "Softplus": lambda a: mpmath.log1p(mpmath.exp(a)),
    }
    with mpmath.workdps(60):
        values = {tensor.name: mpmath.mpf(numpy_helper.to_array(tensor).item()) for tensor in file.graph.initializer}
        values["x"] = mpmath.mpf(x)
        for node in file.graph.node:
            values[node.output[0]] = steps[node.op_type](*(values[name] for name in node.input))
        return values["y"]


@pytest.mark.parametrize("arithmetic", ["real", "float32"])
@pytest.mark.parametrize("name", [*SPELLED, *LOOKALIKES])
def test_bounds_and_planes_hold_samples(name: str, arithmetic: str) -> None:
    """Over boxes of all widths, by boxes (the rows alone) and by planes (a region that tightens nothing)."""
    formula = SPELLED[name][1] if name in SPELLED else LOOKALIKES[name]
    generator = np.random.default_rng(0)
    center = generator.normal(size=48) * 3.0
    radius = np.repeat([1e-4, 0.1, 1.0, 6.0], 12)
    if name == "softsign upside down":
        center = np.abs(center) + radius + 0.1
    lower, upper = center - radius, center + radius
    low, high = box_of(formula, lower, upper, arithmetic)
    share = np.concatenate([np.zeros((1, 48)), np.ones((1, 48)), generator.uniform(size=(200, 48))])
    points = np.clip((lower + share * (upper - lower)).astype(np.float32), lower, upper).astype(np.float32)
    session = runtime(spelled(formula, start=("N", 48)))
    (values,) = session.run(None, {"x": points})
    slack = 1e-5 * np.maximum(1.0, np.abs(values)) if arithmetic == "real" else 0.0
    inside = (points >= lower) & (points <= upper)
    assert bool((~inside | ((low <= values + slack) & (values - slack <= high))).all())


@pytest.mark.parametrize("form", ["erf", "tanh"])
def test_rounded_numbers_are_paid_for_in_real_arithmetic(form: str) -> None:
    off = 1.0 - 0.6 * 2.0**-22
    x = np.linspace(-4, 4, 801)
    if form == "erf":
        root = float(np.float32(np.sqrt(2.0) * off))
        value = x * (1.0 + torch.erf(torch.from_numpy(x / root)).numpy()) / 2.0
        file = spelled(lambda o: erf_gelu(o, root=root), start=(1, 801))
    else:
        slope, cubic = float(np.float32(np.sqrt(2.0 / np.pi) * off)), float(np.float32(0.044715))
        value = x * (1.0 + np.tanh(slope * (x + cubic * x**3))) / 2.0
        file = spelled(lambda o: tanh_gelu(o, slope=slope, cubic=cubic), start=(1, 801))
    checker = Checker(file)
    low, high = checker.bound_rows([x], [x], np.eye(801), "real")
    assert bool(((low <= value) & (value <= high)).all())
    assert float((high - low).max()) < 1e-6
    bend = checker.values(Region(x, x), "real")["y"].bend
    assert bend is not None
    planes = bend()
    (term,) = planes.terms
    assert bool((planes.lower + term.below * x - planes.error <= value).all())
    assert bool((value <= planes.upper + term.above * x + planes.error).all())
    assert planes.tune is not None
    for choice in (0.0, 0.5, 1.0):
        tuned = planes.tune(np.full((1, 2, 801), choice))
        (term,) = tuned.terms
        assert bool((tuned.lower + term.below * x - tuned.error <= value).all())
        assert bool((value <= tuned.upper + term.above * x + tuned.error).all())


# ── from end to end ─────────────────────────────────────────────────────────────────────────────────────────────
def between_layers(formula: Formula) -> onnx.ModelProto:
    """Return a formula between two linear layers of random weights."""
    file = spelled(formula)
    hidden = {"x": "before", "y": "after"}
    for node in file.graph.node:
        node.input[:] = [hidden.get(name, name) for name in node.input]
        node.output[:] = [hidden.get(name, name) for name in node.output]
    first = helper.make_node("Gemm", ["input", "w1", "b1"], ["before"], transB=1)
    last = helper.make_node("Gemm", ["after", "w2", "b2"], ["y"], transB=1)
    constants = {"w1": normal(6, 4), "b1": normal(6), "w2": normal(2, 6), "b2": normal(2)}
    constants |= {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    return model([first, *file.graph.node, last], {"input": (1, 4)}, constants=constants)


@pytest.mark.parametrize("method", ["ibp", "crown", "alpha-crown"])
@pytest.mark.parametrize("name", ["quick gelu", "mish", "gelu by erf", "gelu by tanh", "softsign"])
def test_what_is_just_proved_is_confirmed(name: str, method: str, tmp_path) -> None:
    arithmetic = Arithmetic.FLOAT32 if method == "crown" else Arithmetic.REAL
    file = tmp_path / "net.onnx"
    file.write_bytes(between_layers(SPELLED[name][1]).SerializeToString())
    net = ibpc.compile(file)
    prop = below(net, 4, gap_of(net, 4, method, arithmetic))
    decision = ibpc.decide(net, prop, timeout=600, method=method, arithmetic=arithmetic)
    assert decision.verdict is ibpc.Verdict.VERIFIED
    ibpc.write_certificate(tmp_path / "c.json", file, net, prop, decision)
    assert failing(tmp_path / "c.json") == []
