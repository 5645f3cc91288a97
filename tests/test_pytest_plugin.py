"""The fixture `robustness_reference` as somebody else's project would use it."""

from __future__ import annotations

import subprocess
import sys

import numpy.fft  # noqa: F401
import pytest
import scipy.special  # noqa: F401
import synthetic_records  # noqa: F401
from paths import SUPPORT

import robustatt.api
import robustatt.cli._terminal
import robustatt.results.gate  # noqa: F401  (a run inside this one forgets what it imports, and numpy loads only once)

pytest_plugins = ["pytester"]

HELPERS = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
from types import SimpleNamespace
import pytest
from synthetic_records import make_plan, make_records

def result(worse=False, seed=0):
    records = make_records(models=("vgg",), attacks=("fgsm",), n=200)
    if worse:
        rows = (records["index"] < 60) & (records.eps != "0/255")
        records.loc[rows, "adv_pred"] = records.loc[rows, "label"] + 1
    return SimpleNamespace(records=records, summary={{"plan": make_plan(records) | {{"seed": seed}}}})
"""


def project(pytester: pytest.Pytester, body: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(test_mine=HELPERS + body)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


CHECK = "\ndef test_net(robustness_reference):\n    robustness_reference.check(result({}))\n"


def test_update_writes_and_the_same_run_passes(pytester: pytest.Pytester) -> None:
    project(pytester, CHECK.format(""), "--robustness-update").assert_outcomes(passed=1)
    assert (pytester.path / "test_mine.test_net.robustness.json").exists()
    project(pytester, CHECK.format("")).assert_outcomes(passed=1)


def test_a_loss_fails_with_the_table_of_check(pytester: pytest.Pytester) -> None:
    project(pytester, CHECK.format(""), "--robustness-update")
    before = (pytester.path / "test_mine.test_net.robustness.json").read_bytes()
    run = project(pytester, CHECK.format("worse=True"))
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*regression: vgg under fgsm*", "*model*attack*eps*reference*this run*lost*gained*"])
    run.stdout.fnmatch_lines(["*vgg*fgsm*1/255*regression*", "*exact McNemar test*", "*--robustness-update*"])
    run.stdout.no_fnmatch_line("*pytest_plugin.py*")
    assert (pytester.path / "test_mine.test_net.robustness.json").read_bytes() == before


def test_a_changed_plan_fails_and_says_what(pytester: pytest.Pytester) -> None:
    project(pytester, CHECK.format(""), "--robustness-update")
    run = project(pytester, CHECK.format("seed=3"))
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*not comparable: seed*", "*seed*0*3*"])
    allowed = CHECK.format("seed=3").replace("))", '), allow=["seed"])')
    project(pytester, allowed).assert_outcomes(passed=1)


def test_without_a_reference_it_says_how_to_write_one(pytester: pytest.Pytester) -> None:
    run = project(pytester, CHECK.format(""))
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*no reference*--robustness-update*"])
    assert not list(pytester.path.glob("*.json"))


def test_a_damaged_reference_is_one_line(pytester: pytest.Pytester) -> None:
    (pytester.path / "test_mine.test_net.robustness.json").write_text("{")
    run = project(pytester, CHECK.format(""))
    run.stdout.fnmatch_lines(["*broken JSON*"])
    run.stdout.no_fnmatch_line("*Traceback*")


def test_names_of_classes_parameters_and_files(pytester: pytest.Pytester) -> None:
    body = """
class TestNet:
    @pytest.mark.parametrize("name", ["a/b c", "../../d"])
    def test_one(self, robustness_reference, name):
        robustness_reference.check(result())
        robustness_reference.check(result(), "sub/second.json")
"""
    project(pytester, body, "--robustness-update").assert_outcomes(passed=2)
    written = {str(path.relative_to(pytester.path)) for path in pytester.path.rglob("*.json")}
    stem = "test_mine.TestNet.test_one-"
    assert written == {f"{stem}a-b-c.robustness.json", f"{stem}..-..-d.robustness.json", "sub/second.json"}


def test_one_file_twice_in_a_test_is_a_mistake(pytester: pytest.Pytester) -> None:
    run = project(pytester, CHECK.format("") + "    robustness_reference.check(result())\n", "--robustness-update")
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*checked twice in one test*"])


def test_a_real_sweep(pytester: pytest.Pytester) -> None:
    body = """
import robustatt
from tiny_models import TwoClassLinear, images

def test_net(robustness_reference):
    model, batch = TwoClassLinear(), images(40)
    swept = robustatt.sweep(model, (batch, model(batch).argmax(1)), eps="1..8")
    found = robustness_reference.check(swept)
    assert found is None or found.verdict == "same"
"""
    project(pytester, body, "--robustness-update").assert_outcomes(passed=1)
    project(pytester, body).assert_outcomes(passed=1)


def test_who_does_not_use_it_does_not_wait_for_it() -> None:
    """Loading the plugin imports nothing beyond pytest and the standard library."""
    code = (
        "import pytest, sys; before = set(sys.modules); import robustatt.pytest_plugin;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names;"
        "print(new); sys.exit(new != {'robustatt'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
