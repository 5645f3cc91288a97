"""Prints the figures of docs/gate.md: how often the gate raises an alarm, rightly and wrongly, and what it says of reruns.

    python benchmarks/gate_error_rates.py [--runs 1000] [--reruns 500] [--write docs/gate.md]

The second table turns the question round: which drop is caught in nine runs of ten, with how many examples. `--reruns N` also sweeps a bundled network over N digits with other batch sizes and thread counts, and with disturbed
weights (some minutes for 500).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from marked import write_between

from robustatt import cli
from robustatt.results import gate, statistics

BEGIN, END = "<!-- gate: begin -->", "<!-- gate: end -->"
RADII = 16
CAUGHT = 0.9
EXAMPLES, CHURNS = (60, 200, 500, 1000), (0.002, 0.01)
MOST_RUNS = 1000
"""Of each trial in the search for the smallest drop: a standard error of a point at 90 %."""
NETWORK, ATTACKS, GRID = "vgg", ("fgsm",), "1..16"


@dataclass(frozen=True)
class World:
    """What happens to a model between reference and run.

    `curves` curves of `radii` radii on the same `examples`. Accuracy truly falls by `drop` points on the first curve alone, at
    `hit` of its radii and for the same unlucky examples; a share `churn` of all outcomes flips for no reason, half of
    them each way and anew at every point.
    """

    drop: float = 0.0
    hit: int = RADII
    churn: float = 0.01
    examples: int = 1000
    curves: int = 4
    radii: int = RADII

    def flips(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Examples lost and gained at every point of one run, ``(curves * radii,)``."""
        accuracy = np.linspace(0.95, 0.25, RADII)
        if self.radii < RADII:
            accuracy = rng.choice(accuracy, self.radii, replace=False)
        right = np.round(accuracy * self.examples).astype(int)
        many = np.tile(right, (self.curves, 1))
        lost = rng.binomial(many, self.churn / 2 / accuracy)
        gained = rng.binomial(self.examples - many, self.churn / 2 / (1 - accuracy))
        if self.drop:
            luck, ranks = rng.random(self.examples), np.arange(self.examples)
            struck = (ranks[:, None] < right) & (luck[:, None] < self.drop / 100 / accuracy)
            first = int(rng.integers(self.radii - self.hit + 1))
            where = slice(first, first + self.hit)
            lost[0, where] += rng.binomial(struck.sum(axis=0), 1 - self.churn / 2 / accuracy)[where]
        return lost.ravel(), gained.ravel()


def alarm_rate(world: World, runs: int, max_drop: float = 1.0, alpha: float = 0.01, seed: int = 0) -> float:
    """Share of `runs` simulated runs in which the gate says regression."""
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(runs):
        lost, gained = world.flips(rng)
        adjusted = gate.adjust(lost, gained, gate.testable(lost + gained, alpha))
        points = zip(lost.tolist(), gained.tolist(), adjusted.tolist(), strict=True)
        alarms += any(gate.judge(down, up, world.examples, p, max_drop, alpha) == "regression" for down, up, p in points)
    return alarms / runs


WORLDS = (
    ("no change, 0.2 % of the outcomes flip", World(churn=0.002)),
    ("no change, 1 % flip", World()),
    ("no change, 3 % flip", World(churn=0.03)),
    ("a drop of 3 points over one whole curve, 1 % flip", World(drop=3.0)),
    ("the same, 3 % flip", World(drop=3.0, churn=0.03)),
    ("a drop of 3 points at one of 64 points, 0.2 % flip", World(drop=3.0, hit=1, churn=0.002)),
    ("the same, 1 % flip", World(drop=3.0, hit=1)),
    ("the same, 3 % flip", World(drop=3.0, hit=1, churn=0.03)),
    ("a drop of 3 points at the only point of a plan, 3 % flip", World(3.0, 1, 0.03, curves=1, radii=1)),
)


def rates(runs: int) -> list[str]:
    """The table of alarms."""
    lines = ["| what truly happened | runs | alarm | 95 % interval |", "|---|---|---|---|"]
    for what, world in WORLDS:
        rate = alarm_rate(world, runs)
        low, high = (100 * float(end) for end in statistics.wilson(round(rate * runs), runs))
        lines.append(f"| {what} | {runs:,} | {100 * rate:.1f} % | {low:.1f} to {high:.1f} % |")
    return lines


