"""`robustatt compare`: two models of one sweep or of two, and the sentence at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TwoClassLinear, images
from torch import nn

import robustatt
from robustatt import cli
from robustatt.cli.compare import conclusion
from robustatt.results.summary import Difference

IMAGE = images(80)
LABEL = TwoClassLinear()(IMAGE).argmax(1)


class Constant(nn.Module):
    """Always class 0, by a hair: no attack moves it, and it is right on half of the images."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        still = image.flatten(1).sum(1) * 1e-9
        return torch.stack([1 + still, -1 + still], 1)


def swept(out: Path, models: dict[str, nn.Module], image: torch.Tensor = IMAGE, **options: Any) -> Path:
    robustatt.sweep(models, (image, LABEL), eps="1,16,32", out=out, **options)
    return out


def table(text: str) -> list[list[str]]:
    """The cells of the printed table."""
    return [line.split() for line in text.splitlines() if line.startswith(" fgsm")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    swept(root / "both", {"lin": TwoClassLinear(), "const": Constant()})
    swept(root / "a", {"lin": TwoClassLinear()})
    swept(root / "b", {"const": Constant(), "lin": TwoClassLinear()})
    swept(root / "other", {"const": Constant()}, IMAGE * 0.9)
    return root


def test_models_of_two_sweeps_are_compared_like_those_of_one(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: object) -> str:
        assert cli.main(["compare", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    both = folders / "both"
    one = said(both, "--a", "lin", "--b", "const")
    assert len(table(one)) == 4
    assert one.splitlines()[-1].startswith("Result: lin is more accurate than const at 2 of 4 points (fgsm at 0/255 to 1/255)")
    for arguments in (
        (f"{both}:lin", f"{both}:const"),
        (f"{folders / 'a'}:lin", f"{folders / 'b'}:const"),
        (folders / "a", f"{folders / 'b'}:const"),
        (folders / "a", folders / "b", "--b", "const"),
    ):
        assert said(*arguments) == one
    twice = said(folders / "a", f"{folders / 'b'}:lin")
    assert f"no difference between lin of {folders / 'a'} and lin of {folders / 'b'} is shown" in twice


def test_what_cannot_be_compared_is_one_line(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, reason in (
        ((f"{folders / 'a'}:lin", folders / "other"), "not of the same images"),
        ((folders / "both",), "Give --a MODEL. Known: lin, const"),
        ((f"{folders / 'a'}:lin",), "give another"),
        ((f"{folders / 'a'}:li", folders / "b"), "did you mean 'lin'"),
        ((folders / "a", folders / "b"), "b:MODEL. Known: const, lin"),
        ((f"{folders / 'a'}:lin", f"{folders / 'b'}:lin", "--a", "lin"), "given twice"),
        ((folders / "a",) * 3, "3 folders"),
    ):
        assert cli.main(["compare", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def row(attack: str, eps: str, difference: float, p: float) -> Difference:
    return Difference.model_construct(attack=attack, eps=eps, difference=difference, p_holm=p)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("fgsm", "1", 0.1, 0.2)], "Result: no difference between A and B is shown at any of 1 point."),
        (
            [row("fgsm", e, 0.1, p) for e, p in (("1", 0.01), ("2", 0.01), ("3", 0.5), ("4", 0.01))],
            "Result: A is more accurate than B at 3 of 4 points (fgsm at 1 to 2, 4), by up to 10.0 points of accuracy; "
            "at the other one none is shown.",
        ),
        (
            [row("fgsm", "1", 0.1, 0.01), row("pgd", "1", -0.2, 0.04)],
            "Result: A is more accurate than B at 1 of 2 points (fgsm at 1), by up to 10.0 points of accuracy; "
            "B is more accurate than A at 1 of 2 points (pgd at 1), by up to 20.0 points of accuracy.",
        ),
    ],
)
def test_the_sentence_at_the_end(rows: list[dict[str, Any]], said: str) -> None:
    assert conclusion(rows, "A", "B") == said
