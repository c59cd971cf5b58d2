"""Constraints on weights, as parametrizations: the trained values are free, the weights computed from them obey.

A node of the graph names its constraints ("nonnegative", "spectral"). `constrain` registers them on the network's
parameters before training; `bake` removes them afterwards and leaves the constrained weights in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ibpc.errors import TrainingError, nearest
from ibpc.ir import Node
from ibpc.network import Network

WEIGHT: Final = "weight"

Constraint: TypeAlias = Callable[[nn.Module, Node], None]


class Nonnegative(nn.Module):
    """W = |V|, trained in V, which begins as the weight: negative weights become their absolute values."""

    def forward(self, free: torch.Tensor) -> torch.Tensor:
        """Return |V|."""
        return free.abs()


def nonnegative(holder: nn.Module, node: Node) -> None:
    """Keep the weight ≥ 0."""
    parametrize.register_parametrization(holder, WEIGHT, Nonnegative())


def spectral(holder: nn.Module, node: Node) -> None:
    """Divide the weight by σ, the largest singular value of the matrix (outputs, everything else).

    In training, σ is estimated by one step of power iteration each time the weight is used (Miyato et al. 2018, arXiv
    1802.05957); in evaluation, by the vectors of the last step. A transposed convolution has its outputs in dimension
    1. For convolutions, σ is the norm of the reshaped kernel, not of the operator.
    """
    outputs = 1 if node.operator == "ConvTranspose" else 0
    spectral_norm(holder, WEIGHT, dim=outputs)


CONSTRAINTS: Final[Mapping[str, Constraint]] = MappingProxyType({"nonnegative": nonnegative, "spectral": spectral})


def constrain(network: Network) -> None:
    """Register the constraints that the graph's nodes name, in order. Raises TrainingError for an unknown name."""
    for node, holder in _restrained(network):
        if parametrize.is_parametrized(holder, WEIGHT):
            continue
        for name in node.constraints:
            if name not in CONSTRAINTS:
                where = f"node {node.name}"
                raise TrainingError.at(where, f"unknown constraint {name!r}", remedy=nearest(name, CONSTRAINTS))
            CONSTRAINTS[name](holder, node)


def bake(network: Network) -> None:
    """Remove all constraints and leave the weights as used in evaluation mode."""
    network.parameters.eval()
    for _, holder in _restrained(network):
        if parametrize.is_parametrized(holder, WEIGHT):
            parametrize.remove_parametrizations(holder, WEIGHT, leave_parametrized=True)


def _restrained(network: Network) -> Iterator[tuple[Node, nn.Module]]:
    """Yield each node with constraints, and the module that holds its weight."""
    for node in network.graph.order():
        if not node.constraints:
            continue
        if WEIGHT not in network.graph.parameters_of(node.name):
            raise TrainingError.at(f"node {node.name}", f"{node.operator} has no weight to constrain")
        owner = network.graph.source_of(f"{node.name}.{WEIGHT}").rpartition(".")[0]
        yield node, network.parameters.get_submodule(owner)
