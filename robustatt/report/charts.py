"""Panels as inline SVG for the page: sharp, in the colours of its theme, readable without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from markupsafe import Markup, escape

from robustatt.report.figures import Panel, Series
from robustatt.report.style import MARKERS, SeriesStyle

WIDTH, HEIGHT = 400, 276
LEFT, RIGHT, TOP, BOTTOM = 60, 10, 10, 42
MAX_TICK = 5
"""More characters of a tick's value would run into the name of the axis."""


@dataclass(frozen=True)
class Axes:
    """The mapping from data to pixels of one chart."""

    x: tuple[float, float]
    y: tuple[float, float]

    def px(self, value: float) -> float:
        """Horizontal place."""
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def py(self, value: float) -> float:
        """Vertical place."""
        return HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)


def axes_of(panel: Panel) -> Axes:
    """Ranges that hold every value of the panel."""
    xs = [x for series in panel.series for x in series.x] or [0.0, 1.0]
    low, high = panel.y_range or _span([y for series in panel.series for y in series.y])
    return Axes((min(0.0, *xs), max(xs) if max(xs) > min(0.0, *xs) else 1.0), (low, high))


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    return (low, high) if high > low else (low, low + 1.0)


def ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Round tick values inside a range, at most ``most`` + 1 of them."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 4, 5, 10) if m * power >= raw * (1 - 1e-9))
    step = max(1.0, math.ceil(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(panel: Panel) -> Markup:
    """One panel as an SVG element."""
    axes = axes_of(panel)
    parts = [_grid(panel, axes)]
    parts += [_band(series, axes) for series in panel.series]
    parts += [_line(series, axes) for series in panel.series]
    label = escape(f"{panel.title}: {panel.y_label} against {panel.x_label}")
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}" data-chart="{slug}">{body}'
        '<line class="cursor" x1="0" x2="0" y1="{top}" y2="{bottom}" hidden="hidden"/></svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        label=label,
        slug=panel.slug,
        body=Markup("").join(parts),
        top=TOP,
        bottom=HEIGHT - BOTTOM,
    )


class Stop(TypedDict):
    """One radius of a chart: its place in pixels, and the number and value of each curve there."""

    at: float
    eps: str
    rows: list[tuple[int, str]]


class HoverData(TypedDict):
    """What the page shows when the pointer is over a chart; colours are numbers of the palette."""

    labels: list[str]
    colours: list[int]
    stops: list[Stop]


def hover_data(panel: Panel) -> HoverData:
    """The values of every curve of a panel, radius by radius."""
    axes = axes_of(panel)
    stops: dict[float, Stop] = {}
    for number, series in enumerate(panel.series):
        for i, x in enumerate(series.x):
            stop = stops.setdefault(x, {"at": round(axes.px(x), 1), "eps": series.eps[i], "rows": []})
            stop["rows"].append((number, value_text(series, i, panel.percent)))
    return {
        "labels": [series.label for series in panel.series],
        "colours": [series.look.colour % len(MARKERS) for series in panel.series],
        "stops": [stops[x] for x in sorted(stops)],
    }


def value_text(series: Series, i: int, percent: bool) -> str:
    """One value with its interval and n, as text."""

    def show(value: float) -> str:
        return f"{100 * value:.1f}" if percent else f"{value:.3g}"

    low, high = series.low[i], series.high[i]
    unit = " %" if percent else ""
    band = f" [{show(low)}, {show(high)}]" if low is not None and high is not None else ""
    return f"{show(series.y[i])}{unit}{band}, n = {series.n[i]}"


def tick_text(value: float) -> str:
    """A tick's value in few characters, so that it stays clear of the axis' name: 0.002, 4e-4."""
    text = f"{value:.3g}"
    mantissa, _, power = f"{value:e}".partition("e")
    return text if len(text) <= MAX_TICK else f"{float(mantissa):.2g}e{int(power)}"


