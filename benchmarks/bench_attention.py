"""What the maps of all blocks cost beside a plain forward pass.

    python benchmarks/bench_attention.py

timm's `vit_tiny_patch16_224` and `deit_small_patch16_224` at 224 pixels, batches of 16, one thread, random weights: the least
of seven passes each, taken in turns. Twelve blocks and the rollout may cost 1.25 times a plain pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import timm
import torch

from robustatt.attention import find

LIMIT, BATCH, PASSES = 1.25, 16, 7


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, so that other programs on the machine do not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratio(name: str) -> tuple[float, float]:
    """Seconds of a plain pass and of one with maps."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    images = torch.rand(BATCH, 3, 224, 224)
    with torch.no_grad():
        reader = find(model, name, images[:3])
        rounds = [(seconds(lambda: model(images)), seconds(lambda: reader.attend(model, images))) for _ in range(PASSES)]
    plain, maps = zip(*rounds[1:], strict=True)
    return min(plain), min(maps)


def main() -> None:
    """Print a line for each network."""
    torch.set_num_threads(1)
    for name in ("vit_tiny_patch16_224", "deit_small_patch16_224"):
        plain, maps = ratio(name)
        verdict = "" if maps <= LIMIT * plain else f", above the limit of {LIMIT}"
        print(f"{name}, batch {BATCH}: {plain:.3f} s plain, {maps:.3f} s with all maps, ratio {maps / plain:.2f}{verdict}")


if __name__ == "__main__":
    main()
