"""IBP with a short warm-up, made possible by regularizing the boxes (Shi et al. 2021, arXiv 2103.17268).

The objective is that of IBP. It trains fast because tightness and balance are regularized while ε climbs
(`ibpc.training.bounding`), because initial weights let boxes neither grow nor shrink (the initialization "ibp"), and
because BatchNormalization uses the clean batch.
"""

from __future__ import annotations

from typing import Final

from ibpc.ir import Graph
from ibpc.training.graphs import unnormalized_values
from ibpc.training.methods import ibp
from ibpc.training.methods.base import WARM_UP, TrainingMethod, register

_SUMMARY: Final = "IBP with regularizers of tightness and balance during the warm-up"
_MOST_LISTED: Final = 5


def advice(graph: Graph) -> tuple[str, ...]:
    """List the rectifiers without a BatchNormalization in front of them (Shi et al. 2021 always have one)."""
    bare = unnormalized_values(graph)
    if not bare:
        return ()
    named = ", ".join(bare[:_MOST_LISTED]) + (", …" if len(bare) > _MOST_LISTED else "")
    return (f"Shi et al. have a BatchNormalization in front of every rectifier; here there is none behind {named}",)


METHOD = register(TrainingMethod("fast-ibp", _SUMMARY, ibp.build, WARM_UP, advice=advice))
