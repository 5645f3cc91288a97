"""`robustatt models`, `attacks` and `data`: what there is to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustatt.cli._options import Channels, ClassNames, DataRoot, InputSize, LabelColumn
from robustatt.cli._terminal import print_table


def models(
    readme: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Instead: write the table and the commands of DIR's weights into its README.md, from their cards."
        ),
    ] = None,
) -> None:
    """List the networks and the bundled weights: cost, accuracy."""
    if readme is not None:
        _write_readme(readme)
        return
    from robustatt.models import bundled_cards, catalogue

    print_table(
        ["model", "parameters", "GFLOP/image", "attention levels", "bundled weights"],
        [
            [
                row.name,
                f"{row.parameters / 1e6:.1f} M",
                f"{row.gflop:.2f}",
                " ".join(row.levels) or "-",
                ", ".join(row.bundled) or "-",
            ]
            for row in catalogue()
        ],
    )
    print("At width 1.0 and 32x32; a multiply and an add count as two operations.")
    print(
        "Attention models also by variant, such as vgg_att2_indep_dp. Others: pkg.module:build, torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, robustbench:NAME"
    )
    print("\nBundled weights, as their cards say")
    print_table(
        ["data", "weights", "width", "epochs", "seed", "clean test accuracy", "trained on"],
        [
            [
                data,
                name,
                f"{card.width:g}",
                _or_dash(card.epochs),
                _or_dash(card.seed),
                card.accuracy,
                "clean images"
                if card.adversarial is None
                else f"images attacked by {card.adversarial.method}, {card.adversarial.eps}",
            ]
            for data, name, card in bundled_cards()
        ],
    )
    print("Adversarially trained weights go by the ending _adv, such as vgg_att3_adv.")


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _write_readme(folder: Path) -> None:
    from robustatt.train.weights_page import write_readme

    print(f"Wrote {write_readme(folder)}")


def attacks() -> None:
    """List the attacks: what each needs, norm, cost."""
    from robustatt.attack import recipe_files as recipes
    from robustatt.attack.recipe import ACCESS

    rows = []
    for name in recipes.shipped():
        found = recipes.load(name)
        gradients, forwards = found.cost()
        rows.append([name, found.access, found.norm, f"{gradients:,}", f"{forwards:,}", found.good_for])
    print_table(["attack", "access", "norm", "gradients", "forwards", "good for"], rows)
    named = {row[1] for row in rows}
    for access, meaning in ACCESS.items():
        if access in named:
            print(f"{access}: {meaning}.")
    print("Cost: of one image and one radius at full strength. A recipe file of your own: --attack mine.toml")


def list_data(
    name: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA]...", help="Only these data sets or paths. [default: all names]"),
    ] = None,
    data_root: DataRoot = None,
    label_column: LabelColumn = None,
    input_size: InputSize = None,
    class_names: ClassNames = None,
    channels: Channels = None,
) -> None:
    """List the data sets: sizes, content hashes, how to get them."""
    from robustatt.data import listing

    names = None
    if class_names is not None:
        from robustatt.data.labels import read_class_names

        names = read_class_names(class_names)
    rows = listing.listing(name or [], data_root, label_column, input_size, names, channels)
    print_table(
        ["data", "split", "images", "pixels", "classes", "sha256 of the content", "how to get it"],
        [list(row) for row in rows],
    )
    for one in name or []:
        _print_classes(one, listing.classes(one, data_root, label_column, names))
    if not name:
        print(
            "Your own: a folder of class folders, Parquet files as on the Hugging Face hub, or a .npz file with images and labels."
        )
        print("`robustatt data PATH` lists it. Hashes are shown of what is on this machine.")


def _print_classes(name: str, counts: dict[str, list[tuple[str, int]]]) -> None:
    """The classes in the order of the labels, with the number of images in each split."""
    for split, classes in counts.items():
        print(f"\n{name} {split}: {len(classes):,} classes in the order of the labels")
        print_table(["label", "class", "images"], [[str(k), label, f"{count:,}"] for k, (label, count) in enumerate(classes)])
