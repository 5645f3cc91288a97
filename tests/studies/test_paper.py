"""The page of the paper's claims: verdicts follow the intervals, what is absent is said, nothing is measured twice."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from synthetic_records import card_of

from robustatt import cli
from robustatt.data import TensorDataset, load
from robustatt.models import Card, build, save_checkpoint
from robustatt.results.outcomes import Outcomes
from robustatt.results.statistics import Estimate
from robustatt.studies.paper.accuracy import paired_accuracy
from robustatt.studies.paper.claims import claims, overlap
from robustatt.studies.paper.finding import (
    HELD,
    OPEN,
    REVERSED,
    Claim,
    Evidence,
    Finding,
    Measured,
    negative,
    points,
    verdict,
)
from robustatt.studies.paper.page import page, write_figures
from robustatt.studies.paper.plan import DataPlace, Places
from robustatt.studies.segment.aggregate import MEANS
from robustatt.studies.segment.result import MapComparison, MapName, SegmentSummary

PLAN = """
[sweep]
data = "cifar10"
models = ["vgg", "vgg_att2"]
eps = "1"
n = 8
[fine_grained]
data = "birds"
eps = "4"
n = 8
weights = "birds-weights"
[transfer]
data = ["strange", "nowhere"]
models = ["vgg", "vgg_att2"]
folds = 3
[segment]
data = ["shapes"]
models = ["vgg", "vgg_att2"]
eps = "4"
attack = "fgsm"
attack_n = 2
"""


@pytest.mark.parametrize(
    ("low", "high", "says"), [(0.01, 0.3, HELD), (-0.3, -0.01, REVERSED), (-0.1, 0.1, OPEN), (0.0, 0.1, OPEN)]
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, says: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high)) == says


def test_a_test_that_is_not_sure_decides_nothing() -> None:
    assert verdict(Estimate(0.1, 0.05, 0.15), p=0.05) == HELD
    assert verdict(Estimate(0.1, 0.05, 0.15), p=0.051) == OPEN


def test_a_difference_the_other_way_round() -> None:
    assert negative(Estimate(0.25, -0.125, 0.5)) == Estimate(-0.25, -0.5, 0.125)
    assert points(Estimate(0.012, -0.03, 0.05)) == "+1.2 points (-3.0 to +5.0)"


def test_a_claim_counts_its_comparisons() -> None:
    findings = [Finding("a", verdict=HELD), Finding("b", verdict=HELD), Finding("c", verdict=OPEN), Finding("d")]
    assert Claim(1, "", findings).summary() == "held: 2, not decided: 1, not tested here: 1"


def entry(a: tuple[str, str], b: tuple[str, str], measure: str = "jaccard_otsu") -> MapComparison:
    first, second = (MapName(model=model, method=method) for model, method in (a, b))
    return MapComparison(a=first, b=second, measure=measure, difference=0.1, low=0.05, high=0.15, p=0.01, p_holm=0.01)


def test_overlaps_are_of_attention_against_something_else_whichever_way_they_were_compared() -> None:
    first = overlap(entry(("vgg_att2", "product"), ("vgg", "gradcam")), "x")
    assert first is not None
    assert (first.what, first.verdict) == ("`vgg_att2` product against `vgg` gradcam on x", HELD)
    turned = overlap(entry(("vgg_gap", "cam"), ("vgg_att2", "product")), "x")
    assert turned is not None
    assert (turned.verdict, turned.here) == (REVERSED, "Jaccard -0.100 (-0.150 to -0.050)")
    floor = overlap(entry(("vgg_att2", "product"), ("floor", "gaussian")), "x")
    assert floor is not None
    assert "the floor `gaussian`" in floor.what
    assert overlap(entry(("vgg_att2", "product"), ("vgg_att3", "product")), "x") is None
    own = overlap(entry(("vgg_att2", "prior"), ("vgg_att2", "product")), "x")
    assert own is not None
    assert (own.what, own.verdict) == ("`vgg_att2` product against its own mean map on x", REVERSED)
    assert overlap(entry(("vgg", "gradcam"), ("floor", "gaussian")), "x") is None


def test_clean_accuracies_are_compared_on_the_images_that_both_saw() -> None:
    def grid(index: list[int], right: list[int]) -> Outcomes:
        n = len(index)
        there = np.ones((n, 1), bool)
        return Outcomes("m", "fgsm", ("0/255",), np.array(index), np.ones(n, np.int64), np.array(right), there, there * 1)

    change = paired_accuracy(grid([0, 1, 2, 3], [1, 1, 1, 0]), grid([1, 2, 3, 9], [0, 1, 0, 1]))
    assert change.value == pytest.approx(1 / 3)


def segmented() -> SegmentSummary:
    """segment.json of two networks, as it is read."""
    mean = {"mean": 0.3, "low": 0.2, "high": 0.4}
    change = {"difference": 0.05, "low": 0.01, "high": 0.09}
    trend = change | {"lower": "l2", "higher": "l3", "p": 0.01, "p_holm": 0.02}
    mass = {"model": "vgg_att2", "level": "l3", "n": 5, "mass": mean, "object_share": mean}
    shown = [*MEANS, "pointing", "fooling_rate"]
    curve = [{"eps": eps, "n": 5, "change": change, **dict.fromkeys(shown, mean)} for eps in ("0/255", "4/255")]
    both = {"model": "vgg", "method": "gradcam"}, {"model": "vgg_att2", "method": "product"}
    scores = {"kind": "", "headline": True, "n": 5, "threshold": 0.5, **dict.fromkeys(shown, mean)}
    compared = [entry(("vgg_att2", "product"), ("vgg", "gradcam"), name) for name in ("jaccard_otsu", "average_precision")]
    return SegmentSummary.model_validate(
        {
            "schema": 1, "models": [], "standing": [], "provenance": {},
            "data": {"name": "shapes", "fingerprint": "", "n": 6, "held_out": 1, "reported": 5, "object_share": 0.2},
            "settings": {"trained_on": "cifar10", "scales": {}, "quantile": 0.75, "gaussian_width": 0.3, "seed": 0,
                         "attack": "pgd", "eps": ["4/255"], "held_out_share": 0.2},
            "methods": [side | scores for side in both],
            "comparisons": [it.as_dict() for it in compared],
            "level_trend": [trend | {"model": "vgg_att2"}, trend | {"model": "vgg_pan"}],
            "attention_mass": [mass | {"ratio": {"mean": 1.2, "low": 1.1, "high": 1.3}}],
            "robustness": [both[1] | {"kind": "combination", "headline": True, "points": curve}],
        }
    )  # fmt: skip


def test_the_page_of_what_was_measured(tmp_path: Path) -> None:
    cards = {
        name: card_of(name, share)
        for name, share in (("vgg", 0.7), ("vgg_att2", 0.8))
    }
    names = ("shapes", "gone")
    measured = Measured(
        Evidence(cards, {}),
        segments={"shapes": segmented()},
        segment_names=names,
        absent={("segment", "gone"): "no data: fetch it"},
    )
    found = claims(measured, {4: ["robustatt segment --data DIR/shapes"]})
    text = page(found, measured, "plan.toml", write_figures(measured, {}, None, tmp_path))
    assert (
        "| `vgg_att2` against `vgg` on CIFAR-10 | +2.3 points | accuracy +10.0 points (+8.8 to +11.2) | **held here** |  |"
        in text
    )
    assert (
        "| `vgg_att2` product against `vgg` gradcam on shapes |  | Jaccard +0.100 (+0.050 to +0.150) | **held here** |"
        in text
    )
    assert text.count("against `vgg` gradcam") == 1
    assert text.count("| on gone |  |  | not tested here | no data: fetch it |") == 2
    assert "l3 against l2 on shapes |  | +5.0 points (+1.0 to +9.0) of the attention | **held here** |" in text
    prose = " ".join(text.split())
    assert "shapes: `vgg_att2` l3 1.20 (1.10 to 1.30)." in prose
    assert "vgg_pan`, attention on" not in text
    assert "Mean Jaccard index on shapes, 5 images: `vgg` gradcam 0.300 (0.200 to 0.400)" in prose
    assert "`vgg` 70.0 % (69.1 to 70.9)" in prose
    assert "| data | map | clean | 4/255 |" in text
    assert "```\nrobustatt segment --data DIR/shapes\n```" in text
    assert (tmp_path / "localisation.png").read_bytes()[:4] == b"\x89PNG"


def test_data_is_found_by_name_in_the_root_or_where_it_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "birds" / "wren").mkdir(parents=True)
    (tmp_path / "data" / "cifar10").mkdir()
    (tmp_path / "data" / "cifar10" / "scrap.webp").touch()
    places = Places(tmp_path / "data", {"shapes": tmp_path / "data"})
    assert places.find("birds") == DataPlace(str(tmp_path / "data" / "birds"))
    assert places.find("shapes") == DataPlace(str(tmp_path / "data"))
    assert places.find("cifar10") is None
    (tmp_path / "data" / "cifar10" / "cifar-10-batches-py").mkdir()
    (tmp_path / "data" / "cifar10" / "cifar-10-batches-py" / "test_batch").touch()
    assert places.find("cifar10") == DataPlace("cifar10", tmp_path / "data" / "cifar10")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins: digits as CIFAR-10, as a strange set and as birds; discs with their masks."""
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    digits = load("digits")
    images, labels = digits.tensors(range(40))
    data = tmp_path / "data"
    (data / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    (data / "cifar10" / "cifar-10-batches-py" / "test_batch").touch()
    standing = TensorDataset(images, labels, digits.classes, name="cifar10")
    monkeypatch.setattr("robustatt.data.torchvision.vision", lambda *_: standing)
    np.savez(data / "strange.npz", images=images.permute(0, 2, 3, 1).numpy(), labels=labels.numpy() % 2)
    np.savez(data / "birds.npz", images=images.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    (tmp_path / "birds-weights").mkdir()
    for name in ("vgg", "vgg_att2"):
        network = build(name, 10, 0.05, dropout=0.0)
        card = Card(
            name=name,
            options=dict(network.architecture.options),
            width=0.05,
            classes=10,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            data="birds",
        )
        save_checkpoint(tmp_path / "birds-weights" / f"{name}.safetensors", network.state_dict(), card)
    discs(data / "shapes")
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def discs(folder: Path, count: int = 6) -> None:
    """Bright discs on noise, as Parquet with masks."""
    rows = {"img": [], "mask": []}
    down, across = np.mgrid[:40, :40]
    for place in range(count):
        disc = (down - 15 - place) ** 2 + (across - 20) ** 2 < 64
        noise = np.random.default_rng(place).integers(0, 120, (40, 40, 3))
        rows["img"].append(png((noise + 130 * disc[:, :, None]).astype(np.uint8)))
        rows["mask"].append(png((255 * disc).astype(np.uint8)))
    folder.mkdir()
    pq.write_table(pa.table(rows), folder / "test.parquet")


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def run(*more: object) -> int:
    places = ["--data", "strange=data/strange.npz", "--data", "birds=data/birds.npz"]
    return cli.main(
        [str(word) for word in ("paper", "--plan", "plan.toml", "--data-root", "data", *places, "--out", "page", *more)]
    )


@pytest.mark.slow
def test_the_whole_page(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0, capsys.readouterr().err
    text = (here / "page" / "README.md").read_text()
    for number in range(1, 7):
        assert f'<a id="claim-{number}"></a>' in text
    assert "| `vgg_att2` against `vgg` on CIFAR-10 | +2.3 points | accuracy +" in text
    assert "on birds | " in text
    assert "| `vgg_att2` against `vgg` on strange |" in text
    assert "| on nowhere |  |  | not tested here | no data: say where it lies by `--data nowhere=DIR` |" in text
    assert "`vgg_att2` product against `vgg` gradcam on shapes" in text
    assert "attention on the object, l3 against l2 on shapes" in text
    assert "do the maps still find the object under attack?" in text
    assert "robustatt segment --model vgg --model vgg_att2 --data DIR/shapes" in text
    assert str(here) not in text
    names = {path.name for path in (here / "page").iterdir()}
    assert names == {"README.md", "out", "transfer.png", "localisation.png", "fooling-cifar10.png", "fooling-birds.png"}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr("robustatt.studies.paper.run.segment", refuse)
    monkeypatch.setattr("robustatt.studies.paper.run.transfer", refuse)
    before = sorted((here / "page" / "out").rglob("*.parquet"))
    assert run() == 0
    assert (here / "page" / "README.md").read_text() == text
    assert sorted((here / "page" / "out").rglob("*.parquet")) == before


def test_without_any_data_the_page_says_what_is_missing(here: Path) -> None:
    command = ["paper", "--plan", "plan.toml", "--data-root", "nothing", "--out", "page"]
    assert cli.main(command) == 0
    text = (here / "page" / "README.md").read_text()
    assert "| on CIFAR-10 | about -5 points at 1/255 |  | not tested here | no data: " in text
    assert text.count("no data") >= 5


def test_parts_that_are_left_out_say_so(here: Path) -> None:
    parts = ["--skip", "sweep", "--skip", "fine_grained", "--skip", "transfer", "--skip", "segment"]
    assert run(*parts) == 0
    text = (here / "page" / "README.md").read_text()
    assert "| on CIFAR-10 | about -5 points at 1/255 |  | not tested here | left out by `--skip sweep` |" in text
    assert text.count("| on shapes |  |  | not tested here | left out by `--skip segment` |") == 2


@pytest.mark.parametrize(
    ("plan", "more", "says"),
    [
        (PLAN + "colour = 1\n", [], "segment.colour"),
        (PLAN, ["--data", "bird=data"], "did you mean 'birds'"),
        (PLAN, ["--data", "birds"], "such as --data stl10=DIR"),
        (PLAN, ["--data", "shapes=gone"], "no such folder"),
        (PLAN, ["--skip", "segments"], "did you mean 'segment'"),
        (PLAN.replace('"vgg_att2"', '"vgg_at2"'), [], "did you mean 'vgg_att2'"),
        (PLAN.replace('"vgg", "vgg_att2"', '"resnet164"'), [], "models resnet164: no weights for cifar10"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    plan: str, more: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "plan.toml").write_text(plan)
    assert run(*more) == 2
    problem = capsys.readouterr().err
    assert says in problem
    assert problem.count("\n") == 1
