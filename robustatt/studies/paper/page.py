"""Both pages: of `robustatt paper` on all six claims, and of `robustatt reproduce` on a sweep of CIFAR-10.

Nothing is filled in that was not measured: a network without bundled weights has empty cells, and a claim that needs it is
left open.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustatt.errors import InputError
from robustatt.files import write_atomically
from robustatt.models.card import read_card
from robustatt.plan.entries import BUNDLED as BUNDLED_WEIGHTS
from robustatt.report.draw import draw, png_bytes, theme
from robustatt.report.figures import FigureSpec, Panel, fooling_figure
from robustatt.report.markdown import table
from robustatt.report.style import looks
from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes, curves_of
from robustatt.results.plan_info import ModelInfo
from robustatt.results.summary import Summary
from robustatt.studies.paper.accuracy import PAPER_ACCURACY, TEST_IMAGES, claim_1, claim_2, claim_5, counted
from robustatt.studies.paper.claims import by_measure
from robustatt.studies.paper.finding import Claim, Finding, Localised, Measured, Swept
from robustatt.studies.paper.forest import forest_png
from robustatt.studies.seeds import HOW, by_network, spread
from robustatt.studies.segment.figures import curve_series, threshold_figure
from robustatt.studies.segment.result import HEADLINE, AttackedMap

if TYPE_CHECKING:
    import pandas as pd

FOREST = "claim-{}.png"
THRESHOLDS = "thresholds.png"
ROUND = "{:.3f} ({:.3f} to {:.3f})"
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
VERDICTS = (
    "What can be asked is whether the paper's comparisons point the same way. **Held here**: the whole 95 % interval lies on the "
    "paper's side of 0, and the test of the difference says so after Holm's correction over all comparisons of the claim too (p at "
    "most 0.05). **Did not hold here**: the same on the other side. **Not decided here**: neither. **One seed**: one of the two "
    "networks was trained once, so that nothing is decided, whatever the interval."
)
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
    parts = [_head(measured, plan), _overview(found), *(_section(claim, figures) for claim in found)]
    parts += ["\n".join(lines) for lines in (list(_thresholds(measured)), list(_under_attack(measured))) if lines]
    forests = {FOREST.format(claim.number) for claim in found}
    others = [f"![{caption}]({name})\n\n{caption}" for name, caption in figures.items() if name not in forests]
    if others:
        parts.append("\n\n".join(["## Figures", *others]))
    return "\n\n".join(parts) + "\n"


def _head(measured: Measured, plan: str) -> str:
    prose = [textwrap.fill(line, WIDTH, break_on_hyphens=False) for line in (*_networks(measured), VERDICTS, HOW)]
    body = "\n\n".join(prose)
    return f"""# *Learn To Pay Attention*: its claims, measured here

Written by `robustatt paper`; not edited by hand. Jetley, Lord, Lee & Torr, ICLR 2018, arXiv 1804.02391. Everything on
this page, with DIR the folder of the data sets:

```
robustatt paper --plan {plan} --data-root DIR
```

