"""Fine-grained classes: weights of one data set carried to another with larger images of mixed sizes and other classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustatt import cli
from robustatt.models import Card, build, load_checkpoint, save_checkpoint


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Three classes of pictures of mixed sizes, two dozen to train on and six to test on."""
    for split, count in (("train", 24), ("test", 6)):
        for place in range(count):
            folder = tmp_path / "birds" / split / f"kind{place % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            height, width = 50 + place, 70 - place
            pixels = np.random.default_rng(place).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{place:02}.png")
    return tmp_path / "birds"


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def start(path: Path) -> Path:
    """A checkpoint of ten classes of 32x32 images, of random weights."""
    network = build("vgg", 10, 0.05, dropout=0.0)
    card = Card(name="vgg", options={"dropout": 0.0}, width=0.05, classes=10, mean=(0, 0, 0), std=(1, 1, 1), data="digits")
    save_checkpoint(path, network.state_dict(), card)
    return path


def test_weights_start_a_network_for_larger_images_and_other_classes(birds: Path, tmp_path: Path) -> None:
    first, out = start(tmp_path / "first.safetensors"), tmp_path / "birds.safetensors"
    which = ["--model", "vgg", "--width", 0.05, "--epochs", 1, "--dropout", 0, "--lr", 1e-9, "--batch-size", 8]
    assert run("train", *which, "--data", birds, "--input-size", 40, "--init", first, "--out", out) == 0
    (source, _), (network, card) = load_checkpoint(first), load_checkpoint(out)
    assert (card.input_size, card.classes, card.class_names) == (40, 3, ("kind0", "kind1", "kind2"))
    assert card.history["init"]["head"] == "new"
    assert network(torch.rand(2, 3, 40, 40)).shape == (2, 3)
    before, after = source.state_dict(), network.state_dict()
    kernel = "trunk.0.0.weight"
    assert torch.allclose(before[kernel], after[kernel], atol=1e-6)
    assert not torch.allclose(before["normalise.mean"], after["normalise.mean"])


def test_mixed_sizes_without_an_input_size_are_one_line(birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--model", "vgg", "--data", birds, "--out", tmp_path / "x.safetensors") == 2
    assert "--input-size" in capsys.readouterr().err
