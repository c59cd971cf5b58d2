"""One node alone as a function on arrays, by the ONNX reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ibpc.errors import ModelError, first_line

Evaluate: TypeAlias = Callable[[Sequence[NDArray[Any] | None]], list[NDArray[Any]]]


def evaluator(node: onnx.NodeProto, opset: int) -> Evaluate:
    """Return the node alone as a function on arrays, one for each operand, by the ONNX reference evaluator."""
    alone, made = _alone(node, opset), list[ReferenceEvaluator]()

    def evaluate(arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        fed = {f"operand{slot}": array for slot, array in enumerate(arrays) if array is not None}
        try:
            if not made:
                made.append(ReferenceEvaluator(alone))
            return list(made[0].run(None, fed))
        except Exception as error:  # the evaluator has no common class of errors
            where = f"node {node.name or node.output[0]} ({node.op_type})"
            raise ModelError.at(where, f"the ONNX reference evaluator refuses it: {first_line(error)}") from error

    return evaluate


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
