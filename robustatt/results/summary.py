"""Records to summary: every aggregate of a run, computed once from its per-example rows.

All numbers are array operations on the grids of `layout`. The report and the gate read the summary and the same
grids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustatt.eps import parse_radius
from robustatt.errors import InputError
from robustatt.files import write_atomically
from robustatt.results import statistics
from robustatt.results.chains import broken_by_part
from robustatt.results.columns import METRICS, kind_of
from robustatt.results.outcomes import Grid, grids, is_control
from robustatt.results.summary_schema import check_form
from robustatt.results.unbounded import distances, is_unbounded

__all__ = [
    "SUMMARY_FILE", "Grid", "as_stored", "baselines", "compare_grids", "confusion", "curve_frame", "drift_auc", "drift_rows", "grids",
    "is_control", "names_of", "paired_differences", "read_summary", "summarise", "write_summary",
]  # fmt: skip

SCHEMA = 1
SUMMARY_FILE = "summary.json"


def summarise(
    records: pd.DataFrame,
    plan: Mapping[str, Any],
    provenance: Mapping[str, Any],
    health: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The summary of a run, in the form of summary.json (schema 1).

    Besides the contract's keys it holds ``drift_predicts_fooling`` (see `drift_auc`), ``differences``
    (paired, each model against its baseline, see `paired_differences`) and ``confusion`` (where the fooled
    examples went); a point of a chain of attacks has ``broken_by`` (how many each part broke). An empty frame gives an empty summary; what is missing shows in each point's ``n``.
    """
    layout = sorted(grids(records), key=_plan_order(plan))
    return {
        "schema": SCHEMA,
        "plan": dict(plan),
        "provenance": dict(provenance),
        "curves": [_curve(grid, plan, records) for grid in layout],
        "drift": [row for grid in layout for row in drift_rows(grid)],
        "drift_predicts_fooling": [row for grid in layout for row in drift_auc(grid)],
        "differences": paired_differences(layout, baselines(plan, [grid.model for grid in layout])),
        "confusion": [confusion(grid) for grid in layout if not is_control(grid.attack)],
        "health": [dict(warning) for warning in health],
    }


def names_of(plan: Mapping[str, Any], key: str) -> list[str]:
    """The names listed under ``plan[key]``, whether it lists names or tables with a ``name``."""
    entries = plan.get(key) or []
    named = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in entries]
    return [str(name) for name in named if name]


def _plan_order(plan: Mapping[str, Any]) -> Any:
    models, attacks = names_of(plan, "models"), names_of(plan, "attacks")

    def place(name: str, names: list[str]) -> int:
        return names.index(name) if name in names else len(names)

    return lambda grid: (
        place(grid.model, models),
        grid.model,
        is_control(grid.attack),
        place(grid.attack, attacks),
        grid.attack,
    )


def _norm_of(plan: Mapping[str, Any], attack: str) -> str:
    for entry in plan.get("attacks") or []:
        if isinstance(entry, Mapping) and entry.get("name") == attack and entry.get("norm"):
            return str(entry["norm"])
    return "linf"


def _curve(grid: Grid, plan: Mapping[str, Any], records: pd.DataFrame) -> dict[str, Any]:
    n = grid.present.sum(axis=0)
    right = grid.correct.sum(axis=0)
    held = (grid.held & grid.present).sum(axis=0)
    fooled = grid.fooled.sum(axis=0)
    low, high = statistics.wilson(right, n)
    parts = broken_by_part(grid, plan)
    points = [
        {
            "eps": eps,
            "n": int(n[i]),
            "accuracy": float(right[i] / n[i]),
            "ci_low": float(low[i]),
            "ci_high": float(high[i]),
            "worst_case_accuracy": float(held[i] / n[i]),
            "fooling_rate": float(fooled[i] / n[i]),
            **({"broken_by": parts[i]} if parts else {}),
        }
        for i, eps in enumerate(grid.eps)
    ]
    curve = {"model": grid.model, "attack": grid.attack, "norm": _norm_of(plan, grid.attack), "points": points}
    return curve | ({"distances": distances(records, grid.model, grid.attack)} if is_unbounded(curve) else {})


# Drift of attention and saliency --------------------------------------------------------------------------


