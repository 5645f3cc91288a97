"""How busy the scheduler keeps many workers, with costs of Cells that were measured.

    python benchmarks/scheduler_simulation.py [--log OUT/log.jsonl] [--workers 1000] [--cells 100000] [--out reports/bench]

The real scheduler runs on workers of a virtual clock. A Cell takes the measured mean of its kind (model, attack) times
a random factor whose spread is that of the measured Cells of one kind; a worker is idle between Cells for the latency.
Says which share of the workers was busy until all but the last 2 % of the work was done; --out writes a figure too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustatt.attack import recipe_files as recipes
from robustatt.engine.forecast import VirtualWorkers
from robustatt.engine.scheduler import Costs, Queue, Scheduler
from robustatt.eps import parse_grid
from robustatt.plan import BoundPlan, Cell, ModelEntry, Plan
from robustatt.plan.cells import CELL_EXAMPLES
from robustatt.progress import NoSweepProgress

BENCH = Path(__file__).parents[1] / "reports" / "bench"
TAIL = 0.02  # of the work


@dataclass(frozen=True)
class Measured:
    """Seconds an example of each kind, and how much Cells of one kind differ (standard deviation of the logarithm)."""

    per_example: dict[tuple[str, str], float]
    spread: float

    @staticmethod
    def read(log: Path) -> Measured:
        """From the log of a sweep."""
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for line in log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found[entry["model"], entry["attack"]].append(entry["seconds"] / entry["examples"])
        logs = [math.log(value / float(np.mean(values))) for values in found.values() for value in values]
        return Measured({kind: float(np.mean(values)) for kind, values in found.items()}, float(np.std(logs)))


class PlanOrder(Costs):
    """Costs that know nothing: Cells are begun in the order of the plan."""

    def expected(self, cell: Cell) -> float:  # noqa: ARG002
        return 1.0


def plan_of(measured: Measured, cells: int) -> BoundPlan:
    """So many Cells, in equal parts of each kind."""
    models = sorted({model for model, _ in measured.per_example})
    attacks = sorted({attack for _, attack in measured.per_example})
    plan = Plan(
        tuple(ModelEntry(name, name) for name in models), tuple(map(recipes.load, attacks)), parse_grid("1..16"), drift_n=0
    )
    examples = cells // (len(models) * len(attacks)) * CELL_EXAMPLES
    return BoundPlan(plan, examples, ("a", "b"), "data", tuple(models))


def simulate(measured: Measured, bound: BoundPlan, workers: int, latency: float, costs: Costs) -> VirtualWorkers:
    """Run every Cell; the spans are then in the machine."""
    generator = np.random.default_rng(0)

    def seconds(cell: Cell) -> float:
        mean = measured.per_example[cell.model, cell.attack.name] * (cell.stop - cell.start)
        return mean * math.exp(generator.normal(0.0, measured.spread))

    machine = VirtualWorkers(workers, seconds, latency)
    Scheduler(Queue(bound.kinds(), costs), machine, costs, NoSweepProgress()).run()
    return machine


def work_by(spans: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Seconds of work done until each moment."""
    starts, ends = np.sort(spans[:, 0]), np.sort(spans[:, 1])
    sums = [np.concatenate([[0.0], np.cumsum(values)]) for values in (starts, ends)]
    before = [np.searchsorted(values, moments) for values in (starts, ends)]
    return (moments * before[0] - sums[0][before[0]]) - (moments * before[1] - sums[1][before[1]])


def busy_until_the_tail(spans: np.ndarray, workers: int, start: float) -> tuple[float, float]:
    """The share of the workers' time that was work until all but 2 % of it was done, their start included; and when."""
    moments = np.linspace(0, spans[:, 1].max(), 20_001)
    done = work_by(spans, moments)
    total = float((spans[:, 1] - spans[:, 0]).sum())
    place = int(np.searchsorted(done, (1 - TAIL) * total))
    return float(done[place] / (workers * (moments[place] + start))), float(moments[place])


def draw(path: Path, curves: dict[str, np.ndarray], workers: int, moments: dict[str, float], title: str) -> None:
    """Workers at work over time, the whole run and its end."""
    import matplotlib.pyplot as plt

    figure, (whole, end) = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    last = max(spans[:, 1].max() for spans in curves.values())
    for (name, spans), colour in zip(curves.items(), ("#0072b2", "#d55e00"), strict=True):
        for axes, begin in ((whole, 0.0), (end, 0.93 * last)):
            edges = np.linspace(begin, last * 1.005, 600)
            share = np.diff(work_by(spans, edges)) / np.diff(edges) / workers
            axes.plot(edges[1:] / 60, 100 * share, color=colour, label=name, linewidth=1.4)
        end.axvline(moments[name] / 60, color=colour, linestyle=":", linewidth=1.2)
    for axes, name in ((whole, "whole run"), (end, "its end; dotted: 98 % of the work is done")):
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("minutes")
        axes.set_ylim(0, 105)
        axes.spines[["top", "right"]].set_visible(False)
    whole.set_ylabel("workers at work in %")
    whole.legend(frameon=False, loc="lower left")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=BENCH / "cell-costs.jsonl", help="log of a sweep")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds between two Cells of a worker")
    parser.add_argument("--start", type=float, default=10.0, help="seconds until a worker can begin")
    parser.add_argument("--out", type=Path, help="folder for the figure and the conditions")
    given = parser.parse_args(arguments)
    measured = Measured.read(given.log)
    bound = plan_of(measured, given.cells)
    curves, moments, lines = {}, {}, []
    for name, costs in (("longest first", Costs(bound.plan)), ("order of the plan", PlanOrder(bound.plan))):
        began = time.perf_counter()
        machine = simulate(measured, bound, given.workers, given.latency, costs)
        driver = (time.perf_counter() - began) / len(machine.spans)
        spans = np.array(machine.spans)
        busy, moments[name] = busy_until_the_tail(spans, given.workers, given.start)
        curves[name] = spans
        lines.append(
            f"{name}: {busy:.2%} busy until 98 % of the work is done, end after {machine.now / 3600:.2f} h; "
            f"the driver spends {1e6 * driver:.0f} µs a Cell"
        )
    kinds = ", ".join(
        f"{model} {attack} {CELL_EXAMPLES * seconds:.1f} s" for (model, attack), seconds in sorted(measured.per_example.items())
    )
    conditions = (
        f"{len(machine.spans):,} Cells, {given.workers:,} workers, {given.start:g} s to start one, {given.latency:g} s "
        f"between Cells. Measured means of a Cell: {kinds}; spread of Cells of one kind {measured.spread:.0%}."
    )
    print("\n".join([conditions, *lines]))
    if given.out is not None:
        title = f"{len(machine.spans):,} Cells on {given.workers:,} workers (simulated with measured costs)"
        draw(given.out / "scheduler.png", curves, given.workers, moments, title)
        said = "\n".join(f"- {line}" for line in lines)
        command = "`python benchmarks/scheduler_simulation.py --out reports/bench`, with the costs in `cell-costs.jsonl`."
        text = f"# The scheduler, simulated\n\n![Workers at work](scheduler.png)\n\n{conditions}\n\n{said}\n\n{command}\n"
        (given.out / "scheduler.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
