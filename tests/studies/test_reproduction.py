"""The reproduction table: verdicts follow the intervals, and what was not trained stays empty."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from synthetic_records import card_of, make_plan, make_records

from robustatt.errors import InputError
from robustatt.results.aggregate import summarise
from robustatt.studies.paper.finding import difference
from robustatt.studies.paper.page import reproduce


def checkpoint(folder: Path, name: str, accuracy: float) -> None:
    """A safetensors file without tensors: its header and card."""
    card = card_of(name, accuracy)
    header = json.dumps({"__metadata__": {"card": card.model_dump_json()}}).encode()
    (folder / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.fixture
def records() -> pd.DataFrame:
    return make_records(models=("vgg", "vgg_att3"), n=200, attacks=("fgsm",), radii=4)


def table(records: pd.DataFrame, weights: Path, data: str = "cifar10") -> str:
    plan = make_plan(records)
    plan["data"] = {"name": data, "n": 200, "fingerprint": "0" * 64}
    return reproduce(records, summarise(records, plan, {}, []), weights)


def test_the_table(tmp_path: Path, records: pd.DataFrame) -> None:
    checkpoint(tmp_path, "vgg", 0.7)
    checkpoint(tmp_path, "vgg_att3", 0.8)
    text = table(records, tmp_path)
    assert "| `vgg_att3` | 93.55 | 80.00 | 79.20 to 80.77 | 0.125 | 3 |" in text
    assert "| `vgg_pan` |  |  | not trained |  |  |" in text
    assert "`vgg_att3` against `vgg`: **held here**; accuracy +10.0 points" in text
    assert "`vgg_att2` against `vgg_gap`: open, `vgg_att2` and `vgg_gap` not trained" in text
    assert "Claim 5" in text
    rows = [line for line in text.splitlines() if line.startswith("| 1/255")]
    fooled = records[(records["eps"] == "1/255") & (records["model"] == "vgg")]
    share = 100 * (fooled["adv_pred"] != fooled["clean_pred"]).mean()
    assert rows[0].startswith(f"| 1/255 | {share:.1f} (")


def test_other_data_or_a_file_without_card_is_one_line(tmp_path: Path, records: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="are for cifar10"):
        table(records, tmp_path, "digits")
    (tmp_path / "vgg.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="not a complete safetensors file"):
        table(records, tmp_path)


def test_the_difference_of_two_shares_is_newcombes() -> None:
    """The example of Newcombe (1998), table II: 56/70 against 48/80 gives 0.0524 to 0.3339; here with equal n."""
    change = difference(80, 60, 100)
    assert change.value == pytest.approx(0.2)
    assert (change.low, change.high) == pytest.approx((0.0740, 0.3167), abs=2e-3)
    assert difference(50, 50, 100).low == -difference(50, 50, 100).high
