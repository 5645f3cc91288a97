"""Says in about a minute whether an evaluation will mean anything, before hours go into it.

What can be wrong with a model is found by `health`; here its warnings are put beside what was measured where
nothing is wrong, with clean accuracy and the time a sweep will take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustatt import data as data_sets
from robustatt.attack import recipe_files as recipes
from robustatt.attack.border import InsideBox
from robustatt.attack.losses import log_odds, logit_margin
from robustatt.data import Dataset, TensorDataset
from robustatt.data.grey import as_channels, matching
from robustatt.data.labels import read_class_names
from robustatt.data.views import stratified, with_channels
from robustatt.doctor.deep import diagnose
from robustatt.engine.worker import automatic_batch_size
from robustatt.errors import InputError, raised_by
from robustatt.evaluate.cell import as_float
from robustatt.evaluate.classifier import Classifier, frozen
from robustatt.health.data import same_set, seen_in_training
from robustatt.health.labels import like_guessing
from robustatt.health.model import check_model
from robustatt.health.warning import HealthWarning
from robustatt.models import Card, ResolvedModel, resolve_entry
from robustatt.models.device import choose_device
from robustatt.plan import ModelEntry
from robustatt.plan.entries import AUTO
from robustatt.results import statistics

MOST_IMAGES, FEWEST_IMAGES, PROBE = 512, 64, 64
LOOK_SECONDS = 5.0
"""The pass that measures clean accuracy takes about this long."""

RADII = 16
RUNS = 1.5
"""Attacks an example that the threshold search needs over a whole grid."""

PASSES = 5
TOPICS: dict[str, tuple[str, ...]] = {
    "eval mode": ("training-mode",),
    "logits": ("probabilities", "log-probabilities", "saturation", "non-finite", "one-logit"),
    "determinism": ("randomised",),
    "batch size": ("batch-dependent",),
    "gradient": ("nan-gradient", "zero-gradient", "shattered-gradient"),
    "normalisation": ("input-range",),
    "classes": ("label-order",),
}
"""Which warnings of `health` belong to which line of the table."""

JUDGED_BY_NUMBERS = ("determinism", "batch size", "gradient", "normalisation", "classes")
"""Lines about which nothing can be said of a model that returns NaN."""


@dataclass(frozen=True)
class DoctorRequest:
    """The model and the data to look at, as the command line names them."""

    entry: ModelEntry
    data: str = "digits"
    data_root: Path | None = None
    download: bool = False
    label_column: str | None = None
    input_size: int | None = None
    device: str = "auto"
    class_names: Path | None = None
    channels: int | None = None


@dataclass(frozen=True)
class DoctorLine:
    """One line of the table: what was looked at, what was seen, and what to do where that is not fine."""

    check: str
    fine: bool
    finding: str
    advice: str = ""

    @property
    def mark(self) -> str:
        """For the first column of the table."""
        return "ok" if self.fine else "!!"


@dataclass(frozen=True)
class Probe:
    """What all checks share: the model and images ``(n, c, h, w)`` and labels, of all classes."""

    classifier: Classifier
    images: Tensor
    labels: Tensor
    batch: int

    @property
    def probe(self) -> slice:
        """At most 64 images, spread over the classes."""
        return slice(None, None, -(-len(self.images) // PROBE))

    def logits(self, images: Tensor) -> Tensor:
        """The original's logits as float32."""
        with torch.no_grad():
            return self.classifier.original(images).float()  # type: ignore[no-any-return]


def run_doctor(patient: DoctorRequest, *, deep: bool = False) -> list[DoctorLine]:
    """All checks of a model on a test split; with `deep` it is attacked too, which takes minutes.

    Raises:
        InputError: the model or the data cannot be had, or the model does not take these images.
    """
    dataset = _load(patient, "test", download=patient.download)
    entry, classes = patient.entry, len(dataset.classes)
    resolved = resolve_entry(entry, dataset.name, classes)
    if patient.channels is None:
        dataset = with_channels(dataset, matching(dataset, [resolved.module]))
    train = _training_images(patient)
    train = None if train is None else as_channels(train, dataset.image_shape[0])
    return examine_model(
        resolved, dataset, choose_device(patient.device), train=train, deep=deep, attention=entry.attention or AUTO
    )


def _load(patient: DoctorRequest, split: str, *, download: bool) -> Dataset:
    names = None if patient.class_names is None else read_class_names(patient.class_names)
    return data_sets.load(
        patient.data, split, root=patient.data_root, download=download,
        label_column=patient.label_column, image_size=patient.input_size, class_names=names, channels=patient.channels,
    )  # fmt: skip


