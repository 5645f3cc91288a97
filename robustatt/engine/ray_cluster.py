"""The executor on a Ray cluster: an actor for each worker, placed and fed by Ray.

Data that is in memory and weights reach the actors through Ray's object store, the weights by their hash and when they
are first needed; data on disk is read by each actor at the same path. The driver starts no more Cells than there
are idle actors, so a long queue waits in the driver and not in the cluster.

A worker that died is replaced by a fresh actor at once. Whether its Cell is to blame is for its node to say: a task
pinned to that node brings what the worker wrote last, or fails because the node is gone, which is not the Cell's fault.
Nothing waits for that answer, which takes Ray up to a minute where a machine falls silent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from robustatt.data.dataset import Dataset, TensorDataset
from robustatt.engine.models import FrozenModels
from robustatt.engine.options import ExecutorOptions, kernel_oom_kills
from robustatt.engine.ray_connection import ray_module
from robustatt.engine.scheduler import Failed, FailureKind, Finished, Handler, Task
from robustatt.engine.worker import Setup, SetupFailed, Worker, automatic_batch_size, hosted, portable, starved, tail
from robustatt.errors import RobustattError, typed_line
from robustatt.plan import ModelEntry

PATIENCE_SECONDS = 1.0
ROOM_SECONDS = 600.0  # that the cluster may take until it has room for any worker at all
DOUBT_SECONDS = 180.0  # that a node may take to answer for a worker that died there
STARTS = 3  # of one worker in a row that could not be set up
RAYS_OWN = (":job_id:", ":actor_name:", ":task_name:")  # lines Ray writes into a worker's log


def cluster_workers(execution: ExecutorOptions, setup: Setup) -> int:
    """The requested number of workers, or as many as the cluster holds: one for each share of a GPU, else of CPUs."""
    if execution.workers is not None:
        return execution.workers
    there = ray_module().cluster_resources()
    gpus = gpus_each(execution, setup)
    count = there.get("GPU", 0) / gpus if gpus else there.get("CPU", 0) / (setup.threads or 1)
    return max(1, int(count))


def gpus_each(execution: ExecutorOptions, setup: Setup) -> float:
    """The share of a GPU of each worker: one where the cluster has GPUs, unless the user said otherwise."""
    if execution.gpus_per_worker is not None:
        return execution.gpus_per_worker
    return float(setup.plan.device != "cpu" and ray_module().cluster_resources().get("GPU", 0) > 0)


@dataclass(frozen=True)
class Home:
    """Where an actor lives: its node, its log there, and how often the kernel there had killed for want of memory."""

    node: str
    log: str
    oom_kills: int


class Actor:
    """What runs in an actor's process: a worker, with its data and the weights it has needed so far."""

    def __init__(self) -> None:
        self._weights: dict[ModelEntry, Any] = {}
        self._stack = ExitStack()
        self._worker: Worker | None = None

    def ready(self, setup: Setup, data: list[Any]) -> Home | SetupFailed:
        """Set up: where this actor is, or why it cannot work there."""
        ray = ray_module()
        dataset = ray.get(data[0]) if data else None
        try:
            self._worker = self._stack.enter_context(hosted(setup, dataset, self._load))
        except RobustattError as problem:
            return SetupFailed(str(problem))
        return Home(ray.get_runtime_context().get_node_id(), _own_log(), kernel_oom_kills())

    def attempt(self, task: Task, entries: list[ModelEntry], weights: list[Any]) -> Finished | Failed:
        """Compute a Cell. `weights` holds references to the modules, each of which is fetched if it is not here yet."""
        assert self._worker is not None
        self._weights |= dict(zip(entries, weights, strict=True))
        return portable(self._worker.attempt(task))

    def _load(self, entry: ModelEntry) -> nn.Module:
        module: nn.Module = ray_module().get(self._weights[entry])
        return module


def _own_log() -> str:
    """The file this process's standard error goes to; empty where the system does not say."""
    with suppress(OSError):
        return os.readlink("/proc/self/fd/2")
    return ""


