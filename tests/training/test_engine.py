"""Engines and precisions: every engine takes the same steps, and products are rounded as the precision says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ibpc.errors import TrainingError, UsageError
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.training import graphs as training_graphs
from ibpc.training.averaging import Averaging, WeightAverage
from ibpc.training.checkpoint import Checkpoint, Identity
from ibpc.training.draws import Draws
from ibpc.training.engine import ENGINES, Engine, Precision, chosen_engine, computing
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods import methods
from ibpc.training.optimizers import Optimization
from ibpc.training.recipe import Recipe
from ibpc.training.reporting import Silent
from ibpc.training.runner import train
from ibpc.training.schedules import Moment
from tests.training.tiny import blobs, network, recipe

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CONVOLUTIONAL = (
    {"type": "Conv2d", "out_channels": 4, "kernel_size": 3},
    {"type": "BatchNorm2d"},
    {"type": "ReLU"},
    {"type": "Flatten"},
    {"type": "Linear", "out_features": 8},
    {"type": "ReLU"},
    {"type": "Linear", "out_features": 3},
)
BFLOAT16 = Precision("bfloat16")


def gradients(net: Network, method: str, engine: Engine, precision: Precision, steps: int = 1) -> list[torch.Tensor]:
    """Return the gradients of the last of several steps, each on other images, and the buffers after it."""
    graphs = TrainingGraphs(net, engine=engine, precision=precision)
    objective = methods()[method].build(graphs, Recipe.default(method, eps=0.1))
    generator = torch.Generator(net.device).manual_seed(1)
    net.parameters.train()
    for number in range(steps):
        x = torch.rand(6, *net.input_shape, generator=torch.Generator().manual_seed(number)).to(net.device)
        labels = (torch.arange(6) % 3).to(net.device)
        net.parameters.zero_grad(set_to_none=True)
        moment = Moment(number, eps=0.05, kappa=0.5, learning_rate=0.0)
        objective(x, labels, moment, Draws(generator)).loss.backward()
    found = [parameter.grad for parameter in net.parameters.parameters()]
    return [tensor.detach().cpu() for tensor in (*found, *net.parameters.buffers()) if tensor is not None]


@pytest.mark.parametrize("name", ["warp", "", "CUDA"])
def test_an_unknown_engine_is_refused(name):
    with pytest.raises(UsageError, match="engine"):
        chosen_engine(name, CPU)


def test_engines_fit_their_device():
    assert chosen_engine("auto", CPU) is Engine.EAGER
    assert chosen_engine("auto", torch.device("cuda")) is Engine.CUDA_GRAPH
    assert chosen_engine("auto", torch.device("cuda"), processes=2) is Engine.EAGER
    assert {chosen_engine(name, torch.device("cuda")) for name in ENGINES} == set(Engine)
    for device, processes in ((CPU, 1), (torch.device("cuda"), 2)):
        with pytest.raises(UsageError, match="one process on a CUDA device"):
            chosen_engine("cuda-graph", device, processes)


def test_operands_of_products_are_rounded_and_nothing_else():
    net = network(({"type": "Flatten"}, {"type": "Linear", "out_features": 3}))
    x, weight = torch.rand(5, 1, 4, 4), net.parameters.get_submodule("linear1").weight
    bias = net.parameters.get_submodule("linear1").bias
    logits = TrainingGraphs(net, precision=BFLOAT16).nominal(x)
    expected = F.linear(x.flatten(1).bfloat16(), weight.bfloat16(), bias.bfloat16()).float()
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("method", ["ibp", "sabr"])
def test_gradients_in_bfloat16_are_near_those_in_float32(method):
    rough, exact = (
        torch.cat([tensor.flatten() for tensor in gradients(network(CONVOLUTIONAL), method, Engine.EAGER, precision)])
        for precision in (BFLOAT16, Precision())
    )
    assert F.cosine_similarity(rough, exact, dim=0) > 0.9
    assert not torch.equal(rough, exact)


def test_a_narrow_box_keeps_its_width_in_bfloat16():
    """A box of center 1 and radius 1e-4 would become a point if sums were rounded too."""
    net = network(({"type": "Flatten"}, {"type": "Linear", "out_features": 3}), shape=(1, 2, 2))
    x = torch.ones(1, 1, 2, 2)
    _, wide = TrainingGraphs(net, precision=BFLOAT16).paired(x, Interval.ball(x, 1e-4), torch.tensor([0]))
    _, point = TrainingGraphs(net, precision=BFLOAT16).paired(x, Interval.ball(x, 0.0), torch.tensor([0]))
    assert (wide[0, 1:] < point[0, 1:]).all()


def test_what_inductor_cannot_compile_is_one_clear_line(tmp_path, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def refuse(module):
        raise TorchDynamoException("InvalidCxxCompiler: No working C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(TrainingError, match="InvalidCxxCompiler.*engine eager") as caught:
        train(network(CONVOLUTIONAL), recipe(), blobs(), tmp_path / "run", engine="inductor")
    assert "\n" not in str(caught.value)


def test_settings_are_restored():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    with computing(Precision("float32")):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    assert before == after


def test_a_run_in_bfloat16_learns(tmp_path):
    run = train(network(CONVOLUTIONAL), recipe(precision__products="bfloat16", epochs=6), blobs(), tmp_path / "run")
    assert run.records[-1].losses["loss"] < run.records[0].losses["loss"]
    assert run.receipt["hardware"]["engine"] == "eager"


class Fixed:
    """A module with fixed memory, like a captured graph: results and gradients are valid until the next call."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module, self._parameters = module, tuple(module.parameters())
        self._memory: dict[Any, tuple[torch.Tensor | None, ...]] = {}

    def _kept(self, key: Any, values: Iterable[torch.Tensor | None]) -> tuple[torch.Tensor | None, ...]:
        values = tuple(values)
        places = self._memory.setdefault(key, tuple(None if v is None else v.detach().clone() for v in values))
        for place, value in zip(places, values, strict=True):
            if place is not None:
                place.copy_(value.detach())
        return tuple(None if place is None else place.detach() for place in places)

    def __call__(self, *arguments: torch.Tensor) -> Any:
        fixed, key = self, tuple(a.shape for a in arguments)

        class Call(torch.autograd.Function):
            @staticmethod
            def forward(context, *_):
                with torch.enable_grad():
                    context.inputs = [a.detach().requires_grad_(a.requires_grad) for a in arguments]
                    found = fixed._module(*context.inputs)
                context.outputs = found if isinstance(found, tuple) else (found,)
                return fixed._kept(("outputs", key), context.outputs)

            @staticmethod
            def backward(context, *slopes):
                pairs = [(y, slope) for y, slope in zip(context.outputs, slopes, strict=True) if y.requires_grad]
                wanted = [x for x in context.inputs if x.requires_grad]
                outputs, grads = zip(*pairs, strict=True)
                found = torch.autograd.grad(outputs, (*wanted, *fixed._parameters), grads, allow_unused=True)
                kept = iter(fixed._kept(("gradients", key), found))
                return (*(next(kept) if x.requires_grad else None for x in context.inputs), *kept)

        outputs = Call.apply(*arguments, *self._parameters)
        return outputs if len(outputs) > 1 else outputs[0]


