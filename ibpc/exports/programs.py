"""Graphs as `torch.export` programs (`.pt2`), for PyTorch and ExecuTorch without this package."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn

from ibpc.exports.bounds import Claimed, bounding_module, example_ends
from ibpc.files import write_atomically
from ibpc.ir import Graph
from ibpc.lowering import freeze, lower_nominal, parameter_tree
from ibpc.passes import EVALUATION
from ibpc.rounding import Arithmetic


def export_program(graph: Graph, path: str | Path, claimed: Claimed | None, arithmetic: Arithmetic) -> None:
    """Write a graph as a `torch.export` program with a symbolic batch: the nominal one where `claimed` is None.

    Raises ArtifactError where the file cannot be written, UsageError where there are no margins.
    """
    if claimed is None:
        module: nn.Module = _nominal_module(graph)
        arguments = example_ends(graph, 3)[::2]
    else:
        module, arguments = bounding_module(graph, claimed, arithmetic), example_ends(graph, 3)
    batch = torch.export.Dim("batch")
    sizes = tuple({0: batch} for _ in arguments)
    shapes = {"ends": sizes} if claimed is Claimed.MARGINS else sizes
    program = torch.export.export(module, arguments, dynamic_shapes=shapes)
    data = io.BytesIO()
    torch.export.save(program, data)
    write_atomically(Path(path), data.getvalue())


def _nominal_module(graph: Graph) -> nn.Module:
    folded, _ = EVALUATION.run(graph)
    return freeze(lower_nominal(folded, parameter_tree(folded))).eval()
