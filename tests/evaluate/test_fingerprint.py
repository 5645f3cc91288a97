"""What decides a module's fingerprint, byte by byte: records are found again by it, so it must not change."""

from __future__ import annotations

import hashlib
import inspect
import struct

import pytest
import torch
from torch import Tensor, nn

from robustatt.evaluate.fingerprint import fingerprint


def of(*parts: str | bytes) -> str:
    """sha256 of the parts one after the other."""
    return hashlib.sha256(b"".join(part.encode() if isinstance(part, str) else part for part in parts)).hexdigest()


class Weighed(nn.Module):
    """Outside code with a weight."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_of_library_layers_it_is_structure_and_tensors() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm2d(1))
    net[0].weight.data = torch.tensor([[1.5], [-2.0]]).T  # its memory is in another order than its shape
    net[0].bias.data.fill_(0.25)
    one, zero = (b"torch.float32|(1,)|" + struct.pack("<f", value) for value in (1.0, 0.0))
    assert fingerprint(net) == of(
        repr(net),
        "0.bias|torch.float32|(1,)|", struct.pack("<f", 0.25),
        "0.weight|torch.float32|(1, 2)|", struct.pack("<2f", 1.5, -2.0),
        "1.bias|", zero,
        "1.num_batches_tracked|torch.int64|()|0",
        "1.running_mean|", zero,
        "1.running_var|", one,
        "1.weight|", one,
    )  # fmt: skip
    assert fingerprint(nn.Sequential(nn.Flatten())) == of("Sequential(\n  (0): Flatten(start_dim=1, end_dim=-1)\n)")


def test_of_outside_code_it_is_the_source_too() -> None:
    weight = ("weight|torch.float32|(2,)|", struct.pack("<2f", 1.0, 2.0))
    assert fingerprint(Weighed([1.0, 2.0])) == of("Weighed()", *weight, inspect.getsource(Weighed))
    made = type("Made", (nn.Module,), {"__module__": "nowhere"})()
    assert fingerprint(made) == of("Made()", "nowhere.Made")
    other = type("Weighed", (nn.Module,), {"__module__": "zoo.nets"})()
    both = nn.Sequential(other, Weighed([1.0, 2.0]), made, made)
    assert fingerprint(both) == of(repr(both), "1.", *weight, "nowhere.Made", inspect.getsource(Weighed), "zoo.nets.Weighed"), (
        "each class once, by the names of their modules"
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_of_torchscript_it_is_the_code_and_its_constants() -> None:
    programs = [torch.jit.freeze(torch.jit.script(Weighed([1.0, value]).eval())) for value in (2.0, 3.0)]
    for program, value in zip(programs, (2.0, 3.0), strict=True):
        (name,) = program.code_with_constants[1].const_mapping
        assert fingerprint(program) == of(
            repr(program), f".code|{program.code}", f".{name}|torch.float32|(2,)|", struct.pack("<2f", 1.0, value)
        )

    class Parts(nn.Module):
        """A container of parts has no code of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Flatten(), nn.ReLU()])

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = part(x)
            return x

    program = torch.jit.script(Parts())
    parts = dict(program.named_modules())
    code = [f"{name}.code|{parts[name].code}" for name in ("", "parts.0", "parts.1")]
    assert fingerprint(program) == of(repr(program), *code)


def test_of_a_traced_graph_it_is_the_code_and_its_tensors() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("by", torch.tensor([1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.by

    graph = torch.fx.symbolic_trace(Added())
    graph.loose, graph.also = torch.tensor([4.0]), torch.tensor(3)
    assert fingerprint(graph) == of(
        repr(graph), "by|torch.float32|(2,)|", struct.pack("<2f", 1.0, 2.0), f".code|{graph.code}", ".also|torch.int64|()|3",
        ".loose|torch.float32|(1,)|", struct.pack("<f", 4.0),
    )  # fmt: skip