def _grid(panel: Panel, axes: Axes) -> Markup:
    parts = []
    bottom = HEIGHT - BOTTOM
    for value in ticks(*axes.y, most=5):
        text = f"{100 * value:g}" if panel.percent else tick_text(value)
        y = round(axes.py(value), 1)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y)
            + Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 7, y + 4, text)
        )
    for value in ticks(*axes.x, most=8, whole=axes.x[1] >= 4):
        x = round(axes.px(value), 1)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, TOP, bottom)
            + Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{:g}</text>').format(x, bottom + 17, value)
        )
    if panel.zero_line:
        y = round(axes.py(0), 1)
        parts.append(Markup('<line class="zero" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y))
    middle = TOP + (bottom - TOP) / 2
    unit = ", %" if panel.percent else ""
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 8, panel.x_label
        )
        + Markup('<text class="label" transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            middle, panel.y_label + unit
        )
    )
    return Markup("").join(parts)


def _band(series: Series, axes: Axes) -> Markup:
    known = [
        (x, low, high)
        for x, low, high in zip(series.x, series.low, series.high, strict=True)
        if low is not None and high is not None
    ]
    if len(known) < 2:
        return Markup("")
    floor, roof = axes.y
    upper = [(x, min(high, roof)) for x, _, high in known]
    lower = [(x, max(low, floor)) for x, low, _ in reversed(known)]
    return Markup('<polygon class="band c{}" points="{}"/>').format(
        series.look.colour % len(MARKERS), _points([*upper, *lower], axes)
    )


def _line(series: Series, axes: Axes) -> Markup:
    points = list(zip(series.x, series.y, strict=True))
    marks = Markup("").join(_marker(series.look, axes.px(x), axes.py(y)) for x, y in points)
    return Markup('<g class="series c{}"><polyline points="{}"{}/>{}</g>').format(
        series.look.colour % len(MARKERS), _points(points, axes), _dash(series.look), marks
    )


def _points(points: Sequence[tuple[float, float]], axes: Axes) -> str:
    return " ".join(f"{axes.px(x):.1f},{axes.py(y):.1f}" for x, y in points)


def _dash(look: SeriesStyle) -> Markup:
    if not look.dash:
        return Markup("")
    return Markup(' stroke-dasharray="{}"').format(" ".join(f"{1.3 * d:g}" for d in look.dash))


_SHAPES = {
    "o": "M-2.8,0a2.8,2.8 0 1,0 5.6,0a2.8,2.8 0 1,0 -5.6,0z",
    "s": "M-2.6,-2.6h5.2v5.2h-5.2z",
    "^": "M0,-3.5L3.3,2.5L-3.3,2.5z",
    "D": "M0,-3.6L3.6,0L0,3.6L-3.6,0z",
    "v": "M0,3.5L3.3,-2.5L-3.3,-2.5z",
    "P": "M-1.1,-3.3h2.2v2.2h2.2v2.2h-2.2v2.2h-2.2v-2.2h-2.2v-2.2h2.2z",
    "X": "M-3.3,-2L-2,-3.3L0,-1.4L2,-3.3L3.3,-2L1.4,0L3.3,2L2,3.3L0,1.4L-2,3.3L-3.3,2L-1.4,0z",
    "p": "M0,-3.4L3.2,-1.1L2,2.8L-2,2.8L-3.2,-1.1z",
}


def _marker(look: SeriesStyle, x: float, y: float) -> Markup:
    return Markup('<path class="mark" d="{}" transform="translate({:.1f} {:.1f})"/>').format(_SHAPES[look.marker], x, y)


def swatch(look: SeriesStyle, marker: bool = True) -> Markup:
    """The small sample of a curve beside its name in a legend."""
    mark = _marker(look, 17, 7) if marker else Markup("")
    return Markup(
        '<svg class="swatch" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">'
        '<g class="series {}"><line x1="1" x2="33" y1="7" y2="7"{}/>{}</g></svg>'
    ).format(f"c{look.colour % len(MARKERS)}" if marker else "plain", _dash(look), mark)
