"""Gaussian, shot, impulse and speckle noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustatt.corruptions.operators import Images, Rng, drawn, pixel_noise


def gaussian_noise(x: Images, deviation: float, rngs: Sequence[Rng]) -> Images:
    """Normal noise of one standard deviation, of the camera in poor light."""
    return x + deviation * pixel_noise(rngs, x, lambda rng, shape: rng.standard_normal(shape))


def speckle_noise(x: Images, deviation: float, rngs: Sequence[Rng]) -> Images:
    """Normal noise in proportion to the pixel."""
    return x + deviation * x * pixel_noise(rngs, x, lambda rng, shape: rng.standard_normal(shape))


def shot_noise(x: Images, photons: float, rngs: Sequence[Rng]) -> Images:
    """Poisson noise of so many photons at full brightness."""
    rates = iter((photons * x).movedim(1, 3).numpy())
    return drawn(rngs, lambda rng: rng.poisson(next(rates))).movedim(3, 1) / photons


def impulse_noise(x: Images, share: float, rngs: Sequence[Rng]) -> Images:
    """This share of all values is replaced, half of it by 1 (salt), half by 0 (pepper)."""
    lot = pixel_noise(rngs, x, lambda rng, shape: rng.random(shape))
    return torch.where(lot < share / 2, 1.0, torch.where(lot < share, 0.0, x))
