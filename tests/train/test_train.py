"""Training: an interruption changes no bit, NaN stops it, and each setting does what it says."""

from __future__ import annotations

import csv
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustatt import models
from robustatt.data import TensorDataset
from robustatt.errors import InputError, TrainingDiverged, TrainingPaused
from robustatt.train import (
    TrainRequest,
    adversarial_images,
    augment,
    channel_statistics,
    learning_rate,
    start_from,
    train,
)


def tiny(split: str) -> TensorDataset:
    """Two classes that differ in brightness: 40 images to train on, 20 to test on."""
    generator = torch.Generator().manual_seed(int(split == "test"))
    count = 40 if split == "train" else 20
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 100, (count, 3, 32, 32), generator=generator)
    return TensorDataset((noise + 120 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, name="tiny", split=split)


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustatt.data.load", lambda _, split, **__: tiny(split))


def request(out: Path, **fields: Any) -> TrainRequest:
    return TrainRequest(
        **{
            "model": "vgg_att1",
            "width": 0.03125,
            "epochs": 3,
            "batch_size": 16,
            "out": out,
            "device": "cpu",
            **fields,
        }
    )


class Stop(Exception):
    pass


@pytest.mark.parametrize("fields", [{}, {"adversarial": "fgsm"}, {"schedule": "paper", "lr": 0.05, "half": True}])
def test_an_interruption_changes_no_bit(tmp_path: Path, fields: dict[str, Any]) -> None:
    whole = request(tmp_path / "whole.safetensors", **fields)
    train(whole)

    def stop(epoch: int, step: int, **_: Any) -> None:
        if (epoch, step) == (2, 2):
            raise Stop

    broken = request(tmp_path / "broken.safetensors", **fields)
    with pytest.raises(Stop):
        train(broken, stop)
    assert not broken.out.exists()
    assert broken.resume_path.exists()
    seen: list[int] = []
    card = train(broken, lambda epoch, **_: seen.append(epoch))
    assert set(seen) == {2, 3}
    assert not broken.resume_path.exists()
    one, other = load_file(whole.out), load_file(broken.out)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert card.epochs == 3
    assert len(list(csv.DictReader(broken.log_path.read_text().splitlines()))) == 3


def test_the_card_says_what_was_done(tmp_path: Path) -> None:
    card = train(request(tmp_path / "w.safetensors", half=True, epochs=6, dropout=0.0))
    network, read = models.load_checkpoint(tmp_path / "w.safetensors")
    assert read == card
    assert (card.name, card.data, card.classes, card.epochs, card.seed) == ("vgg_att1", "tiny", 2, 6, 0)
    assert card.data_fingerprint == tiny("train").fingerprint
    pixels = tiny("train").images.double() / 255
    np.testing.assert_allclose(card.mean, pixels.mean(dim=(0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(card.std, pixels.std(dim=(0, 2, 3), correction=0), atol=1e-4)
    torch.testing.assert_close(network.normalise.mean.flatten(), torch.tensor(card.mean))
    with torch.no_grad():
        right = (network(tiny("test").images / 255).argmax(1) == tiny("test").labels).float().mean()
    assert card.clean_accuracy == pytest.approx(float(right))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_generator(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for place, seed in enumerate((3, 3, 4)):
        train(request(tmp_path / f"{place}.safetensors", seed=seed, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)
    first, same, other = (load_file(tmp_path / f"{place}.safetensors") for place in range(3))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["head.classify.weight"], other["head.classify.weight"])


def test_the_best_epoch_on_held_out_images(tmp_path: Path) -> None:
    card = train(request(tmp_path / "w.safetensors", keep="best", epochs=4))
    rows = list(csv.DictReader((tmp_path / "w.csv").read_text().splitlines()))
    held = [float(row["held_out_accuracy"]) for row in rows]
    assert card.history["selection"] == f"epoch {held.index(max(held)) + 1}, best held-out accuracy"
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    network, _ = models.load_checkpoint(tmp_path / "w.safetensors")
    with torch.no_grad():
        right = (network(tiny("test").images / 255).argmax(1) == tiny("test").labels).float().mean()
    assert card.clean_accuracy == pytest.approx(float(right))


def test_training_from_another_checkpoint(tmp_path: Path) -> None:
    first = request(tmp_path / "first.safetensors", epochs=1)
    train(first)
    card = train(request(tmp_path / "next.safetensors", init=first.out, epochs=1, lr=1e-9))
    assert card.history["init"] == {"name": "vgg_att1", "data": "tiny", "epochs": 1, "head": "kept"}
    one, other = load_file(first.out), load_file(tmp_path / "next.safetensors")
    torch.testing.assert_close(one["head.classify.weight"], other["head.classify.weight"])
    for fields, said in (({"width": 0.0625}, "its width is"), ({"model": "vgg_att2"}, "its network is")):
        with pytest.raises(InputError, match=said):
            train(request(tmp_path / "x.safetensors", init=first.out, **fields))


def test_a_start_with_other_classes_gets_a_new_head(tmp_path: Path) -> None:
    first = request(tmp_path / "first.safetensors", epochs=1)
    train(first)
    network = models.build("vgg_att1", classes=7, width=0.03125)
    fresh = network.head.classify.weight.clone()
    said = start_from(first.out, network)
    assert said is not None
    assert said["head"] == "new"
    assert torch.equal(network.head.classify.weight, fresh)
    state, given = network.state_dict(), load_file(first.out)
    same = [name for name in given if state[name].shape == given[name].shape and torch.equal(state[name], given[name])]
    assert len(same) > len(given) // 2


def test_a_loss_that_is_not_finite_stops_at_once(tmp_path: Path) -> None:
    steps: list[int] = []
    wild = request(tmp_path / "w.safetensors", lr=1e30)
    with pytest.raises(TrainingDiverged, match="try a lower --lr") as caught:
        train(wild, lambda step, **_: steps.append(step))
    assert len(steps) < 9
    assert "\n" not in str(caught.value)
    assert not wild.out.exists()


def test_a_resume_file_of_another_run_or_a_damaged_one(tmp_path: Path) -> None:
    def stop(epoch: int, **_: Any) -> None:
        if epoch == 2:
            raise Stop

    asked = request(tmp_path / "w.safetensors")
    with pytest.raises(Stop):
        train(asked, stop)
    with pytest.raises(InputError, match="of a run with other settings"):
        train(request(tmp_path / "w.safetensors", seed=9))
    asked.resume_path.write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read"):
        train(asked)
    train(request(tmp_path / "w.safetensors", resume=False, epochs=1))
    assert not asked.resume_path.exists()


def test_a_resume_file_goes_with_its_data_wherever_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingPaused):
        train(request(tmp_path / "w.safetensors", data="here/tiny"), until=0.0)
    with pytest.raises(TrainingPaused, match="epoch 2 of 3"):
        train(request(tmp_path / "w.safetensors", data="there/tiny"), until=0.0)
    monkeypatch.setattr("robustatt.data.load", lambda _, split, **__: tiny("test" if split == "train" else "train"))
    with pytest.raises(InputError, match="of a run on other data than 'there/tiny'"):
        train(request(tmp_path / "w.safetensors", data="there/tiny"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "vgg_at1"}, "did you mean 'vgg_att1'"),
        ({"epochs": 0}, "--epochs 0: give a number at least 1 and at most 10,000"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"lr": -1.0}, "--lr -1"),
        ({"batch_size": 1}, "--batch-size 1"),
        ({"schedule": "onecyle"}, "onecycle"),
        ({"adversarial": "cw"}, "fgsm"),
        ({"train_eps": 0}, "--train-eps 0.0: give a number above 0 and at most 255"),
        ({"seed": -1}, "--seed -1"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0"),
    ],
)
def test_a_wrong_field_is_one_line(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        request(tmp_path / "w.safetensors", **fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_device_or_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device 'gpu'"):
        train(request(tmp_path / "w.safetensors", device="gpu"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for place in ("file/w.safetensors", "folder.safetensors", "w.pt"):
        with pytest.raises(InputError, match="cannot write"):
            train(request(tmp_path / place), lambda **_: pytest.fail("trained"))


def test_schedules(tmp_path: Path) -> None:
    cycle = request(tmp_path / "w.safetensors", epochs=10, lr=0.4)
    rates = [learning_rate(cycle, position / 10) for position in range(100)]
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) == 20
    assert rates[0] < 0.02
    assert rates[-1] < 0.001
    released = request(tmp_path / "w.safetensors", schedule="paper", data="cifar10", epochs=300)
    assert [learning_rate(released, epoch) for epoch in (0, 24.9, 25, 50)] == [1.0, 1.0, 0.5, 0.25]
    resnet = request(tmp_path / "w.safetensors", schedule="paper", data="cifar10", model="resnet164")
    expected = [0.1, 0.02, 0.004, 0.0008]
    assert [learning_rate(resnet, epoch) for epoch in (0, 60, 120, 160)] == pytest.approx(expected)


def test_augmentation_is_a_reflected_shift_and_a_flip() -> None:
    images = torch.randint(0, 256, (6, 8, 9, 3), dtype=torch.uint8)
    chosen = torch.tensor([4, 1, 1, 3])
    same = augment(images, chosen, torch.Generator(), flip=False, crop=False)
    assert same.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(same, images[chosen].permute(0, 3, 1, 2).float() / 255)
    moved = augment(images, chosen, torch.Generator().manual_seed(0), flip=True, crop=True)
    padded = nn.functional.pad(same, (4, 4, 4, 4), mode="reflect")
    for place in range(4):
        views = [padded[place, :, i : i + 8, j : j + 9] for i in range(9) for j in range(9)]
        assert any(torch.equal(moved[place], view) or torch.equal(moved[place], view.flip(2)) for view in views)


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_adversarial_images_stay_in_the_ball_and_raise_the_loss(method: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    x, y = torch.rand(16, 3, 8, 8), torch.arange(16) % 5
    moved = adversarial_images(network, x, y, method, 8 / 255, torch.Generator().manual_seed(0))
    assert float((moved - x).abs().max()) <= 8 / 255 + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert not moved.requires_grad
    loss = nn.functional.cross_entropy
    assert loss(network(moved), y) > loss(network(x), y) + 0.01
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(("method", "steps", "size"), [("fgsm", 1, 1.25), ("pgd-2", 2, 0.5), ("pgd", 7, 0.25)])
def test_adversarial_images_are_those_of_the_papers(method: Any, steps: int, size: float) -> None:
    """Wong et al. 2020, algorithm 3, and Madry et al. 2018, written out; of a linear classifier the gradient's sign is known."""
    eps, generator = 8 / 255, torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    x, y = torch.rand(16, 3, 8, 8), torch.arange(16) % 2
    rise = (network[1].weight[1] - network[1].weight[0]).detach().view(3, 8, 8)
    uphill = torch.where((y == 0).view(-1, 1, 1, 1), rise, -rise).sign()
    start = torch.empty(x.shape, memory_format=torch.channels_last).uniform_(-1, 1, generator=generator)
    expected = (x + eps * start).clamp(0, 1)
    for _ in range(steps):
        expected = (x + (expected + size * eps * uphill - x).clamp(-eps, eps)).clamp(0, 1)
    found = adversarial_images(network, x, y, method, eps, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected)


def test_n_fgsm_is_that_of_the_paper() -> None:
    """de Jorge et al. 2022, algorithm 1, with k = 2: noise twice as wide as the ball, a step of eps, no way back into the ball."""
    eps, generator = 8 / 255, torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    x, y = torch.rand(16, 3, 8, 8), torch.arange(16) % 2
    rise = (network[1].weight[1] - network[1].weight[0]).detach().view(3, 8, 8)
    uphill = torch.where((y == 0).view(-1, 1, 1, 1), rise, -rise).sign()
    noise = torch.empty(x.shape, memory_format=torch.channels_last).uniform_(-2 * eps, 2 * eps, generator=generator)
    expected = ((x + noise).clamp(0, 1) + eps * uphill).clamp(0, 1)
    found = adversarial_images(network, x, y, "n-fgsm", eps, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected)
    assert float((found - x).abs().max()) > 2.5 * eps


def test_channel_statistics_of_many_images() -> None:
    pixels = torch.randint(0, 256, (2500, 3, 4, 4), dtype=torch.uint8)
    mean, std = channel_statistics(pixels)
    exact = pixels.double() / 255
    np.testing.assert_allclose(mean, exact.mean(dim=(0, 2, 3)), atol=6e-5)
    np.testing.assert_allclose(std, exact.std(dim=(0, 2, 3), correction=0), atol=6e-5)


@pytest.mark.parametrize("emulated", [True, False])
def test_bf16_without_instructions_for_it_is_said_to_be_slow(
    emulated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: not emulated)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    with pytest.warns(UserWarning, match="no bfloat16 instructions") if emulated else nullcontext(), suppress(InputError):
        train(request(tmp_path / "w.safetensors", precision="bf16", data=str(tmp_path / "no-such-data")))


@pytest.mark.filterwarnings("ignore:.*bfloat16 instructions")
def test_passes_in_bf16_leave_the_weights_in_float32(tmp_path: Path) -> None:
    """Another arithmetic, so other weights, but nearly the same; the card and the resume file say which it was."""
    runs = {}
    for precision in ("float32", "bf16"):
        asked = request(tmp_path / f"{precision}.safetensors", precision=precision, epochs=1, dropout=0.0, lr=0.01)
        assert train(asked).history["precision"] == precision
        runs[precision] = load_file(asked.out)
    assert request(tmp_path / "a", precision="bf16").identity() != request(tmp_path / "a").identity()
    assert all(tensor.dtype != torch.bfloat16 for tensor in runs["bf16"].values())
    moved = [(runs["float32"][key] - runs["bf16"][key]).abs().max() for key in runs["bf16"] if key.endswith("0.weight")]
    assert 0 < max(moved) < 0.1
