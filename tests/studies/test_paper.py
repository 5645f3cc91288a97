"""The page of the paper's claims: verdicts follow the intervals, what is absent is said, nothing is measured twice."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
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
from robustatt.studies.paper.accuracy import accuracy_tests, claim_5
from robustatt.studies.paper.claims import claims, overlap_tests
from robustatt.studies.paper.finding import (
    HELD,
    ONE_SEED,
    OPEN,
    REVERSED,
    Claim,
    ComparisonTest,
    Finding,
    Localised,
    Measured,
    Swept,
    decided,
    judge,
    points,
)
from robustatt.studies.paper.page import page, write_figures
from robustatt.studies.paper.plan import BUNDLED, DataPlace, Places
from robustatt.studies.paper.run import networks_of, shown
from robustatt.studies.seeds import SeedComparison
from robustatt.studies.segment.aggregate import MEANS
from robustatt.studies.segment.result import SegmentSummary

PLAN = """
[[sweep]]
data = "cifar10"
models = ["vgg", "vgg_att2"]
eps = "1"
n = 8
[[sweep]]
data = "birds"
eps = "4"
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
    assert decided(Estimate((low + high) / 2, low, high)) == says
    other = {HELD: REVERSED, REVERSED: HELD, OPEN: OPEN}[says]
    assert decided(Estimate((low + high) / 2, low, high), less=True) == other


def test_a_test_that_is_not_sure_decides_nothing() -> None:
    assert decided(Estimate(0.1, 0.05, 0.15), p=0.05) == HELD
    assert decided(Estimate(0.1, 0.05, 0.15), p=0.051) == OPEN


def compared(value: float, p: float, *, over_seeds: bool = True) -> SeedComparison:
    return SeedComparison(Estimate(value, value - 0.02, value + 0.02), p, (value,), over_seeds)


def test_holm_is_over_all_comparisons_of_several_seeds_and_one_seed_decides_nothing() -> None:
    tests = [
        ComparisonTest("a", compared(0.1, 0.02)),
        ComparisonTest("b", compared(0.1, 0.04)),
        ComparisonTest("c", compared(0.5, 1e-9, over_seeds=False)),
    ]
    found = judge(tests)
    assert [it.verdict for it in found] == [HELD, HELD, ONE_SEED]
    assert [it.why for it in found] == ["p 0.04 after Holm", "p 0.04 after Holm", ""]
    assert [it.verdict for it in judge([*tests, ComparisonTest("d", compared(-0.1, 0.03))])][:2] == [OPEN, OPEN]
    assert points(Estimate(0.012, -0.03, 0.05)) == "+1.2 points (-3.0 to +5.0)"
    assert found[0].here == "accuracy +10.0 points (+8.0 to +12.0)"


def test_a_claim_counts_its_comparisons() -> None:
    findings = [Finding("a", verdict=HELD), Finding("b", verdict=HELD), Finding("c", verdict=ONE_SEED), Finding("d")]
    assert Claim(1, "", findings).summary() == "held: 2, one seed: 1, not tested here: 1"
    alone = [
        ComparisonTest(name, compared(value, 0.5, over_seeds=False))
        for name, value in (("a", 0.1), ("b", -0.1), ("c", 0.01), ("d", 0.2))
    ]
    assert Claim(1, "", judge(alone)).summary() == "one seed: 4 (over images alone 2 held, 1 reversed, 1 not decided)"


def outcomes(model: str, fooled: list[list[int]], index: list[int] | None = None) -> Outcomes:
    """Radii 0, 1 and 2 steps; all are right when clean."""
    n = len(fooled)
    adv = np.array([[0, *row] for row in fooled])
    eps = ("0/255", "1/255", "2/255")
    zeros = np.zeros(n, np.int64)
    return Outcomes(
        model, "fgsm", eps, np.arange(n) if index is None else np.array(index), zeros, zeros, np.ones_like(adv, bool), adv
    )


