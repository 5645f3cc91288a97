"""Checkpoints are data: a safetensors file whose header holds a card that says how the weights came to be.

Nothing in such a file is ever run. Files are written whole or not at all.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustatt.errors import InputError
from robustatt.files import write_whole
from robustatt.models.attention import Network
from robustatt.models.card import Card, damaged, parse_card
from robustatt.models.listing import bundled_path
from robustatt.models.registry import build


def network_of(card: Card) -> Network:
    """A fresh network of the card's architecture, in eval mode."""
    network = build(
        card.name, card.classes, card.width,
        **{**card.options, "mean": card.mean, "std": card.std, "input_size": card.input_size},
    )  # fmt: skip
    return network.eval()


def save_checkpoint(path: str | Path, state: dict[str, Tensor], card: Card, *, half: bool = False) -> None:
    """Writes the weights and the card; ``half`` keeps kernels and matrices as float16 on disk.

    Vectors (BatchNorm, biases, normalisation) stay float32. The file appears under its name only when whole.

    Raises:
        InputError: the folder cannot be written to.
    """
    tensors = {
        name: (tensor.half() if half and _shrinks(tensor) else tensor).detach().cpu().contiguous()
        for name, tensor in state.items()
    }
    write_whole(path, save(tensors, metadata={"card": card.model_dump_json()}))


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as they come back from a file written with ``half``."""
    return {name: tensor.half().to(tensor.dtype) if _shrinks(tensor) else tensor for name, tensor in state.items()}


def _shrinks(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and sum(size > 1 for size in tensor.shape) >= 2


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors, floating ones as float32, and the text entries of the header.

    Raises:
        InputError: the file is missing, cut short or not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights file {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: _full(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from error


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def load_checkpoint(path: str | Path) -> tuple[Network, Card]:
    """The network of a checkpoint, float32, in eval mode, and its card.

    Raises:
        InputError: the file is missing or damaged, or its weights do not fit the architecture of its card.
    """
    tensors, metadata = read_safetensors(path)
    card = parse_card(Path(path), metadata)
    try:
        with torch.device("meta"):
            network = network_of(card)
    except InputError as error:
        raise InputError(f"{path}: its card asks for a network that cannot be built: {error}") from error
    fill(network, tensors, str(path))
    network.card = card
    return network, card


def fill(network: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copies weights into a network.

    A network on the meta device is given memory only once every name and shape has been compared: so a checkpoint cannot
    ask for more than it brings itself.

    Raises:
        InputError: names the first tensor that is missing, of another shape, not finite or not expected.
    """
    expected = network.state_dict()
    uncounted = {
        name: torch.zeros_like(tensor, device="cpu")
        for name, tensor in expected.items()
        if name.endswith("num_batches_tracked") and name not in tensors
    }
    tensors = tensors | uncounted
    for name, tensor in expected.items():
        want = tuple(tensor.shape)
        have = tuple(tensors[name].shape) if name in tensors else None
        if have is None:
            raise InputError(f"{source}: tensor {name} is missing, expected shape {want}")
        if have != want:
            raise InputError(f"{source}: tensor {name} has shape {have}, expected {want}")
        if tensors[name].is_floating_point() and not bool(tensors[name].isfinite().all()):
            raise InputError(f"{source}: tensor {name} holds NaN or infinite values")
    for name in tensors:
        if name not in expected:
            raise InputError(f"{source}: tensor {name} is not part of this network")
    if any(tensor.is_meta for tensor in expected.values()):
        network.load_state_dict(
            {name: tensor.clone() for name, tensor in tensors.items()}, assign=True
        )  # not the file's own pages
    else:
        network.load_state_dict(tensors)


def load(name: str, data: str = "digits") -> Network:
    """A network with bundled weights, in eval mode; ``load_checkpoint`` gives the card as well.

    Raises:
        InputError: nothing is bundled for this network and data set; lists what is.
    """
    return load_checkpoint(bundled_path(name, data))[0]
