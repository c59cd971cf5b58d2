"""An nn.Module with an example input → IR, through an ONNX export.

The export is torch's TorchScript one, which needs nothing besides torch and keeps BatchNormalization apart from its
neighbours; where it gives up, the torch.export one is tried, which needs the package onnxscript. The import is
validated like any ONNX file, and against the module itself.
"""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from math import exp, log1p
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from ibpc.errors import ModelError, ThirdPartyError, third_party
from ibpc.evaluation import enclose, evaluate
from ibpc.frontends.agreement import agree, agree_with_bounds
from ibpc.frontends.onnx import Constants, graph_from_onnx
from ibpc.frontends.onnx_load import read_model
from ibpc.frontends.validate import BATCH_SIZE, draw, draw_far
from ibpc.hints import NARROWED
from ibpc.ir import Graph
from ibpc.ops import operators
from ibpc.rounding import UNIT

_OPSET: Final = 18
_DROPOUT: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# What torch.nn.functional.softplus takes for beta and threshold if they are left out.
_SOFTPLUS: Final = (1.0, 20.0)
# In the names of what torch.export raises where a module chooses by values.
_DATA_DEPENDENT: Final = "DataDependent"


def load_module(module: nn.Module, example: Tensor | Sequence[Tensor]) -> Graph:
    """Return the network that a module in evaluation mode computes; its weights are copied.

    `example` is an input of shape (B, …), or one for each argument of `forward`; the batch is dimension 0. Tensors in
    tuples, lists and dicts become outputs in their order. Raises ModelError where the module cannot be exported, or
    does something else than its export on other inputs.
    """
    where = f"module {type(module).__name__}"
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    _expect_usable(module, inputs, where)
    module = _flattened(module, tuple(x[:1] for x in inputs), where)
    # What is claimed of it is claimed of the network's own export, where constants are numbers.
    graph = graph_from_onnx(_exported(module, tuple(x[:1] for x in inputs), where), where, Constants.GIVEN)
    graph.name = type(module).__name__
    for batch in (tuple(x[:BATCH_SIZE] for x in inputs), *draw(graph)):
        _expect_agreement(module, graph, batch, where)
    if far := draw_far(graph):
        _expect_agreement_far_away(module, graph, far, where)
    return graph


def changed_in_compiling(module: nn.Module) -> Iterator[str]:
    """Yield in what the network of a module differs from the module."""
    if any(value.dtype == torch.float64 for value in _floats(module)):
        yield NARROWED


def _floats(module: nn.Module) -> Iterator[Tensor]:
    """Yield the floating-point parameters and buffers."""
    yield from (value for value in (*module.parameters(), *module.buffers()) if value.is_floating_point())


def changed_in_training(module: nn.Module, graph: Graph) -> Iterator[str]:
    """Yield how training the network of a module differs from training the module."""
    dropped = [name for name, part in module.named_modules() if isinstance(part, _DROPOUT) and part.p > 0]
    if dropped:
        yield f"dropout is inactive in training: {', '.join(dropped)} was compiled in evaluation mode"
    made = _made(module)
    free = [name for name, (weight, _) in made.items() if _is_free(weight, graph)]
    if free:
        yield (
            "trained as free weights, without the parametrization that makes them, so that copy_weights cannot bring "
            f"them back: {', '.join(free)}"
        )
    told = tuple(parts for name, (_, parts) in made.items() if name in free)
    copies = _copies(module, graph)
    frozen = [name for name, count in copies.items() if count == 0 and not name.startswith(told)]
    if frozen:
        yield f"not trained, because they are constants of the compiled network: {', '.join(frozen)}"
    apart = [
        name for name, parameter in module.named_parameters() if copies.get(name, 0) > 1 and _is_telling(parameter)
    ]
    if apart:
        yield f"used several times, so that training makes a weight of its own of each use: {', '.join(apart)}"


