"""Who is next: longest Cell first, no more begun than there are workers, failures tried again or set aside.

Nothing here imports torch, and nothing here knows where Cells are computed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from robustatt.engine.costs import Costs
from robustatt.engine.executor import Advanced, CellCost, Event, Executor, Failed, FailureKind, Finished, Task
from robustatt.errors import InputError
from robustatt.plan import Cell
from robustatt.progress import SweepProgress

ATTEMPTS = 3
MAX_LOST_NODES = 10  # machines that a Cell may lose until it counts as what ends them
SUSPECT_AFTER = 2  # machines lost with a Cell, from which on the others go first


class Queue:
    """The Cells nobody has begun, longest first.

    It holds one Cell of each kind (model, attack): the others are made when it is their turn, so that a long queue
    costs no more memory than a short one.

    Args:
        kinds: for each kind, its Cells, the longest first.
    """

    def __init__(self, kinds: Iterable[Iterator[Cell]], costs: Costs) -> None:
        self._costs = costs
        self._again: deque[Task] = deque()
        self._last: deque[Task] = deque()
        self._heads: list[tuple[float, int, Cell, Iterator[Cell]]] = []
        for order, cells in enumerate(kinds):
            self._advance(order, cells)

    def _advance(self, order: int, cells: Iterator[Cell]) -> None:
        cell = next(cells, None)
        if cell is not None:
            heapq.heappush(self._heads, (-self._costs.expected(cell), order, cell, cells))

    def take(self) -> Task | None:
        """The next task: one to be tried again, or else the longest, or else a suspect; None if nothing is left."""
        if self._again:
            return self._again.popleft()
        if not self._heads:
            return self._last.popleft() if self._last else None
        _, order, cell, cells = heapq.heappop(self._heads)
        self._advance(order, cells)
        return Task(cell)

    def put_back(self, task: Task) -> None:
        """A task that is to be tried again: before all others, unless it may be what ends the machines it was on."""
        (self._last if task.losses >= SUSPECT_AFTER else self._again).append(task)

    def reorder(self) -> None:
        """Sort afresh by what is now known of the costs."""
        self._heads = [(-self._costs.expected(cell), order, cell, cells) for _, order, cell, cells in self._heads]
        heapq.heapify(self._heads)

    def __bool__(self) -> bool:
        return bool(self._again or self._heads or self._last)


@dataclass(frozen=True)
class SetAside:
    """A Cell that was given up, with the cause of its last failure in one line."""

    cell: Cell
    cause: str
    problem: BaseException | None = None


@dataclass
class Scheduler:
    """Runs every Cell of a queue on an executor. `finished` is told of each Cell with what it cost."""

    queue: Queue
    executor: Executor
    costs: Costs
    progress: SweepProgress
    finished: Callable[[Cell, CellCost], None] = lambda _cell, _spent: None
    set_aside: list[SetAside] = field(default_factory=list)
    _told: dict[str, int] = field(default_factory=dict)

    def run(self) -> list[SetAside]:
        """Until every Cell is in the store or set aside; returns the latter.

        Raises:
            InputError: a worker found that the user's input is wrong.
            RobustattError: no worker can be had.
        """
        while self.queue or self._told:
            while self.executor.room() > 0 and (task := self.queue.take()) is not None:
                self._told[task.cell.key] = 0
                self.executor.submit(task)
            self.executor.wait(self._handle)
        return self.set_aside

    def _handle(self, event: Event) -> None:
        cell = event.task.cell
        if isinstance(event, Advanced):
            self._tell(cell, event.examples)
        elif isinstance(event, Finished):
            self._tell(cell, cell.stop - cell.start - self._told[cell.key])
            del self._told[cell.key]
            if self.costs.learn(cell, event.spent.seconds):
                self.queue.reorder()
            self.finished(cell, event.spent)
        else:
            self._tell(cell, -self._told.pop(cell.key))
            self._failed(event)

    def _tell(self, cell: Cell, examples: int) -> None:
        if examples:
            self.progress.advance(cell, examples * max(1, len(cell.radii)))
            if cell.key in self._told:
                self._told[cell.key] += examples

    def _failed(self, event: Failed) -> None:
        task = event.task
        if event.fate is FailureKind.WRONG_INPUT:
            raise InputError(event.cause)
        again = {
            FailureKind.RETRY: replace(task, attempt=task.attempt + 1),
            FailureKind.OUT_OF_MEMORY: replace(task, halvings=task.halvings + 1),
            FailureKind.LOST: replace(task, losses=task.losses + 1),
        }.get(event.fate)
        if again is None or again.attempt > ATTEMPTS or again.losses >= MAX_LOST_NODES:
            suspected = event.fate is FailureKind.LOST
            cause = (
                f"{event.cause}, as {MAX_LOST_NODES - 1} before it: this Cell may be what ends them"
                if suspected
                else event.cause
            )
            self.set_aside.append(SetAside(task.cell, cause, event.problem))
            self.progress.failed(task.cell, f"{cause}; set aside", event.log)
            return
        self.progress.failed(task.cell, f"{event.cause}; tried again", event.log)
        self.queue.put_back(again)
