"""Small ONNX models for the tests of import, validation and export, and ONNX Runtime as their judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state

from ibpc.ir import Graph
from ibpc.network import Network

Sizes = Sequence[int | str]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Return an array of standard normal float32 numbers."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sizes],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, object] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a model with float inputs of the given shapes and float outputs of undeclared shape."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def chain(
    *steps: tuple[object, ...], start: Sizes, constants: Mapping[str, object], opset: int = 17
) -> onnx.ModelProto:
    """Return a chain x → y. A step is the operator type, the names of its further inputs, and last its attributes."""
    nodes, current = [], "x"
    for index, (kind, *rest) in enumerate(steps):
        attributes = rest.pop() if rest and isinstance(rest[-1], dict) else {}
        following = "y" if index == len(steps) - 1 else f"h{index}"
        nodes.append(helper.make_node(str(kind), [current, *rest], [following], f"step{index}", **attributes))
        current = following
    used = {name for node in nodes for name in node.input}
    return model(nodes, {"x": start}, constants={k: v for k, v in constants.items() if k in used}, opset=opset)


# What ONNX Runtime refuses models with: classes of their own, which share none but Exception.
REFUSALS = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)


def runtime(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session that computes what the file says.

    Its optimizations would compute a product with quantized weights in 8 bits.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def sizes_at_one(proto: onnx.ModelProto) -> list[list[int]]:
    """Return the shape of each real input, free dimensions taken as 1."""
    held = {tensor.name for tensor in proto.graph.initializer}
    return [
        [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
        if value.name not in held
    ]


def expect_same_function(proto: onnx.ModelProto, graph: Graph, count: int = 3, seed: int = 0) -> None:
    """Assert that the lowered graph at batch `count` gives, sample by sample, what ONNX Runtime gives for the file."""
    session = runtime(proto)
    inputs = [normal(count, *graph.node(name).shape[1:], seed=seed + slot) for slot, name in enumerate(graph.inputs)]
    with torch.no_grad():
        ours = Network(graph).nominal(*map(torch.from_numpy, inputs))
    ours = (ours,) if isinstance(ours, torch.Tensor) else ours
    for index in range(count):
        feed = {
            entry.name: np.asarray(batch[index])
            .reshape(sizes)
            .astype(np.float64 if "double" in entry.type else np.float32)
            for entry, batch, sizes in zip(session.get_inputs(), inputs, sizes_at_one(proto), strict=True)
        }
        for name, mine, theirs in zip(graph.outputs, ours, session.run(None, feed), strict=True):
            assert mine.shape[0] == count, f"output {name} has no batch"
            scale = max(1.0, float(np.abs(theirs).max()))
            np.testing.assert_allclose(mine[index].numpy().ravel(), theirs.ravel(), rtol=1e-4, atol=1e-5 * scale)
