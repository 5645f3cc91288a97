"""`robustatt board` on many runs: synthetic records of 10,000 examples a run, the time from start to page, and its parts.

python benchmarks/bench_board.py [--runs 50] [--examples 10000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from robustatt.attack import recipe_files
from robustatt.plan import BoundPlan, Cell, ModelEntry, Plan, parse_unit, radii_by_attack
from robustatt.results.records import Store

ATTACKS = ("fgsm", "pgd")
CLASSES = 10


def write_run(folder: Path, name: str, examples: int, seed: int) -> None:
    """A whole results folder of one model: each example breaks at a radius of its own, easy ones early for every model."""
    attacks = tuple(recipe_files.load(attack) for attack in ATTACKS)
    eps, grids = radii_by_attack(attacks, ["1..16"], parse_unit(None))
    plan = Plan(models=(ModelEntry(name, "vgg"),), attacks=attacks, eps=eps, grids=grids, data="cifar10", drift_n=0)
    bound = BoundPlan(plan, examples, tuple("abcdefghij"), "d" * 64, (f"{seed:064x}",))
    folder.mkdir(parents=True, exist_ok=True)
    bound.write(folder)
    store = Store(folder / "records")
    store.prepare()
    difficulty = np.random.default_rng(0).normal(size=examples)
    label = np.random.default_rng(1).integers(0, CLASSES, examples)
    rng = np.random.default_rng([2, seed])
    threshold = (4 + 0.1 * seed) * np.exp(0.5 * (0.8 * difficulty + 0.6 * rng.normal(size=examples)))
    clean = np.where(rng.random(examples) < 0.95, label, (label + 1) % CLASSES)
    for cell in bound.cells():
        store.put(cell.key, columns_of(cell, label, clean, threshold))


def columns_of(cell: Cell, label: np.ndarray, clean: np.ndarray, threshold: np.ndarray) -> dict[str, object]:
    """The records of a Cell, ordered by radius, then example, as a sweep writes them."""
    here, radii = slice(cell.start, cell.stop), np.arange(len(cell.radii) + 1)[:, None]
    count, strength = cell.stop - cell.start, 1.3 if cell.attack.name == "fgsm" else 1.0
    margin = (strength * threshold[here] - radii).astype(np.float32)
    wrong = (clean[here] + 1) % CLASSES
    adversarial = np.where((margin < 0) & (radii > 0), wrong, clean[here])
    flat = {"index": np.arange(cell.start, cell.stop), "label": label[here], "clean_pred": clean[here], "clean_margin": margin[0]}
    return {
        "model": [cell.model] * (count * len(radii)),
        "attack": [cell.attack.name] * (count * len(radii)),
        "eps": np.repeat(np.array(["0/255", *cell.radii], dtype=object), count),
        **{column: np.tile(values, len(radii)) for column, values in flat.items()},
        "adv_pred": adversarial.ravel(),
        "adv_margin": margin.ravel(),
        "distance": np.repeat(radii.ravel() / 255, count).astype(np.float32),
        "attacked": np.repeat(radii.ravel() > 0, count),
        "zero_grad": np.zeros(count * len(radii), dtype=bool),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="Where the runs are written, and kept.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = given.folder or Path(temporary)
        folders = [home / f"run-{number:02}" for number in range(given.runs)]
        for number, folder in enumerate(folders):
            if not (folder / "plan.toml").exists():
                write_run(folder, f"model-{number:02}", given.examples, number)
        files = sum(1 for folder in folders for _ in (folder / "records").iterdir())
        rows = given.runs * given.examples * len(ATTACKS) * 17
        command = [sys.executable, "-m", "robustatt", "board", *map(str, folders), "--out", str(home / "board")]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"{given.runs} runs of {given.examples:,} examples, {', '.join(ATTACKS)}, 16 radii: {files:,} files, {rows:,} rows")
        print(f"robustatt board: {time.perf_counter() - start:.1f} s from start to page")


if __name__ == "__main__":
    main()
