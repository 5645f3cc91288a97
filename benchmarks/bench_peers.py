"""The other libraries on the grid of `benchmarks/bench.py`, each used as its own documentation does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RADII = [step / 255 for step in range(1, 17)]


@dataclass(frozen=True)
class Strength:
    """Gradient steps of each part of AutoAttack, and queries of its last. The published values are the defaults."""

    steps: int = 100
    queries: int = 5000


def correct(model: nn.Module, image: Tensor, label: Tensor, batch: int) -> Tensor:
    """Which images the model classifies right."""
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) for x in image.split(batch)]) == label


def in_batches(attack: Callable[[Tensor, Tensor], Tensor], image: Tensor, label: Tensor, batch: int) -> Tensor:
    """An attack over all images, a batch at a time."""
    return torch.cat([attack(x, y).detach() for x, y in zip(image.split(batch), label.split(batch), strict=True)])


def by_torchattacks(attack: str, model: nn.Module, image: Tensor, label: Tensor, batch: int, strength: Strength) -> list[float]:
    """torchattacks, radius by radius."""
    import torchattacks as ta

    makers: dict[str, Callable[[float], object]] = {
        "fgsm": lambda eps: ta.FGSM(model, eps=eps),
        "pgd": lambda eps: ta.PGD(model, eps=eps, alpha=eps / 10, steps=40, random_start=True),
        "apgd-ce": lambda eps: ta.APGD(model, norm="Linf", eps=eps, steps=100, n_restarts=1, loss="ce"),
        "autoattack": lambda eps: _torchattacks_chain(model, eps, strength),
    }
    return [
        float(correct(model, in_batches(makers[attack](eps), image, label, batch), label, batch).float().mean())  # type: ignore[arg-type]
        for eps in RADII
    ]


def _torchattacks_chain(model: nn.Module, eps: float, strength: Strength) -> object:
    """The parts of torchattacks' AutoAttack with the published number of steps: its own default is 10 and not 100."""
    import torchattacks as ta

    same = {"norm": "Linf", "eps": eps, "seed": 0}
    return ta.MultiAttack([
        ta.APGD(model, **same, steps=strength.steps, loss="ce"),
        ta.APGDT(model, **same, steps=strength.steps, n_classes=10),
        ta.FAB(model, **same, steps=strength.steps, multi_targeted=True, n_classes=10),
        ta.Square(model, **same, n_queries=strength.queries),
    ])  # fmt: skip


def by_autoattack(attack: str, model: nn.Module, image: Tensor, label: Tensor, batch: int, strength: Strength) -> list[float]:
    """The published AutoAttack (as packaged by pyautoattack), radius by radius."""
    del attack
    from pyautoattack.autoattack import AutoAttack

    found = []
    for eps in RADII:
        method = AutoAttack(model, eps=eps, norm="Linf", seed=0, version="standard")
        method.apgd.n_iter = method.apgd_targeted.n_iter = method.fab.n_iter = strength.steps
        method.square.n_queries = strength.queries
        result = method.run_standard_evaluation(image, label, batch_size=batch)
        attacked = result[0] if isinstance(result, tuple) else result
        found.append(float(correct(model, attacked, label, batch).float().mean()))
    return found


def by_foolbox(attack: str, model: nn.Module, image: Tensor, label: Tensor, batch: int, strength: Strength) -> list[float]:
    """foolbox, all radii in one call, as its interface offers."""
    del strength
    import foolbox as fb

    wrapped = fb.PyTorchModel(model, bounds=(0, 1))
    method = fb.attacks.FGSM() if attack == "fgsm" else fb.attacks.LinfPGD(rel_stepsize=0.1, steps=40, random_start=True)
    broken = [method(wrapped, x, y, epsilons=RADII)[2] for x, y in zip(image.split(batch), label.split(batch), strict=True)]
    return [float(1 - share) for share in torch.cat(broken, dim=1).float().mean(1)]


def by_art(attack: str, model: nn.Module, image: Tensor, label: Tensor, batch: int, strength: Strength) -> list[float]:
    """adversarial-robustness-toolbox, radius by radius."""
    del strength
    from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), tuple(image.shape[1:]), 10, clip_values=(0, 1), device_type="cpu")
    found = []
    for eps in RADII:
        if attack == "fgsm":
            method = FastGradientMethod(wrapped, eps=eps, batch_size=batch)
        elif attack == "pgd":
            method = ProjectedGradientDescentPyTorch(
                wrapped, eps=eps, eps_step=eps / 10, max_iter=40, num_random_init=1, batch_size=batch, verbose=False
            )
        else:
            method = AutoProjectedGradientDescent(
                wrapped,
                eps=eps,
                eps_step=2 * eps,
                max_iter=100,
                nb_random_init=1,
                batch_size=batch,
                loss_type="cross_entropy",
                verbose=False,
            )
        attacked = method.generate(image.numpy(), label.numpy())
        found.append(float((wrapped.predict(attacked, batch_size=batch).argmax(1) == label.numpy()).mean()))
    return found


LIBRARIES: dict[str, tuple[Callable[..., list[float]], tuple[str, ...]]] = {
    "torchattacks": (by_torchattacks, ("fgsm", "pgd", "apgd-ce", "autoattack")),
    "foolbox": (by_foolbox, ("fgsm", "pgd")),
    "AutoAttack": (by_autoattack, ("autoattack",)),
    "adversarial-robustness-toolbox": (by_art, ("fgsm", "pgd", "apgd-ce")),
}
