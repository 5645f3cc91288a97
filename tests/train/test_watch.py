"""Adversarial training is watched: robust accuracy is what a sweep measures, and catastrophic overfitting ends it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_models import Linear, digits_data, exact_distance, linear_data, trained_digits

import robustatt
from robustatt import cli
from robustatt.data import TensorDataset
from robustatt.errors import InputError
from robustatt.models import read_card
from robustatt.train import TrainRequest, train
from robustatt.train.watch import ROBUST, collapsed, overfitted, robust_accuracy

CPU = torch.device("cpu")


def images(split: str, count: int = 60) -> TensorDataset:
    """Two classes that differ in brightness, under noise."""
    generator = torch.Generator().manual_seed(int(split == "test"))
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 200, (count, 3, 32, 32), generator=generator)
    return TensorDataset((noise + 40 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, name="tiny", split=split)


@pytest.fixture
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustatt.data.load", lambda _, split, **__: images(split))


def request(out: Path, **fields: Any) -> TrainRequest:
    usual = {"model": "vgg", "width": 0.03125, "epochs": 6, "batch_size": 32, "device": "cpu", "adversarial": "fgsm"}
    return TrainRequest(**{**usual, "out": out, **fields})


def planted(monkeypatch: pytest.MonkeyPatch, robust: list[float]) -> None:
    """Robust accuracies that are measured one after another, on so many images that no fall is chance."""
    measured = iter(robust)
    monkeypatch.setattr("robustatt.train.held_out.robust_accuracy", lambda *_, **__: next(measured))
    monkeypatch.setattr("robustatt.train.watch.STANDARD_ERRORS", 0.0)


def rising_training_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs that train, but report 30 %, 40 %, ... of the attacked training images as right."""
    from robustatt.train import loop

    real = loop._epoch

    def epoch(request: TrainRequest, run: Any, *rest: Any) -> tuple[float, float]:
        loss, _ = real(request, run, *rest)
        return loss, 0.3 + 0.1 * run.epoch

    monkeypatch.setattr(loop, "_epoch", epoch)


def test_of_a_linear_classifier_it_is_a_count() -> None:
    model = Linear()
    image, label = linear_data(model, 200)
    distance = exact_distance(model, image, label, "linf")
    exact = float((distance > 2 / 255).double().mean())
    assert 0.1 < exact < 0.8, "the case tells something"
    dataset = TensorDataset(image, label, ["a", "b"])
    assert robust_accuracy(model, dataset, 2.0, 0, device=CPU) == pytest.approx(exact)


def test_it_is_what_a_sweep_measures_and_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    recipe = tmp_path / "pgd.toml"
    recipe.write_text('algorithm = "pgd"\nsteps = 10\nstep_size = 0.25\n')
    network = trained_digits().train()
    image, label = (part[-60:] for part in digits_data())
    before = torch.get_rng_state()
    mine = robust_accuracy(network, TensorDataset(image, label, [str(k) for k in range(10)]), 20.0, 5, device=CPU)
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)
    swept = robustatt.sweep(network, (image, label), attacks=[str(recipe)], eps="20", seed=5)
    curve = swept.curve("pgd")
    clean, robust = curve.accuracy
    assert 0 < robust < clean
    assert mine == pytest.approx(robust)


Rows = list[dict[str, float]]


def rows_of(robust: list[float], train: list[float]) -> Rows:
    pairs = enumerate(zip(robust, train, strict=True), 1)
    return [{"epoch": epoch, ROBUST: held, "train_accuracy": fitted} for epoch, (held, fitted) in pairs]


