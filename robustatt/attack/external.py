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

from robustatt.attack.base import Attack, Batch, ExternalAttack
from robustatt.attack.norms import NORMS
from robustatt.attack.recipe import ExternalRecipe
from robustatt.errors import InputError, RobustattError, did_you_mean, first_line
from robustatt.models.device import is_out_of_memory

MAX_ROUNDING = 1e-4
"""By how much a pixel may leave [0, 1] and still be a rounding error."""
INSTALL = 'pip install "robustatt[peers]"'
#: what torchattacks calls the radius, and the norms
RADIUS_NAMES = ("eps", "max_epsilon")
NORM_NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
#: torchattacks' classes that look for the nearest mistake, and in which norm; foolbox's say it themselves
MINIMISED_NORMS = {"CW": "l2", "DeepFool": "l2", "EADL1": "l1", "EADEN": "l1", "SparseFool": "l1"}


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
        reason = first_line(problem)
        raise InputError(f"attack {recipe.name!r} needs {library}, which cannot be imported ({reason}): {INSTALL}") from None


class _Plain(nn.Module):
    """The model without its class name and attributes, on some of which torchattacks acts; NaN gradients are zero."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        if image.requires_grad:  # NaN gradients would become NaN images
            image = image.view_as(image)
            image.register_hook(lambda grad: grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))  # type: ignore[no-untyped-call]
        logits: Tensor = self.module(image)
        return logits


class LibraryAttack(ExternalAttack):
    """What both libraries share: finding the class, checking arguments, and a fenced run."""

    def __init__(self, recipe: ExternalRecipe, module: Any, name: str, classes: int) -> None:
        super().__init__(recipe.name, NORMS["linf" if recipe.norm == "none" else recipe.norm])
        self.unbounded = recipe.unbounded
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
    def run(self, module: nn.Module, batch: Batch, eps: float, seed: int) -> Tensor:
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
                    f"attack {self.name!r}: {self.recipe.algorithm} takes no argument {key!r}: {did_you_mean(key, names)}"
                )
        for key in RADIUS_NAMES:
            if key in self.recipe.arguments and not self.unbounded:
                raise InputError(f"attack {self.name!r}: the radius comes from the plan; leave {key!r} out")

    def perturb(self, module: nn.Module, batch: Batch, seed: int) -> Tensor:
        eps = float(batch.eps[0])
        if eps == 0 and not self.minimum_norm:
            return batch.image.clone()
        try:
            with fenced(module, seed, batch.image.device):
                image = self.run(_Plain(module).eval(), batch, eps, seed)
        except Exception as problem:  # another library may raise anything
            if isinstance(problem, RobustattError) or is_out_of_memory(problem):
                raise
            raise InputError(
                f"attack {self.name!r}: {self.recipe.algorithm} refused these arguments or this model: {_cause(problem)}"
            ) from problem
        return self._checked(image, batch)

    def _checked(self, image: object, batch: Batch) -> Tensor:
        """The library's images, if they are images at all: of the right shape, without NaN, in [0, 1]."""
        who = f"attack {self.name!r}: {self.recipe.algorithm} returned"
        if not isinstance(image, Tensor) or image.shape != batch.image.shape:
            found = f"shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
            raise RobustattError(f"{who} {found}, not images of shape {tuple(batch.image.shape)}")
        image = image.detach().to(batch.image)
        broken = (~image.isfinite()).flatten(1).any(1)
        if bool(broken.any()):
            raise RobustattError(
                f"{who} NaN or infinite pixels for {int(broken.sum())} of {len(image)} images, the first of them example "
                f"{int(batch.index[broken][0])}: its gradient or loss is NaN there; take another attack for this model"
            )
        low, high = float(image.min()), float(image.max())
        if low < -MAX_ROUNDING or high > 1 + MAX_ROUNDING:
            raise RobustattError(f"{who} pixels in [{low:.6g}, {high:.6g}]: images must be in [0, 1]")
        return image.clamp(0.0, 1.0)


def _cause(problem: BaseException) -> str:
    """The innermost cause of an exception, in a line."""
    while (inner := problem.__cause__ or problem.__context__) is not None:
        problem = inner
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0]}" if lines else type(problem).__name__


class Torchattacks(LibraryAttack):
    """A class of torchattacks. One that takes no radius is run once and its image scaled to every ball."""

    def __init__(self, recipe: ExternalRecipe, module: Any, name: str, classes: int) -> None:
        super().__init__(recipe, module, name, classes)
        self.radius = next((key for key in RADIUS_NAMES if key in self.accepted), None)
        self.radius = None if self.unbounded else self.radius
        self.minimum_norm = self.radius is None
        self.minimised_norm = MINIMISED_NORMS.get(name, "")

    @staticmethod
    def is_attack(value: object) -> bool:
        return inspect.isclass(value) and value.__module__.startswith("torchattacks.attacks.")

    def run(self, module: nn.Module, batch: Batch, eps: float, seed: int) -> Tensor:
        known: dict[str | None, Any] = {
            "norm" if not self.unbounded else None: NORM_NAMES[self.norm.name],
            "seed": seed,
            "n_classes": self.classes,
            self.radius: eps,
        }
        ours = {key: value for key, value in known.items() if key is not None and key in self.accepted}
        attack = self.kind(module, **{**ours, **self.arguments(eps)})
        attack.set_device(batch.image.device)
        image: Tensor = attack(batch.image, batch.label)
        return image


class Foolbox(LibraryAttack):
    """A class of foolbox. Its minimisation attacks are run once, for the nearest mistake."""

    def __init__(self, recipe: ExternalRecipe, module: Any, name: str, classes: int) -> None:
        super().__init__(recipe, module, name, classes)
        self.minimum_norm = not issubclass(self.kind, module.base.FixedEpsilonAttack)
        if self.unbounded and not self.minimum_norm:
            raise InputError(f'attack {self.name!r}: {recipe.algorithm} is told its radius: write norm = "linf", "l2" or "l1"')

    @staticmethod
    def is_attack(value: object) -> bool:
        return inspect.isclass(value) and value.__module__.startswith("foolbox.") and not inspect.isabstract(value)

    def run(self, module: nn.Module, batch: Batch, eps: float, seed: int) -> Tensor:  # noqa: ARG002
        from foolbox.models.pytorch import PyTorchModel

        model = PyTorchModel(module, bounds=(0, 1), device=batch.image.device)
        attack = self.kind(**self.arguments(eps))
        self.minimised_norm = _minimised_norm(attack) if self.minimum_norm else ""
        _, clipped, _ = attack(model, batch.image, batch.label, epsilons=None if self.minimum_norm else eps)
        image: Tensor = clipped
        return image


def _minimised_norm(attack: Any) -> str:
    """The norm in which an attack of foolbox looks for the nearest mistake; empty if it does not say so."""
    try:
        power = float(attack.distance.p)
    except (AttributeError, TypeError, ValueError):  # SpatialAttack has none, a blur asks to be told one
        return ""
    return {1.0: "l1", 2.0: "l2", float("inf"): "linf"}.get(power, f"l{power:g}")


@contextlib.contextmanager
def fenced(module: nn.Module, seed: int, device: torch.device) -> Iterator[None]:
    """A library's code with seeded randomness: generators, training flags and the output are as before
    afterwards."""
    training = [(part, part.training) for part in module.modules() if hasattr(part, "training")]
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
