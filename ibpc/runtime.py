"""ONNX Runtime as everything here runs models: on one thread of a CPU, its refusals known by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.errors import ModelError, first_line

Array: TypeAlias = NDArray[Any]
Run: TypeAlias = Callable[[Mapping[str, Array]], list[Array]]


class Optimizations(Enum):
    """What ONNX Runtime may rewrite before it runs a model, by the names of its GraphOptimizationLevel."""

    NONE = "ORT_DISABLE_ALL"
    ALL = "ORT_ENABLE_ALL"


def session(model: bytes, optimizations: Optimizations = Optimizations.NONE) -> Run:
    """Return a model in ONNX Runtime, on one thread, as a function of its inputs by name.

    Now and when the function is called ONNX Runtime raises one of `refusals` for what it refuses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, optimizations.value)
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feed: [np.asarray(output) for output in made.run(None, dict(feed))]


@contextmanager
def refused(where: str) -> Iterator[None]:
    """Turn what ONNX Runtime refuses while the block runs into a ModelError at `where`."""
    try:
        yield
    except refusals() as error:
        raise ModelError.at(where, f"ONNX Runtime refuses it: {first_line(error)}") from error


@cache
def refusals() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: a dozen classes of its own, which share none but Exception, and C++'s errors.

    The latter are those that pybind11 makes of standard exceptions.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*kinds, RuntimeError, ValueError, IndexError, OverflowError, MemoryError)
