"""What the page says is true in odd runs too: everything fooled, nothing fooled, ties, many models, many radii."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_records import make_records

from robustatt.report import drift_figures, text, write_report
from robustatt.report.page import overviews
from robustatt.report.style import LIGHT, looks
from robustatt.results.aggregate import summarise

PLAN: dict[str, Any] = {
    "attacks": [{"name": "fgsm", "algorithm": "fgsm"}, {"name": "pgd", "algorithm": "pgd", "steps": 40}],
    "evaluation": "threshold search",
}


def page_of(records: pd.DataFrame, folder: Path, plan: dict[str, Any] | None = None) -> str:
    """The page of these records."""
    folder.mkdir(exist_ok=True)
    return write_report(folder, records, summarise(records, plan or {}, {}, []), figures=False).html.read_text()


def test_where_everything_is_fooled_at_every_radius_the_smallest_is_shown(tmp_path: Path) -> None:
    records = make_records(n=40, models=("vgg",), attacks=("pgd",))
    above = records["eps"] != "0/255"
    records.loc[above, "adv_pred"] = (records.loc[above, "clean_pred"] + 1) % 10
    (row,) = summarise(records, {}, {}, []).confusion
    right = int((records[~above]["clean_pred"] == records[~above]["label"]).sum())
    assert (row.eps, row.n_fooled) == ("1/255", right)
    page = page_of(records, tmp_path)
    assert f"vgg at 1/255, {right} fooled" in page
    assert "No image was fooled" not in page


def test_where_nothing_is_fooled_the_page_says_so(tmp_path: Path) -> None:
    records = make_records(n=40, models=("vgg",), attacks=("pgd",))
    records["adv_pred"] = records["clean_pred"]
    page = page_of(records, tmp_path)
    assert "No image was fooled at any radius." in page
    assert "vgg at 0/255" not in page


@pytest.mark.parametrize("order", [("fgsm", "pgd"), ("pgd", "fgsm")])
def test_of_attacks_that_break_as_many_the_stronger_family_is_named_and_the_tie_said(order: tuple[str, str]) -> None:
    records = make_records(n=40, models=("vgg",), attacks=("pgd",))
    both = pd.concat([records.assign(attack=name) for name in order], ignore_index=True)
    summary = summarise(both, PLAN, {}, [])
    assert text.strongest_by_norm(summary) == {"linf": "pgd"}
    assert "with the same accuracy everywhere as fgsm" in text.limits(summary)[0]
    other = summarise(make_records(n=40, models=("vgg",), attacks=("fgsm", "pgd")), PLAN, {}, [])
    assert "the same accuracy" not in text.limits(other)[0]


def test_a_table_of_some_radii_says_how_many_there_are(tmp_path: Path) -> None:
    records = make_records(n=40)
    (table,) = overviews(summarise(records, {}, {}, []))
    assert (len(table.radii), table.of) == (6, 17)
    assert "6 of 17 radii; all are below" in page_of(records, tmp_path / "many")
    assert "all are below" not in page_of(make_records(n=40, radii=4), tmp_path / "few")


def test_drift_curves_of_a_search_say_why_they_end() -> None:
    records = make_records(n=80, attacks=("pgd",))
    for evaluation, said in (("threshold search", True), ("independent", False)):
        specs = drift_figures(summarise(records, {**PLAN, "evaluation": evaluation}, {}, []))
        assert specs
        assert all(("sweep with --independent" in spec.caption) == said for spec in specs)
    one_step = drift_figures(summarise(make_records(n=80, attacks=("fgsm",)), PLAN, {}, []))
    assert not any("--independent" in spec.caption for spec in one_step)


def test_levels_stand_in_the_order_of_depth() -> None:
    records = make_records(n=40, models=("vgg_att3",), attacks=("fgsm",))
    names = {"l1": "block2", "l2": "block9", "l3": "block10"}
    drift = {column: column.rsplit("_", 1)[0] + "_" + names.get(column.rsplit("_", 1)[1], "gradcam")
             for column in records if column.startswith("drift_")}  # fmt: skip
    specs = drift_figures(summarise(records.rename(columns=drift), PLAN, {}, []))
    assert [panel.title for panel in specs[0].panels] == ["Block 2", "Block 9", "Block 10"]


def test_every_model_and_every_attack_has_a_look_of_its_own() -> None:
    models, attacks = [f"model{i}" for i in range(3 * len(LIGHT))], [f"attack{i}" for i in range(16)]
    look = looks(models, attacks)
    seen = {(entry.light, entry.marker, entry.dash) for entry in look.values()}
    assert len(seen) == len(models) * len(attacks)
    assert np.unique([len(entry.dash) % 2 for entry in look.values()]).tolist() == [0]
