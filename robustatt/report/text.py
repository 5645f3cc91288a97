"""What the page says in words: the headline numbers, what is missing, and what the numbers do not show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robustatt.eps import NORM_TITLES, parse_radius
from robustatt.report.figures import Summary, curve_names, drift_models
from robustatt.results.columns import kind_of, level_title
from robustatt.results.outcomes import is_control
from robustatt.results.summary import names_of
from robustatt.results.unbounded import norms_of, of_norm

HEADLINE_EPS = {"linf": "8/255", "l2": "0.5"}

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

FAMILIES = ("fgsm", "r-fgsm", "square", "mi-fgsm", "ni-fgsm", "fmn", "fab-t", "pgd", "apgd", "apgd-t", "autoattack")
"""Algorithms from the weakest family to the strongest: which of two that break as many is called the strongest."""

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


def first_norm(summary: Summary) -> Summary:
    """The summary of the first norm's attacks: L-infinity if there are any."""
    norms = norms_of(summary)
    return of_norm(summary, norms[0]) if norms else summary


def strongest_attack(summary: Summary) -> str | None:
    """The attack under which accuracy, averaged over models and radii above 0, is lowest; all are of one norm."""
    sums: dict[str, list[float]] = {}
    for curve in summary["curves"]:
        if not is_control(curve["attack"]):
            values = [p["accuracy"] for p in curve["points"] if parse_radius(p["eps"]) > 0]
            sums.setdefault(str(curve["attack"]), []).extend(values)
    means = {attack: sum(values) / len(values) for attack, values in sums.items() if values}
    return min(means, key=lambda attack: (means[attack], -_strength(summary, attack))) if means else None


def _strength(summary: Summary, attack: str) -> int:
    """How strong an attack's family is, for attacks that break as many: the place of its algorithm in `FAMILIES`."""
    plan = summary.get("plan") or {}
    entry = next((e for e in plan.get("attacks") or [] if isinstance(e, Mapping) and e.get("name") == attack), {})
    algorithm = str(entry.get("algorithm", attack))
    return FAMILIES.index(algorithm) if algorithm in FAMILIES else -1


def as_strong(summary: Summary, attack: str) -> list[str]:
    """The other attacks of the same norm under which every accuracy is the same as under this one."""

    def values(name: str) -> list[tuple[str, str, float]]:
        return [
            (str(curve["model"]), str(point["eps"]), float(point["accuracy"]))
            for curve in summary["curves"] if curve["attack"] == name for point in curve["points"]
        ]  # fmt: skip

    names = dict.fromkeys(str(curve["attack"]) for curve in summary["curves"])
    mine = values(attack)
    return [name for name in names if name != attack and not is_control(name) and values(name) == mine]


def strongest_by_norm(summary: Summary) -> dict[str, str]:
    """The strongest attack of each norm: one of another norm is neither stronger nor weaker."""
    found = {norm: strongest_attack(of_norm(summary, norm)) for norm in norms_of(summary)}
    return {norm: attack for norm, attack in found.items() if attack is not None}


