"""The checker's rules type by type, in every version that changed a meaning: points of boxes, other bounds.

Each row is one node. What ONNX Runtime (or the reference evaluator, where that lacks a type) computes at points and
corners of boxes lies inside the bounds; over a point these are narrow; and they are never looser than the compiler's in
binary32, for then what the compiler proves would not be confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from ibpc.errors import ModelError
from ibpc.frontends.onnx import translate
from ibpc.lowering import lower_interval, parameter_tree
from ibpc.ops import operators
from ibpc.rounding import Arithmetic
from ibpc.verify.checking import Checker
from ibpc.verify.checking.onnx_file import OnnxFile
from ibpc.verify.checking.rules import RULES
from tests.onnx_models import REFUSALS, chain, normal, runtime

SAMPLES = 8


@dataclass(frozen=True)
class Row:
    """A node at inputs of a shape, centered somewhere, over boxes of some radii."""

    kind: str
    shape: tuple[int, ...]
    opset: int
    constants: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    center: float = 0.0
    scale: float = 1.0
    radii: tuple[float, ...] = (0.0, 0.05, 1.0)

    @property
    def model(self) -> onnx.ModelProto:
        """The model of the node."""
        names = ["" if value is None else name for name, value in self.constants.items()]
        given = {name: value for name, value in self.constants.items() if value is not None}
        step = (self.kind, *names, dict(self.attributes))
        return chain(step, start=self.shape, constants=given, opset=self.opset)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.attributes.items())
        return f"{self.kind}-{self.opset}({options}) of {self.shape}"


def curves() -> Iterator[Row]:
    line = (1, 30)
    for opset in (12, 28):
        for alpha in (1.0, 0.3, 2.5):
            yield Row("Celu", line, opset, {}, {"alpha": alpha}, scale=3)
    for opset in (7, 22):
        yield Row("HardSigmoid", line, opset, scale=3)
        for alpha, beta in ((-0.3, 0.4), (1 / 6, 0.5), (0.0, 2.0)):
            yield Row("HardSigmoid", line, opset, {}, {"alpha": alpha, "beta": beta}, scale=3)
        yield Row("Softsign", line, opset, scale=3)
        yield Row("Atan", line, opset, scale=3)
    for opset in (9, 22):
        for kind in ("Asinh", "Sinh", "Cosh"):
            yield Row(kind, line, opset, scale=3)
        yield Row("Atanh", line, opset, scale=0.2, radii=(0.0, 0.05, 0.3))
    for kind, opsets in (("HardSwish", (14, 22)), ("Mish", (18, 22)), ("Gelu", (20,)), ("Swish", (24,))):
        for opset in opsets:
            yield Row(kind, line, opset, scale=3, radii=(0.0, 0.05, 1.0, 20.0))
    yield Row("Gelu", line, 20, {}, {"approximate": "tanh"}, scale=3, radii=(0.0, 0.05, 1.0, 20.0))
    for alpha in (-2.0, 0.3):
        yield Row("Swish", line, 24, {}, {"alpha": alpha}, scale=3, radii=(0.0, 0.05, 1.0, 20.0))
    for options in ({}, {"bias": 0.3}, {"bias": -0.7, "lambd": 1.0}, {"lambd": 0.0}):
        yield Row("Shrink", line, 9, {}, options)
    for opset in (10, 22):
        for options in ({}, {"alpha": -0.4}, {"alpha": 0.0}):
            yield Row("ThresholdedRelu", line, opset, {}, options)


def reductions() -> Iterator[Row]:
    shape = (1, 3, 4, 2)
    for kind in ("L1", "L2", "SumSquare", "LogSum", "LogSumExp", "Prod"):
        name, center = f"Reduce{kind}", 3.0 if kind == "LogSum" else 0.0
        for opset in (7, 11, 13):
            yield Row(name, shape, opset, {}, {"axes": [1, -1], "keepdims": 0}, center)
        for opset in (18, 28):
            yield Row(name, shape, opset, {"axes": np.array([-2, 1])}, {}, center)
        yield Row(name, shape, 18, {}, {"keepdims": 0}, center)
        yield Row(name, shape, 18, {}, {"noop_with_empty_axes": 1}, center)
        yield Row(name, (1, 200), 13, {}, {"axes": [1]}, center, 0.3)
    for opset in (7, 11, 13):
        for kind in ("Softmax", "LogSoftmax"):
            yield Row(kind, (1, 3, 5), opset, scale=3)
            yield Row(kind, (1, 3, 5), opset, {}, {"axis": -1}, scale=20)
    for opset in (11, 14):
        for options in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
            yield Row("CumSum", (1, 3, 5), opset, {"axis": np.int64(-2 if options else 2)}, options)


def normalizations() -> Iterator[Row]:
    factors = {"s": normal(3), "b": normal(3, seed=1)}
    for opset in (7, 22):
        yield Row("InstanceNormalization", (1, 3, 4, 5), opset, factors)
        yield Row("InstanceNormalization", (1, 3, 4), opset, factors, {"epsilon": 0.1}, 3.0)
        for p in (1, 2):
            yield Row("LpNormalization", (1, 3, 5), opset, {}, {"p": p, "axis": 1})
            yield Row("LpNormalization", (1, 3, 5), opset, {}, {"p": p}, 5.0)
    for opset, count in ((18, 3), (21, 6)):
        scales = {"s": normal(count), "b": normal(count, seed=1)}
        yield Row("GroupNormalization", (1, 6, 4), opset, scales, {"num_groups": 3})
    for size, axis, epsilon in ((16, -1, 1e-5), (5, 2, 0.01), (2, -1, 1e-3), (9, -1, 0.3)):
        factors, options = {"s": normal(size), "b": normal(size, seed=1)}, {"axis": axis, "epsilon": epsilon}
        radii = (0.0, 0.05, 0.5, 5.0)
        yield Row("LayerNormalization", (1, 3, size), 17, factors, options, radii=radii)
        yield Row("RMSNormalization", (1, 3, size), 23, {"s": normal(size)}, options, radii=radii)
    yield Row("LayerNormalization", (1, 3, 4), 17, {"s": normal(3, 4)}, {"axis": 1})
    for opset in (7, 13):
        yield Row("LRN", (1, 7, 3, 3), opset, {}, {"size": 3})
        for alpha, beta, bias in ((0.5, 0.6, 2.0), (2.0, 1.5, 0.5), (1.0, 0.3, 1.0)):
            options = {"size": 5, "alpha": alpha, "beta": beta, "bias": bias}
            yield Row("LRN", (1, 7, 3, 3), opset, {}, options, scale=3)


def windows() -> Iterator[Row]:
    plane = (1, 2, 6, 7)
    for opset in (11, 22):
        yield Row("LpPool", plane, opset, {}, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "p": 1})
        for p, mode in ((3, "SAME_UPPER"), (2, "SAME_LOWER")):
            yield Row("LpPool", plane, opset, {}, {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": mode, "p": p})
    for opset in (18, 22):
        yield Row("LpPool", plane, opset, {}, {"kernel_shape": [2, 2], "dilations": [2, 3]})
        yield Row("LpPool", plane, opset, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})
    for p in (1, 2, 3):
        yield Row("GlobalLpPool", (1, 2, 3, 4), 13, {}, {"p": p})


def moves() -> Iterator[Row]:
    for opset in (9, 11, 28):
        yield Row("Compress", (1, 3, 4), opset, {"c": np.array([True, False, True])}, {"axis": 1})
        yield Row("Compress", (1, 2, 2), opset, {"c": np.array([0, 1, 1], bool)})
    for opset in (10, 28):
        yield Row("ReverseSequence", (1, 4, 3), opset, {"l": np.array([3])}, {"batch_axis": 0, "time_axis": 1})
    for upper in (0, 1):
        for diagonal in ({}, {"k": np.int64(1)}, {"k": np.int64(-1)}):
            yield Row("Trilu", (1, 3, 4), 14, diagonal, {"upper": upper})
    for opset in (12, 28):
        yield Row("Einsum", (1, 3, 4), opset, {"w": normal(4, 5)}, {"equation": "bij,jk->bik"})
        yield Row("Einsum", (1, 3, 4), opset, {"w": normal(4, 5)}, {"equation": "...j,jk"})
        yield Row("Einsum", (1, 2, 3, 4), opset, {"w": normal(2, 4, 5)}, {"equation": "bh...d, hde -> bh...e"})
        for equation in ("bii->bi", "bij->bj", "bij->bji"):
            yield Row("Einsum", (1, 3, 3), opset, {}, {"equation": equation})


def resized(opset: int, shape: tuple[int, ...], options: Mapping[str, Any], **given: Any) -> Row:
    constants = {"roi": np.array(given.get("roi", []), np.float32), "scales": np.array(given.get("scales", []), "f")}
    if "sizes" in given:
        constants["sizes"] = np.array(given["sizes"])
    return Row("Resize", shape, opset, constants, options, radii=(0.0, 0.3))


def interpolations() -> Iterator[Row]:
    places = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    for opset in (11, 13, 18, 19):
        for mode in ("nearest", "linear", "cubic"):
            for place in places if opset == 13 else places[:1]:
                options = {"mode": mode, "coordinate_transformation_mode": place}
                yield resized(opset, (1, 1, 4, 5), options, scales=[1, 1, 2, 3])
                yield resized(opset, (1, 1, 4, 5), options, sizes=[1, 1, 7, 3])
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        for place in ("half_pixel", "asymmetric"):
            options = {"nearest_mode": rounding, "coordinate_transformation_mode": place}
            yield resized(13, (1, 1, 6, 6), options, scales=[1, 1, 0.5, 3])
    crop = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    yield resized(13, (1, 1, 6, 6), crop, sizes=[1, 1, 3, 3], roi=[0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7])
    outside = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
    yield resized(13, (1, 1, 6, 6), outside, scales=[1, 1, 0.6, 0.8])
    symmetric = {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}
    yield resized(19, (1, 1, 6, 6), symmetric, scales=[1, 1, 0.6, 2.3])
    for mode in ("linear", "cubic"):
        yield resized(18, (1, 1, 8, 8), {"mode": mode, "antialias": 1}, scales=[1, 1, 0.6, 0.5])
    for policy in ("not_larger", "not_smaller"):
        options = {"mode": "linear", "axes": [3, 2], "keep_aspect_ratio_policy": policy}
        yield resized(18, (1, 1, 4, 6), options, sizes=[7, 7])
    for mode in ("nearest", "linear"):
        for scales in ([1, 1, 2, 3], [1, 1, 0.5, 0.5]):
            yield Row("Resize", (1, 1, 4, 6), 10, {"s": np.array(scales, "f")}, {"mode": mode}, radii=(0.0, 0.3))
        yield Row("Upsample", (1, 1, 4, 6), 9, {"s": np.array([1, 1, 2, 3], "f")}, {"mode": mode}, radii=(0.0, 0.3))
        yield Row("Upsample", (1, 1, 4, 6), 7, {}, {"mode": mode, "scales": [1.0, 1.0, 2.0, 1.5]}, radii=(0.0, 0.3))


ROWS = [
    *(row for rows in (curves, reductions, normalizations, windows, moves, interpolations) for row in rows()),
]


def evaluated(proto: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    """Return the first output as a function of x, by ONNX Runtime if it can."""
    try:
        session = runtime(proto)
    except REFUSALS:
        session = ReferenceEvaluator(proto)
    return lambda x: np.asarray(session.run(None, {"x": x})[0]).astype(np.float64).ravel()


def points(lower: np.ndarray, upper: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield points of a binary32 box, every other one a corner."""
    rng = np.random.default_rng(1)
    for number in range(count):
        if number % 2:
            yield np.where(rng.random(lower.shape) < 0.5, lower, upper)
        else:
            yield np.clip(rng.uniform(lower, upper).astype(np.float32), lower, upper)


