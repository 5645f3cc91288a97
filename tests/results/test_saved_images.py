"""Saved adversarial examples: exactly what the model saw, behind the rows that say so, and a judge of their own."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_models import Linear, TwoClassLinear, exact_distance, images, linear_data

import robustatt
from robustatt.attack.norms import NORMS
from robustatt.cli import main
from robustatt.engine.verify_images import _compared
from robustatt.errors import InputError
from robustatt.evaluate.kept_rows import KeptRows
from robustatt.plan import Plan, SavedImages
from robustatt.results.images import FORMAT, IMAGE, SAVED_COLUMNS, ImageFile, ImageStore
from robustatt.results.records import encode

N, SAVED = 12, 8
SWEEP = ["sweep", "--model", "nets_saved:build", "--weights", "weights.pt", "--data", "data.npz", "--attack", "fgsm"]
SWEEP += ["--attack", "pgd", "--eps", "1,2,16", "--drift-n", "0", "--out", "out"]
IMAGES = ["--save-images", str(SAVED), "--save-images-at", "1/255"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, weights and a finished sweep in `out` that saved images."""
    folder = tmp_path_factory.mktemp("saved")
    model, image = TwoClassLinear(), (images(N) * 255).round().to(torch.uint8)
    with torch.no_grad():
        label = model(image / 255).argmax(1)
    label[3] = 1 - label[3]  # wrong when clean
    np.savez(folder / "data.npz", images=image.permute(0, 2, 3, 1).numpy(), labels=label.numpy())
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "nets_saved.py").write_text("from tiny_models import TwoClassLinear as build\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        assert main([*SWEEP, *IMAGES]) == 0
    return folder


@pytest.fixture
def out(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results of a copy of it, in which the test stands."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    return tmp_path / "work/out"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def file_of(out: Path, attack: str) -> Path:
    files = [path for path in (out / "records-images").glob("*.parquet") if pq.read_table(path)["attack"][0].as_py() == attack]
    return files[0]


def read(path: Path) -> ImageFile:
    file = ImageStore(path.parent.parent / "records").read(path.stem)
    assert file is not None
    return file


def as_it_is(_: object) -> None:
    """No change."""


def forge(
    path: Path,
    rows_by: Callable[[pd.DataFrame], None] = as_it_is,
    images_by: Callable[[np.ndarray], None] = as_it_is,
    form: str = FORMAT,
) -> None:
    """Rewrite a file of images with a valid checksum."""
    file = read(path)
    rows, image = file.rows.copy(), file.images()
    rows_by(rows)
    images_by(image)
    notes = {name.decode(): text.decode() for name, text in pq.read_metadata(path).metadata.items() if b"sha256" not in name}
    columns = {name: rows[name].to_numpy() for name in SAVED_COLUMNS} | {IMAGE: image.reshape(len(rows), -1)}
    path.write_bytes(encode(columns, notes | {"robustatt.images": form}, floats=IMAGE))


def forge_records(out: Path, attack: str, change: Callable[[pd.DataFrame], None]) -> None:
    path = next(p for p in (out / "records").iterdir() if pq.read_table(p)["attack"][0].as_py() == attack)
    frame = pd.read_parquet(path)
    change(frame)
    path.write_bytes(encode({name: frame[name].to_numpy() for name in frame}))


# What is saved ---------------------------------------------------------------------------------------------


KINDS = {
    "fgsm": (["fgsm"], False), "search": (["pgd"], False), "independent": (["pgd"], True), "minimum-norm": (["fmn"], False),
    "chain": ([{"name": "chain", "algorithm": "autoattack", "version": "rand", "steps": 4}], False),
    "targeted": ([{"name": "to", "algorithm": "pgd", "targeted": "random"}], False), "l2": (["pgd-l2"], False),
}  # fmt: skip


@pytest.mark.parametrize(("attacks", "independent"), KINDS.values(), ids=KINDS)
def test_every_image_is_behind_the_row_that_says_so(attacks: list[object], independent: bool) -> None:
    model = Linear(3)
    image, label = linear_data(model, 18)
    name = attacks[0] if isinstance(attacks[0], str) else attacks[0]["name"]
    norm = "l2" if name == "pgd-l2" else "linf"
    nearest = exact_distance(model, image, label, norm)
    grid = [float(nearest[nearest > 0].quantile(q)) for q in (0.2, 0.4, 0.6, 0.8)]
    asked = {"eps": grid, "independent": independent, "drift_n": 0}
    plain = robustatt.sweep(model, (image, label), attacks, **asked)
    eps = plain.curve(name)["eps"].iloc[2]
    result = robustatt.sweep(model, (image, label), attacks, save_images=14, save_images_at=eps, **asked)
    pd.testing.assert_frame_equal(result.records, plain.records)
    rows = result.records[(result.records["index"] < 14) & (result.records["eps"] != "0/255")]
    broken = rows[(rows["clean_pred"] == rows["label"]) & (rows["adv_pred"] != rows["label"])]
    first = broken.sort_values("eps_value", kind="stable").drop_duplicates("index").sort_values("index")
    assert 3 < len(first) < 14
    found = result.adversarial(name)
    assert (found.index.tolist(), list(found.eps)) == (first["index"].tolist(), first["eps"].tolist())
    at = result.adversarial(name, eps)
    assert (at.index.tolist(), set(at.eps)) == (list(range(14)), {eps})
    for saved, said in ((found, first), (at, rows[rows["eps"] == eps].sort_values("index"))):
        assert saved.images.dtype == torch.float32
        distance = NORMS[norm].norm(saved.images.double() - image[saved.index].double())
        np.testing.assert_allclose(distance, said["distance"], atol=1e-6)
        assert 0 <= float(saved.images.min()) <= float(saved.images.max()) <= 1
        with torch.no_grad():
            assert model(saved.images).argmax(1).tolist() == saved.prediction.tolist() == said["adv_pred"].tolist()


def test_a_larger_radius_has_the_images_of_all_smaller_thresholds(out: Path) -> None:
    result = robustatt.load_result(out)
    largest = result.adversarial("pgd", "16/255")
    thresholds = result.adversarial("pgd")
    assert largest.index.tolist() == thresholds.index.tolist()
    assert largest.eps == thresholds.eps
    within = result.adversarial("pgd", "2/255")
    assert set(within.eps) == {"1/255", "2/255"}
    assert len(within) < len(largest)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_dropped_on_the_way_is_never_missed(data: st.DataObject) -> None:
    """Rows written in any order, then copied upwards from the nearest broken radius, against one that keeps everything."""
    radii, named = 6, data.draw(st.sets(st.integers(0, 5), max_size=3))
    kept, every = KeptRows(1, named), {}
    for step, radius in enumerate(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=12, unique=True))):
        wrong = data.draw(st.booleans())
        every[radius] = (np.full((1, 1, 1), step), wrong)
        kept.write(0, radius, {IMAGE: every[radius][0]}, wrong, targeted=False)
    broken = [radius for radius, (_, wrong) in every.items() if wrong]
    if not broken:
        return
    for radius in range(min(broken), radii):
        source = max(r for r in broken if r <= radius)
        if source != radius:
            kept.copy(0, source, radius)
            every[radius] = every[source]
    for radius in {min(broken), *(r for r in named if r in every)}:
        assert kept[0, radius][IMAGE] == every[radius][0]


