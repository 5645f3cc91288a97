"""Attacks on where a network looks: its maps moved while the label stays, or kept while it goes.

For saliency that is read off afterwards, Ghorbani, Abid & Zou 2019 and Dombrowski et al. 2019 showed that it can be moved at will
without another prediction; here it is the attention of the forward pass itself.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from robustatt.attack.base import Batch, MapLoss, ModelOutput, Oracle, State
from robustatt.attack.gradient import FixedSteps
from robustatt.attack.losses import log_odds, logit_margin
from robustatt.attack.native_recipes import AttentionRecipe
from robustatt.attack.norms import NORMS, per_row, project
from robustatt.attack.rng import ExampleRng
from robustatt.errors import InputError

MAP = "map of level "
TINY = 1e-12  # keeps the gradient of the entropy finite where a map is zero


def divergence(clean: Float[Tensor, "n h w"], moved: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """Jensen-Shannon divergence of two maps in bits, differentiable in the second."""
    p, q = (level.flatten(1).clamp_min(TINY) for level in (clean, moved))
    mixed, both = _bits((p + q) / 2), (_bits(p) + _bits(q)) / 2
    return mixed - both


def _bits(p: Tensor) -> Tensor:
    return -(p * p.log2()).sum(1)


class MapAscent(FixedSteps):
    """Steps along the gradient of the mean drift of the chosen levels, while the condition holds, and back to it where not.

    With `keep` "label" a row whose prediction is about to change steps towards its clean prediction, and the image handed in is
    the one with the most drift among those that kept it: the clean image if none did. With `keep` "map" a row that is not fooled
    yet climbs the usual loss, one that is fooled lowers its drift, and of the fooled images that with the least drift is handed in.
    """

    queries_are_candidates = False
    restarts = 1
    loss = staticmethod(log_odds)

    def __init__(self, recipe: AttentionRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.keeps_label, self.pattern = recipe.keep == "label", recipe.levels
        self._levels: tuple[str, ...] = ()
        self.chosen: list[str] = []
        self.steps, self.step_size = recipe.steps + 1, recipe.step_size  # the first looks at the clean image

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        image = project(self.norm, batch.image, batch.image + rng.in_ball(self.norm, batch), batch.eps)
        worst = torch.full_like(batch.eps, -torch.inf if self.keeps_label else torch.inf)
        return State(image=batch.image, first=image, best=batch.image, drift=worst, zero_gradient=torch.ones_like(batch.eps))

    def objective(self, batch: Batch, state: State) -> MapLoss:
        return _Aim(self, batch, state)

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        following = State(state)
        if not _has_maps(state):  # the clean image: now its maps are known
            following |= {f"{MAP}{level}": found for level, found in zip(self._levels, output.maps, strict=True)}
            following["image"] = state["first"]
            return following
        drift = self.drift(state, dict(zip(self._levels, output.maps, strict=True)))
        fooled = logit_margin(output.logits, batch.clean.argmax(1)) > 0
        better = ~fooled & (drift > state["drift"]) if self.keeps_label else fooled & (drift < state["drift"])
        following["drift"] = torch.where(better, drift, state["drift"])
        following["best"] = torch.where(per_row(better, state["best"]), state["image"], state["best"])
        following |= super().step(batch, state, output)
        return following

    def candidate(self, state: State) -> Tensor:
        """The best image of those that were looked at; for `keep` "map" the last one if none was fooled."""
        if self.keeps_label:
            return state["best"]
        return torch.where(per_row(state["drift"].isinf(), state["best"]), state["image"], state["best"])

    def prepare(self, oracle: Oracle) -> None:
        """Choose the levels of a model. InputError if it has none of that name."""
        self._levels = oracle.levels
        self.chosen = [level for level in oracle.levels if fnmatch.fnmatchcase(level, self.pattern)]
        if not self.chosen:
            known = f"its levels are {', '.join(oracle.levels)}" if oracle.levels else "it has no attention that is read"
            raise InputError(f"attack {self.name!r}: levels = {self.pattern!r} fits no level of the model: {known}")

    def drift(self, clean: Mapping[str, Tensor], maps: Mapping[str, Tensor]) -> Float[Tensor, " n"]:
        """The mean drift of the chosen levels; maps by level, the clean ones as the state has them."""
        return torch.stack([divergence(clean[f"{MAP}{level}"], maps[level]) for level in self.chosen]).mean(0)


def _has_maps(state: State) -> bool:
    """Whether the clean maps are known yet."""
    return any(name.startswith(MAP) for name in state)


class _Aim(MapLoss):
    """What each row climbs now."""

    def __init__(self, attack: MapAscent, batch: Batch, state: State) -> None:
        self._attack, self._batch, self._state = attack, batch, state

    def __call__(self, logits: Tensor, label: Tensor, maps: dict[str, Tensor]) -> Tensor:
        if not _has_maps(self._state):
            return log_odds(logits, label)
        drift = self._attack.drift(self._state, maps)
        mistake = log_odds(logits, self._batch.clean.argmax(1))
        fooled = logit_margin(logits, self._batch.clean.argmax(1)).detach() > 0
        if self._attack.keeps_label:
            return torch.where(fooled, -mistake, drift)
        return torch.where(fooled, -drift, mistake)
