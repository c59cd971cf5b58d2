"""An nn.Module comes in with its weights, or is refused with a reason."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import nn

import ibpc
from ibpc.errors import ModelError, UsageError
from ibpc.frontends import torch as frontend
from ibpc.frontends.torch import load_module
from ibpc.hints import NARROWED
from ibpc.network import Network
from ibpc.report.terminal import show_compiled


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(36, 5),
    ]
    module = nn.Sequential(*layers)
    module(torch.randn(16, 3, 8, 8))  # running statistics other than the initial ones
    return module.eval()


class Residual(nn.Module):
    """Two inputs, two outputs, one weight used twice, a reshape by x.size(0)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x, y):
        flat = x.view(x.size(0), -1)
        hidden = self.second(torch.relu(self.first(flat))) + y
        return hidden, torch.sigmoid(y)


def agree(module: nn.Module, *inputs: torch.Tensor) -> None:
    graph = load_module(module, inputs[0] if len(inputs) == 1 else inputs)
    points = [torch.randn(4, *x.shape[1:]) for x in inputs]
    with torch.no_grad():
        ours, theirs = Network(graph).nominal(*points), module(*points)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_convolutional_module_keeps_its_layers():
    graph = load_module(convolutional(), torch.randn(2, 3, 8, 8))
    kinds = [node.operator for node in graph.order()]
    assert kinds == ["Input", "Conv", "BatchNormalization", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert graph.name == "Sequential" and graph.hints == {"classes": 5}
    agree(convolutional(), torch.randn(2, 3, 8, 8))


def test_several_inputs_and_outputs_and_a_shared_weight():
    torch.manual_seed(0)
    module = Residual().eval()
    graph = load_module(module, (torch.randn(1, 2, 3), torch.randn(1, 6)))
    assert len(graph.inputs) == len(graph.outputs) == 2 and len(graph.ties) == 1
    agree(module, torch.randn(2, 2, 3), torch.randn(2, 6))


def test_the_weights_are_copies():
    module = nn.Linear(3, 2).eval()
    graph = load_module(module, torch.randn(1, 3))
    before = {key: value.clone() for key, value in graph.state.items()}
    with torch.no_grad():
        module.weight.zero_()
    assert all(torch.equal(graph.state[key], before[key]) for key in before)


def test_a_module_that_only_takes_one_sample_is_mapped_over_the_batch():
    class One(nn.Module):
        def forward(self, x):
            return torch.relu(x).view(1, 6)

    graph = load_module(One().eval(), torch.randn(1, 2, 3))
    x = torch.randn(3, 2, 3)
    assert torch.equal(Network(graph).nominal(x), torch.relu(x).view(3, 6))


class Choice(nn.Module):
    """Does one thing or another by the values of its input: a trace sees one of them."""

    def forward(self, x):
        return torch.relu(x) if x.sum() > 0 else -x


class Far(nn.Module):
    """Does another thing where its values are great, which no sample of its range shows."""

    def forward(self, x):
        return x if x.norm() < 1e6 else -x


class Shaped(nn.Module):
    """Chooses by shapes alone, which a trace may freeze: they are static."""

    def forward(self, x):
        batch, width = x.shape
        assert x.numel() == batch * 4
        return x.reshape(batch, -1) if x.size(1) / 2 < width else -x


class Mixing(nn.Module):
    """Lets the samples of a batch depend on each other."""

    def forward(self, x):
        return torch.relu(x).softmax(0)


class Determinant(nn.Module):
    """Uses an operator that no network has."""

    def forward(self, x):
        return x * torch.linalg.det(x.reshape(-1, 1, 2, 2))


class Particular(nn.Module):
    """Raises what it likes, for some batches or for some values."""

    def __init__(self, at_batch, below):
        super().__init__()
        self.at_batch, self.below, self.last = at_batch, below, nn.Linear(4, 2)

    def forward(self, x):
        if not torch.jit.is_tracing() and not torch.compiler.is_exporting():
            if len(x) == self.at_batch:
                raise KeyError("of this batch nothing is known")
            if float(x.min()) < self.below:
                raise KeyError("of such numbers nothing is known")
        return self.last(x)


class Returning(nn.Module):
    """Returns what a function makes of x."""

    def __init__(self, made):
        super().__init__()
        self.made, self.last = made, nn.Linear(4, 2)

    def forward(self, x):
        return self.made(self.last(x), x)


@pytest.mark.parametrize(
    ("module", "example", "reason"),
    [
        (nn.Linear(4, 2), torch.ones(1, 4), "Linear is in training mode; expected a module in evaluation"),
        (nn.Sequential(nn.Linear(4, 2).eval(), nn.Dropout()), torch.ones(1, 4), "in training mode"),
        (Choice().eval(), torch.ones(1, 4), "may have frozen a choice that values make"),
        (Far().eval(), torch.ones(1, 4), "may have frozen a choice that values make"),
        (Mixing().eval(), torch.rand(3, 4), "does something else at batch 3"),
        (Determinant().eval(), torch.ones(1, 4), "the operator is not supported"),
        (
            Returning(lambda *_: {"size": 4}).eval(),
            torch.ones(1, 4),
            "it returns int; expected a tensor, or tensors in",
        ),
        (Returning(lambda *_: ()).eval(), torch.ones(1, 4), "it returns no tensor; expected"),
        (nn.Linear(4, 2).half().eval(), torch.ones(1, 4).half(), "weights of torch.float16; expected float32; call"),
        (nn.Linear(4, 2).bfloat16().eval(), torch.ones(1, 4), "weights of torch.bfloat16; expected float32; call"),
        (Particular(0, -0.5).eval(), torch.ones(1, 4), "'of such numbers nothing is known'"),
        (nn.Linear(4, 2).eval(), torch.ones(1, 5), "does not run on its example input"),
        (nn.Linear(4, 2).eval(), torch.ones(4), "the first dimension of an example is the batch"),
        (nn.Linear(4, 2).eval(), torch.ones(1, 4, dtype=torch.int64), "torch.int64"),
        (nn.Linear(4, 2).eval(), torch.ones(0, 4), "a floating-point tensor of shape (B, …)"),
        (nn.ReLU().eval(), [[1.0]], "list"),
    ],
    ids=[
        "training",
        "half training",
        "choice",
        "choice far away",
        "mixing",
        "operator",
        "an integer",
        "nothing",
        "half",
        "bfloat16",
        "numbers",
        "shape",
        "no batch",
        "integers",
        "empty",
        "no tensor",
    ],
)
def test_modules_that_cannot_be_imported(module, example, reason):
    with pytest.raises(ModelError) as caught:
        load_module(module, example)
    assert reason in str(caught.value)


def test_tensors_in_containers_are_outputs_in_their_order():
    def made(y, x):
        return {"z": torch.relu(x), "a": [y, (torch.sigmoid(y), None)]}

    torch.manual_seed(0)
    module, x = Returning(made).eval(), torch.randn(3, 4)
    network = ibpc.compile(module, x)
    outputs = network.nominal(x)
    with torch.no_grad():
        y = module.last(x)
    for found, expected in zip(outputs, (torch.relu(x), y, torch.sigmoid(y)), strict=True):
        torch.testing.assert_close(found, expected)
    ibpc.copy_weights(network, module, x)


def test_weights_of_double_precision_are_noted(capsys):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    network, x = ibpc.compile(module, torch.randn(2, 4).double()), torch.randn(5, 4)
    assert network.notes == (NARROWED,)
    show_compiled(network, Path("out"))
    assert NARROWED in " ".join(capsys.readouterr().out.split())
    torch.testing.assert_close(network.nominal(x), module(x.double()).float(), rtol=1e-5, atol=1e-5)


class Exponential(nn.Module):
    """The exporter by tracing gives up on it and prints its graph."""

    def forward(self, x):
        return torch.expm1(x)


def test_exporters_that_give_up_print_nothing(capfd):
    pytest.importorskip("onnxscript")
    was_on = torch._C._jit_is_onnx_log_enabled()
    try:
        ibpc.compile(Exponential().eval(), torch.zeros(1, 4))
        assert torch._C._jit_is_onnx_log_enabled() == was_on
        torch._C._jit_set_onnx_log_enabled(True)
        ibpc.compile(Exponential().eval(), torch.zeros(1, 4))
        assert torch._C._jit_is_onnx_log_enabled()
    finally:
        torch._C._jit_set_onnx_log_enabled(was_on)
    assert capfd.readouterr() == ("", "")


class Attention(nn.Module):
    """Looks at what came before, by a mask, or as torch makes one of −∞."""

    def __init__(self, mask=None):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x, self.mask, is_causal=self.mask is None)


