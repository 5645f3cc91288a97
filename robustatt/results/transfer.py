"""The matrix of transfer: robust accuracy by the model that examples were crafted on and the one they are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustatt.eps import headline_radius, parse_radius
from robustatt.errors import InputError, did_you_mean
from robustatt.results.part import in_percent
from robustatt.results.summary import Curve, Point, Summary

if TYPE_CHECKING:
    import pandas as pd


WHITE_BOX = "white box"


@dataclass(frozen=True)
class TransferMatrix:
    """One attack: by radius, surrogate and model the point of the curve; `white` are the points of the usual sweep."""

    attack: str
    norm: str
    radii: tuple[str, ...]
    surrogates: tuple[str, ...]
    models: tuple[str, ...]
    points: Mapping[tuple[str, str, str], Point]
    white: Mapping[tuple[str, str], Point]

    @property
    def headline(self) -> str:
        """The radius that is shown first."""
        return headline_radius(self.radii, self.norm) or self.radii[-1]


def matrices(summary: Summary) -> list[TransferMatrix]:
    """The matrix of every attack that was crafted on surrogates, in the order of the plan."""
    found = []
    for attack in dict.fromkeys(curve.attack for curve in summary.transfer):
        curves = [curve for curve in summary.transfer if curve.attack == attack]
        white = [curve for curve in summary.curves if curve.attack == attack]
        radii = {parse_radius(point.eps): point.eps for curve in curves for point in curve.points}
        found.append(
            TransferMatrix(
                attack, curves[0].norm, tuple(radii[radius] for radius in sorted(radii) if radius > 0),
                tuple(dict.fromkeys(curve.surrogate for curve in curves)), tuple(dict.fromkeys(curve.model for curve in curves)),
                {(point.eps, curve.surrogate, curve.model): point for curve in curves for point in curve.points},
                {(point.eps, model): point for model, point in _points(white)},
            )
        )  # fmt: skip
    return [matrix for matrix in found if matrix.radii]


def uncrafted(summary: Summary) -> list[str]:
    """The adversaries of a sweep with surrogates that were not crafted on any; none of a sweep without."""
    crafted = {curve.attack for curve in summary.transfer}
    return [name for name in summary.curve_names()[1] if crafted and summary.is_adversary(name) and name not in crafted]


def _points(curves: Sequence[Curve]) -> list[tuple[str, Point]]:
    return [(curve.model, point) for curve in curves for point in curve.points]


def matrix_texts(matrix: TransferMatrix) -> list[list[str]]:
    """The rows of the matrix at the radius that is shown first, as text; the attacks on the models themselves last."""
    eps = matrix.headline
    rows = [
        [surrogate, *(_cell(matrix.points.get((eps, surrogate, model))) for model in matrix.models)]
        for surrogate in matrix.surrogates
    ]
    return [*rows, [f"itself ({WHITE_BOX})", *(_cell(matrix.white.get((eps, model))) for model in matrix.models)]]


def _cell(point: Point | None) -> str:
    return "-" if point is None else in_percent(point.accuracy, point.ci_low, point.ci_high)


def matrix_frame(found: Sequence[TransferMatrix], attack: str | None, eps: str | None) -> pd.DataFrame:
    """Robust accuracy at one radius, surrogates by models; InputError for an attack or radius that is not there."""
    import pandas as pd

    names = {matrix.attack: matrix for matrix in found}
    if not names:
        raise InputError("no examples were crafted on surrogates: give sweep(..., surrogate=...)")
    if attack is not None and attack not in names:
        raise InputError(f"attack {attack!r} was not crafted on surrogates: {did_you_mean(attack, names)}")
    matrix = found[0] if attack is None else names[attack]
    texts = {parse_radius(text): text for text in matrix.radii}
    radius = matrix.headline if eps is None else texts.get(parse_radius(eps))
    if radius is None:
        raise InputError(f"eps {eps!r}: {matrix.attack} was not crafted there. Known: {', '.join(matrix.radii)}")
    rows = [[_accuracy(matrix, radius, surrogate, model) for model in matrix.models] for surrogate in matrix.surrogates]
    return pd.DataFrame(
        rows, index=pd.Index(matrix.surrogates, name="crafted_on"), columns=pd.Index(matrix.models, name="tested_on"), dtype=float
    )


def _accuracy(matrix: TransferMatrix, eps: str, surrogate: str, model: str) -> float | None:
    point = matrix.points.get((eps, surrogate, model))
    return None if point is None else point.accuracy
