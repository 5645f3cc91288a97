"""The planted mistakes and the healthy models: what each is, and which code names it (none for the healthy)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import robustatt
from planted import layers, nets, real
from robustatt.attack import recipe_files as recipe
from robustatt.data import TensorDataset
from robustatt.doctor.deep import diagnose
from robustatt.errors import RunInterrupted
from robustatt.health.model import check_model
from robustatt.health.warning import HealthWarning

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """One model or set-up. `code` is the mistake's name, empty for a healthy model; `deep` if only an attack finds it."""

    what: str
    code: str
    find: Callable[[], Sequence[HealthWarning]]
    model: Callable[[], nn.Module]
    data: Callable[[], Data]
    deep: bool = False
    needs: Path | None = None
    """Real data without which it cannot be run."""

    @property
    def name(self) -> str:
        """For test ids."""
        return self.what.replace(" ", "-")

    @property
    def lacking(self) -> str:
        """Why it cannot be run here; empty if it can."""
        return "" if self.needs is None or self.needs.exists() else f"needs ../shared/data/{self.needs.name}"

    def codes(self) -> list[str]:
        """Every code that is raised, in order of appearance."""
        return list(dict.fromkeys(warning.code for warning in self.find()))


def swept(
    models: nn.Module | Mapping[str, nn.Module], data: Data, attacks: Sequence[object] = ("fgsm",), **options: object
) -> list[HealthWarning]:
    """The health of a sweep; what a model tells on its own where the sweep cannot go on."""
    try:
        return robustatt.sweep(models, data, attacks=attacks, **({"eps": "2,8"} | options)).health
    except RunInterrupted:
        assert isinstance(models, nn.Module)
        images, labels = data
        return check_model(models, "model", images.float() / 255, labels)


def few(count: int = 64) -> Callable[[], Data]:
    """Test images."""
    return functools.partial(nets.held_out, count)


FORTY_EIGHT = few(48)


def net() -> nn.Module:
    """The network that mistakes are planted in."""
    return nets.trained(nets.convolutional)


def cheap(what: str, code: str, model: Callable[[], nn.Module], **options: object) -> Case:
    """Found by an ordinary sweep with FGSM."""
    return Case(what, code, lambda: swept(model(), nets.held_out(100), **options), model, few())


def costly(what: str, code: str, model: Callable[[], nn.Module], data: Callable[[], Data] = FORTY_EIGHT) -> Case:
    """Found by the deep checks."""
    return Case(what, code, lambda: diagnose(model(), "model", *data()), model, data, deep=True)


def _one_or_zero() -> Data:
    """Images of the digits 0 and 1."""
    images, labels = nets.held_out(100)
    return images[labels < 2], labels[labels < 2]


def _one_logit() -> nn.Module:
    return nn.Sequential(net(), layers.Difference()).eval()


def _parse(name: str, **keys: object) -> object:
    return recipe.parse({"name": name, **keys}, "planted")


