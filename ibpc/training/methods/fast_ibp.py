"""IBP with a short warm-up, held together by regularizers of its boxes (Shi et al. 2021, arXiv 2103.17268).

The objective is that of IBP; what makes it fast is the regularization of tightness and balance while ε climbs
(`ibpc.training.bounding`), weights that start such that boxes neither grow nor shrink (the initialization "ibp"), and
BatchNormalization by the clean batch.
"""

from __future__ import annotations

from ibpc.training.methods import ibp
from ibpc.training.methods.base import WARM_UP, Method, register

METHOD = register(
    Method("fast-ibp", "IBP with regularizers of tightness and balance during the warm-up", ibp.build, WARM_UP)
)
