"""Recipes: what may be said of each algorithm, checked by pydantic."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NormName = Literal["linf", "l2", "l1"]
LossName = Literal["stable", "ce", "margin", "dlr"]
TargetName = Literal["least-likely", "random", "next"]
Category = Literal["single-step", "iterative", "minimum-norm", "black-box", "control", "attention", "external"]
NO_ADVERSARIES: tuple[Category, ...] = ("control", "attention")
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
        'targets must be "least-likely", "random", "next", a class such as 3, or a list with a class for '
        "each example"
    )


Targets = Annotated[TargetName | int | tuple[int, ...] | None, BeforeValidator(_checked_targets)]


class Recipe(BaseModel):
    """What every recipe says. `norm` is the threat model's norm; the radii come from the plan, unless `eps` says them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    #: keys that do not decide any number
    prose: ClassVar[tuple[str, ...]] = ("citation", "good_for")
    #: what sort of attack the algorithm is; see `category`
    usual_category: ClassVar[Category]
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
        """Whether it has no norm and so no radius: any image in [0, 1] is allowed."""
        return False

    def cost(self) -> tuple[int, int]:
        """Gradients and forward passes an image and radius at full strength, when the grid saves nothing."""
        raise NotImplementedError

    def decisive(self) -> dict[str, Any]:
        """Everything that decides this attack's numbers: all but the prose."""
        return self.model_dump(mode="json", exclude={*self.prose, "eps"})

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


class FgsmRecipe(LossRecipe):
    """One step along the steepest direction of the loss at the clean image."""

    usual_category = "single-step"
    implementation = "robustatt.attack.gradient:Fgsm"
    one_run = True
    algorithm: Literal["fgsm"]

    def cost(self) -> tuple[int, int]:
        return self.eot, 1


class RFgsmRecipe(LossRecipe):
    """One step from a random point. `start` sign: a random corner; uniform: anywhere in the ball of
    `start_size` eps."""

    usual_category = "single-step"
    implementation = "robustatt.attack.gradient:RFgsm"
    algorithm: Literal["r-fgsm"]
    start: Literal["sign", "uniform"] = "sign"
    start_size: Annotated[float, Field(gt=0, le=1)] = 0.5
    step_size: Share = 0.5

    def cost(self) -> tuple[int, int]:
        return self.eot, 1


class PgdRecipe(LossRecipe):
    """Projected gradient ascent; `step_size` is a share of eps."""

    usual_category = "iterative"
    implementation = "robustatt.attack.gradient:Pgd"
    algorithm: Literal["pgd"]
    steps: Count = 40
    step_size: Share = 0.1
    restarts: Count = 1
    random_start: bool = True

    def cost(self) -> tuple[int, int]:
        return self.steps * self.restarts * self.eot, self.restarts

    @model_validator(mode="after")
    def _restarts_differ(self) -> Self:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts = 1 is all that makes sense with random_start = false: every restart is the same")
        return self


class MomentumRecipe(LossRecipe):
    """Iterated steps along a running sum of normalised gradients; deterministic, so there are no restarts."""

    usual_category = "iterative"
    implementation = "robustatt.attack.gradient:MiFgsm"
    algorithm: Literal["mi-fgsm"]
    steps: Count = 10
    step_size: Share = 0.1
    decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    restarts: Literal[1] = 1

    def cost(self) -> tuple[int, int]:
        return self.steps * self.eot, 1


class NesterovRecipe(MomentumRecipe):
    """The same steps, each from where the running sum leads."""

    implementation = "robustatt.attack.gradient:NiFgsm"
    algorithm: Literal["ni-fgsm"]  # type: ignore[assignment]


class ApgdRecipe(LossRecipe):
    """Auto-PGD: the step size halves itself. `rho` is the share of rising steps below which it does."""

    usual_category = "iterative"
    implementation = "robustatt.attack.apgd:auto_pgd"
    algorithm: Literal["apgd"]
    steps: Annotated[int, Field(ge=2)] = 100
    restarts: Count = 1
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.75

    def cost(self) -> tuple[int, int]:
        return self.steps * self.restarts * self.eot, self.restarts


class ApgdTargetedRecipe(Recipe):
    """Auto-PGD on the targeted DLR loss, once for each of the `targets` most likely wrong classes."""

    usual_category = "iterative"
    implementation = "robustatt.attack.apgd:auto_pgd"
    algorithm: Literal["apgd-t"]
    loss: Literal["dlr", "margin"] = "dlr"
    targets: Count = 9
    steps: Annotated[int, Field(ge=2)] = 100
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.75
    eot: Count = 1

    def cost(self) -> tuple[int, int]:
        return self.steps * self.targets * self.eot, self.targets


class FabRecipe(Recipe):
    """Fast adaptive boundary attack towards each of the `targets` most likely wrong classes: minimum norm."""

    usual_category = "minimum-norm"
    implementation = "robustatt.attack.fab:FabTargeted"
    one_run = True
    algorithm: Literal["fab-t"]
    targets: Count = 9
    steps: Count = 100
    alpha_max: Annotated[float, Field(gt=0, le=1)] = 0.1
    eta: Annotated[float, Field(ge=1, lt=2)] = 1.05
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.9

    def cost(self) -> tuple[int, int]:
        return self.steps * self.targets, self.steps * self.targets + 1


