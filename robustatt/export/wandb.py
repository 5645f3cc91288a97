"""A sweep as one Weights & Biases run. Nothing leaves the machine unless ``WANDB_MODE=online`` says so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import wandb

from robustatt.export import Export

PROJECT = "robustatt"


def write(run: Export, folder: Path) -> str:
    """Write an offline run into `folder`, or an online one if ``WANDB_MODE=online``; the radius is the step."""
    folder.mkdir(parents=True, exist_ok=True)
    mode = "online" if os.environ.get("WANDB_MODE") == "online" else "offline"
    facts = {**run.facts, "step": run.step_unit}
    settings = wandb.Settings(silent=True, console="off")
    with wandb.init(project=PROJECT, name=run.title, config=facts, dir=str(folder), mode=mode, settings=settings) as session:
        place = Path(session.dir).parent
        for step in sorted({step for series in run.series for step, _ in series.points}):
            session.log(
                {series.name: dict(series.points)[step] for series in run.series if step in dict(series.points)},
                step=step,
            )
        for path in run.files:
            if path.suffix == ".png":
                session.log({f"figures/{path.stem}": wandb.Image(str(path))})
            else:
                shutil.copy(path, session.dir)
    if mode == "online":
        return f"one step is {run.step_unit}; uploaded"
    return f"one step is {run.step_unit}; kept on this machine. Next: wandb sync {place}"
