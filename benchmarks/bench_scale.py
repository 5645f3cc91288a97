"""What very large plans and results cost: seconds of processor time and peak memory, with synthetic records. Linux only.

    python benchmarks/bench_scale.py [--examples 1000000] [--rows 10000]

First a plan of so many examples under 4 attacks on 6 models: its Cells and their keys, what an empty store lacks of them, and the
scheduler with all of them on eight workers that take no time; for a tenth of the examples too. Then `robustatt sweep --dry-run` on as many
images of 8 x 8 pixels and a small network. Then the records of `--rows` examples, 16 radii and 24 curves: written as a sweep writes them,
read, summarised, and the page of the report.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from synthetic_records import PROVENANCE, make_plan, make_records

from robustatt.attack import recipe_files as recipes
from robustatt.engine.forecast import VirtualWorkers
from robustatt.engine.scheduler import Costs, Queue, Scheduler
from robustatt.eps import parse_grid
from robustatt.plan import BoundPlan, ModelEntry, Plan
from robustatt.plan.cells import CELL_EXAMPLES
from robustatt.progress import NoSweepProgress
from robustatt.report import write_report
from robustatt.results.aggregate import summarise
from robustatt.results.records import Store

SUPPORT = sys.path[0]
MODELS = tuple(f"model{number}" for number in range(6))
ATTACKS = ("fgsm", "pgd", "apgd-ce", "square")
T = TypeVar("T")


def peak() -> float:
    """The most memory that this process has held since it was last forgotten, in GiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 2**20


def measured(name: str, work: Callable[[], T], said: Callable[[T], str] = lambda _: "") -> T:
    """The result, after printing what it cost."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    began = time.process_time()
    result = work()
    print(f"| {name} | {time.process_time() - began:.1f} | {peak():.2f} | {said(result)} |", flush=True)
    return result


def plan_of(examples: int) -> BoundPlan:
    """So many examples under every attack on every model."""
    entries = tuple(ModelEntry(name, "vgg") for name in MODELS)
    plan = Plan(entries, tuple(map(recipes.load, ATTACKS)), parse_grid("1..16"), drift_n=0)
    return BoundPlan(plan, examples, tuple("0123456789"), "data", MODELS)


def driver(examples: int) -> None:
    """What the driver of a sweep does beside waiting."""
    bound = plan_of(examples)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.prepare(bound.parts())
        measured(
            f"{examples:,} examples: the keys of all Cells, and which an empty store lacks",
            lambda: len(store.missing(cell.key for cell in bound.cells())), lambda count: f"{count:,} Cells",
        )  # fmt: skip
    costs = Costs(bound.plan, dict.fromkeys(MODELS, 1e-3))

    def schedule() -> int:
        machine = VirtualWorkers(8, lambda _: 1.0, 0.0)
        Scheduler(Queue(bound.kinds(), costs), machine, costs, NoSweepProgress()).run()
        return len(machine.spans)

    measured(f"{examples:,} examples: queue and scheduler", schedule, lambda count: f"{count:,} Cells")


def dry_run(examples: int) -> None:
    """The command, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (examples, 3, 8, 8), dtype=np.uint8)
        np.savez(Path(folder) / "many.npz", images=images, labels=rng.integers(0, 3, examples))
        words = [word for name in MODELS for word in ("--model", f"{name}=tiny_models:small_net")]
        words += [word for name in ATTACKS for word in ("--attack", name)]
        command = ["sweep", *words, "--data", "many.npz", "--eps", "1..16", "--dry-run", "--workers", "1"]
        environment = {**os.environ, "PYTHONPATH": SUPPORT}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "robustatt", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = (done.stdout or done.stderr).strip().splitlines()[-1]
    print(f"| {examples:,} examples: sweep --dry-run | {seconds:.1f} | {after.ru_maxrss / 2**20:.2f} | {last} |", flush=True)


def cells_of(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of a Cell at a time."""
    for (model, attack), rows in records.groupby(["model", "attack"], sort=False):
        for start in range(0, int(rows["index"].max()) + 1, CELL_EXAMPLES):
            yield f"{model}-{attack}-{start}", rows[rows["index"].between(start, start + CELL_EXAMPLES - 1)]


def results(examples: int) -> None:
    """From records to the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, keys, pieces = Store(str(folder / "records")), [], []
        store.prepare()
        for model in MODELS:
            for attack in ATTACKS:
                made = make_records((model,), (attack,), n=examples)
                pieces.append(made[made["index"] < 1])
                for key, rows in cells_of(made):
                    store.put(key, rows.dropna(axis=1).to_dict("list"))
                    keys.append(key)
        plan = make_plan(pd.concat(pieces))
        records = measured("records from disk", lambda: store.read(keys), lambda found: f"{len(found):,} rows")
        summary = measured("summary", lambda: summarise(records, plan, PROVENANCE, []))
        measured(
            "page and tables, without figures", lambda: write_report(folder, records, summary, figures=False),
            lambda paths: f"{paths.html.stat().st_size / 1e6:.1f} MB",
        )  # fmt: skip


def main() -> None:
    """Print a table of all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000_000, help="of the plan; 0: only the records")
    parser.add_argument("--rows", type=int, default=10_000, help="examples of the records")
    wanted = parser.parse_args()
    print("| what | seconds | peak, GiB | |\n|---|---|---|---|")
    if wanted.examples:
        driver(wanted.examples // 10)
        driver(wanted.examples)
        dry_run(wanted.examples)
    results(wanted.rows)


if __name__ == "__main__":
    main()
