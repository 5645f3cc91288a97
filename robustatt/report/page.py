"""Summary to page: one self-contained HTML file, every external name escaped, nothing fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import robustatt.report.text as text
from robustatt.eps import NORM_TITLES, UNITS, parse_radius
from robustatt.report.charts import chart, hover_data, swatch
from robustatt.report.confusion import matrices
from robustatt.report.drift_by_level import CAPTION as LEVELS_CAPTION
from robustatt.report.drift_by_level import level_tables
from robustatt.report.drift_curves import KIND_WORDS
from robustatt.report.examples import explorer_data
from robustatt.report.figures import FigureSpec, Panel, attack_title
from robustatt.report.heatmaps import class_name, page_gallery
from robustatt.report.style import DARK, LIGHT, SeriesStyle, looks
from robustatt.report.transfer import sliders
from robustatt.results.chains import part_tables
from robustatt.results.columns import DRIFT_METRICS
from robustatt.results.outcomes import Outcomes, outcomes_by_curve
from robustatt.results.precision import rounds_said
from robustatt.results.summary import Point, Summary
from robustatt.results.transfer import uncrafted
from robustatt.results.unbounded import rows_of

if TYPE_CHECKING:
    import pandas as pd

    from robustatt.results.gallery import GalleryEntry


Context = dict[str, Any]
"""What a template or a script of the page is given: plain values by name."""


@dataclass
class Page:
    """What the templates are given beside the summary: the figures, and parts that need the records."""

    curves: Sequence[FigureSpec]
    drift: Sequence[FigureSpec]
    more: Context = field(default_factory=dict)
    transfer: Sequence[FigureSpec] = ()


def render(summary: Summary, page: Page) -> str:
    """The whole page as text."""
    return render_template("report.html.j2", context(summary, page))


def render_template(name: str, values: Context) -> str:
    """A template of the package, autoescaped, with the filters of this module."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"signed": text.signed, "thousands": _thousands, "embed": embed}
    return environment.get_template(name).render(values)


def _template(name: str) -> str:
    return resources.files("robustatt.report").joinpath("templates", name).read_text(encoding="utf-8")


def embed(value: Any) -> Markup:
    """Data as JSON inside a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def frame_parts() -> Context:
    """What every page has: style sheet, script, colours."""
    return {
        "css": Markup(_template("report.css")),
        "js": Markup(_template("report.js")),
        "light": list(enumerate(LIGHT)),
        "dark": list(enumerate(DARK)),
    }


def class_names(summary: Summary) -> list[str]:
    """The data set's class names as the plan lists them, or none."""
    return summary.plan.data.classes


def adversaries(summary: Summary, records: pd.DataFrame | None) -> list[Outcomes]:
    """The outcomes of every attack that wants mistakes, in the order of the curves; none without records."""
    layout = list(outcomes_by_curve(records)) if records is not None and summary.curves else []
    models, attacks = summary.curve_names()
    layout = [outcomes for outcomes in layout if summary.is_adversary(outcomes.attack)]
    return sorted(layout, key=lambda g: (_place(g.model, models), _place(g.attack, attacks)))


def example_parts(summary: Summary, layout: Sequence[Outcomes], stored: Sequence[GalleryEntry]) -> Context:
    """The parts of the page that show single examples."""
    strongest = text.strongest_attack(text.first_norm(summary))
    explorer = explorer_data(layout, strongest)
    return {
        "explore_js": Markup(_template("explore.js")),
        "gallery": page_gallery(stored),
        "explorer": explorer,
        "explorer_left_out": explorer["left_out"] if explorer else [],
    }


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)


def tight(text: str) -> str:
    """The text with numbers and per cent signs kept on one line."""
    return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)


def _thousands(value: int) -> str:
    return f"{value:,}"


