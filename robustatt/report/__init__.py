"""From a run's summary and records to one page, publication figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.errors import InputError
from robustatt.results.file_names import read_file_names

if TYPE_CHECKING:
    import pandas as pd

    from robustatt.report.figures import FigureSpec
    from robustatt.results.gallery import GalleryEntry
    from robustatt.results.summary import Summary

__all__ = ["ReportPaths", "write_comparison", "write_report"]


@dataclass(frozen=True)
class ReportPaths:
    """The files that a report consists of."""

    html: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...] = ()


def write_report(
    directory: Path,
    records: pd.DataFrame | None,
    summary: Summary,
    out: Path | None = None,
    *,
    figures: bool = True,
) -> ReportPaths:
    """Write ``report.html``, ``figures/`` and ``tables/`` into ``out`` (default: the run's folder).

    Works from the summary alone; the list of examples is left out without records, the gallery without stored
    examples in ``directory/gallery/``. ``figures`` False writes page and tables only. Raises InputError if
    the folder cannot be written or the gallery is damaged.
    """
    import robustatt.report.corruptions as corruptions
    import robustatt.report.page as page
    import robustatt.report.tables as tables
    import robustatt.report.text as text
    import robustatt.report.transfer as transfer
    import robustatt.report.who_fails as who_fails
    from robustatt.files import subfolder, write_atomically
    from robustatt.report.figures import sweep_figures
    from robustatt.results.gallery import read_gallery
    from robustatt.results.unbounded import rows_of

    folder = Path(out) if out is not None else Path(directory)
    heads, unbounded_rows = rows_of(summary)
    whole, summary = summary, summary.bounded()
    if records is not None:
        records = records[~records["attack"].isin({curve.attack for curve in whole.curves if curve.unbounded})]
    curves, drift, crafted = sweep_figures(summary), drift_figures(summary), transfer.figures(summary)
    stored = read_gallery(Path(directory))
    layout = page.adversaries(summary, records)
    strongest = text.strongest_attack(text.first_norm(summary))
    shown = [eps for overview in page.overviews(summary) for eps in overview.radii]
    by_class = who_fails.class_tables(layout, summary, strongest, shown)
    broken = (
        who_fails.breaking_tables(Path(directory), records, summary.curve_names()[0], strongest)
        if records is not None and strongest
        else []
    )
    more = page.example_parts(summary, layout, stored) | {
        "file_names": read_file_names(Path(directory)),
        "unbounded": (heads, unbounded_rows),
        "class_tables": by_class,
        "breaking": broken,
        **corruptions.context(whole),
    }
    if not summary.curves and "corruptions" in more:
        title = page.headline(summary)["title"]
        more |= {"headline": {"title": title, "facts": corruptions.facts(whole)}, "tiles": corruptions.tiles(whole)}
        more["missing"] = text.missing_parts(whole)
    try:
        pictures, rows = subfolder(folder, "figures"), subfolder(folder, "tables")
        html = page.render(summary, page.Page(curves, drift, more, crafted))
        write_atomically(folder / "report.html", html.encode())
        listed = tables.write_tables(summary, page.overviews(summary), rows, whole) if whole.curves else []
        listed += who_fails.write_class_tables(layout, by_class, broken, summary, rows)
        listed += transfer.write_tables(summary, rows)
        written = _write_figures(summary, [*curves, *crafted], drift, stored, pictures) if figures else []
        written += corruptions.write_corruptions(whole, pictures) if figures else []
        written += transfer.write_heatmaps(summary, pictures) if figures else []
    except OSError as error:
        raise InputError(f"cannot write the report into {folder}: {error.strerror or error}") from None
    return ReportPaths(folder / "report.html", tuple(written), tuple(listed))


def _write_figures(
    summary: Summary,
    curves: Sequence[FigureSpec],
    drift: Sequence[FigureSpec],
    stored: Sequence[GalleryEntry],
    folder: Path,
) -> list[Path]:
    from robustatt.report.confusion import write_confusion
    from robustatt.report.draw import write_figure
    from robustatt.report.drift_by_level import write_level_figure
    from robustatt.report.heatmaps import gallery_figures
    from robustatt.report.page import class_names
    from robustatt.report.text import first_norm, strongest_attack

    written: list[Path] = []
    for spec in [*curves, *(spec for spec in drift if spec.slug.split("-")[1] == "js")]:
        written += write_figure(spec, folder)
    classes, strongest = class_names(summary), strongest_attack(first_norm(summary))
    written += write_level_figure(summary, strongest, folder)
    written += write_confusion(summary, strongest, classes, folder)
    return written + gallery_figures(stored, classes, folder)


def drift_figures(summary: Summary) -> list[FigureSpec]:
    """One figure for each model and measure, of attention before those of saliency, under the strongest attack of the
    first norm."""
    import robustatt.report.drift_curves as curves
    import robustatt.report.text as text
    from robustatt.results.columns import DRIFT_METRICS

    summary = text.first_norm(summary)
    attack = text.strongest_attack(summary)
    if attack is None:
        return []
    found = [
        curves.drift_figure(summary, model, attack, metric, kind)
        for kind in curves.KIND_WORDS
        for model in curves.drift_models(summary, kind)
        for metric in DRIFT_METRICS
    ]
    return [spec for spec in found if spec is not None]


def write_comparison(
    first: tuple[str, pd.DataFrame, Summary],
    second: tuple[str, pd.DataFrame, Summary],
    out: Path,
) -> ReportPaths:
    """Write ``comparison.html`` and ``tables/comparison.csv``, ``tables/flips.csv`` of two runs into ``out``.

    Each run is (name, records, summary). Models and attacks of the same name are compared on the examples and
    radii that both have, by the exact McNemar test with Holm's correction; flips are listed one by one.
    Raises InputError if the runs have nothing in common.
    """
    import robustatt.report.comparison as comparison

    return ReportPaths(*comparison.write(first, second, Path(out)))
