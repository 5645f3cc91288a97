"""Train the paper's networks at full width on one GPU and measure what they and this program do there.

    python benchmarks/gpu.py --data-root DIR [--minutes 12] [--out reports/gpu]
    python benchmarks/gpu.py --rehearsal        # the same parts on this machine's CPU, tiny networks, digits

Parts, each with its own share of the time; what a part has finished is on disk at once, and a second call continues:
peaks (matrix products in bfloat16 and float32), train (the family, as many epochs as fit), attack (FGSM and PGD over
1..16), peers (the same work by other libraries) and autoattack (an adversarially trained network). Everything goes into
OUT/results.json, from which OUT/README.md is written; weights into OUT/weights, float16, in parts below 16 MB.

Needs Python with torch and the run-time dependencies of robustatt on its path; nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GIT_PYTHON_REFRESH"] = "quiet"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from bench import forward_gflop
from bench_peers import LIBRARIES, Strength
from torch import nn

import robustatt
from robustatt import data as datasets
from robustatt import models
from robustatt.errors import first_line
from robustatt.files import write_atomically
from robustatt.results.provenance import git_state, versions
from robustatt.train import TrainRequest, train

FAMILY = ("vgg_att2", "vgg", "vgg_att3", "vgg_att1", "vgg_gap", "vgg_pan")
ADVERSARIAL = "vgg_att2"
SHARES = {"peaks": 0.02, "train": 0.5, "attack": 0.2, "peers": 0.1, "autoattack": 0.18}
"""Of the whole time, for each part, in the order in which they run."""
MAX_PART_BYTES = 15 * 10**6
WARM_STEPS = 20
RADII = (1, 4, 8, 16)


@dataclass(frozen=True)
class Setting:
    """What is run where. `images` is the number of test images; None: all."""

    data: str
    data_root: Path | None
    device: str
    width: float
    epochs: int
    batch_size: int
    images: int | None
    peer_images: int
    chain_images: int
    strength: Strength
    out: Path

    def weights(self, name: str) -> Path:
        """Where the weights of a network are."""
        return self.out / "weights" / f"{name}.safetensors"


class OutOfTime(Exception):
    """The part's time is over."""


class Report:
    """The results so far, on disk after every change."""

    def __init__(self, setting: Setting) -> None:
        self.path = setting.out / "results.json"
        self.values: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, part: str, name: str, entry: dict[str, Any]) -> None:
        """One result of a part."""
        self.values.setdefault(part, {})[name] = entry
        write_atomically(self.path, (json.dumps(self.values, indent=1) + "\n").encode())
        print(f"{part} {name}: {json.dumps(entry)}", flush=True)

    def has(self, part: str, name: str) -> bool:
        return name in self.values.get(part, {})


# The parts --------------------------------------------------------------------------------------------------


def peaks(setting: Setting, report: Report, until: float) -> None:
    """Matrix products of random numbers: the speed of the machine, in TFLOP/s."""
    side = 8192 if setting.device.startswith("cuda") else 1024
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        if time.monotonic() > until:
            raise OutOfTime
        a, b = (torch.randn(side, side, device=setting.device, dtype=dtype) for _ in range(2))
        best = min(_seconds(lambda a=a, b=b: a @ b, setting.device) for _ in range(8))
        report.add("peaks", name, {"tflops": round(2 * side**3 / best / 1e12, 3), "side": side})


def train_family(setting: Setting, report: Report, until: float) -> None:
    """Every network by one recipe, for as many epochs as its share of the time allows."""
    todo = [name for name in FAMILY if not report.has("train", name)]
    for number, name in enumerate(todo):
        share = (until - time.monotonic()) / (len(todo) - number)
        report.add("train", name, _trained(setting, name, None, share))


def attack_family(setting: Setting, report: Report, until: float) -> None:
    """FGSM and PGD-40 over 1..16 on the test images."""
    for name in FAMILY:
        if report.has("attack", name) or not setting.weights(name).exists():
            continue
        if time.monotonic() > until:
            raise OutOfTime
        began = time.monotonic()
        result = robustatt.sweep(
            _network(setting, name), _test_data(setting), ["fgsm", "pgd"], "1..16", n=setting.images,
            device=setting.device, progress=False,
        )  # fmt: skip
        accuracy = {}
        for attack in ("fgsm", "pgd"):
            curve = result.curve(attack)["accuracy"].tolist()
            accuracy[attack] = {f"{radius}/255": round(curve[radius], 4) for radius in (0, *RADII)}
        origin = result.summary["provenance"]
        passes = {key: origin[key] for key in ("gradients", "forwards")}
        report.add("attack", name, {"accuracy": accuracy, "seconds": round(time.monotonic() - began, 1), **passes})


