"""A network under proof: what all decisions about it share, each part made on first use."""

from __future__ import annotations

from functools import cached_property

from ibpc.bounds.values import Walk, walk_of
from ibpc.ir import Graph
from ibpc.network import Network
from ibpc.verify.replay import Replay


class Subject:
    """A network with its weights of now: whoever changes them afterwards needs another subject."""

    def __init__(self, network: Network) -> None:
        self.network, self.device = network, network.device
        self.graph: Graph = network.snapshot()

    @cached_property
    def walk(self) -> Walk:
        """The network made ready for bounding."""
        return walk_of(self.graph, self.device)

    @cached_property
    def original(self) -> Walk:
        """The network before any pass, which decides whether all its values are numbers."""
        return Walk(self.graph, self.device)

    @cached_property
    def replay(self) -> Replay:
        """The network in ONNX Runtime."""
        return Replay.of(self.network)
