"""What the Ray executor makes of what Ray tells it: who is to blame for a dead worker, and what becomes of its Cell."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustatt.attack import recipe_files as recipes
from robustatt.data import TensorDataset
from robustatt.engine.options import ExecutorOptions
from robustatt.engine.ray_cluster import STARTS, Actor, Home, RayActors, last_words
from robustatt.engine.scheduler import CellCost, Event, Failed, FailureKind, Finished, Task
from robustatt.engine.worker import Setup, SetupFailed
from robustatt.eps import parse_grid
from robustatt.errors import RobustattError
from robustatt.plan import BoundPlan, ModelEntry, Plan


class RayError(Exception): ...


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("Traceback")
        self.cause = cause


class ActorDiedError(RayError):
    actor_init_failed = False


class OutOfMemoryError(RayError): ...


HOME = Home("node-one", "", 0)


class FakeRay:
    """A cluster that answers each call as a script says: an exception is raised, everything else is the answer."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, OutOfMemoryError=OutOfMemoryError)

    def __init__(self, ready: Callable[[], Any], attempt: Callable[[Task], Any], words: Callable[[], Any]) -> None:
        self._scripts = {"ready": ready, "attempt": attempt, "words": words}
        self._answers: dict[int, Any] = {}
        self.actors, self.killed, self.asked = 0, 0, list[str]()
        pinned = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: (node, soft))
        self.util = SimpleNamespace(scheduling_strategies=pinned)

    def _call(self, name: str, *arguments: Any) -> int:
        reference = len(self._answers)
        self._answers[reference] = self._scripts[name](*arguments)
        return reference

    def remote(self, what: Any) -> Any:
        if what is Actor:
            return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

        def options(num_cpus: int, max_retries: int, scheduling_strategy: tuple[str, bool]) -> Any:
            assert (num_cpus, max_retries, scheduling_strategy[1]) == (0, 0, False), "wherever it ran, it asks one node"
            self.asked.append(scheduling_strategy[0])
            return SimpleNamespace(remote=lambda _: self._call("words"))

        return SimpleNamespace(options=options)

    def _actor(self) -> Any:
        self.actors += 1
        ready = SimpleNamespace(remote=lambda *_: self._call("ready"))
        return SimpleNamespace(ready=ready, attempt=SimpleNamespace(remote=lambda task, *_: self._call("attempt", task)))

    def put(self, thing: Any) -> Any:
        return thing

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def wait(self, references: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:  # noqa: ARG002
        ready = [reference for reference in references if self._answers[reference] is not None]
        return ready[:num_returns], ready[num_returns:]

    def get(self, reference: int) -> Any:
        answer = self._answers[reference]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:  # noqa: ARG002
        self.killed += 1


def fine(task: Task) -> Event:
    return Finished(task, CellCost(1.0, 0, 0, 8))


@pytest.fixture
def task() -> Task:
    return Task(next(bound().cells()))


def bound() -> BoundPlan:
    plan = Plan((ModelEntry("net", "vgg"),), (recipes.load("fgsm"),), parse_grid("2"), batch_size=8)
    return BoundPlan(plan, 20, ("a", "b"), "data", ("print",))


def first_event(fake: FakeRay, task: Task, monkeypatch: pytest.MonkeyPatch) -> Event:
    """What the executor says of one task on one worker."""
    monkeypatch.setattr("robustatt.engine.ray_cluster.ray_module", lambda: fake)
    data = TensorDataset(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), classes="ab")
    setup = Setup(bound().plan, "data", "records", "cpu", 8, 1)
    models: Any = SimpleNamespace(module=lambda _: "weights")
    executor = RayActors(setup, ExecutorOptions("ray", workers=1), 1, data, models)
    events: list[Event] = []
    for _ in range(20):
        if executor.room() and task is not None and not events:
            executor.submit(task)
        executor.wait(events.append)
        if events:
            return events[0]
    raise AssertionError("nothing was told")


def died(_: Task) -> Exception:
    return ActorDiedError("The actor died unexpectedly before finishing this task.\nEnd of file")


