"""`robustatt report`, `check`, `compare` and `reproduce`: what is done with the results of a sweep."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from robustatt.cli.results import read_results
from robustatt.cli.terminal import print_table
from robustatt.errors import InputError, did_you_mean


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep wrote.")],
    compare_with: Annotated[
        Path | None, typer.Option("--compare", metavar="DIR2", help="Put a second run beside it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. [default: DIR]")] = None,
) -> None:
    """Make figures, tables and one HTML page of a sweep."""
    from robustatt.report import write_comparison, write_report

    first = read_results(directory)
    if compare_with is not None:
        runs = [
            (str(folder), *found) for folder, found in ((directory, first), (compare_with, read_results(compare_with)))
        ]
        paths = write_comparison(runs[0], runs[1], out or directory)
    else:
        paths = write_report(directory, *first, out)
    print(f"Report: {paths.html}")
    if paths.figures:
        print(f"Figures: {paths.figures[0].parent} ({len(paths.figures)} files)")
    if paths.tables:
        print(f"Tables: {', '.join(str(path) for path in paths.tables)}")


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
        list[str] | None,
        typer.Option(help="Compare although this changed: data, attack, eps, seed or evaluation; repeat for several."),
    ] = None,
    same_weights: Annotated[
        bool, typer.Option("--same-weights", help="Other weights under the same label are a changed plan too: exit 2.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the outcome for a pull request.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the outcome as JUnit XML.")] = None,
) -> None:
    """Compare a run with a reference; exit 1 on a regression.

    Other weights under the same label are what is tested: exit 0 or 1, and the output says so (--same-weights: exit 2).

    Another data set, attack or grid of radii, another seed or rule of evaluation is a changed plan: exit 2, naming which.
    """
    from robustatt.files import write_whole
    from robustatt.reference import make_reference, read_reference, write_reference
    from robustatt.regress import check as compare_with
    from robustatt.report import check as outcome

    records, summary = read_results(directory, none_yet=update is None)
    if update is not None:
        print(f"Reference: {write_reference(update, make_reference(records, summary))}")
        return
    if reference is None:
        raise InputError("check: give --reference FILE to compare with, or --update FILE to write one")
    known = read_reference(reference)
    found = compare_with(records, summary, known, max_drop, alpha, allow or (), same_weights)
    heads, rows = outcome.table(found)
    if rows:
        print_table(heads, rows)
    print("\n".join([found.headline, *outcome.notes(found), *([outcome.rule(found)] if found.points else [])]))
    if any(change.kind == "incomplete" for change in found.changes):
        print("The run is not complete: type the command of the sweep again, which goes on where it stopped.")
    elif found.exit_code or found.verdict == "improvement":
        print(f"If this is meant: robustatt check {directory} --update {reference}, and commit that file.")
    for path, text in ((markdown, outcome.to_markdown), (junit, outcome.to_junit)):
        if path is not None:
            write_whole(path, text(found).encode())
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(outcome.to_annotations(found, str(reference)), end="")
    raise typer.Exit(found.exit_code)


def compare(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep wrote.")],
    a: Annotated[str, typer.Option("--a", help="One model of that sweep.")],
    b: Annotated[str, typer.Option("--b", help="The model to compare it with.")],
) -> None:
    """Say at which eps two models of a sweep really differ."""
    from robustatt.summary import grids, paired_differences

    records, summary = read_results(directory)
    known = [entry["name"] for entry in summary["plan"]["models"]]
    for name in (a, b):
        if name not in known:
            raise InputError(f"model {name!r} is not in {directory}: {did_you_mean(name, known)}")
    rows = paired_differences(list(grids(records[records["model"].isin([a, b])])), {a: b})
    print_table(
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
    print(_power(rows))


def _power(rows: list[dict[str, Any]]) -> str:
    """What the examples can show: the least difference found in four runs of five, wherever the models disagree most."""
    from robustatt import metrics

    if not rows:
        return "The two models have no attack and radius in common."
    n = min(int(row["n"]) for row in rows)
    disagree = max((row["only_model"] + row["only_baseline"]) / row["n"] for row in rows)
    least = metrics.detectable_difference(n, disagree, 0.05 / len(rows)) if disagree else float("nan")
    if math.isnan(least):
        return f"The models disagree on so few of {n} examples that no difference could be shown: take more."
    return (
        f"With {n} examples a true difference of {100 * least:.1f} points is detectable (in four runs of five, "
        f"where the models disagree on {disagree:.1%} of them)."
    )


def reproduce(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep on cifar10 wrote.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the Markdown there instead of printing it.")
    ] = None,
) -> None:
    """Hold a run on CIFAR-10 against the paper's numbers."""
    from robustatt.files import write_whole
    from robustatt.reproduction import reproduce as written

    text = written(*read_results(directory))
    if out is None:
        print(text, end="")
        return
    write_whole(out, text.encode())
    print(f"Table: {out}")
