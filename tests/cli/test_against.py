"""A sweep that is held against a reference while it runs: what a user types, sees, and what the folder says afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robustatt
from robustatt import cli
from robustatt.engine.evidence import read_folder
from robustatt.models import load
from robustatt.models.checkpoint import save_checkpoint
from robustatt.results import gate
from robustatt.results.early_gate import Look
from robustatt.results.reference import read_reference
from robustatt.results.summary import Summary

SWEEP = ["sweep", "--model", "vgg", "--attack", "fgsm", "--eps", "2", "--drift-n", "0"]
COUNT = 100


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of an ordinary sweep."""
    folder = tmp_path_factory.mktemp("reference")
    assert run(*SWEEP, "-n", COUNT, "--out", folder / "out") == 0
    assert run("check", folder / "out", "--update", folder / "reference.json") == 0
    return folder / "reference.json"


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network with noise in its weights, as large as these are."""
    network, generator = load("vgg"), torch.Generator().manual_seed(0)
    state = {
        name: value + value.std(correction=0) * torch.randn(value.shape, generator=generator)
        if name.endswith("weight") and value.ndim > 1
        else value
        for name, value in network.state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "disturbed.safetensors"
    save_checkpoint(path, state, network.card)
    return path


def test_nothing_changed_passes_early_and_stays_so(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*SWEEP, "-n", COUNT, "--out", tmp_path / "out", "--against", reference]
    assert run(*command) == 0
    said = capsys.readouterr().out
    assert "passed after 64 of 100 examples; no point is lower than in the reference" in said
    assert "Stopped: the verdict of the gate against" in said
    assert "The same command goes on" not in said
    folder = read_folder(tmp_path / "out")
    assert folder.findings == ()
    assert set(folder.records["index"]) < set(range(COUNT))
    assert len(set(folder.records["index"])) == 64
    assert run(*command) == 0
    assert "0 cells computed" in capsys.readouterr().out
    assert run("check", tmp_path / "out", "--reference", reference) == 0
    assert "passed after 64 of 100" in capsys.readouterr().out
    assert run("report", tmp_path / "out") == 0
    assert "the verdict of the gate against" in (tmp_path / "out" / "report.html").read_text()
    assert run("verify", tmp_path / "out") == 0
    assert run(*SWEEP, "-n", COUNT, "--out", tmp_path / "out") == 0  # goes on to the end
    capsys.readouterr()
    assert run("check", tmp_path / "out", "--reference", reference) == 0
    assert "every outcome is as in the reference" in capsys.readouterr().out


def test_what_broke_badly_is_seen_after_the_first_rounds(
    reference: Path, disturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SWEEP, "--weights", disturbed, "-n", COUNT, "--out", tmp_path / "out", "--against", reference]
    assert run(*command) == 1
    said = capsys.readouterr().out
    assert "regression after 32 of 100 examples; largest drop: vgg under" in said
    assert "Compared although changed: weights of vgg" in said
    assert run("check", tmp_path / "out", "--reference", reference, "--markdown", tmp_path / "check.md") == 1
    assert "Robustness check failed" in (tmp_path / "check.md").read_text()


def test_time_that_ends_before_the_verdict_is_no_pass(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SWEEP, "-n", COUNT, "--out", tmp_path / "out", "--against", reference, "--time", "0.001s") == 3
    assert "no verdict yet after 16 of 100 examples" in capsys.readouterr().out
    for flag, name, text in (("--markdown", "check.md", "not decided"), ("--junit", "check.xml", 'errors="1"')):
        assert run("check", tmp_path / "out", "--reference", reference, flag, tmp_path / name) == 3
        assert text in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["-n", "90"], "not comparable: data (n): the reference has 100, this run has 90"),
        (["-n", "100", "--seed", "1"], "not comparable: seed"),
        (["-n", "100", "--eps", "4"], "not comparable: eps"),
        (["-n", "100", "--against", "no-such.json"], "no reference no-such.json"),
        (["-n", "100", "--alpha", "2"], "--alpha must lie between 0 and 1"),
    ],
)
def test_another_plan_is_refused_before_anything_is_written(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], said: str
) -> None:
    assert run(*SWEEP, "--out", tmp_path / "out", "--against", reference, *change) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_flags_of_the_verdict_need_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SWEEP, "-n", COUNT, "--out", tmp_path / "out", "--max-drop", "2") == 2
    assert "--max-drop without --against" in capsys.readouterr().err


@pytest.mark.parametrize("written", ['"{path}"', '{{reference = "{path}", max_drop = 2.0}}'])
def test_a_plan_may_name_the_reference(reference: Path, tmp_path: Path, written: str) -> None:
    plan = tmp_path / "plan.toml"
    against = written.format(path=reference)
    plan.write_text(
        f'data = "digits"\nmodels = ["vgg"]\nattacks = ["fgsm"]\neps = 2\nn = {COUNT}\ndrift_n = 0\nagainst = {against}\n'
    )
    assert run("sweep", "--plan", plan, "--out", tmp_path / "out") == 0


@pytest.mark.parametrize(
    "against", ["3", "{max_drop = 1.0}", '{reference = "r.json", alhpa = 0.1}', '{reference = "r.json", alpha = "a"}']
)
def test_a_plan_with_another_reference_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], against: str) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(f'models = ["vgg"]\nagainst = {against}\n')
    assert run("sweep", "--plan", plan, "--out", tmp_path / "out") == 2
    assert "against" in capsys.readouterr().err


def test_from_python(reference: Path) -> None:
    found = robustatt.sweep("vgg", "digits", ["fgsm"], "2", n=COUNT, drift_n=0, against=reference)
    assert found.summary["stopped"]["reason"] == "gate"
    verdict = gate.check(found.records, Summary.parse(found.summary, "the result"), read_reference(reference))
    assert (verdict.verdict, verdict.exit_code, verdict.look) == ("same", 0, Look(64, 100, 32))
