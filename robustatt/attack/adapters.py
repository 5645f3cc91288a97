"""Attacks of other libraries as recipes: any class of torchattacks or foolbox, with its arguments.

They see a copy of the model behind a plain wrapper, work on a fork of the random state, and are judged like
ours.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import random
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustatt.attack.base import Attack, ExternalAttack, Rows
from robustatt.attack.kinds import ExternalRecipe
from robustatt.errors import InputError, RobustattError, did_you_mean
from robustatt.threat import NORMS

INSTALL = 'pip install "robustatt[peers]"'
#: what torchattacks calls the radius, and the norms
RADIUS_NAMES = ("eps", "max_epsilon")
NORM_NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def adapt(recipe: ExternalRecipe, classes: int) -> Attack:
    """The attack of another library that a recipe names.

    Raises InputError if the library is not installed, has no such class, or the class takes no such
    arguments.
    """
    library, _, name = recipe.algorithm.partition(":")
    module = _imported(library, recipe)
    return (Torchattacks if library == "torchattacks" else Foolbox)(recipe, module, name, classes)


def _imported(library: str, recipe: ExternalRecipe) -> Any:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports GitPython, which wants a git binary
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(library)
            return importlib.import_module("foolbox.attacks") if library == "foolbox" else module
    except ImportError as problem:
        reason = str(problem).splitlines()[0]
        raise InputError(
            f"attack {recipe.name!r} needs {library}, which cannot be imported ({reason}): {INSTALL}"
        ) from None


class _Plain(nn.Module):
    """The model without its class name and attributes: torchattacks acts on some of them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.module(image)
        return logits


class LibraryAttack(ExternalAttack):
    """What both libraries share: finding the class, checking arguments, and a fenced run."""

    def __init__(self, recipe: ExternalRecipe, module: Any, name: str, classes: int) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.recipe, self.classes = recipe, classes
        known = {key: value for key, value in vars(module).items() if self.is_attack(value)}
        if name not in known:
            raise InputError(f"attack {recipe.name!r}: no attack {recipe.algorithm!r}: {did_you_mean(name, known)}")
        self.kind: Any = known[name]
        self.accepted = inspect.signature(self.kind.__init__).parameters
        self._check_arguments()

    @staticmethod
    @abstractmethod
    def is_attack(value: object) -> bool:
        """Whether something the library exports is an attack class."""

    @abstractmethod
    def run(self, module: nn.Module, rows: Rows, eps: float, seed: int) -> Tensor:
        """The library's images."""

    def arguments(self, eps: float) -> dict[str, Any]:
        """The arguments of the recipe; those given as shares of eps at this radius."""
        return {**self.recipe.arguments, **{key: share * eps for key, share in self.recipe.shares.items()}}

    def _check_arguments(self) -> None:
        open_ended = any(entry.kind is entry.VAR_KEYWORD for entry in self.accepted.values())
        names = [name for name in self.accepted if name not in ("self", "model", "args", "kwargs")]
        for key in () if open_ended else self.arguments(1.0):
            if key not in names:
                raise InputError(
                    f"attack {self.name!r}: {self.recipe.algorithm} takes no argument {key!r}: "
                    f"{did_you_mean(key, names)}"
                )
        for key in RADIUS_NAMES:
            if key in self.recipe.arguments:
                raise InputError(f"attack {self.name!r}: the radius comes from the plan; leave {key!r} out")

    def perturb(self, module: nn.Module, rows: Rows, seed: int) -> Tensor:
        eps = float(rows.eps[0])
        if eps == 0 and not self.minimum_norm:
            return rows.image.clone()
        with fenced(module, seed, rows.image.device):
            try:
                image = self.run(_Plain(module).eval(), rows, eps, seed)
            except (
                TypeError,
                KeyError,
                AttributeError,
                AssertionError,
                ValueError,
                NotImplementedError,
            ) as problem:
                said = (str(problem).splitlines() or [type(problem).__name__])[0]
                raise InputError(
                    f"attack {self.name!r}: {self.recipe.algorithm} refused these arguments or this model: {said}"
                ) from problem
        if image.shape != rows.image.shape:
            raise RobustattError(f"attack {self.name!r}: {self.recipe.algorithm} returned shape {tuple(image.shape)}")
        return image.detach().to(rows.image)


class Torchattacks(LibraryAttack):
    """A class of torchattacks. One that takes no radius is run once and its image scaled to every ball."""

    def __init__(self, recipe: ExternalRecipe, module: Any, name: str, classes: int) -> None:
        super().__init__(recipe, module, name, classes)
        self.radius = next((key for key in RADIUS_NAMES if key in self.accepted), None)
        self.minimum_norm = self.radius is None

    @staticmethod
    def is_attack(value: object) -> bool:
        return inspect.isclass(value) and value.__module__.startswith("torchattacks.attacks.")

    def run(self, module: nn.Module, rows: Rows, eps: float, seed: int) -> Tensor:
        known: dict[str | None, Any] = {
            "norm": NORM_NAMES[self.norm.name],
            "seed": seed,
            "n_classes": self.classes,
            self.radius: eps,
        }
        ours = {key: value for key, value in known.items() if key is not None and key in self.accepted}
        attack = self.kind(module, **{**ours, **self.arguments(eps)})
        attack.set_device(rows.image.device)
        image: Tensor = attack(rows.image, rows.label)
        return image


class Foolbox(LibraryAttack):
    """A class of foolbox. Its minimisation attacks are run once, for the nearest mistake."""

    def __init__(self, recipe: ExternalRecipe, module: Any, name: str, classes: int) -> None:
        super().__init__(recipe, module, name, classes)
        self.minimum_norm = not issubclass(self.kind, module.base.FixedEpsilonAttack)

    @staticmethod
    def is_attack(value: object) -> bool:
        return inspect.isclass(value) and value.__module__.startswith("foolbox.") and not inspect.isabstract(value)

    def run(self, module: nn.Module, rows: Rows, eps: float, seed: int) -> Tensor:  # noqa: ARG002
        from foolbox.models.pytorch import PyTorchModel

        model = PyTorchModel(module, bounds=(0, 1), device=rows.image.device)
        attack = self.kind(**self.arguments(eps))
        _, clipped, _ = attack(model, rows.image, rows.label, epsilons=None if self.minimum_norm else eps)
        image: Tensor = clipped
        return image


@contextlib.contextmanager
def fenced(module: nn.Module, seed: int, device: torch.device) -> Iterator[None]:
    """A library's code with seeded randomness: generators, training flags and the output are as before
    afterwards."""
    training = [(part, part.training) for part in module.modules()]
    before, numpy_before = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)
            for part, flag in training:
                part.training = flag
