"""The command line: a thin skin over the library. Only here is anything printed, and only here does the program exit.

One module holds one group of commands; this one puts them together and turns errors into exit codes.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from robustatt.cli._terminal import warn
from robustatt.cli.attend import attend
from robustatt.cli.board import board
from robustatt.cli.compare import compare
from robustatt.cli.corrupt import corrupt
from robustatt.cli.doctor import doctor
from robustatt.cli.export import export
from robustatt.cli.lists import attacks, list_data, models
from robustatt.cli.paper import paper
from robustatt.cli.report import check, report, reproduce
from robustatt.cli.segment import segment
from robustatt.cli.sweep import sweep
from robustatt.cli.train import train
from robustatt.cli.transfer import transfer
from robustatt.cli.verify import verify
from robustatt.cli.watch import watch
from robustatt.errors import RobustattError, describe
from robustatt.version import __version__

TRACEBACK = "--traceback"
_HINT = f" (unexpected: {TRACEBACK} shows where)"

app = typer.Typer(
    name="robustatt",
    help="How robust an image classifier is to adversarial perturbations, and where its attention goes under attack.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"robustatt {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the full traceback of an error; accepted after any command.")
    ] = False,
) -> None:
    pass


for command in (
    sweep,
    watch,
    corrupt,
    report,
    check,
    verify,
    compare,
    board,
    reproduce,
    train,
    models,
    attacks,
    doctor,
    attend,
    export,
    segment,
    transfer,
    paper,
):
    app.command()(command)
app.command(name="data")(list_data)


def main(arguments: list[str] | None = None) -> int:
    """The program: runs a command, turns every expected error into one line, and returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    with warnings.catch_warnings():
        warnings.showwarning = _say
        return _main(given)


def _say(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None) -> None:  # noqa: ARG001
    """A warning of the library as a line for users; those of other packages are for programmers."""
    if category is UserWarning and "robustatt" in Path(filename).parts:
        warn(str(message))


def _main(given: list[str]) -> int:
    wanted = [argument for argument in given if argument != TRACEBACK]
    return _run(lambda: app(args=wanted or ["--help"], standalone_mode=False), TRACEBACK in given)


def _run(command: Callable[[], Any], show_traceback: bool) -> int:
    """0 done, 1 regression, 2 wrong input, 3 failed half way, 130 interrupted; no traceback for what users can mend."""
    try:
        return _ended(command, show_traceback)
    except typer.Exit as leaving:
        return leaving.exit_code
    except RobustattError as problem:
        return _fail(str(problem), problem.exit_code)
    except typer.TyperException as problem:
        return _fail(problem.format_message().replace("\n", " "), 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        return _reader_gone()
    except OSError as problem:
        return _fail(f"{problem.filename or 'file'}: {problem.strerror or problem}", 3)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # rich and typer leave so
            return _reader_gone()
        # of somebody's model or data, say: its exit code is not one of ours
        return _fail(f"stopped by sys.exit({leaving.code!r}){_HINT}", 3)
    except Exception as problem:  # external models, data and attacks may raise anything
        return _fail(f"{describe(problem)}{_HINT}", 3)


def _reader_gone() -> int:
    """0 after `robustatt ... | head -1`: what would still be printed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _ended(command: Callable[[], Any], show_traceback: bool) -> int:
    """The command's own exit code; its exception passes, after its traceback where that is wanted."""
    try:
        return int(command() or 0)
    except typer.Exit:
        raise
    except (Exception, SystemExit):
        if show_traceback:
            traceback.print_exc()
        raise


def _fail(message: str, code: int) -> int:
    print(f"robustatt: {message}", file=sys.stderr)
    return code
