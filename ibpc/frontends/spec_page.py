"""The page docs/spec.md, written from the schema and the operator records so that it says what the program does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ibpc.files import write_atomically
from ibpc.frontends.initialization import SCHEMES
from ibpc.frontends.schema import (
    MOST_LAYERS,
    common_options,
    graph_properties,
    has_weight,
    input_properties,
    layer_types,
    spec_properties,
)
from ibpc.frontends.strict_json import describe, shown
from ibpc.ops.base import Layer, Operator

_INTRODUCTION: Final = """\
# Specs

A spec is a JSON file that describes a classifier: what goes in, the layers, and how many classes come out.
`ibpc compile SPEC.json` turns it into a pair of graphs with fresh parameters. The layers have the names and the
options of `torch.nn`; sizes that follow from the input (input channels, input features) are not written down.

This page is generated from the schema that the compiler checks specs against (`ibpc/frontends/spec_page.py`).

## A first spec

Layers in a row:

```json
{
  "ibpc": 1,
  "name": "my_first",
  "input": {"shape": [1, 28, 28]},
  "classes": 10,
  "dataset": "mnist",
  "layers": [
    {"type": "Conv2d", "out_channels": 16, "kernel_size": 4, "stride": 2},
    {"type": "ReLU"},
    {"type": "Flatten"},
    {"type": "Linear", "out_features": 10}
  ]
}
```

The input is one grey image of 28×28 pixels in [0, 1]. The last layer must give one row of `classes` numbers a sample,
here N×10 (N is the batch). A `Linear` layer works on the last dimension, so a `Flatten` stands before the first one.

A spec with mistakes is refused with all of them, one line each:

```
my_first.json: $.layers[0].strides: unknown option; did you mean 'stride'?
my_first.json: $.layers[1].type: found "Relu"; expected a layer type; did you mean 'ReLU'?
```
"""

_INPUT: Final = """\
`mean` and `std` make the normalization a part of the network: it computes (x − mean) / std, channel by channel, in
nodes named `normalize_sub` and `normalize_div`. The radius ε of a certificate and `range` are in the units before that.
"""

_CHAINS: Final = """\
## Chains: `layers`

Each layer reads the one before. A node is named after its layer's `name`; without one, after the type in lower case
(without 1d, 2d, 3d) with a running number: `conv1`, `relu1`, `conv2`, …
"""

_GRAPHS: Final = """\
## Graphs: `graph`

For residual connections and branches: nodes by name, in any order, each with the list of what it reads. `"input"` is
the network's input after its normalization. Cycles, unknown names and nodes that the output does not depend on are
errors. A residual block:

```json
{
  "ibpc": 1,
  "name": "residual",
  "input": {"shape": [3, 32, 32], "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
  "classes": 10,
  "dataset": "cifar10",
  "graph": {
    "nodes": {
      "conv1": {"type": "Conv2d", "inputs": ["input"], "out_channels": 16, "kernel_size": 3, "padding": 1},
      "relu1": {"type": "ReLU", "inputs": ["conv1"]},
      "conv2": {"type": "Conv2d", "inputs": ["relu1"], "out_channels": 16, "kernel_size": 3, "padding": 1},
      "sum": {"type": "Add", "inputs": ["conv2", "conv1"]},
      "relu2": {"type": "ReLU", "inputs": ["sum"]},
      "flatten": {"type": "Flatten", "inputs": ["relu2"]},
      "logits": {"type": "Linear", "inputs": ["flatten"], "out_features": 10}
    },
    "output": "logits"
  }
}
```
"""

_PADDING: Final = """\
## Padding

Convolutions and pools put something around their input: zeros, or −∞ before a max pool. (A transposed convolution crops
that much from its output instead, as in torch.nn, and has no "same" and "valid".) `padding` is one of:

| Value | Meaning |
|---|---|
| `p` | p before and p after, in every spatial dimension |
| `[p, q, …]`, one number a dimension | p before and p after in the first, q in the second, … |
| `[p, q, …, p', q', …]`, two numbers a dimension | first all that is put before, then all that is put after |
| `"valid"` | none |
| `"same"` | as much as makes the output size ⌈input size / stride⌉ |

`"same"` is exact: with input size n, stride s and window w = (kernel_size − 1) · dilation + 1, the total is
max(0, (⌈n / s⌉ − 1) · s + w − n); half of it, rounded down, goes before and the rest after. That is TensorFlow's
`SAME` and ONNX's `SAME_UPPER`. With stride 2, kernel 3 and an even n it puts nothing before and one after: this is
not `padding: 1`, which puts one on both sides. (torch.nn has "same" for stride 1 only, and means this by it.)
"""

_LIMITS: Final = f"""\
## Limits

