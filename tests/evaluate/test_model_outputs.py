"""Models whose outputs, dtypes and code are not the usual ones, and callers in any mode: the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from planted import nets
from tiny_models import images
from torch import Tensor, nn

import robustatt
from robustatt.attack.base import Oracle
from robustatt.attack.losses import log_odds
from robustatt.cli import main
from robustatt.errors import InputError, RunInterrupted, describe
from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.fingerprint import fingerprint
from robustatt.evaluate.module_state import default_modes
from robustatt.models.external import load_outside

CPU = torch.device("cpu")


class Tiny(nn.Module):
    """A convolutional network whose logits are far enough apart for half precision."""

    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 8 * 8, classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).relu().flatten(1))
        return logits


@dataclass
class Output:
    """As hub models return it."""

    logits: Tensor
    hidden: Tensor | None = None


class Returning(nn.Module):
    """A network whose output is made into something else."""

    def __init__(self, change: Callable[[Tensor], Any], classes: int = 3) -> None:
        super().__init__()
        self.net, self.change = Tiny(classes), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.net(x))


def pair(count: int = 12, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images and the labels that the network gives them."""
    batch = images(count, seed=1)
    with torch.no_grad():
        return batch, Tiny(classes)(batch).argmax(1)


def records(model: nn.Module, data: tuple[Tensor, Tensor], **options: Any) -> pd.DataFrame:
    """The records of a short sweep, without what Grad-CAM adds: another structure has another layer."""
    found = robustatt.sweep(model, data, **({"attacks": ["fgsm", "pgd"], "eps": "2,8"} | options)).records
    return found[[column for column in found if not column.startswith("drift")]]


@pytest.mark.parametrize(
    "change",
    [
        lambda z: (z, z.sum()),
        lambda z: [z],
        lambda z: {"logits": z, "loss": None},
        lambda z: Output(z, z[:, :1]),
    ],
    ids=["tuple", "list", "dict", "dataclass"],
)
def test_logits_are_taken_from_what_holds_them(change: Callable[[Tensor], Any]) -> None:
    pd.testing.assert_frame_equal(records(Returning(change), pair()), records(Returning(lambda z: z), pair()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z: (z.repeat(1, 4), z), "tuple of 2: shape"),  # features and logits: which is which?
        (lambda z: {"out": z}, "dict with keys out"),
        (lambda z: z[:, :, None], "(12, 3, 1)"),
        (lambda z: z.argmax(1), "int64"),
        (lambda _: "cat", "a str"),
    ],
)
def test_what_is_not_plain_is_one_line_with_the_way_out(change: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        records(Returning(change), pair())
    assert said in str(caught.value)
    assert "class Wrapped" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_is_the_two_column_network(flat: bool) -> None:
    def two(z: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(z[:, 0]), z[:, 1] - z[:, 0]], dim=1)

    def one(z: Tensor) -> Tensor:
        return (z[:, 1:] - z[:, :1]).flatten(0 if flat else 1)

    attacks = ["fgsm", "pgd", "apgd-ce"]
    twin = records(Returning(two, 2), pair(classes=2), attacks=attacks)
    pd.testing.assert_frame_equal(records(Returning(one, 2), pair(classes=2), attacks=attacks), twin)
    health = robustatt.sweep(Returning(one, 2), pair(classes=2), eps="2").health
    assert "one-logit" in [warning.code for warning in health]


class Casting(nn.Module):
    """Casts images itself, and gives logits in its own dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.given = Tiny().to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.to(self.given))
        return logits


class Autocasting(nn.Module):
    """Works in bfloat16 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.net(x)
        return logits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("casts", [False, True])
def test_models_of_other_dtypes_agree_with_their_weights_in_float32(dtype: torch.dtype, casts: bool) -> None:
    model = Casting(dtype) if casts else Tiny().to(dtype)
    upcast = Tiny().to(dtype).float()
    mine, theirs = records(model, pair(24)), records(upcast, pair(24))
    assert (mine["adv_pred"] == theirs["adv_pred"]).mean() >= 0.95
    assert (mine["distance"] - theirs["distance"]).abs().max() <= 8 / 255
    with frozen(model, "net", CPU, pair()[0]) as classifier:
        assert classifier.dtype == (torch.float32 if dtype == torch.float64 else dtype)
        assert classifier.logits(pair()[0]).dtype == torch.float32


