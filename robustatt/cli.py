"""The command line: a thin skin over the library. Only here is anything printed, and only here does the program exit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from robustatt import __version__
from robustatt.errors import InputError, RobustattError, did_you_mean

if TYPE_CHECKING:
    from robustatt.plan import Cell, Plan

app = typer.Typer(
    name="robustatt",
    help="How robust an image classifier is to adversarial perturbations, and where its attention goes under attack.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


DataRoot = Annotated[Path | None, typer.Option(help="Folder of downloaded data sets. [default: in the cache]")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")]
LabelColumn = Annotated[str | None, typer.Option(help="The column of Parquet files that holds the label.")]
InputSize = Annotated[int | None, typer.Option(help="Bring images from a path to so many pixels a side.")]
Normalize = Annotated[
    str | None, typer.Option(help="For models from outside: imagenet, cifar10, none or m1,m2,m3/s1,s2,s3.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"robustatt {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
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
    with _Bar() as bar:
        outcome = run(wanted, dataset, model_loader(dataset), folder, bar)
    for path in outcome.moved_aside:
        _warn(f"records {path.name} were damaged: moved aside and computed again")
    _print_summary(outcome.summary)
    ready = f", {outcome.ready} found on disk" if outcome.ready else ""
    print(f"{outcome.computed} cells computed{ready}. Results: {folder}/summary.json")
    print(f"Next: robustatt report {folder}")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep wrote.")],
    compare_with: Annotated[
        Path | None, typer.Option("--compare", metavar="DIR2", help="Put a second run beside it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. [default: DIR]")] = None,
) -> None:
    """Make figures, tables and one HTML page of a sweep."""
    from robustatt.report import write_comparison, write_report

    first = _read_results(directory)
    if compare_with is not None:
        runs = [
            (str(folder), *found) for folder, found in ((directory, first), (compare_with, _read_results(compare_with)))
        ]
        paths = write_comparison(runs[0], runs[1], out or directory)
    else:
        paths = write_report(directory, *first, out)
    print(f"Report: {paths.html}")
    if paths.figures:
        print(f"Figures: {paths.figures[0].parent} ({len(paths.figures)} files)")
    if paths.tables:
        print(f"Tables: {', '.join(str(path) for path in paths.tables)}")


@app.command()
def check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep wrote.")],
    reference: Annotated[Path | None, typer.Option(help="The committed reference to compare with.")] = None,
    update: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write this run as the new reference and stop.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", "--tolerance", help="Drops up to so many points are let pass.")
    ] = 1.0,
    alpha: Annotated[float, typer.Option(help="Significance, after Holm's correction over all points.")] = 0.01,
    allow: Annotated[
        list[str] | None, typer.Option(help="Compare although this changed: weights, data, attack, ...")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the outcome for a pull request.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the outcome as JUnit XML.")] = None,
) -> None:
    """Compare a run with a reference; exit 1 on a regression."""
    from robustatt import regress
    from robustatt.plan import write_atomically
    from robustatt.report import check as outcome

    records, summary = _read_results(directory)
    if update is not None:
        print(f"Reference: {regress.write_reference(update, regress.make_reference(records, summary))}")
        return
    if reference is None:
        raise InputError("check: give --reference FILE to compare with, or --update FILE to write one")
    found = regress.check(records, summary, regress.read_reference(reference), max_drop, alpha, allow or ())
    heads, rows = outcome.table(found)
    if rows:
        _print_table(heads, rows)
    print(found.headline)
    print(outcome.rule(found))
    for path, text in ((markdown, outcome.to_markdown), (junit, outcome.to_junit)):
        if path is not None:
            write_atomically(path, text(found).encode())
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(outcome.to_annotations(found))
    raise typer.Exit(found.exit_code)


@app.command()
def compare(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep wrote.")],
    a: Annotated[str, typer.Option("--a", help="One model of that sweep.")],
    b: Annotated[str, typer.Option("--b", help="The model to compare it with.")],
) -> None:
    """Say at which eps two models of a sweep really differ."""
    from robustatt.summary import grids, paired_differences

    records, summary = _read_results(directory)
    known = [entry["name"] for entry in summary["plan"]["models"]]
    for name in (a, b):
        if name not in known:
            raise InputError(f"model {name!r} is not in {directory}: {did_you_mean(name, known)}")
    rows = paired_differences(list(grids(records[records["model"].isin([a, b])])), {a: b})
    _print_table(
        ["attack", "eps", f"{a} minus {b}", "95 % interval", "p (McNemar)", "p (Holm)", "real"],
        [
            [row["attack"], row["eps"], f"{100 * row['difference']:+.1f}", f"[{100 * row['ci_low']:+.1f}, {100 * row['ci_high']:+.1f}]",
             f"{row['p']:.2g}", f"{row['p_holm']:.2g}", "yes" if row["p_holm"] < 0.05 else "no"]
            for row in rows
        ],
    )  # fmt: skip
    print(
        "Points of accuracy on the same images; real: exact McNemar test below 0.05 after Holm's correction over the curve."
    )


@app.command()
def reproduce(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep on cifar10 wrote.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the Markdown there instead of printing it.")
    ] = None,
) -> None:
    """Hold a run on CIFAR-10 against the paper's numbers."""
    from robustatt.plan import write_atomically
    from robustatt.reproduction import reproduce as written

    text = written(*_read_results(directory))
    if out is None:
        print(text, end="")
        return
    write_atomically(out, text.encode())
    print(f"Table: {out}")


