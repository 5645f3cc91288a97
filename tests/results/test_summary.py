"""The summary: definitions by hand-made records, the contract's form, and files that are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_records import PROVENANCE, make_plan, make_records

from robustatt.errors import InputError
from robustatt.results import statistics
from robustatt.results.aggregate import summarise
from robustatt.results.outcomes import outcomes_by_curve
from robustatt.results.summary import Provenance, Summary, curve_frame
from robustatt.results.summary_file import as_stored, read_summary, write_summary


def by_hand(rows: dict[int, list[int]], labels: list[int], eps: list[str]) -> pd.DataFrame:
    """Records of one model from predictions ``{index: [at each eps]}``."""
    frame = pd.DataFrame(
        [
            {
                "model": "m",
                "attack": "a",
                "eps": e,
                "index": i,
                "label": labels[i],
                "adv_pred": p,
                "clean_pred": row[0],
            }
            for i, row in rows.items()
            for e, p in zip(eps, row, strict=True)
        ]
    )
    return frame.sample(frac=1, random_state=0)


def test_definitions_by_hand() -> None:
    # example 0 holds; 1 breaks at 1 and recovers at 10; 2 is misclassified when clean, and changes at 10
    records = by_hand({0: [5, 5, 5], 1: [6, 0, 6], 2: [1, 1, 2]}, [5, 6, 7], ["0", "1/255", "10/255"])
    summary = summarise(records, {}, {}, [])
    points = summary.curves[0].points
    assert [p.eps for p in points] == ["0/255", "1/255", "10/255"]
    assert [p.accuracy for p in points] == [2 / 3, 1 / 3, 2 / 3]
    assert [p.worst_case_accuracy for p in points] == [2 / 3, 1 / 3, 1 / 3]
    assert [p.fooling_rate for p in points] == [0, 1 / 3, 1 / 3]
    low, high = statistics.wilson(2, 3)
    assert (points[0].ci_low, points[0].ci_high) == (low, high)
    assert summary.curves[0].norm == "linf"


def test_equals_plain_pandas() -> None:
    records = make_records(n=60)
    summary = summarise(records, make_plan(records), PROVENANCE, [])
    for (model, attack), rows in records.groupby(["model", "attack"]):
        frame = curve_frame(summary, model, attack).set_index("eps")
        by_eps = rows.assign(right=rows.adv_pred == rows.label, fooled=rows.adv_pred != rows.clean_pred)
        expected = by_eps.groupby("eps")[["right", "fooled"]].mean()
        assert np.allclose(frame["accuracy"], expected["right"][frame.index])
        assert np.allclose(frame["fooling_rate"], expected["fooled"][frame.index])
        assert (frame["worst_case_accuracy"].diff().dropna() <= 0).all()


def test_drift_means_by_group() -> None:
    records = make_records(models=("vgg_att3",), attacks=("pgd",), n=80)
    rows = pd.DataFrame([row.as_dict() for row in summarise(records, {}, {}, []).drift]).set_index(
        ["level", "metric", "eps", "group"]
    )
    at = records[records.eps == "8/255"]
    fooled = at.adv_pred != at.clean_pred
    assert rows.loc[("l2", "shift", "8/255", "fooled"), "mean"] == pytest.approx(
        at.loc[fooled, "drift_shift_l2"].mean(), rel=1e-5
    )
    assert rows.loc[("l2", "shift", "8/255", "held"), "n"] == (~fooled).sum()
    assert ("l2", "shift", "0/255", "fooled") not in rows.index


def test_drift_auc_at_one_radius_among_the_cleanly_right() -> None:
    records = make_records(models=("vgg_att3",), attacks=("pgd", "noise"), n=300)
    rows = [r for r in summarise(records, {}, {}, []).drift_predicts_fooling if r.headline]
    assert [(r.attack, r.level) for r in rows] == [("pgd", "l1"), ("pgd", "l2"), ("pgd", "l3")]
    at = records[(records.attack == "pgd") & (records.eps == rows[2].eps) & (records.clean_pred == records.label)]
    expected = statistics.auc_interval(at.drift_js_l3, at.adv_pred != at.clean_pred)
    assert rows[2].auc == pytest.approx(expected.value, abs=1e-6)
    assert rows[2].n_fooled + rows[2].n_held == len(at)
    assert rows[0].ci_low < 0.5 < rows[2].ci_low  # the generator's l1 drift knows nothing, its l3 does


def test_differences_are_paired_with_the_baseline() -> None:
    records = make_records(n=120)
    rows = summarise(records, make_plan(records), {}, []).differences
    assert {(r.model, r.baseline) for r in rows} == {("vgg_att3", "vgg")}
    row = next(r for r in rows if r.attack == "pgd" and r.eps == "5/255")
    right = (
        records[(records.attack == "pgd") & (records.eps == "5/255")]
        .assign(right=lambda r: r.adv_pred == r.label)
        .pivot(index="index", columns="model", values="right")
    )
    counts = statistics.PairedCounts.of(right["vgg_att3"], right["vgg"])
    assert (row.only_model, row.only_baseline) == (counts.only_a, counts.only_b)
    assert row.difference == pytest.approx(right["vgg_att3"].mean() - right["vgg"].mean())
    assert row.p <= row.p_holm <= 1


def test_order_of_rows_and_eps_spelling_change_nothing() -> None:
    records = make_records(n=40)
    shuffled = records.sample(frac=1, random_state=3)
    shuffled["eps"] = shuffled["eps"].replace({"0/255": "0"}).astype("category")
    plan = make_plan(records)
    assert summarise(shuffled, plan, {}, []) == summarise(records, plan, {}, [])


def test_a_row_twice_is_refused() -> None:
    records = make_records(n=5)
    with pytest.raises(InputError, match="twice"):
        summarise(pd.concat([records, records.head(1)]), {}, {}, [])


def test_missing_rows_lower_n_and_break_nothing() -> None:
    records = by_hand({0: [5, 5, 5], 1: [6, 6, 6]}, [5, 6], ["0/255", "1/255", "2/255"])
    partial = records[~((records["index"] == 1) & (records.eps == "1/255"))]
    points = summarise(partial, {}, {}, []).curves[0].points
    assert [p.n for p in points] == [2, 1, 2]
    assert [p.worst_case_accuracy for p in points] == [1, 1, 1]


def test_empty_records_give_an_empty_summary(tmp_path: Path) -> None:
    summary = summarise(make_records(n=5).head(0), {"models": [{"name": "vgg"}]}, {}, [])
    assert summary.curves == summary.drift == []
    assert list(outcomes_by_curve(make_records(n=5).head(0))) == []
    assert read_summary(write_summary(tmp_path, summary)) == summary
    with pytest.raises(InputError, match="label"):
        summarise(pd.DataFrame({"model": ["a"]}), {}, {}, [])


def test_file_round_trip(tmp_path: Path) -> None:
    records = make_records(n=30, attacks=("fgsm",))
    health = [{"code": "saturation", "message": "…", "model": "vgg", "attack": None}]
    summary = summarise(records, make_plan(records), PROVENANCE | {"bad": float("nan")}, health)
    path = write_summary(tmp_path / "run", summary)
    again = read_summary(tmp_path / "run")
    assert again.curves == summary.curves
    assert again.drift == summary.drift
    assert again.provenance.as_dict()["bad"] is None
    assert [p.name for p in path.parent.iterdir()] == ["summary.json"]
    assert set(again.as_dict()) >= {"schema", "plan", "provenance", "curves", "drift", "health"}


GOOD: dict[str, Any] = {"schema": 1, "plan": {}, "provenance": {}, "curves": [], "drift": [], "health": []}
POINT = {
    "eps": "1/255",
    "n": 1,
    "accuracy": 1,
    "ci_low": 0,
    "ci_high": 1,
    "worst_case_accuracy": 1,
    "fooling_rate": 0,
}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"schema": 1',
        "{}",
        json.dumps(GOOD | {"schema": 2}),
        json.dumps(GOOD | {"curves": {}}),
        json.dumps(GOOD | {"curves": [1]}),
        json.dumps(GOOD | {"curves": [{"model": "m", "attack": "a", "points": [POINT | {"accuracy": 3}]}]}),
        json.dumps(GOOD | {"curves": [{"model": "m", "attack": "a", "points": [POINT | {"eps": "1/0"}]}]}),
        "[" * 100_000,
    ],
)
def test_broken_file_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError) as caught:
        read_summary(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^no summary.json in {tmp_path}: run `robustatt sweep --out {tmp_path}` first$"):
        read_summary(tmp_path)


def test_a_mistake_in_a_file_names_the_file_and_the_place(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(GOOD | {"curves": {}}))
    with pytest.raises(InputError, match=rf"^{tmp_path / 'summary.json'} is not a summary: curves: "):
        read_summary(tmp_path)


def test_the_file_byte_by_byte(tmp_path: Path) -> None:
    """Indented by one, letters as they are in UTF-8, and null for what JSON has no number for."""
    numbers = {"seconds": np.float64(2.5), "n": np.int64(3), "far": np.inf, "yes": np.True_, "none": None, "where": Path("x")}
    summary = Summary.parse({"schema": 1, "plan": {"models": [{"name": "Übung"}]}, "provenance": {"git": "é"}}, "test")
    path = write_summary(tmp_path / "a" / "b", summary.model_copy(update={"provenance": Provenance.model_construct(**numbers)}))
    assert path == tmp_path / "a" / "b" / "summary.json"
    assert (
        path.read_bytes().decode("utf-8")
        == """{
 "schema": 1,
 "plan": {
  "models": [
   {
    "name": "Übung"
   }
  ]
 },
 "provenance": {
  "seconds": 2.5,
  "n": 3,
  "far": null,
  "yes": true,
  "none": null,
  "where": "x"
 }
}
"""
    )
    assert read_summary(path).plan.models[0].name == "Übung"
    assert as_stored({1: (np.float32(0.5), np.nan), "p": Path("a/b")}) == {"1": [0.5, None], "p": "a/b"}
    assert write_summary(tmp_path / "a" / "b", summary) == path, "written anew"


def test_a_curve_as_a_table() -> None:
    """Columns in the order of a point of the summary, whatever else a point holds."""
    points = [POINT | {"broken_by": {"pgd": 1}}, POINT | {"eps": "2/255", "accuracy": 0, "n": 4}]
    curves = [{"model": model, "attack": "a", "points": points[: i + 1]} for i, model in enumerate(("l", "m"))]
    summary = Summary.parse(GOOD | {"curves": curves}, "test")
    expected = pd.DataFrame({
        "eps": ["1/255", "2/255"], "accuracy": [1.0, 0.0], "ci_low": 0.0, "ci_high": 1.0, "worst_case_accuracy": 1.0, "fooling_rate": 0.0,
        "n": [1, 4],
    })  # fmt: skip
    pd.testing.assert_frame_equal(curve_frame(summary, "m", "a"), expected)
    for model, attack in (("m", "b"), ("k", "a")):
        with pytest.raises(InputError, match=rf"^no curve of '{model}' under '{attack}'; there are: l under a, m under a$"):
            curve_frame(summary, model, attack)
    with pytest.raises(InputError, match="there are: none"):
        curve_frame(Summary(), "m", "a")


def test_unknown_curve_names_the_known() -> None:
    records = make_records(n=5, models=("vgg",), attacks=("fgsm",))
    with pytest.raises(InputError, match="vgg under fgsm"):
        curve_frame(summarise(records, {}, {}, []), "vgg", "nope")


def test_the_radius_of_the_headline_has_the_most_to_tell_apart() -> None:
    """Under a threshold search one image of each kind at some radius would be an even split, and say nothing."""
    records = make_records(models=("vgg_att3",), n=200, attacks=("pgd",))
    at = records["eps"] == "2/255"
    fooled = records["adv_pred"] != records["clean_pred"]
    right = records["clean_pred"] == records["label"]
    few = pd.concat([records[at & right & fooled].head(1), records[at & right & ~fooled].head(1)]).index
    records.loc[at, "attacked"] = False
    records.loc[few, "attacked"] = True
    rows = [r for r in summarise(records, {}, {}, []).drift_predicts_fooling if r.level == "l3"]
    assert [(r.n_fooled, r.n_held) for r in rows if r.eps == "2/255"] == [(1, 1)]
    (headline,) = [r for r in rows if r.headline]
    narrowest = min(rows, key=lambda r: abs(r.n_fooled - r.n_held) if r.eps != "2/255" else 1000)
    assert headline.eps == narrowest.eps