{body}"""


def _networks(measured: Measured) -> Iterator[str]:
    """Which networks were measured, with how many seeds and epochs."""
    for swept in measured.sweeps:
        if swept.cards:
            yield f"Networks for {swept.data}: {_described(swept)}. The paper's are of width 1 and had 300 epochs."


def _described(swept: Swept) -> str:
    found = []
    for network, labels in by_network(swept.cards).items():
        cards = [swept.cards[label] for label in labels]
        epochs = sorted({card.epochs or 0 for card in cards})
        seeds = "one seed" if len(cards) == 1 else f"{len(cards)} seeds"
        found.append(f"`{network}` (width {cards[0].width:g}, {_list(epochs)} epochs, {seeds})")
    return ", ".join(found)


def _overview(found: Sequence[Claim]) -> str:
    rows = [[str(claim.number), f"[{claim.title}](#claim-{claim.number})", claim.summary()] for claim in found]
    return "\n".join(table(["", "claim", "comparisons here"], rows))


def _section(claim: Claim, figures: Mapping[str, str]) -> str:
    lines = [f'<a id="claim-{claim.number}"></a>\n\n## {claim.number}. {claim.title}\n']
    name = FOREST.format(claim.number)
    lines += [f"![{figures[name]}]({name})\n"] if name in figures else []
    lines += _table(claim)
    lines += ["\n" + textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in claim.notes]
    if claim.commands:
        lines += ["\n```", *claim.commands, "```"]
    return "\n".join(lines)


def _table(claim: Claim) -> list[str]:
    findings = claim.findings or [Finding("none", why="not in the plan")]
    return table(HEADS, [[it.what, it.paper, it.here, it.verdict, it.why] for it in findings])


def _thresholds(measured: Measured) -> Iterator[str]:
    """What the rule that binarises a map means for claim 4."""
    if not measured.segments:
        return
    yield "## Claim 4 by other rules than Otsu's\n"
    said = (
        "The paper binarises a map before it is held against the mask, and a map that is sharper than another loses by the rule "
        "alone: Otsu's threshold lies high where few pixels hold most of the attention, as in a product of two maps. Average "
        "precision needs no threshold and does not change if a map is raised to a power; the area under the curve of the Jaccard "
        "index over thresholds needs none either, but favours flat maps. A fitted threshold is the one that is best for a map on the "
        "held-out images. The same comparisons as above:"
    )
    yield textwrap.fill(said, WIDTH) + "\n"
    yield from table(["data", "measure", "comparisons here"], [list(row) for row in by_measure(measured)])


def _under_attack(measured: Measured) -> Iterator[str]:
    """Beyond the paper: whether the maps still find the object in attacked images."""
    attacked = [(data, entry) for data, found in measured.segments.items() for entry in _first_seeds(found)]
    if not attacked:
        return
    rows = [
        [data, f"`{it.model}` {it.method.replace('_', ' ')}", *(point.jaccard_otsu.text(ROUND) for point in it.points)]
        for data, it in attacked
    ]
    radii = [point.eps for point in max((entry for _, entry in attacked), key=lambda it: len(it.points)).points]
    yield "## Beyond the paper: do the maps still find the object under attack?\n"
    yield "Jaccard index of the map binarised by Otsu's threshold, attacked images against the same masks; intervals over images.\n"
    heads = ["data", "map", *("clean" if eps.startswith("0") else eps for eps in radii)]
    yield from table(heads, rows, range(2, len(heads)))


def _first_seeds(found: Localised) -> list[AttackedMap]:
    """The maps over the radii that networks are judged by, of the first seed of each."""
    judged = {entry.model: entry for entry in found.summary.judged}
    return [judged[labels[0]] for labels in by_network(judged).values()]


def write_figures(
    found: Sequence[Claim], measured: Measured, summaries: Mapping[str, Summary], transfer: Path | None, folder: Path
) -> dict[str, str]:
    """Figures beside the page, none of which shows a picture of a data set; captions by file name."""
    written = {}
    for claim in found:
        if (drawn := forest_png(claim)) is not None:
            write_atomically(folder / FOREST.format(claim.number), drawn)
            written[FOREST.format(claim.number)] = f"Every comparison of claim {claim.number} with its 95 % interval."
    for data, summary in summaries.items():
        name = f"fooling-{data}.png"
        _png(fooling_figure(summary, looks(*summary.curve_names())), folder / name)
        written[name] = f"Fooling rate under FGSM on {data}, {summary.plan.data.n:,} images (claim 5)."
    if transfer is not None:
        write_atomically(folder / "transfer.png", transfer.read_bytes())
        written["transfer.png"] = "A linear SVM on fixed features (claim 3); dashed: always answering the largest class."
    if measured.segments:
        curves = threshold_figure({name: found.summary for name, found in measured.segments.items()})
        with theme():
            write_atomically(folder / THRESHOLDS, png_bytes(curves, FIGURE_DPI, compress_level=6))
        written[THRESHOLDS] = (
            "Mean Jaccard index of each network's map (first seed) and of the floors over the threshold that binarises them."
        )
    shown = _localisation_panels(measured)
    if shown:
        spec = FigureSpec("localisation", "Localisation under attack", "", shown)
        _png(spec, folder / "localisation.png")
        written["localisation.png"] = (
            "Jaccard index of each network's map (first seed) over the radius of the attack; bands: 95 % intervals over images."
        )
    return written


def _localisation_panels(measured: Measured) -> tuple[Panel, ...]:
    """A panel for each data set whose images were attacked, all of one height."""
    judged = {data: _first_seeds(found) for data, found in measured.segments.items()}
    curves = {data: curve_series(maps, HEADLINE) for data, maps in judged.items() if maps}
    ends = [end for drawn in curves.values() for one in drawn for end in (*one.y, *one.high) if end is not None]
    top = min(1.0, 1.05 * max(ends, default=1.0))
    return tuple(Panel(data, data, "Jaccard index", drawn, percent=False, y_range=(0.0, top)) for data, drawn in curves.items())


def _png(spec: FigureSpec, path: Path) -> None:
    with theme():
        write_atomically(path, png_bytes(draw(spec), FIGURE_DPI, compress_level=6))


# robustatt reproduce ---------------------------------------------------------------------------------------


def reproduce(records: pd.DataFrame, summary: Summary) -> str:
    """The reproduction table of a run on CIFAR-10 or CIFAR-100 as Markdown.

    Args:
        records: of the run, a row for each model, attack, radius and example.
        summary: of the run; the cards of its weights hold the clean accuracy on all 10,000 test images.

    Raises:
        InputError: the run is of other data, or weights are no longer there.
    """
    data = summary.plan.data.name
    if data not in TEST_IMAGES:
        raise InputError(f"the run is on {data}, and the paper's numbers here are for {' and '.join(TEST_IMAGES)}")
    cards = {model.name: read_card(_weights_of(model, data)) for model in summary.plan.models}
    swept = Swept(data, cards, curves_of(records), whole=summary.plan.data.n == TEST_IMAGES[data])
    measured = Measured(sweeps=[swept])
    attacks = [it for it in dict.fromkeys(attack for _, attack in swept.curves) if summary.is_adversary(it)]
    judged = [("Claim 1", claim_1(measured)), ("Claim 2", claim_2(measured)), ("Claim 5", claim_5(measured))]
    parts = [
        _run_head(swept, summary),
        _accuracy_table(swept),
        *(_fooling_table(swept, it) for it in attacks),
        _sentences(judged),
    ]
    return "\n\n".join([*parts, _commands(data)]) + "\n"


def _weights_of(model: ModelInfo, data: str) -> Path:
    from robustatt.models import bundled_path  # needs torch, which pages do without

    if model.weights not in (None, BUNDLED_WEIGHTS):
        return Path(model.weights)
    return bundled_path(model.spec, data)


def _run_head(swept: Swept, summary: Summary) -> str:
    data, origin = summary.plan.data, summary.provenance
    commit = origin.git.removesuffix("+changes")
    where = origin.hardware.get("name", "unknown hardware")
    networks = textwrap.fill(
        f"Networks: {_described(swept)}. The paper's are of width 1 and had 300 epochs, so no accuracy here reproduces one of the "
        "paper: what can be asked is whether its comparisons point the same way. Fooling rate: the share of images whose "
        "predicted label changes, whether it was right or not.", WIDTH, break_on_hyphens=False,
    )  # fmt: skip
    attacked = textwrap.fill(
        f"Attacked: the first {data.n:,} test images, `{data.fingerprint[:16]}`; {where}{f'; commit {commit}' if commit else ''}. {HOW}",
        WIDTH, break_on_hyphens=False,
    )  # fmt: skip
    return f"""# {TITLES[swept.data]}: the paper's claims, held against small networks

