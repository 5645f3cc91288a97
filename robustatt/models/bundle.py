"""The weights that come inside the package.

A file is named after its network; the ending ``_adv`` says that it was trained on attacked images.
"""

from __future__ import annotations

from pathlib import Path

from robustatt.errors import InputError, did_you_mean
from robustatt.models.attention import Network
from robustatt.models.checkpoint import load as load_checkpoint
from robustatt.models.registry import canonical

ADVERSARIAL = "_adv"
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def bundled() -> dict[str, tuple[str, ...]]:
    """Data set to the names of the networks whose weights come with the package."""
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(WEIGHTS.glob("*/*.safetensors")):
        found[file.parent.name] = (*found.get(file.parent.name, ()), file.stem)
    return found


def bundled_path(name: str, data: str = "digits") -> Path:
    """The file of bundled weights.

    Raises:
        InputError: nothing is bundled for this network and data set; lists what is.
    """
    have = bundled()
    base = name.removesuffix(ADVERSARIAL)
    stem = name if name in have.get(Path(data).name, ()) else canonical(base) + name[len(base) :]
    if stem in have.get(data, ()):
        return WEIGHTS / data / f"{stem}.safetensors"
    if data in have:
        raise InputError(f"no bundled {name!r} for data {data!r}: {did_you_mean(name, have[data])}")
    near = Path(data).name
    if stem in have.get(near, ()):
        file = WEIGHTS / near / f"{stem}.safetensors"
        raise InputError(f"no weights are bundled for a path; if {data!r} is {near}, say --weights {file}")
    every = "; ".join(f"{key}: {', '.join(stems)}" for key, stems in have.items()) or "none"
    raise InputError(f"no weights are bundled for data {data!r} (there are {every}): train some or give --weights")


def load(name: str, data: str = "digits") -> Network:
    """A network with bundled weights, in eval mode; ``load_checkpoint`` gives the card as well.

    Raises:
        InputError: nothing is bundled for this network and data set; lists what is.
    """
    return load_checkpoint(bundled_path(name, data))[0]
