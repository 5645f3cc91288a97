"""Recipes: what may be said of each algorithm, checked by pydantic."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NormName = Literal["linf", "l2", "l1"]
LossName = Literal["stable", "ce", "margin", "dlr"]
TargetName = Literal["least-likely", "random", "next"]
Category = Literal["single-step", "iterative", "minimum-norm", "black-box", "control", "attention", "corruption", "external"]
Access = Literal["white-box", "black-box", "label-only", "transfer", "none", "unknown"]
ACCESS: dict[Access, str] = {
    "white-box": "follows the model's gradients",
    "black-box": "asks for the model's scores alone",
    "label-only": "asks for the predicted label alone",
    "transfer": "follows gradients of a model to fool others that it does not see",
    "none": "asks the model nothing: a control",
    "unknown": "another library's: see its class",
}
"""What an attack needs of the model it is made on."""
UNGATED: tuple[Category, ...] = ("control", "attention")  # a gate does not hold accuracy under them
NO_ADVERSARIES: tuple[Category, ...] = (*UNGATED, "corruption")
"""What does not want mistakes, so that no worst case is taken over it."""
Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _checked_targets(value: object) -> object:
    if isinstance(value, bool) or value in ("", [], ()):
        raise ValueError(
            'targeted without targets: write targeted = "least-likely", "random" or "next", a class '
            "such as 3, or a list with a class for each example"
        )
    whole = isinstance(value, list | tuple) and all(type(entry) is int and entry >= 0 for entry in value)
    if whole:
        return tuple(value)  # type: ignore[arg-type]
    if (type(value) is int and value >= 0) or value is None or value in ("least-likely", "random", "next"):
        return value
    raise ValueError(
        'targets must be "least-likely", "random", "next", a class such as 3, or a list with a class for each example'
    )


Targets = Annotated[TargetName | int | tuple[int, ...] | None, BeforeValidator(_checked_targets)]


class Recipe(BaseModel):
    """What every recipe says. `norm` is the threat model's norm; the radii come from the plan, unless `eps` says them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    #: keys that do not decide any number
    prose: ClassVar[tuple[str, ...]] = ("citation", "good_for")
    #: what sort of attack the algorithm is; see `category`
    usual_category: ClassVar[Category]
    #: what the algorithm needs of the model; see `ACCESS`
    access: ClassVar[Access] = "white-box"
    #: keys that decide numbers only where they are set: older records were made without them
    optional: ClassVar[tuple[str, ...]] = ()
    #: what makes the attack of a recipe, and of the number of classes if it takes `classes`: "module:Class"
    implementation: ClassVar[str] = ""
    #: whether one run serves every radius of the grid
    one_run: ClassVar[bool] = False
    #: whether it is always run to its last step at every radius, as it looks for more than a mistake
    to_the_end: ClassVar[bool] = False

    name: str
    algorithm: str
    norm: NormName = "linf"
    eps: str | None = None
    citation: str = ""
    good_for: str = ""

    @property
    def category(self) -> Category:
        """What sort of attack it is. An iterative one of a single step is a single-step attack; noise is a control."""
        return "single-step" if self.usual_category == "iterative" and getattr(self, "steps", 2) == 1 else self.usual_category

    def parts(self) -> list[Recipe]:
        """The recipes of a chain, in order; empty for a single attack."""
        return []

    @property
    def unbounded(self) -> bool:
        """Whether it has no norm: any image in [0, 1] is allowed."""
        return str(self.norm) == "none"

    @property
    def scale(self) -> str:
        """What its grid counts in, a key of `robustatt.eps.UNITS`: the norm; "none" where it has no grid."""
        return self.norm

    def cost(self) -> tuple[int, int]:
        """Gradients and forward passes an image and radius at full strength, when the grid saves nothing."""
        raise NotImplementedError

    def decisive(self) -> dict[str, Any]:
        """Everything that decides this attack's numbers: all but the prose."""
        unset = [key for key in self.optional if getattr(self, key) is None]
        return self.model_dump(mode="json", exclude={*self.prose, *unset, "eps"})

    def fingerprint(self) -> str:
        """sha256 of what decides the numbers."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()


class LossRecipe(Recipe):
    """An attack that climbs a loss: which, towards which class, and over how many passes it is averaged.

    `targeted` is "least-likely", "random", "next" (the label plus one), one class for all, or a class for
    each example of the data set; left out, any mistake is a success. `eot` passes are averaged for each
    query, for randomised models (Athalye et al. 2018, section 3).
    """

    loss: LossName = "stable"
    targeted: Targets = None
    eot: Count = 1


class ExternalRecipe(Recipe):
    """A class of another library: algorithm = "torchattacks:DIFGSM" or "foolbox:LinfPGD".

    `arguments` are its own; `shares` are those that grow with the radius, as shares of eps (alpha = 0.25). With
    `norm = "none"` it runs in its own threat model: no radius is used, and any image in [0, 1] will do.
    """

    usual_category = "external"
    access = "unknown"
    norm: Literal["linf", "l2", "l1", "none"] = "linf"  # type: ignore[assignment]  # wider than that of native attacks
    arguments: dict[str, Any] = Field(default_factory=dict)
    shares: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_shares_of_nothing(self) -> Self:
        if self.norm == "none" and self.shares:
            raise ValueError('shares are shares of the radius, and norm = "none" has none: put them under [arguments]')
        return self

    def cost(self) -> tuple[int, int]:
        """Unknown: (0, 0) where the arguments do not say the number of steps."""
        steps = self.arguments.get("steps", 0)
        return (steps, 1) if isinstance(steps, int) else (0, 0)
