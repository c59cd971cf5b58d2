"""Bounding methods: one file each, which ends in its record."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from ibpc.bounds.alpha_crown import ALPHA_CROWN
from ibpc.bounds.base import Bounder, BoundingMethod, Proof
from ibpc.bounds.crown import CROWN, CROWN_IBP
from ibpc.bounds.forward import FORWARD
from ibpc.bounds.ibp import IBP
from ibpc.bounds.mip import MIP
from ibpc.errors import UsageError, nearest

METHODS: Final[Mapping[str, BoundingMethod]] = MappingProxyType(
    {method.name: method for method in (IBP, FORWARD, CROWN_IBP, CROWN, ALPHA_CROWN, MIP)}
)
QUICK: Final = IBP.name
# The names of auto_LiRPA that are no misspellings of these.
_ELSEWHERE: Final = MappingProxyType(
    {
        "backward": CROWN.name,
        "ibp+backward": CROWN_IBP.name,
        "crown-optimized": ALPHA_CROWN.name,
    }
)


def meant(name: object, known: Iterable[str]) -> str:
    """Return the remedy text for an unknown method: the one that it may mean, by its name elsewhere or its spelling."""
    choices = tuple(known)
    elsewhere = _ELSEWHERE.get(name.lower(), "") if isinstance(name, str) else ""
    return nearest(elsewhere if elsewhere in choices else name, choices)


def method_named(name: str) -> BoundingMethod:
    """Return a bounding method. Raises UsageError for an unknown name."""
    if name not in METHODS:
        raise UsageError.at("method", f"found {name!r}", "a bounding method", meant(name, METHODS))
    return METHODS[name]


def methods_proved_by(*proofs: Proof) -> tuple[str, ...]:
    """Return the names of the methods whose bounds the checker confirms in one of these ways."""
    return tuple(name for name, method in METHODS.items() if method.proof in proofs)


__all__ = ["METHODS", "QUICK", "Bounder", "BoundingMethod", "Proof", "meant", "method_named", "methods_proved_by"]
