"""The scheduler by itself, on workers of a clock of their own or that fail as they are told."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustatt.attack import recipe_files as recipes
from robustatt.engine.forecast import VirtualWorkers
from robustatt.engine.options import ExecutorOptions, paying_workers
from robustatt.engine.scheduler import (
    ATTEMPTS,
    MAX_LOST_NODES,
    Advanced,
    CellCost,
    Costs,
    Event,
    Failed,
    FailureKind,
    Finished,
    Handler,
    Queue,
    Scheduler,
    Task,
    full_strength,
)
from robustatt.eps import parse_grid
from robustatt.errors import InputError
from robustatt.plan import BoundPlan, Cell, ModelEntry, Plan
from robustatt.progress import NoSweepProgress


def plan_of(examples: int, models: int = 2, attacks: tuple[str, ...] = ("fgsm", "pgd")) -> BoundPlan:
    entries = tuple(ModelEntry(f"m{number}", "vgg") for number in range(models))
    plan = Plan(entries, tuple(map(recipes.load, attacks)), parse_grid("1..16"), drift_n=0)
    return BoundPlan(plan, examples, ("a", "b"), "data", tuple(f"f{number}" for number in range(models)))


class Watching(NoSweepProgress):
    """Sums what it is told."""

    def __init__(self) -> None:
        self.images, self.causes = 0, list[str]()

    def advance(self, cell: Cell, images: int) -> None:  # noqa: ARG002
        self.images += images

    def failed(self, cell: Cell, cause: str, log: str) -> None:
        self.causes.append(f"{cell.model} {cell.attack.name} {cell.start}: {cause}|{log}")


class Scripted:
    """One worker; each attempt ends as a function of the task says. Two in flight would be an error."""

    def __init__(self, outcome: Callable[[Task], Event]) -> None:
        self.outcome, self.seen, self.task = outcome, list[Task](), None

    def room(self) -> int:
        return int(self.task is None)

    def submit(self, task: Task) -> None:
        assert self.task is None
        self.task = task
        self.seen.append(task)

    def wait(self, handle: Handler) -> None:
        task, self.task = self.task, None
        if task is not None:
            handle(Advanced(task, 10))
            handle(self.outcome(task))

    def close(self) -> None: ...


def fine(task: Task) -> Event:
    return Finished(task, CellCost(1.0, 0, 0, 64))


def run(bound: BoundPlan, executor: Scripted | VirtualWorkers) -> tuple[Scheduler, Watching]:
    costs, watching = Costs(bound.plan), Watching()
    scheduler = Scheduler(Queue(bound.kinds(), costs), executor, costs, watching)
    scheduler.run()
    return scheduler, watching


def images(cell: Cell) -> int:
    return (cell.stop - cell.start) * len(cell.radii)


def test_every_cell_once_longest_first() -> None:
    bound, executor = plan_of(600), Scripted(fine)
    _, watching = run(bound, executor)
    seen = [task.cell for task in executor.seen]
    assert sorted(cell.key for cell in seen) == sorted(cell.key for cell in bound.cells())
    promised = Costs(bound.plan)
    longest = max(promised.expected(cell) for cell in bound.cells())
    assert promised.expected(seen[0]) == longest
    assert watching.images == sum(map(images, bound.cells()))


def test_what_was_measured_changes_the_order() -> None:
    """The recipe promises that pgd is dearer; where fgsm turns out to be, its Cells go first."""
    bound = plan_of(256 * 6, models=1)

    def outcome(task: Task) -> Event:
        return Finished(task, CellCost(100.0 if task.cell.attack.name == "fgsm" else 0.1, 0, 0, 64))

    def learnt() -> list[str]:
        costs = Costs(bound.plan)
        cells = {cell.attack.name: cell for cell in bound.cells()}
        queue = Queue(bound.kinds(), costs)
        first = queue.take()
        assert first is not None
        for name in ("pgd", "fgsm"):
            event = outcome(Task(cells[name]))
            assert isinstance(event, Finished)
            costs.learn(cells[name], event.spent.seconds)
        queue.reorder()
        return [first.cell.attack.name, *[task.cell.attack.name for task in iter(queue.take, None)]]

    assert learnt() == ["pgd"] + ["fgsm"] * 6 + ["pgd"] * 5


def test_a_kind_not_measured_is_corrected_by_its_model() -> None:
    bound = plan_of(256)
    costs = Costs(bound.plan)
    cells = {(cell.model, cell.attack.name): cell for cell in bound.cells()}
    promised = {kind: costs.expected(cell) for kind, cell in cells.items()}
    costs.learn(cells["m0", "fgsm"], 7 * promised["m0", "fgsm"])
    costs.learn(cells["m1", "fgsm"], 3 * promised["m1", "fgsm"])
    assert costs.expected(cells["m0", "fgsm"]) == pytest.approx(7 * promised["m0", "fgsm"])
    assert costs.expected(cells["m0", "pgd"]) == pytest.approx(7 * promised["m0", "pgd"])
    assert costs.expected(cells["m1", "pgd"]) == pytest.approx(3 * promised["m1", "pgd"])


def test_fgsm_is_promised_one_gradient_for_the_grid() -> None:
    assert full_strength(recipes.load("fgsm"), 16, independent=False) == (1, 17)
    assert full_strength(recipes.load("pgd"), 16, independent=True)[0] == 16 * 40


def test_a_failing_cell_is_set_aside_and_the_rest_goes_on() -> None:
    bound = plan_of(600)
    bad = list(bound.cells())[4].key

    def outcome(task: Task) -> Event:
        return Failed(task, "boom", log="said\n") if task.cell.key == bad else fine(task)

    executor = Scripted(outcome)
    scheduler, watching = run(bound, executor)
    assert [(entry.cell.key, entry.cause) for entry in scheduler.set_aside] == [(bad, "boom")]
    assert [task.attempt for task in executor.seen if task.cell.key == bad] == [1, 2, 3]
    assert len({task.cell.key for task in executor.seen}) == len(list(bound.cells()))
    assert len(watching.causes) == ATTEMPTS
    assert watching.causes[-1].endswith("boom; set aside|said\n")
    assert watching.images == sum(images(cell) for cell in bound.cells() if cell.key != bad)


def test_what_was_refused_on_purpose_is_not_tried_again() -> None:
    executor = Scripted(lambda task: Failed(task, "NaN", FailureKind.HOPELESS))
    scheduler, _ = run(plan_of(100, models=1), executor)
    assert len(executor.seen) == len(scheduler.set_aside) == 2


def test_out_of_memory_halves_the_batch_and_counts_no_failure() -> None:
    def outcome(task: Task) -> Event:
        return fine(task) if task.halvings == 5 else Failed(task, "memory", FailureKind.OUT_OF_MEMORY)

    executor = Scripted(outcome)
    scheduler, _ = run(plan_of(100, models=1, attacks=("fgsm",)), executor)
    assert scheduler.set_aside == []
    assert [(task.attempt, task.halvings) for task in executor.seen] == [(1, count) for count in range(6)]


def test_a_lost_machine_is_not_the_cells_fault() -> None:
    lives = iter(range(20))
    executor = Scripted(lambda task: Failed(task, "node", FailureKind.LOST) if next(lives) < MAX_LOST_NODES - 1 else fine(task))
    scheduler, _ = run(plan_of(100, models=1, attacks=("fgsm",)), executor)
    assert scheduler.set_aside == []
    assert [(task.attempt, task.losses) for task in executor.seen] == [(1, count) for count in range(MAX_LOST_NODES)]


def test_a_cell_that_ends_every_machine_waits_for_the_others_and_is_named_at_last() -> None:
    bound = plan_of(600)
    bad = next(bound.cells()).key

    def outcome(task: Task) -> Event:
        return Failed(task, "its node was lost", FailureKind.LOST) if task.cell.key == bad else fine(task)

    executor = Scripted(outcome)
    scheduler, watching = run(bound, executor)
    assert [entry.cell.key for entry in scheduler.set_aside] == [bad]
    assert scheduler.set_aside[0].cause == "its node was lost, as 9 before it: this Cell may be what ends them"
    keys = [task.cell.key for task in executor.seen]
    assert keys.count(bad) == MAX_LOST_NODES
    assert keys[2 - MAX_LOST_NODES :] == [bad] * (MAX_LOST_NODES - 2), "after its second try the others go before it"
    assert watching.images == sum(images(cell) for cell in bound.cells() if cell.key != bad)


def test_wrong_input_ends_the_run() -> None:
    with pytest.raises(InputError, match="labels"):
        run(plan_of(100), Scripted(lambda task: Failed(task, "labels", FailureKind.WRONG_INPUT)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3000), st.floats(0.01, 9), st.floats(0.01, 9))
def test_list_scheduling_keeps_its_bound(workers: int, examples: int, fgsm: float, pgd: float) -> None:
    """Never longer than the mean load plus one longest Cell (Graham 1969), and nobody computes two at a time."""
    bound = plan_of(examples)
    seconds = {"fgsm": fgsm, "pgd": pgd}
    machine = VirtualWorkers(workers, lambda cell: seconds[cell.attack.name] * (cell.stop - cell.start))
    run(bound, machine)
    each = [end - begin for begin, end in machine.spans]
    assert len(each) == len(list(bound.cells()))
    assert machine.now <= sum(each) / workers + max(each) + 1e-6
    for begin, _ in machine.spans:
        assert sum(b <= begin < e for b, e in machine.spans) <= workers


def test_a_long_queue_costs_no_more_memory_than_a_short_one() -> None:
    def peak(cells: int) -> int:
        bound = plan_of(256 * cells, models=1, attacks=("fgsm",))
        tracemalloc.start()
        try:
            executor = Forgetful()
            costs = Costs(bound.plan)
            Scheduler(Queue(bound.kinds(), costs), executor, costs, NoSweepProgress()).run()
            assert executor.count == cells
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(2_000) < peak(100) + 50_000


class Forgetful:
    """Eight workers that are done at once and remember nothing."""

    def __init__(self) -> None:
        self.tasks, self.count = list[Task](), 0

    def room(self) -> int:
        return 8 - len(self.tasks)

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        self.count += 1
        assert len(self.tasks) <= 8

    def wait(self, handle: Handler) -> None:
        handle(fine(self.tasks.pop()))

    def close(self) -> None: ...


def test_processes_are_started_where_they_pay() -> None:
    assert paying_workers(seconds=100, start_seconds=5, cells=8, most=2) == 2
    assert paying_workers(seconds=8, start_seconds=5, cells=8, most=2) == 1, "5 + 4 is more than 8"
    assert paying_workers(seconds=100, start_seconds=5, cells=1, most=2) == 1
    assert paying_workers(seconds=100, start_seconds=5, cells=8, most=1) == 1
    assert paying_workers(seconds=100, start_seconds=45, cells=3, most=2) == 1, "one of two workers gets two of three"


def test_threads_do_not_depend_on_the_workers() -> None:
    for workers in (None, 1, 4):
        assert ExecutorOptions(workers=workers).cell_threads(cells=8, available=8) == 1
        assert ExecutorOptions(workers=workers).cell_threads(cells=2, available=8) == 4
        assert ExecutorOptions(workers=workers, threads=3).cell_threads(cells=2, available=8) == 3
    assert ExecutorOptions("ray").cell_threads(cells=2, available=8) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine": "rya"}, "did you mean 'ray'"),
        ({"workers": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"address": "auto"}, "--engine ray"),
        ({"gpus_per_worker": 0.5}, "Ray cluster"),
        ({"engine": "ray", "gpus_per_worker": -1}, "share"),
    ],
)
def test_wrong_executions_are_said(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ExecutorOptions(**fields)  # type: ignore[arg-type]
