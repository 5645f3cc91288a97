"""One Cell -> records: the model is asked about clean images, attacked, and asked again; no attack is trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustatt.attack.base import (
    Attack,
    Chain,
    ExternalAttack,
    MinimumNormAttack,
    Oracle,
    SingleDirectionAttack,
    SteppedAttack,
)
from robustatt.attack.builder import build
from robustatt.attack.corrupting import Corruption
from robustatt.attack.rng import ExampleRng
from robustatt.data.dataset import Dataset
from robustatt.data.views import require_same_classes, stratified
from robustatt.eps import CLEAN, parse_radius
from robustatt.errors import InputError
from robustatt.evaluate.batch import AttackedBatch, OutcomeTable
from robustatt.evaluate.classifier import Classifier
from robustatt.evaluate.full_strength import craft, evaluate_along_direction, evaluate_at_full_strength, require_craft
from robustatt.evaluate.kept_rows import KeptRows
from robustatt.evaluate.single_run import evaluate_corruption, evaluate_minimum_norm
from robustatt.evaluate.threshold_search import GridSearch
from robustatt.plan import Cell, CellImages
from robustatt.results.columns import DRIFT_METRICS
from robustatt.results.images import IMAGE, SAVED_COLUMNS
from robustatt.results.records import Columns


@dataclass(frozen=True)
class Evaluation:
    """The records of a Cell as columns, and what they cost in gradients and forward passes (images, not batches).

    `saved`: the rows whose images were asked for, with them (see `robustatt.results.images`).
    """

    columns: Columns
    gradients: int
    forwards: int
    saved: Columns | None = None


def evaluate(
    cell: Cell, classifiers: Sequence[Classifier], dataset: Dataset, batch_size: int,
    done: Callable[[int], None] = lambda _: None, positions: Sequence[int] | None = None, wanted: CellImages | None = None,
) -> Evaluation:  # fmt: skip
    """Run a Cell, or some other examples as it would be.

    Args:
        classifiers: the model that is attacked, and then the Cell's targets if it has any.
        done: called with the number of examples finished since the last call.
        positions: of the examples in the data set; None for those of the Cell.
        wanted: the images to be kept, of a Cell without targets.

    Raises NonFiniteLogits, ThreatModelViolation, or InputError for labels the model does not know.
    """
    attacked, *targets = classifiers
    positions = positions_of(cell, dataset) if positions is None else positions
    if targets:
        return _transferred(cell, attacked, targets, dataset, positions, batch_size, done)
    kept = None if wanted is None else KeptRows(wanted.examples, [cell.radii.index(eps) for eps in wanted.radii])
    target, ledger, oracle = attack_examples(cell, attacked, dataset, positions, batch_size, done, kept)
    columns = rows_of(cell, target, ledger)
    saved = None if kept is None else _saved(columns, kept, target, ledger)
    return Evaluation(columns, oracle.gradients, oracle.forwards + target.forwards, saved)


def _saved(columns: Columns, kept: KeptRows, target: AttackedBatch, ledger: OutcomeTable) -> Columns:
    """The records of the rows whose images are kept, by radius and then example, with the images, flat."""
    label, clean = (values.cpu().numpy() for values in (target.label, target.clean.prediction))
    wrong = (ledger.columns["adv_pred"] != label[:, None]) & (clean == label)[:, None]
    rows = list(kept.rows(wrong))
    places = np.array([(radius + 1) * len(target) + example for radius, example in rows], np.int64)
    records: dict[str, NDArray[Any]] = {name: np.asarray(columns[name])[places] for name in SAVED_COLUMNS}
    images = np.array([kept[example, radius][IMAGE] for radius, example in rows], np.float32)
    return records | {IMAGE: images.reshape(len(rows), target.image[0].numel())}


def _transferred(
    cell: Cell, surrogate: Classifier, targets: Sequence[Classifier], dataset: Dataset, positions: Sequence[int],
    batch_size: int, done: Callable[[int], None],
) -> Evaluation:  # fmt: skip
    """Craft on the surrogate, to the last step at every radius, and have every target judge the images.

    A target is asked for a forward pass of each image and of the clean one, and never for a gradient: maps are not compared.
    """
    source, attack, oracle = _prepared(cell, surrogate, dataset, positions, batch_size, maps=False)
    judges = []
    for target in targets:
        require_same_classes(dataset, target.classes, target.label)
        judges.append(source if target is surrogate else replace(source, classifier=target, forwards=0))
    ledgers = [OutcomeTable(judge) for judge in judges]
    rng = ExampleRng(cell.seed, attack.name)
    for chunk in source.batches() if cell.radii else ():
        for crafted in craft(source, require_craft(attack), oracle, rng, chunk):
            for judge, ledger in zip(judges, ledgers, strict=True):
                crafted.judge(judge, ledger)
        done(len(chunk))
    rows = [_from_surrogate(cell, judge, ledger) for judge, ledger in zip(judges, ledgers, strict=True)]
    columns = {name: np.concatenate([np.asarray(part[name]) for part in rows]) for name in rows[0]}
    forwards = oracle.forwards + sum({id(batch): batch.forwards for batch in [source, *judges]}.values())
    return Evaluation(columns, oracle.gradients, forwards)


def _from_surrogate(cell: Cell, judge: AttackedBatch, ledger: OutcomeTable) -> Columns:
    """The rows of one target, with the surrogate beside its name."""
    rows = dict(rows_of(cell, judge, ledger))
    count = len(rows.pop("model"))
    return {"model": [judge.classifier.label] * count, "surrogate": [cell.model] * count, **rows}


def positions_of(cell: Cell, dataset: Dataset) -> Sequence[int]:
    """Which examples of a data set a Cell is about."""
    if cell.drift is None:
        return range(cell.start, cell.stop)
    drawn = stratified(dataset.labels[: cell.drift.population], cell.drift.count, cell.seed)
    return [int(position) for position in drawn[cell.start : cell.stop]]


def attack_examples(
    cell: Cell, classifier: Classifier, dataset: Dataset, positions: Sequence[int], batch_size: int,
    done: Callable[[int], None] = lambda _: None, kept: KeptRows | None = None,
) -> tuple[AttackedBatch, OutcomeTable, Oracle]:  # fmt: skip
    """A Cell's attack on some examples of its data set, to its last step if the Cell has a drift sample.

    `kept` receives the images behind some rows.
    """
    target, attack, oracle = _prepared(cell, classifier, dataset, positions, batch_size, kept)
    if cell.radii:
        return target, _run(attack, target, oracle, cell, done), oracle
    done(len(target))
    return target, OutcomeTable(target), oracle


def _prepared(
    cell: Cell, classifier: Classifier, dataset: Dataset, positions: Sequence[int], batch_size: int, kept: KeptRows | None = None,
    maps: bool = True,
) -> tuple[AttackedBatch, Attack, Oracle]:  # fmt: skip
    """Some examples with what the model says of them unattacked, the Cell's attack, and the model as it sees it."""
    images, labels = load_images(dataset, positions, classifier)
    radii = torch.tensor([float(parse_radius(text)) for text in cell.radii], device=classifier.device)
    attack = build(cell.attack, classifier.classes)
    index = dataset.original(positions).to(classifier.device)
    target = AttackedBatch(classifier, attack.norm, attack.name, images, labels, index, radii, batch_size, kept, maps)
    target.set_target_classes(attack, ExampleRng(cell.seed, attack.name))
    oracle = Oracle(classifier.logits, classifier.box_margin, classifier.attend, classifier.attended)
    try:
        attack.prepare(oracle)
    except InputError as problem:  # which of several models it is, the attack does not know
        raise InputError(f"model {classifier.label!r}: {problem}") from None
    return target, attack, oracle


