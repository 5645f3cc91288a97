"""A results folder is evidence: what was altered, lost or mistaken in it is found, and nothing in it is changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import TwoClassLinear, images

from robustatt.cli import main
from robustatt.results.records import encode

N = 12


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of a linear model, with its data and weights beside it."""
    folder = tmp_path_factory.mktemp("evidence")
    model, image = TwoClassLinear(), (images(N) * 255).round().to(torch.uint8)
    with torch.no_grad():
        label = model(image / 255).argmax(1)
    np.savez(folder / "data.npz", images=image.permute(0, 2, 3, 1).numpy(), labels=label.numpy())
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "nets_evidence.py").write_text("from tiny_models import TwoClassLinear as build\n")
    return folder


@pytest.fixture
def swept(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, swept."""
    shutil.copytree(original, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    assert main(COMMAND) == 0
    return tmp_path / "work/out"


COMMAND = ["sweep", "--model", "nets_evidence:build", "--weights", "weights.pt", "--data", "data.npz", "--attack", "fgsm"]
COMMAND += ["--attack", "pgd", "--eps", "1,4,16", "--out", "out"]


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its content and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def records_of(folder: Path, attack: str, part: str = "records") -> Path:
    """The records file of an attack's only Cell."""
    return next(p for p in (folder / part).iterdir() if pq.read_table(p)["attack"][0].as_py() == attack)


def forge(path: Path, change: Callable[[pd.DataFrame], None]) -> None:
    """Rewrite a records file with a valid checksum."""
    frame = pd.read_parquet(path)
    change(frame)
    path.write_bytes(encode({name: frame[name].to_numpy() for name in frame}))


def held(frame: pd.DataFrame) -> None:
    """Claim that nothing was broken."""
    frame["adv_pred"] = frame["clean_pred"]


def relabelled(frame: pd.DataFrame) -> None:
    frame["label"] = 1 - frame["label"]


def doubled(frame: pd.DataFrame) -> None:
    frame.loc[frame["index"] == 0, "index"] = 1


def alter_summary(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["curves"][1]["points"][2]["accuracy"] = 0.987
    (folder / "summary.json").write_text(json.dumps(summary))


def alter_bytes(folder: Path) -> None:
    path = records_of(folder, "pgd")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def hide_warning(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["health"] = []
    (folder / "summary.json").write_text(json.dumps(summary))


ALTERED: dict[str, tuple[Callable[[Path], None], str]] = {
    "edited summary": (alter_summary, "accuracy of nets_evidence:build under pgd at 4/255 is"),
    "no summary": (lambda folder: (folder / "summary.json").unlink(), "summary.json is missing"),
    "broken summary": (lambda folder: (folder / "summary.json").write_text("{"), "broken JSON"),
    "lost records": (lambda folder: records_of(folder, "pgd").unlink(), "1 of 2 cells is missing"),
    "altered byte": (alter_bytes, "altered or cut short"),
    "records of another attack": (
        lambda folder: shutil.copy(records_of(folder, "fgsm"), records_of(folder, "pgd")), "another attack",
    ),
    "other examples": (lambda folder: forge(records_of(folder, "pgd"), doubled), "other examples"),
    "contradicting labels": (lambda folder: forge(records_of(folder, "pgd"), relabelled), "more than one label"),
}  # fmt: skip


def test_a_folder_as_its_sweep_left_it_is_true_to_the_bit(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(swept)
    capsys.readouterr()
    assert main(["verify", str(swept), "--sample", "12"]) == 0  # all of them: a part is another batch, with other rounding
    out = capsys.readouterr().out
    assert "12 examples, 48 rows run again: the same to the bit" in out
    assert "8 statements checked and true." in out
    assert snapshot(swept) == before


@pytest.mark.parametrize(("alter", "finding"), ALTERED.values(), ids=ALTERED)
def test_what_was_altered_is_said_and_never_drawn_as_if_whole(
    alter: Callable[[Path], None], finding: str, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alter(swept)
    before = snapshot(swept)
    capsys.readouterr()
    assert main(["verify", str(swept), "--sample", "0"]) == 1
    assert finding in capsys.readouterr().out
    assert main(["report", str(swept), "--out", str(swept.parent / "page")]) == 0
    assert finding in capsys.readouterr().err
    page = (swept.parent / "page/report.html").read_text()
    assert "This folder is not as its sweep left it" in page
    assert finding in page
    assert "98.7" not in page
    assert snapshot(swept) == before


def test_a_whole_folder_has_no_banner(swept: Path) -> None:
    assert main(["report", str(swept)]) == 0
    assert "not as its sweep left it" not in (swept / "report.html").read_text()


@pytest.mark.parametrize("alter", [entry[0] for entry in ALTERED.values()], ids=ALTERED)
def test_the_sweep_run_again_puts_it_right(alter: Callable[[Path], None], swept: Path) -> None:
    if alter is ALTERED["other examples"][0] or alter is ALTERED["contradicting labels"][0]:
        pytest.skip("a forged file with a valid checksum is the sweep's own word")
    alter(swept)
    if alter is ALTERED["records of another attack"][0]:
        assert main(COMMAND) == 2
        return
    assert main(COMMAND) == 0
    assert main(["verify", str(swept), "--sample", "2"]) == 0


def test_forged_records_with_a_valid_checksum_are_found_by_running_them_again(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(records_of(swept, "pgd"), held)
    (swept / "summary.json").unlink()
    capsys.readouterr()
    assert main(["verify", str(swept)]) == 1
    assert "right or wrong under attack differs in" in capsys.readouterr().out


ATTENDING = """
from tiny_models import TwoClassLinear

class build(TwoClassLinear):
    levels = ("pixels",)

    def attend(self, x):
        grey = (8 * x.mean(1)).exp()
        return self(x), [grey / grey.sum((1, 2), keepdim=True)]
"""


def still(frame: pd.DataFrame) -> None:
    """Claim that no map moved."""
    frame["drift_js_pixels"] = 0.0


@pytest.mark.parametrize("part", ["records", "records-drift"])
def test_forged_drift_is_found_by_running_it_again(
    part: str, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(original, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    Path("nets_attending.py").write_text(ATTENDING)
    command = [word.replace("nets_evidence", "nets_attending") for word in COMMAND]
    assert main([*command, "--drift-n", "8"]) == 0
    capsys.readouterr()
    assert main(["verify", "out", "--sample", "12"]) == 0
    out = capsys.readouterr().out
    assert "4 of 4 cells are whole and hold the rows their names say, 160 rows" in out
    assert "under pgd at full strength: 8 examples, 32 rows run again: the same to the bit" in out
    forge(records_of(Path("out"), "pgd", part), still)
    Path("out/summary.json").unlink()
    assert main([*command, "--drift-n", "8"]) == 0
    capsys.readouterr()
    assert main(["verify", "out"]) == 1
    assert "maps have drifted otherwise in" in capsys.readouterr().out


def test_other_weights_and_other_data_than_those_bound_are_named(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = TwoClassLinear()
    with torch.no_grad():
        other.bias += 1
    torch.save(other.state_dict(), "weights.pt")
    assert main(["verify", str(swept)]) == 1
    assert "its weights or code are not those this sweep was run with" in capsys.readouterr().out
    with np.load("data.npz") as stored:
        np.savez("other.npz", images=stored["images"][::-1], labels=stored["labels"][::-1])
    Path("other.npz").replace("data.npz")
    assert main(["verify", str(swept)]) == 1
    assert "is not the data this sweep was run on" in capsys.readouterr().out


def test_a_warning_taken_out_of_the_summary_is_missed(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge(records_of(swept, "pgd"), held)  # an attack of many steps that breaks nothing a single one breaks
    (swept / "summary.json").unlink()
    assert main(COMMAND) == 0
    hide_warning(swept)
    capsys.readouterr()
    assert main(["verify", str(swept), "--sample", "0"]) == 1
    assert "lacks 1 of the warnings that the records give: iterative-weaker" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere"], "no such folder"), (["."], "no plan.toml here"), ([".", "--sample", "-1"], "--sample -1")],
)
def test_wrong_input_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
