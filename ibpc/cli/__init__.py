"""The command line. Each command is a few lines that call the API; nothing else imports typer or prints."""

from __future__ import annotations

import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Annotated, Any, Final, NoReturn, TextIO

import typer

from ibpc.cli.certifying import certify, check
from ibpc.cli.compiling import compile, export, ops, show
from ibpc.cli.measuring import radius
from ibpc.cli.reporting import demo, report
from ibpc.cli.training import sweep, train
from ibpc.errors import IbpcError

# In the order of `ibpc --help`.
COMMANDS: Final = (compile, show, ops, train, sweep, certify, radius, check, export, report, demo)

app = typer.Typer(
    name="ibpc",
    help="A compiler for certified neural networks: compile, train, prove.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command()(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from ibpc.artifact import tool_versions

        typer.echo(f"ibpc {tool_versions()['ibpc']}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hold the options of `ibpc` itself."""


def main() -> None:
    """Run the command line: one clear line and status 2 for bad input, never a traceback for it.

    Characters that the terminal's encoding lacks are shown as question marks. If the reader of a
    pipe leaves, as `head` does, the command goes on: it writes its files, and its exit status stays what it was.
    """
    sys.stdout, sys.stderr = _lenient(sys.stdout), _lenient(sys.stderr)
    try:
        app()
    except IbpcError as error:
        _fail(*map(str, error.problems))
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _fail("memory: there is not enough; a smaller batch, a smaller network, or a machine with more of it")


def _fail(*problems: str) -> NoReturn:
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    sys.exit(2)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; torch says so by classes and words of its own."""
    is_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_torch


def _lenient(stream: TextIO) -> TextIO:
    """Return a standard stream that writes what it can, to whoever still reads it."""
    if not isinstance(stream, TextIOWrapper):
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, FileIO):
        stream.reconfigure(errors="replace")
        return stream
    stream.flush()
    writer = BufferedWriter(_Abandonable(raw.fileno(), "w", closefd=False))
    return TextIOWrapper(
        writer, stream.encoding, "replace", line_buffering=stream.line_buffering or stream.write_through
    )


class _Abandonable(FileIO):
    """A file whose reader may leave, or that may be full: what is written afterwards goes nowhere."""

    _is_abandoned = False

    def write(self, data: Any, /) -> int:
        """Write what fits, and all of it to nobody. Raises OSError, once, where the file cannot be written."""
        try:
            return len(data) if self._is_abandoned else super().write(data)
        except OSError as error:
            self._is_abandoned = True
            if not isinstance(error, BrokenPipeError):
                raise
            return len(data)
