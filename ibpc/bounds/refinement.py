"""Pre-activation bounds: boxes in front of nonlinear operators, tightened by any method that bounds linear forms."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Final, Protocol, TypeAlias

import torch
from torch import Tensor

from ibpc.bounds.backward import Backward
from ibpc.bounds.batching import coefficients_at_once
from ibpc.bounds.cone import EVERYTHING, Cone, cone_of
from ibpc.bounds.forms import Cost, Form, unit_forms
from ibpc.bounds.pushed_forms import MOST_NUMBERS, Forward, numbers, varying
from ibpc.bounds.values import Values, Walk, advance, is_linear_here, start
from ibpc.interval import Interval
from ibpc.ir import VIEWS
from ibpc.rounding import Arithmetic

# Most varying inputs for which forms are pushed forward beside backward bounds.
FEW_INPUTS: Final = 64
# Most multiply-accumulates for tightening one box; beyond that only its widest elements are tightened.
MOST_WORK: Final = 2e11


class Pulling(Protocol):
    """Bounds linear forms from below over a walk's values."""

    def lower(self, forms: Mapping[str, Form]) -> Tensor:
        """Return lower bounds (R, B) of forms (R, B, *shape)."""
        ...

    def cost(self, name: str) -> Cost:
        """Return the cost of pulling back the form of one element of a node, per sample."""
        ...


Pull: TypeAlias = Callable[[Walk, Values], Pulling]


def interval_values(walk: Walk, boxes: tuple[Interval, ...], arithmetic: Arithmetic) -> Values:
    """Return the values by interval bounds alone."""
    values = start(walk, boxes)
    for step in walk.steps.values():
        advance(values, step, arithmetic)
    return values


def values_for(
    wanted: Tensor, walk: Walk, boxes: tuple[Interval, ...], arithmetic: Arithmetic, deadline: float = inf
) -> Values:
    """Return refined values for bounding the `wanted` outputs (K,)."""
    if bool(wanted.all()):
        return refined_values(walk, boxes, arithmetic, deadline)
    cone = cone_of(walk, interval_values(walk, boxes, arithmetic), wanted)
    return refined_values(walk, boxes, arithmetic, deadline, cone=cone)


def refined_values(
    walk: Walk,
    boxes: tuple[Interval, ...],
    arithmetic: Arithmetic,
    deadline: float = inf,
    pull: Pull = Backward,
    known: Values | None = None,
    cone: Cone = EVERYTHING,
) -> Values:
    """Return the values, with boxes in front of nonlinear operators tightened by `pull` until the deadline.

    Where few inputs vary, forms pushed forward tighten all boxes first, which leaves `pull` less to do. All values are
    intersected with the `known` ones, over the same boxes; elements outside the `cone` are not tightened by `pull`.
    """
    values = start(walk, boxes)
    forms, pulling = _forms_of_few(walk, values), pull(walk, values)
    refined = set(walk.inputs)
    for step in walk.steps.values():
        operands = tuple(values.known[operand] for operand in step.operands)
        if not step.operator.is_affine and not is_linear_here(step, operands):
            for name in step.operands:
                if name in walk.perturbed and name not in refined:
                    refined.add(name)
                    if _is_exact(walk, name):
                        continue
                    _refine(walk, values, name, step.node.operator, deadline, pulling, cone.get(name))
        advance(values, step, arithmetic)
        if forms is not None:
            forms.push(step)
        if known is not None and step.node.name in walk.perturbed:
            box = known.box(step.node.name)
            values.tighten(step.node.name, box.lower, box.upper)
    return values


def _is_exact(walk: Walk, name: str) -> bool:
    """Return whether interval bounds are exact: the node is affine in the inputs and reads each of them once."""
    step = walk.steps[name]
    read = [_rearranged(walk, operand) for operand in step.operands if operand in walk.perturbed]
    return step.operator.is_affine and set(read) <= set(walk.inputs) and len(set(read)) == len(read)


def _rearranged(walk: Walk, name: str) -> str:
    """Return the node behind all reshapes: the one with the same elements in their first shape."""
    while name in walk.steps and walk.steps[name].node.operator in VIEWS:
        (name,) = walk.steps[name].operands
    return name


