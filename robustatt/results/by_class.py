"""Who fails: accuracy by true class, and which examples break first and last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from robustatt.eps import CLEAN, parse_radius
from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05


@dataclass(frozen=True)
class ClassPoint:
    """Accuracy of one model under one attack at one radius on the `n` examples of one true class (`label`).

    `ci_low`, `ci_high`: 95 % Wilson. `others`: accuracy on all other classes; NaN if there are none. `p`: Fisher's exact test, two-sided,
    of this class against the others. `p_holm`: after Holm's correction over all classes and radii of the curve.
    """

    model: str
    attack: str
    label: int
    eps: str
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    others: float
    p: float
    p_holm: float

    @property
    def differs(self) -> int:
        """-1 if the class does worse than the others, 1 if it does better, 0 if that may be chance."""
        return 0 if self.p_holm > ALPHA else -1 if self.accuracy < self.others else 1


def class_points(outcomes: Outcomes) -> list[ClassPoint]:
    """Every class at every radius, by class and then radius.

    A class is tested against the other classes, which share no image with it; the overall accuracy contains the class itself. Where
    all images are right, or all are wrong, no class can differ (p is 1 whatever happens), and the radius is no part of the family.
    """
    labels, group = np.unique(outcomes.label, return_inverse=True)
    member = np.zeros((labels.size, outcomes.label.size), np.int64)
    member[group, np.arange(group.size)] = 1
    n, right = member @ outcomes.present.astype(np.int64), member @ outcomes.correct.astype(np.int64)
    m, others = n.sum(0) - n, right.sum(0) - right
    some = n > 0
    low, high = statistics.wilson(right[some], n[some])
    counts = zip(right.T, n.T, others.T, m.T, strict=True)
    p = np.stack([statistics.fisher_exact(*radius) for radius in counts], axis=1)[some]
    total = np.broadcast_to(right.sum(0), n.shape)[some]
    varies = (total > 0) & (total < np.broadcast_to(n.sum(0), n.shape)[some])
    corrected = np.ones_like(p)
    corrected[varies] = statistics.holm(p[varies])
    share = np.where(m > 0, others / np.maximum(m, 1), np.nan)
    return [
        ClassPoint(
            outcomes.model, outcomes.attack, int(labels[c]), outcomes.eps[r], int(n[c, r]), float(right[c, r] / n[c, r]), float(low[i]),
            float(high[i]), float(share[c, r]), float(p[i]), float(corrected[i]),
        )
        for i, (c, r) in enumerate(np.argwhere(some))
    ]  # fmt: skip


@dataclass(frozen=True)
class BrokenExample:
    """An example that is right when clean, the smallest radius at which it is predicted wrong, and as what."""

    index: int
    label: int
    eps: str
    prediction: int
    margin: float


@dataclass(frozen=True)
class BreakingOrder:
    """The examples of one model under one attack that break, the first first; `held` more are right at every radius.

    At one radius the lower margin goes first, then the lower index.
    """

    model: str
    attack: str
    broken: tuple[BrokenExample, ...]
    held: int

    def first(self, count: int) -> Sequence[BrokenExample]:
        """Those that break first."""
        return self.broken[:count]

    def last(self, count: int) -> Sequence[BrokenExample]:
        """Those that break last, the last first; none that is among the first."""
        return self.broken[max(count, len(self.broken) - count) :][::-1]


def breaking_order(records: pd.DataFrame, model: str, attack: str) -> BreakingOrder:
    """In which order the examples of one model break under one attack, from the records of a sweep."""
    rows = records[(records["model"] == model) & (records["attack"] == attack) & (records["clean_pred"] == records["label"])]
    wrong = rows[(rows["adv_pred"] != rows["label"]) & (rows["eps"] != CLEAN)]
    radius = wrong["eps"].map({text: float(parse_radius(text)) for text in wrong["eps"].unique()})
    margin = wrong["adv_margin"] if "adv_margin" in wrong else radius * 0
    order = wrong.assign(radius=radius.astype(float), margin=margin.astype(float)).sort_values(["radius", "margin", "index"])
    first = order.drop_duplicates("index")
    broken = tuple(
        BrokenExample(int(index), int(label), str(eps), int(prediction), float(m))
        for index, label, eps, prediction, m in zip(
            *(first[name] for name in ("index", "label", "eps", "adv_pred", "margin")), strict=True
        )
    )
    return BreakingOrder(model, attack, broken, rows["index"].nunique() - len(broken))
