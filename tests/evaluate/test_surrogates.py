"""Examples crafted on one model and tested on others: exact answers on linear models, what it costs, what it leaves alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import Linear, linear_data
from torch import Tensor, nn

import robustatt
from robustatt.attack import recipe_files
from robustatt.cli import main
from robustatt.data.adopt import adopt
from robustatt.engine.evidence import read_folder
from robustatt.engine.models import FrozenModels
from robustatt.engine.statement import TRUE
from robustatt.engine.verify_images import SavedExamples
from robustatt.eps import parse_grid
from robustatt.errors import InputError
from robustatt.evaluate.cell import evaluate
from robustatt.plan import BoundPlan, ModelEntry, Plan, images_of
from robustatt.plan.surrogates import can_be_crafted
from robustatt.report.transfer import figures, sliders
from robustatt.results.transfer import uncrafted

EPS = (0.5 / 255, 1.5 / 255, 3 / 255)
TEXTS = ("0.5/255", "1.5/255", "3/255")
COUNT = 40
Data = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def pair() -> dict[str, Linear]:
    """Two linear models that agree in part: half of the second's weights are the first's."""
    first, second = Linear(seed=0).eval(), Linear(seed=5).eval()
    with torch.no_grad():
        second.weight.copy_(0.6 * first.weight + 0.4 * second.weight)
    return {"first": first, "second": second}


@pytest.fixture(scope="module")
def data(pair: dict[str, Linear]) -> Data:
    return linear_data(pair["first"], COUNT)


def corner(model: Linear, data: Data, eps: float) -> Tensor:
    """The worst image for a linear model of two classes in the ball: every pixel moves by eps along the weights' difference."""
    image, label = data
    toward = (model.weight[1 - label] - model.weight[label]).detach().view(image.shape)
    return (image + eps * toward.sign()).clamp(0, 1)


def exact(crafted_on: Linear, tested_on: Linear, data: Data, eps: float) -> float:
    with torch.no_grad():
        right = (tested_on(data[0]).argmax(1) == data[1]) & (tested_on(corner(crafted_on, data, eps)).argmax(1) == data[1])
    return float(right.double().mean())