# Records, workers, resume ----------------------------------------------------------------------------------


def test_records_workers_and_images_are_the_same_bytes(out: Path) -> None:
    assert main([*SWEEP[:-1], "plain"]) == 0
    assert content(Path("plain/records")) == content(out / "records")
    assert not Path("plain/records-images").exists()
    assert main([*SWEEP[:-1], "two", *IMAGES, "--workers", "2"]) == 0
    for folder in ("records", "records-images"):
        assert content(Path("two") / folder) == content(out / folder)


LOST: dict[str, Callable[[Path], object]] = {
    "a file": lambda out: file_of(out, "pgd").unlink(),
    "the folder": lambda out: shutil.rmtree(out / "records-images"),
    "a byte": lambda out: file_of(out, "pgd").write_bytes(file_of(out, "pgd").read_bytes()[:-1]),
    "the index": lambda out: (out / "records-images/index.csv").write_text("model\n"),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_what_is_lost_is_computed_again(lose: Callable[[Path], object], out: Path) -> None:
    before, records = content(out / "records-images"), content(out / "records")
    lose(out)
    assert main([*SWEEP, *IMAGES]) == 0
    after = content(out / "records-images")
    assert {name: after[name] for name in before} == before
    assert content(out / "records") == records


def test_more_images_than_are_there_are_computed_and_fewer_are_not(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "--save-images", "5"]) == 0
    assert "0 cells computed, 2 found on disk" in capsys.readouterr().out
    assert main([*SWEEP, "--save-images", "all"]) == 0
    assert "2 cells computed" in capsys.readouterr().out
    assert read(file_of(out, "pgd")).rows["index"].max() >= SAVED
    assert main(["verify", "out", "--sample", "0"]) == 0