def test_autocast_inside_runs_and_is_seen() -> None:
    assert (records(Autocasting(), pair())["adv_pred"] >= 0).all()
    with frozen(Autocasting(), "net", CPU, pair()[0]) as classifier:
        assert classifier.dtype == torch.bfloat16


class Averaging(nn.Module):
    """Logits that depend on each pixel by 2^-26 to 2^-28 only, where half precision ends at 2^-24."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0**-17, -(2.0**-18), 0.0], [0.0, 2.0**-17, 2.0**-18]]).half())

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) @ (self.weight / 8).T


def test_gradients_do_not_underflow_in_half_precision() -> None:
    batch, label = images(4), torch.tensor([0, 1, 0, 1])
    with frozen(Averaging(), "half", CPU, batch) as ours, frozen(Averaging().float(), "full", CPU, batch) as exact:
        mine = Oracle(ours.logits).query(batch, label, log_odds, gradient=True).grad
        true = Oracle(exact.logits).query(batch, label, log_odds, gradient=True).grad
    assert true is not None
    assert bool((true != 0).any())
    torch.testing.assert_close(mine, true, rtol=1e-3, atol=0.0)


def exported(batch: Any) -> nn.Module:
    """A program of torch.export, for one batch size or any."""
    shapes = None if isinstance(batch, int) else ({0: torch.export.Dim("n", min=1, max=512)},)
    example = torch.rand(batch if isinstance(batch, int) else 4, 3, 8, 8)
    return torch.export.export(Tiny().eval(), (example,), dynamic_shapes=shapes).module()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(Tiny()),
        lambda: torch.jit.trace(Tiny(), pair()[0]),
        lambda: torch.jit.freeze(torch.jit.script(Tiny().eval())),
        lambda: exported(None),
        lambda: exported(5),
    ],
    ids=["script", "trace", "frozen", "exported", "exported for 5 images"],
)
def test_compiled_programs_are_evaluated_like_modules(make: Callable[[], nn.Module]) -> None:
    mine, theirs = records(make(), pair()), records(Tiny(), pair())
    for column in ("adv_pred", "attacked", "zero_grad"):
        assert (mine[column] == theirs[column]).all()
    assert (mine["adv_margin"] - theirs["adv_margin"]).abs().max() < 1e-3


def test_a_callable_may_return_an_exported_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "program", lambda: exported(None), raising=False)
    program, plain = load_outside("planted.nets:program"), Tiny().eval()
    with torch.no_grad():
        assert torch.allclose(program(pair()[0]), plain(pair()[0]), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_constants_and_code_of_programs_decide_their_fingerprint() -> None:
    programs = [torch.jit.freeze(torch.jit.script(Tiny(seed=seed).eval())) for seed in (0, 1)]
    assert fingerprint(programs[0]) != fingerprint(programs[1])
    assert fingerprint(programs[0]) == fingerprint(torch.jit.freeze(torch.jit.script(Tiny().eval())))


class Without(nn.Module):
    """A network that gives no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


def test_without_gradients_black_box_attacks_work_and_it_is_said() -> None:
    result = robustatt.sweep(Without(), pair(), attacks=["fgsm", "square"], eps="8,64")
    assert "zero-gradient" in [warning.code for warning in result.health]
    assert result.curve("square")["accuracy"].iloc[-1] < 1
    assert result.records.loc[result.records["attack"] == "fgsm", "zero_grad"].any()


class Rooted(nn.Module):
    """NaN gradients at every pixel of at most 0.5: in the branch that is not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(torch.where(x > 0.5, x + (x - 0.5).sqrt(), x))
        return logits


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "apgd-ce", "mi-fgsm", "fmn", "fab-t"])
def test_nan_gradients_never_become_nan_images(attack: str) -> None:
    batch = pair()[0]
    with torch.no_grad():
        label = Rooted()(batch).argmax(1)
    result = robustatt.sweep(Rooted(), (batch, label), attacks=[attack], eps="8,64")
    assert result.records["distance"].notna().all()
    assert "nan-gradient" in [warning.code for warning in result.health]
    assert result.curve(attack)["accuracy"].iloc[-1] < 1


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """A default dtype for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms for a while."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "deterministic": deterministic,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "meta device": lambda: torch.device("meta"),
    "profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
}


