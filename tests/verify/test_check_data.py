"""Certificates of data sets: what was written is confirmed, and what was forged is not."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import ibpc
from ibpc.errors import IbpcError
from ibpc.exports import nominal_model
from ibpc.verify.certificates.certificate import ModelFile
from ibpc.verify.certificates.check_data import DataCheck
from ibpc.verify.checking import Checker
from ibpc.verify.results import packed_point
from tests.onnx_models import model

LIMIT = 24
EPS = 0.002


CHOSEN = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 499]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A network that tells digits by their pixels' means of each class, certified on a few images."""
    folder = tmp_path_factory.mktemp("data")
    data = ibpc.load_dataset("digits")
    images, labels = data.train.floats().flatten(1), data.train.labels
    means = torch.stack([images[labels == label].mean(0) for label in range(10)])
    layer = torch.nn.Linear(64, 10)
    layer.weight.data, layer.bias.data = 2 * means, -means.square().sum(1)
    net = ibpc.compile(torch.nn.Sequential(torch.nn.Flatten(), layer).eval(), torch.zeros(1, 1, 8, 8))
    net.save(folder / "model")
    result = ibpc.certify(net, "digits", EPS, limit=LIMIT)
    assert 0 < sum(example.verdict is ibpc.Verdict.VERIFIED for example in result.examples) < LIMIT
    assert any(example.verdict is ibpc.Verdict.FALSIFIED for example in result.examples)
    ibpc.write_verdicts(folder / "c.json", folder / "model", net, data, result)
    chosen = ibpc.certify(net, "digits", EPS, images=CHOSEN)
    ibpc.write_verdicts(folder / "chosen.json", folder / "model", net, data, chosen)
    return folder / "c.json"


def test_a_counterexample_is_decoded_as_the_page_says(certificate):
    examples = json.loads(certificate.read_text())["examples"]
    text, label = next((each["counterexample"], each["label"]) for each in examples if each["counterexample"])
    net = ibpc.load(certificate.with_name("model"))
    point = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4").reshape(1, *net.input_shape)
    assert net.nominal(torch.from_numpy(point.copy())).argmax() != label


def failing(path: Path) -> list[str]:
    return [f"{claim.name}: {claim.detail}" for claim in ibpc.check(path) if not claim.holds]


def test_what_was_certified_is_confirmed(certificate):
    assert failing(certificate) == []


def test_counterexamples_on_the_border_of_their_ball_are_in_it(tmp_path):
    """1/16 is what pixels of 1/16 differ by: rounded or not, such distances are ε itself, and no further."""
    data, border = ibpc.load_dataset("digits"), 0
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    net = ibpc.compile(module, torch.zeros(1, 1, 8, 8))
    net.save(tmp_path / "model")
    result = ibpc.certify(net, data, 1 / 16, limit=LIMIT)
    for example in result.examples:
        if example.counterexample is not None:
            point = torch.tensor(example.counterexample).double()
            distance = (point - data.test.floats()[example.index].flatten().double()).abs()
            border += int((distance == 1 / 16).sum())
    assert border
    ibpc.write_verdicts(tmp_path / "c.json", tmp_path / "model", net, data, result)
    assert failing(tmp_path / "c.json") == []


def test_a_point_that_is_beyond_its_ball_by_less_than_a_rounding_is_not_in_it(certificate):
    """In binary64 both distances round to ε; one is above it, one below."""
    eps = 1 / 16 - 2.0**-57
    claims = {**json.loads(certificate.read_text()), "eps": eps}
    model = nominal_model(ibpc.load(certificate.with_name("model")).graph)
    judge = DataCheck(claims, model, ibpc.load_dataset("digits"), (1, 8, 8), (0.0, 1.0))
    x = np.array([1 / 16])
    for point, is_inside in ((1.5 * 2.0**-58, False), (2.5 * 2.0**-58, True), (0.0, False), (2.0**-50, True)):
        assert abs(point - x[0]) <= 1 / 16
        assert judge._in_ball(np.float32([point]), x) is is_inside


def of_verdict(data: dict[str, Any], verdict: str) -> dict[str, Any]:
    return next(example for example in data["examples"] if example["verdict"] == verdict)


def shares(data: dict[str, Any]) -> None:
    """Write the shares that the examples have."""
    count, examples = len(data["examples"]), data["examples"]
    verdicts = [example["verdict"] for example in examples]
    data.update(n=count, certified_accuracy=verdicts.count("verified") / count)
    data.update(attack_accuracy=1 - verdicts.count("falsified") / count)
    data.update(nominal_accuracy=sum(example["predicted"] == example["label"] for example in examples) / count)


def only_verified(data: dict[str, Any]) -> None:
    data["examples"] = [example for example in data["examples"] if example["verdict"] == "verified"]


def repeated(data: dict[str, Any]) -> None:
    data["examples"] = [of_verdict(data, "verified")] * LIMIT