def drift_rows(grid: Grid) -> Iterator[dict[str, Any]]:
    """Mean drift with a 95 % t interval by metric, level, radius and group: all, fooled, held.

    ``kind`` says whether the level is attention or saliency: the two are never compared with each other. Only
    rows attacked at exactly their radius count (see `_comparable`).

    A group without examples has no row; the interval of a single example is null.
    """
    fooled = grid.fooled
    for (metric, level), values in grid.drift.items():
        measure = METRICS.get(metric)
        floor, roof = (measure.least, measure.most) if measure else (-math.inf, math.inf)
        measured = ~np.isnan(values)
        filled = np.where(measured, values, 0).astype(np.float64)
        for group, mask in (("all", measured), ("fooled", measured & fooled), ("held", measured & ~fooled)):
            n = mask.sum(axis=0)
            some = np.flatnonzero(n)
            inside = filled * mask
            average, low, high = statistics.mean_interval(inside.sum(axis=0)[some], (inside**2).sum(axis=0)[some], n[some])
            for i, column in enumerate(some):
                yield {
                    "model": grid.model,
                    "attack": grid.attack,
                    "level": level,
                    "kind": kind_of(level),
                    "metric": metric,
                    "eps": grid.eps[column],
                    "group": group,
                    "n": int(n[column]),
                    "mean": _tidy(average[i]),
                    "ci_low": _tidy(max(low[i], floor)),
                    "ci_high": _tidy(min(high[i], roof)),
                }


def _tidy(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 7)


def drift_auc(grid: Grid, metric: str = "js") -> Iterator[dict[str, Any]]:
    """Does drift predict being fooled? ROC area of the Jensen-Shannon drift against fooled, level by level.

    Only examples whose clean prediction is right enter, and each radius is judged by itself: both drift and
    fooling grow with the radius, so an area pooled over radii would be high even if drift said nothing about
    which example falls. Attacks that stop at the first success have moved fooled images in fewer steps than
    held ones, and a threshold search attacks at a radius those that break near it; FGSM, one step for all images at
    all radii, is free of both. ``headline`` marks the radius with the most pairs to tell apart for its number of
    images, where the interval is narrowest: were all images attacked, the one where half are fooled. Radii at which
    all or none are fooled have no area. Interval: 95 %, DeLong.
    """
    if is_control(grid.attack):
        return
    eligible = grid.clean_pred == grid.label
    fooled = grid.fooled
    for (name, level), values in grid.drift.items():
        if name != metric:
            continue
        rows: list[dict[str, Any]] = []
        for column, eps in enumerate(grid.eps):
            use = eligible & ~np.isnan(values[:, column])
            positive = fooled[use, column]
            n_fooled = int(positive.sum())
            if parse_radius(eps) == 0 or n_fooled in (0, positive.size):
                continue
            area = statistics.auc_interval(values[use, column], positive)
            rows.append(
                {
                    "model": grid.model,
                    "attack": grid.attack,
                    "level": level,
                    "kind": kind_of(level),
                    "eps": eps,
                    "headline": False,
                    "auc": round(area.value, 7),
                    "ci_low": round(area.low, 7),
                    "ci_high": round(area.high, 7),
                    "n_fooled": n_fooled,
                    "n_held": positive.size - n_fooled,
                }
            )
        if rows:
            max(rows, key=_weight)["headline"] = True
        yield from rows


def _weight(row: Mapping[str, Any]) -> float:
    """What a radius has to say: the variance of an area goes about as the inverse of this."""
    return float(row["n_fooled"] * row["n_held"] / (row["n_fooled"] + row["n_held"]))


# Comparisons ----------------------------------------------------------------------------------------------


def baselines(plan: Mapping[str, Any], models: Sequence[str]) -> dict[str, str]:
    """Each model's baseline: the plan's ``baseline``, else the model named like it before ``_att``."""
    known = list(dict.fromkeys(models))
    chosen = {
        str(entry["name"]): str(entry["baseline"])
        for entry in plan.get("models") or []
        if isinstance(entry, Mapping) and entry.get("baseline") in known
    }
    for model in known:
        stem, found, _ = model.rpartition("_att")
        if found and stem in known:
            chosen.setdefault(model, stem)
    return {model: base for model, base in chosen.items() if model in known}


def paired_differences(layout: Sequence[Grid], pairs: Mapping[str, str]) -> list[dict[str, Any]]:
    """Accuracy of each model minus its baseline on the same examples, radius by radius.

    Newcombe's 95 % interval, the exact McNemar p-value, and that p after Holm's correction over the curve.
    """
    by_key = {(grid.model, grid.attack): grid for grid in layout}
    rows: list[dict[str, Any]] = []
    for grid in layout:
        base = by_key.get((pairs.get(grid.model, ""), grid.attack))
        if base is not None:
            rows += compare_grids(grid, base)
    return rows


