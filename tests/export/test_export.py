"""Exports: what TensorBoard's own reader finds, and what MLflow and Weights & Biases are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from synthetic_records import PROVENANCE, make_plan, make_records

from robustatt.errors import InputError
from robustatt.export import Export, collect, export, plain, tool_names
from robustatt.results.aggregate import summarise
from robustatt.results.summary import Summary

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def summary() -> Summary:
    records = make_records(n=20, attacks=("pgd", "sign-noise"), radii=4)
    return summarise(records, make_plan(records), PROVENANCE, [])


@pytest.fixture
def run(tmp_path: Path, summary: Summary) -> tuple[Path, Export]:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "accuracy.png").write_bytes(PNG)
    (tmp_path / "figures" / "accuracy.svg").write_text("<svg/>")
    (tmp_path / "summary.json").write_text("{}")
    return tmp_path, collect(tmp_path, summary)


def values(run: Export, name: str) -> dict[int, float]:
    return dict(next(series.points for series in run.series if series.name == name))


def test_what_is_handed_over(run: tuple[Path, Export], summary: Summary) -> None:
    folder, handed = run
    curve = next(c for c in summary.curves if (c.model, c.attack) == ("vgg", "pgd"))
    assert values(handed, "accuracy/vgg/pgd") == {i: p.accuracy for i, p in enumerate(curve.points)}
    assert values(handed, "accuracy_ci_low/vgg/pgd")[4] == curve.points[4].ci_low
    drift = [r for r in summary.drift if (r.model, r.attack, r.metric, r.group) == ("vgg", "pgd", "js", "all")]
    found = values(handed, "saliency_drift_js/gradcam/all/vgg/pgd")
    assert list(found.values()) == [row.mean for row in drift]
    assert "attention_drift_js/l3/fooled/vgg_att3/pgd" in {series.name for series in handed.series}
    assert not [s for s in handed.series if s.measure.startswith("attention") and s.model == "vgg"]
    assert [path.relative_to(folder).as_posix() for path in handed.files] == ["summary.json", "figures/accuracy.png"]
    assert handed.facts["models"] == "vgg, vgg_att3"
    assert handed.facts["images"] == "20"
    assert handed.step_unit == "1/255"


def test_fractions_of_a_step_become_whole_steps(tmp_path: Path, summary: Summary) -> None:
    points = [
        p.model_copy(update={"eps": eps}) for p, eps in zip(summary.curves[0].points, ("0/255", "0.5/255", "8/255"), strict=False)
    ]
    handed = collect(
        tmp_path, summary.model_copy(update={"curves": [summary.curves[0].model_copy(update={"points": points})], "drift": []})
    )
    assert handed.step_unit == "1/510"
    assert [step for step, _ in handed.series[0].points] == [0, 1, 16]


def test_names_are_plain_and_stay_apart() -> None:
    assert plain("../../x") == "_.._x"
    assert plain("...") == "_"
    names = tool_names(["a/b", "a:b", "a/b", "a_b", "c"])
    assert names == {"a/b": "a_b", "a:b": "a_b-2", "a_b": "a_b-3", "c": "c"}


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_written(run: tuple[Path, Export], summary: Summary) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, handed = run
    out = folder / "tensorboard"
    for _ in range(2):  # a second export replaces the first
        assert f"tensorboard --logdir {out}" in export(folder, summary, "tensorboard", out)
    files = sorted(path.parent.relative_to(out).as_posix() for path in out.rglob("*tfevents*"))
    assert files == ["about", "vgg/pgd", "vgg/sign-noise", "vgg_att3/pgd", "vgg_att3/sign-noise"]
    reader = EventAccumulator(str(out / "vgg_att3" / "pgd")).Reload()
    found = {event.step: event.value for event in reader.Scalars("accuracy")}
    assert found == pytest.approx(values(handed, "accuracy/vgg_att3/pgd"), abs=1e-6)
    assert "attention_drift_js/l1/all" in reader.Tags()["scalars"]
    about = EventAccumulator(str(out / "about")).Reload()
    assert about.Images("figures/accuracy")[0].encoded_image_string == PNG
    (text,) = about.Tensors("sweep/text_summary" if "sweep/text_summary" in about.Tags()["tensors"] else "sweep")
    assert b"vgg, vgg_att3" in text.tensor_proto.string_val[0]


class FakeMlflow:
    """Keeps what a client is told, as a tracking server would."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.uri = ""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
        for name in ("Metric", "Param", "RunTag"):
            setattr(entities, name, lambda *values: values)
        module.MlflowClient = self.client  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mlflow", module)
        monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
        monkeypatch.delitem(sys.modules, "robustatt.export.mlflow", raising=False)

    def client(self, tracking_uri: str) -> FakeMlflow:
        self.uri = tracking_uri
        return self

    def get_experiment_by_name(self, _name: str) -> Any:
        return SimpleNamespace(experiment_id="1") if self.runs else None

    def create_experiment(self, _name: str, artifact_location: str | None) -> str:
        assert (artifact_location is None) == self.uri.startswith("http")
        return "1"

    def search_runs(self, _experiments: list[str], filter_string: str) -> list[Any]:
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=identity))
            for identity, run in self.runs.items()
            if dict(run["tags"])["summary"] in filter_string and run["ended"]
        ]

    def create_run(self, _experiment: str, run_name: str) -> Any:
        self.runs["r"] = {"name": run_name, "metrics": [], "params": [], "tags": [], "files": [], "ended": False}
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_batch(self, identity: str, **parts: Any) -> None:
        assert len(parts.get("metrics", ())) <= 100
        for name, rows in parts.items():
            self.runs[identity][name] += rows

    def log_artifact(self, identity: str, path: str, folder: str | None) -> None:
        self.runs[identity]["files"].append((Path(path).name, folder))

    def set_terminated(self, identity: str) -> None:
        self.runs[identity]["ended"] = True


