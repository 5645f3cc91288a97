"""How long people wait for commands whose work is small: wall seconds from Enter to the prompt.

    python benchmarks/bench_latency.py [--rounds 3]

The least of some rounds after a first that is not counted, beside what `import torch` alone takes in the same rounds. Two limits hang on that. For a report also
the time until its page is on disk. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-m", "robustatt"]
SWEEP = [*PYTHON, "sweep", "--model", "vgg", "-n", "20", "--eps", "2,4,8", "--attack", "fgsm", "--out", "small"]


@dataclass(frozen=True)
class Wait:
    """A command, the seconds it may take (plus those of `import torch`), and a file or folder that must not be there before."""

    name: str
    command: Sequence[str]
    limit: float | None = None
    beside_torch: bool = False
    new: str = ""
    page: str = ""


WAITS = [
    Wait("import torch", [sys.executable, "-c", "import torch"]),
    Wait("sweep -n 20, new", SWEEP, 2.0, beside_torch=True, new="small"),
    Wait("the same, finished before", SWEEP, 1.0),
    Wait("report of the digits plan", [*PYTHON, "report", "digits"], 6.0, new="digits/report.html", page="digits/report.html"),
    Wait("check", [*PYTHON, "check", "digits", "--reference", str(ROOT / "reports/digits/reference.json")], 0.8),
    Wait("compare", [*PYTHON, "compare", "digits:vgg", "digits:vgg_att3"], 0.8),
    Wait("attacks", [*PYTHON, "attacks"], 0.8),
    Wait("data", [*PYTHON, "data"], 0.8),
    Wait("models", [*PYTHON, "models"], 1.0),
    Wait("--help", [*PYTHON, "--help"], 0.5),
]
PAGE_LIMIT = 2.5
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as people have it


def seconds(wait: Wait, folder: Path) -> tuple[float, float]:
    """From start to end, and to the page."""
    if wait.new:
        shutil.rmtree(folder / wait.new) if (folder / wait.new).is_dir() else (folder / wait.new).unlink(missing_ok=True)
    began, page = time.perf_counter(), 0.0
    with subprocess.Popen(
        wait.command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while wait.page and not page and process.poll() is None:
            time.sleep(0.01)
            page = time.perf_counter() - began if (folder / wait.page).exists() else 0.0
        _, said = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(wait.command)} ended with {process.returncode}: {said}")
    return time.perf_counter() - began, page


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = ROOT / "reports" / "digits" / "plan.toml"
        subprocess.run([*PYTHON, "sweep", "--plan", plan, "--out", "digits"], cwd=folder, check=True, capture_output=True)
        found = [[seconds(wait, folder) for wait in WAITS] for _ in range(rounds + 1)][1:]
    torch = min(each[0][0] for each in found)
    for number, wait in enumerate(WAITS):
        least, page = (min(each[number][part] for each in found) for part in (0, 1))
        shown = f"{wait.name:28} {least:6.2f} s"
        if wait.limit is not None:
            limit = wait.limit + (torch if wait.beside_torch else 0)
            shown += f", limit {limit:.2f}{' (import torch + 2.0)' if wait.beside_torch else ''}{verdict(least, limit)}"
        print(shown + (f"; page on disk after {page:.2f}, limit {PAGE_LIMIT}{verdict(page, PAGE_LIMIT)}" if wait.page else ""))


def verdict(found: float, limit: float) -> str:
    """By how much a limit is missed."""
    return "" if found <= limit else f": missed by {found - limit:.2f}"


if __name__ == "__main__":
    main()
