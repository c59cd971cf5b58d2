"""Networks that others made: those whose operators are registered import and agree with ONNX Runtime.

The networks lie in the folder `nets` of the folder that IBPC_SHARED names.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import onnx
import pytest

from ibpc.errors import ModelError
from ibpc.frontends.onnx import import_onnx
from ibpc.frontends.onnx_clean import clean
from tests.onnx_models import expect_same_function

SHARED = os.environ.get("IBPC_SHARED")
NETS = Path(SHARED or "", "nets")
FILES = sorted(NETS.rglob("*.onnx*")) if SHARED else []

# What no import can take, with the reason that it must give.
REFUSED = {
    "dropout_training_mode_true.onnx": "random",
}


def test_the_networks_are_there(shared):
    assert len(FILES) > 0, shared


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_networks_in_the_wild(path):
    try:
        found = import_onnx(path)
    except ModelError as error:
        assert REFUSED.get(path.name, "a refusal that is not listed") in str(error)
        return
    assert path.name not in REFUSED
    data = path.read_bytes()
    original = onnx.load_from_string(gzip.decompress(data) if path.suffix == ".gz" else data)
    # The cleaned file is the one that ONNX Runtime can run: inputs declared with a wrong type are mended in it.
    proto = clean(original, path.name).proto if any("declared" in note for note in found.notes) else original
    proto = proto if proto is original else with_typed_outputs(proto)
    expect_same_function(proto, found.graph, seed=7)


def with_typed_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    for value in proto.graph.output:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return proto
