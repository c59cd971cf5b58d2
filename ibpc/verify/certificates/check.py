"""Checking every claim of a certificate again, independently of the code that made it.

Only the ONNX file is trusted; for an artifact, or a network with normalization in front, its nominal export. Bounds are
checked by `ibpc.verify.checking`: intervals and planes in binary64 on the ONNX file, without the compiler's operators
and passes; a proof is checked in each leaf of its tree. Counterexamples are checked by ONNX Runtime and exact
arithmetic. `check_property` and `check_data` yield the claims of the two kinds of certificates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from ibpc.artifact import is_artifact
from ibpc.data import load_dataset
from ibpc.exports import nominal_model
from ibpc.network import Network
from ibpc.opening import normalized, open_network
from ibpc.progress import ignore
from ibpc.verify.certificates.certificate import Claim, ModelFile, fingerprint
from ibpc.verify.certificates.check_data import DataCheck
from ibpc.verify.certificates.check_property import check_property
from ibpc.verify.certificates.schema import read_certificate
from ibpc.verify.replay import runnable_model


def check(
    path: str | Path, data_root: str | Path | None = None, progress: Callable[[int], object] = ignore
) -> tuple[Claim, ...]:
    """Check every claim of a certificate again, by other means than made it; see `ibpc.verify.certificates.check`.

    A data set is looked for in the data root, then beside the certificate. `progress` gets the number of examples that
    were begun. Raises PropertyError or SpecError for a file that is no certificate, DataError where its data set is
    missing.
    """
    data = read_certificate(Path(path))
    about = ModelFile.from_json(data)
    same = _check_model(about)
    if not same.holds:
        return (same,)
    model = judged_model(about)
    if data["kind"] == "property":
        return (same, *check_property(data, model, str(path)))
    network = _as_certified(about)
    dataset = load_dataset(data["data"], data_root, beside=Path(path).parent)
    return (same, *DataCheck(data, model, dataset, network.input_shape, network.pixel_range).claims(progress))


def judged_model(about: ModelFile) -> onnx.ModelProto:
    """Return the ONNX model that claims are checked on: the file itself, or the nominal export of its network."""
    if about.mean is None and about.std is None and about.path.endswith((".onnx", ".onnx.gz")):
        return runnable_model(Path(about.path))
    return nominal_model(_as_certified(about).snapshot())


def _as_certified(about: ModelFile) -> Network:
    """Return the network of a model file with the normalization put before it."""
    return normalized(open_network(about.path), about.mean, about.std)


def _check_model(about: ModelFile) -> Claim:
    """Return whether the model file is the one that the certificate is about."""
    path = Path(about.path)
    if not (path.is_file() or is_artifact(path)):
        return Claim("model", False, f"{path}: there is no such file or artifact")
    found = fingerprint(path)
    return Claim("model", found == about.sha256, f"SHA-256 {found[:16]}…, the certificate says {about.sha256[:16]}…")
