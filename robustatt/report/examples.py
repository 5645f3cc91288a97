"""Every example of a run in a form small enough to sit in the page: what each model said at each radius."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from robustatt.results.outcomes import Outcomes

MAX_PREDICTIONS = 1_500_000
"""Beyond this number of predictions the page keeps only the strongest attack, to stay well under 10 MB."""

_OFFSET = 0x100


class ExplorerGrid(TypedDict):
    """One model under one attack.

    Classes are text, one character each, code point 256 + class (255 where the row is missing); ``pred`` is example after
    example with its radii ascending, of which the first may be 0.
    """

    model: str
    attack: str
    eps: list[str]
    index: list[int] | dict[str, int]
    label: str
    clean: str
    pred: str


class ExplorerData(TypedDict):
    """What the page's explorer shows; ``left_out`` are the attacks that would make the page too large."""

    grids: list[ExplorerGrid]
    left_out: list[str]


def explorer_data(layout: Sequence[Outcomes], strongest: str | None) -> ExplorerData | None:
    """The examples for the page's explorer, controls left out by the caller; None without records."""
    shown = list(layout)
    if sum(outcomes.present.size for outcomes in shown) > MAX_PREDICTIONS:
        shown = [outcomes for outcomes in shown if outcomes.attack == strongest]
    shown = [outcomes for outcomes in shown if _writable(outcomes)]
    if not shown:
        return None
    return {
        "grids": [
            {
                "model": outcomes.model,
                "attack": outcomes.attack,
                "eps": list(outcomes.eps),
                "index": _index(outcomes.index),
                "label": _text(outcomes.label),
                "clean": _text(outcomes.clean_pred),
                "pred": _text(outcomes.adv_pred.ravel()),
            }
            for outcomes in shown
        ],
        "left_out": sorted({outcomes.attack for outcomes in layout} - {outcomes.attack for outcomes in shown}),
    }


def _writable(outcomes: Outcomes) -> bool:
    """Whether classes fit one character each, short of the surrogates."""
    return max(int(outcomes.label.max()), int(outcomes.adv_pred.max()), int(outcomes.clean_pred.max())) < 0xD000


def _text(classes: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    return (classes + _OFFSET).astype("<u2").tobytes().decode("utf-16-le")


def _index(index: np.ndarray[Any, np.dtype[np.int64]]) -> list[int] | dict[str, int]:
    """A plain range as its first number."""
    if np.array_equal(index, np.arange(index[0], index[0] + index.size)):
        return {"from": int(index[0])}
    return [int(number) for number in index]
