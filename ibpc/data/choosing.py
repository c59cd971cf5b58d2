"""Which images of a data set are meant: a range, a list or a random sample of their indices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Final

import torch

from ibpc.errors import UsageError

_NUMBER: Final = r"[0-9]{1,18}"
_RANGE: Final = re.compile(rf"({_NUMBER})?:({_NUMBER})?", re.ASCII)
_LIST: Final = re.compile(rf"{_NUMBER}(,{_NUMBER})*", re.ASCII)
_SAMPLE: Final = re.compile(rf"random:({_NUMBER})", re.ASCII)
_SHOWN: Final = 10
_FORMS: Final = "0:100 (a range), 3,7,9 (a list) or random:100 (a sample by the seed)"


def chosen_images(choice: str | Sequence[int], total: int, seed: int = 0) -> Sequence[int]:
    """Return the indices, increasing, of the images that are chosen of `total`.

    `choice` is "A:B", from A up to but without B, both of which may be left out; "A,B,C"; "random:N", N of them drawn
    with `seed` without replacement; or a sequence of indices. A range ends with the data. Raises UsageError for any
    other choice, an empty one, and indices that are repeated or not in the data.
    """
    indices = _named(choice, total, seed) if isinstance(choice, str) else _whole(choice)
    if not indices:
        raise UsageError.at("images", f"{choice!r} is none of {total:,} images", "at least one")
    if isinstance(indices, range):
        return indices
    found, last = sorted(indices), total - 1
    if not 0 <= found[0] <= found[-1] <= last:
        odd = found[0] if found[0] < 0 else found[-1]
        raise UsageError.at("images", f"index {odd}", f"0 to {last}, those of the data")
    repeated = next((index for index, after in pairwise(found) if index == after), None)
    if repeated is not None:
        raise UsageError.at("images", f"index {repeated} more than once", "every image once")
    return found


def is_first(indices: Sequence[int]) -> bool:
    """Return whether the indices are the first of a data set, in order."""
    return list(indices) == list(range(len(indices)))


def listed(indices: Sequence[int]) -> str:
    """Return increasing indices as text: a range as its ends, of many the first and the last."""
    first, last = indices[0], indices[-1]
    if len(indices) > 2 and last - first == len(indices) - 1:
        return f"{first} to {last}"
    shown = indices if len(indices) <= _SHOWN else [*indices[: _SHOWN - 1], "…", last]
    return ", ".join(map(str, shown))


def _named(choice: str, total: int, seed: int) -> Sequence[int]:
    if found := _RANGE.fullmatch(choice):
        return range(total)[int(found[1] or 0) : int(found[2] or total)]
    if _LIST.fullmatch(choice):
        return [int(part) for part in choice.split(",")]
    if found := _SAMPLE.fullmatch(choice):
        if int(found[1]) > total:
            raise UsageError.at("images", f"{choice}, of {total:,} images", f"at most {total:,}")
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        return [int(index) for index in order[: int(found[1])].tolist()]
    raise UsageError.at("images", f"found {choice!r}", _FORMS)


def _whole(choice: Sequence[int]) -> Sequence[int]:
    if not isinstance(choice, Iterable):
        raise UsageError.at("images", f"found {choice!r}", f"indices, or {_FORMS}")
    odd = next((index for index in choice if not isinstance(index, Integral) or isinstance(index, bool)), None)
    if odd is not None:
        raise UsageError.at("images", f"{odd!r} is no integer", f"indices, or {_FORMS}")
    return [int(index) for index in choice]