def renamed(data: dict[str, Any]) -> None:
    """Claim the label that an image was taken for."""
    example = next(each for each in data["examples"] if each["predicted"] != each["label"])
    example.update(label=example["predicted"], verdict="unknown", counterexample=None)


def counterfeited(data: dict[str, Any]) -> None:
    """Claim that the image itself, which is classified as its label, is a counterexample."""
    example = of_verdict(data, "verified")
    image = ibpc.load_dataset("digits").test.floats()[example["index"]]
    point = packed_point(tuple(image.flatten().tolist()))
    example.update(verdict="falsified", method="attack", margin_lower=[None] * 10, counterexample=point)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "one image many times": (repeated, "is number"),
    "images that suit": (only_verified, "is number"),
    "another label": (renamed, "label differs"),
    "a prediction": (lambda data: of_verdict(data, "falsified").update(predicted=3), "does not classify"),
    "a prediction of nothing": (
        lambda data: of_verdict(data, "falsified").update(predicted=77),
        "10 classes of the model",
    ),
    "fewer classes": (
        lambda data: [
            example.update(margin_lower=[0.0], predicted=0, label=0, verdict="unknown", counterexample=None)
            for example in data["examples"]
            if example["label"] == 0
        ],
        "10 classes of the model",
    ),
    "a margin of a falsified one": (
        lambda data: of_verdict(data, "falsified").update(margin_lower=[9.0] * 10),
        "less than is claimed",
    ),
    "a margin beside its own label": (
        lambda data: of_verdict(data, "falsified").update(
            margin_lower=[1.0 if other == of_verdict(data, "falsified")["label"] else None for other in range(10)]
        ),
        "less than is claimed",
    ),
    "a margin of an open one": (
        lambda data: of_verdict(data, "verified").update(verdict="unknown", margin_lower=[99.0] * 10),
        "less than is claimed",
    ),
    "a verdict": (
        lambda data: of_verdict(data, "falsified").update(verdict="verified", method="ibp", counterexample=None),
        "bounds its least margin",
    ),
    "a verdict by a method that chooses": (
        lambda data: of_verdict(data, "falsified").update(verdict="verified", method="bab", counterexample=None),
        "chose how to bound it",
    ),
    "a counterexample that is none": (counterfeited, "classifies its counterexample as"),
    "a falsified one without its point": (lambda data: of_verdict(data, "falsified").pop("counterexample"), "its box"),
    "a greater margin": (
        lambda data: of_verdict(data, "verified")["margin_lower"].__setitem__(3, 9.0),
        "less than is claimed",
    ),
    "a wider ball": (lambda data: data.update(eps=0.3), "less than is claimed"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_was_forged_is_not_confirmed(certificate, name):
    data = json.loads(certificate.read_text())
    change, wanted = FORGERIES[name]
    change(data)
    shares(data)
    path = certificate.with_name("forged.json")
    path.write_text(json.dumps(data))
    assert any(wanted in text for text in failing(path)), failing(path)


def test_chosen_images_are_confirmed_and_said(certificate):
    assert json.loads(certificate.with_name("chosen.json").read_text())["images"] == CHOSEN
    claims = ibpc.check(certificate.with_name("chosen.json"))
    assert all(claim.holds for claim in claims)
    assert [claim.detail for claim in claims if claim.name == "images"] == [
        "15 of 500 test images: 0, 1, 2, 3, 5, 8, 13, 21, 34, …, 499"
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_certificates_without_indices_are_of_the_first_images(certificate, version):
    """Those of versions 1 and 2 name no images; what was forged of them fails as ever."""
    path = certificate.with_name("forged.json")
    data = {**json.loads(certificate.read_text()), "certificate": version}
    path.write_text(json.dumps(data))
    assert failing(path) == []
    data["examples"] = data["examples"][1:]
    shares(data)
    path.write_text(json.dumps(data))
    assert failing(path) == ["images: example 0 is number 1 of the data, not 0"]


def renumbered(place: int, index: object) -> Callable[[dict[str, Any]], object]:
    """Return what gives an example another index, in both places."""

    def change(data: dict[str, Any]) -> None:
        data["images"][place] = data["examples"][place]["index"] = index

    return change


def moved(data: dict[str, Any]) -> None:
    """Exchange the last two images."""
    for key in ("images", "examples"):
        data[key][-2:] = reversed(data[key][-2:])


CHOICES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "none stated": (lambda data: data.pop("images"), "is number"),
    "one that is not in the data": (renumbered(-1, 500), "not in the data"),
    "one that is of another label": (renumbered(-1, 498), "label differs"),
    "one twice": (renumbered(4, 3), "do not increase"),
    "another order": (moved, "do not increase"),
    "one stated for another": (lambda data: data["images"].__setitem__(4, 4), "is number 5 of the data, not 4"),
    "one more": (lambda data: data.update(images=[*CHOSEN[:-1], 498, 499]), "15 examples of 16 images"),
    "one less": (lambda data: data["images"].pop(), "15 examples of 14 images"),
    "none at all": (lambda data: data.update(images=[]), "15 examples of 0 images"),
    "an example left out": (lambda data: data["examples"].pop(), "14 examples of 15 images"),
    "another image under a known index": (
        lambda data: data["examples"][-1].update(data["examples"][0] | {"index": CHOSEN[-1]}),
        "label differs",
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_forged_choices_are_not_confirmed(certificate, name):
    data = json.loads(certificate.with_name("chosen.json").read_text())
    change, wanted = CHOICES[name]
    change(data)
    shares(data)
    path = certificate.with_name("forged.json")
    path.write_text(json.dumps(data))
    found = failing(path)
    assert any(text.startswith("images: ") and wanted in text for text in found), found


@pytest.mark.parametrize("index", [3.0, "3", True, None, -1, [3]])
def test_an_index_that_is_no_integer_is_refused(certificate, index):
    data = json.loads(certificate.with_name("chosen.json").read_text())
    path = certificate.with_name("forged.json")
    for places in (["images"], ["examples"], ["images", "examples"]):
        forged = json.loads(json.dumps(data))
        if "images" in places:
            forged["images"][3] = index
        if "examples" in places:
            forged["examples"][3]["index"] = index
        path.write_text(json.dumps(forged))
        with pytest.raises(IbpcError):
            ibpc.check(path)


def test_margins_in_float32_get_nothing_for_rounding(certificate):
    """Real arithmetic, whose rounding nobody accounts for, is granted 10⁻⁴ above the checker's own bound."""
    data = json.loads(certificate.read_text())
    example = of_verdict(data, "verified")
    image = ibpc.load_dataset("digits").test.floats()[example["index"]].double().flatten().numpy()
    box = [(image - EPS).clip(0, 1)], [(image + EPS).clip(0, 1)]
    checker, other = Checker(nominal_model(ibpc.load(certificate.with_name("model")).snapshot())), example["label"] - 1
    row = np.eye(10)[[example["label"]]] - np.eye(10)[[other]]
    path, found = certificate.with_name("forged.json"), {}
    for arithmetic in ("float32", "real"):
        bound = float(checker.bound_rows(*box, row, arithmetic)[0][0])
        example["margin_lower"] = [bound + 5e-5 if index == other % 10 else None for index in range(10)]
        path.write_text(json.dumps(data | {"arithmetic": arithmetic}))
        found[arithmetic] = [text for text in failing(path) if text.startswith(f"example {example['index']}:")]
    assert found["float32"] and not found["real"]


def test_a_model_of_two_inputs_takes_no_images(certificate, tmp_path):
    nodes = [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("Flatten", ["s"], ["y"])]
    onnx.save(model(nodes, {"x": (1, 1, 8, 8), "z": (1, 1, 8, 8)}), tmp_path / "two.onnx")
    data = json.loads(certificate.read_text()) | ModelFile.of(tmp_path / "two.onnx").to_json()
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(data))
    assert any("2 inputs" in text for text in failing(path))


@pytest.mark.parametrize("share", ["nominal_accuracy", "attack_accuracy", "certified_accuracy"])
def test_shares_are_those_of_the_examples(certificate, share):
    data = json.loads(certificate.read_text())
    data[share] = 1.0
    path = certificate.with_name("forged.json")
    path.write_text(json.dumps(data))
    assert any(share.replace("_", " ") in text for text in failing(path))


def test_a_key_that_occurs_twice_is_refused(certificate):
    path = certificate.with_name("forged.json")
    path.write_text(certificate.read_text().replace('"eps":', '"eps": 0.5, "eps":', 1))
    with pytest.raises(IbpcError, match="more than once"):
        ibpc.check(path)


@pytest.mark.parametrize("method", ["crown", "alpha-crown", "mip", "auto"])
def test_every_method_writes_what_is_confirmed(certificate, method):
    """Methods that choose begin where intervals leave off, and claim no margins that nobody could bound again."""
    net, data = ibpc.load(certificate.with_name("model")), ibpc.load_dataset("digits")
    result = ibpc.certify(net, "digits", 0.02, method=method, limit=LIMIT, timeout=2.0)
    path = certificate.with_name(f"{method}.json")
    ibpc.write_verdicts(path, certificate.with_name("model"), net, data, result)
    assert failing(path) == []
    assert any(example.verdict is ibpc.Verdict.FALSIFIED for example in result.examples)
    written = json.loads(path.read_text())["examples"]
    for found, claimed in zip(result.examples, written, strict=True):
        if found.verdict is ibpc.Verdict.FALSIFIED and method == "crown":
            lowered = [margin - 1e-2 * max(1.0, abs(margin)) for margin in found.margin_lower]
            lowered[found.label] = 0.0
            assert claimed["margin_lower"] == lowered
    verified = {example.method for example in result.examples if example.verdict is ibpc.Verdict.VERIFIED}
    assert verified == {"crown" if method == "crown" else "ibp"}