def compiled(row: Row) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the compiler's bounds in binary32 as a function of the ends of a box."""
    graph = translate(row.model, "row").graph
    bound = lower_interval(graph, parameter_tree(graph), Arithmetic.FLOAT32)
    shape = graph.node(graph.inputs[0]).shape[1:]

    def bounds(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            ends = bound(*(torch.from_numpy(side).reshape(-1, *shape) for side in (lower, upper)))
        return ends[0].double().numpy().ravel(), ends[1].double().numpy().ravel()

    return bounds


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_rule_holds_what_is_computed_and_is_as_close_as_the_compiler(row):
    proto, run, other = row.model, evaluated(row.model), compiled(row)
    checker = Checker(proto)
    x = (row.center + row.scale * np.random.default_rng(1).normal(size=row.shape)).astype(np.float32)
    for radius in row.radii:
        lower, upper = x - np.float32(radius), x + np.float32(radius)
        low, high = (np.zeros(0),) * 2
        for arithmetic in ("real", "float32"):
            ends = [[side.astype(np.float64).ravel()] for side in (lower, upper)]
            with np.errstate(all="ignore"):
                size = run(x).size
            low, high = checker.bound_rows(*ends, np.eye(size), arithmetic)
            for point in points(lower, upper, SAMPLES):
                with np.errstate(all="ignore"):
                    value = run(point)
                slack = 1e-5 * (1 + np.abs(value)) if arithmetic == "real" else 0.0
                assert ((low - slack <= value) & (value <= high + slack))[~np.isnan(value)].all()
                if radius == 0:
                    assert (high - low <= 1e-3 * (1 + np.abs(value))).all()
        least, most = other(lower, upper)
        slack = 1e-36 + 1e-13 * np.where(np.isfinite(low), np.abs(low) + np.abs(high), 0.0)
        assert (low >= least - slack).all() and (high <= most + slack).all()


def test_every_imported_type_has_a_rule():
    assert {reading.type for operator in operators().values() for reading in operator.reads} <= set(RULES)


# ── what is refused, and what nothing is known of ───────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("step", "constants", "wanted"),
    [
        (("Celu", {"alpha": -1.0}), {}, "alpha -1.0"),
        (
            ("AveragePool", {"kernel_shape": [2, 2], "dilations": [1, 2], "auto_pad": "SAME_LOWER"}),
            {},
            "runtimes differ",
        ),
        (("AveragePool", {"kernel_shape": [1, 1], "strides": [3, 3], "auto_pad": "SAME_UPPER"}), {}, "runtimes differ"),
        (
            ("ConvTranspose", "w", {"strides": [3, 3], "auto_pad": "SAME_UPPER"}),
            {"w": normal(2, 1, 2, 2)},
            "runtimes differ",
        ),
        (("Gelu", {"approximate": "sigmoid"}), {}, "its form"),
        (("LRN", {"size": 4}), {}, "its size 4"),
        (("LpPool", {"kernel_shape": [2, 2], "p": 0}), {}, "its exponent 0"),
        (("Einsum", "w", "w", {"equation": "bchw,k,k->bchw"}), {"w": normal(3)}, "3 operands"),
        (("Upsample", "s", {"mode": "cubical"}), {"s": np.array([1, 1, 2, 1], "f")}, "its mode"),
        (
            ("Resize", "r", "s", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
            {"r": np.zeros(0, "f"), "s": np.array([1, 1, 0.6, 1], "f")},
            "a whole number of results",
        ),
        (
            ("Resize", "r", "s", {"mode": "nearest"}),
            {"r": np.zeros(0, "f"), "s": np.array([1, 1, 1, 0.7], "f")},
            "no rounding decides",
        ),
    ],
)
def test_what_has_no_rule_is_refused(step, constants, wanted):
    proto = chain(step, start=[1, 2, 3, 10], constants=constants, opset=20 if step[0] != "Upsample" else 9)
    ends = [[np.full(60, side)] for side in (0.0, 1.0)]
    with pytest.raises(ModelError, match=wanted):
        Checker(proto).bound_rows(*ends, np.ones((1, 60)), "float32")


@pytest.mark.parametrize("big", [100.0, 1e3])
def test_sums_that_slide_along_channels_are_inside(big):
    """ONNX Runtime adds one square and subtracts another: what greater channels rounded stays in the base."""
    row = Row("LRN", (1, 64, 1, 1), 13, {}, {"size": 5, "alpha": 1.0})
    x = np.random.default_rng(0).normal(size=row.shape).astype(np.float32)
    x[0, :3] *= big
    value = evaluated(row.model)(x)
    ends = [[x.astype(np.float64).ravel()]] * 2
    assert np.isfinite(value).all()
    for low, high in (Checker(row.model).bound_rows(*ends, np.eye(64), "float32"), compiled(row)(x, x)):
        known = np.isfinite(low) & np.isfinite(high)
        assert ((low <= value) & (value <= high))[known].all()


# ── numbers that are none, and integers that wrap around ────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "kind", ["Relu", "Sigmoid", "Tanh", "Clip", "Abs", "Erf", "Elu", "Exp", "Sign", "HardSigmoid", "HardSwish", "Cos"]
)
def test_what_saturates_does_not_hide_what_is_no_number(kind):
    """ln(−1) is NaN, and so is what these make of it in ONNX Runtime or elsewhere: no bound holds."""
    proto = chain(("Log",), (kind,), start=[1, 2], constants={}, opset=22)
    ends = [[np.array([-1.0, 1.0])], [np.array([-0.5, 2.0])]]
    low, high = Checker(proto).bound_rows(*ends, np.eye(2), "float32")
    assert (low[0], high[0]) == (-np.inf, np.inf)
    assert np.isfinite(low[1]) and np.isfinite(high[1])


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        (("MaxPool", {"kernel_shape": [2]}), (1, 1, 2)),
        (("GlobalMaxPool",), (1, 1, 2)),
        (("ReduceMax", {"axes": [2]}), (1, 1, 2)),
        (("ReduceL2", {"axes": [2]}), (1, 1, 2)),
        (("LpPool", {"kernel_shape": [2]}), (1, 1, 2)),
        (("Softmax",), (1, 1, 2)),
        (("LogSoftmax",), (1, 1, 2)),
        (("LayerNormalization", "one"), (1, 1, 2)),
        (("LpNormalization",), (1, 1, 2)),
        (("LRN", {"size": 3}), (1, 2, 1)),
        (("Max", "x"), (1, 1, 2)),
    ],
)
def test_nor_does_what_takes_several(step, shape):
    constants = {"one": np.ones(2, np.float32)}
    proto = chain(("Log",), step, start=shape, constants=constants, opset=17)
    ends = [[np.array([-1.0, 1.0])], [np.array([-0.5, 2.0])]]
    size = 2 if step[0] not in ("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceL2", "LpPool") else 1
    low, high = Checker(proto).bound_rows(*ends, np.eye(size)[:1], "float32")
    assert (low[0], high[0]) == (-np.inf, np.inf)


