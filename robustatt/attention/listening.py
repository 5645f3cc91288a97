"""Attention as a forward pass computes it: every softmax over keys and every gate, heard where it happens.

A `TorchFunctionMode` sees the calls of `scaled_dot_product_attention`, `multi_head_attention_forward`, `softmax` and
`sigmoid` with their very arguments, whatever library makes them. While it listens, PyTorch leaves the fast paths of
`nn.MultiheadAttention` and `nn.TransformerEncoderLayer` by itself. Hooks say which submodule is at work.
"""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CHUNK = 2**25
"""Weights that are held at a time, beside the pass itself: 128 MiB of float32."""

Kind = Literal["attention", "gate"]

SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}
SIGMOID = {torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, torch.sigmoid_, F.hardsigmoid, torch.special.expit}
PRODUCT = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.einsum}


@dataclass(frozen=True, order=True)
class Place:
    """The n-th attention or gate (from 0) that a submodule computes itself in one pass."""

    module: str
    turn: int = 0


class Listener(abc.ABC):
    """Is told of what happens inside the submodules that are listened to."""

    @abc.abstractmethod
    def wants(self, place: Place, kind: Kind) -> bool:
        """Whether the weights at this place have to be computed."""

    @abc.abstractmethod
    def weights(self, place: Place, weights: Float[Tensor, "... queries keys"], start: int, total: int) -> None:
        """Weights (after softmax) of the rows of the batch from `start` on, of `total`; several calls are one place's."""

    @abc.abstractmethod
    def gate(self, place: Place, gate: Tensor) -> None:
        """What a sigmoid returned."""

    def values(self, place: Place, values: Float[Tensor, "... keys width"]) -> None:  # noqa: B027
        """What the weights of that place multiply, where that is plain."""

    def result(self, place: Place, result: Tensor) -> None:  # noqa: B027
        """What the function at that place returned: values that were mixed, or of a softmax the weights."""


