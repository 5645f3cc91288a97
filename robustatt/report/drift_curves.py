"""Drift of maps by radius: the figures of fooled and held images, and one panel of all models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from robustatt.eps import parse_radius
from robustatt.files import file_safe
from robustatt.report.figures import FigureSpec, Panel, Series, attack_title, one_scale
from robustatt.report.style import GROUP_LOOKS, looks
from robustatt.results.columns import DRIFT_METRICS, Kind, kind_of, level_title, shown_levels
from robustatt.results.summary import DriftRow, Summary

KIND_WORDS: dict[Kind, tuple[str, str, str]] = {
    "attention": ("drift", "Attention drift", "attention maps"),
    "saliency": ("saliency", "Saliency drift", "Grad-CAM saliency maps"),
}
"""For each kind of map: how files of its figures begin, what its drift is called, and what the maps are."""

MIN_IMAGES = 5
"""A mean of fewer is not drawn unless there is nothing else: its interval would fill the axes."""

CONTROLS = {"noise": "uniform noise up to ε", "sign-noise": "random signs times ε"}
"""What the controls are called in the figures of drift."""


SEARCH_NOTE = (
    " The threshold search attacks an image only near the radius where it breaks, so a curve ends where too few images were "
    "attacked; sweep with --independent to attack every image at every radius."
)


def _searched(summary: Summary, attack: str) -> bool:
    """Whether an attack was run only at the radii near each image's threshold: those in one step attack at all radii."""
    return summary.plan.evaluation == "threshold search" and not summary.at_full_strength(attack)


def _strength(summary: Summary, attack: str) -> str:
    """On which examples drift was measured, if at full strength."""
    if summary.full_strength is None or all(row.attack != attack for row in summary.full_strength.drift):
        return ""
    return f" run to its last step at every radius, on a sample of {summary.full_strength.n} images"


def drift_models(summary: Summary, kind: Kind) -> list[str]:
    """Models for which drift of this kind was recorded."""
    return list(dict.fromkeys(row.model for row in summary.measured_drift() if kind_of(row.level) == kind))


def drift_figure(summary: Summary, model: str, attack: str, metric: str = "js", kind: Kind = "attention") -> FigureSpec | None:
    """Mean drift by level, fooled apart from held, beside random noise if it was run; None without data.

    Attention and saliency never share a figure: the same numbers mean different things there.
    """
    rows = [row for row in summary.measured_drift() if (row.model, row.metric) == (model, metric) and kind_of(row.level) == kind]
    name, unit = DRIFT_METRICS[metric].title, DRIFT_METRICS[metric].unit
    norm = summary.norm_of(attack)
    attacks = dict.fromkeys([*summary.curve_names()[1], *(row.attack for row in rows)])
    controls = {name: CONTROLS.get(name, attack_title(summary, name)) for name in attacks if not summary.is_adversary(name)}
    panels = []
    levels = list(dict.fromkeys(row.level for row in rows))
    shown = shown_levels(levels)
    for level in shown:
        here = [row for row in rows if row.level == level]
        series = [_drift_series(here, attack, group, group, norm) for group in ("fooled", "held")]
        series += [_drift_series(here, control, "all", label, norm) for control, label in controls.items()]
        drawn = tuple(entry for entry in series if entry is not None)
        if drawn:
            slug = f"drift-{metric}-{level}"
            panels.append(Panel(slug, level_title(level), name, drawn, percent=False, y_range=None))
    if not panels:
        return None
    stem, what, maps = KIND_WORDS[kind]
    caption = (
        f"{name} between the {maps} of the clean and the attacked image ({unit}): mean over images that were "
        "fooled at this radius and over those that held, of the images attacked at exactly this radius. "
        f"Model {model}, attack {attack}{_strength(summary, attack)}. Bands: 95 % t intervals of the mean; a mean of fewer "
        f"than {MIN_IMAGES} images is drawn only where a curve has no other.{SEARCH_NOTE if _searched(summary, attack) else ''}"
        f"{f' Shown are {len(shown)} of {len(levels)} levels; summary.json has all.' if len(shown) < len(levels) else ''}"
    )
    title = f"{what} of {model}: {name if metric == 'js' else name.lower()}"
    return FigureSpec(f"{stem}-{metric}-{file_safe(model)}", title, caption, one_scale(panels))


def drift_panel(summary: Summary, attack: str, metric: str = "js") -> Panel | None:
    """Mean drift over all attacked images by radius, a curve for each model and level; None without data."""
    name, unit = DRIFT_METRICS[metric].title, DRIFT_METRICS[metric].unit
    norm, curves = summary.norm_of(attack), list(dict.fromkeys((row.model, row.level) for row in summary.measured_drift()))
    kept = {model: shown_levels([level for name, level in curves if name == model]) for model, _ in curves}
    curves = [(model, level) for model, level in curves if level in kept[model]]
    models, levels = list(dict.fromkeys(model for model, _ in curves)), list(dict.fromkeys(level for _, level in curves))
    look = looks(models, levels)
    series = []
    for model, level in curves:
        rows = [row for row in summary.measured_drift() if (row.model, row.level, row.metric) == (model, level, metric)]
        drawn = _drift_series(rows, attack, "all", f"{model}, {level_title(level).lower()}", norm)
        if drawn is not None:
            series.append(replace(drawn, look=look[model, level]))
    return (
        Panel(f"drift-{metric}", f"{name} under {attack}", f"{name} ({unit})", tuple(series), percent=False, y_range=None)
        if series
        else None
    )


def _drift_series(rows: Sequence[DriftRow], attack: str, group: str, label: str, norm: str) -> Series | None:
    chosen = [row for row in rows if row.attack == attack and row.group == group and parse_radius(row.eps) > 0]
    chosen = [row for row in chosen if row.n >= MIN_IMAGES] or chosen
    chosen.sort(key=lambda row: parse_radius(row.eps))
    if not chosen:
        return None
    keys = {name: str(getattr(chosen[0], name)) for name in ("model", "attack", "level", "metric", "group")}
    return Series(
        label,
        GROUP_LOOKS.get(label, GROUP_LOOKS[CONTROLS["noise"]]),
        tuple(row.eps for row in chosen),
        tuple(math.nan if row.mean is None else row.mean for row in chosen),
        tuple(row.ci_low for row in chosen),
        tuple(row.ci_high for row in chosen),
        tuple(row.n for row in chosen),
        keys,
        norm,
    )
