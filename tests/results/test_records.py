"""The store: whole files only, and every altered byte is found."""

from __future__ import annotations

import io
from pathlib import Path, PurePath

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustatt.errors import InputError
from robustatt.results.records import MAX_ROWS, Store, encode, is_whole

COLUMNS = {
    "model": ["m"] * 6, "attack": ["fgsm"] * 6, "eps": ["0/255"] * 3 + ["8/255"] * 3, "index": np.arange(6) % 3,
    "label": np.arange(6), "clean_pred": np.arange(6), "adv_pred": np.arange(6), "clean_margin": np.ones(6, np.float32),
    "adv_margin": np.ones(6, np.float32), "distance": np.zeros(6, np.float32), "attacked": np.ones(6, bool),
    "zero_grad": np.zeros(6, bool), "drift_js_l3": np.linspace(0, 1, 6, dtype=np.float32),
}  # fmt: skip
CONTENT = encode(COLUMNS)


def test_same_columns_are_the_same_bytes() -> None:
    assert encode(COLUMNS) == CONTENT
    assert is_whole(CONTENT)


def test_each_column_has_its_type_and_no_pandas_of_its_own() -> None:
    columns = COLUMNS | {
        "index": [0] * 6,
        "attacked": [True] * 6,
        "distance": [0.0] * 6,
        "broken_by": [""] * 6,
        "drift_iou_l3": [0.5] * 6,
    }
    content = pq.ParquetFile(io.BytesIO(encode(columns)))
    kinds = {
        "string": {"model", "attack", "eps", "broken_by"},
        "int64": {"index", "label", "clean_pred", "adv_pred"},
        "float": {"clean_margin", "adv_margin", "distance", "drift_js_l3", "drift_iou_l3"},
        "bool": {"attacked", "zero_grad"},
    }
    assert {field.name: str(field.type) for field in content.schema_arrow} == {
        name: kind for kind, names in kinds.items() for name in names
    }
    assert set(content.metadata.metadata) == {b"robustatt.sha256"}


def test_a_name_like_the_checksum_stays_as_it_is(tmp_path: Path) -> None:
    """The footer also holds the largest and smallest text of a column, ahead of the checksum."""
    name = "robustatt.sha256" + "0" * 64
    store = Store(tmp_path)
    store.put("a", COLUMNS | {"model": [name] * 6})
    assert store.read(["a"])["model"].tolist() == [name] * 6


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_any_altered_byte_is_found(place: int, change: int) -> None:
    altered = bytearray(CONTENT)
    altered[place] ^= change
    assert not is_whole(bytes(altered))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(CONTENT) - 1))
def test_any_truncation_is_found(length: int) -> None:
    assert not is_whole(CONTENT[:length])


def test_more_rows_than_a_cell_has_are_not_read() -> None:
    """They pack so well that a small file could fill any memory."""
    fitting, bomb = (encode({"index": np.zeros(rows, np.int64)}) for rows in (MAX_ROWS, MAX_ROWS + 1))
    assert len(bomb) < 10_000
    assert is_whole(fitting)
    assert not is_whole(bomb)


def test_a_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    store = Store(tmp_path / "records")
    store.prepare()
    store.put("a", COLUMNS)
    store.put("b", COLUMNS)
    assert store.has("a")
    assert len(store.read(["a", "b"])) == 12
    (tmp_path / "records" / "a.parquet").write_bytes(CONTENT[:-7])
    assert not store.has("a")
    assert [path.name for path in store.moved_aside] == ["a.damaged"]
    assert len(store.read(["a", "b"])) == 6


def test_a_damaged_file_of_a_store_that_is_only_read_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, read_only=True)
    store.put("a", COLUMNS)
    (tmp_path / "a.parquet").write_bytes(CONTENT[:-7])
    assert not store.has("a")
    assert (store.damaged, store.moved_aside) == ([PurePath("a.parquet")], [])
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_what_is_absent_and_what_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in "abc":
        store.put(key, COLUMNS)
    (tmp_path / "b.parquet").write_bytes(CONTENT[:-7])
    assert store.absent(iter(["a", "b", "d"])) == {"d"}
    assert store.missing(iter(["a", "b", "d"])) == {"b", "d"}
    assert store.absent(["b"]) == {"b"}, "moved aside"


def test_a_single_attack_broke_nothing_by_a_part(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a", COLUMNS | {"broken_by": ["pgd"] * 6})
    store.put("b", COLUMNS)
    assert store.read(["b", "a"])["broken_by"].tolist() == [""] * 6 + ["pgd"] * 6


def test_nothing_read_is_an_empty_frame_with_the_columns(tmp_path: Path) -> None:
    frame = Store(tmp_path).read(["none"])
    assert frame.empty
    floats = ["clean_margin", "adv_margin", "distance"]
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        **dict.fromkeys(["model", "attack", "eps"], "object"),
        **dict.fromkeys(["index", "label", "clean_pred", "adv_pred"], "int64"),
        **dict.fromkeys(floats, "float32"),
        **dict.fromkeys(["attacked", "zero_grad"], "bool"),
    }


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        Store(tmp_path / "file" / "records").prepare()