def context(summary: Summary, page: Page) -> Context:
    """Everything that the templates show."""
    models, attacks = summary.curve_names()
    strongest = text.strongest_by_norm(summary)
    movers = [attack for attack in attacks if summary.plan.attack(attack).category == "attention"]
    return {
        **frame_parts(),
        "classes": class_names(summary),
        "class_name": partial(class_name, classes=class_names(summary)),
        "confusion": matrices(summary, next(iter(strongest.values()), None), class_names(summary)),
        "headline": headline(summary),
        "models": models,
        "attacks": attacks,
        "strongest": " and ".join(strongest.values() if len(strongest) == 1 else _with_norms(strongest)),
        "tiles": text.tiles(summary),
        "health": summary.health,
        "integrity": [text.without_paths(finding) for finding in summary.integrity],
        "missing": text.missing_parts(summary),
        "rounds": rounds_said(summary.plan, summary.stopped),
        "limits": [tight(note) for note in text.limits(summary)],
        "legend": legend(summary),
        "curves": [_figure(spec) for spec in page.curves],
        "drift": drift_groups(page.drift),
        "drift_levels": [table for attack in [*strongest.values()][:1] + movers for table in level_tables(summary, attack)],
        "drift_levels_caption": LEVELS_CAPTION,
        "attack_title": partial(attack_title, summary),
        "saliency_note": text.SALIENCY_NOTE,
        "controls": any(summary.plan.attack(row.attack).category == "control" for row in summary.measured_drift()),
        "drift_metrics": DRIFT_METRICS,
        "drift_auc": text.prediction_rows(summary),
        "prediction_note": text.prediction_note(summary),
        "overviews": overviews(summary),
        "points": list(points(summary)),
        "chains": part_tables(summary),
        "transfer": sliders(summary),
        "transfer_figures": [_figure(spec) for spec in page.transfer],
        "uncrafted": uncrafted(summary),
        "provenance": flatten(summary.provenance.as_dict()),
        "plan": text.without_paths(json.dumps(summary.plan.as_dict(), indent=2, ensure_ascii=False)),
        "command": command(summary),
        "hover": _hover([*page.curves, *page.drift, *page.transfer]),
        **page.more,
    }


def headline(summary: Summary) -> dict[str, str]:
    """Title and one line of what was measured, on what."""
    models, attacks = summary.curve_names()
    models = models or [entry.name for entry in summary.plan.models]
    attacks = [name for name in attacks or [entry.name for entry in summary.plan.attacks] if summary.is_adversary(name)]
    name = summary.plan.data.name
    split = f" ({summary.plan.data.split})" if summary.plan.data.split else ""
    n = max((p.n for c in summary.curves for p in c.points), default=0)
    norms = sorted({text.NORMS.get(c.norm, c.norm) for c in summary.curves})
    of = f" of {summary.plan.rounds.of:,}" if summary.plan.rounds else ""
    facts = [f"{n:,}{of} images{split}" if n else "", ", ".join(attacks), ", ".join(norms)]
    facts += [_radii_fact(summary.of_norm(norm), norm) for norm in summary.norms()]
    finished = summary.provenance.finished[:10]
    subject = ", ".join(models[:-1]) + (" and " if len(models) > 1 else "") + models[-1] if models else "no model yet"
    if len(models) > 4:
        subject = f"{len(models)} models"
    return {
        "title": f"Robustness of {subject}" + (f" on {name}" if name else ""),
        "facts": " · ".join(text.without_paths(fact) for fact in [*facts, finished] if fact),
    }


def legend(summary: Summary) -> dict[str, list[tuple[Markup, str]]]:
    """Samples and names: colour and marker by model, line style by attack."""
    models, attacks = summary.curve_names()
    look = looks(models, attacks)
    first = attacks[0] if attacks else ""
    return {
        "models": [(swatch(SeriesStyle(look[model, first].colour)), model) for model in models if first],
        "attacks": [
            (swatch(look[models[0], attack], marker=False), attack_title(summary, attack)) for attack in attacks if models
        ],
    }


def result_card(summary: Summary, title: str) -> str:
    """A run in short for a notebook: accuracy at a handful of radii, and reasons to doubt the numbers."""
    heads, rows = rows_of(summary)
    kept = summary.bounded()
    values = {"title": title, "overviews": overviews(kept), "heads": heads, "rows": rows, "health": summary.health}
    return render_template("result.html.j2", values)


def drift_groups(specs: Sequence[FigureSpec]) -> dict[str, list[Context]]:
    """Figures of drift by kind of map; a kind without figures is left out."""
    groups = {
        kind: [_figure(spec) | {"metric": spec.slug.split("-")[1]} for spec in specs if spec.slug.startswith(f"{stem}-")]
        for kind, (stem, _, _) in KIND_WORDS.items()
    }
    return {kind: figures for kind, figures in groups.items() if figures}


def _figure(spec: FigureSpec) -> Context:
    shown: dict[str, SeriesStyle] = {}
    for panel in spec.panels:
        for series in panel.series:
            shown.setdefault(series.label, series.look)
    return {
        "slug": spec.slug,
        "title": spec.title,
        "caption": tight(spec.caption),
        "panels": [{"title": panel.title, "svg": chart(_scoped(spec, panel))} for panel in spec.panels],
        "key": [(swatch(look), label) for label, look in shown.items()],
    }


