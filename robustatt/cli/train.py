"""`robustatt train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from robustatt.cli._options import DataRoot, Download, InputSize, LabelColumn
from robustatt.progress import TrainingBar


def train(
    model: Annotated[str, typer.Option(help="The network to train. See `robustatt models`.")],
    out: Annotated[Path, typer.Option(help="Where to write the weights (.safetensors).")],
    data: Annotated[str, typer.Option(help="A data set or path.")] = "digits",
    width: Annotated[float, typer.Option(help="Multiplier on all channels; 1.0 is the paper's.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of initial weights, order and augmentation.")] = 0,
    schedule: Annotated[str, typer.Option(help="onecycle, or paper (the published step schedule).")] = "onecycle",
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: the schedule's]")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 128,
    weight_decay: Annotated[float, typer.Option(help="L2 penalty on all weights.")] = 5e-4,
    dropout: Annotated[
        float, typer.Option(help="Multiplier on the paper's dropout rates; small networks want 0.")
    ] = 1.0,
    label_smoothing: Annotated[float, typer.Option(help="Label smoothing, 0 to below 1.")] = 0.0,
    flip: Annotated[bool | None, typer.Option(help="Mirror images at random. [default: by data set]")] = None,
    crop: Annotated[bool | None, typer.Option(help="Crop at random after padding by 4. [default: by data set]")] = None,
    adversarial: Annotated[
        str | None,
        typer.Option(help="Train on attacked images: fgsm (Wong et al. 2020) or pgd. Watched by PGD-10 on 500 held-out images."),
    ] = None,
    train_eps: Annotated[
        float, typer.Option(help="L-infinity radius of adversarial training, in steps of 1/255.")
    ] = 8.0,
    init: Annotated[
        Path | None, typer.Option(help="Start from the weights of this checkpoint of the same network.")
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Which epoch's weights: last, or best on training images that are held out.")
    ] = "last",
    test_every: Annotated[
        int | None, typer.Option(help="Measure test accuracy every N epochs. [default: by size]")
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    label_column: LabelColumn = None,
    input_size: InputSize = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    half: Annotated[bool, typer.Option(help="Store the weights as float16.")] = False,
    resume: Annotated[bool, typer.Option(help="Resume an interrupted run of the same command.")] = True,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Split each batch among the processes started by torchrun.")
    ] = False,
) -> None:
    """Train a network of the paper; go on after an interruption."""
    from robustatt.train import TrainRequest
    from robustatt.train import train as run_training

    request = TrainRequest(
        model=model, data=data, width=width, epochs=epochs, seed=seed, out=out, schedule=schedule, lr=lr,
        batch_size=batch_size, weight_decay=weight_decay, dropout=dropout, label_smoothing=label_smoothing, flip=flip, crop=crop,
        adversarial=adversarial, train_eps=train_eps, data_root=data_root, download=download, label_column=label_column,
        input_size=input_size, init=init, keep=keep, test_every=test_every, device=device, half=half, resume=resume,
        distributed=distributed,
    )  # fmt: skip
    with TrainingBar() as bar:
        card = run_training(request, bar)
    if os.environ.get("RANK", "0") != "0" and distributed:
        return
    if "stopped" in card.history:
        print(f"Stopped early: {card.history['stopped']}")
    print(f"Wrote {out}: clean test accuracy {card.clean_accuracy:.2%}")
    print(f"Log: {request.log_path}, curve: {request.curve_path}")
    size = f" --input-size {input_size}" if input_size else ""
    print(f"Next: robustatt sweep --eps 1..16 --model {model} --data {data}{size} --weights {out}")
