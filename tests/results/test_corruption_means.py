"""Means over corruptions: by hand on a few images, and their intervals against a bootstrap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robustatt.results.aggregate import summarise
from robustatt.results.corruptions import table_of
from robustatt.results.outcomes import curves_of
from robustatt.results.summary import Summary

PLAN = {
    "attacks": [{"name": kind, "algorithm": "corruption", "kind": kind, "norm": "none"} for kind in ("fog", "snow", "saturate")],
    "models": [{"name": "a"}, {"name": "b"}],
    "baseline": "a",
}


def rows(model: str, kind: str, right: np.ndarray, clean: np.ndarray) -> pd.DataFrame:
    """Records of one corruption: `right` (images, severities) and `clean` (images,) say what is classified right; labels are 0."""
    wrong = ~np.column_stack([clean, right])
    n, columns = wrong.shape
    severity = np.tile(np.arange(columns), n)
    return pd.DataFrame({
        "model": model, "attack": kind, "eps": ["0/255" if s == 0 else str(s) for s in severity],
        "index": np.repeat(np.arange(n), columns), "label": 0, "clean_pred": np.repeat(wrong[:, 0].astype(int), columns),
        "adv_pred": wrong.ravel().astype(int), "distance": 0.1, "attacked": True, "zero_grad": False, "severity": severity.astype(np.float32),
    })  # fmt: skip


def of(*frames: pd.DataFrame, plan: dict[str, object] = PLAN) -> Summary:
    return summarise(pd.concat(frames, ignore_index=True), plan, {}, [])


def test_means_by_hand() -> None:
    clean = np.array([True, True, True, False])
    fog = np.array([[1, 1], [1, 0], [0, 0], [1, 0]], dtype=bool)  # the last is right under fog though wrong when clean
    snow = np.array([[1, 1], [1, 1], [1, 0], [0, 0]], dtype=bool)
    base = np.zeros((4, 2), dtype=bool)
    base[0] = True
    summary = of(
        rows("a", "fog", base, clean), rows("a", "snow", base, clean), rows("b", "fog", fog, clean), rows("b", "snow", snow, clean),
        rows("b", "saturate", base, clean), rows("a", "saturate", base, clean),
    )  # fmt: skip
    a, b = summary.corruption_means
    assert (a.model, a.n, a.corruptions, a.accuracy) == ("a", 4, ["fog", "snow"], 0.25)  # saturate is an extra
    assert b.accuracy == pytest.approx((4 / 8 + 5 / 8) / 2)
    assert (b.baseline, a.baseline) == ("a", None)
    assert b.difference == pytest.approx(b.accuracy - 0.25)
    assert b.mce == pytest.approx(100 * ((4 / 6) + (3 / 6)) / 2)
    assert 0 <= b.ci_low < b.accuracy < b.ci_high <= 1
    points = {(c.model, c.attack): [p.accuracy for p in c.points] for c in summary.curves}
    assert points["b", "fog"] == [0.75, 0.75, 0.25]
    heads, table = table_of(summary, "b")
    assert heads == ["corruption", "severity 1", "severity 2", "mean"]
    assert table[:3] == [["clean", "-", "-", "75.0"], ["snow", "75.0", "50.0", "62.5"], ["fog", "75.0", "25.0", "50.0"]]


def test_intervals_are_those_of_a_bootstrap_over_images() -> None:
    rng = np.random.default_rng(0)
    n, hard = 400, rng.random(400)
    frames, right = [], {}
    for model, skill in (("a", 0.5), ("b", 0.7)):
        for kind in ("fog", "snow"):
            right[model, kind] = rng.random((n, 5)) < skill + 0.5 * (hard[:, None] - 0.5)
            frames.append(rows(model, kind, right[model, kind], np.ones(n, bool)))
    row = of(*frames).corruption_means[1]
    share = {key: 1 - value.mean(1) for key, value in right.items()}
    draws = rng.integers(n, size=(2000, n))
    mean = 1 - (share["b", "fog"] + share["b", "snow"])[draws].mean(1) / 2
    ratio = 50 * sum(share["b", kind][draws].mean(1) / share["a", kind][draws].mean(1) for kind in ("fog", "snow"))
    assert [row.ci_low, row.ci_high] == pytest.approx(np.quantile(mean, [0.025, 0.975]), abs=0.004)
    assert [row.mce_low, row.mce_high] == pytest.approx(np.quantile(ratio, [0.025, 0.975]), abs=1.0)


def test_no_error_of_the_baseline_is_no_ratio_and_one_image_no_interval() -> None:
    perfect, poor = np.ones((3, 5), bool), np.zeros((3, 5), bool)
    clean = np.ones(3, bool)
    row = of(rows("a", "fog", perfect, clean), rows("b", "fog", poor, clean)).corruption_means[1]
    assert (row.mce, row.difference) == (None, -1.0)
    alone = of(rows("b", "fog", poor[:1], clean[:1])).corruption_means[0]
    assert (alone.ci_low, alone.ci_high, alone.baseline) == (0.0, 1.0, None)


def test_images_without_all_their_rows_are_left_out() -> None:
    right = np.ones((3, 2), bool)
    right[0] = False
    frame = rows("b", "fog", right, np.ones(3, bool))
    partial = frame[~((frame["index"] == 0) & (frame["eps"] == "2"))]
    assert of(partial).corruption_means[0].accuracy == 1.0
    assert of(partial).corruption_means[0].n == 2


def test_a_corruption_is_no_adversary_but_a_gate_holds_it() -> None:
    frame = rows("b", "fog", np.ones((3, 2), bool), np.zeros(3, bool))
    summary = of(frame)
    assert not summary.is_adversary("fog")
    assert summary.is_gated("fog")
    assert summary.bounded().curves == []
    assert curves_of(frame)["b", "fog"].correct.tolist() == [[False, True, True]] * 3
