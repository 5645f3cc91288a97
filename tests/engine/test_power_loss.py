"""Killed at any moment, out of disk space, not allowed to write: records are whole, none is lost and none is there twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from paths import SUPPORT
from sturdy_models import write_data

CELLS = 12
LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import robustatt.cli, robustatt.api, torch  # before the limit: what imports write is none of the run's
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
sys.exit(robustatt.cli.main())
"""


def command(folder: Path, out: str, *start: str) -> list[str]:
    """Six cells each of fgsm and pgd over 1,500 images of a linear model."""
    return [
        sys.executable, *(start or ("-m", "robustatt")), "sweep", "--model", "net=sturdy_models:build",
        "--data", str(folder / "data.npz"), "--attack", "fgsm", "--attack", "pgd", "--eps", "1,2,4,8",
        "--out", str(folder / out),
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment | {"OMP_NUM_THREADS": "1"}
    )


def finish(arguments: list[str]) -> tuple[int, str, str]:
    process = start(arguments)
    out, said = process.communicate(timeout=300)
    return process.returncode, out, said


def records(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "records").glob("*.parquet")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The folder with the data, and the records of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("power")
    write_data(folder / "data.npz", 1500)
    code, _, said = finish(command(folder, "whole"))
    assert code == 0, said
    expected = records(folder / "whole")
    assert len(expected) == CELLS
    return folder, expected


def resume(folder: Path, out: str, expected: dict[str, bytes]) -> None:
    """The same command again completes the run: byte for byte the same, no example lost and none there twice."""
    code, _, said = finish(command(folder, out))
    assert code == 0, said
    assert records(folder / out) == expected
    rows = pd.concat(pd.read_parquet(path) for path in sorted((folder / out / "records").glob("*.parquet")))
    assert len(rows) == 1500 * 2 * 5
    assert not rows.duplicated(["model", "attack", "eps", "index"]).any()
    assert (folder / out / "summary.json").exists()


def kill(folder: Path, out: str, after: float, more: int = 0) -> set[str]:
    """Kill a run so many seconds after it made its folder and added so many records; the names of the records it left."""
    place = folder / out / "records"
    wanted = len(list(place.glob("*.parquet"))) + more
    process = start(command(folder, out))
    while (not place.exists() or len(list(place.glob("*.parquet"))) < wanted) and process.poll() is None:
        time.sleep(0.001)
    time.sleep(after)
    process.kill()
    process.communicate()
    return {path.name for path in (folder / out / "records").glob("*.parquet")}


def test_killed_twice(undisturbed: tuple[Path, dict[str, bytes]]) -> None:
    folder, expected = undisturbed
    for after in (0.05, 0.3):
        kill(folder, "twice", after)
        left = records(folder / "twice")
        assert all(expected[name] == content for name, content in left.items())
    resume(folder, "twice", expected)


@pytest.mark.slow
def test_killed_at_fifty_moments(undisturbed: tuple[Path, dict[str, bytes]]) -> None:
    """Seeded moments while records are written, five to a folder, so that resumed runs are killed again too.

    Counted in records and not in seconds from the start, most of which goes into imports on a busy machine.
    """
    folder, expected = undisturbed
    moments, halfway = random.Random(0), 0
    for number in range(10):
        for _ in range(5):
            left = kill(folder, f"fifty-{number}", moments.uniform(0, 0.02), moments.randrange(3))
            halfway += 0 < len(left) < CELLS
        resume(folder, f"fifty-{number}", expected)
    print(f"50 kills, {halfway} of them between the first and the last record")
    assert halfway >= 25


def one_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith("robustatt:")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    return lines[0]


def test_a_full_disk(undisturbed: tuple[Path, dict[str, bytes]]) -> None:
    """No file may grow beyond 3 kB, which the plan fits in and records do not: exit 3, one line, nothing half written."""
    folder, _ = undisturbed
    code, _, said = finish(command(folder, "full", "-c", LIMITED, "3000"))
    assert code == 3, said
    line = one_line(said)
    assert "too large" in line.lower()
    assert "0 of 12 cells" in line
    assert records(folder / "full") == {}
    assert not list((folder / "full").rglob("*.part"))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk of its own needs root")
def test_a_small_disk(undisturbed: tuple[Path, dict[str, bytes]]) -> None:
    """On a file system that is full after some records: those stay, exit 3, and more room is all that is needed."""
    folder, expected = undisturbed
    small = folder / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        code, _, said = finish(command(folder, "small"))
        assert code == 3, said
        assert "Safe on disk" in one_line(said)
        left = records(small)
        assert all(expected[name] == content for name, content in left.items())
        assert not list(small.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        resume(folder, "small", expected)
    finally:
        subprocess.run(["umount", str(small)], check=False)


def test_a_folder_that_may_not_be_written(undisturbed: tuple[Path, dict[str, bytes]]) -> None:
    """Root may write everywhere but into /proc; the run ends before it attacks anything."""
    folder, _ = undisturbed
    arguments = command(folder, "unused")
    arguments[-1] = "/proc/robustatt"
    code, _, said = finish(arguments)
    assert code == 2, said
    assert "cannot write to /proc/robustatt" in one_line(said)
