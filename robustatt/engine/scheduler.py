"""Who is next: longest Cell first, no more begun than there are workers, failures tried again or set aside.

Nothing here imports torch, and nothing here knows where Cells are computed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from robustatt.attack.recipe import Recipe
from robustatt.errors import InputError
from robustatt.plan import Cell, Plan
from robustatt.plan.drift_sample import at_full_strength, measured_attacks
from robustatt.plan.surrogates import can_be_crafted, for_transfer
from robustatt.progress import SweepProgress

ATTEMPTS = 3
MAX_LOST_NODES = 10  # machines that a Cell may lose until it counts as what ends them
SUSPECT_AFTER = 2  # machines lost with a Cell, from which on the others go first


class Queue:
    """The Cells that have not been started, longest first.

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
                f"{event.cause}, as {MAX_LOST_NODES - 1} before it: this Cell may be what ends them" if suspected else event.cause
            )
            self.set_aside.append(SetAside(task.cell, cause, event.problem))
            self.progress.failed(task.cell, f"{cause}; set aside", event.log)
            return
        self.progress.failed(task.cell, f"{event.cause}; tried again", event.log)
        self.queue.put_back(again)


@dataclass(frozen=True)
class Task:
    """A Cell handed to an executor.

    `halvings` says how often its batch was halved because memory ran out, `losses` how many machines were lost with it.
    """

    cell: Cell
    attempt: int = 1
    halvings: int = 0
    losses: int = 0


class FailureKind(Enum):
    """What is to become of a Cell that failed."""

    RETRY = "retry"  # it may work elsewhere, or another time
    HOPELESS = "hopeless"  # the program refused on purpose: another time gives the same
    WRONG_INPUT = "wrong input"  # no Cell like this can be computed: the whole run ends
    OUT_OF_MEMORY = "out of memory"  # its worker ran out of memory: with half the batch it may fit
    LOST = "lost"  # the machine went away, which is not the Cell's fault


@dataclass(frozen=True)
class CellCost:
    """What a Cell cost: seconds on one worker, images through the model, and the worker's peak memory in bytes."""

    seconds: float
    gradients: int
    forwards: int
    batch_size: int
    peak_bytes: int = 0
    worker: str = ""


@dataclass(frozen=True)
class Advanced:
    """So many more examples of a Cell are done; negative when a batch is begun again."""

    task: Task
    examples: int


@dataclass(frozen=True)
class Finished:
    """A Cell's records are in the store."""

    task: Task
    spent: CellCost


@dataclass(frozen=True)
class Failed:
    """A Cell was not computed: the cause in one line, and what its worker said (empty if nothing more)."""

    task: Task
    cause: str
    fate: FailureKind = FailureKind.RETRY
    log: str = ""
    problem: BaseException | None = None


Event = Advanced | Finished | Failed
Handler = Callable[[Event], None]


class Executor(Protocol):
    """Computes Cells on one or more workers. It decides who computes what, and nothing else."""

    def room(self) -> int:
        """How many more Cells it takes now; never more than it has idle workers."""

    def submit(self, task: Task) -> None:
        """Begin a Cell; only if there is room."""

    def wait(self, handle: Handler) -> None:
        """Pass on what has happened; blocks until something did, a second at most where nothing runs.

        Raises RobustattError if no worker can be had.
        """

    def close(self) -> None:
        """Stop all workers."""


GRADIENT = 3.0  # a gradient in forward passes, where nothing is measured
RUNS = 1.5  # runs of an attack an example needs over a whole grid (the threshold search)


def full_strength(recipe: Recipe, radii: int, independent: bool) -> tuple[float, float]:
    """Gradients and forward passes of one example, as the recipe promises them before anything is measured."""
    gradients, forwards = recipe.cost()
    if recipe.one_run:
        return gradients, forwards * radii + 1
    runs = radii if independent or recipe.to_the_end else min(RUNS, radii)
    return gradients * runs, forwards * runs + radii + 1


class Costs:
    """Expected seconds of a Cell; what has been measured of its kind counts, what was promised only until then.

    A kind is (model, attack). One that was not measured yet is promised the seconds of its forward passes, corrected
    by what the measured kinds of the same model, or else of all, turned out to cost against their promise.

    Args:
        plan: whose Cells these are.
        forward_seconds: of one image through each model; 1.0 where it is not known.
    """

    def __init__(self, plan: Plan, forward_seconds: Mapping[str, float] | None = None) -> None:
        self._promised: dict[tuple[str, str], float] = {}
        known = forward_seconds or {}
        for entry in plan.models:
            forward = known.get(entry.name, 1.0)
            for recipe in plan.attacks:
                self._promise(
                    entry.name, recipe.name, forward, full_strength(recipe, len(plan.radii_of(recipe)), plan.independent)
                )
            for recipe, radii in measured_attacks([(recipe, plan.radii_of(recipe)) for recipe in plan.attacks]):
                self._promise(entry.name, at_full_strength(recipe), forward, full_strength(recipe, len(radii), True))
        for entry in plan.crafted_on:
            for recipe in filter(can_be_crafted, plan.attacks):
                count, forward = len(plan.radii_of(recipe)), known.get(entry.name, 1.0)
                judged = (count + 1) * sum(known.get(target.name, 1.0) for target in plan.models) / forward
                gradients, forwards = full_strength(recipe, count, True)
                self._promise(entry.name, for_transfer(recipe), forward, (gradients, forwards + judged))
        self._seconds: dict[tuple[str, str], float] = {}
        self._examples: dict[tuple[str, str], int] = {}

    def _promise(self, model: str, attack: str, forward: float, passes: tuple[float, float]) -> None:
        self._promised[model, attack] = forward * (GRADIENT * passes[0] + passes[1])

    @staticmethod
    def measured(plan: Plan, per_example: Mapping[tuple[str, str], float]) -> Costs:
        """Costs that know the seconds of one example of some kinds already."""
        costs = Costs(plan)
        costs._seconds.update(per_example)
        costs._examples.update(dict.fromkeys(per_example, 1))
        return costs

    def expected(self, cell: Cell) -> float:
        """Seconds of a Cell on one worker."""
        return self.per_example(*cell.kind) * (cell.stop - cell.start)

    def per_example(self, model: str, attack: str) -> float:
        """Seconds of one example on one worker."""
        kind = (model, attack)
        if kind in self._seconds:
            return self._seconds[kind] / self._examples[kind]
        return self._promised[kind] * self._correction(model)

    def _correction(self, model: str) -> float:
        related = [kind for kind in self._seconds if kind[0] == model] or list(self._seconds)
        promised = sum(self._promised[kind] * self._examples[kind] for kind in related)
        return sum(self._seconds[kind] for kind in related) / promised if promised else 1.0

    def learn(self, cell: Cell, seconds: float) -> bool:
        """Take in what a Cell cost; whether it is the first of its kind, so that the order may change."""
        kind = cell.kind
        first = kind not in self._seconds
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        self._examples[kind] = self._examples.get(kind, 0) + cell.stop - cell.start
        return first
