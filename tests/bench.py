"""How fast a grid of radii is evaluated here and by other libraries: same model, images, radii, machine, run.

    python tests/bench.py [--attack fgsm] [--attack pgd] [--attack apgd-ce] [--attack autoattack] [-n 256] [--model vgg_att3]

Each library is timed at the batch sizes given by --batch and the fastest counts. Prints a Markdown table; --out also
writes it to a folder. `grad` and `fwd` are gradients and forward passes an image; `peak` is the share of the float32
matrix-product speed measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["GIT_PYTHON_REFRESH"] = "quiet"

import numpy as np
import torch
from torch import Tensor, nn

import robustatt
from robustatt import data, models
from robustatt.models import catalogue

RADII = [step / 255 for step in range(1, 17)]
IMAGES = {"fgsm": 256, "pgd": 64, "apgd-ce": 32, "autoattack": 8}
BATCHES = {"fgsm": [32, 64, 128], "pgd": [64], "apgd-ce": [64], "autoattack": [64]}


@dataclass
class Timing:
    """One library on one attack: seconds for the whole grid, robust accuracy by radius, work an image."""

    attack: str
    library: str
    batch: int
    seconds: float
    accuracy: list[float]
    gradients: float
    forwards: float
    images: int


class Counted(nn.Module):
    """Counts the images that pass through a model, apart from timing it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.with_grad, self.without = model, 0, 0

    def forward(self, image: Tensor) -> Tensor:
        if torch.is_grad_enabled() and image.requires_grad:
            self.with_grad += len(image)
        else:
            self.without += len(image)
        return self.model(image)


def correct(model: nn.Module, image: Tensor, label: Tensor, batch: int) -> Tensor:
    """Which images the model classifies right."""
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) for x in image.split(batch)]) == label


def in_batches(attack: Callable[[Tensor, Tensor], Tensor], image: Tensor, label: Tensor, batch: int) -> Tensor:
    """An attack over all images, a batch at a time."""
    return torch.cat([attack(x, y).detach() for x, y in zip(image.split(batch), label.split(batch), strict=True)])


def by_torchattacks(attack: str, model: nn.Module, image: Tensor, label: Tensor, batch: int) -> list[float]:
    """torchattacks, radius by radius."""
    import torchattacks as ta

    makers: dict[str, Callable[[float], object]] = {
        "fgsm": lambda eps: ta.FGSM(model, eps=eps),
        "pgd": lambda eps: ta.PGD(model, eps=eps, alpha=eps / 10, steps=40, random_start=True),
        "apgd-ce": lambda eps: ta.APGD(model, norm="Linf", eps=eps, steps=100, n_restarts=1, loss="ce"),
        "autoattack": lambda eps: ta.AutoAttack(model, norm="Linf", eps=eps, version="standard", n_classes=10, seed=0),
    }
    return [
        float(correct(model, in_batches(makers[attack](eps), image, label, batch), label, batch).float().mean())  # type: ignore[arg-type]
        for eps in RADII
    ]


def by_foolbox(attack: str, model: nn.Module, image: Tensor, label: Tensor, batch: int) -> list[float]:
    """foolbox, all radii in one call, as its interface offers."""
    import foolbox as fb

    wrapped = fb.PyTorchModel(model, bounds=(0, 1))
    method = (
        fb.attacks.FGSM() if attack == "fgsm" else fb.attacks.LinfPGD(rel_stepsize=0.1, steps=40, random_start=True)
    )
    broken = [
        method(wrapped, x, y, epsilons=RADII)[2] for x, y in zip(image.split(batch), label.split(batch), strict=True)
    ]
    return [float(1 - share) for share in torch.cat(broken, dim=1).float().mean(1)]


def by_art(attack: str, model: nn.Module, image: Tensor, label: Tensor, batch: int) -> list[float]:
    """adversarial-robustness-toolbox, radius by radius."""
    from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(image.shape[1:]), 10, clip_values=(0, 1), device_type="cpu"
    )
    found = []
    for eps in RADII:
        if attack == "fgsm":
            method = FastGradientMethod(wrapped, eps=eps, batch_size=batch)
        elif attack == "pgd":
            method = ProjectedGradientDescentPyTorch(
                wrapped, eps=eps, eps_step=eps / 10, max_iter=40, num_random_init=1, batch_size=batch, verbose=False
            )
        else:
            method = AutoProjectedGradientDescent(
                wrapped,
                eps=eps,
                eps_step=2 * eps,
                max_iter=100,
                nb_random_init=1,
                batch_size=batch,
                loss_type="cross_entropy",
                verbose=False,
            )
        attacked = method.generate(image.numpy(), label.numpy())
        found.append(float((wrapped.predict(attacked, batch_size=batch).argmax(1) == label.numpy()).mean()))
    return found


LIBRARIES: dict[str, tuple[Callable[..., list[float]], tuple[str, ...]]] = {
    "torchattacks": (by_torchattacks, ("fgsm", "pgd", "apgd-ce", "autoattack")),
    "foolbox": (by_foolbox, ("fgsm", "pgd")),
    "adversarial-robustness-toolbox": (by_art, ("fgsm", "pgd", "apgd-ce")),
}


