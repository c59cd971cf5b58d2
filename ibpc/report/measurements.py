"""The measurements of a run for a report: verdicts at several radii, widths of boxes by layer, maps of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ibpc.bounds import QUICK
from ibpc.data import Dataset, evenly, fit_images
from ibpc.interval import Interval
from ibpc.ir import Graph, Node
from ibpc.lowering import lower_nominal
from ibpc.network import Network
from ibpc.ops import operators
from ibpc.progress import ignore
from ibpc.report.wording import format_eps
from ibpc.rounding import Arithmetic
from ibpc.training.layers import boxes_within
from ibpc.training.runner import TrainingRun
from ibpc.verify.attack import Attack
from ibpc.verify.data_certifier import DataCertifier
from ibpc.verify.results import Robustness

SHARES: Final = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
ATTACK: Final = Attack(steps=20, restarts=1)
AFTER_CONVOLUTIONS: Final = "after the convolutions"
BEFORE_LAST: Final = "before the last layer"
PLACES: Final = (AFTER_CONVOLUTIONS, BEFORE_LAST)
_BATCH: Final = 50
# For one image that intervals leave open, where the method is a plan.
_SECONDS: Final = 5.0
_WIDTH_IMAGES: Final = 100
_MAP_IMAGES: Final = 500
_COMPONENTS: Final = 50
_PERPLEXITY: Final = 30


@dataclass(frozen=True)
class Width:
    """The mean width of a layer's boxes over units and images, and the same relative to the spread of activations."""

    layer: str
    mean: float
    relative: float


@dataclass(frozen=True)
class FeatureMap:
    """Features of images in the plane: `points` (M, 2), and the class of each, (M,)."""

    place: str
    points: NDArray[Any] = field(repr=False)
    labels: NDArray[Any] = field(repr=False)


@dataclass(frozen=True)
class Measurement:
    """A run by name, measured on test images: accuracies at several radii, widths of boxes, maps of features.

    `curve` is at ascending radii, `result` at the report's own. `images` are the indices of the certified images in
    the test split, in the order of the examples.
    """

    name: str
    run: TrainingRun
    images: tuple[int, ...] = field(repr=False)
    result: Robustness
    curve: tuple[Robustness, ...]
    widths: tuple[Width, ...]
    maps: tuple[FeatureMap, ...]


@dataclass(frozen=True)
class Measuring:
    """What to measure: the radius, images to certify, and the bounding method."""

    eps: float
    limit: int
    method: str = QUICK

    def run(
        self, name: str, run: TrainingRun, dataset: Dataset, progress: Callable[[str], object] = ignore
    ) -> Measurement:
        """Measure one run; `progress` gets each stage by name. Raises DataError, PropertyError or UsageError."""
        network = run.network
        chosen = evenly(self.limit, len(dataset.test))
        split = dataset.test.take(torch.tensor(chosen))
        images, labels = split.floats(), split.labels
        certifier = DataCertifier.of(self.method, Arithmetic.FLOAT32, ATTACK, _BATCH, _SECONDS)
        curve = []
        for eps in sorted({min(1.0, share * self.eps) for share in SHARES}):
            progress(f"{name}: certify at ε = {format_eps(eps)}")
            curve.append(certifier.run(network, images, labels, eps))
        result = next(point for point in curve if point.eps == min(1.0, self.eps))
        progress(f"{name}: bounds through the layers")
        widths = layer_widths(network, images[evenly(_WIDTH_IMAGES, len(images))], self.eps)
        progress(f"{name}: maps of features")
        shown = dataset.test.take(torch.tensor(evenly(_MAP_IMAGES, len(dataset.test))))
        maps = tuple(feature_maps(network, shown.floats(), shown.labels))
        return Measurement(name, run, tuple(chosen), result, tuple(curve), widths, maps)


