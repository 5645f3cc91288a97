"""What an attack is to the evaluation: something that proposes images for rows of a batch, never trusted.

Every attack is one of the abstract kinds below; the grid engine knows the kinds, not the algorithms.

* A `SingleDirectionAttack` moves along one ray: one direction, whatever eps is, serves a whole grid.
* A `SteppedAttack` asks the model again and again at one radius. It is written as a pure step over rows, so
  that the engine can take broken rows out of the batch and put fresh ones in at any step.
* A `MinimumNormAttack` is stepped too, but looks for the nearest mistake: one run serves every radius.
* An `ExternalAttack` belongs to another library: it takes a batch and one radius and hands back images.
* A `Chain` is several of them, each on the survivors of the last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robustatt.attack.losses import Loss, logit_margin, towards
from robustatt.attack.norms import Norm, inside_box, per_row
from robustatt.attack.rng import ExampleRng
from robustatt.attack.target_classes import Targets


@dataclass(frozen=True)
class Batch:
    """The problems of a batch, a row each: a clean image in [0, 1], its label, a radius, and who it is."""

    image: Float[Tensor, "n channels height width"]
    label: Int[Tensor, " n"]
    eps: Float[Tensor, " n"]
    index: Int[Tensor, " n"]  # position in the data set: what randomness is seeded by
    restart: Int[Tensor, " n"]
    clean: Float[Tensor, "n classes"]  # the model's logits of the clean image
    target_class: Int[Tensor, " n"]  # the class to reach; -1 where any other than the label will do

    @classmethod
    def at(cls, eps: float, image: Tensor, label: Tensor, clean: Tensor, index: Tensor | None = None) -> Batch:
        """Untargeted problems at one radius, in their first restart; without an index, numbered in order."""
        index = torch.arange(len(label), device=label.device) if index is None else index
        limit = torch.full((len(label),), eps, device=image.device)
        return cls(image, label, limit, index, torch.zeros_like(label), clean, torch.full_like(label, -1))

    def __len__(self) -> int:
        return len(self.label)

    def select(self, rows: Tensor) -> Batch:
        """The rows chosen by a boolean mask or by positions."""
        return Batch(**{name: value[rows] for name, value in vars(self).items()})

    def success_margin(self, logits: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """A margin that is positive exactly where these logits are what the attack wants."""
        aimed = self.target_class >= 0
        wanted = torch.where(aimed, self.target_class, self.label)
        return logit_margin(logits, wanted) * torch.where(aimed, -1.0, 1.0)

    def followed_by(self, others: Batch) -> Batch:
        """These rows and then the others."""
        mine, theirs = vars(self), vars(others)
        return replace(self, **{name: torch.cat([mine[name], theirs[name]]) for name in mine})


#: A margin may move this many times as far as the loss that is differentiated: the softmax weighs other classes.
SLACK_FACTOR = 4.0


@dataclass(frozen=True)
class ModelOutput:
    """What the model said of a batch of queries; `grad` is of the loss with respect to the query.

    For a model that hides gradients at the border of the box, all of it is taken just inside (see
    `robustatt.attack.border`). `slack` bounds, per row, how far a margin at the query itself may differ from `logits`.
    """

    logits: Float[Tensor, "n classes"]
    loss: Float[Tensor, " n"]
    grad: Float[Tensor, "n channels height width"] | None
    slack: Float[Tensor, " n"] | float = 0.0
    maps: tuple[Float[Tensor, "n h w"], ...] = ()  # of every level, for a loss of maps


class MapLoss(ABC):
    """A loss of where the model looks beside what it says."""

    @abstractmethod
    def __call__(self, logits: Tensor, label: Tensor, maps: dict[str, Tensor]) -> Float[Tensor, " n"]:
        """The loss of each row; `maps` by level."""


class Oracle:
    """The model as an attack sees it: logits and gradients of a batch, and a count of what they cost.

    `attend` gives the maps of the `levels` beside the logits, for losses of maps.
    """

    def __init__(
        self, forward: Callable[[Tensor], Tensor], box_margin: float = 0.0,
        attend: Callable[[Tensor], tuple[Tensor, list[Tensor]]] | None = None, levels: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self._forward, self._attend, self.levels = forward, attend, levels
        self._box_margin = box_margin
        self.gradients = 0
        self.forwards = 0

    def query(self, query: Tensor, label: Tensor, loss: Loss | MapLoss, *, gradient: bool, passes: int = 1) -> ModelOutput:
        """Logits and loss at the queries, and the loss's gradient if wanted (0 where the model has none).

        With several passes all three are means over them: expectation over transformation, for randomised
        models (Athalye et al. 2018, section 3.1).
        """
        outputs = [self._once(query, label, loss, gradient) for _ in range(passes)]
        if passes == 1:
            return outputs[0]
        grads = [output.grad for output in outputs if output.grad is not None]
        slacks = [torch.as_tensor(output.slack) for output in outputs]
        return ModelOutput(
            torch.stack([output.logits for output in outputs]).mean(0),
            torch.stack([output.loss for output in outputs]).mean(0),
            torch.stack(grads).mean(0) if grads else None,
            torch.stack(slacks).amax(0),
        )

    def _said(self, query: Tensor, label: Tensor, loss: Loss | MapLoss) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Logits, losses and, for a loss of maps, the maps of every level."""
        if not isinstance(loss, MapLoss):
            logits = self._forward(query)
            return logits, loss(logits, label), ()
        assert self._attend is not None
        logits, maps = self._attend(query)
        return logits, loss(logits, label, dict(zip(self.levels, maps, strict=True))), tuple(level.detach() for level in maps)

    def _once(self, query: Tensor, label: Tensor, loss: Loss | MapLoss, gradient: bool) -> ModelOutput:
        if not gradient:
            self.forwards += len(query)
            with torch.no_grad():
                logits, losses, _ = self._said(query, label, loss)
                return ModelOutput(logits, losses, None)
        self.gradients += len(query)
        with torch.enable_grad():
            inside = query.detach()
            inside = (inside_box(inside, self._box_margin) if self._box_margin else inside).requires_grad_()
            logits, losses, maps = self._said(inside, label, loss)
            grad = None
            if losses.requires_grad:
                (grad,) = torch.autograd.grad(losses.sum(), inside, allow_unused=True)
        grad = torch.zeros_like(query) if grad is None else grad.detach().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        slack = SLACK_FACTOR * (grad * (inside.detach() - query)).flatten(1).abs().sum(1) if self._box_margin else 0.0
        return ModelOutput(logits.detach(), losses.detach(), grad, slack, maps)


