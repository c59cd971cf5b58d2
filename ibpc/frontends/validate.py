"""Translation validation: an imported graph must compute what the file computes.

The nominal graph is compared with independent implementations at points of the input domain, at batch 1 and at batch
3: ONNX Runtime sample by sample on the file, the ONNX reference evaluator where ONNX Runtime cannot run it, and the
conversion of onnx2torch where it converts. onnx2torch, whose silent mistakes are known, is outranked: where it alone
disagrees that is a note, and its agreement alone is not enough. Any other disagreement refuses the import and names
the first node at which the values part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from ibpc.errors import ModelError, ThirdPartyError, third_party
from ibpc.evaluation import enclose, evaluate
from ibpc.frontends.agreement import ABSOLUTE, RELATIVE, agree, agree_with_bounds, magnitude
from ibpc.frontends.onnx_fold import batch_symbols
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.runtime import session

BATCH_SIZE: Final = 3
# Judges by name.
ONNX_RUNTIME: Final = "ONNX Runtime"
REFERENCE: Final = "ONNX reference evaluator"

_SEED: Final = 0
# Samples far from zero are as many as have so many numbers together.
_FAR_NUMBERS: Final = 64
_ONNX2TORCH: Final = "onnx2torch"

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = tuple[Array, ...]
Judge: TypeAlias = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Judgement:
    """How far the graph is from one judge: the largest |ours − theirs| / max(1, max|theirs|) over `points` points."""

    judge: str
    points: int
    error: float


@dataclass(frozen=True)
class Validation:
    """Which judges agree with an imported graph, and what is worth knowing besides."""

    judgements: tuple[Judgement, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Disagreement:
    """A sample at which a judge and the graph part: `batch` are the inputs of the graph, `index` the sample in it."""

    judge: str
    batch: tuple[Tensor, ...]
    index: int
    output: int
    ours: Array
    theirs: Array


# ── the interface ───────────────────────────────────────────────────────────────────────────────────────────────
def validate(
    model: onnx.ModelProto,
    graph: Graph,
    where: str,
    values: Mapping[str, str] = MappingProxyType({}),
) -> Validation:
    """Compare the graph with the judges at drawn points.

    `values` maps ONNX values to nodes of the graph; it serves to name the node at which they part. Raises ModelError
    where the graph disagrees with a judge that counts, or where no judge can run the file.
    """
    near = list(draw(graph))
    far = draw_far(graph)
    batches = [*near, far] if far else near
    shapes = input_sizes(model.graph)
    ours = [_outputs(graph, batch) for batch in batches]
    bounds = [enclose(graph, batch) if batch is far else None for batch in batches]
    points = [[_sample(batch, index, shapes) for index in range(len(batch[0]))] for batch in batches]
    judgements: list[Judgement] = []
    notes: list[str] = []
    for name, make in ((ONNX_RUNTIME, _onnx_runtime), (REFERENCE, _reference), (_ONNX2TORCH, _onnx2torch)):
        if name == REFERENCE and judgements:
            continue
        if name == _ONNX2TORCH and not judgements:
            break
        try:
            judge = make(model)
            answers = [[judge(point) for point in batch] for batch in points]
        except ThirdPartyError as reason:
            notes.append(f"{name} cannot run the file: {reason}")
            continue
        result = _compare(name, batches, ours, bounds, answers)
        if isinstance(result, Judgement):
            judgements.append(result)
        elif name == _ONNX2TORCH:
            notes.append(f"{name} disagrees with {judgements[0].judge} and with the import; it is outranked")
        else:
            raise _refusal(model, graph, where, values, shapes, result)
    if not judgements:
        raise ModelError.at(where, "no judge can run it: " + "; ".join(notes), "a model that ONNX Runtime runs")
    notes.extend(_whole_batch(model, batches[0], ours[0], shapes))
    return Validation(tuple(judgements), tuple(notes))


# ── points ──────────────────────────────────────────────────────────────────────────────────────────────────────
def draw(graph: Graph) -> Iterator[tuple[Tensor, ...]]:
    """Yield a batch of three samples and one of one: uniform in the range, or normal and uniform without one."""
    generator = torch.Generator().manual_seed(_SEED)
    for count, spread in ((BATCH_SIZE, torch.randn), (1, torch.rand)):
        batch = []
        for name in graph.inputs:
            node = graph.node(name)
            shape, bounds = [count, *node.shape[1:]], node.attributes["range"]
            if bounds is None:
                batch.append(spread(shape, generator=generator))
            else:
                batch.append(bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, generator=generator))
        yield tuple(batch)


def draw_far(graph: Graph) -> tuple[Tensor, ...]:
    """Return a batch of samples far from zero, in the range of pixels of 8 bits too; none for inputs of known range."""
    if any(graph.node(name).attributes["range"] is not None for name in graph.inputs):
        return ()
    generator = torch.Generator().manual_seed(_SEED)
    samples = [graph.node(name).shape[1:] for name in graph.inputs]
    count = -(-_FAR_NUMBERS // max(1, *(prod(shape) for shape in samples)))
    parts: list[list[Tensor]] = [[] for _ in samples]
    for scale, spread in ((10.0, torch.randn), (255.0, torch.rand), (1e4, torch.randn)):
        for part, shape in zip(parts, samples, strict=True):
            part.append(scale * spread([count, *shape], generator=generator))
    return tuple(torch.cat(part) for part in parts)


def input_sizes(graph: onnx.GraphProto) -> tuple[tuple[int, ...], ...]:
    """Return the ONNX shape of each input at batch 1."""
    return tuple(
        tuple(dim.dim_value if dim.dim_value > 0 else 1 for dim in value.type.tensor_type.shape.dim)
        for value in graph.input
    )


def _outputs(graph: Graph, batch: Sequence[Tensor]) -> Arrays:
    values = evaluate(graph, batch)
    return tuple(values[name].numpy() for name in graph.outputs)


def _sample(batch: Sequence[Tensor], index: int, shapes: Sequence[tuple[int, ...]]) -> Arrays:
    """Return one sample of each input in the shape that the file gives it."""
    return tuple(x[index].reshape(shape).numpy() for x, shape in zip(batch, shapes, strict=True))


# ── comparing ───────────────────────────────────────────────────────────────────────────────────────────────────
def _compare(
    name: str,
    batches: Sequence[tuple[Tensor, ...]],
    ours: Sequence[Arrays],
    bounds: Sequence[Sequence[Interval] | None],
    answers: Sequence[Sequence[Arrays]],
) -> Judgement | _Disagreement:
    """Return the judge's verdict over all samples, or the first sample at which it disagrees.

    Far from zero, where rounding may do anything, there are `bounds` of what executions may compute.
    """
    error, points = 0.0, 0
    for batch, outputs, boxes, results in zip(batches, ours, bounds, answers, strict=True):
        for index, judged in enumerate(results):
            points += boxes is None
            for output, (mine, theirs) in enumerate(zip(outputs, judged, strict=True)):
                if boxes is not None:
                    box = boxes[output]
                    if not agree_with_bounds(box.lower[index].numpy(), box.upper[index].numpy(), theirs):
                        return _Disagreement(name, batch, index, output, mine[index], theirs)
                    continue
                if not agree(mine[index], theirs):
                    return _Disagreement(name, batch, index, output, mine[index], theirs)
                error = max(error, _error(mine[index], theirs))
    return Judgement(name, points, error)


def _error(ours: Array, theirs: Array) -> float:
    ours, theirs = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    finite = np.isfinite(theirs)
    return float(np.abs(ours[finite] - theirs[finite]).max(initial=0.0)) / magnitude(theirs[finite])


def _whole_batch(
    model: onnx.ModelProto, batch: Sequence[Tensor], ours: Arrays, shapes: Sequence[tuple[int, ...]]
) -> Iterator[str]:
    """Yield a note where the file takes a batch of three but does something else with it than sample by sample."""
    symbols = batch_symbols(model.graph)
    firsts = [value.type.tensor_type.shape.dim[:1] for value in model.graph.input]
    if not all(dims and (dims[0].dim_param in symbols or not dims[0].dim_value) for dims in firsts):
        return
    feed = tuple(x.reshape([len(x), *shape[1:]]).numpy() for x, shape in zip(batch, shapes, strict=True))
    try:
        judged = _onnx_runtime(model)(feed)
    except ThirdPartyError as reason:
        yield f"at batch {BATCH_SIZE} the file itself does not run: {reason}"
        return
    if not all(agree(mine, theirs) for mine, theirs in zip(ours, judged, strict=True)):
        yield f"at batch {BATCH_SIZE} the file itself mixes the samples; it is imported sample by sample"


def _refusal(
    model: onnx.ModelProto,
    graph: Graph,
    where: str,
    values: Mapping[str, str],
    shapes: Sequence[tuple[int, ...]],
    found: _Disagreement,
) -> ModelError:
    size = len(found.batch[0])
    distance = _error(found.ours, found.theirs) if found.ours.size == found.theirs.size else float("inf")
    place = _parting(model, graph, values, shapes, found) or f"output {graph.outputs[found.output]}"
    return ModelError.at(
        f"{where}: {place}",
        f"the import and {found.judge} part at batch {size}, by {distance:.2g} in the output",
        f"at most {ABSOLUTE:g} + {RELATIVE:g} relative",
    )


def _parting(
    model: onnx.ModelProto,
    graph: Graph,
    values: Mapping[str, str],
    shapes: Sequence[tuple[int, ...]],
    found: _Disagreement,
) -> str | None:
    """Return the first node, in topological order, at which the graph and the judge part."""
    make = _reference if found.judge == REFERENCE else _onnx_runtime
    made = {name: node for node in model.graph.node for name in node.output if values.get(name, "") in graph}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    point = _sample(found.batch, found.index, shapes)
    try:
        judged = make(exposed)(point)
    except ThirdPartyError:
        return None
    ours = evaluate(graph, found.batch)
    for (name, node), theirs in zip(made.items(), judged, strict=True):
        mine = ours[values[name]]
        if len(mine) != len(found.batch[0]) or not agree(mine[found.index].numpy(), theirs):
            return f"node {node.name} ({node.op_type})"
    return None


# ── the judges: sample by sample, in the shapes and types of the file ───────────────────────────────────────────
def _onnx_runtime(model: onnx.ModelProto) -> Judge:
    with third_party():
        run = session(model.SerializeToString())
    return _runner(model, run)


def _reference(model: onnx.ModelProto) -> Judge:
    with third_party():
        evaluator = ReferenceEvaluator(model)
    return _runner(model, lambda feed: evaluator.run(None, feed))


def _runner(model: onnx.ModelProto, run: Callable[[dict[str, Array]], Any]) -> Judge:
    types = [onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in model.graph.input]
    names = [value.name for value in model.graph.input]

    def judge(inputs: Arrays) -> Arrays:
        feed = {name: x.astype(kind) for name, x, kind in zip(names, inputs, types, strict=True)}
        with np.errstate(all="ignore"), third_party():
            return tuple(np.asarray(result) for result in run(feed))

    return judge


def _onnx2torch(model: onnx.ModelProto) -> Judge:
    with warnings.catch_warnings(), third_party():
        warnings.simplefilter("ignore")
        import onnx2torch

        module = onnx2torch.convert(model).eval()
    types = [
        torch.float64 if value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE else torch.float32
        for value in model.graph.input
    ]

    def judge(inputs: Arrays) -> Arrays:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            feed = [torch.from_numpy(x.copy()).to(kind) for x, kind in zip(inputs, types, strict=True)]
            with third_party():
                found = module(*feed)
        results = found if isinstance(found, list | tuple) else [found]
        if len(results) != len(model.graph.output):
            raise ThirdPartyError(f"it returns {len(results)} outputs of {len(model.graph.output)}")
        if not all(isinstance(result, Tensor) for result in results):
            raise ThirdPartyError("it returns what is no tensor")
        return tuple(result.numpy() for result in results)

    return judge
