"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataRoot = Annotated[Path | None, typer.Option(help="Folder of downloaded data sets. [default: in the cache]")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")]
LabelColumn = Annotated[str | None, typer.Option(help="The column of Parquet files that holds the label.")]
InputSize = Annotated[int | None, typer.Option(help="Bring the images to so many pixels a side.")]
Normalize = Annotated[
    str | None,
    typer.Option(
        help="For models from outside: imagenet, cifar10, none or m1,m2,m3/s1,s2,s3. [default: what timm or torchvision says of "
        "theirs, else none]"
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="For models from outside: an argument of what builds them; repeat for several."),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        "--class-names", "--classes-of", metavar="FILE", help="The classes in the model's order, one name a line."
    ),
]
Channels = Annotated[
    int | None, typer.Option(help="1: one channel of grey images. [default: 1 for grey data and networks, else 3]")
]