def _training_images(patient: DoctorRequest) -> Tensor | None:
    """The images of the training split, if they are at hand and fit into memory: nothing is downloaded or decoded."""
    try:
        found = _load(patient, "train", download=False)
    except InputError:
        return None
    return found.images if isinstance(found, TensorDataset) else None


def examine_model(
    resolved: ResolvedModel,
    dataset: Dataset,
    device: torch.device,
    *,
    train: Tensor | None = None,
    deep: bool = False,
    attention: str = AUTO,
) -> list[DoctorLine]:
    """All checks of a model that is in memory, which is left as it was. `train` holds the training images, if known."""
    first = as_float(dataset.tensors(range(min(32, len(dataset))))[0]).to(device)
    with frozen(resolved.module, resolved.label, device, first, attention=attention) as classifier:
        with raised_by(f"model {resolved.label!r}"):
            look = _look(classifier, dataset, first)
        chosen, labels = look.images[look.probe], look.labels[look.probe]
        with raised_by(f"model {resolved.label!r}"):
            warnings = check_model(classifier.original, resolved.label, chosen, labels, resolved.module)
        findings = [_input_range(look.images), *_by_topic(warnings, look), _accuracy(look, resolved.card, dataset)]
        findings.append(_attention(classifier))
        findings += _training(look, train) if train is not None else []
        findings += _speed(look, len(dataset))
    if deep:
        known = {warning.code for warning in warnings}
        deeper = diagnose(resolved.module, resolved.label, chosen.cpu(), labels.cpu())
        more = [warning for warning in deeper if warning.code not in known]
        findings += [_wrong(warning.code, warning) for warning in more]
        if not more:
            findings.append(DoctorLine("attacks", True, "fgsm, pgd, square and noise give answers that fit together"))
    return findings


def _attention(classifier: Classifier) -> DoctorLine:
    """Which maps a sweep would record."""
    if classifier.attended:
        return DoctorLine("attention", True, f"maps of {', '.join(classifier.attended)}")
    saliency = "Grad-CAM saliency stands in for it" if classifier.levels else "and no layer for saliency either"
    return DoctorLine("attention", True, f"none: {classifier.reason or 'the network says that it has none'}; {saliency}")


def _look(classifier: Classifier, dataset: Dataset, first: Tensor) -> Probe:
    """As many images as a pass of a few seconds can take, classes in proportion."""
    seconds = _seconds(lambda: classifier.original(first))
    fitting = max(FEWEST_IMAGES, int(LOOK_SECONDS * len(first) / seconds))
    images, labels = dataset.tensors(stratified(dataset.labels, min(len(dataset), MOST_IMAGES, fitting), 0))
    device = classifier.device
    batch = min(automatic_batch_size(dataset.image_shape, device), 64 if device.type == "cpu" else 1024)
    return Probe(classifier, as_float(images).to(device), labels.to(device), batch)


