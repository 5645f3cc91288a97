"""The gate as a whole: its error rates, and what it says of reruns and of disturbed weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gate_error_rates import RADII, World, alarm_rate, reruns, smallest_drop
from scipy.stats import binom
from tiny_models import images, small_net

from robustatt import cli
from robustatt.cli.compare import _power
from robustatt.results import statistics
from robustatt.results.summary import Difference


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_error_rates_small() -> None:
    assert alarm_rate(World(churn=0.03), 60) <= 0.05
    assert alarm_rate(World(drop=3.0), 60) == 1.0
    assert alarm_rate(World(drop=3.0, hit=1), 60) >= 0.8
    assert alarm_rate(World(drop=3.0), 60, max_drop=5.0) <= 0.05


def test_the_smallest_drop_that_is_caught() -> None:
    """Where nothing flips by itself, an alarm needs seven lost examples (0.5^7 < 0.01) and more than a point: 11 of 1,000."""
    accuracy = np.linspace(0.95, 0.25, RADII)
    for examples, lost in ((1000, 11), (200, 7)):
        drop = smallest_drop(World(hit=1, churn=0.0, examples=examples), 300)
        caught = [
            binom.sf(lost - 1, np.round(accuracy * examples), (drop + slack) / 100 / accuracy).mean() for slack in (-0.3, 0.3)
        ]
        assert caught[0] < 0.9 < caught[1]


@pytest.mark.slow
def test_error_rates_in_full() -> None:
    for churn in (0.002, 0.01, 0.03):
        assert alarm_rate(World(churn=churn), 1000) <= 0.01
        assert alarm_rate(World(drop=3.0, churn=churn), 1000) >= 0.9
    assert alarm_rate(World(drop=3.0, hit=1), 1000) >= 0.9


@pytest.fixture
def swept(tmp_path: Path) -> Callable[..., Path]:
    """Sweeps of one small network, from a weights file, into a folder."""
    batch = (images(100, 12) * 255).round()
    with torch.no_grad():
        label = small_net()(batch / 255).argmax(1)
    np.savez(tmp_path / "data.npz", images=batch.to(torch.uint8).numpy(), labels=label.numpy())

    def sweep(name: str, share: float = 0.0, *more: object) -> Path:
        state = small_net().state_dict()
        generator = torch.Generator().manual_seed(1)
        for key in ("features.4.weight", "head.weight"):
            state[key] += share * state[key].std() * torch.randn(state[key].shape, generator=generator)
        torch.save(state, tmp_path / f"{name}.pt")
        common = ["--data", tmp_path / "data.npz", "--eps", "4,8,16"]
        model = ["--model", "net=tiny_models:small_net", "--weights", tmp_path / f"{name}.pt"]
        assert run("sweep", *model, *common, *more, "--out", tmp_path / name) == 0
        return tmp_path / name

    return sweep


def test_disturbed_weights_fail_and_reruns_pass(
    swept: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, reference = swept("first"), tmp_path / "reference.json"
    assert run("check", first, "--update", reference) == 0
    before = torch.get_num_threads()
    try:
        for threads, batch in ((1, 7), (2, 64)):
            torch.set_num_threads(threads)
            again = swept(f"again-{threads}-{batch}", 0.0, "--batch-size", batch)
            assert run("check", again, "--reference", reference, "--same-weights") == 0
    finally:
        torch.set_num_threads(before)
    worse = swept("worse", 1.5)
    capsys.readouterr()
    assert run("check", worse, "--reference", reference, "--markdown", tmp_path / "new" / "check.md") == 1
    said = capsys.readouterr().out
    assert "regression: net under" in said
    assert "Compared although changed: weights of net" in said
    assert "Robustness check failed" in (tmp_path / "new" / "check.md").read_text()
    assert run("check", worse, "--reference", reference, "--same-weights") == 2
    assert "weights of net" in capsys.readouterr().out
    other = swept("seed", 0.0, "--seed", 1)
    assert run("check", other, "--reference", reference) == 2
    assert run("check", other, "--reference", reference, "--allow", "seed") == 0


def test_another_data_set_attack_or_grid_is_exit_2_and_named(
    swept: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = tmp_path / "reference.json"
    assert run("check", swept("first"), "--update", reference) == 0
    (tmp_path / "fgsm.toml").write_text('name = "fgsm"\nalgorithm = "fgsm"\nnorm = "l2"\n')
    (tmp_path / "other").mkdir()
    arrays = dict(np.load(tmp_path / "data.npz"))
    np.savez(tmp_path / "other" / "data.npz", images=arrays["images"][::-1], labels=arrays["labels"][::-1])
    changes = {
        "data (name): the reference has …": ("--data", tmp_path / "other" / "data.npz"),
        "fgsm (norm)": ("--attack", tmp_path / "fgsm.toml"),
        "attack fgsm": ("--attack", "pgd"),
        "eps: the reference has 16/255": ("--eps", "4,8"),
    }
    for named, flags in changes.items():
        out = swept(named[:4], 0.0, *flags)
        capsys.readouterr()
        assert run("check", out, "--reference", reference) == 2
        said = capsys.readouterr().out
        assert f"not comparable: {named}" in said, said
        assert f"robustatt check {out} --update {reference}" in said


def test_a_run_that_is_not_complete_is_to_be_finished(
    swept: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = swept("first")
    assert run("check", first, "--update", tmp_path / "r.json") == 0
    for file in (first / "records").iterdir():
        file.unlink()
    assert run("check", first, "--reference", tmp_path / "r.json") == 2
    said = capsys.readouterr().out
    assert "records of net under fgsm: the reference has 100 examples at 4 radii, this run has none" in said
    assert "run the sweep's command again" in said
    assert "--update" not in said


def test_files_that_cannot_be_written_are_one_line(
    swept: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = swept("first")
    (tmp_path / "file").write_text("")
    assert run("check", first, "--update", tmp_path / "file" / "r.json") == 2
    assert run("check", first, "--update", tmp_path / "r.json") == 0
    assert run("check", first, "--reference", tmp_path / "r.json", "--markdown", tmp_path / "file" / "c.md") == 2
    assert capsys.readouterr().err.count("cannot write") == 2


def counts(n: int, only_model: int, only_baseline: int) -> Difference:
    """A comparison of which only the counts matter."""
    return Difference.model_construct(n=n, only_model=only_model, only_baseline=only_baseline)


def test_compare_says_what_the_examples_can_show() -> None:
    """500 examples on which two models disagree on a fifth: the difference whose power is 80 % at 0.05 over four points."""
    rows = [counts(500, 60 - place, 40) for place in range(4)]
    least = statistics.detectable_difference(500, 0.2, 0.05 / 4)
    assert statistics.mcnemar_power(500, least, 0.2, 0.05 / 4) == pytest.approx(0.8, abs=1e-6)
    assert f"With 500 examples a true difference of {100 * least:.1f} points is detectable" in _power(rows)
    assert "take more" in _power([counts(9, 1, 0)])
    assert "take more" in _power([counts(9, 0, 0)])
    assert "in common" in _power([])


@pytest.mark.slow
def test_a_bundled_network_with_disturbed_weights() -> None:
    """Two thread counts and two batch sizes pass; disturbed weights fail."""
    rows = [line for line in reruns(60) if "thread" in line]
    assert [row.rstrip(" |")[-1] for row in rows] == ["0", "0", "0", "0", "1"], rows
