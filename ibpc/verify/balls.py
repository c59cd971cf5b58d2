"""Inputs of a network with the class they should have, and robustness around them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ibpc.data import Dataset, evenly, fit_images, read_array, real_array
from ibpc.errors import PropertyError
from ibpc.ir import format_shape, same_order
from ibpc.network import Network
from ibpc.verify.properties import Property


@dataclass(frozen=True)
class Ball:
    """An input of a network, without batch, and the class it should have; `index` is its place in a data set."""

    point: Tensor | NDArray[Any]
    label: int
    index: int = 0

    def within(self, eps: float | Tensor, network: Network, target: int | None = None) -> Property:
        """Return robustness of the input: no point within `eps` is classified other than as `label`.

        With a `target` only that class must stay below the label. `eps` is one radius or one for each element, in
        pixels of [0, 1]; the ball is clipped to the range of the network's pixels. Raises PropertyError if nothing of
        it is left, and for what is no radius or class.
        """
        return Property.from_ball(self.point, eps, self.label, network.classes, network.pixel_range, target)


def ball(network: Network, x: str | Path | Tensor | NDArray[Any], label: int | None = None) -> Ball:
    """Return an input, in a `.npy` file or as such, with the class `label` or, by default, the network's own answer.

    It has the shape of one sample, without batch, or one that differs by dimensions of 1. Raises DataError for what are
    no numbers, PropertyError for ones that do not fit, GraphError for a network without logits.
    """
    path = str(x) if isinstance(x, str | Path) else "input"
    x, classes = read_array(Path(x)) if isinstance(x, str | Path) else real_array(x, path), network.classes
    if len(network.graph.outputs) != 1:
        found = f"{len(network.graph.outputs)} outputs"
        raise PropertyError.at(path, found, "one row of logits", "state it as a property in VNN-LIB")
    shapes = [network.graph.node(name).shape[1:] for name in network.graph.inputs]
    if len(shapes) != 1 or not same_order(x.shape, shapes[0]):
        wanted = " and ".join(format_shape(shape) for shape in shapes)
        expected = f"one input of shape {wanted}, {classes} classes"
        raise PropertyError.at(path, f"an array of shape {format_shape(x.shape)}", expected)
    low, high = network.pixel_range
    if not low <= x.min() <= x.max() <= high:
        found, expected = f"values from {x.min():g} to {x.max():g}", f"values of the input's range, [{low:g}, {high:g}]"
        raise PropertyError.at(path, found, expected, "images of uint8 are divided by 255")
    point = torch.from_numpy(x).reshape(shapes[0])
    if label is None:
        with torch.no_grad():
            label = int(network.nominal(point[None].float().to(network.device)).argmax(1))
    return Ball(point, label)


def spread_balls(network: Network, data: Dataset, limit: int) -> list[Ball]:
    """Return `limit` test images, spread evenly over the data set. Raises DataError if they do not fit."""
    chosen = evenly(limit, len(data.test))
    images = fit_images(data.test.floats()[chosen], network.input_shape)
    labels = data.test.labels[chosen].tolist()
    return [Ball(image, label, index) for image, label, index in zip(images, labels, chosen, strict=True)]
