"""One look at a network with a few images: which attention and which gates it computes, where, and of which positions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustatt.attention.listening import Kind, Listener, Place, listening, outputs
from robustatt.attention.placement import Grid, Placement, Tokens, Windows, grid_of, is_upright, windows_of

IMAGES = 3
"""A prime number of images, so that a batch of windows or heads is not taken for one of images."""


@dataclass(frozen=True)
class Found:
    """Weights or a gate that a network computes, with all that is needed to make a map of it.

    `heads`: how many rows of the batch are heads of the same image, where heads stand there. `alone`: attention without
    heads, such as that of a non-local block. `shape` is that of the weights or gate for the images of the survey.
    """

    place: Place
    kind: Kind
    shape: tuple[int, ...]
    placement: Placement | None
    heads: int = 1
    alone: bool = False

    @property
    def head_count(self) -> int:
        """How many heads the weights have, wherever these stand; 1 for attention without heads."""
        return self.shape[-3] if len(self.shape) > 3 else self.heads

    @property
    def square(self) -> int | None:
        """The number of tokens, if each of them looks at all: such blocks can be multiplied to a rollout."""
        whole = isinstance(self.placement, Tokens) and self.shape[-1] == self.shape[-2]
        return self.shape[-1] if whole else None


@dataclass(frozen=True)
class Output:
    """What a submodule returned: its shape, and whether it is one value of 0 or more for each position of the image."""

    shape: tuple[int, ...]
    is_map: bool = False
    negative: bool = False

    def __str__(self) -> str:
        return f"{self.shape}{' with negative values' if self.negative else ''}"


@dataclass
class Survey:
    """What was found, in the order of the pass; and what each submodule returned in each call, by name.

    `in_sequence`: whether each attention works on what the one before it gave, as those of two branches do not.
    """

    found: list[Found] = field(default_factory=list)
    outputs: dict[str, list[Output]] = field(default_factory=dict)
    in_sequence: bool = True


def survey(module: nn.Module, images: Tensor) -> Survey:
    """Look at a network in evaluation mode. Raises what the network raises."""
    few = images[torch.arange(IMAGES, device=images.device) % len(images)]
    if torch.equal(few[0], few[-1]):  # images that are all the same tell nothing apart
        few = few + 0.01 * torch.arange(IMAGES, device=few.device).view(-1, 1, 1, 1)
    parts = {name: part for name, part in module.named_modules() if not isinstance(part, torch.jit.ScriptModule)}
    names = [name for name in parts if name]
    working = [name for name, part in parts.items() if part._modules or part._parameters]  # else its parent does the work
    seen = _Surveyor(few, _has_class_token(module))
    with torch.no_grad(), outputs(module, names, seen.output), listening(module, working, seen):
        module(few)
    if seen.cut:
        _place_windows(module, few, names, working, seen)
    found = [seen.confirmed(entry) for entry in seen.survey.found]
    several = sum(entry.square is not None for entry in found) > 1
    return Survey(found, seen.survey.outputs, not several or _in_sequence(module, few, working))


def _has_class_token(module: nn.Module) -> bool:
    """Whether no part says that it has no class token."""
    missing = object()
    return not any(getattr(part, "cls_token", missing) is None for part in module.modules())


class _Surveyor(Listener):
    """Writes down what happens, and which grids features have on the way."""

    def __init__(self, images: Tensor, of_class: bool) -> None:
        self.survey = Survey()
        self.images, self.image = len(images), (images.shape[2], images.shape[3])
        self.of_class = of_class
        self.grids: list[Grid] = []
        self.lengths: set[int] = set()  # of sequences of tokens
        self.placed: tuple[int, Grid] | None = None  # prefix and grid of the attention before
        self.cut: dict[Place, int] = {}  # where rows of the batch are windows, and the number in `survey.found`

    def output(self, name: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            first = (
                next((part for part in output if isinstance(part, Tensor)), None) if isinstance(output, tuple | list) else None
            )
            self.survey.outputs.setdefault(name, []).append(Output(() if first is None else tuple(first.shape)))
            return
        shape = tuple(output.shape)
        single = len(shape) == 3 or (len(shape) == 4 and shape[1] == 1)
        formed = single and shape[0] == self.images and min(shape[-2:]) > 1 and is_upright(shape[-2:], self.image)
        negative = formed and bool((output < 0).any())
        self.survey.outputs.setdefault(name, []).append(Output(shape, formed and not negative, negative))
        if len(shape) == 4 and shape[0] == self.images:
            self.grids += [(shape[1], shape[2]), (shape[2], shape[3])]
        elif len(shape) == 3 and self.images in shape[:2]:
            self.lengths |= {shape[0], shape[1]}

    def wants(self, place: Place, kind: Kind) -> bool:  # noqa: ARG002
        return True

    def gate(self, place: Place, gate: Tensor) -> None:
        if len(gate) == self.images:
            grid = (gate.shape[2], gate.shape[3])
            self.survey.found.append(Found(place, "gate", tuple(gate.shape), Tokens(0, grid, of_class=False)))

    def weights(self, place: Place, weights: Tensor, start: int, total: int) -> None:  # noqa: ARG002
        shape = tuple(weights.shape)
        if weights.ndim == 2:
            if len(weights) == self.images and (grid := self._exact(shape[-1])):
                self.survey.found.append(Found(place, "gate", shape, Tokens(0, grid, of_class=False)))
            return
        rows = weights[..., 0, 0].numel() if weights.ndim == 3 else weights[..., 0, 0, 0].numel()
        if shape[-1] < 4 or rows % self.images:
            return
        heads = 1
        if weights.ndim == 3 and rows > self.images and self._exact(shape[-1]):
            heads = rows // self.images
        placement = self._tokens(shape) if rows == self.images * heads else None
        if rows > self.images * heads:
            self.cut[place] = len(self.survey.found)
        self.survey.found.append(Found(place, "attention", shape, placement, heads, weights.ndim == 3 and heads == 1))

    def _tokens(self, shape: tuple[int, ...]) -> Tokens | None:
        fitting = grid_of(shape[-1], self.grids, self.image) or self._of_before(shape[-1])
        if fitting is None:
            return None
        prefix, grid = self.placed = fitting
        asks = shape[-2] in (1, shape[-1])
        return Tokens(prefix, grid, of_class=prefix > 0 and asks and self.of_class)

    def _of_before(self, keys: int) -> tuple[int, Grid] | None:
        """The grid of the attention before, or every second row and column of it, which no features need show (LeViT)."""
        if self.placed is None:
            return None
        prefix, (height, width) = self.placed
        grids = ((height, width), (-(-height // 2), -(-width // 2)))
        return next(((prefix, grid) for grid in grids if keys == prefix + grid[0] * grid[1]), None)

    def confirmed(self, entry: Found) -> Found:
        """The same, without a placement if it is attention between channels: as many keys as there are no tokens of."""
        placement = entry.placement
        if entry.kind == "gate" or not isinstance(placement, Tokens) or entry.shape[-1] in self.lengths:
            return entry
        return entry if placement.prefix == 0 and placement.grid in self.grids else replace(entry, placement=None)

    def _exact(self, keys: int) -> Grid | None:
        """A grid seen that has so many positions, and few more tokens beside them."""
        fitting = grid_of(keys, self.grids, self.image)
        return fitting[1] if fitting and fitting[1] in self.grids else None


class _Placer(Listener):
    """Finds the windows of the places that a survey could not place, in a pass whose graph begins anew at every output."""

    def __init__(self, seen: _Surveyor) -> None:
        self.seen = seen
        self.bases: list[Tensor] = []
        self.last: tuple[int, tuple[int, ...], Windows] | None = None  # how many bases there were, and what was found
        self.found: dict[Place, Windows] = {}

    def wants(self, place: Place, kind: Kind) -> bool:
        return kind == "attention" and place in self.seen.cut

    def weights(self, place: Place, weights: Tensor, start: int, total: int) -> None:
        """Only the values matter."""

    def gate(self, place: Place, gate: Tensor) -> None:
        """Gates stand where they are."""

    def values(self, place: Place, values: Tensor) -> None:
        if place not in self.seen.cut or not values.requires_grad:
            return
        flat = values[:, None] if values.ndim == 3 else values.flatten(0, values.ndim - 4)
        windows = windows_of(flat.transpose(1, 2), self.bases, self.seen.images, self.seen.image)
        if windows is None and self.last and self.last[1] == tuple(flat.shape):
            windows = self.last[2]
        if windows is not None:
            self.found[place] = windows
            self.last = (len(self.bases), tuple(flat.shape), windows)

    def begin_anew(self, _name: str, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or output.ndim not in (3, 4) or len(output) != self.seen.images:
            return None
        if not output.is_floating_point():
            return None
        self.bases = [*self.bases[-3:], output.detach().requires_grad_()]
        return self.bases[-1].clone()


def _place_windows(module: nn.Module, images: Tensor, names: list[str], working: list[str], seen: _Surveyor) -> None:
    placer = _Placer(seen)
    with torch.enable_grad(), outputs(module, names, placer.begin_anew), listening(module, working, placer):
        module(images)
    for place, number in seen.cut.items():
        seen.survey.found[number] = replace(seen.survey.found[number], placement=placer.found.get(place))


class _Sequence(Listener):
    """Asks of each attention whether its result depends on that of the attention before."""

    def __init__(self) -> None:
        self.unbroken = True
        self.last: Tensor | None = None

    def wants(self, place: Place, kind: Kind) -> bool:  # noqa: ARG002
        return kind == "attention"

    def weights(self, place: Place, weights: Tensor, start: int, total: int) -> None:
        """Only the graph matters."""

    def gate(self, place: Place, gate: Tensor) -> None:
        """Gates are not multiplied to a rollout."""

    def result(self, place: Place, result: Tensor) -> None:  # noqa: ARG002
        if self.last is not None and self.last.requires_grad and result.requires_grad:
            (found,) = torch.autograd.grad(result.sum(), self.last, retain_graph=True, allow_unused=True)
            self.unbroken &= found is not None
        self.last = result


def _in_sequence(module: nn.Module, images: Tensor, working: list[str]) -> bool:
    """Whether all attention of a network is one path; also where no gradient can tell."""
    sequence = _Sequence()
    try:
        with torch.enable_grad(), listening(module, working, sequence):
            module(images.detach().clone().requires_grad_())
    except RuntimeError:  # without listening for gradients the module ran
        return True
    return sequence.unbroken