def test_masks_of_a_large_negative_number_do_what_those_of_infinity_are_refused_for():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5)
    with pytest.raises(
        ModelError, match=r"it holds infinity; expected finite numbers \(in place of −∞ a mask may hold −1e9"
    ):
        ibpc.compile(Attention().eval(), x)
    network = ibpc.compile(Attention(torch.triu(torch.full((4, 4), -1e9), 1)).eval(), x)
    torch.testing.assert_close(network.nominal(x), Attention()(x), rtol=1e-5, atol=1e-5)


def test_choices_by_shapes_are_none(capsys):
    graph = load_module(Shaped().eval(), torch.ones(1, 4))
    assert graph.node(graph.outputs[0]).shape == (-1, 4)
    assert capsys.readouterr() == ("", "")


def test_a_module_that_takes_one_sample_at_a_time_is_imported():
    module = Particular(3, -torch.inf).eval()
    agree_at = torch.rand(1, 4)
    network = ibpc.Network(load_module(module, torch.rand(3, 4)))
    with torch.no_grad():
        torch.testing.assert_close(network.nominal(agree_at), module(agree_at))


def test_the_reasons_of_both_exporters_are_told(monkeypatch):
    pytest.importorskip("onnxscript")

    def export(*_, dynamo, **__):
        raise RuntimeError("the new one" if dynamo else "the old one")

    monkeypatch.setattr("torch.onnx.export", export)
    with pytest.raises(ModelError, match=r"by tracing: the old one; by torch\.export: the new one$"):
        load_module(nn.Linear(4, 2).eval(), torch.ones(1, 4))


