"""Replaying a proof that a set of outputs cannot be reached: a tree of regions, and a linear bound in each leaf.

A proof is a list of steps, a tree in preorder. At first one region is open, the whole box; a step takes the region that
was opened last and

    ["tighten", choices]                    bounds the boxes in front of nonlinear functions by planes, and keeps them
    ["sharpen", [[value, elements, signs, choices] …]]
                                            bounds single ends of such boxes, each with its own planes, and keeps them
    ["input", index, at]                    cuts input x at a number: opens x ≤ at and, after that, x ≥ at
    ["sign", value, element]                cuts a value of the file at 0: opens v ≤ 0 and, after that, v ≥ 0
    ["value", value, element, at]           cuts it at another number: opens v ≤ at and, after that, v ≥ at
    ["leaf", weights, choices, multipliers] closes it: the rows, added up with weights ≥ 0, cannot all hold there

Whatever the numbers are, the regions cover the box, since in every execution a value is on one side of each cut. At a
leaf they only decide how good the bound is, and they are refused where they would make it wrong. `choices` pick among
the planes of a value; those of a "tighten" also hold in the leaves below that make no choice of their own.
`multipliers` β ≥ 0 belong to the cuts of values that led to the region, in order.

With the slopes of a rectifier's lower planes fixed, smaller boxes never make a bound looser; so the checker, whose
boxes are at least as small, gets at least as far as the search did. This would not hold if each chose its own slopes.
For curves the two have different planes, mostly about as tight: a leaf that was only just closed may be open here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any, Final, NoReturn

import numpy as np

from ibpc.errors import PropertyError
from ibpc.verify.checking.backward import Picked
from ibpc.verify.checking.checker import Checker
from ibpc.verify.checking.regions import EmptyError, Region
from ibpc.verify.checking.values import Array

# Choices are whole numbers of this, two bytes each.
LEVELS: Final = 2**16 - 1
_MOST_BYTES: Final = 2**26
_LARGEST: Final = 1e30
_LARGEST_INDEX: Final = 2**62
_MOST_KEPT: Final = 4


@dataclass(frozen=True, eq=False)
class Leaf:
    """A region and its evidence: weights of the rows, choices of planes, multipliers of cuts."""

    region: Region
    weights: tuple[float, ...]
    choices: Mapping[str, Array]
    multipliers: tuple[float, ...]


class Memory:
    """Caches the first steps of proofs: proofs of several disjuncts mostly tighten the same box in the same way."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Region] = {}

    def narrowed(self, steps: Sequence[Any], arithmetic: str, region: Region, narrow: Callable[[], Region]) -> Region:
        """Return a whole box, narrowed by the last of the steps; the others led to `region`."""
        said = json.dumps([arithmetic, *steps], sort_keys=True).encode()
        key = hashlib.sha256(region.lower.tobytes() + region.upper.tobytes() + said).digest()
        if key not in self._kept:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = _narrowed(region, narrow)
        return self._kept[key]


def leaves(
    steps: Sequence[Any], checker: Checker, lower: Array, upper: Array, arithmetic: str, memory: Memory
) -> Iterator[Leaf]:
    """Yield the leaves of a proof over a box, flat ends (n,), in order. They cover it if no error is raised.

    A memory belongs to one checker. Raises PropertyError for malformed steps, missing leaves, and steps after the last
    leaf.
    """

    def prepared(number: int, region: Region, narrow: Callable[[], Region]) -> Region:
        is_whole = not region.cuts and region.lower is lower and region.upper is upper
        if not is_whole:
            return _narrowed(region, narrow)
        return memory.narrowed(steps[: number + 1], arithmetic, region, narrow)

    regions = [Region(lower, upper)]
    for number, step in enumerate(steps):
        if not regions:
            _refuse(number, "it comes after the last leaf")
        region = regions.pop()
        match step:
            case ["tighten", dict(choices)]:
                chosen = replace(region, choices=_decoded(number, choices))
                regions.append(prepared(number, region, partial(checker.tightened, chosen, arithmetic)))
            case ["sharpen", list(parts)]:
                picked = _picked(number, parts, checker)
                regions.append(prepared(number, region, partial(checker.sharpened, region, arithmetic, picked)))
            case ["input", index, at] if _is_index(index) and _is_number(at):
                regions += _cut_input(number, region, index, float(at))
            case ["sign", str(value), element] if _is_index(element) and checker.computes(value):
                regions += _cut_value(number, region, value, element, 0.0)
            case ["value", str(value), element, at] if (
                _is_index(element) and _is_number(at) and checker.computes(value)
            ):
                regions += _cut_value(number, region, value, element, float(at))
            case ["leaf", list(weights), dict(choices), list(multipliers)]:
                yield _leaf(number, region, weights, choices, multipliers)
            case _:
                _refuse(number, "an unknown or malformed step")
    if regions:
        raise PropertyError.at("proof", f"{len(regions)} regions without a leaf", "leaves that cover the box")


