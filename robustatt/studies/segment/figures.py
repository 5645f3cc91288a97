"""Figures of a localisation: PNG, SVG and the CSV of what is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from robustatt.eps import CLEAN
from robustatt.files import file_safe
from robustatt.report.draw import save_with_table, theme, write_figure
from robustatt.report.figures import FigureSpec, Panel, Series
from robustatt.report.style import LIGHT, SeriesStyle
from robustatt.studies.seeds import by_network
from robustatt.studies.segment.floors import FLOOR
from robustatt.studies.segment.result import HEADLINE, AttackedMap, MapScores, Mean, SegmentSummary, ThresholdCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustatt.studies.segment.run import ImageMaps, Localisation

GREY = "#6b7780"
MAP_COLOURS = "viridis"
FOOLED = "fooling_rate"
ROW = 0.2  # inches of height for a line of a dot plot

#: of the dot plot: title, then what each kind of dot is: measure, label, marker, filled
PANELS = (
    ("Jaccard index", (("jaccard_otsu", "Otsu's threshold", "o", True), ("jaccard_threshold", "fitted threshold", "D", False))),
    ("Average precision", (("average_precision", "no threshold", "o", True),)),
)  # fmt: skip


def write_all(result: Localisation, folder: Path) -> list[Path]:
    """Every figure the result holds data for; the paths written."""
    summary = result.summary
    written = save_with_table(_dots(summary), folder / "jaccard", _dots_table(summary))
    written += save_with_table(threshold_figure({summary.data.name: summary}), folder / "thresholds", _thresholds_table(summary))
    if summary.attention_mass:
        written += save_with_table(_mass(summary), folder / "attention-mass", _mass_table(summary))
    if summary.robustness:
        written += [path for spec in _robust(result) for path in write_figure(spec, folder)]
    for model in dict.fromkeys(picture.model for picture in result.pictures):
        pictures = [picture for picture in result.pictures if picture.model == model]
        written += save_with_table(_examples(pictures), folder / f"examples-{file_safe(model)}", _examples_table(pictures))
    return written


def _styled(width: float, height: float, **margins: float) -> Figure:
    """An empty figure; margins in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=margins["left"] / width, right=1 - margins["right"] / width, bottom=margins["bottom"] / height,
        top=1 - margins["top"] / height, wspace=margins.get("wspace", 0.06), hspace=margins.get("hspace", 0.06),
    )  # fmt: skip
    return figure


def _dots(summary: SegmentSummary) -> Figure:
    """A line for each map: dots with intervals; the dashed line is the best floor."""
    listed = summary.methods
    places = _places([it.model for it in listed])
    height = ROW * places[-1] + 1.1
    with theme():
        figure = _styled(7.6, height, left=1.9, right=0.15, bottom=0.66, top=0.32)
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for axis, (title, kinds) in zip(axes, PANELS, strict=True):
            axis.set_title(title)
            for name, label, marker, filled in kinds:
                _dot_row(axis, listed, name, label, marker, filled)
            best = max(it.by(kinds[0][0]).mean for it in listed if it.of_floor)
            axis.axvline(best, color=GREY, dashes=(4, 3), linewidth=1)
            axis.grid(axis="y", visible=False)
        _name_rows(axes[0], places, [f"{it.model}  {it.starred}" for it in listed])
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="lower left", ncols=2, borderaxespad=0.3)
        figure.text(0.985, 0.06 / height, "dashed: best floor    * judged by", ha="right", va="bottom", fontsize=8, color=GREY)
    return figure


def _dot_row(axis: Axes, listed: Sequence[MapScores], name: str, label: str, marker: str, filled: bool) -> None:
    models = list(dict.fromkeys(it.model for it in listed if not it.of_floor))
    lift = 0.0 if filled else 0.22
    for place, entry in zip(_places([it.model for it in listed]), listed, strict=True):
        colour = GREY if entry.of_floor else LIGHT[models.index(entry.model) % len(LIGHT)]
        number = entry.by(name)
        if number.ends:
            axis.plot(number.ends, [place + lift] * 2, color=colour, linewidth=1.4)
        axis.plot(
            number.mean, place + lift, marker=marker, color=colour, markersize=4.6, linestyle="none",
            markerfacecolor=colour if filled else "white", label=label if place == 0 else None,
        )  # fmt: skip


