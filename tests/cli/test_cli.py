"""The command line as a user meets it: outputs, exit codes, one-line errors, interruption and resume."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT, SUPPORT
from tiny_models import images

from robustatt import cli


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """600 random images of 12x12 in a file, labelled by the small network."""
    import torch
    from tiny_models import small_net

    batch = (images(600, 12) * 255).round()
    with torch.no_grad():
        label = small_net()(batch / 255).argmax(1)
    path = tmp_path / "random.npz"
    np.savez(path, images=batch.to(torch.uint8).numpy(), labels=label.numpy())
    return path


def test_sweep_report_check_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["sweep", "--eps", "2,4", "--model", "vgg", "--model", "mine=vgg", "-n", 24, "--out", out]
    assert run(*command) == 0
    said = capsys.readouterr().out
    assert "Accuracy under attack" in said
    assert "fgsm alone is an upper bound" in said
    assert said.rstrip().endswith(f"robustatt report {out}")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["schema"] == 1
    assert set(summary) >= {"plan", "provenance", "curves", "drift", "health"}
    assert {"eps", "n", "accuracy", "ci_low", "ci_high", "worst_case_accuracy", "fooling_rate"} <= set(
        summary["curves"][0]["points"][0]
    )
    assert [point["eps"] for point in summary["curves"][0]["points"]] == ["0/255", "2/255", "4/255"]
    assert run(*command) == 0
    assert "0 cells computed, 2 found on disk" in capsys.readouterr().out
    assert run("report", out) == 0
    assert (out / "report.html").exists()
    reference = tmp_path / "reference.json"
    assert run("check", out, "--update", reference) == 0
    assert run("check", out, "--reference", reference, "--markdown", tmp_path / "c.md", "--junit", tmp_path / "c.xml") == 0
    assert (tmp_path / "c.md").exists()
    assert (tmp_path / "c.xml").exists()
    assert run("compare", out, "--a", "mine", "--b", "vgg") == 0
    assert "no" in capsys.readouterr().out
    assert run("sweep", "--plan", out / "plan.toml", "--out", out, "--seed", 1) == 0
    assert run("check", out, "--reference", reference) == 2
    assert run("report", out, "--compare", out) == 0


def test_drift_columns_of_an_attention_model(tmp_path: Path) -> None:
    assert run("sweep", "--eps", "8", "--model", "vgg_att3", "-n", 6, "--out", tmp_path / "o") == 0
    from robustatt.plan import BoundPlan
    from robustatt.results.records import Store

    records = Store(tmp_path / "o" / "records").read(cell.key for cell in BoundPlan.read(tmp_path / "o").cells())
    for level in ("l1", "l2", "l3"):
        for metric in ("js", "cosine", "shift", "iou", "entropy"):
            values = records[f"drift_{metric}_{level}"].to_numpy()
            assert np.isfinite(values).all()
            assert (values[6:] != values[:6]).any(), "attacked maps move"
    assert (records["drift_js_l3"][:6] == 0).all()
    assert (records["drift_iou_l3"][:6] == 1).all()


REPORTS = ROOT / "reports"
WRONG = [
    (["sweep", "--model", "vgg_at3"], "did you mean 'vgg_att3'"),
    (["sweep"], "no model"),
    (["sweep", "--model", "vgg", "--attack", "pdg"], "did you mean 'pgd'"),
    (["sweep", "--model", "vgg", "--data", "digts"], "did you mean 'digits'"),
    (["sweep", "--model", "vgg", "--eps", "16..1"], "backwards"),
    (["sweep", "--model", "vgg", "--eps", "-1"], "negative"),
    (["sweep", "--model", "vgg", "--eps", "a"], "is not a radius"),
    (["sweep", "--model", "vgg", "--eps", "300"], "pixel range"),
    (["sweep", "--model", "vgg", "--eps", "nan"], "is not a radius"),
    (["sweep", "--model", "vgg", "--eps", ""], "empty"),
    (["sweep", "--model", "vgg", "-n", "0"], "at least 1"),
    (["sweep", "--model", "vgg", "-n", "501"], "500"),
    (["sweep", "--model", "vgg", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
    (["sweep", "--weights", "x.safetensors"], "--model"),
    (["sweep", "--model", "vgg", "--batch-size", "0"], "batch-size"),
    (["sweep", "--model", "vgg", "--batch-size", "many"], "batch-size"),
    (["sweep", "--model", "vgg", "--seed", "-4"], "seed"),
    (["sweep", "--model", "vgg", "--plan", "nowhere.toml"], "nowhere.toml"),
    (["sweep", "--model", "vgg", "--espilon", "3"], "espilon"),
    (["sweep", "--model", "a=vgg", "--model", "a=vgg_gap"], "--model a="),
    (["sweep", "--model", "vgg", "--attack", "torchattacks:PGD"], "--attack mine.toml"),
    (["sweep", "--plan", str(REPORTS / "digits/plan.toml"), "--weights", "x.safetensors"], "once for each"),
    (["sweep", "--model", "vgg", "--surrogate", "all"], "one model alone"),
    (["sweep", "--model", "vgg", "--surrogate", "vgg_at3"], "did you mean 'vgg_att3'"),
    (["sweep", "--model", "vgg", "--surrogate", "vgg=vgg_gap"], "other=vgg_gap"),
    (["sweep", "--model", "vgg", "--surrogate", "vgg_att3", "--attack", "fmn"], "--attack pgd"),
    (["sweep", "--model", "vgg", "-n", "8", "--surrogate", "tiny_models:three_classes"], "has 3 classes and model 'vgg' 10"),
    (
        ["sweep", "--model", "vgg", "-n", "8", "--surrogate", "tiny_models:Linear"],
        "surrogate: model 'tiny_models:Linear' cannot take images of shape",
    ),
    (["sweep", "--model", "vgg", "--time", "0"], "such as 90s, 10m"),
    (["sweep", "--model", "vgg", "--time", "abc"], "such as 90s, 10m"),
    (["sweep", "--model", "vgg", "--until", "0"], "above 0 and below 50"),
    (["sweep", "--model", "vgg", "--until", "60"], "above 0 and below 50"),
    (["sweep", "--model", "vgg", "--until", "2:vgg"], "such as 2:vgg/fgsm"),
    (["sweep", "--model", "vgg", "--until", "2:vgg/fgms"], "did you mean 'fgsm'"),
    (["watch", "."], "no plan.toml here"),
    (["watch", "nowhere"], "nowhere"),
    (["watch", ".", "--every", "0"], "--every"),
    (["swep"], "sweep"),
    (["report", "nowhere"], "nowhere"),
    (["check", "nowhere", "--reference", "x"], "nowhere"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_input_is_one_line_and_exit_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_an_out_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("sweep", "--model", "vgg", "-n", 4, "--out", tmp_path / "file") == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_model_that_fails_half_way_says_what_is_safe(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    assert (
        run(
            "sweep",
            "--model",
            "failing_models:nan_after_the_first_cell",
            "--data",
            npz,
            "--eps",
            2,
            "--out",
            tmp_path / "o",
        )
        == 3
    )
    said = capsys.readouterr().err
    assert re.search(r"NaN or infinite logits for example \d+", said)
    assert "Safe on disk: 1 of 3 cells" in said


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for command, expected in (("models", "vgg_att3"), ("attacks", "pgd"), ("data", "digits")):
        assert run(command) == 0
        assert expected in capsys.readouterr().out
    assert run("--version") == 0


def _start(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "robustatt", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )


def _heed_interrupts() -> None:
    """A shell that runs the tests in the background lets its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for_a_record(folder: Path, process: subprocess.Popen[str]) -> None:
    limit, before = time.monotonic() + 120, len(list(folder.glob("*.parquet")))
    while len(list(folder.glob("*.parquet"))) == before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit, "no record after two minutes"
        time.sleep(0.01)


