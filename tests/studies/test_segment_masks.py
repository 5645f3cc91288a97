"""Images with masks: both layouts, in order, in bounded memory; every mistake named with its file and remedy."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from robustatt.errors import InputError
from robustatt.studies.segment.masks import MaskedImages, batches, open_masked, survey


def picture(index: int, size: tuple[int, int] = (20, 12)) -> Image.Image:
    rng = np.random.default_rng(index)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def object_mask(size: tuple[int, int] = (20, 12)) -> np.ndarray:
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[3:8, 4:12] = 255
    return mask


def png(image: Image.Image | np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path: Path, rows: list[tuple[Any, Any]], group: int = 3) -> None:
    cells = [{"img": {"bytes": image, "path": None}, "mask": {"bytes": mask, "path": None}} for image, mask in rows]
    pq.write_table(pa.Table.from_pylist(cells), path, row_group_size=group)


def rows(count: int, size: Callable[[int], tuple[int, int]] = lambda _: (20, 12)) -> list[tuple[bytes, bytes]]:
    return [(png(picture(i, size(i))), png(object_mask(size(i)))) for i in range(count)]


def test_parquet_rows_come_in_order_with_their_indices(tmp_path: Path) -> None:
    parquet(tmp_path / "a-0.parquet", rows(7))
    parquet(tmp_path / "a-1.parquet", rows(4))
    source = open_masked(tmp_path)
    assert len(source) == 11
    found = list(source.read([0, 5, 6, 7, 10]))
    assert [example.index for example in found] == [0, 5, 6, 7, 10]
    for example, seed in zip(found, (0, 5, 6, 0, 3), strict=True):
        np.testing.assert_array_equal(example.image, np.asarray(picture(seed)))
        np.testing.assert_array_equal(example.mask, object_mask() > 0)
    assert found[-1].where.endswith("a-1.parquet row 3")


def test_row_groups_without_a_wanted_row_are_not_decoded(tmp_path: Path) -> None:
    broken = rows(9)
    broken[0] = (b"not an image", b"no picture")
    parquet(tmp_path / "x.parquet", broken)
    assert [example.index for example in open_masked(tmp_path / "x.parquet").read([4])] == [4]


def test_two_folders_pair_by_name_whatever_the_ending(tmp_path: Path) -> None:
    for folder in ("images/sub", "masks/sub"):
        (tmp_path / folder).mkdir(parents=True)
    picture(0).save(tmp_path / "images" / "b.jpg")
    picture(1).save(tmp_path / "images" / "sub" / "a.png")
    Image.fromarray(object_mask()).save(tmp_path / "masks" / "b.png")
    Image.fromarray(object_mask() > 0).save(tmp_path / "masks" / "sub" / "a.bmp")
    for source in (open_masked(tmp_path), open_masked(tmp_path / "images", tmp_path / "masks")):
        found = list(source.read(range(len(source))))
        assert [Path(example.where).name for example in found] == ["b.jpg", "a.png"]
        assert all((example.mask == (object_mask() > 0)).all() for example in found)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_every_mode_are_read(tmp_path: Path, mode: str) -> None:
    mask = Image.fromarray(object_mask())
    mask = mask.convert("L").point(lambda value: value // 255) if mode == "P" else mask.convert(mode)
    parquet(tmp_path / "x.parquet", [(png(picture(0)), png(mask))])
    (example,) = open_masked(tmp_path).read([0])
    np.testing.assert_array_equal(example.mask, object_mask() > 0)


def soft() -> np.ndarray:
    mask = object_mask()
    mask[3] = 128
    return mask


BAD_MASKS = {
    "mask of 12x20 pixels and its image has 20x12": object_mask((12, 20)),
    "is not binary: it holds 3 grey levels": soft(),
    "empty mask": np.zeros((12, 20), np.uint8),
    "coloured": np.stack([object_mask(), object_mask(), np.zeros((12, 20), np.uint8)], axis=2),
}


@pytest.mark.parametrize("words", BAD_MASKS)
def test_a_bad_mask_is_named(tmp_path: Path, words: str) -> None:
    good = rows(4)
    parquet(tmp_path / "x.parquet", [*good, (good[0][0], png(BAD_MASKS[words]))])
    source = open_masked(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        survey(source, range(5))
    assert "x.parquet row 4, column mask" in str(caught.value)
    assert survey(source, range(4)).object_share == pytest.approx(40 / 240)  # the others are fine


@pytest.mark.parametrize(("image", "mask", "words"), [
    (None, b"", "row 1 is missing"), (b"x", None, "column mask is missing"), (b"x", b"x", "not an image"),
])  # fmt: skip
def test_a_missing_or_damaged_picture_is_named(tmp_path: Path, image: Any, mask: Any, words: str) -> None:
    parquet(tmp_path / "x.parquet", [*rows(1), (image, mask)])
    with pytest.raises(InputError, match=words):
        survey(open_masked(tmp_path), range(2))


def test_sets_without_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_masked(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    picture(0).save(tmp_path / "images" / "lonely.png")
    with pytest.raises(InputError, match="give --masks DIR"):
        open_masked(tmp_path / "images")
    with pytest.raises(InputError, match=r"lonely\.png has no mask"):
        open_masked(tmp_path)
    pq.write_table(pa.table({"img": [b"x"], "label": [0]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="has no column 'mask'"):
        open_masked(tmp_path)
    with pytest.raises(InputError, match="masks are the column"):
        open_masked(tmp_path, tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match="not a complete Parquet file"):
        open_masked(tmp_path)


class Counted(MaskedImages):
    """Images of some sizes that count how many have been read."""

    name, count = "counted", 0

    def __init__(self, sizes: int) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return 60

    def encoded(self, positions: Sequence[int]) -> Iterator[tuple[int, str, bytes, str, bytes]]:
        for position in positions:
            self.count += 1
            size = (20 + position % self.sizes, 12)
            yield position, "image", png(picture(position, size)), "mask", png(object_mask(size))


def test_batches_are_of_one_size_and_few_images_wait() -> None:
    source, seen, most = Counted(25), list[int](), 0
    for batch in batches(source, range(60), 2):
        most = max(most, source.count - len(seen))
        assert len({example.mask.shape for example in batch}) == 1
        assert 1 <= len(batch) <= 2
        seen += [example.index for example in batch]
    assert sorted(seen) == list(range(60))
    assert most == 16
    assert [len(batch) for batch in batches(Counted(2), range(7), 2)] == [2, 2, 2, 1]


def test_the_survey_hash_is_of_content(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", rows(4), group=2)
    parquet(tmp_path / "y.parquet", rows(4), group=4)
    first, second = (survey(open_masked(tmp_path / name), range(4)) for name in ("x.parquet", "y.parquet"))
    assert first == second
    assert first.object_share == pytest.approx(40 / 240)
    assert survey(open_masked(tmp_path / "x.parquet"), range(3)).fingerprint != first.fingerprint
