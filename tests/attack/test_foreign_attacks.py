"""Attacks of other libraries that leave the ball, raise anything, or return what is no image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import nets
from tiny_models import Linear, linear_data

import robustatt
from robustatt.attack import recipe_files as recipes
from robustatt.attack.base import Batch
from robustatt.attack.external import Torchattacks
from robustatt.cli._sweep_tables import print_summary
from robustatt.errors import InputError, RobustattError
from robustatt.results.gate import check
from robustatt.results.reference import make_reference

pytest.importorskip("torchattacks")
NEAR, FAR = 0.01, 0.2
MODEL = Linear(2)
IMAGE, LABEL = linear_data(MODEL, 24)  # pixels in [0.4, 0.6], every ninth label wrong: 21 examples are attacked
Run = Callable[[torch.nn.Module, Batch], Any]


def external(algorithm: str, norm: str = "linf", **rest: Any) -> recipes.Recipe:
    return recipes.parse({"name": "theirs", "algorithm": algorithm, "norm": norm, **rest}, where="test")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Lets every class of torchattacks hand in what a function makes of the images."""

    def replace(run: Run) -> None:
        monkeypatch.setattr(Torchattacks, "run", lambda self, module, rows, eps, seed: run(module, rows))  # noqa: ARG005

    return replace


def brightened(module: torch.nn.Module, rows: Batch) -> torch.Tensor:  # noqa: ARG001
    """Even examples moved by 0.2 in every pixel, odd ones by 0.01, whatever the radius."""
    amount = torch.where(rows.index % 2 == 0, FAR, NEAR)
    return rows.image + amount[:, None, None, None]


def swept(algorithm: str, eps: str, norm: str = "linf", out: Path | None = None) -> robustatt.Result:
    return robustatt.sweep(MODEL, (IMAGE, LABEL), attacks=[external(algorithm, norm)], eps=eps, out=out)


def test_images_outside_the_ball_are_counted_and_their_rows_are_not_attacked(
    library: Callable[[Run], None], tmp_path: Path
) -> None:
    """At 4/255 the images moved by 0.2 lie outside; at 51/255, which is 0.2, none does but for rounding."""
    library(brightened)
    result = swept("torchattacks:GN", "4,51", out=tmp_path)
    records = result.records
    attackable = records[(records.label == records.clean_pred) & (records.eps != "0/255")]
    even = attackable["index"] % 2 == 0
    assert (attackable.attacked == ((attackable.eps == "51/255") | ~even)).all()
    assert np.allclose(attackable.raw_distance, np.where(even, FAR, NEAR), atol=1e-6)
    others = records[(records.label != records.clean_pred) | (records.eps == "0/255")]
    assert not others.attacked.any()
    assert others.raw_distance.isna().all()
    (warning,) = [entry for entry in result.health if entry.code == "left-the-ball"]
    count = int(even[attackable.eps == "4/255"].sum())
    assert f"at 4/255 {count} of 21 images" in warning.message
    assert warning.evidence["outside"] == count
    assert warning.evidence["median"] == pytest.approx(FAR, rel=1e-5)
    pd.testing.assert_frame_equal(swept("torchattacks:GN", "4,51", out=tmp_path).records, records)


def test_a_minimum_norm_attack_outside_a_radius_has_found_nothing_inside(library: Callable[[Run], None]) -> None:
    """That is its normal case in its own norm; in another one it is an attack that left the ball."""
    library(brightened)
    assert [entry.code for entry in swept("torchattacks:CW", "4", "l2").health if entry.code == "left-the-ball"] == []
    records = swept("torchattacks:CW", "4", "l2").records
    assert (records.attacked == ((records.eps != "0/255") & (records.label == records.clean_pred))).all()
    assert "left-the-ball" in {entry.code for entry in swept("torchattacks:CW", "4", "linf").health}


def test_what_an_attack_did_outside_is_not_held_against_it(library: Callable[[Run], None]) -> None:
    """No second warning compares what it missed in the ball with a single step."""
    library(brightened)
    attacks = ["fgsm", external("torchattacks:GN")]
    health = robustatt.sweep(MODEL, (IMAGE, LABEL), attacks=attacks, eps="16").health
    assert [entry.code for entry in health if entry.attack == "theirs"] == ["left-the-ball"]


