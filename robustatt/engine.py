"""Runs a plan: every Cell that is not on disk yet is evaluated, then the records are summarised."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from robustatt import health, provenance
from robustatt.classifier import Classifier, fingerprint, frozen
from robustatt.data.base import Dataset
from robustatt.data.sample import Sample, stratified
from robustatt.device import choose_device
from robustatt.errors import InputError, RobustattError, RunInterrupted
from robustatt.evaluate import Evaluation, as_float, evaluate, load_images
from robustatt.examples import attack_to_show, choose, pictures
from robustatt.plan import BoundPlan, Cell, ModelEntry, Plan
from robustatt.records import Store
from robustatt.report.gallery import GALLERY_FILE, GalleryEntry, write_gallery
from robustatt.summary import read_summary, summarise, write_summary

if TYPE_CHECKING:
    import pandas as pd

PROBE_IMAGES = 64  # for the health checks
FREEZE_IMAGES = 16  # to measure the rounding between the fast copy of a model and the original
LOG = "log.jsonl"


class Progress(Protocol):
    """What a sweep tells while it runs."""

    def begin(self, images: int, cells: int, cells_ready: int) -> None:
        """How many (example, radius) images there are to evaluate in how many Cells, and how many Cells are done already."""

    def advance(self, cell: Cell, images: int) -> None:
        """That many more images are done."""


class Silent:
    """Progress that nobody watches."""

    def begin(self, images: int, cells: int, cells_ready: int) -> None: ...

    def advance(self, cell: Cell, images: int) -> None: ...


Loader = Callable[[ModelEntry], nn.Module]


@dataclass(frozen=True)
class Outcome:
    """What a sweep leaves behind: the records, the summary, and how many Cells were computed by this run."""

    records: pd.DataFrame
    summary: dict[str, Any]
    computed: int
    ready: int
    moved_aside: list[Path] = field(default_factory=list)


def run(
    plan: Plan, dataset: Dataset, load: Loader, out: Path, progress: Progress | None = None, gallery: bool = True
) -> Outcome:
    """Evaluate a plan into the folder `out`, going on where an earlier run stopped.

    Everything the user could have got wrong is checked before anything is written. `gallery` keeps pictures of a few
    examples for the report.

    Raises:
        InputError: the model, data or folder cannot be used.
        RunInterrupted: stopped half way (Ctrl-C or an error); says what is safe on disk.
    """
    progress = progress or Silent()
    device = choose_device(plan.device)
    examples = _count(plan, dataset)
    if plan.sample is not None:
        dataset = Sample(dataset, stratified(dataset.labels, plan.sample, plan.seed))
    with FrozenModels(load, device, dataset) as models:
        return _run(plan, dataset, models, examples, out, progress, gallery)


def _run(
    plan: Plan, dataset: Dataset, models: FrozenModels, examples: int, out: Path, progress: Progress, gallery: bool
) -> Outcome:
    bound = BoundPlan(plan, examples, dataset.classes, dataset.fingerprint, tuple(map(models.fingerprint, plan.models)))
    store = Store(out / "records")
    cells = list(bound.cells())
    todo = [cell for cell in cells if not store.has(cell.key)]
    if not todo and (summary := _finished(bound, out)) is not None:
        return Outcome(store.read(cell.key for cell in cells), summary, 0, len(cells))
    warnings: list[health.Warning] = []
    cards = {}
    for entry in plan.models:
        classifier = models.get(entry)
        warnings += _inspect(classifier, models.module, dataset, examples)
        cards[entry.name] = getattr(models.module, "card", None)
    store.prepare()
    bound.write(out)
    progress.begin(sum(_images(cell) for cell in todo), len(cells), len(cells) - len(todo))
    began = time.time()
    _compute(todo, plan, dataset, models, store, progress, len(cells))
    records = store.read(cell.key for cell in cells)
    warnings += health.of_records(records, plan.attacks, bound.describe())
    for name, card in cards.items():
        warnings += health.of_card(name, card, dataset, records) if card is not None else []
    origin = _origin(bound, out, began, models.device)
    summary = summarise(records, bound.describe(), origin, [warning.as_dict() for warning in health.distinct(warnings)])
    write_summary(out, summary)
    if gallery:
        _keep_pictures(cells, plan, dataset, models, records, out)
    return Outcome(records, summary, len(todo), len(cells) - len(todo), store.moved_aside)


def _finished(bound: BoundPlan, out: Path) -> dict[str, Any] | None:
    """The summary of this very plan if an earlier run completed it, pictures and all."""
    try:
        summary = read_summary(out)
        same = BoundPlan.read(out).describe() == bound.describe() == summary["plan"]
    except InputError:
        return None
    return summary if same and (out / GALLERY_FILE).exists() else None


class FrozenModels:
    """The models of a plan, each loaded and frozen when it is asked for; only the last one is kept in memory."""

    def __init__(self, load: Loader, device: torch.device, dataset: Dataset) -> None:
        self._load, self.device = load, device
        self._probe = as_float(dataset.tensors(range(min(FREEZE_IMAGES, len(dataset))))[0]).to(device)
        self._stack = ExitStack()
        self._loaded: ModelEntry | None = None
        self._classifier: Classifier | None = None
        #: the module of the last one asked for, as the user gave it
        self.module: nn.Module = nn.Identity()

    def __enter__(self) -> FrozenModels:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fingerprint(self, entry: ModelEntry) -> str:
        """The hash of what decides an entry's outputs; InputError if it cannot be loaded."""
        self._load_module(entry)
        return fingerprint(self.module)

    def get(self, entry: ModelEntry) -> Classifier:
        """The classifier of an entry; InputError if it cannot be loaded or does not take these images."""
        self._load_module(entry)
        if self._classifier is None:
            self._classifier = self._stack.enter_context(frozen(self.module, entry.name, self.device, self._probe))
        return self._classifier

    def _load_module(self, entry: ModelEntry) -> None:
        if entry != self._loaded:
            self._stack.close()
            self._loaded = self._classifier = None
            self.module = self._load(entry)
            self._loaded = entry