def _run(attack: Attack, target: AttackedBatch, oracle: Oracle, cell: Cell, done: Callable[[int], None]) -> OutcomeTable:
    """The way of running each kind of attack over the grid."""
    rng = ExampleRng(cell.seed, attack.name)
    if isinstance(attack, Corruption):
        return evaluate_corruption(target, attack, cell.seed, done)
    if isinstance(attack, SingleDirectionAttack):
        return evaluate_along_direction(target, attack, oracle, rng, done)
    if isinstance(attack, MinimumNormAttack) or (isinstance(attack, ExternalAttack) and attack.minimum_norm):
        return evaluate_minimum_norm(target, attack, oracle, rng, done)
    if isinstance(attack, SteppedAttack) and (cell.attack.to_the_end or cell.drift is not None):
        return evaluate_at_full_strength(target, attack, oracle, rng, done)
    if isinstance(attack, SteppedAttack | ExternalAttack | Chain):
        parts = attack.parts if isinstance(attack, Chain) else [attack]
        return GridSearch(target, parts, oracle, lambda part: ExampleRng(cell.seed, part), done, cell.independent).run()
    raise TypeError(f"the grid does not know how to run {type(attack).__name__}")


def load_images(dataset: Dataset, indices: Sequence[int], classifier: Classifier) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1] as float32 and labels, on the classifier's device."""
    images, labels = dataset.tensors(indices)
    require_same_classes(dataset, classifier.classes, classifier.label)
    if int(labels.max()) >= classifier.classes or int(labels.min()) < 0:
        raise InputError(
            f"model {classifier.label!r} has {classifier.classes} classes, but the data has label {int(labels.max())}: "
            "give weights trained for these classes"
        )
    return as_float(images).to(classifier.device), labels.to(classifier.device)


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images divided by 255; floats as they are."""
    usual = images.clone() if images.is_inference() else images  # a tensor of inference mode takes no gradient
    return usual.float() / 255 if usual.dtype == torch.uint8 else usual.float()


def rows_of(cell: Cell, target: AttackedBatch, ledger: OutcomeTable) -> Columns:
    """Rows ordered by radius (clean first), then example."""
    count, radii = len(target), [CLEAN, *cell.radii]
    clean_pred = target.clean.prediction.cpu().numpy()
    clean_margin = target.clean.margin.cpu().numpy()
    unmoved = {"adv_pred": clean_pred, "adv_margin": clean_margin, "distance": 0, "attacked": False, "zero_grad": False,
               **ledger.extra}  # fmt: skip
    columns: dict[str, NDArray[Any] | Sequence[str]] = {
        "model": [cell.model] * (count * len(radii)),
        "attack": [cell.attack.name] * (count * len(radii)),
        "eps": np.repeat(np.array(radii, dtype=object), count),
        "index": np.tile(target.index.cpu().numpy(), len(radii)),
        "label": np.tile(target.label.cpu().numpy(), len(radii)),
        "clean_pred": np.tile(clean_pred, len(radii)),
        "clean_margin": np.tile(clean_margin, len(radii)),
    }
    for name, values in ledger.columns.items():
        first = np.full(count, unmoved[name] if name in unmoved else _undrifted(name), dtype=values.dtype)
        columns[name] = np.concatenate([first[:, None], values], axis=1).T.reshape(-1)
    order = [*("model", "attack", "eps", "index", "label", "clean_pred", "adv_pred", "clean_margin", "adv_margin")]
    return {name: columns[name] for name in [*order, *[name for name in columns if name not in order]]}


def _undrifted(column: str) -> float:
    """The value of a drift metric between a map and itself."""
    return DRIFT_METRICS[column.split("_")[1]].unmoved
