"""The page docs/support.md, generated from the registry so that it cannot go out of date."""

from __future__ import annotations

from pathlib import Path

from ibpc.files import write_atomically
from ibpc.ops import operators
from ibpc.ops.base import Operator

_HEAD = """# Operators

This page is generated from the registry (`ibpc/report/operators_page.py`); `ibpc ops` prints the same on the
terminal.

Every operator has a nominal and an interval rule, an ONNX export (opset 18) and, unless it is affine, planes that
bound it over a box. *ONNX* lists the types that it is imported from, with the operator versions that the import
knows: what a file's opset, from 7 up, resolves to. *Layers* are its names in JSON specs. Nodes whose inputs are all
constant are computed while importing, whatever their type (Shape, Range, ConstantOfShape and the arithmetic around
them).

Activations that a file spells out, as exporters do where the operator set has no type for them, become operators:
x sigmoid(a x) is `Swish`, x tanh(softplus(x)) `Mish`, x / (1 + |x|) `Softsign`, and x (1 + erf(x / √2)) / 2 and its
approximation by tanh, in whatever order they are multiplied out, are `Gelu`. `ibpc compile -v` says which.

"""


def operators_page() -> str:
    """Return the page as Markdown."""
    lines = ["| operator | what it is | bounded by | ONNX | layers |", "|---|---|---|---|---|"]
    lines.extend(_row(operator) for _, operator in sorted(operators().items()))
    types = sum(len(operator.reads) for operator in operators().values())
    count = f"{len(operators())} operators, read from {types} ONNX types.\n\n"
    return _HEAD + count + "\n".join(lines) + "\n"


def _row(operator: Operator) -> str:
    bounded = "an affine rule" if operator.is_affine else "an interval rule and planes"
    reads = ", ".join(f"{read.type} ({_versions(read.versions)})" for read in operator.reads)
    layers = ", ".join(f"`{layer.name}`" for layer in operator.layers)
    cells = (f"`{operator.name}`", operator.summary, bounded, reads, layers)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _versions(versions: tuple[int, ...]) -> str:
    return " ".join(str(version) for version in versions)


def write_operators_page(path: str | Path) -> None:
    """Write the page. Raises ArtifactError where that fails."""
    write_atomically(Path(path), operators_page().encode())
