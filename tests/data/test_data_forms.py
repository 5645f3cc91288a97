"""Data in the forms that people have: the same images and labels in every form, orders of classes, grey, corruptions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils import data as torch_data

import robustatt
from robustatt import cli, data
from robustatt.data import TensorDataset
from robustatt.data.adopt import adopt
from robustatt.data.labels import read_class_names
from robustatt.data.views import OneChannel, with_class_names
from robustatt.errors import InputError

IMAGES = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (10, 3, 8, 6), dtype=np.uint8))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
PAIRS = list(zip(IMAGES, LABELS, strict=True))
CHANNELS_LAST = [image.permute(1, 2, 0).numpy() for image in IMAGES]


class Stream(torch_data.IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(PAIRS)


class Items(torch_data.Dataset[Any]):
    """Reads count, so that a test sees what is kept."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(PAIRS)

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        return PAIRS[index]


FORMS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (IMAGES, LABELS),
    "dict of tensors": lambda: {"images": IMAGES, "labels": LABELS},
    "list of tensors": lambda: (list(IMAGES), LABELS.tolist()),
    "PIL images": lambda: ([Image.fromarray(image) for image in CHANNELS_LAST], LABELS),
    "list of pairs": lambda: PAIRS,
    "dicts": lambda: [{"image": Image.fromarray(a), "label": int(k)} for a, k in zip(CHANNELS_LAST, LABELS, strict=True)],
    "pixel_values": lambda: [{"pixel_values": image, "labels": int(label)} for image, label in PAIRS],
    "arrays with channels last": lambda: list(zip(CHANNELS_LAST, LABELS.tolist(), strict=True)),
    "torch data set": lambda: torch_data.TensorDataset(IMAGES, LABELS),
    "subset": lambda: torch_data.Subset(torch_data.TensorDataset(IMAGES, LABELS), range(10)),
    "stream": Stream,
    "loader of a stream": lambda: torch_data.DataLoader(Stream(), 4),
    "loader": lambda: torch_data.DataLoader(Items(), 4),
    "loader without batches": lambda: torch_data.DataLoader(Items(), batch_size=None),
    "batches": lambda: [(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])],
    "generator": lambda: ((image, label) for image, label in PAIRS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_data(form: str) -> None:
    found = adopt(FORMS[form]())
    images, labels = found.tensors(range(10))
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)
    assert torch.equal(found.labels, LABELS)
    assert found.fingerprint == TensorDataset(IMAGES, LABELS).fingerprint
    assert torch.equal(found.tensors([7, 2])[0], IMAGES[[7, 2]])
    few = adopt(FORMS[form](), 3)
    assert torch.equal(few.tensors(range(3))[0], IMAGES[:3])


def test_a_shuffling_loader_is_read_in_the_order_of_its_data_set() -> None:
    with pytest.warns(UserWarning, match="shuffles; all 10 images of its data set are evaluated in their own order") as said:
        found = adopt(torch_data.DataLoader(Items(), 4, shuffle=True))
    assert said[0].filename == __file__
    assert torch.equal(found.tensors(range(10))[0], IMAGES)


def test_items_are_read_when_needed_and_not_kept() -> None:
    items = Items()
    found = adopt(items)
    items.reads.clear()
    found.tensors([8])
    assert items.reads == [8]
    assert not any(isinstance(value, Tensor) and value.ndim == 4 for value in vars(found).values())


class Noisy(Items):
    def __getitem__(self, index: int) -> Any:
        return torch.rand(3, 4, 4), 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Noisy(), "another image at each reading: turn random augmentation off"),
        (lambda: torch_data.DataLoader(Items(), sampler=torch_data.WeightedRandomSampler([1.0] * 10, 5)), "Subset"),
        (lambda: (np.stack(CHANNELS_LAST), LABELS), r"images\.transpose\(0, 3, 1, 2\)"),
        (list, "no examples"),
        (lambda: [{"picture": IMAGES[0], "label": 1}], "no image among its keys picture, label"),
        (lambda: [(IMAGES[0], 0), (IMAGES[0][:, :4], 1)], "image 1 is"),
        (lambda: [("a.png", 0)], "image 0 is a str"),
        (lambda: 7, "int is not supported"),
        (lambda: (IMAGES.float() / 255 + 1e-4, LABELS), "must be in"),
        (lambda: (IMAGES, ["a", None] * 5), "must be integers"),
        (lambda: (IMAGES, LABELS + 0.5), "must be integers"),
        (lambda: (IMAGES, 5), "one per image, not a int"),
    ],
)
def test_what_is_not_taken_is_one_line(wrong: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        adopt(wrong())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.int(), LABELS.to(torch.uint8), LABELS.numpy().astype("uint16"), LABELS[:, None], LABELS.tolist(),
        nn.functional.one_hot(LABELS, 3), np.array(LABELS.tolist(), dtype=object), [str(k) for k in LABELS.tolist()],
        list(LABELS),
    ],
)  # fmt: skip
def test_labels_of_every_form(labels: Any) -> None:
    assert torch.equal(TensorDataset(IMAGES, labels).labels, LABELS)


