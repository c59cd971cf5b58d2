"""BatchNormalization over a batch split among processes: each normalizes by the statistics of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import distributed, fx
from torch.fx.node import has_side_effect

from ibpc.ops.batch_normalization import batch_statistics, normalize_by_batch, normalized, update_running_statistics
from ibpc.workers import Workers


class _Mean(torch.autograd.Function):
    """The mean of a tensor over all processes. Each process's loss depends on it, so gradients are averaged, too."""

    @staticmethod
    def forward(_: Any, tensor: torch.Tensor) -> torch.Tensor:
        return _mean(tensor)

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _mean(gradients[0])


def _mean(tensor: torch.Tensor) -> torch.Tensor:
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(result)
    return result / distributed.get_world_size()


def _everywhere(tensor: torch.Tensor) -> torch.Tensor:
    mean: torch.Tensor = _Mean.apply(tensor)
    return mean


@has_side_effect
def shared_statistics(
    x: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what `batch_statistics` does for a batch of which every process holds an equal part x (B, C, …).

    From the mean mᵣ and variance vᵣ of each part: mean μ = E[mᵣ] and variance E[vᵣ + (mᵣ − μ)²], without cancellation.
    """
    axes = [0, *range(2, x.dim())]
    own_mean, own_variance = x.mean(axes), x.var(axes, unbiased=False)
    mean = _everywhere(own_mean)
    variance = _everywhere(own_variance + (own_mean - mean) ** 2)
    count = x.numel() // x.shape[1] * distributed.get_world_size()
    update_running_statistics(running_mean, running_var, mean, variance, count, momentum)
    return mean, variance


@has_side_effect
def normalize_by_shared_batch(
    x: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    momentum: float,
    epsilon: float,
) -> torch.Tensor:
    """Do what `normalize_by_batch` does for a batch of which every process holds an equal part x (B, C, …)."""
    mean, variance = shared_statistics(x, running_mean, running_var, momentum)
    slope, shift = normalized(mean, variance, weight, bias, epsilon, x.dim())
    return x * slope + shift


_SHARED: Final[Mapping[Any, Callable[..., Any]]] = MappingProxyType(
    {batch_statistics: shared_statistics, normalize_by_batch: normalize_by_shared_batch}
)


def synchronized(module: fx.GraphModule, workers: Workers) -> fx.GraphModule:
    """Let a training graph normalize by the batch of all processes, in place; unchanged for a single process."""
    if workers.count == 1:
        return module
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _SHARED:
            node.target = _SHARED[node.target]
    module.recompile()
    return module
