"""Holds a run on CIFAR-10 against the numbers and claims of Jetley et al. (2018), as Markdown.

Nothing is filled in that was not measured: a network without bundled weights has empty cells, and a claim that
needs it is left open.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.errors import InputError
from robustatt.report.markdown import table
from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes, outcomes_by_curve
from robustatt.results.statistics import Estimate
from robustatt.results.summary import Summary
from robustatt.studies.paper.finding import (
    HELD,
    OPEN,
    REVERSED,
    UNTESTED,
    Finding,
    difference,
    negative,
    points,
    signed,
    verdict,
)

if TYPE_CHECKING:
    import pandas as pd

    from robustatt.models.card import Card

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "cifar10"
TEST_IMAGES = 10_000
PAPER_ACCURACY: dict[str, float | None] = {
    "vgg": 92.3,
    "vgg_gap": None,
    "vgg_pan": None,
    "vgg_att1": 94.39,
    "vgg_att2": 94.58,
    "vgg_att3": 93.55,
    "vgg_att3_adv": None,
}
"""Top-1 accuracy in per cent on CIFAR-10 at width 1, as far as known; the rows of the table."""

PAPER_GAP = 5.0
"""Percentage points by which attention is fooled less than VGG at 1/255, as reported."""

UNTRAINED = "not trained"
IDLE = (
    "An attack in several steps leaves an image alone once it is misclassified, and so every image that is wrong from\n"
    "the start: this rate cannot exceed the clean accuracy, and networks of different accuracy are not to be compared by it."
)


@dataclass(frozen=True)
class Evidence:
    """Cards of the bundled weights by name, the grids of the run by (model, attack), and its summary."""

    cards: Mapping[str, Card]
    layout: Mapping[tuple[str, str], Outcomes]
    summary: Summary = field(default_factory=Summary)


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
    from robustatt.models.card import read_card

    cards = {file.stem: read_card(file) for file in sorted(weights.glob("*.safetensors"))}
    layout = {(outcomes.model, outcomes.attack): outcomes for outcomes in outcomes_by_curve(records)}
    evidence = Evidence(cards, layout, summary)
    attacks = [attack for attack in dict.fromkeys(attack for _, attack in layout) if not summary.is_control(attack)]
    parts = [_head(evidence), _accuracy_table(evidence), *(_fooling_table(evidence, it) for it in attacks)]
    return "\n\n".join([*parts, _claims(evidence), _commands()]) + "\n"


def _head(evidence: Evidence) -> str:
    data, origin = evidence.summary.plan.data, evidence.summary.provenance
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
        low, high = statistics.wilson(right(card), TEST_IMAGES)
        share, band = f"{100 * right(card) / TEST_IMAGES:.2f}", f"{100 * float(low):.2f} to {100 * float(high):.2f}"
        rows.append([f"`{name}`", published, share, band, f"{card.width:g}", str(card.epochs)])
    heads = ["network", "paper, %", "here, %", "95 % interval", "width", "epochs"]
    return "\n".join(["## Accuracy on the 10,000 test images\n", *table(heads, rows, range(1, 6))])


def right(card: Card) -> int:
    return round((card.clean_accuracy or 0.0) * TEST_IMAGES)


def _fooling_table(evidence: Evidence, attack: str) -> str:
    columns = [evidence.layout.get((name, attack)) for name in PAPER_ACCURACY]
    radii = next(outcomes.eps for outcomes in columns if outcomes is not None)
    heads = [f"`{name}`" for name in PAPER_ACCURACY]
    note = [] if attack == "fgsm" else [f"{IDLE}\n"]
    rows = [[eps, *(_share(outcomes, place) for outcomes in columns)] for place, eps in enumerate(radii[1:], start=1)]
    lines = table(["eps", *heads], rows, range(1, len(heads) + 1))
    return "\n".join([f"## Fooling rate under `{attack}`, %\n", *note, *lines])


def _share(outcomes: Outcomes | None, place: int) -> str:
    if outcomes is None:
        return ""
    present, fooled = int(outcomes.present[:, place].sum()), int(outcomes.fooled[:, place].sum())
    low, high = statistics.wilson(fooled, present)
    return f"{100 * fooled / present:.1f} ({100 * float(low):.1f} to {100 * float(high):.1f})"


# Claims ---------------------------------------------------------------------------------------------------


def _claims(evidence: Evidence) -> str:
    lines = ["## Did the paper's claims hold here?\n"]
    groups = (
        ("Claim 1, attention classifies better than the plain network", classification(evidence)),
        ("Claim 2, the last two or three levels beat the alternatives", rivals(evidence)),
        ("Claim 5, attention is fooled less by FGSM at small eps", resistance(evidence)),
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


def classification(evidence: Evidence) -> list[Finding]:
    """Claim 1: attention improves classification over the plain network."""
    return [_accuracy(evidence, name, "vgg") for name in ("vgg_att1", "vgg_att2", "vgg_att3")]


def rivals(evidence: Evidence) -> list[Finding]:
    """Claim 2: two or three levels beat one, activation maps and progressive attention."""
    pairs = itertools.product(("vgg_att2", "vgg_att3"), ("vgg_att1", "vgg_gap", "vgg_pan"))
    return [_accuracy(evidence, name, rival) for name, rival in pairs]


def _accuracy(evidence: Evidence, name: str, rival: str) -> Finding:
    what = f"`{name}` against `{rival}`"
    mine, theirs = PAPER_ACCURACY[name], PAPER_ACCURACY[rival]
    paper = "" if mine is None or theirs is None else f"{mine - theirs:+.1f} points"
    missing = [it for it in (name, rival) if it not in evidence.cards]
    if missing:
        return Finding(what, paper, why=f"`{'` and `'.join(missing)}` {UNTRAINED}")
    change = difference(right(evidence.cards[name]), right(evidence.cards[rival]), TEST_IMAGES)
    return Finding(what, paper, f"accuracy {points(change)}", verdict(change))


def resistance(evidence: Evidence) -> list[Finding]:
    """Claim 5: less fooling by FGSM at small radii, the gap narrowing as the radius grows."""
    return [finding for name in ("vgg_att2", "vgg_att3") for finding in _resistance(evidence, name)]


def _resistance(evidence: Evidence, name: str) -> Iterator[Finding]:
    gaps = fooling_gaps(evidence.layout, name, "vgg", "fgsm")
    what = f"`{name}` against `vgg`"
    if not gaps:
        yield Finding(
            what, f"about {-PAPER_GAP:+g} points at 1/255", why=f"`{name}` or `vgg` {UNTRAINED} or not attacked"
        )
        return
    first, last = min(gaps), max(gaps)
    paper = f"about {-PAPER_GAP:+g} points" if first == 1 else ""
    yield Finding(
        f"{what} at {first}/255", paper, f"fooling rate {points(gaps[first])}", verdict(negative(gaps[first]))
    )
    sizes = ", ".join(f"{signed(gaps[eps].value)} at {eps}/255" for eps in (1, 2, 4, 8, 16) if eps in gaps)
    yield Finding(f"{what}: the gap as eps grows", "narrows", sizes, *_narrowing(gaps[first], gaps[last]))


def _narrowing(first: Estimate, last: Estimate) -> tuple[str, str]:
    """Verdict and reason: a gap in the paper's sense must be there, and be smaller beyond both intervals."""
    if first.high >= 0:
        return OPEN, "no gap in the paper's sense beyond chance at the smallest radius"
    if first.high < last.low:
        return HELD, ""
    return (REVERSED, "it widens") if last.high < first.low else (OPEN, "")


def fooling_gaps(layout: Mapping[tuple[str, str], Outcomes], name: str, rival: str, attack: str) -> dict[int, Estimate]:
    """Fooling rate of one network minus another's on the same images, by radius in whole steps of 1/255."""
    mine, theirs = layout.get((name, attack)), layout.get((rival, attack))
    if mine is None or theirs is None or mine.eps != theirs.eps:
        return {}
    a, b = mine.align(theirs)
    found = {}
    for place, eps in enumerate(mine.eps):
        steps = eps.partition("/")[0]
        if steps.isdecimal() and int(steps):
            counts = statistics.PairedCounts.of(mine.fooled[a, place], theirs.fooled[b, place])
            found[int(steps)] = statistics.newcombe_paired(counts)
    return found


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