def _places(models: Sequence[str]) -> list[float]:
    """Where each line of a dot plot lies, with a gap between models."""
    gaps = [0.0] + [0.5 * (a != b) for a, b in itertools.pairwise(models)]
    return [place + gap for place, gap in enumerate(itertools.accumulate(gaps))]


def _name_rows(axis: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    axis.set_yticks(places, names)
    axis.set_ylim(places[-1] + 0.6, -0.6)


def _row(measure: str, n: int, number: Mean, **names: str) -> dict[str, object]:
    return {**names, "measure": measure, "n": n, "value": number.mean, "ci_low": number.low, "ci_high": number.high}


def _dots_table(summary: SegmentSummary) -> pd.DataFrame:
    names = [name for _, kinds in PANELS for name, *_ in kinds]
    return pd.DataFrame(
        [_row(name, it.n, it.by(name), model=it.model, method=it.method) for it in summary.methods for name in names]
    )


def _mass(summary: SegmentSummary) -> Figure:
    """How many times its share of the picture the object gets of each level's attention."""
    listed = summary.attention_mass
    models = list(dict.fromkeys(it.model for it in listed))
    places = _places([it.model for it in listed])
    with theme():
        figure = _styled(5.4, ROW * 1.3 * places[-1] + 0.95, left=1.6, right=0.15, bottom=0.55, top=0.12)
        axis = figure.subplots()
        for place, entry in zip(places, listed, strict=True):
            colour = LIGHT[models.index(entry.model) % len(LIGHT)]
            axis.plot(entry.ratio.ends, [place] * 2, color=colour, linewidth=1.6)
            axis.plot(entry.ratio.mean, place, "o", color=colour, markersize=5)
        axis.axvline(1.0, color=GREY, dashes=(4, 3), linewidth=1)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("attention on the object / the object's share of the picture")
        _name_rows(axis, places, [f"{it.model}  {it.level}" for it in listed])
    return figure


def _mass_table(summary: SegmentSummary) -> pd.DataFrame:
    return pd.DataFrame(
        [
            _row(name, it.n, number, model=it.model, level=it.level)
            for it in summary.attention_mass
            for name, number in (("mass", it.mass), ("object_share", it.object_share), ("ratio", it.ratio))
        ]
    )


def _robust(result: Localisation) -> list[FigureSpec]:
    """Localisation and fooling rate against the radius, by the map that each model is judged by."""
    curves = result.summary.judged
    panels = [
        Panel(name, title, title, (*curve_series(curves, name), _floor(result, curves[0], name)), percent=False, y_range=None)
        for name, title in ((HEADLINE, "Jaccard index (Otsu)"), ("average_precision", "average precision"))
    ]
    band = f"{result.summary.settings.attack} on the predicted class, run to its last step. Bands: 95 % intervals."
    fooled = Panel("fooling", "Fooling rate", "fooling rate", curve_series(curves, FOOLED))
    return [
        *(FigureSpec(f"{slug}-eps", panel.title, band, (panel,)) for slug, panel in zip(("jaccard", "precision"), panels, strict=True)),
        FigureSpec("fooling-eps", "Fooling rate", band, (fooled,)),
    ]  # fmt: skip


def curve_series(curves: Iterable[AttackedMap], name: str) -> tuple[Series, ...]:
    """One measure of some maps over the radii."""
    found = []
    for place, entry in enumerate(curves):
        numbers = [getattr(point, name) for point in entry.points]
        found.append(
            Series(
                entry.model if name == FOOLED else f"{entry.model} {entry.method}", SeriesStyle(place),
                tuple(point.eps for point in entry.points), tuple(number.mean for number in numbers),
                tuple(number.low for number in numbers), tuple(number.high for number in numbers),
                tuple(point.n for point in entry.points), {"model": entry.model, "method": entry.method},
            )
        )  # fmt: skip
    return tuple(found)


def _floor(result: Localisation, curve: AttackedMap, name: str) -> Series:
    """The best floor on the same images, clean: a level line."""
    images = result.images
    attacked = images.loc[images["eps"] != CLEAN, "index"].unique()
    floors = images[(images["model"] == FLOOR) & images["index"].isin(attacked)]
    means = floors.groupby("method")[name].mean()
    method, count = str(means.idxmax()), len(curve.points)
    return Series(
        f"floor {method}, clean images", SeriesStyle(7, (3, 2)), tuple(point.eps for point in curve.points),
        (float(means.max()),) * count, (None,) * count, (None,) * count, (len(attacked),) * count,
        {"model": FLOOR, "method": method},
    )  # fmt: skip


def threshold_figure(summaries: Mapping[str, SegmentSummary]) -> Figure:
    """A panel for each data set: the mean Jaccard index of each network's map, of its first seed, and of the floors."""
    with theme():
        figure = _styled(0.9 + 3.2 * len(summaries), 3.5, left=0.55, right=0.15, bottom=1.1, top=0.3, wspace=0.12)
        panels = figure.subplots(1, len(summaries), sharey=True, squeeze=False)[0]
        for axis, (name, summary) in zip(panels, summaries.items(), strict=True):
            curves = {curve.model: curve for curve in summary.threshold_curves if not curve.of_floor}
            shown = [curves[labels[0]] for labels in by_network(curves).values()]
            for place, curve in enumerate(shown):
                axis.plot(curve.thresholds, curve.jaccard, color=LIGHT[place % len(LIGHT)], linewidth=1.4, label=str(curve))
            for dashes, curve in zip(itertools.cycle(((4, 3), (1, 2), (6, 2, 1, 2), (2, 1))), _floors(summary), strict=False):
                axis.plot(curve.thresholds, curve.jaccard, color=GREY, dashes=dashes, linewidth=1, label=str(curve))
            axis.set(title=name, xlabel="threshold, share of the map's range", xlim=(0, 1))
        highest = max(max(curve.jaccard) for summary in summaries.values() for curve in summary.threshold_curves)
        panels[0].set(ylabel="mean Jaccard index", ylim=(0, 1.05 * highest))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=2 + len(summaries), fontsize=7)
    return figure


