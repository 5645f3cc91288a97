"""An executor without a model: it passes the time that each Cell would take. Nothing here imports torch."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import final

from robustatt.engine.executor import CellCost, Finished, Handler, Task
from robustatt.plan import Cell


@final
class VirtualWorkers:
    """Workers of a clock of their own, for forecasts and for simulating the scheduler.

    Args:
        workers: how many.
        seconds: what a Cell takes on one of them.
        latency: seconds between a Cell and the next on the same worker.
    """

    def __init__(self, workers: int, seconds: Callable[[Cell], float], latency: float = 0.0) -> None:
        self.workers, self.now = workers, 0.0
        #: begin and end of every Cell, in seconds
        self.spans: list[tuple[float, float]] = []
        self._seconds, self._latency = seconds, latency
        self._running: list[tuple[float, int, float, Task]] = []

    def room(self) -> int:
        return self.workers - len(self._running)

    def submit(self, task: Task) -> None:
        seconds = self._seconds(task.cell)
        begin = self.now + self._latency
        self.spans.append((begin, begin + seconds))
        heapq.heappush(self._running, (begin + seconds, len(self.spans), seconds, task))

    def wait(self, handle: Handler) -> None:
        if self._running:
            self.now, _, seconds, task = heapq.heappop(self._running)
            handle(Finished(task, CellCost(seconds, 0, 0, 0)))

    def close(self) -> None: ...
