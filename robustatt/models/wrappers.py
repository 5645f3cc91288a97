"""What is put around an external network: the normalisation of its images, the choice of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from robustatt.models.attention import Images, Logits, Normalise


class Wrapper(nn.Module):
    """A network behind something done to its images and its logits. Attention that it hands out itself stays visible."""

    wrapped = "network"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def before(self, x: Images) -> Images:
        """What the network is given in place of images in [0, 1]."""
        return x

    def after(self, logits: Logits) -> Logits:
        """What is given out in place of the network's logits."""
        return logits

    def forward(self, x: Images) -> Any:
        output = self.network(self.before(x))
        return self.after(output) if isinstance(output, Tensor) else output

    def __getattr__(self, name: str) -> Any:
        if name in ("levels", "map_names"):
            return getattr(self.network, name)
        if name == "attend":
            attend: Callable[[Tensor], Any] = getattr(self.network, name)
            return self._attending(attend)
        return super().__getattr__(name)

    def _attending(self, attend: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def attend_wrapped(x: Tensor) -> Any:
            logits, maps = attend(self.before(x))
            return self.after(logits), maps

        return attend_wrapped


@final
class Normalised(Wrapper):
    """A network that expects normalised images, behind the normalisation."""

    def __init__(self, network: nn.Module, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__(network)
        self.normalise = Normalise(mean, std)

    def before(self, x: Images) -> Images:
        normalised: Tensor = self.normalise(x)
        return normalised


@final
class LogitsOf(Wrapper):
    """A network that returns an object of several outputs, as those of transformers do: its logits alone."""

    def forward(self, x: Images) -> Any:
        return self.network(x).logits


@final
class SelectedClasses(Wrapper):
    """A network of which only some outputs compete: class ``k`` is its output ``places[k]``."""

    places: Tensor

    def __init__(self, network: nn.Module, places: Sequence[int]) -> None:
        super().__init__(network)
        self.register_buffer("places", torch.tensor(list(places)))

    def after(self, logits: Logits) -> Logits:
        return logits[:, self.places]


def core_of(module: nn.Module) -> tuple[nn.Module, str]:
    """The network inside all that is put around it, and what its submodules' names begin with.

    A module that is put around another says so by ``wrapped``, the name of that submodule.
    """
    prefix = ""
    while isinstance(name := getattr(type(module), "wrapped", None), str):
        prefix += f"{name}."
        module = module.get_submodule(name)
    return module, prefix