def compare_grids(grid: Grid, base: Grid) -> list[dict[str, Any]]:
    """The paired comparison of two grids under one attack at the radii and examples both have."""
    _, mine, theirs = np.intersect1d(grid.index, base.index, assume_unique=True, return_indices=True)
    rows: list[dict[str, Any]] = []
    correct, base_correct = grid.correct, base.correct
    for column, eps in enumerate(grid.eps):
        if eps not in base.eps:
            continue
        other = base.eps.index(eps)
        use = grid.present[mine, column] & base.present[theirs, other]
        if not use.any():
            continue
        counts = statistics.PairedCounts.of(correct[mine, column][use], base_correct[theirs, other][use])
        change = statistics.newcombe_paired(counts)
        rows.append(
            {
                "model": grid.model,
                "baseline": base.model,
                "attack": grid.attack,
                "eps": eps,
                "n": counts.n,
                "difference": change.value,
                "ci_low": change.low,
                "ci_high": change.high,
                "only_model": counts.only_a,
                "only_baseline": counts.only_b,
                "p": float(statistics.mcnemar_exact(counts.only_a, counts.only_b)),
            }
        )
    for row, adjusted in zip(rows, statistics.holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = float(adjusted)
    return rows


def confusion(grid: Grid) -> dict[str, Any]:
    """Where the fooled examples went, at the radius above 0 where the share fooled is nearest to one half.

    Only examples whose clean prediction is right; ``flows`` are ``[true class, predicted class, count]``,
    most frequent first.
    """
    eligible = grid.clean_pred == grid.label
    fooled = grid.fooled & eligible[:, None]
    share = fooled.sum(axis=0) / max(1, int(eligible.sum()))
    distance = np.abs(share - 0.5)
    above = [i for i, eps in enumerate(grid.eps) if parse_radius(eps) > 0] or [0]
    column = min(above, key=lambda i: (distance[i], i))
    rows = fooled[:, column]
    pairs = np.stack([grid.label[rows], grid.adv_pred[rows, column]], axis=1)
    flows, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {
        "model": grid.model,
        "attack": grid.attack,
        "eps": grid.eps[column],
        "n_fooled": int(rows.sum()),
        "flows": [[int(flows[i, 0]), int(flows[i, 1]), int(counts[i])] for i in order],
    }


# The file -------------------------------------------------------------------------------------------------


def write_summary(directory: Path, summary: Mapping[str, Any]) -> Path:
    """Write ``directory/summary.json`` whole or not at all: temporary file, fsync, rename."""
    directory = Path(directory)
    text = json.dumps(_jsonable(summary), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / SUMMARY_FILE, text.encode())
    return directory / SUMMARY_FILE


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def as_stored(value: Any) -> Any:
    """What `write_summary` followed by reading gives back."""
    return json.loads(json.dumps(_jsonable(value), allow_nan=False))


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary file, or the one of a run's folder; raises InputError with one line on anything else."""
    path = Path(path)
    path = path / SUMMARY_FILE if path.is_dir() else path
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        where = path.parent
        raise InputError(f"no {path.name} in {where}: run `robustatt sweep --out {where}` first") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a summary: broken JSON; run the sweep again to rewrite it") from None
    if not isinstance(summary, dict) or "schema" not in summary:
        raise InputError(f"{path} is not a summary: it has no 'schema'")
    if summary["schema"] != SCHEMA:
        raise InputError(f"{path} has schema {summary['schema']!r}; this version reads schema {SCHEMA}")
    check_form(summary, str(path))
    for key in ("plan", "provenance"):
        summary.setdefault(key, {})
    for key in ("curves", "drift", "drift_predicts_fooling", "differences", "confusion", "health"):
        summary.setdefault(key, [])
    return summary


def curve_frame(summary: Mapping[str, Any], model: str, attack: str) -> pd.DataFrame:
    """One curve as a table, columns in the order of a point of the summary; InputError if it is unknown."""
    for curve in summary["curves"]:
        if (curve["model"], curve["attack"]) == (model, attack):
            columns = ["eps", "accuracy", "ci_low", "ci_high", "worst_case_accuracy", "fooling_rate", "n"]
            return pd.DataFrame(curve["points"], columns=columns)
    known = ", ".join(f"{curve['model']} under {curve['attack']}" for curve in summary["curves"])
    raise InputError(f"no curve of {model!r} under {attack!r}; there are: {known or 'none'}")