def modes() -> tuple[Any, ...]:
    """The state that a caller could have set."""
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(), torch.get_default_device(), torch.is_anomaly_enabled(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_callers_mode_changes_no_number(mode: str, training: bool) -> None:
    usual = robustatt.sweep(Tiny().eval(), pair(), attacks=["fgsm", "pgd"], eps="2,8")
    model, data = Tiny().train(training), pair()
    with MODES[mode]():
        before = modes()
        found = robustatt.sweep(model, data, attacks=["fgsm", "pgd"], eps="2,8")
        assert modes() == before
    pd.testing.assert_frame_equal(found.records, usual.records, check_exact=True)
    assert [warning.code for warning in found.health] == [warning.code for warning in usual.health]
    assert all(part.training is training for part in model.modules())


def test_a_model_and_data_made_in_inference_mode() -> None:
    usual = records(Tiny(), pair())
    with torch.inference_mode():
        model, data = Tiny(), tuple(value.clone() for value in pair())
        inside = records(model, data)
    pd.testing.assert_frame_equal(inside, usual)
    pd.testing.assert_frame_equal(records(model, data), usual)


def test_modes_are_put_back_when_something_is_raised() -> None:
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(default_dtype(torch.float64))
        before = modes()
        with pytest.raises(KeyError), default_modes():
            raise KeyError("x")
        assert modes() == before


class Raising(nn.Module):
    """Raises from the given batch size on, or always."""

    def __init__(self, problem: BaseException, only_for: int = 0) -> None:
        super().__init__()
        self.net, self.problem, self.only_for = Tiny(), problem, only_for

    def forward(self, x: Tensor) -> Tensor:
        if not self.only_for or len(x) == self.only_for:
            try:
                raise self.problem
            except Exception as inner:
                raise RuntimeError("the forward pass failed") from inner
        logits: Tensor = self.net(x)
        return logits


@pytest.mark.parametrize("only_for", [0, 7])
@pytest.mark.parametrize("problem", [AssertionError("size 8 is not 224"), KeyError("x"), ZeroDivisionError()])
def test_what_a_model_raises_is_one_line_with_the_innermost_cause(problem: Exception, only_for: int) -> None:
    data = pair(7)
    with pytest.raises((InputError, RunInterrupted)) as caught:
        robustatt.sweep({"mine": Raising(problem, only_for)}, data, eps="8")
    assert "mine" in str(caught.value)
    assert describe(problem) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_take_a_batch_that_no_attack_needs_is_only_said_to_hang_on_it() -> None:
    found = robustatt.sweep({"mine": Raising(KeyError("x"), only_for=2)}, pair(7), eps="8")
    assert len(found.records) == 7 * 2
    (said,) = (note for note in found.summary["health"] if note["code"] == "batch-dependent")
    assert "cannot be had when it comes in another batch" in said["message"]


def test_describe() -> None:
    assert describe(ZeroDivisionError()) == "ZeroDivisionError"
    assert describe(ValueError("\n first \n second")) == "ValueError: first"


@pytest.mark.parametrize("problem", [RuntimeError("boom"), SystemExit(1)])
def test_the_unexpected_is_one_line_and_exit_3(
    problem: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("robustatt.cli.app", fail)
    assert main(["attacks"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("robustatt: ")
    assert said.count("\n") == 1
    assert "--traceback" in said
    assert main(["attacks", "--traceback"]) == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_nan_gradients_never_become_nan_images_in_other_libraries(tmp_path: Path) -> None:
    pytest.importorskip("torchattacks")
    recipe = tmp_path / "theirs.toml"
    recipe.write_text('name = "theirs"\nalgorithm = "torchattacks:PGD"\nnorm = "linf"\n')
    batch = pair()[0]
    with torch.no_grad():
        label = Rooted()(batch).argmax(1)
    result = robustatt.sweep(Rooted(), (batch, label), attacks=[str(recipe)], eps="64")
    assert result.records["distance"].notna().all()
    assert result.curve("theirs")["accuracy"].iloc[-1] < 1
