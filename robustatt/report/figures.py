"""Summary to panels: the series of every figure, once, for the image files, the page and the CSVs alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from robustatt.attack.recipe import Category
from robustatt.eps import NORM_TITLES, axis_value, parse_radius
from robustatt.report.style import SeriesStyle, looks
from robustatt.results import statistics
from robustatt.results.summary import Curve, Difference, Summary


@dataclass(frozen=True)
class Series:
    """One curve: x as an axis of its norm counts, y, and the band; None in the band where there is no interval."""

    label: str
    look: SeriesStyle
    eps: tuple[str, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    n: tuple[int, ...]
    keys: Mapping[str, str] = field(default_factory=dict)
    """What the curve is of (model, attack, level, group), for the CSV."""
    norm: str = "linf"

    @cached_property
    def x(self) -> tuple[float, ...]:
        """The radii in steps of 1/255, or for other norms than L-infinity in the scale of pixels in [0, 1]."""
        return tuple(axis_value(eps, self.norm) for eps in self.eps)


AIMS: dict[Category, str] = {"control": "control", "attention": "label kept"}
"""What is written behind the name of what is no adversary."""

X_LABELS = {"linf": "radius ε, steps of 1/255", "l2": "L2 radius ε", "l1": "L1 radius ε"}


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    slug: str
    title: str
    y_label: str
    series: tuple[Series, ...]
    percent: bool = True
    y_range: tuple[float, float] | None = (0.0, 1.0)
    zero_line: bool = False

    @property
    def x_label(self) -> str:
        """What the axis of radii counts."""
        return X_LABELS[self.series[0].norm if self.series else "linf"]


@dataclass(frozen=True)
class FigureSpec:
    """One figure: panels side by side under one caption; ``slug`` names its files."""

    slug: str
    title: str
    caption: str
    panels: tuple[Panel, ...]


def attack_title(summary: Summary, attack: str) -> str:
    """An attack's name, and what it is where it is no adversary."""
    category = summary.plan.attack(attack).category
    return f"{attack} ({AIMS[category]})" if category in AIMS else attack


def sweep_figures(summary: Summary) -> list[FigureSpec]:
    """Every curve figure that the summary holds data for; each norm has its own."""
    norms, look = summary.norms(), looks(*summary.curve_names())
    return [spec for norm in norms for spec in _marked(_figures(summary.of_norm(norm), look), norm, norms)]


def _marked(specs: Sequence[FigureSpec], norm: str, norms: Sequence[str]) -> list[FigureSpec]:
    """Figures of a norm: its name in the title if there are several; in the files' names for all but the first."""
    if len(norms) == 1:
        return list(specs)
    ending = "" if norm == norms[0] else f"-{norm}"
    return [
        replace(
            spec, slug=spec.slug + ending, title=f"{spec.title}, {NORM_TITLES[norm]}",
            panels=tuple(replace(panel, slug=panel.slug + ending) for panel in spec.panels),
        )
        for spec in specs
    ]  # fmt: skip


def _figures(summary: Summary, look: Looks) -> list[FigureSpec]:
    specs = [accuracy_figure(summary, look), worst_case_figure(summary, look), fooling_figure(summary, look)]
    more = [gap_figure(summary, look), breaking_figure(summary, look)]
    return specs + [spec for spec in more if spec is not None]


Looks = Mapping[tuple[str, str], SeriesStyle]
"""The look of each model under each attack: of the whole run, so that each looks the same in every figure."""


def _curves(summary: Summary, look: Looks, quantity: str) -> tuple[Series, ...]:
    return tuple(
        curve_series(curve, quantity, f"{curve.model}, {attack_title(summary, curve.attack)}", look[curve.model, curve.attack])
        for curve in summary.curves
    )


def curve_series(curve: Curve, quantity: str, label: str, look: SeriesStyle, keys: Mapping[str, str] | None = None) -> Series:
    """One quantity of a curve with its 95 % Wilson intervals; `keys` are more of what it is of, for the CSV."""
    points = sorted(curve.points, key=lambda point: parse_radius(point.eps))
    bands = [point.interval(quantity) for point in points]
    return Series(
        label,
        look,
        tuple(point.eps for point in points),
        tuple(float(getattr(point, quantity)) for point in points),
        tuple(low for low, _ in bands),
        tuple(high for _, high in bands),
        tuple(point.n for point in points),
        {"model": curve.model, "attack": curve.attack, **(keys or {})},
        curve.norm,
    )


def accuracy_figure(summary: Summary, look: Looks) -> FigureSpec:
    """Accuracy at exactly each radius."""
    caption = (
        "Share of images still classified right under the attack at exactly this radius. Images that are "
        "misclassified without any attack count as wrong. Bands: 95 % Wilson intervals."
    )
    return FigureSpec("accuracy", "Accuracy against radius", caption, (accuracy_panel(summary, look),))


