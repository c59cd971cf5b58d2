"""BatchNormalization in evaluation, folded into the linear operator beside it.

Let s = weight / √(var + ε). After y = W x + b the fold gives s W and s (b − mean) + bias; before it W s and
b + W (bias − mean s), unless the operator pads zeros. Means may be huge and variances tiny, so b s, mean s and bias may
almost cancel in the folded bias. The rounding errors of the original network do not cancel: they are proportional to
|b s| + |mean s| + |bias|, which the folded node keeps as `bias_magnitude` to widen its binary32 bound
(`ibpc.passes._roundings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ibpc.ir import Graph
from ibpc.passes._scalings import fold_back, fold_forward, normalization_scaling
from ibpc.passes.base import Log, Pass


@dataclass(frozen=True)
class FoldBatchNormalization(Pass):
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm before it, or else into the one after it.

    For evaluation only, because it freezes the statistics. Weights that are shared or constrained are left alone.
    """

    name: ClassVar[str] = "fold_batch_normalization"

    def apply(self, graph: Graph, log: Log) -> None:
        """Fold normalizations in graph order."""
        for node in graph.order():
            if node.operator != "BatchNormalization":
                continue
            operand = graph.operands(node.name)[0]
            scaling = normalization_scaling(graph, node)
            source, before = fold_back(graph, node.name, operand, scaling)
            if before is None:
                log.changed(node.name, f"folded into {source.name} before it")
                continue
            reader, behind = fold_forward(graph, node.name, operand, scaling)
            if behind is None:
                log.changed(node.name, f"folded into {reader.name} behind it")
            else:
                log.refused(node.name, f"not folded backward, {before}; not folded forward, {behind}")
