"""Ranks of classifiers that were attacked on the same examples, with what chance allows: nothing is ranked that is not shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustatt.results import statistics

ALPHA = 0.05


@dataclass(frozen=True)
class Ranking:
    """The rank of each of k models and how far down it may be, each ``(k,)``, and which is shown to be better than which.

    `better[i, j]`: model i is more accurate than model j beyond chance.
    """

    rank: NDArray[np.int64]
    last: NDArray[np.int64]
    better: NDArray[np.bool_]


def ranking(right: NDArray[np.bool_], alpha: float = ALPHA) -> Ranking:
    """Ranks from which examples each model has right, ``(k, n)``.

    Every ordered pair is tested by the one-sided exact McNemar test, Holm corrected over all k (k - 1) of them, so that with
    probability 1 - alpha no model is called better than one that it is not. The rank of a model is 1 plus the number of models
    shown to be better, `last` is k minus the number of models shown to be worse: together, with that probability, the sets
    rank..last hold all true ranks (Mogstad, Romano, Shaikh & Wilhelm 2024, Inference for ranks, Review of Economic Studies 91).
    Models of one rank are ties. Not being separated is not transitive: neighbours of different rank may be unseparated too,
    which their overlapping sets say.
    """
    models = len(right)
    grid = right.astype(np.float32)
    both = np.rint(grid @ grid.T).astype(np.int64)
    won = both.diagonal()[:, None] - both  # [i, j]: only i is right
    first, second = np.nonzero(~np.eye(models, dtype=bool))
    p = statistics.mcnemar_one_sided(won[first, second], won[second, first])
    better = np.zeros((models, models), dtype=bool)
    better[first, second] = statistics.holm(p) <= alpha
    return Ranking(1 + better.sum(0), models - better.sum(1), better)
