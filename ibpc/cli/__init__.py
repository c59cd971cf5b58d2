"""The command line. Each command is a few lines that call the API; nothing else imports typer or prints."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Final

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


def main() -> None:
    """Run the command line: one clear line and status 2 for bad input, never a traceback for it.

    Characters that the terminal's encoding lacks are shown as question marks.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except BrokenPipeError:
        sys.exit(0)
    except IbpcError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"error: {error.filename or 'system'}: {error.strerror or error}", err=True)
        sys.exit(2)
