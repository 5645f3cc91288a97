"""Do 95 % intervals still cover at 95 % in a sweep that looks after every round and stops by what it sees, or by the time?

    .venv/bin/python benchmarks/sequential_coverage.py            # 10,000 runs a row, about a minute
    .venv/bin/python benchmarks/sequential_coverage.py --runs 500

Each run draws images that are right with probability p and plays a sweep over them with the code that a sweep uses: the sizes of the
rounds, the stopping rule, the intervals, the budget (with a clock of its own).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustatt.engine.budget import Budget
from robustatt.plan.rounds import sizes
from robustatt.results.confidence_sequence import anytime
from robustatt.results.precision import FEWEST, cautious_half_width
from robustatt.results.statistics import wilson

SHARES = (0.02, 0.1, 0.3, 0.5, 0.9)
POINTS = (1, 2, 5, 10)
EXAMPLES = 20_000
COSTS = (0.2, 1.0)  # seconds of an image that breaks, and of one that holds


def looks(of: int) -> list[int]:
    """Where the rounds end, if time does not make them smaller."""
    ends = [0]
    while ends[-1] < of:
        ends.append(ends[-1] + next(sizes(ends[-1], of)))
    return ends[1:]


@dataclass(frozen=True)
class Precision:
    """A sweep with `--until`: how often the interval at its stop covers, how often those of all its looks do, examples taken."""

    wilson: float
    anytime: float
    every_look_wilson: float
    every_look_anytime: float
    examples: float


def until(share: float, points: float, runs: int, seed: int, of: int = EXAMPLES) -> Precision:
    """Play sweeps of one curve that stop when Wilson's interval is narrow enough."""
    ends = np.array(looks(of))
    steps = np.diff(ends, prepend=0)
    right = np.cumsum(np.random.default_rng(seed).binomial(steps, share, size=(runs, ends.size)), axis=1)
    narrow, covers = np.zeros(right.shape, bool), {wilson: np.zeros(right.shape, bool), anytime: np.zeros(right.shape, bool)}
    for column, n in enumerate(ends):
        counts, place = np.unique(right[:, column], return_inverse=True)
        for interval, covered in covers.items():
            low, high = interval(counts, n)
            covered[:, column] = ((low <= share) & (share <= high))[place]
            if interval is wilson:
                narrow[:, column] = (cautious_half_width(low, high, n) <= points / 100)[place] & (n >= FEWEST)
    last = np.where(narrow.any(1), narrow.argmax(1), ends.size - 1)
    run, played = np.arange(runs), np.arange(ends.size) <= last[:, None]
    every = {interval: float((covered | ~played).all(1).mean()) for interval, covered in covers.items()}
    stop = {interval: float(covered[run, last].mean()) for interval, covered in covers.items()}
    return Precision(stop[wilson], stop[anytime], every[wilson], every[anytime], float(ends[last].mean()))


def timed(share: float, seconds: float, runs: int, seed: int, of: int = EXAMPLES) -> tuple[float, float, float, float]:
    """Play sweeps that stop by the time, where images that hold cost more than those that break.

    Returns how often Wilson's interval covers, the mean accuracy, the mean number of examples, the most seconds taken.
    """
    draw = np.random.default_rng(seed)
    found: NDArray[np.float64] = np.array([_timed_run(share, seconds, of, draw) for _ in range(runs)])
    right, n, taken = found.T
    low, high = wilson(right, n)
    return float(((low <= share) & (share <= high)).mean()), float((right / n).mean()), float(n.mean()), float(taken.max())


def _timed_run(share: float, seconds: float, of: int, draw: np.random.Generator) -> tuple[int, int, float]:
    now, done, right = 0.0, 0, 0
    budget = Budget(seconds, clock=lambda: now)
    while done < of:
        start = done
        end = budget.next_end(done, of, (), lambda end, start=start: end - start)  # type: ignore[misc]
        if end is None:
            break
        held = int(draw.binomial(end - done, share))
        taken = held * COSTS[1] + (end - done - held) * COSTS[0]
        budget.took(end - done, taken)
        now, right, done = now + taken, right + held, end
    return right, done, now


def table(runs: int) -> Iterator[str]:
    """The tables as Markdown."""
    yield "| --until | p | coverage at the stop | of all looks | anytime at the stop | of all looks | examples |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for points in POINTS:
        for place, share in enumerate(SHARES):
            row = until(share, points, runs, 1000 * points + place)
            yield (
                f"| {points} | {share} | {row.wilson:.3f} | {row.every_look_wilson:.3f} | {row.anytime:.3f} | "
                f"{row.every_look_anytime:.3f} | {row.examples:,.0f} |"
            )
    yield ""
    yield "| --time | p | coverage | mean accuracy | examples | longest |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for seconds in (60, 600):
        for place, share in enumerate(SHARES):
            covered, mean, n, longest = timed(share, seconds, runs, 7 * seconds + place)
            yield f"| {seconds} s | {share} | {covered:.3f} | {mean:.4f} | {n:,.0f} | {longest:.1f} s |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10_000)
    for line in table(parser.parse_args().runs):
        print(line, flush=True)
