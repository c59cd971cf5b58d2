"""Deciding one property: a short attack, bounds, and a long attack on what the bounds leave open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import torch

from ibpc.bounds import Method
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.rounding import Arithmetic, plain_products
from ibpc.verify.attack import Attack, Goal, Points
from ibpc.verify.properties import Property, check_names
from ibpc.verify.replay import Replay
from ibpc.verify.robustness import Verdict
from ibpc.verify.specification import Objective, Specification

_ACTIVATIONS: Final = 2**24
_MOST_ITEMS: Final = 1024
_FIRST_SLACK: Final = 1e-6
_LARGEST_SLACK: Final = 1e-2


@dataclass(frozen=True)
class Counterexample:
    """A point of the box and the outputs that ONNX Runtime computes there, which are unsafe; flat, in order."""

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """What is known of a property.

    `margins[c][d]` is a lower bound of how far disjunct `d` of case `c` is from being met, −∞ where nothing is known;
    verified means that bounds refuted all of them.
    """

    verdict: Verdict
    method: str
    arithmetic: Arithmetic
    seconds: float
    margins: tuple[tuple[float, ...], ...] = ()
    counterexample: Counterexample | None = None


@dataclass(frozen=True)
class Deciding:
    """How to decide a property: bounding method, arithmetic of the claim, one round of attack, seconds for it all."""

    method_name: str
    method: Method
    arithmetic: Arithmetic = Arithmetic.FLOAT32
    attack: Attack = Attack(steps=40, restarts=1, goal=Goal.ONE)
    timeout: float = 60.0

    def run(self, network: Network, prop: Property, progress: Callable[[str], object] = str) -> Decision:
        """Return the verdict on a property. `progress` is told what is being tried.

        Raises PropertyError where the property does not fit the network. For a seed of the attack the verdict is
        deterministic up to what the time limit cuts off.
        """
        return _Decider(self, network, prop, progress).decide()


class _Decider:
    def __init__(self, options: Deciding, network: Network, prop: Property, progress: Callable[[str], object]) -> None:
        self._started = time.monotonic()
        self._options, self._network, self._property, self._progress = options, network, prop, progress
        graph = network.graph
        self._shapes = [graph.node(name).shape[1:] for name in graph.inputs]
        prop.check(self._shapes, [graph.node(name).shape[1:] for name in graph.outputs])
        self._device = network.device
        self._margins: tuple[tuple[float, ...], ...] = ()

    def decide(self) -> Decision:
        deadline = self._started + self._options.timeout
        if self._property.is_vacuous:
            return self._decision(Verdict.VERIFIED)
        with plain_products():
            search = _Search(self._options.attack, self._network, self._property, self._shapes, self._device)
            self._progress("attack")
            found = search.round(deadline)
            if found is not None:
                return self._decision(Verdict.FALSIFIED, found)
            if time.monotonic() >= deadline:
                return self._decision(Verdict.TIMEOUT)
            self._progress(self._options.method_name)
            if self._is_refuted():
                return self._decision(Verdict.VERIFIED)
            self._progress("attack")
            while time.monotonic() < deadline and not search.is_exhausted:
                found = search.round(deadline)
                if found is not None:
                    return self._decision(Verdict.FALSIFIED, found)
        return self._decision(Verdict.UNKNOWN)

    def _decision(self, verdict: Verdict, found: Counterexample | None = None) -> Decision:
        options, seconds = self._options, time.monotonic() - self._started
        return Decision(verdict, options.method_name, options.arithmetic, seconds, self._margins, found)

    def _is_refuted(self) -> bool:
        """Bound every case; return whether all disjuncts of all cases are refuted."""
        options, cases = self._options, self._property.cases
        specification = Specification.of(self._property)
        bound = options.method(self._network.snapshot(), specification.matrix, options.arithmetic, self._device)
        ends = torch.stack([torch.stack(case.box.outer) for case in cases])
        margins, refuted = [], True
        for chunk in torch.split(torch.arange(len(cases)), _width(self._network)):
            lower, upper = (self._property.split(side.to(self._device), self._shapes) for side in ends[chunk].unbind(1))
            found = bound(*(Interval.bounds(low, high) for low, high in zip(lower, upper, strict=True)))
            for row, case in enumerate(chunk.tolist()):
                refutations = specification.refutations(case, found.lower[row], found.upper[row])
                margins.append(tuple(refutation.margin for refutation in refutations))
                refuted = refuted and all(refutation.refuted for refutation in refutations)
        self._margins = tuple(margins)
        return refuted


class _Search:
    """The attack on all disjuncts of all cases, a round at a time, with other starts in each."""

    def __init__(
        self,
        attack: Attack,
        network: Network,
        prop: Property,
        shapes: Sequence[tuple[int, ...]],
        device: torch.device,
    ) -> None:
        self._attack, self._network, self._property, self._shapes, self._device = attack, network, prop, shapes, device
        self._objective = Objective(prop, device)
        self._replay = Replay.of(network)
        check_names("input", prop.inputs, self._replay.input_names)
        check_names("output", prop.outputs, self._replay.output_names)
        self._rounds = 0
        self._slack = 0.0
        reachable = [item for item, (case, _) in enumerate(self._objective.items) if prop.cases[case].box.reachable]
        repeats = max(1, min(_width(network), 64) // max(1, len(reachable)))
        self._items = torch.tensor(reachable * repeats, dtype=torch.int64)
        ends = [prop.cases[case].box.inner for case, _ in self._objective.items]
        self._lower, self._upper = (torch.stack([pair[side] for pair in ends]) for side in (0, 1))

    @property
    def is_exhausted(self) -> bool:
        """Whether another round could find nothing new: no box holds more than one point."""
        points = (self._lower == self._upper).all(1)
        return self._rounds > 0 and bool(points[self._items].all())

    def round(self, deadline: float) -> Counterexample | None:
        """Attack every disjunct once more, from its center in the first round and from random starts as well."""
        attack = replace(self._attack, seed=self._attack.seed + self._rounds)
        self._rounds += 1
        for items in torch.split(self._items, _width(self._network)):
            for point in self._promising(attack, items, deadline):
                found = self._replayed(point)
                if found is not None:
                    return found
                self._slack = min(max(2 * self._slack, _FIRST_SLACK), _LARGEST_SLACK)
            if time.monotonic() >= deadline:
                break
        return None

    def _promising(self, attack: Attack, items: torch.Tensor, deadline: float) -> Iterator[torch.Tensor]:
        """Yield the flat points that PyTorch takes for counterexamples, at most a few."""
        lower, upper = self._lower[items].to(self._device), self._upper[items].to(self._device)
        ends = [self._property.split(side, self._shapes) for side in (lower, upper)]
        boxes = [Interval.bounds(low, high) for low, high in zip(*ends, strict=True)]
        starts = self._property.split(0.5 * lower + 0.5 * upper, self._shapes)
        wanted = items.to(self._device)

        def score(points: Points, chosen: torch.Tensor) -> torch.Tensor:
            outputs = self._network.nominal(*points)
            listed = outputs if isinstance(outputs, tuple) else (outputs,)
            flat = torch.cat([output.flatten(1) for output in listed], 1)
            inputs = torch.cat([point.flatten(1) for point in points], 1)
            return self._objective(inputs, flat, wanted[chosen]) + self._slack

        found = attack.run(score, starts, boxes, deadline)
        flat = torch.cat([point.flatten(1) for point in found.points], 1)
        for index in (found.scores <= 0).nonzero()[:, 0][:4].tolist():
            yield flat[index].cpu()

    def _replayed(self, point: torch.Tensor) -> Counterexample | None:
        """Return the point as a counterexample if ONNX Runtime confirms it, exactly."""
        inputs = [part[0] for part in self._property.split(point[None], self._shapes)]
        outputs = self._replay(inputs)
        if not self._property.violated(point, outputs):
            return None
        return Counterexample(tuple(point.tolist()), tuple(outputs.tolist()))


def _width(network: Network) -> int:
    """Return how many samples go through the network at a time, by the size of all its values."""
    values = sum(prod(node.shape[1:]) for node in network.graph.order())
    return max(1, min(_MOST_ITEMS, _ACTIVATIONS // max(1, values)))
