"""Which adversarial examples a sweep saves as images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from robustatt.attack.recipe import Recipe
from robustatt.eps import UNITS, format_radius, parse_grid
from robustatt.errors import InputError, said_of

Radii = tuple[str, ...]
ALL = "all"


@dataclass(frozen=True)
class SavedImages:
    """Of the first `first` examples of a sweep (None: of all) the image at the threshold, and those at the radii of `at`.

    An example's threshold is the smallest radius at which it is predicted wrong, having been right when clean. `at` is a
    grid as `--eps` takes it, in the unit of each attack's norm; each attack has those of its own radii that are in it.
    """

    first: int | None
    at: str = ""

    @staticmethod
    def parse(first: object, at: str | None, unit: Fraction | None = None) -> SavedImages | None:
        """From a number or "all", and a grid; None if nothing is to be saved. InputError for anything else.

        Bare numbers of the grid count in `unit`, or if it is None in that of each attack's norm.
        """
        if first is None:
            if at:
                raise InputError(
                    f"--save-images-at without --save-images: say of how many examples, such as --save-images 100 or --save-images {ALL}"
                )
            return None
        text = str(first).strip()
        if text != ALL and not (text.isdecimal() and int(text) > 0):
            raise InputError(f"--save-images {text[:64]!r}: give a number of examples, or {ALL}")
        if at and unit is not None:
            at = ",".join(format_radius(eps) for eps in _parsed(at, unit)) or at
        return SavedImages(None if text == ALL else int(text), at or "")

    @property
    def text(self) -> str:
        """The number of examples as a user gives it."""
        return ALL if self.first is None else str(self.first)

    def check(self, grids: Sequence[tuple[Recipe, Radii]]) -> None:
        """InputError for a radius of `at` that no attack is run at."""
        if not self.at:
            return
        for part in self.at.split(","):
            if not any(self.radii(recipe, radii, part) for recipe, radii in grids):
                raise InputError(f"--save-images-at {part.strip()!r}: no attack is run at such a radius: give radii of --eps")

    def radii(self, recipe: Recipe, grid: Radii, at: str | None = None) -> Radii:
        """Those radii of an attack's grid at which the image of every example is saved."""
        text = self.at if at is None else at
        if recipe.unbounded or not text:
            return ()
        wanted = {format_radius(eps, recipe.norm) for eps in _parsed(text, UNITS[recipe.norm])}
        return tuple(eps for eps in grid if eps in wanted)

    def examples(self, start: int, stop: int) -> int:
        """Of how many of the examples [start, stop) images are saved, from the first on."""
        return max(0, min(stop, stop if self.first is None else self.first) - start)


def _parsed(at: str, unit: Fraction) -> tuple[Fraction, ...]:
    with said_of("--save-images-at"):
        return parse_grid(at, unit)


@dataclass(frozen=True)
class CellImages:
    """What is saved of one Cell: of its first `examples` examples the image at the threshold and those at `radii`."""

    examples: int
    radii: Radii = ()

    def covers(self, other: CellImages) -> bool:
        """Whether all that the other asks for is here."""
        return self.examples >= other.examples and set(self.radii) >= set(other.radii)
