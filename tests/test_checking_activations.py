"""The checker reads formulas as the activations that they are, by itself, and only those."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import ibpc
from ibpc.rounding import Arithmetic
from ibpc.verify.checking import Checker
from ibpc.verify.checking.onnx_file import OnnxFile
from tests.formulas import LOOKALIKES, SPELLED, Formula, erf_gelu, spelled, tanh_gelu
from tests.onnx_models import model, normal, runtime
from tests.test_proofs import below, failing, gap_of

ACTIVATIONS = {"Swish", "Mish", "Gelu", "Softsign"}


def kinds(formula: Formula, **options) -> set[str]:
    return {node.op_type for node in OnnxFile.of(spelled(formula, **options)).nodes}


def box_of(formula: Formula, lower: np.ndarray, upper: np.ndarray, arithmetic: str) -> tuple[np.ndarray, np.ndarray]:
    checker = Checker(spelled(formula, start=(1, len(lower))))
    return checker.bound_rows([lower], [upper], np.eye(len(lower)), arithmetic)


@pytest.mark.parametrize("name", SPELLED)
def test_a_formula_is_read_as_its_operator(name: str) -> None:
    operator, formula = SPELLED[name]
    assert ACTIVATIONS & kinds(formula) == {operator}
    assert ACTIVATIONS & kinds(formula, number_shape=(1,)) == {operator}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_one_is_not(name: str) -> None:
    assert not ACTIVATIONS & kinds(LOOKALIKES[name])


def test_numbers_of_many_dimensions_are_not_read() -> None:
    assert not ACTIVATIONS & kinds(erf_gelu, number_shape=(1, 1, 1))


def test_quotients_of_integers_are_others() -> None:
    file = spelled(SPELLED["softsign"][1], dtype=np.int32)
    for value in (*file.graph.input, *file.graph.output):
        value.type.tensor_type.elem_type = TensorProto.INT32
    assert not ACTIVATIONS & {node.op_type for node in OnnxFile.of(file).nodes}


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
        low, high = box_of(lambda o: erf_gelu(o, root=root), x, x, "real")
        value = x * (1.0 + torch.erf(torch.from_numpy(x / root)).numpy()) / 2.0
    else:
        slope, cubic = float(np.float32(np.sqrt(2.0 / np.pi) * off)), float(np.float32(0.044715))
        low, high = box_of(lambda o: tanh_gelu(o, slope=slope, cubic=cubic), x, x, "real")
        value = x * (1.0 + np.tanh(slope * (x + cubic * x**3))) / 2.0
    assert bool(((low <= value) & (value <= high)).all())
    assert float((high - low).max()) < 1e-6


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
