"""`robustatt corrupt` as a user meets it: drawn and published corruptions, resume, gate, page, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_models import Linear, images

from robustatt import cli
from robustatt.attack.rng import ExampleRng
from robustatt.corruptions.draw import corrupted

N = 40
KINDS = ("fog", "contrast")
SHAPE = ("--model-option", "classes=4", "--model-option", "size=12", "--workers", "1")
MODELS = ("--model", "a=tiny_models:Linear", "--model", "b=tiny_models:Linear")


def run(command: str, *arguments: object) -> int:
    shape = SHAPE if command in ("corrupt", "sweep") else ()
    return cli.main([command, *map(str, [*shape, *arguments])])


def records(out: Path) -> pd.DataFrame:
    frame = pd.concat([pd.read_parquet(file) for file in sorted((out / "records").glob("*.parquet"))])
    return frame.sort_values(["model", "attack", "index", "eps"], ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean images of 12x12 as `clean.npz` and in class folders, and their corruptions in both published layouts."""
    base = tmp_path_factory.mktemp("corrupt")
    batch = (images(N, 12) * 255).round().to(torch.uint8)
    with torch.no_grad():
        label = Linear(4, 12)(batch.float() / 255).argmax(1).numpy()
    order = np.argsort(label, kind="stable")  # the order of class folders
    batch, label = batch[torch.from_numpy(order)], label[order]
    np.savez(base / "clean.npz", images=batch.numpy(), labels=label)
    (base / "C").mkdir()
    np.save(base / "C" / "labels.npy", np.tile(label, 5))
    for kind in KINDS:
        rng = ExampleRng(0, f"corruption {kind}")
        severities = [corrupted(batch, kind, s, [rng.generator(i, restart=s) for i in range(N)]) for s in range(1, 6)]
        np.save(base / "C" / f"{kind}.npy", torch.cat(severities).permute(0, 2, 3, 1).numpy())
        for where, stack in [("clean", batch), *((f"F/weather/{kind}/{s}", severities[s - 1]) for s in (1, 2))]:
            for i, one in enumerate(stack):
                file = base / where / str(label[i]) / f"{i:03}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(one.permute(1, 2, 0).numpy()).save(file)
    return base


@pytest.fixture(scope="module")
def drawn(folder: Path) -> Path:
    """The results of corruptions that are drawn."""
    chosen = [part for kind in KINDS for part in ("--corruption", kind)]
    assert run("corrupt", *MODELS, "--data", folder / "clean.npz", *chosen, "--baseline", "a", "--out", folder / "drawn") == 0
    return folder / "drawn"