@pytest.fixture(scope="module")
def folder(pair: dict[str, Linear], data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("surrogates") / "out"
    robustatt.sweep(pair, data, ["fgsm", "pgd"], eps=list(EPS), out=out, surrogate="all", drift_n=0)
    return out


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_transfer_between_linear_models_is_exact(pair: dict[str, Linear], data: Data, folder: Path, attack: str) -> None:
    curves = {(c.surrogate, c.model): c for c in read_folder(folder).summary.transfer if c.attack == attack}
    assert set(curves) == {(a, b) for a in pair for b in pair}
    answers = {}
    for (surrogate, model), curve in curves.items():
        assert [point.eps for point in curve.points] == ["0/255", *TEXTS]
        for point, eps in zip(curve.points[1:], EPS, strict=True):
            answers[surrogate, model, eps] = exact(pair[surrogate], pair[model], data, eps)
            assert point.accuracy == answers[surrogate, model, eps], (surrogate, model, eps)
            assert point.n == COUNT
    assert len(set(answers.values())) > 4, "the case must tell radii and models apart"
    assert all(answers["first", "second", eps] > answers["second", "second", eps] for eps in EPS)


def test_on_itself_it_is_the_attack_at_full_strength(folder: Path) -> None:
    found = read_folder(folder)
    assert not found.findings
    white = {(c.model, c.attack): [p.accuracy for p in c.points] for c in found.summary.curves}
    own = {(c.model, c.attack): [p.accuracy for p in c.points] for c in found.summary.transfer if c.surrogate == c.model}
    assert own == white


def test_every_other_record_is_the_same_bytes_without_surrogates(
    pair: dict[str, Linear], data: Data, folder: Path, tmp_path: Path
) -> None:
    robustatt.sweep(pair, data, ["fgsm", "pgd"], eps=list(EPS), out=tmp_path, drift_n=0)
    mine, theirs = ({path.name: path.read_bytes() for path in (out / "records").iterdir()} for out in (folder, tmp_path))
    assert mine == theirs
    assert not (tmp_path / "records-transfer").exists()
    with_, without = (read_folder(out).summary.as_dict() for out in (folder, tmp_path))
    assert set(with_) - set(without) == {"transfer"}
    assert {key: with_[key] for key in ("curves", "differences", "confusion")} == {
        key: without[key] for key in ("curves", "differences", "confusion")
    }


class Counting(nn.Module):
    """Counts images that pass forward, and those that a gradient comes back for."""

    def __init__(self, model: nn.Module, counts: Counter[str], name: str) -> None:
        super().__init__()
        self.model, self.counts, self.name = model, counts, name

    def __deepcopy__(self, memo: dict[int, object]) -> Counting:
        return Counting(self.model, self.counts, self.name)  # the sweep's frozen copy counts too

    def forward(self, image: Tensor) -> Tensor:
        self.counts[f"{self.name} forward"] += len(image)
        if image.requires_grad:
            image = image.view_as(image)
            image.register_hook(lambda grad: self.counts.update({f"{self.name} gradient": len(grad)}))
        logits: Tensor = self.model(image)
        return logits


def test_the_cost_is_one_attack_and_a_forward_pass_for_each_target(pair: dict[str, Linear], data: Data) -> None:
    counts: Counter[str] = Counter()
    modules = {name: Counting(model, counts, name) for name, model in (pair | {"third": Linear(seed=9).eval()}).items()}
    entries = tuple(ModelEntry(name, name) for name in modules)
    plan = Plan(entries, (recipe_files.load("pgd"),), parse_grid("0.5,1.5,3"), surrogates=(entries[0],))
    dataset = adopt(data, None)
    with FrozenModels(lambda entry: modules[entry.name], torch.device("cpu"), dataset, plan) as models:
        prints = tuple(map(models.fingerprint, entries))
        (cell,) = BoundPlan(plan, COUNT, dataset.classes, dataset.fingerprint, prints, None, prints[:1]).cells("transfer")
        classifiers = models.of(cell)
        counts.clear()
        found = evaluate(cell, classifiers, dataset, 64)
    assert counts["first gradient"] == found.gradients == COUNT * 40 * 3
    assert counts["second gradient"] == counts["third gradient"] == 0
    assert counts["second forward"] == counts["third forward"] == COUNT * (1 + 3)
    assert counts["first forward"] == COUNT * (1 + 3) + found.gradients
    assert found.forwards == 3 * COUNT * (1 + 3)
    assert len(found.columns["model"]) == 3 * COUNT * (1 + 3)


def test_records_name_the_surrogate(pair: dict[str, Linear], data: Data) -> None:
    outside = Linear(seed=5).eval()
    result = robustatt.sweep(pair["first"], data, "pgd", eps=list(EPS), surrogate=outside, drift_n=0)
    rows = result.transfer_records
    assert set(rows["surrogate"]) == {"surrogate"}
    assert set(rows["model"]) == set(result.records["model"]) == {"model"}
    assert "surrogate" not in result.records
    assert [entry.name for entry in result.typed_summary.plan.surrogates] == ["surrogate"]
    np.testing.assert_allclose(rows.loc[rows["eps"] == "3/255", "distance"], 3 / 255, rtol=1e-5)
    assert rows["attacked"].sum() == COUNT * 3  # those that the model or the surrogate gets wrong when clean too
    matrix = result.transfer("pgd", "1.5/255")
    assert matrix.loc["surrogate", "model"] == exact(outside, pair["first"], data, 1.5 / 255)
    with pytest.raises(InputError, match="was not crafted on surrogates"):
        result.transfer("fgsm")


def test_batch_size_order_and_workers_change_nothing(pair: dict[str, Linear], data: Data, folder: Path, tmp_path: Path) -> None:
    robustatt.sweep(
        dict(reversed(pair.items())),
        data,
        ["pgd", "fgsm"],
        eps=list(EPS),
        out=tmp_path,
        surrogate=["second", "first"],
        drift_n=0,
        batch_size=16,
    )
    assert {p.name for p in (folder / "records-transfer").iterdir()} == {
        p.name for p in (tmp_path / "records-transfer").iterdir()
    }
    sort = ["surrogate", "model", "attack", "eps", "index"]
    mine, theirs = (read_folder(out).transfer.sort_values(sort, ignore_index=True) for out in (folder, tmp_path))
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-4)