def peers(setting: Setting, report: Report, until: float) -> None:
    """One network, the same images, radii and attacks in this and in other libraries."""
    if not setting.weights(ADVERSARIAL).exists():
        return
    network = _network(setting, ADVERSARIAL).to(setting.device).eval()
    image, label = _test_data(setting).tensors(range(setting.peer_images))
    image, label = image.float().div(255).to(setting.device), label.to(setting.device)
    batch = 512 if setting.device.startswith("cuda") else 64

    def ours(attack: str) -> list[float]:
        result = robustatt.sweep(network, (image.cpu(), label.cpu()), [attack], "1..16", device=setting.device, progress=False)
        return [float(value) for value in result.curve(attack)["accuracy"].tolist()[1:]]

    runs: dict[str, Callable[[str], list[float]]] = {"robustatt": ours}
    for library in ("torchattacks", "foolbox"):
        method = LIBRARIES[library][0]
        runs[library] = lambda attack, method=method: method(attack, network, image, label, batch, setting.strength)
    for attack in ("fgsm", "pgd"):
        for library, run in runs.items():
            name = f"{attack} by {library}"
            if report.has("peers", name):
                continue
            if time.monotonic() > until:
                raise OutOfTime
            began = time.monotonic()
            try:
                accuracy = run(attack)
            except ImportError as problem:
                report.add("peers", name, {"skipped": first_line(problem)})
                continue
            entry = {"seconds": round(time.monotonic() - began, 2), "images": setting.peer_images}
            report.add("peers", name, {**entry, "accuracy": {f"{r}/255": round(accuracy[r - 1], 4) for r in RADII}})


def adversarial(setting: Setting, report: Report, until: float) -> None:
    """Fast adversarial training at 8/255, then AutoAttack at that radius."""
    name = f"{ADVERSARIAL}_adv"
    if not report.has("train", name):
        report.add("train", name, _trained(setting, ADVERSARIAL, "fgsm", 0.6 * (until - time.monotonic())))
    if report.has("autoattack", name):
        return
    if time.monotonic() > until:
        raise OutOfTime
    recipe = {"name": "autoattack", "algorithm": "autoattack"}
    if setting.strength != Strength():
        recipe |= {"steps": setting.strength.steps, "queries": setting.strength.queries}  # type: ignore[dict-item]
    began = time.monotonic()
    result = robustatt.sweep(
        _network(setting, name), _test_data(setting), [recipe], "8", n=setting.chain_images, device=setting.device, progress=False
    )
    clean, robust = result.curve("autoattack")["accuracy"].tolist()
    report.add(
        "autoattack",
        name,
        {"clean": clean, "8/255": robust, "images": setting.chain_images, "seconds": round(time.monotonic() - began, 1)},
    )


PARTS = {"peaks": peaks, "train": train_family, "attack": attack_family, "peers": peers, "autoattack": adversarial}


# What they share --------------------------------------------------------------------------------------------


