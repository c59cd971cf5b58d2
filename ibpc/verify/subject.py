"""A network to be verified: shared by all decisions about it, each part made on first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ibpc.bounds.values import Walk, walk_of
from ibpc.errors import ModelError
from ibpc.evaluation import enclose
from ibpc.frontends.agreement import agree_with_bounds
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.network import Network
from ibpc.verify.replay import Replay


class Subject:
    """A network with its present weights: after a change of weights another subject is needed."""

    def __init__(self, network: Network) -> None:
        self.network, self.device = network, network.device
        self.graph: Graph = network.snapshot()

    @cached_property
    def walk(self) -> Walk:
        """The network made ready for bounding."""
        return walk_of(self.graph, self.device)

    @cached_property
    def original(self) -> Walk:
        """The network before any pass, on which `Definedness` looks for values that may be NaN or ±∞."""
        return Walk(self.graph, self.device)

    @cached_property
    def replay(self) -> Replay:
        """The network in ONNX Runtime, or in what runs it instead."""
        return Replay.of(self.network)

    def expect_agreement(self, points: Sequence[Tensor]) -> None:
        """Raise ModelError unless the replay agrees with the network at points (B, …), one tensor per input.

        Import compared the two at other points; claims are about these. The replay's outputs must lie in the range
        that executions of the network may compute there. Networks that come from no ONNX file are not compared.
        """
        if self.network.source.kind != "onnx":
            return
        inputs = [point.detach().cpu() for point in points]
        try:
            values = [self.replay([x[number] for x in inputs]).numpy() for number in range(len(inputs[0]))]
        except ModelError:  # ONNX Runtime cannot run the file; the import compared it with another implementation.
            return
        boxes = enclose(self.graph, inputs)
        lower, upper = (torch.cat([end.flatten(1) for end in ends], 1) for ends in zip(*map(_ends, boxes), strict=True))
        for number, theirs in enumerate(values):
            if not agree_with_bounds(lower[number].numpy(), upper[number].numpy(), theirs):
                found = f"{self.replay.judge} computes something else at a point of the region"
                raise ModelError.at(self.network.source.path, found, "the same function", "nothing is claimed of it")


def _ends(box: Interval) -> tuple[Tensor, Tensor]:
    return box.lower, box.upper