@pytest.mark.parametrize(
    ("robust", "train", "stops"),
    [
        ([0.25, 0.30, 0.02], [0.30, 0.34, 0.70], True),
        ([0.25, 0.28, 0.136], [0.30, 0.34, 0.50], True),  # below half, though not by 15 points
        ([0.25, 0.50, 0.34], [0.30, 0.34, 0.50], True),  # more than 15 points
        ([0.25, 0.50, 0.37], [0.30, 0.34, 0.50], False),
        ([0.25, 0.30, 0.25], [0.30, 0.34, 0.50], False),
        ([0.25, 0.30, 0.02], [0.30, 0.34, 0.20], False),  # training itself broke down
        ([0.02, 0.004], [0.1, 0.2], False),  # ten images, then two: chance
        ([0.02], [0.9], False),
    ],
)
def test_when_it_is_catastrophic_overfitting(robust: list[float], train: list[float], stops: bool) -> None:
    assert overfitted(rows_of(robust, train), 500) is stops


shares = st.integers(0, 500).map(lambda count: count / 500)


@given(robust=st.lists(shares, min_size=1, max_size=8), images=st.integers(20, 5000))
def test_what_never_falls_has_never_collapsed_and_a_fall_to_nothing_has(robust: list[float], images: int) -> None:
    ascending = rows_of(sorted(robust), [0.5] * len(robust))
    assert not collapsed(ascending, images)
    fallen = rows_of([*robust, 0.9, 0.0], [0.1] * (len(robust) + 1) + [0.9])
    assert overfitted(fallen, images)
    assert collapsed(fallen, images), "stopping means that it collapsed"


@pytest.mark.usefixtures("_tiny_data")
def test_catastrophic_overfitting_ends_training_with_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rising_training_accuracy(monkeypatch)
    planted(monkeypatch, [0.2, 0.3, 0.01])
    out = tmp_path / "w.safetensors"
    flags = ["--model", "vgg", "--width", "0.03125", "--epochs", "6", "--batch-size", "32", "--device", "cpu", "--data", "tiny"]
    assert cli.main(["train", *flags, "--adversarial", "fgsm", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Stopped early: catastrophic overfitting in epoch 3" in said
    assert "fell from 30.0% to 1.0%" in said
    rows = list(csv.DictReader((tmp_path / "w.csv").read_text().splitlines()))
    assert [row["catastrophic_overfitting"] for row in rows] == ["0", "0", "1"]
    assert [float(row[ROBUST]) for row in rows] == [0.2, 0.3, 0.01]
    card = read_card(out)
    assert card.epochs == 3
    assert card.history["epochs_planned"] == 6
    assert card.history["selection"] == "epoch 2, the last before robust accuracy collapsed"
    assert card.history[ROBUST] == 0.3
    assert "the weights are those of epoch 2" in card.history["stopped"]
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def remember(_: TrainRequest, run: Any, *__: Any) -> None:
        run.rows[-1] |= {ROBUST: 0.0, "catastrophic_overfitting": 0.0}
        kept[run.epoch] = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}

    monkeypatch.setattr("robustatt.train.loop.judge_epoch", remember)
    train(request(tmp_path / "whole.safetensors", data="tiny"))
    found = load_file(out)
    assert all(torch.equal(found[name], tensor) for name, tensor in kept[2].items())
    assert not all(torch.equal(found[name], tensor) for name, tensor in kept[3].items())


@pytest.mark.usefixtures("_tiny_data")
def test_an_epoch_that_collapses_while_training_breaks_down_too_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustatt.train.loop._epoch", lambda _, run, *__: (1.0, 0.5 - 0.1 * run.epoch))
    planted(monkeypatch, [0.2, 0.3, 0.01])
    card = train(request(tmp_path / "w.safetensors", epochs=3))
    assert card.history["selection"] == "epoch 2, the last before robust accuracy collapsed"
    assert "stopped" not in card.history


@pytest.mark.usefixtures("_tiny_data")
def test_the_best_epoch_of_adversarial_training_is_the_most_robust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, [0.2, 0.3, 0.25])
    card = train(request(tmp_path / "w.safetensors", epochs=3, keep="best"))
    assert card.history["selection"] == "epoch 2, best held-out robust accuracy"
    assert card.history[ROBUST] == 0.3


def test_too_few_images_to_hold_any_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustatt.data.load", lambda _, split, **__: images(split, 19))
    with pytest.raises(InputError, match="--adversarial fgsm: 19 training images are too few"):
        train(request(tmp_path / "w.safetensors"))
