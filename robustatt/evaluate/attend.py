"""`robustatt.attention_maps`: where any network looks, for images at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustatt.attention import Heads
from robustatt.attention.levels import NONE
from robustatt.errors import InputError, did_you_mean
from robustatt.evaluate.classifier import frozen
from robustatt.plan.entries import AUTO

BATCH = 32
PROBE = 4


def attention_maps(
    model: nn.Module, images: Float[Tensor, "n c h w"], levels: str | Sequence[str] | None = None, *,
    attention: str = AUTO, heads: Heads = "mean",
) -> tuple[Float[Tensor, "n classes"], dict[str, Float[Tensor, "n h w"]]]:  # fmt: skip
    """The logits of a model and its attention maps by level, for images in [0, 1].

    Read are the model's own protocol (``levels`` and ``attend(x)``), the blocks of transformers (``block1``, ``block2``, ...,
    ``rollout``) or spatial gates (by the submodule's name); see docs/attention.md for what each map is. Maps are float32,
    not negative, and each image's sums to 1. The model is left as it was: flags, hooks, random state.

    Args:
        levels: a name or the names of those wanted; all if None.
        attention: ``auto``, or a glob over names of levels and submodules, such as ``layer4.*.spatial``.
        heads: "mean", "max" or the number of a head, counted from 0.

    Raises:
        InputError: the model has no attention that can be read, or no level, submodule or head of that name.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        raise InputError("images: a tensor (n, channels, height, width) of at least one image in [0, 1] is needed")
    if attention == NONE:
        raise InputError("attention='none' reads no maps: give 'auto' or a pattern")
    if heads not in ("mean", "max") and (isinstance(heads, bool) or not isinstance(heads, int) or heads < 0):
        raise InputError(f"heads={heads!r}: give 'mean', 'max' or the number of a head, counted from 0")
    label = type(model).__name__
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), images.device)
    pixels = images.detach().to(device)
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    with frozen(model, label, device, pixels[:PROBE], attention=attention, heads=heads) as classifier:
        if not classifier.attended:
            raise InputError(
                f"model {label!r}: {classifier.reason or 'it says that it has no attention'}: name a submodule that has a map "
                "(attention=), give the model levels and attend(x), or see robustatt.evaluate.gradcam.grad_cam for saliency"
            )
        known = classifier.attended
        wanted = known if levels is None else (levels,) if isinstance(levels, str) else tuple(levels)
        for name in wanted:
            if name not in known:
                raise InputError(f"model {label!r} has no level {name!r}: {did_you_mean(name, known)}")
        with torch.no_grad():
            parts = [classifier.attend(part) for part in torch.split(pixels, BATCH)]
    by_level = zip(known, zip(*[maps for _, maps in parts], strict=True), strict=True)
    maps = {name: torch.cat(level) for name, level in by_level}
    return torch.cat([logits for logits, _ in parts]), {name: maps[name] for name in wanted}
