"""Sweeps in rounds: the time is kept, the examples are the seed's permutation, nothing is lost or done twice."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import images, small_net

import robustatt
from robustatt.attack import recipe_files as recipes
from robustatt.attack.recipe import Recipe
from robustatt.data.views import shuffled
from robustatt.engine.budget import Budget
from robustatt.engine.evidence import read_folder
from robustatt.engine.options import ExecutorOptions
from robustatt.engine.sources import load_data, model_loader
from robustatt.engine.sweep import SweepOutcome
from robustatt.engine.sweep import run as run_plan
from robustatt.engine.verify_images import SavedExamples
from robustatt.engine.watching import look
from robustatt.eps import parse_grid
from robustatt.errors import InputError, RunInterrupted
from robustatt.plan import BoundPlan, Cell, Limits, ModelEntry, Plan, Rounds, SavedImages
from robustatt.plan.rounds import LARGEST, SMALLEST, sizes
from robustatt.progress import NoSweepProgress

COUNT = 600


class Clock:
    """A clock that goes on only when an example is done."""

    def __init__(self, seconds_an_example: float) -> None:
        self.now, self.pace = 0.0, seconds_an_example

    def __call__(self) -> float:
        return self.now


class Ticking(NoSweepProgress):
    """Lets the clock go on, remembers the looks, and is interrupted after so many examples."""

    def __init__(self, clock: Clock | None = None, most: float = np.inf) -> None:
        self.clock, self.most, self.examples = clock, most, 0
        self.looks: list[int] = []

    def advance(self, cell: Cell, images: int) -> None:
        self.examples += images // len(cell.radii)
        if self.clock is not None:
            self.clock.now += self.clock.pace * images / len(cell.radii)
        if self.examples > self.most:
            raise KeyboardInterrupt

    def looked(self, summary: object, seconds: float) -> None:  # noqa: ARG002
        self.looks.append(self.examples)


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images of 12x12, four of five labelled by the small network."""
    batch = (images(COUNT, 12) * 255).round()
    with torch.no_grad():
        label = small_net()(batch / 255).argmax(1)
    label[::5] = (label[::5] + 1) % 3
    path = tmp_path_factory.mktemp("data") / "random.npz"
    np.savez(path, images=batch.to(torch.uint8).numpy(), labels=label.numpy())
    return path


def plan_for(npz: Path, time: str | None = None, until: str | None = None, **more: object) -> Plan:
    entry = ModelEntry("net", "tiny_models:small_net")
    attacks = (recipes.load("fgsm"), recipes.load("sign-noise"))
    return Plan((entry,), attacks, parse_grid("2,6"), data=str(npz), limits=Limits.parse(time, until), **more)  # type: ignore[arg-type]


def run(plan: Plan, out: Path, clock: Clock | None = None, most: float = np.inf, workers: int = 1) -> SweepOutcome:
    dataset = load_data(plan)
    budget = None if clock is None else Budget(None if plan.limits is None else plan.limits.seconds, clock)
    execution = ExecutorOptions(workers=workers, threads=1)
    return run_plan(plan, dataset, model_loader(dataset), out, Ticking(clock, most), False, execution, budget)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "records").glob("*.parquet")}


def rows(records: pd.DataFrame) -> pd.DataFrame:
    columns = ["model", "attack", "eps", "index", "label", "clean_pred", "adv_pred"]
    return records[columns].sort_values(columns[:4]).reset_index(drop=True)


# The plan of the rounds ------------------------------------------------------------------------------------


@given(st.integers(1, 100_000), st.data())
def test_sizes_get_smaller_and_stay_within_bounds(of: int, data: st.DataObject) -> None:
    done = data.draw(st.integers(0, of - 1))
    found = list(sizes(done, of))
    assert found == sorted(set(found), reverse=True)
    assert all(1 <= size <= min(LARGEST, of - done) for size in found)
    assert found[-1] == min(SMALLEST, of - done)


def test_rounds_begin_small_and_double() -> None:
    ends = list(itertools.accumulate([16, 16, 32, 64, 128, 256, 256]))
    rounds = Rounds(2000)
    for end in ends:
        assert rounds.done + next(sizes(rounds.done, rounds.of)) == end
        rounds = rounds.begin(end).finish(end)
    assert [stop - start for start, stop in rounds.ranges()] == [16, 16, 32, 64, 128, 256, 256]
    assert rounds.is_sound()


@pytest.mark.parametrize("ends", [(16, 16), (16, 8), (300,), (0,), (16, 1200), (-4, 16)])
def test_rounds_that_cannot_be_are_not_sound(ends: tuple[int, ...]) -> None:
    assert not Rounds(1000, ends).is_sound()


@settings(max_examples=200)
@given(st.floats(1, 1e5), st.floats(1e-4, 10), st.integers(1, 20_000))
def test_at_an_even_pace_the_time_is_kept_and_used(seconds: float, pace: float, of: int) -> None:
    clock = Clock(pace)
    budget, done = Budget(seconds, clock), 0
    while (end := budget.next_end(done, of, (), lambda end, done=done: end - done)) is not None and done < of:  # type: ignore[misc]
        clock.now += pace * (end - done)
        budget.took(end - done, pace * (end - done))
        done = end
    assert clock.now <= max(seconds, pace * min(SMALLEST, of)) * (1 + 1e-9), "only the first round may be late"
    if done < of:
        assert clock.now + 1.25 * pace * SMALLEST >= seconds, "another round would have fitted"


