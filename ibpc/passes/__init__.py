"""The passes, one file each, and the pipelines made of them.

`COMPILE` is safe before training: it turns constants into parameters where training expects them and changes no value.
`EVALUATION` is for certification and export: it freezes normalizations and fuses them and constants into linear
operators; bounds of its result hold for every execution of the original network.
"""

from typing import Final

from ibpc.passes.absorb_constants import AbsorbConstants
from ibpc.passes.base import Log, Pass, PassResult, Pipeline
from ibpc.passes.drop_identities import DropIdentities
from ibpc.passes.eliminate_dead_code import EliminateDeadCode
from ibpc.passes.fold_batch_normalization import FoldBatchNormalization
from ibpc.passes.fold_constants import FoldConstants
from ibpc.passes.fuse_affine import FuseAffine
from ibpc.passes.infer_shapes import InferShapes
from ibpc.passes.join_outputs import JoinOutputs
from ibpc.passes.merge_specification import MergeSpecification, merge_specification
from ibpc.passes.recognize_activations import RecognizeActivations
from ibpc.passes.recognize_groups import RecognizeGroups

COMPILE: Final = Pipeline(
    (InferShapes(), FoldConstants(), RecognizeActivations(), RecognizeGroups(), AbsorbConstants(), EliminateDeadCode())
)

EVALUATION: Final = Pipeline(
    (
        InferShapes(),
        EliminateDeadCode(),
        DropIdentities(also=("Dropout",)),
        FoldConstants(),
        RecognizeActivations(),
        RecognizeGroups(),
        AbsorbConstants(),
        FuseAffine(),
        FoldBatchNormalization(),
        FuseAffine(),
        EliminateDeadCode(),
    )
)

__all__ = [
    "COMPILE",
    "EVALUATION",
    "AbsorbConstants",
    "DropIdentities",
    "EliminateDeadCode",
    "FoldBatchNormalization",
    "FoldConstants",
    "FuseAffine",
    "InferShapes",
    "JoinOutputs",
    "Log",
    "MergeSpecification",
    "Pass",
    "PassResult",
    "Pipeline",
    "RecognizeActivations",
    "RecognizeGroups",
    "merge_specification",
]
