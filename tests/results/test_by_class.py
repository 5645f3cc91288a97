"""Who fails: the test against scipy's, its error rate, and counts that must add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic_records import make_plan, make_records

import robustatt.report.who_fails as who_fails
from robustatt.eps import parse_radius
from robustatt.report import write_report
from robustatt.results.aggregate import summarise
from robustatt.results.by_class import breaking_order, class_points
from robustatt.results.outcomes import curves_of
from robustatt.results.statistics import fisher_exact

counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200), st.integers(0, 200)).filter(sum)


@settings(max_examples=40, deadline=None)
@given(st.lists(counts, min_size=1, max_size=6))
def test_fishers_test_is_scipys(tables: list[tuple[int, int, int, int]]) -> None:
    right, wrong, others, missed = np.array(tables).T
    mine = fisher_exact(right, right + wrong, others, others + missed)
    theirs = [stats.fisher_exact([[a, b], [c, d]])[1] for a, b, c, d in tables]
    np.testing.assert_allclose(mine, theirs, rtol=1e-9)


def test_classes_add_up_to_the_whole() -> None:
    records = make_records(n=150, radii=5)
    for (model, attack), outcomes in curves_of(records).items():
        points = pd.DataFrame([vars(point) for point in class_points(outcomes)])
        assert set(points["model"]) == {model}
        assert set(points["attack"]) == {attack}
        for radius, eps in enumerate(outcomes.eps):
            here = points[points["eps"] == eps]
            assert here["n"].sum() == 150
            total = outcomes.correct[:, radius].sum()
            assert (here["n"] * here["accuracy"]).sum() == pytest.approx(total)
            assert ((150 - here["n"]) * here["others"]).to_numpy() == pytest.approx(total - here["n"] * here["accuracy"])
            assert (here["ci_low"] <= here["accuracy"]).all()
            assert (here["accuracy"] <= here["ci_high"]).all()
            assert (here["p"] <= here["p_holm"]).all()


def test_a_class_that_is_harder_is_marked_and_no_other() -> None:
    records = make_records(models=["vgg"], attacks=["pgd"], n=400, radii=4)
    hard = (records["label"] == 3) & (records["eps"] == "2/255") & (records["clean_pred"] == 3)
    records.loc[hard, "adv_pred"] = 4
    marked = {
        (point.label, point.eps, point.differs) for point in class_points(curves_of(records)["vgg", "pgd"]) if point.differs
    }
    assert marked == {(3, "2/255", -1)}


def test_classes_that_do_not_differ_are_rarely_marked() -> None:
    """At most 5 % of curves have any class marked where labels say nothing; of 200, 19 or more would be a chance of 1 in 100."""
    rng, false = np.random.default_rng(0), 0
    outcomes = curves_of(make_records(models=["vgg"], attacks=["pgd"], n=120, radii=3))["vgg", "pgd"]
    for _ in range(200):
        order = rng.permutation(120)
        label = outcomes.label[order]
        pred = np.where(outcomes.correct, label[:, None], label[:, None] + 1)
        shuffled = type(outcomes)("m", "a", outcomes.eps, outcomes.index, label, label, outcomes.present, pred)
        false += any(point.differs for point in class_points(shuffled))
    assert false < 19


def test_the_order_of_breaking_is_that_of_the_records() -> None:
    records = make_records(models=["vgg"], attacks=["fgsm"], n=60, radii=8)
    order = breaking_order(records, "vgg", "fgsm")
    expected = {}
    for index, rows in records[records["clean_pred"] == records["label"]].groupby("index"):
        broken = rows[(rows["adv_pred"] != rows["label"])]
        radii = sorted((parse_radius(eps), margin) for eps, margin in zip(broken["eps"], broken["adv_margin"], strict=True))
        expected[index] = radii[0] if radii else None
    broken = sorted((key, index) for index, key in expected.items() if key is not None)
    assert [example.index for example in order.broken] == [index for _, index in broken]
    assert order.held == sum(key is None for key in expected.values())
    assert {e.index for e in order.first(10)}.isdisjoint(e.index for e in order.last(10))
    assert order.last(10)[0] == order.broken[-1]
    assert [*order.first(100)] == [*order.broken]
    assert order.last(100) == ()


def test_the_page_shows_the_worst_and_best_ten_of_many_classes(tmp_path: Path) -> None:
    records = make_records(models=["vgg"], attacks=["pgd"], n=500, radii=4, classes=50)
    summary = summarise(records, make_plan(records), {}, [])
    page = write_report(tmp_path, records, summary, figures=False).html.read_text()
    section = page[page.index('<section id="who-fails">') :].partition("</section>")[0]
    assert section.count('scope="row"') == 20
    assert "30 more classes lie between" in section
    assert section.count("<li>") == 20
    assert "<img" not in section
    table = pd.read_csv(tmp_path / "tables/classes.csv")
    assert len(table) == 50 * 5
    assert set(pd.read_csv(tmp_path / "tables/breaking.csv")["end"]) == {"first", "last"}
    assert (tmp_path / "tables/classes.md").read_text().count("\n| ") == 23
    worst = table[table["eps"] == summary.confusion[0].eps].sort_values("accuracy")
    assert f'scope="row">{worst["class"].iloc[0]}<' in section


def test_one_class_alone_has_no_table() -> None:
    records = make_records(models=["vgg"], attacks=["pgd"], n=30, radii=2)
    records["label"] = records["clean_pred"] = 1
    summary = summarise(records, make_plan(records), {}, [])
    assert who_fails.class_tables(list(curves_of(records).values()), summary, "pgd", ["1/255"]) == []
    assert {point.p_holm for point in class_points(curves_of(records)["vgg", "pgd"])} == {1.0}
