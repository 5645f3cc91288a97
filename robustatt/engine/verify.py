"""`robustatt verify`: is a results folder what it says? Checksums, summary, data, weights, saved images, a sample run again.

Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from robustatt.attack.recipe import ExternalRecipe
from robustatt.data.dataset import Dataset
from robustatt.engine.evidence import ResultsFolder, read_folder
from robustatt.engine.models import FrozenModels
from robustatt.engine.sources import drawn, load_data, match_channels, model_loader
from robustatt.engine.statement import FALSE, MARGIN_TOLERANCE, TRUE, UNKNOWN, Statement
from robustatt.engine.verify_images import SavedExamples
from robustatt.engine.worker import automatic_batch_size
from robustatt.errors import RobustattError
from robustatt.evaluate.cell import evaluate, positions_of
from robustatt.models.device import choose_device
from robustatt.plan import BoundPlan, Cell, ModelEntry
from robustatt.results.columns import DRIFT_METRICS

MAX_CHANGED = 0.02
"""Share of the attacked rows (and at least one) whose outcome may differ: where an attack ends at the very boundary, rounding
decides. A run with the same kernels differs in none."""

DRIFT_TOLERANCE, DRIFT_ROUNDING = 0.1, 2e-5
"""How far the drift of a map may lie from the recorded one, in shares of it and in bits."""


def verify(directory: Path, sample: int = 8) -> list[Statement]:
    """Hold a results folder against itself, its data and its models, judge its saved images afresh, and run `sample` examples
    of each Cell again.

    Raises:
        InputError: it is not a results folder, or its images are of another format.
    """
    folder = read_folder(directory)
    saved = SavedExamples.of(folder, directory)
    stated = [_records(folder), *_agreement(folder), *saved.stated]
    try:
        dataset = load_data(folder.bound.plan)
        plan, dataset, load = match_channels(folder.bound.plan, dataset, model_loader(dataset))
        dataset = drawn(dataset, plan)
    except RobustattError as problem:
        return [*stated, Statement("data", UNKNOWN, f"cannot be read here: {problem}")]
    if dataset.fingerprint != folder.bound.data_fingerprint:
        return [*stated, Statement("data", FALSE, f"{plan.data} {plan.split} is not the data this sweep was run on")]
    stated.append(Statement("data", TRUE, f"{plan.data} {plan.split}: the same {len(dataset):,} images and labels"))
    with _one_thread(), FrozenModels(load, choose_device(plan.device), dataset, plan) as models:
        same = set()
        for entry, print_ in _fingerprints(folder.bound).items():
            stated.append(_same_model(models, entry, print_))
            same |= {entry.name} if stated[-1].verdict == TRUE else set()
            if entry.name in same:
                stated += saved.judged(entry.name, models.get(entry), dataset)
                stated += _repeated(folder, entry.name, models, dataset, sample)
        if sample:
            stated += _transferred(folder, same, models, dataset, sample)
    return stated


def _fingerprints(bound: BoundPlan) -> dict[ModelEntry, str]:
    """Every model of a sweep, surrogates too, and the hash it was run with."""
    surrogates = zip(bound.plan.crafted_on, bound.surrogate_fingerprints, strict=True)
    return dict(zip(bound.plan.models, bound.model_fingerprints, strict=True)) | dict(surrogates)


def _same_model(models: FrozenModels, entry: ModelEntry, fingerprint: str) -> Statement:
    what = f"model {entry.name}"
    try:
        same = models.fingerprint(entry) == fingerprint
    except RobustattError as problem:
        return Statement(what, UNKNOWN, f"cannot be loaded here: {problem}")
    if not same:
        return Statement(what, FALSE, "its weights or code are not those this sweep was run with")
    return Statement(what, TRUE, "the same weights and code")


@contextmanager
def _one_thread() -> Iterator[None]:
    """As the command line computes Cells: kernels round differently on another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _records(folder: ResultsFolder) -> Statement:
    whole = folder.whole == folder.cells
    rows = sum(map(len, (folder.records, folder.drift, folder.transfer)))
    finding = f"{folder.whole} of {folder.cells} cells are whole and hold the rows their names say, {rows:,} rows"
    return Statement("records", TRUE if whole else FALSE, finding)


def _agreement(folder: ResultsFolder) -> list[Statement]:
    if not folder.findings:
        return [Statement("summary.json", TRUE, "every number and warning that follows from the records is what they give")]
    return [Statement("folder", FALSE, finding) for finding in folder.findings]


def _repeated(folder: ResultsFolder, model: str, models: FrozenModels, dataset: Dataset, sample: int) -> Iterator[Statement]:
    """For each attack on a model, what running a few examples of each of its Cells again gives."""
    kinds: dict[tuple[str, str], list[Cell]] = {}
    for cell in (*folder.bound.cells(), *folder.bound.cells("drift")) if sample else ():
        if cell.model == model:
            kinds.setdefault(cell.kind, []).append(cell)
    for (_, attack), cells in kinds.items():
        records = folder.drift if cells[0].part else folder.records
        yield _run_again(f"{model} under {attack}", records, cells, models, dataset, sample)


