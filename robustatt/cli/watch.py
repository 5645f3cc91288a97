"""`robustatt watch`: the curves of a sweep while it runs, from its records alone."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustatt.cli._terminal import print_tables, warn
from robustatt.errors import InputError

if TYPE_CHECKING:
    from robustatt.engine.watching import SweepSoFar


def watch(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that a sweep writes to, or wrote.")],
    once: Annotated[bool, typer.Option("--once", help="Look once and exit.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 5.0,
) -> None:
    """Show the curves of a running or finished sweep in the terminal.

    Reads only what is whole, on any machine that sees the folder, and writes nothing. Ends with the sweep, or by Ctrl-C.
    """
    from robustatt.engine.watching import look

    if not 0.1 <= every <= 86400:
        raise InputError(f"--every {every:g}: give seconds from 0.1 to 86400")
    shown: SweepSoFar | None = None
    try:
        while shown is None or not (once or shown.ended):
            if shown is not None:
                time.sleep(every)
            view = look(directory)
            if view != shown:
                _show(view, directory, clear=shown is not None)
            shown = view
    except KeyboardInterrupt:
        return


def _show(view: SweepSoFar, directory: Path, clear: bool) -> None:
    """The table in place of the one before, or in a log file below it."""
    if clear and sys.stdout.isatty():
        print("\033[H\033[2J", end="")
    for finding in view.findings:
        warn(finding)
    print(f"{directory}: {view.said}")
    if view.rows:
        print("Accuracy in % [95 % interval that holds at every look], examples in brackets")
        print_tables(view.columns, view.rows)
    sys.stdout.flush()
