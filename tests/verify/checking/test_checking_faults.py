"""Faults that the checker had: bounds that an execution contradicts. Each is bounded now, or refused."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibpc.errors import ModelError
from ibpc.verify.checking import Checker

_FLOAT, _INT32, _INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
_LARGE = float(np.float32(2e38))


def value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _FLOAT, shape)


def node(kind: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [{"-": ""}.get(name, name) for name in inputs.split()], [output], **attributes)


def network(
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    output: tuple[int, ...],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [value("x", shape)], [value("y", output)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def bounds(model: onnx.ModelProto, lower: Any, upper: Any = None, arithmetic: str = "float32") -> list[np.ndarray]:
    ends = [np.asarray(lower if end is None else end, np.float64).ravel() for end in (lower, upper)]
    size = int(np.prod([dimension.dim_value for dimension in model.graph.output[0].type.tensor_type.shape.dim]))
    return list(Checker(model).bound_rows([ends[0]], [ends[1]], np.eye(size), arithmetic))


def assert_refused(model: onnx.ModelProto, *point: float) -> None:
    with pytest.raises(ModelError):
        bounds(model, point)


def assert_unknown(model: onnx.ModelProto, lower: Any, upper: Any = None) -> None:
    found = bounds(model, lower, upper)
    assert np.isneginf(found[0]).any() or np.isposinf(found[1]).any()


# ── constants ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_elementary_function_of_a_constant_is_no_constant():
    number = np.float32(2.2408931)
    lower, upper = bounds(network([node("Exp", "k")], (1, 1), (1, 1), {"k": np.array([[number]])}), [0])
    assert lower < np.exp(float(number)) * (1 - 2.0**-24) and np.exp(float(number)) * (1 + 2.0**-24) < upper


def test_a_sum_of_constants_holds_every_order():
    rng = np.random.RandomState(0)
    left, right = rng.randn(1, 512).astype(np.float32), rng.randn(512, 1).astype(np.float32)
    right[-1, 0] -= np.float32((left.astype(np.float64) @ right.astype(np.float64))[0, 0] / left[0, -1])  # cancels
    exact = float(sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(left[0], right[:, 0], strict=True)))
    model = network([node("MatMul", "a b", "w"), node("MatMul", "x w")], (1, 1), (1, 1), {"a": left, "b": right})
    one = np.float32(0)
    for a, b in zip(left[0], right[:, 0], strict=True):
        one = np.float32(one + a * b)
    lower, upper = bounds(model, [1])
    assert lower < min(exact, float(one)) and max(exact, float(one)) < upper


def test_a_norm_of_constants_is_no_constant():
    row = np.random.RandomState(3).randn(1, 1000).astype(np.float32)
    lower, upper = bounds(network([node("ReduceL2", "k", axes=[1])], (1, 1), (1, 1), {"k": row}, 13), [0])
    assert upper - lower > 1e-6


def test_one_rounded_operation_on_constants_is_a_constant():
    model = network([node("Div", "k c", "w"), node("MatMul", "x w")], (1, 1), (1, 1), {})
    model.graph.initializer.extend(
        numpy_helper.from_array(np.full((1, 1), number, np.float32), name) for name, number in (("k", 1), ("c", 3))
    )
    lower, upper = bounds(model, [0])
    assert lower <= 0 <= upper and upper - lower < 1e-30


def test_softmax_of_a_constant_before_version_13_is_of_two_dimensions():
    constant = np.float32([[[1, 2], [3, 4]]])
    model = network([node("Softmax", "k", "d", axis=1), node("Add", "x d")], (1, 2, 2), (1, 2, 2), {"k": constant}, 11)
    lower, upper = bounds(model, [0] * 4)
    wanted = np.exp(constant.ravel()) / np.exp(constant).sum()
    assert (lower <= wanted).all() and (wanted <= upper).all() and (upper - lower < 1e-4).all()


def test_graphs_of_a_node_are_refused():
    branches = [
        helper.make_graph([node("Cast", "operand0", name, to=_FLOAT)], name, [], [value(name, (1,))]) for name in "rs"
    ]
    choice = helper.make_node("If", ["b"], ["q"], then_branch=branches[0], else_branch=branches[1])
    constants = {"b": np.array(True), "zero": np.float32([0])}
    assert_refused(network([choice, node("Add", "q x")], (1,), (1,), constants), 0)


def test_dropout_of_a_constant_in_training_mode_is_refused():
    constants = {"k": np.float32([[1, 1]]), "r": np.float32(0.5), "t": np.array(True)}
    assert_refused(
        network([node("Dropout", "k r t", "d", seed=3), node("Add", "x d")], (1, 2), (1, 2), constants), 0, 0
    )


# ── what moves, and operator sets ───────────────────────────────────────────────────────────────────────────────
def test_many_rows_are_gathered_each_from_its_own():
    nodes = [node("Transpose", "x", "t"), node("GatherElements", "t i", "g", axis=0), node("Transpose", "g")]
    lower, upper = bounds(network(nodes, (1, 70), (1, 70), {"i": np.zeros((70, 1), np.int64)}), range(70))
    np.testing.assert_array_equal(lower, np.zeros(70))
    np.testing.assert_array_equal(upper, np.zeros(70))


@pytest.mark.parametrize("is_constant", [True, False])
def test_slices_that_onnx_runtime_cuts_otherwise_are_refused(is_constant):
    """ONNX clamps a start before the first element to it; the evaluator slices as Python does and finds none."""
    window = {"b": np.int64([-8]), "e": np.int64([-9]), "a": np.int64([1]), "s": np.int64([-1])}
    nodes = [node("Slice", f"{'k' if is_constant else 'x'} b e a s", "c"), node("ReduceSum", "c a", "t", keepdims=1)]
    nodes.append(node("Mul", "x t"))
    assert_refused(network(nodes, (1, 1), (1, 1), {"k": np.ones((1, 4), np.float32), **window}), 0.5)


def test_two_versions_of_the_default_domain_are_refused():
    model = network([node("Softmax", "x", axis=1)], (1, 2, 2), (1, 2, 2))
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx", 11)])
    assert_refused(model, 1, 2, 3, 4)


# ── overflow on the way ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("nodes", "shape", "output", "constants"),
    [
        pytest.param([node("ReduceMean", "x", axes=[1])], (1, 3), (1, 1), {}, id="ReduceMean"),
        pytest.param([node("Mean", "x x x")], (1, 1), (1, 1), {}, id="Mean"),
        pytest.param([node("GlobalAveragePool", "x")], (1, 1, 3), (1, 1, 1), {}, id="GlobalAveragePool"),
        pytest.param([node("AveragePool", "x", kernel_shape=[3])], (1, 1, 3), (1, 1, 1), {}, id="AveragePool"),
        pytest.param([node("Gemm", "x w", alpha=1e-3)], (1, 3), (1, 1), {"w": np.ones((3, 1), np.float32)}, id="Gemm"),
        pytest.param(
            [node("BatchNormalization", "x s b m v")],
            (1, 1, 1),
            (1, 1, 1),
            {name: np.float32([number]) for name, number in zip("sbmv", (1e-3, 0, -2e38, 1), strict=True)},
            id="BatchNormalization",
        ),
    ],
)
def test_what_overflows_before_it_is_made_smaller_is_unknown(nodes, shape, output, constants):
    assert_unknown(network(nodes, shape, output, constants, 13), np.full(shape, _LARGE))


def test_squares_that_overflow_before_they_are_made_smaller_are_unknown():
    assert_unknown(network([node("LRN", "x", size=1, alpha=1e-38)], (1, 1, 1), (1, 1, 1)), [3e19])


# ── no numbers ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["Sin", "Cos"])
def test_waves_at_infinity_are_unknown(kind):
    assert_unknown(network([node("Exp", "x", "e"), node(kind, "e")], (1, 1), (1, 1)), [0], [100])


def test_the_remainder_of_no_number_is_unknown():
    nodes = [node("Log", "x", "e"), node("Mod", "e d", fmod=1)]
    assert_unknown(network(nodes, (1, 1), (1, 1), {"d": np.float32([[3]])}), [-1], [1])


# ── integers ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["Abs", "Neg"])
def test_the_least_integer_has_no_modulus(kind):
    nodes = [node("Cast", "x", "i", to=_INT64), node(kind, "i", "a"), node("Cast", "a", to=_FLOAT)]
    assert_unknown(network(nodes, (1, 1), (1, 1)), [-(2.0**63)])


@pytest.mark.parametrize("kind", ["Sub", "Less"])
def test_constants_that_binary64_does_not_have_are_refused(kind):
    nodes = [node("Cast", "x", "i", to=_INT64), node(kind, "i k", "a"), node("Cast", "a", to=_FLOAT)]
    assert_refused(network(nodes, (1, 1), (1, 1), {"k": np.int64([[2**53 + 1]])}), 2.0**53)


def test_integers_behind_a_node_without_inference_wrap_around():
    nodes = [node("Cast", "x", "i", to=_INT32), node("Compress", "i c", "j", axis=1)]
    nodes += [node("Mul", "j k", "a"), node("Cast", "a", to=_FLOAT)]
    constants = {"c": np.array([True]), "k": np.int32([[65536]])}
    assert_unknown(network(nodes, (1, 1), (1, 1), constants, 9), [65536])


# ── attributes ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_negative_lambd_is_refused():
    assert_refused(network([node("Shrink", "x", lambd=-1.0, bias=5.0)], (1, 2), (1, 2)), 1, 0.5)


def test_normalization_that_is_not_spatial_is_refused():
    constants = {name: np.float32([[1, 3]]) for name in "sbmv"}
    nodes = [node("BatchNormalization", "x s b m v", spatial=0)]
    assert_refused(network(nodes, (1, 1, 2), (1, 1, 2), constants, 7), 1, 2)


def test_valid_windows_do_not_count_what_ceil_mode_adds():
    attributes = {"auto_pad": "VALID", "ceil_mode": 1, "count_include_pad": 1, "kernel_shape": [3], "strides": [3]}
    lower, upper = bounds(
        network([node("AveragePool", "x", **attributes)], (1, 1, 5), (1, 1, 2), {}, 19), [0, 0, 0, 3, 3]
    )
    assert lower[1] <= 3 <= upper[1]


def test_a_crop_of_scale_1_is_refused():
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "nearest", "nearest_mode": "floor"}
    constants = {"r": np.float32([0, 0, -0.5, 1, 1, 1]), "z": np.int64([1, 1, 3])}
    assert_refused(network([node("Resize", "x r - z", **attributes)], (1, 1, 3), (1, 1, 3), constants, 13), 0, 1, 2)


@pytest.mark.parametrize("opset", [9, 13])
def test_a_resize_that_keeps_the_size_is_refused(opset):
    """Three elements times 1.3 are three again, which ONNX Runtime copies."""
    if opset == 9:
        resizing = node("Upsample", "x s", mode="nearest")
    else:
        resizing = node("Resize", "x - s", mode="linear", coordinate_transformation_mode="asymmetric")
    scales = {"s": np.float32([1, 1, 1, 1.3])}
    assert_refused(network([resizing], (1, 1, 1, 3), (1, 1, 1, 3), scales, opset), 1.0, 2.0, 3.0)


def test_cubic_sums_of_numbers_near_the_largest_are_unknown():
    """ONNX Runtime multiplies the elements of weight 0 as well, on the way to a sum that is no number."""
    resizing = node("Resize", "x - s", mode="cubic", coordinate_transformation_mode="asymmetric")
    scales = {"s": np.float32([1, 1, 1, 2])}
    assert_unknown(network([resizing], (1, 1, 1, 4), (1, 1, 1, 8), scales, 13), [3e38, 0.0, 0.0, 0.0])


GREAT = np.full(4, 2**31 - 1, np.int32)
TOTALS = {
    "ReduceSum": ([node("ReduceSum", "k", "s", keepdims=0)], {}),
    "ReduceProd": ([node("ReduceProd", "k", "s", keepdims=0)], {}),
    "CumSum": ([node("CumSum", "k axis", "s")], {"axis": np.int64(0)}),
    "MatMul": ([node("MatMul", "k k", "s")], {}),
}


@pytest.mark.parametrize("kind", TOTALS)
@pytest.mark.parametrize("size", [1, 2**31 - 1])
def test_integers_whose_total_leaves_their_type_are_no_constants(kind, size):
    """Small ones are; of great ones nothing is claimed, or they are refused."""
    totals, constants = TOTALS[kind]
    nodes = [*totals, node("Cast", "s", "c", to=_FLOAT), node("ReduceMax", "c", "m", keepdims=0), node("Add", "x m")]
    model = network(nodes, (1, 1), (1, 1), {"k": np.minimum(GREAT, size), **constants}, 17)
    if size == 1:
        lower, upper = bounds(model, [0.0])
        assert lower <= (1.0 if kind == "ReduceProd" else 4.0) <= upper and upper - lower < 1e-3
        return
    with suppress(ModelError):
        assert_unknown(model, [0.0])


def test_half_pixels_for_neighbours_of_scale_1_are_refused():
    attributes = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "mode": "linear"}
    constants = {"r": np.float32([]), "s": np.float32([1, 1, 1, 0.6])}
    model = network([node("Resize", "x r s", **attributes)], (1, 1, 5, 2), (1, 1, 5, 1), constants, 11)
    assert_refused(model, *(i * i for i in range(10)))


def test_quantization_in_another_precision_is_refused():
    nodes = [node("QuantizeLinear", "x s z", "q", precision=TensorProto.FLOAT16), node("Cast", "q", to=_FLOAT)]
    assert_refused(network(nodes, (1, 1), (1, 1), {"s": np.float32(1), "z": np.uint16(0)}, 23), 2049.25)


def test_celu_by_the_formula_of_the_standard_rounds_twice_above_zero():
    x = np.random.default_rng(0).random(500).astype(np.float32)
    alpha = np.float32(3.0)
    computed = (x / alpha) * alpha
    assert (computed != x).any()
    lower, upper = bounds(network([node("Celu", "x", alpha=3.0)], (1, 500), (1, 500)), x)
    assert bool(((lower <= computed) & (computed <= upper)).all())
