"""Replaying points through the network's own ONNX file in ONNX Runtime, which is independent of this package.

A counterexample counts only if ONNX Runtime confirms it on the user's own file; a network that came from a spec or a
module is replayed through its nominal export. A file that ONNX Runtime does not run, as it runs few convolutions in
double precision, is replayed in the ONNX reference evaluator, which judged its import too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from ibpc.errors import ModelError, ThirdPartyError, third_party
from ibpc.exports import nominal_model
from ibpc.frontends.onnx import translate
from ibpc.frontends.onnx_load import read_model
from ibpc.frontends.validate import ONNX_RUNTIME, REFERENCE, input_sizes
from ibpc.network import Network
from ibpc.passes import COMPILE
from ibpc.runtime import Array, Run, refused, session


class Replay:
    """One ONNX model in ONNX Runtime, one sample at a time. Raises ModelError for inputs that would round a sample.

    `where` names it in errors, `judge` is what runs it. `of(network)` uses the file that the network was imported from,
    as long as the weights are still the same.
    """

    def __init__(self, model: onnx.ModelProto, where: str = "") -> None:
        self._where = where or _name(model)
        self.judge, self._run = _judge(model)
        self.input_names = [value.name for value in model.graph.input]
        self.output_names = [value.name for value in model.graph.output]
        self._types = [onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in model.graph.input]
        if not set(self._types) <= {np.dtype(np.float32), np.dtype(np.float64)}:
            raise ModelError.at(self._where, "an input of other numbers than FLOAT and DOUBLE", "floating numbers")
        self.input_sizes = [tuple(sizes) for sizes in input_sizes(model.graph)]

    @classmethod
    def of(cls, network: Network) -> Replay:
        """Return the replay of a network; see `original_model`."""
        return cls(original_model(network), network.source.path)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return all outputs at one sample, flat and one after the other, in float64. Inputs have no batch.

        Raises ModelError if the judge refuses the sample.
        """
        feed = {
            name: x.detach().cpu().reshape(sizes).numpy().astype(kind)
            for name, x, sizes, kind in zip(self.input_names, inputs, self.input_sizes, self._types, strict=True)
        }
        with refused(self._where):
            outputs = self._run(feed)
        return torch.from_numpy(np.concatenate([output.astype(np.float64).ravel() for output in outputs]))


def original_model(network: Network) -> onnx.ModelProto:
    """Return the ONNX model of a network: the file it was imported from, or its nominal export.

    The file is used only if it still is the network: not after training, with normalization in front, or after a change
    of the file. Raises ModelError if the file cannot be read.
    """
    path = Path(network.source.path)
    if network.source.kind == "onnx" and path.is_file():
        model = runnable_model(path)
        if _computes(network, model, str(path)):
            return model
    return nominal_model(network.snapshot())


def _computes(network: Network, model: onnx.ModelProto, where: str) -> bool:
    """Return whether the model, compiled, is the network as it stands."""
    graph, _ = COMPILE.run(translate(model, where).graph)
    present = network.snapshot()
    if graph.to_json() != present.to_json():
        return False
    return all(torch.equal(value, present.state[key]) for key, value in graph.state.items())


def runnable_model(path: Path) -> onnx.ModelProto:
    """Return the model of a file in a form that ONNX Runtime runs: as it is, or with harmless defects repaired."""
    model = read_model(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    if any(value.name in constants for value in model.graph.input):
        return translate(model, str(path)).model
    try:
        _session(model)
    except ModelError:
        return translate(model, str(path)).model
    return model


def _judge(model: onnx.ModelProto) -> tuple[str, Run]:
    """Return what runs a model: ONNX Runtime, or the reference evaluator if that refuses it. Raises ModelError."""
    try:
        return ONNX_RUNTIME, _session(model)
    except ModelError as refusal:
        try:
            return REFERENCE, _evaluator(model)
        except ThirdPartyError:
            raise refusal from None


def _evaluator(model: onnx.ModelProto) -> Run:
    with third_party():
        evaluator = ReferenceEvaluator(model)

    def run(feed: Mapping[str, Array]) -> list[Array]:
        try:
            with np.errstate(all="ignore"), third_party():
                return [np.asarray(output) for output in evaluator.run(None, dict(feed))]
        except ThirdPartyError as error:
            raise ModelError.at(_name(model), f"the {REFERENCE} refuses it: {error}") from error

    return run


def _session(model: onnx.ModelProto) -> Run:
    with refused(_name(model)):
        return session(model.SerializeToString())


def _name(model: onnx.ModelProto) -> str:
    return model.graph.name or "model"
