"""Wrong rules planted in copies of sound records: each property must catch its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from ibpc.interval import Interval, Paired
from ibpc.ops import gemm, operators
from ibpc.ops.base import Operator
from ibpc.ops.combinators import affine, monotone, outward
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import Arithmetic, inflation
from tests.ops.cases import rows
from tests.ops.harness import PROPERTIES


@dataclass(frozen=True)
class Fault:
    """A fault: the property that must catch it, the row that shows it, and the function that plants it in a record."""

    property: str
    row: str
    what: str
    plant: Callable[[Operator], Operator]

    def __str__(self) -> str:
        return f"{self.property}: {self.what} ({self.row})"


def with_rules(operator: Operator, **rules: Any) -> Operator:
    """Return the record with other rules."""
    return replace(operator, rules=replace(operator.rules, **rules))


def with_bounds(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[Operator], Operator]:
    """Return a function that plants an interval rule with changed bounds."""

    def plant(operator: Operator) -> Operator:
        def interval(call: Call, *operands: Any, **parameters: Tensor) -> Interval:
            box = operator.rules.interval(call, *operands, **parameters)
            return Interval.bounds(*change(box.lower, box.upper))

        return with_rules(operator, interval=interval)

    return plant


# ── shapes and ONNX ─────────────────────────────────────────────────────────────────────────────────────────────
def one_too_many(operator: Operator) -> Operator:
    def shape(*arguments: Any) -> tuple[int, ...]:
        *rest, last = operator.shape(*arguments)
        return (*rest, last + 1)

    return replace(operator, shape=shape)


def fixed_batch(operator: Operator) -> Operator:
    return replace(operator, shape=lambda *arguments: (2, *operator.shape(*arguments)[1:]))


def schema_without_attribute(operator: Operator) -> Operator:
    return replace(operator, attributes={key: operator.attributes[key] for key in ("strides", "pads", "dilations")})


def writes_with(**changed: Any) -> Callable[[Operator], Operator]:
    """Return a function that plants an export rule with another attribute value."""

    def plant(operator: Operator) -> Operator:
        def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
            return operator.writes(
                replace(call, attributes={**call.attributes, **changed}), writer, operands, parameters
            )

        return replace(operator, writes=write)

    return plant


def writes_swapped_parameters(operator: Operator) -> Operator:
    def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
        swapped = {**parameters, "bias": parameters["running_mean"], "running_mean": parameters["bias"]}
        return operator.writes(call, writer, operands, swapped)

    return replace(operator, writes=write)


def reads_with(change: Callable[[OnnxNode], OnnxNode]) -> Callable[[Operator], Operator]:
    """Return a function that plants an import rule that sees a changed node."""

    def plant(operator: Operator) -> Operator:
        def read(node: OnnxNode, builder: Builder) -> Value | tuple[Value, ...]:
            return operator.reads[0].read(change(node), builder)

        return replace(operator, reads=(OnnxImport(operator.reads[0].type, operator.reads[0].versions, read),))

    return plant


def without_bias(node: OnnxNode) -> OnnxNode:
    return replace(node, inputs=node.inputs[:2])


def without_strides(node: OnnxNode) -> OnnxNode:
    return replace(node, attributes={key: value for key, value in node.attributes.items() if key != "strides"})


def reads_no_version_of_opset_18(operator: Operator) -> Operator:
    return replace(operator, reads=tuple(replace(read, versions=(1, 6)) for read in operator.reads))


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────
def signed_weight(operator: Operator) -> Operator:
    """|W| r written as W r."""

    def absolute(call: Call, radius: Tensor, *, offset: Any, weight: Tensor, **_: Tensor) -> Tensor:
        return torch.nn.functional.linear(radius, weight)

    return replace(operator, rules=affine(gemm.nominal, absolute, gemm.terms, gemm.magnitude))


def forgotten_bias(operator: Operator) -> Operator:
    def interval(call: Call, *operands: Any, bias: Tensor, **parameters: Tensor) -> Interval:
        return operator.rules.interval(call, *operands, **parameters)

    return with_rules(operator, interval=interval)


def modulus(call: Call, x: Tensor) -> Tensor:
    return x.abs()


def monotone_rule_of_a_modulus(operator: Operator) -> Operator:
    assert operator.rules.relaxation is not None
    return replace(operator, rules=monotone(modulus, operator.rules.relaxation, ulps=0))


def half_the_radius_when_centered(operator: Operator) -> Operator:
    def interval(call: Call, x: Interval, **parameters: Tensor) -> Interval:
        seen = Interval.around(x.center, 0.5 * x.radius) if x.is_centered else x
        return operator.rules.interval(call, seen, **parameters)

    return with_rules(operator, interval=interval)


def wider_over_small_boxes(operator: Operator) -> Operator:
    def interval(call: Call, x: Interval, **parameters: Tensor) -> Interval:
        box = operator.rules.interval(call, x, **parameters)
        margin = 0.1 * torch.exp(-x.width.amax())
        return Interval.bounds(box.lower - margin, box.upper + margin)

    return with_rules(operator, interval=interval)


def scaled_radius(factor: float) -> Callable[[Operator], Operator]:
    return with_bounds(
        lambda lower, upper: (
            (lower + upper) / 2 - factor * (upper - lower) / 2,
            (lower + upper) / 2 + factor * (upper - lower) / 2,
        )
    )


# ── binary32 ────────────────────────────────────────────────────────────────────────────────────────────────────
def forgotten_inflation(operator: Operator) -> Operator:
    def interval(call: Call, *operands: Any, **parameters: Tensor) -> Interval:
        return operator.rules.interval(replace(call, arithmetic=Arithmetic.REAL), *operands, **parameters)

    return with_rules(operator, interval=interval)


def inflation_after_the_cancellation(operator: Operator) -> Operator:
    """ρ |S W| (…), where the rounding of each logit requires ρ |S| |W| (…)."""
    return with_rules(operator, interval=affine(gemm.nominal, gemm.absolute, gemm.terms, gemm.magnitude).interval)


def forgotten_magnitude(operator: Operator) -> Operator:
    """Inflate by the center left after cancelling with the running mean."""
    rules = operator.rules

    def interval(call: Call, x: Interval, **parameters: Tensor) -> Interval:
        real = rules.interval(replace(call, arithmetic=Arithmetic.REAL), x, **parameters)
        return Interval.around(real.center, real.radius + inflation(1) * (real.center.abs() + real.radius))

    return with_rules(operator, interval=interval)


def underflow_behind_the_product(operator: Operator) -> Operator:
    """Cover underflow after the product with |W|, which has multiplied the operand's own underflow."""

    def interval(call: Call, x: Interval, *, weight: Tensor) -> Interval:
        growth = inflation(gemm.terms(call))
        radius = x.radius * (1.0 + growth) + x.center.abs() * growth
        center = gemm.nominal(call, x.center, weight=weight)
        return Interval.around(center, gemm.absolute(call, radius, offset=1e-36, weight=weight))

    return with_rules(operator, interval=interval)


