"""The executor on one machine: a process for each worker, each with its share of the threads or with a GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import final

from robustatt.engine.executor import Advanced, Failed, Fate, Finished, Handler, Task
from robustatt.engine.worker import Setup, hosted, portable
from robustatt.errors import RobustattError

TELL_SECONDS = 0.2  # a worker tells of its progress this often
PATIENCE_SECONDS = 1.0
STARTS = 3  # of one worker in a row that never became ready
LOG_LINES = 20
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Ready:
    """A worker holds its data and waits for Cells."""


@dataclass(frozen=True)
class Unfit:
    """A worker cannot work here; nor could another."""

    cause: str


Message = Ready | Unfit | Advanced | Finished | Failed


@dataclass
class _Slot:
    """One worker's place: its process, the line to it, what it computes and where it says what goes wrong."""

    device: str
    log: Path
    process: BaseProcess
    connection: Connection
    ready: bool = False
    task: Task | None = None
    starts: int = 1


@final
class LocalProcesses:
    """A spawned process for each device named; a process that dies is replaced.

    Args:
        setup: what every worker has to know.
        devices: where each worker computes: "cpu" for as many as wanted, or "cuda:0", "cuda:1", ...
    """

    def __init__(self, setup: Setup, devices: Sequence[str]) -> None:
        self._setup = setup
        self._logs = tempfile.TemporaryDirectory(prefix="robustatt-workers-")
        self._slots: list[_Slot] = []
        for number, device in enumerate(devices):
            self._slots.append(self._start(device, Path(self._logs.name) / f"{number}.log"))

    def _start(self, device: str, log: Path) -> _Slot:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_serve, args=(theirs, replace(self._setup, device=device), str(log)), daemon=True
        )
        process.start()
        theirs.close()
        return _Slot(device, log, process, ours)

    def room(self) -> int:
        return sum(slot.ready and slot.task is None for slot in self._slots)

    def submit(self, task: Task) -> None:
        idle = [slot for slot in self._slots if slot.ready and slot.task is None]
        idle[0].task = task
        with suppress(OSError):  # one that has just died is found by the next wait
            idle[0].connection.send(task)

    def wait(self, handle: Handler) -> None:
        by_line = {slot.connection: slot for slot in self._slots}
        for line in wait(list(by_line), PATIENCE_SECONDS):
            slot = by_line[line]  # type: ignore[index]
            try:
                message: Message = slot.connection.recv()
            except (EOFError, OSError):
                self._replace(slot, handle)
                continue
            self._receive(slot, message, handle)

    def _receive(self, slot: _Slot, message: Message, handle: Handler) -> None:
        if isinstance(message, Ready):
            slot.ready, slot.starts = True, 0
        elif isinstance(message, Unfit):
            raise RobustattError(message.cause)
        elif isinstance(message, Advanced):
            handle(message)
        else:
            slot.task = None
            if isinstance(message, Failed) and message.fate is Fate.RETRY:
                message = replace(message, log=_tail(slot.log) + message.log)
            handle(message)

    def _replace(self, slot: _Slot, handle: Handler) -> None:
        """A worker died: start another in its place, and say what happened to its Cell."""
        slot.process.join()
        slot.connection.close()
        cause, said = f"its worker {_end(slot.process)}", _tail(slot.log)
        if slot.starts >= STARTS:
            raise RobustattError(
                f"a worker {_end(slot.process)} {STARTS} times while it started: {said.strip()[-200:]}"
            )
        fresh = self._start(slot.device, slot.log)
        fresh.starts = slot.starts + 1
        self._slots[self._slots.index(slot)] = fresh
        if slot.task is not None:
            handle(Failed(slot.task, cause, Fate.RETRY, said))

    def close(self) -> None:
        for slot in self._slots:
            slot.connection.close()
            slot.process.terminate()
        for slot in self._slots:
            slot.process.join()
        self._logs.cleanup()


def _end(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"(process {process.pid}) ended with exit code {code}"
    hint = "; did memory run out?" if code == -signal.SIGKILL else ""
    return f"(process {process.pid}) was killed by {signal.Signals(-code).name}{hint}"


def _tail(log: Path) -> str:
    """The last lines a worker wrote to its standard streams."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "".join(f"{line}\n" for line in lines[-LOG_LINES:])


def _serve(connection: Connection, setup: Setup, log: str) -> None:
    """A worker's whole life: set up, compute what comes down the line, end when the line or the driver does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _redirect(log)
    try:
        with hosted(setup) as worker:
            connection.send(Ready())
            while True:
                task: Task = connection.recv()
                connection.send(portable(worker.attempt(task, _Teller(connection, task))))
    except EOFError:
        return
    except RobustattError as problem:
        connection.send(Unfit(str(problem)))


class _Teller:
    """Sends the progress of a Cell, not too often."""

    def __init__(self, connection: Connection, task: Task) -> None:
        self._connection, self._task = connection, task
        self._untold, self._last = 0, time.monotonic()

    def __call__(self, examples: int) -> None:
        self._untold += examples
        if time.monotonic() - self._last >= TELL_SECONDS:
            self._connection.send(Advanced(self._task, self._untold))
            self._untold, self._last = 0, time.monotonic()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _redirect(log: str) -> None:
    """What this process writes to its standard streams goes to a file, also from C code."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
