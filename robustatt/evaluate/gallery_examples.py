"""A few examples of a sweep kept as pictures, clean and attacked, with attention maps, for the report's gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustatt.attack.recipe import NO_ADVERSARIES, Recipe
from robustatt.data.dataset import Dataset
from robustatt.evaluate.batch import map_columns
from robustatt.evaluate.cell import attack_examples
from robustatt.evaluate.classifier import Classifier
from robustatt.evaluate.kept_rows import KeptRows
from robustatt.plan import Cell
from robustatt.results.gallery import GalleryEntry, choose_examples
from robustatt.results.images import IMAGE
from robustatt.results.outcomes import outcomes_by_curve

if TYPE_CHECKING:
    import pandas as pd

MAX_COST = 300  # gradients and forward passes an image and radius; a dearer attack is not run again for pictures
SMALL = 64 * 64  # pixels; larger images get fewer pictures, so that the page stays small


def attack_to_show(attacks: Sequence[Recipe], records: pd.DataFrame) -> str | None:
    """The strongest attack (lowest accuracy over all rows) among those cheap enough to run again for a few images.

    One without a norm has no radii to be shown at.
    """
    bounded = [entry for entry in attacks if not entry.unbounded and entry.category not in NO_ADVERSARIES]
    cheap = [entry.name for entry in bounded if sum(entry.cost()) <= MAX_COST]
    right = records["adv_pred"] == records["label"]
    means = {name: float(right[records["attack"] == name].mean()) for name in cheap}
    return min(means, key=lambda name: means[name]) if means else None


def choose(records: pd.DataFrame, attack: str, pixels: int, seed: int) -> list[int]:
    """Some examples that hold, break late and break early under the attack; a seeded choice.

    All models show the examples chosen for the last one, so that they can be compared picture by picture.
    """
    layout = list(outcomes_by_curve(records[records["attack"] == attack]))
    if not layout:
        return []
    outcomes = layout[-1]
    first = np.where(outcomes.correct.all(1), np.inf, (~outcomes.correct).argmax(1))
    right = outcomes.label == outcomes.clean_pred
    breaking = dict(zip(outcomes.index[right].tolist(), first[right].tolist(), strict=True))
    return choose_examples(breaking, 9 if pixels <= SMALL else 3, seed) if breaking else []


def spread(radii: Sequence[str], pixels: int) -> list[int]:
    """Places of a few radii, evenly spread, the last one among them."""
    count = min(8 if pixels <= SMALL else 3, len(radii))
    return sorted({round(place) for place in np.linspace(len(radii) - 1, 0, count)})


def pictures(
    cell: Cell, classifier: Classifier, dataset: Dataset, examples: Sequence[int], batch_size: int
) -> Iterator[GalleryEntry]:
    """The examples under the Cell's attack at some of its radii, at full strength if it is a Cell of the drift sample.

    An example's random numbers belong to it, so attacking a few again gives the images that the Cell's records describe.
    """
    place_of = {int(index): place for place, index in enumerate(dataset.original(range(len(dataset))).tolist())}
    radii = spread(cell.radii, dataset.image_shape[1] * dataset.image_shape[2])
    kept = KeptRows(len(examples), radii, maps=True)
    positions = [place_of[index] for index in examples]
    target, ledger, _ = attack_examples(cell, classifier, dataset, positions, batch_size, kept=kept)
    clean = [level.cpu().numpy() for level in target.clean.maps]
    images = target.image.cpu().numpy()
    for row, index in enumerate(examples):
        for radius in radii:
            behind = kept[row, radius]
            yield GalleryEntry(
                model=cell.model,
                attack=cell.attack.name,
                index=index,
                eps=cell.radii[radius],
                label=int(target.label[row]),
                clean_pred=int(target.clean.prediction[row]),
                adv_pred=int(ledger.columns["adv_pred"][row, radius]),
                image=_pixels(images[row]),
                adversarial=np.moveaxis(behind[IMAGE], 0, 2),
                clean_maps=_maps(classifier, [level[row] for level in clean]),
                attacked_maps=_maps(classifier, [behind[name] for name in map_columns(classifier)]),
            )


def _pixels(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.moveaxis((image * 255).round().astype(np.uint8), 0, 2)


def _maps(classifier: Classifier, maps: Sequence[np.ndarray[Any, Any]]) -> Mapping[str, np.ndarray[Any, Any]]:
    return dict(zip(classifier.levels, maps, strict=True))