def test_a_known_end_is_taken_where_it_fits_and_only_there() -> None:
    budget = Budget(100, Clock(1))
    budget.pace = 1.0
    assert budget.next_end(16, 500, (16, 80, 200), lambda end: end - 16) == 80
    assert budget.next_end(200, 500, (16, 80, 299), lambda end: end - 200) == 299
    assert budget.next_end(200, 500, (400,), lambda end: end - 200) == 300, "the known one is too large: half of 200 instead"
    assert budget.next_end(200, 500, (400,), lambda _: 0) == 400, "what is there costs nothing"


# Sweeps -----------------------------------------------------------------------------------------------------


def test_the_time_is_kept_and_the_examples_are_the_permutation_of_the_seed(npz: Path, tmp_path: Path) -> None:
    plan = plan_for(npz, "100s", seed=3)
    found = run(plan, tmp_path, clock := Clock(0.25))
    assert clock.now <= 100
    assert found.summary.stopped is not None
    assert found.summary.stopped.reason == "time"
    done = found.summary.plan.data.n
    assert done is not None
    assert 160 <= done <= 200, "two attacks, a quarter of a second each: 200 examples at most"
    expected = shuffled(torch.arange(COUNT), 3)[:done].tolist()
    for _, part in found.records.groupby("attack"):
        assert sorted(part["index"].unique()) == sorted(expected), "the same examples under every attack"
    assert {point.n for curve in found.summary.curves for point in curve.points} == {done}
    folder = read_folder(tmp_path)
    assert folder.findings == ()
    assert folder.summary.stopped == found.summary.stopped


def test_a_round_that_was_there_says_nothing_of_the_pace() -> None:
    budget = Budget(100, Clock(1))
    budget.took(0, 0.5)
    assert budget.pace is None


def test_a_second_run_goes_on_and_one_without_limits_ends_it(npz: Path, tmp_path: Path) -> None:
    first = run(plan_for(npz, "40s"), tmp_path / "o", Clock(0.25))
    before = files(tmp_path / "o")
    more = run(plan_for(npz, "50s"), tmp_path / "o", Clock(0.25))
    assert more.ready == len(before)
    assert (more.summary.plan.data.n or 0) > (first.summary.plan.data.n or 0)
    between = files(tmp_path / "o")
    assert before.items() <= between.items()
    whole = run(plan_for(npz, drift_n=0), tmp_path / "o")
    assert between.items() <= files(tmp_path / "o").items(), "nothing is computed twice"
    assert whole.summary.stopped is not None
    assert whole.summary.stopped.reason == "all"
    plain = run(plan_for(npz, drift_n=0), tmp_path / "plain")
    pd.testing.assert_frame_equal(rows(whole.records), rows(plain.records))
    assert plain.summary.plan.rounds is None
    assert whole.summary.curves == plain.summary.curves


def test_a_whole_sweep_without_limits_is_the_best_answer(npz: Path, tmp_path: Path) -> None:
    whole = run(plan_for(npz, drift_n=0), tmp_path)
    found = run(plan_for(npz, "10s", drift_n=0), tmp_path, Clock(0.25))
    assert (found.computed, found.summary.plan.rounds) == (0, None)
    assert found.summary.curves == whole.summary.curves
    next((tmp_path / "records").glob("*.parquet")).unlink()
    assert run(plan_for(npz, "10s", drift_n=0), tmp_path, Clock(0.25)).summary.plan.rounds is not None


def test_drift_surrogates_and_images_go_with_the_rounds(npz: Path, tmp_path: Path) -> None:
    plan = plan_for(npz, "30s", drift_n=10, images=SavedImages.parse("20", None))
    models = (*plan.models, ModelEntry("other", "tiny_models:small_net"))
    attacks = (recipes.load("fgsm"), replace_steps(recipes.load("pgd"), 3))
    found = run(replace(plan, models=models, surrogates=models[:1], attacks=attacks), tmp_path, Clock(0.05))
    done = found.summary.plan.data.n
    assert found.summary.stopped is not None
    assert found.summary.stopped.reason == "time"
    assert {point.n for curve in found.summary.transfer for point in curve.points} == {done}
    assert found.summary.full_strength is not None
    assert found.summary.full_strength.n == 10
    folder = read_folder(tmp_path)
    assert folder.findings == ()
    (stated,) = SavedExamples.of(folder, tmp_path).stated
    assert stated.verdict == "true"


def replace_steps(recipe: Recipe, steps: int) -> Recipe:
    return recipe.model_copy(update={"steps": steps})


def test_another_plan_in_the_folder_is_not_taken_for_the_same(npz: Path, tmp_path: Path) -> None:
    run(plan_for(npz, "10s"), tmp_path, Clock(0.25))
    assert run(plan_for(npz, n=20), tmp_path).summary.plan.rounds is None
    assert run(plan_for(npz, n=20, seed=1), tmp_path).summary.plan.rounds is None


