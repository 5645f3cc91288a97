"""Modules of any floating dtype and of the usual output forms as modules from float32 images to float32 logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustatt.attack.losses import log_odds
from robustatt.errors import InputError, describe
from robustatt.evaluate.module_state import evaluation_mode

MAX_GRADIENT_SCALE = 2**16
GRADIENT_HEADROOM = 2**4
"""By how much a gradient in half precision may exceed that of the probe before it overflows."""

WRAP = "return the logits alone: class Wrapped(nn.Module): def forward(self, x): return self.model(x)[...]"

USUAL_SIDES = (28, 32, 64, 96, 128, 224, 256, 299, 384, 448)
"""Sizes of images that networks are made for, tried where one does not say its own."""


class StandardModule(nn.Module):
    """A module behind one interface: float32 images in [0, 1] ``(n, c, h, w)`` to float32 logits ``(n, classes)``.

    Args:
        module: what is wrapped, in evaluation mode.
        fed: the dtype that it takes images in.
        batch: the only batch size that it takes, if there is just one (an exported program).
    """

    wrapped = "module"

    def __init__(self, module: nn.Module, fed: torch.dtype, batch: int | None = None) -> None:
        super().__init__()
        self.module, self.fed, self.batch = module, fed, batch
        self.gradient_scale = 1.0  # a power of two
        self.one_logit = False  # whether it returns one number an image, taken as the logits [0, z] of two classes

    def forward(self, image: Tensor) -> Tensor:
        if self.batch is None:
            return self._leave(self.module(self._enter(image)))
        pieces = [self._leave(self.module(self._enter(_padded(piece, self.batch)))) for piece in torch.split(image, self.batch)]
        return torch.cat(pieces)[: len(image)]

    def _enter(self, image: Tensor) -> Tensor:
        return _scaled(image, 1 / self.gradient_scale).to(self.fed)

    def _leave(self, output: Any) -> Tensor:
        logits = logits_in(output)
        assert logits is not None, "checked when the module was wrapped"
        return _scaled(logits.float(), self.gradient_scale)


class StandardAttentionModule(StandardModule):
    """The same for a module that says where it looks, by ``levels`` and ``attend``."""

    @property
    def levels(self) -> Any:
        """The names of the maps, if the module says them."""
        return getattr(self.module, "levels", None)

    def attend(self, image: Tensor) -> tuple[Tensor, Any]:
        """Logits, and the maps as the module returns them."""
        output, maps = self.module.attend(self._enter(image))  # type: ignore[operator]
        return self._leave(output), maps


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a power of two."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None


def _scaled(value: Tensor, scale: float) -> Tensor:
    return value if scale == 1.0 else _ScaledGradient.apply(value, scale)


def _padded(image: Tensor, count: int) -> Tensor:
    missing = count - len(image)
    return image if missing == 0 else torch.cat([image, image[-1:].expand(missing, *image.shape[1:])])


@dataclass(frozen=True)
class Standard:
    """A module from float32 images to float32 logits, and what it said of a few images in one pass.

    `dtype`: the floating dtype of fewest digits that images pass through: of the input, weights, logits and, where they can be
    listened to, of what submodules return.
    """

    module: nn.Module
    image: Float[Tensor, "n c h w"]
    logits: Float[Tensor, "n classes"]
    dtype: torch.dtype


def standard(module: nn.Module, label: str, probe: Float[Tensor, "n c h w"]) -> Standard:
    """The module itself if it is from float32 images to float32 logits, else a `StandardModule` around it; one pass for most.

    Raises:
        InputError: it does not take such images, or it cannot be told which part of its output is the logits.
    """
    seen: set[torch.dtype] = set()
    with _heard(module, seen):
        output, fed, batch = _answer(module, label, probe)
    logits = logits_in(output)
    if logits is None or len(logits) != len(probe if batch is None else _padded(probe[:batch], batch)):
        count = len(probe) if batch is None else batch
        raise InputError(
            f"model {label!r} returned {_form(output)} for {count} images: expected logits of shape ({count}, classes); {WRAP}"
        )
    if output is logits and fed == logits.dtype == torch.float32 and batch is None:
        return Standard(module, probe, logits.clone(), _coarsest(seen, module))
    kind = StandardAttentionModule if hasattr(module, "attend") else StandardModule
    wrapped = kind(module, fed, batch)
    evaluation_mode(wrapped)
    found = _tensor_in(output)
    wrapped.one_logit = found is not None and (found.ndim == 1 or found.shape[1] == 1)
    if torch.float16 in {fed, logits.dtype, *_parameter_dtypes(module)}:
        wrapped.gradient_scale = _gradient_scale(wrapped, probe)
    with torch.no_grad(), _heard(wrapped, seen):
        again = wrapped(probe)
    return Standard(wrapped, probe, again, _coarsest(seen | {fed}, module))


@contextmanager
def _heard(module: nn.Module, seen: set[torch.dtype]) -> Iterator[None]:
    """The floating dtypes of what submodules return meanwhile."""

    def hear(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            seen.add(output.dtype)

    handles = [part.register_forward_hook(hear) for name, part in hookable(module) if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _coarsest(seen: set[torch.dtype], module: nn.Module) -> torch.dtype:
    return max({torch.float32, *seen, *_parameter_dtypes(module)}, key=lambda dtype: torch.finfo(dtype).eps)


def logits_in(output: Any) -> Tensor | None:
    """The logits ``(n, classes)`` in what a module returned, or None if it is not plain which they are.

    They are the output itself, its attribute or key ``logits``, or the first of a tuple or list, unless another
    part of that has the form of logits of other classes. One number an image is the logit of the second of two classes.
    """
    found = _tensor_in(output)
    if found is None:
        return None
    if found.ndim == 1 or found.shape[1] == 1:
        second = found.reshape(-1, 1)
        return torch.cat([torch.zeros_like(second), second], dim=1)
    return found


def _tensor_in(output: Any) -> Tensor | None:
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif not isinstance(output, Tensor) and hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, tuple | list):
        rivals = [part for part in output if isinstance(part, Tensor) and part.ndim == 2]
        plain = bool(rivals) and output[0] is rivals[0] and len({part.shape for part in rivals}) == 1
        output = output[0] if plain and rivals[0].shape[1] > 1 else None
    usable = isinstance(output, Tensor) and output.ndim in (1, 2) and output.is_floating_point() and output.numel() > 0
    return output if usable else None


def hookable(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The module's parts that take hooks, by name: TorchScript takes none."""
    return [(name, part) for name, part in module.named_modules() if not isinstance(part, torch.jit.ScriptModule)]


