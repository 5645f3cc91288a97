"""Transfer: answers only about unseen images, exact statistics, and one line for what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedKFold, cross_val_score

from robustatt import cli
from robustatt.data import load
from robustatt.errors import InputError
from robustatt.results import statistics
from robustatt.results.summary import Provenance
from robustatt.studies.output import write_files
from robustatt.studies.transfer import svm
from robustatt.studies.transfer.report import markdown
from robustatt.studies.transfer.result import DataSet, Subject, Transfer, TransferSettings, read, summarise


def blobs(count: int, apart: float, seed: int = 0, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of normal vectors whose means are that far from 0."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    means = apart * np.eye(width)[:3]
    return (means[labels] + generator.normal(size=(count, width))).astype(np.float32), labels.astype(np.int64)


def share_right(features: np.ndarray, labels: np.ndarray, folds: int = 3) -> float:
    return float((svm.answer_out_of_fold(features, labels, folds, 0).predicted == labels).mean())


def test_classes_far_apart_are_all_answered_right_and_labels_drawn_by_lot_are_not() -> None:
    assert share_right(*blobs(60, 40.0)) == 1.0
    features, labels = blobs(150, 0.0, width=300)
    low, high = statistics.wilson(round(150 * share_right(features, labels)), 150)
    assert low < 1 / 3 < high


def test_an_image_changes_no_answer_but_its_own() -> None:
    features, labels = blobs(60, 1.0)
    before = svm.answer_out_of_fold(features, labels, 4, 0)
    changed = features.copy()
    changed[7] = 1e4
    after = svm.answer_out_of_fold(changed, labels, 4, 0)
    fold = before.fold[7]
    fellows = np.flatnonzero(before.fold == fold)
    assert after.penalties[fold] == before.penalties[fold]
    others = fellows[fellows != 7]
    assert np.array_equal(after.predicted[others], before.predicted[others])
    train, test = slice(0, 40), slice(40, 60)
    one = svm.answer_test_part((features[train], labels[train]), features[test], 0)
    two = svm.answer_test_part((features[train], labels[train]), features[test][:1], 0)
    assert one.predicted[0] == two.predicted[0]
    assert one.penalties == two.penalties


def test_the_penalty_is_the_best_of_the_grid() -> None:
    features, labels = blobs(90, 1.5, width=30)
    parts = StratifiedKFold(svm.INNER_FOLDS, shuffle=True, random_state=0)
    scores = [cross_val_score(svm.svm(c), features, labels, cv=parts).mean() for c in svm.PENALTIES]
    assert svm.choose_penalty(features, labels, 0) == svm.PENALTIES[int(np.argmax(scores))]


@pytest.mark.parametrize(
    ("labels", "folds", "says"),
    [
        ([0, 0, 0, 1, 1, 1, 1, 1], 5, "class 'ant' has 3 images for 5 folds: give --folds 3 or fewer"),
        ([0, 0, 1, 1, 1, 1], 2, "class 'ant' has 2 images for 2 folds: take the class out"),
        ([1, 1, 1, 1], 2, "all images are of class 'bee'"),
    ],
)
def test_classes_that_are_too_small_are_named(labels: list[int], folds: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        svm.check_folds(np.array(labels), ("ant", "bee"), folds, "data x")


def test_a_remedy_that_is_named_works() -> None:
    svm.check_folds(np.array([0, 0, 0, 1, 1, 1, 1, 1]), ("ant", "bee"), 3, "data x")
    svm.check_folds(np.array([0, 0, 0, 0, 1, 1, 1, 1]), ("ant", "bee"), 2, "data x")


def made(right: dict[tuple[str, str], list[int]]) -> Transfer:
    """A result of answers given by hand: 1 right, 0 wrong."""
    frames = [
        pd.DataFrame({"model": m, "data": d, "index": range(len(r)), "label": 1, "prediction": r, "fold": 0})
        for (m, d), r in right.items()
    ]
    names, sets = list(dict.fromkeys(m for m, _ in right)), list(dict.fromkeys(d for _, d in right))
    subjects = [Subject(name=name, spec=name, weights="", fingerprint="", side=32, width=8) for name in names]
    data = [
        DataSet(name=name, protocol="test part", n=len(right[names[0], name]), trained=9, classes=2, floor=0.5, fingerprint="")
        for name in sets
    ]
    return summarise(subjects, data, frames, dict.fromkeys(right, (1.0,)), TransferSettings(folds=5), Provenance())


def test_shares_differences_and_tests_are_those_of_the_answers() -> None:
    a, b = [1] * 8 + [0] * 2, [1] * 2 + [0] * 6 + [1] * 1 + [0]
    result = made({("vgg", "x"): b, ("att", "x"): a, ("vgg", "y"): a, ("att", "y"): a})
    score = result.score("att", "x")
    assert (score.right, score.n, score.accuracy) == (8, 10, 0.8)
    assert (score.ci_low, score.ci_high) == pytest.approx([float(end) for end in statistics.wilson(8, 10)])
    first, second = result.comparisons
    assert (first.a, first.b, first.only_a, first.only_b) == ("att", "vgg", 6, 1)
    assert first.difference == pytest.approx(0.5)
    assert first.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert (first.p_holm, second.p, second.p_holm) == pytest.approx((2 * first.p, 1.0, 1.0))
    (mean,) = result.averages
    assert (mean.sets, mean.difference) == (2, pytest.approx(0.25))
    assert mean.ci_low == pytest.approx(0.25 - np.hypot(0.5 - first.ci_low, 0 - second.ci_low) / 2)
    assert "| att - vgg | x | +50.0 [" in markdown(result)


def test_what_is_written_is_read_back_and_damage_is_named(tmp_path: Path) -> None:
    result = made({("vgg", "x"): [1, 0, 1], ("att", "x"): [1, 1, 1]})
    write_files(tmp_path, {"predictions.parquet": result.predictions, "transfer.json": result})
    found = read(tmp_path)
    assert found.as_dict() == result.as_dict()
    pd.testing.assert_frame_equal(found.predictions, result.predictions)
    text = (tmp_path / "transfer.json").read_text()
    for damaged, says in (
        (
            text.replace('"right": 2', '"right": "two"'),
            r"transfer\.json cannot be read \(scores\.0\.right: .*run robustatt transfer",
        ),
        (text.replace('"schema": 1', '"schema": 9'), "schema 9, 1 is needed"),
        (text[:-9], "Invalid JSON"),
    ):
        (tmp_path / "transfer.json").write_text(damaged)
        with pytest.raises(InputError, match=says):
            read(tmp_path)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """Digits as an .npz of 40x40 pictures with classes renamed: 80 images and no training part."""
    digits = load("digits", "train")
    images, labels = digits.tensors(range(80))
    pixels = [np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((40, 40))) for image in images]
    np.savez(tmp_path / "strange.npz", images=np.stack(pixels), labels=labels.numpy() % 3)
    return tmp_path / "strange.npz"


def run(*arguments: object) -> int:
    return cli.main(["transfer", *map(str, arguments)])


def test_from_the_command_line_to_the_files(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    which = ["--model", "vgg", "--model", "vgg_att1", "--trained-on", "digits", "--folds", 3]
    command = [*which, "--data", strange, "--data", "digits", "--sample", 60]
    assert run(*command, "--out", "first") == 0
    said = capsys.readouterr().out
    assert "3 folds of the test part" in said
    assert "real" in said
    result = read(Path("first"))
    assert [data.protocol for data in result.sets] == ["3 folds of the test part", "test part"]
    assert [data.n for data in result.sets] == [60, 60]
    assert [model.side for model in result.models] == [32, 32]
    assert result.score("vgg", "digits").accuracy > 0.8
    answers = result.predictions[(result.predictions["model"] == "vgg") & (result.predictions["data"] == "digits")]
    labels = load("digits").labels.numpy()
    assert (labels[answers["index"]] == answers["label"]).all()
    assert {path.name for path in Path("first").iterdir()} == {
        "transfer.json", "transfer.md", "transfer.png", "transfer.svg", "transfer.csv", "predictions.parquet",
    }  # fmt: skip
    assert run(*command, "--out", "again") == 0
    first, again = (json.loads((Path(name) / "transfer.json").read_text()) for name in ("first", "again"))
    assert first["scores"] == again["scores"]
    assert pd.read_csv("first/transfer.csv")["accuracy"].tolist() == [score.accuracy for score in result.scores]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "vgg_at3", "--data", "digits"], "did you mean 'vgg_att3'"),
        (["--model", "vgg", "--data", "strange.npz", "--folds", 40], "for 40 folds: give --folds"),
        (["--model", "vgg", "--data", "strange.npz", "-n", 1], "two classes are needed"),
        (["--model", "vgg", "--data", "nowhere"], "no data 'nowhere'"),
        (["--model", "vgg", "--data", "digits", "--data", "digits"], "given twice"),
        (["--model", "vgg", "--model", "vgg", "--data", "digits"], "given twice"),
        (["--model", "vgg", "--data", "digits", "--trained-on", "digit"], "no weights are bundled for data 'digit'"),
        (["--model", "vgg", "--data", "digits", "--folds", 1], "--folds 1"),
    ],
)
@pytest.mark.usefixtures("strange")
def test_what_cannot_be_done_is_one_line(arguments: list[object], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    trained = [] if "--trained-on" in arguments else ["--trained-on", "digits"]
    assert run(*arguments, *trained, "--out", "out") == 2
    problem = capsys.readouterr().err
    assert says in problem
    assert problem.count("\n") == 1
    assert not Path("out").exists()


def test_parts_with_other_classes_are_no_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, names in (("train", ("ant", "bee")), ("test", ("ant", "wasp"))):
        for place in range(6):
            folder = tmp_path / "insects" / part / names[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (40 * place, 0, 0)).save(folder / f"{place}.png")
    assert run("--model", "vgg", "--trained-on", "digits", "--data", "insects") == 2
    assert "different classes ('bee' is in one of them only)" in capsys.readouterr().err