# The judge -------------------------------------------------------------------------------------------------


def test_a_reviewer_needs_no_attack(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "out", "--sample", "0"]) == 0
    said = capsys.readouterr().out
    assert "they, index.csv and the records say the same of each" in said
    for attack in ("fgsm", "pgd"):
        rows = pd.concat(pd.read_parquet(path) for path in (out / "records").iterdir())
        rows = rows[(rows["attack"] == attack) & (rows["clean_pred"] == rows["label"]) & (rows["adv_pred"] != rows["label"])]
        assert f"they prove {(rows['index'] < SAVED).sum()} of the {len(rows)} rows recorded as broken" in said


def moved(image: np.ndarray) -> None:
    image[0] += np.float32(2 / 255) * np.where(image[0] > 0.5, -1, 1)


def brighter(image: np.ndarray) -> None:
    image[0, 0, 0, 0] = 1.25


def not_a_number(image: np.ndarray) -> None:
    image[0, 0, 0, 0] = np.nan


def kinder(rows: pd.DataFrame) -> None:
    rows.loc[0, "adv_margin"] += 0.5


def nearer(rows: pd.DataFrame) -> None:
    rows["distance"] *= 0.9


def renamed(rows: pd.DataFrame) -> None:
    rows.loc[0, "index"] = 1


def edited_index(out: Path) -> None:
    path = out / "records-images/index.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace(",1,", ",0,", 1)
    path.write_text("\n".join(lines) + "\n")


def shorter_index(out: Path) -> None:
    path = out / "records-images/index.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def claimed(out: Path) -> None:
    """Forge image rows, index and records alike: an example that held is said to have been broken."""

    def lie(frame: pd.DataFrame) -> None:
        held = (frame["adv_pred"] == frame["label"]) & (frame["eps"] == "1/255")
        frame.loc[held, "adv_pred"] = 1 - frame.loc[held, "label"]

    forge(file_of(out, "pgd"), lie)
    forge_records(out, "pgd", lie)
    store = ImageStore(out / "records")
    store.write_index(path.stem for path in [file_of(out, "fgsm"), file_of(out, "pgd")])
    (out / "summary.json").unlink()


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a moved image": (lambda out: forge(file_of(out, "pgd"), images_by=moved), "are not what their rows say: example"),
    "outside the box": (lambda out: forge(file_of(out, "pgd"), images_by=brighter), "is outside the box"),
    "not a number": (lambda out: forge(file_of(out, "pgd"), images_by=not_a_number), "is outside the box"),
    "a flipped byte": (LOST["a byte"], "1 files were altered or cut short"),
    "another margin": (lambda out: forge(file_of(out, "pgd"), kinder), "adv_margin differs from the records in 1 rows"),
    "another distance": (lambda out: forge(file_of(out, "fgsm"), nearer), "distance differs from the records"),
    "a row of another image": (lambda out: forge(file_of(out, "pgd"), renamed), "images are missing: example 0 at 1/255"),
    "a missing file": (LOST["a file"], "1 of 2 files are missing: nets_saved:build under pgd"),
    "no folder": (LOST["the folder"], "2 of 2 files are missing"),
    "an edited index": (edited_index, "index.csv does not agree with the files in 1 rows"),
    "a shorter index": (shorter_index, "index.csv lists"),
    "no index": (lambda out: (out / "records-images/index.csv").unlink(), "index.csv is missing"),
    "a broken index": (LOST["the index"], "index.csv is damaged"),
    "all of it forged alike": (claimed, "is taken for class"),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "finding"), TAMPERED.values(), ids=TAMPERED)
