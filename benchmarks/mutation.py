"""A drill with planted bugs: whether the suite catches a flipped sign, slope or inequality wherever it may slip in.

    python benchmarks/mutation.py [--only WORD] [--log LINES.jsonl] [-o benchmarks/results/mutation.md]

Each mutation replaces one text in a copy of the project and runs the tests that are about it, which all pass without
it. A mutation whose text is not in its file exactly once is an error: it has to follow the code. With `--log` outcomes
are kept, one JSON line each, and a bug that has one is not planted again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("ibpc", "tests", "specs", "examples", "docs", "benchmarks", "pyproject.toml", "README.md")
LONGEST = 600.0


@dataclass(frozen=True)
class Mutation:
    """One planted bug: `old` becomes `new` in `file`, and `tests` (arguments of pytest) have to notice."""

    bug: str
    file: str
    old: str
    new: str
    tests: str


@dataclass(frozen=True)
class Outcome:
    """What the tests said: the first that failed, or nothing."""

    mutation: Mutation
    caught_by: str
    seconds: float


def table(operator: str, word: str) -> str:
    """Return the rows of the operators' table about an operator and one of its properties."""
    return f"tests/ops/test_table.py -k '{operator} and {word}'"


MUTATIONS = (
    # ── boxes ───────────────────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "the radius of Gemm without |W|",
        "ibpc/ops/gemm.py",
        "return F.linear(radius, weight.abs(), offset)",
        "return F.linear(radius, weight, offset)",
        table("Gemm", "sampled"),
    ),
    Mutation(
        "the margins' rounding by |S W| for |S| |W|",
        "ibpc/ops/gemm.py",
        "moduli = specification.abs() @ weight.abs()",
        "moduli = (specification @ weight).abs()",
        table("Gemm", "float32_contains"),
    ),
    Mutation(
        "a box whose upper end is its center",
        "ibpc/interval.py",
        "return self.center + self.radius if sign > 0",
        "return self.center if sign > 0",
        "tests/test_interval.py",
    ),
    Mutation(
        "the ball of an input rounded inward",
        "ibpc/rounding.py",
        "missed = rounded.double() > value if end < 0 else rounded.double() < value",
        "missed = rounded.double() < value if end < 0 else rounded.double() > value",
        "tests/test_rounding.py -k OuterBall",
    ),
    Mutation(
        "a rounding upward that goes down",
        "ibpc/rounding.py",
        "return upper + (upper.abs()",
        "return upper - (upper.abs()",
        "tests/test_rounding.py -k Steps",
    ),
    Mutation(
        "sums that may overflow are trusted",
        "ibpc/rounding.py",
        "RAISED: Final = 2.0**24",
        "RAISED: Final = 1.0",
        "tests/test_rounding.py tests/ops/test_table.py -k 'AffineRows or overflow or (Gemm and nonfinite)'",
    ),
    Mutation(
        "the rounding of the operand's center forgotten",
        "ibpc/ops/combinators.py",
        "torch.add(operand.radius, operand.modulus, alpha=growth)",
        "torch.add(operand.radius, operand.radius, alpha=growth)",
        "tests/test_rounding.py tests/ops/test_table.py -k 'AffineRows or (Conv and float32_contains)'",
    ),
    Mutation(
        "every midpoint taken for its modulus",
        "ibpc/interval.py",
        "return self.center if self._is_nonnegative else self.center.abs()",
        "return self.center",
        "tests/test_interval.py tests/test_rounding.py",
    ),
    Mutation(
        "a pool that counts one element too many",
        "ibpc/ops/average_pool.py",
        "(1.0 / divisors.flatten()[0])",
        "(1.0 / (divisors.flatten()[0] + 1.0))",
        "tests/test_patches.py",
    ),
    Mutation(
        "rows padded as columns are",
        "ibpc/ops/pad.py",
        "(pads[2], pads[3])",
        "(pads[3], pads[2])",
        "tests/test_patches.py",
    ),
    Mutation(
        "zeros around what is padded with another number",
        "ibpc/ops/pad.py",
        ' or call["value"] != 0 or',
        " or",
        "tests/test_patches.py",
    ),
    Mutation(
        "a shift taken for no padding",
        "ibpc/passes/drop_identities.py",
        'not any(node.attributes["pads"])',
        'not sum(node.attributes["pads"])',
        "tests/passes/test_drop_identities.py",
    ),
    Mutation(
        "a folded weight that may leave the range above",
        "ibpc/passes/_scalings.py",
        "for end in torch.aminmax(value)]",
        "for end in torch.aminmax(value)[:1]]",
        "tests/passes/test_fold_batch_normalization.py",
    ),
    Mutation(
        "a Relu whose offset is dropped too early",
        "ibpc/ops/relu.py",
        "torch.where(upper <= 0, 0.0, -chord * below)",
        "torch.where(upper <= 1e-3, 0.0, -chord * below)",
        "tests/ops/test_elementwise_rules.py -k relu",
    ),
    Mutation(
        "pools with windows of different sizes taken for convolutions",
        "ibpc/ops/average_pool.py",
        " or bool((divisors != divisors.flatten()[0]).any())",
        "",
        "tests/test_patches.py -k convolutions_and",
    ),
    Mutation(
        "a last checkpoint that waits",
        "ibpc/training/trainer.py",
        "if self._pace.is_due() or self.epoch == self.recipe.epochs:",
        "if self._pace.is_due():",
        "tests/training/test_runner.py -k wait",
    ),
    Mutation(
        "a mistake of ours taken for a refusal of ONNX Runtime",
        "ibpc/runtime.py",
        "return (*kinds, RuntimeError,",
        "return (Exception, *kinds, RuntimeError,",
        "tests/test_runtime.py",
    ),
    Mutation(
        "forms pulled through a convolution as if all padding were at its begin",
        "ibpc/ops/conv.py",
        "found.narrow(axis + 2, begin - both, length)",
        "found.narrow(axis + 2, 0, length)",
        table("Conv", "pulled"),
    ),
    Mutation(
        "what an affine operator gives at zero counted twice",
        "ibpc/bounds/payments.py",
        "            constant = _at_zero(step, operands)\n",
        "            constant = 2 * _at_zero(step, operands)\n",
        "tests/test_backward.py",
    ),
    Mutation(
        "nothing in the cone",
        "ibpc/bounds/cone.py",
        "coefficients.isnan()",
        "coefficients.isinf()",
        "tests/test_cone.py",
    ),
    Mutation(
        "proofs written that the checker does not replay",
        "ibpc/verify/proving/evidence.py",
        "            return False\n        before +=",
        "            pass\n        before +=",
        "tests/test_proofs.py -k would_not_replay",
    ),
    Mutation(
        "the rounding of the radius forgotten where there is no weight",
        "ibpc/rounding.py",
        "return radius.mul_((1.0 + growth) * RAISED)",
        "return radius.mul_(RAISED)",
        "tests/test_rounding.py -k AffineRows",
    ),
    Mutation(
        "the rounding of the radius forgotten",
        "ibpc/rounding.py",
        "return (1.0 + growth) / RAISED",
        "return 1.0 / RAISED",
        "tests/test_rounding.py -k AffineRows",
    ),
    Mutation(
        "the rounding of the operand's center forgotten behind a Relu",
        "ibpc/ops/combinators.py",
        "torch.sub(operand.lower, operand.center, alpha=1.0 + growth)",
        "torch.sub(operand.lower, operand.center)",
        "tests/test_rounding.py -k AffineRows",
    ),
    Mutation(
        "an offset that takes from the radius behind a Relu",
        "ibpc/ops/combinators.py",
        "offset=sign * RAISED * offset",
        "offset=RAISED * offset",
        "tests/test_rounding.py -k AffineRows",
    ),
    Mutation(
        "the rounding of a sum forgotten",
        "ibpc/ops/_sums.py",
        "torch.add(share, rounding, alpha=growth / scale)",
        "torch.add(share, rounding, alpha=0.0)",
        "tests/test_rounding.py -k Sums",
    ),
    Mutation(
        "bounds taken for a center and a radius that are exact",
        "ibpc/ops/_sums.py",
        "sign, radius = reach(x, growth)",
        "sign, radius = 1.0, x.radius",
        "tests/test_rounding.py -k Sums",
    ),
    Mutation(
        "the factor of a radius forgotten in a sum",
        "ibpc/ops/_sums.py",
        "alpha=factor / scale",
        "alpha=factor",
        "tests/test_rounding.py -k Sums",
    ),
    Mutation(
        "padding keeps the promise that nothing is below 0",
        "ibpc/ops/combinators.py",
        "copies = absolute is None and all(",
        "copies = all(",
        "tests/test_interval.py",
    ),
    Mutation(
        "underflow of an operand not multiplied by |W|",
        "ibpc/ops/combinators.py",
        "offset = gain(call, **parameters) * FLUSHED + offset",
        "offset = FLUSHED + offset",
        table("Gemm", "float32_contains"),
    ),
    Mutation(
        "the bias of a folded normalization keeps no moduli",
        "ibpc/ops/_biases.py",
        "return bias_magnitude\n",
        "return bias.abs()\n",
        "tests/passes -k 'normalization or cancel'",
    ),
    Mutation(
        "a folded normalization without ε",
        "ibpc/passes/_scalings.py",
        'torch.sqrt(variance + node.attributes["epsilon"])',
        "torch.sqrt(variance)",
        "tests/passes -k batch_normalization",
    ),
    # ── planes ──────────────────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "the chord of Relu with its offset's sign flipped",
        "ibpc/ops/relu.py",
        "-chord * below",
        "chord * below",
        table("Relu", "relaxation"),
    ),
    Mutation(
        "the chord of Relu with the slope l / (u − l)",
        "ibpc/ops/relu.py",
        "above / (above - below)",
        "below / (above - below)",
        table("Relu", "relaxation"),
    ),
    Mutation(
        "the upper plane of MaxPool at the greatest lower bound",
        "ibpc/ops/_reductions.py",
        "highest = upper.amax(-1)",
        "highest = lower.amax(-1)",
        table("MaxPool", "relaxation"),
    ),
    Mutation(
        "MaxPool padded with zeros",
        "ibpc/ops/max_pool.py",
        "value=-inf",
        "value=0.0",
        table("MaxPool", "(reference or onnx_runtime)"),
    ),
    Mutation(
        "the upper plane of an S-shape beneath the point where it touches",
        "ibpc/ops/_s_shaped.py",
        "above(self.function, slope, [lower, upper, touch])",
        "above(self.function, slope, [lower, upper])",
        table("Tanh", "relaxation"),
    ),
    Mutation(
        "a product's upper plane with its corner's sign flipped",
        "ibpc/ops/_planes.py",
        "Plane((y.upper, x.lower), -greatest)",
        "Plane((y.upper, x.lower), greatest)",
        table("Mul", "relaxation"),
    ),
    # ── linear bounds ───────────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "offsets of the planes swapped",
        "ibpc/bounds/backward.py",
        "constant = weighed(above, planes.lower.offset, is_finite)",
        "constant = weighed(above, planes.upper.offset, is_finite)",
        "tests/test_branch_and_bound.py -k tight",
    ),
    Mutation(
        "a form's least value over a box with the radius added",
        "ibpc/bounds/backward.py",
        "dotted(form, center) - dotted(form.abs(), spread)",
        "dotted(form, center) + dotted(form.abs(), spread)",
        "tests/test_branch_and_bound.py -k tight",
    ),
    Mutation(
        "rounding at the nodes not taken from a form",
        "ibpc/bounds/payments.py",
        "return size if error is None else size + error * WIDENED",
        "return size",
        "tests/test_rounding.py -k Cancellation",
    ),
    Mutation(
        "values beyond the range of binary32 trusted",
        "ibpc/bounds/values.py",
        "(error / UNIT <= LARGEST)",
        "(error >= 0.0)",
        "tests/test_rounding.py -k Values",
    ),
    Mutation(
        "E measured the wrong way round",
        "ibpc/bounds/values.py",
        "torch.maximum(real.lower - widened.lower, widened.upper - real.upper)",
        "torch.maximum(widened.lower - real.lower, real.upper - widened.upper)",
        "tests/test_rounding.py -k Values",
    ),
    Mutation(
        "values that may be no numbers trusted",
        "ibpc/verify/decide.py",
        "undefined = self._undefined() if counterexample is None and claims",
        "undefined = None if counterexample is None and claims",
        "tests/test_definedness.py",
    ),
    Mutation(
        "only NaN is taken for no number",
        "ibpc/bounds/definedness.py",
        "~ends.isfinite().all(1)",
        "ends.isnan().any(1)",
        "tests/test_definedness.py",
    ),
    Mutation(
        "images with values that may be no numbers certified",
        "ibpc/verify/batch_certifier.py",
        "doubtful = self._doubtful(box, margins)",
        "doubtful: list[int] = []",
        "tests/test_definedness.py",
    ),
    Mutation(
        "integers take their range for granted",
        "ibpc/frontends/onnx_types.py",
        "return element_type in _WHOLE - {TensorProto.BOOL} and",
        "return element_type not in _WHOLE and",
        "tests/test_definedness.py",
    ),
    Mutation(
        "a sign with another value for attacks",
        "ibpc/ops/sign.py",
        "return torch.sign(x) + (bend - bend.detach())",
        "return bend",
        "tests/ops/test_guiding.py",
    ),
    # ── search ──────────────────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "β with the wrong sign",
        "ibpc/bounds/ascent.py",
        "term = -multipliers[name]",
        "term = multipliers[name]",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "slopes of α-CROWN beyond 1",
        "ibpc/bounds/ascent.py",
        "choice.clamp_(0.0, 1.0)",
        "choice.clamp_(0.0, 3.0)",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "halves of a box that leave out a quarter",
        "ibpc/verify/search/parts.py",
        "lower.scatter(1, axis, middle)",
        "lower.scatter(1, axis, middle + 0.25 * (upper - lower).gather(1, axis))",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "only one sign of a cut neuron searched",
        "ibpc/verify/search/values.py",
        "zip((-1, 1), places, strict=True)",
        "zip((1,), places[1:], strict=True)",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "a part's box cut on the wrong side",
        "ibpc/verify/search/values.py",
        "(low if half.side > 0 else high)[number]",
        "(low if half.side else high)[number]",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "a part of a box forgotten when the next ones are taken",
        "ibpc/verify/search/parts.py",
        "self._lower, self._upper = self._lower[:-count], self._upper[:-count]",
        "self._lower, self._upper = self._lower[: -count - 1], self._upper[: -count - 1]",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "a part of signs forgotten when the next ones are taken",
        "ibpc/verify/search/values.py",
        "if id(part) not in gone]",
        "if id(part) not in gone][1:]",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "the margin of a search of boxes is the best one that waits",
        "ibpc/verify/search/parts.py",
        "float(self._margins.amin())",
        "float(self._margins.amax())",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "a disjunct judged by the bounds of another that is searched beside it",
        "ibpc/verify/search/values.py",
        "found.lower[:, at : at + len(batch.parts)]",
        "found.lower[:, : len(batch.parts)]",
        "tests/test_branch_and_bound.py -k side_by_side",
    ),
    Mutation(
        "parts that continue from what was found of another disjunct",
        "ibpc/verify/search/values.py",
        "batch.search.settle(batch, verdicts, cuts, found, at)",
        "batch.search.settle(batch, verdicts, {number: cuts.get(number + at) for number in range(99)}, found, 0)",
        "tests/test_branch_and_bound.py -k side_by_side",
    ),
    Mutation(
        "the margin of a search of signs is the best one that waits",
        "ibpc/verify/search/values.py",
        "self.margin = min((part.margin for part in self._stack), default=inf)",
        "self.margin = max((part.margin for part in self._stack), default=inf)",
        "tests/test_branch_and_bound.py",
    ),
    Mutation(
        "a property refuted when one of its searches is over",
        "ibpc/verify/search/branching.py",
        "return self._parts is not None and not self._parts.waiting\n",
        "return self._parts is not None and self.is_over\n",
        "tests/test_branch_and_bound.py",
    ),
    # ── what saves time in linear bounds ────────────────────────────────────────────────────────────────────────
    Mutation(
        "infinite factors multiplied as if they were finite",
        "ibpc/bounds/payments.py",
        "return self._may_synchronize and bool(factor.detach().sum().isfinite())",
        "return True",
        "tests/test_backward.py",
    ),
    Mutation(
        "half the difference of two planes with the other sign",
        "ibpc/bounds/backward.py",
        "0.5 * lower - 0.5 * upper",
        "0.5 * upper - 0.5 * lower",
        "tests/test_branch_and_bound.py -k tight",
    ),
    Mutation(
        "rounding not paid for where both planes are applied at once",
        "ibpc/bounds/backward.py",
        "offset.half if charge is None else offset.half - charge",
        "offset.half",
        "tests/test_backward.py -k both_planes",
    ),
    Mutation(
        "a window moved by a pixel",
        "ibpc/bounds/patches.py",
        "self.shift * stride + pad",
        "self.shift * stride + pad + 1",
        "tests/test_patches.py",
    ),
    Mutation(
        "coefficients kept where a window reaches beyond the image",
        "ibpc/bounds/patches.py",
        "if not bool(places.inside.all()):",
        "if not bool(places.inside.any()):",
        "tests/test_patches.py",
    ),
    Mutation(
        "windows of branches added without moving them",
        "ibpc/bounds/patches.py",
        "total[:, top : top + height, left : left + width] = self.coefficients",
        "total[:, :height, :width] = self.coefficients",
        "tests/test_patches.py",
    ),
    Mutation(
        "the sign of a subtracted branch forgotten in windows",
        "ibpc/ops/sub.py",
        "return (1.0, -1.0)",
        "return (1.0, 1.0)",
        "tests/test_patches.py",
    ),
    Mutation(
        "rounding not paid for in windows",
        "ibpc/bounds/payments.py",
        "return total if charge is None else total - form.dotted_moduli(charge)",
        "return total",
        "tests/test_patches.py",
    ),
    Mutation(
        "an operand that is spread over an image taken for an image",
        "ibpc/bounds/backward.py",
        "if not all(_image(x) == tuple(shape[1:]) for x in operands):",
        "if False:",
        "tests/test_patches.py",
    ),
    Mutation(
        "a multiplier takes the other end of a value",
        "ibpc/bounds/ascent.py",
        "torch.where(multiplier > 0, low, torch.where(multiplier < 0, high, middle))",
        "torch.where(multiplier > 0, high, torch.where(multiplier < 0, low, middle))",
        "tests/test_backward.py",
    ),
    Mutation(
        "a multiplier counts where no end is known",
        "ibpc/bounds/ascent.py",
        "torch.where(end.isinf() & (multiplier != 0), torch.full_like(term, -inf), term)",
        "term",
        "tests/test_backward.py",
    ),
    Mutation(
        "the rounding of multipliers not paid for",
        "ibpc/bounds/ascent.py",
        "(term - slack * term.abs() if slack else term)",
        "term",
        "tests/test_backward.py -k any_ends",
    ),
    Mutation(
        "upper bounds of a pass for both sides not turned around",
        "ibpc/bounds/refinement.py",
        "torch.fmin(upper[:, down], -found[:, ~rises])",
        "torch.fmin(upper[:, down], found[:, ~rises])",
        "tests/test_backward.py -k 'tightened or deadline'",
    ),
    Mutation(
        "the checker's sums with cuts not rounded down",
        "ibpc/verify/checking/checker.py",
        "- (len(terms) + 2) * float(double.eps) * size",
        "",
        "tests/test_proofs.py -k rounded_down",
    ),
    Mutation(
        "the checker forgets the side of a cut",
        "ibpc/verify/checking/checker.py",
        "products.append((multiplier * side, at))",
        "products.append((multiplier, at))",
        "tests/test_proofs.py",
    ),
    Mutation(
        "the rounding of the least value over a box not paid for",
        "ibpc/bounds/backward.py",
        "spread = radius + self.slack * (center.abs() + radius) if self.slack else radius",
        "spread = radius",
        "tests/test_patches.py",
    ),
    Mutation(
        "the rounding of upper planes not paid for where both are applied at once",
        "ibpc/bounds/backward.py",
        "half = half - self.slack * (plane_size(planes.lower, operands) + plane_size(planes.upper, operands))",
        "half = half - self.slack * plane_size(planes.lower, operands)",
        "tests/test_backward.py -k every_node",
    ),
    Mutation(
        "the rounding of upper planes taken off the wrong way",
        "ibpc/bounds/backward.py",
        "weighed(above, lower, is_finite) - weighed(below, upper, is_finite)",
        "weighed(above, lower, is_finite) + weighed(below, upper, is_finite)",
        "tests/test_backward.py -k every_node",
    ),
    Mutation(
        "the rounding of a node by its lower end alone",
        "ibpc/bounds/payments.py",
        "size = torch.maximum(box.lower.abs(), box.upper.abs()) * slack",
        "size = box.lower.abs() * slack",
        "tests/test_backward.py -k every_node",
    ),
    Mutation(
        "E not widened by what cancels in binary64",
        "ibpc/bounds/values.py",
        "WIDENED: Final = 1.0 + 2.0**-8",
        "WIDENED: Final = 1.0",
        "tests/test_backward.py -k every_node",
    ),
    Mutation(
        "slopes left out of the size of a plane",
        "ibpc/bounds/coefficients.py",
        "(slope * plane.views[slot](size)).sum(-1) if plane.views else slope * size",
        "0.0 * size",
        "tests/test_backward.py -k every_node",
    ),
    Mutation(
        "windows moved by the pads behind an image",
        "ibpc/ops/conv.py",
        'tuple(call[name][:2]) for name in ("strides", "pads", "dilations")',
        'tuple(call[name][-2:]) for name in ("strides", "pads", "dilations")',
        "tests/test_patches.py -k 'any_two or several'",
    ),
    Mutation(
        "columns of windows as far apart as rows",
        "ibpc/bounds/patches.py",
        "columns = _strided(j * kernel.dilations[1], kernel.strides[1], width)",
        "columns = _strided(j * kernel.dilations[0], kernel.strides[1], width)",
        "tests/test_patches.py -k 'any_two or several'",
    ),
    Mutation(
        "windows added that began at other pixels",
        "ibpc/bounds/patches.py",
        "if window is None or self.places.begins is not other.places.begins:",
        "if window is None:",
        "tests/test_patches.py -k 'any_two or several'",
    ),
    Mutation(
        "the bias left out of windows",
        "ibpc/bounds/payments.py",
        "total = zeros(form) if constant is None else form.dotted(constant)",
        "total = zeros(form)",
        "tests/test_patches.py",
    ),
    Mutation(
        "the constant that planes pay for ahead left out",
        "ibpc/bounds/backward.py",
        "mean = mean + slopes[slot].mean * constant - sizes.mean * cost",
        "mean = mean - sizes.mean * cost",
        "tests/test_backward.py -k every_node",
    ),
    Mutation(
        "rounding paid for ahead with the slope of the other plane",
        "ibpc/bounds/backward.py",
        "_Mixture.of(planes.lower.slopes[slot].abs(), -planes.upper.slopes[slot].abs())",
        "_Mixture.of(planes.upper.slopes[slot].abs(), -planes.lower.slopes[slot].abs())",
        "tests/test_backward.py -k every_node",
    ),
    Mutation(
        "a node that something reads linearly paid for ahead",
        "ibpc/bounds/payments.py",
        "return frozenset(straight - read_linearly)",
        "return frozenset(straight)",
        "tests/test_backward.py tests/test_branch_and_bound.py -k 'tight or both_planes or whoever'",
    ),
    Mutation(
        "forms that begin at a node that is paid for ahead not paid for",
        "ibpc/bounds/backward.py",
        "for name, form in forms.items():",
        "for name, form in ():",
        "tests/test_backward.py -k 'tightened or whoever'",
    ),
    Mutation(
        "each plane by itself does not pay ahead",
        "ibpc/bounds/backward.py",
        "                if operand in self._payments.ahead:\n",
        "                if False:\n",
        "tests/test_backward.py -k 'every_node or whoever'",
    ),
    Mutation(
        "an operand that is spread does not pay ahead",
        "ibpc/bounds/backward.py",
        "if operand in self._payments.ahead and not self._payments.is_folded(step.node.name, operand):",
        "if False:",
        "tests/test_backward.py -k whoever",
    ),
    Mutation(
        "the sign of a form that picks an element forgotten in its charge",
        "ibpc/bounds/payments.py",
        "total - form.signs.abs()[:, None] * form.seen(charge)",
        "total - form.signs[:, None] * form.seen(charge)",
        "tests/test_backward.py -k whoever",
    ),
    Mutation(
        "windows shown to the forms in another order",
        "ibpc/bounds/patches.py",
        "[part.contiguous().index_select(0, self.begins.which) for",
        "[part.contiguous().index_select(0, self.begins.which.flip(0)) for",
        "tests/test_patches.py",
    ),
    Mutation(
        "what rounding costs a form pushed forward dropped",
        "ibpc/bounds/pushed_forms.py",
        "slack = SLACK * (pushed[:, -1].abs().amax(0) + reach * offset.abs())",
        "slack = SLACK * (reach * offset.abs())",
        "tests/test_forward.py -k pays",
    ),
    Mutation(
        "the constants of inputs that do not vary left out of forward forms",
        "ibpc/bounds/pushed_forms.py",
        "form[-1] = torch.where(elements, 0.0, flat(box.lower))",
        "form[-1] = torch.where(elements, 0.0, 0.0 * flat(box.lower))",
        "tests/test_forward.py",
    ),
    Mutation(
        "the constant part of an affine operator dropped",
        "ibpc/bounds/payments.py",
        "total = zeros(form) if constant is None else dotted(form, constant)",
        "total = zeros(form)",
        "tests/test_branch_and_bound.py -k tight",
    ),
    Mutation(
        "the widening of a forward form taken off below and above",
        "ibpc/bounds/pushed_forms.py",
        "found[1, -1] += loss",
        "found[1, -1] -= loss",
        "tests/test_forward.py tests/test_soundness.py -k forward",
    ),
    Mutation(
        "forward forms swapped where a row is negative",
        "ibpc/bounds/pushed_forms.py",
        "forms.coefficients.flip(0) @ negative.T",
        "forms.coefficients @ negative.T",
        "tests/test_forward.py tests/test_soundness.py -k forward",
    ),
    Mutation(
        "what is cubic in a product of quadratic forms left out",
        "ibpc/bounds/quadratic.py",
        "higher + off + slack",
        "off + slack",
        "tests/test_quadratic.py -k below_its_form",
    ),
    Mutation(
        "a form that is curved down taken for convex",
        "ibpc/bounds/quadratic.py",
        "at_zero = self.constant - count * shift",
        "at_zero = self.constant",
        "tests/test_quadratic.py -k curved",
    ),
    Mutation(
        "half of a slab that holds counterexamples left out",
        "ibpc/verify/search/products.py",
        "lower[:, axis] + down",
        "lower[:, axis] + 0.5 * down",
        "tests/test_quadratic.py -k 'slab or reach'",
    ),
    # ── properties and verdicts ─────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "a class difference looked up with the other sign",
        "ibpc/margins.py",
        "table[second, first] = torch.arange(pairs) + pairs",
        "table[second, first] = torch.arange(pairs)",
        "tests/test_specification.py",
    ),
    Mutation(
        "a margin of 0 counts as proof",
        "ibpc/verify/batch_certifier.py",
        "(margins > 0) & margins.isfinite()",
        "(margins >= 0) & margins.isfinite()",
        "tests/test_robustness.py",
    ),
    Mutation(
        "a bound of 0 refutes y ≤ 0",
        "ibpc/verify/specification.py",
        "value > 0 or (strict and value == 0)",
        "value >= 0",
        "tests/test_specification.py",
    ),
    Mutation(
        "lower bounds of rows with a negative sign",
        "ibpc/verify/specification.py",
        "else -upper[column] for column",
        "else -lower[column] for column",
        "tests/test_decide.py",
    ),
    Mutation(
        "VNN-LIB: < read as >",
        "ibpc/verify/vnnlib/parser.py",
        '"<": _below,',
        '"<": lambda left, right: _below(right, left),',
        "tests/test_vnnlib.py",
    ),
    Mutation(
        "VNN-LIB: < read as ≤",
        "ibpc/verify/vnnlib/parser.py",
        "return Atom(left.plus(right, Fraction(-1)), strict=True)",
        "return Atom(left.plus(right, Fraction(-1)), strict=False)",
        "tests/test_vnnlib.py",
    ),
    Mutation(
        "lower and upper ends of a property's box swapped",
        "ibpc/verify/vnnlib/reading.py",
        "if factor > 0:",
        "if factor < 0:",
        "tests/test_vnnlib.py",
    ),
    Mutation(
        "a counterexample may lie beside the box",
        "ibpc/verify/properties.py",
        "lower = np.array([high for _, high in self._lows], np.float32)",
        "lower = np.array([low for low, _ in self._lows], np.float32)",
        "tests/test_specification.py",
    ),
    Mutation(
        "attacked points not clipped from above",
        "ibpc/interval.py",
        "return torch.clamp(x, self.lower, self.upper)",
        "return torch.maximum(x, self.lower)",
        "tests/test_robustness.py",
    ),
    Mutation(
        "falsified without a replay in ONNX Runtime",
        "ibpc/verify/falsification.py",
        "if not self._property.violated(point, outputs):",
        "if not outputs.numel():",
        "tests/test_decide.py",
    ),
    Mutation(
        "attacks that ascend",
        "ibpc/verify/attack.py",
        "box.nearest(x.detach() - size * box.width * move)",
        "box.nearest(x.detach() + size * box.width * move)",
        "tests/test_robustness.py",
    ),
    Mutation(
        "steps of an attack that are not projected",
        "ibpc/verify/attack.py",
        "box.nearest(x.detach() - size * box.width * move)",
        "x.detach() - size * box.width * move",
        "tests/test_robustness.py",
    ),
    Mutation(
        "an attack that may end worse than it began",
        "ibpc/verify/attack.py",
        "better = found.scores < least[left]",
        "better = found.scores > least[left]",
        "tests/test_robustness.py",
    ),
    Mutation(
        "a radius certified where the verdict is unknown",
        "ibpc/verify/radius.py",
        "if verdict is Verdict.VERIFIED:",
        "if verdict is not Verdict.FALSIFIED:",
        "tests/test_radius.py",
    ),
    # ── the checker of certificates ─────────────────────────────────────────────────────────────────────────────
    Mutation(
        "the checker forgets the network's rounding",
        "ibpc/verify/checking/arithmetic.py",
        "error = (gamma + own) * magnitude",
        "error = own * magnitude",
        "tests/test_checking.py -k order",
    ),
    Mutation(
        "the checker takes both parts of W to the lower ends",
        "ibpc/verify/checking/linear.py",
        "positive[0] + negative[1], positive[1] + negative[0]",
        "positive[0] + negative[0], positive[1] + negative[1]",
        "tests/test_checking.py -k 'hand or official or networks'",
    ),
    Mutation(
        "the checker confirms margins that are too large",
        "ibpc/verify/certificates/check_property.py",
        "Fraction(margin) <= best + slack",
        "Fraction(margin) >= best - slack",
        "tests/test_decide.py -k 'certificate or claim'",
    ),
    Mutation(
        "a proof with a region that has no leaf",
        "ibpc/verify/checking/proofs.py",
        "    if regions:\n        raise",
        "    if len(regions) > 1:\n        raise",
        "tests/test_proofs.py -k 'tampered or input_cuts'",
    ),
    Mutation(
        "a proof with negative weights and multipliers",
        "ibpc/verify/checking/proofs.py",
        "isfinite(value) and 0 <= value <= _LARGEST",
        "isfinite(value) and value <= _LARGEST",
        "tests/test_proofs.py -k tampered",
    ),
    Mutation(
        "a proof that cuts an input outside its region",
        "ibpc/verify/checking/proofs.py",
        "not region.lower[index] <= at <= region.upper[index]",
        "False",
        "tests/test_proofs.py -k 'tampered or input_cuts'",
    ),
    Mutation(
        "a proof whose cut covers one sign only",
        "ibpc/verify/checking/proofs.py",
        "for side in (1, -1)]",
        "for side in (1, 1)]",
        "tests/test_proofs.py -k 'search or tampered'",
    ),
    Mutation(
        "a replayed multiplier with the wrong sign",
        "ibpc/verify/checking/checker.py",
        "rows[name][0, element] -= multiplier * side",
        "rows[name][0, element] += multiplier * side",
        "tests/test_proofs.py -k multiplier",
    ),
    Mutation(
        "the checker narrows the first operand of a product alone",
        "ibpc/verify/checking/checker.py",
        "if is_bent and list(prepare(values, self._file.nodes[number])):",
        "if is_bent and any(prepare(values, self._file.nodes[number])):",
        "tests/test_proofs.py -k curves_and_products",
    ),
    Mutation(
        "a sharpened upper end with the sign of a lower one",
        "ibpc/verify/checking/backward.py",
        "np.minimum.at(upper, elements[signs < 0], -found[signs < 0])",
        "np.minimum.at(upper, elements[signs < 0], found[signs < 0])",
        "tests/test_proofs.py -k 'whatever_is_picked or sharpened'",
    ),
    Mutation(
        "a sharpened upper end taken for a lower one",
        "ibpc/verify/checking/backward.py",
        "np.maximum.at(lower, elements[signs > 0], found[signs > 0])",
        "np.maximum.at(lower, elements, found)",
        "tests/test_proofs.py -k 'whatever_is_picked or sharpened'",
    ),
    Mutation(
        "ends that were moved written down with the other sign",
        "ibpc/bounds/sharpening.py",
        "elements[is_moved], signs[is_moved], kept)",
        "elements[is_moved], -signs[is_moved], kept)",
        "tests/test_proofs.py -k 'sharpened'",
    ),
    Mutation(
        "choices that a proof says only nearly",
        "ibpc/bounds/ascent.py",
        "choices.double() * LEVELS).round() / LEVELS",
        "choices.double() * LEVELS) / LEVELS",
        "tests/test_proofs.py -k 'as_proofs_say_them'",
    ),
    Mutation(
        "the checker takes planes from the wrong side",
        "ibpc/verify/checking/backward.py",
        "above * term.below + below * term.above",
        "above * term.above + below * term.below",
        "tests/test_proofs.py -k 'samples or tightened'",
    ),
    Mutation(
        "the checker forgets the offsets of upper planes",
        "ibpc/verify/checking/backward.py",
        "total.add(below, planes.upper, planes.upper)",
        "total.add(below, planes.lower, planes.lower)",
        "tests/test_proofs.py -k 'samples or tightened'",
    ),
    Mutation(
        "the rounding of constants in coefficients pushed forward dropped",
        "ibpc/bounds/pushed_forms.py",
        "slack = SLACK * (pushed[:, -1].abs().amax(0) + reach * offset.abs())",
        "slack = SLACK * pushed[:, -1].abs().amax(0)",
        "tests/test_forward.py -k 'pays or paid'",
    ),
    Mutation(
        "the checker trusts rows whose coefficients overflowed",
        "ibpc/verify/checking/backward.py",
        "self._is_lost |= ~np.isfinite(rows.sum(1))",
        "pass",
        "tests/test_checking.py -k 'coefficient'",
    ),
    Mutation(
        "the checker blends the upper planes of a product with those below",
        "ibpc/verify/checking/planes/products.py",
        "most = _between(low_x * high_y, high_x * low_y, above)",
        "most = _between(low_x * high_y, high_x * high_y, above)",
        "tests/test_proofs.py -k hold_samples",
    ),
    Mutation(
        "the tangent of a square with the offset of its plane's middle",
        "ibpc/ops/mul.py",
        "Plane((touch, touch), -(touch * touch))",
        "Plane((touch, touch), -(x.lower * x.upper))",
        "tests/ops/test_tuned_planes.py",
    ),
    Mutation(
        "the checker's tuned plane above an S below the point where it touches",
        "ibpc/verify/checking/planes/s_shaped.py",
        "most = np.maximum.reduce([function(p) - above * p for p in (lower, upper, touch)])",
        "most = np.maximum.reduce([function(p) - above * p for p in (lower, upper)])",
        "tests/test_proofs.py -k tuned",
    ),
    Mutation(
        "the checker reads the choices of an S the wrong way round",
        "ibpc/verify/checking/planes/s_shaped.py",
        "lines = zip((-lower, upper), anchors, (choices[:, 0], choices[:, 1]), strict=True)",
        "lines = zip((-lower, upper), anchors, (choices[:, 1], choices[:, 0]), strict=True)",
        "tests/test_proofs.py -k 'curves or cuts_at'",
    ),
    Mutation(
        "a box taken for another one that was tightened alike",
        "ibpc/verify/checking/proofs.py",
        "key = hashlib.sha256(region.lower.tobytes() + region.upper.tobytes() + said).digest()",
        "key = hashlib.sha256(said).digest()",
        "tests/test_proofs.py -k begin",
    ),
    Mutation(
        "the checker takes a single term for exact, whatever its factor",
        "ibpc/verify/checking/backward.py",
        "terms.max(1, initial=0.0) == 1.0",
        "terms.max(1, initial=0.0) >= 0.0",
        "tests/test_checking.py -k totals",
    ),
    Mutation(
        "the checker's sums take lower ends for negative coefficients",
        "ibpc/verify/checking/backward.py",
        "return _dotted(above, lower) + _dotted(below, upper),",
        "return _dotted(above, lower) + _dotted(below, lower),",
        "tests/test_checking.py -k totals",
    ),
    Mutation(
        "the checker forgets the rounding of pulled rows",
        "ibpc/verify/checking/backward.py",
        "np.where(rows != 0, np.abs(rows) * error, 0.0)",
        "np.where(rows != 0, 0.0 * error, 0.0)",
        "tests/test_checking.py tests/test_proofs.py -k 'order or samples or tightened'",
    ),
    Mutation(
        "a wave whose planes are judged at the ends of the box alone",
        "ibpc/verify/checking/planes/waves.py",
        "points = [x.lower, x.upper, *_as_steep(x, below, quarter), *_as_steep(x, above, quarter)]",
        "points = [x.lower, x.upper]",
        "tests/test_proofs.py -k linear_bounds_hold",
    ),
    Mutation(
        "a quotient that takes the chord where the tangent lies below",
        "ibpc/verify/checking/planes/products.py",
        "is_tangent_below = (low_x >= 0) == (low_y > 0)",
        "is_tangent_below = low_x >= 0",
        "tests/test_proofs.py -k 'linear_bounds_hold or quotient'",
    ),
    Mutation(
        "the checker keeps a known box that the region does not have",
        "ibpc/verify/checking/regions.py",
        "max(end.flat[element], at) if side > 0 else min(end.flat[element], at)",
        "min(end.flat[element], at) if side > 0 else max(end.flat[element], at)",
        "tests/test_proofs.py -k 'multipliers or search or nothing'",
    ),
    Mutation(
        "the checker runs at window positions what binary32 rounds otherwise",
        "ibpc/verify/checking/positions.py",
        'if maker.op_type == "GatherElements" or not (maker.op_type in _MOVING or is_whole_type):',
        'if maker.op_type == "GatherElements":',
        "tests/test_onnx_windows.py",
    ),
    # ── training and its engine ─────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "the worst-case logits with the sign of the best case",
        "ibpc/training/objectives.py",
        "return F.cross_entropy(-margins, labels)",
        "return F.cross_entropy(margins, labels)",
        "tests/training/test_objectives.py",
    ),
    Mutation(
        "a training step looks at what is finite",
        "ibpc/training/linear.py",
        "    may_synchronize = False",
        "    may_synchronize = True",
        "tests/training/test_methods.py -k waits",
    ),
    Mutation(
        "gradients left where the next replay writes",
        "ibpc/training/trainer.py",
        "parameter.grad = parameter.grad.clone()",
        "parameter.grad = parameter.grad",
        "tests/training/test_engine.py -k micro_batches_of",
    ),
    Mutation(
        "another method without what makes it one",
        "ibpc/training/recipe.py",
        "if own[key] == item} | dict(new)",
        "if own[key] == item}",
        "tests/training/test_recipe.py tests/training/test_sweep.py -k method",
    ),
    Mutation(
        "margins of examples that are not verified taken at their word",
        "ibpc/verify/certificates/check_data.py",
        "margin is not None and (margin != 0 or",
        "margin is None and (margin != 0 or",
        "tests/test_check_data.py",
    ),
    Mutation(
        "the classes of a data certificate taken from itself",
        "ibpc/verify/certificates/check_data.py",
        "classes = len(self._replay([self._images[0]])) if examples else 0",
        'classes = len(examples[0]["margin_lower"]) if examples else 0',
        "tests/test_check_data.py",
    ),
    Mutation(
        "a third operand of a sum left out by the checker",
        "ibpc/verify/checking/onnx_file.py",
        "if not schema.min_input <= len(node.input) <= schema.max_input:",
        "if not schema.min_input <= len(node.input):",
        "tests/test_checking.py -k refused",
    ),
    Mutation(
        "a value that may be no number bounded all the same",
        "ibpc/bounds/enclosure.py",
        "upper = found.upper.masked_fill(unknown | found.upper.isnan(), inf)",
        "upper = found.upper",
        "tests/test_enclosure.py",
    ),
    Mutation(
        "bounds that leave rounding out where it was to be paid for",
        "ibpc/bounds/enclosure.py",
        "bounder(walk_of(graph, device), matrix.float(), arithmetic, deadline)",
        "bounder(walk_of(graph, device), matrix.float(), Arithmetic.REAL, deadline)",
        "tests/test_enclosure.py",
    ),
    Mutation(
        "constants that executions round as they please taken for numbers",
        "ibpc/bounds/definedness.py",
        "if self._arithmetic is Arithmetic.FLOAT32 and INEXACT in",
        "if self._arithmetic is None and INEXACT in",
        "tests/test_determined.py",
    ),
    Mutation(
        "what such a constant goes into taken for a number",
        "ibpc/frontends/onnx_fold.py",
        "if self.inexact(node.input) or not is_determined:",
        "if not is_determined:",
        "tests/test_determined.py",
    ),
    Mutation(
        "an older magnitude of a bias kept when another is fused",
        "ibpc/passes/_scalings.py",
        'if "bias_magnitude" in parameters or bool(',
        "if bool(",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "a Resize that keeps the size taken for an interpolation",
        "ibpc/ops/resize.py",
        "if x is not node.operand(0) and all(",
        "if x is None and all(",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "the checker taking a Resize that keeps the size for an interpolation",
        "ibpc/verify/checking/resize.py",
        "if kept and all(plan.before == plan.after for plan in found):",
        "if not found:",
        "tests/test_checking_faults.py",
    ),
    Mutation(
        "an end of Clip at the largest number left out on the wrong side",
        "ibpc/ops/clip.py",
        "None if low is None or low <= -LARGEST else low",
        "None if low is None or abs(low) >= LARGEST else low",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "pools with gaps padded as one runtime does",
        "ibpc/ops/_windows.py",
        "(max(dilations) > 1 or _has_gaps(spatial, kernel, strides))",
        "max(dilations) > 1",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "every node of integers taken for determined",
        "ibpc/frontends/onnx_determined.py",
        "if are_whole and node.op_type in _ON_INTEGERS:",
        "if are_whole:",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "sums of integers beyond their type taken for determined",
        "ibpc/frontends/onnx_determined.py",
        "return node.op_type not in _TOTALS or _most_of(node.op_type, operands) < _LAST_OF_INT32",
        "return True",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "the checker taking sums of integers beyond their type for constants",
        "ibpc/verify/checking/exact.py",
        "return op_type not in _ADDING or _may_total(op_type, operands) <= _LAST_TOTAL",
        "return True",
        "tests/test_checking_faults.py",
    ),
    Mutation(
        "constants that ONNX Runtime computes differently taken for numbers",
        "ibpc/frontends/onnx_fold.py",
        "if not all(ours.shape == theirs.shape and agree(ours, theirs) for ours, theirs in pairs):",
        "if not pairs:",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "what the reference evaluator moves believed without a witness",
        "ibpc/verify/checking/rules.py",
        "        confirm(self.node, self.version, arrays, results)\n",
        "",
        "tests/test_checking_faults.py",
    ),
    Mutation(
        "constants that the reference evaluator computes believed without a witness",
        "ibpc/verify/checking/checker.py",
        "        confirm(node, step.version, arrays, results)\n",
        "",
        "tests/test_checking_faults.py",
    ),
    Mutation(
        "products of constants that a fused sum does not round taken for numbers",
        "ibpc/frontends/onnx_fold.py",
        "if not self._summed.isdisjoint(node.output) and is_rounded_product(node, operands, results):",
        "if False:",
        "tests/test_determined.py",
    ),
    Mutation(
        "products that a sum reads behind a move taken for numbers",
        "ibpc/frontends/onnx_determined.py",
        '_PASSED_ON: Final = _COPIES | {"Neg"}',
        '_PASSED_ON: Final = frozenset({"Neg"})',
        "tests/test_determined.py",
    ),
    Mutation(
        "the checker takes products that a fused sum does not round for numbers",
        "ibpc/verify/checking/checker.py",
        "if not self._summed.isdisjoint(node.output) and is_rounded_product(node.op_type, known, results):",
        "if False:",
        "tests/test_determined.py",
    ),
    Mutation(
        "quotients by a zero of either sign taken for numbers",
        "ibpc/frontends/onnx_determined.py",
        'if node.op_type == "Div" and not all(np.isfinite(array).all() for array in arrays):',
        "if False:",
        "tests/test_determined.py",
    ),
    Mutation(
        "constants of a last bit that ONNX Runtime has not taken for numbers",
        "ibpc/frontends/onnx_fold.py",
        "return are_equal and is_determined(node, operands, results)",
        "return is_determined(node, operands, results)",
        "tests/test_determined.py",
    ),
    Mutation(
        "imports compared near zero alone",
        "ibpc/frontends/validate.py",
        "batches = [*near, far] if far else near",
        "batches = near",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "verified regions never compared with ONNX Runtime",
        "ibpc/verify/decide.py",
        "self._subject.expect_agreement(self._points())",
        "pass",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "choices that torch.export sees and a trace does not warn of",
        "ibpc/frontends/torch.py",
        "if not is_doubtful and _DATA_DEPENDENT not in type(error.__cause__).__name__:",
        "if not is_doubtful:",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "small coefficients left out by the solver unpaid",
        "ibpc/bounds/highs.py",
        "return middle, np.where(integer, 1.0, _power_of_two(0.5 * upper - 0.5 * lower))",
        "return 0.0 * middle, np.ones_like(middle)",
        "tests/test_import_faults.py",
    ),
    Mutation(
        "forms of the inputs with the constant of their ends",
        "ibpc/bounds/affine.py",
        "offset = offset - (dotted(slope, center) - dotted(slope.abs(), radius))",
        "offset = offset + dotted(slope.abs(), radius)",
        "tests/test_affine_bounds.py",
    ),
    Mutation(
        "forms above the outputs not turned round",
        "ibpc/bounds/affine.py",
        "return AffineForms(tuple(-slope for slope in forms.slopes), -forms.offset)",
        "return AffineForms(forms.slopes, -forms.offset)",
        "tests/test_affine_bounds.py",
    ),
    Mutation(
        "forms given where a value may be no number",
        "ibpc/bounds/affine.py",
        ".masked_fill(~known[:, None], -torch.inf)",
        "",
        "tests/test_affine_bounds.py",
    ),
    Mutation(
        "training boxes beyond the pixels of networks that state no range",
        "ibpc/training/graphs.py",
        "Interval.ball(x, eps, self.network.pixel_range)",
        "Interval.ball(x, eps, self.network.input_range)",
        "tests/training/test_runner.py -k clips",
    ),
    Mutation(
        "a penalty on the weights that the loss leaves out",
        "ibpc/training/trainer.py",
        "replace(terms, loss=terms.loss + penalty, parts=",
        "replace(terms, parts=",
        "tests/training/test_runner.py -k l1",
    ),
    Mutation(
        "normalizations that are used twice untied",
        "ibpc/frontends/onnx_build.py",
        "for value in itself or similar]",
        "for value in similar]",
        "tests/test_module_import.py -k twice",
    ),
    Mutation(
        "the size of what executions may cut differently taken for a number",
        "ibpc/frontends/onnx_fold.py",
        "self._inexact.update(outputs if is_shaped else ())",
        "self._inexact.update(())",
        "tests/test_determined.py",
    ),
    Mutation(
        "the end of a window that executions may round differently taken for a number",
        "ibpc/frontends/onnx.py",
        "self._doubtful = self._doubtful or self._inexact_number(named)",
        "self._doubtful = self._doubtful or None",
        "tests/test_determined.py",
    ),
    Mutation(
        "bounds that are no numbers kept where others meet them",
        "ibpc/bounds/batching.py",
        "low = torch.where(first.lower.isnan(), -torch.inf, first.lower.double())",
        "low = first.lower.double()",
        "tests/test_enclosure.py",
    ),
    Mutation(
        "images certified without a look at what ONNX Runtime computes",
        "ibpc/verify/data_certifier.py",
        "        subject.expect_agreement([images[:_COMPARED].to(torch.float32)])\n",
        "",
        "tests/test_import_faults.py -k images",
    ),
    Mutation(
        "coefficients that the solver leaves out unpaid in the ends of rows",
        "ibpc/bounds/highs.py",
        "return rows, lower / unit - lost, upper / unit + lost",
        "return rows, lower / unit, upper / unit",
        "tests/test_import_faults.py -k coefficients",
    ),
    Mutation(
        "counts of padding and of classes taken for numbers",
        "ibpc/frontends/onnx_fold.py",
        '"NonZero", "OneHot", "Pad", "Range", "Reshape"',
        '"NonZero", "Range", "Reshape"',
        "tests/test_determined.py -k count",
    ),
    Mutation(
        "counts of copies, slices and different ones taken for numbers",
        "ibpc/frontends/onnx_fold.py",
        '"Resize", "Slice", "Split", "Squeeze", "Tile", "TopK", "Unique", "Unsqueeze", "Upsample"',
        '"Resize", "Split", "Squeeze", "TopK", "Unsqueeze", "Upsample"',
        "tests/test_determined.py -k count",
    ),
    Mutation(
        "the checker taking products of integers beyond their type for constants",
        "ibpc/verify/checking/exact.py",
        'frozenset({"CumSum", "MatMul", "ReduceProd", "ReduceSum", "Sum"})',
        'frozenset({"CumSum", "ReduceProd", "ReduceSum", "Sum"})',
        "tests/test_checking_faults.py -k integers",
    ),
    Mutation(
        "the checker taking running sums beyond their type for constants",
        "ibpc/verify/checking/exact.py",
        'frozenset({"CumSum", "MatMul", "ReduceProd", "ReduceSum", "Sum"})',
        'frozenset({"MatMul", "ReduceProd", "ReduceSum", "Sum"})',
        "tests/test_checking_faults.py -k integers",
    ),
    Mutation(
        "the checker's cubic sums that overflow on their way",
        "ibpc/verify/checking/resize.py",
        "step.machine.sum_error(terms, moduli, largest(x), 4.0 * largest(x))",
        "step.machine.sum_error(terms, moduli, largest(x))",
        "tests/test_checking_faults.py -k cubic",
    ),
    Mutation(
        "a constant that every sample has moving with its operand",
        "ibpc/ops/spread.py",
        "return forms.new_zeros(len(forms), *call.operands[0][1:])",
        "return forms.new_ones(len(forms), *call.operands[0][1:])",
        "tests/ops/test_table.py -k Spread",
    ),
    Mutation(
        "a doubtful constant that a rule needs forgotten",
        "ibpc/frontends/onnx.py",
        "self._doubtful = self._doubtful or self._inexact_number(node.input)",
        "self._doubtful = self._inexact_number(node.input)",
        "tests/test_determined.py",
    ),
    Mutation(
        "constants bounded that are computed in half precision",
        "ibpc/frontends/onnx.py",
        "if self._inexact_number(node.output) is None or self._inexact_number(node.input) is not None:",
        "if self._inexact_number(node.output) is None:",
        "tests/test_determined.py",
    ),
    Mutation(
        "a constant that is read by its number in the end counted as bounded",
        "ibpc/frontends/onnx_values.py",
        "            del self.entries[name]",
        "            self.entries[name].forms.clear()",
        "tests/test_determined.py",
    ),
    Mutation(
        "double constants that float32 does not hold taken for numbers",
        "ibpc/frontends/onnx_fold.py",
        "if name in self._inexact or _is_rounded(self.values, name)",
        "if name in self._inexact",
        "tests/test_determined.py",
    ),
    Mutation(
        "a difference of BatchNormalization that overflows",
        "ibpc/ops/batch_normalization.py",
        "return defined(far * _broadcast(call, factor) < _GREATEST, box)",
        "return box",
        "tests/test_determined.py",
    ),
    Mutation(
        "quotients of half precision taken for those of binary32",
        "ibpc/ops/_quantization.py",
        "<= {0, FLOAT}:",
        "<= set(range(99)):",
        "tests/test_determined.py",
    ),
    Mutation(
        "points rounded before they are replayed",
        "ibpc/verify/replay.py",
        "if not set(self._types) <= {np.dtype(np.float32), np.dtype(np.float64)}:",
        "if not self._types:",
        "tests/test_determined.py",
    ),
    Mutation(
        "outputs of a counterexample never compared",
        "ibpc/verify/certificates/check_property.py",
        "alike = claimed.shape == outputs.shape and",
        "alike = claimed.shape != outputs.shape or",
        "tests/test_decide.py -k 'certificate or claim'",
    ),
    Mutation(
        "a choice that values make frozen by a trace",
        "ibpc/frontends/torch.py",
        "        _expect_no_choices(module, inputs, where, is_doubtful)\n",
        "",
        "tests/test_module_import.py -k cannot",
    ),
    Mutation(
        "an arithmetic given by its name not heeded",
        "ibpc/api.py",
        "return Encloser(network, rows, method, _arithmetic(arithmetic), deadline)(*boxes)",
        "return Encloser(network, rows, method, arithmetic, deadline)(*boxes)",
        "tests/test_enclosure.py -k arithmetic",
    ),
    Mutation(
        "rows of each sample bounded for another",
        "ibpc/bounds/enclosure.py",
        "return distinct, places.reshape(rows.shape[:2])",
        "return distinct, places.reshape(rows.shape[:2]).flip(0)",
        "tests/test_enclosure.py -k rows",
    ),
    Mutation(
        "the checker's Celu exact above zero",
        "ibpc/verify/checking/monotone.py",
        "np.where(x.lower >= 0, same.lower, wide.lower)",
        "np.where(x.lower >= 0, x.lower, wide.lower)",
        "tests/test_checking_faults.py -k celu",
    ),
    Mutation(
        "the checker evaluates curves of constants",
        "ibpc/verify/checking/exact.py",
        "if op_type not in _ROUNDED or not all",
        "if not all",
        "tests/test_checking_faults.py",
    ),
    Mutation(
        "the checker reads files with two versions of one domain",
        "ibpc/verify/checking/onnx_file.py",
        "if len(set(versions)) > 1:",
        "if len(set(versions)) > 2:",
        "tests/test_checking_faults.py",
    ),
    Mutation(
        "a difference of BatchNormalization without its mean",
        "ibpc/ops/batch_normalization.py",
        "far = torch.maximum(x.lower.abs(), x.upper.abs()) + _broadcast(call, running_mean.abs())",
        "far = torch.maximum(x.lower.abs(), x.upper.abs())",
        "tests/test_determined.py",
    ),
    Mutation(
        "a difference of BatchNormalization at one end of the box",
        "ibpc/ops/batch_normalization.py",
        "far = torch.maximum(x.lower.abs(), x.upper.abs()) +",
        "far = x.upper +",
        "tests/test_determined.py",
    ),
    Mutation(
        "BatchNormalization's weight forgotten where it may overflow",
        "ibpc/ops/batch_normalization.py",
        "factor = (1.0 + weight.abs()) *",
        "factor =",
        "tests/test_determined.py",
    ),
    Mutation(
        "BatchNormalization's deviation forgotten where it may overflow",
        "ibpc/ops/batch_normalization.py",
        ' * (1.0 + torch.rsqrt(running_var + call["epsilon"]))\n    far',
        "\n    far",
        "tests/test_determined.py",
    ),
    Mutation(
        "numbers that are flushed to zero taken for determined",
        "ibpc/frontends/onnx_determined.py",
        "bool(((size == 0) | (size >= SMALLEST)).all())",
        "True",
        "tests/test_determined.py",
    ),
    Mutation(
        "half precision taken for determined",
        "ibpc/frontends/onnx_determined.py",
        "return array.dtype.itemsize >= 4 and",
        "return",
        "tests/test_determined.py",
    ),
    Mutation(
        "differences of great integers taken for one rounding",
        "ibpc/frontends/onnx_determined.py",
        "return most <= _LAST_WHOLE and",
        "return",
        "tests/test_determined.py",
    ),
    Mutation(
        "what is added while it is scattered taken for a move",
        "ibpc/frontends/onnx_determined.py",
        'if any(each.name == "reduction"',
        'if any(each.name == "nothing"',
        "tests/test_determined.py",
    ),
    Mutation(
        "conversions beyond the range of integers taken for determined",
        "ibpc/frontends/onnx_determined.py",
        "return _is_plain(results[0]) and _is_kept(operands[0], results[0])",
        "return _is_plain(results[0])",
        "tests/test_determined.py",
    ),
    Mutation(
        "bounds in binary32 exported of a doubtful network",
        "ibpc/exports/bounds.py",
        "if arithmetic is Arithmetic.FLOAT32 and INEXACT in graph.hints:",
        "if arithmetic is None:",
        "tests/test_determined.py",
    ),
    Mutation(
        "a counterexample that is beyond its ball by less than a rounding",
        "ibpc/verify/certificates/check_data.py",
        "return edge and bool(",
        "return bool(",
        "tests/test_check_data.py",
    ),
    Mutation(
        "margins compared after rounding",
        "ibpc/verify/certificates/check_property.py",
        "best = max((excess.least for excess",
        "best = max((Fraction(float(excess.least)) for excess",
        "tests/test_decide.py -k exactly",
    ),
    Mutation(
        "margins of proofs compared after rounding",
        "ibpc/verify/certificates/check_property.py",
        "count, margin = count + 1, min(margin, bound)",
        "count, margin = count + 1, min(margin, Fraction(float(bound)))",
        "tests/test_decide.py -k exactly",
    ),
    Mutation(
        "a ball outside its range moved into it",
        "ibpc/bounds/enclosure.py",
        "    if outside:\n",
        "    if outside < 0:\n",
        "tests/test_enclosure.py",
    ),
    Mutation(
        "a ball rounded to the nearest numbers",
        "ibpc/bounds/enclosure.py",
        "return Interval.bounds(*rounding.outer_ball(x, eps, clip))",
        "return Interval.ball(x, eps, clip)",
        "tests/test_enclosure.py",
    ),
    Mutation(
        "the bound of a row added without its weight",
        "ibpc/verify/rows.py",
        "sum((weight * row.bound for weight, row in rows), Fraction())",
        "sum((row.bound for weight, row in rows), Fraction())",
        "tests/test_rows.py",
    ),
    Mutation(
        "a sum of rows that forgets its inputs",
        "ibpc/verify/rows.py",
        "_added([(weight, row.inputs) for weight, row in rows]),",
        "(),",
        "tests/test_rows.py",
    ),
    Mutation(
        "a sum of rows that is always strict",
        "ibpc/verify/rows.py",
        "any(row.strict for _, row in rows),",
        "True,",
        "tests/test_rows.py",
    ),
    Mutation(
        "a verified example whose bounds do not show it",
        "ibpc/verify/certificates/check_data.py",
        " and not is_open\n",
        "\n",
        "tests/test_check_data.py",
    ),
    Mutation(
        "a margin in float32 granted what real arithmetic is",
        "ibpc/verify/certificates/check_data.py",
        "UNACCOUNTED if arithmetic == Arithmetic.REAL.value else 0.0",
        "UNACCOUNTED",
        "tests/test_check_data.py",
    ),
    Mutation(
        "a counterexample of a data set taken at its word",
        "ibpc/verify/certificates/check_data.py",
        "if not bool((outputs[label] <= others).any()):",
        "if False:",
        "tests/test_check_data.py",
    ),
    Mutation(
        "a model of two inputs given one image",
        "ibpc/verify/certificates/check_data.py",
        "        if count != 1:\n",
        "        if count < 1:\n",
        "tests/test_check_data.py",
    ),
    Mutation(
        "boxes that float32 rounds inward",
        "ibpc/bounds/enclosure.py",
        "elif any(not torch.equal(end.float().to(end.dtype), end) for end in (box.lower, box.upper)):",
        "elif False:",
        "tests/test_enclosure.py",
    ),
    Mutation(
        "results of products stay in bfloat16",
        "ibpc/training/engine.py",
        'widened = graph.call_method("float", (product,))',
        'widened = graph.call_method("clone", (product,))',
        "tests/training/test_engine.py",
    ),
    Mutation(
        "points of an attack move the running statistics",
        "ibpc/training/momentum.py",
        "KEPT: Final = 1.0",
        "KEPT: Final = 0.9",
        "tests/training/test_graphs.py tests/training/test_methods.py -k 'statistics or batch'",
    ),
    Mutation(
        "an attack that keeps its worst points",
        "ibpc/training/attack.py",
        "better = scores > self._scores",
        "better = scores < self._scores",
        "tests/training/test_attack.py",
    ),
    Mutation(
        "planes of what overflows or wraps around counted as those of a number",
        "ibpc/verify/checking/planes/base.py",
        "error = np.where(_stays_in_range(step, box).ravel(), error, np.inf)",
        "error = np.abs(error)",
        "tests/test_proofs.py -k leave_its_type",
    ),
    Mutation(
        "the width of a box overflows where tangents are looked for",
        "ibpc/ops/_s_shaped.py",
        "(0.5 * point - 0.5 * lower)",
        "(0.5 * (point - lower))",
        "tests/ops/test_tuned_planes.py -k wider",
    ),
    Mutation(
        "second planes of products only nearly",
        "ibpc/ops/_planes.py",
        "torch.lerp(y.lower, y.upper, below)",
        "(y.lower + below * (y.upper - y.lower))",
        "tests/ops/test_tuned_planes.py -k shares_of_one",
    ),
    Mutation(
        "tangents begin on the wrong side of the middle",
        "ibpc/ops/_s_shaped.py",
        "_nearest(-middle, -x.lower, anchors[:3])",
        "_nearest(middle, -x.lower, anchors[:3])",
        "tests/ops/test_tuned_planes.py -k least_area",
    ),
    Mutation(
        "the checker's tangents begin on the wrong side of the middle",
        "ibpc/verify/checking/planes/s_shaped.py",
        "_nearest(middle, upper, anchors[1])",
        "_nearest(-middle, upper, anchors[1])",
        "tests/test_proofs.py -k grid",
    ),
    Mutation(
        "steps that gained nothing are kept",
        "ibpc/bounds/adam.py",
        "parameter.copy_(self.best[name]).addcdiv_",
        "parameter.addcdiv_",
        "tests/test_adam.py",
    ),
    Mutation(
        "one pace for all that climb",
        "ibpc/bounds/adam.py",
        "_spread(self._rate / (1.0 - _FIRST**number) * pace, parameter)",
        "_spread(self._rate / (1.0 - _FIRST**number) * torch.ones_like(pace), parameter)",
        "tests/test_adam.py",
    ),
    Mutation(
        "the rounding of slopes times operands not paid for",
        "ibpc/verify/checking/planes/base.py",
        "np.where(sound, (1.0 + steepest) * part.magnitude * part.copies, 0.0)",
        "0.0",
        "tests/test_proofs.py -k own_rounding",
    ),
    Mutation(
        "who wants to stop counted among what strangers raise",
        "ibpc/errors.py",
        "except Exception as error:",
        "except BaseException as error:",
        "tests/test_errors.py",
    ),
    Mutation(
        "what an optimizer keeps in another layout",
        "ibpc/training/checkpoint.py",
        "return torch.empty_like(parameter, dtype=entry.dtype).copy_(entry)",
        "return entry.to(parameter.device)",
        "tests/training/test_engine.py -k layout",
    ),
    Mutation(
        "bounds of a data set computed with any products",
        "ibpc/verify/batch_certifier.py",
        "with plain_products(), torch.no_grad():",
        "with torch.no_grad():",
        "tests/test_robustness.py",
    ),
    # ── formulas and curves ─────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "Gelu recognized whatever its numbers are",
        "ibpc/passes/recognize_activations.py",
        "<= _ROUNDED for",
        "<= 1 for",
        "tests/passes/test_recognize_activations.py",
    ),
    Mutation(
        "formulas read through numbers that make a step underflow",
        "ibpc/passes/_formulas.py",
        "return found if in_range else None",
        "return found",
        "tests/passes/test_recognize_activations.py",
    ),
    Mutation(
        "Gelu of rounded numbers bounded as the exact one",
        "ibpc/ops/gelu.py",
        "Interval.bounds(exact.lower - missed, exact.upper + missed)",
        "Interval.bounds(exact.lower, exact.upper)",
        "tests/passes/test_recognize_activations.py",
    ),
    Mutation(
        "the checker recognizes Gelu whatever its numbers are",
        "ibpc/verify/checking/activations.py",
        "<= _ROUNDED for",
        "<= 1 for",
        "tests/test_checking_activations.py",
    ),
    Mutation(
        "the checker reads formulas of scalars",
        "ibpc/verify/checking/activations.py",
        "return self.element_type in _FLOATS and bool(self.rank)",
        "return self.element_type in _FLOATS",
        "tests/test_checking_activations.py",
    ),
    Mutation(
        "the checker reads a formula of integers",
        "ibpc/verify/checking/activations.py",
        "return self.element_type in _FLOATS and bool(self.rank)",
        "return bool(self.rank)",
        "tests/test_checking_activations.py",
    ),
    Mutation(
        "the checker rounds a sharpness",
        "ibpc/verify/checking/activations.py",
        "if Fraction(alpha) == coefficients[1, 0]:",
        "if alpha:",
        "tests/test_checking_activations.py",
    ),
    Mutation(
        "the checker forgets that a gate may overflow",
        "ibpc/verify/checking/gates.py",
        "(_FAR if step.machine.unit else np.inf)",
        "np.inf",
        "tests/test_checking_activations.py",
    ),
    Mutation(
        "the checker forgets its own rounding of a share",
        "ibpc/verify/checking/gates.py",
        "+ missed + _OWN_GATE_ERROR",
        "+ missed",
        "tests/test_checking_activations.py",
    ),
    Mutation(
        "what the search for a tangent misses is not paid for",
        "ibpc/ops/_bends.py",
        "torch.where(crosses, gap.abs() * width, torch.zeros_like(gap))",
        "torch.zeros_like(gap)",
        "tests/ops/test_tuned_planes.py",
    ),
    Mutation(
        "upper lines of a curve looked for at ends alone",
        "ibpc/ops/_bends.py",
        "_FROM_ABOVE: Final = (Bend.CONCAVE, Bend.EITHER)",
        "_FROM_ABOVE: Final = (Bend.EITHER,)",
        "tests/ops/test_tuned_planes.py",
    ),
    Mutation(
        "a mirrored Swish that bends as the other",
        "ibpc/ops/swish.py",
        'BELL if call["alpha"] > 0 else (Bend.CONVEX, Bend.CONCAVE, Bend.CONVEX)',
        "BELL",
        "tests/ops/test_tuned_planes.py",
    ),
    Mutation(
        "the checker looks for tangents on the wrong side",
        "ibpc/verify/checking/planes/pieces.py",
        "before = piece.derivative(middle) < slope",
        "before = piece.derivative(middle) > slope",
        "tests/test_proofs.py -k curves_hold_on_a_grid",
    ),
    Mutation(
        "the checker's choices among slopes turned round",
        "ibpc/verify/checking/planes/pieces.py",
        "np.maximum(1.0 - 2.0 * choice, 0.0), np.maximum(2.0 * choice - 1.0, 0.0)",
        "np.maximum(2.0 * choice - 1.0, 0.0), np.maximum(1.0 - 2.0 * choice, 0.0)",
        "tests/test_checking_activations.py -k confirmed",
    ),
    Mutation(
        "a learning rate of 0 in the first step",
        "ibpc/training/schedules.py",
        "min(1.0, (step + 1) / length)",
        "min(1.0, step / length)",
        "tests/training/test_schedules.py",
    ),
    Mutation(
        "what binary64 cancels in a share not paid for",
        "ibpc/ops/_curves.py",
        "OWN_GATE_ERROR: Final = 2.0**-50",
        "OWN_GATE_ERROR: Final = 0.0",
        "tests/ops/test_tuned_planes.py -k cancels",
    ),
    Mutation(
        "a derivative that is no number counted as one that does not cross",
        "ibpc/ops/_bends.py",
        "torch.where(is_lost, torch.full_like(missed, inf), missed)",
        "missed",
        "tests/ops/test_tuned_planes.py -k no_number",
    ),
    Mutation(
        "tangents of slopes that underflowed",
        "ibpc/ops/_bends.py",
        "_LEAST_SLOPE: Final = 2.0**-900",
        "_LEAST_SLOPE: Final = 0.0",
        "tests/ops/test_tuned_planes.py -k no_number",
    ),
    Mutation(
        "formulas of any number of roundings",
        "ibpc/passes/recognize_activations.py",
        "_MOST_ROUNDINGS: Final = 3",
        "_MOST_ROUNDINGS: Final = 30",
        "tests/passes/test_recognize_activations.py",
    ),
    Mutation(
        "arguments of any number of roundings",
        "ibpc/passes/recognize_activations.py",
        "_MOST_IN_ARGUMENT: Final = 30",
        "_MOST_IN_ARGUMENT: Final = 300",
        "tests/passes/test_recognize_activations.py",
    ),
    Mutation(
        "the checker reads formulas of any number of roundings",
        "ibpc/verify/checking/activations.py",
        "_MOST_ROUNDINGS: Final = 3",
        "_MOST_ROUNDINGS: Final = 30",
        "tests/test_checking_activations.py",
    ),
    Mutation(
        "the checker takes every Selu for convex below 0",
        "ibpc/verify/checking/planes/pieces.py",
        "below = Piece(0.0, left >= 0,",
        "below = Piece(0.0, True,",
        "tests/test_proofs.py -k curves_hold",
    ),
    Mutation(
        "the checker's tuned Gelu forgets its rounded numbers",
        "ibpc/verify/checking/planes/pieces.py",
        "return slopes, (lower - missed, upper + missed)",
        "return slopes, (lower, upper)",
        "tests/test_checking_activations.py -k rounded",
    ),
)


