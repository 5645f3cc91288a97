"""`robustatt sweep`: flags and plan file to a run."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustatt.cli._forecast import print_forecast
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
from robustatt.cli._sweep_tables import print_place, print_rounds, print_summary
from robustatt.cli._terminal import announce
from robustatt.errors import InputError

if TYPE_CHECKING:
    from robustatt.plan import Limits, ModelEntry, Plan, SavedImages
    from robustatt.results.summary import Summary


def sweep(
    eps: Annotated[
        list[str] | None,
        typer.Option(
            help="Radii: 1..16, 0..32:4, 1,2,4,8 or 8/255, in steps of 1/255 for L-infinity; 0.25,0.5 as they are for L2 and "
            "L1. ATTACK=GRID is for one attack; repeat. [default: 1..16; L2 0.25..2:0.25, L1 2..24:2]"
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model to evaluate; repeat for several. See `robustatt models`.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="An attack or recipe file; repeat for several. [default: fgsm]")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A data set or path. See `robustatt data`. [default: digits]")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="Weights file, one for each --model in order, and then, if wanted, each --surrogate. [default: the bundled ones]"
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Only the first N examples. [default: all]")] = None,
    sample: Annotated[int | None, typer.Option(help="A random sample of N examples (--seed), stratified by class.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data: test or train. [default: test]")] = None,
    data_root: DataRoot = None,
    download: Download = False,
    label_column: LabelColumn = None,
    input_size: InputSize = None,
    class_names: ClassNames = None,
    channels: Channels = None,
    mask_classes: Annotated[
        bool | None,
        typer.Option(
            "--mask-classes", help="With --class-names: only the outputs of the data's classes compete. [default: all do]"
        ),
    ] = None,
    normalize: Normalize = None,
    model_option: ModelOption = None,
    attention: AttentionOption = None,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL|all",
            help="Also craft the examples on this model and test them on every --model (transfer); all: on each for the others; repeat.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random start. [default: 0]")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Images per batch. [default: auto]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ... [default: auto]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results. [default: reports/out/<data>]")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan file (TOML); flags override it.")] = None,
    independent: Annotated[
        bool | None,
        typer.Option(
            "--independent/--search",
            help="Attack every example at every radius, or search for its threshold. [default: --search]",
        ),
    ] = None,
    eps_unit: Annotated[
        str | None,
        typer.Option(
            help="Unit of a bare number of --eps and --save-images-at: 1/255 or 1. "
            "[default: 1/255 for L-infinity, 1 for L2 and L1]"
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Where to compute: local (this machine) or ray (a Ray cluster).")] = "local",
    workers: Annotated[
        str, typer.Option(help="Number of worker processes; auto: one per GPU, on CPUs as many as pay off.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads per cell. [default: 1; more if there are fewer cells than threads]")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster: auto or HOST:PORT. [default: one of this machine alone]")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs per Ray worker; may be a fraction. [default: 1 if there are any]")
    ] = None,
    records: Annotated[
        str | None, typer.Option(help="Where to write records: file://, s3://, gs://, ... [default: OUT/records]")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, or bf16-screen: predict in bfloat16 first, again in float32 where it is close."),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the model: takes a minute, then passes are somewhat faster.")
    ] = False,
    drift_n: Annotated[
        int | None,
        typer.Option(
            help="Examples on which drift is measured with all steps at every radius; 0: none. [default: up to 100, by cost]"
        ),
    ] = None,
    save_images: Annotated[
        str | None,
        typer.Option(
            help="Keep the adversarial example of each of the first N examples, or of all, at the radius where it breaks."
        ),
    ] = None,
    save_images_at: Annotated[
        str | None, typer.Option(help="With --save-images: also the image at these radii of --eps, such as 4/255,8/255.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop after 90s, 10m, 2h, 1h30m or a number of seconds: examples in random order (--seed), models and attacks in turn.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="POINTS[:MODEL/ATTACK]",
            help="Stop when every interval, or those of one curve, are at most this many points to either side: 2, or 2:vgg/pgd.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="REFERENCE",
            help="Stop as soon as the verdict of `robustatt check` against this file is known; exit 1 on a regression, 3 without a verdict.",
        ),
    ] = None,
    max_drop: Annotated[float | None, typer.Option(help="With --against: see `robustatt check`. [default: 1]")] = None,
    alpha: Annotated[float | None, typer.Option(help="With --against: see `robustatt check`. [default: 0.01]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate the cost from a short pilot run and exit.")] = False,
) -> None:
    """Attack models over a grid of radii and print accuracies."""
    began = monotonic()
    wanted = _plan_from_flags(plan, eps, eps_unit, model, weights, normalize, model_option, attack, attention, surrogate, {
        "data": data, "n": n, "seed": seed, "device": device, "independent": independent,
        "batch_size": parse_batch_size(batch_size), "sample": sample, "split": split, "label_column": label_column,
        "data_root": None if data_root is None else str(data_root), "download": download or None, "input_size": input_size,
        "precision": precision, "compile": compiled or None, "channels": channels,
        "class_names": None if class_names is None else str(class_names), "mask_classes": mask_classes,
        "drift_n": drift_n, "images": _saved_images(save_images, save_images_at, eps_unit), "limits": _limits(time, until, against, max_drop, alpha),
    })  # fmt: skip
    folder = out or default_folder(wanted.data)
    from robustatt.engine.finished import recall, remember
    from robustatt.engine.options import ExecutorOptions

    execution = ExecutorOptions(engine, parse_workers(workers), threads, address, gpus_per_worker, records)
    here = engine == "local" and records is None
    announce(wanted.loaded)
    if here and not dry_run and (answer := recall(wanted.without_limits(), folder)) is not None:
        _print_outcome(answer.summary, folder, 0, answer.cells)
        _exit_by_verdict(wanted, folder)
        return
    wanted, dataset, load = prepared(wanted)
    if dry_run:
        print_forecast(wanted, dataset, load, folder, execution)
        return
    outcome = evaluated(wanted, dataset, load, folder, execution, began)
    _print_outcome(outcome.summary, folder, outcome.computed, outcome.ready)
    if here and wanted.limits is None:
        remember(wanted, folder)
    _exit_by_verdict(wanted, folder)


def _exit_by_verdict(plan: Plan, folder: Path) -> None:
    """Of a sweep against a reference: say what the gate finds, and exit by it."""
    rule = None if plan.limits is None else plan.limits.against
    if rule is None:
        return
    from robustatt.cli._results import read_results
    from robustatt.cli._verdict import print_verdict
    from robustatt.results import gate
    from robustatt.results.reference import read_reference

    found = gate.check(*read_results(folder), read_reference(Path(rule.reference)), rule.max_drop, rule.alpha)
    print_verdict(found, folder, Path(rule.reference))
    raise typer.Exit(found.exit_code)


def _plan_from_flags(
    path: Path | None, eps: list[str] | None, eps_unit: str | None, model: list[str] | None,
    weights: list[str] | None, normalize: str | None, model_option: list[str] | None, attack: list[str] | None,
    attention: list[str] | None, surrogate: list[str] | None, simple: dict[str, Any],
) -> Plan:  # fmt: skip
    """The plan of a file, if one was given, with what the flags say in place of what it says."""
    from dataclasses import replace

    from robustatt.attack import recipe_files as recipes
    from robustatt.cli._plan_paths import located
    from robustatt.plan import Plan, model_entries, parse_unit, radii_by_attack, read_plan
    from robustatt.plan.entries import attending

    changes: dict[str, Any] = {name: value for name, value in simple.items() if value is not None}
    if weights and not model and path is None:
        raise InputError("--weights without --model: say which model they are for, such as --model vgg_att3")
    if normalize and not model:
        raise InputError("--normalize without --model: say which model it is for, such as --model torchvision:resnet18")
    if model_option and not model:
        raise InputError("--model-option without --model: say which model it is for, such as --model timm:vit_tiny_patch16_224")
    files, theirs = weights or [], []
    if model and surrogate and len(files) == len(model) + len(surrogate):
        files, theirs = files[: len(model)], files[len(model) :]
    if model:
        changes["models"] = model_entries(model, files, normalize, model_option or [])
    if surrogate:
        foreign = any(":" in text for text in surrogate)
        changes["surrogates"] = model_entries(surrogate, theirs, normalize, (model_option or []) if foreign else [])
    if ("n" in changes) != ("sample" in changes):
        changes = {"n": None, "sample": None} | changes
    if attack:
        changes["attacks"] = tuple(recipes.load(name) for name in attack)
    unit = parse_unit(eps_unit)
    if path is not None:
        document = located(read_plan(path), path, print)
        if attack:  # the grids of the file are laid out over these attacks
            document["attacks"] = [entry.model_dump(mode="json", exclude_none=True) for entry in changes["attacks"]]
        plan = Plan.from_toml(document, where=f"plan {path}")
        if eps:
            changes["eps"], changes["grids"] = radii_by_attack(plan.attacks, eps, unit)
        if weights and not model:
            changes["models"] = _reweighted(plan.models, weights)
        if attention:
            changes["models"] = attending(changes.get("models", plan.models), attention)
        if "limits" in changes:
            changes["limits"] = changes["limits"].over(plan.limits)
        return replace(plan, **changes)
    if "models" not in changes:
        raise InputError("no model: give at least one, such as --model vgg_att3 (see `robustatt models`)")
    if attention:
        changes["models"] = attending(changes["models"], attention)
    changes.setdefault("attacks", (recipes.load("fgsm"),))
    changes["eps"], changes["grids"] = radii_by_attack(changes["attacks"], eps or [], unit)
    return Plan(**changes)


def _saved_images(first: str | None, at: str | None, eps_unit: str | None) -> SavedImages | None:
    from robustatt.plan import SavedImages, parse_unit

    return SavedImages.parse(first, at, parse_unit(eps_unit))


def _limits(
    time: str | None, until: str | None, against: Path | None, max_drop: float | None, alpha: float | None
) -> Limits | None:
    from robustatt.plan import Limits
    from robustatt.plan.limits import GateRule

    given = {name: value for name, value in (("max_drop", max_drop), ("alpha", alpha)) if value is not None}
    if given and against is None:
        raise InputError(f"--{next(iter(given)).replace('_', '-')} without --against: it belongs to the verdict of a reference")
    return Limits.parse(time, until, None if against is None else GateRule(str(against), **given))


def _reweighted(models: tuple[ModelEntry, ...], weights: list[str]) -> tuple[ModelEntry, ...]:
    """The models of a plan with other weights, in the same order."""
    from dataclasses import replace

    if len(weights) != len(models):
        raise InputError(f"--weights is given {len(weights)} times, but the plan has {len(models)} models: once for each")
    return tuple(replace(entry, weights=file) for entry, file in zip(models, weights, strict=True))


def default_folder(data: str) -> Path:
    """Where results go unless told: a folder of the data's name, which never leads out of `reports/out`."""
    name = Path(data).name.replace(":", "-")
    return Path("reports/out") / (name if name not in ("", "..") else "data")


def _print_outcome(summary: Summary, folder: Path, computed: int, ready: int) -> None:
    print_summary(summary)
    print_rounds(summary)
    print_place(folder, computed, ready)
    if summary.full_strength is not None:
        print(f"Drift was measured at full strength on {summary.full_strength.n} images (--drift-n).")
    print(f"Next: robustatt report {folder}")
