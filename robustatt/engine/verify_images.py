"""Are the adversarial examples that a sweep saved what its records say? Judged afresh, without the attack that made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from robustatt.attack.norms import NORMS, TOLERANCE
from robustatt.data.dataset import Dataset
from robustatt.engine.evidence import ResultsFolder
from robustatt.engine.statement import FALSE, MARGIN_TOLERANCE, TRUE, Statement
from robustatt.engine.worker import automatic_batch_size
from robustatt.eps import CLEAN, parse_radius
from robustatt.errors import InputError
from robustatt.evaluate.cell import load_images
from robustatt.evaluate.classifier import Classifier
from robustatt.plan import Cell, images_of
from robustatt.plan.saved_images import CellImages
from robustatt.results.images import INDEX_FILE, SAVED_COLUMNS, ImageFile, ImageStore, as_index, index_rows
from robustatt.results.records import Store

DISTANCE_TOLERANCE = 1e-5
"""How far a distance may lie from the recorded one, absolute below 1 and relative above: the record's was measured before the
last rounding into the box."""

LOGIT_ROUNDING = 1e-5
"""How far a margin may lie from the recorded one at least, in shares of the largest clean margin: images at the very boundary have
margins that are small beside the logits, which round by some 1e-6 of themselves."""

NAMED = 3
"""Rows that a finding names."""

ROW = ["model", "attack", "eps", "index"]
"""What says which row of the records an image is behind."""


@dataclass(frozen=True)
class SavedExamples:
    """The saved images of a results folder by Cell, its records, and what was found without data and models."""

    files: Mapping[Cell, ImageFile]
    records: pd.DataFrame
    stated: tuple[Statement, ...]

    @staticmethod
    def of(folder: ResultsFolder, directory: Path) -> SavedExamples:
        """Read what was saved and hold files, index and records against each other; nothing is stated if nothing was to be saved.

        Raises:
            InputError: the images are of another format.
        """
        where = folder.bound.records or directory / "records"
        store, records = ImageStore(where, read_only=True), Store(where, read_only=True)
        cells = list(folder.bound.cells())
        files = {cell: file for cell in cells if (file := store.read(cell.key)) is not None}
        wanted = {cell: asked for cell in cells if (asked := images_of(folder.bound.plan, cell)) is not None}
        if not (files or wanted or store.place.names()):
            return SavedExamples({}, folder.records, ())
        wrong = [*_lost(files, wanted, store), *_index_mistakes(files, store)]
        for cell, file in files.items():
            wrong += _row_mistakes(cell, file, records.read([cell.key]))
        images = sum(len(file.rows) for file in files.values())
        finding = f"{images:,} in {len(files)} files, whole; they, {INDEX_FILE} and the records say the same of each"
        stated = [Statement("saved images", FALSE, mistake) for mistake in wrong] or [Statement("saved images", TRUE, finding)]
        return SavedExamples(files, folder.records, tuple(stated))

    def judged(self, model: str, classifier: Classifier, dataset: Dataset) -> Iterator[Statement]:
        """For each attack on a model whether every saved image is inside ball and box, and what the model says of it."""
        mine = {cell: file for cell, file in self.files.items() if cell.model == model}
        for attack in dict.fromkeys(cell.attack.name for cell in mine):
            what = f"images of {model} under {attack}"
            cells = {cell: file for cell, file in mine.items() if cell.attack.name == attack}
            found = pd.concat([_judge(cell, file, classifier, dataset) for cell, file in cells.items()], ignore_index=True)
            untrue = found[found["mistake"] != ""]
            if len(untrue):
                yield Statement(what, FALSE, f"{len(untrue):,} of {len(found):,} are not what their rows say: {_named(untrue)}")
            else:
                yield Statement(
                    what,
                    TRUE,
                    f"{len(found):,} inside ball and box, predicted {_how(found)}; {self._proved(model, attack, found)}",
                )

    def _proved(self, model: str, attack: str, found: pd.DataFrame) -> str:
        """How many of the rows that an attack broke are proved by an image in their ball; balls are nested."""
        rows = self.records[(self.records["model"] == model) & (self.records["attack"] == attack)]
        broken = rows[(rows["clean_pred"] == rows["label"]) & (rows["adv_pred"] != rows["label"])]
        fooling = found[(found["clean_pred"] == found["label"]) & (found["adv_pred"] != found["label"])]
        smallest = _radii(fooling["eps"]).groupby(fooling["index"]).min()
        proved = _radii(broken["eps"]) >= broken["index"].map(smallest)
        return f"they prove {int(proved.sum()):,} of the {len(broken):,} rows recorded as broken"


def _radii(texts: pd.Series) -> pd.Series:
    return texts.map({text: float(parse_radius(text)) for text in texts.unique()}).astype(float)


def _how(found: pd.DataFrame) -> str:
    if found["exact"].all():
        return "as recorded to the bit"
    close = int(found["close"].sum())
    said = f", {close:,} of them within rounding of the boundary" if close else ""
    return f"as recorded, margins to rounding{said}"


def _named(untrue: pd.DataFrame) -> str:
    said = [
        f"example {row.index_} at {row.eps} {row.mistake}"
        for row in untrue.rename(columns={"index": "index_"})[:NAMED].itertuples()
    ]
    return ", ".join(said) + (", ..." if len(untrue) > NAMED else "")


def _lost(files: Mapping[Cell, ImageFile], wanted: Mapping[Cell, CellImages], store: ImageStore) -> Iterator[str]:
    """Files that are damaged, are not there, or hold less than the plan asked for."""
    if store.damaged:
        names = ", ".join(path.name for path in store.damaged[:NAMED])
        yield f"{len(store.damaged)} files were altered or cut short since they were written: {names}"
    damaged = {path.stem for path in store.damaged}
    missing = [str(cell) for cell in wanted if cell not in files and cell.key not in damaged]
    if missing:
        yield f"{len(missing)} of {len(wanted)} files are missing: {', '.join(missing[:NAMED])}"
    less = [str(cell) for cell, images in wanted.items() if cell in files and not files[cell].asked.covers(images)]
    if less:
        yield f"{len(less)} of {len(wanted)} files hold less than plan.toml asks for: {', '.join(less[:NAMED])}"


def _index_mistakes(files: Mapping[Cell, ImageFile], store: ImageStore) -> Iterator[str]:
    """Where the index is not that of the files."""
    try:
        stored = store.index()
    except InputError as problem:
        yield str(problem)
        return
    if stored is None:
        yield f"{INDEX_FILE} is missing"
        return
    tables = [index_rows(cell.key, file) for cell, file in files.items()]
    if as_index([stored]) == as_index(tables):
        return
    if not tables or len(stored) != sum(map(len, tables)):
        yield f"{INDEX_FILE} lists {len(stored):,} images, the files hold {sum(map(len, tables)):,}"
        return
    mine = pd.concat(tables, ignore_index=True)
    differing = pd.DataFrame({name: stored[name].to_numpy() != mine[name].to_numpy() for name in mine})
    row = int(differing.any(axis=1).to_numpy().argmax())
    column = str(differing.columns[int(differing.iloc[row].to_numpy().argmax())])
    yield (
        f"{INDEX_FILE} does not agree with the files in {int(differing.any(axis=1).sum()):,} rows: {column} of row {row} is "
        f"{mine[column].iloc[row]} in the file and {stored[column].iloc[row]} there"
    )


def _row_mistakes(cell: Cell, file: ImageFile, records: pd.DataFrame) -> Iterator[str]:
    """Where the rows of a file are not those that the Cell's records ask for."""
    first = records["index"].drop_duplicates().iloc[: file.asked.examples]
    mine = records[records["index"].isin(first) & (records["eps"] != CLEAN)]
    wrong = mine[(mine["clean_pred"] == mine["label"]) & (mine["adv_pred"] != mine["label"])]
    thresholds = wrong.loc[_radii(wrong["eps"]).groupby(wrong["index"]).idxmin()]
    expected = pd.concat([mine[mine["eps"].isin(file.asked.radii)], thresholds]).drop_duplicates(ROW)
    both = expected[list(SAVED_COLUMNS)].merge(file.rows, on=ROW, how="outer", suffixes=("", "_there"), indicator=True)
    if len(file.rows) != len(file.rows.drop_duplicates(ROW)):
        yield f"{cell}: an image is there twice"
    for side, said in (("left_only", "missing"), ("right_only", "no images that the records ask for")):
        some = both[both["_merge"] == side]
        if len(some):
            yield f"{cell}: {len(some):,} images are {said}: example {some['index'].iloc[0]} at {some['eps'].iloc[0]}"
    common = both[both["_merge"] == "both"]
    for name in SAVED_COLUMNS[len(ROW) :]:
        differing = common[common[name] != common[f"{name}_there"]]
        if len(differing):
            first = differing.iloc[0]
            yield (
                f"{cell}: {name} differs from the records in {len(differing):,} rows: example {first['index']} at {first['eps']} "
                f"has {first[name]} in the records and {first[f'{name}_there']} beside its image"
            )


