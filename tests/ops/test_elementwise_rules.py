"""Bounds of the elementwise operators, the products and Softmax worked out by hand, and cases beyond the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import e, inf, log, nan
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval, Paired
from ibpc.ir import BATCH, Graph, Node
from ibpc.lowering import lower_interval, lower_paired, parameter_tree
from ibpc.ops import matmul, operators
from ibpc.ops.onnx import OnnxNode
from ibpc.ops.rules import Call, Planes
from ibpc.rounding import UNIT, Arithmetic
from tests.ops.onnx_tools import EvaluatingBuilder, KnownValue
from tests.ops.rows_elementwise import (
    elu_by_difference,
    sigmoid_by_exponential,
    sigmoid_by_tanh,
    softplus_by_logarithm,
    tanh_by_exponential,
)

Drawn = Interval | Tensor


def box(*pairs: tuple[float, float], dtype: torch.dtype = torch.float64) -> Interval:
    """One sample whose features range over the pairs."""
    values = torch.tensor(pairs, dtype=dtype)
    return Interval.bounds(values[None, :, 0], values[None, :, 1])


def exact(*values: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def call_of(
    name: str,
    operands: tuple[Drawn, ...],
    attributes: Mapping[str, Any],
    parameters: Mapping[str, Tensor],
    arithmetic: Arithmetic,
) -> Call:
    operator = operators()[name]
    complete = operator.complete(attributes)
    assert not list(operator.check_attributes(complete))
    shapes = tuple((BATCH, *x.lower.shape[1:]) if isinstance(x, Interval) else tuple(x.shape) for x in operands)
    sizes = {role: tuple(value.shape) for role, value in parameters.items()}
    return Call(complete, shapes, sizes, operator.infer_shape(complete, shapes, sizes), arithmetic)


def bounds(
    name: str,
    *operands: Drawn,
    attributes: Mapping[str, Any] = {},
    parameters: Mapping[str, Tensor] = {},
    arithmetic: Arithmetic = Arithmetic.REAL,
) -> Interval:
    call = call_of(name, operands, attributes, parameters, arithmetic)
    return operators()[name].rules.interval(call, *operands, **parameters)


def planes(name: str, *operands: Drawn, attributes: Mapping[str, Any] = {}) -> Planes:
    rule = operators()[name].rules.relaxation
    assert rule is not None
    return rule(call_of(name, operands, attributes, {}, Arithmetic.REAL), *operands)


def assert_bounds(found: Interval, *pairs: tuple[float, float]) -> None:
    expected = torch.tensor(pairs, dtype=found.lower.dtype)
    torch.testing.assert_close(found.lower[0], expected[:, 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.upper[0], expected[:, 1], rtol=1e-12, atol=1e-12)


def test_planes_of_relu_hold_at_ends_that_are_zero_or_infinite() -> None:
    """Exact where the box is on one side of 0; the planes of an infinite box that straddles 0 claim nothing."""
    inf = torch.inf
    x = box((-1, 2), (-2, 1), (0, 0), (0, 3), (-3, 0), (1, inf), (0, inf), (-inf, -1), (-inf, 0), (5e-324, 1e-323))
    small = box((-1, 1e-9), (-1e-9, 1), (-1e-6, 1e-6))
    for end in (small.lower, small.upper):
        torch.testing.assert_close(planes("Relu", small).upper(end), end.relu(), rtol=1e-12, atol=1e-16)
    found = planes("Relu", x)
    lower, upper = found.lower, found.upper
    torch.testing.assert_close(lower.slopes[0][0], torch.tensor([1, 0, 0, 1, 0, 1, 1, 0, 0, 1.0]).double())
    chords = torch.tensor([2 / 3, 1 / 3, 1, 1, 0, 1, 1, 0, 0, 1]).double()
    torch.testing.assert_close(upper.slopes[0][0], chords)
    torch.testing.assert_close(upper.offset[0], torch.tensor([2 / 3, 2 / 3, 0, 0, 0, 0, 0, 0, 0, 0]).double())
    assert bool((lower.offset == 0).all())
    for at in (x.lower, x.upper, 0.3 * x.lower + 0.7 * x.upper):
        point = torch.where(at.isfinite(), at, torch.zeros_like(at)).clamp(x.lower, x.upper)
        assert bool((found.lower(point) <= point.relu()).all())
        assert bool((point.relu() <= found.upper(point) + 1e-15).all())
    assert bool(planes("Relu", box((-inf, inf))).upper.slopes[0].isnan().all())


# ── bounds worked out by hand ───────────────────────────────────────────────────────────────────────────────────
def test_product_of_boxes_is_exact_in_every_sign_pattern() -> None:
    x = box((-1, 2), (-1, 2), (-2, -1), (1, 2), (-2, 0))
    y = box((3, 4), (-3, 5), (-4, -3), (-5, 6), (0, 7))
    assert_bounds(bounds("Mul", x, y), (-4, 8), (-6, 10), (3, 8), (-10, 12), (-14, 0))


def test_product_with_a_constant_on_either_side() -> None:
    x, factor = box((-1, 2), (-1, 2), (-1, 2)), exact(-3, 0, 0.5)
    assert_bounds(bounds("Mul", x, factor), (-6, 3), (0, 0), (-0.5, 1))
    assert_bounds(bounds("Mul", factor, x), (-6, 3), (0, 0), (-0.5, 1))


def test_square_is_not_the_product_of_independent_boxes() -> None:
    x = box((-3, 2), (1, 2), (-4, -3), (0, 5))
    assert_bounds(bounds("Mul", x, x), (0, 9), (1, 4), (9, 16), (0, 25))
    twin = Interval.bounds(x.lower, x.upper)
    assert_bounds(bounds("Mul", x, twin), (-6, 9), (1, 4), (9, 16), (0, 25))


def test_square_is_recognised_in_the_emitted_graphs() -> None:
    graph = Graph("square")
    graph.add(Node("x", "Input", {"shape": [1], "range": None}, (BATCH, 1)))
    graph.add(Node("y", "Mul", {}, (BATCH, 1)), ["x", "x"])
    graph.outputs = ("y",)
    tree = parameter_tree(graph)
    x, lower, upper = torch.tensor([[1.0]]), torch.tensor([[-3.0]]), torch.tensor([[2.0]])
    assert lower_interval(graph, tree)(lower, upper) == (torch.zeros(1, 1), torch.full((1, 1), 9.0))
    assert lower_paired(graph, tree, ["y"], ["y"])(x, lower, upper)[1:] == (torch.zeros(1, 1), torch.full((1, 1), 9.0))


def test_quotients() -> None:
    x = box((1, 2), (-1, 2), (1, 2), (1, 2), (0, 0), (-4, -2))
    y = box((4, 8), (-2, -1), (-1, 1), (0, 1), (-3, 0), (-2, -1))
    assert_bounds(bounds("Div", x, y), (0.125, 0.5), (-2, 1), (-inf, inf), (-inf, inf), (-inf, inf), (1, 4))
    assert_bounds(bounds("Div", exact(6, -6, 0), box((2, 3), (2, 3), (-2, -1))), (2, 3), (-3, -2), (0, 0))
    assert_bounds(bounds("Div", box((-3, 6), (1, 2)), exact(-3, 0)), (-2, 1), (-inf, inf))
    found = bounds("Div", box((0, 0), (1, 1)), exact(0, 0))
    assert not (found.lower.isfinite() | found.upper.isfinite()).any()


def test_quotient_is_not_a_product_with_the_reciprocal() -> None:
    x, divisor = exact(range(1, 200)), exact(range(3, 202))
    assert (x * (1 / divisor) != x / divisor).any()
    found = bounds("Div", Interval.bounds(x, x), divisor)
    assert torch.equal(found.lower, x / divisor)
    assert torch.equal(found.upper, x / divisor)


def test_sums_and_signs() -> None:
    assert_bounds(bounds("Sub", box((-1, 2)), box((3, 5))), (-6, -1))
    assert_bounds(bounds("Sub", exact(1), box((3, 5))), (-4, -2))
    assert_bounds(bounds("Neg", box((-1, 2))), (-2, 1))
    centered = Interval.around(exact([1.0]), exact([3.0]))
    assert_bounds(bounds("Neg", centered), (-4, 2))
    assert_bounds(bounds("Abs", box((-3, 2), (-3, -1), (1, 3), (0, 0))), (0, 3), (1, 3), (1, 3), (0, 0))


def test_leaky_rectifiers_with_slopes_of_any_sign_and_size() -> None:
    x = box((-2, 1), (-4, 1), (-4, -2), (1, 2))
    assert_bounds(bounds("LeakyRelu", x, attributes={"alpha": -0.5}), (0, 1), (0, 2), (1, 2), (1, 2))
    assert_bounds(bounds("LeakyRelu", x, attributes={"alpha": 2.0}), (-4, 1), (-8, 1), (-8, -4), (1, 2))
    slopes = {"weight": exact(-1.5, 0.5, 3.0)}
    assert_bounds(bounds("PRelu", box((-2, 1), (-2, 1), (-2, 1)), parameters=slopes), (0, 3), (-1, 1), (-6, 1))


def test_exponential_unit() -> None:
    x = box((-1, 1), (1, 2), (-2, -1))
    falling, steep = 1 / e - 1, 1 / e**2 - 1
    assert_bounds(bounds("Elu", x), (falling, 1), (1, 2), (steep, falling))
    assert_bounds(bounds("Elu", x, attributes={"alpha": -3.0}), (0, -3 * falling), (1, 2), (-3 * falling, -3 * steep))


def test_clip() -> None:
    x = box((-3, 3), (-3, -2), (2, 3), (0, 0.5))
    ends = {"min": -1.0, "max": 1.0}
    assert_bounds(bounds("Clip", x, attributes=ends), (-1, 1), (-1, -1), (1, 1), (0, 0.5))
    assert_bounds(bounds("Clip", x, attributes={"max": 1.0}), (-3, 1), (-3, -2), (1, 1), (0, 0.5))
    assert_bounds(bounds("Clip", x, attributes={"min": 2.0, "max": 1.0}), (1, 1), (1, 1), (1, 1), (1, 1))


def test_monotone_functions() -> None:
    assert_bounds(bounds("Sigmoid", box((-log(3), log(4)))), (0.25, 0.8))
    assert_bounds(bounds("Tanh", box((-log(2), log(3)))), (-0.6, 0.8))
    assert_bounds(bounds("Softplus", box((0, log(3)), (-800, 800))), (log(2), log(4)), (0, 800))


def test_softplus_has_no_jump() -> None:
    x = torch.linspace(19.9, 20.1, 10001, dtype=torch.float64)[None]
    found = bounds("Softplus", Interval.bounds(x, x))
    assert (found.lower.diff() > 0).all()


def test_softmax_corners() -> None:
    assert_bounds(bounds("Softmax", box((0, log(2)), (0, log(3)))), (1 / 4, 2 / 3), (1 / 3, 3 / 4))
    three = box((0, log(2)), (log(2), log(4)), (0, 0))
    assert_bounds(bounds("Softmax", three), (1 / 6, 2 / 5), (2 / 5, 4 / 6), (1 / 7, 1 / 4))


def test_softmax_neither_overflows_nor_cancels() -> None:
    tiny = e**-40
    wide = box((-40, 40), (0, 0), (0, 0), dtype=torch.float32)
    found = bounds("Softmax", wide)
    assert found.lower[0, 0] == pytest.approx(tiny / (tiny + 2), rel=1e-5)
    assert found.upper[0, 1] == pytest.approx(1 / (tiny + 2), rel=1e-5)
    assert found.lower[0, 1] == pytest.approx(tiny, rel=1e-5)
    assert_bounds(bounds("Softmax", box((1e4, 1e4), (-1e4, -1e4))), (1, 1), (0, 0))


def test_product_of_matrices_is_attained_by_corners() -> None:
    generator = torch.Generator().manual_seed(1)
    centers = [torch.randn(1, *size, generator=generator, dtype=torch.float64) for size in ((2, 3), (3, 2))]
    radii = [torch.rand(center.shape, generator=generator, dtype=torch.float64) * 1.5 for center in centers]
    operands = [
        Interval.bounds(center - radius, center + radius) for center, radius in zip(centers, radii, strict=True)
    ]
    sides = torch.tensor(list(product((-1.0, 1.0), repeat=12)), dtype=torch.float64)
    left = centers[0] + radii[0] * sides[:, :6].reshape(-1, 2, 3)
    right = centers[1] + radii[1] * sides[:, 6:].reshape(-1, 3, 2)
    values = left @ right
    found = bounds("MatMul", *operands)
    torch.testing.assert_close(found.lower[0], values.amin(0))
    torch.testing.assert_close(found.upper[0], values.amax(0))


def test_product_of_matrices_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(2, *size, generator=generator, dtype=torch.float64) for size in ((3, 7), (7, 4)))
    operands = Interval.bounds(x - 0.5, x + 0.3), Interval.bounds(y - 0.2, y + 0.7)
    whole = bounds("MatMul", *operands)
    monkeypatch.setattr(matmul, "MOST_PRODUCTS", 24)
    parts = bounds("MatMul", *operands)
    torch.testing.assert_close(parts.lower, whole.lower)
    torch.testing.assert_close(parts.upper, whole.upper)


@pytest.mark.parametrize(
    "shapes",
    [
        ((BATCH, 3), (4, 2)),
        ((BATCH,), (3,)),
        ((2, 3), (BATCH, 3)),
        ((3, 4), (BATCH,)),
        ((BATCH, 3), (BATCH, 3, 2)),
        ((BATCH, 3), (5, 3, 2)),
        ((), (BATCH, 3)),
    ],
)
def test_products_that_do_not_fit_or_sum_over_the_batch_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(GraphError):
        operators()["MatMul"].infer_shape({}, shapes, {})


# ── what is unknown stays unknown ───────────────────────────────────────────────────────────────────────────────
UNARY = ("Neg", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Softplus", "Abs", "Clip", "Identity", "Dropout")


@pytest.mark.parametrize("arithmetic", Arithmetic)
@pytest.mark.parametrize("name", UNARY)
def test_nan_bounds_claim_nothing(name: str, arithmetic: Arithmetic) -> None:
    attributes = {"min": -1.0, "max": 1.0} if name == "Clip" else {}
    found = bounds(name, box((nan, nan), dtype=torch.float32), attributes=attributes, arithmetic=arithmetic)
    assert found.lower.isnan().all()
    assert found.upper.isnan().all()


@pytest.mark.parametrize("arithmetic", Arithmetic)
@pytest.mark.parametrize("name", ["Sub", "Mul", "Div"])
def test_nan_bounds_of_two_operands_claim_nothing(name: str, arithmetic: Arithmetic) -> None:
    unknown, known = box((nan, nan)), box((1, 2))
    for operands in ((unknown, known), (known, unknown), (unknown, unknown), (unknown, exact(2)), (exact(2), unknown)):
        found = bounds(name, *operands, arithmetic=arithmetic)
        assert not (found.lower.isfinite() | found.upper.isfinite()).any()


def test_nan_in_softmax_reaches_every_output() -> None:
    found = bounds("Softmax", box((nan, nan), (0, 1), (0, 1)))
    assert found.lower.isnan().all()
    assert found.upper.isnan().all()


def test_zero_times_infinity_claims_nothing() -> None:
    for other in (box((-inf, inf)), box((1, inf)), exact(inf)):
        found = bounds("Mul", box((0, 0)), other)
        assert not (found.lower.isfinite() | found.upper.isfinite()).any()


def test_quotients_by_an_overflow_claim_nothing() -> None:
    assert_bounds(bounds("Div", box((1, 2), (1, 2)), box((inf, inf), (-inf, -inf))), (-inf, inf), (-inf, inf))


def test_half_infinite_boxes() -> None:
    assert_bounds(bounds("Mul", box((1, inf)), box((2, 3))), (2, inf))
    assert_bounds(bounds("Div", box((1, 2)), box((1, inf))), (0, 2))
    assert_bounds(bounds("Softmax", box((-inf, 0), (0, 0))), (0, 0.5), (0.5, 1))
    assert_bounds(bounds("LeakyRelu", box((-inf, 1)), attributes={"alpha": -0.5}), (0, inf))


# ── binary32 ────────────────────────────────────────────────────────────────────────────────────────────────────
def runtime(name: str, x: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """The operator in ONNX Runtime."""
    infos = [helper.make_tensor_value_info(value, TensorProto.FLOAT, [None, None]) for value in ("x", "y")]
    graph = helper.make_graph([helper.make_node(name, ["x"], ["y"], **attributes)], "one", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": x})
    return np.asarray(result)


WRITTEN_OUT = {
    "Sigmoid": (sigmoid_by_tanh, sigmoid_by_exponential),
    "Tanh": (tanh_by_exponential,),
    "Softplus": (softplus_by_logarithm,),
    "Elu": (elu_by_difference,),
}


def sweep() -> Tensor:
    """Points from −100 to 100, dense around 0, and all orders of magnitude, as one row of float32."""
    magnitudes = 10.0 ** torch.linspace(-44, 37, 4001, dtype=torch.float64)
    dense = torch.linspace(-100, 100, 20001, dtype=torch.float64)
    return torch.cat([dense, dense * 1e-3, magnitudes, -magnitudes]).float()[None]


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Softplus", {}),
        ("Elu", {"alpha": 1.0}),
        ("Elu", {"alpha": 3.7}),
        ("LeakyRelu", {"alpha": 0.01}),
        ("LeakyRelu", {"alpha": -5.3}),
        ("Abs", {}),
    ],
)
def test_float32_bounds_of_points_contain_every_implementation(name: str, attributes: dict[str, float]) -> None:
    x = sweep()
    found = bounds(name, Interval.bounds(x, x), attributes=attributes, arithmetic=Arithmetic.FLOAT32)
    call = call_of(name, (Interval.point(x),), attributes, {}, Arithmetic.REAL)
    nominal = operators()[name].rules.nominal
    values = {
        "real": nominal(call, x.double()),
        "PyTorch": nominal(call, x),
        "ONNX Runtime": torch.from_numpy(runtime(name, x.numpy(), attributes)),
    }
    for who, value in values.items():
        outside = ~found.contains(value)
        assert not outside.any(), f"{who} leaves the bounds at {x[outside][:3].tolist()}"
    within = x.abs() < 80
    for written_out in WRITTEN_OUT.get(name, ()):
        outside = within & ~found.contains(written_out(call, x))
        assert not outside.any(), f"{written_out.__name__} leaves the bounds at {x[outside][:3].tolist()}"
    # Flushing the value of an exact operator is left to its readers.
    flushed = nominal(call, torch.where(x.abs() < 2.0**-126, 0.0, x)).double()
    assert (flushed >= found.lower.double() - 2.0**-126).all()
    assert (flushed <= found.upper.double() + 2.0**-126).all()


@pytest.mark.parametrize("spread", [1.0, 30.0, 120.0])
@pytest.mark.parametrize("size", [2, 10, 1000])
def test_float32_softmax_contains_every_implementation(size: int, spread: float) -> None:
    x = torch.randn(max(2, 200 // size), size, generator=torch.Generator().manual_seed(size)) * spread
    found = bounds("Softmax", Interval.bounds(x, x), arithmetic=Arithmetic.FLOAT32)
    backward = x - x.amax(-1, keepdim=True)
    backward = backward.exp() * (1 / backward.exp().flip(-1).cumsum(-1)[:, -1:])
    for value in (x.double().softmax(-1), x.softmax(-1), torch.from_numpy(runtime("Softmax", x.numpy(), {})), backward):
        assert found.contains(value).all()
    widening = torch.maximum(x.double().softmax(-1) - found.lower, found.upper - x.double().softmax(-1))
    assert (widening <= (2 * size + 300) * UNIT * x.double().softmax(-1) + 2 * UNIT).all()


@pytest.mark.parametrize(("name", "least"), [("Sigmoid", 20), ("Tanh", 28), ("Softplus", 36), ("Elu", 36)])
def test_float32_widening_is_what_the_file_states(name: str, least: int) -> None:
    x = torch.linspace(-30, 5, 1001)[None]
    found = bounds(name, Interval.bounds(x, x), arithmetic=Arithmetic.FLOAT32)
    value = bounds(name, Interval.bounds(x.double(), x.double())).lower
    allowed = (least + 2 + 52 * value.abs()) * UNIT
    assert (found.upper - value <= allowed).all()
    assert (value - found.lower <= allowed).all()


def test_float32_elu_of_nonnegative_numbers_is_exact() -> None:
    found = bounds("Elu", box((0, 1.5), dtype=torch.float32), arithmetic=Arithmetic.FLOAT32)
    assert_bounds(found, (0, 1.5))


def test_float32_clip_rounds_only_ends_that_binary32_lacks() -> None:
    x = box((-3, 3), dtype=torch.float32)
    assert_bounds(bounds("Clip", x, attributes={"min": -0.5, "max": 2.0}, arithmetic=Arithmetic.FLOAT32), (-0.5, 2))
    found = bounds("Clip", x, attributes={"min": 0.1, "max": 0.7}, arithmetic=Arithmetic.FLOAT32)
    assert found.lower.double() < 0.1 < found.upper.double() > 0.7


def test_float32_products_contain_flushed_factors() -> None:
    tiny, large = box((1e-39, 1e-39), dtype=torch.float32), box((1e20, 1e20), dtype=torch.float32)
    found = bounds("Mul", tiny, large, arithmetic=Arithmetic.FLOAT32)
    assert found.lower <= 0
    assert found.upper > 1e-19
    found = bounds("Div", large, box((1e-39, 1), dtype=torch.float32), arithmetic=Arithmetic.FLOAT32)
    assert found.upper == inf
    slope = {"weight": exact(1e20, dtype=torch.float32)}
    found = bounds("PRelu", box((-1e-39, -1e-39), dtype=torch.float32), parameters=slope, arithmetic=Arithmetic.FLOAT32)
    assert found.upper >= 0


# ── planes ──────────────────────────────────────────────────────────────────────────────────────────────────────
CURVES = (
    ("LeakyRelu", {"alpha": 0.1}),
    ("LeakyRelu", {"alpha": 3.0}),
    ("LeakyRelu", {"alpha": -0.5}),
    ("Elu", {"alpha": 1.0}),
    ("Elu", {"alpha": 2.5}),
    ("Elu", {"alpha": -0.5}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Softplus", {}),
    ("Abs", {}),
    ("Clip", {"min": -1.0, "max": 1.0}),
    ("Clip", {"min": 0.5}),
    ("Clip", {"max": -0.25}),
)


def lattice() -> Interval:
    """All boxes with ends among numbers of many sizes and both signs."""
    sizes = [0.0, 1e-300, 1e-9, 1e-3, 0.25, 0.5, 1.0, 1.5, 3.0, 8.0, 25.0, 1e3, 1e9, 1e300]
    ends = sorted({sign * size for size in sizes for sign in (-1.0, 1.0)})
    return box(*[(low, high) for low in ends for high in ends if low <= high])


@pytest.mark.parametrize(("name", "attributes"), CURVES)
def test_planes_bound_boxes_of_every_size(name: str, attributes: dict[str, float]) -> None:
    x = lattice()
    found = planes(name, x, attributes=attributes)
    call = call_of(name, (x,), attributes, {}, Arithmetic.REAL)
    shares = torch.cat([torch.linspace(0, 1, 101).double(), 10.0 ** torch.linspace(-20, -2, 37).double()])
    for share in torch.cat([shares, 1 - shares]):
        point = torch.minimum(torch.maximum(x.lower * (1 - share) + x.upper * share, x.lower), x.upper)
        value = operators()[name].rules.nominal(call, point)
        for plane, sign in ((found.lower, 1.0), (found.upper, -1.0)):
            assert plane.offset.isfinite().all()
            slack = 1e-14 * (value.abs() + plane.offset.abs() + (plane.slopes[0] * point).abs())
            assert (sign * (value - plane(point)) >= -slack - 1e-300).all()


@pytest.mark.parametrize(
    ("name", "attributes"), [curve for curve in CURVES if curve[0] not in ("Sigmoid", "Tanh", "Softplus")]
)
def test_planes_are_exact_where_the_function_is_linear(name: str, attributes: dict[str, float]) -> None:
    x = box((2.0, 5.0))
    found = planes(name, x, attributes=attributes)
    call = call_of(name, (x,), attributes, {}, Arithmetic.REAL)
    for point in (x.lower, x.upper):
        value = operators()[name].rules.nominal(call, point)
        torch.testing.assert_close(found.lower(point), value)
        torch.testing.assert_close(found.upper(point), value)


@pytest.mark.parametrize(
    ("name", "attributes", "pair", "below", "above"),
    [
        ("LeakyRelu", {"alpha": 0.1}, (-1, 3), (1, 0), (0.775, 0.675)),
        ("LeakyRelu", {"alpha": 0.1}, (-3, 1), (0.1, 0), (0.325, 0.675)),
        ("LeakyRelu", {"alpha": 3.0}, (-3, 1), (2.5, -1.5), (3, 0)),
        ("Abs", {}, (-1, 3), (1, 0), (0.5, 1.5)),
        ("Abs", {}, (-3, 1), (-1, 0), (-0.5, 1.5)),
        ("Clip", {"min": -1.0, "max": 1.0}, (-2, 3), (1 / 2, -1 / 2), (2 / 3, 1 / 3)),
        ("Clip", {"min": -1.0, "max": 1.0}, (-3, 0), (0, -1), (1 / 3, 0)),
        ("Clip", {"min": -1.0, "max": 1.0}, (0, 1.5), (2 / 3, 0), (1, 0)),
        ("Softplus", {}, (-1, 1), (0.5, log(2)), (0.5, log(1 + e) - 0.5)),
        ("Elu", {"alpha": 1.0}, (-1, 1), (1, 0), (1 - 0.5 / e, 0.5 / e)),
        ("Tanh", {}, (-1, 0), (1 - np.tanh(0.5) ** 2, 0.5 - np.tanh(0.5) - 0.5 * np.tanh(0.5) ** 2), (np.tanh(1), 0)),
    ],
)
def test_planes_worked_out_by_hand(
    name: str,
    attributes: dict[str, float],
    pair: tuple[float, float],
    below: tuple[float, float],
    above: tuple[float, float],
) -> None:
    found = planes(name, box(pair), attributes=attributes)
    for plane, expected in ((found.lower, below), (found.upper, above)):
        assert (plane.slopes[0].item(), plane.offset.item()) == pytest.approx(expected)


def mean_gap(found: Planes, x: Interval) -> float:
    return float((found.upper(x.center) - found.lower(x.center)).mean())


def test_planes_of_s_shaped_functions_are_the_optimal_tangents() -> None:
    """Over [−3, 1.5] the tangent to tanh from (−3, f(−3)) touches at d with f′(d)(d + 3) = f(d) − f(−3)."""
    x = box((-3.0, 1.5))
    found = planes("Tanh", x)
    low, high = 0.0, 1.5
    for _ in range(60):
        middle = (low + high) / 2
        at = np.tanh(middle)
        low, high = (low, middle) if at - (1 - at**2) * (middle + 3) > np.tanh(-3) else (middle, high)
    assert found.upper.slopes[0].item() == pytest.approx(1 - np.tanh(high) ** 2, rel=1e-3)
    assert found.upper(x.lower).item() == pytest.approx(np.tanh(-3), abs=1e-3)
    # Over [−1, 0.1] the tangent would touch beyond u, so the chord is best.
    x = box((-1.0, 0.1))
    chord = (np.tanh(0.1) - np.tanh(-1)) / 1.1
    assert planes("Tanh", x).upper.slopes[0].item() == pytest.approx(chord)


def test_planes_of_softmax_beat_the_interval() -> None:
    generator = torch.Generator().manual_seed(3)
    center = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    for radius, share in ((0.05, 0.2), (0.5, 0.75), (2.0, 1.0)):
        x = Interval.bounds(center - radius, center + radius)
        width = float(bounds("Softmax", x).width.mean())
        assert mean_gap(planes("Softmax", x), x) < share * width


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1e3, 1e300])
def test_planes_of_softmax_bound_corners(scale: float) -> None:
    generator = torch.Generator().manual_seed(4)
    center, radius = (torch.rand(40, 5, generator=generator, dtype=torch.float64) * scale for _ in range(2))
    x = Interval.bounds(center - radius, center + radius)
    found = planes("Softmax", x)
    assert found.lower.offset.isfinite().all()
    assert found.upper.offset.isfinite().all()
    for sides in product((-1.0, 0.0, 1.0), repeat=5):
        point = center + radius * torch.tensor(sides, dtype=torch.float64)
        value = point.softmax(-1)
        for plane, sign in ((found.lower, 1.0), (found.upper, -1.0)):
            moduli = (plane.slopes[0] * plane.views[0](point)).abs().sum(-1) + plane.offset.abs()
            assert (sign * (value - plane(point)) >= -1e-13 * (1 + moduli)).all()


def test_planes_of_a_quotient_over_zero_say_nothing() -> None:
    found = planes("Div", box((1, 2), (1, 2)), box((-1, 1), (1, 2)))
    point = exact([1.5, 1.5])
    assert found.lower(point, point)[0, 0] == -inf
    assert found.upper(point, point)[0, 0] == inf
    assert found.lower(point, point)[0, 1] <= 1.0 <= found.upper(point, point)[0, 1] < 2.0


def test_planes_of_a_square_are_tangent_and_chord() -> None:
    x = box((-1.0, 3.0))
    found = planes("Mul", x, x)
    for value in (-1.0, 0.0, 1.0, 3.0):
        point = exact([value])
        assert found.lower(point, point).item() == pytest.approx(2 * value - 1)
        assert found.upper(point, point).item() == pytest.approx(2 * value + 3)


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("form", ["stacked", "bounds", "centered"])
def test_dropout_drops_the_same_from_both_sides(form: str) -> None:
    torch.manual_seed(0)
    center, radius = torch.randn(4, 50), torch.rand(4, 50) + 0.1
    interval = Interval.around(center, radius)
    pair = {
        "stacked": Paired.stacked(torch.cat([center + 0.5 * radius, center]), radius),
        "bounds": Paired.separate(center + 0.5 * radius, Interval.bounds(interval.lower, interval.upper)),
        "centered": Paired.separate(center + 0.5 * radius, interval),
    }[form]
    call = Call({"ratio": 0.3}, ((BATCH, 50),), {}, (BATCH, 50))
    result = operators()["Dropout"].rules.paired(call, pair)
    dropped = result.nominal == 0
    assert 0.2 < dropped.float().mean() < 0.4
    assert torch.equal(result.interval.width == 0, dropped)
    kept = ~dropped
    torch.testing.assert_close(result.nominal[kept], (center + 0.5 * radius)[kept] / 0.7)
    torch.testing.assert_close(result.interval.lower[kept], interval.lower[kept] / 0.7, rtol=1e-4, atol=1e-5)
    assert result.interval.contains(result.nominal).all()


# ── ONNX and specs ──────────────────────────────────────────────────────────────────────────────────────────────
def read(type: str, version: int, inputs: tuple[Tensor | None, ...], attributes: Mapping[str, Any] = {}) -> Tensor:
    """Return the imported value of an ONNX node whose first input is perturbed and whose others are constants."""
    (form,) = [form for operator in operators().values() for form in operator.reads if form.type == type]
    assert version in form.versions
    first = inputs[0]
    assert first is not None
    values = [None if value is None else KnownValue(value, tuple(value.shape), True) for value in inputs[1:]]
    perturbed = KnownValue(first, (BATCH, *first.shape[1:]), False)
    node = OnnxNode("node", type, version, attributes, (perturbed, *values))
    result = form.read(node, EvaluatingBuilder(operators()))
    assert isinstance(result, KnownValue)
    return result.tensor


@pytest.mark.parametrize(("version", "axis"), [(1, 1), (1, 2), (11, 1), (11, -1), (13, 1), (13, 2), (13, 3)])
def test_softmax_of_every_version(version: int, axis: int) -> None:
    x = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=axis)], "one", infos[:1], infos[1:])
    opset = max(version, 7)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(read("Softmax", version, (x,), {"axis": axis}), torch.from_numpy(expected))


def test_softmax_over_the_batch_is_refused() -> None:
    with pytest.raises(GraphError, match="batch"):
        read("Softmax", 13, (torch.zeros(2, 3),), {"axis": 0})


def test_clip_of_every_version() -> None:
    x = torch.linspace(-2, 2, 9)[None]
    expected = x.clamp(-1, 0.5)
    torch.testing.assert_close(read("Clip", 6, (x,), {"min": -1.0, "max": 0.5}), expected)
    torch.testing.assert_close(read("Clip", 6, (x,), {"min": -3.4028234663852886e38, "max": 0.5}), x.clamp(max=0.5))
    torch.testing.assert_close(read("Clip", 13, (x, torch.tensor(-1.0), torch.tensor(0.5))), expected)
    torch.testing.assert_close(read("Clip", 11, (x, None, torch.tensor(0.5))), x.clamp(max=0.5))
    torch.testing.assert_close(read("Clip", 12, (x,)), x)


def test_dropout_of_every_version() -> None:
    x = torch.randn(2, 3)
    for version, inputs in ((7, ()), (10, ()), (12, (torch.tensor(0.3),)), (13, (None, torch.tensor(False)))):
        assert torch.equal(read("Dropout", version, (x, *inputs)), x)
    with pytest.raises(GraphError, match="training_mode"):
        read("Dropout", 13, (x, None, torch.tensor(True)))


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (2,), (4, 2), (3, 4, 2), (1, 3, 1, 2)])
def test_slopes_of_every_shape(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, slope = torch.randn(2, 3, 4, 2, generator=generator), torch.randn(shape, generator=generator)
    expected = ReferenceEvaluator(helper.make_node("PRelu", ["x", "s"], ["y"]), opsets={"": 16}).run(
        None, {"x": x.numpy(), "s": slope.numpy()}
    )[0]
    torch.testing.assert_close(read("PRelu", 16, (x, slope)), torch.from_numpy(expected))


def test_slopes_that_depend_on_an_input() -> None:
    x, slope = torch.randn(2, 3), torch.randn(2, 3)
    (form,) = operators()["PRelu"].reads
    values = tuple(KnownValue(value, (BATCH, 3), False) for value in (x, slope))
    result = form.read(OnnxNode("node", "PRelu", 16, {}, values), EvaluatingBuilder(operators()))
    assert isinstance(result, KnownValue)
    torch.testing.assert_close(result.tensor, torch.where(x < 0, slope * x, x))


@dataclass(frozen=True)
class Recorder(EvaluatingBuilder):
    """A builder that records its calls."""

    asked: list[tuple[str, dict[str, Tensor]]] = field(default_factory=list)

    def add(self, operator: str, operands: Any, attributes: Any = None, parameters: Any = None) -> KnownValue:
        self.asked.append((operator, dict(parameters or {})))
        return super().add(operator, operands, attributes, parameters)


def test_product_with_a_constant_matrix_becomes_a_layer_that_trains() -> None:
    x, weight = torch.randn(2, 5, 3), torch.randn(3, 4)
    (form,) = (read for read in operators()["MatMul"].reads if read.type == "MatMul")
    values = KnownValue(x, (BATCH, 5, 3), False), KnownValue(weight, (3, 4), True)
    recorder = Recorder(operators())
    result = form.read(OnnxNode("node", "MatMul", 13, {}, values), recorder)
    assert isinstance(result, KnownValue)
    torch.testing.assert_close(result.tensor, x @ weight)
    ((operator, parameters),) = recorder.asked
    assert operator == "Gemm"
    assert torch.equal(parameters["weight"], weight.T)


def test_layers_mean_what_torch_means() -> None:
    layers = {layer.name: layer for operator in operators().values() for layer in operator.layers}

    def attributes(name: str, **options: Any) -> Mapping[str, Any]:
        defaults = {key: option["default"] for key, option in layers[name].options.items() if "default" in option}
        return layers[name].plan({**defaults, **options}, ((BATCH, 3, 2),)).attributes

    assert attributes("LeakyReLU", negative_slope=0.2) == {"alpha": 0.2}
    assert attributes("ELU") == {"alpha": 1.0}
    assert attributes("Hardtanh") == {"min": -1.0, "max": 1.0}
    assert attributes("ReLU6") == {"min": 0.0, "max": 6.0}
    assert attributes("Clip", max=2.0) == {"min": None, "max": 2.0}
    assert attributes("Dropout", p=0.1) == {"ratio": 0.1}
    assert attributes("Softmax", dim=1) == {"axis": 1}
    assert layers["PReLU"].plan({"num_parameters": 3}, ((BATCH, 3, 2),)).parameters == {"weight": (3,)}


def test_softplus_with_another_beta_is_refused() -> None:
    (layer,) = operators()["Softplus"].layers
    jsonschema.validate(1, dict(layer.options["beta"]))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(2, dict(layer.options["beta"]))


def test_slopes_that_fit_no_channel_are_refused() -> None:
    for weight in ((2,), (1, 4, 1), (2, 3, 2), (1, 3)):
        with pytest.raises(GraphError):
            operators()["PRelu"].infer_shape({}, ((BATCH, 3, 2),), {"weight": weight})