def _seconds(work: Callable[[], object]) -> float:
    """The shorter of two timings, after one run to warm up."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        with torch.no_grad():
            work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return max(min(taken[1:]), 1e-6)


def _input_range(images: Tensor) -> DoctorLine:
    low, high, mean = float(images.min()), float(images.max()), float(images.mean())
    fine = high > 0.1 and high - low > 0.05
    advice = "" if fine else "the images are nearly black or flat: were they divided by 255 twice?"
    return DoctorLine("input range", fine, f"pixels from {low:.3g} to {high:.3g}, mean {mean:.3g}", advice)


def _accuracy(look: Probe, card: Card | None, dataset: Dataset) -> DoctorLine:
    """Clean accuracy with its interval against the card, and against always guessing the majority class."""
    found = torch.cat([look.logits(part).argmax(1) for part in torch.split(look.images, look.batch)])
    right, n = int((found == look.labels).sum()), len(found)
    low, high = (float(end) for end in statistics.wilson(right, n))
    said = f"{right / n:.1%} of {n} images, 95 % interval {low:.1%} to {high:.1%}"
    claimed = card.clean_accuracy if card is not None and same_set(card, dataset) else None
    said += "; no card to compare with" if claimed is None else f"; the card says {claimed:.1%}"
    guess = float(dataset.labels.bincount().max()) / len(dataset)
    if like_guessing(right, n, guess):
        advice = f"no better than always guessing one class ({guess:.1%}): wrong weights or labels?"
        return DoctorLine("clean accuracy", False, said, advice)
    least, most = (float(end) for end in statistics.wilson(right, n, 0.999))
    if claimed is not None and not least <= claimed <= most:
        advice = "not the images or the preparation that the card was measured with"
        return DoctorLine("clean accuracy", False, said, advice)
    return DoctorLine("clean accuracy", True, said)


def _by_topic(warnings: list[HealthWarning], look: Probe) -> Iterator[DoctorLine]:
    """A line for each topic: the warnings about it, or what was measured; then any other warning."""
    fine = _measured(look)
    numbers = all(warning.code != "non-finite" for warning in warnings)
    for topic, codes in TOPICS.items():
        about = [warning for warning in warnings if warning.code in codes]
        yield from (_wrong(topic, warning) for warning in about)
        if not about and (numbers or topic not in JUDGED_BY_NUMBERS):
            yield DoctorLine(topic, True, fine[topic])
    known = {code for codes in TOPICS.values() for code in codes}
    yield from (_wrong(warning.code, warning) for warning in warnings if warning.code not in known)


def _wrong(check: str, warning: HealthWarning) -> DoctorLine:
    return DoctorLine(check, False, warning.finding.removesuffix("."), warning.advice.removesuffix("."))


def _measured(look: Probe) -> dict[str, str]:
    """What there is to say of each topic while nothing is wrong with it."""
    images = look.images[look.probe]
    passes = torch.stack([look.logits(images) for _ in range(PASSES)])
    lead = float(-logit_margin(passes[0], passes[0].argmax(1)).median())
    alone = torch.cat([look.logits(image[None]) for image in images[:8]])
    apart = float((passes[0, :8] - alone).abs().max())
    spread = float((passes - passes[0]).abs().max())
    logits = f"from {float(passes[0].min()):.3g} to {float(passes[0].max()):.3g}"
    return {
        "eval mode": "evaluated in eval mode, and no part works otherwise",
        "logits": f"{logits}, median lead of the first {lead:.3g}",
        "determinism": f"{PASSES} passes differ by up to {spread:.2g} in the logits",
        "batch size": f"an image alone and among {len(images)} differs by up to {apart:.2g} in the logits",
        "gradient": _gradient(look),
        "normalisation": "no other range of the pixels does clearly better",
        "classes": "no other order of the classes does clearly better",
    }


def _gradient(look: Probe) -> str:
    found = _ask_gradient(look, look.images[look.probe], look.labels[look.probe])
    if found is None:
        return "none"
    return f"finite, exactly zero at {float((found == 0).float().mean()):.1%} of the pixels"


def _ask_gradient(look: Probe, images: Tensor, labels: Tensor) -> Tensor | None:
    with torch.enable_grad():
        images = images.clone().requires_grad_(True)
        loss = log_odds(InsideBox(look.classifier.original, look.classifier.box_margin)(images), labels).sum()
        return torch.autograd.grad(loss, images, allow_unused=True)[0] if loss.requires_grad else None


def _training(look: Probe, train: Tensor) -> list[DoctorLine]:
    found = seen_in_training(look.classifier.label, look.images, train)
    fine = f"under 1 % of {len(look.images)} test images are among the {len(train):,} training images, to the pixel"
    return [_wrong("training images", one) for one in found] or [DoctorLine("training images", True, fine)]


def _speed(look: Probe, total: int) -> Iterator[DoctorLine]:
    """Images a second of the copy that sweeps use, and what that makes of the usual attacks."""
    images, labels = look.images[: look.batch], look.labels[: look.batch]
    forward = _seconds(lambda: look.classifier.logits(images)) / len(images)
    backward = _seconds(lambda: _ask_gradient(look, images, labels)) / len(images)
    rates = f"{1 / forward:,.0f} images/s forward, {1 / backward:,.0f} with gradient, {len(images)} a batch"
    yield DoctorLine("speed", True, rates)
    for name in ("fgsm", "pgd", "autoattack"):
        gradients, forwards = recipes.load(name).cost()
        runs = 1.0 if name == "fgsm" else RUNS
        each = (RADII + 1 + runs * forwards) * forward + runs * gradients * backward
        bound = "at most" if name == "autoattack" else "about"
        said = f"{bound} {_duration(each * total)} for {total:,} images and {RADII} radii"
        fewer = f"--sample {max(1, int(3600 / each)):,} takes an hour" if each * total > 3600 else ""
        yield DoctorLine(f"time of {name}", True, said, fewer)


def _duration(seconds: float) -> str:
    for size, unit in ((2 * 86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{max(seconds, 1):.0f} s"
