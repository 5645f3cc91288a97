"""Records to summary: every aggregate of a run, computed once from its per-example rows.

All numbers are array operations on the grids of `outcomes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from robustatt.eps import parse_radius
from robustatt.models.families import baseline_of
from robustatt.results import statistics
from robustatt.results.chains import broken_by_part
from robustatt.results.columns import DRIFT_METRICS, kind_of
from robustatt.results.corruptions import corruption_means
from robustatt.results.outcomes import Outcomes, outcomes_by_curve
from robustatt.results.plan_info import PlanInfo
from robustatt.results.summary import (
    SCHEMA,
    AreaRow,
    Confusion,
    Curve,
    Difference,
    DriftRow,
    FullStrength,
    Point,
    Summary,
    TransferCurve,
)
from robustatt.results.unbounded import distances


def summarise(
    records: pd.DataFrame,
    plan: Mapping[str, object],
    provenance: Mapping[str, object],
    health: Sequence[Mapping[str, object]],
    drift: pd.DataFrame | None = None,
    transfer: pd.DataFrame | None = None,
) -> Summary:
    """The summary of a run.

    Besides the contract's keys it holds ``drift_predicts_fooling`` (see `drift_auc`), ``differences``
    (paired, each model against its baseline, see `paired_differences`) and ``confusion`` (where the fooled
    examples went), of corruptions ``corruption_means``, of the ``drift`` records, if there are any, ``full_strength``, and of the
    ``transfer`` records the curves of each model on examples from each surrogate, which enter nothing else; a point of a chain of
    attacks has ``broken_by`` (how many each part broke). An empty frame gives an empty summary; what is missing shows in each
    point's ``n``.
    """
    content = {"schema": SCHEMA, "plan": dict(plan), "provenance": dict(provenance), "health": [dict(entry) for entry in health]}
    asked = Summary.parse(content, "the plan")
    layout = sorted(outcomes_by_curve(records), key=_plan_order(asked))
    pairs = baselines([outcomes.model for outcomes in layout], asked.plan.baseline)
    rivals = [outcomes for outcomes in layout if asked.is_adversary(outcomes.attack)]
    summary = Summary(
        schema=SCHEMA,
        plan=asked.plan,
        provenance=asked.provenance,
        curves=[_curve(outcomes, asked.plan, records) for outcomes in layout],
        drift=[row for outcomes in layout for row in drift_rows(outcomes)],
        drift_predicts_fooling=[row for outcomes in rivals for row in drift_auc(outcomes)],
        differences=paired_differences(layout, pairs),
        confusion=[confusion(outcomes) for outcomes in rivals],
        health=asked.health,
    )
    parts: dict[str, object] = {}
    if means := corruption_means(layout, asked.plan, pairs):
        parts["corruption_means"] = means
    if drift is not None and not drift.empty:
        parts["full_strength"] = _full_strength(drift, asked)
    if transfer is not None and not transfer.empty:
        parts["transfer"] = list(_transfer(transfer, asked))
    return summary.model_copy(update=parts) if parts else summary


def _transfer(records: pd.DataFrame, asked: Summary) -> Iterator[TransferCurve]:
    """Surrogate by surrogate, the curve of each model under each attack."""
    names = [entry.name for entry in asked.plan.surrogates]
    for surrogate in sorted(
        records["surrogate"].unique(), key=lambda name: (names.index(name) if name in names else len(names), name)
    ):
        rows = records[records["surrogate"] == surrogate]
        for outcomes in sorted(outcomes_by_curve(rows), key=_plan_order(asked)):
            yield TransferCurve(surrogate=surrogate, **dict(_curve(outcomes, asked.plan, rows)))


def _full_strength(records: pd.DataFrame, asked: Summary) -> FullStrength:
    layout = sorted(outcomes_by_curve(records), key=_plan_order(asked))
    return FullStrength(
        n=max(outcomes.index.size for outcomes in layout),
        drift=[row for outcomes in layout for row in drift_rows(outcomes)],
        drift_predicts_fooling=[row for outcomes in layout if asked.is_adversary(outcomes.attack) for row in drift_auc(outcomes)],
    )


def _plan_order(summary: Summary) -> Callable[[Outcomes], tuple[int, str, bool, int, str]]:
    models, attacks = ([entry.name for entry in part] for part in (summary.plan.models, summary.plan.attacks))

    def place(name: str, names: list[str]) -> int:
        return names.index(name) if name in names else len(names)

    return lambda outcomes: (
        place(outcomes.model, models),
        outcomes.model,
        not summary.is_adversary(outcomes.attack),
        place(outcomes.attack, attacks),
        outcomes.attack,
    )


def _curve(outcomes: Outcomes, plan: PlanInfo, records: pd.DataFrame) -> Curve:
    n = outcomes.present.sum(axis=0)
    right = outcomes.correct.sum(axis=0)
    held = (outcomes.held & outcomes.present).sum(axis=0)
    fooled = outcomes.fooled.sum(axis=0)
    low, high = statistics.wilson(right, n)
    attack = plan.attack(outcomes.attack)
    parts = broken_by_part(outcomes, attack.recipe)
    points = [
        Point(
            eps=eps,
            n=int(n[i]),
            accuracy=float(right[i] / n[i]),
            ci_low=float(low[i]),
            ci_high=float(high[i]),
            worst_case_accuracy=float(held[i] / n[i]),
            fooling_rate=float(fooled[i] / n[i]),
            **({"broken_by": parts[i]} if parts else {}),
        )
        for i, eps in enumerate(outcomes.eps)
    ]
    far = {"distances": distances(records, outcomes.model, outcomes.attack)} if attack.norm == "none" else {}
    return Curve(model=outcomes.model, attack=outcomes.attack, norm=attack.norm, points=points, **far)


# Drift of attention and saliency --------------------------------------------------------------------------


def drift_rows(outcomes: Outcomes) -> Iterator[DriftRow]:
    """Mean drift with a 95 % t interval by metric, level, radius and group: all, fooled, held.

    ``kind`` says whether the level is attention or saliency: the two are never compared with each other. Only
    rows attacked at exactly their radius count (see `_comparable`).

    A group without examples has no row; the interval of a single example is null.
    """
    fooled = outcomes.fooled
    for (metric, level), values in outcomes.drift.items():
        measure = DRIFT_METRICS.get(metric)
        floor, roof = (measure.least, measure.most) if measure else (-math.inf, math.inf)
        measured = ~np.isnan(values)
        filled = np.where(measured, values, 0).astype(np.float64)
        for group, mask in (("all", measured), ("fooled", measured & fooled), ("held", measured & ~fooled)):
            n = mask.sum(axis=0)
            some = np.flatnonzero(n)
            inside = filled * mask
            average, low, high = statistics.mean_interval(inside.sum(axis=0)[some], (inside**2).sum(axis=0)[some], n[some])
            for i, column in enumerate(some):
                yield DriftRow(
                    model=outcomes.model,
                    attack=outcomes.attack,
                    level=level,
                    kind=kind_of(level),
                    metric=metric,
                    eps=outcomes.eps[column],
                    group=group,
                    n=int(n[column]),
                    mean=_tidy(average[i]),
                    ci_low=_tidy(max(low[i], floor)),
                    ci_high=_tidy(min(high[i], roof)),
                )


def _tidy(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 7)


def drift_auc(outcomes: Outcomes, metric: str = "js") -> Iterator[AreaRow]:
    """Does drift predict being fooled? ROC area of the Jensen-Shannon drift against fooled, level by level.

    Only examples whose clean prediction is right enter, and each radius is judged by itself: both drift and
    fooling grow with the radius, so an area pooled over radii would be high even if drift said nothing about
    which example falls. Attacks that stop at the first success have moved fooled images in fewer steps than
    held ones, and a threshold search attacks at a radius those that break near it; FGSM, one step for all images at
    all radii, is free of both. ``headline`` marks the radius with the most pairs to tell apart for its number of
    images, where the interval is narrowest: were all images attacked, the one where half are fooled. Radii at which
    all or none are fooled have no area. Interval: 95 %, DeLong.
    """
    eligible = outcomes.clean_pred == outcomes.label
    fooled = outcomes.fooled
    for (name, level), values in outcomes.drift.items():
        if name != metric:
            continue
        rows: list[AreaRow] = []
        for column, eps in enumerate(outcomes.eps):
            use = eligible & ~np.isnan(values[:, column])
            positive = fooled[use, column]
            n_fooled = int(positive.sum())
            if parse_radius(eps) == 0 or n_fooled in (0, positive.size):
                continue
            area = statistics.auc_interval(values[use, column], positive)
            rows.append(
                AreaRow(
                    model=outcomes.model,
                    attack=outcomes.attack,
                    level=level,
                    kind=kind_of(level),
                    eps=eps,
                    headline=False,
                    auc=round(area.value, 7),
                    ci_low=round(area.low, 7),
                    ci_high=round(area.high, 7),
                    n_fooled=n_fooled,
                    n_held=positive.size - n_fooled,
                )
            )
        headline = max(rows, key=_weight, default=None)
        yield from (row.model_copy(update={"headline": row is headline}) for row in rows)


def _weight(row: AreaRow) -> float:
    """What a radius has to say: the variance of an area goes about as the inverse of this."""
    return float(row.n_fooled * row.n_held / (row.n_fooled + row.n_held))


# Comparisons ----------------------------------------------------------------------------------------------


def baselines(models: Sequence[str], named: str | None = None) -> dict[str, str]:
    """Each model's baseline among the others: the one named, else that of its family if it is there (see `baseline_of`)."""
    if named is not None:
        return {model: named for model in models if model != named}
    return {model: baseline for model in models if (baseline := baseline_of(model)) in models}