def test_fooling_is_compared_by_seed_on_the_same_images() -> None:
    """Two seeds each; attention is fooled less at 1/255 and as much at 2/255: both parts hold."""
    rng = np.random.default_rng(0)
    curves = {}
    for network, share in (("vgg", 0.8), ("vgg_att2", 0.3)):
        for seed in (0, 1, 2):
            first = rng.random(300) < share + 0.01 * seed
            second = rng.random(300) < 0.9
            curves[f"{network}-seed{seed}", "fgsm"] = outcomes(
                f"{network}-seed{seed}", [[int(a), int(b)] for a, b in zip(first, second, strict=True)]
            )
    found = claim_5(Measured([Swept("cifar10", {}, curves)]))
    gap, narrowing, rest = found
    assert gap.what == "`vgg_att2` against `vgg` on cifar10 at 1/255"
    assert gap.verdict == narrowing.verdict == HELD
    assert gap.measured is not None
    assert gap.measured.change.value == pytest.approx(-0.5, abs=0.05)
    assert len(gap.measured.by_seed) == 3
    assert rest.why == "`vgg_att3` or `vgg` not trained or not attacked"
    alone = {key: value for key, value in curves.items() if key[0] in ("vgg-seed0", "vgg_att2-seed0")}
    assert {it.verdict for it in claim_5(Measured([Swept("cifar10", {}, alone)]))[:2]} == {ONE_SEED}


def test_clean_accuracy_is_compared_on_the_images_that_all_saw_or_by_the_cards() -> None:
    def clean(model: str, right: list[int], index: list[int]) -> Outcomes:
        n = len(index)
        there = np.ones((n, 1), bool)
        return Outcomes(model, "fgsm", ("0/255",), np.array(index), np.ones(n, np.int64), np.array(right), there, there * 1)

    curves = {
        ("vgg_att1", "fgsm"): clean("vgg_att1", [1, 1, 1, 0], [0, 1, 2, 3]),
        ("vgg", "fgsm"): clean("vgg", [0, 1, 0, 1], [1, 2, 3, 9]),
    }
    (test,) = accuracy_tests(Swept("birds", {}, curves), [("vgg_att1", "vgg"), ("vgg_att2", "vgg")])
    assert test.comparison.change.value == pytest.approx(1 / 3)
    cards = {name: card_of(name, share) for name, share in (("vgg", 0.7), ("vgg_att1", 0.8))}
    (test,) = accuracy_tests(Swept("cifar10", cards, curves), [("vgg_att1", "vgg")])
    assert test.comparison.change.value == pytest.approx(0.1)
    assert test.paper == "+2.1 points"


SIZES = {"vgg": 0.3, "vgg_att2": 0.45, "vgg_gap": 0.4}