def test_a_model_that_joins_finds_the_rounds_of_the_other(npz: Path, tmp_path: Path) -> None:
    one = run(plan_for(npz, "20s"), tmp_path, Clock(0.25))
    plan = plan_for(npz, "20s")
    both = run(replace(plan, models=(*plan.models, ModelEntry("other", "tiny_models:small_net"))), tmp_path, Clock(0.01))
    assert both.ready == one.computed
    assert (both.summary.plan.data.n or 0) > (one.summary.plan.data.n or 0)


def test_an_interrupted_run_says_what_is_safe_and_loses_nothing(npz: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted, match=r"stopped by Ctrl-C. Safe on disk: 32 of 600 examples") as stopped:
        run(plan_for(npz, "1h"), tmp_path, most=2 * 32 + 40)
    assert stopped.value.exit_code == 130
    left = files(tmp_path)
    assert len(left) == 5, "two rounds under two attacks, and one Cell of the third round"
    folder = read_folder(tmp_path)
    assert folder.summary.stopped is None
    assert folder.summary.plan.data.n == 32
    assert "still running, or was interrupted" in folder.shown().unfinished
    again = run(plan_for(npz, "1h"), tmp_path, Clock(0.25))
    assert left.items() <= files(tmp_path).items()
    assert again.ready == len(left), "also the one of the round that was begun"
    assert again.computed + len(left) == len(files(tmp_path))


def test_until_stops_when_intervals_are_narrow(npz: Path, tmp_path: Path) -> None:
    found = run(plan_for(npz, until="6"), tmp_path / "all").summary
    assert found.stopped is not None
    assert found.stopped.reason == "until"
    widths = [(point.ci_high - point.ci_low) / 2 for curve in found.curves for point in curve.points]
    assert max(widths) <= 0.06
    assert found.plan.rounds is not None
    assert len(found.plan.rounds.ends) == len(set(found.plan.rounds.ends))
    one = run(plan_for(npz, until="6:net/sign-noise"), tmp_path / "one").summary
    assert (one.plan.data.n or 0) <= (found.plan.data.n or 0)
    again = run(plan_for(npz, until="6"), tmp_path / "all")
    assert again.computed == 0, "narrow enough already"


def test_whichever_comes_first(npz: Path, tmp_path: Path) -> None:
    assert run(plan_for(npz, "5s", "1"), tmp_path / "a", Clock(0.05)).summary.stopped.reason == "time"  # type: ignore[union-attr]
    assert run(plan_for(npz, "9h", "9"), tmp_path / "b", Clock(0.05)).summary.stopped.reason == "until"  # type: ignore[union-attr]


def test_workers_write_the_same_bytes(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    for workers in (1, 2):
        run(plan_for(npz, until="6"), tmp_path / str(workers), workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "2") != {}


def test_from_python(tmp_path: Path) -> None:
    batch = images(80, 12)
    with torch.no_grad():
        label = small_net()(batch).argmax(1)
    result = robustatt.sweep(small_net(), (batch, label), eps="2", time="1h", until=15, out=tmp_path)
    assert result.typed_summary.stopped is not None
    assert result.typed_summary.stopped.reason == "until"
    with pytest.raises(InputError, match="--time '-3'"):
        robustatt.sweep(small_net(), (batch, label), eps="2", time=-3)


# Looking at it ------------------------------------------------------------------------------------------------


def test_watch_reads_ordinary_sweeps_and_rounds_and_writes_nothing(npz: Path, tmp_path: Path) -> None:
    run(plan_for(npz, drift_n=0), tmp_path / "plain")
    run(plan_for(npz, "20s"), tmp_path / "rounds", Clock(0.25))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    plain, rounds = look(tmp_path / "plain"), look(tmp_path / "rounds")
    assert plain.ended
    assert rounds.ended
    assert "of 600 examples, in a random order (seed 0)" in rounds.said
    assert [row[0] for row in plain.rows] == ["clean", "2/255", "6/255"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    next((tmp_path / "plain" / "records").glob("*.parquet")).unlink()
    partial = look(tmp_path / "plain")
    assert not partial.ended
    assert "not a random sample" in partial.said


def test_watch_of_a_sweep_that_has_no_cell_yet(npz: Path, tmp_path: Path) -> None:
    plan = plan_for(npz, "20s")
    BoundPlan(plan, 0, ("a",), "d", ("e",), rounds=Rounds(600, (), 16)).write(tmp_path)
    assert look(tmp_path).rows == []
    with pytest.raises(InputError, match=r"no plan\.toml"):
        look(tmp_path.parent)


def test_a_plan_file_with_impossible_rounds_is_refused(npz: Path, tmp_path: Path) -> None:
    run(plan_for(npz, "10s"), tmp_path, Clock(0.25))
    path = tmp_path / "plan.toml"
    path.write_text(path.read_text().replace("of = 600", "of = 3"))
    with pytest.raises(InputError, match="does not fit"):
        BoundPlan.read(tmp_path)
