"""What is known of every ONNX value at batch 1: its type, its shape, and, if no input reaches it, the value.

A network is imported as the function that its file computes at batch 1, mapped over the samples of a batch. So the
batch is 1 throughout this module, every dimension is a number, and `Shape → Gather → Concat → Reshape` chains are
constants like any other: they fold by evaluation, node by node, with the ONNX reference evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from ibpc.errors import ModelError, Problem, ThirdPartyError, first_line, raise_all, third_party
from ibpc.frontends.agreement import agree
from ibpc.frontends.onnx_build import FINITE
from ibpc.frontends.onnx_determined import expect_integer_quotients, is_determined, is_rounded_product, summed
from ibpc.runtime import session

Array = NDArray[Any]

_MOST_BYTES: Final = 2**30
_MOST_FOLDED_BYTES: Final = 2**31
_TELLING_ELEMENTS: Final = 4096
_OF_SHAPE: Final = frozenset({"Shape", "Size"})
_SHAPED_BY_VALUES: Final = frozenset(
    {
        *("CenterCropPad", "Compress", "ConstantOfShape", "Expand", "NonZero", "OneHot", "Pad", "Range", "Reshape"),
        *("Resize", "Slice", "Split", "Squeeze", "Tile", "TopK", "Unique", "Unsqueeze", "Upsample"),
    }
)
_RANDOM: Final = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# The reference evaluator knows these from a later opset on, in which they mean the same for the same inputs.
_EVALUATED_FROM: Final = {"DequantizeLinear": 19, "QuantizeLinear": 19}
# Shape inference leaves these alone: their output has the shape of their first input.
_OF_SAME_SHAPE: Final = frozenset({"GroupNormalization", "MeanVarianceNormalization", "RMSNormalization"})
_COUNTING: Final = frozenset({"Compress", "NonZero", "Unique"})
# Shape inference leaves these open although their other inputs decide the shape, when they are known.
_SHAPED_BY_CONSTANTS: Final = frozenset({"Compress"})
_SUBGRAPHS: Final = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


@dataclass(frozen=True)
class Known:
    """An ONNX value at batch 1. `constant` is the value itself if it depends on no input."""

    elem_type: int
    shape: tuple[int, ...]
    constant: Array | None = None


class Tracer:
    """Walks a model in topological order and keeps what is known of its values."""

    def __init__(self, proto: onnx.ModelProto, opset: int, where: str) -> None:
        """Take the inputs and the initializers of a clean model. Raises ModelError for all that are unusable."""
        self.values: dict[str, Known] = {}
        self._inexact: set[str] = set()
        self._misshapen: set[str] = set()
        self._summed = summed(proto.graph.node)
        self._opset = opset
        self._imports, self._ir_version = list(proto.opset_import), proto.ir_version
        self._folded = 0
        problems: list[Problem] = []
        batch = batch_symbols(proto.graph)
        for value in proto.graph.input:
            self._take(value.name, f"{where}: input {value.name}", problems, partial(_input, value, batch))
        for tensor in proto.graph.initializer:
            self._take(tensor.name, f"{where}: initializer {tensor.name}", problems, partial(_read, tensor))
        problems += [
            Problem(f"{where}: initializer {tensor.values.name}", "it is sparse", "a dense tensor")
            for tensor in proto.graph.sparse_initializer
        ]
        raise_all(ModelError, problems)

    def _take(self, name: str, where: str, problems: list[Problem], read: Callable[[], Known]) -> None:
        try:
            self.values[name] = read()
        except ValueError as error:
            problems.append(Problem(where, str(error)))

    def is_constant(self, node: onnx.NodeProto) -> bool:
        """Return whether no input reaches the node's outputs."""
        if self._is_random(node) or _has_subgraph(node):
            return False
        return node.op_type in _OF_SHAPE or all(self.values[name].constant is not None for name in node.input if name)

    def _is_random(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Dropout" and len(node.input) == 3 and node.input[2]:
            training = self.values[node.input[2]].constant
            return training is None or bool(training.any())
        return node.op_type in _RANDOM

    def trace(self, node: onnx.NodeProto) -> None:
        """Work out what is known of the node's outputs. Raises ValueError with the reason where it cannot be."""
        outputs = self._infer(node)
        if any(name and name not in outputs for name in node.output) and self._is_shaped_by_constants(node):
            outputs = self._shaped(node)
        for name, known in outputs.items():
            size = prod(known.shape) * _bytes_of(known.elem_type)
            if size > _MOST_BYTES:
                raise ValueError(f"its output {name} takes {size:,} bytes; expected at most {_MOST_BYTES:,}")
        constant = self.is_constant(node)
        missing = [name for name in node.output if name and name not in outputs]
        if missing and not (constant and node.op_type in _COUNTING):
            raise ValueError(self._shapeless(node, missing[0]))
        self.values.update(self._fold(node) if constant else outputs)
        if constant:
            self._judge(node)

    def _judge(self, node: onnx.NodeProto) -> None:
        """Note constants that runtimes may compute differently. Raises ValueError where they do.

        So do their shapes, where these are made of such numbers.
        """
        outputs, is_shaped = [name for name in node.output if name], not self._misshapen.isdisjoint(node.input)
        if node.op_type in _OF_SHAPE:
            self._inexact.update(outputs if is_shaped else ())
            return
        if is_shaped or (node.op_type in _SHAPED_BY_VALUES and self.inexact(node.input)):
            self._misshapen.update(outputs)
        is_determined = self._is_determined(node)
        if self.inexact(node.input) or not is_determined:
            self._inexact.update(outputs)

    def inexact(self, names: Iterable[str]) -> str | None:
        """Return the first constant among values that runtimes may compute differently, or float32 does not hold."""
        return next((name for name in names if name in self._inexact or _is_rounded(self.values, name)), None)

    def _is_determined(self, node: onnx.NodeProto) -> bool:
        """Return whether every execution computes the same from the same constants.

        Raises ValueError where ONNX Runtime computes something else than the reference evaluator.
        """
        operands, results = (
            [array for name in names if name and (array := self.values[name].constant) is not None]
            for names in (node.input, node.output)
        )
        pairs = list(zip(results, self._witnessed(node) or results, strict=True))
        if not all(ours.shape == theirs.shape and agree(ours, theirs) for ours, theirs in pairs):
            raise ValueError(
                "ONNX Runtime and the ONNX reference evaluator compute different constants; store it as a number"
            )
        are_equal = all(np.array_equal(ours, theirs) for ours, theirs in pairs)
        if not self._summed.isdisjoint(node.output) and is_rounded_product(node, operands, results):
            return False
        return are_equal and is_determined(node, operands, results)

    def _witnessed(self, node: onnx.NodeProto) -> list[Array]:
        """Return what ONNX Runtime computes from constants; nothing if it does not run the node."""
        names = dict.fromkeys(name for name in node.input if name)
        inputs = [
            onnx.helper.make_tensor_value_info(name, self.values[name].elem_type, self.values[name].shape)
            for name in names
        ]
        outputs = [name for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
        model = onnx.helper.make_model(graph, opset_imports=self._imports, ir_version=self._ir_version)
        try:
            with third_party():
                return session(model.SerializeToString())({name: self._feed(name) for name in names})
        except ThirdPartyError:  # Whether it runs the file is for validation to say.
            return []

    def _infer(self, node: onnx.NodeProto) -> dict[str, Known]:
        """Return the outputs whose shape ONNX shape inference finds, given small constants."""
        names = dict.fromkeys(name for name in node.input if name)
        inputs = [
            onnx.helper.make_tensor_value_info(name, self.values[name].elem_type, self.values[name].shape)
            for name in names
        ]
        telling = [
            numpy_helper.from_array(array, name)
            for name in names
            if (array := self.values[name].constant) is not None and array.size <= _TELLING_ELEMENTS
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "node", inputs, outputs, telling), opset_imports=self._imports
        )
        found = _outputs(model)
        if not all(name in found for name in node.output if name):
            # Some need it. It copies each vector, element by element, so those of Concat are not to come here.
            found = _outputs(model, data_prop=True)
        if node.op_type in _OF_SAME_SHAPE:
            found.setdefault(node.output[0], replace(self.values[node.input[0]], constant=None))
        return found

    def _shapeless(self, node: onnx.NodeProto, output: str) -> str:
        """Return why the shape of an output is not known: the others of its inputs tell it, and they may vary."""
        telling = node.input[1:] or node.input
        varying = [name for name in telling if name and self.values[name].constant is None]
        if not varying:
            return f"the shape of its output {output} cannot be inferred; expected a static shape"
        return (
            f"the shape of its output {output} depends on numbers that the network computes ({', '.join(varying)}); "
            "expected a static shape"
        )

    def _is_shaped_by_constants(self, node: onnx.NodeProto) -> bool:
        others = [self.values[name].constant for name in node.input[1:] if name]
        return node.op_type in _SHAPED_BY_CONSTANTS and all(constant is not None for constant in others)

    def _shaped(self, node: onnx.NodeProto) -> dict[str, Known]:
        """Return the outputs of a node with the shapes that they have for an input of zeros."""
        kind = self.values[node.input[0]].elem_type
        return {name: Known(kind, known.shape) for name, known in self._fold(node).items()}

    def _fold(self, node: onnx.NodeProto) -> dict[str, Known]:
        """Evaluate a node whose inputs are known."""
        constants = [self.values[name].constant for name in node.input if name]
        expect_integer_quotients(node, [array for array in constants if array is not None])
        names = dict.fromkeys(name for name in node.input if name)
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", [onnx.ValueInfoProto(name=name) for name in names], outputs)
        least = _EVALUATED_FROM.get(node.op_type, 0)
        opsets = {entry.domain: max(entry.version, least) for entry in self._imports}
        feed = {name: self._feed(name) for name in names}
        try:
            with np.errstate(all="ignore"), third_party():
                results = ReferenceEvaluator(graph, opsets).run(None, feed)
        except ThirdPartyError as error:
            raise ValueError(f"its constant value cannot be computed: {error}") from error
        folded = {output.name: _constant(result) for output, result in zip(outputs, results, strict=True)}
        self._folded += sum(prod(known.shape) * _bytes_of(known.elem_type) for known in folded.values())
        if self._folded > _MOST_FOLDED_BYTES:
            raise ValueError(f"constant values take more than {_MOST_FOLDED_BYTES:,} bytes")
        return folded

    def _feed(self, name: str) -> Array:
        """Return a constant, or for an operator that only asks for a shape an array of zeros without memory."""
        known = self.values[name]
        return np.broadcast_to(np.float32(0), known.shape) if known.constant is None else known.constant


def _is_rounded(values: Mapping[str, Known], name: str) -> bool:
    """Return whether a value is a constant of numbers that float32 does not hold, as those of double precision."""
    array = values[name].constant if name else None
    if array is None or array.dtype != np.float64:
        return False
    with np.errstate(all="ignore"):
        return not np.array_equal(array.astype(np.float32).astype(np.float64), array)


def batch_symbols(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the names that dimension 0 of an input has: they all stand for the batch."""
    first = [value.type.tensor_type.shape.dim[:1] for value in graph.input]
    return frozenset(dim.dim_param for dims in first for dim in dims if dim.dim_param)


def _input(value: onnx.ValueInfoProto, batch: frozenset[str]) -> Known:
    """Return the type and the shape of an input at batch 1."""
    kind = value.type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        raise ValueError(f"its type is {_type_name(value.type)}; expected a FLOAT tensor")
    if not kind.HasField("shape"):
        raise ValueError("its shape is not declared; expected a shape in which only the batch is free")
    sizes = []
    for axis, dim in enumerate(kind.shape.dim):
        free = not dim.HasField("dim_value") or dim.dim_value == 0
        if free and axis > 0 and dim.dim_param not in batch:
            name = f" {dim.dim_param!r}" if dim.dim_param else ""
            raise ValueError(f"its dimension {axis} is free{name}; expected a number; fix it in the file")
        if not free and dim.dim_value < 0:
            raise ValueError(f"its dimension {axis} is {dim.dim_value}; expected at least 1")
        sizes.append(1 if free else dim.dim_value)
    if prod(sizes) * _bytes_of(kind.elem_type) > _MOST_BYTES:
        raise ValueError(f"its shape {tuple(sizes)} takes more than {_MOST_BYTES:,} bytes")
    return Known(kind.elem_type, tuple(sizes))


def _outputs(model: onnx.ModelProto, **options: bool) -> dict[str, Known]:
    """Return the outputs whose shape ONNX shape inference finds. Raises ValueError where it refuses the model."""
    try:
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, **options)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ValueError(f"shape inference refuses it: {first_line(error)}") from error
    return {value.name: known for value in inferred.graph.output if (known := _inferred(value)) is not None}


def _inferred(value: onnx.ValueInfoProto) -> Known | None:
    kind = value.type.tensor_type
    dims = kind.shape.dim
    if not kind.elem_type or not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return None
    return Known(kind.elem_type, tuple(dim.dim_value for dim in dims))


def _read(tensor: onnx.TensorProto) -> Known:
    """Return the value of an initializer. Raises ValueError where its data do not fit its shape."""
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"it is malformed: {first_line(error)}") from error
    return _constant(array)


def _constant(result: Any) -> Known:
    """Return a value that is known. Raises ValueError for what is no tensor of numbers, and for NaN and infinity."""
    array = np.asarray(result)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise ValueError(f"it holds {array.dtype}; expected a tensor of FLOAT, DOUBLE, integers or BOOL")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError("it holds NaN; expected finite numbers")
    if array.dtype.kind == "f" and array.size > 1 and not np.isfinite(array).all():
        raise ValueError(f"it holds infinity; expected {FINITE}")
    return Known(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array)


def _has_subgraph(node: onnx.NodeProto) -> bool:
    return any(attribute.type in _SUBGRAPHS for attribute in node.attribute)


def _bytes_of(elem_type: int) -> int:
    if elem_type == onnx.TensorProto.STRING:
        return 8
    return onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize


def _type_name(kind: onnx.TypeProto) -> str:
    if not kind.HasField("tensor_type"):
        return str(kind.WhichOneof("value") or "not declared")
    return type_name(kind.tensor_type.elem_type)


def type_name(elem_type: int) -> str:
    """Return ONNX's name of an element type."""
    names: dict[int, str] = {number: name for name, number in onnx.TensorProto.DataType.items()}
    return names.get(elem_type, f"unknown ({elem_type})")
