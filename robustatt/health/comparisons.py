"""Attacks against each other: what a weaker one breaks that a stronger one does not, and models that hardly differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from robustatt.attack.recipe import Recipe
from robustatt.eps import NORM_TITLES, parse_radius
from robustatt.health.outcome import AttackOutcome
from robustatt.health.warning import HealthWarning
from robustatt.results import statistics
from robustatt.results.aggregate import baselines
from robustatt.results.outcomes import Outcomes

MIN_SHARE, MIN_COUNT = 0.05, 5
"""An attack contradicts a stronger one if it alone breaks a twentieth of the images, and five: stronger
attacks miss one image in a hundred by an unlucky start, hardly one in twenty."""

CLAIM = 0.02
"""Differences below two points are not worth a headline."""


def _only(a: AttackOutcome, b: NDArray[np.bool_], index: NDArray[np.int64], eps: Sequence[float]) -> tuple[int, int, int, float]:
    """The most examples that `a` breaks and `b` does not at one radius, how many each breaks there in all,
    which radius."""
    worst = (0, 0, 0, 0.0)
    _, mine, theirs = np.intersect1d(a.index, index, return_indices=True)
    for i, radius in enumerate(a.eps):
        if radius in eps and len(mine):
            x, y = a.broken[mine, i], b[theirs, eps.index(radius)]
            worst = max(worst, (int((x & ~y).sum()), int(x.sum()), int(y.sum()), radius))
    return worst


def clearly(count: int, of: int) -> bool:
    return count >= MIN_COUNT and count >= MIN_SHARE * of


def radius_text(eps: float, norm: str) -> str:
    return f"{eps * 255:.3g}/255" if norm == "linf" else f"{NORM_TITLES[norm]} radius {eps:.3g}"


def weaker(outcomes: Sequence[AttackOutcome]) -> Iterator[HealthWarning]:
    """Each iterative attack against every single step in the same norm."""
    for many in (entry for entry in outcomes if entry.iterative or entry.foreign):
        for single in (entry for entry in outcomes if entry.untargeted == "single-step" and entry.norm == many.norm):
            alone, _, _, eps = _only(single, many.broken, many.index, many.eps)
            if clearly(alone, len(many.index)):
                why, advice = (
                    (
                        ": is its step size right for this radius?",
                        "Give arguments that grow with eps under [shares] in its recipe",
                    )
                    if many.foreign
                    else (
                        f", although it takes many steps: {many.name} is misled by the gradient or its steps are wrong.",
                        "Run a black-box attack (square)",
                    )
                )
                yield HealthWarning(
                    "iterative-weaker",
                    f"at {radius_text(eps, many.norm)} the single step of {single.name} breaks {alone} of {len(many.index)} "
                    f"images that {many.name} leaves unbroken{why}",
                    f"{advice}, and believe the worst case of all.",
                    many.outcomes.model,
                    many.name,
                    {"missed": alone, "of": len(many.index), "eps": eps},
                )
                break


def together(outcomes: Sequence[AttackOutcome]) -> AttackOutcome | None:
    """The union of several attacks over the radii of the first iterative one: broken if any breaks it."""
    if not outcomes:
        return None
    first = max(outcomes, key=lambda entry: entry.iterative)
    broken = first.broken.copy()
    for other in outcomes:
        if not np.array_equal(other.index, first.index):
            continue
        for column, eps in enumerate(first.eps):
            smaller = [i for i, radius in enumerate(other.eps) if radius <= eps]  # a grid of its own: balls are nested
            broken[:, column] |= other.broken[:, smaller[-1]] if smaller else False
    return AttackOutcome(first.outcomes, first.recipe, first.index, broken, first.eps)


def gradient_attacks(outcomes: Sequence[AttackOutcome]) -> list[AttackOutcome]:
    """The attacks that follow a gradient, iterative ones first; none if no iterative one is among them."""
    white = [entry for entry in outcomes if entry.iterative and entry.recipe and entry.recipe.algorithm != "autoattack"]
    return [*white, *(entry for entry in outcomes if entry.untargeted == "single-step")] if white else []


def black_box(outcomes: Sequence[AttackOutcome]) -> Iterator[HealthWarning]:
    """A black-box attack against all gradient attacks together, if an iterative one was run."""
    for blind in (entry for entry in outcomes if entry.untargeted == "black-box"):
        mine = [entry for entry in outcomes if entry.norm == blind.norm and entry.name != blind.name]
        union = together(gradient_attacks(mine))
        if union is None:
            continue
        alone, _, _, eps = _only(blind, union.broken, union.index, union.eps)
        if clearly(alone, len(union.index)):
            yield HealthWarning(
                "black-box-stronger",
                f"at {radius_text(eps, blind.norm)} {blind.name}, which sees no gradient, breaks {alone} of "
                f"{len(union.index)} images that no gradient attack broke: the gradients are masked.",
                "Believe "
                "the worst case of all attacks, and attack a smooth stand-in of the layer that hides them "
                "(BPDA, Athalye et al. 2018).",
                blind.outcomes.model,
                union.name,
                {"missed": alone, "of": len(union.index), "eps": eps},
            )


def noise(outcomes: Sequence[AttackOutcome]) -> Iterator[HealthWarning]:
    """A control against all gradient attacks together."""
    for control in (entry for entry in outcomes if entry.control):
        union = together(
            [entry for entry in outcomes if (entry.iterative or entry.untargeted == "single-step") and entry.norm == control.norm]
        )
        if union is None:
            continue
        alone, noise, attack, eps = _only(control, union.broken, union.index, union.eps)
        if clearly(alone, len(union.index)) and noise >= attack:
            yield HealthWarning(
                "noise-as-strong",
                f"at {radius_text(eps, control.norm)} random noise breaks {noise} of {len(union.index)} images and the attack "
                f"{attack}: the attack does no better than chance, so it says nothing about robustness.",
                "Look at the gradient (zero, flipped, or of another model?).",
                control.outcomes.model,
                union.name,
                {"noise": noise, "attack": attack, "of": len(union.index), "eps": eps},
            )


def unconverged(outcomes: Sequence[AttackOutcome]) -> Iterator[HealthWarning]:
    """Two recipes of one algorithm, norm and loss of which one takes at least twice the gradients."""
    many = [entry for entry in outcomes if entry.iterative and entry.recipe]
    for weak in many:
        for strong in many:
            if not weak.recipe or not strong.recipe or not _same_but_cost(weak.recipe, strong.recipe):
                continue
            more, _, _, eps = _only(strong, weak.broken, weak.index, weak.eps)
            if clearly(more, len(weak.index)):
                yield HealthWarning(
                    "not-converged",
                    f"at {radius_text(eps, strong.norm)} {strong.name}, the same attack with more steps or restarts, breaks "
                    f"{more} of {len(weak.index)} images more than {weak.name}.",
                    "Raise steps and restarts until nothing changes.",
                    weak.outcomes.model,
                    weak.name,
                    {"more": more, "of": len(weak.index), "eps": eps},
                )
                break


def _same_but_cost(weak: Recipe, strong: Recipe) -> bool:
    same = (weak.algorithm, weak.norm, getattr(weak, "loss", "")) == (
        strong.algorithm,
        strong.norm,
        getattr(strong, "loss", ""),
    )
    return same and strong.cost()[0] >= 2 * weak.cost()[0]


def too_few(outcomes: Sequence[AttackOutcome]) -> Iterator[HealthWarning]:
    """Each model against its baseline (else the first): is the largest difference of the curve one that n
    examples show?

    Said only if no radius of the curve has a difference with p < 0.05, and the largest, of at least two
    points, is smaller than what n examples detect four times in five.
    """
    models = list(dict.fromkeys(entry.outcomes.model for entry in outcomes))
    pairs = baselines(models) or dict.fromkeys(models[1:], models[0])
    by_key = {(entry.outcomes.model, entry.name): entry.outcomes for entry in outcomes}
    for entry in outcomes:
        other = by_key.get((pairs.get(entry.outcomes.model, ""), entry.name))
        if other is None or entry.control or other.model == entry.outcomes.model:
            continue
        tables = list(_tables(entry.outcomes, other))
        if not tables or min(float(statistics.mcnemar_exact(t.only_a, t.only_b)) for t in tables) < 0.05:
            continue
        table = max(tables, key=lambda t: abs(t.only_a - t.only_b))
        claimed, discordance = (
            abs(table.only_a - table.only_b) / table.n,
            (table.only_a + table.only_b) / table.n,
        )
        if claimed < CLAIM:
            continue
        detectable = statistics.detectable_difference(table.n, discordance)
        if claimed >= detectable:
            continue
        least = f"{table.n} examples show a difference reliably (four times in five) from {100 * detectable:.1f} points on"
        if np.isnan(detectable):
            least = f"{table.n} examples are too few to show any difference reliably"
        yield HealthWarning(
            "too-few-examples",
            f"{entry.outcomes.model} and {other.model} differ by at most {100 * claimed:.1f} points, at no radius "
            f"significantly even taken alone, and {least}: whether one of them is better is not known.",
            "Evaluate more examples.",
            entry.outcomes.model,
            entry.name,
            {"difference": claimed, "of": table.n} | ({} if np.isnan(detectable) else {"detectable": detectable}),
        )


def _tables(grid: Outcomes, base: Outcomes) -> Iterator[statistics.PairedCounts]:
    _, mine, theirs = np.intersect1d(grid.index, base.index, return_indices=True)
    for i, eps in enumerate(grid.eps):
        if eps in base.eps and parse_radius(eps) > 0 and len(mine):
            yield statistics.PairedCounts.of(grid.correct[mine, i], base.correct[theirs, base.eps.index(eps)])
