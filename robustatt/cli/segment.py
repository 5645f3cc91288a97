"""`robustatt segment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustatt.cli._options import AttentionOption, ModelOption, Normalize
from robustatt.cli._terminal import announce, print_table
from robustatt.errors import InputError
from robustatt.progress import StudyBar

if TYPE_CHECKING:
    from robustatt.studies.segment.result import SegmentSummary


def segment(
    model: Annotated[list[str], typer.Option(help="A model whose maps to look at; repeat for several.")],
    data: Annotated[Path, typer.Option(help="Images with masks: Parquet with img and mask, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    masks: Annotated[
        Path | None, typer.Option(help="For a folder of images: the folder of masks, with the same names.")
    ] = None,
    trained_on: Annotated[
        str, typer.Option(help="The data set whose bundled weights are taken. See `robustatt models`.")
    ] = "cifar10",
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights file, one for each --model in order. [default: the bundled ones]")
    ] = None,
    normalize: Normalize = None,
    model_option: ModelOption = None,
    attention: AttentionOption = None,
    n: Annotated[int | None, typer.Option("-n", help="Only the first N images. [default: all]")] = None,
    sample: Annotated[int | None, typer.Option(help="A random sample of N images (--seed).")] = None,
    scales: Annotated[
        str | None, typer.Option(help="Shorter sides to run at, such as 32,48,64. [default: 1, 1.5 and 2 times trained]")
    ] = None,
    quantile: Annotated[float, typer.Option(help="The fixed quantile that is marked: 0.75 is the upper quarter.")] = 0.75,
    eps: Annotated[
        str | None, typer.Option(help="Also attack, at these radii in steps of 1/255, such as 1,2,4,8.")
    ] = None,
    attack: Annotated[str, typer.Option(help="The attack or recipe file, with --eps.")] = "pgd",
    attack_n: Annotated[
        int | None, typer.Option(help="Attack only the first N of the reported images. [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, the sample, the attack and the bootstrap.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:  # fmt: skip
    """Hold attention and saliency maps against object masks."""
    from robustatt.eps import parse_grid
    from robustatt.plan import model_entries
    from robustatt.plan.entries import AUTO, attending
    from robustatt.studies.segment.request import SegmentRequest
    from robustatt.studies.segment.run import segment as run
    from robustatt.studies.segment.run import write

    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder")
    entries = attending(model_entries(model, weights or [], normalize, model_option or []), attention or [AUTO])
    announce(entries)
    request = SegmentRequest(
        models=entries, data=data, masks=masks, trained_on=trained_on, n=n,
        sample=sample, scales=_parse_scales(scales), eps=parse_grid(eps) if eps else (), attack=attack, attack_n=attack_n,
        quantile=quantile, seed=seed, batch_size=batch_size, device=device,
    )  # fmt: skip
    with StudyBar() as bar:
        result = run(request, bar)
    write(result, out)
    _print_summary(result.summary)
    print(f"Tables: {out}/segment.md. Figures: {out}/figures. For each image: {out}/images.parquet")


def _parse_scales(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--scales {text!r}: give whole numbers of pixels, such as 32,48,64")
    return tuple(sorted({int(part) for part in parts}))


def _print_summary(summary: SegmentSummary) -> None:
    """Every map by its mean measures; then what each model is worth against the floors."""
    data = summary.data
    print(f"\n{data.reported} images of {data.name}, {data.held_out} more held out for the fitted threshold")
    names = ("jaccard_otsu", "jaccard_threshold", "average_precision", "pointing")
    rows = [[entry.model, entry.starred, *(entry.by(name).text() for name in names)] for entry in summary.methods]
    print_table(["model", "map", "Jaccard, Otsu", "Jaccard, fitted", "average precision", "pointing"], rows)
    print("* what a model is judged by, chosen beforehand; prior: the mean of that map, the same for every image.")
    for line in summary.standing:
        print(line)
    for entry in summary.judged:
        curve = ", ".join(f"{point.eps}: {point.jaccard_otsu.mean:.3f}" for point in entry.points)
        print(f"{entry} under {summary.settings.attack}, Jaccard (Otsu): {curve}")
