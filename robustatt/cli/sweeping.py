"""`robustatt sweep`: flags and plan file to a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustatt.cli.options import DataRoot, Download, InputSize, LabelColumn, Normalize
from robustatt.cli.terminal import SweepBar, print_table, warn
from robustatt.errors import InputError

if TYPE_CHECKING:
    from robustatt.plan import Plan


def sweep(
    eps: Annotated[
        str | None,
        typer.Option(help="Radii in steps of 1/255: 1..16, 0..32:4, 1,2,4,8, 0.5, or 8/255. [default: 1..16]"),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model to evaluate; repeat for several. See `robustatt models`.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="An attack or recipe file; repeat for several. [default: fgsm]")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set or path. See `robustatt data`. [default: digits]")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights file, one for each --model in order. [default: the bundled ones]")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Only the first N examples. [default: all]")] = None,
    sample: Annotated[int | None, typer.Option(help="Only N examples drawn by --seed, classes in proportion.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of the data: test or train. [default: test]")] = None,
    data_root: DataRoot = None,
    download: Download = False,
    label_column: LabelColumn = None,
    input_size: InputSize = None,
    normalize: Normalize = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random start. [default: 0]")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Images a batch. [default: auto]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ... [default: auto]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results. [default: reports/out/<data>]")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan file (TOML); flags given beside it win.")] = None,
    independent: Annotated[
        bool | None,
        typer.Option(
            "--independent/--search", help="Attack every radius afresh, or search thresholds. [default: --search]"
        ),
    ] = None,
    eps_unit: Annotated[
        str | None, typer.Option(help="What a bare number of --eps counts in: 1/255 or 1. [default: 1/255]")
    ] = None,
) -> None:
    """Attack models over a grid of radii and print accuracies."""
    wanted = _plan_from_flags(plan, eps, eps_unit, model, weights, normalize, attack, {
        "data": data, "n": n, "seed": seed, "device": device, "independent": independent,
        "batch_size": _parse_batch_size(batch_size), "sample": sample, "split": split, "label_column": label_column,
        "data_root": None if data_root is None else str(data_root), "download": download or None, "input_size": input_size,
    })  # fmt: skip
    folder = out or Path("reports/out") / _safe_name(wanted.data)
    from robustatt.api import load_data, model_loader
    from robustatt.engine import run

    dataset = load_data(wanted)
    with SweepBar() as bar:
        outcome = run(wanted, dataset, model_loader(dataset), folder, bar)
    for path in outcome.moved_aside:
        warn(f"records {path.name} were damaged: moved aside and computed again")
    _print_summary(outcome.summary)
    ready = f", {outcome.ready} found on disk" if outcome.ready else ""
    print(f"{outcome.computed} cells computed{ready}. Results: {folder}/summary.json")
    print(f"Next: robustatt report {folder}")


def _plan_from_flags(
    path: Path | None, eps: str | None, eps_unit: str | None, model: list[str] | None,
    weights: list[str] | None, normalize: str | None, attack: list[str] | None, simple: dict[str, Any],
) -> Plan:  # fmt: skip
    """The plan of a file, if one was given, with what the flags say in place of what it says."""
    from dataclasses import replace

    from robustatt.attack import recipe as recipes
    from robustatt.eps import parse_grid
    from robustatt.plan import Plan, model_entries, parse_unit, read_plan

    changes: dict[str, Any] = {name: value for name, value in simple.items() if value is not None}
    if weights and not model:
        raise InputError("--weights without --model: say which model they are for, such as --model vgg_att3")
    if normalize and not model:
        raise InputError("--normalize without --model: say which model it is for, such as --model torchvision:resnet18")
    if model:
        changes["models"] = model_entries(model, weights or [], normalize)
    if ("n" in changes) != ("sample" in changes):
        changes = {"n": None, "sample": None} | changes
    if attack:
        changes["attacks"] = tuple(recipes.load(name) for name in attack)
    if eps is not None:
        changes["eps"] = parse_grid(eps, parse_unit(eps_unit))
    if path is not None:
        return replace(Plan.from_toml(read_plan(path), where=f"plan {path}"), **changes)
    if "models" not in changes:
        raise InputError("no model: give at least one, such as --model vgg_att3 (see `robustatt models`)")
    defaults: dict[str, Any] = {"attacks": (recipes.load("fgsm"),)}
    if "eps" not in changes:
        defaults["eps"] = parse_grid("1..16")
    return Plan(**(defaults | changes))


def _parse_batch_size(text: str | None) -> int | None:
    if text is None or text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--batch-size {text!r}: give auto or a whole number of at least 1")
    return int(text)


def _safe_name(data: str) -> str:
    return Path(data).name or "data"


def _print_summary(summary: dict[str, Any]) -> None:
    """Accuracy by radius, models and attacks side by side; then the warnings."""
    from robustatt.summary import is_control

    curves = summary["curves"]
    if not curves:
        return
    data = summary["plan"]["data"]
    print(f"\nAccuracy under attack in % [95 % interval], {data['n']} images of {data['name']} {data['split']}")
    heads = [f"{curve['model']} {curve['attack']}" for curve in curves]
    rows = []
    for place, point in enumerate(curves[0]["points"]):
        cells = [curve["points"][place] for curve in curves if place < len(curve["points"])]
        label = "clean" if point["eps"].startswith("0/") else point["eps"]
        rows.append(
            [label, *[f"{100 * p['accuracy']:.1f} [{100 * p['ci_low']:.1f}, {100 * p['ci_high']:.1f}]" for p in cells]]
        )
    print_table(["eps", *heads], rows)
    names = {curve["attack"] for curve in curves if not is_control(curve["attack"])}
    if names <= {"fgsm"}:
        print("fgsm alone is an upper bound: an attack in several steps finds more. Add --attack pgd.")
    for warning in summary["health"]:
        who = " ".join(part for part in (warning["model"], warning["attack"]) if part)
        warn(f"[{warning['code']}] {who}: {warning['message']}" if who else f"[{warning['code']}] {warning['message']}")
