"""What identifies a model in records: a hash of everything that decides its outputs."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """sha256 of what decides a module's outputs: its tensors, its structure and, for outside code, its source."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            _digest(digest, name, tensor)
    for name, part in module.named_modules():
        for key, value in _compiled_code(part):
            if isinstance(value, Tensor):
                _digest(digest, f"{name}.{key}", value)
            else:
                digest.update(f"{name}.{key}|{value}".encode())
    for kind in sorted({type(part) for part in module.modules()}, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        if kind.__module__.split(".")[0] not in {"torch", "torchvision", "timm", "robustatt"}:
            digest.update(_source(kind).encode())
    return digest.hexdigest()


def _digest(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    digest.update(
        tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else repr(tensor.item()).encode()
    )


def _compiled_code(part: nn.Module) -> Iterator[tuple[str, str | Tensor]]:
    """The code of TorchScript and of exported programs, and its constants: they are not part of the state."""
    if isinstance(part, torch.jit.ScriptModule):
        try:
            code, constants = part.code_with_constants
        except (AttributeError, RuntimeError):  # a container without a forward
            return
        yield "code", code
        for name, value in sorted(constants.const_mapping.items()):
            yield name, value if isinstance(value, Tensor) else repr(value)
    elif isinstance(part, torch.fx.GraphModule):
        yield "code", part.code
        yield from ((name, value) for name, value in sorted(vars(part).items()) if isinstance(value, Tensor))


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return f"{kind.__module__}.{kind.__qualname__}"
