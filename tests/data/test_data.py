"""The fixed split of the digits, and every loader: content, stable order, errors that name the file."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from paths import SHARED
from PIL import Image

from robustatt import data
from robustatt.data import Source, TensorDataset
from robustatt.data.listing import listing
from robustatt.data.views import Resized, Sample, stratified
from robustatt.errors import InputError

real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development data next to the repository")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "cache"))


def picture(seed: int, size: tuple[int, int] = (12, 10), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An encoded image of random pixels; ``size`` is width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def pixels_of(content: bytes) -> torch.Tensor:
    image = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    return torch.from_numpy(image).permute(2, 0, 1)


def image_folder(root: Path) -> Path:
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for place in range(3):
            (root / name / f"{place}.png").write_bytes(picture(10 * label + place))
    return root


def parquet(path: Path, labels: object, images: list[object] | None = None, names: list[str] | None = None) -> Path:
    path.mkdir(exist_ok=True)
    count = len(labels)  # type: ignore[arg-type]
    images = images or [{"bytes": picture(i), "path": None} for i in range(count)]
    table = pa.table({"img": images, "label": labels})
    if names:
        feature = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    pq.write_table(table, path / "test-00000-of-00001.parquet", row_group_size=2)
    return path


def test_the_split_of_the_digits_is_fixed() -> None:
    test, train = data.load("digits"), data.load("digits", "train")
    assert (len(train), len(test)) == (1297, 500)
    assert test.image_shape == (3, 32, 32)
    assert test.classes == tuple("0123456789")
    assert test.fingerprint == "bcdb6ae1a2c06e6d5733c1ed61153b392b8749aa52caeffe8f57093cdf2d6498"
    assert train.fingerprint == "ec063ee4db465ad62d7e344ee310e509ce21c902f9dfad19588ad5d16ea36b52"
    images, labels = test.tensors([3, 0, 3])
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(images[0], images[2])
    assert torch.equal(images[1], test.tensors(range(1))[0][0])
    assert torch.equal(test.tensors(slice(0, 500))[1].bincount(), torch.full((10,), 50))
    for wrong in ([500], [-1]):
        with pytest.raises(IndexError, match="indices 0 to 499"):
            test.tensors(wrong)


def test_batches_are_the_set_in_order() -> None:
    test = data.load("digits")
    parts = [labels for _, labels in test.batches(128)]
    assert [len(part) for part in parts] == [128, 128, 128, 116]
    assert torch.equal(torch.cat(parts), test.tensors(range(500))[1])


def test_tensors_keep_their_type() -> None:
    floats = torch.rand(4, 3, 5, 6)
    made = TensorDataset(floats, [0, 1, 2, 1])
    assert made.classes == ("0", "1", "2")
    assert made.image_shape == (3, 5, 6)
    assert torch.equal(made.tensors([1])[0], floats[1:2])
    assert made.fingerprint != TensorDataset((floats * 255).to(torch.uint8), [0, 1, 2, 1]).fingerprint
    assert made.fingerprint != TensorDataset(floats, [0, 1, 2, 0]).fingerprint


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (torch.rand(4, 5, 6), [0] * 4, "shape"),
        (torch.rand(4, 3, 5, 6) * 255, [0] * 4, "divide by 255"),
        (torch.rand(4, 3, 5, 6) - 0.5, [0] * 4, "normalising"),
        (torch.full((4, 3, 5, 6), torch.nan), [0] * 4, "NaN"),
        (torch.zeros(4, 3, 5, 6, dtype=torch.int64), [0] * 4, "uint8"),
        (torch.rand(4, 3, 5, 6), [0] * 3, "one an image"),
        (torch.rand(4, 3, 5, 6), [0, 1, -2, 0], "label -2 of image 2"),
        (torch.rand(4, 3, 5, 6), [0.0] * 4, "integers"),
        (torch.rand(0, 3, 5, 6), [], "shape"),
    ],
)
def test_wrong_tensors_are_one_line(images: torch.Tensor, labels: list[int], said: str) -> None:
    with pytest.raises(InputError) as caught:
        TensorDataset(images, labels)
    assert said in str(caught.value)
    with pytest.raises(InputError, match=r"label 2 of image 1 is out of range: 0 to 1"):
        TensorDataset(torch.rand(2, 3, 4, 4), [0, 2], ["a", "b"])


def test_image_folder(tmp_path: Path) -> None:
    made = data.load(image_folder(tmp_path / "set"))
    assert made.classes == ("ant", "bee")
    assert made.image_shape == (3, 10, 12)
    images, labels = made.tensors(range(6))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    for place, seed in enumerate((0, 1, 2, 10, 11, 12)):
        assert torch.equal(images[place], pixels_of(picture(seed)))
    assert torch.equal(made.tensors([4])[0][0], images[4])
    square = data.load(tmp_path / "set", image_size=8)
    assert square.tensors([0])[0].shape == (1, 3, 8, 8)
    assert square.fingerprint != made.fingerprint


def test_split_folders(tmp_path: Path) -> None:
    image_folder(tmp_path / "set" / "val")
    assert len(data.load(tmp_path / "set")) == 6
    with pytest.raises(InputError, match="no folder 'train', only val"):
        data.load(tmp_path / "set", "train")
    image_folder(tmp_path / "plain")
    with pytest.raises(InputError, match="nothing to train on"):
        data.load(tmp_path / "plain", "train")


def test_the_hash_of_files_is_kept_until_one_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_folder(tmp_path / "set")
    first = data.load(folder).fingerprint
    kept = list((tmp_path / "cache" / "hashes").iterdir())
    assert len(kept) == 1
    monkeypatch.setattr("robustatt.data.encoded.EncodedDataset._survey", lambda _: pytest.fail("computed again"))
    assert data.load(folder).fingerprint == first
    monkeypatch.undo()
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "cache"))
    (folder / "bee" / "1.png").write_bytes(picture(99) + b"\0")
    assert data.load(folder).fingerprint != first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "file"))
    assert len(data.load(image_folder(tmp_path / "set")).fingerprint) == 64


@pytest.mark.parametrize("content", [b"", b"no image", picture(1)[:200]])
def test_a_corrupt_image_is_named(tmp_path: Path, content: bytes) -> None:
    folder = image_folder(tmp_path / "set")
    (folder / "bee" / "1.png").write_bytes(content)
    with pytest.raises(InputError, match=r"bee.1\.png") as caught:
        data.load(folder).tensors(range(6))
    assert "\n" not in str(caught.value)


def test_mixed_sizes_are_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "set")
    (folder / "bee" / "1.png").write_bytes(picture(1, (7, 9)))
    for ask in (lambda made: made.tensors(range(6)), lambda made: made.fingerprint):
        with pytest.raises(InputError, match=r"bee.1\.png is 7x9 and the first image 12x10: give --input-size"):
            ask(data.load(folder))
    assert data.load(folder, image_size=6).tensors(range(6))[0].shape == (6, 3, 6, 6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "no class folders"),
        (lambda path: (path / "ant").mkdir(parents=True), "no images"),
        (lambda path: path.write_text("text"), "is not a data set"),
        (lambda _: None, "neither a name nor a path"),
    ],
)
def test_a_path_that_is_no_data(tmp_path: Path, make: object, said: str) -> None:
    make(tmp_path / "set")  # type: ignore[operator]
    with pytest.raises(InputError, match=said):
        data.load(tmp_path / "set")


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        data.load("cifr10")
    with pytest.raises(InputError, match="did you mean 'train'"):
        data.load("digits", "trian")


def test_the_list_gives_sizes_and_hashes_of_what_is_here(tmp_path: Path) -> None:
    rows = {(row.name, row.split): row for row in listing([], tmp_path / "nothing")}
    assert {name for name, _ in rows} == set(data.SOURCES)
    assert rows["digits", "test"].images == "500"
    assert data.load("digits").fingerprint.startswith(rows["digits", "test"].fingerprint)
    assert rows["svhn", "train"][2:] == ("73,257", "32x32", "10", "-", "--download or --data-root")
    found = listing([str(image_folder(tmp_path / "set"))])
    assert [row[1:5] for row in found] == [("test", "6", "10x12", "2")]
    with pytest.raises(InputError, match="neither a name nor a path"):
        listing(["no_such"])


def test_a_sample_is_stratified_and_keeps_its_indices() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    chosen = stratified(labels, 20, 5)
    assert labels[chosen].bincount().tolist() == [12, 6, 2]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(chosen, stratified(labels, 20, 5))
    assert not torch.equal(chosen, stratified(labels, 20, 6))
    assert torch.equal(stratified(labels, 100, 0), torch.arange(100))
    assert labels[stratified(labels, 7, 0)].bincount().sum() == 7
    for wrong in (0, 101):
        with pytest.raises(InputError, match=f"--sample {wrong}"):
            stratified(labels, wrong, 0)
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    whole = TensorDataset(images, labels)
    part = Sample(whole, chosen)
    assert len(part) == 20
    assert part.tensors(range(20))[0][:, 0, 0, 0].tolist() == chosen.tolist()
    assert torch.equal(part.original(range(20)), chosen)
    assert part.fingerprint != whole.fingerprint != Sample(whole, chosen[:-1]).fingerprint
    with pytest.raises(IndexError):
        part.tensors([20])


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    for name, mode in (("1.png", "L"), ("2.png", "RGBA"), ("3.png", "P")):
        (folder / name).write_bytes(picture(3, mode=mode))
    images, _ = data.load(tmp_path / "set").tensors(range(3))
    assert images.shape == (3, 3, 10, 12)
    assert torch.equal(images[0, 0], images[0, 2])


def test_parquet(tmp_path: Path) -> None:
    made = data.load(parquet(tmp_path / "set", [1, 0, 2, 2, 1], names=["x", "y", "z"]))
    assert made.classes == ("x", "y", "z")
    images, labels = made.tensors([4, 0, 3])
    assert labels.tolist() == [1, 1, 2]
    for place, seed in enumerate((4, 0, 3)):
        assert torch.equal(images[place], pixels_of(picture(seed)))
    assert len(made.fingerprint) == 64
    assert len(data.load(tmp_path / "set" / "test-00000-of-00001.parquet")) == 5
    with pytest.raises(InputError, match="no train files, only test"):
        data.load(tmp_path / "set", "train")


def test_a_named_set_is_also_read_from_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From ROOT/NAME, if the sizes are those of the set and torchvision's files are not there."""
    squares: list[object] = [{"bytes": picture(i, (12, 12)), "path": None} for i in range(5)]
    path = parquet(tmp_path / "cifar100", [1, 0, 2, 2, 1], squares, names=["x", "y", "z"])
    with pytest.raises(InputError, match="no whole copy of cifar100"):
        data.load("cifar100", root=tmp_path)
    monkeypatch.setitem(data.SOURCES, "cifar100", Source("cifar100", "", 5, 5, 12, 3))
    found = data.load("cifar100", root=tmp_path)
    assert (found.name, len(found), found.fingerprint) == ("cifar100", 5, data.load(path).fingerprint)


