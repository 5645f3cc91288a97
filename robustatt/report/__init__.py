"""From a run's summary and records to one page, publication figures and tables. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustatt.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ReportPaths", "write_report"]


@dataclass(frozen=True)
class ReportPaths:
    """The files that a report consists of."""

    html: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...] = ()


def write_report(
    directory: Path,
    records: pd.DataFrame | None,
    summary: Mapping[str, Any],
    out: Path | None = None,
    *,
    figures: bool = True,
) -> ReportPaths:
    """Write ``report.html`` and ``figures/`` (PNG, SVG, CSV) into ``out`` (default: the run's folder).

    Works from the summary alone; what needs single examples is left out without records. ``figures``
    False writes only the page. Raises InputError if the folder cannot be written.
    """
    from robustatt.plan import write_atomically
    from robustatt.report import html, panels
    from robustatt.report.figures import write_figure

    folder = Path(out) if out is not None else Path(directory)
    curves = panels.figures(summary)
    drift = drift_figures(summary)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        written: list[Path] = []
        if figures:
            for spec in [*curves, *(spec for spec in drift if spec.slug.startswith("drift-js-"))]:
                written += write_figure(spec, folder / "figures")
        page = html.render(summary, html.Page(curves, drift))
        write_atomically(folder / "report.html", page.encode())
    except OSError as error:
        raise InputError(f"cannot write the report into {folder}: {error.strerror or error}") from None
    return ReportPaths(folder / "report.html", tuple(written))


def drift_figures(summary: Mapping[str, Any]) -> list[Any]:
    """One figure for each attention model and drift measure, under the strongest attack."""
    from robustatt.report import narrative, panels

    attack = narrative.strongest_attack(summary)
    if attack is None:
        return []
    found = [
        panels.drift_figure(summary, model, attack, metric)
        for model in panels.drift_models(summary)
        for metric in panels.DRIFT_METRICS
    ]
    return [spec for spec in found if spec is not None]
