"""The gallery of a sweep: a few examples of each model attacked again, with their pictures and maps."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.data.dataset import Dataset
from robustatt.engine.models import FrozenModels
from robustatt.engine.worker import automatic_batch_size
from robustatt.evaluate.gallery_examples import attack_to_show, choose, pictures
from robustatt.plan import BoundPlan
from robustatt.results.gallery import GalleryEntry, write_gallery

if TYPE_CHECKING:
    import pandas as pd


def keep_pictures(bound: BoundPlan, dataset: Dataset, models: FrozenModels, records: pd.DataFrame, out: Path) -> None:
    """Attack a few examples of each model again, keeping images and attention maps for the report's gallery."""
    plan = bound.plan
    channels, height, width = dataset.image_shape
    attack = attack_to_show(plan.attacks, records)
    possible = attack is not None and channels == 3 and any(map(plan.radii_of, plan.attacks))
    shown = choose(records, attack, height * width, plan.seed) if attack is not None and possible else []
    entries: list[GalleryEntry] = []
    for entry in plan.models if shown else ():
        candidates = chain(bound.cells("drift"), bound.cells())  # at full strength first
        cell = next(cell for cell in candidates if cell.model == entry.name and cell.attack.name == attack)
        batch_size = automatic_batch_size(dataset.image_shape, models.device)
        entries += pictures(cell, models.get(entry), dataset, shown, batch_size)
    write_gallery(out, entries)