def _inspect(classifier: Classifier, module: nn.Module, dataset: Dataset, examples: int) -> list[health.Warning]:
    """Checks of a model before anything is written, on images spread over those that will be attacked."""
    spread = range(0, examples, max(1, examples // PROBE_IMAGES))[:PROBE_IMAGES]
    images, labels = load_images(dataset, spread, classifier)
    return health.of_model(classifier.original, classifier.label, images, labels, module)


def _keep_pictures(
    cells: list[Cell],
    plan: Plan,
    dataset: Dataset,
    models: FrozenModels,
    records: pd.DataFrame,
    out: Path,
) -> None:
    """Attack a few examples of each model again, keeping images and attention maps for the report's gallery."""
    channels, height, width = dataset.image_shape
    attack = attack_to_show(plan.attacks, records)
    shown = (
        choose(records, attack, height * width, plan.seed) if attack is not None and channels == 3 and plan.eps else []
    )
    entries: list[GalleryEntry] = []
    for entry in plan.models if shown else ():
        cell = next(cell for cell in cells if cell.model == entry.name and cell.attack.name == attack)
        batch_size = automatic_batch_size(dataset.image_shape, models.device)
        entries += pictures(cell, models.get(entry), dataset, shown, batch_size)
    write_gallery(out, entries)


def _compute(
    todo: list[Cell], plan: Plan, dataset: Dataset, models: FrozenModels, store: Store, progress: Progress, total: int
) -> None:
    """Evaluate the Cells model by model and store each as soon as it is done."""
    finished = total - len(todo)
    batch_size = plan.batch_size or automatic_batch_size(dataset.image_shape, models.device)
    try:
        for entry in plan.models:
            mine = [cell for cell in todo if cell.model == entry.name]
            for cell in mine:
                batch_size = _evaluate_and_store(cell, models.get(entry), dataset, store, batch_size, progress)
                finished += 1
    except KeyboardInterrupt:
        raise RunInterrupted(_safe("stopped by Ctrl-C", finished, total, store), 130) from None
    except InputError:
        raise
    except (RobustattError, OSError, RuntimeError) as problem:
        raise RunInterrupted(_safe(str(problem).splitlines()[0], finished, total, store), 3) from problem


def _evaluate_and_store(
    cell: Cell, classifier: Classifier, dataset: Dataset, store: Store, batch_size: int, progress: Progress
) -> int:
    """One Cell into the store; returns the batch size that worked (halved whenever memory ran out)."""
    began = time.perf_counter()
    while True:
        told = 0

        def done(examples: int) -> None:
            nonlocal told
            told += examples
            progress.advance(cell, examples * max(1, len(cell.radii)))

        try:
            found = evaluate(cell, classifier, dataset, batch_size, done)
            break
        except RuntimeError as problem:
            if not _out_of_memory(problem) or batch_size == 1:
                raise
            progress.advance(cell, -told * max(1, len(cell.radii)))
            batch_size = max(1, batch_size // 2)
    store.put(cell.key, found.columns)
    _log(store.folder.parent, cell, found, batch_size, time.perf_counter() - began)
    return batch_size


def _out_of_memory(problem: RuntimeError) -> bool:
    said = str(problem).lower()
    return isinstance(problem, torch.OutOfMemoryError) or "can't allocate memory" in said or "out of memory" in said


def _safe(reason: str, finished: int, total: int, store: Store) -> str:
    return (
        f"{reason}. Safe on disk: {finished} of {total} cells in {store.folder}. "
        "Run the same command again to go on from there"
    )


def _images(cell: Cell) -> int:
    return (cell.stop - cell.start) * max(1, len(cell.radii))


def _count(plan: Plan, dataset: Dataset) -> int:
    if plan.n is not None and plan.n > len(dataset):
        raise InputError(f"-n {plan.n}: {plan.data} {plan.split} has {len(dataset)} examples")
    if len(dataset) == 0:
        raise InputError(f"data {plan.data!r} has no examples")
    return plan.n or plan.sample or len(dataset)


def automatic_batch_size(image_shape: tuple[int, int, int], device: torch.device) -> int:
    """64 images of 32x32 on a CPU (more fall out of its caches), 1024 on a GPU, fewer of larger ones.

    The same on every machine of a kind, so that two machines compute the same bytes.
    """
    _, height, width = image_shape
    full = 1024 if device.type == "cuda" else 64
    return max(8, min(full, full * 32 * 32 // (height * width)))


def _log(out: Path, cell: Cell, found: Evaluation, batch_size: int, seconds: float) -> None:
    """Append what a Cell cost to log.jsonl, one line in one write, so that processes may share the file."""
    entry = {
        "key": cell.key, "cell": str(cell), "seconds": round(seconds, 3), "gradients": found.gradients,
        "forwards": found.forwards, "batch_size": batch_size, "process": os.getpid(),
    }  # fmt: skip
    with open(out / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _costs(out: Path, keys: set[str]) -> Mapping[str, float]:
    """What the Cells of a plan cost when they were computed, from the log."""
    latest: dict[str, dict[str, Any]] = {}
    for line in (out / LOG).read_text(encoding="utf-8").splitlines() if (out / LOG).exists() else []:
        try:
            entry = json.loads(line)
            if entry["key"] in keys:
                latest[entry["key"]] = {name: float(entry[name]) for name in ("seconds", "gradients", "forwards")}
        except (ValueError, KeyError, TypeError):
            continue
    return {name: sum(entry[name] for entry in latest.values()) for name in ("seconds", "gradients", "forwards")}


def _origin(bound: BoundPlan, out: Path, began: float, device: torch.device) -> dict[str, Any]:
    costs = _costs(out, {cell.key for cell in bound.cells()})
    return {
        "command": provenance.command(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(str(device)),
        "git": provenance.git_state(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds_this_run": round(time.time() - began, 3),
        "seconds": round(costs["seconds"], 3),
        "gradients": int(costs["gradients"]),
        "forwards": int(costs["forwards"]),
    }