def test_mlflow_is_told_everything_once(run: tuple[Path, Export], summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, handed = run
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fake = FakeMlflow()
    fake.install(monkeypatch)
    monkeypatch.setattr("robustatt.export.mlflow.BATCH", 100)
    said = export(folder, summary, "mlflow", folder / "mlflow")
    assert fake.uri == f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}"
    assert fake.uri in said
    told = fake.runs["r"]
    assert len(told["metrics"]) == sum(len(series.points) for series in handed.series) > 300
    accuracy = {step: value for name, value, _, step in told["metrics"] if name == "accuracy/vgg/pgd"}
    assert accuracy == values(handed, "accuracy/vgg/pgd")
    assert dict(told["params"])["models"] == "vgg, vgg_att3"
    assert told["files"] == [("summary.json", None), ("accuracy.png", "figures")]
    assert told["ended"]
    before = len(told["metrics"])
    assert "already there as run r" in export(folder, summary, "mlflow", folder / "mlflow")
    assert len(fake.runs["r"]["metrics"]) == before
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    fake.runs.clear()
    export(folder, summary, "mlflow", folder / "mlflow")
    assert fake.uri == "http://server"


class FakeWandb(ModuleType):
    """Keeps what a run is told; offline unless asked."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.rows: dict[int, dict[str, float]] = {}
        self.pictures: list[str] = []
        self.given: dict[str, Any] = {}

    def Settings(self, **_: Any) -> None:
        return None

    def Image(self, path: str) -> str:
        return path

    def init(self, **given: Any) -> FakeWandb:
        self.given = given
        self.dir = str(Path(given["dir"]) / "offline-run-1" / "files")
        Path(self.dir).mkdir(parents=True)
        return self

    def __enter__(self) -> FakeWandb:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def log(self, row: dict[str, Any], step: int | None = None) -> None:
        if step is None:
            self.pictures += row
        else:
            assert all(step > earlier for earlier in self.rows)
            self.rows[step] = row


@pytest.mark.parametrize("mode", ["offline", "online", "unset"])
def test_wandb_stays_on_the_machine_unless_told(
    run: tuple[Path, Export], summary: Summary, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    folder, handed = run
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delitem(sys.modules, "robustatt.export.wandb", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode != "unset":
        monkeypatch.setenv("WANDB_MODE", mode)
    said = export(folder, summary, "wandb", folder / "wandb")
    assert fake.given["mode"] == ("online" if mode == "online" else "offline")
    assert ("wandb sync" in said) == (mode != "online")
    assert {step: row["accuracy/vgg/pgd"] for step, row in fake.rows.items()} == values(handed, "accuracy/vgg/pgd")
    assert fake.pictures == ["figures/accuracy"]
    assert (Path(fake.dir) / "summary.json").exists()
    assert fake.given["config"]["seed"] == "0"


def test_mistakes_are_one_line(tmp_path: Path, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="tensorboard"):
        export(tmp_path, summary, "tensorbord", tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install .robustatt\[wandb\]"):
        export(tmp_path, summary, "wandb", tmp_path)
    with pytest.raises(InputError, match="no results to export yet"):
        export(tmp_path, summary.model_copy(update={"curves": []}), "tensorboard", tmp_path)
    fake = FakeMlflow()
    fake.install(monkeypatch)
    monkeypatch.setattr(fake, "create_experiment", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match="--to mlflow failed: division by zero"):
        export(tmp_path, summary, "mlflow", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        export(tmp_path, summary, "tensorboard", tmp_path / "file")


def test_no_torch() -> None:
    code = "import sys, robustatt.export, robustatt.export.tensorboard; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
