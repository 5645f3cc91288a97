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
from robustatt.evaluate.cell import attack_examples, rows_of
from robustatt.evaluate.classifier import Classifier
from robustatt.models.device import choose_device
from robustatt.plan import Cell

MAX_CHANGED = 0.02
"""Share of the attacked rows (and at least one) whose outcome may differ: where an attack ends at the very boundary, rounding
decides. A run with the same kernels differs in none."""


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
        for entry, bound in zip(plan.models, folder.bound.model_fingerprints, strict=True):
            try:
                same = models.fingerprint(entry) == bound
            except RobustattError as problem:
                stated.append(Statement(f"model {entry.name}", UNKNOWN, f"cannot be loaded here: {problem}"))
                continue
            if not same:
                finding = "its weights or code are not those this sweep was run with"
                stated.append(Statement(f"model {entry.name}", FALSE, finding))
                continue
            stated.append(Statement(f"model {entry.name}", TRUE, "the same weights and code"))
            stated += saved.judged(entry.name, models.get(entry), dataset)
            stated += _repeated(folder, entry.name, models.get(entry), dataset, sample)
    return stated


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
    finding = f"{folder.whole} of {folder.cells} cells are whole and hold the rows their names say, {len(folder.records):,} rows"
    return Statement("records", TRUE if whole else FALSE, finding)


def _agreement(folder: ResultsFolder) -> list[Statement]:
    if not folder.findings:
        return [Statement("summary.json", TRUE, "every number and warning that follows from the records is what they give")]
    return [Statement("folder", FALSE, finding) for finding in folder.findings]


def _repeated(
    folder: ResultsFolder, model: str, classifier: Classifier, dataset: Dataset, sample: int
) -> Iterator[Statement]:
    """For each attack on a model, what running a few examples of each of its Cells again gives."""
    cells = [cell for cell in folder.bound.cells() if cell.model == model]
    for attack in dict.fromkeys(cell.attack.name for cell in cells) if sample else ():
        what = f"{model} under {attack}"
        mine = [cell for cell in cells if cell.attack.name == attack]
        if isinstance(mine[0].attack, ExternalRecipe):
            yield Statement(what, UNKNOWN, "the randomness of other libraries' attacks belongs to the batch: not run again")
            continue
        pairs = [_again(folder.records, cell, classifier, dataset, sample) for cell in mine]
        then, now = (pd.concat(frames, ignore_index=True) for frames in zip(*pairs, strict=True))
        yield _compared(what, then, now) if len(then) else Statement(what, FALSE, "no records to compare with")


def _again(
    records: pd.DataFrame, cell: Cell, classifier: Classifier, dataset: Dataset, sample: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The recorded rows of a few examples of a Cell, and the rows that running them again gives, in the same order."""
    rng = np.random.default_rng([cell.seed, cell.start])
    count = min(sample, cell.stop - cell.start)
    positions = sorted((cell.start + rng.choice(cell.stop - cell.start, count, replace=False)).tolist())
    batch = automatic_batch_size(dataset.image_shape, classifier.device)
    target, ledger, _ = attack_examples(cell, classifier, dataset, positions, batch)
    now = pd.DataFrame(rows_of(cell, target, ledger))
    mine = records[(records["model"] == cell.model) & (records["attack"] == cell.attack.name)]
    then = now[["eps", "index"]].merge(mine, on=["eps", "index"], how="left")
    known = then["label"].notna().to_numpy()
    return then[known], now[known]


def _compared(what: str, then: pd.DataFrame, now: pd.DataFrame) -> Statement:
    scale = float(now["clean_margin"].abs().max()) or 1.0
    moved = (then["clean_margin"] - now["clean_margin"]).abs() > MARGIN_TOLERANCE * scale
    labels = int((then["label"] != now["label"]).sum())
    clean = int(moved.sum())
    changed = int(((then["adv_pred"] == then["label"]) != (now["adv_pred"] == now["label"])).sum())
    exact = all((then[name].to_numpy() == now[name].to_numpy()).all() for name in ("clean_pred", "adv_pred", "adv_margin"))
    of = f"{now['index'].nunique()} examples, {len(now):,} rows run again"
    if labels or clean:
        return Statement(what, FALSE, f"{of}: {labels} other labels, {clean} other clean margins")
    if changed > max(1, MAX_CHANGED * len(now)):
        return Statement(what, FALSE, f"{of}: right or wrong under attack differs in {changed}")
    outcome = f"right or wrong under attack differs in {changed}" if changed else "right or wrong under attack is the same"
    how = "the same to the bit" if exact else f"{outcome}, margins to rounding"
    return Statement(what, TRUE, f"{of}: {how}")
