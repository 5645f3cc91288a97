"""How a family is trained stands in its entry of the registry, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT

from robustatt.errors import InputError
from robustatt.models.families import FAMILIES, Family
from robustatt.models.published import StepSchedule
from robustatt.train import TrainRequest, learning_rate
from robustatt.train.schedule import optimiser_of, peak_rate


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(data: str) -> StepSchedule:
        return StepSchedule(0.8 if data == "digits" else 0.4, 0.1, (2, 3), nesterov=True)

    monkeypatch.setitem(FAMILIES, "toy", Family("a toy", 0.1, 1, "vgg:VGG", peak_rate=0.3, published=steps))
    monkeypatch.setitem(FAMILIES, "mill", Family("another", 0.1, 1, "vgg:VGG", optimiser="adamw", published=None))


def request(model: str = "toy", **fields: Any) -> TrainRequest:
    return TrainRequest(model=model, out=Path("w.safetensors"), **fields)


@pytest.mark.usefixtures("_toy")
def test_a_family_is_trained_as_its_registration_says() -> None:
    assert peak_rate(request()) == 0.3
    assert max(learning_rate(request(epochs=10), position / 10) for position in range(100)) == pytest.approx(0.3)
    paper = request(schedule="paper")
    assert [learning_rate(paper, epoch) for epoch in (0, 1.9, 2, 3, 50)] == pytest.approx([0.8, 0.8, 0.08, 0.008, 0.008])
    assert learning_rate(request(schedule="paper", data="cifar10"), 0) == 0.4
    assert learning_rate(request(schedule="paper", lr=0.5), 2) == pytest.approx(0.05)
    network = torch.nn.Linear(1, 1)
    assert optimiser_of(paper, network).defaults["nesterov"]
    assert not optimiser_of(request("vgg", schedule="paper"), network).defaults["nesterov"]
    assert isinstance(optimiser_of(request("mill"), network), torch.optim.AdamW)


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize("model", ["mill", "vit"])
def test_a_schedule_that_was_not_published_is_refused(model: str) -> None:
    with pytest.raises(InputError, match=f"--schedule paper: {model} was not published with one: use onecycle"):
        request(model, schedule="paper")


@pytest.mark.parametrize(
    "room", ["train", "evaluate", "attack", "engine", "results", "report", "studies/segment", "studies/transfer"]
)
def test_no_room_below_tells_networks_by_their_names(room: str) -> None:
    names = "|".join(sorted(FAMILIES, key=len, reverse=True))
    for path in (ROOT / "robustatt" / room).glob("*.py"):
        for line in path.read_text().splitlines():
            assert not re.search(
                rf"""["']_att["'] in |(==|startswith\(|endswith\(| in )\s*\(?["'](resnet|{names})["']""", line
            ), f"{path}: {line}"
