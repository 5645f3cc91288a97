"""The page: claim by claim what the paper says, what was measured here, and the command."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustatt.files import write_atomically
from robustatt.report.draw import draw, theme
from robustatt.report.figures import FigureSpec, Panel, Series, fooling_figure
from robustatt.report.markdown import table
from robustatt.report.style import SeriesStyle, looks
from robustatt.results.summary import Summary
from robustatt.studies.paper.claims import Measured, interval
from robustatt.studies.paper.finding import Claim, Finding
from robustatt.studies.segment.result import HEADLINE, Entry

HEADS = ("comparison", "the paper", "here, with its 95 % interval", "verdict", "")
FIGURE_DPI = 120
WIDTH = 120


def page(found: Sequence[Claim], measured: Measured, plan: str, figures: Mapping[str, str]) -> str:
    """The whole page as Markdown.

    Args:
        found: the six claims.
        measured: what they were judged by.
        plan: the path of the plan, as the command is given it.
        figures: captions by file name, of figures beside the page.
    """
    parts = [_head(measured, plan), _overview(found), *(_section(claim) for claim in found)]
    robust = list(_under_attack(measured))
    if robust:
        parts.append("\n".join(robust))
    if figures:
        parts.append(
            "\n\n".join(["## Figures", *(f"![{caption}]({name})\n\n{caption}" for name, caption in figures.items())])
        )
    return "\n\n".join(parts) + "\n"


def _head(measured: Measured, plan: str) -> str:
    cards = measured.sweep.cards
    names = ", ".join(f"`{name}` (width {card.width:g}, {card.epochs} epochs)" for name, card in cards.items())
    prose = textwrap.fill(
        f"The networks are those that come with the package: {names}. The paper's are of width 1 and had 300 epochs, so no "
        "number here reproduces one of the paper; what can be asked is whether its comparisons point the same way. **Held "
        "here**: the whole 95 % interval lies on the paper's side of 0 and, where several comparisons were made on the same "
        "images, the paired test says so after Holm's correction too (p at most 0.05). **Did not hold here**: the same on "
        "the other side. Otherwise the comparison is **not decided here**. Each network was trained once: the intervals "
        "speak of other images, not of other seeds.",
        WIDTH,
    )
    return f"""# *Learn To Pay Attention*: its claims, measured here

Written by `robustatt paper`; not edited by hand. Jetley, Lord, Lee & Torr, ICLR 2018, arXiv 1804.02391. Everything on
this page, with DIR the folder of the data sets:

```
robustatt paper --plan {plan} --data-root DIR
```

{prose}"""


def _overview(found: Sequence[Claim]) -> str:
    rows = [[str(claim.number), f"[{claim.title}](#claim-{claim.number})", claim.summary()] for claim in found]
    return "\n".join(table(["", "claim", "comparisons here"], rows))


def _section(claim: Claim) -> str:
    lines = [f'<a id="claim-{claim.number}"></a>\n\n## {claim.number}. {claim.title}\n', *_table(claim)]
    lines += ["\n" + textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in claim.notes]
    if claim.commands:
        lines += ["\n```", *claim.commands, "```"]
    return "\n".join(lines)


def _table(claim: Claim) -> list[str]:
    findings = claim.findings or [Finding("none", why="not in the plan")]
    return table(HEADS, [[it.what, it.paper, it.here, it.verdict, it.why] for it in findings])


def _under_attack(measured: Measured) -> Iterator[str]:
    """Beyond the paper: whether the maps still find the object in attacked images."""
    rows = [
        [data, f"`{entry['model']}` {entry['method'].replace('_', ' ')}", *(interval(point[HEADLINE]) for point in entry["points"])]
        for data, entry in _attacked(measured)
    ]
    if not rows:
        return
    entries = [entry for _, entry in _attacked(measured)]
    radii = [point["eps"] for point in max(entries, key=lambda it: len(it["points"]))["points"]]
    yield "## Beyond the paper: do the maps still find the object under attack?\n"
    yield "Jaccard index of the map binarised by Otsu's threshold, attacked images against the same masks.\n"
    heads = ["data", "map", *("clean" if eps.startswith("0") else eps for eps in radii)]
    yield from table(heads, rows, range(2, len(heads)))


def _attacked(measured: Measured) -> Iterator[tuple[str, Entry]]:
    for data, summary in measured.segments.items():
        for entry in summary["robustness"]:
            if entry["headline"]:
                yield data, entry


def write_figures(
    measured: Measured, summaries: Mapping[str, Summary], transfer: Path | None, folder: Path
) -> dict[str, str]:
    """Curve and bar figures beside the page, none of which shows a picture of a data set; captions by file name."""
    written = {}
    for data, summary in summaries.items():
        name = f"fooling-{data}.png"
        _png(fooling_figure(summary, looks(*summary.curve_names())), folder / name)
        written[name] = f"Fooling rate under FGSM on {data}, {summary.plan.data.n:,} images (claim 5)."
    if transfer is not None:
        write_atomically(folder / "transfer.png", transfer.read_bytes())
        written["transfer.png"] = (
            "A linear SVM on fixed features (claim 3); dashed: always answering the largest class."
        )
    shown = _localisation_panels(measured)
    if shown:
        spec = FigureSpec("localisation", "Localisation under attack", "", shown)
        _png(spec, folder / "localisation.png")
        written["localisation.png"] = (
            "Jaccard index of each network's map over the radius of the attack; bands: 95 % intervals."
        )
    return written


def _localisation_panels(measured: Measured) -> tuple[Panel, ...]:
    """A panel for each data set whose images were attacked, all of one height."""
    curves: dict[str, list[Series]] = {}
    for data, entry in _attacked(measured):
        drawn = curves.setdefault(data, [])
        drawn.append(_series(entry, SeriesStyle(len(drawn))))
    ends = [end for drawn in curves.values() for one in drawn for end in (*one.y, *one.high) if end is not None]
    top = min(1.0, 1.05 * max(ends, default=1.0))
    return tuple(
        Panel(data, data, "Jaccard index", tuple(drawn), percent=False, y_range=(0.0, top))
        for data, drawn in curves.items()
    )


def _series(entry: Entry, look: SeriesStyle) -> Series:
    points = [point[HEADLINE] for point in entry["points"]]
    return Series(
        f"{entry['model']} {entry['method'].replace('_', ' ')}",
        look,
        tuple(point["eps"] for point in entry["points"]),
        tuple(point["mean"] for point in points),
        tuple(point["low"] for point in points),
        tuple(point["high"] for point in points),
        tuple(point["n"] for point in entry["points"]),
    )


def _png(spec: FigureSpec, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with theme():
        figure = draw(spec)
    figure.set_dpi(FIGURE_DPI)
    raster: Any = FigureCanvasAgg(figure)
    drawing = io.BytesIO()
    raster.print_png(drawing, metadata={"Software": None})
    write_atomically(path, drawing.getvalue())
