"""How training graphs run: as they are, compiled by inductor, or captured as CUDA graphs; and in which precision.

A captured graph replays its kernels with one launch, so the host no longer limits how fast small networks train. It
reads and writes fixed memory: results are valid until the next call, so **a graph is called at most once between two
backward passes through it**. A second call in one step needs a graph of its own.
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
    """The number format of products in training. Sums, bounds and losses are always binary32."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Precision:
    """The number formats in training. Certification always uses binary32."""

    products: str = value(
        Products.TF32.value,
        "Operands of convolutions and matrix products: float32; tf32 (10 bits of mantissa, on GPUs that have it, "
        "elsewhere float32); bfloat16 (7 bits). Results, sums of center and radius, and losses stay float32",
        enum=[kind.value for kind in Products],
    )


USUAL: Final = Precision()


@contextmanager
def computing(precision: Precision) -> Iterator[None]:
    """Allow or forbid TF32 in PyTorch while the block runs, and restore the settings on exit."""
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
    """Round the operands of a graph's products to bfloat16 and convert the results to float32, in place.

    Center and radius are added later: in bfloat16, with 8 bits, a radius of 1/256 of its center would be lost.
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
    """How training graphs are executed."""

    EAGER = "eager"
    INDUCTOR = "inductor"
    CUDA_GRAPH = "cuda-graph"


ENGINES: Final = ("auto", *(engine.value for engine in Engine))


def chosen_engine(name: str, device: torch.device, processes: int = 1) -> Engine:
    """Return the engine of a name; `auto` is the one that measured fastest: CUDA graphs on a GPU, else eager.

    Raises UsageError for an unknown name, and for CUDA graphs on another device or with several processes (whose
    communication cannot be captured).
    """
    if name not in ENGINES:
        raise UsageError.at("engine", f"found {name!r}", f"one of {', '.join(ENGINES)}", nearest(name, ENGINES))
    can_capture = device.type == "cuda" and processes == 1
    if name == "auto":
        return Engine.CUDA_GRAPH if can_capture else Engine.EAGER
    if name == Engine.CUDA_GRAPH.value and not can_capture:
        found = f"{name} on {device}, processes: {processes}"
        raise UsageError.at("engine", found, "one process on a CUDA device", "engine auto takes what fits")
    return Engine(name)


def running(engine: Engine, module: nn.Module) -> Callable[..., Any]:
    """Return a training graph as the engine runs it, with the same values and gradients."""
    if engine is Engine.CUDA_GRAPH:
        return _Captured(module)
    return _compiled(module) if engine is Engine.INDUCTOR else module


def repeating(engine: Engine, function: Callable[..., Tensors]) -> Callable[..., Tensors]:
    """Return a function of tensors, whose gradients stay inside it, as the engine runs it."""
    return _Replayed(function) if engine is Engine.CUDA_GRAPH else function


def arrange(parameters: Iterable[nn.Parameter]) -> None:
    """Store the weights of 2-D convolutions on a GPU channels last, as tensor cores expect, in place.

    Their outputs then have the same layout, so images need not be transposed before each convolution. Weights on a CPU
    stay as they are: there, most networks get slower and only a few faster (`benchmarks/speed.md`).
    """
    for parameter in parameters:
        if parameter.is_cuda and parameter.dim() == _PLANAR:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


class _Captured:
    """A module as CUDA graphs of its forward and backward passes, one pair per signature of arguments."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._graphs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arguments: torch.Tensor) -> Any:
        key = tuple((a.shape, a.dtype, a.requires_grad) for a in arguments)
        if key not in self._graphs:
            self._graphs[key] = self._capture(arguments)
        return self._graphs[key](*arguments)

    def _capture(self, arguments: Tensors) -> Callable[..., Any]:
        """Capture the module, and undo the changes that the warm-up makes to buffers (running statistics)."""
        samples = tuple(a.detach().clone().requires_grad_(a.requires_grad) for a in arguments)
        buffers = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        held = _Held(self._module)
        with warnings.catch_warnings():
            # The AccumulateGrad nodes may belong to another graph of this step; capturing accumulates nothing.
            warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
            captured: Callable[..., Any] = torch.cuda.make_graphed_callables(
                held, samples, num_warmup_iters=_WARM_UPS, allow_unused_input=True
            )
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        return captured


class _Held(nn.Module):
    """A wrapper whose `forward` capturing may replace, so that the module keeps its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: torch.Tensor) -> Any:
        return self.module(*arguments)


class _Replayed:
    """A function as one CUDA graph per signature of arguments. Results are copies."""

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
    """Turn a failure of inductor, such as a missing C++ compiler, into a TrainingError."""
    if engine is not Engine.INDUCTOR:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        found = first_line(error)
        raise TrainingError.at("engine inductor", found, "graphs that it compiles", "engine eager") from error


def _compiled(module: nn.Module) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(module)
    return compiled