def _made(module: nn.Module) -> dict[str, tuple[Tensor, str]]:
    """Return the weights that parametrizations make, with what the names of all that they are made of begin with."""
    return {
        f"{prefix}{weight}": (getattr(part, weight), f"{prefix}parametrizations.{weight}.")
        for name, part in module.named_modules()
        if is_parametrized(part)
        for prefix in [f"{name}." if name else ""]
        for weight in part.parametrizations
    }


def _is_free(weight: Tensor, graph: Graph) -> bool:
    """Return whether a trained weight of the graph has the numbers of a computed one, up to rounding."""
    own = _flat(weight).sort().values
    trained = (_flat(torch.as_tensor(value)) for key, value in graph.state.items() if _is_trained(graph, key))
    return any(len(held) == len(own) and torch.allclose(held.sort().values, own, atol=1e-6) for held in trained)


def _copies(module: nn.Module, graph: Graph) -> dict[str, int]:
    """Return, for each parameter that is trained, how many weights of the graph have its numbers."""
    weights: defaultdict[tuple[float, ...], list[Tensor]] = defaultdict(list)
    for key, value in graph.state.items():
        if _is_trained(graph, key):
            weight = _flat(torch.as_tensor(value))
            weights[_extent(weight)].append(weight)
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            own = _flat(parameter)
            found[name] = sum(_are_same_numbers(weight, own) for weight in weights[_extent(own)])
    return found


def _is_trained(graph: Graph, key: str) -> bool:
    node, _, role = key.rpartition(".")
    return role in operators()[graph.node(node).operator].trainable


def _flat(value: Tensor) -> Tensor:
    return value.detach().cpu().float().flatten()


def _extent(value: Tensor) -> tuple[float, ...]:
    """Return count, least and largest number: equal for the same numbers in whatever order, and soon found."""
    return (len(value), *(float(end) for end in torch.aminmax(value))) if len(value) else (0,)


def _are_same_numbers(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors of one extent have the same numbers, in whatever order."""
    return bool(torch.equal(first, second)) or bool(torch.equal(first.sort().values, second.sort().values))


def _is_telling(parameter: Tensor) -> bool:
    """Return whether equal numbers are evidence of one shared parameter.

    They are not if all of them are the same, as in fresh biases and scales.
    """
    return bool((parameter != parameter.flatten()[0]).any())


def _expect_usable(module: nn.Module, inputs: Sequence[Tensor], where: str) -> None:
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        raise ModelError.at(where, f"{training[0]} is in training mode", "a module in evaluation", "call module.eval()")
    narrow = sorted({str(value.dtype) for value in _floats(module) if value.dtype.itemsize < 4})
    if narrow:
        raise ModelError.at(where, f"weights of {', '.join(narrow)}", "float32", "call module.float()")
    for slot, x in enumerate(inputs):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 1 or len(x) < 1:
            raise ModelError.at(
                f"{where}: example input {slot}", _described(x), "a floating-point tensor of shape (B, …), B ≥ 1"
            )


class _Flat(nn.Module):
    """A module whose outputs are the tensors that another one returns in containers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.training = module, False

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(self.module(*inputs)) if leaf is not None)


def _flattened(module: nn.Module, inputs: tuple[Tensor, ...], where: str) -> nn.Module:
    """Return the module, or one that returns its tensors in a tuple if it returns them in anything else."""
    results = _results(module, inputs, where)
    _tensors(results, where)
    parts = results if isinstance(results, tuple | list) else [results]
    return module if all(isinstance(part, Tensor) for part in parts) else _Flat(module)


def _called(module: nn.Module, inputs: tuple[Tensor, ...], where: str) -> tuple[Tensor, ...]:
    """Return the module's outputs. Raises ModelError for whatever it raises, and where it returns anything else."""
    return _tensors(_results(module, inputs, where), where)