def _scoped(spec: FigureSpec, panel: Panel) -> Panel:
    """The panel under a name that is unique on the page."""
    slug = panel.slug if len(spec.panels) == 1 else f"{spec.slug}-{panel.slug}"
    return Panel(**{**panel.__dict__, "slug": slug})


def _hover(specs: Sequence[FigureSpec]) -> Context:
    return {panel.slug: hover_data(panel) for spec in specs for panel in (_scoped(spec, p) for p in spec.panels)}


def _with_norms(strongest: Mapping[str, str]) -> list[str]:
    return [f"{attack} in {NORM_TITLES[norm]}" for norm, attack in strongest.items()]


def _radii_fact(summary: Summary, norm: str) -> str:
    """From where to where the radii of one norm go, and how many there are; empty without any."""
    radii = sorted({parse_radius(p.eps) for c in summary.curves for p in c.points} - {0})
    if not radii:
        return ""
    values = [f"{float(radius / UNITS[norm]):g}" for radius in radii]
    ends = f"{values[0]} to {values[-1]}" if len(values) > 1 else values[0]
    unit = " /255" if norm == "linf" else f" in {NORM_TITLES[norm]}"
    return f"ε = {ends}{unit}, {len(values)} {'radii' if len(values) > 1 else 'radius'}"


@dataclass(frozen=True)
class OverviewRow:
    """One model under one attack: its points, None where there is none, and which of them are the best of that attack."""

    model: str
    attack: str
    cells: tuple[Point | None, ...]
    best: tuple[bool, ...]


@dataclass(frozen=True)
class Overview:
    """Models by attacks at a handful of radii; `of` is how many radii there are, `norm` its name if there are several."""

    radii: tuple[str, ...]
    rows: tuple[OverviewRow, ...]
    of: int
    norm: str

    @property
    def contest(self) -> bool:
        """Whether any value is marked as the best."""
        return any(any(row.best) for row in self.rows)


def overviews(summary: Summary) -> list[Overview]:
    """For each norm the table that fits on a page."""
    norms = summary.norms()
    return [_overview(summary.of_norm(norm), NORM_TITLES[norm] if len(norms) > 1 else "") for norm in norms]


def _overview(summary: Summary, norm: str) -> Overview:
    radii = every = sorted({parse_radius(p.eps) for c in summary.curves for p in c.points})
    texts = {parse_radius(p.eps): p.eps for c in summary.curves for p in c.points}
    if len(radii) > 6:
        wanted = [0, 1, 2, 4, 8, 16]
        chosen = [radius for radius in radii if radius * 255 in wanted]
        spread = [radii[round(i * (len(radii) - 1) / 5)] for i in range(6)]
        radii = chosen if len(chosen) >= 5 else sorted(set(spread))
    cells: dict[tuple[str, str], list[Point | None]] = {}
    for curve in summary.curves:
        by_radius = {parse_radius(p.eps): p for p in curve.points}
        cells[curve.model, curve.attack] = [by_radius.get(radius) for radius in radii]
    rows = []
    for (model, attack), mine in cells.items():
        columns = zip(*(other for (_, rival), other in cells.items() if rival == attack), strict=True)
        best = tuple(_is_best(point, column) for point, column in zip(mine, columns, strict=True))
        rows.append(OverviewRow(model, attack, tuple(mine), best))
    return Overview(tuple(texts[radius] for radius in radii), tuple(rows), len(every), norm)


def _is_best(point: Point | None, rivals: Sequence[Point | None]) -> bool:
    """Whether a point has the highest accuracy of its rivals, and not all of them have it."""
    values = [rival.accuracy for rival in rivals if rival is not None]
    return point is not None and min(values) < point.accuracy == max(values)


def points(summary: Summary) -> Any:
    """Every point of every curve as one table row."""
    for curve in summary.curves:
        for point in curve.points:
            yield {
                "model": curve.model,
                "attack": curve.attack,
                "steps": float(parse_radius(point.eps)),
                **point.as_dict(),
            }


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as (name, text) rows, without absolute paths."""
    if isinstance(value, Mapping):
        return [row for key, item in value.items() for row in flatten(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(item) for item in value)
    return [(prefix, text.without_paths("none" if value is None else str(value)))]


def command(summary: Summary) -> str:
    """The command that makes these numbers again."""
    return text.without_paths(summary.provenance.command)
