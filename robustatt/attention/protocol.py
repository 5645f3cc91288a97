"""The attention maps that a network hands out itself, checked: the protocol ``levels`` and ``attend(x)``.

``attend(x)`` returns the logits of ``x`` and a list of maps, one for each level: non-negative, ``(n, h, w)``, each image's
summing to 1. ``levels`` names them; without it they are ``l1``, ``l2``, ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustatt.attention.placement import shares
from robustatt.errors import InputError
from robustatt.results.columns import GRADCAM

Maps = list[Float[Tensor, "n h w"]]

SUM_TOLERANCE = 1e-3
"""How far a map's sum may lie from 1 without a word about it: that of half precision does."""

SUM_ROUNDING = 1e-5
"""How far it may lie from 1 and still be float32's rounding; other maps are divided by their sums."""

NEGATIVE_TOLERANCE = 1e-6
"""How far below 0 a share may lie and still be rounding."""

LOGIT_TOLERANCE = 1e-3
"""How far the logits of ``attend`` may lie from those of a forward pass, in shares of the largest."""


class OwnProtocol:
    """Reads the maps of one network. ``levels`` are their names, in the order of depth; none for a network without any.

    Raises:
        InputError: the maps of the probe are none, or their names cannot be column names of records.
    """

    def __init__(self, module: nn.Module, label: str, probe: Float[Tensor, "n c h w"]) -> None:
        self._label = label
        self.levels: tuple[str, ...] = ()
        #: levels whose maps do not sum to 1, and are divided by their sum
        self.unnormalised: tuple[str, ...] = ()
        attend = getattr(module, "attend", None)
        declared = getattr(module, "levels", None)
        if callable(attend) and declared != ():
            self._look(attend, declared, probe, module)

    def _look(self, attend: Callable[[Tensor], Any], declared: Any, probe: Tensor, module: nn.Module) -> None:
        with torch.no_grad():
            expected, again = module(probe), module(probe)
            try:
                answer = attend(probe)
                maps = self._maps_in(answer, len(probe))
            except Exception as problem:
                if declared is None:
                    return  # a method of that name that is not this protocol
                if isinstance(problem, InputError):
                    raise
                raise InputError(
                    f"model {self._label!r}: its attend(images) raised {type(problem).__name__}: {problem}"
                ) from problem
        levels = tuple(f"l{i + 1}" for i in range(len(maps))) if declared is None else self._named(declared)
        if len(levels) != len(maps):
            raise self._wrong(f"its attend returned {len(maps)} maps for {len(levels)} levels ({', '.join(levels)})")
        limit = LOGIT_TOLERANCE * (float(expected.abs().max()) + 1e-12)
        difference = float((answer[0].float() - expected).abs().max())
        if difference > limit >= float((expected - again).abs().max()):  # of a random model nothing can be said
            raise self._wrong(
                f"the logits of its attend differ from those of its forward by up to {difference:.3g}: both must be those of "
                "the same pass"
            )
        self.levels = levels
        self.unnormalised = tuple(
            name for name, level in zip(levels, self._checked(maps, len(probe)), strict=True)
            if float((level.sum((1, 2)) - 1).abs().max()) > SUM_TOLERANCE
        )  # fmt: skip

    def read(self, answer: Any, count: int) -> tuple[Tensor, Maps]:
        """Logits and maps in what ``attend`` returned for ``count`` images, every map summing to 1.

        Raises:
            InputError: it is not logits and one finite, non-negative map for each level.
        """
        maps = self._checked(self._maps_in(answer, count), count)
        if len(maps) != len(self.levels):
            raise self._wrong(f"its attend returned {len(maps)} maps for {len(self.levels)} levels")
        return answer[0], [_summing_to_one(level) for level in maps]

    def _maps_in(self, answer: Any, count: int) -> Sequence[Any]:
        form = "its attend(images) must return (logits, [map of each level])"
        if not isinstance(answer, tuple | list) or len(answer) != 2 or not isinstance(answer[1], tuple | list):
            raise self._wrong(f"{form}, not {_form(answer)}")
        logits: Any = answer[0]
        maps: Sequence[Any] = answer[1]
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
            raise self._wrong(f"{form}; its logits are {_form(logits)} for {count} images")
        if not maps:
            raise self._wrong(f"{form}; no maps can be read")
        return maps

    def _named(self, declared: Any) -> tuple[str, ...]:
        names = tuple(map(str, declared)) if isinstance(declared, tuple | list) else ()
        wrong = [name for name in names if not re.fullmatch(r"\w+", name) or name == GRADCAM or names.count(name) > 1]
        if not names or wrong:
            given = f"{wrong[0]!r} is not one" if wrong else f"not {declared!r}"
            raise self._wrong(f"its levels must be different names of letters, digits and underscores, {given}")
        return names

    def _checked(self, maps: Sequence[Any], count: int) -> Maps:
        names = self.levels or tuple(f"l{i + 1}" for i in range(len(maps)))
        return [checked(level, name, count, self._label) for name, level in zip(names, maps, strict=False)]

    def _wrong(self, what: str) -> InputError:
        return InputError(f"model {self._label!r}: {what}")


def _summing_to_one(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Maps divided by their sums; those that sum to 1 but for rounding stay as they are, bit for bit."""
    off = (maps.sum((1, 2), keepdim=True) - 1).abs() > SUM_ROUNDING
    return torch.where(off, shares(maps), maps)


class WrongMap(InputError):
    """A map that is none, of one image; `row` is its place in the batch."""

    def __init__(self, what: str, row: int) -> None:
        super().__init__(f"{what} (image {row} of the batch)")
        self.what, self.row = what, row

    def of_example(self, index: int) -> InputError:
        """The same, saying which example of the data it is."""
        return InputError(f"{self.what} (example {index})")


def checked(level: Any, name: str, count: int, label: str) -> Float[Tensor, "n h w"]:
    """A map as float32 ``(n, h, w)``, not negative.

    Raises:
        InputError: it has another form, or one image's (WrongMap) is not finite or zero everywhere.
    """
    of = f"model {label!r}: its map of level {name}"
    if not isinstance(level, Tensor) or not level.is_floating_point():
        raise InputError(f"{of} is {_form(level)}: a floating tensor (n, h, w) is needed")
    flat = level[:, 0] if level.ndim == 4 and level.shape[1] == 1 else level
    if flat.ndim != 3 or len(flat) != count or 0 in flat.shape:
        raise InputError(f"{of} has shape {tuple(level.shape)} for {count} images: (n, h, w) is needed")
    if not bool(flat.isfinite().all()):
        raise WrongMap(f"{of} holds NaN or infinite values", _first(~flat.isfinite()))
    lowest = float(flat.detach().min())
    if lowest < -NEGATIVE_TOLERANCE:
        raise InputError(f"{of} holds negative values, down to {lowest:.3g}: a map says shares of attention")
    flat = flat.float()
    flat = flat if lowest >= 0 else flat.clamp_min(0)
    if not bool((highest := flat.amax(dim=(1, 2))).all()):
        raise WrongMap(f"{of} is zero everywhere: it says nothing", int((highest == 0).nonzero()[0]))
    return flat


def _first(wrong: Tensor) -> int:
    return int(wrong.flatten(1).any(1).nonzero()[0])


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
