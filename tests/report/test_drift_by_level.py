"""Drift by level and radius: what the table and the figure show is what the summary says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from robustatt.report.charts import tick_text
from robustatt.report.drift_by_level import level_tables, write_level_figure
from robustatt.report.page import Page, context
from robustatt.report.style import SHADES
from robustatt.report.tables import drift_markdown
from robustatt.report.text import prediction_rows
from robustatt.results.summary import AreaRow, DriftRow, FullStrength, Summary


def row(level: str, eps: int, mean: float, model: str = "net", attack: str = "pgd", group: str = "all") -> DriftRow:
    return DriftRow(
        model=model,
        attack=attack,
        level=level,
        metric="js",
        eps=f"{eps}/255",
        group=group,
        n=7,
        mean=mean,
        ci_low=0.0,
        ci_high=1.0,
    )


BLOCKS = [row(f"block{number}", eps, number * eps / 100) for number in (1, 2, 10) for eps in (0, 1, 2, 12)]


def test_levels_keep_their_order_and_radii_are_sorted_as_numbers() -> None:
    (table,) = level_tables(Summary(drift=BLOCKS), "pgd")
    assert table.levels == ["block1", "block2", "block10"]
    assert table.radii == ["1/255", "2/255", "12/255"]
    np.testing.assert_allclose(table.drift, np.outer([1, 2, 10], [1, 2, 12]) / 100)
    assert table.shades.max() == SHADES
    assert table.shades[0, 0] == 1


def test_full_strength_replaces_the_search_for_the_same_attack() -> None:
    strong = FullStrength(n=7, drift=[row("block1", 2, 0.5), row("block2", 2, 0.25)])
    (table,) = level_tables(Summary(drift=BLOCKS, full_strength=strong), "pgd")
    assert table.drift.tolist() == [[0.5], [0.25]]


def area(eps: int, fooled: int, held: int, value: float = 0.05) -> AreaRow:
    return AreaRow(
        model="net", attack="pgd", level="block1", kind="attention", eps=f"{eps}/255", headline=True, auc=value, ci_low=0.01,
        ci_high=0.3, n_fooled=fooled, n_held=held,
    )  # fmt: skip


def test_where_nobody_was_fooled_at_full_strength_the_search_does_not_stand_in() -> None:
    """Its images stopped at the first success, so that its areas answer another question."""
    strong = FullStrength(n=7, drift=[row("block1", 2, 0.5)])
    assert not Summary(drift_predicts_fooling=[area(2, 8, 8)], full_strength=strong).measured_areas()
    assert len(Summary(drift_predicts_fooling=[area(2, 8, 8)]).measured_areas()) == 1


def test_one_fooled_image_says_nothing() -> None:
    readings = [
        line.reading
        for line in prediction_rows(Summary(drift_predicts_fooling=[area(2, *n) for n in ((1, 19), (19, 4), (5, 5))]))
    ]
    assert readings == ["too few images to say", "too few images to say", "the other way: fooled ones move less"]


def test_an_interval_of_a_few_images_is_not_shown() -> None:
    """DeLong's holds its 95 % only of more: of two fooled among a hundred, three of four."""
    few, more = (drift_markdown(prediction_rows(Summary(drift_predicts_fooling=[area(2, n, 9)]))) for n in (2, 9))
    assert "(0.010 to 0.300)" in more
    assert "0.050" in few
    assert "(0.010 to 0.300)" not in few


def test_random_signs_at_full_strength_are_named_beside_the_attack() -> None:
    signs = [row("block1", 2, 0.1, attack="sign-noise")]
    alone, beside = (Summary(drift=BLOCKS, full_strength=FullStrength(n=7, drift=more)) for more in ([], signs))
    assert [context(summary, Page([], []))["controls"] for summary in (alone, beside)] == [False, True]


def test_one_level_saliency_and_other_attacks_have_no_table() -> None:
    rows = [
        row("l3", 1, 0.1),
        row("gradcam", 1, 0.1),
        row("gradcam", 2, 0.1),
        row("l2", 1, 0.1, attack="fgsm"),
        row("l1", 1, 0.1, group="held"),
    ]
    assert not level_tables(Summary(drift=rows), "pgd")


def test_a_fine_grid_is_thinned_from_the_largest_radius_down() -> None:
    rows = [row(level, eps, 0.01 * eps) for level in ("l1", "l2") for eps in range(1, 17)]
    (table,) = level_tables(Summary(drift=rows), "pgd")
    assert [table.radii[place] for place in table.columns] == [f"{eps}/255" for eps in range(2, 17, 2)]


def test_the_figure_and_its_numbers(tmp_path: Path) -> None:
    other = [row(level, eps, 0.3, model="other") for level in ("l1", "l2") for eps in (1, 2)]
    paths = write_level_figure(Summary(drift=[*BLOCKS, *other]), "pgd", tmp_path)
    assert [path.name for path in paths] == ["drift-by-level.png", "drift-by-level.svg", "drift-by-level.csv"]
    numbers = pd.read_csv(paths[2])
    assert len(numbers) == 9 + 4
    chosen = numbers[(numbers["level"] == "block10") & (numbers["eps"] == "12/255")]
    assert chosen["mean"].tolist() == [1.2]
    assert chosen["n"].tolist() == [7]
    again = write_level_figure(Summary(drift=[*BLOCKS, *other]), "pgd", tmp_path / ".")
    assert paths[0].read_bytes() == again[0].read_bytes()


def test_nothing_is_written_without_levels(tmp_path: Path) -> None:
    assert not write_level_figure(Summary(), "pgd", tmp_path)
    assert not list(tmp_path.iterdir())


def test_small_ticks_stay_short() -> None:
    assert [tick_text(value) for value in (0.0, 0.002, 0.0004, 0.00025, 12.0, -0.0003)] == [
        "0",
        "0.002",
        "4e-4",
        "2.5e-4",
        "12",
        "-3e-4",
    ]