def smallest_drop(world: World, runs: int) -> float:
    """The smallest true drop, in points to a tenth, that raises an alarm in at least nine runs of ten."""
    low, high = 0, 1000
    while high - low > 1:
        middle = (low + high) // 2
        caught = alarm_rate(replace(world, drop=middle / 10), runs) >= CAUGHT
        low, high = (low, middle) if caught else (middle, high)
    return high / 10


def powers(runs: int) -> list[str]:
    """The table of smallest drops by number of examples, for a plan of 4 curves of 16 radii."""
    lines = [
        "| examples | outcomes that flip by themselves | caught in 90 %: a drop over one whole curve | at one of 64 points "
        "| alarm without a change |",
        "|---|---|---|---|---|",
    ]
    for examples in EXAMPLES:
        for churn in CHURNS:
            world = World(churn=churn, examples=examples)
            drops = (smallest_drop(replace(world, hit=hit), min(runs, MOST_RUNS)) for hit in (RADII, 1))
            cells = [f"{drop:.1f} points ({drop * examples / 100:.0f} images)" for drop in drops]
            false = f"{100 * alarm_rate(world, runs):.1f} %"
            lines.append(f"| {examples:,} | {100 * churn:g} % | {' | '.join(cells)} | {false} |")
    return lines


def disturbed(path: Path, share: float = 1.0) -> Path:
    """A checkpoint of the bundled network whose weights have noise of `share` of their spread."""
    import torch

    from robustatt.models import load
    from robustatt.models.checkpoint import save_checkpoint

    network = load(NETWORK)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: value + share * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        if name.endswith("weight") and value.ndim > 1
        else value
        for name, value in network.state_dict().items()
    }
    save_checkpoint(path, state, network.card)
    return path


def reruns(count: int) -> list[str]:
    """The table of runs of one network against its own reference."""
    import torch

    lines = ["| run | outcomes that flipped | check | exit code |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        reference = home / "reference.json"
        trials = [(threads, batch, []) for threads in (1, 2) for batch in ("16", "64")]
        trials.append((1, "64", ["--weights", str(disturbed(home / "disturbed.safetensors"))]))
        threads_before = torch.get_num_threads()
        for number, (threads, batch, extra) in enumerate(trials):
            torch.set_num_threads(threads)
            out = str(home / str(number))
            attacks = [word for name in ATTACKS for word in ("--attack", name)]
            sweep = ["sweep", "--model", NETWORK, *attacks, "--eps", GRID, "-n", str(count), "--batch-size", batch]
            _quietly([*sweep, *extra, "--out", out])
            if number == 0:
                _quietly(["check", out, "--update", str(reference)])
            code, said = _quietly(["check", out, "--reference", str(reference), "--markdown", f"{out}/check.md"])
            what = "disturbed weights, " if extra else ""
            verdict = next(line for line in said.splitlines() if line.startswith(("passed", "regression", "not")))
            lines.append(f"| {what}{threads} thread(s), batches of {batch} | {_flips(out, reference)} | {verdict} | {code} |")
        torch.set_num_threads(threads_before)
    return lines


def _quietly(arguments: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(arguments)
    if code not in (0, 1):
        raise SystemExit(said.getvalue())
    return code, said.getvalue()


def _flips(out: str, reference: Path) -> str:
    """How many outcomes of a run differ from the reference, of how many."""
    from robustatt.cli._results import read_results
    from robustatt.results.reference import read_reference

    found = gate.check(*read_results(Path(out)), read_reference(reference))
    return f"{sum(p.lost + p.gained for p in found.points):,} of {sum(p.n for p in found.points):,}"


def main() -> None:
    """Print the tables, and put them between the markers of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="simulated runs a row")
    parser.add_argument("--reruns", type=int, default=0, metavar="N", help="also sweep N digits again in other ways")
    parser.add_argument("--write", type=Path, help="a Markdown file with the markers")
    wanted = parser.parse_args()
    tables = [rates(wanted.runs), powers(wanted.runs)] + ([reruns(wanted.reruns)] if wanted.reruns else [])
    text = "\n\n".join("\n".join(table) for table in tables)
    print(text)
    if wanted.write:
        write_between(wanted.write, BEGIN, END, text)


if __name__ == "__main__":
    main()
