"""The official ONNX backend node tests, for every ONNX type that an operator reads, in every opset that they come in.

Each official case is a model of one node with inputs and expected outputs. Its first input of floats (or of truth
values, by a Cast) is the network's input, and once more all of them where the operator takes several boxes; the others
become constants, as in the files that people write. Then: the nominal graph computes the expected outputs, a box of
width zero holds them, and a real box holds what the ONNX reference evaluator computes at points of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from ibpc.errors import IbpcError
from ibpc.evaluation import evaluate
from ibpc.frontends.onnx import translate
from ibpc.ir import Graph
from ibpc.lowering import lower_interval, parameter_tree
from ibpc.ops import operators
from ibpc.rounding import Arithmetic

RADIUS = 0.05
SAMPLES = 6
TENSOR = onnx.TensorProto
FREE = (TENSOR.FLOAT, TENSOR.DOUBLE, TENSOR.BOOL)
READABLE = (*FREE, TENSOR.INT32, TENSOR.INT64, TENSOR.INT8, TENSOR.UINT8)
READ = sorted({reading.type for operator in operators().values() for reading in operator.reads})

# Cases that are refused, by what their name starts with, and why.
EXCLUDED: Mapping[str, str] = {
    "test_batchnorm_epsilon_training_mode": "it normalizes by the batch, which is no function of one sample",
    "test_batchnorm_example_training_mode": "it normalizes by the batch, which is no function of one sample",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime divides by the size, the reference by 2.4 − 1",
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime divides by the size, the reference by 3.2 − 1",
    "test_dropout_default_mask": "the mask is an output",
    "test_training_dropout": "it is random",
    "test_dynamicquantizelinear": "the scale depends on the range of the input",
    "test_l1normalization_axis_last": "the reference evaluator adds up numbers, not their moduli, and 0 turns negative",
    "test_maxpool_with_argmax": "the indices are an output",
    "test_top_k": "the indices of more than one element are an output",
    "test_slice_start_out_of_bounds": "the output is empty",
    "test_dequantizelinear_blocked": "blocked scales",
    "test_dequantizelinear": "the scale is its only floating input",
    "test_onehot_": "the depth is its only floating input",
    "test_mod_float_edge_cases": "infinite inputs",
    "test_mod_mixed_sign_float64": "an import rounds the divisor to float32, and the remainder is taken to be exact",
    "test_quantizelinear_blocked": "blocked scales",
}


@cache
def official_cases() -> Mapping[str, list]:
    """The official cases by ONNX type: those of one node, of opset 7 or later, in types that networks compute in.

    Those whose inputs of floats are empty have nothing to bound.
    """
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    found: dict[str, list] = {}
    for case in cases:
        if case.model is None or len(case.model.graph.node) != 1 or not case.data_sets or not is_readable(case.model):
            continue
        names = [value.name for value in case.model.graph.input]
        if free_inputs(case.model, dict(zip(names, map(array_of, case.data_sets[0][0]), strict=True))):
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def is_readable(model: onnx.ModelProto) -> bool:
    types = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    wanted = [value.type.tensor_type.elem_type in FREE for value in model.graph.input]
    return model.opset_import[0].version >= 7 and all(kind in READABLE for kind in types) and any(wanted)


def free_inputs(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> list[str]:
    return [
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type in FREE and values[value.name].size
    ]


def with_constants(model: onnx.ModelProto, values: Mapping[str, np.ndarray], free: list[str]) -> onnx.ModelProto:
    """Return the model with all inputs but the `free` ones as initializers, and truth values cast from floats."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in values.items() if name not in free
    )
    kept = [value for value in copy.graph.input if value.name in free]
    for value in kept:
        if value.type.tensor_type.elem_type == TENSOR.BOOL:
            copy.graph.node.insert(
                0, onnx.helper.make_node("Cast", [value.name], [f"{value.name}_truth"], to=TENSOR.BOOL)
            )
            last = copy.graph.node[-1]
            last.input[:] = [f"{name}_truth" if name == value.name else name for name in last.input]
            value.type.tensor_type.elem_type = TENSOR.FLOAT
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    return copy


def with_symbolic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with dimension 0 of its inputs symbolic, and outputs without a shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return copy


