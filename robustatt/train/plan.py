"""A training plan: networks that are to be trained, from a TOML file, checked before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from robustatt import data as datasets
from robustatt.data import SOURCES
from robustatt.errors import InputError, did_you_mean, first_mistake, said_of
from robustatt.models import read_card
from robustatt.models.families import ADVERSARIAL
from robustatt.plan import read_plan
from robustatt.plan.checks import require_known, require_some, require_type, require_unique
from robustatt.train.loop import check_place, load_split
from robustatt.train.recipe import TrainingRecipe
from robustatt.train.request import MACHINE, TrainRequest, settings
from robustatt.train.state import read_state

KEYS = tuple(setting.name for setting in settings() if setting.name not in MACHINE)
"""The keys of a network: the settings of `robustatt train` but for those of the machine."""
NAMES = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class PlannedNetwork:
    """A network of a plan: its name, which is that of its files, and how it is trained."""

    name: str
    request: TrainRequest

    def done(self) -> bool:
        """Whether its weights are there.

        Raises:
            InputError: weights or the state of a training are there, but of another recipe.
        """
        path = self.request.out
        if not path.exists():
            read_state(self.request)
            return False
        differences = TrainingRecipe.of_request(self.request).differences(TrainingRecipe.of_card(read_card(path)))
        if differences:
            raise InputError(
                f"{path} was trained by another recipe ({'; '.join(differences)}): move it away, or give the network another name"
            )
        return True


@dataclass(frozen=True)
class TrainingPlan:
    """Networks in the order in which they are trained; all their files go into one folder."""

    path: Path
    folder: Path
    networks: tuple[PlannedNetwork, ...]

    def only(self, names: tuple[str, ...]) -> TrainingPlan:
        """The plan of these networks alone.

        Raises:
            InputError: a name is not in the plan.
        """
        known = [network.name for network in self.networks]
        for name in names:
            if name not in known:
                raise InputError(f"--only {name}: plan {self.path} has no such network: {did_you_mean(name, known)}")
        return replace(self, networks=tuple(network for network in self.networks if network.name in names))

    def missing(self) -> list[PlannedNetwork]:
        """The networks whose weights are not there, after everything that can be checked has been.

        Raises:
            InputError: files of another recipe, a folder that cannot be written to, or data that is not there.
        """
        missing, loaded = [], set()
        for network in self.networks:
            with said_of(f"plan {self.path}: {network.name}"):
                if network.done():
                    continue
                missing.append(network)
                check_place(network.request.out)
                source = (network.request.data, network.request.label_column, network.request.input_size)
                if source not in loaded:
                    for split in datasets.SPLITS:
                        load_split(network.request, split)
                    loaded.add(source)
        return missing


def read_training_plan(path: Path, **machine: Any) -> TrainingPlan:
    """The plan in a TOML file: keys ``out``, ``[defaults]`` and ``[[networks]]``; ``machine`` are the settings in `MACHINE`.

    ``out`` is a folder, from the plan's own. A network's name is by default that of its bundled weights and its seed.

    Raises:
        InputError: names the file, the network and the key, and the nearest valid one.
    """
    document = read_plan(path)
    with said_of(f"plan {path}"):
        require_known(document, ("out", "defaults", "networks"))
        folder, shared, tables = document.get("out", "."), document.get("defaults", {}), document.get("networks", [])
        require_type("out", folder, str, 'out = "trained"')
        require_type("defaults", shared, dict, "[defaults]")
        require_type("networks", tables, list, "[[networks]]")
        for entry in tables:
            require_type("networks", entry, dict, "[[networks]]")
        require_some(tables, "no network: give at least one, as [[networks]] with a model")
        networks = []
        for place, entry in enumerate(tables, 1):
            with said_of(str(entry.get("name", f"network {place}"))):
                networks.append(_network(path.parent, folder, {**shared, **entry}, machine))
        require_unique("network", [network.name for network in networks])
    return TrainingPlan(path, path.parent / folder, tuple(networks))


def _network(beside: Path, folder: str, entry: Mapping[str, Any], machine: Mapping[str, Any]) -> PlannedNetwork:
    require_known(entry, (*KEYS, "name"))
    for key, value in entry.items():
        try:
            _type_of(key).validate_python(value, strict=True)
        except ValidationError as problem:
            raise InputError(f"key {key!r}, {value!r}: {first_mistake(problem)[1].lower()}") from None
    if "model" not in entry:
        raise InputError("key 'model' is missing: write for example model = \"vgg\"")
    fields = {key: value for key, value in entry.items() if key != "name"}
    for key in ("data", "init"):
        if key in fields and fields[key] not in SOURCES and (beside / fields[key]).exists():
            fields[key] = str(beside / fields[key])
    request = TrainRequest(out=Path(), **fields, **machine)
    name = entry.get("name", f"{request.model}{ADVERSARIAL if request.adversarial else ''}-seed{request.seed}")
    if not NAMES.fullmatch(name):
        raise InputError(f"name {name!r}: letters, digits and any of _ - + . are possible, as it names files")
    return PlannedNetwork(name, replace(request, out=beside / folder / f"{name}.safetensors"))


@cache
def _type_of(key: str) -> TypeAdapter[Any]:
    """The type of a key's values, where TOML has text for a path."""
    kind = str if key == "name" else get_type_hints(TrainRequest)[key]
    return TypeAdapter(str if Path in (kind, *get_args(kind)) else kind)
