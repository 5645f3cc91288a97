"""Runs a transfer: features of every model on every data set, and a linear SVM on each of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from robustatt.data.cache import cache_folder
from robustatt.data.dataset import Dataset
from robustatt.evaluate.cell import as_float
from robustatt.models import Network, ResolvedModel, resolve_entry
from robustatt.models.device import choose_device, hardware
from robustatt.plan import ModelEntry
from robustatt.progress import NoStudyProgress, StudyProgress
from robustatt.results.summary import Provenance
from robustatt.studies.transfer import svm
from robustatt.studies.transfer.features import FeatureExtractor, feature_extractor
from robustatt.studies.transfer.parts import Parts, answered, by_test_part, check, describe, load_parts, numbers
from robustatt.studies.transfer.request import TransferRequest
from robustatt.studies.transfer.result import Subject, Transfer, summarise

if TYPE_CHECKING:
    import pandas as pd

PROBE = 16


def transfer(request: TransferRequest, progress: StudyProgress | None = None, cache: Path | None = None) -> Transfer:
    """Accuracy of a linear SVM on the features of every model, for every data set, on images it was not fitted on.

    Args:
        request: what to measure.
        progress: told of the extraction.
        cache: where features are kept by content hash; by default ``features`` in the cache folder.

    Raises:
        InputError: a model or data set cannot be used; found out before any feature is computed.
        NonFiniteLogits: a network has NaN or infinite features.
    """
    progress, cache = progress or NoStudyProgress(), cache or cache_folder() / "features"
    device = choose_device(request.device)
    sides = {entry: _side(request, _resolved(request, entry)) for entry in request.models}
    names = request.labels()
    sets = {spec: load_parts(request, spec, next(iter(sides.values()))) for spec in names}
    for spec, parts in sets.items():
        check(request, spec, parts)
    progress.begin(len(sides) * sum(len(part) for parts in sets.values() for part in parts.values()))
    subjects, frames, penalties = [], [], {}
    for entry, side in sides.items():
        trial = _Trial(entry, _resolved(request, entry), side, device, cache)
        for spec, name in names.items():
            parts = load_parts(request, spec, side)
            answers = _answers(request, parts, trial.features(parts, progress, f"{entry.name} {name}"))
            frames.append(_frame(entry.name, name, answered(parts), answers))
            penalties[entry.name, name] = answers.penalties
        subjects.append(trial.subject())
    described = [describe(request, names[spec], parts) for spec, parts in sets.items()]
    return summarise(subjects, described, frames, penalties, request.settings(), Provenance.now(hardware(str(device))))


def _resolved(request: TransferRequest, entry: ModelEntry) -> ResolvedModel:
    return resolve_entry(entry, request.trained_on, request.classes)


def _side(request: TransferRequest, model: ResolvedModel) -> int | None:
    """The side of the images a network is given: its own, or for one from outside what is asked for."""
    if isinstance(model.module, Network):
        return model.module.architecture.input_size
    return request.input_size


class _Trial:
    """One model, and what is learnt of it on the way."""

    def __init__(self, entry: ModelEntry, model: ResolvedModel, side: int | None, device: torch.device, cache: Path) -> None:
        self._entry, self._model, self._side, self._device, self._cache = entry, model, side, device, cache
        self._width, self._key = 0, ""

    def features(self, parts: Parts, progress: StudyProgress, what: str) -> dict[str, svm.Matrix]:
        """Features of each part ``(n, d)``."""
        probe = as_float(answered(parts).tensors(range(min(PROBE, len(answered(parts)))))[0])
        with feature_extractor(self._model.module, self._entry.name, self._device, probe) as extractor:
            self._key = extractor.key
            found = {split: self._extract(extractor, part, progress, what) for split, part in parts.items()}
        self._width = next(iter(found.values())).shape[1]
        return found

    def _extract(self, extractor: FeatureExtractor, part: Dataset, progress: StudyProgress, what: str) -> svm.Matrix:
        return extractor.extract(part, self._cache, lambda images: progress.advance(what, images))

    def subject(self) -> Subject:
        """The model as the result holds it."""
        return Subject(
            name=self._entry.name, spec=self._entry.spec, weights=self._model.source, fingerprint=self._key,
            side=self._side, width=self._width,
        )  # fmt: skip


def _answers(request: TransferRequest, parts: Parts, vectors: dict[str, svm.Matrix]) -> svm.Answers:
    if by_test_part(parts):
        return svm.answer_test_part((vectors["train"], numbers(parts["train"])), vectors["test"], request.seed)
    (only,) = vectors.values()
    return svm.answer_out_of_fold(only, numbers(answered(parts)), request.folds, request.seed)


def _frame(model: str, data: str, part: Dataset, answers: svm.Answers) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "model": model,
            "data": data,
            "index": part.original(range(len(part))).numpy(),
            "label": numbers(part),
            "prediction": answers.predicted,
            "fold": answers.fold,
        }
    )
