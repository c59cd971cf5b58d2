"""The properties of an operator: functions `check_…(case, operator)` that raise AssertionError if the property fails.

They take the record as an argument, so that a test can plant a wrong rule in a copy and require them to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from operator import attrgetter
from types import MappingProxyType
from typing import Final
from unittest import mock

import numpy as np
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

import ibpc.lowering as lowering
from ibpc.interval import Interval, Paired
from ibpc.ir import BATCH, INPUT, Graph, Node
from ibpc.ops import operators
from ibpc.ops.base import Operator
from ibpc.ops.rules import Plane
from ibpc.verify.checking import Checker
from tests.ops.cases import Case
from tests.ops.onnx_tools import feeds, read_back, write_model
from tests.ops.scene import (
    Bounds,
    Scene,
    attacked_points,
    batch_of,
    corners,
    diagonal_points,
    draw,
    nearest_to_zero,
    rounding,
    sampled_points,
)

SAMPLES: Final = 1000
_ENDS: Final = (attrgetter("lower"), attrgetter("upper"))
REMOTE: Final = (0.0, 1.0, -1.0, 10.0, -10.0, 1e3, -1e3, 1e6, -1e6)


def _assert_inside(value: Tensor, bounds: Bounds, tolerance: Tensor | float, what: str) -> None:
    """Require lower − tolerance ≤ value ≤ upper + tolerance, none of them NaN."""
    lower, upper = bounds
    inside = (value >= lower - tolerance) & (value <= upper + tolerance)
    excess = torch.maximum(lower - value, value - upper)
    assert inside.all(), f"{what}: {int((~inside).sum())} of {value.numel()} outside, by up to {float(excess.max())}"


def _assert_close(found: Tensor, expected: Tensor, tolerance: Tensor | float, what: str) -> None:
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    close = ((found - expected).abs() <= tolerance) | (found == expected)
    assert close.all(), f"{what}: off by up to {float((found - expected).abs().max())}"


def _tiled(value: Tensor, scene: Scene, times: int) -> Tensor:
    """Repeat a tolerance or bound of the scene's outputs along the batch."""
    return value if not scene.boxes else value.repeat(times, *[1] * (value.dim() - 1))


# ── shapes and ONNX ─────────────────────────────────────────────────────────────────────────────────────────────
def check_shape(case: Case, operator: Operator) -> None:
    """The record accepts the row, and the shape rule gives the shape that the nominal rule has, at batch 2 and 3."""
    for batch in (2, 3):
        scene = draw(case, operator, batch)
        problems = [
            *operator.check_attributes(scene.call.attributes),
            *operator.check_operands(len(scene.operands), scene.parameters),
        ]
        assert not problems, problems
        expected = tuple(batch if size == BATCH else size for size in scene.call.output)
        assert tuple(scene.value(scene.centers).shape) == expected
        lower, upper = scene.bounds()
        assert tuple(lower.shape) == tuple(upper.shape) == expected
        assert BATCH not in scene.call.output[1:]
        assert bool(scene.boxes) == (scene.call.output[:1] == (BATCH,))


def check_reference(case: Case, operator: Operator) -> None:
    """The exported row has the nominal value in the ONNX reference evaluator, in float64."""
    scene = draw(case, operator)
    evaluator = ReferenceEvaluator(write_model(scene, torch.float64))
    for point in corners(scene)[:2]:
        (found,) = evaluator.run(None, feeds(scene, point, torch.float64))
        expected = scene.value(point)
        tolerance = case.tolerance * 1e-4
        _assert_close(torch.as_tensor(found), expected, tolerance * (1 + expected.abs()), "reference evaluator")


def check_onnx_runtime(case: Case, operator: Operator) -> None:
    """The exported row has the nominal value in ONNX Runtime, in float32."""
    scene = draw(case, operator)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = write_model(scene, torch.float32).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feeds(scene, corners(scene)[0], torch.float32))
    expected = scene.value(corners(scene)[0]).float()
    _assert_close(torch.as_tensor(found), expected, case.tolerance * (1 + expected.abs()), "ONNX Runtime")


def check_round_trip(case: Case, operator: Operator) -> None:
    """The row exported and read back has the same values and the same shape."""
    scene = draw(case, operator)
    point = scene.centers
    found = read_back(scene, write_model(scene, torch.float64), point)
    expected = scene.value(point)
    assert found.shape == scene.call.output, f"read back as {found.shape}"
    _assert_close(found.tensor, expected, case.tolerance * 1e-4 * (1 + expected.abs()), "read back")


