"""Networks of timm and torchvision: their own normalisation, their size of images, the classes of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import nets
from safetensors.torch import save_file
from torch import Tensor, nn

import robustatt
from robustatt.cli import main
from robustatt.data import TensorDataset
from robustatt.data.views import require_same_classes
from robustatt.errors import InputError
from robustatt.models.external import facts, load_outside, own_statistics
from robustatt.models.weight_matching import outputs_in
from robustatt.models.wrappers import Normalised, SelectedClasses
from robustatt.plan import Plan, model_entries

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_torchvision_networks_see_images_normalised_by_imagenet() -> None:
    bare, own = (load_outside("torchvision:resnet18", normalize=text) for text in ("none", None))
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in IMAGENET)
    with torch.no_grad():
        assert torch.allclose(own(PIXELS), bare((PIXELS - mean) / std), atol=1e-5)
        assert not torch.allclose(own(PIXELS), bare(PIXELS), atol=1e-2)


def test_timm_networks_bring_their_own_statistics() -> None:
    pytest.importorskip("timm")
    assert own_statistics("timm:vit_tiny_patch16_224") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert own_statistics("timm:resnet18") == IMAGENET
    assert own_statistics("mine:build") is None


def test_what_is_done_without_being_asked_is_said() -> None:
    said = facts("torchvision:resnet18", None, None)
    assert "normalised by its own mean 0.485, 0.456, 0.406" in said
    assert "random weights" in said
    assert facts("torchvision:resnet18", "w.pt", "none") == ""
    assert facts("vgg", None, None) == facts("mine:build", None, None) == ""


@pytest.mark.parametrize("command", ["sweep", "doctor"])
def test_a_network_of_one_size_says_it(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["-n", "4", "--eps", "8", "--out", str(tmp_path)] if command == "sweep" else []
    options = ["--model-option", "image_size=48", "--model-option", "patch_size=16"]
    fixed = ["--model", "test_library_networks:fixed_size", *options]
    assert main([command, *fixed, "--data", "digits", *more]) == 2
    assert "it takes images of 48 x 48: --input-size 48" in capsys.readouterr().err
    if command == "sweep":
        assert main([command, *fixed, "--data", "digits", "--input-size", "48", *more]) == 0


def fixed_size(image_size: int, patch_size: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=image_size, patch_size=patch_size, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8, num_classes=10
    )


def test_a_named_set_is_resized_like_any_other() -> None:
    small, large = robustatt.data.load("digits"), robustatt.data.load("digits", image_size=64)
    assert large.image_shape == (3, 64, 64)
    assert large.fingerprint != small.fingerprint
    assert torch.equal(large.labels, small.labels)
    mean = large.tensors(range(8))[0].float().mean((1, 2, 3))
    assert torch.allclose(mean, small.tensors(range(8))[0].float().mean((1, 2, 3)), atol=1.0)


def test_a_network_has_the_classes_of_its_weights(tmp_path: Path) -> None:
    theirs = load_outside("torchvision:squeezenet1_1", classes=17, normalize="none")
    save_file({f"module.{name}": tensor.contiguous() for name, tensor in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    found = load_outside("torchvision:squeezenet1_1", weights=tmp_path / "w.safetensors", classes=3, normalize="none")
    with torch.no_grad():
        assert torch.equal(found(PIXELS), theirs(PIXELS))


def test_the_number_of_classes_is_not_guessed_from_another_shape() -> None:
    def net(outputs: int, inside: int = 5) -> nn.Module:
        return nn.Sequential(nn.Linear(4, inside), nn.Linear(inside, outputs))

    assert outputs_in(net(7).state_dict(), net(3), net(4)) == 7
    assert outputs_in(net(7, 6).state_dict(), net(3), net(4)) == 7  # the bias says it; the shapes are refused later
    assert outputs_in({}, net(3), net(4)) is None


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def some_digits() -> TensorDataset:
    """Images of 1, 3 and 7 alone, with names for classes, in the order of the alphabet."""
    images, labels = nets.held_out(120)
    chosen = torch.isin(labels, torch.tensor([1, 3, 7]))
    order = {1: 0, 7: 1, 3: 2}
    return TensorDataset(
        images[chosen], torch.tensor([order[int(label)] for label in labels[chosen]]), ("one", "seven", "three"),
        name="some", split="test",
    )  # fmt: skip


def test_named_classes_are_never_taken_for_the_first_outputs() -> None:
    with pytest.raises(InputError, match=r"'model' has 10 outputs, and some 3 classes \(one, seven, three\).*--class-names"):
        robustatt.sweep(nets.trained(nets.convolutional), some_digits(), eps="8")
    require_same_classes(some_digits(), 3, "model")
    images, labels = nets.held_out(4)
    require_same_classes(TensorDataset(images, labels, name="numbers", split="test"), 1000, "model")


@pytest.fixture
def subset(tmp_path: Path) -> list[str]:
    """The flags of a sweep of a ten-class network on a folder with three of the classes."""
    from PIL import Image

    dataset = some_digits()
    for index in range(len(dataset)):
        image, label = dataset.tensors([index])
        folder = tmp_path / "val" / dataset.classes[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(folder / f"{index:03}.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    return ["--model", "net=test_library_networks:ten", "--data", str(tmp_path / "val"), "--eps", "1", "--seed", "0"]


def ten() -> nn.Module:
    return nets.trained(nets.convolutional)


def accuracy(out: Path) -> tuple[float, Any]:
    import pandas as pd

    records = pd.concat(map(pd.read_parquet, (out / "records").glob("*.parquet")))
    clean = records[records.eps == "0/255"]
    return float((clean.adv_pred == clean.label).mean()), clean


def test_outputs_are_found_by_name_and_may_be_masked(
    subset: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--class-names", str(tmp_path / "names.txt")]
    assert main(["sweep", *subset, "--out", str(tmp_path / "none")]) == 2
    assert main(["sweep", *subset, *names, "--out", str(tmp_path / "all")]) == 0
    assert main(["sweep", *subset, *names, "--mask-classes", "--out", str(tmp_path / "masked")]) == 0
    every, clean = accuracy(tmp_path / "all")
    assert set(clean.label) == {1, 3, 7}
    assert every > 0.9
    masked, competing = accuracy(tmp_path / "masked")
    assert set(competing.label) == {0, 1, 2}
    assert masked >= every
    images, labels = some_digits().tensors(range(10))
    logits = ten()(images.float() / 255)
    chosen = SelectedClasses(ten(), [1, 7, 3])(images.float() / 255)
    assert torch.equal(chosen, logits[:, [1, 7, 3]])
    assert np.mean((chosen.argmax(1) == labels).numpy()) >= 0.9
    assert main(["sweep", *subset, "--mask-classes", "--out", str(tmp_path / "x")]) == 2
    assert "--mask-classes without --class-names" in capsys.readouterr().err


class Attending(nn.Module):
    levels = ("gate",)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self(x), [x.mean(1).flatten(1).softmax(1).view(len(x), *x.shape[2:])]


def test_a_network_behind_its_normalisation_keeps_its_attention() -> None:
    wrapped = Normalised(Attending(), *IMAGENET)
    assert wrapped.levels == ("gate",)
    logits, maps = wrapped.attend(PIXELS)
    expected, inside = Attending().attend(wrapped.normalise(PIXELS))
    assert torch.equal(logits, expected)
    assert torch.equal(maps[0], inside[0])
    assert not hasattr(Normalised(nn.Identity(), *IMAGENET), "attend")


def test_options_and_bundled_weights_are_read_from_flags_and_plan() -> None:
    flags = model_entries(["vgg", "a=m:f"], ["bundled", "w.pt"], None, ["size=32", "kind=wide", "sides=[1, 2]"])
    assert flags[0].weights is None
    assert flags[0].options == ()
    assert dict(flags[1].options) == {"size": 32, "kind": "wide", "sides": (1, 2)}
    plan = Plan.from_toml(
        {"models": [{"name": "a", "spec": "m:f", "weights": "w.pt", "options": {"size": 32}}], "eps": "1"}, "plan"
    )
    assert dict(plan.models[0].options) == {"size": 32}
    assert Plan.from_toml(plan.to_toml(), "plan") == plan
    for text in ("size", "=3", "a b=1"):
        with pytest.raises(InputError, match="write KEY=VALUE"):
            model_entries(["m:f"], [], None, [text])
    with pytest.raises(InputError, match="only external models take options"):
        model_entries(["vgg"], [], None, ["a=1"])