def main() -> int:
    """Run the drill, print and write the table; status 1 unless every planted bug was caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD", help="only bugs whose description or file has the word")
    parser.add_argument("--log", type=Path, help="JSON lines of what is done")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only in f"{mutation.bug} {mutation.file}"]
    done = logged(options.log)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        copied_to(copy)
        for outcome in drilled(copy, [mutation for mutation in chosen if mutation.bug not in done]):
            done[outcome.mutation.bug] = outcome
            if options.log:
                with options.log.open("a") as file:
                    file.write(json.dumps([outcome.mutation.bug, outcome.caught_by, outcome.seconds]) + "\n")
            print(line(outcome), flush=True)
    outcomes = [done[mutation.bug] for mutation in chosen]
    caught = sum(bool(outcome.caught_by) for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} caught")
    if options.output:
        options.output.write_text(page(outcomes), encoding="utf-8")
    return 0 if caught == len(outcomes) else 1


def logged(path: Path | None) -> dict[str, Outcome]:
    """Return the outcomes in a log by bug, those of bugs that are still planted."""
    if path is None or not path.exists():
        return {}
    known = {mutation.bug: mutation for mutation in MUTATIONS}
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    return {bug: Outcome(known[bug], caught, seconds) for bug, caught, seconds in lines if bug in known}


def copied_to(copy: Path) -> None:
    """Copy what the tests need, without caches."""
    for name in COPIED:
        source, target = ROOT / name, copy / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy2(source, target)


def mutated(mutation: Mutation, text: str) -> str:
    """Return a file's text with the bug in it. Raises ValueError unless the text to replace is there exactly once."""
    count = text.count(mutation.old)
    if count != 1:
        raise ValueError(f"{mutation.file}: {mutation.old!r} is there {count} times; the mutation has to follow it")
    return text.replace(mutation.old, mutation.new)


