"""What the Python interface offers a notebook: radii as numbers, a short HTML summary, recipes as dicts, a progress bar."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from tiny_models import TwoClassLinear, images

import robustatt
from robustatt.attack import recipe_files as recipe
from robustatt.errors import InputError

MODEL, IMAGE = TwoClassLinear(), images(12)
LABEL = MODEL(IMAGE).argmax(1)


def sweep(**options: Any) -> robustatt.Result:
    return robustatt.sweep(options.pop("model", MODEL), (IMAGE, LABEL), **{"eps": "2,8", **options})


def test_radii_are_numbers_beside_the_text(tmp_path: Path) -> None:
    result = sweep(attacks=["fgsm", "pgd-l2"], eps={"fgsm": "2,0.5", "pgd-l2": "0.25"}, out=tmp_path)
    assert result.curve("fgsm").eps_value.tolist() == [0, 0.5 / 255, 2 / 255]
    assert result.curve("pgd-l2").eps_value.tolist() == [0, 0.25]
    records = result.records
    assert dict(zip(records.eps, records.eps_value, strict=True)) == {
        "0/255": 0, "0.5/255": 0.5 / 255, "2/255": 2 / 255, "0.25": 0.25,
    }  # fmt: skip
    assert records.eps_value.dtype == float
    again = sweep(eps=result.curve("fgsm").eps_value.tolist())
    assert again.curve("fgsm").eps.tolist() == result.curve("fgsm").eps.tolist()
    for path in (tmp_path / "records").glob("*.parquet"):
        assert "eps_value" not in pd.read_parquet(path).columns


def test_a_recipe_may_be_a_dict() -> None:
    written = recipe.parse({"name": "pgd-5", "algorithm": "pgd", "steps": 5}, "test")
    given = sweep(attacks=[{"name": "pgd-5", "algorithm": "pgd", "steps": 5}])
    assert given.summary["plan"]["attacks"][0]["steps"] == 5
    assert given.records.equals(sweep(attacks=[written]).records)
    assert sweep(attacks={"name": "pgd-5", "algorithm": "pgd", "steps": 5}).records.equals(given.records)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({"algorithm": "pgd"}, "with a name, such as"),
        ({"name": "mine", "algorithm": "pgd", "step": 3}, "attack 'mine': unknown key 'step'"),
        ({"name": "mine", "algorithm": "pgd", 3: 3}, "attack 'mine': unknown key '3'"),
        (5, "an attack is the name of a recipe"),
    ],
)
def test_what_is_no_recipe_is_one_line(attack: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        sweep(attacks=[attack])
    assert "\n" not in str(caught.value)


def test_a_result_shows_itself_as_escaped_html() -> None:
    result = sweep(model={"<script>alert(1)</script>": MODEL}, attacks=["fgsm"])
    text = result._repr_html_()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for value in (100 * result.curve("fgsm").accuracy).map("{:.1f}".format):
        assert f"<td>{value}</td>" in text
    assert "12 images" in text
    assert "8/255" in text
    assert len(text) < 3000


def test_the_bar_is_shown_where_it_is_asked_for_or_seen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustatt.progress.LOG_INTERVAL", 0.0)
    for quiet in (None, False):
        sweep(progress=quiet)
        assert capsys.readouterr() == ("", "")
    sweep(progress=True)
    assert "24 of 24 images" in capsys.readouterr().err
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    sweep(progress=False)
    assert capsys.readouterr() == ("", "")
    sweep()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "24/24" in shown.err