def _judge(cell: Cell, file: ImageFile, classifier: Classifier, dataset: Dataset) -> pd.DataFrame:
    """The rows of a file with `mistake` (empty if the row is true), and whether it is `exact` or `close` to the boundary."""
    rows = file.rows.copy()
    mistake, exact, close = np.full(len(rows), "", dtype=object), np.ones(len(rows), bool), np.zeros(len(rows), bool)
    place_of = {int(index): place for place, index in enumerate(dataset.original(range(len(dataset))).tolist())}
    images, size = torch.from_numpy(file.images()), automatic_batch_size(dataset.image_shape, classifier.device)
    known = rows["index"].isin(place_of.keys()).to_numpy()
    mistake[~known] = "is not in the data"
    if file.shape != tuple(dataset.image_shape):
        mistake[:], known = f"has the shape {'x'.join(map(str, file.shape))}", np.zeros(len(rows), bool)
    norm = NORMS["linf" if cell.attack.unbounded else cell.attack.norm]
    for chunk in (np.flatnonzero(known)[start : start + size] for start in range(0, int(known.sum()), size)):
        mine = rows.iloc[chunk]
        clean, label = load_images(dataset, [place_of[int(index)] for index in mine["index"]], classifier)
        image, index = images[chunk].to(classifier.device), torch.tensor(mine["index"].tolist()).to(classifier.device)
        outside = ~torch.isfinite(image).flatten(1).all(1) | (image.flatten(1).amin(1) < 0) | (image.flatten(1).amax(1) > 1)
        distance = norm.norm(image.double() - clean.double())
        fresh = classifier.predict(image.nan_to_num(0.0, 0.0, 0.0).clamp(0.0, 1.0), label, index)
        unattacked = classifier.predict(clean, label, index)
        values = (outside, distance, label, unattacked.prediction, fresh.prediction, fresh.margin, unattacked.margin)
        mistake[chunk], exact[chunk], close[chunk] = _compared(mine, *(value.cpu().numpy() for value in values))
    return rows.assign(mistake=mistake, exact=exact, close=close)


