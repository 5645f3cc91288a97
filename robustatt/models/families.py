"""The names of the project's networks and what is known of each: the one place to add a family. Read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from robustatt.errors import InputError, did_you_mean
from robustatt.models.published import Published, resnet_steps, vgg_steps

ADVERSARIAL = "_adv"
"""The ending that asks for adversarially trained weights."""

Compatibility = Literal["pc", "dp"]
Head = Literal["concat", "indep"]
CHOICES: dict[str, tuple[str, ...]] = {"compatibility": get_args(Compatibility), "head": get_args(Head)}
DEFAULTS: dict[str, str | int] = {"compatibility": "pc", "head": "concat", "depth": 164}


@dataclass(frozen=True)
class Family:
    """A base name: what it is, how it is built, and which options it takes beside the common ones.

    ``gflop`` is the cost of one 32x32 image at width 1, a multiply and an add counted as two operations, and ``parameters``
    their number for 10 classes; ``levels`` are the names of its maps. ``network`` is
    "module:Class" below `robustatt.models`, called with the `Shape`, the number of levels if there is a choice of ``head``, and
    the options in this order.
    ``baseline``: the network without attention that a sweep compares it with, and that it differs from by its attention.
    ``optimiser`` and ``peak_rate`` are what it is trained with unless something else is asked for; ``published`` is its
    schedule "paper", None where there is none.
    """

    about: str
    gflop: float
    parameters: int
    network: str
    levels: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    baseline: str = ""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    peak_rate: float = 0.1
    published: Published | None = vgg_steps


ATTENTION = ("compatibility", "head")
FAMILIES: dict[str, Family] = {
    "vgg": Family("plain VGG baseline", 0.626928, 14_987_722, "vgg:VGG"),
    "vgg_gap": Family("class activation maps (Zhou et al. 2016)", 7.477799, 14_724_042, "vgg:GapVGG", ("l3",)),
    "vgg_pan": Family("progressive attention (Seo et al. 2016)", 7.856206, 19_709_900, "vgg:ProgressiveVGG", ("l2", "l3"), ("compatibility",)),
    "vgg_att1": Family("attention at l3", 7.572827, 19_708_875, "vgg:AttentionVGG", ("l3",), ATTENTION, "vgg"),
    "vgg_att2": Family("attention at l2, l3", 7.573363, 19_715_532, "vgg:AttentionVGG", ("l2", "l3"), ATTENTION, "vgg"),
    "vgg_att3": Family("attention at l1, l2, l3", 7.574679, 19_851_213, "vgg:AttentionVGG", ("l1", "l2", "l3"), ATTENTION, "vgg"),
    "vgg_cbam": Family("channel and spatial gates (Woo et al. 2018)", 7.573253, 19_783_750, "cbam:CbamVGG", ("l1", "l2", "l3"), baseline="vgg"),
    "vit": Family(
        "vision transformer (Dosovitskiy et al. 2021)", 5.603362, 42_576_394, "vit:ViT",
        (*(f"block{k}" for k in range(1, 7)), "rollout"), optimiser="adamw", peak_rate=1e-3, published=None,
    ),
    "resnet164": Family(
        "pre-activation ResNet baseline", 0.495293, 1_703_258, "resnet:ResNet", (), ("depth",), published=resnet_steps
    ),
    "resnet164_att1": Family(
        "attention at the end of stage 3", 0.514365, 2_360_155, "resnet:AttentionResNet", ("l3",), (*ATTENTION, "depth"), "resnet164",
        published=resnet_steps,
    ),
    "resnet164_att2": Family(
        "attention at the ends of stages 2, 3", 0.514564, 2_395_228, "resnet:AttentionResNet", ("l2", "l3"), (*ATTENTION, "depth"), "resnet164",
        published=resnet_steps,
    ),
}  # fmt: skip


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


def baseline_of(name: str) -> str:
    """The network without attention that one is compared with, by its label; empty for none.

    A label of the user's own has the one that is named like it before ``_att``.
    """
    try:
        return family_of(name.removesuffix(ADVERSARIAL)).baseline
    except InputError:
        return name.rpartition("_att")[0]