def _trained(setting: Setting, name: str, adversarial: str | None, seconds: float) -> dict[str, Any]:
    """Train a network for as many epochs as fit, at most `setting.epochs`; InputError as `robustatt train`."""
    label = f"{name}_adv" if adversarial else name
    request = {
        "model": name, "data": setting.data, "data_root": setting.data_root, "width": setting.width, "batch_size": setting.batch_size,
        "adversarial": adversarial, "device": setting.device, "half": True, "out": setting.weights(label), "resume": False,
        "dropout": 1.0 if setting.width >= 1 else 0.0, "test_every": setting.epochs,
    }  # fmt: skip
    epoch = _epoch_seconds(request)
    epochs = max(1, min(setting.epochs, int(0.9 * seconds / epoch)))
    card = train(TrainRequest(**request, epochs=epochs))
    rows = setting.weights(label).with_suffix(".csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    speed, gflop = float(last["images_per_second"]), forward_gflop(models.build(name, 10, setting.width))
    return {
        "clean_accuracy": card.clean_accuracy, "epochs": epochs, "width": setting.width, "images_per_second": speed,
        "gflop_forward": round(gflop, 4), "tflops": round(3 * gflop * speed / 1e3, 3),
    }  # fmt: skip


def _epoch_seconds(request: dict[str, Any]) -> float:
    """How long an epoch takes, from a few steps after as many to warm up."""
    times: list[float] = []
    total = 0

    def note(epoch: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        nonlocal total
        del step, loss, accuracy
        times.append(time.monotonic())
        total = steps
        if len(times) >= min(2 * WARM_STEPS, steps) or epoch > 1:
            raise OutOfTime

    with suppress(OutOfTime):
        train(TrainRequest(**request, epochs=2), note)
    half = len(times) // 2
    return total * (times[-1] - times[half - 1]) / max(1, len(times) - half)


def _network(setting: Setting, label: str) -> nn.Module:
    return models.load_checkpoint(setting.weights(label))[0]


def _test_data(setting: Setting) -> datasets.Dataset:
    return datasets.load(setting.data, "test", root=setting.data_root)


def _seconds(run: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began


def cut(path: Path) -> None:
    """A file as parts below 16 MB beside it, `NAME.00` and so on; `cat NAME.*` puts them together again."""
    content = path.read_bytes()
    for number, start in enumerate(range(0, len(content), MAX_PART_BYTES)):
        path.with_name(f"{path.name}.{number:02d}").write_bytes(content[start : start + MAX_PART_BYTES])


# The page ---------------------------------------------------------------------------------------------------


def page(values: dict[str, Any], command: str) -> str:
    """README.md of the results."""
    where = values.get("machine", {}).get("this", {})
    lines = [
        "# Full width on a GPU",
        "",
        f"Printed by `{command}` on {where.get('device', 'an unknown device')} (torch {where.get('torch', '?')}, {where.get('git', '')}). "
        "Times are wall-clock seconds of this run.",
        "",
    ]
    tables = {
        "peaks": ("Matrix products", ["TFLOP/s"], lambda e: [f"{e['tflops']:g}"]),
        "train": (
            "Training, bfloat16 autocast on GPUs",
            ["clean accuracy", "epochs", "width", "images/s", "TFLOP/s", "share of the bfloat16 peak"],
            lambda e: [
                f"{100 * e['clean_accuracy']:.2f} %", e["epochs"], f"{e['width']:g}", f"{e['images_per_second']:,.0f}", f"{e['tflops']:g}",
                _share(values, e["tflops"]),
            ],
        ),
        "attack": (
            "Robust accuracy, FGSM and PGD-40 over 1..16",
            ["clean", *(f"{attack} {r}/255" for attack in ("FGSM", "PGD") for r in RADII), "seconds", "gradients"],
            lambda e: [
                _percent(e["accuracy"]["fgsm"]["0/255"]),
                *(_percent(e["accuracy"][attack][f"{r}/255"]) for attack in ("fgsm", "pgd") for r in RADII),
                e["seconds"], f"{e['gradients']:,}",
            ],
        ),
        "peers": (
            "The same work by other libraries",
            ["seconds", "images", *(f"{r}/255" for r in RADII)],
            lambda e: [e["seconds"], e["images"], *map(_percent, e["accuracy"].values())] if "seconds" in e else [f"skipped: {e['skipped']}"],
        ),
        "autoattack": (
            "AutoAttack at 8/255 on an adversarially trained network",
            ["clean", "8/255", "images", "seconds"],
            lambda e: [_percent(e["clean"]), _percent(e["8/255"]), e["images"], e["seconds"]],
        ),
    }  # fmt: skip
    for part, (title, heads, row) in tables.items():
        entries = values.get(part, {})
        if entries:
            lines += [f"## {title}", "", f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
            lines += [f"| {name} | {' | '.join(map(str, row(entry)))} |" for name, entry in entries.items()]
            lines.append("")
    unfinished = [f"{part}: {entry['stopped']}" for part, entry in values.get("parts", {}).items() if "stopped" in entry]
    if unfinished:
        lines += ["Not finished: " + "; ".join(unfinished) + ".", ""]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(values: dict[str, Any], tflops: float) -> str:
    peak = values.get("peaks", {}).get("bfloat16", {}).get("tflops")
    return f"{tflops / peak:.0%}" if peak else "-"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-root", type=Path, help="folder of torchvision's CIFAR-10 files")
    arguments.add_argument("--out", type=Path, default=Path("reports/gpu"))
    arguments.add_argument("--minutes", type=float, default=12.0, help="for all parts together")
    arguments.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--width", type=float, default=1.0)
    arguments.add_argument("--epochs", type=int, default=40, help="at most")
    arguments.add_argument("--rehearsal", action="store_true", help="on the CPU: width 1/16, 2 epochs, digits, 100 test images")
    given = arguments.parse_args()
    setting = (
        Setting("digits", None, "cpu", 0.0625, 2, 128, 100, 50, 20, Strength(steps=5, queries=20), given.out)
        if given.rehearsal
        else Setting(
            "cifar10", given.data_root, given.device, given.width, given.epochs, 512, None, 1000, 1000, Strength(), given.out
        )
    )
    if setting.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("gpu.py: no CUDA device; --rehearsal runs the same parts on the CPU")
    setting.weights("x").parent.mkdir(parents=True, exist_ok=True)
    report = Report(setting)
    name = torch.cuda.get_device_name() if setting.device.startswith("cuda") else "the CPU (a rehearsal, not a measurement)"
    report.add("machine", "this", {"device": name, "torch": versions()["torch"], "git": git_state()})
    for part in given.parts:
        began, seconds = time.monotonic(), 60 * given.minutes * SHARES[part]
        entry: dict[str, Any] = {}
        try:
            PARTS[part](setting, report, began + seconds)
        except OutOfTime:
            entry["stopped"] = f"out of time after {seconds:.0f} s"
        except Exception as problem:  # the other parts still run
            traceback.print_exc()
            entry["stopped"] = f"{type(problem).__name__}: {first_line(problem)}"
        report.add("parts", part, {"seconds": round(time.monotonic() - began, 1), **entry})
    for path in sorted((setting.out / "weights").glob("*.safetensors")):
        cut(path)
    command = "python benchmarks/gpu.py " + ("--rehearsal" if given.rehearsal else "--data-root DIR")
    write_atomically(setting.out / "README.md", page(report.values, command).encode())


if __name__ == "__main__":
    main()
