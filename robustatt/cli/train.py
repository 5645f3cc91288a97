"""`robustatt train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustatt.cli._options import DataRoot, Download, InputSize, LabelColumn
from robustatt.cli._settings import with_settings
from robustatt.cli._terminal import print_table
from robustatt.errors import InputError, TrainingPaused
from robustatt.progress import TrainingBar
from robustatt.train.request import MACHINE, TrainRequest, settings

if TYPE_CHECKING:
    from robustatt.models import Card

SHARED = {"data_root": DataRoot, "download": Download, "label_column": LabelColumn, "input_size": InputSize}


@with_settings(TrainRequest, settings(), SHARED)
def train(
    context: typer.Context,
    plan: Annotated[
        Path | None, typer.Option(help="A training plan (TOML): trains those of its networks that are not there yet.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="With --plan: only this network; repeat for several.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after the epoch that ends by then; the same command continues it.")
    ] = None,
    **given: Any,
) -> None:
    """Train a network of the paper, or what is missing of a plan."""
    from robustatt.plan.checks import require_number

    require_number("--minutes", minutes, above=0)
    if plan is not None:
        _train_plan(plan, only, minutes, _machine(context, given))
        return
    if only:
        raise InputError("--only without --plan: it names a network of a training plan")
    for name, example in (("model", "vgg_att3"), ("out", "vgg_att3.safetensors")):
        if given[name] is None:
            raise InputError(f"no {name}: give --{name}, such as --{name} {example}, or --plan FILE")
    _train_one(TrainRequest(**given), minutes)


def _train_one(request: TrainRequest, minutes: float | None) -> None:
    import time

    from robustatt.train import train as run_training

    try:
        with TrainingBar() as bar:
            card = run_training(request, bar, until=None if minutes is None else time.monotonic() + 60 * minutes)
    except TrainingPaused as paused:
        print(f"{str(paused).capitalize()}: the same command continues from {request.resume_path}")
        return
    if os.environ.get("RANK", "0") != "0" and request.distributed:
        return
    if "stopped" in card.history:
        print(f"Stopped early: {card.history['stopped']}")
    print(f"Wrote {request.out}: clean test accuracy {card.accuracy}")
    print(f"Log: {request.log_path}, curve: {request.curve_path}")
    size = f" --input-size {request.input_size}" if request.input_size else ""
    print(f"Next: robustatt sweep --eps 1..16 --model {request.model} --data {request.data}{size} --weights {request.out}")


def _machine(context: typer.Context, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that a plan leaves to the command line; InputError if another is given."""
    for name in given:
        if name not in MACHINE or name == "out":
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} with --plan: the plan says how each network is trained; write it there")
    return {name: given[name] for name in MACHINE if name != "out"}


def _train_plan(path: Path, only: list[str] | None, minutes: float | None, machine: dict[str, Any]) -> None:
    from robustatt.train.carry_out import CURVES, train_plan
    from robustatt.train.plan import read_training_plan

    plan = read_training_plan(path, **machine)
    chosen = plan.only(tuple(only)) if only else plan
    with TrainingBar() as bar:
        states = train_plan(chosen, minutes, _say_which, bar)
    print_table(
        ["network", "epochs", "state", "clean test accuracy"],
        [
            [
                state.name,
                f"{state.epochs} of {state.planned}",
                _state(state.card, state.epochs),
                state.card.accuracy if state.card else "-",
            ]
            for state in states
        ],
    )
    print(f"Weights, README.md and {CURVES} are in {plan.folder}")
    if any(state.card is None for state in states):
        print("Next: the same command continues with what is missing")


def _say_which(name: str, place: int, count: int) -> None:
    print(f"{name} ({place} of {count}) ...", flush=True)


def _state(card: Card | None, epochs: int) -> str:
    if card is None:
        return "begun" if epochs else "missing"
    return "stopped early" if "stopped" in card.history else "trained"
