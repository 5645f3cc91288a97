"""DeepFool: step after step to the nearest of the linearised boundaries."""

from __future__ import annotations

import torch

from robustatt.attack.base import Batch, MinimumNormAttack, ModelOutput, State
from robustatt.attack.gradient import still_zero_gradient
from robustatt.attack.losses import Loss, target_margin
from robustatt.attack.native_recipes import DeepFoolRecipe
from robustatt.attack.norms import NORMS, per_row
from robustatt.attack.rng import ExampleRng
from robustatt.attack.target_classes import kth_class


class DeepFool(MinimumNormAttack):
    """DeepFool (Moosavi-Dezfooli, Fawzi & Frossard 2016, algorithm 2; other norms in section 3.3).

    At every iterate the margin of each of the `candidates` - 1 likeliest wrong classes is linearised, a query for each, and the
    iterate moves by (1 + overshoot) times the least change that reaches the nearest of those boundaries, and `beyond` more, as
    the authors' code does: where the box takes away a part of each step, steps that end at the boundary never cross it.
    """

    def __init__(self, recipe: DeepFoolRecipe, classes: int) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss: Loss = lambda logits, label: torch.zeros_like(label)  # noqa: ARG005 (`objective` says what is differentiated)
        self.rivals = min(recipe.candidates, classes) - 1
        self.overshoot, self.beyond = recipe.overshoot, recipe.beyond
        self.steps = recipe.steps * self.rivals + 1

    def objective(self, batch: Batch, state: State) -> Loss:
        rival = kth_class(batch.clean, batch.label, state["turn"])
        return lambda logits, label: target_margin(logits, label, rival)

    def start(self, batch: Batch, rng: ExampleRng) -> State:  # noqa: ARG002
        infinite = torch.full_like(batch.eps, torch.inf)
        return State(
            image=batch.image, nearest=batch.image, distance=infinite, turn=torch.zeros_like(batch.label), closest=infinite,
            move=torch.zeros_like(batch.image), zero_gradient=torch.ones_like(batch.eps),
        )  # fmt: skip

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        assert output.grad is not None
        now, _ = self.seen(batch, state, state["image"], output.logits, output.slack)
        size = self.norm.dual_norm(output.grad)
        away = torch.where(size > 0, output.loss.abs() / size.clamp_min(1e-30), torch.inf)
        closer = away < state["closest"]
        least = self.norm.steepest_direction(output.grad) * per_row(torch.where(closer, away + self.beyond, 0.0), output.grad)
        move = torch.where(per_row(closer, least), least, state["move"])
        due = state["turn"] + 1 >= self.rivals
        ahead = (state["image"] + (1 + self.overshoot) * move).clamp(0.0, 1.0)
        going = per_row(due & state["distance"].isinf() & now["distance"].isinf(), ahead)
        now["image"] = torch.where(going, ahead, state["image"])
        now["move"] = torch.where(per_row(due, move), 0.0, move)
        now["closest"] = torch.where(due, torch.inf, torch.minimum(away, state["closest"]))
        now["turn"] = torch.where(due, 0, state["turn"] + 1)
        now["zero_gradient"] = still_zero_gradient(state, output.grad)
        return now
