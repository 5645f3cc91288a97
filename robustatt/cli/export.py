"""`robustatt export`: a finished sweep to TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustatt.cli._results import read_results


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep wrote.")],
    to: Annotated[list[str], typer.Option(help="tensorboard, mlflow or wandb; repeat for several.")],
    out: Annotated[Path | None, typer.Option(help="Folder for what is kept locally. [default: DIR/<tool>]")] = None,
) -> None:
    """Hand a sweep to TensorBoard, MLflow or Weights & Biases."""
    from robustatt.export import export as hand_over

    _, summary = read_results(directory)
    for target in dict.fromkeys(to):
        print(f"{target}: {hand_over(directory, summary, target, (out or directory) / target)}")
