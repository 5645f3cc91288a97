"""What the page says in words: the headline numbers, what is missing, and what the numbers do not show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustatt.attack.recipe import NO_ADVERSARIES, Category
from robustatt.eps import NORM_TITLES, headline_radius, parse_radius
from robustatt.models.families import baseline_of
from robustatt.report.drift_curves import drift_models
from robustatt.results.columns import kind_of, level_title
from robustatt.results.summary import Point, Summary

CLEAN_TITLE = "Clean accuracy"

ATTACKS: dict[str, str] = {
    "fgsm": "one gradient step; the weakest attack that is still called one",
    "pgd": "40 projected gradient steps from a random start (Madry et al. 2018)",
    "mi-fgsm": "gradient steps with momentum (Dong et al. 2018)",
    "apgd-ce": "adaptive steps (Croce & Hein 2020)",
    "apgd-dlr": "adaptive steps on a scale-free loss (Croce & Hein 2020)",
    "square": "black box, so it sees through a hidden gradient (Andriushchenko et al. 2020)",
    "autoattack": "the standard ensemble of four attacks (Croce & Hein 2020)",
}
"""The attacks a reader would ask about, weakest first."""

_ABSOLUTE = re.compile(r"(?<![\w.:/~])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s'\"/\\]+[\\/])+([^\s'\"/\\]*)")


def without_paths(text: str) -> str:
    """The text with absolute paths cut to their last part: a shared page should not describe the machine."""
    return _ABSOLUTE.sub(r"…/\1", text)


def percent(value: float) -> str:
    """A share as per cent with one decimal."""
    return f"{100 * value:.1f} %"


def signed(value: float) -> str:
    """A difference in points with its sign, a true minus and one decimal."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Figure:
    """One number of the headline: what it is of, the value, its interval."""

    name: str
    value: str
    interval: str


@dataclass(frozen=True)
class Tile:
    """One of the headline's boxes."""

    title: str
    note: str
    figures: tuple[Figure, ...]


STRENGTH: tuple[Category, ...] = ("external", "single-step", "black-box", "minimum-norm", "iterative")
"""From the weakest sort of attack to the strongest: which of two that break as many is called the strongest."""


def first_norm(summary: Summary) -> Summary:
    """The summary of the first norm's attacks: L-infinity if there are any."""
    norms = summary.norms()
    return summary.of_norm(norms[0]) if norms else summary


def strongest_attack(summary: Summary) -> str | None:
    """The attack under which accuracy, averaged over models and radii above 0, is lowest; all are of one norm."""
    sums: dict[str, list[float]] = {}
    for curve in summary.curves:
        if summary.is_adversary(curve.attack):
            values = [p.accuracy for p in curve.points if parse_radius(p.eps) > 0]
            sums.setdefault(curve.attack, []).extend(values)
    means = {attack: sum(values) / len(values) for attack, values in sums.items() if values}
    if not means:
        return None
    lowest = min(means.values())
    return max((attack for attack in means if means[attack] == lowest), key=lambda attack: _strength(summary, attack))


def _strength(summary: Summary, attack: str) -> tuple[int, int, int]:
    """How strong an attack is by its recipe, for attacks that break as many: its sort, its parts, its gradients."""
    recipe = summary.plan.attack(attack).recipe
    if recipe is None or recipe.category in NO_ADVERSARIES:
        return -1, 0, 0
    return STRENGTH.index(recipe.category), len(recipe.parts()), recipe.cost()[0]


def as_strong(summary: Summary, attack: str) -> list[str]:
    """The other attacks of the same norm under which every accuracy is the same as under this one."""

    def values(name: str) -> list[tuple[str, str, float]]:
        return [
            (curve.model, point.eps, point.accuracy)
            for curve in summary.curves if curve.attack == name for point in curve.points
        ]  # fmt: skip

    mine = values(attack)
    names = summary.curve_names()[1]
    return [name for name in names if name != attack and summary.is_adversary(name) and values(name) == mine]


def strongest_by_norm(summary: Summary) -> dict[str, str]:
    """The strongest attack of each norm: one of another norm is neither stronger nor weaker."""
    found = {norm: strongest_attack(summary.of_norm(norm)) for norm in summary.norms()}
    return {norm: attack for norm, attack in found.items() if attack is not None}


