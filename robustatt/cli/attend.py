"""`robustatt attend`: where a network looks on pictures of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustatt.cli._options import ClassNames, ModelOption, Normalize
from robustatt.cli._terminal import announce, print_table
from robustatt.errors import InputError

if TYPE_CHECKING:
    from robustatt.studies.attend import Seen

MAX_PICTURES = 50


def attend(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Picture files of any size.")],
    model: Annotated[str, typer.Option(help="The model to examine. See `robustatt models`.")],
    data: Annotated[str, typer.Option(help="The data set whose bundled weights are taken. See `robustatt models`.")] = "cifar10",
    weights: Annotated[Path | None, typer.Option(help="Weights file. [default: the bundled ones]")] = None,
    classes: Annotated[int, typer.Option(help="For external models: number of classes.")] = 10,
    normalize: Normalize = None,
    model_option: ModelOption = None,
    attention: Annotated[
        str, typer.Option(metavar="auto|none|PATTERN", help="Which maps are read: see `robustatt sweep --help`.")
    ] = "auto",
    heads: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="Also draw how far each head of one level moves, such as block3.")
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(help="Resize pictures to N x N pixels. [default: what the model's card says, else as they are]"),
    ] = None,
    class_names: ClassNames = None,
    eps: Annotated[str, typer.Option(help="The radius in steps of 1/255: 8, 0.5 or 8/255.")] = "8",
    attack: Annotated[str, typer.Option(help="The attack or recipe file.")] = "pgd",
    seed: Annotated[int, typer.Option(help="Seed of every random start.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The PNG. [default: attend-<model>.png]")] = None,
) -> None:
    """Draw attention maps of your own pictures, clean and attacked."""
    from robustatt.attack import recipe_files as recipes

    if len(images) > MAX_PICTURES:
        raise InputError(f"attend: {len(images)} pictures do not fit one figure: give at most {MAX_PICTURES}")
    from robustatt.plan.checks import require_seed

    require_seed(seed)
    if weights is not None and not weights.exists():
        raise InputError(f"--weights {weights}: no such file")
    recipe = recipes.load(attack)
    radius = _one_radius(eps, recipe.norm)
    from robustatt.data.labels import read_class_names
    from robustatt.files import file_safe, write_whole
    from robustatt.models.resolution import resolve_entry
    from robustatt.plan import model_entries
    from robustatt.studies.attend import PictureRow, attended_png, drift_by_head, heads_png, map_note, read_picture
    from robustatt.studies.attend import attend as look

    names = None if class_names is None else read_class_names(class_names)
    entries = model_entries([model], [str(weights)] if weights else [], normalize, model_option or [])
    announce(entries)
    found = resolve_entry(entries[0], data, classes)
    side = input_size or (found.card.input_size if found.card else None)
    seen = look(
        found.module,
        found.label,
        [read_picture(path, side) for path in images],
        recipe,
        radius,
        seed=seed,
        device=device,
        attention=attention,
    )
    rows = [
        PictureRow(one.picture.name, *_said(names or (found.card.class_names if found.card else ()), one), one.entry)
        for one in seen
    ]
    file = out or Path(f"attend-{file_safe(found.label)}.png")
    write_whole(file, attended_png(rows, found.label, recipe.name, radius))
    if heads is not None:
        moved = drift_by_head(found.module, found.label, seen, heads, device=device, attention=attention)
        by_head = file.with_name(f"{file.stem}-heads{file.suffix}")
        title = f"Drift of the heads of {heads}, {found.label} under {recipe.name} at {radius}"
        write_whole(by_head, heads_png([row.name for row in rows], moved, title))
    print_table(
        ["picture", "given to the network", "clean", f"{recipe.name} at {radius}"],
        [[row.name, one.picture.fitted, row.clean, row.attacked] for row, one in zip(rows, seen, strict=True)],
    )
    print(f"Levels: {', '.join(seen[0].entry.levels) or 'none'}")
    print(map_note(seen[0].entry))
    print(f"Figure: {file}")
    if heads is not None:
        mean = moved.mean(dim=0)
        print(f"Drift of {heads} by head, mean over the pictures in bits: {', '.join(f'{float(value):.2g}' for value in mean)}")
        print(f"Figure: {by_head}")


def _one_radius(text: str, norm: str) -> str:
    """The radius as records write it; InputError unless it is a single one above 0."""
    from robustatt.eps import format_radius, parse_grid

    if norm == "none":
        raise InputError('attend shows an attack at a radius: give one with a norm, not norm = "none"')
    radii = parse_grid(text)
    if len(radii) != 1 or (norm == "linf" and radii[0] > 1):
        raise InputError(f"--eps {text}: give one radius above 0, for L-infinity at most 255/255, such as 8")
    return format_radius(radii[0])


def _said(names: Sequence[str], one: Seen) -> tuple[str, str]:
    """Class and probability of the clean and of the attacked picture."""

    def said(number: int, probability: float) -> str:
        name = names[number] if number < len(names) else f"class {number}"
        return f"{name} {100 * probability:.0f} %"

    return (
        said(one.entry.clean_pred, one.clean_probability),
        said(one.entry.adv_pred, one.adv_probability),
    )