def fed(graph: Graph, free: list[str], values: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
    """Return the values of the free inputs as one sample, or as a batch where the graph makes one of dimension 0."""
    shapes = [graph.node(name).shape[1:] for name in graph.inputs]
    return [
        torch.from_numpy(np.asarray(values[name], np.float32).copy()).reshape(-1, *shape)
        for name, shape in zip(free, shapes, strict=True)
    ]


def array_of(value) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def close(mine: np.ndarray, theirs: np.ndarray, case) -> bool:
    mine, theirs = mine.astype(np.float64).ravel(), np.asarray(theirs).astype(np.float64).ravel()
    scale = max(1.0, float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)))
    tolerances = {"rtol": max(case.rtol, 1e-4), "atol": 1e-5 * scale, "equal_nan": True}
    return mine.shape == theirs.shape and np.allclose(mine, theirs, **tolerances)


def faults(case) -> Iterator[str]:
    """Yield what is wrong with the case, and raise IbpcError where it cannot be imported in any form."""
    model, (inputs, expected) = case.model, case.data_sets[0]
    values = {value.name: array_of(x) for value, x in zip(model.graph.input, inputs, strict=True)}
    free = free_inputs(model, values)
    refusals = []
    for chosen in [free[:1], free] if len(free) > 1 else [free]:
        frozen = with_constants(model, values, chosen)
        for form in (frozen, with_symbolic_batch(frozen)):
            try:
                graph = translate(form, case.name).graph
            except IbpcError as error:
                refusals.append(error)
                continue
            yield from compared(case, graph, frozen, chosen, values, expected)
            break
    if len(refusals) >= 2 * min(len(free), 2):
        raise refusals[0]


def compared(case, graph, model, free, values, expected) -> Iterator[str]:
    points = fed(graph, free, values)
    results = evaluate(graph, points)
    for name, theirs in zip(graph.outputs, expected, strict=False):
        if not close(results[name].numpy(), array_of(theirs), case):
            yield f"{case.name}: the nominal value differs"
    bounded = lower_interval(graph, parameter_tree(graph), Arithmetic.FLOAT32)
    with torch.no_grad():
        point_ends = bounded(*(x for point in points for x in (point, point)))
        ends = bounded(*(x for point in points for x in (point - RADIUS, point + RADIUS)))
    for number, name in enumerate(graph.outputs):
        value = results[name]
        lower, upper = point_ends[2 * number], point_ends[2 * number + 1]
        if not holds(lower, upper, value):
            yield f"{case.name}: the box of width zero does not hold the value"
    yield from sampled(case, graph, model, free, points, ends)


def holds(lower: torch.Tensor, upper: torch.Tensor, value: torch.Tensor) -> bool:
    defined = ~value.isnan()
    return bool(((lower <= value) & (value <= upper))[defined].all()) and not bool(
        (lower.isnan() | upper.isnan())[defined].any()
    )


def sampled(case, graph, model, free, points, ends) -> Iterator[str]:
    evaluator = ReferenceEvaluator(model)
    generator = torch.Generator().manual_seed(0)
    sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    kinds = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in model.graph.input
    }
    for number in range(SAMPLES):
        noise = [torch.rand(x.shape, generator=generator) * 2 - 1 for x in points]
        inputs = [
            torch.minimum(torch.maximum(x + RADIUS * (n.sign() if number % 2 else n), x - RADIUS), x + RADIUS)
            for x, n in zip(points, noise, strict=True)
        ]
        feed = {name: x.numpy().reshape(sizes[name]).astype(kinds[name]) for name, x in zip(free, inputs, strict=True)}
        with np.errstate(all="ignore"):
            outputs = evaluator.run(None, feed)
        for index, output in enumerate(outputs[: len(graph.outputs)]):
            lower, upper = ends[2 * index], ends[2 * index + 1]
            value = torch.from_numpy(np.asarray(output).astype(np.float32)).reshape(lower.shape)
            if not holds(lower, upper, value):
                yield f"{case.name}: a point of the box lies outside the bounds"
                return


@pytest.mark.parametrize("kind", READ)
def test_official_cases(kind):
    problems = []
    for case in official_cases().get(kind, []):
        excluded = case.name.startswith(tuple(EXCLUDED))
        try:
            found = list(faults(case))
        except IbpcError as error:
            found = [f"{case.name}: refused: {error}"]
        if found and not excluded:
            problems += found
    assert not problems, "\n".join(problems)


def test_every_exclusion_is_needed():
    """A name on the list stands for at least one case that fails."""
    cases = [case for listed in official_cases().values() for case in listed]
    for start in EXCLUDED:
        matching = [case for case in cases if case.name.startswith(start)]
        assert any(fails(case) for case in matching), start


def fails(case) -> bool:
    try:
        return bool(list(faults(case)))
    except IbpcError:
        return True
