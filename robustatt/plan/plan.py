"""A plan: the user's request, from TOML or flags, checked."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from robustatt.attack.recipe import Recipe
from robustatt.corruptions.kinds import SEVERITIES
from robustatt.eps import DEFAULT_GRIDS, UNITS, WHOLE_BOX, format_radius, parse_grid, parse_radius
from robustatt.errors import InputError, did_you_mean, said_of
from robustatt.plan.checks import (
    require_at_least_one,
    require_choice,
    require_known,
    require_one_choice,
    require_seed,
    require_some,
    require_type,
    require_unique,
)
from robustatt.plan.entries import Document, ModelEntry, attack_entry, model_from_toml, model_to_toml
from robustatt.plan.limits import GateRule, Limits
from robustatt.plan.saved_images import SavedImages
from robustatt.plan.surrogates import ALL, require_some_craft, resolved

#: radii by the name of an attack
Grids = tuple[tuple[str, tuple[Fraction, ...]], ...]
PRECISIONS = ("float32", "bf16-screen")
#: keys of a plan file that hold one plain value: its type, and an example
SIMPLE_KEYS: dict[str, tuple[type, str]] = {
    "data": (str, '"digits"'), "split": (str, '"test"'), "n": (int, "500"), "sample": (int, "500"), "seed": (int, "0"),
    "independent": (bool, "false"), "batch_size": (int, "128"), "device": (str, '"auto"'), "data_root": (str, '"/data"'),
    "download": (bool, "true"), "label_column": (str, '"label"'), "input_size": (int, "224"),
    "precision": (str, '"float32"'), "compile": (bool, "true"), "class_names": (str, '"classes.txt"'), "channels": (int, "1"),
    "mask_classes": (bool, "true"), "drift_n": (int, "100"), "baseline": (str, '"vgg"'),
    "rounds": (bool, "true"),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Everything a sweep needs to know. `eps` never holds 0: it is implied.

    `grids` are the radii of attacks, by name, that have others than `eps` (see `radii_by_attack`).

    `n`: the first n examples; `sample`: this many drawn by `seed`, classes in proportion; all if both are None. `data_root`,
    `download`, `label_column`, `input_size`, `class_names` (a file) and `channels` say how the data is found and read;
    `mask_classes` lets only those outputs compete that are classes of the data, found by name in `class_names`;
    `precision` and `compile` how models are run (see `robustatt.evaluate.classifier.Numerics`). `drift_n`: on how many examples
    drift is measured at full strength (see `robustatt.plan.drift_sample`); None: as many as pay off, 0: none. `images`: which
    adversarial examples are saved; None: none. `baseline`: the model that the others are compared with; None: each with that of
    its family. Examples are also crafted on the `surrogates` and tested on all models (see `robustatt.plan.surrogates`).
    `limits`: where it stops before all examples are done (see `robustatt.plan.limits`); `rounds`: examples are taken in random order and
    in rounds, as with limits, to the last.
    """

    models: tuple[ModelEntry, ...]
    attacks: tuple[Recipe, ...]
    eps: tuple[Fraction, ...]
    data: str = "digits"
    split: str = "test"
    n: int | None = None
    seed: int = 0
    independent: bool = False
    batch_size: int | None = None
    device: str = "auto"
    sample: int | None = None
    data_root: str | None = None
    download: bool = False
    label_column: str | None = None
    input_size: int | None = None
    precision: str = "float32"
    compile: bool = False
    class_names: str | None = None
    channels: int | None = None
    mask_classes: bool = False
    drift_n: int | None = None
    baseline: str | None = None
    grids: Grids = ()
    images: SavedImages | None = None
    surrogates: tuple[ModelEntry, ...] = ()
    limits: Limits | None = None
    rounds: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", tuple(sorted(set(self.eps) - {Fraction(0)})))
        require_some(self.models, "no model: give at least one, such as --model vgg_att3")
        require_some(self.attacks, "no attack: give at least one, such as --attack fgsm")
        require_unique("model", [entry.name for entry in self.models])
        require_unique("attack", [entry.name for entry in self.attacks])
        require_at_least_one("-n", self.n, "give at least 1 example, or leave it out for all")
        require_at_least_one("--sample", self.sample, "give at least 1 example, or leave it out for all")
        require_one_choice(self.n, self.sample, "examples")
        require_at_least_one("--input-size", self.input_size, "give the pixels a side, such as 32 or 224")
        if self.mask_classes and self.class_names is None:
            raise InputError("--mask-classes without --class-names FILE: the file says which output is which class")
        if self.channels not in (None, 1, 3):
            raise InputError(f"--channels {self.channels}: give 1 for grey images or 3")
        require_at_least_one("--batch-size", self.batch_size, "give auto or at least 1")
        if self.precision not in PRECISIONS:
            raise InputError(f"--precision {self.precision!r}: {did_you_mean(self.precision, PRECISIONS)}")
        if self.drift_n is not None and self.drift_n < 0:
            raise InputError(f"--drift-n {self.drift_n}: give 0 for none, or a number of examples")
        require_seed(self.seed)
        require_choice("--baseline", self.baseline, [entry.name for entry in self.models])
        if self.crafted_on:
            require_some_craft(self.attacks)
        for entry in self.attacks:
            if entry.scale == "severity" and not set(self._grid_of(entry)) <= set(SEVERITIES):
                raise InputError(f"severities of {entry.name}: give whole numbers from 1 to 5, such as 1..5")
            largest = max(self._grid_of(entry), default=Fraction(0))
            if entry.norm == "linf" and not entry.unbounded and largest > 1:
                raise InputError(
                    f"--eps {format_radius(largest)} is larger than the whole pixel range [0, 1]: "
                    "an L-infinity radius is at most 255/255"
                )
        if self.limits is not None:
            self.limits.check([entry.name for entry in self.models], [entry.name for entry in self.attacks])
        if self.images is not None:
            self.images.check([(entry, self.radii_of(entry)) for entry in self.attacks])

    @property
    def crafted_on(self) -> tuple[ModelEntry, ...]:
        """The surrogates, `all` of them spelt out."""
        return resolved(self.surrogates, self.models)

    @property
    def loaded(self) -> tuple[ModelEntry, ...]:
        """Every model there is to load: those that are evaluated, then the surrogates that are not."""
        return tuple(dict.fromkeys([*self.models, *self.crafted_on]))

    @property
    def in_rounds(self) -> bool:
        """Whether examples are taken in a random order, in rounds over all models and attacks."""
        return self.rounds or self.limits is not None

    @property
    def positions_are_indices(self) -> bool:
        """Whether the examples are the first ones of the data, in its order."""
        return self.sample is None and not self.in_rounds

    def at_once(self) -> Plan:
        """The same sweep of all examples in their own order, neither limited nor in rounds."""
        return replace(self, limits=None, rounds=False)

    def without_limits(self) -> Plan:
        """The same sweep to its end."""
        return replace(self, limits=None)

    def radii(self) -> tuple[str, ...]:
        """The radii as records write them, ascending, without the clean one."""
        return tuple(format_radius(eps) for eps in self.eps)

    def _grid_of(self, attack: Recipe) -> tuple[Fraction, ...]:
        return dict(self.grids).get(attack.name, self.eps)

    def radii_of(self, attack: Recipe) -> tuple[str, ...]:
        """The radii of one attack as records write them; for an attack without a grid the one that holds the whole box."""
        if attack.scale == "none":
            return (WHOLE_BOX,)
        return tuple(format_radius(eps, attack.scale) for eps in self._grid_of(attack))

    def to_toml(self) -> Document:
        """The plan as a document that `Plan.from_toml` reads back; attacks by their whole recipe."""
        document: Document = {
            "data": self.data,
            "split": self.split,
            "eps": ",".join(self.radii()) or "0",
            "seed": self.seed,
            "independent": self.independent,
        }
        for key in ("n", "sample", "data_root", "label_column", "input_size", "class_names", "channels", "drift_n", "baseline"):
            if getattr(self, key) is not None:
                document[key] = getattr(self, key)
        for key, usual in (("precision", "float32"), ("compile", False), ("mask_classes", False), ("rounds", False)):
            if getattr(self, key) != usual:
                document[key] = getattr(self, key)
        document |= {} if self.limits is None else self.limits.to_toml()
        if self.images is not None:
            document |= {"save_images": self.images.text} | ({"save_images_at": self.images.at} if self.images.at else {})
        document["models"] = [model_to_toml(entry) for entry in self.models]
        if self.surrogates:
            by_name = {ALL, *(entry.name for entry in self.models)}
            document["surrogates"] = [entry.name if entry.name in by_name else model_to_toml(entry) for entry in self.surrogates]
        own = {
            entry.name: {"eps": ",".join(self.radii_of(entry)) or "0"} for entry in self.attacks if entry.name in dict(self.grids)
        }
        document["attacks"] = [
            entry.model_dump(mode="json", exclude_none=True, exclude={"eps"}) | own.get(entry.name, {}) for entry in self.attacks
        ]
        return document

    @staticmethod
    def from_toml(document: Document, where: str) -> Plan:
        """A plan from a TOML document; every mistake is an InputError that begins with `where`."""
        typed = {**SIMPLE_KEYS, "models": (list, '["vgg"]'), "attacks": (list, '["fgsm"]'), "surrogates": (list, '["all"]')}
        with said_of(where):
            require_known(
                document, {*typed, "eps", "eps_unit", "save_images", "save_images_at", "time", "until", "against", "bound"}
            )
            for key, (kind, example) in typed.items():
                if key in document:
                    require_type(key, document[key], kind, f"{key} = {example}")
            grid = document.get("eps", [])
            texts = [str(text) for text in (grid if isinstance(grid, list) else [grid])]
            attacks = tuple(attack_entry(entry) for entry in document.get("attacks", ["fgsm"]))
            unit = parse_unit(document.get("eps_unit"))
            eps, grids = radii_by_attack(attacks, texts, unit)
            models = tuple(model_from_toml(entry) for entry in document.get("models", []))
            surrogates = tuple(model_from_toml(entry) for entry in document.get("surrogates", []))
            simple = {key: document[key] for key in SIMPLE_KEYS if key in document}
            at = document.get("save_images_at", "")
            at = ",".join(map(str, at)) if isinstance(at, list) else str(at)
            images = SavedImages.parse(document.get("save_images"), at, unit)
            for key, example in (("time", '"10m"'), ("until", "2")):
                if key in document and (isinstance(document[key], bool) or not isinstance(document[key], str | int | float)):
                    require_type(key, document[key], str, f"{key} = {example}")
            limits = Limits.parse(document.get("time"), document.get("until"), GateRule.from_toml(document.get("against")))
            return Plan(
                models=models, attacks=attacks, eps=eps, grids=grids, images=images, surrogates=surrogates, limits=limits, **simple
            )  # fmt: skip


