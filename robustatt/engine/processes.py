"""The executor on one machine: a process for each worker, each with its share of the threads or with a GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import final

from robustatt.engine.options import kernel_oom_kills
from robustatt.engine.scheduler import Advanced, Failed, FailureKind, Finished, Handler, Task
from robustatt.engine.worker import Setup, SetupFailed, Worker, hosted, portable, starved, tail
from robustatt.errors import RobustattError

TELL_SECONDS = 0.2  # a worker tells of its progress this often
PATIENCE_SECONDS = 1.0
STARTS = 3  # of one worker in a row that never became ready
GRACE_SECONDS = 5.0  # for a process to end by itself
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Ready:
    """A worker holds its data and waits for Cells."""


Message = Ready | SetupFailed | Advanced | Finished | Failed


@dataclass
class _WorkerSlot:
    """One worker's place: its process, the line to it, what it computes and where it says what goes wrong."""

    device: str
    log: Path
    process: BaseProcess
    connection: Connection
    oom_kills: int  # of this machine's kernel, before this process began
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
        self._slots: list[_WorkerSlot] = []
        for number, device in enumerate(devices):
            self._slots.append(self._start(device, Path(self._logs.name) / f"{number}.log"))

    def _start(self, device: str, log: Path) -> _WorkerSlot:
        killed = kernel_oom_kills()
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_serve, args=(theirs, replace(self._setup, device=device), str(log)), daemon=True)
        with _no_interrupt():
            process.start()
        theirs.close()
        return _WorkerSlot(device, log, process, ours, killed)

    def room(self) -> int:
        return sum(slot.ready and slot.task is None for slot in self._slots)

    def submit(self, task: Task) -> None:
        idle = [slot for slot in self._slots if slot.ready and slot.task is None]
        idle[0].task = task
        with suppress(OSError):  # one that has just died is found by the next wait
            idle[0].connection.send(task)

    def wait(self, handle: Handler) -> None:
        heard = wait([slot.connection for slot in self._slots], PATIENCE_SECONDS)
        for slot in list(self._slots):
            if slot.connection in heard or not slot.process.is_alive():
                self._hear(slot, handle)

    def _hear(self, slot: _WorkerSlot, handle: Handler) -> None:
        """The next message of a worker, or its end; a child of the worker may still hold its end of the line open."""
        try:
            message: Message | None = slot.connection.recv() if slot.connection.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            self._replace(slot, handle)
        else:
            self._receive(slot, message, handle)

    def _receive(self, slot: _WorkerSlot, message: Message, handle: Handler) -> None:
        if isinstance(message, Ready):
            slot.ready, slot.starts = True, 0
        elif isinstance(message, SetupFailed):
            raise RobustattError(message.cause)
        elif isinstance(message, Advanced):
            handle(message)
        else:
            slot.task = None
            if isinstance(message, Failed) and message.fate is FailureKind.RETRY:
                message = replace(message, log=tail(slot.log) + message.log)
            handle(message)

    def _replace(self, slot: _WorkerSlot, handle: Handler) -> None:
        """A worker died: start another in its place, and say what happened to its Cell."""
        _stop(slot.process)
        slot.connection.close()
        cause, said = f"its worker {_end(slot.process)}", tail(slot.log)
        if slot.starts >= STARTS:
            raise RobustattError(f"a worker {_end(slot.process)} {STARTS} times while it started: {said.strip()[-200:]}")
        fresh = self._start(slot.device, slot.log)
        fresh.starts = slot.starts + 1
        self._slots[self._slots.index(slot)] = fresh
        if slot.task is None:
            return
        if slot.process.exitcode == -signal.SIGKILL and kernel_oom_kills() > slot.oom_kills:
            handle(starved(slot.task, self._setup, said))
        else:
            handle(Failed(slot.task, cause, FailureKind.RETRY, said))

    def close(self) -> None:
        for slot in self._slots:
            slot.connection.close()
            slot.process.terminate()
        for slot in self._slots:
            _stop(slot.process)
        self._logs.cleanup()


def _stop(process: BaseProcess) -> None:
    """Wait for a process that is about to end, and end it if it does not."""
    process.join(GRACE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes started inside never see a Ctrl-C, also not while they begin: the driver ends them. It sees its own afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"(process {process.pid}) ended with exit code {code}"
    hint = "; did memory run out?" if code == -signal.SIGKILL else ""
    return f"(process {process.pid}) was killed by {signal.Signals(-code).name}{hint}"


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
        connection.send(SetupFailed(str(problem)))


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
