"""What the commands print: tables and warnings."""

from __future__ import annotations

import io
import shutil
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robustatt.plan import ModelEntry


PAPER = 160  # columns where the output is not a terminal
GAP = 3  # between columns


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PAPER, highlight=False).print(_table(columns, rows))


def print_tables(columns: list[str], rows: list[list[str]]) -> None:
    """A table; one too wide for the terminal as several, one below another, each with the first column again.

    Neighbours whose names begin with the same word stay together where there is room.
    """
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else PAPER
    widths = [max(map(len, column)) + GAP for column in zip(columns, *rows, strict=True)]
    for part in _parts(columns, widths, room):
        print_table([columns[place] for place in part], [[row[place] for place in part] for row in rows])


def _parts(names: list[str], widths: list[int], room: int) -> list[list[int]]:
    """Which columns go into which table: the first into each, the others in order."""

    def fits(places: list[int]) -> bool:
        return len(places) < 3 or sum(widths[place] for place in places) <= room

    parts: list[list[int]] = [[0]]
    for _, neighbours in groupby(range(1, len(names)), key=lambda place: names[place].split()[0]):
        group = list(neighbours)
        if len(parts[-1]) > 1 and not fits(parts[-1] + group):
            parts.append([0])
        for place in group:
            if not fits([*parts[-1], place]):
                parts.append([0])
            parts[-1].append(place)
    return parts


def table_text(columns: list[str], rows: list[list[str]]) -> str:
    """The same table as plain text."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=160, highlight=False).print(_table(columns, rows))
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def _table(columns: list[str], rows: list[list[str]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        numeric = bool(rows) and all(row[place][:1].isdigit() or row[place] == "-" for row in rows)
        table.add_column(name, justify="right" if numeric and place else "left")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    return table


def counted(number: int, what: str) -> str:
    """`1 cell`, `2,000 cells`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def announce(models: Iterable[ModelEntry]) -> None:
    """A line for each network that comes from timm or torchvision: what is done to it without being asked."""
    foreign = [entry for entry in models if ":" in entry.spec]
    if foreign:
        from robustatt.models.external import facts
    for entry in foreign:
        line = facts(entry.spec, entry.weights, entry.normalize)
        if line:
            print(line)


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