def radii_by_attack(
    attacks: Sequence[Recipe], texts: Sequence[str], unit: Fraction | None = None
) -> tuple[tuple[Fraction, ...], Grids]:
    """The common L-infinity grid of a plan, and the grids of the attacks that have another.

    A text is a grid for all attacks (but not for corruptions, which have severities and no radii), or ``NAME=GRID`` for one, which goes before the `eps` of its recipe; of several the
    last counts. An attack without one has the grid of its norm. Numbers count in `unit`, or if it is None in
    that of the norm.

    Raises:
        InputError: not a grid, or an attack that is not in the plan.
    """
    own = {entry.name: entry.eps for entry in attacks if entry.eps is not None}
    common = next((text for text in reversed(texts) if "=" not in text), None)
    for text in texts:
        if not text.strip():
            parse_grid(text)  # says what is wrong
        name, sign, grid = text.partition("=")
        if sign:
            names = [entry.name for entry in attacks]
            if name.strip() not in names:
                raise InputError(f"--eps {text!r}: attack {name.strip()!r} is not run: {did_you_mean(name.strip(), names)}")
            own[name.strip()] = grid

    def parsed(entry: Recipe | None) -> tuple[Fraction, ...]:
        scale = "linf" if entry is None else entry.scale
        text = None if entry is None else own.get(entry.name)
        if scale == "severity":
            return parse_grid(text or DEFAULT_GRIDS[scale], UNITS[scale])
        return parse_grid(text or common or DEFAULT_GRIDS[scale], unit or UNITS[scale])

    plain = parsed(None) if any(entry.norm == "linf" and entry.name not in own for entry in attacks) else ()
    grids = tuple((entry.name, parsed(entry)) for entry in attacks if entry.scale != "none")
    return plain, tuple((name, grid) for name, grid in grids if grid != plain)


def parse_unit(unit: str | int | float | None) -> Fraction | None:
    """What a bare number of the eps grammar counts in; None if that is left to the norm."""
    if unit is None:
        return None
    try:
        value = parse_radius(str(unit))
    except InputError:
        value = Fraction(0)
    if not 0 < value <= 1:
        raise InputError(f"--eps-unit {unit!r}: give 1/255 or 1")
    return value


def read_plan(path: Path) -> Document:
    """The TOML document of a plan file; InputError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"plan {path}: cannot be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"plan {path}: not valid TOML: {problem}") from None
