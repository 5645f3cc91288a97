"""docs/adding.md: its diffs apply to the package as it is, and what they add works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT

DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(), re.DOTALL)

USE = """
import sys
from pathlib import Path
import torch
import robustatt
from robustatt.attack.recipe_files import load as recipe
from robustatt.doctor.deep import diagnose

class Constant(torch.nn.Module):
    def forward(self, x):
        return torch.tensor([0.0, 1.0]).expand(len(x), 2) + 0 * x.sum((1, 2, 3))[:, None]

data = robustatt.data.load("stripes")
glance = robustatt.models.build("glance", classes=2, width=0.1)
result = robustatt.sweep(glance, data, attacks=["fgsm", "scaled-gradient"], eps="4,8")
both = robustatt.sweep({"glance": glance, "vgg": robustatt.models.build("vgg", classes=2, width=0.1)}, data, n=8, eps="8")
print("baseline", {(row["model"], row["baseline"]) for row in both.summary["differences"]})
print("attacks", sorted(set(result.records["attack"])), recipe("scaled-gradient").category)
print("images", len(set(result.records["index"])))
print("drift", "drift_peak_l1" in result.records, float(result.records["drift_peak_l1"].abs().max()) > 0)
print("health", [w.code for w in robustatt.sweep(Constant(), data, eps="8").health if w.code == "constant"])
print("figure", "Accuracy that is left" in result.report(Path(sys.argv[1])).read_text())
"""


def test_the_diffs_of_the_docs_apply_and_work(tmp_path: Path) -> None:
    for name in ("robustatt", "attacks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "cub20", "cifar10"))
    assert len(DIFFS) == 6
    for diff in DIFFS:
        done = subprocess.run(
            ["git", "apply", "--unidiff-zero", "-"], input=diff, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stderr}\n{diff}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "page")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "baseline {('glance', 'vgg')}",
        "attacks ['fgsm', 'scaled-gradient'] single-step",
        "images 100",
        "drift True True",
        "health ['constant']",
        "figure True",
    ]
