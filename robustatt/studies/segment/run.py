"""Masked images and models to rows, and rows to a folder: two passes for each model, one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustatt.attack import recipe_files as recipes
from robustatt.attack.recipe import Recipe
from robustatt.eps import CLEAN, format_radius
from robustatt.errors import InputError
from robustatt.evaluate.classifier import frozen
from robustatt.files import subfolder
from robustatt.models import resolve_entry
from robustatt.models.device import choose_device, hardware
from robustatt.models.resolution import ResolvedModel
from robustatt.plan import ModelEntry
from robustatt.plan.entries import AUTO
from robustatt.progress import NoStudyProgress, StudyProgress
from robustatt.results.summary import Provenance
from robustatt.studies.output import write_files
from robustatt.studies.segment.aggregate import summarise
from robustatt.studies.segment.figures import write_all as write_figures
from robustatt.studies.segment.floors import WIDTH, require_libraries
from robustatt.studies.segment.maps import Floors, Images, Observer, Prior, Viewer, default_scales
from robustatt.studies.segment.masks import Example, MaskedImages, batches, open_masked, survey
from robustatt.studies.segment.measures import THRESHOLDS, jaccard_by_threshold, measure, otsu
from robustatt.studies.segment.page import markdown
from robustatt.studies.segment.perturb import build_attack, perturb
from robustatt.studies.segment.request import HELD_OUT, SegmentRequest, Split, choose, split
from robustatt.studies.segment.result import (
    FILE,
    HEADLINE,
    PRIOR,
    ROWS,
    MaskedData,
    SegmentModel,
    SegmentSettings,
    SegmentSummary,
    ThresholdCurve,
)

Row = dict[str, str | int | float | bool | None]
"""A row of images.parquet."""


@dataclass(frozen=True)
class ImageMaps:
    """One image with the map that judged a model, as a figure shows it; arrays are ``(h, w)``, the image ``(h, w, 3)``."""

    model: str
    method: str
    rank: str
    index: int
    jaccard: float
    image: NDArray[np.uint8]
    values: NDArray[np.float32]
    marked: NDArray[np.bool_]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Localisation:
    """What was found: ``summary`` is segment.json, ``images`` has a row for each image, model, method and radius."""

    summary: SegmentSummary
    images: pd.DataFrame
    pictures: list[ImageMaps]


def segment(request: SegmentRequest, progress: StudyProgress | None = None) -> Localisation:
    """Measure every method of every model, and the floors, against the masks.

    Raises:
        InputError: the models, the data or a library is not as needed; says which, and the remedy.
        NonFiniteLogits, ThreatModelViolation: see ``robustatt.evaluate.classifier`` and ``robustatt.attack.norms``.
    """
    require_libraries()
    recipe = _recipe(request)
    source = open_masked(request.data, request.masks)
    chosen = choose(len(source), request.n, request.sample, request.seed)
    parts = split(chosen, request.seed)
    resolved = [resolve_entry(entry, request.trained_on) for entry in request.models]
    seen = survey(source, chosen)
    device = choose_device(request.device)
    work = _Work(request, source, parts, recipe, device, progress or NoStudyProgress())
    used: dict[str, list[int]] = {}
    for entry, found in zip(request.models, resolved, strict=True):
        scales = _scales(entry, found, request.scales)
        probe = torch.rand((2, 3, scales[0], scales[0]), generator=torch.Generator().manual_seed(0)).to(device)
        with frozen(found.module, entry.name, device, probe, attention=entry.attention or AUTO) as classifier:
            work.measure(Viewer(classifier, scales))
        used[entry.name] = list(scales)
    work.measure(Floors())
    images = pd.concat(work.tables, ignore_index=True)
    data = MaskedData(
        name=source.name, fingerprint=seen.fingerprint, n=len(chosen), held_out=len(parts.held_out),
        reported=len(parts.reported), object_share=seen.object_share,
    )  # fmt: skip
    settings = SegmentSettings(
        trained_on=request.trained_on, scales=used, quantile=request.quantile, gaussian_width=WIDTH, seed=request.seed,
        attack=recipe.name if request.eps else None, eps=[format_radius(eps) for eps in request.eps], held_out_share=HELD_OUT,
    )  # fmt: skip
    models = [
        SegmentModel(name=entry.name, spec=entry.spec, source=found.source)
        for entry, found in zip(request.models, resolved, strict=True)
    ]
    origin = Provenance.now(hardware(str(device)))
    return Localisation(summarise(images, work.thresholds, work.curves, data, settings, models, origin), images, work.pictures)


def _recipe(request: SegmentRequest) -> Recipe:
    recipe = recipes.load(request.attack)
    if request.eps:
        build_attack(recipe)
        largest = max(request.eps)
        if recipe.norm == "linf" and largest > 1:
            raise InputError(f"--eps {format_radius(largest)}: an L-infinity radius is at most 255/255, all of [0, 1]")
    return recipe


def _scales(entry: ModelEntry, found: ResolvedModel, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    if wanted is not None:
        return tuple(sorted(set(wanted)))
    if found.card is None:
        raise InputError(f"model {entry.name!r} does not say what size it was trained on: give --scales, such as 224")
    return default_scales(found.card.input_size)


class _Work:
    """The passes over the images, and what they found."""

    def __init__(
        self, request: SegmentRequest, source: MaskedImages, parts: Split, recipe: Recipe, device: torch.device,
        progress: StudyProgress,
    ) -> None:  # fmt: skip
        self.request, self.source, self.parts, self.recipe, self.device = request, source, parts, recipe, device
        self.attacked = set(parts.reported[: request.attack_n] if request.eps else [])
        self.tables: list[pd.DataFrame] = []
        self.thresholds: dict[tuple[str, str], float] = {}
        self.pictures: list[ImageMaps] = []
        self.curves: list[ThresholdCurve] = []
        clean = (len(request.models) + 1) * (len(parts.held_out) + len(parts.reported))
        self._progress = progress
        progress.begin(clean + len(request.models) * len(self.attacked) * len(request.eps))

    def measure(self, observer: Observer) -> None:
        """Thresholds from the held-out images, then a row for each reported image, method and radius."""
        threshold, prior = self._fit(observer)
        self.thresholds |= {(observer.label, method): value for method, value in threshold.items()}
        rows: list[Row] = []
        total = {method: np.zeros(len(THRESHOLDS)) for method in observer.headline}
        for batch, images, index in self._batches(self.parts.reported):
            look = observer.look(images, index)
            rows += self._rows(observer, look.maps, batch, CLEAN, look.prediction, look.prediction, threshold)
            self._progress.advance(observer.label, len(batch))
            for method, curve in total.items():
                for values, example in zip(look.maps[method].cpu().numpy(), batch, strict=True):
                    curve += jaccard_by_threshold(values, example.mask)
            if isinstance(observer, Viewer):
                mean = prior.at(*images.shape[2:]).expand(len(batch), -1, -1)
                rows += self._rows(observer, {PRIOR: mean}, batch, CLEAN, look.prediction, look.prediction, threshold)
                rows += self._attacked(observer, batch, images, index, threshold)
        self.curves += [_thinned(observer.label, method, curve / len(self.parts.reported)) for method, curve in total.items()]
        table = pd.DataFrame(rows)
        self.tables.append(table)
        if isinstance(observer, Viewer):
            self.pictures += self._show(observer, table)

    def _fit(self, observer: Observer) -> tuple[dict[str, float], Prior]:
        """From the held-out images: each method's threshold and the mean of the map a model is judged by.

        The threshold is that with the best mean Jaccard index, the lowest of equals.
        """
        total = {method: np.zeros(len(THRESHOLDS)) for method in (*observer.kinds, PRIOR)}
        prior = Prior()
        for batch, images, index in self._batches(self.parts.held_out):
            maps = observer.look(images, index).maps
            prior.add(maps[observer.headline[0]])
            for method in observer.kinds:
                for values, example in zip(maps[method].cpu().numpy(), batch, strict=True):
                    total[method] += jaccard_by_threshold(values, example.mask)
            self._progress.advance(observer.label, len(batch))
        for example in self.source.read(self.parts.held_out):
            total[PRIOR] += jaccard_by_threshold(prior.at(*example.mask.shape).numpy(), example.mask)
        return {method: float(THRESHOLDS[int(curve.argmax())]) for method, curve in total.items()}, prior

    def _attacked(
        self, viewer: Viewer, batch: list[Example], images: Images, index: Tensor, threshold: dict[str, float]
    ) -> Iterator[Row]:
        rows = [row for row, example in enumerate(batch) if example.index in self.attacked]
        if not rows:
            return
        attack = build_attack(self.recipe, viewer.classifier.classes)
        some = [batch[row] for row in rows]
        for eps in self.request.eps:
            moved, clean = perturb(attack, viewer.logits, images[rows], index[rows], float(eps), self.request.seed)
            look = viewer.look(moved, index[rows])
            yield from self._rows(viewer, look.maps, some, format_radius(eps), clean, look.prediction, threshold)
            self._progress.advance(viewer.label, len(rows))

    def _rows(
        self, observer: Observer, maps: dict[str, Tensor], batch: list[Example], eps: str,
        clean: Tensor | None, now: Tensor | None, threshold: dict[str, float],
    ) -> Iterator[Row]:  # fmt: skip
        before = [-1] * len(batch) if clean is None else clean.tolist()
        after = [-1] * len(batch) if now is None else now.tolist()
        for method, drawn in maps.items():
            kind = observer.kinds.get(method, PRIOR)
            for place, values in enumerate(drawn.cpu().numpy()):
                example = batch[place]
                yield {
                    "model": observer.label, "method": method, "kind": kind, "headline": method in observer.headline,
                    "eps": eps, "index": example.index, "clean_pred": before[place], "pred": after[place],
                    "fooled": before[place] != after[place], "object_share": float(example.mask.mean()),
                    **measure(values, example.mask, threshold[method], self.request.quantile),
                }  # fmt: skip

    def _show(self, viewer: Viewer, table: pd.DataFrame) -> list[ImageMaps]:
        """The best, the median and the worst image of the model's headline method."""
        (method,) = viewer.headline
        mine = table[(table["method"] == method) & (table["eps"] == CLEAN)].sort_values([HEADLINE, "index"])
        places = {"best": len(mine) - 1, "median": (len(mine) - 1) // 2, "worst": 0}
        ranks = {int(mine["index"].iloc[place]): rank for rank, place in places.items()}
        found = []
        for batch, images, index in self._batches(sorted(ranks)):
            for example, values in zip(batch, viewer.look(images, index).maps[method].cpu().numpy(), strict=True):
                jaccard = float(mine.loc[mine["index"] == example.index, HEADLINE].iloc[0])
                found.append(
                    ImageMaps(viewer.label, method, ranks[example.index], example.index, jaccard, example.image, values, otsu(values), example.mask)
                )  # fmt: skip
        return sorted(found, key=lambda picture: list(places).index(picture.rank))

    def _batches(self, positions: Sequence[int]) -> Iterator[tuple[list[Example], Images, Tensor]]:
        for batch in batches(self.source, positions, self.request.batch_size):
            pixels = torch.from_numpy(np.stack([example.image for example in batch])).permute(0, 3, 1, 2)
            index = torch.tensor([example.index for example in batch], device=self.device)
            yield batch, pixels.to(self.device).float() / 255, index


def _thinned(model: str, method: str, curve: NDArray[np.float64]) -> ThresholdCurve:
    """Every fifth point of a curve over `THRESHOLDS`."""
    return ThresholdCurve(
        model=model, method=method, thresholds=THRESHOLDS[::5].round(4).tolist(), jaccard=curve[::5].round(4).tolist()
    )


def write(result: Localisation, folder: Path) -> list[Path]:
    """``images.parquet``, ``figures/``, ``segment.md`` and, last, ``segment.json``; the paths written."""
    try:
        pictures = subfolder(folder, "figures")
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written to ({error.strerror})") from error
    figures = write_figures(result, pictures)
    rows, *texts = write_files(folder, {ROWS: result.images, "segment.md": markdown(result.summary), FILE: result.summary})
    return [rows, *figures, *texts]
