"""Values that may be no numbers: bounds behind them may look fine, and a verdict must not rest on them."""

from __future__ import annotations

from fractions import Fraction
from math import inf, isnan
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import ibpc
from ibpc.bounds.definedness import Definedness
from ibpc.bounds.values import Walk
from ibpc.errors import ModelError
from ibpc.frontends.onnx import graph_from_onnx
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic
from ibpc.verify.batch_certifier import BatchCertifier
from ibpc.verify.data_certifier import DataCertifier
from ibpc.verify.journal import Journal
from ibpc.verify.properties import Box, Case, DeclaredTensor, Property, Row
from tests.onnx_models import chain, model, runtime

CONSTANTS = {
    "huge": np.float32(1e30),
    "shift": np.float32(0.5),
    "large": np.asarray([70000], np.int32),
    "long": np.asarray([2**24], np.int64),
    "seven": np.asarray([7], np.int32),
    "w": np.full((1, 1), 1e30, np.float32),
    "steep": np.full(1, 1e25, np.float32),
    "zero": np.zeros(1, np.float32),
    "one": np.ones(1, np.float32),
}
# Networks of one number whose last operator bounds whatever it is given, and where its operand is no number.
TRAPS = {
    "a logarithm below 0": [("Log",), ("Sigmoid",)],
    "a root below 0": [("Sqrt",), ("Relu",), ("Neg",), ("Sigmoid",)],
    "a quotient by 0": [("Reciprocal",), ("Tanh",)],
    "a product beyond binary32": [("Mul", "huge"), ("Mul", "huge"), ("Tanh",)],
    "a sum of opposite infinities": [("Exp",), ("Mul", "huge"), ("Mul", "huge"), ("Log",), ("Sigmoid",)],
    "integers that wrap": [
        ("Cast", {"to": onnx.TensorProto.INT32}),
        ("Mul", "large"),
        ("Mul", "large"),
        ("Cast", {"to": onnx.TensorProto.FLOAT}),
        ("Tanh",),
    ],
}


# Between 10²⁰ and 2·10²⁰ numbers on the way to a result are beyond binary32, and results are not.
_END = [("Sin",), ("Sigmoid",)]
FAR_TRAPS = {
    "a norm": [("ReduceL2", {"axes": [1], "keepdims": 1}), *_END],
    "a quotient by a norm": [("LpNormalization", {"axis": 1, "p": 2}), ("Reciprocal",), *_END],
    "a product before its factor": [("Gemm", "w", {"alpha": 1e-20}), *_END],
    "a scale of a normalization": [("BatchNormalization", "steep", "zero", "zero", "zero", {"epsilon": 1e-30}), *_END],
}


TRAPS["wide integers that wrap"] = [
    ("Cast", {"to": onnx.TensorProto.INT64}),
    *[("Mul", "long")] * 2,
    ("Cast", {"to": onnx.TensorProto.FLOAT}),
    ("Tanh",),
]


def network_of(folder: Path, steps: list[tuple[object, ...]]) -> ibpc.Network:
    path = folder / "net.onnx"
    onnx.save(chain(*steps, start=["N", 1], constants=CONSTANTS), path)
    return ibpc.compile(path)


def never_two(*boxes: tuple[str, str]) -> Property:
    """No y ≥ 2 over any of the boxes."""
    row = Row(((0, Fraction(-1)),), (), Fraction(-2), False)
    cases = tuple(Case(Box((Fraction(low),), (Fraction(high),)), ((row,),)) for low, high in boxes)
    return Property("p", (DeclaredTensor("X", (1,)),), (DeclaredTensor("Y", (1,)),), cases)


@pytest.mark.parametrize("method", ["ibp", "crown", "auto"])
@pytest.mark.parametrize("trap", TRAPS)
def test_no_verdict_rests_on_what_may_be_no_number(tmp_path: Path, trap: str, method: str) -> None:
    network = network_of(tmp_path, TRAPS[trap])
    decision = ibpc.decide(network, never_two(("-2", "60000")), method=method, timeout=10)
    assert decision.verdict is ibpc.Verdict.UNKNOWN
    assert decision.undefined is not None or trap == "a product beyond binary32", "fused, its bounds claim nothing"
    assert decision.margins == ((-inf,),)
    assert decision.proofs == ((None,),)