# ── widths ──────────────────────────────────────────────────────────────────────────────────────────────────────
def layer_widths(network: Network, images: torch.Tensor, eps: float) -> tuple[Width, ...]:
    """Return the widths of the boxes at the input and at each layer with weights or a nonlinearity, in order.

    The boxes are interval bounds in real arithmetic over the balls of radius `eps` around images (B, …), clipped to the
    range of the input. The relative width of a layer with constant activations is NaN.
    """
    graph = network.graph
    behind = graph.descendants(graph.inputs[:1]) - set(graph.inputs)
    names = [graph.inputs[0], *(node.name for node in graph.order() if node.name in behind and _computes(graph, node))]
    boxes_at = boxes_within(network, names)
    nominal = lower_nominal(graph, network.parameters, outputs=names)
    fitted = fit_images(images, network.input_shape).to(network.device)
    widths: list[list[float]] = []
    values: list[tuple[torch.Tensor, ...]] = []
    with torch.no_grad():
        for x in torch.split(fitted, _BATCH):
            boxes = boxes_at(Interval.ball(x, eps, network.pixel_range))
            widths.append([float(box.width.mean()) * len(x) for box in boxes])
            values.append(_as_tuple(nominal(x)))
    means = [sum(column) / len(fitted) for column in zip(*widths, strict=True)]
    spreads = [float(torch.cat(column).std(0).mean()) for column in zip(*values, strict=True)]
    rows = zip(names, means, spreads, strict=True)
    return tuple(Width(name, mean, mean / spread if spread > 0 else float("nan")) for name, mean, spread in rows)


def _as_tuple(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return the outputs of a lowered graph as a tuple; it returns a single output as it is."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _computes(graph: Graph, node: Node) -> bool:
    """Return whether a node has weights or is nonlinear; nodes that only rearrange values are not layers."""
    return bool(graph.parameters_of(node.name)) or not operators()[node.operator].is_affine


# ── maps ────────────────────────────────────────────────────────────────────────────────────────────────────────
def feature_maps(network: Network, images: torch.Tensor, labels: torch.Tensor) -> Iterator[FeatureMap]:
    """Yield the features of images (B, …) at up to two places of the network, mapped to the plane by t-SNE.

    (Van der Maaten and Hinton 2008.) Features are first reduced to fifty principal components. The result is
    deterministic.
    """
    places = feature_places(network.graph)
    if len(images) < 4 or not places:
        return
    lowered = lower_nominal(network.graph, network.parameters, outputs=list(places.values()))
    fitted = fit_images(images, network.input_shape).to(network.device)
    with torch.no_grad():
        parts = [_as_tuple(lowered(x)) for x in torch.split(fitted, _BATCH)]
    for place, column in zip(places, zip(*parts, strict=True), strict=True):
        yield FeatureMap(place, _in_the_plane(torch.cat(column).flatten(1).cpu().double().numpy()), labels.numpy())


def feature_places(graph: Graph) -> dict[str, str]:
    """Return the node of each place in `PLACES` that the network has."""
    weighted = [node for node in graph.order() if _has_weights(graph, node)]
    if not weighted:
        return {}
    last = graph.operands(weighted[-1].name)[0]
    hidden = graph.ancestors([last])
    spatial = [node.name for node in graph.order() if node.name in hidden and len(node.shape) > 2]
    places = {}
    if spatial and any(_has_weights(graph, graph.node(name)) for name in spatial):
        places[AFTER_CONVOLUTIONS] = spatial[-1]
    if last not in graph.inputs and last not in places.values():
        places[BEFORE_LAST] = last
    return places


def _has_weights(graph: Graph, node: Node) -> bool:
    trainable = operators()[node.operator].trainable
    return bool(trainable & graph.parameters_of(node.name).keys()) and bool(graph.operands(node.name))


def _in_the_plane(features: NDArray[Any]) -> NDArray[Any]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if not np.ptp(features, axis=0).any():
        return np.zeros((len(features), 2))
    count = min(_COMPONENTS, *features.shape)
    reduced = PCA(count, svd_solver="full").fit_transform(features) if features.shape[1] > count else features
    start = "pca" if reduced.shape[1] > 1 else "random"
    tsne = TSNE(perplexity=min(_PERPLEXITY, (len(features) - 1) / 3), init=start, random_state=0, n_jobs=1)
    points: NDArray[Any] = tsne.fit_transform(reduced)
    return points


def chosen_examples(measurements: Sequence[Measurement], count: int) -> list[int]:
    """Return the indices of up to `count` examples that cover all combinations of verdicts, rare ones too."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, examples in enumerate(zip(*(measurement.result.examples for measurement in measurements), strict=True)):
        key = tuple((example.verdict, example.predicted == example.label) for example in examples)
        groups.setdefault(key, []).append(index)
    chosen: list[int] = []
    depth = 0
    while len(chosen) < count and any(len(group) > depth for group in groups.values()):
        chosen.extend(group[depth] for group in groups.values() if len(group) > depth)
        depth += 1
    return sorted(chosen[:count])
