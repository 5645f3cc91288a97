"""The recipes of the other algorithms that ship with the package. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from robustatt.attack.recipe import Category, Count, LossRecipe, Recipe, Share, Targets

LargerRadii = Literal[True] | None
"""Whether Auto-PGD in L1 spends 30 % of its steps each in balls of three and two times the radius first."""


def _require_l1(larger_radii: LargerRadii, norm: str) -> None:
    if larger_radii and norm != "l1":
        raise ValueError('larger_radii = true is made for norm = "l1": leave it out')


class ApgdRecipe(LossRecipe):
    """Auto-PGD: the step size halves itself. `rho` is the share of rising steps below which it does.

    In L1, `larger_radii` spends 30 % of the steps each in balls of three and two times the radius first.
    """

    usual_category = "iterative"
    optional = ("larger_radii",)
    implementation = "robustatt.attack.apgd:auto_pgd"
    algorithm: Literal["apgd"]
    steps: Annotated[int, Field(ge=2)] = 100
    restarts: Count = 1
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.75
    larger_radii: LargerRadii = None

    def cost(self) -> tuple[int, int]:
        return self.steps * self.restarts * self.eot, self.restarts

    @model_validator(mode="after")
    def _larger_radii_are_for_l1(self) -> Self:
        _require_l1(self.larger_radii, self.norm)
        return self


class ApgdTargetedRecipe(Recipe):
    """Auto-PGD on the targeted DLR loss, once for each of the `targets` most likely wrong classes."""

    usual_category = "iterative"
    optional = ("larger_radii",)
    implementation = "robustatt.attack.apgd:auto_pgd"
    algorithm: Literal["apgd-t"]
    loss: Literal["dlr", "margin"] = "dlr"
    targets: Count = 9
    steps: Annotated[int, Field(ge=2)] = 100
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.75
    eot: Count = 1
    larger_radii: LargerRadii = None

    def cost(self) -> tuple[int, int]:
        return self.steps * self.targets * self.eot, self.targets

    @model_validator(mode="after")
    def _larger_radii_are_for_l1(self) -> Self:
        _require_l1(self.larger_radii, self.norm)
        return self


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


class DeepFoolRecipe(Recipe):
    """DeepFool: steps to the nearest boundary, linearised, of the `candidates` likeliest classes: minimum norm.

    Each step goes `beyond` it, in units of the norm, and is then stretched by the share `overshoot`.
    """

    usual_category = "minimum-norm"
    implementation = "robustatt.attack.deepfool:DeepFool"
    one_run = True
    algorithm: Literal["deepfool"]
    norm: Literal["linf", "l2"] = "l2"
    candidates: Annotated[int, Field(ge=2)] = 10
    steps: Count = 50
    overshoot: Annotated[float, Field(ge=0, lt=1)] = 0.02
    beyond: Annotated[float, Field(ge=0, lt=1)] = 1e-4

    def cost(self) -> tuple[int, int]:
        return self.steps * (self.candidates - 1) + 1, 1


class PenaltyRecipe(Recipe):
    """The distance plus a constant times the margin, minimised `searches` times while the constant is searched for."""

    usual_category = "minimum-norm"
    one_run = True
    searches: Count = 9
    steps: Count = 100
    step_size: Share = 0.01
    constant: Share = 0.001
    confidence: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def cost(self) -> tuple[int, int]:
        return self.searches * self.steps + 1, 1


class CarliniWagnerRecipe(PenaltyRecipe):
    """The attack of Carlini & Wagner in L2."""

    implementation = "robustatt.attack.penalty:CarliniWagner"
    algorithm: Literal["cw"]
    norm: Literal["l2"] = "l2"


class ElasticNetRecipe(PenaltyRecipe):
    """The elastic-net attack in L1; `beta` is by how much changes shrink in every step."""

    implementation = "robustatt.attack.penalty:ElasticNet"
    algorithm: Literal["ead"]
    norm: Literal["l1"] = "l1"
    beta: Share = 0.001

    def cost(self) -> tuple[int, int]:
        return self.searches * self.steps + 1, self.searches * self.steps + 2


class BoundaryRecipe(Recipe):
    """A random walk along the boundary, from far away towards the image; asks for labels alone: minimum norm."""

    usual_category = "minimum-norm"
    access = "label-only"
    implementation = "robustatt.attack.boundary:Boundary"
    one_run = True
    algorithm: Literal["boundary"]
    norm: Literal["l2"] = "l2"
    queries: Count = 5000

    def cost(self) -> tuple[int, int]:
        return 0, self.queries + 1


class SpsaRecipe(Recipe):
    """Steps along gradients estimated from the scores of `samples` pairs of points `reach` away; `step_size` is a share of eps."""

    usual_category = "black-box"
    access = "black-box"
    implementation = "robustatt.attack.spsa:Spsa"
    algorithm: Literal["spsa"]
    norm: Literal["linf"] = "linf"
    loss: Literal["margin", "stable", "ce"] = "margin"
    targeted: Targets = None
    steps: Annotated[int, Field(ge=2)] = 40
    samples: Count = 32
    reach: Share = 0.01
    step_size: Share = 0.1

    def cost(self) -> tuple[int, int]:
        return 0, self.steps * (1 + 2 * self.samples) + 1


class SquareRecipe(Recipe):
    """Random search with square windows, no gradients. `p` is the share of pixels changed at first."""

    usual_category = "black-box"
    access = "black-box"
    implementation = "robustatt.attack.square:Square"
    algorithm: Literal["square"]
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
    access = "none"
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
    version: Literal["standard", "rand"] = "standard"
    steps: Annotated[int, Field(ge=2)] = 100
    targets: Count = 9
    queries: Count = 5000

    def parts(self) -> list[Recipe]:
        """The recipes of the chain, in order.

        In L1 Auto-PGD begins in larger balls, five times at random and towards five classes (Croce & Hein 2021, section 4).
        """
        shared: dict[str, Any] = {"norm": self.norm, "steps": self.steps}
        sparse: dict[str, Any] = {"larger_radii": True} if self.norm == "l1" else {}
        restarts, targets = (5, min(self.targets, 5)) if self.norm == "l1" else (1, self.targets)
        if self.version == "rand":
            return [
                ApgdRecipe(name=f"{self.name}/apgd-ce", algorithm="apgd", loss="stable", eot=20, **shared),
                ApgdRecipe(name=f"{self.name}/apgd-dlr", algorithm="apgd", loss="dlr", eot=20, **shared),
            ]
        return [
            ApgdRecipe(name=f"{self.name}/apgd-ce", algorithm="apgd", loss="stable", restarts=restarts, **shared, **sparse),
            ApgdTargetedRecipe(name=f"{self.name}/apgd-t", algorithm="apgd-t", targets=targets, **shared, **sparse),
            FabRecipe(name=f"{self.name}/fab-t", algorithm="fab-t", targets=self.targets, **shared),
            SquareRecipe(name=f"{self.name}/square", algorithm="square", norm=self.norm, queries=self.queries, rescale=False),
        ]

    def cost(self) -> tuple[int, int]:
        costs = [part.cost() for part in self.parts()]
        return sum(gradients for gradients, _ in costs), sum(forwards for _, forwards in costs)