def localised(seeds: tuple[int, ...] = (0, 1)) -> Localised:
    """segment.json and its rows, of three networks with these seeds, on 40 images; the floor is worth 0.2 on each."""
    rng, rows = np.random.default_rng(0), []

    def add(model: str, method: str, kind: str, size: float, *, headline: bool) -> None:
        for image, noise in enumerate(rng.normal(0, 0.02, 40)):
            values = dict.fromkeys([*MEANS, "pointing", "object_share"], size + noise)
            rows.append(
                {"model": model, "method": method, "kind": kind, "headline": headline, "eps": "0/255", "index": image, **values}
            )

    labels = [f"{network}-seed{seed}" for network in SIZES for seed in seeds]
    for label in labels:
        network = label.partition("-")[0]
        add(
            label,
            {"vgg": "gradcam", "vgg_att2": "product", "vgg_gap": "cam"}[network],
            "combination",
            SIZES[network],
            headline=True,
        )
        add(label, "prior", "prior", 0.2, headline=False)
        if network == "vgg_att2":
            add(label, "l2", "attention", 0.2, headline=False)
            add(label, "l3", "attention", 0.3, headline=False)
    add("floor", "gaussian", "floor", 0.2, headline=True)
    images = pd.DataFrame(rows)
    mean = {"mean": 0.3, "low": 0.2, "high": 0.4}
    change = {"difference": 0.05, "low": 0.01, "high": 0.09}
    shown = [*MEANS, "pointing", "fooling_rate"]
    curve = [{"eps": eps, "n": 5, "change": change, **dict.fromkeys(shown, mean)} for eps in ("0/255", "4/255")]
    scores = {"kind": "", "headline": True, "n": 5, "threshold": 0.5, **dict.fromkeys(shown, mean)}
    att = [label for label in labels if label.startswith("vgg_att2")]
    summary = SegmentSummary.model_validate(
        {
            "schema": 1, "models": [], "standing": [], "provenance": {}, "comparisons": [],
            "data": {"name": "shapes", "fingerprint": "", "n": 50, "held_out": 10, "reported": 40, "object_share": 0.2},
            "settings": {"trained_on": "cifar10", "scales": {}, "quantile": 0.75, "gaussian_width": 0.3, "seed": 0,
                         "attack": "pgd", "eps": ["4/255"], "held_out_share": 0.2},
            "methods": [{"model": label, "method": "product", **scores} for label in (*labels, "floor")],
            "threshold_curves": [{"model": label, "method": "product", "thresholds": [0.0, 1.0], "jaccard": [0.2, 0.1]} for label in (*labels, "floor")],
            "level_trend": [{**change, "model": label, "lower": "l2", "higher": "l3", "p": 0.01, "p_holm": 0.02} for label in att],
            "attention_mass": [{"model": label, "level": "l3", "n": 5, "mass": mean, "object_share": mean, "ratio": {"mean": 1.2, "low": 1.1, "high": 1.3}} for label in att],
            "robustness": [{"model": label, "method": "product", "kind": "combination", "headline": True, "points": curve} for label in labels],
        }
    )  # fmt: skip
    return Localised(summary, images)


def test_overlaps_are_of_attention_against_rivals_its_own_mean_and_the_floors() -> None:
    tests = overlap_tests(localised(), "shapes")
    assert [(test.what, pytest.approx(test.comparison.change.value, abs=0.02)) for test in tests] == [
        ("`vgg_att2` product against `vgg` gradcam on shapes", 0.15),
        ("`vgg_att2` product against `vgg_gap` cam on shapes", 0.05),
        ("`vgg_att2` product against its own mean map on shapes", 0.25),
        ("`vgg_att2` product against the floor `gaussian` on shapes", 0.25),
    ]
    assert all(test.comparison.over_seeds for test in tests)
    assert not any(test.comparison.over_seeds for test in overlap_tests(localised((0,)), "shapes"))