def _compared(
    rows: pd.DataFrame, outside: np.ndarray, distance: np.ndarray, label: np.ndarray, clean: np.ndarray, prediction: np.ndarray,
    margin: np.ndarray, clean_margin: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Each row against what was found: the first thing that is not true of it, and `exact` and `close` as in `_judge`."""
    radius = _radii(rows["eps"]).to_numpy()
    recorded, then = rows["distance"].to_numpy(np.float64), rows["adv_margin"].to_numpy(np.float64)
    rounding = max(1e-30, MARGIN_TOLERANCE * float(np.abs(margin).max()), LOGIT_ROUNDING * float(np.abs(clean_margin).max()))
    close = (np.abs(margin) <= rounding) & (np.abs(then) <= rounding)
    changed = prediction != rows["adv_pred"].to_numpy()
    mistakes: Sequence[tuple[np.ndarray, list[str]]] = (
        (outside, ["is outside the box"] * len(rows)),
        (~(distance <= radius + TOLERANCE * np.maximum(1, radius)), [f"is {d:.6g} away" for d in distance]),
        (~(np.abs(distance - recorded) <= DISTANCE_TOLERANCE * np.maximum(1, recorded)),
         [f"is {d:.6g} away, not {r:.6g}" for d, r in zip(distance, recorded, strict=True)]),
        (label != rows["label"].to_numpy(), [f"is of class {value}" for value in label]),
        (clean != rows["clean_pred"].to_numpy(), [f"is taken for class {value} when clean" for value in clean]),
        (changed & ~close, [f"is taken for class {new}, not {old}" for new, old in zip(prediction, rows["adv_pred"], strict=True)]),
        (~(np.abs(margin - then) <= rounding), [f"has margin {new:.6g}, not {old:.6g}" for new, old in zip(margin, then, strict=True)]),
    )  # fmt: skip
    mistake = np.full(len(rows), "", dtype=object)
    for untrue, said in reversed(mistakes):
        mistake[untrue] = np.array(said, dtype=object)[untrue]
    exact = ~changed & (margin.astype(np.float32) == rows["adv_margin"].to_numpy(np.float32))
    return mistake, exact, changed & close