class FmnRecipe(Recipe):
    """Fast minimum-norm attack: the radius shrinks while the point is adversarial and grows while it is
    not."""

    usual_category = "minimum-norm"
    implementation = "robustatt.attack.fmn:Fmn"
    one_run = True
    algorithm: Literal["fmn"]
    steps: Count = 100
    step_size: Share = 1.0
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.05

    def cost(self) -> tuple[int, int]:
        return self.steps, 1


class SquareRecipe(Recipe):
    """Random search with square windows, no gradients. `p` is the share of pixels changed at first."""

    usual_category = "black-box"
    implementation = "robustatt.attack.square:Square"
    algorithm: Literal["square"]
    norm: Literal["linf", "l2"] = "linf"
    loss: Literal["margin", "stable", "ce"] = "margin"
    targeted: Targets = None
    queries: Count = 5000
    p: Annotated[float, Field(gt=0, le=1)] = 0.8
    rescale: bool = True
    restarts: Count = 1

    def cost(self) -> tuple[int, int]:
        return 0, (self.queries + 1) * self.restarts


class NoiseRecipe(Recipe):
    """A control: random noise of the same size, no knowledge of the model."""

    usual_category = "control"
    implementation = "robustatt.attack.noise:RandomNoise"
    one_run = True
    algorithm: Literal["noise"]
    kind: Literal["uniform", "sign"] = "uniform"

    def cost(self) -> tuple[int, int]:
        return 0, 1


class AttentionRecipe(Recipe):
    """Projected gradient ascent on where a network looks, run to its last step at every radius.

    `keep` "label": moves the maps as far as possible while the prediction stays. `keep` "map": fools the network while its maps
    stay as they are, as far as that goes. `levels` is a glob over the levels whose maps count.
    """

    usual_category = "iterative"
    implementation = "robustatt.attack.attention:MapAscent"
    to_the_end = True
    algorithm: Literal["attention"]
    keep: Literal["label", "map"] = "label"
    levels: str = "*"
    steps: Count = 40
    step_size: Share = 0.1

    @property
    def category(self) -> Category:
        return "attention" if self.keep == "label" else "iterative"

    def cost(self) -> tuple[int, int]:
        return self.steps + 1, 1


class AutoAttackRecipe(Recipe):
    """The worst case of a chain of attacks, each run on the survivors of the last. `version` names the
    chain."""

    usual_category = "iterative"
    algorithm: Literal["autoattack"]
    norm: Literal["linf", "l2"] = "linf"
    version: Literal["standard", "rand"] = "standard"
    steps: Annotated[int, Field(ge=2)] = 100
    targets: Count = 9
    queries: Count = 5000

    def parts(self) -> list[Recipe]:
        """The recipes of the chain, in order."""
        shared: dict[str, Any] = {"norm": self.norm, "steps": self.steps}
        if self.version == "rand":
            return [
                ApgdRecipe(name=f"{self.name}/apgd-ce", algorithm="apgd", loss="stable", eot=20, **shared),
                ApgdRecipe(name=f"{self.name}/apgd-dlr", algorithm="apgd", loss="dlr", eot=20, **shared),
            ]
        return [
            ApgdRecipe(name=f"{self.name}/apgd-ce", algorithm="apgd", loss="stable", **shared),
            ApgdTargetedRecipe(name=f"{self.name}/apgd-t", algorithm="apgd-t", targets=self.targets, **shared),
            FabRecipe(name=f"{self.name}/fab-t", algorithm="fab-t", targets=self.targets, **shared),
            SquareRecipe(name=f"{self.name}/square", algorithm="square", norm=self.norm, queries=self.queries, rescale=False),
        ]

    def cost(self) -> tuple[int, int]:
        costs = [part.cost() for part in self.parts()]
        return sum(gradients for gradients, _ in costs), sum(forwards for _, forwards in costs)


class ExternalRecipe(Recipe):
    """A class of another library: algorithm = "torchattacks:DIFGSM" or "foolbox:LinfPGD".

    `arguments` are its own; `shares` are those that grow with the radius, as shares of eps (alpha = 0.25). With
    `norm = "none"` it runs in its own threat model: no radius is used, and any image in [0, 1] will do.
    """

    usual_category = "external"
    norm: Literal["linf", "l2", "l1", "none"] = "linf"  # type: ignore[assignment]  # wider than that of native attacks
    arguments: dict[str, Any] = Field(default_factory=dict)
    shares: dict[str, float] = Field(default_factory=dict)

    @property
    def unbounded(self) -> bool:
        return self.norm == "none"

    @model_validator(mode="after")
    def _no_shares_of_nothing(self) -> Self:
        if self.norm == "none" and self.shares:
            raise ValueError('shares are shares of the radius, and norm = "none" has none: put them under [arguments]')
        return self

    def cost(self) -> tuple[int, int]:
        """Unknown: (0, 0) where the arguments do not say the number of steps."""
        steps = self.arguments.get("steps", 0)
        return (steps, 1) if isinstance(steps, int) else (0, 0)
