"""`robustatt board`: models of many runs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustatt.cli._terminal import counted, print_table, warn

if TYPE_CHECKING:
    from robustatt.results.board import Standing
    from robustatt.results.published import PublishedRow


def board(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that sweeps wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for board.html, board.csv and board.json.")] = Path("reports/out/board"),
    eps: Annotated[
        list[str] | None,
        typer.Option(
            help="The radius of the ranks, such as 8/255; l2=0.5 for one norm of several. [default: the one most runs share]"
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Only attacks of this norm: linf, l2 or l1.")] = None,
    data: Annotated[str | None, typer.Option(help="Only runs on this data set.")] = None,
    robustbench: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Published rows to show beside: a JSON file of RobustBench's model_info, or a folder of them."
        ),
    ] = None,
) -> None:
    """Rank the models of many sweeps on the same images.

    By worst case over all attacks at a radius, computed from the records; models that chance may order otherwise are ties.
    """
    from robustatt.engine.board import make_board
    from robustatt.report.board import lines, notes, write_board
    from robustatt.results.published import read_published

    published = [] if robustbench is None else read_published(robustbench)
    made = make_board(directories, norm=norm, data=data, eps=eps or (), published=published)
    page = write_board(made, out)[0]
    for note in made.notes:
        warn(note)
    for part in made.norms:
        print(f"Worst case over all attacks up to {part.eps}, {made.data.n:,} images of {made.data.name} {made.data.split}")
        print_table(
            ["rank", "possible", "model", "worst case %", "clean %", "attacks", "images"], [_cells(row) for row in lines(part)]
        )
        for note in notes(part):
            warn(note)
    print(f"{counted(len(made.folders), 'run')}: {page}, board.csv, board.json")


def _cells(row: Standing | PublishedRow) -> list[str]:
    from robustatt.report.board import rank_text, span_text
    from robustatt.results.part import in_percent
    from robustatt.results.published import PublishedRow

    if isinstance(row, PublishedRow):
        return ["published", "", row.name, f"{100 * row.accuracy:.1f}", f"{100 * row.clean:.1f}", row.by, "-"]
    worst, clean = (in_percent(it.value, it.low, it.high) for it in (row.accuracy, row.clean))
    return [rank_text(row), span_text(row), row.entry.name, worst, clean, ", ".join(row.attacks), f"{row.n:,}"]