class State(dict[str, Tensor]):
    """The memory of a stepped attack: named tensors with a row for each problem."""

    def select(self, rows: Tensor) -> State:
        """The rows chosen by a boolean mask or by positions."""
        return State({name: value[rows] for name, value in self.items()})

    def followed_by(self, others: State) -> State:
        """These rows and then the others."""
        return State({name: torch.cat([value, others[name]]) for name, value in self.items()})


class Attack(ABC):  # noqa: B024 (its kinds have nothing to do in common, only to say)
    """Base of all attacks: a name, the norm of its threat model, and what it aims at (None: any mistake)."""

    targeted: Targets | None = None

    def __init__(self, name: str, norm: Norm) -> None:
        self.name = name
        self.norm = norm

    def prepare(self, oracle: Oracle) -> None:  # noqa: B027 (most attacks have nothing to prepare)
        """Called once with the model that is attacked. InputError if the attack makes no sense for it."""


class SingleDirectionAttack(Attack):
    """An attack whose image at radius eps is the clean image plus eps times one direction, cut to [0, 1]."""

    @abstractmethod
    def direction(self, batch: Batch, oracle: Oracle, rng: ExampleRng) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, " n"]]:
        """A direction of norm at most 1 for each row, and 1.0 where the gradient was zero everywhere."""


