"""Data and outside models on the command line: an image folder, samples, and the names of adversarial weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robustatt import cli, models
from robustatt.data import load
from robustatt.data.views import stratified
from robustatt.errors import InputError
from robustatt.models.card import AdversarialTraining
from robustatt.models.checkpoint import save_checkpoint
from robustatt.plan import BoundPlan
from robustatt.results.records import Store

SMALL = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "flagged_outsider.py").write_text(SMALL)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """9 pictures of 24x20 of ants and 3 of bees."""
    root = tmp_path / "insects"
    for place in range(12):
        kind = root / ("ant" if place < 9 else "bee")
        kind.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(kind / f"{place:02}.png")
    return root


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def records(out: Path) -> pd.DataFrame:
    return Store(out / "records").read(cell.key for cell in BoundPlan.read(out).cells())


def test_torchvision_and_an_outside_module_on_an_image_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    which = ["--model", "net=torchvision:resnet18", "--model", "small=flagged_outsider:build"]
    rest = ["--data", folder, "--input-size", 32, "--normalize", "imagenet", "--eps", "4", "--out", out]
    assert run("sweep", *which, *rest, "--batch-size", 6) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert [curve["model"] for curve in summary["curves"]] == ["net", "small"]
    assert summary["plan"]["data"]["classes"] == ["ant", "bee"]
    assert [point["n"] for point in summary["curves"][0]["points"]] == [12, 12]
    kept = BoundPlan.read(out).plan
    assert kept.input_size == 32
    assert {entry.normalize for entry in kept.models} == {"imagenet"}


def test_a_sample_keeps_the_indices_of_the_data(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["sweep", "--model", "flagged_outsider:build", "--data", folder, "--eps", "2", "--out", out]
    assert run(*command, "--sample", 4, "--seed", 3) == 0
    found = records(out)
    chosen = stratified(load(folder).labels, 4, 3)
    assert sorted(set(found["index"])) == chosen.tolist()
    labels = found.drop_duplicates("index").set_index("index")["label"]
    assert labels.sort_index().tolist() == [0, 0, 0, 1]
    first = {path.name for path in (out / "records").iterdir()}
    assert run(*command, "--sample", 4, "--seed", 4) == 0
    assert run(*command, "-n", 4, "--seed", 3) == 0
    assert len({path.name for path in (out / "records").iterdir()} - first) == 2
    assert sorted(set(records(out)["index"])) == [0, 1, 2, 3]
    assert run("sweep", "--plan", out / "plan.toml", "--sample", 3, "--out", tmp_path / "other") == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sample", 0], "--sample 0"),
        (["--sample", 13], "--sample 13: the data has 12 examples"),
        (["--sample", 3, "-n", 3], "not both"),
        (["--split", "trian"], "did you mean 'train'"),
        (["--split", "train"], "nothing to train on"),
        (["--input-size", 0], "--input-size 0"),
        (["--normalize", "imagnet"], "normalisation 'imagnet'"),
    ],
)
def test_wrong_flags_are_one_line(
    folder: Path, tmp_path: Path, flags: list[object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("sweep", "--model", "flagged_outsider:build", "--data", folder, "--out", out, *flags) == 2
    message = capsys.readouterr().err.strip()
    assert said in message
    assert "\n" not in message
    assert not out.exists()


def test_names_of_adversarial_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.build("vgg_att1", width=0.03125)
    card = models.Card(
        name="vgg_att1", width=0.03125, classes=10, mean=(0, 0, 0), std=(1, 1, 1), data="tiny", options={"dropout": 1.0}
    )
    attacked = card.model_copy(update={"adversarial": AdversarialTraining(method="fgsm", eps="8/255")})
    place = tmp_path / "weights" / "tiny"
    save_checkpoint(place / "vgg_att1.safetensors", network.state_dict(), card)
    save_checkpoint(place / "vgg_att1_adv.safetensors", network.state_dict(), attacked)
    monkeypatch.setattr("robustatt.models.listing.WEIGHTS", tmp_path / "weights")
    assert models.resolve("vgg_att1", data="tiny").label == "vgg_att1"
    found = models.resolve("vgg_att1_adv", data="tiny")
    assert (found.label, found.source) == ("vgg_att1_adv", "bundled tiny/vgg_att1_adv.safetensors")
    by_file = place / "vgg_att1_adv.safetensors"
    assert {models.resolve(name, weights=by_file).label for name in ("vgg_att1", "vgg_att1_adv")} == {"vgg_att1_adv"}
    with pytest.raises(InputError, match="was not trained on attacked images"):
        models.resolve("vgg_att1_adv", weights=place / "vgg_att1.safetensors")
    with pytest.raises(InputError, match="no bundled 'vgg_adv'"):
        models.resolve("vgg_adv", data="tiny")
    row = next(row for row in models.catalogue() if row.name == "vgg_att1")
    assert row.bundled == ("tiny", "tiny (adv)")
