"""Which ONNX nodes an operator can import, and the list of those that none can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx

from ibpc.errors import Problem, nearest
from ibpc.frontends.onnx_clean import schema_of
from ibpc.ops import operators

_NAMED: Final = 5


class Support:
    """What the operators can import from files of an operator set."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self.readings = {reading.type: reading for record in operators().values() for reading in record.reads}

    def version(self, node: onnx.NodeProto) -> int:
        """Return the operator version that the file's opset decides, 0 for what is not ONNX's."""
        schema = schema_of(node, self._opset)
        return schema.since_version if schema else 0

    def lacking(self, node: onnx.NodeProto) -> str | None:
        """Return why no operator can import the node, if so."""
        version, reading = self.version(node), self.readings.get(node.op_type)
        if node.domain:
            return f"operators of the domain {node.domain!r} are not supported; expected ai.onnx"
        if not version:
            return f"opset {self._opset} has no such operator; {nearest(node.op_type, _onnx_types())}"
        if reading is None:
            return "the operator is not supported; 'ibpc ops' lists those that are"
        if version not in reading.versions:
            listed = ", ".join(str(each) for each in reading.versions)
            return f"version {version} of the operator is not supported; expected one of {listed}"
        return None


class Refusals:
    """The nodes that cannot be imported, by kind and reason."""

    def __init__(self, support: Support) -> None:
        self._support = support
        self._names: dict[tuple[str, str], list[str]] = {}

    def add(self, node: onnx.NodeProto, reason: str) -> None:
        """Refuse a node."""
        kind, version = node.op_type, self._support.version(node)
        if node.domain:
            kind = f"{node.domain}.{node.op_type}"
        elif version:
            kind = f"{node.op_type}-{version}"
        self._names.setdefault((kind, reason), []).append(node.name)

    def problems(self, where: str) -> Iterator[Problem]:
        """Yield what was refused, one problem for all nodes of a kind that share a reason."""
        for (kind, reason), names in self._names.items():
            listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            yield Problem(f"{where}: node{'s' * (len(names) > 1)} {listed} ({kind})", reason)


def _onnx_types() -> frozenset[str]:
    """Return all operator types of the domain ai.onnx that the installed onnx knows."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain)
