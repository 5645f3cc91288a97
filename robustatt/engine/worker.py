"""A worker: holds the data and the models, and turns Cells into records, whichever engine it serves."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from robustatt.data.dataset import Dataset
from robustatt.engine.models import FrozenModels, Loader
from robustatt.engine.scheduler import CellCost, Failed, FailureKind, Finished, Task
from robustatt.engine.sources import drawn, load_data, model_loader
from robustatt.errors import InputError, RobustattError, describe
from robustatt.evaluate.cell import Evaluation, evaluate
from robustatt.models.device import is_out_of_memory
from robustatt.plan import Plan, images_of
from robustatt.results.images import ImageStore
from robustatt.results.records import Store

LOG_LINES = 20


@dataclass(frozen=True)
class Setup:
    """What a worker has to know; small enough to be sent anywhere.

    `threads` None leaves torch's number of CPU threads alone. A number that is the same everywhere makes the records
    the same bytes everywhere: some kernels round differently on another number of threads.
    """

    plan: Plan
    data_fingerprint: str
    records: str
    device: str
    batch_size: int
    threads: int | None


@dataclass(frozen=True)
class SetupFailed:
    """A worker cannot work where it is; nor could another."""

    cause: str


class Worker:
    """Computes one Cell at a time into the store."""

    def __init__(self, setup: Setup, dataset: Dataset, models: FrozenModels, store: Store) -> None:
        self._setup, self._dataset, self._models, self._store = setup, dataset, models, store
        self._halvings = 0  # what fitted last, so that not every Cell has to run out of memory first

    def attempt(self, task: Task, advance: Callable[[int], None] = lambda _: None) -> Finished | Failed:
        """Compute a Cell and store its records, or say why not. Never raises but for an interrupt."""
        try:
            return Finished(task, self._compute(task, advance))
        except InputError as problem:
            return Failed(task, str(problem), FailureKind.WRONG_INPUT, problem=problem)
        except RobustattError as problem:
            return Failed(task, str(problem), FailureKind.HOPELESS, problem=problem)
        except Exception as problem:  # an external model or attack may raise anything
            cause = describe(problem)
            fate = FailureKind.OUT_OF_MEMORY if self._smaller_may_fit(problem, task) else FailureKind.RETRY
            # a full disk is not a bug: one line is enough
            log = "" if isinstance(problem, OSError) else traceback.format_exc()
            return Failed(task, cause, fate, log, problem)

    def _smaller_may_fit(self, problem: Exception, task: Task) -> bool:
        return is_out_of_memory(problem) and self._batch_size(task) > 1

    def _batch_size(self, task: Task) -> int:
        self._halvings = max(self._halvings, task.halvings)
        return max(1, self._setup.batch_size >> self._halvings)

    def _compute(self, task: Task, advance: Callable[[int], None]) -> CellCost:
        cell = task.cell
        classifiers = self._models.of(cell)
        torch.manual_seed(int(cell.key.rpartition("-")[2][:15], 16))
        began = time.perf_counter()
        wanted = images_of(self._setup.plan, cell)
        found = evaluate(cell, classifiers, self._dataset, self._batch_size(task), advance, wanted=wanted)
        if found.saved is not None and wanted is not None:
            ImageStore(self._setup.records).put(cell.key, found.saved, self._dataset.image_shape, wanted)
        self._store.put(cell.key, found.columns)
        return self._spent(found, self._batch_size(task), time.perf_counter() - began)

    def _spent(self, found: Evaluation, batch_size: int, seconds: float) -> CellCost:
        return CellCost(
            seconds, found.gradients, found.forwards, batch_size, peak_memory(self._models.device),
            f"{platform.node()}:{os.getpid()}",
        )  # fmt: skip


def automatic_batch_size(image_shape: tuple[int, int, int], device: torch.device) -> int:
    """64 images of 32x32 on a CPU (more fall out of its caches), 1024 on a GPU, fewer of larger ones.

    The same on every machine of a kind, so that two machines compute the same bytes.
    """
    _, height, width = image_shape
    full = 1024 if device.type == "cuda" else 64
    return max(8, min(full, full * 32 * 32 // (height * width)))


@contextmanager
def hosted(setup: Setup, dataset: Dataset | None = None, load: Loader | None = None) -> Iterator[Worker]:
    """A worker in a process of its own. It reads data and models as the plan says, unless they are handed to it.

    Raises:
        RobustattError: the data here is not what the sweep began with, or cannot be read.
    """
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    dataset = load_data(setup.plan) if dataset is None else dataset
    chosen = drawn(dataset, setup.plan)
    if chosen.fingerprint != setup.data_fingerprint:
        raise RobustattError(f"the data on {platform.node()} is not what this sweep began with: are the files the same?")
    with FrozenModels(load or model_loader(dataset), torch.device(setup.device), chosen, setup.plan) as models:
        yield Worker(setup, chosen, models, Store(setup.records))


def portable(event: Finished | Failed) -> Finished | Failed:
    """The event without its exception, which need not survive a journey to another process."""
    return replace(event, problem=None) if isinstance(event, Failed) else event


def starved(task: Task, setup: Setup, log: str) -> Failed:
    """A Cell whose worker was killed because memory ran out: tried with half the batch, if it can be halved."""
    fate = FailureKind.OUT_OF_MEMORY if setup.batch_size >> task.halvings > 1 else FailureKind.RETRY
    return Failed(task, "its worker was killed because memory ran out", fate, log)


def tail(log: Path) -> str:
    """The last lines a worker wrote to its standard streams."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "".join(f"{line}\n" for line in lines[-LOG_LINES:])


def peak_memory(device: torch.device) -> int:
    """The most memory this process has held so far, in bytes: on the GPU if it computes there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
