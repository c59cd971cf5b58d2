"""IBP with a short warm-up, held together by regularizers of its boxes (Shi et al. 2021, arXiv 2103.17268).

The objective is that of IBP; what makes it fast is the regularization of tightness and balance while ε climbs
(`ibpc.training.bounding`), weights that start such that boxes neither grow nor shrink (the initialization "ibp"), and
BatchNormalization by the clean batch.
"""

from __future__ import annotations

from typing import Final

from ibpc.ir import Graph
from ibpc.training.graphs import unnormalized_values
from ibpc.training.methods import ibp
from ibpc.training.methods.base import WARM_UP, Method, register

_SUMMARY: Final = "IBP with regularizers of tightness and balance during the warm-up"
_MOST_LISTED: Final = 5


def advice(graph: Graph) -> tuple[str, ...]:
    """Say where no BatchNormalization stands in front of a rectifier (Shi et al. 2021)."""
    bare = unnormalized_values(graph)
    if not bare:
        return ()
    named = ", ".join(bare[:_MOST_LISTED]) + (", …" if len(bare) > _MOST_LISTED else "")
    return (f"Shi et al. have a BatchNormalization in front of every rectifier; here there is none behind {named}",)


METHOD = register(Method("fast-ibp", _SUMMARY, ibp.build, WARM_UP, advice))
