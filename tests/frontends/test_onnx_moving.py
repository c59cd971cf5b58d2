"""ONNX imports of what moves elements: each network agrees with ONNX Runtime for every sample of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

from ibpc.errors import ModelError
from ibpc.frontends.onnx import graph_from_onnx
from ibpc.lowering import lower_interval, parameter_tree
from ibpc.rounding import Arithmetic
from tests.onnx_models import expect_same_function, model, normal, runtime, sizes_at_one


def c(*values):
    return np.array(values, dtype=np.int64)


# type, opset, attributes, shape of x at batch 1, further inputs (a tuple is the shape of a second network input)
NODES = [
    ("Gather", 7, {"axis": 1}, [1, 4, 3], [c(0, 2)]),
    ("Gather", 11, {"axis": 0}, [5, 3], [c([-1, 2], [0, 0])]),
    ("Gather", 13, {"axis": -1}, ["N", 4, 3], [np.array(-2)]),
    ("Gather", 13, {"axis": 0}, [1, 4], [np.array(0)]),
    ("GatherElements", 13, {"axis": 2}, [1, 2, 3], [c([[2, 0], [-1, 1]])]),
    ("GatherElements", 11, {"axis": 0}, [3, 2], [c([2, 0], [0, 1])]),
    ("GatherND", 12, {"batch_dims": 1}, [1, 4, 3], [c([[1], [-1]])]),
    ("GatherND", 13, {}, [1, 4, 3], [c([0, 1, 2], [0, 3, 0])]),
    ("GatherND", 11, {}, [3, 4], [c([[1], [0]])]),
    ("ReverseSequence", 10, {"time_axis": 1, "batch_axis": 0}, [1, 4, 3], [c(3)]),
    ("ReverseSequence", 10, {}, [4, 2, 3], [c(4, 2)]),
    ("Compress", 11, {"axis": 1}, [1, 4, 3], [np.array([True, False, True])]),
    ("Compress", 9, {}, [3, 4], [np.array([True, False, True, False, True])]),
    ("Expand", 8, {}, [1, 1, 3], [c(2, 1)]),
    ("Expand", 13, {}, [1, 3], [c(2, 4, 1)]),
    ("Tile", 7, {}, [1, 2, 3], [c(1, 2, 1)]),
    ("Tile", 13, {}, [2, 3], [c(2, 2)]),
    ("ScatterElements", 11, {"axis": 2}, [1, 2, 4], [c([[3, 0], [1, 2]]), normal(1, 2, 2)]),
    ("ScatterElements", 16, {"axis": 1, "reduction": "add"}, [1, 4], [c([1, 1, -2, 1]), (1, 4)]),
    ("ScatterElements", 16, {"axis": 0, "reduction": "mul"}, [3, 2], [c([1, 2], [1, 0]), (2, 2)]),
    ("ScatterElements", 18, {"axis": 0, "reduction": "max"}, [3, 2], [c([1, 2], [1, 0]), (2, 2)]),
    ("ScatterElements", 18, {"axis": 1, "reduction": "min"}, [1, 4], [c([0, 0, 3]), normal(1, 3)]),
    ("ScatterND", 11, {}, [1, 4, 3], [c([[0, 1], [0, 3]]), (1, 2, 3)]),
    ("ScatterND", 13, {}, [4, 3], [c([1], [-1]), normal(2, 3)]),
    ("ScatterND", 16, {"reduction": "add"}, [4], [c([1], [1], [0]), (3,)]),
    ("ScatterND", 18, {"reduction": "max"}, [4, 2], [c([1], [1], [0]), (3, 2)]),
    ("DepthToSpace", 7, {"blocksize": 2}, [1, 8, 2, 3], []),
    ("DepthToSpace", 11, {"blocksize": 2, "mode": "CRD"}, ["N", 12, 2, 1], []),
    ("SpaceToDepth", 13, {"blocksize": 3}, [1, 2, 3, 6], []),
    ("DepthToSpace", 13, {"blocksize": 2}, [2, 4, 2, 1], []),
    ("Trilu", 14, {}, [1, 3, 4], []),
    ("Trilu", 14, {"upper": 0}, [4, 4], [np.array(-1)]),
    ("Trilu", 14, {"upper": 1}, ["N", 2, 3, 3], [np.array(1)]),
    ("CumSum", 11, {}, [1, 4, 2], [np.array(1)]),
    ("CumSum", 14, {"exclusive": 1, "reverse": 1}, [4, 2], [np.array(-2)]),
    ("Einsum", 12, {"equation": "bij,bjk->bik"}, [1, 2, 3], [(1, 3, 4)]),
    ("Einsum", 12, {"equation": "bij,jk"}, ["N", 2, 3], [normal(3, 4)]),
    ("Einsum", 12, {"equation": "bij->bji"}, [1, 2, 3], []),
    ("Einsum", 12, {"equation": "bij->b"}, [1, 2, 3], []),
    ("Einsum", 12, {"equation": "ij->j"}, [2, 3], []),
    ("Einsum", 12, {"equation": "bii->bi"}, [1, 3, 3], []),
    ("Einsum", 12, {"equation": "...ii->..."}, [1, 2, 3, 3], []),
    ("Einsum", 12, {"equation": "...ij, ...jk -> ...ik"}, [1, 2, 2, 3], [(1, 2, 3, 4)]),
    ("Einsum", 12, {"equation": "i,j->ij"}, [3], [(4,)]),
    ("Einsum", 12, {"equation": "bhid,bhjd->bhij"}, [1, 2, 3, 4], [(1, 2, 5, 4)]),
    ("Einsum", 12, {"equation": "bi,bi->b"}, [1, 3], [(1, 3)]),
    ("Einsum", 12, {"equation": "bik,i->bi"}, [1, 3, 2], [(3,)]),
    ("Einsum", 12, {"equation": "bi,ik->bi"}, [1, 3], [(3, 2)]),
    ("Einsum", 12, {"equation": "bhwc,hkc->bhwk"}, [1, 3, 2, 4], [normal(3, 5, 4)]),
    ("Einsum", 12, {"equation": "ki,bij->bkj"}, [4, 3], [(1, 3, 2)]),
    ("Slice", 13, {}, [1, 5, 3], [c(-1, 2), c(-6, -9), c(1, 2), c(-1, -2)]),
    ("Slice", 13, {}, [5, 3], [c(4), c(-10), c(0), c(-2)]),
]


def of_node(kind, opset, attributes, shape, others, outputs=("y",)):
    """Return the model of one node whose first input is x; arrays are constants, tuples shapes of further inputs."""
    names = [f"i{slot}" for slot in range(len(others))]
    inputs = {name: list(other) for name, other in zip(names, others, strict=True) if isinstance(other, tuple)}
    constants = {name: other for name, other in zip(names, others, strict=True) if not isinstance(other, tuple)}
    node = helper.make_node(kind, ["x", *names], list(outputs), "node", **attributes)
    return model([node], {"x": shape, **inputs}, outputs, constants, opset)


@pytest.mark.parametrize("row", NODES, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}-{row[3]}")
def test_nodes_agree_with_onnx_runtime(row):
    proto = of_node(*row)
    expect_same_function(proto, graph_from_onnx(proto, "node"))


MONOTONE = [row for row in NODES if row[0] != "Einsum" and row[2].get("reduction") != "mul"]


@pytest.mark.parametrize("row", MONOTONE, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}-{row[3]}")
def test_bounds_of_what_does_not_decrease_are_attained(row):
    """Both bounds are what ONNX Runtime computes for the lower and for the upper corner of the box."""
    proto = of_node(*row)
    graph = graph_from_onnx(proto, "node")
    bounded = lower_interval(graph, parameter_tree(graph))
    sizes = sizes_at_one(proto)
    centers = [normal(*shape, seed=slot) for slot, shape in enumerate(sizes)]
    radii = [np.abs(normal(*shape, seed=slot + 9)) for slot, shape in enumerate(sizes)]
    ends = [[x - r for x, r in zip(centers, radii, strict=True)], [x + r for x, r in zip(centers, radii, strict=True)]]
    expected = [runtime(proto).run(None, dict(zip(names_of(proto), corner, strict=True)))[0] for corner in ends]
    shapes = [(1, *graph.node(name).shape[1:]) for name in graph.inputs]
    sides = zip(*ends, shapes, strict=True)
    found = bounded(*(torch.from_numpy(end).reshape(shape) for *both, shape in sides for end in both))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy().ravel(), theirs.ravel(), rtol=1e-5, atol=1e-5)


def names_of(proto):
    held = {tensor.name for tensor in proto.graph.initializer}
    return [value.name for value in proto.graph.input if value.name not in held]


MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
RESIZED = [
    *(
        ("Resize", 19, {"mode": "nearest", "coordinate_transformation_mode": mode, "nearest_mode": rounding}, scales)
        for mode in MODES
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for scales in ([1, 1, 2, 3], [1, 1, 0.5, 0.25])
    ),
    *(
        ("Resize", 19, {"mode": kind, "coordinate_transformation_mode": mode}, scales)
        for mode in MODES
        for kind in ("linear", "cubic")
        for scales in ([1, 1, 2, 3], [1, 1, 0.5, 0.75])
    ),
    ("Resize", 18, {"mode": "linear", "antialias": 1}, [1, 1, 0.5, 0.75]),
    ("Resize", 18, {"mode": "cubic", "antialias": 1}, [1, 1, 0.5, 0.25]),
    ("Resize", 18, {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}, [1, 1, 2, 0.75]),
    ("Resize", 11, {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn"}, [1, 1, 2, 2]),
    ("Resize", 10, {"mode": "nearest"}, [1, 1, 2, 0.5]),
    ("Resize", 10, {"mode": "linear"}, [1, 1, 2, 2]),
    ("Upsample", 9, {"mode": "nearest"}, [1, 1, 2, 3]),
    ("Upsample", 9, {"mode": "linear"}, [1, 1, 2, 2]),
    ("Upsample", 7, {"mode": "nearest"}, [1, 1, 1, 2]),
]


@pytest.mark.parametrize(
    "row", RESIZED, ids=lambda row: f"{row[0]}-{row[1]}-{'-'.join(map(str, row[2].values()))}-{row[3]}"
)
def test_resizing_agrees_with_onnx_runtime(row):
    kind, opset, attributes, scales = row
    given = np.array(scales, np.float32)
    if opset == 7:
        proto = of_node(kind, opset, {**attributes, "scales": [float(scale) for scale in scales]}, [1, 2, 4, 4], [])
    else:
        others = [np.zeros(0, np.float32), given] if opset >= 11 else [given]
        proto = of_node(kind, opset, attributes, [1, 2, 4, 4], others)
    expect_same_function(proto, graph_from_onnx(proto, "node"))


SIZED = [
    (18, {"mode": "linear", "axes": [2, 3]}, [1, 2, 5, 4], [7, 3]),
    (18, {"mode": "nearest", "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}, [1, 2, 2, 4], [7, 8]),
    (19, {"mode": "cubic", "axes": [3, 2], "keep_aspect_ratio_policy": "not_smaller"}, [1, 2, 4, 4], [7, 8]),
    (13, {"mode": "linear"}, [2, 5, 4], [2, 10, 3]),
    (11, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, ["N", 1, 3, 4], [1, 1, 7, 2]),
]


@pytest.mark.parametrize("row", SIZED, ids=lambda row: f"{row[0]}-{row[1]}")
def test_resizing_to_sizes_agrees_with_onnx_runtime(row):
    opset, attributes, shape, sizes = row
    empty = np.zeros(0, np.float32)
    proto = of_node("Resize", opset, attributes, shape, [empty, empty, c(*sizes)])
    if opset > 11:
        proto.graph.node[0].input[1:3] = ["", ""]
    expect_same_function(proto, graph_from_onnx(proto, "node"))


@pytest.mark.parametrize("kind", ["nearest", "linear"])
def test_crops_agree_with_onnx_runtime(kind):
    roi = np.float32([0, 0, 0.25, -0.5, 1, 1, 0.75, 1.25])
    attributes = {
        "mode": kind,
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 7.0,
    }
    empty = np.zeros(0, np.float32)
    proto = of_node("Resize", 13, attributes, [1, 1, 5, 4], [roi, empty, c(1, 1, 4, 6)])
    proto.graph.node[0].input[2] = ""
    expect_same_function(proto, graph_from_onnx(proto, "node"))


ODD = [
    ({"mode": kind, "coordinate_transformation_mode": mode}, before, after)
    for kind in ("linear", "cubic")
    for mode in ("half_pixel", "align_corners", "asymmetric")
    for before, after in ((5, 7), (31, 10), (3, 300), (100, 37))
]


@pytest.mark.parametrize("row", ODD, ids=lambda row: "-".join(map(str, (*row[0].values(), row[1], row[2]))))
def test_bounds_hold_what_onnx_runtime_computes_with_its_own_weights(row):
    attributes, before, after = row
    empty = np.zeros(0, np.float32)
    proto = of_node("Resize", 13, attributes, [1, 1, before, before], [empty, empty, c(1, 1, after, after)])
    proto.graph.node[0].input[1:3] = ["", ""]
    graph = graph_from_onnx(proto, "node")
    bounded = lower_interval(graph, parameter_tree(graph), Arithmetic.FLOAT32)
    for seed in range(3):
        x = 100 * normal(1, 1, before, before, seed=seed)
        (found,) = runtime(proto).run(None, {"x": x})
        with torch.no_grad():
            lower, upper = bounded(torch.from_numpy(x), torch.from_numpy(x))
        assert ((lower.numpy() <= found) & (found <= upper.numpy())).all()


SPLITS = [
    (7, {"axis": 1, "split": [1, 3]}, [1, 4, 2], [], 2),
    (11, {"axis": -1}, [1, 4, 6], [], 3),
    (13, {"axis": 0}, [4, 2], [c(3, 1)], 2),
    (18, {"axis": 1, "num_outputs": 3}, [1, 7], [], 3),
    (18, {"axis": 1}, [1, 7], [c(2, 5)], 2),
]


@pytest.mark.parametrize("row", SPLITS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_splits_agree_with_onnx_runtime(row):
    *rest, count = row
    proto = of_node("Split", *rest, outputs=[f"y{slot}" for slot in range(count)])
    expect_same_function(proto, graph_from_onnx(proto, "split"))


def test_a_part_that_nothing_reads_is_left_out():
    proto = of_node("Split", 13, {"axis": 1}, [1, 4], [c(1, 3)], outputs=["unread", "y"])
    del proto.graph.output[0]
    graph = graph_from_onnx(proto, "split")
    expect_same_function(proto, graph)


REFUSED = [
    (("Gather", 13, {"axis": 1}, [1, 4], [c(4)]), "outside"),
    (("ScatterElements", 13, {"axis": 1}, [1, 4], [c([1, 1]), normal(1, 2)]), "twice"),
    (("Tile", 13, {}, [1, 4], [c(1, 0)]), "0"),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: f"{row[0][0]}-{row[1]}")
def test_what_is_refused_says_why(row):
    node, reason = row
    with pytest.raises(ModelError, match=reason):
        graph_from_onnx(of_node(*node), "node")


@pytest.mark.parametrize("table", [True, False])
def test_indices_that_depend_on_the_input_are_refused(table):
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], "cast", to=7),
        helper.make_node("Gather", ["table" if table else "x", "whole"], ["y"], "look up", axis=0),
    ]
    proto = model(nodes, {"x": [1, 3]}, constants={"table": normal(5, 2)} if table else {})
    with pytest.raises(ModelError, match="indices that depend on the network's input"):
        graph_from_onnx(proto, "node")


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, outputs[0], **attributes)


def batch_from_shape():
    """Reshape to (batch, −1), the batch taken from the shape of x as exporters write it."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"], axis=0),
        node("Unsqueeze", ["batch", "first"], ["row"]),
        node("Concat", ["row", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    return nodes, {"x": ["N", 2, 3]}, {"zero": np.array(0), "first": c(0), "rest": c(-1)}


def filled_for_the_batch():
    """A class token: zeros of (batch, 1, 3), expanded and joined to the sequence."""
    nodes = [
        node("Shape", ["x"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("ConstantOfShape", ["target"], ["zeros"], value=helper.make_tensor("value", 1, [1], [0.5])),
        node("Concat", ["zeros", "x"], ["y"], axis=1),
    ]
    return nodes, {"x": ["N", 4, 3]}, {"rest": c(1, 3)}


def expanded_for_the_batch():
    """A constant row expanded to the batch of x, and added."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Expand", ["row", "shape"], ["rows"]),
        node("Add", ["x", "rows"], ["y"]),
    ]
    return nodes, {"x": ["N", 4, 3]}, {"row": normal(1, 1, 3)}


def numbered_positions():
    """Positions 0, 1, 2, … of a sequence, as many as it has elements."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"], axis=0),
        node("Range", ["zero", "length", "step"], ["positions"]),
        node("Cast", ["positions"], ["numbers"], to=1),
        node("Mul", ["x", "numbers"], ["y"]),
    ]
    return nodes, {"x": ["N", 4]}, {"zero": np.array(0), "one": np.array(1), "step": np.array(1)}


def divided_by_the_count():
    """The number of elements of one sample, by Size of a slice of the shape's product."""
    nodes = [
        node("Gather", ["x", "zero"], ["first"], axis=1),
        node("Size", ["table"], ["size"]),
        node("Cast", ["size"], ["count"], to=1),
        node("Div", ["first", "count"], ["y"]),
    ]
    return nodes, {"x": [1, 4, 3]}, {"zero": np.array(0), "table": normal(2, 3)}


def sliced_by_shape():
    """The second half, from a start that is computed from the shape."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "axis"], ["length"], axis=0),
        node("Div", ["length", "two"], ["half"]),
        node("Slice", ["x", "half", "length", "axis", "one"], ["part"]),
        node("Slice", ["part", "minus", "far", "axis", "minus"], ["y"]),
    ]
    constants = {"axis": c(1), "two": c(2), "one": c(1), "minus": c(-1), "far": c(-(2**40))}
    return nodes, {"x": ["N", 6, 2]}, constants


SHAPES = [
    *(batch_from_shape, filled_for_the_batch, expanded_for_the_batch),
    *(numbered_positions, divided_by_the_count, sliced_by_shape),
]


@pytest.mark.parametrize("build", SHAPES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("opset", [15, 18])
def test_shape_arithmetic_folds(build, opset):
    nodes, inputs, constants = build()
    proto = model(nodes, inputs, constants=constants, opset=opset)
    expect_same_function(proto, graph_from_onnx(proto, "shapes"))


def test_an_output_of_a_size_that_the_input_says_is_refused():
    nodes = [
        node("Cast", ["x"], ["start"], to=7),
        node("Add", ["start", "one"], ["end"]),
        node("Slice", ["row", "start", "end"], ["y"]),
    ]
    proto = model(nodes, {"x": [1]}, constants={"row": normal(5), "one": c(1)})
    with pytest.raises(ModelError, match="output y: its shape depends on numbers that the network computes"):
        graph_from_onnx(proto, "slice")
