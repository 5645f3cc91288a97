"""A wheel installs the one import name robustatt, with recipes, templates and weights inside."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed: pip install hatchling")
def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"robustatt"}
    for wanted in ("_recipes/pgd.toml", "report/templates/report.html.j2", "weights/digits/vgg_att3.safetensors"):
        assert f"robustatt/{wanted}" in names
    code = (
        "import sys, robustatt, robustatt.cli; assert robustatt.__file__.startswith(sys.argv[1]), robustatt.__file__;"
        "from robustatt.attack.recipe_files import folder; assert str(folder()).startswith(sys.argv[1]);"
        "sys.exit(robustatt.cli.main(['attacks']) or robustatt.cli.main("
        "['sweep', '--model', 'vgg', '-n', '4', '--eps', '8', '--out', sys.argv[1] + '/out']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pgd" in done.stdout