def paired_differences(layout: Sequence[Outcomes], pairs: Mapping[str, str]) -> list[Difference]:
    """Accuracy of each model minus its baseline on the same examples, radius by radius.

    Newcombe's 95 % interval, the exact McNemar p-value, and that p after Holm's correction over the curve.
    """
    by_key = {(outcomes.model, outcomes.attack): outcomes for outcomes in layout}
    rows: list[Difference] = []
    for outcomes in layout:
        base = by_key.get((pairs.get(outcomes.model, ""), outcomes.attack))
        if base is not None:
            rows += compare_outcomes(outcomes, base)
    return rows


def compare_outcomes(outcomes: Outcomes, base: Outcomes) -> list[Difference]:
    """The paired comparison of two grids under one attack at the radii and examples both have."""
    mine, theirs = outcomes.align(base)
    tests: list[tuple[str, statistics.PairedCounts, float]] = []
    correct, base_correct = outcomes.correct, base.correct
    for column, eps in enumerate(outcomes.eps):
        if eps not in base.eps:
            continue
        other = base.eps.index(eps)
        use = outcomes.present[mine, column] & base.present[theirs, other]
        if not use.any():
            continue
        counts = statistics.PairedCounts.of(correct[mine, column][use], base_correct[theirs, other][use])
        tests.append((eps, counts, float(statistics.mcnemar_exact(counts.only_a, counts.only_b))))
    adjusted = statistics.holm([p for _, _, p in tests])
    return [
        _difference(outcomes, base, eps, counts, p, float(p_holm))
        for (eps, counts, p), p_holm in zip(tests, adjusted, strict=True)
    ]


