"""The way back: weights of a network into the nn.Module that it was compiled from.

Which entry of the network holds which parameter of the module is found by compiling the module once more with numbers
that tell all its parameters and buffers apart.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from ibpc.errors import Problem, UsageError, raise_all
from ibpc.frontends.torch import load_module
from ibpc.ir import Graph
from ibpc.network import Network
from ibpc.passes import COMPILE

_SEED: Final = 0
# Kept small and positive: variances have to be, and the marked module is compared with its import.
_LEAST, _SPREAD = 0.001, 0.002


def copy_weights(network: Network, module: nn.Module, example: Tensor | Sequence[Tensor]) -> None:
    """Copy the present weights of a network into the nn.Module that it was compiled from, in place.

    `example` is the input that it was compiled with. Raises ModelError where the module cannot be compiled, UsageError,
    and copies nothing, where the network is that of another module, or the module computes its weights.
    """
    graph = network.snapshot()
    marked = _marked(module)
    twin, _ = COMPILE.run(load_module(marked, example))
    if twin.structure() != graph.structure():
        raise UsageError.at("module", "the network is not that of this module", "the module it was compiled from")
    sources = {name: _source(value, twin, graph) for name, value in _floats(marked).items()}
    raise_all(
        UsageError,
        [
            Problem(f"module: {name}", "no weight of the network holds it as it is", "a parameter that is not computed")
            for name, source in sources.items()
            if source is None
        ],
    )
    with torch.no_grad():
        for name, value in _floats(module).items():
            source = sources[name]
            assert source is not None
            value.copy_(source)


def _floats(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and the buffers of floats by name, shared ones once."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value for name, value in named.items() if value.is_floating_point()}


def _marked(module: nn.Module) -> nn.Module:
    """Return a copy whose parameters and buffers hold random numbers, all of them different ones."""
    marked = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for value in _floats(marked).values():
            value.copy_(_LEAST + _SPREAD * torch.rand(value.shape, generator=generator))
    return marked


def _source(value: Tensor, twin: Graph, graph: Graph) -> Tensor | None:
    """Return the weights of the network for a marked value, None if the network holds no such weights."""
    wanted = value.detach().cpu().float()
    for key, held in twin.state.items():
        marks, weights = torch.as_tensor(held), torch.as_tensor(graph.state[key])
        if marks.shape == wanted.shape and torch.equal(marks, wanted):
            return weights
        if marks.dim() == 2 and marks.T.shape == wanted.shape and torch.equal(marks.T, wanted):
            return weights.T
    return None