def test_names_as_labels_are_sorted_as_folders_are() -> None:
    found = TensorDataset(IMAGES, np.array(["cat", "ant", "bee", "cat", "ant", "bee", "cat", "ant", "bee", "cat"]))
    assert found.classes == ("ant", "bee", "cat")
    assert found.labels.tolist() == [2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert TensorDataset(IMAGES[:2], ["9", "10"]).labels.tolist() == [9, 10]


def test_images_a_rounding_error_outside_are_inside() -> None:
    images = IMAGES.double() / 255
    found = adopt((images * (1 + 9e-7), LABELS)).tensors(range(10))[0]
    assert float(found.max()) <= 1
    assert float((found - images).abs().max()) < 1e-6


def class_folder(root: Path, names: list[str]) -> Path:
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.fromarray(CHANNELS_LAST[place]).save(root / name / "a.png")
    return root


def test_class_names_give_the_order_of_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = class_folder(tmp_path / "set", ["0", "1", "10", "2"])
    assert data.load(folder).classes == ("0", "1", "10", "2")
    file = tmp_path / "names.txt"
    file.write_text("\n".join(map(str, range(12))) + "\n")
    found = data.load(folder, class_names=read_class_names(file))
    assert found.labels.tolist() == [0, 1, 10, 2]
    assert found.tensors([2])[1].tolist() == [10]
    assert torch.equal(found.tensors([2])[0][0], IMAGES[2])
    assert found.source(2) == "10/a.png"
    assert len(found.classes) == 12
    assert found.fingerprint != data.load(folder).fingerprint
    (tmp_path / "names.json").write_text(json.dumps([*list("0123"), "10"]))
    assert data.load(folder, class_names=read_class_names(tmp_path / "names.json")).labels.tolist() == [0, 1, 4, 2]
    assert cli.main(["data", str(folder), "--class-names", str(file)]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["2", "2", "1"] in shown
    assert ["3", "3", "0"] in shown
    assert cli.main(["data", str(folder)]) == 0
    assert ["2", "10", "1"] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no names"), ("a\n\nb", "line 2 is empty"), ("a\nb\na", "stands in line 1 and 3"), ("[1, 2]", "JSON list")],
)
def test_wrong_class_names_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "names").write_text(text)
    with pytest.raises(InputError, match=said):
        read_class_names(tmp_path / "names")


def test_class_names_must_hold_the_classes_of_the_data(tmp_path: Path) -> None:
    folder = data.load(class_folder(tmp_path / "set", ["cat", "dog"]))
    with pytest.raises(InputError, match=r"class 'dog' of .* is not among the class names: did you mean 'dogs'"):
        with_class_names(folder, ["cat", "dogs"])
    numbers = TensorDataset(IMAGES, LABELS)
    assert with_class_names(numbers, ["x", "y", "z"]).labels.tolist() == LABELS.tolist()
    assert with_class_names(numbers, ["x", "y", "z"]).fingerprint == numbers.fingerprint
    with pytest.raises(InputError, match="2 class names for labels 0 to 2"):
        with_class_names(numbers, ["x", "y"])


WEIGHT = torch.from_numpy(np.random.default_rng(4).normal(size=(1, 8, 8)).astype(np.float32))