def _difference(
    outcomes: Outcomes, base: Outcomes, eps: str, counts: statistics.PairedCounts, p: float, p_holm: float
) -> Difference:
    change = statistics.newcombe_paired(counts)
    return Difference(
        model=outcomes.model,
        baseline=base.model,
        attack=outcomes.attack,
        eps=eps,
        n=counts.n,
        difference=change.value,
        ci_low=change.low,
        ci_high=change.high,
        only_model=counts.only_a,
        only_baseline=counts.only_b,
        p=p,
        p_holm=p_holm,
    )


def confusion(outcomes: Outcomes) -> Confusion:
    """Where the fooled examples went, at the radius above 0 where the share fooled is nearest to one half.

    Only examples whose clean prediction is right; ``flows`` are ``[true class, predicted class, count]``,
    most frequent first.
    """
    eligible = outcomes.clean_pred == outcomes.label
    fooled = outcomes.fooled & eligible[:, None]
    share = fooled.sum(axis=0) / max(1, int(eligible.sum()))
    distance = np.abs(share - 0.5)
    above = [i for i, eps in enumerate(outcomes.eps) if parse_radius(eps) > 0] or [0]
    column = min(above, key=lambda i: (distance[i], i))
    rows = fooled[:, column]
    pairs = np.stack([outcomes.label[rows], outcomes.adv_pred[rows, column]], axis=1)
    flows, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return Confusion(
        model=outcomes.model,
        attack=outcomes.attack,
        eps=outcomes.eps[column],
        n_fooled=int(rows.sum()),
        flows=[[int(flows[i, 0]), int(flows[i, 1]), int(counts[i])] for i in order],
    )
