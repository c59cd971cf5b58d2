"""Names that no node may have: as a module's child it would hide what torch or Python means by them."""

from __future__ import annotations

import keyword
from functools import cache

from torch import fx, nn


@cache
def reserved_names() -> frozenset[str]:
    """Return the attributes of a GraphModule, and Python's keywords."""
    return frozenset({*dir(fx.GraphModule(nn.Module(), fx.Graph())), *keyword.kwlist, *keyword.softkwlist})