def _results(module: nn.Module, inputs: tuple[Tensor, ...], where: str) -> object:
    try:
        with torch.no_grad(), third_party():
            return module(*inputs)
    except ThirdPartyError as error:
        found = f"it does not run on its example input at batch {len(inputs[0])}: {error}"
        raise ModelError.at(where, found, remedy="the first dimension of an example is the batch") from error


def _described(x: object) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def _exported(module: nn.Module, inputs: tuple[Tensor, ...], where: str) -> onnx.ModelProto:
    """Return the module as an ONNX model at batch 1."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "module.onnx"
        _export(module, inputs, path, where)
        return read_model(path)


def _export(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, where: str) -> None:
    """Write the module as an ONNX file, by the first exporter that can."""
    tracing: dict[str, Any] = {
        "dynamo": False,
        "opset_version": _OPSET,
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
    }
    exporters = {"by tracing": tracing}
    if find_spec("onnxscript") is not None:
        exporters["by torch.export"] = {"dynamo": True, "verbose": False}
    remedy = "" if len(exporters) > 1 else "try again after: pip install onnxscript"
    reasons = []
    for name, options in exporters.items():
        try:
            with third_party():
                is_doubtful = _run_exporter(module, inputs, path, options)
        except ThirdPartyError as error:
            reasons.append(f"{name}: {error}")
            continue
        _expect_no_choices(module, inputs, where, is_doubtful)
        return
    raise ModelError.at(where, f"torch.onnx cannot export it, {'; '.join(reasons)}", remedy=remedy)


@contextmanager
def quietly() -> Iterator[list[warnings.WarningMessage]]:
    """Keep what torch's exporters print, log and warn of from the terminal; yield the warnings as they come."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with (
            warnings.catch_warnings(record=True) as seen,
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
            _without_graphs(),
        ):
            warnings.simplefilter("always")
            yield seen
    finally:
        logging.disable(disabled)


@contextmanager
def _without_graphs() -> Iterator[None]:
    """Keep torch.onnx from printing graphs past Python's streams.

    Its exporter by tracing turns that log on, whatever is asked of it, and never off again. The switch is private: a
    version of torch without it prints.
    """
    name, is_on = "_jit_set_onnx_log_enabled", getattr(torch._C, "_jit_is_onnx_log_enabled", None)
    switch = getattr(torch._C, name, None)
    if switch is None or is_on is None:
        yield
        return
    was_on = is_on()
    switch(False)
    try:
        with patch.object(torch._C, name, lambda _: None):
            yield
    finally:
        switch(was_on)


def _run_exporter(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, options: Mapping[str, Any]) -> bool:
    """Export; return whether a trace may have frozen a choice that values make."""
    with quietly() as seen:
        torch.onnx.export(module, inputs, path, input_names=_names(len(inputs)), **options)
    return any(warning.category.__name__ == "TracerWarning" for warning in seen)


def _expect_no_choices(module: nn.Module, inputs: tuple[Tensor, ...], where: str, is_doubtful: bool) -> None:
    """Raise ModelError unless torch.export, which follows values through Python, finds no choice that they make.

    That it cannot export the module for another reason counts only where the trace is doubtful.
    """
    try:
        with third_party(), quietly():
            program = torch.export.export(module, inputs)
        _expect_smooth(program.graph, where)
    except ThirdPartyError as error:
        if not is_doubtful and _DATA_DEPENDENT not in type(error.__cause__).__name__:
            return
        raise ModelError.at(
            where,
            f"its trace may have frozen a choice that values make: {error}",
            "a module without such choices",
            "torch.where chooses value by value; if the trace is right, export it to ONNX yourself and compile that",
        ) from error


