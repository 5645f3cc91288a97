"""How fast corruptions are drawn: images a second for each kind, on random images of one size.

    python benchmarks/bench_corruptions.py [--images 10000] [--side 32] [--severity 3] [--workers 2]

Each worker is a process with one thread, as in `robustatt corrupt`. CPU seconds say what the mathematics cost, and so what cores that do nothing
else would draw; wall seconds say what it took here, beside whatever else is running.
"""

from __future__ import annotations

import argparse
import itertools
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from robustatt.attack.rng import ExampleRng
from robustatt.corruptions.draw import corrupted
from robustatt.corruptions.kinds import KINDS

BATCH = 64
WANTED = 2000
"""Images a second on two cores that are asked for at 32 pixels."""


def draw(kind: str, severity: int, side: int, first: int, stop: int) -> float:
    """Draw one kind of corruption on the images first to stop; the CPU seconds of it."""
    torch.set_num_threads(1)
    images = torch.randint(256, (BATCH, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    rng = ExampleRng(0, f"corruption {kind}")
    corrupted(images[:1], kind, severity, [rng.generator(0, severity)])  # what is computed once
    began = time.process_time()
    for start in range(first, stop, BATCH):
        rows = range(start, min(start + BATCH, stop))
        corrupted(images[: len(rows)], kind, severity, [rng.generator(index, severity) for index in rows])
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default in (("--images", 10_000), ("--side", 32), ("--severity", 3), ("--workers", 2)):
        parser.add_argument(flag, type=int, default=default)
    options = parser.parse_args()
    edges = [options.images * part // options.workers for part in range(options.workers + 1)]
    print(f"{options.images} images of {options.side}x{options.side}, severity {options.severity}, {options.workers} workers")
    print(f"{'corruption':20}{'here':>10}{'a free core':>14}{f'{options.workers} free cores':>14}   in images/s; {WANTED} wanted")
    slow = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(draw, ["contrast"] * options.workers, *zip(*[(1, 8, 0, 1)] * options.workers, strict=True)))  # started
        for kind in KINDS:
            began = time.perf_counter()
            parts = [pool.submit(draw, kind, options.severity, options.side, *ends) for ends in itertools.pairwise(edges)]
            seconds = sum(part.result() for part in parts)
            rate = options.images / (time.perf_counter() - began)
            core = options.images / seconds
            slow += [kind] if core * options.workers < WANTED else []
            print(f"{kind:20}{rate:10,.0f}{core:14,.0f}{core * options.workers:14,.0f}", flush=True)
    print(f"Slower than {WANTED} on {options.workers} free cores:", ", ".join(slow) or "none")


if __name__ == "__main__":
    main()