@pytest.fixture
def without_onnxscript(monkeypatch):
    """Make onnxscript look as if it were not installed."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(frontend, "find_spec", lambda _: None)


@pytest.mark.usefixtures("without_onnxscript")
def test_no_package_besides_torch_is_needed():
    agree(convolutional(), torch.randn(1, 3, 8, 8))


@pytest.mark.usefixtures("without_onnxscript")
def test_what_only_onnxscript_could_export_says_so():
    class Untraceable(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(ModelError, match="pip install onnxscript"):
        load_module(Untraceable().eval(), torch.ones(1, 3))


def test_an_error_in_reading_the_export_is_not_taken_for_the_exporters(monkeypatch):
    """It comes out as it is, and no other exporter is tried."""
    read: list[Path] = []

    def refuse(path: Path) -> NoReturn:
        read.append(path)
        raise ModelError.at("the export", "it is damaged")

    monkeypatch.setattr(frontend, "read_model", refuse)
    with pytest.raises(ModelError, match="^the export: it is damaged"):
        ibpc.compile(nn.Linear(2, 2).eval(), torch.zeros(1, 2))
    assert len(read) == 1


def test_every_name_of_the_api_is_reachable_from_the_package():
    """A submodule of the same name would hide a function once anything imports it."""
    from ibpc import api

    for name in api.__all__:
        assert getattr(ibpc, name) is getattr(api, name), name
    typed = set(re.findall(r"^    from ibpc\.api import (\w+) as \1$", Path(ibpc.__file__).read_text(), re.MULTILINE))
    assert typed == set(api.__all__)


class Peculiar(nn.Module):
    """What training a network cannot move as PyTorch would: scales of its own, a weight used both ways, Dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.row = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.LayerNorm(16)
        self.gain, self.dense = nn.Parameter(torch.rand(1, 4, 4)), nn.Linear(16, 16, bias=False)
        self.drop = nn.Dropout(0.2)
        nn.init.uniform_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = torch.relu(self.norm(self.conv(x)))
        x = self.row(self.row((x * self.gain).flatten(1)))
        return self.drop(self.dense(x) @ self.dense.weight)


def test_whoever_compiles_a_module_is_told_what_training_it_differs_in():
    torch.manual_seed(0)
    network = ibpc.compile(Peculiar().eval(), torch.rand(2, 1, 4, 4))
    assert repr(network).startswith("Network('Peculiar', N×1×4×4 → N×16, ") and "3 notes" in repr(network)
    notes = network.notes
    assert [note.partition(":")[2].split()[0] for note in notes] == ["drop", "gain", "dense.weight"]
    assert not ibpc.compile(Residual().eval(), (torch.randn(1, 2, 3), torch.randn(1, 6))).notes


@pytest.mark.parametrize("made", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_weights_that_a_parametrization_makes_are_free_ones(made):
    torch.manual_seed(0)
    module, x = nn.Sequential(made(nn.Linear(4, 3)), nn.ReLU()).eval(), torch.zeros(1, 4)
    network = ibpc.compile(module, x)
    (note,) = network.notes
    assert note.startswith("trained as free weights") and note.endswith("copy_weights cannot bring them back: 0.weight")
    with pytest.raises(UsageError, match="no weight of the network holds it as it is"):
        ibpc.copy_weights(network, module, x)


def test_normalizations_that_are_used_twice_stay_one():
    """Their weights and running statistics are each one array, as those of convolutions are."""
    torch.manual_seed(0)
    ties = ibpc.compile(Peculiar().eval(), torch.rand(2, 1, 4, 4)).graph.ties
    kinds = sorted(f"{key.split('_')[0]}.{key.rpartition('.')[2]}" for key in ties)
    norm = ["norm.bias", "norm.running_mean", "norm.running_var", "norm.weight"]
    assert kinds == ["conv.bias", "conv.weight", *norm, "row.bias", "row.weight"]


@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 8.0), (3.0, 7.0), (0.1, 15.0), (1.0, -1e6)])
def test_a_softplus_that_jumps_is_refused(beta, threshold):
    """Exporters drop the threshold, beyond which torch computes x; at the default of 20 that makes no difference."""
    with pytest.raises(ModelError, match="threshold"):
        ibpc.compile(nn.Sequential(nn.Softplus(beta, threshold)).eval(), torch.zeros(1, 3))
    ibpc.compile(nn.Sequential(nn.Softplus(beta)).eval(), torch.zeros(1, 3))
