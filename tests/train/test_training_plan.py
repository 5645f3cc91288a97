"""A training plan trains what is missing and nothing else; whatever is wrong with it is said before anything is written."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file

from robustatt import cli
from robustatt.data import TensorDataset
from robustatt.errors import InputError
from robustatt.models import read_card
from robustatt.models.card import AdversarialTraining
from robustatt.train import TrainRequest, train
from robustatt.train.plan import read_training_plan
from robustatt.train.recipe import TrainingRecipe


def tiny(name: str, split: str, **_: Any) -> TensorDataset:
    """Two classes that differ in brightness: 40 images to train on, 20 to test on."""
    if name == "gone":
        raise InputError("no data 'gone'")
    generator = torch.Generator().manual_seed(int(split == "test"))
    labels = torch.arange(40 if split == "train" else 20) % 2
    noise = torch.randint(0, 100, (len(labels), 3, 32, 32), generator=generator)
    return TensorDataset((noise + 120 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, name=name, split=split)


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("robustatt.data.load", tiny)
    monkeypatch.chdir(tmp_path)


PLAN = """
out = "weights"
[defaults]
data = "tiny"
width = 0.03125
batch_size = 16
epochs = 2
[[networks]]
model = "vgg"
[[networks]]
model = "vgg"
adversarial = "fgsm"
seed = 1
[[networks]]
name = "other"
model = "vgg"
seed = 7
lr = 0.05
half = true
"""


def write(text: str = PLAN) -> Path:
    Path("plan.toml").write_text(text)
    return Path("plan.toml")


def run(*flags: str) -> int:
    return cli.main(["train", "--plan", "plan.toml", "--device", "cpu", *flags])


def contents() -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def test_a_plan_trains_what_is_missing_and_the_second_time_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert run("--only", "other") == 0
    assert "other (1 of 1)" in capsys.readouterr().out
    assert sorted(path.name for path in Path("weights").iterdir()) == [
        "README.md",
        "curves.png",
        "other.csv",
        "other.safetensors",
    ]
    assert run() == 0
    said = capsys.readouterr().out
    assert said.index("vgg-seed0 (1 of 2)") < said.index("vgg_adv-seed1 (2 of 2)")
    assert {path.stem for path in Path("weights").glob("*.safetensors")} == {"other", "vgg-seed0", "vgg_adv-seed1"}
    card = read_card("weights/vgg_adv-seed1.safetensors")
    assert (card.name, card.seed, card.epochs, card.data) == ("vgg", 1, 2, "tiny")
    assert card.adversarial == AdversarialTraining(method="fgsm", eps="8/255")
    for name in ("vgg-seed0", "vgg_adv-seed1", "other"):
        assert f"`{name}`" in Path("weights/README.md").read_text()
        assert len(list(csv.DictReader(Path(f"weights/{name}.csv").read_text().splitlines()))) == 2
    assert Path("weights/curves.png").read_bytes().startswith(b"\x89PNG")
    before = contents()
    assert run() == 0
    assert " of 3) ..." not in capsys.readouterr().out
    assert contents() == before


def test_weights_of_a_plan_are_those_of_the_command(tmp_path: Path) -> None:
    write()
    assert run("--only", "other") == 0
    flags = "--model vgg --seed 7 --data tiny --width 0.03125 --batch-size 16 --epochs 2 --lr 0.05 --half --device cpu --out alone.safetensors"
    assert cli.main(["train", *flags.split()]) == 0
    one, two = load_file(tmp_path / "alone.safetensors"), load_file(tmp_path / "weights" / "other.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_time_that_is_up_stops_after_an_epoch_and_changes_no_bit(capsys: pytest.CaptureFixture[str]) -> None:
    write(PLAN.replace("epochs = 2", "epochs = 3"))
    for done in (1, 2):  # one epoch at least, however little the time
        assert run("--minutes", "0.0001") == 0
        said = capsys.readouterr().out
        assert f"{done} of 3" in said
        assert "begun" in said
        assert not list(Path("weights").glob("*.safetensors"))
    assert run("--only", "vgg-seed0") == 0
    assert run("--only", "other") == 0
    plain = TrainRequest(model="vgg", out="whole.safetensors", data="tiny", width=0.03125, batch_size=16, epochs=3, device="cpu")
    train(plain)
    one, two = load_file("whole.safetensors"), load_file("weights/vgg-seed0.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_time_of_a_single_training(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--model vgg --data tiny --width 0.03125 --batch-size 16 --epochs 2 --device cpu --out w.safetensors --minutes 0.0001"
    assert cli.main(["train", *flags.split()]) == 0
    assert "Time is up after epoch 1 of 2" in capsys.readouterr().out
    assert not Path("w.safetensors").exists()
    assert cli.main(["train", *flags.split()]) == 0
    assert read_card("w.safetensors").epochs == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('out = "weights"', 'outt = "weights"', "unknown key 'outt': did you mean 'out'"),
        ("epochs = 2", "epoch = 2", "network 1: unknown key 'epoch': did you mean 'epochs'"),
        ("lr = 0.05", "rl = 0.05", "other: unknown key 'rl': did you mean 'lr'"),
        ("lr = 0.05", 'device = "cpu"', "other: unknown key 'device'"),
        ("lr = 0.05", 'lr = "0.05"', "other: key 'lr', '0.05'"),
        ("seed = 1", "seed = true", "key 'seed', True"),
        ("lr = 0.05", "lr = -1", "other: --lr -1.0: give a number above 0"),
        ('model = "vgg"\nseed = 7', "", "other: key 'model' is missing"),
        ('model = "vgg"\nseed = 7', 'model = "vgg_gpa"', "other: unknown model 'vgg_gpa': did you mean 'vgg_"),
        ('name = "other"', 'name = "vgg-seed0"', "network 'vgg-seed0' is given twice"),
        ('name = "other"', 'name = "../other"', "name '../other'"),
        ('data = "tiny"', 'data = "gone"', "vgg-seed0: no data 'gone'"),
        ("[defaults]", "[default]", "unknown key 'default': did you mean 'defaults'"),
        ("[[networks]]", "[networks]", "not valid TOML"),
        (PLAN, "networks = 3", "key 'networks' has the wrong type"),
        (PLAN, 'out = "weights"', "no network"),
    ],
)
def test_a_wrong_plan_is_one_line_and_writes_nothing(old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(PLAN.replace(old, new))
    before = contents()
    assert run() == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "plan.toml" in error
    assert contents() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--only", "othe"], "did you mean 'other'"),
        (["--epochs", "3"], "--epochs with --plan"),
        (["--out", "x.safetensors"], "--out with --plan"),
        (["--no-half"], "--half with --plan"),
        (["--minutes", "0"], "--minutes 0"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert run(*flags) == 2
    assert said in capsys.readouterr().err


def test_a_network_needs_a_model_and_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, said in ((["--out", "w.safetensors"], "--model"), (["--model", "vgg"], "--out"), (["--only", "vgg"], "--plan")):
        assert cli.main(["train", *flags]) == 2
        assert said in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """What a run says that exits 2, trains nothing and leaves every file as it was."""
    capsys.readouterr()
    before = contents()
    assert run() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert contents() == before
    return error


def test_files_of_another_recipe_are_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert run("--only", "other") == 0
    write(PLAN.replace("lr = 0.05", "lr = 0.06").replace("epochs = 2", "epochs = 4"))
    assert "other: weights/other.safetensors was trained by another recipe (epochs 2, not 4; lr 0.05, not 0.06)" in refused(
        capsys
    )
    write(PLAN.replace("epochs = 2", "epochs = 3"))
    Path("weights/other.safetensors").unlink()
    assert run("--only", "vgg-seed0", "--minutes", "0.0001") == 0
    write(PLAN.replace("epochs = 2", "epochs = 4"))
    assert "vgg-seed0: weights/vgg-seed0.resume.pt is of a run with other settings" in refused(capsys)
    write(PLAN.replace("epochs = 2", "epochs = 3"))
    Path("weights/README.md").write_text("Mine.\n")
    assert "weights/README.md has no place for the table" in refused(capsys)


def test_weights_are_only_replaced_by_a_run_that_has_ended() -> None:
    fields: dict[str, Any] = {
        "model": "vgg",
        "out": "w.safetensors",
        "data": "tiny",
        "width": 0.03125,
        "batch_size": 16,
        "device": "cpu",
    }
    train(TrainRequest(**fields, epochs=1))
    first = Path("w.safetensors").read_bytes()

    class Stop(Exception):
        pass

    def stop(epoch: int, **_: Any) -> None:
        if epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train(TrainRequest(**fields, epochs=2), stop)
    assert Path("w.safetensors").read_bytes() == first
    train(TrainRequest(**fields, epochs=2))
    assert read_card("w.safetensors").epochs == 2


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_the_weights_in_reports_are_those_of_their_plan(data: str) -> None:
    """Every file beside a plan is one of its networks, made by its recipe."""
    plan = read_training_plan(ROOT / "reports" / data / "training.toml")
    recipes = {network.name: TrainingRecipe.of_request(network.request) for network in plan.networks}
    for path in plan.folder.glob("*.safetensors"):
        assert recipes[path.stem].differences(TrainingRecipe.of_card(read_card(path))) == []
    done = [network.name for network in plan.networks if network.done()]
    assert {path.stem for path in plan.folder.glob("*.safetensors")} == set(done)


def test_cifar100_is_trained_as_cifar10() -> None:
    ten, hundred = (read_training_plan(ROOT / "reports" / data / "training.toml") for data in ("cifar10", "cifar100"))
    recipes = {network.name: TrainingRecipe.of_request(network.request) for network in ten.networks}
    for network in hundred.networks:
        assert recipes[network.name].differences(TrainingRecipe.of_request(network.request)) == ["data cifar100, not cifar10"]
