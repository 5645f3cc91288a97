"""The store of results: one Parquet file a Cell, named by the Cell's key, with a checksum over every byte.

A file that exists is whole (see `places`). One that was altered since is found by its checksum; a sweep moves it aside
and computes it again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustatt.eps import MAX_RADII
from robustatt.plan.cells import APART, CELL_EXAMPLES, Part, part_of
from robustatt.plan.surrogates import MAX_TARGETS
from robustatt.results.storage import RecordStorage, place

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = {
    "model": "string", "attack": "string", "eps": "string", "index": "int64", "label": "int64",
    "clean_pred": "int64", "adv_pred": "int64", "clean_margin": "float32", "adv_margin": "float32",
    "distance": "float32", "attacked": "bool", "zero_grad": "bool",
}  # fmt: skip
TEXT_COLUMNS = ("broken_by", "surrogate")
"""Columns of text that only some rows have: the part of a chain that broke the example, the model that the image was crafted
on; empty for the others."""
MAX_ROWS = CELL_EXAMPLES * (MAX_RADII + 1)
"""Of one model: a file of a few kilobytes can claim a billion rows."""
Columns = Mapping[str, NDArray[Any] | Sequence[str]]
"""The records of a Cell: arrays (or texts) of one length by column."""
_CHECKSUM = b"robustatt.sha256"
_BLANK = b"0" * 64


IMAGES_SUFFIX = "-images"
"""What the folder of saved adversarial examples is called after that of the records."""


def record_folders() -> list[str]:
    """The names of the folders that may hold records beside a sweep's summary."""
    return ["records", *(f"records-{part}" for part in APART), f"records{IMAGES_SUFFIX}"]


def encode(columns: Columns, notes: Mapping[str, str] | None = None, floats: str | None = None) -> bytes:
    """Columns (arrays of one length) as the bytes of a Parquet file that carries its own checksum.

    The checksum is the sha256 of the file with the checksum's place filled with zeros. `notes` go beside it into the footer;
    `floats` names a column that is ``(rows, values)``, a list of float32 in each row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {
        name: _lists(np.asarray(values)) if name == floats else pa.array(values, type=_type(name))
        for name, values in columns.items()
    }
    table = pa.table(arrays)
    buffer = io.BytesIO()
    footer: dict[str | bytes, str | bytes] = {**(notes or {}), _CHECKSUM: _BLANK}  # type: ignore[dict-item]
    split: dict[str, list[str]] = {}
    if floats:
        split = {
            "use_dictionary": [name for name in columns if name != floats],
            "use_byte_stream_split": [f"{floats}.list.element"],
        }
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", store_schema=False, **split) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(footer)
    blank = buffer.getvalue()
    place = _place(blank, _BLANK)
    return blank[:place] + hashlib.sha256(blank).hexdigest().encode() + blank[place + 64 :]


def is_whole(content: bytes, most: int = MAX_ROWS) -> bool:
    """Whether the bytes of a records file are exactly those that were written, and no more rows than a Cell has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(pa.BufferReader(content))
        if footer.num_rows > most:
            return False
        checksum = (footer.metadata or {})[_CHECKSUM]
        place = _place(content, checksum)
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return False
    blank = content[:place] + _BLANK + content[place + 64 :]
    return hashlib.sha256(blank).hexdigest().encode() == bytes(checksum)


def _place(content: bytes, checksum: bytes) -> int:
    place = content.rindex(_CHECKSUM)
    return content.index(checksum, place)


def _lists(values: NDArray[np.float32]) -> Any:
    import pyarrow as pa

    offsets = np.arange(len(values) + 1, dtype=np.int64) * values.shape[1]
    return pa.LargeListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


def _type(column: str) -> Any:
    import pyarrow as pa

    return pa.type_for_alias("string" if column in TEXT_COLUMNS else COLUMNS.get(column, "float32"))


class Store:
    """The records of a sweep, in a folder or at a URL. Many processes may use one: a Cell computed twice is the same bytes.

    Those of the parts in `APART` are in places of their own beside it, so that every row here counts for accuracy.
    """

    def __init__(self, where: Path | str, read_only: bool = False) -> None:
        self.place = place(where)
        self._apart = {part: place(f"{str(where).rstrip('/')}-{part}") for part in APART}
        self._read_only = read_only
        #: files that were altered or cut short and were moved aside, for the user to be told
        self.moved_aside: list[PurePath] = []
        #: files that were altered or cut short and were left where they are, in a store that is only read
        self.damaged: list[PurePath] = []

    def check(self) -> None:
        """InputError if nothing can be written here; leaves nothing behind."""
        self.place.check()

    def prepare(self, parts: Iterable[Part] = ()) -> None:
        """Make the folder, and those of other parts; InputError if one cannot be written to."""
        self.place.prepare()
        for part in parts:
            self._apart[part].prepare()

    def has(self, key: str) -> bool:
        """Whether the Cell's records are there and whole; a damaged file is moved aside."""
        return self.content(key) is not None

    def absent(self, keys: Iterable[str]) -> set[str]:
        """Those keys that have no file."""
        keys = set(keys)
        there = self.place.names()
        for part in {part_of(key) for key in keys} & set(APART):
            there |= self._apart[part].names()
        return {key for key in keys if file_name(key) not in there}

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those keys whose records are not there, or not whole."""
        keys = set(keys)
        absent = self.absent(keys)
        return absent | {key for key in keys - absent if not self.has(key)}

    def put(self, key: str, columns: Columns) -> None:
        """Write the records of a Cell."""
        self.put_encoded(key, encode(columns))

    def put_encoded(self, key: str, content: bytes) -> None:
        """Write what `encode` gave for a Cell."""
        self._place_of(key).put(file_name(key), content)

    def read(self, keys: Iterable[str]) -> pd.DataFrame:
        """The records of those Cells that are there and whole, in the order of the keys."""
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        contents = [content for key in keys if (content := self.content(key)) is not None]
        tables = [pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False) for content in contents]
        if not tables:
            return pd.DataFrame({name: pd.Series(dtype="object" if kind == "string" else kind) for name, kind in COLUMNS.items()})
        frame: pd.DataFrame = pa.concat_tables(tables, promote_options="default").replace_schema_metadata(None).to_pandas()
        for name in set(TEXT_COLUMNS) & set(frame.columns):
            frame[name] = frame[name].fillna("")
        return frame

    def read_columns(self, key: str, columns: Sequence[str]) -> pa.Table | None:
        """Some columns of a Cell, texts as dictionaries; None if it is not there or not whole. Columns it lacks are left out."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = self.content(key)
        if content is None:
            return None
        texts = [name for name in columns if COLUMNS.get(name) == "string"]
        return pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts).read(list(columns), use_threads=False)

    def content(self, key: str) -> bytes | None:
        """The bytes of a Cell's file if it is there and whole; a damaged one is moved aside, or named in `damaged`."""
        try:
            content = self._place_of(key).read(file_name(key))
        except FileNotFoundError:
            return None
        if is_whole(content, MAX_ROWS * (MAX_TARGETS if part_of(key) == "transfer" else 1)):
            return content
        if self._read_only:
            self.damaged.append(PurePath(file_name(key)))
            return None
        aside = f"{key}.damaged"
        self._place_of(key).rename(file_name(key), aside)
        self.moved_aside.append(PurePath(aside))
        return None

    def _place_of(self, key: str) -> RecordStorage:
        return self._apart.get(part_of(key), self.place)


def file_name(key: str) -> str:
    """The name of a Cell's file."""
    return f"{key}.parquet"
