"""Values by `"node.role"`: a graph's parameters, constants and ties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import TypeVar

_Entry = TypeVar("_Entry")


class Entries(MutableMapping[str, _Entry]):
    """A dict from `"node.role"` to a value that finds the entries of one node without reading all."""

    def __init__(self, entries: Mapping[str, _Entry] = MappingProxyType({})) -> None:
        self._entries: dict[str, _Entry] = {}
        self._by_node: dict[str, dict[str, _Entry]] = {}
        self.update(entries)

    def __getitem__(self, key: str) -> _Entry:
        return self._entries[key]

    def __setitem__(self, key: str, value: _Entry) -> None:
        node, _, role = key.rpartition(".")
        self._entries[key] = value
        self._by_node.setdefault(node, {})[role] = value

    def __delitem__(self, key: str) -> None:
        node, _, role = key.rpartition(".")
        del self._entries[key]
        del self._by_node[node][role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, node: str) -> Mapping[str, _Entry]:
        """Return the entries of a node by role."""
        return MappingProxyType(self._by_node.get(node, {}))