def drilled(copy: Path, mutations: Sequence[Mutation]) -> Iterator[Outcome]:
    """Yield the outcome of each mutation, applied alone. Raises ValueError where tests fail without a bug."""
    healthy: set[str] = set()
    for mutation in mutations:
        path = copy / mutation.file
        text = path.read_text(encoding="utf-8")
        changed = mutated(mutation, text)
        if mutation.tests not in healthy:
            failed = first_failure(copy, mutation.tests)
            if failed:
                raise ValueError(f"{failed} fails without a planted bug")
            healthy.add(mutation.tests)
        started = time.monotonic()
        path.write_text(changed, encoding="utf-8")
        try:
            failed = first_failure(copy, mutation.tests)
        finally:
            path.write_text(text, encoding="utf-8")
        yield Outcome(mutation, failed, time.monotonic() - started)


def first_failure(copy: Path, tests: str) -> str:
    """Return the first test that fails, "" if all pass. Raises ValueError where none are run."""
    arguments = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            arguments, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return "the tests do not end"
    if done.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if failed is None:
        raise ValueError(f"pytest {tests} ended with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")
    return failed[1]


def line(outcome: Outcome) -> str:
    """Return the row of the table."""
    mutation = outcome.mutation
    caught = f"`{short(outcome.caught_by)}`" if outcome.caught_by else "**missed**"
    return f"| {mutation.bug} | `{mutation.file.removeprefix('ibpc/')}` | {caught} | {outcome.seconds:.0f} |"


def short(test: str) -> str:
    """Return a test's name, cut where its parameters are long."""
    name = test.removeprefix("tests/").replace("|", "¦")
    return name if len(name) <= 110 else f"{name[:109]}…"


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the table as a page of Markdown."""
    caught = sum(bool(outcome.caught_by) for outcome in outcomes)
    head = (
        "# Planted bugs\n\n"
        "`python benchmarks/mutation.py`: one bug at a time in a copy of the project, and the first "
        "test that fails.\n\n"
        f"**{caught} of {len(outcomes)} caught.**\n\n"
        "| planted bug | file | caught by | seconds |\n|---|---|---|---:|\n"
    )
    return head + "\n".join(map(line, outcomes)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
