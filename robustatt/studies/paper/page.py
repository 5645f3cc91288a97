"""Both pages: of `robustatt paper` on all six claims, and of `robustatt reproduce` on a sweep of CIFAR-10.

Nothing is filled in that was not measured: a network without bundled weights has empty cells, and a claim that needs it is
left open.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.errors import InputError
from robustatt.files import write_atomically
from robustatt.models.card import read_cards
from robustatt.report.draw import draw, png_bytes, theme
from robustatt.report.figures import FigureSpec, Panel, fooling_figure
from robustatt.report.markdown import table
from robustatt.report.style import looks
from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes, curves_of
from robustatt.results.summary import Summary
from robustatt.studies.paper import accuracy
from robustatt.studies.paper.accuracy import PAPER_ACCURACY, TEST_IMAGES, UNTRAINED
from robustatt.studies.paper.claims import ROUND
from robustatt.studies.paper.finding import UNTESTED, WEIGHTS, Claim, Evidence, Finding, Measured, share
from robustatt.studies.segment.figures import curve_series
from robustatt.studies.segment.result import HEADLINE

if TYPE_CHECKING:
    import pandas as pd

HEADS = ("comparison", "the paper", "here, with its 95 % interval", "verdict", "")
FIGURE_DPI = 120
WIDTH = 120
IDLE = (
    "An attack in several steps leaves an image alone once it is misclassified, and so every image that is wrong from\n"
    "the start: this rate cannot exceed the clean accuracy, and networks of different accuracy are not to be compared by it."
)


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
    attacked = [(data, entry) for data, summary in measured.segments.items() for entry in summary.judged]
    if not attacked:
        return
    rows = [
        [data, f"`{it.model}` {it.method.replace('_', ' ')}", *(point.jaccard_otsu.text(ROUND) for point in it.points)]
        for data, it in attacked
    ]
    radii = [point.eps for point in max((entry for _, entry in attacked), key=lambda it: len(it.points)).points]
    yield "## Beyond the paper: do the maps still find the object under attack?\n"
    yield "Jaccard index of the map binarised by Otsu's threshold, attacked images against the same masks.\n"
    heads = ["data", "map", *("clean" if eps.startswith("0") else eps for eps in radii)]
    yield from table(heads, rows, range(2, len(heads)))


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
    judged = {data: summary.judged for data, summary in measured.segments.items()}
    curves = {data: curve_series(maps, HEADLINE) for data, maps in judged.items() if maps}
    ends = [end for drawn in curves.values() for one in drawn for end in (*one.y, *one.high) if end is not None]
    top = min(1.0, 1.05 * max(ends, default=1.0))
    return tuple(
        Panel(data, data, "Jaccard index", drawn, percent=False, y_range=(0.0, top)) for data, drawn in curves.items()
    )


def _png(spec: FigureSpec, path: Path) -> None:
    with theme():
        write_atomically(path, png_bytes(draw(spec), FIGURE_DPI, compress_level=6))


# robustatt reproduce ---------------------------------------------------------------------------------------


def reproduce(records: pd.DataFrame, summary: Summary, weights: Path = WEIGHTS) -> str:
    """The reproduction table of a run on CIFAR-10 as Markdown.

    Args:
        records: of the run, a row for each model, attack, radius and example.
        summary: of the run.
        weights: the folder of the checkpoints whose cards hold the clean accuracy on all 10,000 test images.

    Raises:
        InputError: the run is of other data, or a card cannot be read.
    """
    data = summary.plan.data.name
    if data != "cifar10":
        raise InputError(f"the run is on {data}, and the paper's numbers here are for cifar10")
    evidence = Evidence(read_cards(weights), curves_of(records))
    listed = dict.fromkeys(attack for model, attack in evidence.curves if model in PAPER_ACCURACY)
    attacks = [attack for attack in listed if not summary.is_control(attack)]
    parts = [_run_head(evidence, summary), _accuracy_table(evidence), *(_fooling_table(evidence, it) for it in attacks)]
    return "\n\n".join([*parts, _sentences(evidence), _commands()]) + "\n"


def _run_head(evidence: Evidence, summary: Summary) -> str:
    data, origin = summary.plan.data, summary.provenance
    commit = origin.git.removesuffix("+changes")
    where = origin.hardware.get("name", "unknown hardware")
    widths = sorted({f"{card.width:g}" for card in evidence.cards.values()})
    epochs = sorted({card.epochs or 0 for card in evidence.cards.values()})
    return f"""# CIFAR-10: the paper's claims, held against small networks