def test_a_worker_that_died_on_a_node_that_answers_is_the_cells_failure(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(lambda: HOME, died, lambda: ("a white image came in\n", False))
    event = first_event(fake, task, monkeypatch)
    assert event == Failed(task, "its worker on node node-one died", FailureKind.RETRY, "a white image came in\n")
    assert fake.asked == ["node-one"]
    assert (fake.actors, fake.killed) == (2, 1), "another worker takes its place at once"


def test_a_worker_whose_node_does_not_answer_is_nobodys_failure(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(lambda: HOME, died, lambda: RayError("the node does not exist any more"))
    assert first_event(fake, task, monkeypatch) == Failed(task, "its node node-one was lost", FailureKind.LOST)


def test_a_node_that_is_silent_too_long_counts_as_lost(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustatt.engine.ray_cluster.DOUBT_SECONDS", -1.0)
    event = first_event(FakeRay(lambda: HOME, died, lambda: None), task, monkeypatch)
    assert event == Failed(task, "its node node-one was lost", FailureKind.LOST)


@pytest.mark.parametrize(
    ("halvings", "fate"), [(0, FailureKind.OUT_OF_MEMORY), (2, FailureKind.OUT_OF_MEMORY), (3, FailureKind.RETRY)]
)
@pytest.mark.parametrize("who", ["Ray", "the kernel"])
def test_memory_halves_the_batch_until_it_cannot_be_halved(
    who: str, halvings: int, fate: FailureKind, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of 8 is halved to 4, 2 and 1; a Cell that is killed with 1 fails like any other."""
    task = Task(task.cell, halvings=halvings)
    killer = died if who == "the kernel" else lambda _: OutOfMemoryError("1 worker was killed\nTop 10 memory users")
    event = first_event(FakeRay(lambda: HOME, killer, lambda: ("", True)), task, monkeypatch)
    assert isinstance(event, Failed)
    assert (event.fate, event.cause) == (fate, "its worker was killed because memory ran out")
    assert event.log == ("1 worker was killed" if who == "Ray" else "")


def test_what_raises_around_a_cell_is_its_failure_and_the_worker_goes_on(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(lambda: HOME, lambda _: RayTaskError(TypeError("cannot pickle")), lambda: None)
    event = first_event(fake, task, monkeypatch)
    assert event == Failed(task, "TypeError: cannot pickle", FailureKind.RETRY, "Traceback")
    assert fake.actors == 1


def broken_environment() -> Exception:
    problem = ActorDiedError("The actor died\nModuleNotFoundError: No module named 'robustatt'")
    problem.actor_init_failed = True
    return problem


@pytest.mark.parametrize(
    ("ready", "said", "actors"),
    [
        (lambda: SetupFailed("the data is not the same"), "the data is not the same", 1),
        (
            lambda: RayTaskError(OSError("disk")),
            f"could not be set up on the cluster, {STARTS} times.*OSError: disk",
            3,
        ),
        (broken_environment, "ModuleNotFoundError: No module named 'robustatt'", 3),
    ],
)
def test_workers_that_cannot_be_set_up_end_the_run(
    ready: Callable[[], Any], said: str, actors: int, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRay(ready, fine, lambda: None)
    with pytest.raises(RobustattError, match=said):
        first_event(fake, task, monkeypatch)
    assert fake.actors == actors


def test_workers_lost_while_they_start_are_started_again(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ActorDiedError("node lost")] * 7 + [HOME])
    fake = FakeRay(lambda: next(answers), fine, lambda: None)
    assert first_event(fake, task, monkeypatch) == fine(task)
    assert fake.actors == 8


def test_a_cluster_without_room_is_said_with_the_last_problem(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustatt.engine.ray_cluster.ROOM_SECONDS", 0.0)
    with pytest.raises(RobustattError, match=r"no room for a worker in .* \(the last problem: node lost\)"):
        first_event(FakeRay(lambda: ActorDiedError("node lost"), fine, lambda: None), task, monkeypatch)


def test_a_cluster_that_is_gone_ends_the_run(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(lambda: HOME, fine, lambda: None)

    def wait(*_: Any, **__: Any) -> Any:
        raise RayError("System error: no head node")

    monkeypatch.setattr(fake, "wait", wait)
    with pytest.raises(RobustattError, match=r"the Ray cluster does not answer any more .*: System error: no head node"):
        first_event(fake, task, monkeypatch)


def test_last_words_are_the_workers_own(tmp_path: Any) -> None:
    log = tmp_path / "worker.err"
    log.write_text(":job_id:01\n:actor_name:Actor\nboom\n")
    assert last_words(Home("node", str(log), 0))[0] == "boom\n"
    assert last_words(Home("node", str(tmp_path / "gone.err"), 0))[0] == ""
