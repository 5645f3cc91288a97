"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataRoot = Annotated[Path | None, typer.Option(help="Folder of downloaded data sets. [default: in the cache]")]
Download = Annotated[bool, typer.Option("--download", help="Download the data set if it is missing.")]
LabelColumn = Annotated[str | None, typer.Option(help="The column of Parquet files that holds the label.")]
InputSize = Annotated[int | None, typer.Option(help="Resize images to N x N pixels.")]
Normalize = Annotated[
    str | None,
    typer.Option(
        help="For external models: imagenet, cifar10, none or m1,m2,m3/s1,s2,s3. [default: what timm or torchvision says of "
        "theirs, else none]"
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="For external models: a keyword argument of their constructor; repeat for several."),
]
AttentionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--attention", metavar="auto|none|PATTERN",
        help="Which attention maps are read: auto, none (saliency), or a glob over submodules and levels, such as 'layer4.*.spatial'; "
        "one for all models, or one for each --model in order. [default: auto]",
    ),
]  # fmt: skip
ClassNames = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        "--classes-of",
        metavar="FILE",
        help="File with the class names in the order of the model's outputs, one per line.",
    ),
]
Channels = Annotated[
    int | None, typer.Option(help="1: one channel of grey images. [default: 1 for grey data and networks, else 3]")
]
