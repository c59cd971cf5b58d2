"""The values of an ONNX model that are in the IR already: constants, and what depends on an input, by form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.frontends.onnx_batch import Form, Sizes, preferred_form
from ibpc.frontends.onnx_build import GraphBuilder, Traced
from ibpc.frontends.onnx_fold import Array, Tracer
from ibpc.ir import format_shape
from ibpc.ops.element_types import floating
from ibpc.ops.onnx import Value


@dataclass
class Entry:
    """An ONNX value that the network computes: its ONNX shape at batch 1 and its IR values by form."""

    sizes: Sizes
    forms: dict[Form, Traced]

    @classmethod
    def of(cls, value: Value, form: Form, sizes: Sizes) -> Entry:
        """Return the entry of a result. Raises GraphError where it has not the shape that ONNX gives it."""
        assert isinstance(value, Traced)
        shape = form.shape(sizes)
        if value.constant is not None or value.shape != shape:
            raise GraphError.at("result", f"its result is {format_shape(value.shape)}", f"{format_shape(shape)}")
        return cls(sizes, {form: value})

    @property
    def form(self) -> Form:
        """The form in which the value came out of its node."""
        return next(iter(self.forms))

    @property
    def made(self) -> Traced:
        """The value as it came out of its node."""
        return self.forms[self.form]


class BuiltValues:
    """Values by their ONNX names; what the network computes is reshaped where another form of it is asked for.

    That is what depends on an input, and what runtimes may compute differently from constants.
    """

    def __init__(self, builder: GraphBuilder, tracer: Tracer) -> None:
        self._builder = builder
        self._tracer = tracer
        self._constants: dict[str, Traced] = {}
        self.entries: dict[str, Entry] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.entries or self.is_constant(name)

    def add_input(self, name: str) -> None:
        """Build an input of the network."""
        sizes = self._tracer.values[name].shape
        form = preferred_form(sizes)
        self.entries[name] = Entry(sizes, {form: self._builder.input(name, form.shape(sizes))})

    def spread(self, name: str) -> Entry:
        """Build a constant as a value of the network, the same for every sample.

        Under its own name it stays a constant.
        """
        constant = self.constant(name)
        assert constant.constant is not None
        first = next(iter(self.entries.values())).made
        form = preferred_form(constant.shape)
        value = constant.constant
        value = value.float() if value.is_floating_point() else floating(value, name)
        value = value.reshape(form.shape(constant.shape)[1:])
        return Entry.of(self._builder.add("Spread", [first], {}, {"value": value}), form, constant.shape)

    def settle(self, names: Iterable[str]) -> list[str]:
        """Make those of the values that are computed from constants alone numbers again; return which."""
        settled = [name for name in dict.fromkeys(names) if name in self.entries and self._is_known(name)]
        for name in settled:
            del self.entries[name]
        return settled

    def _is_known(self, name: str) -> bool:
        return self._tracer.values[name].constant is not None

    def is_constant(self, name: str) -> bool:
        """Return whether a value is a number here."""
        return bool(name) and name not in self.entries and self._is_known(name)

    def constant(self, name: str) -> Traced:
        """Return a constant, one tensor for all its uses."""
        if name not in self._constants:
            array = self._tracer.values[name].constant
            assert array is not None
            tensor = tensor_of(array)
            self._constants[name] = Traced(tuple(tensor.shape), tensor, origin=name)
        return self._constants[name]

    def constants(self, names: Iterable[str]) -> list[Traced]:
        """Return those of the values that are constants."""
        return [self.constant(name) for name in names if self.is_constant(name)]

    def in_form(self, name: str, form: Form) -> Traced:
        """Return a value in a form. Constants keep the shape of the file."""
        if self.is_constant(name):
            return self.constant(name)
        entry = self.entries[name]
        if form not in entry.forms:
            shape = form.shape(entry.sizes)
            if entry.made.shape == shape:
                return entry.made
            result = self._builder.add("Reshape", [entry.made], {"shape": list(shape[1:])})
            assert isinstance(result, Traced)
            entry.forms[form] = result
        return entry.forms[form]

    def forget(self, nodes: frozenset[str]) -> None:
        """Forget the forms of values that stood on nodes which were taken back."""
        for entry in self.entries.values():
            entry.forms = {form: value for form, value in entry.forms.items() if value.node not in nodes}


def tensor_of(array: Array) -> Tensor:
    """Return a numpy array as a tensor of its own: unsigned integers as int64, 16-bit floats as they are."""
    if array.dtype.kind == "u":
        array = array.astype("int64")
    return torch.from_numpy(array.copy())