@pytest.mark.parametrize(("kind", "number"), [("Mul", 10**6), ("Add", 2**31 - 10**4), ("Sub", 2**31 - 10**4)])
def test_integers_that_may_wrap_around_are_not_bounded(kind, number):
    """In 32 bits 30,000 · 10⁶ is another number, of which nothing is known; one that fits is bounded."""
    for top, known in ((100.0, True), (30000.0, False)):
        proto = chain(
            ("Cast", {"to": onnx.TensorProto.INT32}),
            (kind, "c"),
            ("Cast", {"to": onnx.TensorProto.FLOAT}),
            start=[1, 1],
            constants={"c": np.int32(number)},
        )
        low, high = Checker(proto).bound_rows([np.array([-top])], [np.array([top])], np.eye(1), "float32")
        assert np.isfinite([low[0], high[0]]).all() == known
        values = [evaluated(proto)(np.array([[x]], np.float32))[0] for x in (-top, top)]
        assert all(low[0] <= value <= high[0] for value in values)


def test_later_operator_sets_are_refused():
    with pytest.raises(ModelError, match="operator set 29"):
        Checker(chain(("Relu",), start=[1, 2], constants={}, opset=29))


def test_types_are_known_behind_group_normalizations():
    """Of which onnx's shape inference does not know what they return, in version 21."""
    constants = {"s": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    step = ("GroupNormalization", "s", "b", {"num_groups": 2})
    for opset in (21, 28):
        proto = chain(step, ("Relu",), step, ("Softsign",), start=[1, 4, 3], constants=constants, opset=opset)
        point = [np.random.default_rng(0).normal(size=12).astype(np.float32).astype(np.float64)]
        low, high = Checker(proto).bound_rows(point, point, np.eye(12)[:1], "real")
        assert np.isfinite([low, high]).all()
        assert OnnxFile.of(proto).types["h2"] == onnx.TensorProto.FLOAT
