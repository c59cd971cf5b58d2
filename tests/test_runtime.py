"""ONNX Runtime: what it refuses is one kind of error, and our own mistakes are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from ibpc.errors import ModelError
from ibpc.runtime import Optimizations, refusals, refused, session
from ibpc.verify.replay import Replay
from tests.onnx_models import chain, model


def relu() -> bytes:
    return chain(("Relu",), start=["N", 2], constants={}).SerializeToString()


@pytest.mark.parametrize("optimizations", Optimizations)
def test_a_session_is_a_function_of_inputs_by_name(optimizations):
    (found,) = session(relu(), optimizations)({"x": np.array([[-1.0, 2.0]], np.float32)})
    assert found.tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize(
    "data", [b"no model", b"", chain(("Relu", "k"), start=["N", 2], constants={}).SerializeToString()]
)
def test_what_is_no_model_is_refused(data):
    with pytest.raises(ModelError, match="^here: ONNX Runtime refuses it: "), refused("here"):
        session(data)


def test_what_does_not_fit_an_input_is_refused():
    run = session(relu())
    for feed in ({"x": np.zeros((1, 3), np.float32)}, {"x": np.zeros((1, 2))}, {}):
        with pytest.raises(ModelError, match="^there: "), refused("there"):
            run(feed)


def test_our_own_mistakes_are_not_refusals():
    for mistake in (TypeError, AttributeError, KeyError, AssertionError, ZeroDivisionError):
        assert not issubclass(mistake, refusals())
        with pytest.raises(mistake), refused("here"):
            raise mistake


def test_a_sample_that_the_model_cannot_take_is_an_error_of_the_model():
    """The index is read from the input: 7 is none of three rows."""
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["rows", "index"], ["y"], axis=0),
    ]
    replay = Replay(model(nodes, {"x": ["N"]}, constants={"rows": np.arange(3.0, dtype=np.float32)}))
    assert replay([torch.tensor(2.0)]).tolist() == [2.0]
    with pytest.raises(ModelError, match="ONNX Runtime refuses it"):
        replay([torch.tensor(7.0)])
