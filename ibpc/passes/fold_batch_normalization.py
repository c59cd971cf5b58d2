"""BatchNormalization in evaluation, folded into the linear operator beside it.

Behind y = W x + b it gives s W and s (b − mean) + bias with s = weight / √(var + ε); in front of one it gives W s and
b + W (bias − mean s), unless zeros are padded in between. Means may be huge and variances tiny, so b s, mean s and
bias may cancel almost wholly in the folded bias. The rounding errors of the original network do not cancel: they are
in proportion to |b s| + |mean s| + |bias|, which is what the folded node keeps as `bias_magnitude` and what its
binary32 bound is widened by (`ibpc.passes._roundings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ibpc.ir import Graph
from ibpc.passes._scalings import fold_back, fold_forward, normalization_scaling, reader_behind, source_before
from ibpc.passes.base import Log, Pass


@dataclass(frozen=True)
class FoldBatchNormalization(Pass):
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm before it, or else into the one behind it.

    For evaluation only: it freezes the statistics. Weights that are shared or constrained are left alone.
    """

    name: ClassVar[str] = "fold_batch_normalization"
    summary: ClassVar[str] = "fold normalizations by running statistics into their neighbours"

    def apply(self, graph: Graph, log: Log) -> None:
        """Fold, in order."""
        for node in graph.order():
            if node.operator != "BatchNormalization":
                continue
            operand = graph.operands(node.name)[0]
            scaling = normalization_scaling(graph, node)
            source = source_before(graph, node.name, operand, scaling)
            reader = reader_behind(graph, node.name, scaling)
            before = fold_back(graph, node.name, operand, scaling)
            if before is None:
                log.changed(node.name, f"folded into {source.name} before it")
                continue
            behind = fold_forward(graph, node.name, operand, scaling)
            if behind is None:
                log.changed(node.name, f"folded into {reader.name} behind it")
            else:
                log.refused(node.name, f"not folded backward, {before}; not folded forward, {behind}")
