"""Figures for publication: each panel set as PNG (200 dpi), SVG and the CSV of exactly what is drawn.

Drawn with seaborn on matplotlib's objects, without global state. Colour and marker stand for the model, line style for
the attack, so a figure survives a grey printer. seaborn takes a second or two to import: only what draws imports it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from robustatt.errors import InputError, did_you_mean
from robustatt.files import write_atomically
from robustatt.report.drift_curves import drift_panel
from robustatt.report.figures import FigureSpec, Panel, Series, accuracy_panel, fooling_figure
from robustatt.report.style import looks
from robustatt.report.text import first_norm, strongest_attack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustatt.results.summary import Summary

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures are the same everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titley": 1.0,  # a fixed place, so that none has to be looked for
    "axes.labelsize": 9,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.hashsalt": "robustatt",
    "svg.fonttype": "path",
}
DPI = 200


def theme(**changes: Any) -> Any:
    """A context with seaborn's white grid in the look of the page; `changes` are matplotlib's parameters."""
    import matplotlib
    import seaborn

    spines = {"axes.spines.top": False, "axes.spines.right": False}
    style = seaborn.axes_style("whitegrid", rc=spines)
    return matplotlib.rc_context(cast(Any, {**style, **STYLE, "xtick.bottom": True, "ytick.left": True, **changes}))


def write_figure(spec: FigureSpec, folder: Path) -> list[Path]:
    """Write ``slug.png``, ``slug.svg`` and ``slug.csv`` into the folder; their paths."""
    with theme():
        figure = draw(spec)
    return save_with_table(figure, folder / spec.slug, frame(spec))


def save_with_table(figure: Figure, stem: Path, table: pd.DataFrame) -> list[Path]:
    """Save as PNG and SVG, and what is drawn as CSV; the three paths."""
    with theme():
        paths = save(figure, stem)
    path = stem.with_name(f"{stem.name}.csv")
    write_csv(table, path)
    return [*paths, path]


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """The rows of a figure as CSV, whole or not at all."""
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())


def save(figure: Figure, stem: Path) -> list[Path]:
    """Save as PNG and SVG with nothing in it that changes from run to run; the two paths.

    Straight through the canvases: ``savefig`` would draw everything twice.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    write_atomically(png, png_bytes(figure))
    vector: Any = FigureCanvasSVG(figure)
    drawing = io.BytesIO()
    vector.print_svg(drawing, metadata={"Date": None, "Creator": None})
    write_atomically(svg, drawing.getvalue())
    return [png, svg]


def png_bytes(figure: Figure, dpi: int = DPI, compress_level: int = 2) -> bytes:
    """The figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    raster: Any = FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    raster.print_png(buffer, metadata={"Software": None}, pil_kwargs={"compress_level": compress_level})
    return buffer.getvalue()


def draw(spec: FigureSpec) -> Figure:
    """The figure as a matplotlib object; margins in inches, so that no layout has to be searched for."""
    from matplotlib.figure import Figure

    count = len(spec.panels)
    width = 5.4 if count == 1 else 1.0 + 2.9 * count
    labels = list(dict.fromkeys(shorten(series.label) for panel in spec.panels for series in panel.series))
    columns = max(1, min(len(labels), int(width / (0.75 + 0.062 * max(map(len, labels))))))
    below = 0.52 + 0.19 * -(-len(labels) // columns)
    above = 0.28 if count > 1 else 0.12
    height = 2.9 + above + below
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.68 / width, right=1 - 0.14 / width, bottom=below / height, top=1 - above / height, wspace=0.08)
    for number, (axis, panel) in enumerate(zip(axes, spec.panels, strict=True)):
        _panel(axis, panel, with_title=count > 1, with_y_label=number == 0)
    handles = {h.get_label(): h for axis in axes for h in axis.get_legend_handles_labels()[0]}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        ncols=columns,
        handlelength=3.2,
        borderaxespad=0.3,
    )
    return figure


def plot(summary: Summary, quantity: str, axis: Axes | None) -> Axes:
    """One quantity of a run in a notebook, with its 95 % bands: on the axes given, else on new ones of pyplot.

    Raises:
        InputError: no such quantity, or nothing was measured of it.
    """
    import matplotlib.pyplot

    panels: dict[str, Callable[[], Panel | None]] = {
        "accuracy": lambda: accuracy_panel(summary, looks(*summary.curve_names())),
        "fooling": lambda: fooling_figure(summary, looks(*summary.curve_names())).panels[0],
        "drift": lambda: _drift_of_strongest(summary),
    }
    if quantity not in panels:
        raise InputError(f"plot({quantity!r}): {did_you_mean(quantity, panels)}")
    panel = panels[quantity]()
    if panel is None or not panel.series:
        raise InputError(f"plot({quantity!r}): nothing was measured of it")
    with theme():
        if axis is None:
            _, axis = matplotlib.pyplot.subplots(figsize=(5.4, 3.4))
        _panel(axis, panel, with_title=False, with_y_label=True)
        axis.legend()
    return axis


def _drift_of_strongest(summary: Summary) -> Panel | None:
    first = first_norm(summary)
    attack = strongest_attack(first)
    return None if attack is None else drift_panel(first, attack)


def shorten(label: str, most: int = 56) -> str:
    """A label that fits under a figure: the end of an over-long one tells more than its start."""
    label = " ".join(label.split())
    return label if len(label) <= most else f"…{label[1 - most :]}"


def _panel(axis: Axes, panel: Panel, with_title: bool, with_y_label: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for series in panel.series:
        _curve(axis, series)
    if panel.zero_line:
        axis.axhline(0, color="#333333", linewidth=0.9)
    if panel.y_range:
        low, high = panel.y_range
        pad = 0.015 * (high - low) if panel.percent else 0.0
        axis.set_ylim(low - pad, high + pad)
    if panel.percent:
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 4, 5, 10]))
    axis.margins(x=0.02)
    axis.set_xlabel(panel.x_label)
    if with_y_label:
        axis.set_ylabel(panel.y_label)
    if with_title:
        axis.set_title(panel.title)


def _curve(axis: Axes, series: Series) -> None:
    import seaborn

    look = series.look
    seaborn.lineplot(
        x=series.x, y=series.y, ax=axis, errorbar=None, color=look.light, linewidth=1.6, marker=look.marker,
        markersize=4.2, markeredgecolor="white", markeredgewidth=0.5, label=shorten(series.label), legend=False,
    )  # fmt: skip
    if look.dash:
        axis.lines[-1].set_dashes(look.dash)
    banded = [i for i, low in enumerate(series.low) if low is not None and series.high[i] is not None]
    x = [series.x[i] for i in banded]
    low, high = [series.low[i] or 0.0 for i in banded], [series.high[i] or 0.0 for i in banded]
    axis.fill_between(x, low, high, color=look.light, alpha=0.14, linewidth=0)


def frame(spec: FigureSpec) -> pd.DataFrame:
    """The numbers of a figure: what each curve is of, eps, value, ci_low, ci_high, n."""
    rows: list[dict[str, object]] = []
    for panel in spec.panels:
        for series in panel.series:
            columns: Sequence[Sequence[object]] = (series.eps, series.y, series.low, series.high, series.n)
            rows += [
                {**series.keys, "eps": eps, "value": y, "ci_low": low, "ci_high": high, "n": n}
                for eps, y, low, high, n in zip(*columns, strict=True)
            ]
    return pd.DataFrame(rows)