class GreyLinear(nn.Module):
    """Two classes of a one-channel image: an L2 radius of |margin| / ||w|| is what it takes, away from the box."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 1, 8, bias=False)
        self.first.weight.data = WEIGHT.expand(1, channels, 8, 8).clone()

    def forward(self, image: Tensor) -> Tensor:
        score = self.first(image).flatten(1)
        return torch.cat([score, -score], 1)


def grey_network() -> nn.Module:
    return GreyLinear()


def grey_file(path: Path) -> tuple[Path, Tensor, Tensor]:
    pixels = np.random.default_rng(5).integers(100, 156, (40, 8, 8), dtype=np.uint8)
    images = torch.from_numpy(pixels).float()[:, None] / 255
    labels = GreyLinear()(images).argmax(1)
    np.savez(path, images=pixels, labels=labels.numpy())
    return path, images, labels


def test_l2_radii_are_those_of_the_one_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line, against the closed form of a linear network."""
    path, images, _ = grey_file(tmp_path / "grey.npz")
    needed = (GreyLinear().first(images).flatten() / WEIGHT.norm()).abs().detach()
    ordered = needed.sort().values[12:28]
    widest = int(ordered.diff().argmax())
    radius = float(ordered[widest : widest + 2].mean())
    arguments = [
        "--model",
        f"{__name__}:grey_network",
        "--data",
        str(path),
        "--eps-unit",
        "1",
        "--eps",
        f"{radius:.6f}",
    ]
    code = cli.main(["sweep", *arguments, "--attack", "pgd-l2", "--out", str(tmp_path / "out")])
    assert code == 0, capsys.readouterr().err
    assert "evaluated on that channel" in capsys.readouterr().out
    points = json.loads((tmp_path / "out" / "summary.json").read_text())["curves"][0]["points"]
    assert points[-1]["accuracy"] == int((needed > radius).sum()) / 40
    assert "channels = 1" in (tmp_path / "out" / "plan.toml").read_text()
    result = robustatt.sweep(GreyLinear(), str(path), attacks=["fgsm"], eps="1")
    assert result.curve("fgsm").accuracy[0] == 1
    assert cli.main(["doctor", *arguments[:4]]) == 0


def test_colour_is_not_thrown_away() -> None:
    with pytest.raises(InputError, match="image 4 of tensors has colour"):
        OneChannel(TensorDataset(IMAGES, LABELS)).tensors([4])
    with pytest.raises(InputError, match="--channels 2"):
        data.load("digits", channels=2)
    one = data.load("digits", channels=1)
    assert one.image_shape == (1, 32, 32)
    assert torch.equal(one.tensors([3])[0][0, 0], data.load("digits").tensors([3])[0][0, 1])


def corruption_folder(root: Path) -> tuple[Path, np.ndarray]:
    root.mkdir()
    fog = np.random.default_rng(6).integers(0, 256, (50, 4, 5, 3), dtype=np.uint8)
    np.save(root / "fog.npy", fog)
    np.save(root / "snow.npy", 255 - fog)
    np.save(root / "labels.npy", np.tile(np.arange(10), 5))
    return root, fog


def test_a_corruption_at_a_severity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "cache"))
    root, fog = corruption_folder(tmp_path / "C")
    for severity in (1, 3, 5):
        found = data.load(f"{root}:fog:{severity}")
        images, labels = found.tensors([2, 9])
        chosen = fog[10 * (severity - 1) + np.array([2, 9])]
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), chosen)
        assert (labels.tolist(), len(found)) == ([2, 9], 10)
        assert found.name.endswith(f"C:fog:{severity}")
        assert data.load(f"{root / 'fog.npy'}:{severity}").fingerprint == found.fingerprint
        whole = torch.from_numpy(fog[10 * (severity - 1) :][:10]).permute(0, 3, 1, 2)
        assert found.fingerprint == TensorDataset(whole, np.arange(10)).fingerprint
    assert data.load(f"{root}:snow:2", image_size=8).image_shape == (3, 8, 8)
    np.save(root / "labels.npy", np.arange(10))
    assert data.load(f"{root}:fog:4").tensors([0])[0][0, 0, 0, 0] == fog[30, 0, 0, 0]
    np.save(root / "labels.npy", np.arange(50) % 7)
    assert len(data.load(f"{root}:fog")) == 50


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("", "holds 2 corruptions: choose one and its severity, such as --data .*:fog:3. Known: fog, snow"),
        (":fgo:3", "no corruption 'fgo': did you mean 'fog'"),
        (":fog", "severities 1 to 5: choose one"),
        (":fog:6", "severities 1 to 5: choose one"),
    ],
)
def test_an_unclear_corruption_lists_what_is_there(tmp_path: Path, choice: str, said: str) -> None:
    root, _ = corruption_folder(tmp_path / "C")
    with pytest.raises(InputError, match=said):
        data.load(f"{root}{choice}")


@pytest.mark.parametrize(("array", "said"), [
    (np.zeros((3, 4, 4, 3), np.uint8), "3 images and labels.npy 50 labels"), (np.zeros((50, 4, 4)), "shape"),
    (np.array([{}], dtype=object), "not a complete .npy file"),
])  # fmt: skip
def test_a_damaged_corruption_is_named(tmp_path: Path, array: np.ndarray, said: str) -> None:
    root, _ = corruption_folder(tmp_path / "C")
    np.save(root / "fog.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=said):
        data.load(f"{root}:fog:1")