def test_parquet_of_raw_bytes_and_named_labels(tmp_path: Path) -> None:
    path = parquet(tmp_path / "set", ["cat", "ant", "cat"], [picture(i) for i in range(3)])
    made = data.load(path, label_column="label")
    assert made.classes == ("ant", "cat")
    assert made.tensors(range(3))[1].tolist() == [1, 0, 1]


def test_parquet_over_several_files_keeps_the_order(tmp_path: Path) -> None:
    for part in range(3):
        table = pa.table({"image": [picture(10 * part + i) for i in range(3)], "label": [part] * 3})
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "set" / f"test-{part}.parquet", row_group_size=2)
    made = data.load(tmp_path / "set")
    images, labels = made.tensors(range(9))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(images[5], pixels_of(picture(12)))


def test_the_source_of_an_image_is_its_file(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "set")
    made = data.load(folder)
    assert [made.source(index) for index in range(6)] == [f"{name}/{k}.png" for name in ("ant", "bee") for k in range(3)]
    assert Sample(made, torch.tensor([1, 4])).source(1) == "bee/1.png"
    assert Resized(made, 6).source(3) == "bee/0.png"
    for part in (1, 2):
        table = pa.table({"image": [picture(10 * part + i) for i in range(part)], "label": [part] * part})
        (tmp_path / "rows").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "rows" / f"test-{part}.parquet", row_group_size=1)
    rows = data.load(tmp_path / "rows")
    said = [rows.source(index) for index in range(3)]
    assert said == ["test-1.parquet row 0", "test-2.parquet row 0", "test-2.parquet row 1"]
    assert data.load("digits").source(0) is None


