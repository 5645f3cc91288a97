"""Every network of the project by name: the one place to see which there are and which options each takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from robustatt.errors import InputError, did_you_mean
from robustatt.models.attention import Architecture, Compatibility, Head, Network, Options, initialise
from robustatt.models.cbam import CbamVGG
from robustatt.models.published import Published, resnet_steps, vgg_steps
from robustatt.models.resnet import AttentionResNet, ResNet
from robustatt.models.vgg import VGG, AttentionVGG, GapVGG, ProgressiveVGG, Shape
from robustatt.models.vit import ViT

COMMON = ("dropout", "mean", "std", "input_size")
CHOICES: dict[str, tuple[str, ...]] = {"compatibility": get_args(Compatibility), "head": get_args(Head)}
DEFAULTS: Options = {"compatibility": "pc", "head": "concat", "depth": 164}
MAX_CLASSES, DEEPEST, LARGEST_INPUT = 2**20, 1001, 4096
"""What the largest networks in use stay below: a file that asks for more is damaged, or means harm."""


@dataclass(frozen=True)
class Family:
    """A base name: what it is, how it is built, and which options it takes beside the common ones.

    ``gflop`` is the cost of one 32x32 image at width 1, a multiply and an add counted as two operations. ``optimiser``
    and ``peak_rate`` are what it is trained with unless something else is asked for; ``published`` is its schedule "paper", None
    where there is none.
    """

    about: str
    gflop: float
    make: Callable[[Shape, Options], Network]
    options: tuple[str, ...] = ()
    optimiser: Literal["sgd", "adamw"] = "sgd"
    peak_rate: float = 0.1
    published: Published | None = vgg_steps


def _attention(attended: Literal[1, 2, 3]) -> Callable[[Shape, Options], Network]:
    def make(shape: Shape, options: Options) -> Network:
        return AttentionVGG(shape, attended, options["compatibility"], options["head"])

    return make


def _attention_resnet(attended: Literal[1, 2]) -> Callable[[Shape, Options], Network]:
    def make(shape: Shape, options: Options) -> Network:
        depth, compatibility, head = options["depth"], options["compatibility"], options["head"]
        return AttentionResNet(shape, depth, attended, compatibility, head)

    return make


FAMILIES: dict[str, Family] = {
    "vgg": Family("plain VGG baseline", 0.626928, lambda shape, _: VGG(shape)),
    "vgg_gap": Family("class activation maps (Zhou et al. 2016)", 7.477799, lambda shape, _: GapVGG(shape)),
    "vgg_pan": Family(
        "progressive attention (Seo et al. 2016)",
        7.856206,
        lambda shape, options: ProgressiveVGG(shape, options["compatibility"]),
        ("compatibility",),
    ),
    "vgg_att1": Family("attention at l3", 7.572827, _attention(1), ("compatibility", "head")),
    "vgg_att2": Family("attention at l2, l3", 7.573363, _attention(2), ("compatibility", "head")),
    "vgg_att3": Family("attention at l1, l2, l3", 7.574679, _attention(3), ("compatibility", "head")),
    "vgg_cbam": Family("channel and spatial gates (Woo et al. 2018)", 7.573253, lambda shape, _: CbamVGG(shape)),
    "vit": Family(
        "vision transformer (Dosovitskiy et al. 2021)",
        5.603362,
        lambda shape, _: ViT(shape),
        optimiser="adamw",
        peak_rate=1e-3,
        published=None,
    ),
    "resnet164": Family(
        "pre-activation ResNet baseline",
        0.495293,
        lambda shape, options: ResNet(shape, options["depth"]),
        ("depth",),
        published=resnet_steps,
    ),
    "resnet164_att1": Family(
        "attention at the end of stage 3",
        0.514365,
        _attention_resnet(1),
        ("compatibility", "head", "depth"),
        published=resnet_steps,
    ),
    "resnet164_att2": Family(
        "attention at the ends of stages 2, 3",
        0.514564,
        _attention_resnet(2),
        ("compatibility", "head", "depth"),
        published=resnet_steps,
    ),
}


def names() -> tuple[str, ...]:
    """The base names; ``_indep``, ``_concat``, ``_dp``, ``_pc`` may follow those with attention."""
    return tuple(FAMILIES)


def parse(name: str) -> tuple[str, dict[str, str]]:
    """A name such as ``vgg_att2_indep_dp`` to its base and the options it spells out.

    Raises:
        InputError: no such name, or an ending that the base does not take.
    """
    base, spelled = name, dict[str, str]()
    endings = {value: option for option, values in CHOICES.items() for value in values}
    while base not in FAMILIES:
        base, _, ending = base.rpartition("_")
        option = endings.get(ending)
        if not base or option is None or option in spelled:
            raise InputError(f"unknown model {name!r}: {did_you_mean(name, FAMILIES)}")
        spelled[option] = ending
    for option, value in spelled.items():
        if option not in FAMILIES[base].options:
            raise InputError(f"model {name!r}: {base} has no {option}, so the ending _{value} means nothing")
    return base, spelled


def family_of(name: str) -> Family:
    """What is known of a network by its name, endings and all.

    Raises:
        InputError: no such name, or an ending that the base does not take.
    """
    return FAMILIES[parse(name)[0]]


def canonical(name: str, **options: Any) -> str:
    """The shortest name of the same network: defaults left out, head before compatibility."""
    base, spelled = parse(name)
    chosen = {**spelled, **{key: value for key, value in options.items() if key in CHOICES}}
    order = ("head", "compatibility")
    endings = [chosen[key] for key in order if chosen.get(key, DEFAULTS[key]) != DEFAULTS[key]]
    return "_".join([base, *endings])


def build(name: str, classes: int = 10, width: float = 1.0, **options: Any) -> Network:
    """A fresh network with random weights (from PyTorch's global generator), in training mode.

    Args:
        name: a base name, or one with endings, such as ``vgg_att2_indep_dp``.
        classes: number of classes, from 2 to 2^20.
        width: multiplies all channels; 1.0 is the paper's.
        **options: ``compatibility`` ("pc" or "dp") and ``head`` ("concat" or "indep") for attention networks;
            ``depth`` (9n + 2, at most 1,001) for the ResNet;
            ``dropout``, a multiplier on the paper's rates (default 1.0); ``mean`` and ``std``, three floats
            each, of the images in [0, 1]; ``input_size``, the side the network is meant for (recorded only).

    Raises:
        InputError: an unknown name or option, or a value out of range.
    """
    base, spelled = parse(name)
    family = FAMILIES[base]
    known = (*family.options, *COMMON)
    for option in options:
        if option not in known:
            raise InputError(f"unknown option {option!r} for model {base}: {did_you_mean(option, known)}")
    for option, value in spelled.items():
        if options.get(option, value) != value:
            raise InputError(f"model {name!r} says {option} {value}, the option says {options[option]}")
    chosen = {**{key: DEFAULTS[key] for key in family.options if key in DEFAULTS}, **spelled, **options}
    for option in CHOICES:
        choice = chosen.get(option)
        if option in chosen and choice not in CHOICES[option]:
            raise InputError(f"{option} {choice!r}: {did_you_mean(str(choice), CHOICES[option])}")
    input_size = _whole("input_size", chosen.pop("input_size", 32), 32, LARGEST_INPUT)
    if "depth" in chosen and (_whole("depth", chosen["depth"], 11, DEEPEST) - 2) % 9:
        raise InputError(f"depth {chosen['depth']}: it must be 9n + 2, such as 29, 56, 110 or 164")
    shape = _shape(classes, width, chosen)
    network = family.make(shape, chosen)
    initialise(network)
    kept = {key: chosen[key] for key in family.options} | {"dropout": shape.dropout}
    short = canonical(name, **chosen)
    network.architecture = Architecture(short, shape.classes, shape.width, kept, input_size)
    return network


def _shape(classes: int, width: float, options: dict[str, Any]) -> Shape:
    dropout = _real("dropout", options.pop("dropout", 1.0))
    if not 0 <= dropout < 2:
        raise InputError(f"dropout {dropout}: a multiplier on the paper's rates, from 0 to below 2")
    width = _real("width", width)
    if not 0 < width <= 16:
        raise InputError(f"width {width}: a multiplier on all channels, above 0 and at most 16")
    mean = _triple("mean", options.pop("mean", (0.0, 0.0, 0.0)))
    std = _triple("std", options.pop("std", (1.0, 1.0, 1.0)))
    if min(std) <= 0:
        raise InputError(f"std {std}: all three must be above 0")
    return Shape(_whole("classes", classes, 2, MAX_CLASSES), width, dropout, mean, std)


def _whole(what: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{what} {value!r}: a whole number from {least} to {most:,} is needed")
    return value


def _real(what: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{what} {value!r}: a finite number is needed")
    return float(value)


def _triple(what: str, value: Any) -> tuple[float, float, float]:
    try:
        red, green, blue = (_real(what, float(number)) for number in value)
    except (TypeError, ValueError):
        raise InputError(f"{what} {value!r}: three numbers are needed, one a channel") from None
    return red, green, blue
