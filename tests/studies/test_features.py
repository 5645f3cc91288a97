"""Fixed features: what the network classifies, the same from the fast copy, kept by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustatt import models
from robustatt.data import TensorDataset, load
from robustatt.data.views import Sample, scaled
from robustatt.errors import InputError, NonFiniteLogits
from robustatt.evaluate.cell import as_float
from robustatt.studies.transfer.features import feature_extractor

CPU = torch.device("cpu")


def some(count: int, size: int = 12, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)
    return TensorDataset(pixels, torch.arange(count) % 3)


def extract(module: nn.Module, dataset: TensorDataset | Sample, cache: Path | None = None) -> np.ndarray:
    with feature_extractor(module, "net", CPU, as_float(dataset.tensors([0])[0])) as extractor:
        return extractor.extract(dataset, cache)


@pytest.mark.parametrize("name", ["vgg", "vgg_gap", "vgg_pan", "vgg_att2", "vgg_att3"])
def test_features_are_those_of_the_network(name: str) -> None:
    network, digits = models.load(name), Sample(load("digits"), torch.arange(6))
    with torch.no_grad():
        expected = network.features(as_float(digits.tensors(range(6))[0])).numpy()
    found = extract(network, digits)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=1e-4 * float(np.abs(expected).max()))


def test_of_an_outside_module_they_are_what_its_last_linear_layer_is_given(net: nn.Module) -> None:
    dataset = some(70)
    with torch.no_grad():
        expected = net.features(as_float(dataset.images)).flatten(1).numpy()  # type: ignore[operator]
    assert extract(net, dataset) == pytest.approx(expected, abs=1e-4)
    assert not any(part._forward_pre_hooks for part in net.modules())


class Reversed(nn.Module):
    """Its linear layers are run in another order than they are declared in."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(5, 2), nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images.mean(dim=(2, 3))))


def test_the_last_linear_layer_is_the_one_run_last() -> None:
    assert extract(Reversed(), some(4)).shape == (4, 5)


def test_a_network_without_a_linear_layer_is_one_line() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="no linear layer"):
        extract(bare, some(4))


class Counting(nn.Module):
    """A classifier that counts the images it is given; NaN for one shade."""

    seen = 0

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.head = nn.Linear(3, 2)
        nn.init.ones_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        Counting.seen += len(images)
        return self.head(self.scale * images.mean(dim=(2, 3)).log())


def test_what_was_extracted_is_read_and_what_was_damaged_is_not(tmp_path: Path) -> None:
    module, dataset = Counting(), some(30)
    first = extract(module, dataset, tmp_path)
    (kept,) = tmp_path.iterdir()
    before = Counting.seen
    assert np.array_equal(extract(module, dataset, tmp_path), first)
    probes = Counting.seen - before
    assert probes < 30
    kept.write_bytes(kept.read_bytes()[:-5])
    before = Counting.seen
    assert np.array_equal(extract(module, dataset, tmp_path), first)
    assert Counting.seen - before == probes + 30


def test_other_weights_or_data_are_other_features(tmp_path: Path) -> None:
    dataset = some(30)
    first = extract(Counting(), dataset, tmp_path)
    assert not np.array_equal(extract(Counting(2.0), dataset, tmp_path), first)
    assert not np.array_equal(extract(Counting(), some(30, seed=1), tmp_path), first)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_infinite_feature_names_the_example_of_the_whole_set() -> None:
    dataset = some(20)
    dataset.images[17] = 0
    with pytest.raises(NonFiniteLogits, match="example 17"):
        extract(Counting(), Sample(dataset, torch.arange(10, 20)))


def test_ranges_do_not_show(monkeypatch: pytest.MonkeyPatch, net: nn.Module) -> None:
    whole = extract(net, some(30))
    monkeypatch.setattr("robustatt.studies.transfer.features.CHUNK", 7)
    assert extract(net, some(30)) == pytest.approx(whole, abs=1e-6)


def test_a_named_set_at_another_size() -> None:
    digits, large = load("digits"), load("digits", "test", image_size=48)
    assert large.image_shape == (3, 48, 48)
    assert large.tensors([3])[0].shape == (1, 3, 48, 48)
    assert large.fingerprint != digits.fingerprint
    assert load("digits", "test", image_size=32).fingerprint == digits.fingerprint
    flat = torch.full((2, 3, 9, 9), 77, dtype=torch.uint8)
    assert torch.equal(scaled(flat, 5), torch.full((2, 3, 5, 5), 77, dtype=torch.uint8))
