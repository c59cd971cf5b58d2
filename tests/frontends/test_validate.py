"""Validation catches a graph that is not the file's, names the node, and ranks its judges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from ibpc import evaluation
from ibpc.errors import ModelError
from ibpc.evaluation import evaluate
from ibpc.frontends import validate as validation
from ibpc.frontends.agreement import agree
from ibpc.frontends.onnx import Translation, import_model, translate
from ibpc.frontends.validate import validate
from ibpc.ops import operators
from tests.onnx_models import chain, model, normal

NODE = helper.make_node


def translation() -> Translation:
    """Return a network of two branches that meet, and its file."""
    nodes = [
        NODE("Gemm", ["x", "w1", "b1"], ["h"], "first", transB=1),
        NODE("Relu", ["h"], ["r"], "relu"),
        NODE("Gemm", ["r", "w2"], ["g"], "second", transB=1),
        NODE("Add", ["g", "h"], ["s"], "sum"),
        NODE("Tanh", ["s"], ["y"], "tanh"),
    ]
    constants = {"w1": normal(3, 4), "b1": normal(3), "w2": normal(3, 3)}
    return translate(model(nodes, {"x": ["N", 4]}, constants=constants), "m")


def judge(found: Translation) -> validation.Validation:
    return validate(found.model, found.graph, "m.onnx", found.values)


def test_a_faithful_import_passes_with_all_judges():
    report = judge(translation())
    assert [each.judge for each in report.judgements] == ["ONNX Runtime", "onnx2torch"]
    assert all(each.points == 4 for each in report.judgements)
    assert all(each.error < 1e-5 for each in report.judgements) and report.notes == ()


@pytest.mark.parametrize(
    ("key", "node"),
    [("first.weight", "first (Gemm)"), ("first.bias", "first (Gemm)"), ("second.weight", "second (Gemm)")],
)
def test_a_wrong_weight_is_found_at_its_node(key, node):
    found = translation()
    found.graph.state[key] = found.graph.state[key] + 1e-2
    with pytest.raises(ModelError, match=r"m\.onnx: node ") as caught:
        judge(found)
    assert f"node {node}: the import and ONNX Runtime part at batch 3" in str(caught.value)


def with_rule(name, rule):
    record = operators()[name]
    return replace(record, rules=replace(record.rules, nominal=rule))


def test_a_fault_that_only_shows_in_a_batch_is_found(monkeypatch):
    wrong = {**operators(), "Relu": with_rule("Relu", lambda _, x: torch.relu(x).flip(0))}
    monkeypatch.setattr(evaluation, "operators", lambda: wrong)
    with pytest.raises(ModelError, match=r"node relu \(Relu\): the import and ONNX Runtime part at batch 3"):
        judge(translation())


def test_swapped_outputs_are_found():
    nodes = [NODE("Relu", ["x"], ["a"]), NODE("Tanh", ["x"], ["b"])]
    found = translate(model(nodes, {"x": ["N", 4]}, ["a", "b"]), "m")
    found.graph.outputs = found.graph.outputs[::-1]
    with pytest.raises(ModelError, match="part at batch 3"):
        judge(found)


def failing(*_):
    raise RuntimeError("no such kernel")


# What the judges are: a stranger's function each.
STRANGERS = {"ONNX Runtime": "session", "ONNX reference evaluator": "ReferenceEvaluator"}


def test_the_reference_evaluator_judges_where_onnx_runtime_cannot(monkeypatch):
    monkeypatch.setattr(validation, STRANGERS["ONNX Runtime"], failing)
    found = translation()
    report = judge(found)
    assert [each.judge for each in report.judgements] == ["ONNX reference evaluator", "onnx2torch"]
    assert "ONNX Runtime cannot run the file: no such kernel" in report.notes
    found.graph.state["second.weight"] = -found.graph.state["second.weight"]
    with pytest.raises(ModelError, match=r"node second \(Gemm\): the import and ONNX reference evaluator part"):
        judge(found)


def test_double_precision_convolutions_have_a_judge():
    kernel = normal(2, 1, 3, 3).astype(np.float64)
    proto = chain(("Conv", "k"), ("Relu",), start=["N", 1, 4, 4], constants={"k": kernel})
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    judges = [each.judge for each in import_model(proto, "m").validation.judgements]
    assert "ONNX Runtime" in judges or "ONNX reference evaluator" in judges


def test_onnx2torch_alone_is_not_enough(monkeypatch):
    for name in STRANGERS.values():
        monkeypatch.setattr(validation, name, failing)
    with pytest.raises(ModelError, match="no judge can run it"):
        judge(translation())


def test_a_fault_in_comparing_is_not_taken_for_a_judge_that_fails(monkeypatch):
    def faulty(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(validation, "_compare", faulty)
    with pytest.raises(ZeroDivisionError):
        judge(translation())


def test_a_fault_in_feeding_is_not_taken_for_a_judge_that_fails(monkeypatch):
    """Only what a judge itself raises means that it cannot judge."""

    def mistaken(*_):
        raise IndexError

    monkeypatch.setattr(validation, "_sample", mistaken)
    with pytest.raises(IndexError):
        judge(translation())
    monkeypatch.undo()
    monkeypatch.setattr(validation, "_runner", lambda *_: mistaken)
    with pytest.raises(IndexError):
        judge(translation())


def test_without_any_judge_the_import_is_refused(monkeypatch):
    for name in STRANGERS.values():
        monkeypatch.setattr(validation, name, failing)
    monkeypatch.setattr("onnx2torch.convert", failing)
    with pytest.raises(ModelError, match="no judge can run it: ONNX Runtime cannot run the file: no such kernel"):
        judge(translation())


def test_onnx2torch_is_outranked():
    """Its Pad of opset 2 forgets the value (ONNX Runtime and the reference evaluator do not)."""
    proto = chain(("Pad", {"pads": [0, 1, 0, 1], "value": 3.0}), start=["N", 4], constants={}, opset=10)
    report = import_model(proto, "m").validation
    assert [each.judge for each in report.judgements] == ["ONNX Runtime"]
    assert any("outranked" in note for note in report.notes)


def test_a_file_that_mixes_samples_is_noted():
    proto = chain(("Softmax", {"axis": 0}), start=["N", 4], constants={})
    assert any("mixes the samples" in note for note in import_model(proto, "m").validation.notes)
    assert translation_notes(chain(("Softmax", {"axis": 1}), start=["N", 4], constants={})) == ()


def test_a_file_that_does_not_run_in_a_batch_is_noted():
    proto = chain(("Reshape", "one"), start=["N", 4], constants={"one": np.array([1, 2, 2])})
    assert any("does not run" in note for note in translation_notes(proto))


def translation_notes(proto):
    return import_model(proto, "m").validation.notes


def test_points_lie_in_the_stated_range():
    graph = translation().graph
    graph.replace("x", attributes={"shape": [4], "range": [5.0, 6.0]})
    for (batch,) in validation.draw(graph):
        assert bool(((batch >= 5) & (batch <= 6)).all())


def test_evaluate_gives_every_node():
    graph = translation().graph
    values = evaluate(graph, [torch.zeros(2, 4)])
    assert set(values) == {node.name for node in graph.order()}
    assert torch.equal(values["relu"], torch.relu(values["first"]))


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ([1.0], [1.0 + 5e-5], True),
        ([1.0], [1.0 + 5e-4], False),
        ([0.0], [9e-6], True),
        ([0.0], [2e-5], False),
        ([0.0, 1000.0], [5e-3, 1000.0], True),
        ([0.0, 1000.0], [5e-2, 1000.0], False),
        ([np.nan], [np.nan], True),
        ([np.nan], [0.0], False),
        ([0.0], [np.nan], False),
        ([np.inf], [np.inf], True),
        ([np.inf], [-np.inf], False),
        ([1e30], [np.inf], False),
        ([1.0, 1.0], [1.0], False),
    ],
)
def test_agreement(ours, theirs, same):
    assert agree(np.array(ours), np.array(theirs)) is same
