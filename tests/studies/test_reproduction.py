"""The reproduction table: verdicts follow the intervals, seeds stand beside each other, what was not trained is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from synthetic_records import card_of, make_plan, make_records

from robustatt.errors import InputError
from robustatt.results.aggregate import summarise
from robustatt.studies.paper.page import reproduce

ACCURACY = {"vgg-seed0": 0.7, "vgg-seed1": 0.71, "vgg_att3-seed0": 0.8, "vgg_att3-seed1": 0.81, "vgg_gap-seed0": 0.75}


def checkpoint(folder: Path, label: str, accuracy: float) -> Path:
    """A safetensors file without tensors: its header and card."""
    card = card_of(label.partition("-")[0], accuracy)
    header = json.dumps({"__metadata__": {"card": card.model_dump_json()}}).encode()
    path = folder / f"{label}.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.fixture
def records() -> pd.DataFrame:
    return make_records(models=tuple(ACCURACY), n=200, attacks=("fgsm",), radii=4)


def table(records: pd.DataFrame, folder: Path, data: str = "cifar10") -> str:
    plan = make_plan(records)
    plan["data"] = {"name": data, "n": 200, "fingerprint": "0" * 64}
    for model in plan["models"]:
        model["weights"] = str(folder / f"{model['name']}.safetensors")
    return reproduce(records, summarise(records, plan, {}, []))


def test_the_table(tmp_path: Path, records: pd.DataFrame) -> None:
    for label, accuracy in ACCURACY.items():
        checkpoint(tmp_path, label, accuracy)
    text = table(records, tmp_path)
    assert "| `vgg_att3` | 93.55 | 80.50 | 79.71 to 81.26 | 80.00, 81.00 | 0.71 |" in text
    assert "| `vgg_gap` |  | 75.00 | 74.14 to 75.84 | 75.00 | one seed |" in text
    assert "`vgg_pan` |" not in text
    assert "| Claim 1: `vgg_att3` against `vgg` on cifar10 | +1.2 points | accuracy +10.0 points (+" in text
    assert "| Claim 2: `vgg_att3` against `vgg_gap` on cifar10 |  | accuracy +5.5 points (+3.6 to +7.4) | **one seed** |" in text
    assert "| Claim 5: `vgg_att3` against `vgg` on cifar10 at 1/255 | about -5 points |" in text
    rows = [line for line in text.splitlines() if line.startswith("| 1/255")]
    fooled = [
        100 * (rows["adv_pred"] != rows["clean_pred"]).mean()
        for label in ("vgg-seed0", "vgg-seed1")
        for rows in [records[(records["eps"] == "1/255") & (records["model"] == label)]]
    ]
    assert rows[0].startswith(f"| 1/255 | {sum(fooled) / 2:.1f} ({min(fooled):.1f} to {max(fooled):.1f}) |")


def test_other_data_or_a_file_without_card_is_one_line(tmp_path: Path, records: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="are for cifar10 and cifar100"):
        table(records, tmp_path, "digits")
    with pytest.raises(InputError, match="no weights file"):
        table(records, tmp_path)
    for label in ACCURACY:
        (tmp_path / f"{label}.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="not a complete safetensors file"):
        table(records, tmp_path)
