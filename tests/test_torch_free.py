"""A report rebuilds on a laptop without torch: these modules must never import it, directly or not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import SUPPORT

MODULES = [
    "robustatt.models.families",
    "robustatt.models.card",
    "robustatt.models.listing",
    "robustatt.data.listing",
    "robustatt.engine.finished",
    "robustatt.results.statistics",
    "robustatt.results.summary",
    "robustatt.report.page",
    "robustatt.results.gate",
    "robustatt.studies.paper.claims",
    "robustatt.studies.paper.page",
    "robustatt.studies.transfer.report",
]


@pytest.mark.parametrize("module", MODULES)
def test_import_leaves_torch_out(module: str) -> None:
    code = f"import sys, {module}; sys.exit(int('torch' in sys.modules or 'matplotlib' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_whole_report_leaves_torch_out(tmp_path: object) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from synthetic_records import *; from robustatt.results.aggregate import summarise;"
        "from robustatt.report import write_report;"
        "records = make_records(models=('vgg_att3',), n=10, attacks=('fgsm',), radii=3);"
        "write_report(Path(sys.argv[1]), records, summarise(records, make_plan(records), {}, []));"
        "sys.exit(int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(SUPPORT)], check=False)
    assert done.returncode == 0
