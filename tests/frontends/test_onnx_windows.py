"""Windows at positions that the network computes: what is written to them, inside, in part outside, and its bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from ibpc.errors import ModelError
from ibpc.frontends.onnx import graph_from_onnx, translate
from ibpc.lowering import lower_interval, parameter_tree
from ibpc.network import Network
from ibpc.rounding import Arithmetic
from ibpc.verify.checking import Checker
from tests.onnx_models import model, normal, runtime

ROWS, COLUMNS = 3, 4


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, outputs[0], **attributes)


def number(name, at):
    """A whole number from an element of the input p."""
    return [
        node("Gather", ["p", f"i{at}"], [f"{name}_real"], axis=0),
        node("Cast", [f"{name}_real"], [name], to=TensorProto.INT64),
        node("Add", [name, f"length{at}"], [f"{name}_last"]),
        node("Unsqueeze", [name, "zero"], [f"{name}_start"]),
        node("Unsqueeze", [f"{name}_last", "zero"], [f"{name}_end"]),
    ]


def counted(name, size):
    """The numbers of the rows in the window."""
    return [node("Slice", [size, f"{name}_start", f"{name}_end", "zero"], [f"{name}_rows"])]


def written(height, width, data="x", value="v"):
    """Return the model of x[a:a+height, b:b+width] = v with a and b from p, as exporters write it."""
    nodes = [
        *number("a", 0),
        *number("b", 1),
        node("Slice", [data, "a_start", "a_end", "zero"], ["band"]),
        node("Slice", ["band", "b_start", "b_end", "one"], ["window"]),
        node("Shape", ["window"], ["sizes"]),
        node("Expand", [value, "sizes"], ["spread"]),
        *counted("a", "rows"),
        *counted("b", "columns"),
        node("Reshape", ["a_rows", "column"], ["a_column"]),
        node("Add", ["a_column", "b_rows"], ["cells"]),
        node("Shape", ["cells"], ["cell_sizes"]),
        node("Shape", ["cell_sizes"], ["rank"]),
        node("ConstantOfShape", ["rank"], ["ones"], value=helper.make_tensor("value", TensorProto.INT64, [1], [1])),
        node("Mul", ["ones", "minus"], ["minuses"]),
        node("Equal", ["cell_sizes", "minuses"], ["free"]),
        node("Where", ["free", "ones", "cell_sizes"], ["wanted"]),
        node("Expand", ["a_column", "wanted"], ["a_cells"]),
        node("Expand", ["b_rows", "wanted"], ["b_cells"]),
        node("Unsqueeze", ["a_cells", "last"], ["a_index"]),
        node("Unsqueeze", ["b_cells", "last"], ["b_index"]),
        node("Concat", ["a_index", "b_index"], ["indices"], axis=-1),
        node("Slice", ["sizes", "two", "far", "zero"], ["rest"]),
        node("Concat", ["cell_sizes", "rest"], ["shape"], axis=0),
        node("Reshape", ["spread", "shape"], ["updates"]),
        node("ScatterND", [data, "indices", "updates"], ["y"]),
    ]
    constants = {
        **{"i0": np.array(0), "i1": np.array(1), "length0": np.array(height), "length1": np.array(width)},
        **{"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "far": np.array([2**62])},
        **{"minus": np.array(-1), "last": np.array([-1]), "column": np.array([-1, 1])},
        **{"rows": np.arange(ROWS), "columns": np.arange(COLUMNS)},
        **({} if value == "w" else {"v": np.float32([[7.0]])}),
        **({} if data == "x" else {"d": normal(ROWS, COLUMNS)}),
    }
    inputs = {"p": [2], **({"x": [ROWS, COLUMNS]} if data == "x" else {}), **({"w": [1, 1]} if value == "w" else {})}
    return model(nodes, inputs, constants=constants, opset=13)


WRITTEN = [(1, 1, "x", "v"), (2, 3, "d", "v"), (2, 2, "x", "w"), (5, 1, "d", "v"), (0, 1, "x", "v")]
BOXES = [
    *(((0, 1), (1, 1)), ((2, 2), (1, 1)), ((-2, -2), (3, 3)), ((9, 9), (0, 0)), ((0, 2.5), (0, 0.9))),
    *(((1, 1.5), (2, 9)), ((-4, -1), (0, 0)), ((-1.5, 3), (-1, 0.5))),
]
POSITIONS = (-9.0, -5.0, -4.5, -4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.7, 1.0, 2.0, 3.9, 4.0, 6.0)


def feeds(proto, positions):
    """Return the inputs at some positions, other numbers drawn."""
    sizes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in proto.graph.input}
    drawn = {name: normal(*shape, seed=3) for name, shape in sizes.items()}
    return [{**drawn, "p": np.float32(position)} for position in positions]


@pytest.mark.parametrize("row", WRITTEN, ids=str)
def test_what_is_written_is_what_onnx_runtime_writes(row):
    """At all positions: inside, in part outside at either end, outside, counted from the end."""
    proto = written(*row)
    network = Network(graph_from_onnx(proto, "window"))
    session = runtime(proto)
    given = feeds(proto, itertools.product(POSITIONS, POSITIONS))
    batch = [torch.from_numpy(np.stack([feed[name] for feed in given])) for name in given[0]]
    with torch.no_grad():
        ours = network.nominal(*batch).numpy()
    assert len({value.tobytes() for value in ours}) > 1 or row[0] == 0
    for mine, feed in zip(ours, given, strict=True):
        np.testing.assert_array_equal(mine, session.run(None, feed)[0])


@pytest.mark.parametrize("row", WRITTEN, ids=str)
def test_bounds_are_the_hull_over_the_positions(row):
    """Bounds are least and greatest of what is there at some position of the box; they hold more where some count back.

    An element is bounded apart from the others. A window without rows is never certain to have none.
    """
    proto = written(*row)
    graph = graph_from_onnx(proto, "window")
    bounded = lower_interval(graph, parameter_tree(graph), Arithmetic.FLOAT32)
    session = runtime(proto)
    for (a, b), (c, d) in BOXES:
        found = np.stack([session.run(None, feed)[0] for feed in feeds(proto, product_of(a, b, c, d))])
        (lower,), (upper,) = ends(bounded, proto, ((a, c), (b, d)))
        assert (lower <= found.min(0)).all() and (found.max(0) <= upper).all()
        if (min(a, c) >= 0 and row[0] > 0) or (a, c) == (b, d):
            np.testing.assert_array_equal(lower, found.min(0))
            np.testing.assert_array_equal(upper, found.max(0))


@pytest.mark.parametrize("row", [row for row in WRITTEN if row[3] == "v"], ids=str)
def test_the_checker_runs_every_position(row):
    """The checker of certificates knows nothing of marks, and is exact where positions count from the end too."""
    proto = written(*row)
    session = runtime(proto)
    checker = Checker(proto)
    for (a, b), (c, d) in BOXES:
        found = np.stack([session.run(None, feed)[0].ravel() for feed in feeds(proto, product_of(a, b, c, d))])
        low, high = (feeds(proto, [corner])[0] for corner in ((a, c), (b, d)))
        sides = [[side[each.name].ravel().astype(np.float64) for each in proto.graph.input] for side in (low, high)]
        lower, upper = checker.bound_rows(*sides, np.eye(ROWS * COLUMNS), "float32")
        np.testing.assert_allclose(lower, found.min(0), rtol=1e-6)
        np.testing.assert_allclose(upper, found.max(0), rtol=1e-6)
        assert (lower <= found.min(0)).all() and (found.max(0) <= upper).all()


def test_the_checker_refuses_positions_without_end():
    proto = written(1, 1)
    sides = [np.array([-1e6, 0.0]), np.zeros(12)], [np.array([1e6, 0.0]), np.zeros(12)]
    with pytest.raises(ModelError, match="one of too many"):
        Checker(proto).bound_rows(*sides, np.eye(12), "real")


def test_the_checker_refuses_what_computes_with_what_it_writes():
    """Its box would not pay for the rounding of the sum, which a binary32 execution makes."""
    proto = written(2, 2)
    proto.opset_import[0].version = 16
    proto.graph.node[-1].attribute.append(helper.make_attribute("reduction", "add"))
    with pytest.raises(ModelError, match="it computes with what it writes"):
        Checker(proto).bound_rows(*corners(), np.eye(12), "float32")


@pytest.mark.parametrize("kind", ["Mul", "Div", "Exp"])
def test_the_checker_refuses_a_window_whose_numbers_are_rounded(kind):
    """A binary32 execution rounds them in its own way, the reference evaluator in another."""
    proto = written(2, 2)
    last = next(node for node in proto.graph.node if node.output[0] == "updates")
    last.output[0] = "exact"
    operands = ["exact"] if kind == "Exp" else ["exact", "v"]
    proto.graph.node.insert(len(proto.graph.node) - 1, node(kind, operands, ["updates"]))
    with pytest.raises(ModelError, match=f"{kind} may round"):
        Checker(proto).bound_rows(*corners(), np.eye(12), "float32")


def corners():
    return [np.array([0.0, 0.0]), np.zeros(12)], [np.array([1.0, 1.0]), np.ones(12)]


def product_of(a, b, c, d):
    return itertools.product(range_of(a, b), range_of(c, d))


def range_of(low, high):
    """Return numbers of an interval, one for each whole number that it has after rounding toward zero."""
    return sorted({low, high, *(float(n) for n in range(-9, 10) if low <= n <= high)})


def ends(bounded, proto, corners):
    low, high = (feeds(proto, [corner])[0] for corner in corners)
    sides = [torch.from_numpy(side[name][None]) for name in low for side in (low, high)]
    with torch.no_grad():
        return tuple(end.numpy() for end in bounded(*sides))


def changed(edit):
    """Return the model with some nodes edited."""
    proto = written(1, 1)
    nodes = {each.name: each for each in proto.graph.node}
    edit(nodes, proto)
    return proto


def read_a_window(nodes, proto):
    proto.graph.output[0].name = "spread"


def count_its_rows(nodes, proto):
    """The number of rows that are there, as a number."""
    nodes["minuses"].input[0] = "cell_sizes"


def compare_its_size(nodes, proto):
    nodes["minuses"].input[1] = "length0"


def sum_it_up(nodes, proto):
    nodes["y"].CopyFrom(node("ReduceSum", ["spread", "zero"], ["y"]))


def cut_it_twice(nodes, proto):
    nodes["window"].input[3] = "zero"


def step_over_rows(nodes, proto):
    nodes["band"].input.append("two")


def mix_windows(nodes, proto):
    nodes["a_rows"].input[1] = "b_start"


def merge_dimensions(nodes, proto):
    nodes["updates"].input[1] = "last"


def add_to_it(nodes, proto):
    proto.opset_import[0].version = 16
    nodes["y"].attribute.append(helper.make_attribute("reduction", "add"))


REFUSED = [
    *(read_a_window, count_its_rows, compare_its_size, sum_it_up, cut_it_twice, step_over_rows, mix_windows),
    *(merge_dimensions, add_to_it),
]


@pytest.mark.parametrize("edit", REFUSED, ids=lambda edit: edit.__name__)
def test_whatever_else_asks_for_its_size_is_refused(edit):
    with pytest.raises(ModelError, match="depends on numbers that the network computes"):
        translate(changed(edit), "window")


def transpose_what_is_not_there(nodes, proto):
    nodes["a_cells"].CopyFrom(node("Transpose", ["a_rows"], ["a_cells"], perm=[5]))


def take_a_dimension_that_is_not_there(nodes, proto):
    nodes["rest"].CopyFrom(node("Gather", ["sizes", "far"], ["rest"], axis=0))


def slice_a_number(nodes, proto):
    nodes["band"].input[0] = "i0"


def join_along_no_axis(nodes, proto):
    nodes["indices"].attribute[0].i = 9


def leave_out_an_operand(nodes, proto):
    del nodes["updates"].input[1:]


MALFORMED = [
    *(transpose_what_is_not_there, take_a_dimension_that_is_not_there, slice_a_number, join_along_no_axis),
    leave_out_an_operand,
]


@pytest.mark.parametrize("edit", MALFORMED, ids=lambda edit: edit.__name__)
def test_malformed_nodes_beside_windows_are_refused(edit):
    with pytest.raises(ModelError):
        translate(changed(edit), "window")
