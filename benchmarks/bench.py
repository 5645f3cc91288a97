"""How fast a grid of radii is evaluated here and by other libraries: same model, images, radii, machine, run.

    python benchmarks/bench.py [--attack fgsm] [--attack autoattack] [-n pgd=64] [--case digits/vgg_att3] [--out reports/bench]

Each library is timed at the batch sizes given by --batch and the fastest counts. Prints a Markdown table; --out also
writes it to a folder, with the timings as JSON and a figure. `grad` and `fwd` are gradients and forward passes an image; `peak` is the share of the float32
matrix-product speed measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["GIT_PYTHON_REFRESH"] = "quiet"

import numpy as np
import torch
from bench_peers import LIBRARIES, Strength
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import robustatt
from robustatt import data, models
from robustatt.attack import recipe_files as recipes
from robustatt.files import write_atomically

OURS = "robustatt"
IMAGES = {"fgsm": 256, "pgd": 128, "apgd-ce": 16, "autoattack": 4}
BATCHES = [64]  # the fastest for all of them on a CPU


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
    share_of_peak: float = 0.0  # of the float32 matrix product


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


def ours(attack: str, strength: Strength) -> recipes.Recipe:
    """The shipped recipe, AutoAttack at the strength asked for."""
    recipe = recipes.load(attack)
    wanted = {"steps": strength.steps, "queries": strength.queries} if attack == "autoattack" else {}
    return recipe.model_copy(update=wanted)


def time_robustatt(attack: str, model: nn.Module, image: Tensor, label: Tensor, tries: int, strength: Strength) -> Timing:
    """This project's sweep over the same grid, records and summary included; the best of as many tries as the others get."""
    best: Timing | None = None
    for _ in range(tries):
        began = time.perf_counter()
        result = robustatt.sweep(model, (image, label), attacks=[ours(attack, strength)], eps="1..16")
        seconds = time.perf_counter() - began
        if best is None or seconds < best.seconds:
            origin, count = result.summary["provenance"], len(label)
            accuracy = result.curve(attack)["accuracy"].tolist()[1:]
            best = Timing(
                attack,
                OURS,
                64,
                seconds,
                accuracy,
                origin["gradients"] / count,
                origin["forwards"] / count,
                count,
            )
    assert best is not None
    return best


def time_library(
    name: str, attack: str, model: nn.Module, image: Tensor, label: Tensor, batches: list[int], strength: Strength
) -> Timing:
    """A library at its fastest batch size."""
    method, _ = LIBRARIES[name]
    best: Timing | None = None
    for batch in batches:
        counted = Counted(model).eval()
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accuracy = method(attack, counted, image, label, batch, strength)
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


