"""The search for a counterexample to a property: attacks on all disjuncts, replayed through the original file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibpc.frontends.validate import ONNX_RUNTIME
from ibpc.network import Network
from ibpc.verify.attack import Attack, Descent, Points
from ibpc.verify.properties import Property, check_names
from ibpc.verify.specification import DisjunctScores
from ibpc.verify.subject import Subject

_ACTIVATIONS: Final = 2**24
_MOST_ITEMS: Final = 1024
# By how much a point must be unsafe in PyTorch after ONNX Runtime refuted one; doubled each time.
_FIRST_SLACK: Final = 1e-6
_LARGEST_SLACK: Final = 1e-2
_ADAPTIVE_STEP: Final = 0.03
# Random points before each descent, in boxes of so few dimensions that they cover them.
_SAMPLES: Final = 64
_FEW_INPUTS: Final = 20
# Most points that one round descends from.
_MOST_POINTS: Final = 64
# By which factor the starts of a disjunct grow from round to round: most properties need no attack, or a short one.
_GROWTH: Final = 4
# The share of a search's time that goes into attacks, and at least how many seconds. Attacks that succeed do so early.
_SHARE: Final = 0.15
_LEAST: Final = 0.5


@dataclass(frozen=True)
class Counterexample:
    """A point of the box and the outputs that the `judge` computes there, which are unsafe; flat, in order."""

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    judge: str = ONNX_RUNTIME

    def arrays(self, network: Network) -> tuple[NDArray[np.float32], ...]:
        """Return the point as an array (1, …) for each input of the network, as ONNX Runtime takes them."""
        shapes = [(1, *shape[1:]) for shape in network.graph.shapes_of(network.graph.inputs)]
        ends = np.cumsum([prod(shape) for shape in shapes])
        parts = np.split(np.asarray(self.inputs, np.float32), ends[:-1])
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))


class Falsification:
    """The attack on the disjuncts of all cases, round by round, with new starts in each and more of them."""

    def __init__(
        self,
        attack: Attack,
        subject: Subject,
        prop: Property,
        shapes: Sequence[tuple[int, ...]],
    ) -> None:
        self._attack, self._property, self._shapes = attack, prop, shapes
        self._network, self._device, self._replay = subject.network, subject.device, subject.replay
        self._scores = DisjunctScores(prop, self._device)
        check_names("input", prop.inputs, self._replay.input_names)
        check_names("output", prop.outputs, self._replay.output_names)
        self._rounds = 0
        self._began, self._spent = time.monotonic(), 0.0
        self._slack = 0.0
        self._items = [item for item, (case, _) in enumerate(self._scores.items) if prop.cases[case].box.reachable]
        ends = [prop.cases[case].box.inner for case, _ in self._scores.items]
        self._lower, self._upper = (torch.stack([pair[side] for pair in ends]) for side in (0, 1))
        if int((self._lower < self._upper).sum(1).max()) <= _FEW_INPUTS:
            self._attack = replace(attack, samples=_SAMPLES)

    @property
    def is_exhausted(self) -> bool:
        """Whether another round could find nothing new: no box holds more than one point."""
        points = (self._lower == self._upper).all(1)
        return self._rounds > 0 and bool(points[self._items].all())

    def focus(self, items: Iterable[tuple[int, int]]) -> None:
        """Attack only these (case, disjunct) from now on, the others being refuted."""
        kept = set(items)
        self._items = [item for item in self._items if self._scores.items[item] in kept]

    def in_turn(self, seconds: float, deadline: float) -> Counterexample | None:
        """Attack for a share of a turn of `seconds`, unless time is over or attacks have had more than their share."""
        now = time.monotonic()
        if now >= deadline or self._spent > max(_LEAST, _SHARE * (now - self._began)):
            return None
        enough, over = now + max(_LEAST, _SHARE * seconds), min(deadline, now + seconds)
        found = self.round(over)
        while found is None and time.monotonic() < enough and not self.is_exhausted:
            found = self.round(over)
        self._spent += time.monotonic() - now
        return found

    def round(self, deadline: float) -> Counterexample | None:
        """Attack every disjunct that is open once more, from the center of its box and from random starts."""
        attack = replace(self._attack, seed=self._attack.seed + self._rounds)
        if self._rounds % 2:
            attack = replace(attack, descent=Descent.ADAPTIVE, step=_ADAPTIVE_STEP, steps=2 * attack.steps)
        for items in torch.split(self._starting_items(), points_at_once(self._network)):
            for point in self._promising(attack, items, deadline):
                found = self._replayed(point)
                if found is not None:
                    return found
                self._slack = min(max(2 * self._slack, _FIRST_SLACK), _LARGEST_SLACK)
            if time.monotonic() >= deadline:
                break
        return None

    def _starting_items(self) -> Tensor:
        """Return the number of the disjunct that each start of the next round belongs to, and count that round."""
        most = min(points_at_once(self._network), _MOST_POINTS) // max(1, len(self._items))
        repeats = max(1, min(_GROWTH**self._rounds, most))
        self._rounds += 1
        return torch.tensor(self._items * repeats, dtype=torch.int64)

    @torch.no_grad()
    def look(self, points: Tensor, item: tuple[int, int]) -> Counterexample | None:
        """Return one of the flat points (n, inputs) that is a counterexample to a disjunct of a case, or None."""
        if not len(points):
            return None
        number = self._scores.items.index(item)
        ends = (self._lower[number].to(self._device), self._upper[number].to(self._device))
        inside = torch.minimum(torch.maximum(points.to(ends[0]), ends[0]), ends[1])
        items = torch.full([len(points)], number, device=self._device)
        scores = self._score(self._property.split(inside, self._shapes), items)
        for index in (scores <= 0).nonzero()[:4, 0].tolist():
            found = self._replayed(inside[index].cpu())
            if found is not None:
                return found
        return None

    def _promising(self, attack: Attack, items: Tensor, deadline: float) -> Iterator[Tensor]:
        """Yield a few flat points that are counterexamples in PyTorch."""
        lower, upper = self._lower[items].to(self._device), self._upper[items].to(self._device)
        boxes = self._property.boxes(lower, upper, self._shapes)
        starts = self._property.split(0.5 * lower + 0.5 * upper, self._shapes)
        wanted = items.to(self._device)

        def score(points: Points, chosen: Tensor) -> Tensor:
            return self._score(points, wanted[chosen]) + self._slack

        found = attack.run(score, starts, boxes, deadline)
        flat = torch.cat([point.reshape(len(point), -1) for point in found.points], 1)
        for index in (found.scores <= 0).nonzero()[:, 0][:4].tolist():
            yield flat[index].cpu()

    def _score(self, points: Points, items: Tensor) -> Tensor:
        """Return how far points (B, …) are from being counterexamples to the items (B,): at most 0 where they are."""
        outputs = self._network.guiding(*points)
        listed = outputs if isinstance(outputs, tuple) else (outputs,)
        flat = torch.cat([output.reshape(len(output), -1) for output in listed], 1)
        inputs = torch.cat([point.reshape(len(point), -1) for point in points], 1)
        return self._scores(inputs, flat, items)

    def _replayed(self, point: Tensor) -> Counterexample | None:
        """Return the point as a counterexample if the replay's outputs there are unsafe in exact arithmetic."""
        inputs = [part[0] for part in self._property.split(point[None], self._shapes)]
        outputs = self._replay(inputs)
        if not self._property.violated(point, outputs):
            return None
        return Counterexample(tuple(point.tolist()), tuple(outputs.tolist()), self._replay.judge)


def points_at_once(network: Network) -> int:
    """Return how many samples go through the network at a time, given the size of all its values."""
    values = sum(prod(node.shape[1:]) for node in network.graph.order())
    return max(1, min(_MOST_ITEMS, _ACTIVATIONS // max(1, values)))
