"""`robustatt report`, `check` and `reproduce`: what is done with the results of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustatt.cli._results import read_results
from robustatt.cli._verdict import print_verdict
from robustatt.errors import InputError


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep wrote.")],
    compare_with: Annotated[Path | None, typer.Option("--compare", metavar="DIR2", help="Show a second run beside it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. [default: DIR]")] = None,
) -> None:
    """Make figures, tables and one HTML page of a sweep."""
    from robustatt.report import write_comparison, write_report

    first = read_results(directory)
    if compare_with is not None:
        runs = [(str(folder), *found) for folder, found in ((directory, first), (compare_with, read_results(compare_with)))]
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
    update: Annotated[Path | None, typer.Option(metavar="FILE", help="Write this run as the new reference and stop.")] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", "--tolerance", help="Tolerate drops of up to this many percentage points.")
    ] = 1.0,
    alpha: Annotated[float, typer.Option(help="Significance, after Holm's correction over all points.")] = 0.01,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Compare even though this changed: data, attack, eps, seed or evaluation; repeat for several."),
    ] = None,
    same_weights: Annotated[
        bool, typer.Option("--same-weights", help="Treat retrained weights under the same label as a changed plan: exit 2.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the result as Markdown, for a pull request.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the result as JUnit XML.")] = None,
) -> None:
    """Compare a run with a reference; exit 1 on a regression.

    Retrained weights under the same label are compared as usual, with a note (--same-weights rejects them: exit 2).

    Another data set, attack, grid of radii, seed or evaluation rule is a changed plan: exit 2, naming which.
    """
    from robustatt.files import write_whole
    from robustatt.report import check as outcome
    from robustatt.results.gate import check as compare_with
    from robustatt.results.reference import make_reference, read_reference, write_reference

    records, summary = read_results(directory, none_yet=update is None)
    if update is not None:
        print(f"Reference: {write_reference(update, make_reference(records, summary))}")
        return
    if reference is None:
        raise InputError("check: give --reference FILE to compare with, or --update FILE to write one")
    known = read_reference(reference)
    found = compare_with(records, summary, known, max_drop, alpha, allow or (), same_weights)
    print_verdict(found, directory, reference)
    for path, text in ((markdown, outcome.to_markdown), (junit, outcome.to_junit)):
        if path is not None:
            write_whole(path, text(found).encode())
    raise typer.Exit(found.exit_code)


def reproduce(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder a sweep on cifar10 wrote.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the Markdown there instead of printing it.")] = None,
) -> None:
    """Hold a run on CIFAR-10 against the paper's numbers."""
    from robustatt.files import write_whole
    from robustatt.studies.paper.page import reproduce as written

    text = written(*read_results(directory))
    if out is None:
        print(text, end="")
        return
    write_whole(out, text.encode())
    print(f"Table: {out}")