def test_what_was_tampered_with_is_found(
    tamper: Callable[[Path], object], finding: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper(out)
    before = content(out / "records-images") if (out / "records-images").exists() else {}
    capsys.readouterr()
    assert main(["verify", "out", "--sample", "0"]) == 1
    assert finding in capsys.readouterr().out
    assert before == (content(out / "records-images") if before else {})


def test_images_of_another_version_are_refused_in_one_line(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge(file_of(out, "pgd"), form="2")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    for command in (["verify", "out"], [*SWEEP, *IMAGES]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "saved by another version (format 2, not 1)" in error
        assert error.count("\n") == 1
    with pytest.raises(InputError, match="another version"):
        robustatt.load_result(out).adversarial("pgd")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_page_shows_the_images_that_break_first_and_last(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "out"]) == 0
    section = (out / "report.html").read_text().partition('id="who-fails"')[2].partition("</section>")[0]
    shown = dict(re.findall(r'src="data:image/png;base64,([^"]+)" alt="image (\d+)', section))
    thresholds = robustatt.load_result(out).adversarial("pgd")
    assert {int(index) for index in shown.values()} == set(thresholds.index.tolist())
    for content, index in shown.items():
        picture = np.array(Image.open(io.BytesIO(base64.b64decode(content)))).transpose(2, 0, 1)
        saved = thresholds.images[thresholds.index.tolist().index(int(index))].numpy()
        assert np.abs(picture / 255 - saved).max() <= 0.5 / 255 + 1e-6
    assert section.count("not saved") == section.count("<li>") - len(shown) > 0
    forge(file_of(out, "pgd"), form="0")
    capsys.readouterr()
    assert main(["report", "out"]) == 2
    assert "saved by another version" in capsys.readouterr().err


@pytest.mark.parametrize(("recorded", "mistake"), [(-0.000375748, ""), (-0.0006, "has margin -0.000374794, not -0.0006")])
def test_a_margin_at_the_very_boundary_rounds_with_the_logits(recorded: float, mistake: str) -> None:
    """Measured of DeepFool on the bundled vgg: clean margin 5.4, and a batch of another size moves it by 1e-6."""
    row = {"eps": "2", "label": 0, "clean_pred": 0, "adv_pred": 1, "adv_margin": recorded, "distance": 1.5}
    one = np.array([1])
    found, exact, close = _compared(pd.DataFrame([row]), one < 0, 1.5 * one, 0 * one, 0 * one, one, -0.000374794 * one, 5.4 * one)
    assert (found.tolist(), exact.tolist(), close.tolist()) == ([mistake], [False], [False])


# Wrong input -----------------------------------------------------------------------------------------------

WRONG = {
    "no number": (["--save-images", "some"], "--save-images 'some': give a number of examples, or all"),
    "none": (["--save-images", "0"], "--save-images '0'"),
    "radii alone": (["--save-images-at", "4"], "--save-images-at without --save-images"),
    "no such radius": (
        ["--save-images", "2", "--save-images-at", "4,5"],
        "--save-images-at '5': no attack is run at such a radius",
    ),
    "no such radius in a unit": (
        ["--eps", "0.02", "--eps-unit", "1", "--save-images", "2", "--save-images-at", "0.02,0.03"],
        "--save-images-at '7.65/255': no attack is run at such a radius",
    ),
    "no radius": (["--save-images", "2", "--save-images-at", "x"], "--save-images-at: --eps: 'x' is not a radius"),
}


@pytest.mark.parametrize(("flags", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--model", "vgg", "--eps", "4", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_saved_is_said(out: Path) -> None:
    result = robustatt.load_result(out)
    for arguments, said in (
        (("pgd", "5/255"), "pgd was not run at 5/255"), (("pdg",), "attack 'pdg' was not evaluated"), (("pgd", "2/255", "x"), "model 'x'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            result.adversarial(*arguments)
    shutil.rmtree(out / "records-images")
    with pytest.raises(InputError, match="no images were saved"):
        result.adversarial("pgd")


def test_a_plan_file_asks_for_images_as_the_flags_do() -> None:
    document = {"models": ["vgg"], "eps": "1,4", "save_images": 20, "save_images_at": "4/255"}
    plan = Plan.from_toml(document, "plan")
    assert plan.images == SavedImages(20, "4/255")
    assert Plan.from_toml(plan.to_toml(), "plan") == plan
    plain = document | {"attacks": ["fgsm", "pgd-l2"], "eps": "0.4,0.5", "eps_unit": 1, "save_images_at": "0.5"}
    plan = Plan.from_toml(plain, "plan")
    assert plan.images is not None
    assert [plan.images.radii(recipe, plan.radii_of(recipe)) for recipe in plan.attacks] == [("127.5/255",), ("0.5",)]
    assert Plan.from_toml(plan.to_toml(), "plan") == plan
    with pytest.raises(InputError, match="no attack is run at such a radius"):
        Plan.from_toml(document | {"save_images_at": "8/255"}, "plan")
