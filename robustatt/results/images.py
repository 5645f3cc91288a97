"""Adversarial examples that a sweep saved: one Parquet file a Cell beside the records, and an index of all of them.

``DIR/records-images/<key>.parquet`` holds a row for each image: columns of the records that say what it is, and
``image``, the float32 values that the model saw, in [0, 1], channel by channel; no bit is lost. Its footer says the shape of an
image, what was asked for, and the format; it carries a checksum as the records do. ``index.csv`` lists the rows of all
files with the file and the place in it.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustatt.eps import parse_radius
from robustatt.errors import InputError
from robustatt.plan.saved_images import CellImages
from robustatt.results.records import IMAGES_SUFFIX, Columns, Store, encode, file_name

if TYPE_CHECKING:
    import pandas as pd

INDEX_FILE = "index.csv"
FORMAT = "1"
IMAGE = "image"
SAVED_COLUMNS = ("model", "attack", "eps", "index", "label", "clean_pred", "adv_pred", "adv_margin", "distance")
"""Columns of the records that stand beside each image."""
INDEX_COLUMNS = (*SAVED_COLUMNS, "file", "row")
_FORMAT, _SHAPE, _ASKED = "robustatt.images", "robustatt.shape", "robustatt.asked"


@dataclass(frozen=True)
class ImageFile:
    """What one file holds.

    `rows` has `SAVED_COLUMNS`; `shape` is that of an image, ``(c, h, w)``; `asked` is what was to be saved.
    """

    rows: pd.DataFrame
    shape: tuple[int, int, int]
    asked: CellImages
    content: bytes

    def images(self) -> NDArray[np.float32]:
        """The images of all rows, ``(rows, c, h, w)``.

        Raises:
            InputError: an image has not the shape that the file says.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        column = pq.read_table(pa.BufferReader(self.content), columns=[IMAGE]).column(IMAGE).combine_chunks()
        flat: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
        if flat.size != len(self.rows) * math.prod(self.shape):
            raise InputError(f"saved images are not of the shape {self.shape} that their file says: run the sweep again")
        return flat.reshape(len(self.rows), *self.shape).copy()


