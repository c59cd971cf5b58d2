"""Faults that import had: files of which something else was proved than ONNX Runtime computes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import ibpc
from ibpc.bounds.encoding import Program
from ibpc.bounds.highs import Solver
from ibpc.errors import ModelError
from ibpc.frontends import onnx_fold
from ibpc.frontends.agreement import agree_with_bounds
from ibpc.frontends.onnx import translate
from ibpc.frontends.onnx_support import Support
from ibpc.ops import operators
from ibpc.ops.onnx import OnnxImport
from ibpc.verify.decide import DecisionOptions
from ibpc.verify.properties import Box, Case, DeclaredTensor, Property, Row
from ibpc.verify.replay import Replay
from ibpc.verify.subject import Subject
from tests.onnx_models import model, normal, runtime

node = helper.make_node
# In front of a node: nothing that validation draws near zero passes it.
FRONT = (node("Sub", ["x", "far"], ["moved"]), node("Relu", ["moved"], ["r"]))
FAR = {"far": np.float32(100.0)}


def saved(nodes: list[onnx.NodeProto], shape: list[int], constants: dict[str, object], folder, opset: int = 17):
    proto = model(nodes, {"x": shape}, constants=constants, opset=opset)
    onnx.save(proto, folder / "m.onnx")
    return proto


def points(lower: float, upper: float, *shape: int) -> torch.Tensor:
    share = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0))
    return lower + share * (upper - lower)


# ── rounding that passes forgot ─────────────────────────────────────────────────────────────────────────────────
AFFINE = {
    "a convolution without bias, scaled and shifted": (
        [node("Conv", ["x", "w"], ["h"]), node("Mul", ["h", "two"], ["m"]), node("Add", ["m", "b"], ["y"])],
        [1, 1, 1],
        {"w": np.float32([[[1e-9]]]), "two": np.float32(2), "b": np.float32([[[0.7]]])},
    ),
    "a Gemm with factors": (
        [node("Gemm", ["x", "w", "b"], ["y"], alpha=2.0, beta=0.1, transB=1)],
        [1, 1],
        {"w": np.float32([[1e-9]]), "b": np.float32([0.7])},
    ),
    "a product scaled and shifted twice": (
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Mul", ["h", "two"], ["m"]),
            node("Add", ["m", "b"], ["n"]),
            node("Mul", ["n", "third"], ["o"]),
            node("Add", ["o", "b"], ["y"]),
        ],
        [1, 1],
        {"w": np.float32([[1e-9]]), "two": np.float32(2), "third": np.float32(1 / 3), "b": np.float32([0.7])},
    ),
}


@pytest.mark.parametrize("method", ["ibp", "crown", "forward", "alpha-crown"])
@pytest.mark.parametrize("name", AFFINE)
def test_the_rounding_of_a_bias_that_passes_fused_is_paid_for(name, method, tmp_path):
    """Twice as much as one rounding of it, at least, lies within the bounds at a point: other orders may take it."""
    nodes, shape, constants = AFFINE[name]
    proto = saved(nodes, shape, constants, tmp_path)
    network, run = ibpc.compile(tmp_path / "m.onnx"), runtime(proto)
    for x in points(-2.0, 2.0, *shape[1:]):
        bounds = ibpc.bound(network, ibpc.Interval.point(x[None]), method=method)
        value = float(run.run(None, {"x": x[None].numpy()})[0].item())
        reach = 0.5 * float(np.spacing(np.float32(value)))
        assert bounds.lower.item() <= value - reach and value + reach <= bounds.upper.item()


# ── nodes that runtimes read in another way ─────────────────────────────────────────────────────────────────────
REFUSED = {
    "an enlargement that keeps the size": (
        [node("Upsample", ["r", "s"], ["y"], mode="nearest")],
        [1, 1, 1, 3],
        {"s": np.float32([1, 1, 1, 1.3])},
        9,
    ),
    "the same by Resize": (
        [
            node(
                "Resize",
                ["r", "", "s"],
                ["y"],
                mode="linear",
                coordinate_transformation_mode="asymmetric",
            )
        ],
        [1, 1, 1, 3],
        {"s": np.float32([1, 1, 1, 1.3])},
        13,
    ),
    "automatic padding of a pool with gaps": (
        [node("AveragePool", ["r"], ["y"], kernel_shape=[2, 1], strides=[1, 3], auto_pad="SAME_UPPER")],
        [1, 2, 4, 6],
        {},
        19,
    ),
    "automatic padding of a dilated pool": (
        [node("MaxPool", ["r"], ["y"], kernel_shape=[2], dilations=[2], auto_pad="SAME_UPPER")],
        [1, 1, 4],
        {},
        12,
    ),
    "a range from infinity on": ([node("Clip", ["r", "end"], ["y"])], [1, 2], {"end": np.float32(np.inf)}, 17),
    "a constant of sums that the judges part over": (
        [node("Softmax", ["k"], ["s"], axis=1), node("ReduceSum", ["s"], ["c"], axes=[0, 1, 2], keepdims=0)]
        + [node("Mul", ["r", "c"], ["y"])],
        [1, 1],
        {"k": normal(1, 3, 4)},
        11,
    ),
    "integers in another order": (
        [node("Unique", ["k"], ["u"], sorted=0), node("Cast", ["u"], ["c"], to=TensorProto.FLOAT)]
        + [node("Add", ["r", "c"], ["y"])],
        [1, 3],
        {"k": np.int64([3, 1, 3, 2])},
        17,
    ),
    "a power beyond its type": (
        [
            node("Pow", ["k", "e"], ["p"]),
            node("Cast", ["p"], ["c"], to=TensorProto.FLOAT),
            node("Mul", ["r", "c"], ["y"]),
        ],
        [1, 1],
        {"k": np.int32([[3000]]), "e": np.int32(3)},
        17,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_runtimes_read_in_another_way_is_refused(name, tmp_path):
    """Before validation, which may look where both agree."""
    nodes, shape, constants, opset = REFUSED[name]
    proto = saved([*FRONT, *nodes], shape, {**FAR, **constants}, tmp_path, opset)
    with pytest.raises(ModelError):
        translate(proto, "m.onnx")


@pytest.mark.parametrize(
    ("kind", "ends"), [("min", (3.4028235e38, None)), ("max", (None, -3.4028235e38)), ("both", (-3.4028235e38, 1.0))]
)
def test_the_largest_number_is_an_end_on_its_own_side(kind, ends, tmp_path):
    names = ["" if end is None else f"end{slot}" for slot, end in enumerate(ends)]
    constants = {name: np.float32(end) for name, end in zip(names, ends, strict=True) if name}
    proto = saved([node("Clip", ["x", *names], ["y"])], [1, 2], constants, tmp_path)
    network, x = ibpc.Network(translate(proto, "m.onnx").graph), points(-200.0, 200.0, 2)[:1]
    expected = runtime(proto).run(None, {"x": x.numpy()})[0]
    assert np.array_equal(network.nominal(x).numpy(), expected)


def test_integers_whose_total_leaves_their_type_are_not_determined(tmp_path):
    """One runtime cuts the sum off, the other wraps it round."""
    nodes = [
        node("ReduceSum", ["k", "axes"], ["s"], keepdims=0),
        node("Cast", ["s"], ["c"], to=TensorProto.FLOAT),
        node("Mul", ["x", "c"], ["y"]),
    ]
    constants = {"k": np.full(4, 2**31 - 1, np.int32), "axes": np.int64([0])}
    proto = saved(nodes, [1, 1], constants, tmp_path)
    with pytest.raises(ModelError):
        translate(proto, "m.onnx")


# ── where nobody looks ──────────────────────────────────────────────────────────────────────────────────────────
def test_import_is_compared_far_from_zero(tmp_path, monkeypatch):
    """A wrong importer behind a front that is dead near zero: an average instead of a maximum."""
    averages = next(r for r in operators()["AveragePool"].reads if r.type == "AveragePool")

    def wrong(self, opset):
        self._opset = opset
        self.readings = {r.type: r for record in operators().values() for r in record.reads}
        self.readings["MaxPool"] = OnnxImport("MaxPool", (12,), averages.read)

    monkeypatch.setattr(Support, "__init__", wrong)
    pool = node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    saved([*FRONT, pool], [1, 1, 4, 4], FAR, tmp_path)
    with pytest.raises(ModelError, match="part"):
        ibpc.compile(tmp_path / "m.onnx")


def test_a_small_file_of_giant_constants_is_refused_before_they_are_made(monkeypatch, tmp_path):
    """Shape inference with data propagation copies each vector, dimension by dimension."""

    def infer(model: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        assert not options.get("data_prop")
        return infer_shapes(model, **options)

    infer_shapes = onnx_fold.shape_inference.infer_shapes
    monkeypatch.setattr(onnx_fold.shape_inference, "infer_shapes", infer)
    monkeypatch.setattr(onnx_fold, "_MOST_BYTES", 10**6)
    nodes = [node("Concat", [f"k{step}"] * 100, [f"k{step + 1}"], axis=0) for step in range(3)]
    nodes += [node("ReduceSum", ["k3"], ["k"], keepdims=0), node("Add", ["x", "k"], ["y"])]
    saved(nodes, [1, 5], {"k0": np.zeros(5, np.float32)}, tmp_path)
    with pytest.raises(ModelError, match="its output k3 takes 20,000,000 bytes"):
        ibpc.compile(tmp_path / "m.onnx")


def test_what_is_verified_is_compared_in_its_own_region(tmp_path):
    """A front that opens beyond all that validation draws: a changed weight behind it is seen where it is claimed."""
    constants = {"far": np.float32(1e6), "w": np.float32(2)}
    saved([*FRONT, node("Mul", ["r", "w"], ["y"])], [1, 1], constants, tmp_path)
    network = ibpc.compile(tmp_path / "m.onnx")
    box = Box((Fraction(2_000_000),), (Fraction(3_000_000),))
    row = Row(((0, Fraction(1)),), (), Fraction(1), False)
    prop = Property("p", (DeclaredTensor("x", (1,)),), (DeclaredTensor("y", (1,)),), (Case(box, ((row,),)),))
    assert ibpc.decide(network, prop).verdict is ibpc.Verdict.VERIFIED
    changed = saved([*FRONT, node("Mul", ["r", "w"], ["y"])], [1, 1], {**constants, "w": np.float32(3)}, tmp_path)
    subject = Subject(network)
    subject.__dict__["replay"] = Replay(changed)
    with pytest.raises(ModelError, match="something else"):
        DecisionOptions(("attack", "ibp"), ibpc.Arithmetic.FLOAT32).run(subject, prop)


def test_what_onnx_runtime_refuses_to_run_is_compared_with_nothing(tmp_path, monkeypatch):
    saved([node("Relu", ["x"], ["y"])], [1, 2], {}, tmp_path)
    subject = Subject(ibpc.compile(tmp_path / "m.onnx"))

    def refuse(self, inputs):
        raise ModelError.at("m.onnx", "ONNX Runtime refuses it")

    monkeypatch.setattr(Replay, "__call__", refuse)
    subject.expect_agreement([torch.ones(1, 2)])


def test_what_onnx_runtime_refuses_at_a_point_names_the_file(tmp_path):
    saved(
        [node("Gather", ["rows", "i"], ["y"]), node("Cast", ["x"], ["i"], to=TensorProto.INT64)][::-1],
        [1],
        {"rows": np.float32([1, 2])},
        tmp_path,
    )
    replay = Replay(onnx.load(tmp_path / "m.onnx"), str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match="m.onnx: ONNX Runtime refuses it"):
        replay([torch.tensor([7.0])])


def test_images_are_compared_before_any_is_certified(tmp_path):
    """A front that opens between the pixels that validation draws is none; a changed weight is seen all the same."""
    constants = {"w": normal(64, 10)}
    saved([node("MatMul", ["x", "w"], ["y"])], ["N", 64], constants, tmp_path)
    network, data = ibpc.compile(tmp_path / "m.onnx"), ibpc.load_dataset("digits")
    assert ibpc.certify(network, data, 0.0, limit=5).examples
    changed = saved([node("MatMul", ["x", "w"], ["y"])], ["N", 64], {"w": -constants["w"]}, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "of", classmethod(lambda cls, _: cls(changed)))
        with pytest.raises(ModelError, match="something else"):
            ibpc.certify(network, data, 0.0, limit=5)


def test_values_have_to_lie_within_bounds():
    lower, upper = np.float64([1.0, -np.inf, 5.0]), np.float64([1.5, np.inf, 5.0])
    assert agree_with_bounds(lower, upper, np.float64([1.2, 7e30, 5.0]))
    assert agree_with_bounds(lower, upper, np.float64([1.5, np.nan, 5.00001]))
    assert not agree_with_bounds(lower, upper, np.float64([1.2, 0.0, 5.1]))
    assert not agree_with_bounds(lower, upper, np.float64([1.2, 0.0]))


# ── modules that exporters change ───────────────────────────────────────────────────────────────────────────────
class Equal(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0 if torch.equal(torch.relu(x - 1e30), torch.zeros_like(x)) else -x


class NonZero(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x if torch.is_nonzero((x.sum() > 1e30).float()) else x * 1.0


class Printed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x if f"{x.sum() > 50}" == "True" else x * 1.0


@pytest.mark.parametrize("module", [Equal(), NonZero(), Printed(), nn.Softplus(threshold=5), nn.Softplus(0.3, 4)])
def test_modules_whose_export_does_something_else_are_refused(module):
    with pytest.raises(ModelError):
        ibpc.compile(module.eval(), torch.randn(4, 2))


# ── exact bounds ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("scale", [1e-12, 1e-10, 1e-7, 1.0, 1e7])
def test_exact_bounds_keep_small_weights_over_wide_boxes(scale):
    """y = |s x − 1/2| / s over boxes of width 1/s: coefficients that a solver leaves out in any units of its own."""
    module = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[scale], [-scale]]))
        module[0].bias.copy_(torch.tensor([-0.5, 0.5]))
        module[2].weight.copy_(torch.tensor([[1.0 / scale, 1.0 / scale]]))
        module[2].bias.zero_()
    network = ibpc.compile(module, torch.zeros(1, 1))
    box = ibpc.Interval.bounds(torch.zeros(1, 1), torch.full((1, 1), 1.0 / scale))
    bounds = ibpc.bound(network, box, method="mip")
    values = network.nominal(torch.linspace(0.0, 1.0, 101)[:, None] / scale)
    assert bounds.lower.item() <= values.min().item() and values.max().item() <= bounds.upper.item()
    assert bounds.upper.item() - bounds.lower.item() <= 0.6 / scale


def program(coefficients: list[float]) -> Program:
    """One row that is zero, over columns in [−1, 1]."""
    made = Program()
    made.columns(-np.ones(len(coefficients)), np.ones(len(coefficients)))
    made.require(np.array([coefficients]), np.zeros(1), np.zeros(1))
    return made


def test_coefficients_that_the_solver_leaves_out_are_paid_for():
    """x + t y = 0 is x = 0 give or take |t|, which is far below the tolerance that is taken off besides."""
    rows, lower, upper = Solver(program([1.0, 1e-13]))._rows(program([1.0, 1e-13]))
    assert rows.nnz == 1 and lower[0] <= -1e-13 and upper[0] >= 1e-13


def test_a_program_that_the_solver_refuses_bounds_nothing():
    assert Solver(program([1.0, np.nan])).least(np.array([1.0, 0.0])) == -np.inf
    assert Solver(program([1.0, 1.0])).least(np.array([1.0, 0.0])) == pytest.approx(-1.0, abs=1e-5)
