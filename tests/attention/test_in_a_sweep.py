"""Maps of foreign networks in records: the same for any batch size, by pattern, in plans, and on the command line."""

from __future__ import annotations

import tomllib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image
from torch import Tensor, nn

import robustatt
from robustatt.attack import recipe_files as recipes
from robustatt.cli import main
from robustatt.errors import InputError
from robustatt.plan import BoundPlan, Plan, model_entries
from robustatt.plan.entries import attending


class Tiny(nn.Module):
    """A transformer of two blocks for 3 x 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).transpose(1, 2)], 1)
        return self.head(self.encoder(x)[:, 0])


def build() -> nn.Module:
    """For --model test_in_a_sweep:build."""
    return Tiny().eval()


def data(count: int = 24) -> tuple[Tensor, Tensor]:
    image = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return image, build()(image).argmax(1)


def levels(records: object) -> set[str]:
    return {name.removeprefix("drift_js_") for name in records.columns if name.startswith("drift_js_")}  # type: ignore[attr-defined]


def test_records_hold_every_block_and_do_not_depend_on_the_batch() -> None:
    model = build()
    one, other = (robustatt.sweep(model, data(), ["fgsm", "pgd"], "4,16", batch_size=size).records for size in (5, 24))
    assert levels(one) == {"block1", "block2", "rollout"}
    assert float(one["drift_js_rollout"].max()) > 1e-4
    assert (one["adv_pred"] == other["adv_pred"]).all()
    for name in one.filter(like="drift_"):
        assert np.allclose(one[name], other[name], atol=2e-5), name


def test_drift_is_that_of_the_maps_of_the_images() -> None:
    model, (image, label) = build(), data(6)
    records = robustatt.sweep(model, (image, label), ["fgsm"], "8").records
    leaf = image.clone().requires_grad_()
    nn.functional.cross_entropy(model(leaf), label, reduction="sum").backward()
    attacked = (image + 8 / 255 * leaf.grad.sign()).clamp(0, 1)
    before, after = (robustatt.attention_maps(model, x, "block2")[1]["block2"].double().flatten(1) for x in (image, attacked))
    middle = (before + after) / 2
    js = sum((p * (p / middle).log2()).sum(1) for p in (before, after)) / 2
    found = records[records["eps"] == "8/255"]["drift_js_block2"].to_numpy()
    np.testing.assert_allclose(found, js.numpy(), rtol=0.02, atol=1e-6)


@pytest.mark.parametrize(
    ("attention", "expected"),
    [("none", set()), ("encoder.layers.1.*", {"block2"}), ("rollout", {"rollout"})],
)
def test_a_pattern_decides_what_is_recorded(attention: str, expected: set[str]) -> None:
    assert levels(robustatt.sweep(build(), data(6), eps="8", attention=attention).records) == expected


def test_a_pattern_that_fits_nothing_is_one_line() -> None:
    with pytest.raises(
        InputError, match="model 'model': --attention 'blokcs': no level or submodule is of that name; the nearest are"
    ):
        robustatt.sweep(build(), data(6), eps="8", attention="blokcs")


def plan(*attention: str) -> Plan:
    models = attending(model_entries(["vgg", "timm:vit_tiny_patch16_224"], []), attention)
    return Plan(models=models, attacks=(recipes.load("fgsm"),), eps=(Fraction(1, 255),))


def keys(wanted: Plan) -> list[str]:
    return [cell.key for cell in BoundPlan(wanted, 10, ("a",), "d", ("e", "f")).cells()]


def test_a_plan_keeps_what_is_read_and_it_decides_the_key() -> None:
    both = plan("auto", "blocks.*.attn")
    assert [entry.attention for entry in both.models] == [None, "blocks.*.attn"]
    assert Plan.from_toml(tomllib.loads(tomli_w.dumps(both.to_toml())), "plan") == both
    assert [one == other for one, other in zip(keys(plan("auto")), keys(both), strict=True)] == [True, False]
    with pytest.raises(InputError, match="3 --attention for 2 models: give one for all, or one for each"):
        plan("auto", "none", "none")
    with pytest.raises(InputError, match="--attention '': give auto, none or a pattern"):
        plan("")


def test_the_command_line_reads_and_says_levels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    base = [
        "attend",
        str(tmp_path / "a.png"),
        "--model",
        "test_in_a_sweep:build",
        "--classes",
        "3",
        "--out",
        str(tmp_path / "o.png"),
    ]
    assert main(base) == 0
    assert "Levels: block1, block2, rollout" in capsys.readouterr().out
    assert main([*base, "--attention", "none"]) == 0
    assert "Levels: none" in capsys.readouterr().out
    assert main([*base, "--heads", "0"]) == 2
    assert "--heads '0': give the level whose heads are drawn; Known: block1, block2" in capsys.readouterr().err
    assert main([*base, "--attention", "haed"]) == 2
    assert "the nearest are head" in capsys.readouterr().err
