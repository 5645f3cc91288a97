"""The recipes of FGSM, PGD and what is derived from them. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from robustatt.attack.recipe import Count, LossRecipe, Share


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
    access = "transfer"
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


class DiverseRecipe(MomentumRecipe):
    """Steps along gradients of the image randomly shrunk and padded; `smallest` is a share of its side."""

    implementation = "robustatt.attack.transfer:DiFgsm"
    algorithm: Literal["di-fgsm"]  # type: ignore[assignment]
    probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    smallest: Annotated[float, Field(gt=0, lt=1)] = 0.9


class TranslationRecipe(MomentumRecipe):
    """Steps along gradients blurred by a Gaussian of `kernel` x `kernel` pixels."""

    implementation = "robustatt.attack.transfer:TiFgsm"
    algorithm: Literal["ti-fgsm"]  # type: ignore[assignment]
    kernel: Count = 7
    sigma: Share = 3.0


class VarianceRecipe(MomentumRecipe):
    """Steps along gradients corrected by those of `neighbours` random points within `reach` eps."""

    implementation = "robustatt.attack.transfer:VmiFgsm"
    algorithm: Literal["vmi-fgsm"]  # type: ignore[assignment]
    norm: Literal["linf"] = "linf"
    neighbours: Count = 5
    reach: Share = 1.5

    def cost(self) -> tuple[int, int]:
        return self.steps * (1 + self.neighbours) * self.eot, 1