def _answer(module: nn.Module, label: str, probe: Tensor) -> tuple[Any, torch.dtype, int | None]:
    """What the module returns for the probe, the dtype that it takes, and its batch size if it has only one."""
    batch = _exported_batch(module)
    image = probe if batch is None else _padded(probe[:batch], batch)
    problems: list[Exception] = []
    for dtype in dict.fromkeys([torch.float32, *_parameter_dtypes(module)]):
        try:
            with torch.no_grad():
                return module(image.to(dtype)), dtype, batch
        except Exception as problem:  # the model's own code, which may raise anything
            problems.append(problem)
    reason = describe(problems[-1])
    grey = "; for grey images and a network of one channel: --channels 1, or images (n, 1, height, width) from Python"
    side = None if batch is not None else side_taken(module, probe)
    sized = f"; it takes images of {side} x {side}: --input-size {side}" if side else ""
    raise InputError(
        f"model {label!r} cannot take images of shape {tuple(probe.shape[1:])}: {reason}"
        f"{grey if 'to have 1 channels' in reason else sized}"
    ) from problems[-1]


def side_taken(module: nn.Module, probe: Float[Tensor, "n c h w"]) -> int | None:
    """The size of square images that a module takes, where it is not that of the probe: what it says of itself, or else
    the first of the usual sizes that it computes; None if it takes none of them."""
    said = [getattr(part, name, None) for part in module.modules() for name in ("image_size", "img_size")]
    sides = [value[-1] if isinstance(value, tuple | list) and value else value for value in said]
    likely = [value for value in sides if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4096]
    for side in dict.fromkeys([*likely, *USUAL_SIDES]):
        if side == probe.shape[-1]:
            continue
        for dtype in dict.fromkeys([torch.float32, *_parameter_dtypes(module)]):
            image = torch.nn.functional.interpolate(probe[:2].float(), size=(side, side)).to(dtype)
            try:
                with torch.no_grad():
                    output = module(image)
            except Exception:  # the model's own code, which may raise anything
                continue
            if logits_in(output) is not None:
                return side
    return None


def _parameter_dtypes(module: nn.Module) -> list[torch.dtype]:
    tensors = [*module.parameters(), *module.buffers()]
    return list(dict.fromkeys(tensor.dtype for tensor in tensors if tensor.is_floating_point()))


def _exported_batch(module: nn.Module) -> int | None:
    """The batch size that a program of torch.export was made for, if it takes no other."""
    if not isinstance(module, torch.fx.GraphModule):
        return None
    given = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    if not given or not isinstance(given[0], Tensor) or given[0].ndim != 4:
        return None
    size = given[0].shape[0]
    return size if isinstance(size, int) else None


def _gradient_scale(module: StandardModule, probe: Tensor) -> float:
    """The largest power of two that leaves the gradients of the probe finite in half precision, less some headroom.

    Without it gradients below 6e-8 are lost in half precision, and the model looks robust.
    """
    scale = MAX_GRADIENT_SCALE
    while scale > 1:
        module.gradient_scale = float(scale)
        with torch.enable_grad():
            query = probe.detach().clone().requires_grad_()
            logits = module(query)
            if not logits.requires_grad:
                return 1.0
            (grad,) = torch.autograd.grad(log_odds(logits, logits.detach().argmax(1)).sum(), query, allow_unused=True)
        if grad is None or bool(grad.isfinite().all()):
            break
        scale //= 2
    return float(max(1, scale // GRADIENT_HEADROOM))


def _form(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}" + ("" if output.is_floating_point() else f" of {output.dtype}")
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with keys {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        parts = ", ".join(_form(part) for part in output)
        return f"a {type(output).__name__} of {len(output)}: {parts}"
    return f"a {type(output).__name__}"