def time_robustatt(attack: str, model: nn.Module, image: Tensor, label: Tensor, tries: int) -> Timing:
    """This project's sweep over the same grid, records and summary included; the best of as many tries as the others get."""
    best: Timing | None = None
    for _ in range(tries):
        began = time.perf_counter()
        result = robustatt.sweep(model, (image, label), attacks=[attack], eps="1..16")
        seconds = time.perf_counter() - began
        if best is None or seconds < best.seconds:
            origin, count = result.summary["provenance"], len(label)
            accuracy = result.curve(attack)["accuracy"].tolist()[1:]
            best = Timing(
                attack,
                "robustatt",
                64,
                seconds,
                accuracy,
                origin["gradients"] / count,
                origin["forwards"] / count,
                count,
            )
    assert best is not None
    return best


def time_library(name: str, attack: str, model: nn.Module, image: Tensor, label: Tensor, batches: list[int]) -> Timing:
    """A library at its fastest batch size."""
    method, _ = LIBRARIES[name]
    best: Timing | None = None
    for batch in batches:
        counted = Counted(model).eval()
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accuracy = method(attack, counted, image, label, batch)
        seconds = time.perf_counter() - began
        if best is None or seconds < best.seconds:
            best = Timing(
                attack,
                name,
                batch,
                seconds,
                accuracy,
                counted.with_grad / len(label),
                counted.without / len(label),
                len(label),
            )
    assert best is not None
    return best


def matrix_peak() -> float:
    """Measured float32 matrix-product speed in GFLOP/s."""
    a = torch.randn(2048, 2048)
    a @ a
    best = 0.0
    for _ in range(8):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began) / 1e9)
    return best


def table(timings: list[Timing], peak: float, gflop: float) -> str:
    """The timings as Markdown; a gradient counts as two forward passes (no weight gradients are needed)."""
    lines = [
        "| attack | images | library | batch | seconds | ratio | accuracy at 4, 8, 16 /255 | grad | fwd | peak |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ours = {timing.attack: timing.seconds for timing in timings if timing.library == "robustatt"}
    for timing in timings:
        work = (2 * timing.gradients + timing.forwards) * gflop * timing.images
        accuracy = ", ".join(f"{100 * timing.accuracy[step - 1]:.1f}" for step in (4, 8, 16))
        lines.append(
            f"| {timing.attack} | {timing.images} | {timing.library} | {timing.batch} | {timing.seconds:.1f} "
            f"| {timing.seconds / ours[timing.attack]:.1f} | {accuracy} "
            f"| {timing.gradients:.0f} | {timing.forwards:.0f} | {work / timing.seconds / peak:.0%} |"
        )
    return "\n".join(lines)


def verdicts(timings: list[Timing]) -> str:
    """For each attack how much faster than the fastest other library, and whether strength was given up for it."""
    lines = []
    for ours in (timing for timing in timings if timing.library == "robustatt"):
        others = [timing for timing in timings if timing.attack == ours.attack and timing is not ours]
        if others:
            fastest = min(others, key=lambda timing: timing.seconds)
            excess = max(np.array(ours.accuracy) - np.array(fastest.accuracy))
            lines.append(
                f"{ours.attack}: {fastest.seconds / ours.seconds:.1f} times as fast as the fastest other "
                f"({fastest.library}); largest excess of robust accuracy over it {100 * excess:+.1f} points"
            )
    return "\n".join(lines)


def conditions(arguments: argparse.Namespace, peak: float) -> str:
    """What the numbers hold for."""
    return (
        f"`python tests/bench.py` on {arguments.model} ({arguments.data}), eps 1..16/255; {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32 matrix product {peak:.0f} GFLOP/s. "
        "Ratio: seconds over robustatt's; every library at the best of the batch sizes tried, robustatt the best of as "
        "many runs at its own."
    )


def main() -> None:
    """Time everything asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", action="append", choices=["fgsm", "pgd", "apgd-ce", "autoattack"])
    parser.add_argument("--model", default="vgg_att3")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("-n", type=int, help="images; by default fewer for dearer attacks")
    parser.add_argument("--batch", type=int, action="append", help="batch sizes the other libraries may choose from")
    parser.add_argument("--library", action="append", choices=list(LIBRARIES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = models.load(arguments.model, arguments.data).eval().requires_grad_(False)
    everything = data.load(arguments.data, root=arguments.data_root)
    peak = matrix_peak()
    print(conditions(arguments, peak), flush=True)
    row = next(entry for entry in catalogue() if entry.name == arguments.model)
    gflop = row.gflop * _width(arguments.model, arguments.data) ** 2
    timings: list[Timing] = []
    for attack in arguments.attack or ["fgsm", "pgd"]:
        images, label = everything.tensors(range(arguments.n or IMAGES[attack]))
        image = images.float() / 255
        batches = arguments.batch or BATCHES[attack]
        time_robustatt(attack, model, image[:4], label[:4], 1)
        timings.append(time_robustatt(attack, model, image, label, len(batches)))
        for name, (_, supported) in LIBRARIES.items():
            if attack in supported and (not arguments.library or name in arguments.library):
                timings.append(time_library(name, attack, model, image, label, batches))
                print(f"  {attack} {name}: {timings[-1].seconds:.1f} s", flush=True)
    print(table(timings, peak, gflop), verdicts(timings), sep="\n\n")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join([conditions(arguments, peak), table(timings, peak, gflop), verdicts(timings)])
        (arguments.out / f"{arguments.data}-{arguments.model}.md").write_text(text + "\n")


def _width(model: str, data_name: str) -> float:
    from robustatt.models import bundled_path, read_card

    return float(read_card(bundled_path(model, data_name)).width)


if __name__ == "__main__":
    main()