def _forms_of_few(walk: Walk, values: Values) -> Forward | None:
    """Return the forms of the inputs if few enough vary to make pushing them cheap, else None."""
    boxes = [values.box(name) for name in walk.inputs]
    count = varying(boxes)
    is_little = count <= FEW_INPUTS and numbers(walk, count) * len(boxes[0].lower) <= MOST_NUMBERS
    return Forward(walk, values) if is_little else None


def _refine(
    walk: Walk, values: Values, name: str, operator: str, deadline: float, pulling: Pulling, wanted: Tensor | None
) -> None:
    """Tighten the wanted elements (flat, None: all) of a box that matter, all samples together.

    For elements in front of a Relu that are probably negative, the upper bound comes first: if it is at most 0, the
    Relu does not need the lower one.
    """
    box = values.box(name)
    sizes, batch, is_rectified = box.lower.shape, len(box.lower), operator == "Relu"
    loose = (box.lower < 0) & (box.upper > 0) if is_rectified else box.lower < box.upper
    cost = pulling.cost(name)
    loose = loose.reshape(batch, -1).any(0)
    loose = loose if wanted is None else loose & wanted
    chosen = _by_pixel(_widest(cost, batch, loose, box.width.reshape(batch, -1).amax(0)), sizes)
    if not len(chosen):
        return
    at_once = max(1, coefficients_at_once(walk) // (cost.size * batch))
    bound = partial(_bounded, pulling, name, sizes, at_once, deadline)
    lower, upper = (end.reshape(batch, -1).clone() for end in (box.lower, box.upper))
    is_low = (lower + upper < 0).all(0)[chosen] & is_rectified
    low, others = chosen[is_low], chosen[~is_low]
    up, down = lower.new_ones(1), -lower.new_ones(1)
    both = torch.cat([up, down]).repeat(len(others))
    _tighten(
        lower, upper, torch.cat([low, others.repeat_interleave(2)]), torch.cat([down.expand(len(low)), both]), bound
    )
    risen = low[(upper[:, low] > 0).any(0)]
    if len(risen):
        _tighten(lower, upper, risen, up.expand(len(risen)), bound)
    values.tighten(name, lower.reshape(sizes), upper.reshape(sizes))


def _bounded(
    pulling: Pulling, name: str, sizes: torch.Size, at_once: int, deadline: float, elements: Tensor, signs: Tensor
) -> Tensor:
    """Return lower bounds (B, R) of elements times signs, −∞ for those not reached by the deadline."""
    found = signs.new_full((sizes[0], len(elements)), -inf)
    for part in torch.split(torch.arange(len(elements), device=elements.device), at_once):
        if time.monotonic() > deadline:
            break
        found[:, part] = pulling.lower({name: unit_forms(elements[part], signs[part], sizes)}).T
    return found


def _tighten(
    lower: Tensor, upper: Tensor, elements: Tensor, signs: Tensor, bound: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Tighten flat ends (B, n) in place: lower ends of elements with sign 1, upper ends of those with sign −1."""
    found, rises = bound(elements, signs), signs > 0
    up, down = elements[rises], elements[~rises]
    lower[:, up] = torch.fmax(lower[:, up], found[:, rises])
    upper[:, down] = torch.fmin(upper[:, down], -found[:, ~rises])


def dense_cost(walk: Walk, name: str) -> Cost:
    """Return the cost of pulling one dense form of a node back."""
    before = walk.graph.ancestors([name])
    work = sum(step.operator.macs(step.call) for node, step in walk.steps.items() if node in before)
    return Cost(work, walk.largest)


def _widest(cost: Cost, batch: int, loose: Tensor, width: Tensor) -> Tensor:
    """Return the loose elements, or only the widest where all would be too much work."""
    found = loose.nonzero()[:, 0]
    most = max(1, int(MOST_WORK // max(1.0, 4 * cost.work * batch)))
    if len(found) <= most:
        return found
    return found[width[found].topk(most).indices]


def _by_pixel(elements: Tensor, sizes: torch.Size) -> Tensor:
    """Return elements of images (B, C, H, W) sorted by pixel: those pulled back together then share windows."""
    if len(sizes) != 4:
        return elements
    channels, area = sizes[1], sizes[2] * sizes[3]
    return elements[(elements % area * channels + elements // area).argsort()]