def headline_eps(summary: Summary) -> str | None:
    """The radius of the headline: 8/255 or 0.5 in L2 if it was evaluated, else the middle of the grid."""
    texts = {parse_radius(p["eps"]): str(p["eps"]) for curve in summary["curves"] for p in curve["points"]}
    above = sorted(radius for radius in texts if radius > 0)
    if not above:
        return None
    wanted = parse_radius(HEADLINE_EPS.get(norms_of(summary)[0], "0"))
    return texts[wanted if wanted in above else above[len(above) // 2]]


def point_at(summary: Summary, model: str, attack: str, eps: str) -> Mapping[str, Any] | None:
    """One point of one curve, or None."""
    for curve in summary["curves"]:
        if (curve["model"], curve["attack"]) == (model, attack):
            for point in curve["points"]:
                if parse_radius(point["eps"]) == parse_radius(eps):
                    return dict(point)
    return None


def tiles(summary: Summary) -> list[Tile]:
    """The numbers that matter, for each norm its own: clean accuracy, accuracy under the strongest attack, paired gap."""
    norms = norms_of(summary)
    boxes = [(norm, box) for norm in norms for box in _tiles(of_norm(summary, norm))]
    several = len(norms) > 1
    return [
        replace(box, note=f"{box.note}, {NORM_TITLES[norm]}") if several and box.title != CLEAN_TITLE else box
        for norm, box in boxes
        if norm == norms[0] or box.title != CLEAN_TITLE
    ]


def _tiles(summary: Summary) -> list[Tile]:
    attack, eps = strongest_attack(summary), headline_eps(summary)
    models, _ = curve_names(summary)
    if attack is None or eps is None:
        return []
    boxes = [
        Tile(CLEAN_TITLE, "no attack", _accuracy_figures(summary, models, attack, "0/255")),
        Tile(f"Accuracy at {eps}", f"under {attack}", _accuracy_figures(summary, models, attack, eps)),
    ]
    gaps = [
        Figure(
            f"{row['model']} minus {row['baseline']}",
            f"{signed(100 * row['difference'])} points",
            f"{signed(100 * row['ci_low'])} to {signed(100 * row['ci_high'])}",
        )
        for row in summary.get("differences", [])
        if row["attack"] == attack and parse_radius(row["eps"]) == parse_radius(eps)
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
            band = f"{100 * point['ci_low']:.1f} to {100 * point['ci_high']:.1f}"
            figures.append(Figure(model, percent(point["accuracy"]), band))
    return tuple(figures)


def _breaking(summary: Summary, model: str, attack: str) -> Figure:
    """The smallest radius at which half of the cleanly right images are broken."""
    for curve in summary["curves"]:
        if (curve["model"], curve["attack"]) == (model, attack):
            points = sorted(curve["points"], key=lambda p: parse_radius(p["eps"]))
            half = points[0]["worst_case_accuracy"] / 2
            for point in points:
                if point["worst_case_accuracy"] <= half:
                    return Figure(model, str(point["eps"]), "half of the images right when clean are broken")
            return Figure(model, f"> {points[-1]['eps']}", "the grid ends before half are broken")
    return Figure(model, "none", "not evaluated")


def missing_parts(summary: Summary) -> list[str]:
    """What a reader would expect from the plan and will not find: curves, examples, radii, drift."""
    plan = summary["plan"]
    have = {(c["model"], c["attack"]): c["points"] for c in summary["curves"]}
    notes = []
    if not have:
        notes.append("No results yet: the run holds no records. Run or resume the sweep, then report again.")
    for model in names_of(plan, "models"):
        gone = [attack for attack in names_of(plan, "attacks") if (model, attack) not in have]
        if gone and have:
            notes.append(f"{model}: nothing was recorded under {', '.join(gone)}.")
    data = plan.get("data")
    wanted = data.get("n") if isinstance(data, Mapping) else None
    for (model, attack), points in have.items():
        n = [int(point["n"]) for point in points]
        goal = int(wanted) if isinstance(wanted, int) else max(n)
        if n and min(n) < goal:
            notes.append(f"{model} under {attack}: {min(n)} of {goal} images so far; intervals are wider for it.")
    for model in curve_names(summary)[0]:
        if "_att" in model and model not in drift_models(summary, "attention"):
            notes.append(f"{model}: no attention drift was recorded.")
    return notes


SALIENCY_NOTE = (
    "Grad-CAM, like the class activation map of vgg_gap, asks about the predicted class. Once an image is fooled that is "
    "another class, so part of the drift is the fooling itself."
)
STOPPING_NOTE = (
    "FGSM moves every image by the same step. An attack in several steps ends at the first mistake and goes on where it "
    "finds none, so under it fooled images may have moved less for that reason alone."
)


@dataclass(frozen=True)
class Prediction:
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
    def reading(self) -> str:
        """What the interval allows to say."""
        if self.low > 0.5:
            return "yes: fooled ones move more"
        return "the other way: fooled ones move less" if self.high < 0.5 else "not shown"


def prediction_rows(summary: Summary) -> list[Prediction]:
    """Area under the ROC curve of drift against fooled by model, attack and level, attention before saliency."""
    rows = [
        Prediction(
            str(row["model"]), str(row["attack"]), kind_of(str(row["level"])), level_title(str(row["level"])), str(row["eps"]),
            float(row["auc"]), float(row["ci_low"]), float(row["ci_high"]), int(row["n_fooled"]), int(row["n_held"]),
        )
        for row in summary.get("drift_predicts_fooling", [])
        if row["headline"]
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.kind)


def _tie(others: Sequence[str]) -> str:
    return f", with the same accuracy everywhere as {' and '.join(others)}" if others else ""


def limits(summary: Summary) -> list[str]:
    """What the numbers do not show, said beside the strongest attack that was run."""
    _, all_attacks = curve_names(summary)
    run = [attack for attack in all_attacks if not is_control(attack)]
    strongest = strongest_by_norm(summary)
    if not strongest:
        return []
    named = "; ".join(
        f"{attack}{f' ({ATTACKS[attack]})' if attack in ATTACKS else ''}{f' in {NORM_TITLES[norm]}' if len(strongest) > 1 else ''}"
        f"{_tie(as_strong(of_norm(summary, norm), attack))}"
        for norm, attack in strongest.items()
    )
    notes = [
        f"The strongest attack that was run is {named}. Every accuracy here is an upper "
        "bound on the true robustness: a stronger attack can only lower it, and none is known to be the best."
    ]
    if run == ["fgsm"]:
        notes.append(
            "FGSM alone was run. It takes one step and often misses perturbations that are there; a "
            "model can resist FGSM and fall entirely to PGD. Do not quote these numbers as robustness."
        )
    absent = [f"{name} ({text})" for name, text in ATTACKS.items() if name not in run]
    if absent:
        notes.append("Not run: " + "; ".join(absent) + ".")
    norms = sorted({str(curve.get("norm") or "linf") for curve in summary["curves"]})
    named = " and ".join(NORMS.get(norm, norm) for norm in norms)
    notes.append(
        f"Only perturbations in {named} balls were tried. Nothing follows for other norms, rotations, blur, "
        "patches, or for images from elsewhere."
    )
    notes.append("The intervals cover the choice of test images and nothing else: no other training seed or attack.")
    return notes


NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
