"""Deciding one property: a short attack, tighter and tighter bounds, then search and attack until time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, groupby
from math import inf
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds import METHODS, meant
from ibpc.bounds.definedness import Definedness
from ibpc.errors import UsageError
from ibpc.memory import kept_memory
from ibpc.progress import ignore
from ibpc.rounding import Arithmetic, plain_products
from ibpc.verify.attack import Attack, Until
from ibpc.verify.falsification import Counterexample, Falsification, points_at_once
from ibpc.verify.properties import Property
from ibpc.verify.proving.bound_proofs import BoundProofs
from ibpc.verify.proving.proof import Place
from ibpc.verify.search.branching import Branching, run_together
from ibpc.verify.search.roots import Roots
from ibpc.verify.specification import Refutation, Specification
from ibpc.verify.subject import Subject
from ibpc.verify.verdicts import ATTACKED, Verdict

_FIRST_TURN: Final = 1.0
# Rounds of attack after the bounds of a plan that does not search.
_ROUNDS_OF_QUICK_PLANS: Final = 3
# The share of the time that the first attack may take, before anything is bounded.
_FIRST_ATTACK: Final = 0.25
# Points of a verified region at which ONNX Runtime has to agree with the network.
_JUDGED: Final = 4

AUTO: Final = "auto"
BRANCHING: Final = "bab"


@dataclass(frozen=True)
class Decision:
    """What is known of a property.

    `margins[c][d]` is a lower bound of how far disjunct `d` of case `c` is from being met: −∞ if nothing is known, ∞ if
    a search excluded the disjunct without a margin. Verified means that all of them were refuted. `proofs[c][d]` is the
    proof of that, or of the bound; None if there is none. `method` is the one that decided, "attack" for a
    counterexample. `undefined` is a node that may hold NaN or ±∞ somewhere in the region, so that bounds prove nothing;
    None if there is none.
    """

    verdict: Verdict
    method: str
    arithmetic: Arithmetic
    seconds: float
    margins: tuple[tuple[float, ...], ...] = ()
    counterexample: Counterexample | None = None
    proofs: tuple[tuple[Place | None, ...], ...] = field(default=(), repr=False, compare=False)
    undefined: str | None = None


PLANS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        AUTO: ("ibp", "crown-ibp", BRANCHING),
        BRANCHING: ("ibp", "crown-ibp", BRANCHING),
        **{name: (name,) for name in METHODS},
    }
)


def plan_named(name: str) -> tuple[str, ...]:
    """Return the stages of a plan: an attack, then bounding methods in the order in which they are tried.

    Raises UsageError.
    """
    return (ATTACKED, *_methods_of(name))


def image_plan(name: str) -> tuple[str, ...]:
    """Return the plan for images of a data set: methods that take seconds for each follow interval bounds.

    The first method attacks what it leaves open. Raises UsageError.
    """
    methods = _methods_of(name)
    return ("ibp", *methods) if name in METHODS and METHODS[name].is_slow else methods


def _methods_of(plan: str) -> tuple[str, ...]:
    if plan not in PLANS:
        raise UsageError.at("method", f"found {plan!r}", "a bounding method", meant(plan, PLANS))
    return PLANS[plan]


@dataclass(frozen=True)
class DecisionOptions:
    """How to decide a property: its stages in order, arithmetic of the claim, one round of attack, total seconds.

    A stage is a bounding method, "bab" for a search, or "attack" for one round of attack.
    """

    plan: tuple[str, ...]
    arithmetic: Arithmetic = Arithmetic.FLOAT32
    attack: Attack = Attack(steps=40, restarts=1, goal=Until.ONE)
    timeout: float = 60.0

    @property
    def is_quick(self) -> bool:
        """Whether the plan ends after its bounds, instead of attacking what is left open until time is over."""
        return self.plan[-1] in METHODS and not METHODS[self.plan[-1]].is_slow

    def run(self, subject: Subject, prop: Property, progress: Callable[[str], object] = ignore) -> Decision:
        """Return the verdict on a property of a network. `progress` gets the name of each stage.

        Raises PropertyError if the property does not fit the network. For a given seed of the attack the verdict is
        deterministic, except for what the time limit cuts off.
        """
        with kept_memory(subject.device):
            return _Decider(self, subject, prop, progress).decide()


class _Decider:
    def __init__(
        self, options: DecisionOptions, subject: Subject, prop: Property, progress: Callable[[str], object]
    ) -> None:
        self._started = time.monotonic()
        self._options, self._subject, self._property, self._progress = options, subject, prop, progress
        graph = subject.graph
        self._shapes = [graph.node(name).shape[1:] for name in graph.inputs]
        prop.check(self._shapes, [graph.node(name).shape[1:] for name in graph.outputs])
        self._device = subject.device
        self._margins: tuple[tuple[float, ...], ...] = ()
        self._open: list[tuple[int, int]] = []
        self._method = next(stage for stage in options.plan if stage != ATTACKED)
        self._proofs: list[list[Place | None]] = [[None] * len(case.disjuncts) for case in prop.cases]

    def decide(self) -> Decision:
        deadline = self._started + self._options.timeout
        if self._property.is_vacuous:
            return self._decision(Verdict.VERIFIED)
        with plain_products():
            falsification = Falsification(self._options.attack, self._subject, self._property, self._shapes)
            for stage in self._options.plan:
                if time.monotonic() >= deadline:
                    return self._decision(Verdict.TIMEOUT)
                self._progress(stage)
                decision = self._stage(stage, falsification, deadline)
                if decision is not None:
                    return decision
            self._progress(ATTACKED)
            counterexample = self._attack(falsification, deadline)
        return self._decision(Verdict.UNKNOWN if counterexample is None else Verdict.FALSIFIED, counterexample)

    def _stage(self, stage: str, falsification: Falsification, deadline: float) -> Decision | None:
        """Return the decision that a stage of the plan comes to, None if it comes to none."""
        if stage == ATTACKED:
            counterexample = falsification.round(self._started + _FIRST_ATTACK * self._options.timeout)
            return None if counterexample is None else self._decision(Verdict.FALSIFIED, counterexample)
        self._method = stage
        if stage == BRANCHING:
            return self._branch(falsification, deadline)
        self._bound_open_cases(stage, deadline if stage == self._options.plan[-1] else _share_of(deadline))
        falsification.focus(self._open)
        return None if self._open else self._decision(Verdict.VERIFIED)

    def _attack(self, falsification: Falsification, deadline: float) -> Counterexample | None:
        """Attack what bounds left open: a few rounds after quick ones, else until time is over."""
        rounds = range(_ROUNDS_OF_QUICK_PLANS) if self._options.is_quick else count()
        for _ in rounds:
            if time.monotonic() >= deadline or falsification.is_exhausted:
                break
            counterexample = falsification.round(deadline)
            if counterexample is not None:
                return counterexample
        return None

    def _branch(self, falsification: Falsification, deadline: float) -> Decision | None:
        """Search for a proof and for a counterexample in turns of growing length; None if neither is found."""
        roots = Roots(self._subject.walk, self._property, self._options.arithmetic, _shares(deadline))
        searches = [Branching(roots, case, disjunct) for case, disjunct in self._open]
        turn = _FIRST_TURN
        while time.monotonic() < deadline and any(not branching.is_over for branching in searches):
            counterexample = self._take_turn(searches, falsification, turn, deadline)
            self._progress(_wording(searches))
            if counterexample is None and not all(branching.is_refuted for branching in searches):
                counterexample = falsification.in_turn(turn, deadline)
            if counterexample is not None:
                return self._decision(Verdict.FALSIFIED, counterexample)
            turn *= 2.0
        for (case, disjunct), branching in zip(self._open, searches, strict=True):
            if branching.is_refuted:
                self._proofs[case][disjunct] = branching.proof
            elif branching.margin > self._margins[case][disjunct]:
                self._proofs[case][disjunct] = None
            self._lift_margin(case, disjunct, branching.margin)
        if all(branching.is_refuted for branching in searches):
            return self._decision(Verdict.VERIFIED)
        return None

    @staticmethod
    def _take_turn(
        searches: Sequence[Branching], falsification: Falsification, turn: float, deadline: float
    ) -> Counterexample | None:
        """Continue the searches for a turn, case by case, and look at the points that they suspect."""
        waiting = [branching for branching in searches if not branching.is_over]
        cases = [list(some) for _, some in groupby(waiting, lambda branching: branching.item[0])]
        for some in cases:
            run_together(some, turn / len(cases), deadline)
            for branching in some:
                counterexample = falsification.look(branching.suspects(), branching.item)
                if counterexample is not None:
                    return counterexample
        return None

    def _lift_margin(self, case: int, disjunct: int, margin: float) -> None:
        rows = [list(row) for row in self._margins]
        rows[case][disjunct] = max(rows[case][disjunct], margin)
        self._margins = tuple(map(tuple, rows))

    def _decision(self, verdict: Verdict, counterexample: Counterexample | None = None) -> Decision:
        """Return the decision as it stands, without margins where a value may be NaN: bounds say nothing there."""
        undefined = self._undefined() if counterexample is None and self._margins else None
        if undefined is not None:
            verdict = Verdict.UNKNOWN
            self._margins = tuple((-inf,) * len(row) for row in self._margins)
            self._proofs = [[None] * len(row) for row in self._proofs]
        if verdict is Verdict.VERIFIED and self._margins:
            self._subject.expect_agreement(self._points())
        seconds = time.monotonic() - self._started
        method = self._method if counterexample is None else ATTACKED
        proofs = tuple(map(tuple, self._proofs))
        arithmetic, margins = self._options.arithmetic, self._margins
        return Decision(verdict, method, arithmetic, seconds, margins, counterexample, proofs, undefined)

    def _points(self) -> list[Tensor]:
        """Return a few random points of the boxes of the first cases."""
        boxes = [case.box.outer for case in self._property.cases[:_JUDGED]]
        lower, upper = (torch.stack(side) for side in zip(*boxes, strict=True))
        share = torch.rand(_JUDGED, lower.shape[1], generator=torch.Generator().manual_seed(0), dtype=lower.dtype)
        lower, upper = (side[torch.arange(_JUDGED) % len(side)] for side in (lower, upper))
        points = torch.minimum(torch.maximum(lower + share * (upper - lower), lower), upper)
        return list(self._property.split(points, self._shapes))

    def _undefined(self) -> str | None:
        """Return a node that may hold NaN or ±∞ in one of the cases, None if there is none."""
        definedness = Definedness(self._subject.original, self._options.arithmetic)
        deadline = self._started + self._options.timeout
        ends = [torch.stack(side) for side in zip(*(case.box.outer for case in self._property.cases), strict=True)]
        lower, upper = (side.to(self._device) for side in ends)
        with plain_products():
            doubts = definedness.doubts(self._property.boxes(lower, upper, self._shapes), deadline)
        return next((doubt for doubt in doubts if doubt is not None), None)

    def _note(self, name: str, case: int, margins: Sequence[float], refutations: Sequence[Refutation]) -> None:
        """Keep the proofs of the bounds that are better than those before."""
        for disjunct, (old, new) in enumerate(zip(margins, refutations, strict=True)):
            if new.margin > old:
                self._proofs[case][disjunct] = self._bound_proofs.of(name, case, disjunct, new)

    @cached_property
    def _bound_proofs(self) -> BoundProofs:
        return BoundProofs(self._subject.walk, self._property, self._options.arithmetic)

    def _bound_open_cases(self, name: str, deadline: float) -> None:
        """Bound the cases that are open by one method: raise margins, close the disjuncts that are refuted now."""
        method, options, cases = METHODS[name], self._options, self._property.cases
        specification = Specification.of(self._property)
        bound = method.bounder(self._subject.walk, specification.matrix, options.arithmetic, deadline)
        margins = [list(row) for row in self._margins] or [[-inf] * len(case.disjuncts) for case in cases]
        waiting = sorted({case for case, _ in self._open}) if self._margins else list(range(len(cases)))
        still_open: list[tuple[int, int]] = []
        for chunk in torch.split(torch.tensor(waiting, dtype=torch.int64), points_at_once(self._subject.network)):
            ends = torch.stack([torch.stack(cases[case].box.outer) for case in chunk.tolist()])
            lower, upper = ends.to(self._device).unbind(1)
            bounds = bound(*self._property.boxes(lower, upper, self._shapes))
            for row, case in enumerate(chunk.tolist()):
                refutations = specification.refutations(case, bounds.lower[row], bounds.upper[row])
                self._note(name, case, margins[case], refutations)
                margins[case] = [max(old, new.margin) for old, new in zip(margins[case], refutations, strict=True)]
                still_open.extend((case, d) for d, refutation in enumerate(refutations) if not refutation.refuted)
        known = set(self._open) if self._margins else set(still_open)
        self._margins, self._open = tuple(map(tuple, margins)), [item for item in still_open if item in known]


def _wording(searches: Sequence[Branching]) -> str:
    """Return the progress of searches: parts bounded, parts waiting, the least known margin."""
    bounded, waiting = (sum(counts) for counts in zip(*((s.bounded, s.waiting) for s in searches), strict=True))
    return f"{BRANCHING}: {bounded:,} parts bounded, {waiting:,} waiting, margin {min(s.margin for s in searches):.3g}"


def _shares(deadline: float) -> tuple[float, float]:
    """Return when boxes in between have to be tight, and when sharp: there is little to search before they are."""
    now = time.monotonic()
    return 0.25 * now + 0.75 * deadline, 0.15 * now + 0.85 * deadline


def _share_of(deadline: float) -> float:
    """Return when a method that is not the last has to be done: it may take a third of the time that is left."""
    now = time.monotonic()
    return now + (deadline - now) / 3