class _Mode(TorchFunctionMode):
    """Hears the functions, and hands on what a listener wants."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.listener = listener
        self.inside: list[str] = []
        self.turns: Counter[str] = Counter()
        self._waiting: list[tuple[Place, Tensor]] = []  # softmaxes whose values are not known yet

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            if func is F.scaled_dot_product_attention:
                return self._product_attention(func, args, kwargs)
            if func is F.multi_head_attention_forward:
                return self._multi_head(func, args, kwargs)
            if func in SOFTMAX:
                return self._softmax(func(*args, **kwargs), args, kwargs)
            if func in SIGMOID:
                return self._sigmoid(func(*args, **kwargs))
            if self._waiting and func in PRODUCT:
                self._pair(args)
        return func(*args, **kwargs)

    def _next(self) -> Place:
        name = self.inside[-1]
        self.turns[name] += 1
        return Place(name, self.turns[name] - 1)

    def _product_attention(self, func: Any, args: Any, kwargs: Any) -> Any:
        place = self._next()
        if not self.listener.wants(place, "attention"):
            return func(*args, **kwargs)
        call = _ProductAttention(*args, **kwargs)
        self.listener.values(place, call.value)
        if call.dropout_p > 0:
            for start, weights, _ in call.chunks():
                self.listener.weights(place, weights, start, len(call.query))
            output = func(*args, **kwargs)
            self.listener.result(place, output)
            return output
        parts = []
        for start, weights, value in call.chunks():
            self.listener.weights(place, weights, start, len(call.query))
            parts.append(weights.to(value.dtype) @ value)
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.listener.result(place, output)
        return output

    def _multi_head(self, func: Any, args: Any, kwargs: Any) -> Any:
        place = self._next()
        if not self.listener.wants(place, "attention"):
            return func(*args, **kwargs)
        asked, mean = kwargs.get("need_weights", True), kwargs.get("average_attn_weights", True)
        output, weights = func(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
        seen = weights if weights.ndim == 4 else weights[None]
        value = args[2]
        self.listener.values(place, (value if value.ndim == 3 else value[:, None]).transpose(0, 1)[:, None])
        self.listener.weights(place, seen.float(), 0, len(seen))
        self.listener.result(place, output)
        return output, None if not asked else weights.mean(dim=-3) if mean else weights

    def _softmax(self, weights: Tensor, args: Any, kwargs: Any) -> Tensor:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if weights.ndim >= 2 and dim in (-1, weights.ndim - 1):
            place = self._next()
            if self.listener.wants(place, "attention"):
                self._waiting.append((place, weights))
                self.listener.result(place, weights)
        return weights

    def _pair(self, args: Any) -> None:
        """Of a product with weights that wait, the other factor is the values.

        Where several softmaxes went into the weights (ConViT), these themselves are taken.
        """
        operands = [part for part in args if isinstance(part, Tensor)]
        place, weights = self._waiting[0]
        if len(operands) == 2 and operands[0].shape == weights.shape:
            weights = weights if len(self._waiting) == 1 else operands[0]
            self._waiting.clear()
            self.listener.values(place, operands[1])
            self.listener.weights(place, weights.float(), 0, len(weights))

    def leave(self) -> None:
        """The submodule at work is done: hand on its softmaxes that no product was heard of."""
        name = self.inside.pop()
        done = [entry for entry in self._waiting if entry[0].module == name]
        self._waiting = [entry for entry in self._waiting if entry[0].module != name]
        for place, weights in done:
            self.listener.weights(place, weights.float(), 0, len(weights))

    def _sigmoid(self, gate: Tensor) -> Tensor:
        if gate.ndim == 4 and gate.shape[1] == 1 and min(gate.shape[2:]) > 1:
            place = self._next()
            if self.listener.wants(place, "gate"):
                self.listener.gate(place, gate)
        return gate


class _ProductAttention:
    """One call of `scaled_dot_product_attention`, as its documentation defines it."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> None:  # fmt: skip
        if enable_gqa:
            key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
        self.query, self.key, self.value, self.dropout_p = query, key, value, dropout_p
        self.scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        queries, keys = query.shape[-2], key.shape[-2]
        self.mask = attn_mask
        if is_causal:
            self.mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
        if self.mask is not None:
            self.mask = self.mask.expand(*query.shape[:-1], keys)

    def chunks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First row, weights in float32 and values of as many rows of the batch as may be held at a time."""
        step = max(1, CHUNK * len(self.query) // (self.query[..., 0].numel() * self.key.shape[-2]))
        with torch.autocast(self.query.device.type, enabled=False):
            for start in range(0, len(self.query), step):
                rows = slice(start, start + step)
                scores = (self.query[rows].float() * self.scale) @ self.key[rows].float().transpose(-2, -1)
                if self.mask is not None:
                    mask = self.mask[rows]
                    scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
                yield start, scores.softmax(dim=-1), self.value[rows]


@contextmanager
def outputs(module: nn.Module, names: Iterable[str], look: Callable[[str, Any], Any]) -> Iterator[None]:
    """While inside, what each submodule of these names returns is shown to a function, which may return something in its place."""
    handles = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        return lambda _module, _inputs, output: look(name, output)

    try:
        for name in names:
            handles.append(module.get_submodule(name).register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def listening(module: nn.Module, names: Iterable[str], listener: Listener) -> Iterator[None]:
    """While inside, the listener hears what the submodules of these names compute; no hook is left behind.

    What happens in a submodule that is not named counts as its nearest ancestor's that is.
    """
    mode = _Mode(listener)
    handles = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: mode.inside.append(name)

    def leave(*_: Any) -> None:
        mode.leave()

    try:
        for name in names:
            part = module.get_submodule(name)
            handles.append(part.register_forward_pre_hook(enter(name)))
            handles.append(part.register_forward_hook(leave, always_call=True))
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()
