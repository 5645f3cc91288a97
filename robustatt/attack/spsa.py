"""SPSA: gradients estimated from scores at random pairs of points."""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.base import Batch, ModelOutput, State, SteppedAttack
from robustatt.attack.losses import LOSSES
from robustatt.attack.native_recipes import SpsaRecipe
from robustatt.attack.norms import NORMS, per_row, project
from robustatt.attack.rng import ExampleRng, counter_uniform


class Spsa(SteppedAttack):
    """Simultaneous perturbation stochastic approximation (Uesato et al. 2018, section 4.3, algorithm 1), with Adam.

    An iterate takes 1 + 2 `samples` queries: itself, which is a candidate, and pairs at +-`reach` times random signs.
    """

    needs_gradient = False
    FIRST, SECOND, TINY = 0.9, 0.999, 1e-8

    def __init__(self, recipe: SpsaRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss, self.targeted = LOSSES[recipe.loss], recipe.targeted
        self.turns, self.reach, self.step_size = 1 + 2 * recipe.samples, recipe.reach, recipe.step_size
        self.steps = recipe.steps * self.turns

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        zero = torch.zeros_like(batch.image)
        count = torch.zeros_like(batch.label)
        return State(
            image=batch.image, rise=zero, mean=zero, square=zero, ahead_loss=torch.zeros_like(batch.eps), key=rng.keys(batch), count=count,
        )  # fmt: skip

    def inside(self, batch: Batch, state: State) -> Tensor:  # noqa: ARG002
        return state["count"] % self.turns == 0

    def _signs(self, state: State) -> Tensor:
        """The random signs of each row's pair: the same for both of its queries."""
        image, turn = state["image"], state["count"] % self.turns
        pair = state["count"] - turn + (turn - 1) // 2
        draws = counter_uniform(state["key"], pair, image[0].numel()).reshape(image.shape)
        return torch.where(draws < 0.5, -1.0, 1.0)

    def query(self, state: State) -> Tensor:
        turn = state["count"] % self.turns
        side = torch.where(turn == 0, 0.0, torch.where(turn % 2 == 1, self.reach, -self.reach))
        return state["image"] + per_row(side, state["image"]) * self._signs(state)

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        turn, now = state["count"] % self.turns, State(state)
        ahead, behind = (turn > 0) & (turn % 2 == 1), (turn > 0) & (turn % 2 == 0)
        now["ahead_loss"] = torch.where(ahead, output.loss, state["ahead_loss"])
        slope = torch.where(behind, (state["ahead_loss"] - output.loss) / (2 * self.reach), 0.0)
        now["rise"] = state["rise"] + per_row(slope, state["image"]) * self._signs(state)
        now["count"] = state["count"] + 1
        ends = turn == self.turns - 1
        if bool(ends.any()):
            now |= self._moved(batch, now, ends)
        return now

    def _moved(self, batch: Batch, now: State, ends: Tensor) -> State:
        """One step of Adam up the estimated gradient, where all pairs have been asked."""
        grad = now["rise"] / (self.turns // 2)
        mean = self.FIRST * now["mean"] + (1 - self.FIRST) * grad
        square = self.SECOND * now["square"] + (1 - self.SECOND) * grad.square()
        age = now["count"] // self.turns
        ahead = mean / per_row(1 - self.FIRST**age, mean)
        scale = (square / per_row(1 - self.SECOND**age, mean)).sqrt() + self.TINY
        stride = per_row(self.step_size * batch.eps, mean)
        image = project(self.norm, batch.image, now["image"] + stride * ahead / scale, batch.eps)
        fresh = {"image": image, "mean": mean, "square": square, "rise": torch.zeros_like(grad)}
        return State({name: torch.where(per_row(ends, value), value, now[name]) for name, value in fresh.items()})

    def candidate(self, state: State) -> Tensor:
        return state["image"]