# ── soundness in real arithmetic ────────────────────────────────────────────────────────────────────────────────
def check_point(case: Case, operator: Operator) -> None:
    """Over boxes of zero width both bounds are the nominal value."""
    scene = draw(case, operator).shrunk_to_points()
    tolerance = rounding(scene, torch.float64)
    expected = scene.value(scene.centers)
    for bound in scene.bounds():
        _assert_close(bound, expected, tolerance, "zero-width box")


def check_sampled(case: Case, operator: Operator) -> None:
    """Values at sampled points and at the corners lie inside the bounds, for either form of the box."""
    scene = draw(case, operator)
    tolerance = rounding(scene, torch.float64)
    many, points = sampled_points(scene, SAMPLES)
    values = many.value(points)
    centered = [Interval.around(x.center, x.radius) if isinstance(x, Interval) else x for x in scene.operands]
    for operands in (scene.operands, centered):
        lower, upper = scene.bounds(operands)
        tiled = (_tiled(lower, scene, SAMPLES), _tiled(upper, scene, SAMPLES))
        _assert_inside(values, tiled, _tiled(tolerance, scene, SAMPLES), "sampled point")
        for corner in corners(scene):
            _assert_inside(scene.value(corner), (lower, upper), tolerance, "corner")


def check_attacked(case: Case, operator: Operator) -> None:
    """Points pushed against single bounds by sign-gradient ascent stay inside."""
    scene = draw(case, operator)
    if not scene.boxes:
        return
    attack = attacked_points(scene)
    times = attack.scene.boxes[0].lower.shape[0] // batch_of(scene)
    lower, upper = (_tiled(bound, scene, times) for bound in scene.bounds())
    tolerance = _tiled(rounding(scene, torch.float64), scene, times)
    _assert_inside(attack.scene.value(attack.points), (lower, upper), tolerance, "attacked point")


def check_isotone(case: Case, operator: Operator) -> None:
    """A smaller box gives bounds inside those of the larger one, along a chain of shrinking boxes."""
    scene = draw(case, operator)
    tolerance = rounding(scene, torch.float64)
    generator = scene.generator("isotone")
    for _ in range(3):
        outer, outer_bounds = scene, scene.bounds()
        for _ in range(3):
            inner = outer.with_boxes([_shrink(box, generator) for box in outer.boxes])
            inner_bounds = inner.bounds()
            for bound in inner_bounds:
                _assert_inside(bound, outer_bounds, tolerance, "bound over a smaller box")
            outer, outer_bounds = inner, inner_bounds