def table(timings: list[Timing]) -> str:
    """The timings as Markdown; a gradient counts as two forward passes (no weight gradients are needed)."""
    lines = [
        "| attack | images | library | batch | seconds | ratio | accuracy at 1, 4, 8, 16 /255 | grad | fwd | peak |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ours = {timing.attack: timing.seconds for timing in timings if timing.library == OURS}
    for timing in timings:
        accuracy = ", ".join(f"{100 * timing.accuracy[step - 1]:.1f}" for step in (1, 4, 8, 16))
        lines.append(
            f"| {timing.attack} | {timing.images} | {timing.library} | {timing.batch} | {timing.seconds:.1f} "
            f"| {timing.seconds / ours[timing.attack]:.1f} | {accuracy} "
            f"| {timing.gradients:.0f} | {timing.forwards:.0f} | {timing.share_of_peak:.0%} |"
        )
    return "\n".join(lines)


def ratios(timings: list[Timing]) -> dict[str, tuple[float, Timing, float]]:
    """For each attack the fastest other's seconds over ours, that other, and our largest excess of robust accuracy."""
    found = {}
    for mine in (timing for timing in timings if timing.library == OURS):
        others = [timing for timing in timings if timing.attack == mine.attack and timing is not mine]
        if others:
            fastest = min(others, key=lambda timing: timing.seconds)
            excess = float(max(np.array(mine.accuracy) - np.array(fastest.accuracy)))
            found[mine.attack] = fastest.seconds / mine.seconds, fastest, excess
    return found


def verdicts(timings: list[Timing]) -> str:
    """How much faster than the fastest other library, and whether strength was given up for it."""
    return "\n".join(
        f"- {attack}: {ratio:.1f} times as fast as the fastest other ({fastest.library}); largest excess of robust "
        f"accuracy over it {100 * excess:+.1f} points ({round(excess * fastest.images):+d} of {fastest.images} images)"
        for attack, (ratio, fastest, excess) in ratios(timings).items()
    )


def command(case: str, arguments: argparse.Namespace) -> str:
    """The call that repeats this case, apart from where the data lies and where results go."""
    words = ["python benchmarks/bench.py", f"--case {case}"]
    for name in ("attack", "library", "batch", "steps", "queries"):
        value = getattr(arguments, name)
        given = value if isinstance(value, list) else [] if value is None else [value]
        words += [f"--{name} {one}" for one in given]
    return " ".join([*words, *[f"-n {attack}={images}" for attack, images in arguments.n]])


def count(text: str) -> tuple[str, int]:
    """ATTACK=N taken apart."""
    attack, _, images = text.partition("=")
    if attack not in IMAGES:
        raise argparse.ArgumentTypeError(f"{text!r} is not ATTACK=N with an attack of {', '.join(IMAGES)}")
    return attack, int(images)


def conditions(call: str, peak: float, strength: Strength) -> str:
    """What the numbers hold for."""
    return (
        f"`{call}`: eps 1..16/255; {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, float32 matrix product {peak:.0f} GFLOP/s. Ratio: seconds over robustatt's. Every "
        "other library at the fastest of the batch sizes tried, robustatt the best of as many runs at its own. AutoAttack "
        f"with {strength.steps} steps a run and {strength.queries} queries in all libraries (published: 100 and 5000)."
    )


def run(case: str, arguments: argparse.Namespace) -> tuple[str, list[Timing]]:
    """Everything asked for on one model: the conditions and the timings."""
    data_name, _, name = case.partition("/")
    model = models.load(name, data_name).eval().requires_grad_(False)
    everything = data.load(data_name, root=arguments.data_root)
    strength, peak = Strength(arguments.steps, arguments.queries), matrix_peak()
    said = conditions(command(case, arguments), peak, strength)
    print(said, flush=True)
    work = forward_gflop(model)
    timings: list[Timing] = []
    for attack in arguments.attack or list(IMAGES):
        images, label = everything.tensors(range({**IMAGES, **dict(arguments.n)}[attack]))
        image = images.float() / 255
        batches = arguments.batch or BATCHES
        time_robustatt("fgsm", model, image[:4], label[:4], 1, strength)
        timings.append(time_robustatt(attack, model, image, label, len(batches), strength))
        for library, (_, supported) in LIBRARIES.items():
            if attack in supported and (not arguments.library or library in arguments.library):
                timings.append(time_library(library, attack, model, image, label, batches, strength))
                print(f"  {attack} {library}: {timings[-1].seconds:.1f} s", flush=True)
    for timing in timings:
        done = (2 * timing.gradients + timing.forwards) * work * timing.images
        timing.share_of_peak = done / timing.seconds / peak
    return said, timings


def forward_gflop(network: nn.Module) -> float:
    """GFLOP of a forward pass of one 32x32 image, a multiply and an add counted as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    return float(counter.get_total_flops()) / 1e9


def draw(results: dict[str, list[Timing]], path: Path) -> None:
    """Seconds of the fastest other library over ours, by attack and model."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    width = 0.8 / len(results)
    for place, (case, timings) in enumerate(results.items()):
        found = [(list(IMAGES).index(attack), ratio) for attack, (ratio, _, _) in ratios(timings).items()]
        bars = axes.bar(
            [x + (place - (len(results) - 1) / 2) * width for x, _ in found], [y for _, y in found], width, label=case
        )
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set_xticks(range(len(IMAGES)), list(IMAGES))
    axes.set_ylabel("times as fast as the\nfastest other library")
    axes.set_title("A grid of 16 radii, CPU", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=200)


def keep(case: str, said: str, timings: list[Timing], folder: Path) -> None:
    """The timings into the folder beside those of other runs, and the figure of all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = case.replace("/", "-")
    write_atomically(folder / f"{stem}.md", "\n\n".join([said, table(timings), verdicts(timings), ""]).encode())
    document = {"case": case, "conditions": said, "timings": [asdict(timing) for timing in timings]}
    write_atomically(folder / f"{stem}.json", json.dumps(document, indent=1).encode())
    results = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        if "case" in document:
            results[document["case"]] = [Timing(**timing) for timing in document["timings"]]
    draw(results, folder / "speed.png")


def main() -> None:
    """Time everything asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", action="append", choices=list(IMAGES))
    parser.add_argument("--case", action="append", help="DATA/MODEL with bundled weights [default: digits/vgg_att3]")
    parser.add_argument("--data-root")
    parser.add_argument("-n", type=count, action="append", default=[], metavar="ATTACK=N", help="images for an attack")
    parser.add_argument("--batch", type=int, action="append", help="batch sizes the other libraries may choose from")
    parser.add_argument("--library", action="append", choices=list(LIBRARIES))
    parser.add_argument("--steps", type=int, default=20, help="steps of AutoAttack's parts (published: 100)")
    parser.add_argument("--queries", type=int, default=1000, help="queries of AutoAttack's last part (published: 5000)")
    parser.add_argument("--out", type=Path, help="a folder for the table, the timings and a figure")
    arguments = parser.parse_args()
    for case in arguments.case or ["digits/vgg_att3"]:
        said, timings = run(case, arguments)
        print(table(timings), verdicts(timings), sep="\n\n", flush=True)
        if arguments.out:
            keep(case, said, timings, arguments.out)


if __name__ == "__main__":
    main()