class SteppedAttack(Attack):
    """An attack at one radius that queries the model up to `steps` times for each restart.

    The engine calls `start` once and then, `steps` times, asks the model at `query` and passes the answer to
    `step`. After that, or as soon as a query inside the ball succeeds, `candidate` is the result. A state with
    "zero_gradient" says where every gradient so far was zero.
    """

    steps: int
    restarts: int = 1
    loss: Loss
    eot: int = 1
    needs_gradient: bool = True
    #: whether every query lies inside the threat model; where some do, see `inside`
    queries_are_candidates: bool = True
    #: whether each step is followed by a forward pass, without gradient, at the new query, for `looked`
    looks_after_step: bool = False

    def objective(self, batch: Batch, state: State) -> Loss | MapLoss:  # noqa: ARG002
        """What to climb for these rows: the loss, or its targeted form."""
        return self.loss if self.targeted is None else towards(self.loss, batch.target_class)

    def inside(self, batch: Batch, state: State) -> Bool[Tensor, " n"]:
        """Which rows' next queries lie inside the threat model, so that a misclassified one is itself a success."""
        del state
        return torch.full_like(batch.label, self.queries_are_candidates, dtype=torch.bool)

    @abstractmethod
    def start(self, batch: Batch, rng: ExampleRng) -> State:
        """The state before the first query."""

    def query(self, state: State) -> Float[Tensor, "n c h w"]:
        """Where each row wants the model's answer: at its image, unless an attack says otherwise."""
        return state["image"]

    @abstractmethod
    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        """The state after an answer."""

    def looked(self, batch: Batch, state: State, logits: Float[Tensor, "n classes"]) -> State:  # noqa: ARG002
        """The state after the logits at the new query are known, for attacks that look after each step."""
        return state

    @abstractmethod
    def candidate(self, state: State) -> Float[Tensor, "n c h w"]:
        """The image each row would hand in now."""


class MinimumNormAttack(SteppedAttack):
    """A stepped attack that looks for the nearest mistake, whatever the radius.

    Its state has "nearest" (the nearest misclassified image so far) and "distance" (infinite while there is
    none). Each restart is run once for an example and serves every radius.
    """

    queries_are_candidates = False
    #: by how much a margin must be a mistake to be believed; the engine sets it
    tolerance: float = 0.0

    def candidate(self, state: State) -> Tensor:
        return state["nearest"]

    def seen(
        self, batch: Batch, state: State, query: Tensor, logits: Tensor, slack: Tensor | float = 0.0
    ) -> tuple[State, Tensor]:
        """The state with queries that are nearer mistakes taken in, and which queries are mistakes at all.

        `slack`: that of the answer the logits come from.
        """
        mistake = batch.success_margin(logits) > self.tolerance + slack
        distance = self.norm.norm(query - batch.image)
        nearer = mistake & (distance < state["distance"])
        found = State(state)
        found["nearest"] = torch.where(per_row(nearer, query), query, state["nearest"])
        found["distance"] = torch.where(nearer, distance, state["distance"])
        return found, mistake


class ExternalAttack(Attack):
    """An attack of another library, run on a batch at one radius."""

    #: whether it takes no radius and is run once, for all of them
    minimum_norm: bool = False
    #: the norm in which it looks for the nearest mistake, as far as is known; an image outside a ball then says that
    #: nothing was found inside, and otherwise only that the attack works in another threat model
    minimised_norm: str = ""
    #: whether it works in its own threat model, in which any image in [0, 1] is allowed
    unbounded: bool = False

    @abstractmethod
    def perturb(self, module: torch.nn.Module, batch: Batch, seed: int) -> Float[Tensor, "n c h w"]:
        """Images for rows that all have the same radius. Distance and box are measured afterwards."""


class Chain(Attack):
    """Several attacks, each run on the survivors of the last: their worst case."""

    def __init__(self, name: str, norm: Norm, parts: list[SteppedAttack]) -> None:
        super().__init__(name, norm)
        self.parts = parts