def test_an_attack_that_was_told_the_radius_may_leave_it_by_rounding_only(library: Callable[[Run], None]) -> None:
    library(lambda module, rows: rows.image + rows.eps[0] * (1 + 5e-4))  # noqa: ARG005
    records = swept("torchattacks:PGD", "4").records
    assert float(records.distance.max()) == pytest.approx(4 / 255, abs=1e-6)
    library(lambda module, rows: rows.image + rows.eps[0] * 2)  # noqa: ARG005
    with pytest.raises(InputError, match=r"'theirs': \d+ of \d+ images lie outside .*linf distance up to 0.03137"):
        swept("torchattacks:PGD", "4")


def raising(problem: Exception) -> Run:
    def run(module: torch.nn.Module, rows: Batch) -> torch.Tensor:  # noqa: ARG001
        try:
            raise problem
        except Exception as inner:
            raise RuntimeError("wrapped") from inner

    return run


@pytest.mark.parametrize(
    "problem",
    [RuntimeError("size mismatch\nsecond line"), IndexError("out of range"), ZeroDivisionError(), OSError("x")],
)
def test_whatever_a_library_raises_is_one_line_with_its_innermost_cause(
    library: Callable[[Run], None], problem: Exception
) -> None:
    library(raising(problem))
    with pytest.raises(InputError) as caught:
        swept("torchattacks:PGD", "4")
    said = str(caught.value)
    assert "'theirs': torchattacks:PGD" in said
    assert type(problem).__name__ in said
    assert "\n" not in said


def test_running_out_of_memory_is_not_the_attacks_mistake(library: Callable[[Run], None]) -> None:
    """It reaches the engine as it is, which tries a smaller batch."""
    sizes: list[int] = []

    def hungry(module: torch.nn.Module, rows: Batch) -> torch.Tensor:  # noqa: ARG001
        sizes.append(len(rows))
        if len(rows) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return rows.image

    library(hungry)
    assert len(swept("torchattacks:GN", "4").records) == 48
    assert max(sizes) > 8 >= sizes[-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda image: image.index_fill(0, torch.tensor([1]), torch.nan),
            r"NaN or infinite pixels for 1 of \d+ images",
        ),
        (lambda image: image + 3, r"pixels in \[3\..*images must be in \[0, 1\]"),
        (lambda image: image[:, :1], r"shape \(\d+, 1, 6, 6\)"),
        (lambda image: [image], "returned a list"),
    ],
)
def test_what_is_no_image_is_refused(library: Callable[[Run], None], change: Callable[..., Any], said: str) -> None:
    library(lambda module, rows: change(rows.image))  # noqa: ARG005
    with pytest.raises(RobustattError, match=f"'theirs': .*{said}"):
        swept("torchattacks:PGD", "4")


# Attacks in their own threat model --------------------------------------------------------------------------