@app.command()
def train(
    model: Annotated[str, typer.Option(help="The network to train. See `robustatt models`.")],
    out: Annotated[Path, typer.Option(help="Where to write the weights (.safetensors).")],
    data: Annotated[str, typer.Option(help="A data set or path.")] = "digits",
    width: Annotated[float, typer.Option(help="Multiplier on all channels; 1.0 is the paper's.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of initial weights, order and augmentation.")] = 0,
    schedule: Annotated[str, typer.Option(help="onecycle, or paper (the published step schedule).")] = "onecycle",
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: the schedule's]")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    dropout: Annotated[
        float, typer.Option(help="Multiplier on the paper's dropout rates; small networks want 0.")
    ] = 1.0,
    label_smoothing: Annotated[float, typer.Option(help="Label smoothing, 0 to below 1.")] = 0.0,
    flip: Annotated[bool | None, typer.Option(help="Mirror images at random. [default: by data set]")] = None,
    crop: Annotated[bool | None, typer.Option(help="Crop at random after padding by 4. [default: by data set]")] = None,
    adversarial: Annotated[str | None, typer.Option(help="Train on attacked images: fgsm or pgd.")] = None,
    train_eps: Annotated[
        float, typer.Option(help="L-infinity radius of adversarial training, in steps of 1/255.")
    ] = 8.0,
    init: Annotated[
        Path | None, typer.Option(help="Start from the weights of this checkpoint of the same network.")
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Which epoch's weights: last, or best on a tenth held out of the training images.")
    ] = "last",
    test_every: Annotated[
        int | None, typer.Option(help="Measure test accuracy every N epochs. [default: by size]")
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    label_column: LabelColumn = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    half: Annotated[bool, typer.Option(help="Store the weights as float16.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on from an interrupted run of the same command.")] = True,
) -> None:
    """Train a network of the paper; go on after an interruption."""
    from robustatt.train import TrainRequest
    from robustatt.train import train as run_training

    request = TrainRequest(
        model=model, data=data, width=width, epochs=epochs, seed=seed, out=out, schedule=schedule, lr=lr,
        batch_size=batch_size, dropout=dropout, label_smoothing=label_smoothing, flip=flip, crop=crop,
        adversarial=adversarial, train_eps=train_eps, data_root=data_root, download=download, label_column=label_column,
        init=init, keep=keep, test_every=test_every, device=device, half=half, resume=resume,
    )  # fmt: skip
    with _TrainingBar() as bar:
        card = run_training(request, bar)
    print(f"Wrote {out}: clean test accuracy {card.clean_accuracy:.2%}")
    print(f"Log: {request.log_path}, curve: {request.curve_path}")
    print(f"Next: robustatt sweep --eps 1..16 --model {model} --data {data} --weights {out}")


