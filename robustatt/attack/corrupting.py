"""Common corruptions as the evaluation meets them: images in [0, 1] made of clean ones, whatever the model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from robustatt import data as data_sets
from robustatt.attack.base import Attack, Batch
from robustatt.attack.corruption import CorruptionRecipe
from robustatt.attack.norms import NORMS
from robustatt.attack.rng import ExampleRng
from robustatt.corruptions.kinds import RGB_ONLY
from robustatt.data.dataset import Dataset
from robustatt.errors import InputError


@lru_cache(maxsize=8)
def published(where: str, size: tuple[int, int]) -> Dataset:
    """Published images of one corruption and severity, as a data set, for clean images of this height and width.

    Raises:
        InputError: there are none, they are damaged, or of another size.
    """
    folder = Path(where).is_dir()
    found = data_sets.load(where, image_size=size[0] if folder and size[0] == size[1] else None)
    if found.image_shape[1:] != size:
        raise InputError(f"{where} holds images of {found.image_shape[1:]} pixels, and the clean ones are of {size}")
    return found


class Corruption(Attack):
    """One kind of corruption. Its randomness belongs to (seed, kind, severity, example); published images have none."""

    def __init__(self, recipe: CorruptionRecipe) -> None:
        super().__init__(recipe.name, NORMS["linf"])
        self.kind, self.published = recipe.kind, recipe.images

    def images(self, batch: Batch, severity: int, seed: int) -> Float[Tensor, "n c h w"]:
        """The clean images of a batch, corrupted; drawn on the CPU so that every device sees the same.

        Raises:
            InputError: the kind colours images, and these have one channel; or published images are not of these labels.
        """
        if self.published is not None:
            return self._read(batch, self.published.format(severity))
        if batch.image.shape[1] != 3 and self.kind in RGB_ONLY:
            raise InputError(f"corruption {self.kind} colours the image: it needs three channels (--channels 3)")
        from robustatt.corruptions.draw import corrupted

        rng = ExampleRng(seed, f"corruption {self.kind}")
        rngs = [rng.generator(index, restart=severity) for index in batch.index.tolist()]
        levels = torch.round(255 * batch.image.cpu()).to(torch.uint8)
        return (corrupted(levels, self.kind, severity, rngs).float() / 255).to(batch.image.device)

    def _read(self, batch: Batch, where: str) -> Tensor:
        found, labels = published(where, (batch.image.shape[2], batch.image.shape[3])).tensors(batch.index.cpu())
        if found.shape != batch.image.shape or not torch.equal(labels, batch.label.cpu()):
            raise InputError(f"{where} does not hold corruptions of these images: other channels or labels")
        return (found.float() / 255).to(batch.image.device)