def last_words(home: Home) -> tuple[str, bool]:
    """Asked of the node of a worker that died: what it wrote last, and whether the kernel killed for memory since."""
    said = tail(Path(home.log)) if home.log else ""
    kept = [line for line in said.splitlines(keepends=True) if not line.startswith(RAYS_OWN)]
    return "".join(kept), kernel_oom_kills() > home.oom_kills


@dataclass
class _RaySlot:
    """One worker's place: its actor and what that does now."""

    actor: Any
    pending: Any = None  # the reference of what the actor does now; None while it is idle
    home: Home | None = None
    task: Task | None = None
    refusals: int = 0  # to be set up, in a row


@dataclass(frozen=True)
class _Doubt:
    """A Cell whose worker died, until the node has answered for it."""

    task: Task
    node: str
    said: str
    until: float


@final
class RayActors:
    """An actor for each worker, and a fresh one wherever there is room if its process or its node is lost."""

    def __init__(self, setup: Setup, execution: ExecutorOptions, workers: int, dataset: Dataset, models: FrozenModels) -> None:
        ray = ray_module()
        gpus = gpus_each(execution, setup)
        plan = setup.plan
        if Path(plan.data).exists():
            plan = replace(plan, data=str(Path(plan.data).absolute()))
        device = "cuda" if gpus else "cpu"
        batch_size = plan.batch_size or automatic_batch_size(dataset.image_shape, torch.device(device))
        self._setup = replace(setup, plan=plan, device=device, batch_size=batch_size)
        self._models = models
        self._entries = {entry.name: entry for entry in plan.loaded}
        self._weights: dict[str, object] = {}
        self._data = [ray.put(dataset)] if isinstance(dataset, TensorDataset) else []
        self._last_worker, self._last_problem = time.monotonic(), ""
        self._doubts: dict[Any, _Doubt] = {}
        self._kind = ray.remote(Actor).options(num_cpus=setup.threads or 1, num_gpus=gpus, max_restarts=0)
        self._slots = [self._filled(_RaySlot(None)) for _ in range(workers)]

    def _filled(self, slot: _RaySlot) -> _RaySlot:
        """The slot with a fresh actor, which is setting itself up."""
        slot.actor = self._kind.remote()
        slot.task = slot.home = None
        slot.pending = slot.actor.ready.remote(self._setup, self._data)
        return slot

    def room(self) -> int:
        return sum(slot.pending is None for slot in self._slots)

    def submit(self, task: Task) -> None:
        slot = next(slot for slot in self._slots if slot.pending is None)
        bound = {task.cell.model: task.cell.model_fingerprint, **dict(task.cell.targets)}
        entries = [self._entries[name] for name in bound]
        with _answering():
            weights = [self._reference(entry, bound[entry.name]) for entry in entries]
            slot.pending = slot.actor.attempt.remote(task, entries, weights)
        slot.task = task

    def _reference(self, entry: ModelEntry, fingerprint: str) -> Any:
        if fingerprint not in self._weights:
            self._weights[fingerprint] = ray_module().put(self._models.module(entry))
        return self._weights[fingerprint]

    def wait(self, handle: Handler) -> None:
        slots = {slot.pending: slot for slot in self._slots if slot.pending is not None}
        with _answering():
            done, _ = ray_module().wait([*self._doubts, *slots], num_returns=1, timeout=PATIENCE_SECONDS)
            for reference in done:
                if reference in slots:
                    self._answered(slots[reference], handle)
                else:
                    self._judge(reference, handle)
        self._end_doubts(handle)
        self._require_workers()

    def _answered(self, slot: _RaySlot, handle: Handler) -> None:
        ray = ray_module()
        try:
            answer = ray.get(slot.pending)
        except ray.exceptions.RayTaskError as problem:
            self._raised(slot, typed_line(problem.cause), str(problem), handle)
        except ray.exceptions.RayError as problem:
            self._died(slot, problem, handle)
        else:
            slot.pending = None
            self._receive(slot, answer, handle)

    def _receive(self, slot: _RaySlot, answer: Home | SetupFailed | Finished | Failed, handle: Handler) -> None:
        if isinstance(answer, SetupFailed):
            raise RobustattError(answer.cause)
        if isinstance(answer, Home):
            slot.home, slot.refusals = answer, 0
            return
        slot.task = None
        handle(answer)

    def _raised(self, slot: _RaySlot, cause: str, log: str, handle: Handler) -> None:
        """The actor lives, but its task raised: while it was set up, or around a Cell."""
        task = slot.task
        if task is None:
            self._refused(slot, cause)
            return
        slot.pending = slot.task = None
        handle(Failed(task, cause, FailureKind.RETRY, log))

    def _refused(self, slot: _RaySlot, cause: str) -> None:
        slot.refusals += 1
        if slot.refusals >= STARTS:
            raise RobustattError(f"a worker could not be set up on the cluster, {STARTS} times in a row: {cause}")
        self._discard(slot)

    def _died(self, slot: _RaySlot, problem: Exception, handle: Handler) -> None:
        """The actor's process or node is gone. Another takes its place; what becomes of the Cell is found out."""
        ray, task, home = ray_module(), slot.task, slot.home
        said = str(problem)
        if task is None and getattr(problem, "actor_init_failed", False):
            self._refused(slot, said.splitlines()[-1])
            return
        self._discard(slot)
        if task is None or home is None:
            self._last_problem = said.splitlines()[0]
        elif isinstance(problem, ray.exceptions.OutOfMemoryError):
            handle(starved(task, self._setup, said.splitlines()[0]))
        else:
            pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(home.node, soft=False)
            question = ray.remote(last_words).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
            self._doubts[question.remote(home)] = _Doubt(task, home.node, said, time.monotonic() + DOUBT_SECONDS)

    def _discard(self, slot: _RaySlot) -> None:
        _kill(slot.actor)  # one that only seemed dead would keep its share of the node
        self._filled(slot)

    def _judge(self, reference: Any, handle: Handler) -> None:
        ray, doubt = ray_module(), self._doubts.pop(reference)
        try:
            said, out_of_memory = ray.get(reference)
        except ray.exceptions.RayError:
            handle(_node_lost(doubt))
            return
        if out_of_memory:
            handle(starved(doubt.task, self._setup, said))
        else:
            handle(Failed(doubt.task, f"its worker on node {doubt.node[:8]} died", FailureKind.RETRY, said or doubt.said))

    def _end_doubts(self, handle: Handler) -> None:
        for reference, doubt in list(self._doubts.items()):
            if time.monotonic() > doubt.until:
                del self._doubts[reference]
                handle(_node_lost(doubt))

    def _require_workers(self) -> None:
        if any(slot.home is not None for slot in self._slots):
            self._last_worker = time.monotonic()
        elif time.monotonic() - self._last_worker > ROOM_SECONDS:
            why = f" (the last problem: {self._last_problem})" if self._last_problem else ""
            raise RobustattError(
                f"the cluster had no room for a worker in {ROOM_SECONDS / 60:.0f} minutes{why}: "
                "`ray status` shows what is requested"
            )

    def close(self) -> None:
        for slot in self._slots:
            _kill(slot.actor)


@contextmanager
def _answering() -> Iterator[None]:
    """Inside, an error of Ray that is not a lost worker is one of the whole cluster."""
    try:
        yield
    except ray_module().exceptions.RayError as problem:
        raise RobustattError(f"the Ray cluster does not answer any more ({typed_line(problem)})") from problem


def _kill(actor: Any) -> None:
    ray = ray_module()
    with suppress(ray.exceptions.RayError):  # the cluster may have gone before it
        ray.kill(actor)


def _node_lost(doubt: _Doubt) -> Failed:
    return Failed(doubt.task, f"its node {doubt.node[:8]} was lost", FailureKind.LOST)
