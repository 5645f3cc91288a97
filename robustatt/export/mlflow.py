"""A sweep as one MLflow run: curves as metrics with the radius as step, facts as parameters, the report as artifacts."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from robustatt.export import Export

EXPERIMENT = "robustatt"
BATCH = 1000  # metrics that one request may carry
LONGEST = 500  # characters of a parameter's value


def write(run: Export, folder: Path) -> str:
    """Write to ``MLFLOW_TRACKING_URI`` if that is set, else to a local store in `folder`. The same sweep is written once."""
    folder.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    local = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder.resolve() / "artifacts").as_uri()
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=local)
    same = client.search_runs([experiment], filter_string=f"tags.summary = '{run.digest}' and attributes.status = 'FINISHED'")
    if same:
        return f"already there as run {same[0].info.run_id} of {uri}"
    identity = client.create_run(experiment, run_name=run.title).info.run_id
    client.log_batch(
        identity,
        params=[Param(name, value[:LONGEST]) for name, value in run.facts.items()],
        tags=[RunTag("summary", run.digest), RunTag("step", run.step_unit)],
    )
    metrics = [Metric(series.name, value, 0, step) for series in run.series for step, value in series.points]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(identity, metrics=metrics[start : start + BATCH])
    for path in run.files:
        client.log_artifact(identity, str(path), "figures" if path.suffix == ".png" else None)
    client.set_terminated(identity)
    return f"run {identity}; one step is {run.step_unit}. Next: mlflow ui --backend-store-uri {uri}"