def headline_eps(summary: Summary) -> str | None:
    """The radius of the headline: 8/255 or 0.5 in L2 if it was evaluated, else the middle of the grid."""
    radii = [point.eps for curve in summary.curves for point in curve.points]
    return headline_radius(radii, summary.norms()[0]) if radii else None


def point_at(summary: Summary, model: str, attack: str, eps: str) -> Point | None:
    """One point of one curve, or None."""
    curves = (curve for curve in summary.curves if (curve.model, curve.attack) == (model, attack))
    points = (point for curve in curves for point in curve.points)
    return next((point for point in points if parse_radius(point.eps) == parse_radius(eps)), None)


def tiles(summary: Summary) -> list[Tile]:
    """The numbers that matter, for each norm its own: clean accuracy, accuracy under the strongest attack, paired gap."""
    norms = summary.norms()
    boxes = [(norm, box) for norm in norms for box in _tiles(summary.of_norm(norm))]
    several = len(norms) > 1
    return [
        replace(box, note=f"{box.note}, {NORM_TITLES[norm]}") if several and box.title != CLEAN_TITLE else box
        for norm, box in boxes
        if norm == norms[0] or box.title != CLEAN_TITLE
    ]


def _tiles(summary: Summary) -> list[Tile]:
    attack, eps = strongest_attack(summary), headline_eps(summary)
    models, _ = summary.curve_names()
    if attack is None or eps is None:
        return []
    boxes = [
        Tile(CLEAN_TITLE, "no attack", _accuracy_figures(summary, models, attack, "0/255")),
        Tile(f"Accuracy at {eps}", f"under {attack}", _accuracy_figures(summary, models, attack, eps)),
    ]
    gaps = [
        Figure(
            f"{row.model} minus {row.baseline}",
            f"{signed(100 * row.difference)} points",
            f"{signed(100 * row.ci_low)} to {signed(100 * row.ci_high)}",
        )
        for row in summary.differences
        if row.attack == attack and parse_radius(row.eps) == parse_radius(eps)
    ]
    if gaps:
        boxes.append(Tile(f"Gap at {eps}", f"under {attack}, same images", tuple(gaps)))
    else:
        boxes.append(
            Tile(
                "Median breaking radius",
                f"under {attack}",
                tuple(_breaking(summary, m, attack) for m in models),
            )
        )
    return [box for box in boxes if box.figures]


def _accuracy_figures(summary: Summary, models: Sequence[str], attack: str, eps: str) -> tuple[Figure, ...]:
    figures = []
    for model in models:
        point = point_at(summary, model, attack, eps)
        if point:
            band = f"{100 * point.ci_low:.1f} to {100 * point.ci_high:.1f}"
            figures.append(Figure(model, percent(point.accuracy), band))
    return tuple(figures)


def _breaking(summary: Summary, model: str, attack: str) -> Figure:
    """The smallest radius at which half of the cleanly right images are broken."""
    for curve in summary.curves:
        if (curve.model, curve.attack) == (model, attack):
            points = sorted(curve.points, key=lambda p: parse_radius(p.eps))
            half = points[0].worst_case_accuracy / 2
            for point in points:
                if point.worst_case_accuracy <= half:
                    return Figure(model, point.eps, "half of the images right when clean are broken")
            return Figure(model, f"> {points[-1].eps}", "the grid ends before half are broken")
    return Figure(model, "none", "not evaluated")


def missing_parts(summary: Summary) -> list[str]:
    """What a reader would expect from the plan and will not find: curves, examples, radii, drift."""
    plan = summary.plan
    have = {(c.model, c.attack): c.points for c in summary.curves}
    notes = [summary.unfinished] if summary.unfinished else []
    if not have:
        notes.append("No results yet: the run holds no records. Run or resume the sweep, then report again.")
    for entry in plan.models:
        gone = [attack.name for attack in plan.attacks if (entry.name, attack.name) not in have]
        if gone and have:
            notes.append(f"{entry.name}: nothing was recorded under {', '.join(gone)}.")
    for (model, attack), points in have.items():
        n = [point.n for point in points]
        goal = max(n) if plan.data.n is None else plan.data.n
        if n and min(n) < goal:
            notes.append(f"{model} under {attack}: {min(n)} of {goal} images so far; intervals are wider for it.")
    for model in summary.curve_names()[0]:
        if baseline_of(model) and model not in drift_models(summary, "attention"):
            notes.append(f"{model}: no attention drift was recorded.")
    return notes


