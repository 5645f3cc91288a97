"""Networks by name: built with random weights, of the families in `robustatt.models.families`."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

from robustatt.errors import InputError, did_you_mean
from robustatt.models.attention import Architecture, Network, initialise
from robustatt.models.families import CHOICES, DEFAULTS, FAMILIES, canonical, parse
from robustatt.models.vgg import Shape

COMMON = ("dropout", "mean", "std", "input_size")
MAX_CLASSES, DEEPEST, LARGEST_INPUT = 2**20, 1001, 4096
"""What the largest networks in use stay below: a file that asks for more is damaged, or means harm."""


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
    module, _, kind = family.network.partition(":")
    attended = (len(family.levels),) if "head" in family.options else ()
    make = getattr(import_module(f"robustatt.models.{module}"), kind)
    network: Network = make(shape, *attended, *(chosen[option] for option in family.options))
    initialise(network)
    kept = {key: chosen[key] for key in family.options} | {"dropout": shape.dropout}
    short = canonical(name, **chosen)
    network.architecture = Architecture(short, shape.classes, shape.width, kept, input_size)
    return network


def _shape(classes: int, width: float, options: dict[str, object]) -> Shape:
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