Written by `robustatt reproduce`; not edited by hand.

{networks}

{attacked}"""


def _list(values: Sequence[object]) -> str:
    return " and ".join(", ".join(map(str, values)).rsplit(", ", 1)) or "none"


def _accuracy_table(swept: Swept) -> str:
    known, (counts, n) = PAPER_ACCURACY[swept.data], counted(swept)
    rows = []
    for network, rights in counts.items():
        values = np.asarray(rights) / n
        low, high = (f"{100 * float(end):.2f}" for end in statistics.wilson(round(float(values.mean()) * n), n))
        each = ", ".join(f"{100 * value:.2f}" for value in values)
        deviation = f"{spread(values):.2f}" if len(values) > 1 else "one seed"
        published = f"{known[network]:g}" if network in known else ""
        rows.append([f"`{network}`", published, f"{100 * values.mean():.2f}", f"{low} to {high}", each, deviation])
    heads = ["network", "paper, %", "here, %", "95 % interval over images", "by seed", "standard deviation over seeds"]
    return "\n".join([f"## Accuracy on the {n:,} test images\n", *table(heads, rows, range(1, 6))])


def _fooling_table(swept: Swept, attack: str) -> str:
    columns = by_network(model for model, name in swept.curves if name == attack)
    radii = next(it.eps for (_, name), it in swept.curves.items() if name == attack)
    heads = [f"`{network}`" for network in columns]
    note = [f"{line}\n" for line in ([] if attack == "fgsm" else [IDLE])]
    seeds = "Of several seeds the mean and the range; of one seed the 95 % interval over images.\n"
    rows = [
        [eps, *(_fooled([swept.curves[label, attack] for label in labels], place) for labels in columns.values())]
        for place, eps in enumerate(radii[1:], start=1)
    ]
    return "\n".join(
        [f"## Fooling rate under `{attack}`, %\n", *note, seeds, *table(["eps", *heads], rows, range(1, len(heads) + 1))]
    )


def _fooled(seeds: Sequence[Outcomes], place: int) -> str:
    fooled = [int(it.fooled[:, place].sum()) for it in seeds]
    n = int(seeds[0].present[:, place].sum())
    values = [100 * count / n for count in fooled]
    if len(seeds) > 1:
        return f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"
    low, high = statistics.wilson(fooled[0], n)
    return f"{values[0]:.1f} ({100 * float(low):.1f} to {100 * float(high):.1f})"


def _sentences(judged: Sequence[tuple[str, Sequence[Finding]]]) -> str:
    lines = ["## Did the paper's claims hold here?\n"]
    lines += table(
        HEADS, [[f"{claim}: {it.what}", it.paper, it.here, it.verdict, it.why] for claim, found in judged for it in found]
    )
    return "\n".join(lines)


def _commands(data: str) -> str:
    return f"""## The commands

The weights: `reports/{data}/trained/README.md` has the line that trained each. Everything on this page, with DIR the
folder of the images (`--download` in its place fetches them):

```
robustatt sweep --plan reports/{data}/plan.toml --data-root DIR --out reports/{data}/out
robustatt reproduce reports/{data}/out --out reports/{data}/README.md
```

`make {data} DATA=DIR` runs both. A network trained later joins by its name in `plan.toml`; what was computed
before is not computed again."""
