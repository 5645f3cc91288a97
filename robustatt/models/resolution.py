"""From what a user types after ``--model`` and ``--weights`` to a network ready to be evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from robustatt.data import SOURCES
from robustatt.errors import InputError
from robustatt.models.attention import Options
from robustatt.models.card import Card
from robustatt.models.checkpoint import load_checkpoint
from robustatt.models.external import ZOOS, is_outside, load_outside
from robustatt.models.families import ADVERSARIAL, canonical
from robustatt.models.listing import bundled_path

if TYPE_CHECKING:
    from robustatt.plan import ModelEntry


@dataclass(frozen=True)
class ResolvedModel:
    """A network in eval mode, what to call it, its card if it has one, and where its weights come from."""

    module: nn.Module
    label: str
    card: Card | None
    source: str


def resolve(
    spec: str,
    *,
    weights: str | Path | None = None,
    data: str = "digits",
    classes: int = 10,
    normalize: str | None = None,
    options: Options | None = None,
) -> ResolvedModel:
    """The network a user means.

    Args:
        spec: a name of ``robustatt models``, which takes the bundled weights for ``data`` unless
            ``weights`` are given, or an external network (see ``load_outside``). The ending ``_adv`` asks
            for adversarially trained weights, as in ``vgg_att3_adv``.
        weights: a checkpoint of ``robustatt train``; for external networks any weights file or folder.
        data: the data set that bundled weights are wanted for.
        classes, normalize, options: for external networks.

    Raises:
        InputError: unknown name, nothing bundled, or weights that cannot be read, are of another network or
            do not fit.
    """
    if is_outside(spec):
        module = load_outside(spec, weights=weights, classes=classes, normalize=normalize, options=options)
        return ResolvedModel(module, spec, None, str(weights) if weights else ZOOS.get(spec.partition(":")[0], "random weights"))
    if normalize not in (None, "none") or options:
        raise InputError(f"model {spec!r} carries its normalisation and options: leave out --normalize and options")
    path = bundled_path(spec, data) if weights is None else Path(weights)
    name = canonical(spec.removesuffix(ADVERSARIAL))
    network, card = load_checkpoint(path)
    if weights is None:
        return ResolvedModel(network, path.stem, card, f"bundled {path.parent.name}/{path.name}")
    if card.name != name:
        raise InputError(f"{path} holds {card.name}, not {name}: say --model {card.name}")
    if spec.endswith(ADVERSARIAL) and not card.adversarial:
        raise InputError(f"{path} was not trained on attacked images: say --model {card.name}")
    return ResolvedModel(network, card.name + (ADVERSARIAL if card.adversarial else ""), card, str(path))


def resolve_entry(entry: ModelEntry, data: str, classes: int | None = None) -> ResolvedModel:
    """The network of a plan's entry (see `resolve`), for as many classes as the data set of that name has unless they are given."""
    if classes is None:
        classes = SOURCES[data].classes if data in SOURCES else 10
    return resolve(
        entry.spec, weights=entry.weights, data=data, classes=classes, normalize=entry.normalize, options=dict(entry.options)
    )
