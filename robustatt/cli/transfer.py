"""`robustatt transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustatt.cli._options import DataRoot, Download, LabelColumn, ModelOption, Normalize
from robustatt.cli._terminal import announce, print_table
from robustatt.progress import StudyBar


def transfer(
    model: Annotated[list[str], typer.Option(help="A model; repeat for several. See `robustatt models`.")],
    data: Annotated[list[str], typer.Option(help="A data set or path; repeat for several. See `robustatt data`.")],
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights file, one for each --model in order. [default: the bundled ones]")
    ] = None,
    trained_on: Annotated[str, typer.Option(help="The data set whose bundled weights the models are to have.")] = "cifar10",
    classes: Annotated[
        int | None, typer.Option(help="Number of outputs of a torchvision or timm network. [default: those of --trained-on]")
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of a data set that has no test part.")] = 5,
    n: Annotated[int | None, typer.Option("-n", help="Only the first N images of each part. [default: all]")] = None,
    sample: Annotated[
        int | None, typer.Option(help="A random sample of N images of each part (--seed), stratified by class.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of --sample.")] = 0,
    data_root: DataRoot = None,
    download: Download = False,
    label_column: LabelColumn = None,
    input_size: Annotated[
        int | None, typer.Option(help="For external models: resize images to N x N pixels. [default: as they are]")
    ] = None,
    normalize: Normalize = None,
    model_option: ModelOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("reports/out/transfer"),
) -> None:
    """Compare models by their features on other data sets."""
    from robustatt.plan import model_entries
    from robustatt.studies.transfer.report import accuracy_rows, comparison_rows, write
    from robustatt.studies.transfer.request import TransferRequest
    from robustatt.studies.transfer.run import transfer as measure

    entries = model_entries(model, weights or [], normalize, model_option or [])
    announce(entries)
    request = TransferRequest(
        models=entries, data=tuple(data), trained_on=trained_on, classes=classes,
        folds=folds, n=n, sample=sample, seed=seed, data_root=data_root, download=download, label_column=label_column,
        input_size=input_size, device=device,
    )  # fmt: skip
    with StudyBar() as bar:
        result = measure(request, bar)
    print("Accuracy in % [95 % interval] of a linear SVM on fixed features, on images it was not fitted on")
    print_table(*accuracy_rows(result))
    if result.comparisons:
        print("Differences in points on the same images; real: exact McNemar below 0.05 after Holm's correction")
        print_table(*comparison_rows(result))
    paths = write(result, out)
    print(f"Results: {paths[-1]}, page: {out / 'transfer.md'}, figure: {paths[0]}")