def _transferred(
    folder: ResultsFolder, same: set[str], models: FrozenModels, dataset: Dataset, sample: int
) -> Iterator[Statement]:
    """For each attack on a surrogate, what crafting a few examples of each of its Cells again and testing them gives."""
    kinds: dict[tuple[str, str], list[Cell]] = {}
    for cell in folder.bound.cells("transfer"):
        kinds.setdefault(cell.kind, []).append(cell)
    for (surrogate, _), cells in kinds.items():
        what = f"{cells[0].attack.name} crafted on {surrogate}"
        if folder.transfer.empty:
            yield Statement(what, FALSE, "no records to compare with")
        elif {surrogate, *dict(cells[0].targets)} <= same:
            yield _run_again(what, folder.transfer, cells, models, dataset, sample)
        else:
            yield Statement(what, UNKNOWN, "not all of its models are those of the sweep")


def _run_again(
    what: str, records: pd.DataFrame, cells: list[Cell], models: FrozenModels, dataset: Dataset, sample: int
) -> Statement:
    if isinstance(cells[0].attack, ExternalRecipe):
        return Statement(what, UNKNOWN, "the randomness of other libraries' attacks belongs to the batch: not run again")
    pairs = [_again(records, cell, models, dataset, sample) for cell in cells]
    then, now = (pd.concat(frames, ignore_index=True) for frames in zip(*pairs, strict=True))
    return _compared(what, then, now) if len(then) else Statement(what, FALSE, "no records to compare with")


def _again(
    records: pd.DataFrame, cell: Cell, models: FrozenModels, dataset: Dataset, sample: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The recorded rows of a few examples of a Cell, and the rows that running them again gives, in the same order."""
    rng = np.random.default_rng([cell.seed, cell.start])
    every = positions_of(cell, dataset)
    positions = [every[place] for place in sorted(rng.choice(len(every), min(sample, len(every)), replace=False).tolist())]
    batch = automatic_batch_size(dataset.image_shape, models.device)
    now = pd.DataFrame(evaluate(cell, models.of(cell), dataset, batch, positions=positions).columns)
    keys = [*("model", "attack", "eps", "index"), *(["surrogate"] if cell.targets else [])]
    then = now[keys].merge(records, on=keys, how="left")
    known = then["label"].notna().to_numpy()
    return then[known], now[known]


def _compared(what: str, then: pd.DataFrame, now: pd.DataFrame) -> Statement:
    scale = float(now["clean_margin"].abs().max()) or 1.0
    moved = (then["clean_margin"] - now["clean_margin"]).abs() > MARGIN_TOLERANCE * scale
    labels = int((then["label"] != now["label"]).sum())
    clean = int(moved.sum())
    changed = int(((then["adv_pred"] == then["label"]) != (now["adv_pred"] == now["label"])).sum())
    drift = [name for name in map(str, now) if name.startswith("drift_") and name in then]
    exact = all(
        np.array_equal(then[name].to_numpy(), now[name].to_numpy(), equal_nan=name in drift)
        for name in ("clean_pred", "adv_pred", "adv_margin", *drift)
    )
    of = f"{now['index'].nunique()} examples, {len(now):,} rows run again"
    if labels or clean:
        return Statement(what, FALSE, f"{of}: {labels} other labels, {clean} other clean margins")
    if changed > max(1, MAX_CHANGED * len(now)):
        return Statement(what, FALSE, f"{of}: right or wrong under attack differs in {changed}")
    if (drifts := _other_drift(then, now)) > max(1, MAX_CHANGED * len(now)):
        return Statement(what, FALSE, f"{of}: maps have drifted otherwise in {drifts}")
    outcome = f"right or wrong under attack differs in {changed}" if changed else "right or wrong under attack is the same"
    how = "the same to the bit" if exact else f"{outcome}, margins{' and drift' if drift else ''} to rounding"
    return Statement(what, TRUE, f"{of}: {how}")


def _other_drift(then: pd.DataFrame, now: pd.DataFrame) -> int:
    """How many rows of the same margin, hence of the same image to rounding, have another drift at any level.

    The divergence alone is compared: the other metrics jump where two positions tie.
    """
    metric = next(iter(DRIFT_METRICS))
    names = [name for name in map(str, now) if name.startswith(f"drift_{metric}_")]
    scale = float(now["adv_margin"].abs().max()) or 1.0
    same = ((then["adv_margin"] - now["adv_margin"]).abs() <= MARGIN_TOLERANCE * scale).to_numpy()
    before, after = (frame.reindex(columns=names).to_numpy(float)[same] for frame in (then, now))
    other = ~np.isclose(before, after, rtol=DRIFT_TOLERANCE, atol=DRIFT_ROUNDING, equal_nan=True)
    return int(other.any(axis=1).sum())
