"""Reductions, normalizations and pools of every opset come in as what ONNX Runtime makes of them, and train."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from ibpc.errors import ModelError
from ibpc.frontends.onnx import graph_from_onnx
from ibpc.frontends.spec import graph_from_spec
from ibpc.ir import BATCH
from ibpc.network import Network
from tests.onnx_models import expect_same_function, model, normal

NODE = helper.make_node
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


def single(
    kind: str,
    opset: int,
    start: tuple[int | str, ...],
    constants: Mapping[str, object] | None = None,
    outputs: tuple[str, ...] = ("y",),
    **attributes: object,
) -> onnx.ModelProto:
    """One node on x and the constants."""
    named = constants or {}
    return model(
        [NODE(kind, ["x", *named], list(outputs), "node", **attributes)], {"x": start}, ["y"], named, opset=opset
    )


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [7, 11, 13, 18])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions_of_every_opset(kind: str, opset: int, keepdims: int) -> None:
    as_input = opset >= 18 or (kind == "ReduceSum" and opset >= 13)
    for start in (("N", 3, 4), (3, 4)):
        axes = [2, 1] if len(start) == 3 else [-1]
        nodes, source = [], "x"
        given = {"axes": np.array(axes)} if as_input else {}
        attributes = {} if as_input else {"axes": axes}
        if kind == "ReduceLogSum":
            nodes, source = [NODE("Softmax", ["x"], ["p"], axis=1)], "p"
        nodes.append(NODE(kind, [source, *given], ["y"], "node", keepdims=keepdims, **attributes))
        proto = model(nodes, {"x": start}, constants=given, opset=opset)
        graph = graph_from_onnx(proto, kind)
        assert graph.node(graph.outputs[0]).shape[0] == BATCH
        expect_same_function(proto, graph)


@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMax", "ReduceMean"])
def test_empty_axes_reduce_nothing_or_everything(kind: str) -> None:
    for attributes in ({"noop_with_empty_axes": 1}, {}):
        proto = single(kind, 18, (1, 3, 4), keepdims=0, **attributes)
        expect_same_function(proto, graph_from_onnx(proto, kind))
        proto = single(kind, 18, (1, 3, 4), {"axes": np.array([], np.int64)}, keepdims=0, **attributes)
        expect_same_function(proto, graph_from_onnx(proto, kind))


IMAGE = ("N", 4, 6, 5)
SCALES = {"scale": normal(4), "shift": normal(4, seed=1)}
NODES = {
    "LogSoftmax, early": single("LogSoftmax", 11, ("N", 3, 4), axis=1),
    "LogSoftmax": single("LogSoftmax", 13, ("N", 3, 4), axis=1),
    "LayerNormalization": single(
        "LayerNormalization", 17, ("N", 3, 4), {"scale": normal(4), "shift": normal(4, seed=1)}
    ),
    "LayerNormalization, many axes, broadcast scale": single(
        "LayerNormalization", 17, ("N", 3, 4), {"scale": normal(1, 4)}, axis=1, epsilon=0.01
    ),
    "LayerNormalization without batch": single("LayerNormalization", 17, (3, 4), {"scale": normal(4)}, axis=-1),
    "InstanceNormalization": single("InstanceNormalization", 13, IMAGE, SCALES, epsilon=0.001),
    "GroupNormalization, a scale per channel": single("GroupNormalization", 21, IMAGE, SCALES, num_groups=2),
    "LpNormalization": single("LpNormalization", 13, ("N", 3, 4), axis=1, p=2),
    "LpNormalization of moduli": single("LpNormalization", 13, ("N", 3, 4), axis=-1, p=1),
    "LRN": single("LRN", 11, IMAGE, size=3, alpha=0.5, beta=0.6, bias=2.0),
    "LpPool": single("LpPool", 11, IMAGE, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 0, 1], p=3),
    "GlobalLpPool": single("GlobalLpPool", 11, IMAGE, p=2),
    "GlobalMaxPool": single("GlobalMaxPool", 11, ("N", 2, 3, 4, 5)),
    "MaxPool, indices unread": single(
        "MaxPool", 12, IMAGE, outputs=("y", "indices"), kernel_shape=[2, 2], auto_pad="SAME_LOWER", strides=[2, 2]
    ),
    "MaxPool of volumes": single("MaxPool", 11, ("N", 1, 4, 5, 6), kernel_shape=[2, 3, 2], dilations=[1, 2, 1]),
    "MaxPool, ceil mode": single("MaxPool", 10, ("N", 2, 7), kernel_shape=[3], strides=[2], ceil_mode=1),
    "AveragePool, same": single("AveragePool", 7, ("N", 2, 7), kernel_shape=[4], strides=[3], auto_pad="SAME_UPPER"),
    "AveragePool, valid": single("AveragePool", 11, IMAGE, kernel_shape=[2, 2], strides=[3, 2], auto_pad="VALID"),
    "AveragePool, padding counts": single(
        "AveragePool", 11, ("N", 1, 4, 4, 4), kernel_shape=[2, 2, 2], pads=[1, 0, 1, 1, 1, 0], count_include_pad=1
    ),
    "Conv, same lower": single(
        "Conv", 11, ("N", 2, 4, 5, 3), {"w": normal(3, 2, 2, 3, 2)}, auto_pad="SAME_LOWER", strides=[2, 1, 2]
    ),
    "Conv, valid": single("Conv", 7, ("N", 4, 9), {"w": normal(2, 2, 3)}, auto_pad="VALID", group=2, dilations=[2]),
    "ConvTranspose, same": single(
        "ConvTranspose", 11, ("N", 2, 4, 3), {"w": normal(2, 1, 3, 3)}, auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    "ConvTranspose, output shape": single(
        "ConvTranspose", 11, ("N", 2, 4), {"w": normal(2, 3, 3)}, output_shape=[9], strides=[2]
    ),
    "ConvTranspose, output padding": single(
        "ConvTranspose", 7, ("N", 1, 2, 3, 2), {"w": normal(1, 2, 2, 2, 2)}, strides=[2, 2, 2], output_padding=[1, 0, 1]
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_nodes_come_in_as_they_are(name: str) -> None:
    graph = graph_from_onnx(NODES[name], name)
    expect_same_function(NODES[name], graph)


@pytest.mark.parametrize(
    "name", ["LayerNormalization", "InstanceNormalization", "GroupNormalization, a scale per channel"]
)
def test_scale_and_shift_are_parameters(name: str) -> None:
    network = Network(graph_from_onnx(NODES[name], name))
    assert len(list(network.parameters.parameters())) == 2


def withdrawn(
    groups: int = 2, channels: int = 6, **attributes: float
) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """GroupNormalization of opset 18, which ONNX has withdrawn: a scale and a shift for each group, not channel."""
    scale, shift = normal(groups, seed=1), normal(groups, seed=2)
    nodes = [
        NODE("Relu", ["x"], ["h"]),
        NODE("GroupNormalization", ["h", "scale", "shift"], ["y"], "groups", num_groups=groups, **attributes),
    ]
    proto = model(nodes, {"x": ["N", 6, 3, 2]}, constants={"scale": scale, "shift": shift}, opset=18)
    return proto, scale, shift


@pytest.mark.parametrize(("groups", "epsilon"), [(1, 1e-5), (2, 0.3), (3, 1e-5), (6, 1e-3)])
def test_a_scale_per_group_counts_for_all_its_channels(groups: int, epsilon: float) -> None:
    proto, scale, shift = withdrawn(groups, epsilon=epsilon)
    graph = graph_from_onnx(proto, "m")
    expect_same_function(proto, graph)
    x = normal(4, 6, 3, 2)
    parts = np.maximum(x, 0).astype(np.float64).reshape(4, groups, -1)
    spread = np.sqrt(parts.var(2, keepdims=True) + epsilon)
    expected = (parts - parts.mean(2, keepdims=True)) / spread * scale[None, :, None] + shift[None, :, None]
    found = Network(graph).nominal(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_what_is_wrong_beside_a_withdrawn_operator_is_still_seen() -> None:
    proto, _, _ = withdrawn()
    proto.graph.node[0].attribute.append(helper.make_attribute("nonsense", 1))
    with pytest.raises(ModelError, match="Unrecognized attribute"):
        graph_from_onnx(proto, "m")


def test_a_withdrawn_operator_without_its_attribute_is_refused() -> None:
    proto, _, _ = withdrawn()
    del proto.graph.node[1].attribute[:]
    with pytest.raises(ModelError, match="num_groups"):
        graph_from_onnx(proto, "m")


def test_other_withdrawn_operators_stay_refused() -> None:
    proto = model([NODE("Upsample", ["x", "s"], ["y"])], {"x": [1, 2]}, constants={"s": np.float32([1, 2])}, opset=13)
    with pytest.raises(ModelError, match="no such operator"):
        graph_from_onnx(proto, "m")


def test_a_computed_scale_multiplies_afterwards() -> None:
    nodes = [
        NODE("Relu", ["z"], ["s"]),
        NODE("LayerNormalization", ["x", "s", "shift"], ["y"], axis=-1),
    ]
    proto = model(nodes, {"x": [1, 3, 4], "z": [1, 4]}, constants={"shift": normal(4)})
    graph = graph_from_onnx(proto, "m")
    expect_same_function(proto, graph)


LAYERS = {
    "LayerNorm": ({"normalized_shape": [6, 5]}, nn.LayerNorm([6, 5])),
    "LayerNorm, plain": (
        {"normalized_shape": 5, "elementwise_affine": False},
        nn.LayerNorm(5, elementwise_affine=False),
    ),
    "RMSNorm": ({"normalized_shape": 5}, nn.RMSNorm(5)),
    "InstanceNorm2d": ({"affine": True}, nn.InstanceNorm2d(4, affine=True)),
    "GroupNorm": ({"num_groups": 2}, nn.GroupNorm(2, 4)),
    "LogSoftmax": ({"dim": 1}, nn.LogSoftmax(1)),
    "LocalResponseNorm": ({"size": 3, "alpha": 0.5}, nn.LocalResponseNorm(3, 0.5)),
    "AdaptiveMaxPool2d": ({"output_size": 1}, nn.AdaptiveMaxPool2d(1)),
    "LPPool2d": ({"norm_type": 2, "kernel_size": 2, "stride": [2, 1]}, nn.LPPool2d(2, 2, [2, 1])),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_those_of_torch(name: str) -> None:
    options, reference = LAYERS[name]
    layer = {"type": name.partition(",")[0], **options}
    x = torch.from_numpy(normal(2, 4, 6, 5))
    layers = [layer, {"type": "Flatten"}]
    spec = {
        "ibpc": 1,
        "name": "net",
        "input": {"shape": [4, 6, 5]},
        "classes": reference(x)[0].numel(),
        "layers": layers,
    }
    graph = graph_from_spec(spec, "s.json")
    network = Network(graph)
    torch.testing.assert_close(network.nominal(x), reference(x).flatten(1), rtol=1e-5, atol=1e-5)
    assert len(list(network.parameters.parameters())) == len(list(reference.parameters()))