def _narrowed(region: Region, narrow: Callable[[], Region]) -> Region:
    if region.is_empty:
        return region
    try:
        return narrow()
    except EmptyError:
        return replace(region, is_empty=True)


def _picked(number: int, parts: Sequence[Any], checker: Checker) -> dict[str, Picked]:
    """Return the picked ends of each value in a step."""
    found: dict[str, Picked] = {}
    left = _MOST_BYTES
    for part in parts:
        match part:
            case [str(value), list(elements), list(signs), dict(choices)] if value not in found and checker.computes(
                value
            ):
                if len(elements) != len(signs) or not all(map(_is_index, elements)) or not all(map(_is_sign, signs)):
                    _refuse(number, f"its ends of {value}", "elements, and a sign of 1 or −1 for each")
                if len(set(zip(elements, signs, strict=True))) != len(elements):
                    _refuse(number, f"its ends of {value}", "each of them once")
                ends = np.asarray(elements, np.int64), np.asarray(signs, np.int64)
                found[value] = Picked(*ends, _decoded(number, choices, left))
                left -= sum(2 * choice.size for choice in found[value].choices.values())
            case _:
                _refuse(number, "its ends", "a value of the file, elements, signs and choices, each value once")
    return found


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_INDEX


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that binary64 can hold; True is none."""
    return type(value) is float or (type(value) is int and abs(value) <= _LARGEST)


def _is_sign(value: Any) -> bool:
    return type(value) is int and value in (1, -1)


def _cut_input(number: int, region: Region, index: int, at: float) -> list[Region]:
    if not 0 <= index < len(region.lower) or not region.lower[index] <= at <= region.upper[index]:
        _refuse(number, f"a cut of input {index} at {at}, which is not in the region")
    below, above = region.upper.copy(), region.lower.copy()
    below[index] = above[index] = at
    return [replace(region, lower=above), replace(region, upper=below)]


def _cut_value(number: int, region: Region, value: str, element: int, at: float) -> list[Region]:
    if not abs(at) <= _LARGEST:
        _refuse(number, f"a cut at {at}", f"a number of at most {_LARGEST:g}")
    return [replace(region, cuts=(*region.cuts, (value, element, at, side))) for side in (1, -1)]


def _leaf(
    number: int, region: Region, weights: Sequence[Any], choices: Mapping[str, Any], multipliers: Sequence[Any]
) -> Leaf:
    for name, numbers in (("weights", weights), ("multipliers", multipliers)):
        if not all(_is_factor(value) for value in numbers):
            _refuse(number, f"its {name}", "finite numbers of at least 0")
    if multipliers and len(multipliers) != len(region.cuts):
        _refuse(number, f"{len(multipliers)} multipliers", f"{len(region.cuts)}, one for each cut of a value")
    return Leaf(region, tuple(map(float, weights)), _decoded(number, choices), tuple(map(float, multipliers)))


def _is_factor(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value) and 0 <= value <= _LARGEST


def encoded(choices: Array) -> str:
    """Return choices, numbers in [0, 1], as text: 16-bit integers, compressed, in base64."""
    whole = np.rint(np.clip(choices, 0.0, 1.0) * LEVELS).astype("<u2")
    return base64.b64encode(zlib.compress(whole.tobytes(), 6)).decode()


def _decoded(number: int, choices: Mapping[str, Any], left: int = _MOST_BYTES) -> dict[str, Array]:
    """Return choices that together unpack to fewer than `left` bytes, the rest of a step's limit."""
    found: dict[str, Array] = {}
    for name, text in choices.items():
        try:
            unpacked = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), left)
            found[name] = np.frombuffer(unpacked, "<u2").astype(np.float64) / LEVELS
        except (TypeError, ValueError, binascii.Error, zlib.error):
            _refuse(number, "its choices", "compressed numbers of 16 bits in base 64")
        left -= len(unpacked)
        if left <= 0:
            _refuse(number, f"choices of {_MOST_BYTES} bytes or more", "less")
    return found


def _refuse(number: int, found: str, expected: str = "a step of a proof") -> NoReturn:
    raise PropertyError.at(f"proof, step {number + 1}", found, expected)