def test_wrong_parquet_names_the_file(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"labels": [0, None, 1]}, r"00001\.parquet row 1: the label in column label is missing"),
        (
            {"labels": [0, 5, 1], "names": ["a", "b"]},
            r"row 1: label 5 in column label is out of range \(0 to 1\)",
        ),
        ({"labels": [0, -1, 1]}, r"row 1: label -1"),
        ({"labels": [0.5, 1.0, 2.0]}, "no label column found"),
        ({"labels": [0, 1], "images": ["text", "text"]}, "not encoded images"),
    ]
    for place, (arguments, said) in enumerate(cases):
        path = parquet(tmp_path / f"set{place}", **arguments)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said):
            data.load(path)
    broken = parquet(tmp_path / "broken", [0, 1], [{"bytes": picture(0)}, {"bytes": b"junk"}])
    with pytest.raises(InputError, match=r"00001\.parquet row 1 is not an image"):
        data.load(broken).tensors(range(2))
    file = next(broken.iterdir())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a complete Parquet file"):
        data.load(broken)


def test_the_label_column_must_be_clear(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    columns = {"img": [picture(0)] * 2, "fine_label": [0, 1], "coarse": [1, 1]}
    pq.write_table(pa.table(columns), tmp_path / "set" / "a.parquet")
    assert data.load(tmp_path / "set").tensors([1])[1].item() == 1
    pq.write_table(pa.table({"img": columns["img"], "one": [0, 1], "two": [1, 1]}), tmp_path / "set" / "a.parquet")
    with pytest.raises(InputError, match="several could be: one, two"):
        data.load(tmp_path / "set")
    assert data.load(tmp_path / "set", label_column="two").tensors([0])[1].item() == 1
    with pytest.raises(InputError, match="did you mean 'two'"):
        data.load(tmp_path / "set", label_column="twoo")


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    np.savez(path, x_test=pixels, y_test=np.arange(5, dtype=np.uint8))
    made = data.load(path)
    assert made.image_shape == (3, 28, 28)
    assert torch.equal(made.tensors([2])[0][0, 1], torch.from_numpy(pixels[2]))
    assert data.load(path, image_size=32).image_shape == (3, 32, 32)
    with pytest.raises(InputError, match="no array images for train"):
        data.load(path, "train")
    colour = np.zeros((2, 3, 8, 9), dtype=np.uint8)
    np.savez(path, images=colour, labels=np.array([0, 1]))
    assert data.load(path).image_shape == (3, 8, 9)


def test_wrong_npz_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    good = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    for arrays, said in (
        ({"images": good}, "no array labels"),
        ({"images": good.astype(np.float32), "labels": [0, 1]}, "uint8 is needed"),
        ({"images": good, "labels": [0, -1]}, "label -1 of image 1"),
        ({"images": good, "labels": [0.5, 1]}, "integers"),
        ({"images": good[0, 0], "labels": [0, 1]}, "have shape"),
        ({"images": good, "labels": [0, 1, 1]}, "one an image"),
        ({"images": np.array([{}, {}]), "labels": [0, 1]}, "plain arrays"),
    ):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said) as caught:
            data.load(path)
        assert str(path) in str(caught.value)
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match=r"set\.npz is not a complete \.npz file"):
        data.load(path)


