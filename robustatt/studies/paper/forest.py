"""A forest plot for each claim: every comparison with its interval, a dot for each seed, coloured by its verdict."""

from __future__ import annotations

from robustatt.report.draw import png_bytes, theme
from robustatt.report.style import LIGHT
from robustatt.studies.paper.finding import HELD, ONE_SEED, OPEN, REVERSED, SHORT, Claim

COLOURS = {HELD: LIGHT[2], REVERSED: LIGHT[1], OPEN: LIGHT[7], ONE_SEED: LIGHT[0]}
MARKERS = {HELD: "o", REVERSED: "s", OPEN: "D", ONE_SEED: "^"}
ROW, INCH_A_LETTER = 0.21, 0.068


def forest_png(claim: Claim) -> bytes | None:
    """A PNG of the findings that have numbers; None if none has."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [(finding, finding.measured) for finding in claim.findings if finding.measured is not None]
    if not rows:
        return None
    scale = 100.0 if claim.percent else 1.0
    labels = [finding.what.replace("`", "") for finding, _ in rows]
    left, right, below, above = 0.15 + INCH_A_LETTER * max(map(len, labels)), 3.6, 0.75, 0.3
    width, height = left + right + 0.15, above + ROW * (len(rows) + 0.6) + below
    with theme(**{"axes.grid.axis": "x"}):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, below / height, right / width, 1 - (above + below) / height))
        for place, (finding, measured) in enumerate(rows):
            colour, change = COLOURS[finding.verdict], measured.change
            axes.plot([scale * change.low, scale * change.high], [place, place], color=colour, linewidth=1.6)
            axes.plot(scale * change.value, place, MARKERS[finding.verdict], color=colour, markersize=4.5)
            if len(measured.by_seed) > 1:
                axes.plot(
                    [scale * value for value in measured.by_seed],
                    [place] * len(measured.by_seed),
                    "|",
                    color="#222222",
                    markersize=6,
                )
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.4, -0.6), xlabel=claim.axis)
        axes.tick_params("y", length=0)
        axes.set_title(f"Claim {claim.number}")
        shown = [verdict for verdict in COLOURS if any(finding.verdict == verdict for finding, _ in rows)]
        handles = [Line2D([], [], color=COLOURS[it], marker=MARKERS[it], markersize=4.5, label=SHORT[it]) for it in shown]
        if any(len(measured.by_seed) > 1 for _, measured in rows):
            handles.append(Line2D([], [], color="#222222", marker="|", markersize=6, linestyle="", label="each seed"))
        figure.legend(handles=handles, loc="lower center", ncols=len(handles))
        return png_bytes(figure)