def accuracy_panel(summary: Summary, look: Looks) -> Panel:
    """The curves of accuracy, every model and attack."""
    return Panel("accuracy", "Accuracy", "accuracy", _curves(summary, look, "accuracy"))


def worst_case_figure(summary: Summary, look: Looks) -> FigureSpec:
    """Share that no smaller radius broke either."""
    caption = (
        "Share of images that the attack broke neither at this radius nor at any smaller one. Norm balls are "
        "nested, so this never rises. Bands: 95 % Wilson intervals."
    )
    panel = Panel("worst-case", "Worst case", "worst-case accuracy", _curves(summary, look, "worst_case_accuracy"))
    return FigureSpec("worst-case", "Worst case up to each radius", caption, (panel,))


def fooling_figure(summary: Summary, look: Looks) -> FigureSpec:
    """The paper's network fooling rate."""
    caption = (
        "Share of images whose predicted label changes from the one predicted for the clean image, right or "
        "wrong (the network fooling rate of Jetley et al. 2018). Bands: 95 % Wilson intervals."
    )
    panel = Panel("fooling", "Fooling rate", "fooling rate", _curves(summary, look, "fooling_rate"))
    return FigureSpec("fooling-rate", "Fooling rate against radius", caption, (panel,))


def gap_figure(summary: Summary, look: Looks) -> FigureSpec | None:
    """Accuracy of each attention model minus its baseline; None if no model has a baseline."""
    norm = summary.norms()[0]
    groups: dict[tuple[str, str, str], list[Difference]] = {}
    for row in summary.differences:
        if summary.is_adversary(row.attack):
            groups.setdefault((row.model, row.baseline, row.attack), []).append(row)
    series = [
        _gap_series(f"{model} minus {base}, {attack}", look[model, attack], rows, norm)
        for (model, base, attack), rows in groups.items()
        if (model, attack) in look
    ]
    if not series:
        return None
    caption = (
        "Accuracy of the attention model minus that of its baseline on the same images: above 0 the "
        "attention model resists better. Bands: 95 % intervals of the paired difference (Newcombe 1998)."
    )
    panel = Panel("gap", "Gap", "difference of accuracy", tuple(series), y_range=None)
    return FigureSpec("gap", "Gap to the baseline", caption, one_scale([panel]))


def _gap_series(label: str, look: SeriesStyle, rows: Sequence[Difference], norm: str) -> Series:
    rows = sorted(rows, key=lambda row: parse_radius(row.eps))
    keys = {"model": rows[0].model, "baseline": rows[0].baseline, "attack": rows[0].attack}
    return Series(
        label,
        look,
        tuple(row.eps for row in rows),
        tuple(row.difference for row in rows),
        tuple(row.ci_low for row in rows),
        tuple(row.ci_high for row in rows),
        tuple(row.n for row in rows),
        keys,
        norm,
    )


def breaking_figure(summary: Summary, look: Looks) -> FigureSpec | None:
    """Cumulative distribution of the smallest radius that breaks an image that is right when clean."""
    series = []
    for curve in _curves(summary, look, "worst_case_accuracy"):
        right = [round(y * n) for y, n in zip(curve.y, curve.n, strict=True)]
        whole = parse_radius(curve.eps[0]) == 0 and right[0] > 0 and len(set(curve.n)) == 1
        if not summary.is_adversary(curve.keys["attack"]) or not whole:
            continue
        broken = [right[0] - count for count in right]
        low, high = statistics.wilson(broken, right[0])
        share = tuple(count / right[0] for count in broken)
        band = (tuple(map(float, low)), tuple(map(float, high)))
        n = (right[0],) * len(right)
        series.append(Series(curve.label, curve.look, curve.eps, share, *band, n, curve.keys, curve.norm))
    if not series:
        return None
    caption = (
        "Share of the images right when clean whose smallest breaking radius is at most ε. It reaches one "
        "half at the median breaking radius. Bands: 95 % Wilson intervals."
    )
    panel = Panel("breaking", "Breaking radius", "broken at ε or below", tuple(series))
    return FigureSpec("breaking-radius", "Smallest breaking radius", caption, (panel,))


def one_scale(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """The same y axis for panels that are compared side by side."""
    values = [v for panel in panels for series in panel.series for v in _extent(series)]
    low, high = min(0.0, *values), max(values)
    top = high + 0.05 * (high - low or 1.0)
    bottom = low if low == 0 else low - 0.05 * (high - low)
    return tuple(Panel(p.slug, p.title, p.y_label, p.series, p.percent, (bottom, top), bottom < 0) for p in panels)


def _extent(series: Series) -> list[float]:
    """The values an axis must hold: every mean, and the bands of at least 10 images."""
    bands = [pair for pair, n in zip(zip(series.low, series.high, strict=True), series.n, strict=True) if n >= 10]
    return [*series.y, *(value for pair in bands for value in pair if value is not None)]
