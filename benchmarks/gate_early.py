"""What a gate that ends early says and saves, simulated: the figures of docs/gate.md on `sweep --against`.

    python benchmarks/gate_early.py [--runs 10000] [--write docs/gate.md]

Runs are those of `gate_error_rates.py`: 4 curves of 16 radii. The examples are taken in random order, in the rounds of a sweep; how
many of a point's lost and gained examples are among those done is drawn without replacement, each point by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gate_error_rates import World
from marked import write_between

from robustatt.plan.rounds import sizes
from robustatt.results import gate, statistics
from robustatt.results.early_gate import Look

BEGIN, END = "<!-- early gate: begin -->", "<!-- early gate: end -->"
ALPHA, MAX_DROP = 0.01, 1.0
WORLDS = (
    ("no change, no outcome flips", World(churn=0.0)),
    ("no change, 0.2 % flip", World(churn=0.002)),
    ("no change, 1 % flip", World()),
    ("3 points lost over one whole curve, 0.2 % flip", World(3.0, churn=0.002)),
    ("3 points lost at one of 64 points, 0.2 % flip", World(3.0, hit=1, churn=0.002)),
    ("10 points lost over one whole curve, 0.2 % flip", World(10.0, churn=0.002)),
    ("30 points lost over one whole curve, 0.2 % flip", World(30.0, churn=0.002)),
)


def looks(of: int) -> Iterator[Look]:
    """The looks at a sweep of so many examples."""
    done = 0
    while done < of:
        before, done = done, done + next(sizes(done, of))
        yield Look(done, of, before)


def alarm(lost: np.ndarray, gained: np.ndarray, n: int, level: float) -> bool:
    """Whether the gate's test finds a regression in counts, at a level."""
    adjusted = gate.adjust(lost, gained, gate.testable(lost + gained, level))
    points = zip(lost.tolist(), gained.tolist(), adjusted.tolist(), strict=True)
    return any(gate.judge(down, up, n, p, MAX_DROP, level) == "regression" for down, up, p in points)


def course(lost: np.ndarray, gained: np.ndarray, of: int, rng: np.random.Generator) -> tuple[bool, int]:
    """The verdict of a run that ends as soon as it is known, and after how many examples."""
    left = np.stack([lost, gained, of - lost - gained])
    seen = np.zeros_like(left)
    for look in looks(of):
        if look.done == of:
            break
        for point in range(lost.size):
            taken = rng.multivariate_hypergeometric(left[:, point], look.done - look.before)
            seen[:, point] += taken
            left[:, point] -= taken
        if alarm(seen[0], seen[1], look.done, look.alarm_level(ALPHA)):
            return True, look.done
        if look.passes(seen[0], seen[1], MAX_DROP, ALPHA).all():
            return False, look.done
    return alarm(lost, gained, of, ALPHA), of


def table(runs: int) -> list[str]:
    """A line for each world and number of examples."""
    lines = [
        "| what truly happened | examples | alarm of the whole run | alarm of the run that ends early | verdicts that differ "
        "| examples saved |",
        "|---|---|---|---|---|---|",
    ]
    for what, world in WORLDS:
        for examples in (200, 1000):
            rng = np.random.default_rng(0)
            here = World(world.drop, world.hit, world.churn, examples)
            whole, early, differ, done = 0, 0, 0, 0
            for _ in range(runs):
                lost, gained = here.flips(rng)
                at_end = alarm(lost, gained, examples, ALPHA)
                verdict, after = course(lost, gained, examples, rng)
                whole, early, differ, done = whole + at_end, early + verdict, differ + (at_end != verdict), done + after
            low, high = (100 * float(end) for end in statistics.wilson(early, runs))
            saved = 1 - done / runs / examples
            lines.append(
                f"| {what} | {examples:,} | {100 * whole / runs:.1f} % | {100 * early / runs:.1f} % ({low:.1f} to {high:.1f}) "
                f"| {100 * differ / runs:.1f} % | {saved:.0%} |"
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Print the table, and put it between the markers of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="simulated runs a row")
    parser.add_argument("--write", type=Path, help="a Markdown file with the markers")
    wanted = parser.parse_args()
    lines = table(wanted.runs)
    if wanted.write:
        write_between(wanted.write, BEGIN, END, "\n".join(lines))


if __name__ == "__main__":
    main()