def test_records_summary_resume_gate_and_page(drawn: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = records(drawn)
    assert len(frame) == 2 * 2 * N * 6
    assert sorted(frame["eps"].unique()) == ["0/255", "1", "2", "3", "4", "5"]
    assert (frame["severity"] == frame["eps"].str.split("/").str[0].astype(float)).all()
    corrupt = frame[frame["severity"] > 0]
    assert (corrupt["distance"] > 0).all()
    assert (corrupt["distance_l2"] >= corrupt["distance"]).all()
    summary = json.loads((drawn / "summary.json").read_text())
    means = summary["corruption_means"]
    accuracy = (corrupt["adv_pred"] == corrupt["label"]).groupby(corrupt["model"]).mean()
    assert [row["accuracy"] for row in means] == pytest.approx([accuracy["a"], accuracy["b"]])
    assert (means[1]["baseline"], means[1]["mce"]) == ("a", pytest.approx(100))
    assert summary["plan"]["baseline"] == "a"
    capsys.readouterr()
    again = [
        "corrupt",
        *MODELS,
        "--data",
        folder / "clean.npz",
        "--corruption",
        "fog",
        "--corruption",
        "contrast",
        "--baseline",
        "a",
    ]
    assert run(*again, "--out", drawn) == 0
    said = capsys.readouterr().out
    assert "0 cells computed, 4 found on disk" in said
    assert "2 of 15" in said
    assert run("verify", drawn, "--sample", 2) == 0
    assert run("check", drawn, "--update", folder / "reference.json") == 0
    assert "severity" not in json.loads((folder / "reference.json").read_text())["identity"]
    assert run("check", drawn, "--reference", folder / "reference.json") == 0
    assert run("report", drawn) == 0
    page = (drawn / "report.html").read_text()
    assert 'id="corruptions"' in page
    assert "This run is incomplete" not in page
    assert {"corruptions.png", "corruptions.svg", "corruptions.csv"} <= {path.name for path in (drawn / "figures").iterdir()}
    table = pd.read_csv(drawn / "figures" / "corruptions.csv")
    assert len(table) == 2 * 2 * 5
    assert table["accuracy"].mean() == pytest.approx(accuracy.mean())


def test_a_gate_finds_a_model_that_lost_to_a_corruption(drawn: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = folder / "better.json"
    assert run("check", drawn, "--update", reference) == 0
    out = folder / "worse"
    worse = [*MODELS, "--model-option", "seed=5"]
    chosen = ["--corruption", "fog", "--corruption", "contrast", "--baseline", "a"]
    assert run("corrupt", *worse, "--data", folder / "clean.npz", *chosen, "--out", out) == 0
    assert run("check", out, "--reference", reference) == 1
    assert "regression" in capsys.readouterr().out


def test_published_images_are_read_in_both_layouts(drawn: Path, folder: Path) -> None:
    columns = ["model", "attack", "eps", "index", "label", "clean_pred", "adv_pred", "distance"]
    mine = records(drawn)[columns]
    assert run("corrupt", *MODELS, "--data", folder / "C", "--clean", folder / "clean.npz", "--out", folder / "read") == 0
    pd.testing.assert_frame_equal(records(folder / "read")[columns], mine)
    command = [
        "corrupt",
        *MODELS,
        "--data",
        folder / "F",
        "--clean",
        folder / "clean",
        "--severity",
        "1..2",
        "--out",
        folder / "tree",
    ]
    assert run(*command) == 0
    few = mine[mine["eps"].isin(["0/255", "1", "2"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(records(folder / "tree")[columns], few)


def test_batch_size_workers_and_company_change_nothing(drawn: Path, folder: Path) -> None:
    out = folder / "again"
    command = ["corrupt", *MODELS[2:], "--data", folder / "clean.npz", "--corruption", "fog", "--severity", "4", "-n", 30]
    assert run(*command, "--batch-size", 7, "--workers", 2, "--out", out) == 0
    columns = ["index", "adv_pred", "distance"]
    mine = records(drawn).query("model == 'b' and attack == 'fog' and eps == '4' and index < 30")[columns]
    pd.testing.assert_frame_equal(records(out).query("eps == '4'")[columns].reset_index(drop=True), mine.reset_index(drop=True))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--severity", "6"], "from 1 to 5"),
        (["--severity", "0..2"], "from 1 to 5"),
        (["--corruption", "fogg"], "did you mean 'fog'"),
        (["--baseline", "c"], "--baseline 'c'"),
        (["--clean", "digits"], "--clean digits"),
        (["--data", "C"], "--clean cifar10"),
        (["--data", "C", "--clean", "clean.npz", "--corruption", "snow"], "no images of snow"),
        (["--data", "C", "--clean", "short.npz"], "C:fog:1 holds 40 images"),
        (["--data", "C", "--clean", "other.npz"], "has label"),
        (["--data", "C:fog:3", "--clean", "clean.npz"], "--data C --corruption fog --severity 3"),
        (["--data", "F", "--clean", "clean"], "holds severities 1,2 of fog"),
        (["--data", "bad", "--clean", "clean.npz"], "labels.npy 39 labels"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    flags: list[str], said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    clean = dict(np.load("clean.npz"))
    np.savez("short.npz", images=clean["images"][:-1], labels=clean["labels"][:-1])
    np.savez("other.npz", images=clean["images"], labels=np.roll(clean["labels"], 1))
    Path("bad").mkdir(exist_ok=True)
    np.save("bad/labels.npy", np.load("C/labels.npy")[:39])
    np.save("bad/fog.npy", np.load("C/fog.npy"))
    out = tmp_path / "out"
    data = [] if "--data" in flags else ["--data", "clean.npz"]
    assert run("corrupt", *MODELS, *data, *flags, "--out", out) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_sweep_takes_corruptions_beside_attacks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "both"
    command = ["sweep", *MODELS[:2], "--attack", "fgsm", "--attack", "fog", "--eps", "2,4", "--eps", "fog=1,3"]
    assert run(*command, "--data", folder / "clean.npz", "--out", out) == 0
    said = capsys.readouterr().out
    assert "common corruptions" in said
    assert "Accuracy under attack" in said
    assert run("report", out) == 0
    page = (out / "report.html").read_text()
    assert 'id="corruptions"' in page
    assert 'id="curves"' in page
    assert (
        run("sweep", *MODELS[:2], "--attack", "fog", "--eps", "fog=7", "--data", folder / "clean.npz", "--out", folder / "no")
        == 2
    )
    assert not (folder / "no").exists()
