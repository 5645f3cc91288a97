"""Means over common corruptions: mean corruption accuracy, and mean corruption error against a baseline (mCE).

Both after Hendrycks & Dietterich 2019, section 4.1. All corruptions are of the same images, so an interval is that of a mean
over images: an image is the unit that was sampled, and not an image under a corruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustatt.attack.corruption import CorruptionRecipe
from robustatt.corruptions.kinds import BENCHMARK, KINDS
from robustatt.eps import CLEAN, parse_radius
from robustatt.results import statistics
from robustatt.results.part import in_percent
from robustatt.results.plan_info import PlanInfo
from robustatt.results.summary import CorruptionMean, Curve, Summary

if TYPE_CHECKING:
    from robustatt.results.outcomes import Outcomes

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class _Tested:
    """The images of one model that have every row: right or wrong, as a share of severities, ``(kinds, images)``."""

    index: NDArray[np.int64]
    right: NDArray[np.float64]

    def of(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.right[:, np.isin(self.index, index)]


def corruption_means(layout: Sequence[Outcomes], plan: PlanInfo, baselines: Mapping[str, str]) -> list[CorruptionMean]:
    """One row for each model that was run on any of the 15 corruptions of the benchmark; the mean is over those that were.

    Each model of `baselines` is compared with its baseline, if that was run on the same corruptions.
    """
    kinds: dict[str, dict[str, Outcomes]] = {}
    for outcomes in layout:
        recipe = plan.attack(outcomes.attack).recipe
        if isinstance(recipe, CorruptionRecipe) and recipe.kind in BENCHMARK:
            kinds.setdefault(outcomes.model, {})[outcomes.attack] = outcomes
    tested = {model: _tested(list(found.values())) for model, found in kinds.items()}
    rows = []
    for model, mine in tested.items():
        if mine.index.size == 0:
            continue
        value, low, high = _mean(mine.right.mean(axis=0))
        row = {"model": model, "n": mine.index.size, "corruptions": list(kinds[model])}
        row |= {"accuracy": value, "ci_low": max(low, 0.0), "ci_high": min(high, 1.0)}
        base = baselines.get(model, "")
        if base in tested and list(kinds[base]) == list(kinds[model]):
            row |= _against(mine, tested[base], base)
        rows.append(CorruptionMean.model_validate(row))
    return rows


def _tested(found: Sequence[Outcomes]) -> _Tested:
    """Those images that have a row for every corruption and severity."""
    columns = [[i for i, eps in enumerate(outcomes.eps) if not eps.startswith("0")] for outcomes in found]
    whole = [outcomes.index[outcomes.present[:, use].all(axis=1)] for outcomes, use in zip(found, columns, strict=True)]
    index = whole[0]
    for other in whole[1:]:
        index = np.intersect1d(index, other)
    right = [
        outcomes.correct[np.isin(outcomes.index, index)][:, use].mean(axis=1) if use else np.empty(0)
        for outcomes, use in zip(found, columns, strict=True)
    ]
    return _Tested(index, np.stack(right))


def _mean(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """A mean over images with its 95 % t interval; that of a single image is all there is."""
    count = np.array([values.size])
    mean, low, high = statistics.mean_interval(np.array([values.sum()]), np.array([(values**2).sum()]), count)
    return float(mean[0]), *((-1.0, 1.0) if values.size < 2 else (float(low[0]), float(high[0])))


def _against(mine: _Tested, base: _Tested, name: str) -> dict[str, object]:
    """The comparison with a baseline on the images that both have; nothing if there are none."""
    shared = np.intersect1d(mine.index, base.index)
    if shared.size == 0:
        return {}
    ours, theirs = mine.of(shared), base.of(shared)
    value, low, high = _mean((ours - theirs).mean(axis=0))
    row: dict[str, object] = {
        "baseline": name,
        "difference": value,
        "difference_low": max(low, -1.0),
        "difference_high": min(high, 1.0),
    }
    errors, base_errors = 1 - ours, 1 - theirs
    usual = base_errors.mean(axis=1)
    if (usual == 0).any():
        return row
    ratio = errors.mean(axis=1) / usual
    influence = ((errors - ratio[:, None] * base_errors) / usual[:, None]).mean(axis=0)
    spread = Z * float(influence.std(ddof=1)) / np.sqrt(shared.size) if shared.size > 1 else np.inf
    mce = float(ratio.mean())
    if np.isfinite(spread):  # the delta method, over images
        row |= {"mce": 100 * mce, "mce_low": 100 * max(mce - spread, 0.0), "mce_high": 100 * (mce + spread)}
    return row


# Tables ---------------------------------------------------------------------------------------------------


def corruption_curves(summary: Summary, model: str) -> list[Curve]:
    """The curves of a model under corruptions, in the order of the benchmark's tables."""
    mine = [
        curve for curve in summary.curves if curve.model == model and summary.plan.attack(curve.attack).category == "corruption"
    ]
    kinds = {curve.attack: getattr(summary.plan.attack(curve.attack).recipe, "kind", "") for curve in mine}
    return sorted(mine, key=lambda curve: KINDS.index(kinds[curve.attack]))


def severities_of(curves: Sequence[Curve]) -> list[str]:
    """Every severity of some curves, ascending."""
    return sorted({point.eps for curve in curves for point in curve.points} - {CLEAN}, key=parse_radius)


def table_of(summary: Summary, model: str) -> tuple[list[str], list[list[str]]]:
    """A table of one model's accuracy in per cent by corruption and severity: heads and rows, the clean images first.

    No rows if it was run under no corruption.
    """
    curves = corruption_curves(summary, model)
    severities = severities_of(curves)
    rows = []
    for curve in curves:
        points = {point.eps: point for point in curve.points}
        found = [points[severity].accuracy for severity in severities if severity in points]
        shown = [f"{100 * points[severity].accuracy:.1f}" if severity in points else "-" for severity in severities]
        rows.append([curve.attack, *shown, f"{100 * float(np.mean(found)):.1f}" if found else "-"])
    clean = next((point for curve in curves for point in curve.points if point.eps == CLEAN), None)
    if clean is not None:
        rows.insert(0, ["clean", *["-"] * len(severities), f"{100 * clean.accuracy:.1f}"])
    return ["corruption", *(f"severity {severity}" for severity in severities), "mean"], rows


def mean_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """A table of the means over corruptions: heads and rows."""
    heads = ["model", "corruptions", "mean accuracy [95 % interval]", "baseline", "difference", "mCE"]
    rows = []
    for row in summary.corruption_means:
        gap = (
            "-"
            if row.difference is None
            else f"{100 * row.difference:+.1f} [{_signed(row.difference_low)}, {_signed(row.difference_high)}]"
        )
        mce = "-" if row.mce is None else f"{row.mce:.1f} [{row.mce_low:.1f}, {row.mce_high:.1f}]"
        rows.append([
            row.model, f"{len(row.corruptions)} of {len(BENCHMARK)}",
            in_percent(row.accuracy, row.ci_low, row.ci_high), row.baseline or "-", gap, mce,
        ])  # fmt: skip
    return heads, rows


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"