def one_ulp_too_small(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return lower, torch.nextafter(upper, torch.full_like(upper, -torch.inf))


def uselessly_wide(operator: Operator) -> Operator:
    def interval(call: Call, *operands: Any, **parameters: Tensor) -> Interval:
        box = operator.rules.interval(call, *operands, **parameters)
        ulps = 0 if call.arithmetic is Arithmetic.REAL else 100_000
        return outward(call, box.lower, box.upper, ulps)

    return with_rules(operator, interval=interval)


# ── robustness ──────────────────────────────────────────────────────────────────────────────────────────────────
def nan_becomes_zero(operator: Operator) -> Operator:
    def interval(call: Call, x: Interval) -> Interval:
        zero = torch.zeros_like(x.lower)
        return Interval.bounds(torch.where(x.lower > 0, x.lower, zero), torch.where(x.upper > 0, x.upper, zero))

    return with_rules(operator, interval=interval)


def infinity_is_clipped(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return lower.nan_to_num(-1e4).clamp(min=-1e4), upper.nan_to_num(1e4).clamp(max=1e4)


def sums_that_may_overflow(operator: Operator) -> Operator:
    """A radius that stays finite although the center, or the network in another order, overflows."""

    def interval(call: Call, x: Interval, *, weight: Tensor) -> Interval:
        growth = inflation(gemm.terms(call))
        radius = x.radius * (1.0 + growth) + x.center.abs() * growth
        center = gemm.nominal(call, x.center, weight=weight)
        return Interval.around(center, gemm.absolute(call, radius, offset=None, weight=weight))

    return with_rules(operator, interval=interval)


def root_of_the_square(operator: Operator) -> Operator:
    """√(r²) has no gradient at 0."""

    def interval(call: Call, x: Interval, **parameters: Tensor) -> Interval:
        seen = Interval.around(x.center, x.radius.square().sqrt())
        return operator.rules.interval(call, seen, **parameters)

    return with_rules(operator, interval=interval)


def root_in_the_pair(operator: Operator) -> Operator:
    def paired(call: Call, x: Paired, **parameters: Tensor) -> Paired:
        result = operator.rules.paired(call, x, **parameters)
        return Paired.separate(
            result.nominal, Interval.around(result.interval.center, result.interval.radius.square().sqrt())
        )

    return with_rules(operator, paired=paired)


# ── relaxation ──────────────────────────────────────────────────────────────────────────────────────────────────
def with_planes(change: Callable[[Planes], Planes]) -> Callable[[Operator], Operator]:
    """Return a function that plants a relaxation rule with changed planes."""

    def plant(operator: Operator) -> Operator:
        def relaxation(call: Call, *operands: Any, **parameters: Tensor) -> Planes:
            assert operator.rules.relaxation is not None
            return change(operator.rules.relaxation(call, *operands, **parameters))

        return with_rules(operator, relaxation=relaxation)

    return plant


def pulled_to_the_neighbour(operator: Operator) -> Operator:
    """Forms of the element next to the right one."""

    def pull(call: Call, forms: Tensor, **parameters: Tensor) -> Tensor:
        assert operator.rules.pull is not None
        return operator.rules.pull(call, forms, **parameters).roll(1, -1)

    return with_rules(operator, pull=pull)


def rows_of_the_first_vector(operator: Operator) -> Operator:
    """Rows of the matrix at the first vector's position, wherever the element lies."""

    def rows(call: Call, elements: Tensor, **parameters: Tensor) -> Tensor:
        assert operator.rules.rows is not None
        return operator.rules.rows(call, elements % call.output[-1], **parameters)

    return with_rules(operator, rows=rows)


def flipped_lower_plane(planes: Planes) -> Planes:
    return Planes(Plane(tuple(-slope for slope in planes.lower.slopes), planes.lower.offset), planes.upper)


def upper_plane_through_the_origin(planes: Planes) -> Planes:
    return Planes(planes.lower, Plane(planes.upper.slopes, torch.zeros_like(planes.upper.offset)))


def chord_of_no_width(operator: Operator) -> Operator:
    """u / (u − l) without a guard."""

    def relaxation(call: Call, x: Interval) -> Planes:
        chord = (x.upper.relu() - x.lower.relu()) / (x.upper - x.lower)
        assert operator.rules.relaxation is not None
        lower = operator.rules.relaxation(call, x).lower
        return Planes(lower, Plane((chord,), x.lower.relu() - chord * x.lower))

    return with_rules(operator, relaxation=relaxation)


# ── pairs and lowered graphs ────────────────────────────────────────────────────────────────────────────────────
def center_for_nominal(operator: Operator) -> Operator:
    def paired(call: Call, *operands: Any, **parameters: Tensor) -> Paired:
        result = operator.rules.paired(call, *operands, **parameters)
        return Paired.separate(result.interval.center, result.interval)

    return with_rules(operator, paired=paired)


def nominal_radius(operator: Operator) -> Operator:
    def paired(call: Call, *operands: Any, **parameters: Tensor) -> Paired:
        result = operator.rules.paired(call, *operands, **parameters)
        return Paired.separate(result.nominal, Interval.around(result.nominal, result.interval.radius))

    return with_rules(operator, paired=paired)


def detached_radius(operator: Operator) -> Operator:
    def paired(call: Call, *operands: Any, **parameters: Tensor) -> Paired:
        result = operator.rules.paired(call, *operands, **parameters)
        box = result.interval
        return Paired.separate(result.nominal, Interval.around(box.center, box.radius.detach()))

    return with_rules(operator, paired=paired)


def detached_weight(operator: Operator) -> Operator:
    def paired(call: Call, *operands: Any, weight: Tensor, **parameters: Tensor) -> Paired:
        return operator.rules.paired(call, *operands, weight=weight.detach(), **parameters)

    return with_rules(operator, paired=paired)


def other_values_on_proxies(operator: Operator) -> Operator:
    def nominal(call: Call, x: Tensor, **parameters: Tensor) -> Tensor:
        result = operator.rules.nominal(call, x, **parameters)
        return result * 2 if isinstance(x, fx.Proxy) else result

    return with_rules(operator, nominal=nominal, training=nominal)


def host_synchronisation(operator: Operator) -> Operator:
    def interval(call: Call, x: Interval, **parameters: Tensor) -> Interval:
        box = operator.rules.interval(call, x, **parameters)
        return Interval.bounds(box.lower + 0.0 * x.upper.amax().item(), box.upper)

    return with_rules(operator, interval=interval)


def noise_on_the_weight(operator: Operator) -> Operator:
    def interval(call: Call, x: Interval, *, weight: Tensor, **parameters: Tensor) -> Interval:
        return operator.rules.interval(call, x, weight=weight + torch.rand_like(weight), **parameters)

    return with_rules(operator, interval=interval)


FAULTS = (
    Fault("shape", "Conv-two dimensions", "a size is off by one", one_too_many),
    Fault("shape", "Relu-rank 3", "the batch is fixed", fixed_batch),
    Fault("shape", "Conv-groups", "an attribute is missing from the schema", schema_without_attribute),
    Fault("reference", "Conv-asymmetric pads, no bias", "pads in another order", writes_with(pads=[1, 0, 0, 2])),
    Fault("reference", "BatchNormalization-rank 2", "epsilon is lost", writes_with(epsilon=1e-5)),
    Fault("onnx_runtime", "Conv-asymmetric pads, no bias", "pads in another order", writes_with(pads=[1, 0, 0, 2])),
    Fault("onnx_runtime", "BatchNormalization-rank 3", "parameters swapped", writes_swapped_parameters),
    Fault("round_trip", "Gemm-bias", "the bias is lost on import", reads_with(without_bias)),
    Fault("round_trip", "Conv-one dimension, strided", "strides are lost on import", reads_with(without_strides)),
    Fault("round_trip", "Relu-rank 3", "the version written is not read", reads_no_version_of_opset_18),
    Fault("point", "Gemm-bias", "the bias is lost", forgotten_bias),
    Fault("point", "Relu-rank 3", "lower 1e-9 too low", with_bounds(lambda lower, upper: (lower - 1e-9, upper))),
    Fault("sampled", "Gemm-no bias", "W r for |W| r", signed_weight),
    Fault("sampled", "Relu-around zero", "a monotone rule for a modulus", monotone_rule_of_a_modulus),
    Fault("sampled", "Gemm-bias", "half the radius where centered", half_the_radius_when_centered),
    Fault("attacked", "Conv-two dimensions", "radius 1 % too small", scaled_radius(0.99)),
    Fault("attacked", "Gemm-class differences", "radius 0.0001 % too small", scaled_radius(1 - 1e-6)),
    Fault("isotone", "Gemm-bias", "wider over smaller boxes", wider_over_small_boxes),
    Fault("attained", "Conv-dilated", "radius 0.0001 % too large", scaled_radius(1 + 1e-6)),
    Fault("attained", "Relu-rank 3", "upper too high", with_bounds(lambda lower, upper: (lower, upper + 1e-4))),
    Fault("float32_contains", "Gemm-cancelling weights", "inflation forgotten", forgotten_inflation),
    Fault("float32_contains", "Conv-two dimensions", "inflation forgotten", forgotten_inflation),
    Fault("float32_contains", "Add-two boxes", "inflation forgotten", forgotten_inflation),
    Fault(
        "float32_contains",
        "Gemm-class differences that cancel",
        "inflation after the cancellation",
        inflation_after_the_cancellation,
    ),
    Fault(
        "float32_contains",
        "BatchNormalization-mean that cancels the input, vanishing variance",
        "the modulus of the cancelled mean forgotten",
        forgotten_magnitude,
    ),
    Fault(
        "float32_contains",
        "Gemm-weights that bring denormal inputs back",
        "underflow paid behind the product",
        underflow_behind_the_product,
    ),
    Fault("float32_contains", "Relu-always active", "upper one ulp too small", with_bounds(one_ulp_too_small)),
    Fault("float32_tight", "Relu-rank 3", "a hundred thousand ulps", uselessly_wide),
    Fault("float32_tight", "Gemm-bias", "a hundred thousand ulps", uselessly_wide),
    Fault("float32_tight", "Gemm-bias", "inflation forgotten", forgotten_inflation),
    Fault("checker", "Conv-asymmetric pads, no bias", "pads in another order", writes_with(pads=[1, 0, 0, 2])),
    Fault("checker", "BatchNormalization-rank 3", "parameters swapped", writes_swapped_parameters),
    Fault("nonfinite", "Relu-rank 3", "NaN becomes zero", nan_becomes_zero),
    Fault("nonfinite", "Gemm-bias", "infinity is clipped", with_bounds(infinity_is_clipped)),
    Fault("nonfinite", "Gemm-partial sums beyond the whole", "sums that may overflow", sums_that_may_overflow),
    Fault("gradients", "Gemm-bias", "a root at zero width", root_of_the_square),
    Fault("gradients", "Conv-two dimensions", "a root at zero width, in the pair", root_in_the_pair),
    Fault("relaxation", "Relu-around zero", "lower plane with a flipped sign", with_planes(flipped_lower_plane)),
    Fault("relaxation", "Relu-around zero", "upper plane too low", with_planes(upper_plane_through_the_origin)),
    Fault("relaxation", "Relu-rank 3", "a chord of no width", chord_of_no_width),
    Fault("pulled", "Gemm-bias", "forms of the neighbour", pulled_to_the_neighbour),
    Fault("pulled", "Gemm-rank 3", "rows of the first vector", rows_of_the_first_vector),
    Fault("pulled", "Conv-two dimensions", "forms of the pixel beside", pulled_to_the_neighbour),
    Fault("paired", "Conv-two dimensions", "the center for the nominal value", center_for_nominal),
    Fault("paired", "Add-two boxes", "the box around the nominal value", nominal_radius),
    Fault("paired_gradients", "Gemm-bias", "a detached radius", detached_radius),
    Fault("paired_gradients", "Conv-two dimensions", "a detached weight", detached_weight),
    Fault("lowered", "Relu-rank 3", "other values on proxies", other_values_on_proxies),
    Fault("lowered", "Gemm-bias", "a host synchronisation", host_synchronisation),
    Fault("frozen", "Gemm-bias", "noise on the weight", noise_on_the_weight),
)

ROWS = {str(row): row for row in rows()}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_planted_fault_is_caught(fault: Fault) -> None:
    row = ROWS[fault.row]
    check = partial(PROPERTIES[fault.property], row)
    check(operators()[row.operator])
    with pytest.raises(AssertionError):
        check(fault.plant(operators()[row.operator]))


def test_every_property_has_a_planted_fault() -> None:
    assert {fault.property for fault in FAULTS} == set(PROPERTIES)
