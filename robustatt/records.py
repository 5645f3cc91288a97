"""The store of results: one Parquet file a Cell, named by the Cell's key, with a checksum over every byte.

A file that exists is whole (written under a temporary name, synced, renamed). One that was altered since is found
by its checksum, moved aside and computed again. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustatt.errors import InputError
from robustatt.plan import write_atomically

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "model": "string", "attack": "string", "eps": "string", "index": "int64", "label": "int64",
    "clean_pred": "int64", "adv_pred": "int64", "clean_margin": "float32", "adv_margin": "float32",
    "distance": "float32", "attacked": "bool", "zero_grad": "bool",
}  # fmt: skip
_CHECKSUM = b"robustatt.sha256"
_BLANK = b"0" * 64


def encode(columns: dict[str, Any]) -> bytes:
    """Columns (arrays of one length) as the bytes of a Parquet file that carries its own checksum.

    The checksum is the sha256 of the file with the checksum's place filled with zeros.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: pa.array(values, type=_type(name)) for name, values in columns.items()}
    table = pa.table(arrays)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_CHECKSUM: _BLANK})
    blank = buffer.getvalue()
    place = _place(blank, _BLANK)
    return blank[:place] + hashlib.sha256(blank).hexdigest().encode() + blank[place + 64 :]


def is_whole(content: bytes) -> bool:
    """Whether the bytes of a records file are exactly those that were written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(pa.BufferReader(content)).metadata or {}
        checksum = metadata[_CHECKSUM]
        place = _place(content, checksum)
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return False
    blank = content[:place] + _BLANK + content[place + 64 :]
    return hashlib.sha256(blank).hexdigest().encode() == bytes(checksum)


def _place(content: bytes, checksum: bytes) -> int:
    place = content.rindex(_CHECKSUM)
    return content.index(checksum, place)


def _type(column: str) -> Any:
    import pyarrow as pa

    return pa.type_for_alias(COLUMNS.get(column, "float32"))


class Store:
    """The records folder of a sweep. Several processes may use one: a Cell computed twice is the same bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: files that were altered or cut short and were moved aside, for the user to be told
        self.moved_aside: list[Path] = []

    def prepare(self) -> None:
        """Make the folder; InputError if it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / ".writable", b"")
            (self.folder / ".writable").unlink(missing_ok=True)
        except OSError as problem:
            raise InputError(
                f"--out: cannot write to {self.folder.parent} ({problem.strerror}): give a folder you may write to"
            ) from None

    def path(self, key: str) -> Path:
        """Where the records of a Cell lie."""
        return self.folder / f"{key}.parquet"

    def has(self, key: str) -> bool:
        """Whether the Cell's records are there and whole; a damaged file is moved aside."""
        path = self.path(key)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as problem:
            raise InputError(f"records {path}: cannot be read ({problem.strerror})") from None
        if is_whole(content):
            return True
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        self.moved_aside.append(aside)
        return False

    def put(self, key: str, columns: dict[str, Any]) -> None:
        """Write the records of a Cell."""
        write_atomically(self.path(key), encode(columns))

    def read(self, keys: Iterable[str]) -> pd.DataFrame:
        """The records of those Cells that are there and whole, in the order of the keys."""
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [pq.read_table(self.path(key)) for key in keys if self.has(key)]
        if not tables:
            return pd.DataFrame(
                {name: pd.Series(dtype="object" if kind == "string" else kind) for name, kind in COLUMNS.items()}
            )
        frame: pd.DataFrame = (
            pa.concat_tables(tables, promote_options="default").replace_schema_metadata(None).to_pandas()
        )
        return frame
