"""What a sweep will cost, measured on a few examples of each model and attack before anything is computed."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import final

from robustatt.engine.scheduler import GRADIENT, CellCost, Costs, Finished, Handler, Scheduler, Task, full_strength
from robustatt.engine.sweep import Sweep
from robustatt.engine.worker import peak_memory
from robustatt.evaluate.cell import evaluate, positions_of
from robustatt.plan import Cell
from robustatt.progress import NoSweepProgress

PILOT_SECONDS = 15.0  # about what a pilot of one model and attack may take
MOST_PILOT, FEWEST_PILOT = 64, 8  # examples
PART = 4  # one in this many of the pilot's examples is attacked by itself first


@dataclass(frozen=True)
class KindForecast:
    """What the missing Cells of one model and attack will cost in all: images through the model, seconds on one worker."""

    model: str
    attack: str
    cells: int
    examples: int
    gradients: float
    forwards: float
    seconds: float
    piloted: int  # examples that were attacked to know this


@dataclass(frozen=True)
class Forecast:
    """What a sweep will cost on `workers` workers: wall seconds with their start, peak memory in bytes of all together."""

    kinds: tuple[KindForecast, ...]
    workers: int
    start_seconds: float
    seconds: float
    peak_bytes: int
    ready: int  # Cells that are in the store already

    def total(self, column: str) -> float:
        """The sum of a column over all kinds."""
        return float(sum(getattr(kind, column) for kind in self.kinds))


def forecast(sweep: Sweep, begun: Callable[[Cell, int], None] = lambda *_: None) -> Forecast:
    """Attack a few examples, evenly spread, with each model and attack, and scale up. Nothing is written.

    `begun` is called with the first Cell of each model and attack, and on how many examples it is about to be measured.
    Raises InputError where the sweep would.
    """
    keys = sweep.bound.keys()
    missing = sweep.missing()
    found = tuple(_pilots(sweep, missing, begun))
    workers = max(1, sweep.size(missing))
    start = sweep.crew.start_seconds if workers > 1 or sweep.crew.execution.engine == "ray" else 0.0
    memory = peak_memory(sweep.models.device) * (workers + 1 if start else 1)
    return Forecast(found, workers, start, start + makespan(sweep, missing, found, workers), memory, len(keys) - len(missing))


def _pilots(sweep: Sweep, missing: Set[str], begun: Callable[[Cell, int], None]) -> Iterator[KindForecast]:
    for kind in sweep.bound.kinds():
        cells = [cell for cell in kind if cell.key in missing]
        if cells:
            yield _pilot(sweep, cells, begun)


def makespan(sweep: Sweep, missing: Set[str], found: Sequence[KindForecast], workers: int) -> float:
    """Wall seconds of the missing Cells on this number of workers, by the scheduler that will run them."""
    each = {(kind.model, kind.attack): kind.seconds / kind.examples for kind in found}
    costs = Costs.measured(sweep.bound.plan, each)
    machine = VirtualWorkers(workers, costs.expected)
    Scheduler(sweep.queue(missing, costs), machine, costs, NoSweepProgress()).run()
    return machine.now


def _pilot(sweep: Sweep, cells: Sequence[Cell], begun: Callable[[Cell, int], None]) -> KindForecast:
    """Attack a part of the pilot's examples and then all of them: what the others add is what each costs in a whole Cell."""
    cell, examples = cells[0], sum(cell.stop - cell.start for cell in cells)
    entry = next(entry for entry in sweep.bound.plan.loaded if entry.name == cell.model)
    positions = [place for cell in cells for place in positions_of(cell, sweep.dataset)]
    forward = sweep.crew.measured(entry)
    gradients, forwards = full_strength(cell.attack, len(cell.radii), cell.independent or bool(cell.part))
    wanted = int(PILOT_SECONDS / (forward * (GRADIENT * gradients + forwards)))
    count = min(len(positions), max(FEWEST_PILOT, min(MOST_PILOT, wanted)))
    begun(cell, count)
    few = count // PART if count >= PART * FEWEST_PILOT else 0
    if few:
        _attacked(sweep, cell, positions, few)  # what is slow only the first time
    first = _attacked(sweep, cell, positions, few)[0] if few else 0.0
    seconds, found_gradients, found_forwards = _attacked(sweep, cell, positions, count)
    each = min((seconds - first) / (count - few), seconds / count)
    whole = sum(max(0.0, seconds + each * (cell.stop - cell.start - count)) for cell in cells)
    scale = examples / count
    return KindForecast(
        *cell.kind, len(cells), examples, found_gradients * scale, found_forwards * scale, whole, count
    )  # fmt: skip


def _attacked(sweep: Sweep, cell: Cell, positions: Sequence[int], count: int) -> tuple[float, float, float]:
    """Seconds, gradients and forward passes of this many examples of a kind, evenly spread over all of them."""
    chosen = [positions[place * len(positions) // count] for place in range(count)]
    classifiers = sweep.models.of(cell)
    began = time.perf_counter()
    found = evaluate(replace(cell, start=0, stop=count), classifiers, sweep.dataset, sweep.setup.batch_size, positions=chosen)
    return time.perf_counter() - began, found.gradients, found.forwards


@final
class VirtualWorkers:
    """Workers of a clock of their own, for forecasts and for simulating the scheduler.

    Args:
        workers: how many.
        seconds: what a Cell takes on one of them.
        latency: seconds between a Cell and the next on the same worker.
    """

    def __init__(self, workers: int, seconds: Callable[[Cell], float], latency: float = 0.0) -> None:
        self.workers, self.now = workers, 0.0
        #: begin and end of every Cell, in seconds
        self.spans: list[tuple[float, float]] = []
        self._seconds, self._latency = seconds, latency
        self._running: list[tuple[float, int, float, Task]] = []

    def room(self) -> int:
        return self.workers - len(self._running)

    def submit(self, task: Task) -> None:
        seconds = self._seconds(task.cell)
        begin = self.now + self._latency
        self.spans.append((begin, begin + seconds))
        heapq.heappush(self._running, (begin + seconds, len(self.spans), seconds, task))

    def wait(self, handle: Handler) -> None:
        if self._running:
            self.now, _, seconds, task = heapq.heappop(self._running)
            handle(Finished(task, CellCost(seconds, 0, 0, 0)))

    def close(self) -> None: ...
