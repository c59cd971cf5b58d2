"""How numbers and classes are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_CLASSES: Final[Mapping[str, str]] = {
    "cifar10": "airplane car bird cat deer dog frog horse ship truck",
    "fashion-mnist": "T-shirt trouser pullover dress coat sandal shirt sneaker bag boot",
}


def format_eps(eps: float) -> str:
    """Return a radius as people write it: as n/255 if n is whole and the decimal is not short, else as a decimal."""
    steps, short = round(eps * 255), f"{eps:.3g}"
    is_whole = 0 < steps < 255 and abs(steps / 255 - eps) < 1e-12
    return f"{steps}/255" if is_whole and float(short) != eps else f"{eps:g}"


def class_names(data: str, classes: int) -> tuple[str, ...]:
    """Return the names of a data set's classes, or their numbers if they have no names."""
    names = tuple(_CLASSES.get(data, "").split())
    return names if len(names) == classes else tuple(map(str, range(classes)))


def format_seconds(seconds: float) -> str:
    """Return a duration in the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_short(eps: float) -> str:
    """Return a radius with three digits if those are exact, else in 255ths."""
    short = f"{eps:.3g}"
    return short if abs(float(short) - eps) < 1e-12 else f"{eps * 255:.3g}/255"
