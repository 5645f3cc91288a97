"""Models and attacks of a plan, as a user writes them: a name, a path, or a table."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robustatt.attack import recipe_files as recipes
from robustatt.attack.recipe import Recipe
from robustatt.errors import InputError
from robustatt.plan.checks import require_known

#: in place of a weights file: the weights that come with the package
BUNDLED = "bundled"
#: what `--attention` says unless told: the maps that are found by themselves
AUTO = "auto"
#: keyword arguments of the callable that builds an external network
Options = tuple[tuple[str, Any], ...]
#: a table of TOML
Document = dict[str, Any]


@dataclass(frozen=True)
class ModelEntry:
    """A model to evaluate: `name` is the label in the results, `spec` what to load, `weights` a file or nothing.

    `options` are the keyword arguments with which an external network is built. `attention` says which maps are read:
    ``none``, or a glob over submodules and levels; None for what is found by itself.
    """

    name: str
    spec: str
    weights: str | None = None
    normalize: str | None = None
    options: Options = ()
    attention: str | None = None


def model_entries(
    specs: Sequence[str], weights: Sequence[str], normalize: str | None = None, options: Sequence[str] = ()
) -> tuple[ModelEntry, ...]:
    """Entries from `--model` and `--weights` flags: as many weights as models, or none. `LABEL=SPEC` names one.

    Among the weights ``bundled`` stands for those that come with the package. `normalize` and `options` (``KEY=VALUE``)
    are for the external models (`pkg.module:build`): the project's own carry theirs.
    """
    if weights and len(weights) != len(specs):
        raise InputError(
            f"{len(weights)} --weights for {len(specs)} --model: give one for each model, in the same order, or none"
        )
    files = [None if file == BUNDLED else file for file in weights] or [None] * len(specs)
    arguments = _options(options)
    if arguments and not any(":" in text for text in specs):
        raise InputError(f"--model-option {options[0]}: only external models take options, such as timm:vit_tiny_patch16_224")
    outside = [":" in text for text in specs]
    entries = []
    for text, file, foreign in zip(specs, files, outside, strict=True):
        label, sign, spec = text.partition("=")
        mine = normalize if foreign or not any(outside) else None
        entries.append(
            ModelEntry(label, spec if sign else label, weights=file, normalize=mine, options=arguments if foreign else ())
        )
    return tuple(entries)


def attending(entries: Sequence[ModelEntry], attention: Sequence[str]) -> tuple[ModelEntry, ...]:
    """The entries with what `--attention` says: one text for all of them, or one for each in order."""
    if len(attention) not in (1, len(entries)):
        raise InputError(
            f"{len(attention)} --attention for {len(entries)} models: give one for all, or one for each in the same order"
        )
    texts = [*attention] * len(entries) if len(attention) == 1 else attention
    return tuple(replace(entry, attention=_attention(text)) for entry, text in zip(entries, texts, strict=True))


def _attention(text: str | None) -> str | None:
    """What an entry holds for a text: nothing for ``auto``."""
    if text is not None and not text.strip():
        raise InputError("--attention '': give auto, none or a pattern such as 'layer4.*.spatial'")
    return None if text == AUTO else text


def _options(texts: Sequence[str]) -> Options:
    """``KEY=VALUE`` texts as keyword arguments: a value is read as TOML writes it, and otherwise taken as text."""
    found: Document = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise InputError(f"--model-option {text!r}: write KEY=VALUE, such as img_size=32")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return _hashable(found)


def _hashable(options: Document) -> Options:
    return tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in options.items())


def model_to_toml(entry: ModelEntry) -> Document:
    """A model as plan files write it."""
    table = {key: value for key, value in vars(entry).items() if value is not None and key != "options"}
    return table | ({"options": dict(entry.options)} if entry.options else {})


def model_from_toml(entry: Any) -> ModelEntry:
    if isinstance(entry, str):
        return model_entries([entry], [])[0]
    if not isinstance(entry, dict) or not all(
        isinstance(value, dict if key == "options" else str) for key, value in entry.items()
    ):
        raise InputError(
            'a model is a name or a table of texts, such as {name = "mine", spec = "vgg", weights = "f.safetensors"}'
        )
    require_known(entry, {"name", "spec", "weights", "normalize", "options", "attention"}, " of a model")
    spec = entry.get("spec", entry.get("name"))
    if not spec:
        raise InputError('a model needs a name, such as {name = "vgg_att3"}')
    weights = None if entry.get("weights") == BUNDLED else entry.get("weights")
    return ModelEntry(
        entry.get("name") or spec, spec, weights, entry.get("normalize"), _hashable(entry.get("options", {})),
        _attention(entry.get("attention")),
    )  # fmt: skip


def attack_entry(entry: Any) -> Recipe:
    """The recipe that an entry under ``attacks`` stands for: a name, a file, or the keys of a recipe with a name."""
    if isinstance(entry, str):
        return recipes.load(entry)
    if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
        return recipes.parse({str(key): value for key, value in entry.items()}, where=f"attack {entry['name']!r}")
    raise InputError(
        "an attack is the name of a recipe, a recipe file, or a whole recipe with a name, such as "
        '{"name": "pgd-100", "algorithm": "pgd", "steps": 100}'
    )
