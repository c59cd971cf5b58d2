"""Options that commands share, and what their text means."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpc.errors import UsageError

if TYPE_CHECKING:
    from ibpc.network import Network


def parse_eps(text: str | float) -> float:
    """Return a radius written as `0.1` or `2/255`. Raises typer.BadParameter for anything else."""
    try:
        value = float(Fraction(str(text).replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise typer.BadParameter(f"found {text!r}, expected a number such as 0.1 or 2/255") from None
    if value < 0 or value != value or value == float("inf"):
        raise typer.BadParameter(f"found {text!r}, expected a number of at least 0")
    return value


Eps = Annotated[
    float, typer.Option("--eps", parser=parse_eps, metavar="E", help="L∞ radius in pixels of [0, 1]: 0.1 or 2/255.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="NAME|FILE.npz|FOLDER", help="Data set; default: the spec's.")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Where data sets lie; default: $IBPC_DATA or ~/.cache/ibpc.")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not on disk.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]


def hinted_dataset(network: Network, target: Path) -> str:
    """Return the data set that the network names. Raises UsageError if it names none."""
    hint = network.graph.hints.get("dataset")
    if not hint:
        raise UsageError.at(target, "it names no data set", "--data NAME|FILE.npz|FOLDER")
    return str(hint)


def pick_device(name: str) -> Any:
    """Return the torch device of an option. Raises UsageError if it is unknown or not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError.at("--device", f"found {name!r} ({reason})", "auto, cpu, cuda, cuda:N or mps") from None
    return device


def parse_arithmetic(name: str) -> Any:
    """Return the arithmetic of an option. Raises UsageError for an unknown one."""
    from ibpc.rounding import Arithmetic

    if name not in [arithmetic.value for arithmetic in Arithmetic]:
        raise UsageError.at("--arithmetic", f"found {name!r}", "float32 or real")
    return Arithmetic(name)


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    """Return comma-separated numbers, None for no text. Raises UsageError for anything else."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError.at(option, f"found {text!r}", "numbers separated by commas") from None
