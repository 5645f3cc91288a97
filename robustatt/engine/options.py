"""Where and by how many workers a sweep is computed. Nothing here decides a number."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from robustatt.errors import InputError, did_you_mean

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class ExecutorOptions:
    """The user's options. `workers` None: as many as pay off. `records`: a URL for the records instead of OUT.

    `threads`: CPU threads for each Cell; None: one, or more where there are fewer Cells than threads.
    """

    engine: str = "local"
    workers: int | None = None
    threads: int | None = None
    address: str | None = None
    gpus_per_worker: float | None = None
    records: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"--engine {self.engine!r}: {did_you_mean(self.engine, ENGINES)}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers}: give at least 1, or auto")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"--threads {self.threads}: give at least 1")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 64:
            raise InputError(f"--gpus-per-worker {self.gpus_per_worker}: give a share such as 0.5, or a number such as 1")
        if self.engine == "local" and self.address is not None:
            raise InputError("--address is for a Ray cluster: add --engine ray")
        if self.engine == "local" and self.gpus_per_worker is not None:
            raise InputError("--gpus-per-worker is for a Ray cluster: the local engine gives each worker one GPU")

    def cell_threads(self, cells: int, available: int) -> int:
        """CPU threads for each Cell.

        It depends on the plan's Cells and the machine's threads and not on the number of workers: some kernels round differently on
        another number of threads, and the records are to be the same bytes whatever the workers.
        """
        if self.threads is not None:
            return self.threads
        if self.engine == "ray":
            return 1
        return max(1, available // cells)


def paying_workers(seconds: float, start_seconds: float, cells: int, most: int) -> int:
    """How many processes end soonest: `most`, or this one alone.

    Each process computes as fast as this one does with as many threads, so `workers` of them take
    `start_seconds + seconds / workers`, where this process would take `seconds`.
    """
    workers = min(cells, most)
    alone = workers < 2 or start_seconds + seconds * -(-cells // workers) / cells >= seconds
    return 1 if alone else workers


def fitting_workers(bytes_each: int) -> int:
    """How many processes of that size the free memory holds; many where the system does not say."""
    return max(1, math.floor(min(0.8 * _available_memory() / max(bytes_each, 1), 1024)))


def kernel_oom_kills() -> int:
    """How many processes this machine's kernel has killed because memory ran out; 0 where it does not say."""
    return _counted(Path("/proc/vmstat"), "oom_kill ") or 0


def _available_memory() -> float:
    """Bytes that processes could still take; infinite where the system does not say."""
    kilobytes = _counted(Path("/proc/meminfo"), "MemAvailable:")
    return float("inf") if kilobytes is None else 1024.0 * kilobytes


def _counted(path: Path, name: str) -> int | None:
    """The number behind a name in one of the kernel's tables."""
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return None
