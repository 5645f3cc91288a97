"""`robustatt board`: ranks with known answers, runs that do not belong together, and pages that say what the records say."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_board import write_run

from robustatt.cli import main
from robustatt.plan import BoundPlan
from robustatt.results import statistics
from robustatt.results.published import read_published
from robustatt.results.ranking import ranking
from robustatt.results.records import Store

N = 300
ROW = {
    "dataset": "cifar10",
    "eps": "8/255",
    "clean_acc": "93.63",
    "autoattack_acc": "75.28",
    "architecture": "WRN",
    "name": "A paper",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results folders of three models, of which the last is by far the most robust."""
    home = tmp_path_factory.mktemp("board")
    for name, seed in (("a", 0), ("b", 1), ("c", 60)):
        write_run(home / name, f"model-{name}", N, seed)
    return home


@pytest.fixture(autouse=True)
def runs(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(originals, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def rows_of(out: str = "out") -> dict[str, dict[str, object]]:
    return {row["model"]: row for row in json.loads(Path(out, "board.json").read_text())["rows"]}


def test_ranks_of_models_that_are_equal_better_and_worse() -> None:
    weak, strong = np.arange(100) < 20, np.arange(100) < 80
    found = ranking(np.stack([weak, strong, weak]))
    assert found.rank.tolist() == [2, 1, 2]
    assert found.last.tolist() == [3, 1, 3]
    alone = ranking(weak[None])
    assert (alone.rank.tolist(), alone.last.tolist()) == ([1], [1])


def test_two_models_are_ties_exactly_where_the_paired_test_says() -> None:
    base = np.zeros(50, bool)
    for more in range(12):
        other = np.arange(50) < more
        separated = statistics.mcnemar_exact(more, 0) <= 0.05
        assert sorted(ranking(np.stack([base, other])).rank.tolist()) == ([1, 2] if separated else [1, 1])


def test_equal_models_are_called_different_in_at_most_five_per_cent_of_tables() -> None:
    rng = np.random.default_rng(4)
    hardness = rng.random(200)
    wrong = sum(ranking(rng.random((6, 200)) < hardness).rank.max() > 1 for _ in range(300))
    assert wrong <= 0.05 * 300 + 3 * (300 * 0.05 * 0.95) ** 0.5


def test_the_board_says_what_the_records_say(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "a", "b", "c", "--out", "out"]) == 0
    rows = rows_of()
    for name in "abc":
        bound = BoundPlan.read(runs / name)
        frame = Store(runs / name / "records").read(bound.keys())
        wrong = frame[(frame["adv_pred"] != frame["label"]) & frame["eps"].isin([f"{eps}/255" for eps in range(9)])]
        accuracy = 1 - wrong["index"].nunique() / N
        row = rows[f"model-{name}"]
        assert row["worst_case_accuracy"] == pytest.approx(accuracy)
        low, high = statistics.wilson(round(accuracy * N), N)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((float(low), float(high)))
        assert (row["eps"], row["n"], row["attacks"]) == ("8/255", N, ["fgsm", "pgd"])
    assert [rows[f"model-{name}"]["rank"] for name in "cab"] == [1, 2, 2]
    assert [rows[f"model-{name}"]["tied"] for name in "cab"] == [False, True, True]
    table = list(csv.DictReader(Path("out/board.csv").read_text().splitlines()))
    assert table[0]["model"] == "model-c"
    assert {line["rank"] for line in table} == {"1", "2"}
    page = Path("out/board.html").read_text()
    assert "model-c" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "2=" in capsys.readouterr().out


def test_what_two_people_ran_on_the_same_weights_is_one_model() -> None:
    shutil.copytree("a", "again")
    for folder, gone in (("a", "pgd"), ("again", "fgsm")):
        text = Path(folder, "plan.toml").read_text()
        before, *attacks = text.partition("[bound]")[0].split("[[attacks]]")
        Path(folder, "plan.toml").write_text(
            "[[attacks]]".join([before, *(part for part in attacks if f'name = "{gone}"' not in part)])
            + "".join(text.partition("[bound]")[1:])
        )
    assert main(["board", "c", "--out", "alone"]) == 0
    assert main(["board", "a", "again", "c", "--out", "out"]) == 0
    row = rows_of()["model-a"]
    assert row["attacks"] == ["fgsm", "pgd"]
    assert row["runs"] == ["a", "again"]
    assert rows_of()["model-c"]["worst_case_accuracy"] == rows_of("alone")["model-c"]["worst_case_accuracy"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "fewer"], "fewer has 200 images of cifar10 test"),
        (["a", "b", "other"], "other has 300 images of cifar10 test (hash eeeeeeee)"),
        (["a", "nowhere"], "nowhere: no such folder"),
        (["a", "empty"], "empty: no plan.toml here"),
        (["a", "--norm", "l3"], "'l3'"),
        (["a", "--norm", "l2"], "no attack in L2"),
        (["a", "--eps", "20"], "--eps 20/255: no run has this radius"),
        (["a", "--eps", "1..3"], "give one radius above 0"),
        (["a", "--eps", "x"], "not a radius"),
        (["a", "--data", "cifar100"], "no run is on it"),
        (["a", "--robustbench", "none.json"], "none.json: no such file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    runs: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "empty").mkdir()
    write_run(runs / "fewer", "model-d", 200, 3)
    shutil.copytree("b", "other")
    Path("other/plan.toml").write_text(Path("b/plan.toml").read_text().replace("d" * 64, "e" * 64))
    assert main(["board", *arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.usefixtures("runs")
def test_a_page_of_one_run_and_a_file_where_the_folder_should_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "a", "a/.", "--out", "out"]) == 0
    assert "1 run " in Path("out/board.html").read_text()
    Path("file").touch()
    capsys.readouterr()
    assert main(["board", "a", "--out", "file"]) == 2
    assert capsys.readouterr().err == "robustatt: cannot write file/board.html: there is a file where a folder is needed\n"


def test_damaged_records_lose_the_rank_and_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((runs / "a" / "records").iterdir())
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(bytes(content))
    assert main(["board", "a", "c", "--out", "out"]) == 0
    assert rows_of()["model-a"]["rank"] is None
    assert rows_of()["model-c"]["rank"] == 1
    error = capsys.readouterr().err
    assert "a: 1 of 4 cells is altered" in error
    assert "Not ranked" in error


def test_published_rows_stand_beside_without_rank_or_interval() -> None:
    folder = Path("model_info/cifar10/Linf")
    folder.mkdir(parents=True)
    (folder / "Someone2024.json").write_text(json.dumps(ROW))
    (folder / "Adaptive2024.json").write_text(json.dumps(ROW | {"external": 70.5}))
    (folder / "Elsewhere.json").write_text(json.dumps(ROW | {"eps": "4/255"}))
    assert main(["board", "a", "b", "c", "--out", "without"]) == 0
    assert main(["board", "a", "b", "c", "--robustbench", "model_info", "--out", "out"]) == 0
    rows = rows_of()
    assert "Elsewhere" not in rows
    assert (rows["Someone2024"]["worst_case_accuracy"], rows["Adaptive2024"]["worst_case_accuracy"]) == pytest.approx(
        (0.7528, 0.705)
    )
    assert all(rows["Someone2024"][key] is None for key in ("rank", "ci_low", "n"))
    assert rows["Someone2024"]["source"] == "published"
    assert {name: row for name, row in rows.items() if row["source"] == "records"} == rows_of("without")


def test_forms_of_the_leaderboard(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROW | {"model_name": "One"}, ROW | {"model_name": "Two", "eps": 0.5, "threat_model": "L2"}]))
    assert [(row.name, row.norm, float(row.radius)) for row in read_published(path)] == [
        ("One", "linf", 8 / 255),
        ("Two", "l2", 0.5),
    ]
    path.write_text(json.dumps({"One": ROW | {"eps": 0.03137254901960784, "threat_model": "Linf"}}))
    assert read_published(path)[0].radius * 255 == 8


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "3", "[1]", json.dumps(ROW | {"clean_acc": "x"}), json.dumps(ROW | {"autoattack_acc": 120}), json.dumps(ROW | {"eps": "0.5"}),
     json.dumps(ROW | {"eps": "a"}), json.dumps(ROW | {"dataset": None}), json.dumps({"One": 1}), "[" * 10_000],
)  # fmt: skip
def test_broken_leaderboards_are_one_line(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.json").write_text(content)
    assert main(["board", "unread", "--robustbench", str(tmp_path / "rows.json"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "rows.json" in error
    assert error.count("\n") == 1


def test_a_board_leaves_torch_out() -> None:
    code = "import sys; from robustatt.cli import main; main(['board', 'a', 'b', '--out', 'out']); sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
