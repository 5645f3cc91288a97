"""What a GPU would be waited for: counted on the CPU, since each answer that Python asks of a tensor stops the queue there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_models import images, small_net
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from robustatt.attack import recipe_files as recipes
from robustatt.attack.base import Batch, Chain, Oracle, SteppedAttack
from robustatt.attack.builder import build
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.batch import AttackedBatch
from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.step_runner import Job, StepRunner, _ask, _follow

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
CLASSES = 5


class Waits(TorchDispatchMode):
    """Counts the operations whose answer, or the size of it, Python has to know."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        masks = args[1] if name in ("aten::index", "aten::index_put_") else ()
        masked = any(isinstance(part, Tensor) and part.dtype == torch.bool for part in masks)
        self.count += name in WAITS or masked
        return function(*args, **(kwargs or {}))


def stepped() -> Iterator[tuple[str, SteppedAttack]]:
    """Every stepped attack that is shipped, also as a part of a chain, but those that need attention."""
    for name in sorted(recipes.shipped()):
        attack = build(recipes.load(name), CLASSES)
        for part in attack.parts if isinstance(attack, Chain) else [attack]:
            if isinstance(part, SteppedAttack) and not name.startswith("attention"):
                yield f"{name}:{part.name}", part


ATTACKS = dict(stepped())
NONE = ("pgd", "apgd-ce", "apgd-dlr", "apgd-t", "mi-fgsm", "ni-fgsm", "di-fgsm", "ti-fgsm", "vmi-fgsm", "fmn", "deepfool")
NEWTON = 8
"""FAB solves a problem by Newton's method in each step; a GPU is asked every eighth time only."""


def waits(attack: SteppedAttack, steps: int, monkeypatch: pytest.MonkeyPatch) -> int:
    net = small_net()
    batch = images(6)
    with torch.no_grad():
        clean = net(batch)
    rows, oracle = Batch.at(8 / 255, batch, clean.argmax(1), clean=clean), Oracle(net)
    attack.prepare(oracle)
    state = attack.start(rows, ExampleRng(0, attack.name))
    with Waits() as found, asked(monkeypatch, "cpu", "tolist", "numpy") as counts:  # the dispatcher does not see these on a CPU
        for _ in range(steps):
            _, output = _ask(attack, rows, oracle, state)
            state = _follow(attack, rows, oracle, state, output)
    return found.count + counts.total()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_step_asks_for_one_answer_at_most(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = ATTACKS[name]
    each = (waits(attack, 8, monkeypatch) - waits(attack, 2, monkeypatch)) / 6
    if name.partition(":")[0] in NONE:
        assert each == 0
    assert each <= (NEWTON if "fab" in name else 1)


@contextmanager
def asked(monkeypatch: pytest.MonkeyPatch, *methods: str) -> Iterator[Counter[str]]:
    """How often tensors are asked by these methods."""
    counts: Counter[str] = Counter()

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            counts[name] += 1
            return method(*arguments, **named)

        return counted

    with monkeypatch.context() as patch:
        for name in methods:
            patch.setattr(Tensor, name, counting(name, getattr(Tensor, name)))
        yield counts


@pytest.mark.parametrize("name", ["pgd", "apgd-ce"])
def test_the_rows_of_an_attack_are_looked_at_once_a_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no row ends there is one transfer a step: which rows are broken, and which are not finite."""
    attack = build(recipes.load(name), CLASSES)
    assert isinstance(attack, SteppedAttack)
    net, batch = small_net(), images(6)
    with torch.no_grad():
        label = net(batch).argmax(1)
    with frozen(net, "net", torch.device("cpu"), batch) as classifier:
        target = AttackedBatch(classifier, attack.norm, name, batch, label, torch.arange(6), torch.tensor([1e-6]), 6)
        oracle = Oracle(classifier.logits, classifier.box_margin)
        attack.prepare(oracle)
        runner = StepRunner(target, attack, oracle, ExampleRng(0, name))
        runner.waiting.extend(Job(example, 0) for example in range(6))
        runner.refill()
        with asked(monkeypatch, "cpu", "item", "tolist", "__bool__", "__float__", "__int__") as counts:
            for _ in range(5):
                assert runner.advance() == []
    assert counts == {"cpu": 5}
