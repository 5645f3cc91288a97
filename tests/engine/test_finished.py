"""A finished sweep typed again: answered from its note while nothing has changed, computed as ever when anything has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from robustatt.attack import recipe_files as recipes
from robustatt.cli import app
from robustatt.engine.finished import FINISHED_FILE, recall, remember
from robustatt.models import bundled_path
from robustatt.plan import ModelEntry, Plan

HEAVY = (
    "torch",
    "pandas",
    "scipy.stats",
    "scipy.optimize",
    "sklearn",
    "sympy",
    "pyarrow",
    "matplotlib",
    "seaborn",
    "torchvision",
)


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Plan, Path]:
    """A sweep that is done, over a folder of images and weights that lie in `tmp_path`."""
    rng = np.random.default_rng(0)
    for place in range(20):
        folder = tmp_path / "images" / str(place % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{place}.png")
    shutil.copy(bundled_path("vgg"), tmp_path / "vgg.safetensors")
    plan = Plan(
        (ModelEntry("vgg", "vgg", str(tmp_path / "vgg.safetensors")),), (recipes.load("fgsm"),), (Fraction(8, 255),),
        data=str(tmp_path / "images"), drift_n=0,
    )  # fmt: skip
    out = tmp_path / "out"
    assert run(tmp_path).exit_code == 0
    return plan, out


def run(folder: Path):
    options = f"--model vgg --weights {folder}/vgg.safetensors --data {folder}/images --attack fgsm --eps 8 --drift-n 0 --out {folder}/out"
    return CliRunner().invoke(app, ["sweep", *options.split()])


def test_the_answer_is_the_summary_of_the_run(finished: tuple[Plan, Path]) -> None:
    from robustatt.results.summary_file import read_summary

    answer = recall(*finished)
    assert answer is not None
    assert (answer.summary, answer.cells) == (read_summary(finished[1]), 1)


def rewrite(path: Path, content: bytes, keep_time: bool = False) -> None:
    status = path.stat()
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "other weights": lambda place: rewrite(place / "vgg.safetensors", bundled_path("vgg_gap").read_bytes()),
    "an image": lambda place: rewrite(place / "images/3/3.png", (place / "images/4/4.png").read_bytes()),
    "an image more": lambda place: shutil.copy(place / "images/3/3.png", place / "images/3/more.png"),
    "an image less": lambda place: (place / "images/3/3.png").unlink(),
    "a class more": lambda place: shutil.copytree(place / "images/3", place / "images/new"),
    "records": lambda place: rewrite(next((place / "out/records").iterdir()), b"PAR1"),
    "no records": lambda place: next((place / "out/records").iterdir()).unlink(),
    "the summary": lambda place: rewrite(place / "out/summary.json", b"{}"),
    "a young file within one time stamp": lambda place: rewrite(
        place / "out/summary.json", (place / "out/summary.json").read_bytes().replace(b"0.9", b"0.8"), keep_time=True
    ),
    "no gallery": lambda place: shutil.rmtree(place / "out/gallery"),
    "the note": lambda place: rewrite(place / "out" / FINISHED_FILE, b'{"of": 3}'),
}


@pytest.mark.parametrize("what", CHANGES)
def test_nothing_is_answered_once_something_has_changed(what: str, finished: tuple[Plan, Path], tmp_path: Path) -> None:
    if what == "a young file within one time stamp":
        assert b"0.9" in (tmp_path / "out/summary.json").read_bytes(), "else nothing changes here"
    CHANGES[what](tmp_path)
    assert recall(*finished) is None


def test_another_plan_or_working_folder_is_not_answered(finished: tuple[Plan, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    plan, out = finished
    assert recall(replace(plan, seed=1), out) is None
    assert recall(replace(plan, eps=(Fraction(4, 255),)), out) is None
    monkeypatch.chdir(out)
    assert recall(plan, out) is None, "paths of the plan may mean other files there"


def test_a_network_whose_code_is_elsewhere_is_not_noted(finished: tuple[Plan, Path]) -> None:
    from dataclasses import replace

    plan, out = finished
    foreign = replace(plan, models=(ModelEntry("m", "torchvision:resnet18"),))
    remember(foreign, out)
    assert not (out / FINISHED_FILE).exists()


def imported(*arguments: str) -> set[str]:
    code = (
        "import sys; from robustatt.cli import app\n"
        "try: app(sys.argv[2:], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print('imported:', *(name for name in sys.argv[1].split(',') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, ",".join(HEAVY), *arguments], check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_what_is_imported(tmp_path: Path) -> None:
    """No timing in tests: what takes seconds to import is imported only by the runs that need it."""
    sweep = ("sweep", "--model", "vgg", "-n", "20", "--attack", "fgsm", "--eps", "8", "--out", str(tmp_path / "out"))
    corrupt = ("corrupt", "--model", "vgg", "-n", "20", "--corruption", "contrast", "--out", str(tmp_path / "corrupt"))
    assert imported(*sweep) == {"torch", "pandas", "pyarrow"}
    assert "torch" in imported(*corrupt)
    assert imported(*sweep) == imported(*corrupt) == set()
