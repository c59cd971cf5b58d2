"""Checking a certificate again, trusting nothing but the model file: every claim on its own, by other means.

Bounds are checked by `ibpc.verify.checking`, intervals and planes in binary64 on the ONNX file with none of the
compiler's operators or passes; those of a proof in each leaf of its tree. Counterexamples are checked by ONNX Runtime
and exact arithmetic. `check_property` and `check_data` have the claims of either kind of certificate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ibpc.artifact import is_artifact
from ibpc.verify.certificate import Claim, ModelFile, fingerprint

# How far a claim in real arithmetic, whose rounding nobody accounts for, may lie above the checker's bound, relative to
# the ends of the range.
UNACCOUNTED: Final = 1e-4


def check_model(model: ModelFile) -> Claim:
    """Return whether the model file is the one that the certificate is about."""
    path = Path(model.path)
    if not (path.is_file() or is_artifact(path)):
        return Claim("model", False, f"{path}: there is no such file or artifact")
    found = fingerprint(path)
    return Claim("model", found == model.sha256, f"SHA-256 {found[:16]}…, the certificate says {model.sha256[:16]}…")


def magnitudes(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what rounding that nobody accounts for is relative to: the greater end of each range, at least 1."""
    ends = np.maximum(np.abs(lower), np.abs(upper))
    return np.maximum(np.where(np.isfinite(ends), ends, 1.0), 1.0)