@pytest.mark.parametrize("method", sorted(methods()))
def test_micro_batches_of_captured_graphs_add_up(method, tmp_path, monkeypatch):
    """A replay overwrites the gradients of the previous one; on a GPU this would go unnoticed."""
    layers = (
        {"type": "Flatten"},
        {"type": "Linear", "out_features": 8},
        {"type": "ReLU"},
        {"type": "Linear", "out_features": 3},
    )
    options = {
        "method": method,
        "batch_size": 32,
        "epochs": 2,
        "attack__steps": 2,
        "schedule__ramp": 0.25,
        "accumulate": 4,
    }
    trained = []
    for name in ("eager", "captured"):
        net = network(layers)
        train(net, recipe(**options), blobs(), tmp_path / name)
        trained.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters.parameters()]))
        monkeypatch.setattr(training_graphs, "running", lambda _, module: Fixed(module))
    torch.testing.assert_close(trained[1], trained[0], rtol=0, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("method", ["ibp", "sabr"])
def test_micro_batches_on_a_gpu_make_the_steps_of_the_whole_batch(method, tmp_path):
    ends = []
    for count in (1, 4):
        net = network(({"type": "Flatten"}, {"type": "Linear", "out_features": 3})).to("cuda")
        told = recipe(method=method, accumulate=count, precision__products="float32", attack__steps=2)
        train(net, told, blobs(), tmp_path / str(count), engine="cuda-graph")
        ends.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters.parameters()]))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("averaging", ["none", "ema"])
