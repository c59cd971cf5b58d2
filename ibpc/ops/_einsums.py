"""ONNX Einsum of one or two operands, imported as a MatMul between Transposes and Reshapes.

Labels are common to both operands (a stack of matrices), kept from one operand (rows, columns), or summed; labels of
one operand alone are summed first. One MatMul then computes all sums of products, and its binary32 bounds hold for any
order of summation. With a constant operand the bounds are exact; for two boxes that share elements each product is
bounded by itself, as in MatMul.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
import torch

from ibpc.errors import GraphError
from ibpc.ir import BATCH
from ibpc.ops._gathers import positions_of, taken
from ibpc.ops.element_types import number
from ibpc.ops.onnx import Builder, OnnxNode, Value

_ELLIPSIS: Final = "".join(chr(0x2460 + place) for place in range(16))


def explicit(equation: str) -> tuple[list[str], str]:
    """Return the terms of the operands and that of the result, which is derived if it is not given."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        once = sorted(label for label in set(letters) if letters.count(label) == 1)
        right = "..." * ("..." in left) + "".join(once)
    return left.split(","), right


@dataclass(frozen=True)
class _Term:
    """An operand with a label for each dimension but the batch, dimension 0 (of size 1 in a constant)."""

    value: Value
    labels: str

    def size(self, label: str) -> int:
        return self.value.shape[1 + self.labels.index(label)] if label in self.labels else 1


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Einsum of one or two operands. Raises GraphError for more operands, and if it mixes samples."""
    where = f"node {node.name}"
    given, result = explicit(str(node.attributes["equation"]))
    values = [number(node, slot, builder) for slot in range(len(node.inputs))]
    if len(given) != len(values) or len(values) > 2:
        raise GraphError.at(where, f"{len(values)} operands, {len(given)} terms", "one or two of each")
    spread = [_spread(labels, len(value.shape), where) for labels, value in zip(given, values, strict=True)]
    hidden = max((len(labels) - len(term.replace("...", "")) for labels, term in zip(spread, given, strict=True)))
    result = result.replace("...", _ELLIPSIS[:hidden][::-1])
    batch = result[:1]
    terms = [_prepared(value, labels, batch, where, builder) for value, labels in zip(values, spread, strict=True)]
    known = {label for term in terms for label in term.labels}
    if len(set(result)) < len(result) or not set(result[1:]) <= known:
        raise GraphError.at(where, f"the result {result}", "labels of the operands, none twice")
    return _product(terms, result[1:], where, builder)


def _spread(term: str, rank: int, where: str) -> str:
    """Return the term with its ellipsis replaced by one label per dimension, the same labels counted from the end."""
    count = rank - len(term.replace("...", ""))
    if not 0 <= count <= len(_ELLIPSIS) or (count and "..." not in term):
        raise GraphError.at(where, f"the term {term} for {rank} dimensions", "a label for each")
    return term.replace("...", _ELLIPSIS[:count][::-1])


def _prepared(value: Value, labels: str, batch: str, where: str, builder: Builder) -> _Term:
    """Return the operand with the batch first and without repeated labels."""
    unique = "".join(dict.fromkeys(labels))
    numbers = [[unique.index(label) for label in part] for part in (labels, unique)]
    if value.constant is None:
        if not batch or labels[:1] != batch or labels.count(batch) > 1 or value.shape[0] != BATCH:
            raise GraphError.at(where, f"the term {labels} mixes the batch", "the batch first in operands and result")
        if unique != labels:
            value = taken(value, torch.from_numpy(np.einsum(positions_of(value).numpy(), *numbers)), where, builder)
        return _Term(value, unique[1:])
    constant = torch.from_numpy(np.einsum(value.constant.numpy(), *numbers).copy())
    if batch and batch in unique:
        axis = unique.index(batch)
        if constant.shape[axis] != 1:
            raise GraphError.at(where, "a constant that differs from sample to sample", "one for all samples")
        constant, unique = constant.squeeze(axis), unique.replace(batch, "")
    return _Term(builder.constant(constant[None]), unique)


def _product(terms: Sequence[_Term], result: str, where: str, builder: Builder) -> Value:
    """Build (stack, rows, summed) · (stack, summed, columns), and transpose the result into order."""
    if len(terms) == 2:
        terms = _without_lone(terms, result, where, builder)
    x, y = terms[0], terms[1] if len(terms) == 2 else _Term(builder.constant(torch.ones(1)), "")
    labels = "".join(dict.fromkeys(x.labels + y.labels))
    sizes = {label: max(x.size(label), y.size(label)) for label in labels}
    summed = "".join(label for label in labels if label not in result)
    stack = "".join(label for label in result if label in x.labels and label in y.labels)
    rows = "".join(label for label in result if label not in y.labels)
    columns = "".join(label for label in result if label not in x.labels)
    if len(terms) == 1:
        found = _summed(_arranged(x, (rows, summed), sizes, builder), bool(summed), builder)
    else:
        outer = (stack,) if stack else ()
        left = _arranged(x, (*outer, rows, summed), sizes, builder)
        right = _arranged(y, (*outer, summed, columns), sizes, builder)
        found = _multiplied(left, right, builder)
    order = stack + rows + columns
    apart = _reshaped(found, [sizes[label] for label in order], builder)
    return _transposed(apart, [order.index(label) for label in result], builder)


def _without_lone(terms: Sequence[_Term], result: str, where: str, builder: Builder) -> Sequence[_Term]:
    """Return the two operands, the one with summed labels of its own summed over them first, as runtimes do.

    If only one operand has such labels, a runtime that multiplies first makes no greater rounding error. Raises
    GraphError if both have: sums that cancel would hide its error.
    """
    x, y = terms
    lone = [[label for label in a.labels if label not in b.labels + result] for a, b in ((x, y), (y, x))]
    if all(lone):
        found = f"{lone[0][0]} and {lone[1][0]} are each summed over one operand alone"
        raise GraphError.at(where, found, "at most one such operand", "put a ReduceSum in front")
    return [_summed_over(term, labels, builder) if labels else term for term, labels in zip(terms, lone, strict=True)]


def _summed_over(term: _Term, labels: Sequence[str], builder: Builder) -> _Term:
    kept = "".join(label for label in term.labels if label not in labels)
    sizes = {label: term.size(label) for label in term.labels}
    total = _summed(_arranged(term, (kept, "".join(labels)), sizes, builder), True, builder)
    return _Term(_reshaped(total, [sizes[label] for label in kept], builder), kept)


def _arranged(term: _Term, groups: tuple[str, ...], sizes: dict[str, int], builder: Builder) -> Value:
    """Return the operand with one dimension per group of labels, repeated along labels that it lacks."""
    labels = "".join(groups)
    if any(term.size(label) not in (1, sizes[label]) for label in labels):
        raise GraphError.at("Einsum", f"sizes that differ in {term.labels}", "one size for each label, or 1")
    present = "".join(label for label in labels if label in term.labels)
    value = _transposed(term.value, [term.labels.index(label) for label in present], builder)
    if any(term.size(label) != sizes[label] for label in labels):
        value = _reshaped(value, [term.size(label) for label in labels], builder)
        value = builder.add("Expand", [value], {"shape": [sizes[label] for label in labels]})
    return _reshaped(value, [prod(sizes[label] for label in group) for group in groups], builder)


def _transposed(value: Value, order: Sequence[int], builder: Builder) -> Value:
    perm = [0, *(axis + 1 for axis in order)]
    return value if perm == list(range(len(perm))) else builder.add("Transpose", [value], {"perm": perm})


def _reshaped(value: Value, sizes: Sequence[int], builder: Builder) -> Value:
    return value if value.shape[1:] == tuple(sizes) else builder.add("Reshape", [value], {"shape": list(sizes)})


def _summed(x: Value, is_sum: bool, builder: Builder) -> Value:
    return builder.add("MatMul", [x, builder.constant(torch.ones(x.shape[-1]))]) if is_sum else x


def _multiplied(x: Value, y: Value, builder: Builder) -> Value:
    """Return the product of matrices, as Gemm if the right one is constant, so that it can be trained."""
    if y.constant is not None and len(y.shape) == 3:
        return builder.add("Gemm", [x], {}, {"weight": y.constant[0].T.contiguous()})
    operands = [value if value.constant is None else builder.constant(value.constant[0]) for value in (x, y)]
    return builder.add("MatMul", operands)
