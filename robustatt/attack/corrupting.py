"""Common corruptions as the evaluation meets them: images in [0, 1] made of clean ones, whatever the model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from robustatt.attack.base import Attack, Batch
from robustatt.attack.corruption import CorruptionRecipe
from robustatt.attack.norms import NORMS
from robustatt.attack.rng import ExampleRng
from robustatt.corruptions.draw import corrupted
from robustatt.corruptions.kinds import RGB_ONLY
from robustatt.errors import InputError


class Corruption(Attack):
    """One kind of corruption. Its randomness belongs to (seed, kind, severity, example)."""

    def __init__(self, recipe: CorruptionRecipe) -> None:
        super().__init__(recipe.name, NORMS["linf"])
        self.kind = recipe.kind

    def images(self, batch: Batch, severity: int, seed: int) -> Float[Tensor, "n c h w"]:
        """The clean images of a batch, corrupted; drawn on the CPU so that every device sees the same.

        Raises:
            InputError: the kind colours images, and these have one channel.
        """
        if batch.image.shape[1] != 3 and self.kind in RGB_ONLY:
            raise InputError(f"corruption {self.kind} colours the image: it needs three channels (--channels 3)")
        rng = ExampleRng(seed, f"corruption {self.kind}")
        rngs = [rng.generator(index, restart=severity) for index in batch.index.tolist()]
        levels = torch.round(255 * batch.image.cpu()).to(torch.uint8)
        return (corrupted(levels, self.kind, severity, rngs).float() / 255).to(batch.image.device)
