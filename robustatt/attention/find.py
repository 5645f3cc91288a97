"""The attention of a network, found: its levels, and a forward pass that gives their maps beside the logits."""

from __future__ import annotations

import copy
import fnmatch
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustatt.attention.levels import NONE, Level, Levels, by_pattern, by_themselves
from robustatt.attention.listening import Kind, Listener, Place, listening, outputs
from robustatt.attention.placement import Tokens, shares
from robustatt.attention.protocol import Maps, OwnProtocol, checked
from robustatt.attention.survey import Survey, survey
from robustatt.errors import InputError, typed_line
from robustatt.models.vit import rolled_out
from robustatt.models.wrappers import core_of
from robustatt.plan.entries import AUTO

Heads = Literal["mean", "max"] | int


class AttentionReader:
    """How the maps of a network are read. `levels` are their names in the order of depth; none if there is nothing to read."""

    levels: tuple[str, ...] = ()
    #: levels whose maps do not sum to 1 as the network hands them out, and are divided by their sum
    unnormalised: tuple[str, ...] = ()
    #: how many heads each level has, for those that have several
    head_counts: Mapping[str, int] = MappingProxyType({})
    #: why there is nothing to read, where something was looked for
    reason: str = ""

    def attend(self, module: nn.Module, images: Float[Tensor, "n c h w"]) -> tuple[Any, Maps]:
        """What the module returns for images, and the map of each level: non-negative, each image's summing to 1.

        The module is the one that was looked at, or a copy of it. Raises InputError for what are no maps.
        """
        return module(images), []

    def of_head(self, head: int) -> AttentionReader:  # noqa: ARG002
        """A reader of the same levels, each by one of its heads, counted from 0; the same reader where there are no heads."""
        return self