def _floors(summary: SegmentSummary) -> list[ThresholdCurve]:
    return [curve for curve in summary.threshold_curves if curve.of_floor]


def _thresholds_table(summary: SegmentSummary) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"model": it.model, "method": it.method, "threshold": threshold, "jaccard": jaccard}
            for it in summary.threshold_curves
            for threshold, jaccard in zip(it.thresholds, it.jaccard, strict=True)
        ]
    )


COLUMNS = ("image", "map", "marked (Otsu)", "mask")


def _examples(pictures: Sequence[ImageMaps]) -> Figure:
    """The best, the median and the worst image: image, map, binarised map, mask."""

    with theme():
        figure = _styled(7.2, 1.12 * len(pictures) + 0.3, left=0.95, right=0.08, bottom=0.08, top=0.28)
        axes = np.atleast_2d(figure.subplots(len(pictures), len(COLUMNS)))
        for line, picture in zip(axes, pictures, strict=True):
            line[0].imshow(picture.image)
            line[1].imshow(picture.values, cmap=MAP_COLOURS)
            line[2].imshow(_cut_out(picture.image, picture.marked))
            line[3].imshow(_cut_out(picture.image, picture.mask))
            for axis in line:
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(visible=False)
            line[0].set_ylabel(
                f"{picture.rank}\nimage {picture.index}\nJaccard {picture.jaccard:.2f}", rotation=0, ha="right", va="center", fontsize=8
            )  # fmt: skip
        for axis, name in zip(axes[0], COLUMNS, strict=True):
            axis.set_title(name, loc="center")
    return figure


def _cut_out(image: Any, marked: Any) -> Any:
    """The image where it is marked, and faded to white elsewhere."""
    faded = 255 - (255 - image.astype(np.float32)) * 0.15
    return np.where(marked[:, :, None], image, faded.astype(np.uint8))


def _examples_table(pictures: Sequence[ImageMaps]) -> pd.DataFrame:
    return pd.DataFrame(
        [{"rank": it.rank, "model": it.model, "method": it.method, "index": it.index, HEADLINE: it.jaccard} for it in pictures]
    )