def test_a_missing_download_says_both_ways(tmp_path: Path) -> None:
    for name in ("cifar10", "cifar100", "svhn", "stl10"):
        with pytest.raises(InputError, match="--download") as caught:
            data.load(name, root=tmp_path)
        assert "--data-root" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_cifar10_from_torchvisions_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels, "labels": [3, 1, 0, 9]}))
    names = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    made = data.load("cifar10", root=tmp_path)
    assert made.classes == tuple(names)
    images, labels = made.tensors(range(4))
    assert labels.tolist() == [3, 1, 0, 9]
    assert torch.equal(images, torch.from_numpy(pixels).view(4, 3, 32, 32))


@real
def test_real_parquet() -> None:
    birds = data.load(SHARED / "cub20", image_size=80)
    assert (len(birds), len(birds.classes), birds.image_shape) == (585, 20, (3, 80, 80))
    images, labels = birds.tensors([584, 0])
    assert images.float().std() > 20
    assert labels.tolist() == [19, 0]
    with pytest.raises(InputError, match="give --input-size"):
        data.load(SHARED / "cub20").tensors(range(10))
    with pytest.raises(InputError, match="no label column"):
        data.load(SHARED / "ecssd")


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a" / "1.jpg")
    content = (tmp_path / "a" / "1.jpg").read_bytes()
    (tmp_path / "a" / "1.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"1\.jpg is a damaged image"):
        data.load(str(tmp_path)).tensors([0])