def unbounded(algorithm: str, **rest: Any) -> recipes.Recipe:
    return external(algorithm, "none", **rest)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_spatial_attack_without_a_norm_counts_what_foolbox_itself_breaks() -> None:
    """Oracle: foolbox called directly. Held to a ball, the same attack broke nothing."""
    foolbox = pytest.importorskip("foolbox")
    net = nets.trained(nets.convolutional)
    images, labels = nets.held_out(24)
    pixels = images.float() / 255
    attack = foolbox.attacks.SpatialAttack(max_translation=0.3, max_rotation=10)
    _, moved, _ = attack(foolbox.PyTorchModel(net, bounds=(0, 1)), pixels, labels)
    with torch.no_grad():
        held = (net(moved).argmax(1) == labels) & (net(pixels).argmax(1) == labels)
    recipe = unbounded("foolbox:SpatialAttack", arguments={"max_translation": 0.3, "max_rotation": 10})
    result = robustatt.sweep(net, (images, labels), attacks=[recipe, "fgsm"], eps="4")
    assert result.curve("theirs").eps.tolist() == ["0/255", "255/255"]
    assert result.curve("theirs").accuracy.iloc[-1] == float(held.float().mean())
    assert 0 < float(held.float().mean()) < 0.9
    change = (moved - pixels).flatten(1)
    rows = result.records[(result.records.attack == "theirs") & result.records.attacked]
    for column, order in (("distance", float("inf")), ("distance_l2", 2), ("distance_l1", 1)):
        exact = torch.linalg.vector_norm(change, ord=order, dim=1)[torch.tensor((rows["index"]).to_numpy())]
        assert np.allclose(rows[column], exact, rtol=1e-5), column
    curve = next(curve for curve in result.summary["curves"] if curve["attack"] == "theirs")
    fell = rows[rows.adv_pred != rows.label]
    assert curve["norm"] == "none"
    assert curve["distances"]["l2"]["median"] == pytest.approx(float(fell.distance_l2.median()))
    assert not {"left-the-ball", "ball-unused"} & {entry.code for entry in result.health}


def test_an_attack_without_a_norm_stands_on_no_axis_of_radii(
    library: Callable[[Run], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of its own on the terminal and the page; the figures hold the others alone."""
    library(brightened)
    attacks = ["fgsm", unbounded("torchattacks:GN")]
    result = robustatt.sweep(MODEL, (IMAGE, LABEL), attacks=attacks, eps="4,8", out=tmp_path)
    page = result.report(tmp_path / "page").read_text()
    section = page[page.index('id="unbounded"') :].split("</section>")[0]
    assert "theirs" in section
    assert "255/255" not in page
    assert "theirs" not in (tmp_path / "page" / "figures" / "accuracy.csv").read_text()
    assert "theirs,none,255/255" in (tmp_path / "page" / "tables" / "summary.csv").read_text()
    print_summary(result.typed_summary)
    printed = capsys.readouterr().out
    assert "attacks without a radius" in printed
    assert "255/255" not in printed
    alone = robustatt.sweep(MODEL, (IMAGE, LABEL), attacks=attacks[1:], eps="4,8")
    assert 'id="unbounded"' in alone.report(tmp_path / "alone").read_text()


def test_a_lost_point_of_such_an_attack_is_a_regression(library: Callable[[Run], None]) -> None:
    """The gate compares its one accuracy like any other."""
    library(lambda module, rows: rows.image)  # noqa: ARG005
    recipe = unbounded("torchattacks:GN")
    held = robustatt.sweep(MODEL, (IMAGE, LABEL), attacks=[recipe], eps="4")
    library(lambda module, rows: 1 - rows.image)  # noqa: ARG005
    fell = robustatt.sweep(MODEL, (IMAGE, LABEL), attacks=[recipe], eps="4")
    reference = make_reference(held.records, held.typed_summary)
    assert check(fell.records, fell.typed_summary, reference).verdict == "regression"
    assert check(held.records, held.typed_summary, reference).verdict == "same"


def test_a_radius_of_the_class_is_an_argument_then() -> None:
    """torchattacks' own PGD at eps 0.3 breaks everything, in one run."""
    recipe = unbounded("torchattacks:PGD", arguments={"eps": 0.3, "alpha": 0.05, "steps": 10})
    records = robustatt.sweep(MODEL, (IMAGE, LABEL), attacks=[recipe], eps="4").records
    attacked = records[records.attacked]
    assert (attacked.adv_pred != attacked.label).all()
    assert 0.2 < float(attacked.distance.max()) <= 0.3 + 1e-6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"algorithm": "pgd"}, r"'linf', 'l2' or 'l1', not 'none'"),
        ({"algorithm": "torchattacks:PGD", "shares": {"alpha": 0.2}}, "put them under \\[arguments\\]"),
        ({"algorithm": "foolbox:LinfPGD"}, "is told its radius: write norm ="),
    ],
)
def test_where_no_norm_makes_no_sense(content: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        robustatt.sweep(MODEL, (IMAGE, LABEL), attacks=[unbounded(**content)], eps="4")
