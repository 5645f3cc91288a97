"""The store: whole files only, and every altered byte is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


def test_nothing_read_is_an_empty_frame_with_the_columns(tmp_path: Path) -> None:
    frame = Store(tmp_path).read(["none"])
    assert frame.empty
    assert "adv_pred" in frame.columns


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        Store(tmp_path / "file" / "records").prepare()