@final
class Nothing(AttentionReader):
    """No attention that could be read."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason


@final
class Own(AttentionReader):
    """The protocol `levels` and `attend(x)`."""

    def __init__(self, protocol: OwnProtocol, pattern: str = "*") -> None:
        self._protocol = protocol
        self.levels = tuple(name for name in protocol.levels if fnmatch.fnmatchcase(name, pattern))
        self.unnormalised = tuple(name for name in protocol.unnormalised if name in self.levels)

    def attend(self, module: nn.Module, images: Tensor) -> tuple[Any, Maps]:
        attend: Callable[[Tensor], Any] = module.attend  # type: ignore[assignment]
        return self._chosen(attend(images), len(images))

    def compiled(self, module: nn.Module) -> Callable[[Tensor], tuple[Any, Maps]]:
        """The same for one module, its `attend` compiled."""
        own: Callable[[Tensor], Any] = module.attend  # type: ignore[assignment]
        attend = torch.compile(own, dynamic=True)
        return lambda images: self._chosen(attend(images), len(images))

    def _chosen(self, answer: Any, count: int) -> tuple[Any, Maps]:
        logits, maps = self._protocol.read(answer, count)
        pairs = zip(self._protocol.levels, maps, strict=True)
        return logits, [level for name, level in pairs if name in self.levels]


@final
class Heard(AttentionReader):
    """Attention and gates heard in the pass, of any network whose submodules take hooks.

    Which key is which position depends on the size of the images: a network is looked at once for each size.
    """

    def __init__(self, label: str, heads: Heads, choose: Callable[[Survey], Levels], levels: Levels, probe: Tensor) -> None:
        self._label, self._heads, self._choose = label, heads, choose
        self._by_size = {probe.shape[2:]: levels}
        self.levels = levels.names
        self.head_counts = {level.name: level.head_count for level in levels.chosen if level.head_count > 1}

    def attend(self, module: nn.Module, images: Tensor) -> tuple[Any, Maps]:
        levels = self._of_size(module, images)
        reading = _Reading(levels, self._heads, len(images), self._label)
        names = {level.place.module for level in (*levels.chosen, *levels.rollout) if not level.output}
        with ExitStack() as stack:
            stack.enter_context(outputs(module, {place.module for place in reading.outputs}, reading.returned))
            if names:
                stack.enter_context(listening(module, names, reading))
            output = module(images)
        return output, reading.maps()

    def of_head(self, head: int) -> Heard:
        other = copy.copy(self)
        other._heads = head
        return other

    def _of_size(self, module: nn.Module, images: Tensor) -> Levels:
        size = images.shape[2:]
        if size not in self._by_size:
            levels = self._choose(survey(module, images.detach()))
            if levels.names != self.levels:
                raise InputError(
                    f"model {self._label!r}: at {size[0]}x{size[1]} pixels its levels are {', '.join(levels.names) or 'none'}, "
                    f"not {', '.join(self.levels)}: give images of one size"
                )
            self._by_size[size] = levels
        return self._by_size[size]


class _Reading(Listener):
    """The maps of one pass: of a block the row that its map is made of, of a rollout the product so far."""

    def __init__(self, levels: Levels, heads: Heads, images: int, label: str) -> None:
        self.levels, self.fuse, self.images, self.label = levels, heads, images, label
        self.by_place = {level.place: level for level in (*levels.rollout, *levels.chosen) if not level.output}
        self.rolling = {level.place for level in levels.rollout}
        self.rows: dict[Place, list[Tensor]] = {}
        self.outputs = {level.place for level in levels.chosen if level.output}
        self.calls: Counter[str] = Counter()  # of the submodules whose outputs are maps
        self.direct: dict[Place, Tensor] = {}
        self.rolled: Tensor | None = None

    def wants(self, place: Place, kind: Kind) -> bool:  # noqa: ARG002
        return place in self.by_place

    def weights(self, place: Place, weights: Tensor, start: int, total: int) -> None:
        level = self.by_place[place]
        fused = self._fused(weights, level)
        self.rows.setdefault(place, []).append(level.placement.rows(fused) if fused.ndim == 3 else fused)
        if place in self.rolling:
            self._roll(fused / fused.sum(dim=2, keepdim=True) if self.fuse == "max" else fused, start, total // level.heads)

    def _fused(self, weights: Tensor, level: Level) -> Tensor:
        """The heads as one: ``(b, queries, keys)``."""
        if weights.ndim == 2:
            return weights
        by_head = weights.view(-1, level.heads, *weights.shape[1:]) if weights.ndim == 3 else weights.flatten(0, -4)
        if self.fuse == "mean":
            return by_head.mean(dim=1)
        if self.fuse == "max":
            return by_head.amax(dim=1)
        if self.fuse >= by_head.shape[1]:
            raise InputError(
                f"model {self.label!r}: level {level.name} has {by_head.shape[1]} heads, there is no head {self.fuse}"
            )
        return by_head[:, self.fuse]

    def _roll(self, weights: Tensor, start: int, total: int) -> None:
        first = self.rolled is None or tuple(self.rolled.shape) != (total, *weights.shape[1:])
        if len(weights) == total:
            self.rolled = rolled_out(weights, None if first else self.rolled)
            return
        if first:
            self.rolled = torch.eye(weights.shape[2], device=weights.device).repeat(total, 1, 1)
        assert self.rolled is not None
        rows = slice(start, start + len(weights))
        self.rolled[rows] = rolled_out(weights, self.rolled[rows])

    def gate(self, place: Place, gate: Tensor) -> None:
        self.direct[place] = gate[:, 0]

    def returned(self, name: str, output: Any) -> None:
        place = Place(name, self.calls[name])
        self.calls[name] += 1
        if place in self.outputs:
            self.direct[place] = output

    def maps(self) -> Maps:
        """Every level's, in order."""
        found = [self._map(level) for level in self.levels.chosen]
        if self.levels.rollout:
            last = self.levels.rollout[-1]
            assert self.rolled is not None
            assert isinstance(last.placement, Tokens)
            found.append(last.placement.maps(last.placement.rows(self.rolled)))
        return [checked(level, name, self.images, self.label) for name, level in zip(self.levels.names, found, strict=True)]

    def _map(self, level: Level) -> Tensor:
        if level.place in self.direct:
            return shares(checked(self.direct[level.place], level.name, self.images, self.label))
        if level.place not in self.rows:
            raise InputError(
                f"model {self.label!r}: level {level.name} was not computed in this pass: the network takes another way"
            )
        return level.placement.maps(torch.cat(self.rows[level.place]))