def _expect_smooth(graph: torch.fx.Graph, where: str) -> None:
    """Raise ModelError for a Softplus that jumps to x at a threshold where both differ: its export has no threshold."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.softplus.default:
            given: list[Any] = list(node.args[1:])
            beta, threshold = given + list(_SOFTPLUS[len(given) :])
            if not log1p(exp(-max(threshold, 0.0))) <= UNIT * abs(beta):
                found = f"a Softplus that is x beyond a threshold of {threshold:g}, where it is not"
                raise ModelError.at(f"{where}: {node.name}", found, f"a threshold of {_SOFTPLUS[1]:g}, the default")


def _names(count: int) -> list[str]:
    return ["input"] if count == 1 else [f"input_{slot}" for slot in range(count)]


def _expect_agreement(module: nn.Module, graph: Graph, batch: Sequence[Tensor], where: str) -> None:
    """Raise ModelError unless module and graph agree on a batch: a trace may have frozen a choice the module makes."""
    theirs = _run(module, batch, where)
    values = evaluate(graph, _shaped(graph, batch))
    for name, judged in zip(graph.outputs, theirs, strict=True):
        if not agree(values[name].numpy(), judged.float().cpu().numpy()):
            raise ModelError.at(
                f"{where}: output {name}",
                f"its export does something else at batch {len(batch[0])}",
                "a module without choices that depend on values, and with samples that do not depend on each other",
            )


def _expect_agreement_far_away(module: nn.Module, graph: Graph, batch: Sequence[Tensor], where: str) -> None:
    """Raise ModelError where the module is outside of what executions of the graph may compute far from zero."""
    try:  # Each sample by itself makes its own choices.
        theirs = _run_each(module, batch, where)
    except ModelError:  # It does not run there.
        return
    for name, box, judged in zip(graph.outputs, enclose(graph, _shaped(graph, batch)), theirs, strict=True):
        sides = box.lower.numpy(), box.upper.numpy(), judged.double().cpu().numpy()
        for index, (lower, upper, values) in enumerate(zip(*sides, strict=True)):
            if not agree_with_bounds(lower, upper, values):
                size = max(float(x[index].abs().max()) for x in batch)
                raise ModelError.at(
                    f"{where}: output {name}",
                    f"its export does something else where inputs are as large as {size:.3g}",
                    "a module that torch.onnx exports faithfully, without choices that depend on values",
                )


def _shaped(graph: Graph, batch: Sequence[Tensor]) -> list[Tensor]:
    """Return inputs (B, …) in float32, in the shapes of the graph."""
    shapes = [graph.node(name).shape[1:] for name in graph.inputs]
    return [x.float().cpu().reshape(len(x), *shape) for x, shape in zip(batch, shapes, strict=True)]


def _run(module: nn.Module, batch: Sequence[Tensor], where: str) -> tuple[Tensor, ...]:
    """Return the module's outputs for a batch, sample by sample where it takes only one at a time."""
    try:
        return _called(module, _at_home(module, batch), where)
    except ModelError:  # A batch size may be written into the module.
        return _run_each(module, batch, where)


def _run_each(module: nn.Module, batch: Sequence[Tensor], where: str) -> tuple[Tensor, ...]:
    """Return the module's outputs for a batch, sample by sample."""
    inputs = _at_home(module, batch)
    points = [tuple(x[index : index + 1] for x in inputs) for index in range(len(batch[0]))]
    samples = [_called(module, point, where) for point in points]
    return tuple(torch.cat(outputs) for outputs in zip(*samples, strict=True))


def _at_home(module: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return inputs on the device and in the type of the module's parameters."""
    home = next((parameter for parameter in module.parameters()), batch[0])
    return tuple(x.to(home.device, home.dtype) for x in batch)


def _tensors(results: object, where: str) -> tuple[Tensor, ...]:
    """Return the tensors in what a module returned, in their order. Raises ModelError for anything else than these."""
    found = [leaf for leaf in tree_leaves(results) if leaf is not None]
    others = sorted({type(leaf).__name__ for leaf in found if not isinstance(leaf, Tensor)})
    if others or not found:
        kinds = ", ".join(others) or "no tensor"
        raise ModelError.at(where, f"it returns {kinds}", "a tensor, or tensors in tuples, lists and dicts")
    return tuple(found)
