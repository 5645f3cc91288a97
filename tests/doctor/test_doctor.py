"""The doctor: nothing to say of a good model, and each planted fault found on its line with something to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import digits_data, trained_digits
from torch import Tensor, nn

from robustatt import cli
from robustatt.data import TensorDataset
from robustatt.doctor.deep import diagnose
from robustatt.doctor.table import TOPICS, DoctorLine, DoctorRequest, _training_images, examine_model
from robustatt.health.warning import HealthWarning
from robustatt.models import Card, ResolvedModel
from robustatt.plan import ModelEntry

CPU = torch.device("cpu")
KNOWN = {*TOPICS, "input range", "attention", "clean accuracy", "speed", "time of fgsm", "time of pgd", "time of autoattack"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def good() -> nn.Module:
    """About 97 % right."""
    return trained_digits()


def shown(model: nn.Module, **card: object) -> dict[str, DoctorLine]:
    """The findings of a model on 100 digits, by line; of two on one line the fault."""
    batch, labels = (part[-100:] for part in digits_data())
    batch = (batch * 255).round().to(torch.uint8)
    written = None
    if card:
        written = Card(name="vgg", width=1.0, classes=10, mean=MEAN, std=STD, data="tensors", **card)
    found = examine_model(ResolvedModel(model, "mine", written, "memory"), TensorDataset(batch, labels), CPU)
    return {it.check: it for it in sorted(found, key=lambda it: it.fine, reverse=True)}


def test_a_good_model_is_fine_on_every_line(good: nn.Module) -> None:
    found = shown(good, clean_accuracy=0.97)
    assert all(it.fine for it in found.values()), [it for it in found.values() if not it.fine]
    assert "% of 100 images" in found["clean accuracy"].finding
    assert "the card says 97.0%" in found["clean accuracy"].finding
    assert "images/s" in found["speed"].finding
    assert {"time of fgsm", "time of pgd", "time of autoattack"} < set(found)


def test_a_card_that_says_otherwise(good: nn.Module) -> None:
    found = shown(good, clean_accuracy=0.6)["clean accuracy"]
    assert not found.fine
    assert found.advice


class Expecting(nn.Module):
    """A network that wants normalised images, which nobody gives it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        return self.net(image * std + mean)


class Noisy(Expecting):
    def forward(self, image: Tensor) -> Tensor:
        return self.net(image + 0.1 * torch.randn_like(image))


class Rounding(Expecting):
    def forward(self, image: Tensor) -> Tensor:
        return self.net((image * 255).round() / 255)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Expecting, "normalisation"),
        (Noisy, "determinism"),
        (Rounding, "gradient"),
        (lambda net: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), net), "batch size"),
        (lambda net: nn.Sequential(net, nn.Softmax(1)), "logits"),
        (lambda net: nn.Sequential(net, nn.Linear(10, 10)), "clean accuracy"),
    ],
)
def test_a_planted_fault_is_found(fault: object, line: str, good: nn.Module) -> None:
    torch.manual_seed(0)
    found = shown(fault(good))[line]  # type: ignore[operator]
    assert (found.fine, found.mark) == (False, "!!")
    assert found.advice


def test_what_a_look_has_said_the_attacks_do_not_say_again(good: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax is named once, on its own line, also where the attacks find it again; what only they find has a line."""
    again = [HealthWarning("probabilities", "Again 1 of 2.", "Do this first.", "mine")]
    masked = HealthWarning("black-box-stronger", "5 of 9 (Athalye et al. 2018).", "Believe the worst case.", "mine")
    images, labels = digits_data()
    test = TensorDataset((images[-100:] * 255).round().to(torch.uint8), labels[-100:])
    model = ResolvedModel(nn.Sequential(good, nn.Softmax(1)), "mine", None, "memory")
    for more, lines in ((again, ["attacks"]), ([*again, masked], ["black-box-stronger"])):
        monkeypatch.setattr("robustatt.doctor.table.diagnose", lambda *_, said=more: said)
        found = examine_model(model, test, CPU, deep=True)
        assert [it.check for it in found if it.check not in KNOWN] == lines
        assert sum("probabilities" in it.finding for it in found) == 1
    assert (found[-1].finding, found[-1].advice) == ("5 of 9 (Athalye et al. 2018)", "Believe the worst case")


def test_test_images_among_the_training_images(good: nn.Module) -> None:
    images, labels = digits_data()
    pixels = (images * 255).round().to(torch.uint8)
    test = TensorDataset(pixels[-100:], labels[-100:])
    for train, fine in ((pixels[:-100], True), (pixels, False)):
        found = examine_model(ResolvedModel(good, "mine", None, "memory"), test, CPU, train=train)
        (line,) = [it for it in found if it.check == "training images"]
        assert line.fine == fine
        assert ("100 of 100" in line.finding) != fine


def test_the_training_split_is_looked_for() -> None:
    """Digits come with one; a folder without one says nothing."""
    images = _training_images(DoctorRequest(ModelEntry("vgg", "vgg"), "digits"))
    assert images is not None
    assert len(images) == 1297
    assert _training_images(DoctorRequest(ModelEntry("vgg", "vgg"), "/nowhere")) is None


def test_the_command_exits_with_0_and_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_blind.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.Softmax(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "--model", "mine_blind:build"]) == 0
    said = capsys.readouterr().out
    assert "To look into first: " in said
    assert "logits" in said.rpartition("To look into first: ")[2]
    assert cli.main(["doctor", "--model", "vgg_att9"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert cli.main(["doctor", "--model", "mine_blind:build", "--attention", "blocks.*"]) == 2
    assert "--attention 'blocks.*': no level or submodule is of that name" in capsys.readouterr().err


def test_nothing_is_said_to_be_fine_about_logits_that_are_no_numbers() -> None:
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.flatten(1)[:, :10] + torch.nan

    found = shown(Broken())
    assert "nan" not in " ".join(line.finding for line in found.values() if line.fine)
    assert next(line.check for line in found.values() if not line.fine) == "logits"


class NanOffTheGrid(nn.Module):
    """A linear classifier that cannot say anything of pixels between two 8-bit levels, as under a random start."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(3 * 8 * 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        off = ((255 * x).round() / 255 - x).abs().flatten(1).amax(1) > 1e-5
        return torch.where(off[:, None], torch.nan, self.classify(x.flatten(1)))


def test_an_attack_that_ends_in_nan_is_a_finding_and_no_error() -> None:
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (found,) = diagnose(NanOffTheGrid().eval(), "mine", images, torch.arange(12) % 2)
    assert (found.code, found.model) == ("non-finite", "mine")
    assert found.finding.startswith("an attack on 12 images could not be run to its end: ")