def find(
    module: nn.Module, label: str, probe: Float[Tensor, "n c h w"], attention: str = AUTO, heads: Heads = "mean"
) -> AttentionReader:
    """The attention of a module in evaluation mode, found with a few images.

    Args:
        attention: ``auto`` for the module's own protocol, or else what is found by itself; ``none``; or a glob over names
            of levels and submodules, such as ``block12``, ``layer4.*.spatial`` or ``blocks.1?.attn``.
        heads: how the heads of a block become one map: their mean, their maximum, or one of them, counted from 0.

    Raises:
        InputError: a pattern that fits nothing, or nothing with a map; a protocol that is not kept.
    """
    if attention == NONE:
        return Nothing()
    core, prefix = core_of(module)
    if own := _own(module, label, probe, attention):
        return own
    if attention == AUTO and getattr(core, "levels", None) == ():
        return Nothing()
    closed = _closed(core)
    if closed and attention == AUTO:
        return Nothing(closed)
    if closed:
        raise InputError(f"model {label!r}: --attention {attention!r} cannot be read: {closed}")
    try:
        found = survey(module, probe)
    except Exception as problem:  # the module's own code, which ran before without being listened to
        if attention == AUTO:
            return Nothing(f"listening to it raised {typed_line(problem)}")
        raise InputError(f"model {label!r}: listening to it raised {typed_line(problem)}") from problem

    def choose(found: Survey) -> Levels:
        return by_themselves(found, prefix) if attention == AUTO else by_pattern(found, prefix, attention, label)

    levels = choose(found)
    return Heard(label, heads, choose, levels, probe) if levels.names else Nothing(_why_nothing(found, prefix))


def _own(module: nn.Module, label: str, probe: Tensor, attention: str) -> Own | None:
    """The protocol of a module that keeps it, with the levels that a pattern fits; None if there are none."""
    try:
        protocol = OwnProtocol(module, label, probe)
    except InputError:
        if attention == AUTO:
            raise
        return None  # a pattern may well be there because the protocol is broken
    own = Own(protocol, "*" if attention == AUTO else attention)
    return own if own.levels else None


def _why_nothing(found: Survey, prefix: str) -> str:
    """Why there is no level: the network computes nothing of the kind, or it cannot be told where its keys are."""
    unplaced = dict.fromkeys(
        entry.place.module.removeprefix(prefix) or "its forward" for entry in found.found if entry.placement is None
    )
    if not unplaced:
        return "no attention over positions and no spatial gate was found in it (channel attention, as in SE and ECA, has no map)"
    more = f" and {len(unplaced) - 1} more" if len(unplaced) > 1 else ""
    return (
        f"it computes attention ({next(iter(unplaced))}{more}), but which positions of the image are attended to cannot be told "
        "(attention between channels has none)"
    )


def _closed(core: nn.Module) -> str:
    """Why nothing inside a network can be heard, if so."""
    if isinstance(core, torch.jit.ScriptModule):
        return "a TorchScript program takes no hooks: give the module that it was made from, or one with levels and attend(x)"
    if isinstance(core, torch.fx.GraphModule):
        return "an exported program has no submodules to listen to: give the module that it was made from"
    if isinstance(core, torch._dynamo.eval_frame.OptimizedModule):
        return "a compiled module cannot be listened to: give the module itself and --compile, or one with levels and attend(x)"
    return ""