def test_the_page_of_what_was_measured(tmp_path: Path) -> None:
    cards = {
        f"{name}-seed{seed}": card_of(name, share + 0.001 * seed)
        for name, share in (("vgg", 0.7), ("vgg_att2", 0.8))
        for seed in (0, 1, 2)
    }
    cards["vgg_gap-seed0"] = card_of("vgg_gap", 0.75)
    measured = Measured(
        [Swept("cifar10", cards), Swept("cifar100", absent="no data: fetch them")],
        segments={"shapes": localised()}, segment_names=("shapes", "gone"),
        absent={("segment", "gone"): "no data: fetch it"},
    )  # fmt: skip
    found = claims(measured, {4: ["robustatt segment --data DIR/shapes"]})
    text = page(found, measured, "plan.toml", write_figures(found, measured, {}, None, tmp_path))
    prose = " ".join(text.split())
    assert "| `vgg_att2` against `vgg` on cifar10 | +2.3 points | accuracy +10.0 points (+8." in text
    assert "| `vgg_att2` against `vgg_gap` on cifar10 |  | accuracy +5." in text
    assert text.count("| **one seed** |") == 1
    assert "| on cifar100 |  |  | not tested here | no data: fetch them |" in text
    assert "`vgg` 70.1 % (seeds 70.0, 70.1, 70.2; standard deviation 0.1)" in prose
    assert "`vgg_gap` 75.0 % (74.1 to 75.8, one seed)" in prose
    assert "Networks for cifar10: `vgg` (width 0.125, 3 epochs, 3 seeds)" in prose
    assert "| `vgg_att2` product against `vgg` gradcam on shapes |  | Jaccard (Otsu) +0.1" in text
    assert text.count("against `vgg` gradcam") == 1
    assert text.count("| on gone |  |  | not tested here | no data: fetch it |") == 2
    assert "`vgg_att2`, attention on the object, l3 against l2 on shapes |  | +9." in text
    assert "shapes: `vgg_att2-seed0` l3 1.20 (1.10 to 1.30);" in prose
    assert "| shapes | Jaccard (area over thresholds) | held: " in text
    assert "| data | map | clean | 4/255 |" in text
    assert text.count("| shapes | `vgg_att2-seed") == 1
    assert "```\nrobustatt segment --data DIR/shapes\n```" in text
    for name in ("claim-1.png", "claim-4.png", "claim-6.png", "localisation.png", "thresholds.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
        assert f"]({name})" in text
    assert not (tmp_path / "claim-3.png").exists()


def test_networks_are_found_with_all_their_seeds(tmp_path: Path) -> None:
    for stem, name, seed in (
        ("vgg-seed1", "vgg", 1),
        ("vgg-seed0", "vgg", 0),
        ("vgg_bf16-seed0", "vgg", 0),
        ("vgg_att2", "vgg_att2", 0),
    ):
        network = build(name, 10, 0.05)
        save_checkpoint(
            tmp_path / f"{stem}.safetensors", network.state_dict(), card_of(name, 0.5).model_copy(update={"seed": seed})
        )
    assert list(networks_of(tmp_path, "cifar10", ())) == ["vgg-seed0", "vgg-seed1", "vgg_att2"]
    assert list(networks_of(tmp_path, "cifar10", ("vgg_att2",))) == ["vgg_att2"]
    assert networks_of(tmp_path, "cifar10", ("vgg_pan",)) == {}
    assert shown(networks_of(tmp_path, "cifar10", ("vgg",))) == {
        "vgg-seed0": "DIR/vgg-seed0.safetensors",
        "vgg-seed1": "DIR/vgg-seed1.safetensors",
    }
    assert shown(networks_of(None, "cifar10", ("vgg",))) == {"vgg": BUNDLED}


def test_data_is_found_by_name_in_the_root_or_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "| `vgg_att2` against `vgg` on cifar10 | +2.3 points | accuracy +" in text
    assert "on birds | " in text
    assert "| `vgg_att2` against `vgg` on strange |" in text
    assert "| on nowhere |  |  | not tested here | no data: say where it lies by `--data nowhere=DIR` |" in text
    assert "`vgg_att2` product against `vgg` gradcam on shapes" in text
    assert "attention on the object, l3 against l2 on shapes" in text
    assert "do the maps still find the object under attack?" in text
    assert "robustatt segment --model vgg --model vgg_att2 --data DIR/shapes" in text
    assert str(here) not in text
    names = {path.name for path in (here / "page").iterdir()}
    forests = {f"claim-{number}.png" for number in (1, 3, 4, 5, 6)}
    figures = {"transfer.png", "localisation.png", "thresholds.png", "fooling-cifar10.png", "fooling-birds.png"}
    assert names == {"README.md", "out"} | forests | figures

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
    assert "| on cifar10 | about -5 points at 1/255 |  | not tested here | no data: " in text
    assert text.count("no data") >= 5


def test_parts_that_are_left_out_say_so(here: Path) -> None:
    parts = ["--skip", "sweep", "--skip", "transfer", "--skip", "segment"]
    assert run(*parts) == 0
    text = (here / "page" / "README.md").read_text()
    assert "| on cifar10 | about -5 points at 1/255 |  | not tested here | left out by `--skip sweep` |" in text
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
