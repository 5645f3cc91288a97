"""Progress of long runs: what is reported, and the bars that show it. Imports rich only when a bar is drawn."""

from __future__ import annotations

import abc
import sys
import time
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from robustatt.plan import Cell
    from robustatt.results.summary import Summary

MOST_LINES = 12  # of curves above the bar
LOG_INTERVAL = 30.0  # seconds between two lines of progress where there is no terminal


class SweepProgress(Protocol):
    """Somebody who watches a sweep."""

    def begin(self, images: int, cells: int, cells_ready: int) -> None:
        """How many (example, radius) images there are to evaluate in how many Cells, and how many Cells are done already."""

    def advance(self, cell: Cell, images: int) -> None:
        """That many more images are done, by whichever worker."""

    def failed(self, cell: Cell, cause: str, log: str) -> None:
        """A Cell failed: the cause in one line with what happens now, and what its worker said (may be empty)."""

    def looked(self, summary: Summary, seconds: float) -> None:
        """What is known after a round of a sweep in rounds, so many seconds after its beginning."""


class NoSweepProgress:
    """Progress that is not shown."""

    def begin(self, images: int, cells: int, cells_ready: int) -> None: ...

    def advance(self, cell: Cell, images: int) -> None: ...

    def failed(self, cell: Cell, cause: str, log: str) -> None: ...

    def looked(self, summary: Summary, seconds: float) -> None: ...


class StudyProgress(Protocol):
    """What is told by a study that takes images one after the other: `transfer` and `segment`."""

    def begin(self, images: int) -> None:
        """How many images all models together are to look at, those found on disk included."""

    def advance(self, what: str, images: int) -> None:
        """That many more are done, of this model and data set."""


class NoStudyProgress:
    """Progress that nobody watches."""

    def begin(self, images: int) -> None: ...

    def advance(self, what: str, images: int) -> None: ...


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever says most."""
    for unit, size in (("days", 2 * 86400), ("h", 2 * 3600), ("min", 2 * 60)):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.1f} s"


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


def _with_lines(lines: list[str], *columns: Any) -> Any:
    """Progress of these columns, with lines of text above it."""
    from rich.progress import Progress
    from rich.text import Text

    class WithLines(Progress):
        def get_renderables(self) -> Iterable[Any]:
            yield from (Text(line, overflow="ellipsis", no_wrap=True) for line in lines)
            yield from super().get_renderables()

    return WithLines(*columns, console=_console(), transient=True)


class ProgressBar(abc.ABC):
    """A progress bar on standard error that appears with its first task and is gone afterwards."""

    def __init__(self) -> None:
        self._lines: list[str] = []  # above the bar
        self._progress = _with_lines(self._lines, *self._columns())
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
    """The progress bar of a sweep: images a second and time left. In a log file, a line now and then.

    `seconds`: the time that the sweep has, if it is limited.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds, self._looked = seconds, 0.0  # what it has, and when accuracy was said last
        super().__init__()
        self._said = time.monotonic()

    def _columns(self) -> list[Any]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        left: list[Any] = [TimeRemainingColumn()]
        if self._seconds is not None:
            left = [TextColumn(f"--time {duration(self._seconds)}")]
        return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, *left]

    def begin(self, images: int, cells: int, cells_ready: int) -> None:
        del cells, cells_ready
        if images:
            self._begin(images, rate="")

    def advance(self, cell: Cell, images: int) -> None:
        self._progress.update(self._task, advance=images, description=f"{cell.model} {cell.attack.name}")
        speed = self._progress.tasks[0].speed
        self._progress.update(self._task, rate=f"{speed:,.0f} images/s" if speed else "")
        if not self._progress.console.is_terminal and not self._looked and time.monotonic() - self._said > LOG_INTERVAL:
            self._said = time.monotonic()
            task = self._progress.tasks[0]
            left = f", {duration(task.time_remaining)} left" if task.time_remaining else ""
            print(f"{task.completed:,.0f} of {task.total:,.0f} images{left}", file=sys.stderr, flush=True)

    def looked(self, summary: Summary, seconds: float) -> None:
        """Accuracy so far of each curve: above the bar, or in a log file a line now and then."""
        from robustatt.results.precision import curves_so_far

        found, of = [str(standing) for standing in curves_so_far(summary)], summary.plan.rounds.of if summary.plan.rounds else 0
        if not found:
            return
        more = [f"and {len(found) - MOST_LINES} more"] if len(found) > MOST_LINES else []
        head = f"{summary.plan.data.n:,} of {of:,} examples after {duration(seconds)}, accuracy in % [95 % at every look]"
        console = self._progress.console
        if console.is_terminal or console.is_jupyter:
            self._lines[:] = [head, *(f"  {line}" for line in [*found[:MOST_LINES], *more])]
        elif seconds >= 2 * self._looked:
            self._looked = seconds
            print(f"{head}: {', '.join([*found[:MOST_LINES], *more])}", file=sys.stderr, flush=True)

    def failed(self, cell: Cell, cause: str, log: str) -> None:
        said = "".join(f"\n  {line}" for line in log.splitlines())
        self._progress.console.print(f"{cell}: {cause}{said}", markup=False, highlight=False, soft_wrap=True)


class StudyBar(ProgressBar):
    """The progress bar of a study: of which model and set, how many images of all, time left."""

    def _columns(self) -> list[Any]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]

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
