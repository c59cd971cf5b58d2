"""The interval graph itself as an ONNX model: certified inference in any ONNX runtime, without a line of Python.

The graph that is exported is the one that certification runs, BatchNormalization folded and |W| computed. PyTorch's own
exporter translates it; what it wrote is run in ONNX Runtime and compared before anything is saved.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from torch import nn

from ibpc.artifact import tool_versions
from ibpc.bounds.ibp import lower_margins
from ibpc.bounds.values import evaluated
from ibpc.errors import ModelError, UsageError
from ibpc.exports.nominal import OPSET, serialized
from ibpc.files import write_atomically
from ibpc.frontends.torch import quietly
from ibpc.hints import INEXACT
from ibpc.ir import Graph
from ibpc.lowering import freeze, lower_interval, parameter_tree
from ibpc.margins import class_differences, margin_index
from ibpc.passes import EVALUATION
from ibpc.rounding import Arithmetic, plain_products
from ibpc.runtime import Array, Optimizations, refused, session

_BATCHES: Final = (1, 3)
_RELATIVE: Final = 1e-4
# Factors that lower a raised radius are about 2⁻²⁴.
_TINY: Final = 2.0**-20


class Claimed(Enum):
    """What a bounding graph gives: bounds of every output, or lower bounds of all class margins z_i − z_j."""

    OUTPUTS = "interval"
    MARGINS = "margins"


class _Margins(nn.Module):
    """Lower bounds (B, K, K) of z_i − z_j from the bounds of the class differences; see `margin_index`."""

    def __init__(self, bounds: nn.Module, classes: int) -> None:
        super().__init__()
        self.bounds = bounds
        self.register_buffer("pairs", margin_index(classes).flatten())
        self.pairs: torch.Tensor
        self._classes = classes

    def forward(self, *ends: torch.Tensor) -> torch.Tensor:
        lower, upper = self.bounds(*ends)
        found = torch.cat([lower, -upper, torch.zeros_like(lower[:, :1])], dim=1)
        return found[:, self.pairs].reshape(-1, self._classes, self._classes)


def bounding_module(graph: Graph, claimed: Claimed, arithmetic: Arithmetic) -> nn.Module:
    """Return the frozen graph (lower, upper per input) → (lower, upper per output), or → margins (B, K, K).

    Raises UsageError for the margins of a network that is no classifier, ModelError for bounds in binary32 of one that
    reads a constant which executions may compute differently.
    """
    if arithmetic is Arithmetic.FLOAT32 and INEXACT in graph.hints:
        found = "a constant that runtimes may round differently"
        raise ModelError.at(str(graph.hints[INEXACT]), found, "a number", "arithmetic real leaves rounding out")
    if claimed is Claimed.OUTPUTS:
        folded, _ = EVALUATION.run(graph)
        return freeze(lower_interval(folded, parameter_tree(folded), arithmetic)).eval()
    shapes = [graph.node(name).shape for name in graph.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        found = f"{len(shapes)} outputs, the first of rank {len(shapes[0])}"
        raise UsageError.at("graph margins", found, "one output of shape N×K, the logits")
    classes = int(shapes[0][1])
    return _Margins(lower_margins(evaluated(graph), class_differences(classes), arithmetic), classes).eval()


def export_bounds(
    graph: Graph, path: str | Path, claimed: Claimed, arithmetic: Arithmetic = Arithmetic.FLOAT32
) -> None:
    """Write a bounding graph as an ONNX file with a symbolic batch, whole or not at all.

    One input: `lower`, `upper`; several: `NAME_lower`, `NAME_upper`. One output: `output_lower`, `output_upper`;
    several: `output_NAME_lower`, `output_NAME_upper`; or `margins` (B, K, K). Raises
    UsageError where onnxscript is missing or there are no margins, ModelError where ONNX Runtime computes something
    else than PyTorch, and ArtifactError where the file cannot be written.
    """
    module = bounding_module(graph, claimed, arithmetic)
    model = _translated(module, graph, claimed)
    _label(model, graph, claimed, arithmetic)
    data = serialized(model, path)
    for batch in _BATCHES:
        _compare(data, module, example_ends(graph, batch))
    write_atomically(Path(path), data)


def example_ends(graph: Graph, batch: int) -> tuple[torch.Tensor, ...]:
    """Return lower and upper ends (batch, …) of a small box for each input."""
    generator = torch.Generator().manual_seed(batch)
    ends = []
    for name in graph.inputs:
        x = torch.rand(batch, *graph.node(name).shape[1:], generator=generator)
        ends.extend([x - 0.01, x + 0.01])
    return tuple(ends)


def input_names(graph: Graph) -> list[str]:
    """Return what the inputs of a bounding graph are called."""
    prefixes = [""] if len(graph.inputs) == 1 else [f"{name}_" for name in graph.inputs]
    return [f"{prefix}{side}" for prefix in prefixes for side in ("lower", "upper")]


def output_names(graph: Graph, claimed: Claimed) -> list[str]:
    """Return what its outputs are called; ONNX does not let one share the name of an input."""
    if claimed is Claimed.MARGINS:
        return ["margins"]
    prefixes = ["output"] if len(graph.outputs) == 1 else [f"output_{name}" for name in graph.outputs]
    return [f"{prefix}_{side}" for prefix in prefixes for side in ("lower", "upper")]


def _translated(module: nn.Module, graph: Graph, claimed: Claimed) -> onnx.ModelProto:
    _require_onnxscript()
    batch = torch.export.Dim("batch")
    ends = example_ends(graph, 3)
    margins = claimed is Claimed.MARGINS
    with quietly(), plain_products():
        program = torch.onnx.export(
            module,
            ends,
            dynamo=True,
            optimize=False,  # its optimizer takes factors close to 1 for 1, and so drops what pays for rounding
            verbose=False,
            opset_version=OPSET,
            input_names=input_names(graph),
            output_names=output_names(graph, claimed),
            dynamic_shapes={"ends": tuple({0: batch} for _ in ends)} if margins else tuple({0: batch} for _ in ends),
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _keep_guards(model)
    return model


def _keep_guards(model: onnx.ModelProto) -> None:
    """Divide where the graph multiplies by a tiny constant: by that it lowers radii that were raised to overflow early.

    Runtimes multiply such a factor into the weights before it, and then nothing overflows early any more; see
    `rounding.guard_overflow`. Divisors are rounded so that no radius shrinks.
    """
    nodes = model.graph.node
    constants = {node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t) for node in nodes if _is_tensor(node)}
    for node in nodes:
        slots = [slot for slot, name in enumerate(node.input) if _is_tiny(constants.get(name))]
        if node.op_type != "Mul" or not slots:
            continue
        exact = 1.0 / float(constants[node.input[slots[0]]].item())
        divisor = np.float32(exact)
        divisor = np.nextafter(divisor, np.float32(0)) if abs(float(divisor)) > abs(exact) else divisor
        name = f"{node.output[0]}_divisor"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(divisor, np.float32), name))
        dividend = node.input[1 - slots[0]]
        node.op_type, node.input[:] = "Div", [dividend, name]


def _is_tensor(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.attribute[0].name == "value"


def _is_tiny(value: Array | None) -> bool:
    return value is not None and value.dtype == np.float32 and value.size == 1 and 0 < abs(value.item()) <= _TINY


def _require_onnxscript() -> None:
    if find_spec("onnxscript") is None:
        raise UsageError.at("export", "onnxscript is not installed", "", "pip install onnxscript")


def _label(model: onnx.ModelProto, graph: Graph, claimed: Claimed, arithmetic: Arithmetic) -> None:
    model.producer_name, model.producer_version = "ibpc", tool_versions().get("ibpc", "")
    about = {
        "ibpc.name": graph.name,
        "ibpc.graph": claimed.value,
        "ibpc.arithmetic": arithmetic.value,
        "ibpc.hints": json.dumps(graph.hints),
    }
    onnx.helper.set_model_props(model, about)
    for node in model.graph.node:
        del node.metadata_props[:]


@torch.no_grad()
def _compare(data: bytes, module: nn.Module, ends: Sequence[torch.Tensor]) -> None:
    """Raise ModelError unless ONNX Runtime computes from `data` what the module does."""
    names = [value.name for value in onnx.load_from_string(data).graph.input]
    feed = dict(zip(names, [end.numpy() for end in ends], strict=True))
    with refused("export"):
        found = session(data, Optimizations.ALL)(feed)
    with plain_products():
        results = module(*ends)
    expected = [value.numpy() for value in (results if isinstance(results, tuple) else (results,))]
    for value, wanted in zip(found, expected, strict=True):
        if not _agree(value, wanted):
            raise ModelError.at("export", "ONNX Runtime computes other bounds than PyTorch", "equal ones", "report it")


def _agree(found: Any, wanted: Any) -> bool:
    if found.shape != wanted.shape:
        return False
    finite = np.isfinite(wanted)
    scale = float(np.abs(wanted[finite]).max(initial=0.0))
    same = np.array_equal(np.isfinite(found), finite) and np.array_equal(found[~finite], wanted[~finite])
    return same and bool((np.abs(found[finite] - wanted[finite]) <= _RELATIVE * scale + 1e-6).all())