@pytest.mark.parametrize("trap", FAR_TRAPS)
def test_nor_on_what_is_beyond_binary32_on_the_way(tmp_path: Path, trap: str) -> None:
    prop = never_two(("1e20", "2e20"))
    decision = ibpc.decide(network_of(tmp_path, FAR_TRAPS[trap]), prop, method="ibp", timeout=10)
    assert decision.verdict is ibpc.Verdict.UNKNOWN
    assert decision.undefined is not None


def test_a_factor_of_a_product_does_not_vanish_in_its_weights(tmp_path: Path) -> None:
    """10⁻²⁵ · 10⁻²⁵ is no number of binary32, (x · 10⁻²⁵) · 10⁻²⁵ · 10¹³ is 10 at x = 10³⁸."""
    constants = {"w": np.full((1, 1), 1e-25, np.float32), "up": np.float32(1e13)}
    path = tmp_path / "net.onnx"
    onnx.save(chain(("Gemm", "w", {"alpha": 1e-25}), ("Mul", "up"), start=["N", 1], constants=constants), path)
    decision = ibpc.decide(ibpc.compile(path), never_two(("1e38", "1.1e38")), timeout=10)
    assert decision.verdict is ibpc.Verdict.FALSIFIED


def test_images_that_bounds_say_nothing_of_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their boxes would be tightened, one by one, for nothing."""

    class Overflow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x * 1e30 * 1e30, x], 1)

    network = ibpc.compile(Overflow().eval(), torch.ones(1, 1))
    looked: list[int] = []
    tightened = Definedness._tightened

    def counted(self: Definedness, boxes: tuple[Interval, ...], number: int, deadline: float) -> str | None:
        looked.append(number)
        return tightened(self, boxes, number, deadline)

    monkeypatch.setattr(Definedness, "_tightened", counted)
    how = DataCertifier("ibp", BatchCertifier("ibp"))
    found = how.run(network, torch.ones(3, 1), torch.zeros(3, dtype=torch.int64), 0.1, Journal(None, {}))
    assert found.unbounded + sum(example.verdict is ibpc.Verdict.FALSIFIED for example in found.examples) == 3
    assert looked == [0], "more than the hull of all images"


def test_one_of_these_values_is_no_number(tmp_path: Path) -> None:
    session = runtime(chain(*TRAPS["a logarithm below 0"], start=["N", 1], constants=CONSTANTS))
    assert isnan(session.run(None, {"x": np.asarray([[-1.0]], np.float32)})[0].item())


def test_integers_do_wrap(tmp_path: Path) -> None:
    """65536 · 70000 is 4.6·10⁹; ONNX Runtime answers 292,814,848."""
    steps = [*TRAPS["integers that wrap"][:2], ("Cast", {"to": onnx.TensorProto.FLOAT})]
    session = runtime(chain(*steps, start=["N", 1], constants=CONSTANTS))
    assert session.run(None, {"x": np.asarray([[65536.0]], np.float32)})[0].item() == 65536 * 70000 - 2**32
    network = network_of(tmp_path, steps)
    wraps, fits = never_two(("-40000", "-1")), never_two(("-30000", "-1"))
    assert ibpc.decide(network, fits, method="ibp").verdict is ibpc.Verdict.VERIFIED
    assert ibpc.decide(network, wraps, method="ibp").verdict is ibpc.Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("steps", "ends"),
    [
        (TRAPS["a logarithm below 0"], ("0.5", "3")),
        (TRAPS["a root below 0"], ("0", "9")),
        (TRAPS["a quotient by 0"], ("-3", "-1")),
        (TRAPS["a product beyond binary32"], ("-1e-31", "1e-31")),
        (TRAPS["integers that wrap"], ("-0.9", "0.9")),
        ([("Cast", {"to": 6}), ("Mul", "seven"), ("Cast", {"to": 1}), ("Tanh",)], ("-300", "300")),
    ],
)
def test_where_all_are_numbers_bounds_count(tmp_path: Path, steps: list[tuple[object, ...]], ends: tuple) -> None:
    decision = ibpc.decide(network_of(tmp_path, steps), never_two(ends), method="ibp")
    assert decision.verdict is ibpc.Verdict.VERIFIED
    assert decision.undefined is None


def test_in_real_numbers_nothing_overflows(tmp_path: Path) -> None:
    network, prop = network_of(tmp_path, TRAPS["a product beyond binary32"]), never_two(("-2", "2"))
    assert ibpc.decide(network, prop, arithmetic=Arithmetic.REAL).verdict is ibpc.Verdict.VERIFIED


def test_every_case_has_to_be_defined(tmp_path: Path) -> None:
    """The hull of both boxes holds 0; only in the second pair does one of them."""
    network = network_of(tmp_path, TRAPS["a quotient by 0"])
    apart, one_bad = never_two(("-3", "-1"), ("1", "3")), never_two(("-3", "-1"), ("0", "3"))
    assert ibpc.decide(network, apart, method="ibp").verdict is ibpc.Verdict.VERIFIED
    assert ibpc.decide(network, one_bad, method="ibp").verdict is ibpc.Verdict.UNKNOWN


def test_boxes_are_tightened_before_a_doubt_is_raised() -> None:
    """x − 0.9 x is above 0, which intervals do not see."""

    class Difference(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(torch.log(x - 0.9 * torch.relu(x)))

    graph = ibpc.compile(Difference().eval(), torch.ones(1, 3)).snapshot()
    definedness = Definedness(Walk(graph, torch.device("cpu")), Arithmetic.FLOAT32)
    low = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
    fine, bad = definedness.doubts((Interval.bounds(low, low + 1.0),))
    assert fine is None
    assert bad is not None


def test_images_are_certified_where_all_values_are_numbers() -> None:
    """Class 0 wins whatever the logarithm is, but for where it is none: at pixels of at most ε."""

    class Logarithm(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            share = torch.sigmoid(torch.log(x))
            return torch.cat([share + 2.0, share * 0.5], 1)

    network = ibpc.compile(Logarithm().eval(), torch.ones(1, 1))
    images, labels = torch.tensor([[0.8], [0.04], [0.4]]), torch.zeros(3, dtype=torch.int64)
    how = DataCertifier("ibp", BatchCertifier("ibp"))
    for eps, expected in ((0.05, ["verified", "unknown", "verified"]), (0.01, ["verified"] * 3)):
        found = how.run(network, images, labels, eps, Journal(None, {}))
        assert [example.verdict.value for example in found.examples] == expected
        assert found.unbounded == expected.count("unknown")


def test_sums_over_each_operand_of_an_einsum_alone_are_refused() -> None:
    """Σ x Σ z and Σ x z round differently, and the first may be ∞ · 0 where the second is 0."""
    nodes = [
        onnx.helper.make_node("Mul", ["x", "one"], ["z"]),
        onnx.helper.make_node("Einsum", ["x", "z"], ["y"], "product", equation="ia,ib->i"),
    ]
    with pytest.raises(ModelError, match="product.*alone.*ReduceSum"):
        graph_from_onnx(model(nodes, {"x": ["N", 2]}, constants=CONSTANTS), "net.onnx")


class Two(torch.nn.Module):
    """Two outputs; intervals leave the logarithm undefined over [0, 2], forms do not."""

    def __init__(self):
        super().__init__()
        self.twice, self.difference = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
        self.twice.weight.data, self.twice.bias.data = torch.tensor([[1.0, 0.0]]).expand(2, 2).clone(), torch.zeros(2)
        self.difference.weight.data, self.difference.bias.data = torch.tensor([[1.0, -1.0]]), torch.ones(1)

    def forward(self, x):
        return torch.log(self.difference(self.twice(x))), x


def test_a_doubt_in_a_network_of_two_outputs_is_looked_into():
    network = ibpc.compile(Two().eval(), torch.zeros(1, 2))
    found = ibpc.bound(network, Interval.bounds(torch.zeros(1, 2), torch.full((1, 2), 2.0)), method="crown")
    assert found.lower.tolist() == [pytest.approx([0.0, 0.0, 0.0], abs=1e-4)]
    assert found.upper.tolist() == [pytest.approx([0.0, 2.0, 2.0], abs=1e-4)]
