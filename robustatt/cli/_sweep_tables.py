"""What a sweep found, in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustatt.cli._terminal import counted, print_tables, warn
from robustatt.results.columns import GRADCAM

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from robustatt.results.plan_info import DataInfo
    from robustatt.results.summary import Curve, Point, Summary


def print_summary(summary: Summary) -> None:
    """Accuracy by radius, models and attacks side by side; then the warnings."""
    from robustatt.results.unbounded import rows_of

    data = summary.plan.data
    heads, rows = rows_of(summary)
    if rows:
        print(f"\nAccuracy in % under attacks without a radius, {data.n} images of {data.name} {data.split}; distances of the "
              "images they broke")  # fmt: skip
        print_tables(heads, rows)
    print_corruptions(summary)
    for norm in summary.norms():
        _print_curves([curve for curve in summary.curves if curve.norm == norm], data)
    _print_parts(summary)
    _print_transfer(summary)
    print_saliency(summary)
    run = [name for name in summary.curve_names()[1] if summary.is_adversary(name)]
    if run and all(summary.plan.attack(name).category == "single-step" for name in run):
        print(f"{' and '.join(run)} alone is an upper bound: an attack in several steps finds more. Add --attack pgd.")
    print_warnings(summary)


def print_corruptions(summary: Summary) -> None:
    """For each model accuracy by corruption and severity, then the means over them."""
    from robustatt.results.corruptions import mean_rows, table_of

    data = summary.plan.data
    for model in dict.fromkeys(curve.model for curve in summary.curves):
        heads, rows = table_of(summary, model)
        if rows:
            print(f"\nAccuracy of {model} under common corruptions in %, {data.n} images of {data.name} {data.split}")
            print_tables(heads, rows)
    heads, rows = mean_rows(summary)
    if rows:
        print()
        print_tables(heads, rows)


def print_warnings(summary: Summary) -> None:
    """The health warnings, a line each."""
    for warning in summary.health:
        who = " ".join(part for part in (warning.model, warning.attack) if part)
        warn(f"[{warning.code}] {who}: {warning.message}" if who else f"[{warning.code}] {warning.message}")


def print_saliency(summary: Summary) -> None:
    """Which models show no attention of their own, so that their drift is not taken for it."""
    levels: dict[str, set[str]] = {}
    for row in summary.measured_drift():
        levels.setdefault(row.model, set()).add(row.level)
    for model, found in levels.items():
        if found == {GRADCAM}:
            print(f"No attention was read in {model}: its drift is that of Grad-CAM saliency, and is recorded as {GRADCAM} (--attention PATTERN "
                  "names a submodule that has a map).")  # fmt: skip


def _print_curves(curves: Sequence[Curve], data: DataInfo) -> None:
    """Accuracy by radius, models and attacks of one norm side by side."""
    from robustatt.eps import NORM_TITLES, parse_radius

    norm = NORM_TITLES[curves[0].norm]
    print(f"\nAccuracy under attack in % [95 % interval], {norm}, {data.n} images of {data.name} {data.split}")
    heads = [f"{curve.model} {curve.attack}" for curve in curves]
    texts = {parse_radius(point.eps): point.eps for curve in curves for point in curve.points}
    by_radius = [{parse_radius(point.eps): point for point in curve.points} for curve in curves]
    rows = [
        [texts[radius] if radius else "clean", *(_cell(points.get(radius)) for points in by_radius)] for radius in sorted(texts)
    ]
    print_tables(["eps", *heads], rows)


def _cell(point: Point | None) -> str:
    if point is None:
        return "-"
    from robustatt.results.part import in_percent

    return in_percent(point.accuracy, point.ci_low, point.ci_high)


def _print_parts(summary: Summary) -> None:
    """For each chain of attacks how many images each of its parts broke."""
    from robustatt.results.chains import part_tables

    for table in part_tables(summary):
        print(f"Images of {table.model} that each part of {table.attack} broke, after those before it")
        print_tables(["part", *table.radii], [[name, *map(str, counts)] for name, counts in table.counts.items()])


def _print_transfer(summary: Summary) -> None:
    """For each attack that was crafted on surrogates the matrix at one radius."""
    from robustatt.results.transfer import matrices, matrix_texts, uncrafted

    for matrix in matrices(summary):
        print(
            f"Accuracy in % [95 % interval] on {matrix.attack} examples at {matrix.headline} that were crafted on another model (all radii: robustatt report)"
        )
        print_tables(["crafted on", *matrix.models], matrix_texts(matrix))
    if left := uncrafted(summary):
        print(f"Not crafted on other models, as they have no image for every radius: {', '.join(left)}")


def print_rounds(summary: Summary) -> None:
    """Of a sweep in rounds how far it got and why it stopped there."""
    from robustatt.results.precision import rounds_said

    said = rounds_said(summary.plan, summary.stopped)
    if said:
        unfinished = summary.stopped is None or summary.stopped.reason not in ("all", "gate")
        print(said + (" The same command goes on, without limits to the last example." if unfinished else ""))


def print_place(folder: Path, computed: int, ready: int) -> None:
    """How many Cells were computed, and where the results lie."""
    found = f", {ready} found on disk" if ready else ""
    print(f"{counted(computed, 'cell')} computed{found}. Results: {folder}/summary.json")
