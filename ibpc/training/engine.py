"""How training graphs run: as they are, compiled by inductor, or captured as CUDA graphs; and in which precision.

A captured graph replays its kernels with one launch, so the host no longer limits how fast small networks train. It
reads and writes fixed memory: results hold until the next call, so **one graph is called at most once between two
backward passes through it**. What needs a second call in one step has a graph of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

import torch
from torch import fx, nn
from torch.nn import functional as F

from ibpc.errors import TrainingError, UsageError, first_line, nearest
from ibpc.training.fields import value

Tensors: TypeAlias = tuple[torch.Tensor, ...]

_WARM_UPS: Final = 3
_PLANAR: Final = 4


# ── precision ───────────────────────────────────────────────────────────────────────────────────────────────────
class Products(Enum):
    """The numbers that products are computed with in training. Sums, bounds and losses are binary32 in all of them."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Precision:
    """What a recipe says of the numbers in training. Certification is always binary32."""

    products: str = value(
        Products.TF32.value,
        "Operands of convolutions and matrix products: float32; tf32 (10 bits of mantissa, on GPUs that have it, "
        "elsewhere float32); bfloat16 (7 bits). Results, sums of center and radius, and losses stay float32",
        enum=[kind.value for kind in Products],
    )


USUAL: Final = Precision()


@contextmanager
def computing(precision: Precision) -> Iterator[None]:
    """Let PyTorch use TF32 or not while the block runs. Restores the settings on exit."""
    is_rounded = precision.products != Products.FLOAT32.value
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if is_rounded else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=is_rounded):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


_PRODUCTS: Final[frozenset[Callable[..., torch.Tensor]]] = frozenset(
    {
        F.linear,
        torch.matmul,
        *(F.conv1d, F.conv2d, F.conv3d),
        *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    }
)


def in_bfloat16(module: fx.GraphModule) -> fx.GraphModule:
    """Let a graph round the operands of its products to bfloat16 and go on in float32 with their results, in place.

    Center and radius of a box meet in sums behind it: 8 bits there would swallow a radius of 1/256 of its center.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in _PRODUCTS:
            _round_operands(module.graph, node)
    module.graph.lint()
    module.recompile()
    return module


def _round_operands(graph: fx.Graph, product: fx.Node) -> None:
    with graph.inserting_before(product):
        rounded = {source: graph.call_method("to", (source, torch.bfloat16)) for source in product.all_input_nodes}
    product.args = fx.node.map_arg(product.args, rounded.__getitem__)
    with graph.inserting_after(product):
        widened = graph.call_method("float", (product,))
    product.replace_all_uses_with(widened, delete_user_cb=lambda user: user is not widened)


# ── engines ─────────────────────────────────────────────────────────────────────────────────────────────────────
class Engine(Enum):
    """What runs the training graphs."""

    EAGER = "eager"
    INDUCTOR = "inductor"
    CUDA_GRAPH = "cuda-graph"


AUTO: Final = "auto"
ENGINES: Final = (AUTO, *(engine.value for engine in Engine))


def chosen_engine(name: str, device: torch.device, processes: int = 1) -> Engine:
    """Return the engine of a name; `auto` is what measured fastest: CUDA graphs on a GPU, else eager.

    Raises UsageError for an unknown name, and for CUDA graphs on another device or in several processes (their
    exchange is not captured).
    """
    if name not in ENGINES:
        raise UsageError.at("engine", f"found {name!r}", f"one of {', '.join(ENGINES)}", nearest(name, ENGINES))
    can_capture = device.type == "cuda" and processes == 1
    if name == AUTO:
        return Engine.CUDA_GRAPH if can_capture else Engine.EAGER
    if name == Engine.CUDA_GRAPH.value and not can_capture:
        found = f"{name} on {device}, processes: {processes}"
        raise UsageError.at("engine", found, "one process on a CUDA device", "--compile auto takes what fits")
    return Engine(name)


def running(engine: Engine, module: nn.Module) -> Callable[..., Any]:
    """Return a training graph as the engine runs it: the same values, and the same gradients."""
    if engine is Engine.CUDA_GRAPH:
        return _Captured(module)
    return _compiled(module) if engine is Engine.INDUCTOR else module


def repeating(engine: Engine, function: Callable[..., Tensors]) -> Callable[..., Tensors]:
    """Return a function of tensors, free of gradients outside itself, as the engine runs it."""
    return _Replayed(function) if engine is Engine.CUDA_GRAPH else function


def arrange(parameters: Iterable[nn.Parameter]) -> None:
    """Lay out the weights of planar convolutions as a GPU's tensor cores want them, channels last, in place.

    Their results take the same layout, so images need not be turned around in front of each one. On a CPU most networks
    lose by it, a few gain (`benchmarks/README.md`).
    """
    for parameter in parameters:
        if parameter.is_cuda and parameter.dim() == _PLANAR:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


class _Captured:
    """A module as CUDA graphs of its forward and backward passes, one pair for each signature of arguments."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._graphs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arguments: torch.Tensor) -> Any:
        key = tuple((a.shape, a.dtype, a.requires_grad) for a in arguments)
        if key not in self._graphs:
            self._graphs[key] = self._capture(arguments)
        return self._graphs[key](*arguments)

    def _capture(self, arguments: Tensors) -> Callable[..., Any]:
        """Capture; what the warm-up does to buffers (running statistics) is undone."""
        samples = tuple(a.detach().clone().requires_grad_(a.requires_grad) for a in arguments)
        buffers = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        held = _Held(self._module)
        with warnings.catch_warnings():
            # The parameters' nodes may belong to another graph of this step; here nothing is accumulated into them.
            warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
            captured: Callable[..., Any] = torch.cuda.make_graphed_callables(
                held, samples, num_warmup_iters=_WARM_UPS, allow_unused_input=True
            )
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        return captured


class _Held(nn.Module):
    """A module around a module: capturing replaces the `forward` of this one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: torch.Tensor) -> Any:
        return self.module(*arguments)


class _Replayed:
    """A function as one CUDA graph for each signature of arguments. Results are copies."""

    def __init__(self, function: Callable[..., Tensors]) -> None:
        self._function = function
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}

    def __call__(self, *arguments: torch.Tensor) -> Tensors:
        key = tuple((a.shape, a.dtype) for a in arguments)
        if key not in self._graphs:
            self._graphs[key] = self._capture(arguments)
        graph, inputs, outputs = self._graphs[key]
        for place, argument in zip(inputs, arguments, strict=True):
            place.copy_(argument.detach())
        graph.replay()
        return tuple(output.clone() for output in outputs)

    def _capture(self, arguments: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensors]:
        inputs = tuple(a.detach().clone() for a in arguments)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(*inputs)
        return graph, inputs, outputs


@contextmanager
def compiling(engine: Engine) -> Iterator[None]:
    """Turn what inductor cannot compile, here or for want of a C++ compiler, into a TrainingError."""
    if engine is not Engine.INDUCTOR:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        found = first_line(error)
        raise TrainingError.at("--compile inductor", found, "graphs that it compiles", "--compile eager") from error


def _compiled(module: nn.Module) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(module)
    return compiled