Written by `robustatt reproduce`; not edited by hand. The paper trains networks of width 1 for 300 epochs. These are of
width {_list(widths)} and had {_list(epochs)} epochs on one CPU core, so their accuracies reproduce nothing: what can be
asked of them is whether the paper's comparisons already point the same way. Cells of networks that were not
trained are empty. Fooling rate: the share of images whose predicted label changes, whether it was right or not.

The intervals speak of other test images, not of other seeds: each network was trained once.

Attacked: the first {data.n:,} test images, `{data.fingerprint[:16]}`; {where}{f"; commit {commit}" if commit else ""}. Intervals: 95 %,
Wilson for shares, Newcombe for differences."""


def _list(values: Sequence[object]) -> str:
    return " and ".join(", ".join(map(str, values)).rsplit(", ", 1)) or "none"


def _accuracy_table(evidence: Evidence) -> str:
    rows = []
    for name, paper in PAPER_ACCURACY.items():
        card = evidence.cards.get(name)
        published = "" if paper is None else f"{paper:g}"
        if card is None:
            rows.append([f"`{name}`", published, "", UNTRAINED, "", ""])
            continue
        right = accuracy.right(card)
        low, high = (f"{100 * float(end):.2f}" for end in statistics.wilson(right, TEST_IMAGES))
        here = f"{100 * right / TEST_IMAGES:.2f}"
        rows.append([f"`{name}`", published, here, f"{low} to {high}", f"{card.width:g}", str(card.epochs)])
    heads = ["network", "paper, %", "here, %", "95 % interval", "width", "epochs"]
    return "\n".join(["## Accuracy on the 10,000 test images\n", *table(heads, rows, range(1, 6))])


def _fooling_table(evidence: Evidence, attack: str) -> str:
    columns = [evidence.curves.get((name, attack)) for name in PAPER_ACCURACY]
    radii = next(outcomes.eps for outcomes in columns if outcomes is not None)
    heads = [f"`{name}`" for name in PAPER_ACCURACY]
    note = [] if attack == "fgsm" else [f"{IDLE}\n"]
    rows = [[eps, *(_fooled(outcomes, place) for outcomes in columns)] for place, eps in enumerate(radii[1:], start=1)]
    lines = table(["eps", *heads], rows, range(1, len(heads) + 1))
    return "\n".join([f"## Fooling rate under `{attack}`, %\n", *note, *lines])


def _fooled(outcomes: Outcomes | None, place: int) -> str:
    if outcomes is None:
        return ""
    return share(int(outcomes.fooled[:, place].sum()), int(outcomes.present[:, place].sum()), "")


def _sentences(evidence: Evidence) -> str:
    lines = ["## Did the paper's claims hold here?\n"]
    groups = (
        ("Claim 1, attention classifies better than the plain network", accuracy.classification(evidence)),
        ("Claim 2, the last two or three levels beat the alternatives", accuracy.rivals(evidence)),
        ("Claim 5, attention is fooled less by FGSM at small eps", accuracy.resistance(evidence)),
    )
    for say, findings in groups:
        lines += [f"- {say}: {_sentence(finding)}" for finding in findings]
    return "\n".join(lines)


def _sentence(finding: Finding) -> str:
    if finding.verdict == UNTESTED:
        return f"{finding.what}: open, {finding.why}"
    paper = f" (the paper: {finding.paper})" if finding.paper else ""
    more = f"; {finding.why}" if finding.why else ""
    return f"{finding.what}: {finding.verdict}; {finding.here}{paper}{more}"


def _commands() -> str:
    return """## The commands

The weights: `robustatt/weights/cifar10/README.md` has the line that trained each. Everything on this page, with DIR the
folder of torchvision's CIFAR-10 files (or `--download` in its place):

```
robustatt sweep --plan reports/cifar10/plan.toml --data-root DIR --out reports/cifar10/out
robustatt reproduce reports/cifar10/out --out reports/cifar10/README.md
```

`make cifar10 DATA=DIR` runs both. A network trained later joins by its name in `plan.toml`; what was computed
before is not computed again."""
