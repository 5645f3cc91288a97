"""Mutation testing of the core: how many small faults, planted one at a time, make a fast test fail (`make mutants`).

mutmut writes every mutant of a module's functions into a copy of the package, imports once, and forks for each mutant. Each
module has the test files that cover it and take seconds. What only words an error is not mutated: lines that raise, and
docstrings. mutmut mutates neither decorated functions (properties) nor what stands outside of functions (constants).
`--survivors` lists those that no test notices.

    .venv/bin/python benchmarks/mutants.py [MODULE ...] [--again | --survivors]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tomli_w

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "reports" / "out" / "mutants"
MUTMUT = Path(sys.executable).with_name("mutmut")
WORDING = [r"^\s*raise \w+\("]
COPIED = ["attacks", "reports/digits", "benchmarks"]


@dataclass(frozen=True)
class Target:
    """The files of a module, the tests that should notice a fault in them, and tests too slow to be repeated."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    without: str = ""


TARGETS = {
    "statistics": Target(("results/statistics.py",), ("results/test_statistics.py",)),
    "summary": Target(
        ("results/summary.py", "results/plan_info.py", "results/summary_file.py", "results/aggregate.py"),
        ("results/test_summary.py", "results/test_summary_selections.py", "results/test_aggregate.py"),
    ),
    "drift": Target(("evaluate/drift.py",), ("evaluate/test_drift.py",)),
    "gate": Target(("results/gate.py",), ("results/test_gate_points.py", "results/test_gate.py")),
    "eps": Target(("eps.py",), ("test_eps.py",)),
    "norms": Target(("attack/norms.py",), ("attack/test_norms.py",)),
    "search": Target(
        ("evaluate/threshold_search.py", "evaluate/bracket.py"),
        ("evaluate/test_scaled_rows.py", "evaluate/test_bracket.py", "evaluate/test_threshold_search.py"),
    ),
    "evaluate": Target(("evaluate/cell.py",), ("evaluate/test_cell.py",)),
    "classifier": Target(
        ("evaluate/classifier.py", "evaluate/fast_copy.py", "evaluate/fingerprint.py"),
        ("evaluate/test_classifier.py", "evaluate/test_fast_copy.py", "evaluate/test_fingerprint.py", "evaluate/test_numerics.py"),
    ),
    "records": Target(("results/records.py",), ("results/test_records.py",)),
}  # fmt: skip


def main() -> None:
    """Test the mutants of some modules, all if none is named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", nargs="*", choices=[*TARGETS, []], help="all if none is given")
    parser.add_argument("--again", action="store_true", help="test what changed and what survived the last run, by today's tests")
    parser.add_argument("--survivors", action="store_true", help="print the survivors of the last run, run nothing")
    asked = parser.parse_args()
    names = asked.module or list(TARGETS)
    if not MUTMUT.exists():
        sys.exit(f"mutmut is not installed beside {sys.executable}: pip install -e '.[mutants]'")
    if asked.survivors:
        print("\n".join(mutant for name in names for mutant in survivors(name)))
        return
    print(f"{'module':12} {'mutants':>8} {'killed':>8} {'survivors':>10} {'share':>8}", flush=True)
    for name in names:
        if asked.again:
            mutmut(name, "run", "--max-children", "1")
            if alive := survivors(name):
                mutmut(name, "run", "--max-children", "1", *alive)
        else:
            start_afresh(name)
            mutmut(name, "run", "--max-children", "1")
        killed, total = counts(name)
        print(f"{name:12} {total:8} {killed:8} {total - killed:10} {killed / total:8.1%}", flush=True)


def start_afresh(name: str) -> None:
    """A folder for one module, with links to this checkout and mutmut's configuration."""
    place, target = OUT / name, TARGETS[name]
    shutil.rmtree(place, ignore_errors=True)
    (place / "mutants" / "reports").mkdir(parents=True)
    for entry in ("robustatt", "tests", *COPIED):
        (place / entry).parent.mkdir(exist_ok=True)
        (place / entry).symlink_to(ROOT / entry)
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = {
        "source_paths": ["robustatt"],
        "only_mutate": [f"robustatt/{file}" for file in target.files],
        "do_not_mutate_patterns": WORDING,
        "also_copy": COPIED,
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": [f"tests/{file}" for file in target.tests]
        + (["-k", f"not ({target.without})"] if target.without else []),
        "timeout_multiplier": 4.0,
        "timeout_constant": 2.0,
    }
    (place / "pyproject.toml").write_text(f"{config}\n{tomli_w.dumps({'tool': {'mutmut': settings}})}", encoding="utf-8")


def counts(name: str) -> tuple[int, int]:
    """How many mutants of a module were killed (a test failed or never ended), and how many there are."""
    mutmut(name, "export-cicd-stats")
    stats = json.loads((OUT / name / "mutants" / "mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    return stats["killed"] + stats["timeout"] + stats["segfault"], stats["total"]


def survivors(name: str) -> list[str]:
    """The mutants of a module that no test noticed in the last run."""
    lines = (line.strip().split(": ") for line in mutmut(name, "results").splitlines() if ": " in line)
    return [mutant for mutant, status in lines if status in ("survived", "no tests", "suspicious")]


def mutmut(name: str, *command: str) -> str:
    """What mutmut says, run in the module's folder; hypothesis draws the same examples every time (CI).

    GPUs are hidden: with one in sight PyTorch refuses gradients in a forked process, and every mutant would count as killed.
    """
    environment = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([MUTMUT, *command], cwd=OUT / name, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mutmut {' '.join(command)} failed in {OUT / name}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