@pytest.mark.parametrize(("other", "said"), [
    (Linear(classes=3).eval(), "surrogate 'surrogate' has 3 classes and model 'model' 2"),
    (Linear(size=8).eval(), "surrogate: model 'surrogate' cannot take images of shape"),
    (3, "surrogate is a int: give a torch.nn.Module"),
])  # fmt: skip
def test_a_surrogate_of_other_classes_or_another_size_is_refused(
    pair: dict[str, Linear], data: Data, tmp_path: Path, other: nn.Module, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        robustatt.sweep(pair["first"], data, "pgd", eps=list(EPS), out=tmp_path / "out", surrogate=other)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_can_be_crafted() -> None:
    names = (
        "fgsm",
        "pgd",
        "mi-fgsm",
        "apgd-ce",
        "square",
        "attention-keep",
        "fmn",
        "fab-t",
        "autoattack",
        "sign-noise",
        "attention",
    )
    assert [name for name in names if can_be_crafted(recipe_files.load(name))] == list(names[:6])


def test_another_librarys_attack_is_crafted_too(pair: dict[str, Linear], data: Data) -> None:
    pytest.importorskip("torchattacks")
    theirs = {"name": "theirs", "algorithm": "torchattacks:PGD", "arguments": {"steps": 12}, "shares": {"alpha": 0.25}}
    result = robustatt.sweep(pair["first"], data, theirs, eps=list(EPS[1:]), surrogate=pair["second"], drift_n=0)
    for eps, text in zip(EPS[1:], TEXTS[1:], strict=True):
        assert result.transfer("theirs", text).loc["surrogate", "model"] == exact(pair["second"], pair["first"], data, eps)


def test_attacks_that_cannot_be_crafted_are_said_and_left_out(pair: dict[str, Linear], data: Data) -> None:
    result = robustatt.sweep(pair, data, ["fgsm", "fmn"], eps=list(EPS), surrogate="all", drift_n=0)
    assert set(result.transfer_records["attack"]) == {"fgsm"}
    assert uncrafted(result.typed_summary) == ["fmn"]


def test_images_are_saved_of_the_attacks_on_the_models_themselves_alone(
    pair: dict[str, Linear], data: Data, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = robustatt.sweep(pair, data, ["fgsm", "pgd"], eps=list(EPS), out=out, surrogate="all", drift_n=0, save_images="all")
    bound = BoundPlan.read(out)
    assert {path.stem for path in (out / "records-images").glob("*.parquet")} == {cell.key for cell in bound.cells()}
    crafted = list(bound.cells("transfer"))
    assert crafted
    assert [images_of(bound.plan, cell) for cell in crafted] == [None] * len(crafted)
    usual = read_folder(folder)
    pd.testing.assert_frame_equal(result.transfer_records.drop(columns="eps_value"), usual.transfer)
    pd.testing.assert_frame_equal(result.records.drop(columns="eps_value"), usual.records)
    assert SavedExamples.of(read_folder(out), out).stated[0].verdict == TRUE


def test_a_plan_file_says_the_same_as_the_flag(tmp_path: Path) -> None:
    models, attacks = (ModelEntry("a", "vgg"), ModelEntry("b", "vgg_att3")), (recipe_files.load("pgd"),)
    outside = ModelEntry("theirs", "timm:vit_tiny_patch16_224", options=(("img_size", 32),))
    plan = Plan(models, attacks, parse_grid("8"), surrogates=(ModelEntry("all", "all"), outside, ModelEntry("a", "a")))
    assert plan.crafted_on == (*models, outside)
    document = plan.to_toml()
    assert document["surrogates"] == ["all", {"name": "theirs", "spec": outside.spec, "options": {"img_size": 32}}, "a"]
    again = Plan.from_toml(document, where="plan")
    assert again.crafted_on == plan.crafted_on
    bound = BoundPlan(plan, 600, ("x",), "d", ("1", "2"), None, ("1", "2", "3"))
    bound.write(tmp_path)
    assert list(BoundPlan.read(tmp_path).keys()) == bound.keys()
    cells = list(bound.cells("transfer"))
    assert [(cell.model, cell.start) for cell in cells] == [
        (name, start) for name in ("a", "b", "theirs") for start in (0, 256, 512)
    ]
    assert all(cell.key.startswith("transfer-") for cell in cells)
    other = BoundPlan(plan, 600, ("x",), "d", ("1", "9"), None, ("1", "9", "3"))
    assert not {cell.key for cell in cells} & {cell.key for cell in other.cells("transfer")}, "a target is part of the key"


def test_weights_of_surrogates_follow_those_of_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Plan] = []

    def stop(plan: Plan) -> None:
        asked.append(plan)
        raise InputError("enough")

    monkeypatch.setattr("robustatt.engine.sources.load_data", stop)
    given = [
        "--model",
        "vgg",
        "--model",
        "vgg_att3",
        "--surrogate",
        "other=vgg",
        "--weights",
        "bundled",
        "--weights",
        "b",
        "--weights",
        "c",
    ]
    assert main(["sweep", *given, "--attack", "pgd"]) == 2
    assert [entry.weights for entry in asked[0].loaded] == [None, "b", "c"]


def test_resume_workers_verify_and_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line: two processes compute the same bytes as one, only what is missing is computed again."""
    images, labels = linear_data(Linear(), 24)
    np.savez(tmp_path / "set.npz", images=(255 * images.permute(0, 2, 3, 1)).round().byte().numpy(), labels=labels.numpy())
    models = ["--model", "a=tiny_models:Linear", "--surrogate", "tiny_models:sibling"]
    command = ["sweep", *models, "--data", str(tmp_path / "set.npz"), "--attack", "pgd", "--eps", "1,2", "--drift-n", "0"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*command, "--out", str(one), "--dry-run"]) == 0
    assert "pgd for transfer" in capsys.readouterr().out
    assert not one.exists()
    assert main([*command, "--out", str(one), "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "2 cells computed" in shown
    assert "crafted on" in shown
    assert main([*command, "--out", str(two), "--workers", "2"]) == 0
    (record,) = (one / "records-transfer").iterdir()
    assert (two / "records-transfer" / record.name).read_bytes() == record.read_bytes()
    capsys.readouterr()
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)
    assert main(["verify", str(one), "--sample", "4"]) == 1
    assert "1 of 1 cells of surrogates is altered" in capsys.readouterr().out
    assert main([*command, "--out", str(one), "--workers", "1"]) == 0
    assert "1 cell computed, 1 found on disk" in capsys.readouterr().out
    assert record.read_bytes() == (two / "records-transfer" / record.name).read_bytes()
    assert main(["verify", str(one), "--sample", "4"]) == 0
    assert "pgd crafted on tiny_models:sibling" in capsys.readouterr().out
    assert main(["report", str(one)]) == 0
    page = (one / "report.html").read_text()
    assert 'data-slides="transfer-pgd"' in page
    assert {path.name for path in (one / "figures").glob("transfer*.png")} == {"transfer-pgd.png", "transfer-matrix-pgd.png"}
    table = pd.read_csv(one / "tables" / "transfer.csv")
    stored = [(c.surrogate, c.model, p.eps, p.accuracy) for c in read_folder(one).summary.transfer for p in c.points]
    assert list(table[["crafted_on", "tested_on", "eps", "accuracy"]].itertuples(index=False, name=None)) == stored


def test_the_page_shows_each_number_of_the_matrix(folder: Path) -> None:
    summary = read_folder(folder).summary
    slider = next(entry for entry in sliders(summary) if entry.attack == "pgd")
    curves = {(c.surrogate, c.model): c for c in summary.transfer if c.attack == "pgd"}
    shown = {
        (slide.eps, surrogate, model): cell.point
        for slide in slider.slides for surrogate, cells in slide.rows for model, cell in zip(slider.models, cells, strict=True)
    }  # fmt: skip
    assert shown == {(p.eps, *key): p for key, curve in curves.items() for p in curve.points if p.eps != "0/255"}
    white = {(c.model, p.eps): p for c in summary.curves if c.attack == "pgd" for p in c.points}
    assert all(
        cell.point == white[model, slide.eps]
        for slide in slider.slides
        for model, cell in zip(slider.models, slide.white, strict=True)
    )
    spec = next(spec for spec in figures(summary) if spec.slug == "transfer-pgd")
    labels = {panel.title: [series.label for series in panel.series] for panel in spec.panels}
    assert labels == {
        "Tested on first": ["first, white box", "crafted on second"],
        "Tested on second": ["second, white box", "crafted on first"],
    }
