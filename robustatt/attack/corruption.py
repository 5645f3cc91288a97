"""The recipe of a common corruption: no attack, but evaluated as one is, severity by severity in place of radii."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from robustatt.attack.recipe import Recipe
from robustatt.corruptions.kinds import KINDS
from robustatt.errors import did_you_mean

CITATION = "Hendrycks & Dietterich 2019"


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"no such corruption: {did_you_mean(kind, KINDS)}")
    return kind


class CorruptionRecipe(Recipe):
    """One kind of corruption. Drawn by the constants published for the size of the images, or read from published images.

    `images` names the data set of those, with `{}` for the severity (``CIFAR-10-C:fog:{}``), and `content` is their hash.
    """

    usual_category = "corruption"
    access = "none"
    implementation = "robustatt.attack.corrupting:Corruption"
    one_run = True
    prose: ClassVar[tuple[str, ...]] = (*Recipe.prose, "images")
    algorithm: Literal["corruption"]
    kind: Annotated[str, AfterValidator(_known)]
    norm: Literal["none"] = "none"  # type: ignore[assignment]
    images: str | None = None
    content: str | None = None

    @property
    def scale(self) -> str:
        return "severity"

    def cost(self) -> tuple[int, int]:
        return 0, 1


def corruption_recipe(kind: str) -> CorruptionRecipe:
    """The recipe that draws a kind of corruption, under its name."""
    return CorruptionRecipe(name=kind, algorithm="corruption", kind=kind, citation=CITATION)
