"""Weights of other projects: which tensors of a file are those of a network, whatever they are nested and named under."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from robustatt.errors import InputError, warn_caller

NEST = "/"
"""Between the keys of nested tables, in the names of `flattened`: no module's name holds it."""

MAX_DEPTH = 8
MAX_NAMED = 4
STATISTICS = ("running_mean", "running_var")
"""Buffers without which a network is another one."""


def flattened(content: Mapping[Any, Any], depth: int = MAX_DEPTH) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested tables, under its path: ``state_dict/module.conv1.weight``; floating ones as float32."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield str(key), value.float() if value.is_floating_point() else value
        elif isinstance(value, Mapping) and depth:
            yield from ((f"{key}{NEST}{name}", tensor) for name, tensor in flattened(value, depth - 1))


def matching(tensors: Mapping[str, Tensor], network: nn.Module, source: str) -> dict[str, Tensor]:
    """The tensors that belong to a network, by its names.

    What stands before the names in the file (``state_dict/module.``), and before those in the network (a wrapper around
    what was saved), is found by matching names and shapes. Buffers that the file lacks and the network brings itself are
    kept, other tensors beside those of the network are left out; a warning reports both.

    Raises:
        InputError: several different sets of weights fit, or none does: names what is there and what is wanted.
    """
    expected = network.state_dict()
    optional = _optional(network, expected)
    fits = [
        (prefix, found) for within in _wrappers(network) for prefix in _prefixes(tensors, expected, within)
        if (found := _found(tensors, expected, prefix, within)).keys() >= expected.keys() - optional
        and all(found[name].shape == expected[name].shape for name in found)
    ]  # fmt: skip
    distinct = [entry for i, entry in enumerate(fits) if not any(_same(entry[1], other) for _, other in fits[:i])]
    if len(distinct) > 1:
        names = ", ".join(_title(prefix) for prefix, _ in distinct[:MAX_NAMED])
        raise InputError(
            f"{source} holds {len(distinct)} different sets of weights that fit: {names}; save the one you mean alone"
        )
    if not distinct:
        return _nearest(tensors, expected, source, network)
    prefix, found = distinct[0]
    _say_rest(tensors, expected, prefix, found, source)
    return {name: found.get(name, tensor) for name, tensor in expected.items()}


def outputs_in(tensors: Mapping[str, Tensor], network: nn.Module, wider: nn.Module) -> int | None:
    """How many classes the weights in a file are for, where the network was built for another number; None if that cannot
    be told. `wider` is the same network with one output more, which shows which of its tensors are those of the outputs."""
    mine, other = network.state_dict(), wider.state_dict()
    sizes = {
        tensor.shape[0]
        for name in mine if name in other and mine[name].shape != other[name].shape
        for stored, tensor in tensors.items()
        if stored == name or stored.endswith((f".{name}", f"{NEST}{name}"))
        if tensor.ndim == mine[name].ndim and tensor.shape[1:] == mine[name].shape[1:] and tensor.shape[0]
    }  # fmt: skip
    return sizes.pop() if len(sizes) == 1 else None


def _optional(network: nn.Module, expected: Mapping[str, Tensor]) -> set[str]:
    """Names of buffers that a network brings itself: constants and counters, not the statistics of normalisation."""
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return {name for name in expected if name not in parameters and not name.endswith(STATISTICS)}


def _wrappers(network: nn.Module) -> list[str]:
    """What may stand before the network's names and not in the file: paths to a submodule that holds all parameters."""
    found, within = [""], ""
    part = network
    while True:
        inner = [name for name, child in part.named_children() if next(child.parameters(), None) is not None]
        if len(inner) != 1 or any(True for _ in part.parameters(recurse=False)):
            return found
        part, within = part.get_submodule(inner[0]), f"{within}{inner[0]}."
        found.append(within)


def _prefixes(tensors: Mapping[str, Tensor], expected: Iterable[str], within: str) -> list[str]:
    """What may stand before the names in the file: whatever does so before one of the network's names."""
    wanted = next((name.removeprefix(within) for name in expected if name.startswith(within)), "")
    return [
        name.removesuffix(wanted) for name in tensors
        if name == wanted or name.endswith((f".{wanted}", f"{NEST}{wanted}"))
    ]  # fmt: skip


def _found(tensors: Mapping[str, Tensor], expected: Iterable[str], prefix: str, within: str) -> dict[str, Tensor]:
    pairs = ((name, f"{prefix}{name.removeprefix(within)}") for name in expected if name.startswith(within))
    return {name: tensors[there] for name, there in pairs if there in tensors}


def _same(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _title(prefix: str) -> str:
    return repr(prefix.rstrip("./")) if prefix else "at the top"


def _say_rest(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str, found: Mapping[str, Tensor], source: str
) -> None:
    """InputError for tensors among the network's own that it has no place for; a warning for what lies beside them."""
    used = {id(tensor) for tensor in found.values()}
    nest = prefix[: prefix.rfind(NEST) + 1]
    beside = [name for name, tensor in tensors.items() if name.startswith(nest) and id(tensor) not in used]
    beside = [name.removeprefix(nest) for name in beside if not _equal_to_one(tensors[name], found.values())]
    inside = [name for name in beside if f"{nest}{name}".startswith(prefix) and NEST not in name]
    if inside:
        raise InputError(f"{source}: tensor {inside[0]} is not part of this network")
    beside = [name for name in beside if NEST not in name]
    kept = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    if beside:
        advice = "; if they normalise the input, give the same numbers with --normalize" if _normalise(beside) else ""
        warn_caller(f"{source}: not part of this network and left out: {_listed(beside)}{advice}")
    if kept:
        warn_caller(f"{source}: not in the file, so the network's own values are used: {_listed(kept)}")


def _normalise(names: Iterable[str]) -> bool:
    return any(word in name.lower() for name in names for word in ("mean", "std", "mu", "sigma", "normal"))


def _equal_to_one(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    return any(tensor.shape == other.shape and torch.equal(tensor, other) for other in others)


def _nearest(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, network: nn.Module) -> dict[str, Tensor]:
    """The set of tensors whose names come nearest, for the exact mistake to be named; InputError if none comes near."""
    candidates = [
        (_found(tensors, expected, prefix, within), prefix)
        for within in _wrappers(network) for name in islice(expected, 64)
        for prefix in _prefixes(tensors, [name], within)
    ]  # fmt: skip
    best, prefix = max(candidates, key=lambda entry: len(entry[0]), default=({}, ""))
    if len(best) < len(expected) / 2:
        raise InputError(
            f"{source} holds other names than this network has. In the file: {_listed(tensors, tensors)}. "
            f"Wanted: {_listed(expected, expected)}"
        )
    own = {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items()
        if name.startswith(prefix) and NEST not in name.removeprefix(prefix)
    }  # fmt: skip
    return best | {name: tensor for name, tensor in own.items() if name not in expected}


def _listed(names: Iterable[str], shapes: Mapping[str, Tensor] | None = None) -> str:
    every = list(names)
    shown = [f"{name} {tuple(shapes[name].shape)}" if shapes else name for name in every[:MAX_NAMED]]
    return ", ".join(shown) + (f" and {len(every) - MAX_NAMED} more" if len(every) > MAX_NAMED else "")
