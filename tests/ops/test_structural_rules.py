"""Pools, the transposed convolution, and the operators that move elements: examples worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema
import onnx
import pytest
import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval, Paired
from ibpc.ir import BATCH, INPUT, Attributes, Graph, Node, Shape
from ibpc.lowering import lower_interval, lower_nominal, lower_paired, parameter_tree
from ibpc.ops import operators
from ibpc.ops.base import Layer
from ibpc.ops.onnx import OnnxNode, Value
from ibpc.ops.rules import Call

NAMES = (
    "AveragePool",
    "Concat",
    "ConvTranspose",
    "GlobalAveragePool",
    "MaxPool",
    "Pad",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)


def call(
    name: str, operands: Iterable[Shape], parameters: Mapping[str, Tensor] | None = None, **attributes: Any
) -> Call:
    operator = operators()[name]
    complete, shapes = operator.complete(attributes), tuple(operands)
    assert list(operator.check_attributes(complete)) == []
    sizes = {role: tuple(value.shape) for role, value in (parameters or {}).items()}
    return Call(complete, shapes, sizes, operator.infer_shape(complete, shapes, sizes))


def applied(name: str, x: Tensor, parameters: Mapping[str, Tensor] | None = None, **attributes: Any) -> Tensor:
    made = call(name, [(BATCH, *x.shape[1:])], parameters, **attributes)
    result = operators()[name].rules.nominal(made, x, **(parameters or {}))
    assert tuple(result.shape) == (x.shape[0], *made.output[1:])
    return result


def line(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1)


def pool(kernel: list[int], strides: list[int], pads: list[int], **others: Any) -> dict[str, Any]:
    return {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": [1] * len(kernel), **others}


# ── importing through a small builder ───────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Known:
    """A value during import, with the node that computes it."""

    shape: Shape
    constant: Tensor | None = None
    operator: str = ""
    attributes: Mapping[str, Any] | None = None


class ShapesOnly:
    """A builder that infers shapes and computes nothing."""

    def add(
        self,
        operator: str,
        operands: Iterable[Value],
        attributes: Attributes | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Known:
        made = call(operator, [value.shape for value in operands], parameters, **(attributes or {}))
        return Known(made.output, None, operator, made.attributes)

    def constant(self, value: Tensor) -> Known:
        return Known(tuple(value.shape), value)


def batched(*sizes: int) -> Known:
    return Known((BATCH, *sizes))


def constant(value: Any, dtype: torch.dtype = torch.int64) -> Known:
    tensor = torch.tensor(value, dtype=dtype)
    return Known(tuple(tensor.shape), tensor)


def imported(type: str, opset: int, *inputs: Known | None, **attributes: Any) -> Known:
    version = onnx.defs.get_schema(type, opset).since_version
    (reading,) = (read for operator in operators().values() for read in operator.reads if read.type == type)
    assert version in reading.versions
    found = reading.read(OnnxNode("node", type, version, attributes, inputs), ShapesOnly())
    assert isinstance(found, Known)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_version_from_opset_7_up_is_read(name: str) -> None:
    active = {onnx.defs.get_schema(name, opset).since_version for opset in range(7, onnx.defs.onnx_opset_version() + 1)}
    (reading,) = (read for read in operators()[name].reads if read.type == name)
    assert active <= set(reading.versions)


# ── pools ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_max_pool_pads_with_less_than_any_number() -> None:
    result = applied("MaxPool", line(1, 5, 2, 4, -3), **pool([2], [2], [0, 1]))
    assert result.flatten().tolist() == [5, 4, -3]


def test_max_pool_spaces_its_window() -> None:
    result = applied("MaxPool", line(5, 1, 7, 2, 9), **pool([2], [1], [0, 0], dilations=[2]))
    assert result.flatten().tolist() == [7, 2, 9]


def test_ceil_mode_keeps_the_window_that_reaches_beyond_the_input() -> None:
    x = line(1, 2, 3, 4, 5, 6)
    assert applied("MaxPool", x, **pool([3], [2], [0, 0], ceil_mode=1)).flatten().tolist() == [3, 5, 6]
    assert applied("MaxPool", x, **pool([3], [2], [0, 0])).flatten().tolist() == [3, 5]
    assert applied("MaxPool", x, **pool([7], [2], [0, 0], ceil_mode=1)).flatten().tolist() == [6]


def test_ceil_mode_drops_the_window_that_starts_behind_the_input() -> None:
    result = applied("MaxPool", line(1, 2, 3, 4, 5, 6), **pool([2], [3], [0, 1], ceil_mode=1))
    assert result.flatten().tolist() == [2, 5]


def test_average_divides_by_what_it_counts() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    pads = pool([2, 2], [1, 1], [0, 0, 1, 1])
    assert applied("AveragePool", x, **pads).flatten().tolist() == [2.5, 3.0, 3.5, 4.0]
    assert applied("AveragePool", x, **pads, count_include_pad=1).flatten().tolist() == [2.5, 1.5, 1.75, 1.0]


def test_average_never_counts_what_ceil_mode_has_beyond_the_padding() -> None:
    x = line(1, 2, 3, 4, 5, 6)
    without = pool([3], [2], [0, 0], ceil_mode=1, count_include_pad=1)
    assert applied("AveragePool", x, **without).flatten().tolist() == [2.0, 4.0, 5.5]
    padded = pool([4], [2], [0, 1], ceil_mode=1, count_include_pad=1)
    assert applied("AveragePool", x, **padded).flatten().tolist() == [2.5, 4.5, pytest.approx(11 / 3)]


def test_dilated_average() -> None:
    attributes = pool([2], [1], [1, 1], dilations=[2])
    assert applied("AveragePool", line(2, 4, 8), **attributes).flatten().tolist() == [4.0, 5.0, 4.0]
    counted = applied("AveragePool", line(2, 4, 8), **attributes, count_include_pad=1)
    assert counted.flatten().tolist() == [2.0, 5.0, 2.0]


@pytest.mark.parametrize("name", ["MaxPool", "AveragePool"])
def test_a_window_of_padding_alone_is_refused(name: str) -> None:
    with pytest.raises(GraphError, match="holds only padding"):
        call(name, [(BATCH, 1, 2)], **pool([2], [1], [1, 1], dilations=[3]))


def test_a_window_larger_than_the_padded_input_is_refused() -> None:
    with pytest.raises(GraphError, match="a window of 4 over 3"):
        call("MaxPool", [(BATCH, 1, 2)], **pool([4], [1], [0, 1]))


def test_global_average_pool() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    assert applied("GlobalAveragePool", x).tolist() == [[[[3.0]], [[1.0]]]]
    with pytest.raises(GraphError, match="spatial dimensions"):
        call("GlobalAveragePool", [(BATCH, 3)])


def test_pool_import_resolves_auto_pad() -> None:
    x = batched(1, 4)
    upper = imported("MaxPool", 12, x, kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER")
    lower = imported("AveragePool", 19, x, kernel_shape=[3], strides=[2], auto_pad="SAME_LOWER", dilations=[1])
    assert upper.attributes is not None and lower.attributes is not None
    assert (upper.shape, upper.attributes["pads"]) == ((BATCH, 1, 2), [0, 1])
    assert (lower.shape, lower.attributes["pads"]) == ((BATCH, 1, 2), [1, 0])
    assert imported("MaxPool", 7, x, kernel_shape=[2]).shape == (BATCH, 1, 3)


# ── planes of MaxPool ───────────────────────────────────────────────────────────────────────────────────────────
def test_planes_of_a_dominant_and_of_an_undecided_window() -> None:
    lower, upper = line(1, 3, 0, 1), line(2, 4, 3, 2)
    made = call("MaxPool", [(BATCH, 1, 4)], **pool([2], [2], [0, 0]))
    relaxation = operators()["MaxPool"].rules.relaxation
    assert relaxation is not None
    planes = relaxation(made, Interval.bounds(lower, upper))
    assert planes.lower.slopes[0].tolist() == [[[[0, 1], [0, 1]]]]
    assert planes.lower.offset.tolist() == [[[0, 0]]]
    assert planes.upper.slopes[0].tolist() == [[[[0, 1], [0, 0]]]]
    assert planes.upper.offset.tolist() == [[[0, 3]]]
    point = line(1.5, 3.5, 2.5, 1.5)
    assert planes.lower(point).flatten().tolist() == [3.5, 1.5]
    assert planes.upper(point).flatten().tolist() == [3.5, 3.0]


def test_planes_never_choose_the_padding() -> None:
    lower, upper = line(-4, -6, -6), line(-3, -5, -2)
    made = call("MaxPool", [(BATCH, 1, 3)], **pool([2], [2], [1, 0]))
    relaxation = operators()["MaxPool"].rules.relaxation
    assert relaxation is not None
    planes = relaxation(made, Interval.bounds(lower, upper))
    point = line(-3.5, -5.5, -5.0)
    assert planes.lower(point).flatten().tolist() == [-3.5, -5.5]
    assert planes.upper(point).flatten().tolist() == [-3.5, -2.0]


def test_planes_of_overlapping_windows_beyond_the_input() -> None:
    made = call("MaxPool", [(BATCH, 1, 4)], **pool([3], [2], [0, 0], ceil_mode=1))
    relaxation = operators()["MaxPool"].rules.relaxation
    assert relaxation is not None
    planes = relaxation(made, Interval.bounds(line(0, 5, 1, 2), line(1, 6, 3, 4)))
    assert planes.lower.slopes[0].tolist() == [[[[0, 1, 0], [0, 1, 0]]]]
    assert planes.upper.slopes[0].tolist() == [[[[0, 1, 0], [0, 0, 0]]]]
    assert planes.upper.offset.tolist() == [[[0, 4]]]


# ── transposed convolution ──────────────────────────────────────────────────────────────────────────────────────
WEIGHT = {"weight": torch.tensor([[[1.0, 10.0, 100.0]]])}


def transposed(pads: list[int], extra: int = 0) -> dict[str, Any]:
    return {"strides": [2], "pads": pads, "dilations": [1], "output_padding": [extra]}


def test_transposed_convolution_spreads_the_kernel() -> None:
    x = line(1, 2)
    assert applied("ConvTranspose", x, WEIGHT, **transposed([0, 0])).flatten().tolist() == [1, 10, 102, 20, 200]
    assert applied("ConvTranspose", x, WEIGHT, **transposed([1, 0])).flatten().tolist() == [10, 102, 20, 200]
    assert applied("ConvTranspose", x, WEIGHT, **transposed([0, 1])).flatten().tolist() == [1, 10, 102, 20]
    assert applied("ConvTranspose", x, WEIGHT, **transposed([1, 1])).flatten().tolist() == [10, 102, 20]


def test_output_padding_holds_the_bias_alone() -> None:
    parameters = {**WEIGHT, "bias": torch.tensor([0.5])}
    result = applied("ConvTranspose", line(1, 2), parameters, **transposed([1, 0], 1))
    assert result.flatten().tolist() == [10.5, 102.5, 20.5, 200.5, 0.5]


def test_radius_of_a_transposed_convolution() -> None:
    weight = {"weight": torch.tensor([[[1.0, -10.0, 100.0]]])}
    made = call("ConvTranspose", [(BATCH, 1, 2)], weight, **transposed([0, 0]))
    box = operators()["ConvTranspose"].rules.interval(made, Interval.bounds(line(0, 1), line(2, 3)), **weight)
    assert box.lower.flatten().tolist() == [0, -20, 1, -30, 100]
    assert box.upper.flatten().tolist() == [2, 0, 203, -10, 300]


@pytest.mark.parametrize(
    ("attributes", "pads", "extra", "size"),
    [
        ({}, [0, 0], [0], 5),
        ({"pads": [1, 0]}, [1, 0], [0], 4),
        ({"auto_pad": "VALID", "pads": [1, 0]}, [0, 0], [0], 5),
        ({"auto_pad": "SAME_UPPER"}, [0, 1], [0], 4),
        ({"auto_pad": "SAME_LOWER"}, [1, 0], [0], 4),
        ({"output_shape": [2], "pads": [9, 9]}, [2, 1], [0], 2),
        ({"output_shape": [1, 1, 2], "auto_pad": "SAME_UPPER"}, [1, 2], [0], 2),
        ({"output_shape": [6]}, [0, 0], [1], 6),
    ],
)
def test_transposed_import_resolves_the_output_size(
    attributes: dict[str, Any], pads: list[int], extra: list[int], size: int
) -> None:
    weight = Known((1, 1, 3), WEIGHT["weight"])
    found = imported("ConvTranspose", 11, batched(1, 2), weight, strides=[2], **attributes)
    assert found.attributes is not None
    assert (found.attributes["pads"], found.attributes["output_padding"]) == (pads, extra)
    assert found.shape == (BATCH, 1, size)


def test_transposed_convolution_refuses_what_has_no_meaning() -> None:
    with pytest.raises(GraphError, match="less than the strides"):
        call("ConvTranspose", [(BATCH, 1, 2)], WEIGHT, **transposed([0, 0], 2))
    with pytest.raises(GraphError, match="crop all of 5"):
        call("ConvTranspose", [(BATCH, 1, 2)], WEIGHT, **transposed([3, 2]))
    with pytest.raises(GraphError, match="2 input channels"):
        call("ConvTranspose", [(BATCH, 2, 2)], WEIGHT, **transposed([0, 0]))


# ── concatenation ───────────────────────────────────────────────────────────────────────────────────────────────
def token_graph() -> Graph:
    graph = Graph("token")
    graph.add(Node("x", INPUT, {"shape": [1, 2], "range": None}, (BATCH, 1, 2)))
    graph.add(Node("token", "Constant", {}, (1, 1, 2)), state={"value": torch.tensor([[[7.0, 8.0]]])})
    graph.add(Node("both", "Concat", {"axis": 1}, (BATCH, 2, 2)), ["token", "x"])
    graph.outputs = ("both",)
    graph.verify(operators())
    return graph


@pytest.mark.parametrize("batch", [1, 3])
def test_a_constant_is_repeated_for_every_sample(batch: int) -> None:
    graph = token_graph()
    tree = parameter_tree(graph)
    x = torch.arange(2.0 * batch).reshape(batch, 1, 2)
    expected = [[[7.0, 8.0], [2.0 * row, 2.0 * row + 1]] for row in range(batch)]
    assert lower_nominal(graph, tree)(x).tolist() == expected
    lower, upper = lower_interval(graph, tree)(x - 1, x + 1)
    assert lower[:, 0].tolist() == upper[:, 0].tolist() == [[7.0, 8.0]] * batch
    assert torch.equal(lower[:, 1:], x - 1) and torch.equal(upper[:, 1:], x + 1)
    value, lower, upper = lower_paired(graph, tree, ["both"], ["both"])(x, x - 1, x + 1)
    assert value.tolist() == expected
    assert torch.equal(lower[:, 1:], x - 1) and torch.equal(upper[:, 1:], x + 1)


def test_a_constant_beside_a_stack_of_nominal_value_and_center() -> None:
    made = call("Concat", [(1, 1), (BATCH, 2)], axis=1)
    pair = Paired.stacked(torch.arange(8.0).reshape(4, 2), torch.ones(2, 2))
    result = operators()["Concat"].rules.paired(made, torch.tensor([[9.0]]), pair)
    assert result.is_stacked
    assert result.stack.tolist() == [[9, 0, 1], [9, 2, 3], [9, 4, 5], [9, 6, 7]]
    assert result.radius.tolist() == [[0, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize(
    ("shapes", "axis", "match"),
    [
        ([(BATCH, 2), (BATCH, 3)], 0, "axis 0 is the batch"),
        ([(BATCH, 2), (BATCH, 3)], -2, "axis -2 is the batch"),
        ([(BATCH, 2), (BATCH, 3)], 2, "axis 2"),
        ([(BATCH, 2, 3), (BATCH, 2)], 1, "equal sizes"),
        ([(BATCH, 2, 3), (BATCH, 2, 4)], 1, "equal sizes"),
        ([(BATCH, 2), (4, 3)], 1, "equal sizes"),
    ],
)
def test_concat_refuses(shapes: list[Shape], axis: int, match: str) -> None:
    with pytest.raises(GraphError, match=match):
        call("Concat", shapes, axis=axis)


def test_concat_import_joins_features_only() -> None:
    found = imported("Concat", 13, batched(2, 3), constant([[[1.0], [2.0]]], torch.float32), axis=-1)
    assert found.shape == (BATCH, 2, 4)
    with pytest.raises(GraphError, match="batch"):
        imported("Concat", 13, batched(2), batched(2), axis=0)


# ── reshaping at import ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("sizes", "target", "shape"),
    [
        ((4, 6), [1, 24], (24,)),
        ((4, 6), [-1, 24], (24,)),
        ((4, 6), [0, 24], (24,)),
        ((4, 6), [0, -1], (24,)),
        ((4, 6), [1, -1], (24,)),
        ((4, 6), [1, 2, -1, 3], (2, 4, 3)),
        ((4, 6), [0, 0, 3, 2], (4, 3, 2)),
        ((4, 6), [-1, 0, 6, 1], (4, 6, 1)),
        ((1,), [-1], ()),
    ],
)
def test_reshape_keeps_the_batch(sizes: Shape, target: list[int], shape: Shape) -> None:
    assert imported("Reshape", 13, batched(*sizes), constant(target)).shape == (BATCH, *shape)


@pytest.mark.parametrize(
    ("sizes", "target", "match"),
    [
        ((4, 6), [-1, 12], r"product is 24.*split nor merged"),
        ((4, 6), [-1, 6], r"product is 24"),
        ((4, 6), [-1], r"product is 24"),
        ((4, 6), [24], r"moves or drops the batch"),
        ((4, 6), [12, 2], r"moves or drops the batch"),
        ((4, 6), [2, -1], r"moves or drops the batch"),
        ((4, 6), [1, 5, -1], r"product is 24"),
        ((4, 6), [0, -1, -1], r"product is 24"),
        ((4, 6), [], r"moves or drops the batch"),
        ((4, 6), [0, 4, 6, 0], r"a 0 only where x has a dimension"),
    ],
)
def test_reshape_refuses_what_touches_the_batch(sizes: Shape, target: list[int], match: str) -> None:
    with pytest.raises(GraphError, match=match):
        imported("Reshape", 13, batched(*sizes), constant(target))


def test_reshape_honours_allowzero() -> None:
    x = batched(4, 6)
    assert imported("Reshape", 19, x, constant([1, 24]), allowzero=1).shape == (BATCH, 24)
    assert imported("Reshape", 19, x, constant([0, 24]), allowzero=0).shape == (BATCH, 24)
    with pytest.raises(GraphError, match="allowzero=1"):
        imported("Reshape", 19, x, constant([0, 24]), allowzero=1)


def test_reshape_needs_a_constant_target() -> None:
    with pytest.raises(GraphError, match="a constant"):
        imported("Reshape", 13, batched(4, 6), batched(2))


def test_the_batch_alone() -> None:
    assert applied("Reshape", torch.tensor([[[3.0]], [[4.0]]]), shape=[]).tolist() == [3.0, 4.0]


# ── transposing, squeezing, slicing, padding at import ──────────────────────────────────────────────────────────
def test_transpose_keeps_the_batch_in_front() -> None:
    assert imported("Transpose", 13, batched(2, 3, 4), perm=[0, 2, 3, 1]).shape == (BATCH, 3, 4, 2)
    for attributes in ({"perm": [1, 0, 2]}, {}):
        with pytest.raises(GraphError, match="moves the batch"):
            imported("Transpose", 13, batched(2, 3), **attributes)


def test_transpose_moves_the_named_dimension() -> None:
    x = torch.arange(6.0).reshape(1, 2, 3)
    assert applied("Transpose", x, perm=[0, 2, 1]).tolist() == [[[0, 3], [1, 4], [2, 5]]]


def test_squeeze_and_unsqueeze_by_attribute_and_by_input() -> None:
    assert imported("Squeeze", 11, batched(1, 3, 1), axes=[1, -1]).shape == (BATCH, 3)
    assert imported("Squeeze", 13, batched(1, 3, 1), constant([-1])).shape == (BATCH, 1, 3)
    assert imported("Squeeze", 13, batched(1, 3, 1)).shape == (BATCH, 3)
    assert imported("Unsqueeze", 11, batched(3), axes=[1, 3]).shape == (BATCH, 1, 3, 1)
    assert imported("Unsqueeze", 13, batched(3), constant([-1, -3])).shape == (BATCH, 1, 3, 1)


def test_squeeze_and_unsqueeze_leave_the_batch() -> None:
    for name, axis in (("Squeeze", 0), ("Squeeze", -2), ("Unsqueeze", 0), ("Unsqueeze", -3)):
        with pytest.raises(GraphError, match="is the batch"):
            imported(name, 13, batched(1), constant([axis]))
    with pytest.raises(GraphError, match="dimensions of size 1"):
        imported("Squeeze", 13, batched(1, 3), constant([2]))
    with pytest.raises(GraphError, match="no axis twice"):
        imported("Unsqueeze", 13, batched(3), constant([1, 1]))


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"),
    [
        (1, 5, 2, [1, 3]),
        (-2, 2**63 - 1, 1, [4, 5]),
        (0, -4, 1, [0, 1]),
        (-1, -6, -2, [5, 3, 1]),
        (5, -(2**63) + 1, -3, [5, 2]),
        (-99, -99, -1, [0]),
    ],
)
def test_slice_picks(start: int, end: int, step: int, expected: list[int]) -> None:
    attributes = {"starts": [start], "ends": [end], "axes": [1], "steps": [step]}
    assert applied("Slice", torch.arange(6.0).reshape(1, 6), **attributes).flatten().tolist() == expected


def test_slice_of_the_batch_may_only_keep_it() -> None:
    x = batched(4)
    for end in (1, 2**31 - 1, 2**63 - 1):
        assert imported("Slice", 13, x, constant([0]), constant([end]), constant([0])) is x
    both = imported("Slice", 13, x, constant([0, 1]), constant([2**63 - 1, 3]), constant([0, -1]))
    assert both.shape == (BATCH, 2)
    assert imported("Slice", 7, x, starts=[0, 1], ends=[1, 9]).shape == (BATCH, 3)
    for start, end, step in ((1, 2**63 - 1, 1), (0, 2, 1), (0, -1, 1), (0, 2**63 - 1, 2)):
        with pytest.raises(GraphError, match="of the batch"):
            imported("Slice", 13, x, constant([start]), constant([end]), constant([0]), constant([step]))


def test_slice_refuses_an_empty_result() -> None:
    with pytest.raises(GraphError, match="at least one element"):
        imported("Slice", 13, batched(4), constant([4]), constant([9]), constant([1]))


def test_pad_modes() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert applied("Pad", x, pads=[0, 1, 0, 2], value=9.0).tolist() == [[9, 1, 2, 3, 9, 9]]
    assert applied("Pad", x, pads=[0, 2, 0, 1], mode="reflect").tolist() == [[3, 2, 1, 2, 3, 2]]
    assert applied("Pad", x, pads=[0, 2, 0, 1], mode="edge").tolist() == [[1, 1, 1, 2, 3, 3]]
    assert applied("Pad", x, pads=[0, -1, 0, 1], mode="edge").tolist() == [[2, 3, 3]]
    assert applied("Pad", x, pads=[0, -1, 0, -1]).tolist() == [[2]]


@pytest.mark.parametrize("form", ["lower/upper", "center/radius"])
def test_the_constant_of_a_pad_is_exact(form: str) -> None:
    made = call("Pad", [(BATCH, 2)], pads=[0, 1, 0, 0], value=5.0)
    lower, upper = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 4.0]])
    box = Interval.bounds(lower, upper)
    box = box if form == "lower/upper" else Interval.around(box.center, box.radius)
    result = operators()["Pad"].rules.interval(made, box)
    assert result.lower.tolist() == [[5, 0, 2]]
    assert result.upper.tolist() == [[5, 1, 4]]


def test_pad_import_by_version() -> None:
    x = batched(2, 3)
    pads = [0, 1, 2, 0, 0, 0]
    assert imported("Pad", 10, x, pads=pads, value=1.5).shape == (BATCH, 3, 5)
    given = imported("Pad", 13, x, constant(pads), constant(1.5, torch.float32))
    assert given.shape == (BATCH, 3, 5)
    assert given.attributes is not None and given.attributes["value"] == 1.5
    by_axis = imported("Pad", 18, x, constant([2, 1]), None, constant([-1]), mode="edge")
    assert by_axis.attributes is not None and by_axis.attributes["pads"] == [0, 0, 2, 0, 0, 1]


@pytest.mark.parametrize(
    ("pads", "mode", "value", "match"),
    [
        ([1, 0, 0, 0], "constant", 0.0, "adds samples to the batch"),
        ([0, 1, 0, 0], "wrap", 0.0, "in mode wrap"),
        ([0, 3, 0, 0], "reflect", 0.0, "shorter than its dimension"),
        ([0, -3, 0, 0], "constant", 0.0, "at least one element left"),
        ([0, 1, 0, 0], "constant", float("-inf"), "a finite number"),
        ([0, 1, 0], "constant", 0.0, "3 pads for 2 axes"),
    ],
)
def test_pad_refuses(pads: list[int], mode: str, value: float, match: str) -> None:
    with pytest.raises(GraphError, match=match):
        imported("Pad", 19, batched(3), constant(pads), constant(value, torch.float32), mode=mode)


# ── layers of a spec ────────────────────────────────────────────────────────────────────────────────────────────
def planned(name: str, *shapes: Shape, **options: Any) -> tuple[Mapping[str, Any], Shape]:
    """Return the attributes and the output shape of a layer."""
    layer, operator = found_layer(name)
    for option, value in options.items():
        jsonschema.validate(value, dict(layer.options[option]))
    defaults = {option: schema["default"] for option, schema in layer.options.items() if "default" in schema}
    assert set(layer.required) <= {*defaults, *options}
    plan = layer.plan({**defaults, **options}, shapes)
    parameters = {role: torch.zeros(size) for role, size in plan.parameters.items()}
    made = call(operator, shapes, parameters, **plan.attributes)
    return made.attributes, made.output


def found_layer(name: str) -> tuple[Layer, str]:
    found = [(layer, operator.name) for operator in operators().values() for layer in operator.layers]
    return next((layer, operator) for layer, operator in found if layer.name == name)


def test_pools_step_by_their_window_unless_told() -> None:
    attributes, shape = planned("MaxPool2d", (BATCH, 3, 8, 9), kernel_size=[2, 3])
    assert (attributes["strides"], shape) == ([2, 3], (BATCH, 3, 4, 3))
    assert planned("AvgPool1d", (BATCH, 3, 9), kernel_size=3, stride=2, padding=1)[1] == (BATCH, 3, 5)


def test_same_puts_the_odd_element_at_the_end() -> None:
    attributes, shape = planned("MaxPool1d", (BATCH, 1, 5), kernel_size=2, padding="same")
    assert (attributes["pads"], shape) == ([0, 1], (BATCH, 1, 3))
    attributes, shape = planned("AvgPool2d", (BATCH, 1, 3, 3), kernel_size=2, stride=1, padding="same")
    assert (attributes["pads"], shape) == ([0, 0, 1, 1], (BATCH, 1, 3, 3))
    assert attributes["count_include_pad"] == 1


def test_ceil_mode_of_a_layer() -> None:
    assert planned("MaxPool1d", (BATCH, 1, 6), kernel_size=3, stride=2)[1] == (BATCH, 1, 2)
    assert planned("MaxPool1d", (BATCH, 1, 6), kernel_size=3, stride=2, ceil_mode=True)[1] == (BATCH, 1, 3)


def test_transposed_layer_has_the_size_of_torch() -> None:
    shapes = [(BATCH, 4, 5, 6)]
    options = {"out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
    layer, _ = found_layer("ConvTranspose2d")
    made = torch.nn.ConvTranspose2d(4, **options)
    assert planned("ConvTranspose2d", *shapes, **options)[1] == (BATCH, *made(torch.zeros(1, 4, 5, 6)).shape[1:])
    assert layer.plan({**options, "dilation": 1, "bias": True}, tuple(shapes)).parameters == {
        "weight": tuple(made.weight.shape),
        "bias": (6,),
    }


def test_layers_that_move_elements() -> None:
    x = (BATCH, 2, 3, 4)
    assert planned("Reshape", x, shape=[6, -1])[1] == (BATCH, 6, 4)
    assert planned("Permute", x, dims=[2, 3, 1])[1] == (BATCH, 3, 4, 2)
    assert planned("Concat", x, x)[1] == (BATCH, 4, 3, 4)
    assert planned("Concat", x, x, dim=-1)[1] == (BATCH, 2, 3, 8)
    assert planned("Slice", x, start=1, dim=3)[1] == (BATCH, 2, 3, 3)
    assert planned("Slice", x, end=-1, dim=-1, step=2)[1] == (BATCH, 2, 3, 2)
    assert planned("Squeeze", (BATCH, 2, 1), dim=-1)[1] == (BATCH, 2)
    assert planned("Unsqueeze", x, dim=1)[1] == (BATCH, 1, 2, 3, 4)
    assert planned("Pad", (BATCH, 2, 3), pads=[0, 1, 1, 0])[0]["pads"] == [0, 0, 1, 0, 1, 0]
    assert planned("AdaptiveAvgPool2d", x, output_size=1)[1] == (BATCH, 2, 1, 1)


def test_zero_pad_counts_sides_as_torch_does() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    attributes, _ = planned("ZeroPad2d", (BATCH, 1, 2, 3), padding=[1, 0, 2, 3])
    assert torch.equal(applied("Pad", x, **attributes), torch.nn.ZeroPad2d((1, 0, 2, 3))(x))


@pytest.mark.parametrize(
    ("name", "shape", "options", "match"),
    [
        ("Reshape", (BATCH, 6), {"shape": [4, -1]}, "product is 6"),
        ("Permute", (BATCH, 2, 3), {"dims": [1, 1]}, "a permutation of 0 to 2"),
        ("Concat", (BATCH, 2), {"dim": 0}, "is the batch"),
        ("Slice", (BATCH, 2), {"dim": 0}, "is the batch"),
        ("Pad", (BATCH, 2, 3), {"pads": [1, 1]}, "2 pads for N×2×3"),
        ("ZeroPad2d", (BATCH, 2, 3), {"padding": 1}, "rank 4"),
        ("AdaptiveAvgPool2d", (BATCH, 2, 3), {"output_size": 1}, "rank 4"),
        ("MaxPool2d", (BATCH, 2, 3), {"kernel_size": 2}, "rank 4"),
        ("ConvTranspose1d", (BATCH, 3, 3), {"out_channels": 2, "kernel_size": 2, "groups": 2}, "a divisor of both"),
    ],
)
def test_layers_refuse_what_does_not_fit(name: str, shape: Shape, options: dict[str, Any], match: str) -> None:
    with pytest.raises(GraphError, match=match):
        planned(name, shape, **options)


def test_adaptive_pooling_to_another_size_is_not_an_option() -> None:
    with pytest.raises(jsonschema.ValidationError):
        planned("AdaptiveAvgPool2d", (BATCH, 2, 4, 4), output_size=2)
