"""One node alone as a function on arrays, by the ONNX reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ibpc.errors import ModelError, StrangerError, stranger

Evaluate: TypeAlias = Callable[[Sequence[NDArray[Any] | None]], list[NDArray[Any]]]
Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]


def evaluator(node: onnx.NodeProto, opset: int) -> Evaluate:
    """Return the node alone as a function on arrays, one for each operand, by the ONNX reference evaluator."""
    run = running(_alone(node, opset), f"node {node.name or node.output[0]} ({node.op_type})")

    def evaluate(arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        return run({f"operand{slot}": array for slot, array in enumerate(arrays) if array is not None})

    return evaluate


def running(model: onnx.ModelProto, where: str) -> Run:
    """Return a model as a function on arrays by name, by the ONNX reference evaluator, made at the first call.

    The function raises ModelError, which names `where`, for whatever the evaluator refuses.
    """
    made: list[ReferenceEvaluator] = []

    def run(fed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            with stranger():
                if not made:
                    made.append(ReferenceEvaluator(model))
                return list(made[0].run(None, dict(fed)))
        except StrangerError as error:
            raise ModelError.at(where, f"the ONNX reference evaluator refuses it: {error}") from error

    return run


def _alone(node: onnx.NodeProto, opset: int) -> onnx.ModelProto:
    """Return a model of one node; operands and results are named by their slots, for one may occur twice."""
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
