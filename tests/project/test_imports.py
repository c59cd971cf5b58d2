"""The direction of imports, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "ibpc"

# A module imports only from those before it; `api` stands for ibpc/__init__.py as well.
ORDER = (
    "errors",
    "progress",
    "files",
    "locking",
    "memory",
    "runtime",
    "rounding",
    "interval",
    "entries",
    "ir",
    "hints",
    "margins",
    "ops",
    "evaluation",
    "frontends",
    "passes",
    "lowering",
    "artifact",
    "network",
    "weights",
    "opening",
    "bounds",
    "data",
    "workers",
    "training",
    "exports",
    "verify",
    "report",
    "api",
    "cli",
)

# Whole libraries that only one module or package may know, and why.
ONLY = {
    "typer": {"cli/"},  # the command line is a thin skin
    "torchvision": {"data/"},  # one place knows the data sets
    "onnx2torch": {"frontends/validate.py"},  # an independent witness, never a part of the import
}

# What operators are made of, in order: each module knows those before it.
SHARED = ("rules.py", "onnx.py", "element_types.py", "base.py", "combinators.py")

SOURCES = sorted(PACKAGE.rglob("*.py"))


def names(source: Path) -> str:
    """Return the path of a source inside the package."""
    return source.relative_to(PACKAGE).as_posix()


def layer(source: Path) -> str:
    """Return the layer that a source belongs to."""
    top = source.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return {"__init__": "api", "__main__": "cli"}.get(top, top)


def imported(text: str) -> Iterator[str]:
    """Yield the full dotted names that a source imports, those inside functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (value for value in constants if isinstance(value, str))


def upward(source: str, text: str) -> list[str]:
    """Return the imports by which a source of layer `source` breaks the order."""
    own = [name.split(".")[1] for name in imported(text) if name.split(".")[0] == "ibpc" and "." in name]
    return [name for name in own if name != source and ORDER.index(name) >= ORDER.index(source)]


def test_every_module_has_a_place_in_the_order() -> None:
    assert {layer(source) for source in SOURCES} <= set(ORDER)


@pytest.mark.parametrize("source", SOURCES, ids=names)
def test_imports_point_down(source: Path) -> None:
    assert upward(layer(source), source.read_text()) == []


@pytest.mark.parametrize("source", sorted((PACKAGE / "ops").glob("*.py")), ids=names)
def test_operators_do_not_know_each_other(source: Path) -> None:
    siblings = {
        name.split(".")[2]
        for name in imported(source.read_text())
        if name.startswith("ibpc.ops.") and name != "ibpc.ops.operators"
    }
    if source.name in SHARED:
        assert siblings <= {name.removesuffix(".py") for name in SHARED[: SHARED.index(source.name)]}
    else:
        assert {name for name in siblings if f"{name}.py" not in SHARED and not name.startswith("_")} == set()


@pytest.mark.parametrize("source", SOURCES, ids=names)
def test_libraries_stay_where_they_are_known(source: Path) -> None:
    libraries = {name.split(".")[0] for name in imported(source.read_text())}
    strangers = {library for library, places in ONLY.items() if not names(source).startswith(tuple(places))}
    assert libraries & strangers == set()


def test_the_ir_knows_no_torch() -> None:
    libraries = {name.split(".")[0] for name in imported((PACKAGE / "ir.py").read_text())}
    assert "torch" not in libraries


def test_the_checker_knows_nothing_of_the_compiler() -> None:
    """What checks certificates shares no code with what makes them, but for the errors and how ONNX Runtime is run."""
    sources = sorted((PACKAGE / "verify" / "checking").rglob("*.py"))
    names_used = {name for source in sources for name in imported(source.read_text())}
    own = {name for name in names_used if name.startswith("ibpc.")}
    assert sources
    assert all(name.startswith(("ibpc.errors", "ibpc.runtime", "ibpc.verify.checking")) for name in own)
    assert not {"torch", "torchvision"} & {name.split(".")[0] for name in names_used}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("ops", "from ibpc.lowering import lower_nominal"),
        ("ir", "import ibpc.ops.base"),
        ("passes", "def run():\n    from ibpc.api import compile"),
        ("frontends", "from importlib import import_module\nimport_module('ibpc.passes.fold')"),
    ],
)
def test_an_upward_import_is_seen(source: str, text: str) -> None:
    assert upward(source, text) != []