def test_a_run_on_a_gpu_can_be_resumed(averaging, tmp_path):
    """Weights and the optimizer's state are restored in the layout that the GPU uses."""
    told = recipe(epochs=4, averaging__kind=averaging, averaging__start=0.2, averaging__every=1)
    whole = train(network(CONVOLUTIONAL).to("cuda"), told, blobs(), tmp_path / "whole")

    class Stop(Silent):
        def finished_epoch(self, record):
            if record.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(TrainingError, match="run it again with --resume: it goes on after epoch 2"):
        train(network(CONVOLUTIONAL).to("cuda"), told, blobs(), tmp_path / "halved", reporter=Stop())
    rest = train(network(CONVOLUTIONAL).to("cuda"), told, blobs(), tmp_path / "halved", resume=True)
    assert rest.records[-1].losses["loss"] == pytest.approx(whole.records[-1].losses["loss"], rel=0.05)


def test_what_an_optimizer_keeps_comes_back_in_the_layout_of_its_parameter(tmp_path):
    """Fused optimizers refuse any other layout."""
    net = network(CONVOLUTIONAL, shape=(2, 4, 4))
    model, generator = net.parameters, torch.Generator()
    weight = model.get_submodule("conv1").weight
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    how = Optimization()
    optimizer = how.build(model.parameters())
    net.nominal_training(torch.rand(4, 2, 4, 4)).sum().backward()
    optimizer.step()
    average = WeightAverage(Averaging(), model, 10)
    kept = optimizer.state[weight]["exp_avg"].clone()
    identity = Identity({"method": "ibp", "eps": 0.1}, 0, "", "")
    Checkpoint.take(identity, 1, 0.0, model, optimizer, generator, average).write(tmp_path / "kept")
    fresh = how.build(model.parameters())
    Checkpoint.read(tmp_path / "kept").restore(model, how, fresh, generator, average, tmp_path)
    found = fresh.state[weight]["exp_avg"]
    assert found.stride() == weight.stride() != found.contiguous().stride()
    assert torch.equal(found, kept)


@needs_cuda
@pytest.mark.parametrize("method", sorted(methods()))
def test_captured_steps_have_the_gradients_of_eager_ones(method):
    exact = Precision("float32")
    with computing(exact):
        eager, captured = (
            gradients(network(CONVOLUTIONAL).to("cuda"), method, engine, exact, steps=3)
            for engine in (Engine.EAGER, Engine.CUDA_GRAPH)
        )
    for expected, found in zip(eager, captured, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@needs_cuda
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor imports what its own torch deprecates
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by dynamo of torch 2.11
@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_on_a_gpu_can_be_certified(engine, tmp_path):
    run = train(network(CONVOLUTIONAL).to("cuda"), recipe(epochs=8), blobs(), tmp_path / "run", engine=engine)
    assert run.validation is not None
    assert run.validation.nominal > 0.5
    assert Network.load(tmp_path / "run").nominal(torch.rand(2, 1, 4, 4)).shape == (2, 3)
