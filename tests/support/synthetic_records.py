"""Synthetic records with known behaviour, to develop and test the report without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from robustatt.results.columns import DRIFT_METRICS
from robustatt.results.gallery import GalleryEntry

if TYPE_CHECKING:
    from robustatt.models.card import Card

LEVELS = ("l1", "l2", "l3")
MEDIAN_RADIUS = {"vgg": 4.0, "vgg_att1": 4.6, "vgg_att2": 5.2, "vgg_att3": 6.0}


def make_records(
    models: Sequence[str] = ("vgg", "vgg_att3"),
    attacks: Sequence[str] = ("fgsm", "pgd"),
    n: int = 200,
    radii: int = 16,
    classes: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each (model, attack, eps, example): each example breaks at its own log-normal radius."""
    frames = []
    shared = np.random.default_rng(seed).normal(size=n)
    label = np.random.default_rng(seed + 1).integers(0, classes, n)
    eps = np.arange(radii + 1)
    for number, model in enumerate(models):
        rng = np.random.default_rng([seed, number])
        clean_pred = np.where(rng.random(n) < 0.98, label, (label + 1) % classes)
        difficulty = 0.8 * shared + 0.6 * rng.normal(size=n)
        for attack in attacks:
            strength = {"fgsm": 1.35, "pgd": 1.0, "noise": 30.0, "sign-noise": 20.0}.get(attack, 1.1)
            threshold = MEDIAN_RADIUS.get(model, 5.0) * strength * np.exp(0.5 * difficulty)
            broken = eps[None, :] >= threshold[:, None]
            if attack == "fgsm":  # now and then a single step overshoots and recovers
                broken &= rng.random(broken.shape) > 0.02 * (eps > 8)
            target = (clean_pred + 1 + rng.poisson(1.0, n) % (classes - 1)) % classes
            adv_pred = np.where(broken, target[:, None], clean_pred[:, None])
            columns: dict[str, Any] = {
                "model": np.repeat(model, n * eps.size),
                "attack": np.repeat(attack, n * eps.size),
                "eps": np.tile([f"{e}/255" for e in eps], n),
                "index": np.repeat(np.arange(n), eps.size),
                "label": np.repeat(label, eps.size),
                "clean_pred": np.repeat(clean_pred, eps.size),
                "adv_pred": adv_pred.ravel(),
                "clean_margin": np.repeat(threshold, eps.size).astype(np.float32),
                "adv_margin": (threshold[:, None] - eps).ravel().astype(np.float32),
                "distance": np.tile(eps / 255, n).astype(np.float32),
                "attacked": np.tile(eps > 0, n),
                "zero_grad": np.zeros(n * eps.size, dtype=bool),
            }
            columns.update(_drift(model, broken, eps, strength, rng))
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _drift(model: str, broken: np.ndarray, eps: np.ndarray, strength: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    columns = {}
    for rank, level in enumerate(LEVELS if "_att" in model else ("gradcam",)):
        pace = (0.02 + 0.015 * rank) / min(strength, 4)
        size = eps[None, :] * pace * np.exp(0.3 * rng.normal(size=(broken.shape[0], 1)))
        size = np.clip(size * (1 + 0.5 * rank * broken), 0, 1)
        values = {
            "js": size,
            "cosine": 1 - size,
            "shift": 8 * size,
            "iou": np.clip(1 - 1.5 * size, 0, 1),
            "entropy": 2 * size * rng.normal(0.3, 1, size.shape),
        }
        columns |= {f"drift_{name}_{level}": values[name].astype(np.float32).ravel() for name in DRIFT_METRICS}
    return columns


def make_plan(records: pd.DataFrame) -> dict[str, Any]:
    """The plan that would have made these records."""
    return {
        "models": [{"name": name, "fingerprint": f"m-{name}"} for name in dict.fromkeys(records["model"])],
        "attacks": [{"name": name, "norm": "linf", "fingerprint": f"a-{name}"} for name in dict.fromkeys(records["attack"])],
        "data": {
            "name": "digits",
            "split": "test",
            "n": int(records["index"].nunique()),
            "fingerprint": "d-1",
        },
        "eps": list(dict.fromkeys(records["eps"])),
        "seed": 0,
    }


PROVENANCE: dict[str, Any] = {
    "command": "robustatt sweep --eps 1..16 --model vgg --model vgg_att3 --attack fgsm --attack pgd",
    "versions": {"robustatt": "0.1.0", "torch": "2.6.0"},
    "hardware": {"device": "cpu", "threads": 2},
    "git": "ed1f7d4",
    "finished": "2026-01-05T10:00:00Z",
    "seconds": 41.7,
}


def make_gallery(records: pd.DataFrame, model: str, attack: str, indices: Sequence[int]) -> list[GalleryEntry]:
    """Stored examples of these records: a bright disc that attention follows less and less."""
    rng = np.random.default_rng(5)
    rows = records[(records.model == model) & (records.attack == attack) & records["index"].isin(indices)]
    grid = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"))
    entries = []
    for index, group in rows.groupby("index"):
        centre = rng.uniform(10, 22, size=(2, 1, 1))
        image = np.exp(-((grid - centre) ** 2).sum(0) / 40)[..., None] * rng.uniform(0.5, 1, 3) * 220 + 20
        image = image.astype(np.uint8)
        sign = np.sign(rng.normal(size=image.shape))
        for row in group.itertuples():
            size = int(str(row.eps).split("/")[0])
            maps = {}
            levels = {"l1": 32, "l2": 16, "l3": 8} if "_att" in model else {"gradcam": 4}
            for level, side in levels.items():
                cells = (np.stack(np.meshgrid(*2 * [np.arange(side)], indexing="ij")) + 0.5) * 32 / side
                clean = np.exp(-((cells - centre) ** 2).sum(0) / 60)
                away = np.exp(-((cells - centre + 0.8 * size) ** 2).sum(0) / 60)
                maps[level] = (clean / clean.sum(), away / away.sum())
            entries.append(
                GalleryEntry(
                    model,
                    attack,
                    int(str(index)),
                    str(row.eps),
                    int(row.label),
                    int(row.clean_pred),
                    int(row.adv_pred),
                    image,
                    np.clip(image / 255 + sign * size / 255, 0, 1),
                    {level: pair[0] for level, pair in maps.items()},
                    {level: pair[1] for level, pair in maps.items()},
                )
            )
    return entries


def broken_records(broken: dict[str, np.ndarray], eps: list[str]) -> pd.DataFrame:
    """Records of attacks given which examples ``(n, radii)`` they break."""
    frames = []
    for attack, grid in broken.items():
        for column, text in enumerate(["0/255", *eps]):
            wrong = np.zeros(len(grid), bool) if column == 0 else grid[:, column - 1]
            label = np.arange(len(grid)) % 10
            frames.append(pd.DataFrame({
                "model": "m", "attack": attack, "eps": text, "index": np.arange(len(grid)), "label": label,
                "clean_pred": label, "adv_pred": np.where(wrong, (label + 1) % 10, label), "clean_margin": 1.0,
                "zero_grad": False, "attacked": True,
            }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def card_of(name: str, accuracy: float) -> Card:
    """The card of a network of width 1/8 that had 3 epochs of CIFAR-10."""
    from robustatt.models.card import Card

    return Card(
        name=name, width=0.125, classes=10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), data="cifar10",
        clean_accuracy=accuracy, epochs=3,
    )  # fmt: skip
