"""Where in the depth attention gives way: drift by level and radius as a heatmap, for networks of many levels."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from robustatt.eps import parse_radius
from robustatt.report.draw import save, theme, write_csv
from robustatt.report.figures import SEARCH_NOTE, drift_models, file_safe, is_searched
from robustatt.results.columns import DRIFT_METRICS, kind_of, level_title
from robustatt.results.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_LEVELS = 4
METRIC = "js"


@dataclass(frozen=True)
class Depth:
    """Mean drift of a model under an attack: a row for each level in order of depth, a column for each radius."""

    model: str
    attack: str
    table: pd.DataFrame
    caption: str

    @property
    def title(self) -> str:
        """What the figure is called."""
        return f"Attention drift of {self.model} by depth"

    def draw(self) -> Figure:
        """The heatmap."""
        import seaborn
        from matplotlib.figure import Figure

        levels, radii = self.table.shape
        with theme(**{"axes.grid": False}):
            figure = Figure(figsize=(2.2 + 0.42 * radii, 1.0 + 0.24 * levels), layout="constrained")
            axis = figure.subplots()
            shown = self.table.rename(index=level_title)
            seaborn.heatmap(shown, ax=axis, cmap="rocket_r", vmin=0, cbar_kws={"label": DRIFT_METRICS[METRIC].title})
            axis.set(xlabel=f"radius of {self.attack}", ylabel="")
            axis.tick_params(length=0)
            axis.tick_params("y", rotation=0)
        return figure


def depths(summary: Summary, attack: str | None) -> Iterator[Depth]:
    """One for each model with at least `FEWEST_LEVELS` attended levels."""
    for model in drift_models(summary, "attention") if attack else ():
        rows = [
            row for row in summary.drift
            if (row.model, row.attack, row.metric, row.group) == (model, attack, METRIC, "all")
            and kind_of(row.level) == "attention" and parse_radius(row.eps) > 0
        ]  # fmt: skip
        levels = list(dict.fromkeys(row.level for row in rows))
        if len(levels) < FEWEST_LEVELS or attack is None:
            continue
        radii = sorted({row.eps for row in rows}, key=parse_radius)
        table = pd.DataFrame(index=levels, columns=radii, dtype=float)
        for row in rows:
            table.loc[row.level, row.eps] = row.mean
        caption = (
            f"Mean {DRIFT_METRICS[METRIC].title} between the maps of the clean image and of the image attacked at exactly this "
            f"radius, by level from the first to the last.{SEARCH_NOTE if is_searched(summary, attack) else ''}"
        )
        yield Depth(model, attack, table, caption)


def write_depths(summary: Summary, attack: str | None, folder: Path) -> list[Path]:
    """Write ``drift-depth-<model>`` as PNG, SVG and CSV."""
    paths: list[Path] = []
    for depth in depths(summary, attack):
        stem = folder / f"drift-depth-{file_safe(depth.model)}"
        with theme(**{"axes.grid": False}):
            paths += save(depth.draw(), stem)
        write_csv(depth.table.rename_axis("level").reset_index(), stem.with_name(f"{stem.name}.csv"))
        paths.append(stem.with_name(f"{stem.name}.csv"))
    return paths


def on_the_page(summary: Summary, attack: str | None) -> list[dict[str, str]]:
    """Title, caption and picture of each for the page."""
    found = []
    for depth in depths(summary, attack):
        buffer = io.BytesIO()
        depth.draw().savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        picture = Markup("data:image/png;base64,") + base64.b64encode(buffer.getvalue()).decode()
        found.append({"title": depth.title, "caption": depth.caption, "picture": picture})
    return found
