"""The executor with one worker: this process."""

from __future__ import annotations

from typing import final

from robustatt.engine.executor import Advanced, Handler, Task
from robustatt.engine.worker import Worker


@final
class ThisProcess:
    """Computes a Cell while it is waited for."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._task: Task | None = None

    def room(self) -> int:
        return int(self._task is None)

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self, handle: Handler) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            handle(self._worker.attempt(task, lambda examples: handle(Advanced(task, examples))))

    def close(self) -> None: ...