SALIENCY_NOTE = (
    "Grad-CAM, like the class activation map of vgg_gap, asks about the predicted class. Once an image is fooled that is "
    "another class, so part of the drift is the fooling itself."
)
STOPPING_NOTE = (
    "FGSM moves every image by the same step. An attack in several steps ends at the first mistake and continues where it "
    "finds none, so under it fooled images may have moved less for that reason alone."
)


def prediction_note(summary: Summary) -> str:
    """How the images were made whose drift is compared, which decides what the areas mean."""
    if all(summary.at_full_strength(row.attack) for row in summary.measured_areas()):
        sample = "" if summary.full_strength is None else f" (attacks in several steps: on a sample of {summary.full_strength.n})"
        return f"Every image took all steps of the attack at its radius, success or not{sample}."
    return (
        "FGSM is the plain case. Attacks that stop at the first success move a fooled image in fewer steps than one that holds, and a "
        "threshold search attacks at a radius only the images that break near it: read their rows with that in mind."
    )


FEWEST_TOLD_APART = 5
"""With fewer fooled or held images DeLong's interval is far too narrow: of one fooled image among twenty, every fifth order of
all says something at 95 %."""


@dataclass(frozen=True)
class DriftPrediction:
    """One row of the answer to: does drift predict being fooled?"""

    model: str
    attack: str
    kind: str
    level: str
    eps: str
    auc: float
    low: float
    high: float
    n_fooled: int
    n_held: int

    @property
    def too_few(self) -> bool:
        """Whether there are too few images for an interval that holds what it promises."""
        return min(self.n_fooled, self.n_held) < FEWEST_TOLD_APART

    @property
    def reading(self) -> str:
        """What the interval allows to say; of a few images it is too narrow to say anything."""
        if self.too_few:
            return "too few images to say"
        if self.low > 0.5:
            return "yes: fooled ones move more"
        return "the other way: fooled ones move less" if self.high < 0.5 else "not shown"


def prediction_rows(summary: Summary) -> list[DriftPrediction]:
    """Area under the ROC curve of drift against fooled by model, attack and level, attention before saliency."""
    rows = [
        DriftPrediction(
            row.model, row.attack, kind_of(row.level), level_title(row.level), row.eps,
            row.auc, row.ci_low, row.ci_high, row.n_fooled, row.n_held,
        )
        for row in summary.measured_areas()
        if row.headline
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.kind)


def _tie(others: Sequence[str]) -> str:
    return f", with the same accuracy everywhere as {' and '.join(others)}" if others else ""


def limits(summary: Summary) -> list[str]:
    """What the numbers do not show, said beside the strongest attack that was run."""
    _, all_attacks = summary.curve_names()
    run = [attack for attack in all_attacks if summary.is_adversary(attack)]
    strongest = strongest_by_norm(summary)
    if not strongest:
        return []
    named = "; ".join(
        f"{attack}{f' ({ATTACKS[attack]})' if attack in ATTACKS else ''}{f' in {NORM_TITLES[norm]}' if len(strongest) > 1 else ''}"
        f"{_tie(as_strong(summary.of_norm(norm), attack))}"
        for norm, attack in strongest.items()
    )
    notes = [
        f"The strongest attack that was run is {named}. Every accuracy here is an upper "
        "bound on the true robustness: a stronger attack can only lower it, and none is known to be the best."
    ]
    if all(summary.plan.attack(attack).category == "single-step" for attack in run):
        alone = "FGSM alone was run." if run == ["fgsm"] else f"Single steps alone were run ({', '.join(run)})."
        notes.append(
            f"{alone} A single step often misses perturbations that are there; a model can resist FGSM and fall entirely to "
            "PGD. Do not quote these numbers as robustness."
        )
    absent = [f"{name} ({text})" for name, text in ATTACKS.items() if name not in run]
    if absent:
        notes.append("Not run: " + "; ".join(absent) + ".")
    norms = sorted({curve.norm for curve in summary.curves})
    named = " and ".join(NORMS.get(norm, norm) for norm in norms)
    notes.append(
        f"Only perturbations in {named} balls were tried. Nothing follows for other norms, rotations, blur, "
        "patches, or for images from elsewhere."
    )
    notes.append("The intervals cover the choice of test images and nothing else: no other training seed or attack.")
    return notes


NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
