"""`robustatt verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustatt.cli._terminal import counted
from robustatt.errors import InputError


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep wrote.")],
    sample: Annotated[int, typer.Option(help="Recompute this many examples of each cell; 0 for none.")] = 8,
) -> None:
    """Check that a results folder is what it says.

    Images that the sweep saved are judged afresh, without the attack. Exit 1 if something is not true. Nothing is written.
    """
    from robustatt.engine.statement import FALSE, TRUE, UNKNOWN
    from robustatt.engine.verify import verify as examine

    if sample < 0:
        raise InputError(f"--sample {sample}: give the number of examples of each cell to run again, 0 for none")
    stated = examine(directory, sample)
    for statement in stated:
        print(f"{statement.verdict:<11}  {statement.what}: {statement.finding}")
    wrong, unknown = (sum(entry.verdict == verdict for entry in stated) for verdict in (FALSE, UNKNOWN))
    if wrong:
        print(f"{counted(wrong, 'statement')} of {len(stated)} not true.")
        raise typer.Exit(1)
    left = f"; {unknown} could not be checked" if unknown else ""
    print(f"{counted(sum(entry.verdict == TRUE for entry in stated), 'statement')} checked and true{left}.")
