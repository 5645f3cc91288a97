"""Models of RobustBench (by a stand-in for its package) and of transformers (from a folder built here)."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustatt import models
from robustatt.cli import main
from robustatt.errors import InputError
from robustatt.models.external import facts, load_outside, own_statistics
from robustatt.plan import model_entries

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def robustbench(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in with the signature of RobustBench's loader; the list holds what it was called with."""
    calls: list[dict[str, Any]] = []
    zoo = {("cifar10", "Linf"): {"Small2024"}, ("cifar10", "L2"): {"Other2024"}}

    def load_model(
        model_name: str, model_dir: str = "./models", dataset: str = "cifar10", threat_model: str = "Linf"
    ) -> nn.Module:
        calls.append({"model_name": model_name, "dataset": dataset, "threat_model": threat_model, "model_dir": model_dir})
        zoo[dataset, threat_model].remove(model_name)
        zoo[dataset, threat_model].add(model_name)
        return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))

    package, utils = types.ModuleType("robustbench"), types.ModuleType("robustbench.utils")
    utils.load_model = load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    return calls


def test_robustbench_is_asked_for_data_and_threat_model(robustbench: list[dict[str, Any]]) -> None:
    got = models.resolve("robustbench:Small2024")
    assert got.module(IMAGES).shape == (3, 10)
    assert (got.source, got.module.training) == ("RobustBench", False)
    models.resolve("robustbench:Other2024", options={"threat_model": "L2", "model_dir": "elsewhere"})
    assert [(call["dataset"], call["threat_model"], call["model_dir"]) for call in robustbench] == [
        ("cifar10", "Linf", "./models"), ("cifar10", "L2", "elsewhere")
    ]  # fmt: skip
    with pytest.raises(InputError, match="no model 'Other2024' of dataset cifar10 and threat model Linf"):
        models.resolve("robustbench:Other2024")
    with pytest.raises(InputError, match="threat_modl"):
        models.resolve("robustbench:Small2024", options={"threat_modl": "L2"})


@pytest.mark.usefixtures("robustbench")
def test_robustbench_in_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "sweep",
        "--model",
        "mine=robustbench:Small2024",
        "--model-option",
        "threat_model=Linf",
        "--data",
        "digits",
        "-n",
        "6",
        "--eps",
        "8",
    ]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert "threat model Linf" in capsys.readouterr().out
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("spec", "package", "extra"), [("robustbench:Small2024", "robustbench", "robustbench"), ("hf:folder", "transformers", "hf")]
)
def test_a_missing_extra_is_one_line_with_the_command(
    spec: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["sweep", "--model", spec, "--data", "digits", "-n", "4", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"pip install 'robustatt[{extra}]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision transformer and its processor, as `save_pretrained` leaves them."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hf") / "vit"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=10,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(
        image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3], size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return folder


def test_hugging_face_logits_are_those_of_the_processor_and_model(saved: Path) -> None:
    import transformers

    pixels = (255 * IMAGES).round().to(torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(saved)
    bare = transformers.AutoModelForImageClassification.from_pretrained(saved).eval()
    inputs = processor(images=[image.permute(1, 2, 0).numpy() for image in pixels], return_tensors="pt")
    got = models.resolve(f"hf:{saved}")
    with torch.no_grad():
        torch.testing.assert_close(got.module(pixels / 255), bare(**inputs).logits, atol=1e-5, rtol=1e-4)
    assert got.source == "Hugging Face"
    assert "normalised by its own mean 0.4, 0.5, 0.6 and deviation 0.2, 0.25, 0.3" in facts(f"hf:{saved}", None, None)


def test_rescaling_of_the_processor_is_folded_in(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pixels = (255 * IMAGES).round().to(torch.uint8)
    processor = transformers.ViTImageProcessor(do_normalize=False, rescale_factor=1 / 127.5, size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path)
    found = own_statistics(f"hf:{tmp_path}")
    assert found is not None
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in found)
    inputs = processor(images=[image.permute(1, 2, 0).numpy() for image in pixels], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close((pixels / 255 - mean) / std, inputs, atol=1e-5, rtol=1e-4)


def test_hugging_face_without_a_processor_says_so(saved: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    assert "no normalisation is known" in facts(f"hf:{tmp_path}", None, None)
    plain, own = load_outside(f"hf:{tmp_path}"), load_outside(f"hf:{saved}", normalize="none")
    with torch.no_grad():
        assert torch.equal(plain(IMAGES), own(IMAGES))


def test_what_is_not_a_model_and_code_of_others_are_refused(saved: Path, tmp_path: Path) -> None:
    for name, options, said in ((tmp_path, {}, "building it raised"), (saved, {"trust_remote_code": True}, "never run")):
        with pytest.raises(InputError, match=said) as caught:
            models.resolve(f"hf:{name}", options=options)
        assert "\n" not in str(caught.value)


def test_attention_of_a_hugging_face_model_is_read_in_a_sweep(saved: Path, tmp_path: Path) -> None:
    entry = model_entries([f"vit=hf:{saved}"], [])[0]
    assert (entry.name, entry.spec) == ("vit", f"hf:{saved}")
    arguments = [
        "sweep",
        "--model",
        f"vit=hf:{saved}",
        "--data",
        "digits",
        "--input-size",
        "16",
        "-n",
        "6",
        "--eps",
        "8",
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    assert '"level": "rollout"' in (tmp_path / "summary.json").read_text()
