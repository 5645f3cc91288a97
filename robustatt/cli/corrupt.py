"""`robustatt corrupt`: models under common corruptions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustatt.cli._options import (
    AttentionOption,
    Channels,
    ClassNames,
    DataRoot,
    Download,
    InputSize,
    LabelColumn,
    ModelOption,
    Normalize,
)
from robustatt.cli._running import evaluated, parse_batch_size, parse_workers, prepared
from robustatt.cli._sweep_tables import print_corruptions, print_place, print_saliency, print_warnings
from robustatt.cli._terminal import announce
from robustatt.cli.sweep import default_folder

if TYPE_CHECKING:
    from robustatt.results.summary import Summary


def corrupt(
    model: Annotated[list[str], typer.Option(help="A model to evaluate; repeat for several. See `robustatt models`.")],
    data: Annotated[
        str,
        typer.Option(
            help="A data set or path, whose images are corrupted; or a folder of published corrupted images, such as CIFAR-10-C."
        ),
    ] = "digits",
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            help="A corruption, such as fog, or noise, blur, weather, digital, extra, all; repeat. [default: the 15 of the benchmark]"
        ),
    ] = None,
    severity: Annotated[str, typer.Option(help="Severities from 1 to 5: 1..5, 3 or 1,3,5.")] = "1..5",
    baseline: Annotated[
        str | None,
        typer.Option(
            help="The model of these that the others are compared with, for mCE. [default: the baseline of each family]"
        ),
    ] = None,
    clean: Annotated[
        str | None,
        typer.Option(
            help="With published images: the data set of their clean ones, in the same order. "
            "[default: cifar10 or cifar100, if it is in --data-root and has the same labels]"
        ),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights file, one for each --model in order. [default: the bundled ones]")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Only the first N images. [default: all]")] = None,
    sample: Annotated[int | None, typer.Option(help="A random sample of N images (--seed), stratified by class.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data: test or train.")] = "test",
    data_root: DataRoot = None,
    download: Download = False,
    label_column: LabelColumn = None,
    input_size: InputSize = None,
    class_names: ClassNames = None,
    channels: Channels = None,
    normalize: Normalize = None,
    model_option: ModelOption = None,
    attention: AttentionOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the corruptions.")] = 0,
    batch_size: Annotated[str, typer.Option(help="Images per batch.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[
        str, typer.Option(help="Number of worker processes; auto: one per GPU, on CPUs as many as pay off.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads per cell. [default: 1; more if there are fewer cells than threads]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results. [default: reports/out/<data>-corrupt]")] = None,
) -> None:
    """Evaluate models under noise, blur, weather and compression."""
    from dataclasses import replace

    from robustatt.corruptions.kinds import chosen_kinds, chosen_severities
    from robustatt.engine.corruptions import chosen_corruptions, require_drawable
    from robustatt.engine.finished import recall, remember
    from robustatt.engine.options import ExecutorOptions
    from robustatt.plan import Plan, attack_entry, model_entries, radii_by_attack
    from robustatt.plan.entries import attending

    severities = chosen_severities(severity)
    kinds = chosen_kinds(corruption) if corruption else None
    models = model_entries(model, weights or [], normalize, model_option or [])
    asked = Plan(
        models=attending(models, attention) if attention else models, attacks=(attack_entry("fog"),), eps=(), data=data,
        split=split, n=n, sample=sample, seed=seed, batch_size=parse_batch_size(batch_size), device=device, baseline=baseline,
        data_root=None if data_root is None else str(data_root), download=download, label_column=label_column,
        input_size=input_size, class_names=None if class_names is None else str(class_names), channels=channels,
    )  # fmt: skip
    asked, recipes = chosen_corruptions(asked, kinds, severities, clean)
    eps, grids = radii_by_attack(recipes, [f"{recipe.name}={','.join(map(str, severities))}" for recipe in recipes])
    wanted = replace(asked, attacks=tuple(recipes), eps=eps, grids=grids)
    standard = default_folder(data)
    folder = out or standard.with_name(f"{standard.name}-corrupt")
    announce(wanted.models)
    execution = ExecutorOptions(workers=parse_workers(workers), threads=threads)
    if (answer := recall(wanted, folder)) is not None:
        _print_outcome(answer.summary, folder, 0, answer.cells)
        return
    wanted, dataset, load = prepared(wanted)
    require_drawable(recipes, dataset.image_shape[0])
    outcome = evaluated(wanted, dataset, load, folder, execution)
    _print_outcome(outcome.summary, folder, outcome.computed, outcome.ready)
    remember(wanted, folder)


def _print_outcome(summary: Summary, folder: Path, computed: int, ready: int) -> None:
    print_corruptions(summary)
    print_saliency(summary)
    print_warnings(summary)
    print_place(folder, computed, ready)
    print(f"Next: robustatt report {folder}")
