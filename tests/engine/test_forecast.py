"""The dry run says what then happens, and the engines cost little beside the Cells."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustatt.attack import recipe_files as recipes
from robustatt.engine.forecast import Forecast, forecast
from robustatt.engine.options import ExecutorOptions
from robustatt.engine.sources import load_data, model_loader
from robustatt.engine.sweep import bound, run
from robustatt.eps import parse_grid
from robustatt.plan import ModelEntry, Plan

STEPS = 20
TURNS = 2


def entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def forecast_of(plan: Plan, out: Path, execution: ExecutorOptions) -> Forecast:
    dataset = load_data(plan)
    with bound(plan, dataset, model_loader(dataset), out, execution) as sweep:
        return forecast(sweep)


@pytest.fixture
def digits() -> Plan:
    attacks = (recipes.load("fgsm"), recipes.load("pgd"))
    return Plan((ModelEntry("vgg", "vgg"),), attacks, parse_grid("1..16"))


@pytest.mark.slow
def test_the_dry_run_is_within_a_fifth_of_the_run(digits: Plan, tmp_path: Path) -> None:
    told = forecast_of(digits, tmp_path, ExecutorOptions(workers=1))
    assert list(tmp_path.iterdir()) == []
    dataset = load_data(digits)
    run(digits, dataset, model_loader(dataset), tmp_path, gallery=False, execution=ExecutorOptions(workers=1))
    log = entries(tmp_path / "log.jsonl")
    ratios = {name: told.total(name) / sum(entry[name] for entry in log) for name in ("gradients", "forwards", "seconds")}
    ratios["memory"] = told.peak_bytes / max(entry["peak_bytes"] for entry in log)
    print("expected over measured:", {name: round(ratio, 3) for name, ratio in ratios.items()})
    assert told.total("cells") == len(log) == 4
    quiet = os.getloadavg()[0] < (os.cpu_count() or 1)
    for name, ratio in ratios.items():
        assert 0.8 < ratio < 1.2 or (name == "seconds" and not quiet), f"{name}: {ratio:.2f}"


def test_the_counts_of_fgsm_are_exact_and_more_workers_take_less_time(tmp_path: Path) -> None:
    plan = Plan((ModelEntry("vgg", "vgg"),), (recipes.load("fgsm"),), parse_grid("8"), n=300)
    one, two = (forecast_of(plan, tmp_path, ExecutorOptions(workers=workers)) for workers in (1, 2))
    for told in (one, two):
        assert (told.total("cells"), told.total("gradients"), told.total("forwards")) == (2, 300, 600)
    assert (one.workers, two.workers) == (1, 2)
    assert one.seconds == pytest.approx(one.total("seconds"))
    longer = two.total("seconds") * 256 / 300
    assert two.seconds - two.start_seconds == pytest.approx(longer), "the longer of the two Cells"
    assert two.peak_bytes > 2 * one.peak_bytes


class Spans:
    """When Cells began and ended, as the driver's clock sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
        self.seconds, self.begins, self.ends = list[float](), list[float](), list[float]()

        def note(_out: Path, _cell: object, spent: Any) -> None:
            self.ends.append(clock())
            self.begins.append(self.ends[-1] - spent.seconds)
            self.seconds.append(spent.seconds)

        monkeypatch.setattr("robustatt.engine.log.note", note)

    def overhead(self, workers: int) -> float:
        """Workers' time from the first Cell's begin to the last one's end, over the time in Cells."""
        return workers * (max(self.ends) - min(self.begins)) / sum(self.seconds)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_costs_little_beside_bare_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve Cells of two seconds or more on two workers; both engines in turn, the best of each."""
    import time

    pytest.importorskip("ray")
    short = recipes.parse({"name": "pgd", "algorithm": "pgd", "steps": STEPS}, where="test")
    models = tuple(ModelEntry(name, "vgg") for name in "abcd")
    plan = Plan(models, (short,), parse_grid("1..16:5"), split="train", n=3 * 256)
    dataset = load_data(plan)
    ratios: dict[str, list[float]] = {"local": [], "ray": []}
    for turn in range(TURNS):
        for name, found in ratios.items():
            spans = Spans(monkeypatch, time.monotonic)
            execution = ExecutorOptions(name, workers=2, threads=1)
            out = tmp_path / f"{name}{turn}"
            run(plan, dataset, model_loader(dataset), out, gallery=False, execution=execution)
            assert len(spans.seconds) == 12
            mean = sum(spans.seconds) / 12
            found.append(spans.overhead(2))
            print(f"{name}: Cells of {mean:.1f} s, workers' time over time in Cells {found[-1]:.3f}")
            assert mean >= 2, "too short to say anything about Cells of two seconds"
    ratio = min(ratios["ray"]) / min(ratios["local"])
    print(f"Ray over bare processes, best of {TURNS} each in turn: {ratio:.3f}")
    assert ratio <= 1.1
