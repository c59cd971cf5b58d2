"""One node alone as a function on arrays, by the ONNX reference evaluator, with ONNX Runtime as a witness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ibpc.errors import ModelError, ThirdPartyError, third_party
from ibpc.runtime import session

Evaluate: TypeAlias = Callable[[Sequence[NDArray[Any] | None]], list[NDArray[Any]]]
Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]


def evaluator(node: onnx.NodeProto, opset: int) -> Evaluate:
    """Return the node alone as a function on arrays, one for each operand, by the ONNX reference evaluator."""
    if node.op_type == "GatherElements":
        return _gathering(node)
    run = running(_alone(node, opset), f"node {node.name or node.output[0]} ({node.op_type})")

    def evaluate(arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        return run({f"operand{slot}": array for slot, array in enumerate(arrays) if array is not None})

    return evaluate


def _gathering(node: onnx.NodeProto) -> Evaluate:
    """Return GatherElements, of which the reference evaluator errs where there are many rows."""
    along = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)

    def evaluate(arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        data, indices = (np.asarray(array) for array in arrays)
        axis = along % max(1, data.ndim)
        fits = data.ndim == indices.ndim > 0 and all(
            given <= size or place == axis
            for place, (given, size) in enumerate(zip(indices.shape, data.shape, strict=True))
        )
        size = data.shape[axis] if fits else 0
        if not fits or bool(((indices < -size) | (indices >= size)).any()):
            where = f"node {node.name or node.output[0]} (GatherElements)"
            raise ModelError.at(where, f"indices {indices.shape} of data {data.shape}", "ones that fit")
        kept = tuple(slice(None) if place == axis else slice(given) for place, given in enumerate(indices.shape))
        return [np.take_along_axis(data[kept], indices, axis)]

    return evaluate


def confirm(
    node: onnx.NodeProto, opset: int, arrays: Sequence[NDArray[Any] | None], results: Sequence[NDArray[Any]]
) -> None:
    """Raise ModelError where ONNX Runtime, if it runs the node alone, computes anything else from the arrays."""
    fed = {f"operand{slot}": np.asarray(array) for slot, array in enumerate(arrays) if array is not None}
    model = _alone(node, opset)
    for value in model.graph.input:
        array = fed[value.name]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, array.shape))
    try:
        with third_party():
            others = session(model.SerializeToString())(fed)
    except ThirdPartyError:  # It has no such node for these types.
        return
    if not all(np.array_equal(result, other, equal_nan=True) for result, other in zip(results, others, strict=True)):
        raise ModelError.at(
            f"node {node.name or node.output[0]} ({node.op_type})",
            "ONNX Runtime and the ONNX reference evaluator compute different results",
            "one on which they agree",
        )


def running(model: onnx.ModelProto, where: str) -> Run:
    """Return a model as a function on arrays by name, by the ONNX reference evaluator, made at the first call.

    The function raises ModelError, which names `where`, for whatever the evaluator refuses.
    """
    made: list[ReferenceEvaluator] = []

    def run(fed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            with third_party():
                if not made:
                    made.append(ReferenceEvaluator(model))
                return list(made[0].run(None, dict(fed)))
        except ThirdPartyError as error:
            raise ModelError.at(where, f"the ONNX reference evaluator refuses it: {error}") from error

    return run


def _alone(node: onnx.NodeProto, opset: int) -> onnx.ModelProto:
    """Return a model of one node; operands and results are named by slot, since a name may occur twice."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [f"operand{slot}" if name else "" for slot, name in enumerate(node.input)]
    copy.output[:] = [f"result{slot}" for slot in range(len(node.output))]
    graph = helper.make_graph(
        [copy],
        "node",
        [onnx.ValueInfoProto(name=name) for name in copy.input if name],
        [onnx.ValueInfoProto(name=name) for name in copy.output],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
