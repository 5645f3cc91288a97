"""A transfer as files: JSON, the answer for each image, a page of tables, a bar figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from robustatt.errors import InputError
from robustatt.report.draw import save_with_table, shorten, theme
from robustatt.report.markdown import plain_table
from robustatt.report.style import looks
from robustatt.studies.output import write_files
from robustatt.studies.transfer.result import FILE, PREDICTIONS, Comparison, Transfer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE, FIGURE = "transfer.md", "transfer"
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "ooo")
SIGNIFICANT = 0.05
LARGEST = "largest class"


def write(result: Transfer, folder: Path) -> list[Path]:
    """Writes ``transfer.json``, ``predictions.parquet``, ``transfer.md`` and the figure (PNG, SVG, CSV); their paths.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with theme():
            figure = draw(result)
        figures = save_with_table(figure, folder / FIGURE, _table(result))
        return [*figures, *write_files(folder, {PREDICTIONS: result.predictions, PAGE: markdown(result), FILE: result})]
    except OSError as problem:
        raise InputError(f"cannot write to {folder}: {problem.strerror}") from problem


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def points(difference: float, low: float, high: float) -> str:
    """A difference of shares in points, with its interval."""
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def accuracy_rows(result: Transfer) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: accuracy of each model on each set, in per cent with interval."""
    heads = ["data", "images", "answered by", "largest class", *(model.name for model in result.models)]
    rows = [
        [
            data.name,
            f"{data.n:,}",
            data.protocol,
            percent(data.floor),
            *(_share(result, model.name, data.name) for model in result.models),
        ]
        for data in result.sets
    ]
    return heads, rows


def _share(result: Transfer, model: str, data: str) -> str:
    found = result.score(model, data)
    return f"{percent(found.accuracy)} [{percent(found.ci_low)}, {percent(found.ci_high)}]"


def comparison_rows(result: Transfer) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the difference of each pair of models on each set, and its mean over the sets."""
    heads = ["models", "data", "points [95 % interval]", "p (McNemar)", "p (Holm)", "real"]
    rows = [_comparison_row(entry) for entry in result.comparisons]
    rows += [
        [
            f"{mean.a} - {mean.b}",
            f"mean of {mean.sets} sets",
            points(mean.difference, mean.ci_low, mean.ci_high),
            "",
            "",
            "",
        ]
        for mean in result.averages
    ]
    return heads, rows


def _comparison_row(entry: Comparison) -> list[str]:
    real = "yes" if entry.p_holm < SIGNIFICANT else "no"
    change = points(entry.difference, entry.ci_low, entry.ci_high)
    return [f"{entry.a} - {entry.b}", entry.data, change, f"{entry.p:.2g}", f"{entry.p_holm:.2g}", real]


def markdown(result: Transfer) -> str:
    """The page: what was done, both tables, the figure, the command."""
    folds = result.settings.folds
    lines = [
        "# Transfer: a linear SVM on fixed features\n",
        "Accuracy in % with 95 % Wilson intervals, on images the SVM was not fitted on: those of the test part, or all",
        f"images, each answered for by the SVM of the other {folds - 1} of {folds} folds. Features are standardised; C is chosen",
        "by cross-validation inside the training part alone. `largest class`: what always answering it would give.\n",
        *plain_table(*accuracy_rows(result)),
        f"\n![Accuracy by data set and model]({FIGURE}.png)\n",
    ]
    if result.comparisons:
        lines += [
            "## Are the differences real?\n",
            "On the same images, by the exact McNemar test; Holm's correction over all rows. The mean over the sets takes",
            "them as they are, not as a sample of all data sets there could be.\n",
            *plain_table(*comparison_rows(result)),
            "",
        ]
    lines += ["## Models\n", *plain_table(*_model_rows(result))]
    if result.provenance.command:
        lines += ["\n## The command\n", "```", result.provenance.command, "```"]
    return "\n".join(lines) + "\n"


def _model_rows(result: Transfer) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            model.name,
            model.weights,
            "as they are" if model.side is None else f"{model.side}x{model.side}",
            str(model.width),
        ]
        for model in result.models
    ]
    return ["model", "weights", "images", "features"], rows


def draw(result: Transfer) -> Figure:
    """A group of bars for each data set, a bar for each model with its interval; a line at the largest class."""
    from matplotlib.figure import Figure

    models, sets = [model.name for model in result.models], result.sets
    room = 0.8 / len(models)
    width = max(3.6, 1.1 + len(sets) * (0.35 + 0.42 * len(models)))
    longest = max(len(shorten(name)) for name in (*models, LARGEST))
    columns = max(1, min(len(models) + 1, int(width / (0.6 + 0.062 * longest))))
    below, above, inner = 0.32 + 0.19 * -(-(len(models) + 1) // columns), 0.12, 2.8
    height = below + inner + above
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0.62 / width, below / height, 1 - 0.76 / width, inner / height))
    for number, name in enumerate(models):
        left = [place - 0.4 + room * (number + 0.5) for place in range(len(sets))]
        _bars(axis, result, name, number, left, 0.92 * room)
    for place, data in enumerate(sets):
        label = LARGEST if place == 0 else None
        axis.plot([place - 0.43, place + 0.43], [data.floor] * 2, color="#222222", linewidth=1.2, dashes=(3, 2), label=label)
    _axes(axis, [data.name for data in sets])
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=columns, handlelength=1.6, borderaxespad=0.3)
    return figure


def _bars(axis: Axes, result: Transfer, name: str, number: int, left: Sequence[float], width: float) -> None:
    found = [result.score(name, data.name) for data in result.sets]
    heights = [score.accuracy for score in found]
    below = [score.accuracy - score.ci_low for score in found]
    above = [score.ci_high - score.accuracy for score in found]
    colour = looks([model.name for model in result.models], [""])[name, ""].light
    hatch = HATCHES[number % len(HATCHES)]
    axis.bar(left, heights, width, label=shorten(name), color=colour, edgecolor="white", linewidth=0.6, hatch=hatch)
    axis.errorbar(left, heights, (below, above), fmt="none", ecolor="#222222", elinewidth=1, capsize=2.2)
    for x, score in zip(left, found, strict=True):
        axis.annotate(percent(score.accuracy), (x, score.ci_high), (0, 2), textcoords="offset points", ha="center", fontsize=7)


def _axes(axis: Axes, names: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_xticks(range(len(names)), [shorten(name, 24) for name in names])
    axis.tick_params(axis="x", length=0)
    axis.grid(False, axis="x")
    axis.set_ylim(0, min(1.0, axis.get_ylim()[1] * 1.06))
    axis.set_xlim(-0.55, len(names) - 0.45)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axis.set_ylabel("accuracy of a linear SVM")


def _table(result: Transfer) -> pd.DataFrame:
    floors = {data.name: data.floor for data in result.sets}
    rows = [
        (score.data, score.model, score.n, score.accuracy, score.ci_low, score.ci_high, floors[score.data])
        for score in result.scores
    ]
    return pd.DataFrame(rows, columns=["data", "model", "n", "accuracy", "ci_low", "ci_high", "largest_class"])
