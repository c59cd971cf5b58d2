"""Bounding methods, one file each, all of the signature `Method`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ibpc.bounds.alpha_crown import alpha_crown
from ibpc.bounds.base import Bounder, Method
from ibpc.bounds.crown import crown, crown_ibp
from ibpc.bounds.forward import forward
from ibpc.bounds.ibp import ibp
from ibpc.bounds.mip import mip
from ibpc.errors import UsageError, nearest

METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {"ibp": ibp, "forward": forward, "crown-ibp": crown_ibp, "crown": crown, "alpha-crown": alpha_crown, "mip": mip}
)
AUTO: Final = "auto"
QUICK: Final = "ibp"


def method_named(name: str) -> Method:
    """Return a bounding method. Raises UsageError for an unknown name."""
    if name not in METHODS:
        raise UsageError.at("method", f"found {name!r}", "a bounding method", nearest(name, METHODS))
    return METHODS[name]


__all__ = ["AUTO", "METHODS", "QUICK", "Bounder", "Method", "method_named"]
