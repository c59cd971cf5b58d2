"""Options that commands share, and what their text means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypedDict

import typer

from ibpc.errors import UsageError, first_line

if TYPE_CHECKING:
    from ibpc.network import Network


# A radius as text. Exponents are short, for a Fraction writes them out.
_DIGITS: Final = r"\d{1,400}"
_RADIUS: Final = re.compile(
    rf"\+?({_DIGITS}(\.\d{{0,400}})?|\.{_DIGITS})([eE][+-]?\d{{1,3}})?|{_DIGITS}/{_DIGITS}", re.ASCII
)
_NUMBER: Final = re.compile(rf"[+-]?({_DIGITS}(\.\d{{0,400}})?|\.{_DIGITS})([eE][+-]?\d{{1,3}})?", re.ASCII)
# torch knows more, which hold no numbers.
_DEVICE: Final = re.compile(r"cpu|cuda(:[0-9]{1,4})?|mps")


def parse_eps(text: str | float) -> float:
    """Return a radius written as `0.1` or `2/255`. Raises typer.BadParameter for anything else."""
    value = _radius(re.sub(r" */ *", "/", str(text).strip(" ")))
    if value is None:
        raise typer.BadParameter(f"found {text!r}, expected a number of at least 0, such as 0.1 or 2/255")
    return value


def _radius(text: str) -> float | None:
    """Return the number that a text means, None where that is none, or rounds to infinity or wrongly to 0."""
    if not _RADIUS.fullmatch(text):
        return None
    try:
        exact = Fraction(text)
        value = float(exact)
    except (ZeroDivisionError, OverflowError):
        return None
    return value if bool(value) == bool(exact) else None


Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="NAME|FILE.npz|FOLDER", help="Data set; default: the spec's.")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Where data sets lie; default: $IBPC_DATA or ~/.cache/ibpc.")
]
Label = Annotated[
    int | None, typer.Option("--label", min=0, help="Class of --input; default: the network's own answer.")
]
TargetClass = Annotated[
    int | None, typer.Option("--target", min=0, metavar="J", help="Only class J must stay below that of --input.")
]
Mean = Annotated[
    str | None,
    typer.Option("--mean", metavar="M,…", help="Mean, one or one a channel, if the network wants (x − mean) / std."),
]
Std = Annotated[
    str | None, typer.Option("--std", metavar="S,…", help="Standard deviation, one or one a channel: 0.2,0.2,0.3.")
]
ArithmeticName = Annotated[str, typer.Option("--arithmetic", help="What the bounds hold for: float32 or real.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not on disk.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]


# Written out, for help is shown without what the methods themselves import.
BOUNDING_METHODS: Final = "auto, bab, ibp, forward, crown-ibp, crown, alpha-crown, mip"
TRAINING_METHODS: Final = (
    "standard, pgd, ibp, fast-ibp, crown-ibp, convex-polygon, sabr, mtl-ibp, cc-ibp, exp-ibp, taps, staps"
)
Bounding = Annotated[str, typer.Option("--method", metavar="NAME", help=f"How to bound: {BOUNDING_METHODS}.")]


def expect_apart(outputs: Mapping[str, Path | None], inputs: Iterable[Path | str | None]) -> None:
    """Raise UsageError where an output, by its option, would overwrite an input, or another output.

    The files of an artifact that is an input count as inputs.
    """
    from ibpc.artifact import owns

    taken = [Path(path).resolve() for path in inputs if path is not None and Path(path).exists()]
    for option, path in outputs.items():
        if path is None:
            continue
        place = path.resolve()
        if any(place == other or owns(other, place) for other in taken):
            raise UsageError.at(option, f"{path} is read, or written, by this command", "another file")
        taken.append(place)


class Proving(TypedDict):
    """How to prove, by the names that `ibpc.decide`, `ibpc.certify` and `ibpc.radius` have for it."""

    method: str
    arithmetic: str
    timeout: float
    seed: int


def named_dataset(data: str | None, network: Network, target: Path) -> str:
    """Return the data set of `--data`, else the one that the network names. Raises UsageError if there is none."""
    if data is not None:
        return data
    hint = network.graph.hints.get("dataset")
    if not hint:
        raise UsageError.at(target, "it names no data set", "--data NAME|FILE.npz|FOLDER")
    return str(hint)


def pick_device(name: str) -> Any:
    """Return the torch device of an option. Raises UsageError if it is unknown or not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not _DEVICE.fullmatch(name):
        raise UsageError.at("--device", f"found {name!r}", "auto, cpu, cuda, cuda:N or mps")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = f"found {name!r} ({first_line(error)})"
        raise UsageError.at("--device", found, "auto, cpu, cuda, cuda:N or mps") from None
    return device


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    """Return comma-separated numbers, None for no text. Raises UsageError for anything else."""
    if text is None:
        return None
    parts = [part.strip(" ") for part in text.split(",")]
    numbers = [float(part) for part in parts if _NUMBER.fullmatch(part)]
    if len(numbers) != len(parts) or not all(map(isfinite, numbers)):
        raise UsageError.at(option, f"found {text!r}", "numbers separated by commas")
    return numbers
