"""Where a classifier without attention looks: Grad-CAM and input gradients.

Both are saliency: they say after the fact what the logit of a class was sensitive to. An attention map is part of
the forward pass and decides what the classifier sees. The two answer different questions and share no axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robustatt.attack.border import InsideBox, border_margin
from robustatt.errors import InputError
from robustatt.evaluate.model_outputs import hookable
from robustatt.evaluate.module_state import borrowed, default_modes, seeded

MIN_INFLUENCE = 1e-4
"""Share of the most influential layer's influence below which a layer counts as one the logits do not depend on."""

MIN_SIDE = 4
"""Positions a side that a map should have: on 2 x 2 of them, all that the last layers of a VGG leave of 32 pixels,
Grad-CAM tells four quarters of the image apart and says little about where."""

PROBE_IMAGES = 4


@dataclass(frozen=True)
class Layer:
    """A place in a forward pass: the n-th call (from 0) of the submodule of that name, and the positions it has."""

    name: str
    call: int
    height: int = field(default=1, compare=False)
    width: int = field(default=1, compare=False)


def grad_cam(
    model: nn.Module, images: Float[Tensor, "batch c height width"], target: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch h w"]:
    """Grad-CAM (Selvaraju et al. 2017) of the predicted class, or of the classes in `target`.

    Taken at `last_spatial_layer`: its channels, weighted by their mean gradient, summed, negative parts cut off. Each map
    is divided by its sum; one that is zero everywhere is uniform. The graph begins at that layer, so it costs one
    forward pass and the backward pass of what follows the layer. The model's flags, gradients, hooks and the random
    state are as before afterwards. Raises InputError if the model has no such layer.
    """
    with default_modes(), borrowed(model), seeded(images.device):
        layer = last_spatial_layer(model, images[:PROBE_IMAGES])
        if layer is None:
            raise InputError(
                f"Grad-CAM needs a layer whose output is a map of positions: {type(model).__name__} has none between "
                "its first convolution and its logits"
            )
        return logits_and_cam(model, layer, images, target)[1]


def input_gradient(
    model: nn.Module, images: Float[Tensor, "batch c height width"], target: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch height width"]:
    """Gradient saliency (Simonyan et al. 2014): how much each pixel moves the class's logit.

    The largest absolute gradient over the channels, divided by its sum; uniform where it is zero everywhere.
    `target` and what is left as before: as for `grad_cam`.
    """
    with default_modes(), borrowed(model), seeded(images.device):
        leaf = images.detach().clone().requires_grad_()
        gradient = _gradient(InsideBox(model, border_margin(model, images))(leaf), leaf, target)
    return as_shares(gradient.abs().amax(dim=1))


def logits_and_cam(
    model: nn.Module, layer: Layer, images: Float[Tensor, "batch c height width"], target: Tensor | None = None
) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch h w"]]:
    """Logits and Grad-CAM at the layer in one forward pass, of a model in eval mode.

    The map is uniform if the model did not come by that layer this time.
    """
    opened: list[Tensor] = []
    calls = 0

    def open_graph(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        if calls != layer.call + 1:
            return None
        torch.set_grad_enabled(True)
        opened.append(output.detach().requires_grad_())
        return opened[0].clone()  # what follows may work in place, and a leaf forbids that

    handle = model.get_submodule(layer.name).register_forward_hook(open_graph)
    try:
        with torch.no_grad():
            logits: Tensor = model(images)
    finally:
        handle.remove()
    if not opened:
        return logits, as_shares(logits.new_zeros(len(logits), layer.height, layer.width))
    (features,) = opened
    gradient, features = _gradient(logits, features, target), features.detach()
    if torch.finfo(features.dtype).bits < 32:
        gradient, features = gradient.float(), features.float()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return logits.detach(), as_shares((weights * features).sum(dim=1).relu())


def as_shares(maps: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch h w"]:
    """Non-negative maps divided by their sum; uniform where that is zero or not finite."""
    peak = maps.amax(dim=(1, 2), keepdim=True)
    scaled = maps / peak  # so that neither very small nor very large values are lost in the sum
    shares = scaled / scaled.sum(dim=(1, 2), keepdim=True)
    usable = (peak > 0) & shares.isfinite().all(dim=2, keepdim=True).all(dim=1, keepdim=True)
    return torch.where(usable, shares, 1.0 / (maps.shape[1] * maps.shape[2]))


def last_spatial_layer(model: nn.Module, images: Float[Tensor, "batch c height width"]) -> Layer | None:
    """The last layer whose output is a map of `MIN_SIDE` a side on which the logits depend, of a model in eval mode.

    Where no map is as large as that, the last one larger than 1 x 1.
    Only layers from the first convolution on count (the first module that owns a weight of four dimensions), and
    none that is followed by tokens or by another layout of the dimensions: a map has the sides' ratio of the image.
    None if there is no such layer, or if the model's own code does not allow gradients. Raises what the model raises.
    """
    seen = _Listener(images.shape[2], images.shape[3])
    handles = [part.register_forward_hook(seen.of(name)) for name, part in hookable(model) if name]
    try:
        with torch.enable_grad():
            logits = model(images.detach().clone().requires_grad_())
            return seen.last_influential(logits)
    except Exception:  # the model's own code, which may fail in any way
        with torch.no_grad():
            model(images)  # raises again unless it was the graph that it does not bear
        return None
    finally:
        for handle in handles:
            handle.remove()


class _Listener:
    """Collects the maps that go by in one forward pass."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.calls: dict[str, int] = {}
        self.maps: list[tuple[Layer, Tensor]] = []
        self.convolved = False

    def of(self, name: str) -> Any:
        """The hook of the submodule of that name."""

        def hear(module: nn.Module, _inputs: Any, output: Any) -> None:
            call = self.calls.get(name, 0)
            self.calls[name] = call + 1
            self.convolved = self.convolved or any(weight.ndim == 4 for weight in module.parameters(recurse=False))
            if not isinstance(output, Tensor) or not self.convolved:
                return
            if output.ndim == 4 and min(output.shape[2:]) > 1 and self._is_upright(output):
                self.maps.append((Layer(name, call, *output.shape[2:]), output))
            elif output.ndim in (3, 4) and min(output.shape[-2:]) > 1:
                self.maps.clear()

        return hear

    def _is_upright(self, output: Tensor) -> bool:
        height, width = output.shape[2:]
        return abs(height * self.width - width * self.height) <= max(self.height, self.width)

    def last_influential(self, logits: Tensor) -> Layer | None:
        """The last map that is worth something to the logits of the predicted classes."""
        reached = [(layer, output) for layer, output in self.maps if output.requires_grad]
        if not reached or not logits.requires_grad:
            return None
        gradients = torch.autograd.grad(logits.amax(dim=1).sum(), [output for _, output in reached], allow_unused=True)
        influence = [
            0.0 if gradient is None else float((gradient * output.detach()).abs().sum())
            for (_, output), gradient in zip(reached, gradients, strict=True)
        ]
        least = MIN_INFLUENCE * max(influence)
        worthy = [reached[i] for i, worth in enumerate(influence) if worth > least]
        large = [(layer, output) for layer, output in worthy if min(output.shape[2:]) >= MIN_SIDE]
        return (large or worthy)[-1][0] if worthy else None


def _gradient(logits: Tensor, leaf: Tensor, target: Tensor | None) -> Tensor:
    """The gradient of each row's class with respect to the leaf; zero where the logits do not depend on it."""
    classes = logits.detach().argmax(dim=1) if target is None else target
    with torch.enable_grad():
        score = logits.gather(1, classes[:, None]).sum()
    if not score.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(score, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient
