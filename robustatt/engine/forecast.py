"""What a sweep will cost, measured on a few examples of each model and attack before anything is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustatt.engine.costs import GRADIENT, Costs, full_strength
from robustatt.engine.progress import Silent
from robustatt.engine.scheduler import Queue, Scheduler, kinds
from robustatt.engine.sweep import Sweep
from robustatt.engine.virtual import VirtualWorkers
from robustatt.engine.worker import peak_memory
from robustatt.evaluate import attack_examples
from robustatt.plan import Cell

PILOT_SECONDS = 15.0  # about what a pilot of one model and attack may take
MOST_PILOT, FEWEST_PILOT = 64, 8  # examples


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


def forecast(sweep: Sweep) -> Forecast:
    """Attack a few examples, evenly spread, with each model and attack, and scale up. Nothing is written.

    Raises InputError where the sweep would.
    """
    cells = list(sweep.bound.cells())
    missing = sweep.store.missing(cell.key for cell in cells)
    todo = [cell for cell in cells if cell.key in missing]
    by_kind: dict[tuple[str, str], list[Cell]] = {}
    for cell in todo:
        by_kind.setdefault((cell.model, cell.attack.name), []).append(cell)
    found = tuple(_pilot(sweep, mine) for mine in by_kind.values())
    workers = sweep.crew.size(todo) if todo else 1
    start = sweep.crew.start_seconds if workers > 1 or sweep.crew.execution.engine == "ray" else 0.0
    processes = workers + 1 if start else 1
    memory = peak_memory(sweep.models.device) * processes
    return Forecast(
        found, workers, start, start + makespan(sweep, todo, found, workers), memory, len(cells) - len(todo)
    )


def makespan(sweep: Sweep, todo: Sequence[Cell], found: Sequence[KindForecast], workers: int) -> float:
    """Wall seconds of these Cells on so many workers, by the scheduler that will run them."""
    costs = Costs(sweep.bound.plan)
    each = {(kind.model, kind.attack): kind.seconds / kind.examples for kind in found}
    for cell in todo:
        costs.learn(cell, each[cell.model, cell.attack.name] * (cell.stop - cell.start))
    machine = VirtualWorkers(workers, costs.expected)
    Scheduler(Queue(kinds(todo), costs), machine, costs, Silent()).run()
    return machine.now


def _pilot(sweep: Sweep, cells: Sequence[Cell]) -> KindForecast:
    cell, examples = cells[0], sum(cell.stop - cell.start for cell in cells)
    entry = next(entry for entry in sweep.bound.plan.models if entry.name == cell.model)
    classifier = sweep.models.get(entry)
    positions = [place for cell in cells for place in range(cell.start, cell.stop)]
    forward = sweep.crew.measured(entry)
    gradients, forwards = full_strength(cell.attack, len(cell.radii), cell.independent)
    wanted = int(PILOT_SECONDS / (forward * (GRADIENT * gradients + forwards)))
    count = min(len(positions), max(FEWEST_PILOT, min(MOST_PILOT, wanted)))
    chosen = [positions[place * len(positions) // count] for place in range(count)]
    began = time.perf_counter()
    target, _, oracle = attack_examples(
        replace(cell, start=0, stop=count), classifier, sweep.dataset, chosen, sweep.setup.batch_size
    )
    seconds = time.perf_counter() - began
    scale = examples / count
    return KindForecast(
        cell.model, cell.attack.name, len(cells), examples, oracle.gradients * scale,
        (oracle.forwards + target.forwards) * scale, seconds * scale, count,
    )  # fmt: skip
