"""Maps at any size and scale, attacks that go to their end, and `segment` from the command line to its files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from paths import SHARED
from PIL import Image
from torch import Tensor, nn

from robustatt import cli
from robustatt.attack.norms import NORMS
from robustatt.attack.recipe_files import load as load_recipe
from robustatt.errors import InputError
from robustatt.evaluate.classifier import frozen
from robustatt.models import build
from robustatt.studies.segment import floors
from robustatt.studies.segment.floors import FLOORS, floor_maps
from robustatt.studies.segment.maps import Floors, Prior, Viewer, combine, to_scale
from robustatt.studies.segment.masks import open_masked
from robustatt.studies.segment.measures import THRESHOLDS, jaccard_by_threshold
from robustatt.studies.segment.perturb import build_attack, perturb
from robustatt.studies.segment.request import choose, split

ECSSD = SHARED / "ecssd"


class Bright(nn.Module):
    """Attends to each pixel by its mean colour, at half the size; two classes, by mean brightness."""

    levels = ("l1",)

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        brightness = x.mean(dim=1)
        small = nn.functional.avg_pool2d(brightness[:, None], 2)[:, 0]
        logit = 8 * (brightness.mean(dim=(1, 2)) - 0.5)
        return torch.stack([-logit, logit], 1), [small / small.sum(dim=(1, 2), keepdim=True)]

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x)[0]


def viewer(module: nn.Module, *scales: int) -> Viewer:
    with frozen(module, "mine", torch.device("cpu"), torch.rand(2, 3, 32, 32)) as classifier:
        return Viewer(classifier, scales)


def spot(height: int, width: int) -> tuple[Tensor, np.ndarray]:
    """A black image with a white square off its centre, and where that is."""
    mask = np.zeros((height, width), bool)
    mask[height // 8 : height // 2, width // 2 : 7 * width // 8] = True
    return torch.from_numpy(mask).float().expand(1, 3, -1, -1), mask


@pytest.mark.parametrize("size", [(64, 64), (48, 75), (131, 70)])
@pytest.mark.parametrize("scales", [(32,), (32, 48)])
def test_a_map_comes_back_to_where_the_object_is(size: tuple[int, int], scales: tuple[int, ...]) -> None:
    image, mask = spot(*size)
    values = viewer(Bright(), *scales).look(image, torch.tensor([0])).maps["l1"][0].numpy()
    assert values.shape == size
    assert values.sum() == pytest.approx(1, abs=1e-4)
    assert values[mask].sum() > 0.8
    rows, columns = np.indices(size)
    for grid in (rows, columns):  # the centre of mass is off by less than a pixel
        assert abs((grid * values).sum() - grid[mask].mean()) < 1


@pytest.mark.parametrize(("size", "scale", "inner", "seen"), [
    ((64, 64), 32, (0, 0, 32, 32), (32, 32)), ((128, 192), 48, (0, 4, 48, 72), (48, 80)),
    ((171, 128), 32, (2, 0, 43, 32), (48, 32)), ((32, 32), 32, (0, 0, 32, 32), (32, 32)),
])  # fmt: skip
def test_nothing_is_distorted_or_cut_off(
    size: tuple[int, int], scale: int, inner: tuple[int, int, int, int], seen: tuple[int, int]
) -> None:
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    scaled = to_scale(image, scale)
    assert scaled.inner == inner
    assert tuple(scaled.pixels.shape[2:]) == seen
    top, left, height, width = inner
    assert scaled.pixels[:, :, top : top + height, left : left + width].mean() == pytest.approx(float(image.mean()), abs=5e-3)


def test_at_its_own_size_a_network_is_asked_as_it_is() -> None:
    network = build("vgg_att2", width=0.0625).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    looking = viewer(network, 32)
    with torch.no_grad():
        logits, (l2, l3) = network.attend(images)
    look = looking.look(images, torch.arange(3))
    torch.testing.assert_close(looking.logits(images), logits, atol=1e-4, rtol=1e-4)
    assert look.prediction is not None
    assert look.prediction.tolist() == logits.argmax(1).tolist()
    for name, level in (("l2", l2), ("l3", l3)):
        enlarged = nn.functional.interpolate(level[:, None], (32, 32), mode="bilinear")[:, 0]
        expected = enlarged / enlarged.sum(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(look.maps[name], expected, atol=1e-6, rtol=1e-3)
    product = look.maps["l2"] * look.maps["l3"]
    expected = product / product.sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(look.maps["product"], expected, atol=1e-6, rtol=1e-3)


def test_no_scale_enlarges_an_image_that_a_smaller_one_fits() -> None:
    network, image = build("vgg_att1", width=0.0625).eval(), torch.rand(1, 3, 40, 60)
    both, small, large = (viewer(network, *scales).look(image, torch.tensor([0])) for scales in ((32, 64), (32,), (64,)))
    torch.testing.assert_close(both.maps["l3"], small.maps["l3"])
    assert not torch.allclose(both.maps["l3"], large.maps["l3"])


METHODS = {
    "vgg_att1": ({"l3": "attention"}, "l3"),
    "vgg_att3": (
        {"l1": "attention", "l2": "attention", "l3": "attention", "product": "combination", "mean": "combination",
         "product_all": "combination"}, "product"),
    "vgg_gap": ({"cam": "activation"}, "cam"),
    "vgg_pan": ({"l2_gate": "gate", "l3": "attention", "product": "combination", "mean": "combination"}, "product"),
    "vgg_cbam": (
        {"l1": "gate", "l2": "gate", "l3": "gate", "product": "combination", "mean": "combination",
         "product_all": "combination"}, "product"),
    "vgg": ({"gradcam": "saliency", "gradient": "saliency"}, "gradcam"),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_network_shows_where_it_looks(name: str) -> None:
    looking = viewer(build(name, width=0.0625).eval(), 32, 48)
    kinds, headline = METHODS[name]
    assert (looking.kinds, looking.headline) == (kinds, (headline,))
    images = torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    look = looking.look(images, torch.arange(2))
    assert list(look.maps) == list(kinds)
    for values in look.maps.values():
        assert values.shape == (2, 50, 70)
        assert values.min() >= 0
        torch.testing.assert_close(values.sum(dim=(1, 2)), torch.ones(2))


def test_combinations_of_known_maps() -> None:
    low, middle, top = (torch.tensor([[values]]) for values in ([0.5, 0.5, 0.0], [0.2, 0.2, 0.6], [0.1, 0.3, 0.6]))
    found = combine([low, middle, top])
    torch.testing.assert_close(found["product"], torch.tensor([[[0.02, 0.06, 0.36]]]) / 0.44)
    torch.testing.assert_close(found["mean"], (middle + top) / 2)
    torch.testing.assert_close(found["product_all"], torch.tensor([[[0.25, 0.75, 0.0]]]))
    assert list(combine([low, top])) == ["product", "mean"]
    assert combine([top]) == {}


def test_a_prior_is_the_mean_map_at_any_size() -> None:
    left, right = torch.zeros(1, 32, 48), torch.zeros(1, 48, 32)
    left[:, :, :24], right[:, :, 16:] = 1.0, 3.0
    prior = Prior()
    prior.add(left)
    prior.add(right)
    halves = prior.at(20, 40)
    for side in (halves[:, :18], halves[:, 22:]):  # away from the seam
        torch.testing.assert_close(side, torch.full((20, 18), 1 / 800), atol=2e-5, rtol=0)
    prior.add(torch.cat([left, left]))  # three of four look to the left
    values = prior.at(64, 64)
    assert float(values[:, :30].sum() / values[:, 34:].sum()) == pytest.approx(3, rel=1e-3)


def test_floors_know_the_picture_and_nothing_else() -> None:
    image, _ = spot(40, 60)
    maps = Floors().look(image, torch.tensor([0])).maps
    assert tuple(maps) == FLOORS
    for values in maps.values():
        assert values.shape == (1, 40, 60)
        assert float(values.sum()) == pytest.approx(1, abs=1e-4)
    single = floor_maps(np.full((32, 32, 3), 90, np.uint8))
    assert all(np.isfinite(values).all() for values in single.values())


def test_without_the_libraries_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "NEEDED", {"no_such_module": "opencv-contrib-python-headless"})
    with pytest.raises(InputError, match=r"pip install 'robustatt\[paper\]'"):
        floors.require_libraries()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd-ce", "mi-fgsm", "noise", "pgd-l2"])
def test_attacks_stay_in_the_ball_and_use_it(name: str) -> None:
    looking = viewer(Bright(), 32)
    images = 0.3 + 0.3 * torch.rand(4, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    eps = 2.0 if name == "pgd-l2" else 8 / 255
    attack = build_attack(load_recipe(name), 2)
    moved, clean = perturb(attack, looking.logits, images, torch.arange(4), eps, seed=0)
    distance = NORMS[attack.norm.name].norm(moved - images)
    assert (distance <= eps * (1 + 1e-5)).all()
    assert (distance > 0.9 * eps).all()  # also where the prediction changed on the way
    assert clean.tolist() == looking.logits(images).argmax(1).tolist()


def test_fgsm_of_a_linear_model_has_a_closed_form() -> None:
    images = 0.2 + 0.5 * torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    attack = build_attack(load_recipe("fgsm"), 2)
    moved, clean = perturb(attack, Bright(), images, torch.arange(3), 8 / 255, seed=0)
    towards = torch.where(clean == 1, -1.0, 1.0)[:, None, None, None]  # darker where bright was predicted
    torch.testing.assert_close(moved, images + towards * 8 / 255)


def test_random_starts_belong_to_the_image() -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    attack = build_attack(load_recipe("pgd"), 2)
    together, _ = perturb(attack, Bright(), images, torch.arange(4), 4 / 255, seed=3)
    alone, _ = perturb(attack, Bright(), images[2:3], torch.tensor([2]), 4 / 255, seed=3)
    torch.testing.assert_close(alone, together[2:3])


@pytest.mark.parametrize("name", ["autoattack", "fmn", "fab-t"])
def test_attacks_of_other_kinds_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="give fgsm"):
        build_attack(load_recipe(name), 10)
    with pytest.raises(InputError, match="targeted"):
        build_attack(load_recipe("pgd").model_copy(update={"targeted": "next"}), 10)


def test_the_split_is_seeded_and_whole() -> None:
    chosen = choose(100, None, 40, seed=5)
    assert chosen == choose(100, None, 40, seed=5) != choose(100, None, 40, seed=6)
    parts = split(chosen, 5)
    assert (len(parts.held_out), len(parts.reported)) == (8, 32)
    assert sorted(parts.held_out + parts.reported) == chosen
    assert parts == split(chosen, 5) != split(chosen, 6)


def photographs(folder: Path, count: int = 12) -> Path:
    """Bright squares on dark noise, of two sizes, with their masks."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        height, width = (40, 52) if index % 3 else (48, 36)
        image, mask = rng.integers(0, 70, (height, width, 3), dtype=np.uint8), np.zeros((height, width), np.uint8)
        top, left = rng.integers(0, 20, 2)
        image[top : top + 16, left : left + 14] += 150
        mask[top : top + 16, left : left + 14] = 255
        Image.fromarray(image).save(folder / "images" / f"{index:02}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index:02}.png")
    return folder


