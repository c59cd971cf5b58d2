"""BatchNormalization over a batch that several processes share: each normalizes by the statistics of all of it."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import distributed, fx
from torch.fx.node import has_side_effect
from torch.nn import functional as F

from ibpc.ops.batch_normalization import batch_statistics, normalized, update_running_statistics
from ibpc.workers import Workers

_TRAINING: Final = 5  # the place of `training` among the arguments of F.batch_norm


class _Mean(torch.autograd.Function):
    """The mean of a tensor over all processes. Each process's loss depends on all of them, so gradients add up too."""

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
    """Do as `batch_statistics` for a batch of which every process holds an equal part x (B, C, …).

    With mean mᵣ and variance vᵣ of each part: μ = E[mᵣ] and E[vᵣ + (mᵣ − μ)²], without cancellation.
    """
    axes = [0, *range(2, x.dim())]
    own_mean, own_variance = x.mean(axes), x.var(axes, unbiased=False)
    mean = _everywhere(own_mean)
    variance = _everywhere(own_variance + (own_mean - mean) ** 2)
    count = x.numel() // x.shape[1] * distributed.get_world_size()
    update_running_statistics(running_mean, running_var, mean, variance, count, momentum)
    return mean, variance


@has_side_effect
def shared_batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    training: bool,
    momentum: float,
    epsilon: float,
) -> torch.Tensor:
    """Do as `F.batch_norm` in training, by the statistics of the whole batch."""
    mean, variance = shared_statistics(x, running_mean, running_var, 1.0 - momentum)
    slope, shift = normalized(mean, variance, weight, bias, epsilon, x.dim())
    return x * slope + shift


def synchronized(module: fx.GraphModule, workers: Workers) -> fx.GraphModule:
    """Let a training graph normalize by the batch of all processes, in place; a process alone has it already."""
    if workers.count == 1:
        return module
    for node in module.graph.nodes:
        if node.target is batch_statistics:
            node.target = shared_statistics
        elif node.target is F.batch_norm and node.args[_TRAINING]:
            node.target = shared_batch_norm
    module.recompile()
    return module