@app.command()
def models() -> None:
    """List the networks, their cost, and the bundled weights."""
    from robustatt.models import catalogue

    _print_table(
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
    print(
        "At width 1.0 and 32x32; a multiply and an add count as two operations. Bundled weights are of smaller width: see their"
    )
    print(
        "cards in robustatt/weights. `cifar10 (adv)` was trained on attacked images and goes by the ending: vgg_att3_adv."
    )
    print(
        "Attention models also by variant, such as vgg_att2_indep_dp. Others: pkg.module:build, torchvision:NAME, timm:NAME"
    )


@app.command()
def attacks() -> None:
    """List the attacks: norm, cost, what each is good for."""
    from robustatt.attack import recipe as recipes

    rows = []
    for name in recipes.shipped():
        found = recipes.load(name)
        gradients, forwards = found.cost()
        rows.append([name, found.norm, f"{gradients:,}", f"{forwards:,}", found.good_for])
    _print_table(["attack", "norm", "gradients", "forwards", "good for"], rows)
    print("Cost: of one image and one radius at full strength. A recipe file of your own: --attack mine.toml")


@app.command(name="data")
def list_data(
    name: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA]...", help="Only these data sets or paths. [default: all names]"),
    ] = None,
    data_root: DataRoot = None,
    label_column: LabelColumn = None,
    input_size: InputSize = None,
) -> None:
    """List the data sets: sizes, content hashes, how to get them."""
    from robustatt.data import inventory

    rows = inventory.listing(name or [], data_root, label_column, input_size)
    _print_table(
        ["data", "split", "images", "pixels", "classes", "sha256 of the content", "how to get it"],
        [list(row) for row in rows],
    )
    if not name:
        print(
            "Your own: a folder of class folders, Parquet files as on the Hugging Face hub, or a .npz file with images and labels."
        )
        print("`robustatt data PATH` lists it. Hashes are shown of what is on this machine.")


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="The model to look at. See `robustatt models`.")],
    data: Annotated[str, typer.Option(help="A data set or path. See `robustatt data`.")] = "digits",
    weights: Annotated[str | None, typer.Option(help="Weights file. [default: the bundled one]")] = None,
    normalize: Normalize = None,
    input_size: InputSize = None,
    data_root: DataRoot = None,
    download: Download = False,
    label_column: LabelColumn = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Attack the model too, to see whether the answers fit together (minutes).")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Say in a minute whether an evaluation will mean anything.

    Prints one line a check, with what to do where something is wrong. Exits with 0 also then: the findings are advice,
    and `robustatt check` is the command that fails.
    """
    from robustatt.doctor import Patient, examine
    from robustatt.plan import ModelEntry

    patient = Patient(
        ModelEntry(model, model, weights, normalize), data, data_root, download, label_column, input_size, device
    )
    findings = examine(patient, deep=deep)
    _print_table(
        ["", "check", "finding", "what to do"], [[it.mark, it.check, it.finding, it.advice] for it in findings]
    )
    wrong = list(dict.fromkeys(it.check for it in findings if not it.fine))
    print(f"To look into first: {', '.join(wrong)}." if wrong else "Nothing found that would spoil an evaluation.")


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


def _read_results(directory: Path) -> tuple[Any, dict[str, Any]]:
    """The records and the summary of an output folder; records may be fewer than planned."""
    from robustatt.plan import BoundPlan
    from robustatt.records import Store
    from robustatt.summary import read_summary, summarise

    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder: give the folder a sweep wrote (its --out)")
    bound = BoundPlan.read(directory)
    store = Store(directory / "records")
    records = store.read(cell.key for cell in bound.cells())
    for path in store.moved_aside:
        _warn(f"records {path.name} were damaged and moved aside: run the sweep again to complete them")
    if (directory / "summary.json").exists() and not store.moved_aside:
        summary = read_summary(directory / "summary.json")
        if summary["plan"] == bound.describe():
            return records, summary
    return records, summarise(records, bound.describe(), {}, [])


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        numeric = bool(rows) and all(row[place][:1].isdigit() or row[place] == "-" for row in rows)
        table.add_column(name, justify="right" if numeric and place else "left")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    _console().print(table)


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
    _print_table(["eps", *heads], rows)
    names = {curve["attack"] for curve in curves if not is_control(curve["attack"])}
    if names <= {"fgsm"}:
        print("fgsm alone is an upper bound: an attack in several steps finds more. Add --attack pgd.")
    for warning in summary["health"]:
        who = " ".join(part for part in (warning["model"], warning["attack"]) if part)
        _warn(
            f"[{warning['code']}] {who}: {warning['message']}" if who else f"[{warning['code']}] {warning['message']}"
        )


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


class _ProgressBar:
    """A progress bar on standard error that appears with its first task and is gone afterwards."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(*self._columns(), console=Console(stderr=True), transient=True)
        self._task: Any = None

    def _columns(self) -> list[Any]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._progress.stop()

    def _begin(self, total: int | None, **fields: Any) -> None:
        self._progress.start()
        self._task = self._progress.add_task("", total=total, **fields)


class _Bar(_ProgressBar):
    """The progress bar of a sweep: images a second and time left."""

    def _columns(self) -> list[Any]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()]

    def begin(self, images: int, cells: int, cells_ready: int) -> None:
        del cells, cells_ready
        if images:
            self._begin(images, rate="")

    def advance(self, cell: Cell, images: int) -> None:
        self._progress.update(self._task, advance=images, description=f"{cell.model} {cell.attack.name}")
        speed = self._progress.tasks[0].speed
        self._progress.update(self._task, rate=f"{speed:,.0f} images/s" if speed else "")


class _TrainingBar(_ProgressBar):
    """The progress bar of a training: epoch, loss, accuracy."""

    def _columns(self) -> list[Any]:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        said = TextColumn("{task.fields[said]}")
        return [TextColumn("epoch {task.fields[epoch]}"), BarColumn(), said, TimeRemainingColumn()]

    def __call__(self, epoch: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        if self._task is None:
            self._begin(None, epoch=epoch, said="")
        self._progress.update(
            self._task, completed=step, total=steps, epoch=epoch, said=f"loss {loss:.3f}, accuracy {accuracy:.1%}"
        )


def main(arguments: list[str] | None = None) -> int:
    """The program: runs a command, turns every expected error into one line, and returns the exit code."""
    return _run(lambda: app(args=arguments, standalone_mode=False))


def _run(command: Callable[[], Any]) -> int:
    """0 done, 1 regression, 2 wrong input, 3 failed half way, 130 interrupted; no traceback for what users can mend."""
    try:
        return int(command() or 0)
    except typer.Exit as leaving:
        return leaving.exit_code
    except RobustattError as problem:
        return _fail(str(problem), problem.exit_code)
    except typer.TyperException as problem:
        return _fail(problem.format_message().replace("\n", " "), 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:
        return _fail(f"{problem.filename or 'file'}: {problem.strerror or problem}", 3)


def _fail(message: str, code: int) -> int:
    print(f"robustatt: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