def test_from_the_command_line_to_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = photographs(tmp_path / "data"), tmp_path / "out"
    arguments = [
        "segment",
        "--model",
        "bright=test_segment:Bright",
        "--model",
        "vgg_pan",
        "--trained-on",
        "digits",
    ]
    options = ["--scales", "32", "--eps", "8,24", "--attack", "fgsm", "--attack-n", "4", "--batch-size", "5"]
    assert cli.main([*arguments, "--data", str(data), *options, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "10 images of" in printed
    assert "gaussian" in printed
    summary = json.loads((out / "segment.json").read_text())
    assert (summary["data"]["reported"], summary["data"]["held_out"]) == (10, 2)
    by_name = {(entry["model"], entry["method"]): entry for entry in summary["methods"]}
    bright = by_name["bright", "l1"]
    assert bright["headline"]
    assert bright["jaccard_otsu"]["mean"] > 0.8  # it attends to brightness, and the object is the bright part
    assert bright["average_precision"]["mean"] > 0.95
    assert by_name["floor", "whole"]["jaccard_otsu"]["mean"] == pytest.approx(
        by_name["floor", "whole"]["average_precision"]["mean"]
    )
    best = next(line for line in summary["standing"] if line.startswith("bright l1, Jaccard (Otsu)"))
    assert "above the best floor" in best
    assert "above its own mean map" in best
    check_rows(pd.read_parquet(out / "images.parquet"), summary)
    check_mass(summary)
    check_fit(data, by_name)
    names = {path.stem for path in (out / "figures").glob("*.png")}
    assert names == {
        "jaccard",
        "thresholds",
        "attention-mass",
        "jaccard-eps",
        "precision-eps",
        "fooling-eps",
        "examples-bright",
        "examples-vgg_pan",
    }
    assert all((out / "figures" / f"{name}.{ending}").stat().st_size for name in names for ending in ("svg", "csv"))
    page = (out / "segment.md").read_text()
    assert "## Under attack" in page
    assert all((out / target).exists() for target in re.findall(r"\]\((figures/[^)]+)\)", page))


def test_what_attention_says_decides_which_maps_are_measured(tmp_path: Path) -> None:
    data, out = photographs(tmp_path / "data"), tmp_path / "out"
    options = ["--model", "bright=test_segment:Bright", "--attention", "none", "--scales", "32", "-n", "6"]
    assert cli.main(["segment", *options, "--data", str(data), "--out", str(out)]) == 0
    methods = json.loads((out / "segment.json").read_text())["methods"]
    assert {entry["method"] for entry in methods if entry["model"] == "bright"} & {"l1", "gradient"} == {"gradient"}


def check_rows(images: pd.DataFrame, summary: dict) -> None:
    counts = images.groupby(["model", "method", "eps"]).size()
    assert counts["bright", "l1", "0/255"] == counts["floor", "gaussian", "0/255"] == counts["bright", "prior", "0/255"] == 10
    assert counts["bright", "l1", "8/255"] == counts["vgg_pan", "l2_gate", "24/255"] == 4
    clean = images[(images["model"] == "bright") & (images["method"] == "l1") & (images["eps"] == "0/255")]
    entry = next(it for it in summary["methods"] if it["model"] == "bright")
    assert entry["jaccard_otsu"]["mean"] == pytest.approx(clean["jaccard_otsu"].mean())
    (curve,) = (it for it in summary["robustness"] if it["model"] == "bright")
    assert [(point["eps"], point["n"]) for point in curve["points"]] == [("0/255", 4), ("8/255", 4), ("24/255", 4)]
    assert curve["points"][0]["change"]["difference"] == 0


def check_fit(data: Path, by_name: dict) -> None:
    """Thresholds and priors come from the held-out images."""
    source = open_masked(data)
    curve = sum(
        jaccard_by_threshold(floors.gaussian(*example.mask.shape), example.mask)
        for example in source.read(split(range(12), 0).held_out)
    )
    assert by_name["floor", "gaussian"]["threshold"] == THRESHOLDS[np.argmax(curve)]
    # objects lie in the upper left, and so does the mean map of what attends to them
    assert by_name["bright", "prior"]["mass"]["mean"] > 1.2 * by_name["floor", "whole"]["mass"]["mean"]


def check_mass(summary: dict) -> None:
    by_level = {(entry["model"], entry["level"]): entry for entry in summary["attention_mass"]}
    assert set(by_level) == {("bright", "l1"), ("vgg_pan", "l2_gate"), ("vgg_pan", "l3")}
    bright = by_level["bright", "l1"]
    # the object is about six times as bright as the rest and covers about a ninth
    assert bright["ratio"]["mean"] == pytest.approx(bright["mass"]["mean"] / bright["object_share"]["mean"])
    assert bright["ratio"]["low"] > 2
    (trend,) = summary["level_trend"]
    assert (trend["model"], trend["lower"], trend["higher"]) == ("vgg_pan", "l2_gate", "l3")


@pytest.mark.parametrize(("change", "words"), [
    (["--model", "vgg_pan"], "given twice"), (["-n", "3"], "there are 12 images: give 5 to 12"),
    (["--sample", "99"], "there are 12 images"), (["--scales", "big"], "whole numbers of pixels"),
    (["--scales", "16"], "32 or more"), (["--quantile", "2"], "below 1"), (["--attack", "pgf"], "did you mean 'pgd'"),
    (["--masks", "/nowhere"], "no such folder"), (["--eps", "x"], "is not a radius"),
    (["--eps", "1", "--attack", "autoattack"], "give fgsm, pgd"), (["--eps", "300"], "at most 255/255"),
    (["--trained-on", "cifar9"], "no weights are bundled"), (["-n", "6", "--sample", "6"], "not both"),
])  # fmt: skip
def test_wrong_input_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], words: str
) -> None:
    data, out = photographs(tmp_path / "data"), tmp_path / "out"
    arguments = ["segment", "--model", "vgg_pan", "--trained-on", "digits", "--data", str(data), "--out", str(out)]
    assert cli.main([*arguments, *change]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
    assert not out.exists()


def test_a_model_of_unknown_size_asks_for_scales(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = photographs(tmp_path / "data")
    model = ["--model", "test_segment:Bright", "--data", str(data), "--out", str(tmp_path / "out")]
    assert cli.main(["segment", *model]) == 2
    assert "give --scales" in capsys.readouterr().err


def test_tables_and_figures_leave_torch_out() -> None:
    code = "import sys, robustatt.studies.segment.figures, robustatt.studies.segment.request; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not ECSSD.exists(), reason="needs ../shared/data/ecssd")
def test_on_photographs_without_labels(tmp_path: Path) -> None:
    arguments = ["segment", "--model", "vgg_att3", "--data", str(ECSSD), "--scales", "32", "--sample", "20"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "segment.json").read_text())
    assert summary["data"]["reported"] == 16
    trend = summary["level_trend"][0]
    assert (trend["lower"], trend["higher"]) == ("l1", "l3")