class ImageStore:
    """The saved images of a sweep, beside its records, in a folder or at a URL."""

    def __init__(self, records: Path | str, read_only: bool = False) -> None:
        self._files = Store(f"{str(records).rstrip('/')}{IMAGES_SUFFIX}", read_only)
        self.place = self._files.place

    @property
    def damaged(self) -> list[PurePath]:
        """Files that were altered or cut short: moved aside, or in a store that is only read left where they are."""
        return [*self._files.moved_aside, *self._files.damaged]

    def prepare(self) -> None:
        """Make the folder; InputError if it cannot be written to."""
        self._files.prepare()

    def put(self, key: str, saved: Columns, shape: Sequence[int], asked: CellImages) -> None:
        """Write the images of a Cell: columns `SAVED_COLUMNS` and `image`, each image flat."""
        notes = {
            _FORMAT: FORMAT,
            _SHAPE: json.dumps(list(shape)),
            _ASKED: json.dumps({"examples": asked.examples, "radii": list(asked.radii)}),
        }
        self._files.put_encoded(key, encode(saved, notes, floats=IMAGE))

    def lacking(self, wanted: Mapping[str, CellImages]) -> set[str]:
        """The keys of those Cells of which not everything that is wanted is there and whole.

        Raises:
            InputError: a file is of another format.
        """
        there = self._files.place.names()
        found = {key: self.read(key) if file_name(key) in there else None for key in wanted}
        return {key for key, file in found.items() if file is None or not file.asked.covers(wanted[key])}

    def read(self, key: str) -> ImageFile | None:
        """The file of a Cell, its images undecoded; None if it is not there, or not whole.

        Raises:
            InputError: it is of another format.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = self._files.content(key)
        if content is None:
            return None
        notes = {
            name.decode(): text.decode() for name, text in (pq.read_metadata(pa.BufferReader(content)).metadata or {}).items()
        }
        saved_in = notes.get(_FORMAT, "none")
        try:
            if saved_in != FORMAT:
                raise ValueError(f"format {saved_in}")
            asked = json.loads(notes[_ASKED])
            channels, height, width = json.loads(notes[_SHAPE])
            rows = pq.read_table(pa.BufferReader(content), columns=[*SAVED_COLUMNS]).replace_schema_metadata(None).to_pandas()
            return ImageFile(rows, (channels, height, width), CellImages(int(asked["examples"]), tuple(asked["radii"])), content)
        except (KeyError, TypeError, ValueError, pa.ArrowException):
            raise InputError(
                f"images {self.place}/{file_name(key)}: saved by another version (format {saved_in}, not {FORMAT}): read them with that "
                "version, or move the folder away and run the sweep again"
            ) from None

    def read_all(self, keys: Iterable[str]) -> SavedRows | None:
        """The images of all these Cells that have a file; None if none has."""
        import pandas as pd

        files = [file for key in keys if (file := self.read(key)) is not None]
        if not files:
            return None
        return SavedRows(
            pd.concat([file.rows for file in files], ignore_index=True), np.concatenate([file.images() for file in files])
        )

    def write_index(self, keys: Iterable[str]) -> None:
        """Write the index of the files of these Cells, unless it is there already."""
        tables = [index_rows(key, file) for key in keys if (file := self.read(key)) is not None]
        content = as_index(tables)
        if self._index_bytes() != content:
            self.place.put(INDEX_FILE, content)

    def index(self) -> pd.DataFrame | None:
        """The index as it lies there; None if there is none, InputError if it is none."""
        import pandas as pd

        content = self._index_bytes()
        if content is None:
            return None
        types = {"index": "int64", "label": "int64", "clean_pred": "int64", "adv_pred": "int64", "row": "int64",
                 "adv_margin": "float32", "distance": "float32"}  # fmt: skip
        try:
            table = pd.read_csv(io.BytesIO(content), dtype=dict.fromkeys(INDEX_COLUMNS, "str") | types, keep_default_na=False)
            return table[list(INDEX_COLUMNS)]
        except (ValueError, KeyError, OverflowError):
            raise InputError(f"images {self.place}/{INDEX_FILE} is damaged: run the sweep again to rewrite it") from None

    def _index_bytes(self) -> bytes | None:
        try:
            return self.place.read(INDEX_FILE)
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class SavedRows:
    """Saved images, with their rows of the index in the same order. `rows` has `SAVED_COLUMNS`; `images` is ``(n, c, h, w)``."""

    rows: pd.DataFrame
    images: NDArray[np.float32]

    def of(self, model: str, attack: str, eps: str | None = None) -> SavedRows:
        """Of each example the image saved at that radius, or else the one at its threshold if that is smaller; by example.

        With `eps` None those at the threshold, the smallest radius at which an example is predicted wrong that is right when clean.
        """
        import pandas as pd

        rows = self.rows.reset_index(drop=True)
        rows = rows[(rows["model"] == model) & (rows["attack"] == attack)]
        radii = rows["eps"].map({text: parse_radius(text) for text in rows["eps"].unique()})
        wrong = rows[(rows["clean_pred"] == rows["label"]) & (rows["adv_pred"] != rows["label"])]
        chosen = wrong.assign(order=radii[wrong.index]).sort_values("order", kind="stable").drop_duplicates("index")
        if eps is not None:
            limit = parse_radius(eps)
            own = rows[radii == limit]
            within = chosen[[radius < limit for radius in chosen["order"]]]
            chosen = pd.concat([own, within[~within["index"].isin(own["index"])]])
        places = chosen.sort_values("index").index.to_numpy()
        return SavedRows(rows.loc[places], self.images[places])


def index_rows(key: str, file: ImageFile) -> pd.DataFrame:
    """The rows of one file as the index lists them."""
    return file.rows.assign(file=file_name(key), row=np.arange(len(file.rows)))


def as_index(tables: Sequence[pd.DataFrame]) -> bytes:
    """The bytes of the index of these rows."""
    import pandas as pd

    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(INDEX_COLUMNS))
    return table.to_csv(index=False, lineterminator="\n").encode()
