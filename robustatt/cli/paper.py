"""`robustatt paper`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from robustatt.cli._terminal import print_table
from robustatt.errors import InputError
from robustatt.progress import StudyBar


def paper(
    plan: Annotated[Path, typer.Option(help="What to measure (TOML).")] = Path("reports/paper/plan.toml"),
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of data sets, each in a folder of its name. [default: in the cache]")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="Where one data set of the plan lies; repeat for several."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Leave a part out: sweep, transfer, segment; repeat for several."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page; results go to its folder out.")] = Path("reports/paper"),
) -> None:
    """Measure what *Learn To Pay Attention* claims.

    As far as data and weights go; writes a page."""
    from robustatt.files import write_atomically
    from robustatt.studies.paper.claims import claims
    from robustatt.studies.paper.page import page, write_figures
    from robustatt.studies.paper.plan import PaperPlan, parse_places
    from robustatt.studies.paper.run import run

    wanted, places = PaperPlan.read(plan), parse_places(data_root, data or [])
    _make(out)
    outcome = run(wanted, places, out / "out", _Watch(), skip or [])
    found = claims(outcome.measured, outcome.commands)
    transfer = out / "out" / "transfer" / "transfer.png" if outcome.measured.transfer is not None else None
    figures = write_figures(found, outcome.measured, outcome.summaries, transfer, out)
    named = f"DIR/{plan.name}" if plan.is_absolute() else plan.as_posix()
    write_atomically(out / "README.md", page(found, outcome.measured, named, figures).encode())
    print_table(["claim", "", "comparisons here"], [[str(it.number), it.title, it.summary()] for it in found])
    print(f"Page: {out / 'README.md'}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"--out {folder}: cannot be made ({problem.strerror}): give a folder") from None


class _Watch:
    """Stages as lines on standard output, and the progress bars of the commands."""

    def stage(self, text: str) -> None:
        print(f"{text} ...", flush=True)

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[StudyBar]:
        self.stage(text)
        with StudyBar() as bar:
            yield bar
