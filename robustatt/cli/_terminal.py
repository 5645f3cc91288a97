"""What the commands print: tables, warnings and progress bars."""

from __future__ import annotations

import abc
import io
import shutil
import sys
import time
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robustatt.plan import Cell, ModelEntry


PAPER = 160  # columns where the output is no terminal
GAP = 3  # between columns
LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal


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


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever says most."""
    for unit, size in (("days", 2 * 86400), ("h", 2 * 3600), ("min", 2 * 60)):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.1f} s"


def announce(models: Iterable[ModelEntry]) -> None:
    """A line for each network that comes from timm or torchvision: what is done to it without being asked."""
    from robustatt.models.external import facts

    for entry in models:
        line = facts(entry.spec, entry.weights, entry.normalize)
        if line:
            print(line)


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def in_jupyter() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # Jupyter, Google Colab


def _console() -> Any:
    """Standard error; in a notebook a widget, or text where ipywidgets is not installed."""
    from rich.console import Console

    if in_jupyter() and find_spec("ipywidgets") is None:
        return Console(stderr=True, force_jupyter=False, force_terminal=True)
    return Console(stderr=True)


class ProgressBar(abc.ABC):
    """A progress bar on standard error that appears with its first task and is gone afterwards."""

    def __init__(self) -> None:
        from rich.progress import Progress

        self._progress = Progress(*self._columns(), console=_console(), transient=True)
        self._task: Any = None

    @abc.abstractmethod
    def _columns(self) -> list[Any]:
        """What stands in the bar, from left to right."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._progress.stop()

    def _begin(self, total: int | None, **fields: Any) -> None:
        self._progress.start()
        self._task = self._progress.add_task("", total=total, **fields)


class SweepBar(ProgressBar):
    """The progress bar of a sweep: images a second and time left. In a log file, a line now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._said = time.monotonic()

    def _columns(self) -> list[Any]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()]

    def begin(self, images: int, cells: int, cells_ready: int) -> None:
        del cells, cells_ready
        if images:
            self._begin(images, rate="")

    def advance(self, cell: Cell, images: int) -> None:
        self._progress.update(self._task, advance=images, description=f"{cell.model} {cell.attack.name}")
        speed = self._progress.tasks[0].speed
        self._progress.update(self._task, rate=f"{speed:,.0f} images/s" if speed else "")
        if not self._progress.console.is_terminal and time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            task = self._progress.tasks[0]
            left = f", {duration(task.time_remaining)} left" if task.time_remaining else ""
            print(f"{task.completed:,.0f} of {task.total:,.0f} images{left}", file=sys.stderr, flush=True)

    def failed(self, cell: Cell, cause: str, log: str) -> None:
        said = "".join(f"\n  {line}" for line in log.splitlines())
        self._progress.console.print(f"{cell}: {cause}{said}", markup=False, highlight=False, soft_wrap=True)


class CountBar(ProgressBar):
    """A progress bar of things to do one after another: which, how many of all, time left."""

    def _columns(self) -> list[Any]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]


class LookBar(CountBar):
    """The progress bar of a localisation: whose maps, and how many of all."""

    def __call__(self, label: str, done: int, total: int) -> None:
        if self._task is None:
            self._begin(total)
        self._progress.update(self._task, completed=done, description=label)


class TransferBar(CountBar):
    """The progress bar of a transfer: of which model and set the features are, and how many images of all."""

    def begin(self, images: int) -> None:
        self._begin(images)

    def advance(self, what: str, images: int) -> None:
        self._progress.update(self._task, advance=images, description=what)


class TrainingBar(ProgressBar):
    """The progress bar of a training: epoch, loss, accuracy."""

    def _columns(self) -> list[Any]:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        said = TextColumn("{task.fields[said]}")
        return [TextColumn("epoch {task.fields[epoch]}"), BarColumn(), said, TimeRemainingColumn()]

    def __call__(self, epoch: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        if self._task is None:
            self._begin(None, epoch=epoch, said="")
        self._progress.update(
            self._task, completed=step, total=steps, epoch=epoch, said=f"loss {loss:.3f}, accuracy {accuracy:.1%}"
        )
