"""Chooses how many workers compute a sweep, and starts them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import cached_property

import torch

from robustatt.data.dataset import Dataset
from robustatt.engine.models import FrozenModels
from robustatt.engine.options import ExecutorOptions, fitting_workers, paying_workers
from robustatt.engine.processes import LocalProcesses, ThisProcess
from robustatt.engine.scheduler import Costs, Executor
from robustatt.engine.worker import Setup, Worker, peak_memory
from robustatt.evaluate.cell import load_images
from robustatt.plan import Cell, ModelEntry
from robustatt.results.records import Store

TIMED_IMAGES = 16  # in a pass that tells how fast a model is


class ExecutorFactory:
    """The workers of a sweep: the requested number, or as many as pay off.

    Args:
        setup: what every worker has to know.
        execution: the user's options.
        dataset: the whole data set, of which `setup.plan` may want a sample.
        models: the driver's own.
        threads: CPU threads there are in all.
        start_seconds: what a process takes until it can begin a Cell.
    """

    def __init__(
        self,
        setup: Setup,
        execution: ExecutorOptions,
        dataset: Dataset,
        models: FrozenModels,
        threads: int,
        start_seconds: float,
    ) -> None:
        self.setup, self.execution, self.start_seconds = setup, execution, start_seconds
        self._dataset, self._models, self._threads = dataset, models, threads

    @cached_property
    def forward_seconds(self) -> dict[str, float]:
        """Of one image through each model, measured; empty if the order of the Cells makes no difference."""
        if self.execution.engine == "local" and self.execution.workers == 1:
            return {}
        return {entry.name: self.measured(entry) for entry in self.setup.plan.loaded}

    def measured(self, entry: ModelEntry) -> float:
        """Seconds of the forward pass of one image through a model."""
        classifier = self._models.get(entry)
        count = min(TIMED_IMAGES, self.setup.batch_size, len(self._dataset))
        images, _ = load_images(self._dataset, range(count), classifier)
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            with torch.no_grad():
                float(classifier.logits(images).sum())
            taken.append(time.perf_counter() - began)
        return min(taken) / count

    def size(self, cells: int, todo: Callable[[], Iterable[Cell]], most_seconds: float | None = None) -> int:
        """How many workers are to compute the Cells that `todo` lists, `cells` of them at a time at most; in what time there is."""
        if self.execution.engine == "ray":
            from robustatt.engine.ray_cluster import cluster_workers

            return min(cells, cluster_workers(self.execution, self.setup))
        if self.execution.workers is not None:
            return min(cells, self.execution.workers)
        if self._models.device.type == "cuda":
            return min(cells, torch.cuda.device_count())
        most = min(self._threads // (self.setup.threads or 1), fitting_workers(peak_memory(self._models.device)))
        if min(cells, most) < 2:
            return 1
        costs = Costs(self.setup.plan, self.forward_seconds)
        seconds = sum(map(costs.expected, todo()))
        return paying_workers(min(seconds, most_seconds or seconds), self.start_seconds, cells, most)

    def assemble(self, workers: int) -> Executor:
        """Start this number of workers."""
        if self.execution.engine == "ray":
            from robustatt.engine.ray_cluster import RayActors

            return RayActors(self.setup, self.execution, workers, self._dataset, self._models)
        if workers <= 1:
            return ThisProcess(Worker(self.setup, self._models.dataset, self._models, Store(self.setup.records)))
        return LocalProcesses(self.setup, self.devices(workers))

    def devices(self, workers: int) -> list[str]:
        """Where each local worker computes: the GPUs in turn, if it is on GPUs."""
        if self.setup.device != "cuda":
            return [self.setup.device] * workers
        return [f"cuda:{number % torch.cuda.device_count()}" for number in range(workers)]