def test_killed_and_resumed_is_byte_identical(npz: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[object]:
        return [
            "sweep",
            "--model",
            "tiny_models:small_net",
            "--data",
            npz,
            "--attack",
            "fgsm",
            "--attack",
            "pgd",
            "--eps",
            "2,6",
            "--out",
            tmp_path / out,
        ]

    whole = _start(*command("whole"))
    killed = _start(*command("killed"))
    _wait_for_a_record(tmp_path / "killed" / "records", killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    there = {path.name for path in (tmp_path / "killed" / "records").glob("*.parquet")}
    _, said = whole.communicate()
    assert whole.returncode == 0, said
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "records").glob("*.parquet")}
    assert len(expected) == 6
    assert len(there) < 6, "killed too late to show anything"
    resumed = _start(*command("killed"))
    _, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert {path.name: path.read_bytes() for path in (tmp_path / "killed" / "records").glob("*.parquet")} == expected


def test_ctrl_c_says_what_is_safe(npz: Path, tmp_path: Path) -> None:
    process = _start(
        "sweep",
        "--model",
        "tiny_models:small_net",
        "--data",
        npz,
        "--attack",
        "pgd",
        "--eps",
        "1..16",
        "--independent",
        "--out",
        tmp_path / "o",
    )
    _wait_for_a_record(tmp_path / "o" / "records", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert re.search(r"stopped by Ctrl-C. Safe on disk: \d of 3 cells", said)


def test_a_timed_sweep_is_watched_reported_and_answered_when_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("sweep", "--model", "vgg", "-n", 40, "--eps", "2,8", "--out", tmp_path)
    assert run(*command, "--until", 15) == 0
    assert "of 40 examples, in a random order (seed 0)" in capsys.readouterr().out
    assert run(*command, "--time", "1h") == 0
    assert "40 of 40 examples, in a random order (seed 0), with a look after each of 3 rounds. All" in capsys.readouterr().out
    assert run("watch", tmp_path, "--once") == 0
    assert "vgg fgsm (40)" in capsys.readouterr().out
    assert run("report", tmp_path) == 0
    page = (tmp_path / "report.html").read_text()
    assert "40 of 40 images" in page
    assert '<p class="lead" id="rounds">40 of 40 examples' in page
    assert run("verify", tmp_path, "--sample", 2) == 0
    assert run(*command) == 0
    capsys.readouterr()
    assert run(*command, "--time", "1s") == 0, "answered from the note"
    assert "0 cells computed, 3 found on disk" in capsys.readouterr().out


def test_help_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys, robustatt.cli as c; code = c.main(['--help']);"
        "sys.exit(code or int(any(m in sys.modules for m in ('torch', 'pandas', 'scipy', 'matplotlib'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("sweep", "report", "check", "train", "models", "attacks", "data"):
        assert re.search(rf"^  {command} .*[a-z)]\.?$", done.stdout, re.M), f"{command} has no one-line help"
    assert "..." not in done.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("command", ["models", "attacks"])
def test_a_reader_that_goes_away_is_no_failure(command: str) -> None:
    line = f"set -o pipefail; {sys.executable} -m robustatt {command} | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wide_table_is_printed_in_parts_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    from robustatt.cli._terminal import print_tables

    names = [f"{model} {attack}" for model in ("vgg", "vgg_gap", "vgg_pan", "vgg_att3") for attack in ("fgsm", "pgd", "noise")]
    print_tables(["eps", *names], [["1/255", *["98.8 [97.4, 99.4]" for _ in names]]])
    said = capsys.readouterr().out.splitlines()
    heads = [line.split() for line in said if "eps" in line]
    assert [head[1::2] for head in heads] == [["vgg"] * 3 + ["vgg_gap"] * 3, ["vgg_pan"] * 3 + ["vgg_att3"] * 3]
    assert sum(line.count("98.8 [97.4, 99.4]") for line in said) == 12
    assert max(map(len, said)) <= 160
    print_tables(["eps", "x" * 200, "y" * 200], [["1/255", "1", "2"]])
    assert capsys.readouterr().out.count("1/255") == 2, "a column that never fits has a table of its own"


def test_a_plan_with_other_weights(tmp_path: Path) -> None:
    """What a gate does with the weights of a new commit."""
    plan, new = tmp_path / "plan.toml", tmp_path / "new.safetensors"
    plan.write_text('models = ["vgg"]\nattacks = ["fgsm"]\neps = "8"\nn = 4\ndata = "digits"\n')
    new.write_bytes((Path(cli.__file__).parents[1] / "weights/digits/vgg.safetensors").read_bytes())
    assert cli.main(["sweep", "--plan", str(plan), "--weights", str(new), "--out", str(tmp_path / "out")]) == 0
    assert "new.safetensors" in (tmp_path / "out" / "plan.toml").read_text()


def test_nothing_to_report_yet_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["sweep", "--model", "vgg", "--eps", "8", "-n", "4", "--out", str(tmp_path)]
    assert cli.main(sweep) == 0
    for path in (tmp_path / "records").glob("*.parquet"):
        path.unlink()
    for command in (
        ["report"],
        ["compare", "--a", "vgg", "--b", "vgg"],
        ["check", "--update", str(tmp_path / "r.json")],
    ):
        assert cli.main([command[0], str(tmp_path), *command[1:]]) == 2
        assert "no Cell of this sweep is computed yet" in capsys.readouterr().err


def test_without_arguments_the_help_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["robustatt"])
    assert cli.main() == 0
    assert len(capsys.readouterr().out.splitlines()) > 10
