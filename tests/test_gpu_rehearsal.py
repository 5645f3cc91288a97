"""`make gpu` end to end on the CPU, so that the one chance on a GPU is not its first run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT


@pytest.mark.slow
def test_every_part_runs_and_leaves_its_results(tmp_path: Path) -> None:
    call = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--rehearsal", "--minutes", "60", "--out", str(tmp_path)]
    subprocess.run(call, check=True, capture_output=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert not [part for part, entry in results["parts"].items() if "stopped" in entry]
    assert len(results["train"]) == 7
    assert len(results["attack"]) == 6
    assert set(results["autoattack"]) == {"vgg_att2_adv"}
    page = (tmp_path / "README.md").read_text()
    assert all(f"| {name} |" in page for name in (*results["train"], *results["peers"]))
    whole = b"".join(path.read_bytes() for path in sorted((tmp_path / "weights").glob("vgg.safetensors.*")))
    assert whole == (tmp_path / "weights/vgg.safetensors").read_bytes()
