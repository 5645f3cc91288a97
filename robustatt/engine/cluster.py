"""The executor on a Ray cluster: an actor for each worker. Ray places, restarts and feeds them.

Data that is in memory and weights reach the actors through Ray's object store, the weights by their hash and when they
are first asked for; data on disk is read by each actor at the same path. The driver begins no more Cells than there
are idle actors, so a long queue waits in the driver and not in the cluster.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from torch import nn

from robustatt.data.base import Dataset, TensorDataset
from robustatt.engine.execution import Execution
from robustatt.engine.executor import Failed, Fate, Finished, Handler, Task
from robustatt.engine.models import FrozenModels
from robustatt.engine.worker import Setup, Worker, hosted, portable
from robustatt.errors import InputError, RobustattError
from robustatt.plan import ModelEntry

INSTALL = "pip install 'robustatt[ray]'"
ANSWER_SECONDS = 10.0
PATIENCE_SECONDS = 1.0
NOTICE_SECONDS = 5.0
ROOM_SECONDS = 600.0  # that the cluster may take until it has room for any worker at all
HTTP2_SETTINGS = b"\x04"
#: what a client of gRPC, which Ray speaks, says first; a server answers with a frame of its settings
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00" + HTTP2_SETTINGS + b"\x00" * 5
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def _ray() -> Any:
    return importlib.import_module("ray")


@contextmanager
def connected(execution: Execution) -> Iterator[None]:
    """A connection to the cluster the user named, or to a Ray of this machine alone; one that is there already is used.

    Raises:
        InputError: Ray is not installed, or nobody answers at the address within ten seconds.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        ray = _ray()
    except ImportError:
        raise InputError(f"--engine ray: Ray is not installed: {INSTALL}") from None
    if ray.is_initialized():
        yield
        return
    address = execution.address
    if address not in (None, "auto"):
        _require_answer(str(address))
    try:
        extra = {"include_dashboard": False} if address is None and "RAY_ADDRESS" not in os.environ else {}
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **extra)
    except (ConnectionError, RuntimeError, ValueError) as problem:
        said = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise InputError(
            f"--address {address}: no Ray cluster answers ({said}): start one with `ray start --head`, or give HOST:PORT"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--address {address!r}: give auto or HOST:PORT, such as 10.0.0.1:6379")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as line:
            line.settimeout(ANSWER_SECONDS)
            line.sendall(HTTP2_GREETING)
            answer = line.recv(9) if os.environ.get("RAY_USE_TLS", "0") == "0" else HTTP2_GREETING[-9:]
    except OSError as problem:
        raise InputError(
            f"--address {address}: nobody answers ({problem}): is the head node up, and the port open?"
        ) from None
    if answer[3:4] != HTTP2_SETTINGS:
        raise InputError(
            f"--address {address}: what answers is not Ray: give the port of `ray start --head`, usually 6379"
        )


def cluster_workers(execution: Execution, setup: Setup) -> int:
    """As many workers as were asked for, or as the cluster holds: one for each share of a GPU, else of CPUs."""
    ray = _ray()
    if execution.workers is not None:
        return execution.workers
    there = ray.cluster_resources()
    gpus = gpus_each(execution)
    count = there.get("GPU", 0) / gpus if gpus else there.get("CPU", 0) / (setup.threads or 1)
    return max(1, int(count))


def gpus_each(execution: Execution) -> float:
    """The share of a GPU of each worker: one where the cluster has GPUs, unless the user said otherwise."""
    ray = _ray()
    if execution.gpus_per_worker is not None:
        return execution.gpus_per_worker
    return float(ray.cluster_resources().get("GPU", 0) > 0)


class Actor:
    """What runs in an actor's process: a worker, with its data and the weights it was asked for so far."""

    def __init__(self) -> None:
        self._weights: dict[ModelEntry, Any] = {}
        self._stack = ExitStack()
        self._worker: Worker | None = None

    def ready(self, setup: Setup, data: list[Any]) -> tuple[str, str]:
        """Set up: returns the node this actor is on, and why it cannot work there (empty if it can)."""
        ray, unfit = _ray(), ""
        dataset = ray.get(data[0]) if data else None
        try:
            self._worker = self._stack.enter_context(hosted(setup, dataset, self._load))
        except RobustattError as problem:
            unfit = str(problem)
        return ray.get_runtime_context().get_node_id(), unfit

    def attempt(self, task: Task, entry: ModelEntry, weights: list[Any]) -> Finished | Failed:
        """Compute a Cell. `weights` holds a reference to the module, which is fetched if it is not here yet."""
        assert self._worker is not None
        self._weights[entry] = weights[0]
        return portable(self._worker.attempt(task))

    def _load(self, entry: ModelEntry) -> nn.Module:
        ray = _ray()
        module: nn.Module = ray.get(self._weights[entry])
        return module


@dataclass
class _Slot:
    actor: Any
    pending: Any = None  # the reference of what the actor does now; None while it is idle
    node: str = ""
    task: Task | None = None


@final
class RayActors:
    """An actor for each worker, restarted by Ray wherever there is room if its process or its node is lost."""

    def __init__(
        self, setup: Setup, execution: Execution, workers: int, dataset: Dataset, models: FrozenModels
    ) -> None:
        ray = _ray()
        gpus = gpus_each(execution)
        plan = setup.plan
        if Path(plan.data).exists():
            plan = replace(plan, data=str(Path(plan.data).absolute()))
        setup = replace(setup, plan=plan, device="cuda" if gpus else "cpu")
        self._models = models
        self._entries = {entry.name: entry for entry in setup.plan.models}
        self._weights: dict[str, Any] = {}
        data = [ray.put(dataset)] if isinstance(dataset, TensorDataset) else []
        self._arguments = (setup, data)
        self._last_worker = time.monotonic()
        kind = ray.remote(Actor).options(num_cpus=setup.threads or 1, num_gpus=gpus, max_restarts=-1)
        self._slots = [self._begun(_Slot(kind.remote())) for _ in range(workers)]

    def _begun(self, slot: _Slot) -> _Slot:
        slot.pending = slot.actor.ready.remote(*self._arguments)
        return slot

    def room(self) -> int:
        return sum(slot.pending is None for slot in self._slots)

    def submit(self, task: Task) -> None:
        slot = next(slot for slot in self._slots if slot.pending is None)
        entry = self._entries[task.cell.model]
        slot.task = task
        slot.pending = slot.actor.attempt.remote(task, entry, [self._reference(entry, task.cell.model_fingerprint)])

    def _reference(self, entry: ModelEntry, fingerprint: str) -> Any:
        ray = _ray()
        if fingerprint not in self._weights:
            self._weights[fingerprint] = ray.put(self._models.module(entry))
        return self._weights[fingerprint]

    def wait(self, handle: Handler) -> None:
        ray = _ray()
        by_reference = {slot.pending: slot for slot in self._slots if slot.pending is not None}
        done, _ = ray.wait(list(by_reference), num_returns=1, timeout=PATIENCE_SECONDS)
        self._require_workers()
        for reference in done:
            slot = by_reference[reference]
            try:
                answer = ray.get(reference)
            except ray.exceptions.RayError as problem:
                self._lost(slot, problem, handle)
                continue
            slot.pending = None
            self._receive(slot, answer, handle)

    def _require_workers(self) -> None:
        if any(slot.pending is None or slot.task is not None for slot in self._slots):
            self._last_worker = time.monotonic()
        elif time.monotonic() - self._last_worker > ROOM_SECONDS:
            raise RobustattError(
                f"the cluster had no room for a worker in {ROOM_SECONDS / 60:.0f} minutes: `ray status` says what is asked for"
            )

    def _receive(self, slot: _Slot, answer: Any, handle: Handler) -> None:
        task, slot.task = slot.task, None
        if task is not None:
            handle(answer)
            return
        slot.node, unfit = answer
        if unfit:
            raise RobustattError(unfit)

    def _lost(self, slot: _Slot, problem: Exception, handle: Handler) -> None:
        """The actor's process or node is gone. Ray starts it again; the Cell goes to whoever is free."""
        task, slot.task = slot.task, None
        self._begun(slot)
        if task is not None:
            handle(_failure(task, problem, slot.node))

    def close(self) -> None:
        ray = _ray()
        for slot in self._slots:
            ray.kill(slot.actor)


def _failure(task: Task, problem: Exception, node: str) -> Failed:
    ray = _ray()
    said = str(problem)
    if isinstance(problem, ray.exceptions.OutOfMemoryError) or "memory" in said.lower():
        return Failed(task, "its actor ran out of memory", Fate.OUT_OF_MEMORY, said)
    if not _stays(node):
        return Failed(task, f"its node {node[:8]} was lost", Fate.LOST)
    return Failed(task, "its actor died", Fate.RETRY, said)


def _stays(node: str) -> bool:
    """Whether a node is still there after the time in which Ray would notice that it is not."""
    limit = time.monotonic() + NOTICE_SECONDS
    while time.monotonic() < limit:
        if node not in {entry["NodeID"] for entry in _ray().nodes() if entry["Alive"]}:
            return False
        time.sleep(0.2)
    return True