A spec is UTF-8, at most 16 MiB; keys are unique; numbers are finite and as binary32 holds them; integers are below 2³¹
and written without a decimal point. A network has at most {MOST_LAYERS} layers and 2³¹ parameters, a value in it at
most 2³¹ elements a sample. Names may not be Python's keywords or attributes of a torch module (`forward`, `train`, …).
"""


def spec_page() -> str:
    """Return the text of docs/spec.md."""
    every = {"type": {"description": "What it is", "title": "a layer type"}, **common_options()}
    parts = [
        _INTRODUCTION,
        "## The file\n",
        _properties_table(spec_properties(), ("ibpc", "name", "input", "classes")),
        "One of `layers` and `graph` is required.\n",
        "## The input: `input`\n",
        _properties_table(input_properties(), ("shape",)),
        _INPUT,
        _CHAINS,
        _GRAPHS,
        _properties_table(graph_properties(), ("nodes", "output")),
        "## Options of every layer\n",
        _properties_table(every, ("type",)),
        f"`init`, `constraint` and `norm` are for layers with a weight: {_weighty()}.\n",
        "## Initialization: `init`\n",
        _scheme_table(),
        _PADDING,
        "## Layers\n",
        _plain_layers(),
        *_sections(),
        _LIMITS,
    ]
    return "\n".join(parts)


def write_spec_page(path: str | Path) -> None:
    """Write the page to a file. Raises ArtifactError where that fails."""
    write_atomically(Path(path), spec_page().encode())


def _weighty() -> str:
    return ", ".join(f"`{name}`" for name, (operator, _) in layer_types().items() if has_weight(operator))


def _scheme_table() -> str:
    rows = [(f"`{shown(name)}`", str(scheme.__doc__).splitlines()[0]) for name, scheme in SCHEMES.items()]
    return _table(("Value", "Meaning"), rows) + "\nfan_in is the number of inputs that one output sums.\n"


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {line} |" for line in body)]
    return "\n".join([*lines, ""])


def _properties_table(properties: Mapping[str, Mapping[str, Any]], required: Iterable[str]) -> str:
    rows = [
        (f"`{name}`", _value(schema), _default(name, schema, required), str(schema["description"]))
        for name, schema in properties.items()
    ]
    return _table(("Property", "Value", "Default", "Meaning"), rows)


def _value(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{shown(word)}`" for word in schema["enum"])
    return describe(schema)


def _default(name: str, schema: Mapping[str, Any], required: Iterable[str]) -> str:
    if name in required:
        return "required"
    return f"`{shown(schema['default'])}`" if "default" in schema else "none"


# ── layers ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _plain_layers() -> str:
    rows = [(f"`{name}`", operator.summary) for name, (operator, layer) in layer_types().items() if not layer.options]
    return "Without options of their own:\n\n" + _table(("Layer", "Meaning"), rows)


def _sections() -> list[str]:
    """Return a section for each set of layers of one operator with the same options."""
    groups: dict[tuple[str, ...], list[tuple[Operator, Layer]]] = {}
    for operator, layer in layer_types().values():
        if layer.options:
            groups.setdefault((operator.name, *layer.options), []).append((operator, layer))
    return [_group(members[0][0], [layer for _, layer in members]) for members in groups.values()]


def _group(operator: Operator, layers: Sequence[Layer]) -> str:
    title = ", ".join(f"`{layer.name}`" for layer in layers)
    rows = [_option_row(name, layers) for name in layers[0].options]
    return f"### {title}\n\n{operator.summary}.\n\n" + _table(("Option", "Value", "Default", "Meaning"), rows)


def _option_row(name: str, layers: Sequence[Layer]) -> tuple[str, str, str, str]:
    schemas = [layer.options[name] for layer in layers]
    return (
        f"`{name}`",
        _merged([_value(schema) for schema in schemas]),
        _merged([_default(name, schema, layers[0].required) for schema in schemas]),
        str(schemas[0]["description"]),
    )


def _merged(texts: Sequence[str]) -> str:
    """Return texts that differ in single words as one, with the different words as a/b/c."""
    words = [text.split(" ") for text in texts]
    if len({len(line) for line in words}) > 1:
        return "; ".join(dict.fromkeys(texts))
    return " ".join("/".join(dict.fromkeys(column)) for column in zip(*words, strict=True))