def _shrink(box: Interval, generator: torch.Generator) -> Interval:
    first, second = (torch.rand(box.lower.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    low = torch.where(low < 0.2, 0.0, low)
    high = torch.where(high > 0.8, 1.0, high)
    lower = torch.where(low == 0.0, box.lower, box.lower + low * box.width)
    upper = torch.where(high == 1.0, box.upper, box.lower + high * box.width)
    return Interval.bounds(lower, torch.maximum(lower, upper))


def check_attained(case: Case, operator: Operator) -> None:
    """Some point of the box attains each bound, unless the row says why not."""
    scene = draw(case, operator)
    if case.loose or not scene.boxes:
        return
    attack = attacked_points(scene, most=64)
    batch = batch_of(scene)
    columns = attack.chosen
    reached = attack.scene.value(attack.points).flatten(1)
    candidates = [reached.reshape(-1, batch, reached.shape[1])[..., columns]]
    candidates.extend(scene.value(corner).flatten(1)[None][..., columns] for corner in corners(scene))
    if not operator.is_affine:
        many, points = diagonal_points(scene, 2001)
        candidates.append(many.value(points).flatten(1).reshape(-1, batch, reached.shape[1])[..., columns])
        candidates.append(scene.value(nearest_to_zero(scene)).flatten(1)[None][..., columns])
    values = torch.cat(candidates)
    lower, upper = (bound.flatten(1)[:, columns] for bound in scene.bounds())
    slack = rounding(scene, torch.float64).expand_as(scene.bounds()[0]).flatten(1)[:, columns]
    if not operator.is_affine:
        slack = slack + 1e-6 * (1 + torch.maximum(lower.abs(), upper.abs()))
    assert (values.amin(0) <= lower + slack).all(), f"lower loose by {float((values.amin(0) - lower).max())}"
    assert (values.amax(0) >= upper - slack).all(), f"upper loose by {float((upper - values.amax(0)).max())}"


# ── soundness in binary32 ───────────────────────────────────────────────────────────────────────────────────────
def check_float32_contains(case: Case, operator: Operator) -> None:
    """Bounds computed in binary32 contain the real values and those of binary32, in several summation orders."""
    scene = draw(case, operator)
    scales = (1.0, 2.0**40, 2.0**-128, 2.0**-143) if operator.is_affine else (1.0,)
    for scale in scales:
        for variant in (_scaled(scene, scale), _scaled(scene, scale).shrunk_to_points()):
            _assert_float32_contains(variant)


def _scaled(scene: Scene, scale: float) -> Scene:
    """Multiply every box by a power of two, rounded to binary32."""
    return scene.with_boxes([box.map(lambda end: (end * scale).float().double()) for box in scene.boxes])


def _assert_float32_contains(scene: Scene) -> None:
    single = scene.in_float32()
    lower, upper = (bound.double() for bound in single.bounds())
    times = 24
    repeated, sampled = sampled_points(single, times)
    attempts = [(times, repeated, sampled), *((1, single, corner) for corner in corners(single))]
    if scene.boxes:
        attack = attacked_points(single, most=16, steps=1)
        attempts.append((2 * len(attack.chosen), attack.scene, attack.points))
    for count, many, point in attempts:
        bounds = (_tiled(lower, scene, count), _tiled(upper, scene, count))
        exact = scene.value([_double(x) for x in point])
        _assert_inside(exact, bounds, 0.0, "real value")
        for rule in (scene.operator.rules.nominal, *scene.case.evaluations):
            value = rule(many.call, *point, **many.parameters)
            _assert_inside(value.double(), bounds, 0.0, f"binary32 value by {rule.__name__}")


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def check_float32_tight(case: Case, operator: Operator) -> None:
    """Bounds of binary32 contain those of real arithmetic and are wider only by a small multiple of the rounding."""
    scene = draw(case, operator)
    lower, upper = scene.in_float32().bounds()
    wide, real = (lower.double(), upper.double()), scene.bounds()
    for bound in real:
        _assert_inside(bound, wide, 0.0, "bound of real arithmetic")
    allowed = case.growth * rounding(scene, torch.float32)
    for found, expected in zip(wide, real, strict=True):
        _assert_close(found, expected, allowed, "widening by binary32")


def check_checker(case: Case, operator: Operator) -> None:
    """The checker's bounds of the exported row contain the real values and those of binary32, by every evaluation.

    A row with a specification is left out: a file has none.
    """
    scene = draw(case, operator)
    if not scene.boxes or "specification" in case.parameters:
        return
    # A file has the binary32 numbers next to an attribute's.
    numbers = {key: float(np.float32(v)) if isinstance(v, float) else v for key, v in scene.call.attributes.items()}
    scene = replace(scene, call=replace(scene.call, attributes=numbers))
    single = scene.in_float32()
    checker = Checker(write_model(single, torch.float32))
    bounds = _checked(checker, single)
    for point in corners(single):
        _assert_evaluated_inside(scene, single, point, bounds)
    many, points = sampled_points(single, 16)
    boxes = [
        Interval.bounds(x, x) for x, drawn in zip(points, many.operands, strict=True) if isinstance(drawn, Interval)
    ]
    _assert_evaluated_inside(scene, many, points, _checked(checker, many.with_boxes(boxes)))


def _checked(checker: Checker, scene: Scene) -> Bounds:
    """Return the checker's bounds of a scene's outputs."""
    outputs = np.eye(prod(scene.call.output[1:]))
    found = []
    for sample in range(scene.boxes[0].lower.shape[0]):
        lower, upper = ([end(box)[sample].double().flatten().numpy() for box in scene.boxes] for end in _ENDS)
        found.append(checker.bound_rows(lower, upper, outputs, "float32"))
    lowers, uppers = (torch.as_tensor(np.stack(side)) for side in zip(*found, strict=True))
    return lowers, uppers


def _assert_evaluated_inside(scene: Scene, single: Scene, point: Sequence[Tensor], bounds: Bounds) -> None:
    """Require values at a point inside flat bounds: the real ones, and those of every evaluation in binary32."""
    _assert_inside(scene.value([_double(x) for x in point]).flatten(1), bounds, 0.0, "real value")
    for rule in (scene.operator.rules.nominal, *scene.case.evaluations):
        value = rule(single.call, *point, **single.parameters).double()
        _assert_inside(value.flatten(1), bounds, 0.0, f"binary32 value by {rule.__name__}")


# ── robustness ──────────────────────────────────────────────────────────────────────────────────────────────────
def check_nonfinite(case: Case, operator: Operator) -> None:
    """Where a bound is infinite or NaN, or a sum overflows, no bound excludes a value that the function can take."""
    scene = draw(case, operator)
    if operator.is_affine:
        for scale in (2.0**100, 2.0**120, 2.0**126):
            _assert_no_claim_by_overflow(_scaled(scene, scale))
    for base in (scene, scene.in_float32()):
        for slot, x in enumerate(base.operands):
            if isinstance(x, Interval):
                _assert_no_wrong_claim(base, slot)


def _assert_no_claim_by_overflow(scene: Scene) -> None:
    single = scene.in_float32()
    lower, upper = (bound.double() for bound in single.bounds())
    bounded = lower.isfinite() | upper.isfinite()
    for point in corners(single):
        real = scene.value([_double(x) for x in point])
        assert not ((real < lower) | (real > upper)).any(), "an overflow excludes the real value"
        for rule in (scene.operator.rules.nominal, *scene.case.evaluations):
            value = rule(single.call, *point, **single.parameters).double()
            wrong = (value < lower) | (value > upper) | (value.isnan() & bounded)
            assert not wrong.any(), f"bounds exclude an overflow of {rule.__name__}"


def _assert_no_wrong_claim(scene: Scene, slot: int) -> None:
    box = scene.operands[slot]
    assert isinstance(box, Interval)
    position = torch.randint(box.lower[0].numel(), (1,), generator=scene.generator(f"nonfinite {slot}"))
    inf, nan = torch.tensor(torch.inf, dtype=scene.dtype), torch.tensor(torch.nan, dtype=scene.dtype)
    low, high = box.lower.flatten(1)[0, position], box.upper.flatten(1)[0, position]
    many, remote = scene.repeated(len(REMOTE)), torch.tensor(REMOTE, dtype=scene.dtype)
    rows = torch.arange(len(REMOTE)) * batch_of(scene)
    for lower, upper in ((-inf, inf), (low, inf), (-inf, high), (nan, nan), (nan, high), (low, nan)):
        changed = Interval.bounds(_put(box.lower, 0, position, lower), _put(box.upper, 0, position, upper))
        bounds = scene.bounds([changed if index == slot else x for index, x in enumerate(scene.operands)])
        inside = torch.fmin(torch.fmax(remote, lower), upper)
        point = [_put(x, rows, position, inside) if index == slot else x for index, x in enumerate(many.centers)]
        found = many.value(point)
        slack = 1e-5 * found.abs().nan_to_num(0.0, 0.0, 0.0).flatten(1).amax(1)
        slack = slack.reshape([-1, *[1] * (found.dim() - 1)])
        least, most = (_tiled(bound, scene, len(REMOTE)) for bound in bounds)
        wrong = (found < least - slack) | (found > most + slack)
        assert not wrong.any(), f"[{float(lower)}, {float(upper)}] in, and a value of it leads outside of the bounds"


def _put(value: Tensor, rows: Tensor | int, position: Tensor, element: Tensor) -> Tensor:
    changed = value.clone().flatten(1)
    changed[rows, position] = element
    return changed.reshape(value.shape)


def check_gradients(case: Case, operator: Operator) -> None:
    """Gradients of the bounds are finite, through the interval and the paired rule, also at zero width."""
    scene = draw(case, operator)
    for variant in (scene, scene.shrunk_to_points(), _wide(scene)):
        leaves, moved = _with_leaves(variant)
        lower, upper = moved.bounds()
        _assert_finite_gradients(lower.sum() + 2 * upper.sum(), leaves, "interval rule")
        for stacked in (False, True):
            leaves, moved = _with_leaves(variant)
            result = operator.rules.paired(moved.call, *_pairs(moved, stacked), **moved.parameters)
            goal = result.interval.lower.sum() + 2 * result.interval.upper.sum() + 4 * result.nominal.sum()
            _assert_finite_gradients(goal, leaves, "paired rule")


def _wide(scene: Scene) -> Scene:
    """Return the scene with every box replaced by the hull of all its elements' boxes, so that bounds are far apart."""
    return scene.with_boxes(
        [
            Interval.bounds(*(bound.expand_as(box.lower).clone() for bound in (box.lower.amin(), box.upper.amax())))
            for box in scene.boxes
        ]
    )


def _with_leaves(scene: Scene) -> tuple[list[Tensor], Scene]:
    boxes = [box.map(lambda end: end.detach().clone().requires_grad_()) for box in scene.boxes]
    trainable = {role.name for role in scene.operator.roles if role.trainable}
    parameters = {
        role: value.clone().requires_grad_(role in trainable and value.is_floating_point())
        for role, value in scene.parameters.items()
    }
    leaves = [bound for box in boxes for bound in (box.lower, box.upper)]
    leaves.extend(value for value in parameters.values() if value.requires_grad)
    moved = scene.with_boxes(boxes)
    return leaves, Scene(moved.case, moved.operator, moved.call, moved.operands, parameters)


def _assert_finite_gradients(goal: Tensor, leaves: Sequence[Tensor], what: str) -> None:
    if not goal.requires_grad:
        return
    for gradient in torch.autograd.grad(goal, list(leaves), allow_unused=True):
        assert gradient is None or gradient.isfinite().all(), f"gradient through the {what} is not finite"


def check_relaxation(case: Case, operator: Operator) -> None:
    """The planes of a nonlinear operator are finite and bound it at points of the box, also at zero width."""
    scene = draw(case, operator)
    if operator.rules.relaxation is None:
        return
    _assert_planes_bound(scene, SAMPLES)
    _assert_planes_bound(_wide(scene), SAMPLES // 4)
    _assert_planes_bound(scene.shrunk_to_points(), 1)


def _assert_planes_bound(scene: Scene, count: int) -> None:
    assert scene.operator.rules.relaxation is not None
    many, points = sampled_points(scene, count)
    planes = scene.operator.rules.relaxation(many.call, *many.operands, **many.parameters)
    for plane in (planes.lower, planes.upper):
        assert all(part.isfinite().all() for part in (*plane.slopes, plane.offset)), "a plane is not finite"
    values, lower, upper = many.value(points), planes.lower(*points), planes.upper(*points)
    assert lower.shape == upper.shape == values.shape
    tolerance = _tiled(rounding(scene, torch.float64), scene, count)
    spread = torch.maximum(_moduli(planes.lower, points), _moduli(planes.upper, points))
    _assert_inside(values, (lower, upper), tolerance + 1e-13 * spread, "relaxation")


def _moduli(plane: Plane, points: Sequence[Tensor]) -> Tensor:
    """Return the sum of the moduli of the plane's terms."""
    absolute = Plane(tuple(slope.abs() for slope in plane.slopes), plane.offset.abs(), plane.views)
    return absolute(*(point.abs() for point in points))


def check_pulled(case: Case, operator: Operator) -> None:
    """The operator's `pull` rule gives the same forms, and gradients, as the vjp of its nominal rule."""
    scene = draw(case, operator)
    if operator.rules.pull is None:
        return
    trained = {name: value.clone().requires_grad_() for name, value in scene.parameters.items()}
    (x,) = scene.operands
    assert isinstance(x, Interval)
    point = torch.zeros_like(x.lower).requires_grad_()
    result = operator.rules.nominal(scene.call, point, **trained)
    forms = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(
        result, point, forms, create_graph=True, allow_unused=True, materialize_grads=True
    )
    found = operator.rules.pull(scene.call, forms, **trained)
    leaves, weights = list(trained.values()), torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((side * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
        if side.requires_grad
        else [torch.zeros_like(leaf) for leaf in leaves]
        for side in (found, expected)
    ]
    for mine, other in zip((found, *gradients[0]), (expected, *gradients[1]), strict=True):
        wanted = other.detach()
        _assert_close(mine.detach(), wanted, 1e-12 * wanted.abs().amax().clamp(min=1.0), "pulled forms")
    if operator.rules.rows is not None:
        units = torch.eye(prod(result.shape[1:]), dtype=result.dtype).reshape(-1, *result.shape[1:])
        elements = torch.arange(len(units)).flip(0).repeat_interleave(2)
        wanted = operator.rules.pull(scene.call, units[elements], **scene.parameters)
        _assert_close(operator.rules.rows(scene.call, elements, **scene.parameters), wanted, 1e-12, "rows")


# ── pairs and lowered graphs ────────────────────────────────────────────────────────────────────────────────────
def check_paired(case: Case, operator: Operator) -> None:
    """The paired rule gives the training rule and the interval rule, for either form of the pair.

    Where training differs from evaluation only the nominal side can be compared in general.
    """
    scene = draw(case, operator)
    tolerance = rounding(scene, torch.float64)
    values = [x.lower + 0.25 * x.width if isinstance(x, Interval) else x for x in scene.operands]
    torch.manual_seed(0)
    expected = operator.rules.training(scene.call, *values, **_copies(scene.parameters))
    for stacked in (False, True):
        torch.manual_seed(0)
        result = operator.rules.paired(scene.call, *_pairs(scene, stacked), **_copies(scene.parameters))
        _assert_close(result.nominal, expected, tolerance, "nominal side of the pair")
        if operator.rules.training is operator.rules.nominal:
            for found, bound in zip((result.interval.lower, result.interval.upper), scene.bounds(), strict=True):
                _assert_close(found, bound, tolerance, "box of the pair")


def check_paired_gradients(case: Case, operator: Operator) -> None:
    """The paired rule gives operands and parameters the same gradients as the two rules that it joins."""
    scene = draw(case, operator)
    if operator.rules.training is not operator.rules.nominal or not scene.boxes:
        return
    leaves, moved = _with_leaves(scene)
    values = [x.lower + 0.25 * x.width if isinstance(x, Interval) else x for x in moved.operands]
    weights = torch.rand(3, *moved.value(values).shape, generator=scene.generator("paired"), dtype=torch.float64)
    expected = _gradients((moved.value(values), *moved.bounds()), weights, leaves)
    for stacked in (False, True):
        leaves, moved = _with_leaves(scene)
        result = operator.rules.paired(moved.call, *_pairs(moved, stacked), **moved.parameters)
        found = _gradients((result.nominal, result.interval.lower, result.interval.upper), weights, leaves)
        for gradient, wanted in zip(found, expected, strict=True):
            _assert_close(gradient, wanted, 1e-9 * (1 + wanted.abs().max()), "gradient through the pair")


def _gradients(outputs: Sequence[Tensor], weights: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    goal = sum(((output * weight).sum() for output, weight in zip(outputs, weights, strict=True)), torch.zeros(()))
    found = torch.autograd.grad(goal, list(leaves), allow_unused=True) if goal.requires_grad else [None] * len(leaves)
    return [torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, found, strict=True)]


def _pairs(scene: Scene, stacked: bool) -> list[Paired | Tensor]:
    return [_pair(x, stacked) if isinstance(x, Interval) else x for x in scene.operands]


def _pair(box: Interval, stacked: bool) -> Paired:
    point = box.lower + 0.25 * box.width
    if stacked:
        return Paired.stacked(torch.cat([point, box.center]), box.radius)
    return Paired.separate(point, box)


def _copies(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {role: value.clone() for role, value in parameters.items()}


def graph_of(scene: Scene) -> Graph:
    """Return the graph of the row alone: an Input per box, a Constant per exact operand, and the node `row`."""
    graph = Graph("row")
    names = []
    for slot, (x, shape) in enumerate(zip(scene.operands, scene.call.operands, strict=True)):
        if isinstance(x, Interval):
            names.append(graph.add(Node(f"x{slot}", INPUT, {"shape": list(shape[1:]), "range": None}, shape)))
        else:
            names.append(graph.add(Node(f"x{slot}", "Constant", {}, shape), state={"value": x}))
    node = Node("row", scene.operator.name, scene.call.attributes, scene.call.output)
    graph.add(node, names, scene.parameters)
    graph.outputs = ("row",)
    return graph


def check_lowered(case: Case, operator: Operator) -> None:
    """The emitted graphs compute the same as the rules, without host synchronization."""
    scene = draw(case, operator)
    graph = graph_of(scene)
    table = {**operators(), operator.name: operator}
    graph.verify(table)
    with mock.patch.object(lowering, "operators", lambda: table):
        _compare_nominal(graph, scene)
        _compare_interval(graph, scene)
        _compare_interval(graph, scene.in_float32())
        if scene.boxes:
            _compare_paired(graph, scene)


def _sides(scene: Scene) -> list[Tensor]:
    return [bound for box in scene.boxes for bound in (box.lower, box.upper)]


def _tree(graph: Graph, scene: Scene) -> torch.nn.Module:
    return lowering.parameter_tree(graph).to(scene.dtype)


def _compare_nominal(graph: Graph, scene: Scene) -> None:
    point = corners(scene)[0]
    inputs = [value for x, value in zip(scene.operands, point, strict=True) if isinstance(x, Interval)]
    for phase, rule in (
        (lowering.Phase.EVALUATION, scene.operator.rules.nominal),
        (lowering.Phase.TRAINING, scene.operator.rules.training if scene.boxes else scene.operator.rules.nominal),
    ):
        module = lowering.lower_nominal(graph, _tree(graph, scene), phase)
        torch.manual_seed(0)
        expected = rule(scene.call, *point, **_copies(scene.parameters))
        torch.manual_seed(0)
        _assert_same([module(*inputs)], [expected], f"nominal graph in {phase.value}")
        _assert_stays_on_device(module)


def _compare_interval(graph: Graph, scene: Scene) -> None:
    module = lowering.lower_interval(graph, _tree(graph, scene), scene.call.arithmetic)
    _assert_same(module(*_sides(scene)), scene.bounds(), "interval graph")
    _assert_stays_on_device(module)


def _compare_paired(graph: Graph, scene: Scene) -> None:
    module = lowering.lower_paired(graph, _tree(graph, scene), ["row"], ["row"])
    inputs = [value for box in scene.boxes for value in (box.lower + 0.25 * box.width, box.lower, box.upper)]
    torch.manual_seed(0)
    expected = scene.operator.rules.paired(scene.call, *_pairs(scene, False), **_copies(scene.parameters))
    torch.manual_seed(0)
    wanted = [expected.nominal, expected.interval.lower, expected.interval.upper]
    _assert_same(module(*inputs), wanted, "paired graph")
    _assert_stays_on_device(module)


def _assert_same(found: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    for value, wanted in zip(found, expected, strict=True):
        _assert_close(value.detach(), wanted.detach(), 0.0, what)


def _assert_stays_on_device(module: torch.fx.GraphModule) -> None:
    for call in (".item(", ".tolist(", ".numpy(", ".cpu("):
        assert call not in module.code, f"the graph calls {call[1:-1]}"


def check_frozen(case: Case, operator: Operator) -> None:
    """A frozen graph gives the same values, and keeps them when the parameters change."""
    scene = draw(case, operator)
    graph = graph_of(scene)
    table = {**operators(), operator.name: operator}
    with mock.patch.object(lowering, "operators", lambda: table):
        for variant in (scene, scene.in_float32()):
            tree = _tree(graph, variant)
            module = lowering.lower_interval(graph, tree, variant.call.arithmetic)
            expected = [bound.clone() for bound in module(*_sides(variant))]
            frozen = lowering.freeze(module)
            _assert_same(frozen(*_sides(variant)), expected, "frozen graph")
            with torch.no_grad():
                for value in (*tree.parameters(), *tree.buffers()):
                    value.mul_(2)
            _assert_same(frozen(*_sides(variant)), expected, "frozen graph after a step")


Property = Callable[[Case, Operator], None]

PROPERTIES: Final[Mapping[str, Property]] = MappingProxyType(
    {
        "shape": check_shape,
        "reference": check_reference,
        "onnx_runtime": check_onnx_runtime,
        "round_trip": check_round_trip,
        "point": check_point,
        "sampled": check_sampled,
        "attacked": check_attacked,
        "isotone": check_isotone,
        "attained": check_attained,
        "float32_contains": check_float32_contains,
        "float32_tight": check_float32_tight,
        "checker": check_checker,
        "nonfinite": check_nonfinite,
        "gradients": check_gradients,
        "relaxation": check_relaxation,
        "pulled": check_pulled,
        "paired": check_paired,
        "paired_gradients": check_paired_gradients,
        "lowered": check_lowered,
        "frozen": check_frozen,
    }
)