def _before(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(layer(), net()).eval()


def _after(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(net(), layer()).eval()


def _handed_over() -> nn.Module:
    core = nets.trained(nets.convolutional)
    return nn.Sequential(nn.Dropout(0.7), core).train()


def _twice() -> nn.Module:
    return nn.Sequential(layers.normalised(), layers.normalised(), layers.undone(), net()).eval()


def _bundled(name: str, data: str = "digits") -> nn.Module:
    return robustatt.models.load(name, data)


def _large(count: int, split: str = "test", data: str = "digits") -> Data:
    dataset = real.dataset(data, split)
    step = len(dataset) // count
    return dataset.tensors(range(0, step * count, step))


def _disturbed() -> nn.Module:
    model = _bundled("vgg")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.6 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
    return model


def _card() -> list[HealthWarning]:
    dataset = TensorDataset(*_large(100), name="digits", split="test")
    return robustatt.sweep(_disturbed(), dataset, eps="2").health


def _seen() -> list[HealthWarning]:
    return robustatt.sweep(_bundled("vgg"), robustatt.data.load("digits", split="train"), n=32, eps="2").health


def _sorted_by_class() -> list[HealthWarning]:
    images, labels = nets.held_out(200)
    order = labels.argsort(stable=True)
    return swept(net(), (images[order], labels[order]), n=32)


def _another_ball() -> list[HealthWarning]:
    theirs = _parse("theirs", algorithm="torchattacks:PGDL2", norm="linf")
    return swept(net(), nets.held_out(100), attacks=[theirs])


def _rotated() -> list[HealthWarning]:
    theirs = _parse("theirs", algorithm="foolbox:SpatialAttack", arguments={"max_translation": 1})
    return swept(net(), nets.held_out(40), attacks=[theirs])


def _wavy_data() -> Data:
    images = 0.3 + 0.4 * torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images = (images * 255).round() / 255
    logits = layers.Wavy()(images)
    sure = logits.abs().amax(1) > 0.5
    return images[sure][:64], logits.argmax(1)[sure][:64]


def _mistaken_pairs() -> list[HealthWarning]:
    return swept({"a": net(), "b": nets.trained(nets.plain)}, nets.held_out(24), eps="1..12:2")


def _beside() -> list[HealthWarning]:
    return swept(layers.Staircase().wrap(net()), nets.held_out(48), ["pgd"], eps="16,32", surrogate=net(), drift_n=0)


SHORT = {"algorithm": "pgd", "steps": 2, "step_size": 0.1}

CHAIN = {"algorithm": "autoattack", "steps": 10, "targets": 2, "queries": 300}

MISTAKES: tuple[Case, ...] = (
    cheap("normalisation left out", "input-range", _before(layers.undone)),
    cheap("normalisation applied twice", "input-range", _twice),
    cheap("pixels expected from 0 to 255", "input-range", _before(lambda: layers.Affine([1 / 255] * 3, [0.0] * 3))),
    cheap("BatchNorm in train mode", "training-mode", lambda: layers.Stuck(*net()).eval()),
    cheap("dropout left on", "training-mode", lambda: layers.Lively(*net()).eval()),
    cheap("handed over in train mode", "training-mode", _handed_over),
    cheap("functional dropout left on", "randomised", _before(layers.FunctionalDropout)),
    cheap("random noise layer", "randomised", _before(layers.Noise)),
    cheap("softmax output", "probabilities", _after(lambda: nn.Softmax(1))),
    cheap("log-softmax output", "log-probabilities", _after(lambda: nn.LogSoftmax(1))),
    cheap("logits x 200", "saturation", _after(lambda: layers.Times(200.0))),
    cheap("plain cross-entropy on logits x 10", "saturation", _after(lambda: layers.Times(10.0)),
          attacks=[_parse("fgsm-ce", algorithm="fgsm", loss="ce")]),
    cheap("pixels cut off below 0.05 and above 0.95", "flat-at-border", _before(lambda: nn.Hardtanh(0.05, 0.95))),
    cheap("8-bit rounding", "zero-gradient", _before(layers.Rounded)),
    cheap("gradient detached", "zero-gradient", _before(layers.Detached)),
    cheap("8-bit rounding, straight-through", "shattered-gradient", _before(layers.StraightThrough)),
    cheap("gradient sign flipped", "shattered-gradient", _before(layers.Flipped)),
    cheap("NaN for one class", "non-finite", _after(layers.NanFor)),
    Case("one logit for two classes", "one-logit", lambda: swept(_one_logit(), _one_or_zero()), _one_logit, _one_or_zero),
    cheap("NaN in the gradient", "nan-gradient", _before(layers.NormAtZero)),
    cheap("square root behind a torch.where", "nan-gradient", _before(layers.GuardedRoot)),
    cheap("batch-dependent", "batch-dependent", _before(layers.BatchCentred)),
    cheap("wrong label order", "label-order", _after(lambda: layers.Renamed([*range(1, 10), 0]))),
    cheap("two classes swapped", "label-order", _after(lambda: layers.Renamed([1, 0, *range(2, 10)]))),
    cheap("radius divided by 255 twice", "eps-unit", net, eps=[4 / 255 / 255, 8 / 255 / 255]),
    cheap("L2 radii counted in steps of 1/255", "eps-unit", net, attacks=["pgd-l2"], eps=[1 / 255, 2 / 255, 8 / 255]),
    cheap("L2 radii of steps taken as plain", "eps-unit", net, attacks=["pgd-l2"], eps="8,16"),
    cheap("L1 radii counted in steps of 1/255", "eps-unit", net, attacks=["apgd-l1"], eps=[1 / 255, 4 / 255]),
    cheap("attention maps left unnormalised", "maps-normalised", lambda: layers.SummedMaps(net()).eval()),
    Case("train images as test", "seen-in-training", _seen, lambda: _bundled("vgg"), lambda: _large(32, "train")),
    Case("the first images of sorted data", "first-classes", _sorted_by_class, net, few(32)),
    Case("weights not those of the card", "card-mismatch", _card, _disturbed, lambda: _large(32)),
    cheap("weights never loaded", "chance-accuracy", lambda: nets.convolutional().eval()),
    Case("an L2 attack called L-infinity", "ball-unused", _another_ball, net, few()),
    Case("rotations held to a ball", "left-the-ball", _rotated, net, few()),
    Case("too few examples for two models", "too-few-examples", _mistaken_pairs, net, few(24)),
    cheap("two steps of pgd", "not-converged", net, attacks=[_parse("pgd-2", **SHORT), "pgd"]),
    Case("a wave: overshooting steps", "accuracy-rising", lambda: swept(layers.Wavy(), _wavy_data(), eps="1..12"),
         layers.Wavy, _wavy_data),
    costly("gradient true on stored pixels only", "iterative-weaker", _before(layers.FlippedOffGrid)),
    costly("staircase with a misleading slope", "black-box-stronger", lambda: layers.Staircase().wrap(net())),
    cheap("staircase, under AutoAttack alone", "black-box-stronger", lambda: layers.Staircase().wrap(net()),
          attacks=[_parse("chain", **CHAIN)], eps="16,32"),
    Case("staircase, beside the network without it", "transfer-stronger", _beside, lambda: layers.Staircase().wrap(net()), few()),
    costly("gradient sign flipped, under attack", "noise-as-strong", _before(layers.Flipped)),
    costly("gradient detached, at radius 0.5", "not-broken-at-half", _before(layers.Detached)),
    costly("gradient turns round past the boundary", "path-iterate",
           lambda: layers.FlippedWhenWrong(net(), nets.train_images()[0].float() / 255, nets.train_images()[1])),
    costly("a layer that sees rounding errors", "vanishes-after-rounding", _before(layers.Amplified)),
)  # fmt: skip


def _robust() -> nn.Module:
    return nets.trained(nets.convolutional, 300, 24 / 255)


def healthy(what: str, model: Callable[[], nn.Module]) -> Case:
    """A sweep and the deep checks must both be silent."""

    def find() -> list[HealthWarning]:
        quiet = swept(model(), nets.held_out(), ["fgsm", "pgd", "sign-noise"], eps="1,2,4,8,16,32")
        quiet += swept(model(), nets.held_out(48), [_parse("chain", **CHAIN)], eps="8,32")
        return [*quiet, *diagnose(model(), "model", *nets.held_out(48), train=nets.train_images()[0])]

    return Case(what, "", find, model, few(), deep=True)


def bundled(name: str, data: str) -> Case:
    """A network that comes with the package, on images of its own size: an ordinary sweep with its card."""

    def images() -> Data:
        return _large(32, data=data)

    def find() -> list[HealthWarning]:
        classes = real.dataset(data).classes
        dataset = TensorDataset(*images(), classes, name=data, split="test")
        return robustatt.sweep(_bundled(name, data), dataset, eps="1,4,8").health

    what = f"bundled {name}" + ("" if data == "digits" else f" for {data}")
    return Case(what, "", find, lambda: _bundled(name, data), images, needs=real.place(data))


HEALTHY: tuple[Case, ...] = (
    healthy("convolutions, BatchNorm, dropout", net),
    healthy("adversarially trained", _robust),
    healthy("softmax regression", lambda: nets.trained(nets.linear, 400)),
    healthy("perceptron", lambda: nets.trained(nets.perceptron)),
    healthy("GELU, GroupNorm, average pooling", lambda: nets.trained(nets.smooth)),
    healthy("convolutions and ReLU only", lambda: nets.trained(nets.plain)),
    healthy("normalisation inside", lambda: nn.Sequential(layers.normalised(), layers.undone(), net()).eval()),
    healthy("clamp(0, 1) first", _before(lambda: nn.Hardtanh(0.0, 1.0))),
    healthy("logits x 10", _after(lambda: layers.Times(10.0))),
    *(bundled(name, data) for data in ("digits", "cifar10", "cub20") for name in robustatt.models.bundled()[data]),
)

CASES = (*MISTAKES, *HEALTHY)
