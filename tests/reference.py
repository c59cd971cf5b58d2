"""An independent float64 reference: reads a spec's JSON itself and propagates boxes by the signs of weights.

It shares no code with the compiler: layers are applied with plain torch calls, boxes with l′ = W⁺ l + W⁻ u + b and
u′ = W⁺ u + W⁻ l + b.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.nn import functional as F


def _pair(value):
    return [value, value] if isinstance(value, int) else list(value)


def _same(size, kernel, stride):
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def _pad(x, layer, kernel, stride):
    padding = layer.get("padding", 0)
    if padding == "same":
        top, bottom = _same(x.shape[2], kernel[0], stride[0])
        left, right = _same(x.shape[3], kernel[1], stride[1])
        return F.pad(x, [left, right, top, bottom])
    rows, columns = _pair(padding)
    return F.pad(x, [columns, columns, rows, rows])


def _split(lower, upper, weight, apply, bias):
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    return (
        apply(lower, positive) + apply(upper, negative) + bias,
        apply(upper, positive) + apply(lower, negative) + bias,
    )


class Reference:
    """The boxes of one spec network, whose parameters are `state["node.role"]`."""

    def __init__(self, path: Path, state: dict[str, torch.Tensor]) -> None:
        self.spec = json.loads(path.read_text())
        self.state = {key: value.double() for key, value in state.items()}
        self.counts: dict[str, int] = {}

    def __call__(self, lower: torch.Tensor, upper: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lower, upper = self._normalize(lower.double()), self._normalize(upper.double())
        if "layers" in self.spec:
            for layer in self.spec["layers"]:
                self.counts[kind] = self.counts.get(kind := _kind(layer["type"]), 0) + 1
                name = layer.get("name", f"{kind}{self.counts[kind]}")
                lower, upper = self._layer(name, layer, [(lower, upper)])
            return lower, upper
        return self._graph(self.spec["graph"], (lower, upper))

    def _normalize(self, x):
        given = self.spec["input"]
        shape = [-1, *[1] * (x.dim() - 2)]
        mean = torch.tensor(given.get("mean", 0.0), dtype=torch.float32).double().reshape(shape)
        std = torch.tensor(given.get("std", 1.0), dtype=torch.float32).double().reshape(shape)
        return (x - mean) / std

    def _graph(self, graph, box):
        values = {"input": box}
        pending = dict(graph["nodes"])
        while pending:
            for name, layer in list(pending.items()):
                if all(source in values for source in layer["inputs"]):
                    values[name] = self._layer(name, layer, [values[source] for source in layer["inputs"]])
                    del pending[name]
        return values[graph["output"]]

    def _layer(self, name, layer, boxes):
        lower, upper = boxes[0]
        weight, bias = self.state.get(f"{name}.weight"), self.state.get(f"{name}.bias")
        match layer["type"]:
            case "Conv2d":
                kernel, stride = _pair(layer["kernel_size"]), _pair(layer.get("stride", 1))
                lower, upper = (_pad(x, layer, kernel, stride) for x in (lower, upper))
                offset = 0.0 if bias is None else bias[:, None, None]
                return _split(lower, upper, weight, lambda x, w: F.conv2d(x, w, None, stride), offset)
            case "Linear":
                return _split(lower, upper, weight, lambda x, w: x @ w.T, 0.0 if bias is None else bias)
            case "BatchNorm1d" | "BatchNorm2d":
                shape = [-1, *[1] * (lower.dim() - 2)]
                mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
                slope = (weight / (variance + layer.get("eps", 1e-5)).sqrt()).reshape(shape)
                shift = bias.reshape(shape) - mean.reshape(shape) * slope
                ends = slope * lower + shift, slope * upper + shift
                return torch.minimum(*ends), torch.maximum(*ends)
            case "ReLU":
                return lower.clamp(min=0), upper.clamp(min=0)
            case "LeakyReLU":
                slope = layer.get("negative_slope", 0.01)
                return F.leaky_relu(lower, slope), F.leaky_relu(upper, slope)
            case "Flatten":
                return lower.flatten(1), upper.flatten(1)
            case "Add":
                return lower + boxes[1][0], upper + boxes[1][1]
            case "AdaptiveAvgPool2d":
                return lower.mean((2, 3), keepdim=True), upper.mean((2, 3), keepdim=True)
            case "AvgPool2d":
                return tuple(F.avg_pool2d(x, layer["kernel_size"], layer.get("stride")) for x in (lower, upper))
        raise AssertionError(f"the reference knows no {layer['type']}")


def _kind(type: str) -> str:
    return type.lower().removesuffix("1d").removesuffix("2d")
