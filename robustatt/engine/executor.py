"""What the scheduler asks of whoever computes Cells, and what it is told. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from robustatt.plan import Cell


@dataclass(frozen=True)
class Task:
    """A Cell handed to an executor.

    `halvings` says how often its batch was halved because memory ran out, `losses` how many machines were lost with it.
    """

    cell: Cell
    attempt: int = 1
    halvings: int = 0
    losses: int = 0


class FailureKind(Enum):
    """What is to become of a Cell that failed."""

    RETRY = "retry"  # it may work elsewhere, or another time
    HOPELESS = "hopeless"  # the program refused on purpose: another time gives the same
    WRONG_INPUT = "wrong input"  # no Cell like this can be computed: the whole run ends
    OUT_OF_MEMORY = "out of memory"  # its worker ran out of memory: with half the batch it may fit
    LOST = "lost"  # the machine went away, which is not the Cell's fault


@dataclass(frozen=True)
class CellCost:
    """What a Cell cost: seconds on one worker, images through the model, and the worker's peak memory in bytes."""

    seconds: float
    gradients: int
    forwards: int
    batch_size: int
    peak_bytes: int = 0
    worker: str = ""


@dataclass(frozen=True)
class Advanced:
    """So many more examples of a Cell are done; negative when a batch is begun again."""

    task: Task
    examples: int


@dataclass(frozen=True)
class Finished:
    """A Cell's records are in the store."""

    task: Task
    spent: CellCost


@dataclass(frozen=True)
class Failed:
    """A Cell was not computed: the cause in one line, and what its worker said (empty if nothing more)."""

    task: Task
    cause: str
    fate: FailureKind = FailureKind.RETRY
    log: str = ""
    problem: BaseException | None = None


Event = Advanced | Finished | Failed
Handler = Callable[[Event], None]


class Executor(Protocol):
    """Computes Cells on one or more workers. It decides who computes what, and nothing else."""

    def room(self) -> int:
        """How many more Cells it takes now; never more than it has idle workers."""

    def submit(self, task: Task) -> None:
        """Begin a Cell; only if there is room."""

    def wait(self, handle: Handler) -> None:
        """Pass on what has happened; blocks until something did, a second at most where nothing runs.

        Raises RobustattError if no worker can be had.
        """

    def close(self) -> None:
        """Stop all workers."""
