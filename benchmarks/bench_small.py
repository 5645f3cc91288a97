"""What a small sweep costs besides its own passes, and how it compares with other libraries on a large network.

    python benchmarks/bench_small.py [--rounds 3] [--no-timing]

First, counted and so the same on every machine: the passes of a sweep's own (what any evaluation needs: clean predictions, gradients,
a fresh prediction of every attacked image), those of the drift sample (the attack to its last step, for the drift of maps), those of
health checks and of freezing, and those for the pictures of the gallery. A gradient counts as two forward passes. Second, timed: FGSM over four radii on 16 and 32 images of 224 x 224 with torchvision's resnet18
(weights at random, labels as predicted, so that every image is worth an attack).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from bench_peers import correct, in_batches
from torch import Tensor, nn

import robustatt

RADII = "1,2,4,8"
BATCH = 16


class Counter(nn.Module):
    """Lets images through and counts them, also in copies of itself."""

    passes = 0

    def forward(self, image: Tensor) -> Tensor:
        Counter.passes += len(image) * (2 if torch.is_grad_enabled() and image.requires_grad else 1)
        return image


def counted(count: int, attack: str, eps: str, accuracy: float) -> tuple[int, int, int, int]:
    """Forward passes of the sweep's own, of the drift sample, of checks and freezing, of the gallery."""
    torch.manual_seed(0)
    network = nn.Sequential(
        Counter(), nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10),
    ).eval()  # fmt: skip
    image = torch.rand(count, 3, 65, 65)  # as many pictures as of larger images
    with torch.no_grad():
        label = network(image).argmax(1)
    wrong = round(count * (1 - accuracy))
    label[:wrong] = (label[:wrong] + 1) % 10
    Counter.passes = 0
    origin = robustatt.sweep(network, (image, label), attacks=[attack], eps=eps).summary["provenance"]
    own, drift = (int(origin.get(f"{part}forwards", 0) + 2 * origin.get(f"{part}gradients", 0)) for part in ("", "drift_"))
    all_but_pictures = Counter.passes
    Counter.passes = 0
    with tempfile.TemporaryDirectory() as folder:
        robustatt.sweep(network, (image, label), attacks=[attack], eps=eps, out=Path(folder) / "out")
    return own, drift, all_but_pictures - own - drift, Counter.passes - all_but_pictures


def by_torchattacks(network: nn.Module, image: Tensor, label: Tensor) -> list[float]:
    """FGSM radius by radius."""
    import torchattacks

    found = [float(correct(network, image, label, BATCH).float().mean())]
    for step in RADII.split(","):
        attacked = in_batches(torchattacks.FGSM(network, eps=int(step) / 255), image, label, BATCH)
        found.append(float(correct(network, attacked, label, BATCH).float().mean()))
    return found


def by_foolbox(network: nn.Module, image: Tensor, label: Tensor) -> list[float]:
    """FGSM, all radii in one call."""
    import foolbox

    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1))
    radii = [int(step) / 255 for step in RADII.split(",")]
    clean = float(correct(network, image, label, BATCH).float().mean())
    parts = zip(image.split(BATCH), label.split(BATCH), strict=True)
    broken = torch.cat([foolbox.attacks.FGSM()(wrapped, x, y, epsilons=radii)[2] for x, y in parts], dim=1)
    return [clean, *(1 - broken.float().mean(1)).tolist()]


def by_robustatt(network: nn.Module, image: Tensor, label: Tensor) -> list[float]:
    """The whole sweep, with health checks, records and summary."""
    curve = robustatt.sweep(network, (image, label), attacks=["fgsm"], eps=RADII).curve("fgsm")
    return [float(value) for value in curve["accuracy"]]


METHODS: dict[str, Callable[[nn.Module, Tensor, Tensor], list[float]]] = {
    "robustatt": by_robustatt, "torchattacks": by_torchattacks, "foolbox": by_foolbox,
}  # fmt: skip


def timed(count: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each library in each round, in turn; one run each beforehand is not counted."""
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval().requires_grad_(False)
    image = torch.rand(count, 3, 224, 224)
    with torch.no_grad():
        label = network(image).argmax(1)
    taken: dict[str, list[float]] = {name: [] for name in METHODS}
    for number in range(rounds + 1):
        for name, method in METHODS.items():
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                method(network, image, label)
            if number:
                taken[name].append(time.perf_counter() - began)
    return taken


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-timing", action="store_true", help="only count passes")
    wanted = parser.parse_args()
    print("| images | attack | radii (/255) | clean accuracy | own passes | drift sample | checks and freezing | gallery |")
    print("|---|---|---|---|---|---|---|---|")
    cases = [(count, "fgsm", eps, 1.0) for count in (16, 32, 64, 256) for eps in ("8", RADII, "1..16")]
    cases += [(32, "fgsm", RADII, 0.5), (64, "fgsm", RADII, 0.75), (16, "pgd", "8", 1.0), (32, "pgd", RADII, 1.0)]
    for case in cases:
        own, drift, checks, pictures = counted(*case)
        count, attack, eps, accuracy = case
        print(
            f"| {count} | {attack} | {eps} | {accuracy:.0%} | {own:,} | {drift:,} | {checks} ({checks / own:.0%}) "
            f"| {pictures} ({pictures / own:.0%}) |", flush=True,
        )  # fmt: skip
    if wanted.no_timing:
        return
    print(f"\nresnet18, 224 x 224, FGSM over {RADII}/255, {torch.get_num_threads()} threads: seconds, median (range)\n")
    print("| images |", " | ".join(METHODS), "| fastest other over robustatt |")
    print("|---" * (len(METHODS) + 2) + "|")
    for count in (16, 32):
        taken = timed(count, wanted.rounds)
        said = [f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" for values in taken.values()]
        middle = {name: statistics.median(values) for name, values in taken.items()}
        ratio = min(value for name, value in middle.items() if name != "robustatt") / middle["robustatt"]
        print(f"| {count} | {' | '.join(said)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
