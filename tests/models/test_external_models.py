"""External networks: what can be named, which weights files are understood, that no file runs code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustatt import models
from robustatt.errors import InputError
from robustatt.models.card import AdversarialTraining
from robustatt.models.external import read_weights, statistics

SOURCE = """
import torch
from torch import nn

def build(hidden=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 4))

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = build()

instance = build()
number = 3

def fails():
    raise RuntimeError("no such thing\\nsecond line")

def gives_text():
    return "text"
"""


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outsiders.py").write_text(SOURCE)
    (tmp_path / "broken_outsiders.py").write_text("import no_such_module_at_all")
    (tmp_path / "raising_outsiders.py").write_text("raise ValueError('bad day')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "outsiders", raising=False)


def made() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    return network.state_dict()


def test_a_callable() -> None:
    got = models.resolve("outsiders:build")
    assert isinstance(got.module, nn.Sequential)
    assert (got.label, got.card, got.source) == ("outsiders:build", None, "random weights")
    assert not got.module.training
    again = models.resolve("outsiders:build")
    assert torch.equal(got.module[1].weight, again.module[1].weight)
    assert models.resolve("outsiders:build", options={"hidden": 7}).module[1].out_features == 7
    assert isinstance(models.resolve("outsiders:instance").module, nn.Sequential)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("outsiders:biuld", "did you mean build"),
        ("outsiders:number", "not a callable"),
        ("outsiders:fails", "RuntimeError: no such thing"),
        ("outsiders:gives_text", "returned a str"),
        ("no_such_package:build", "no Python module 'no_such_package'"),
        ("broken_outsiders:build", "no Python module 'no_such_module_at_all'"),
        ("raising_outsiders:build", "ValueError: bad day"),
        ("torchvision:resnet81", "did you mean resnet18"),
        ("vgg_at3", "did you mean 'vgg_att3'"),
    ],
)
def test_a_wrong_name_is_one_line(spec: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        models.resolve(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torchvision() -> None:
    got = models.resolve("torchvision:resnet18", classes=6, normalize="imagenet")
    with torch.no_grad():
        assert got.module(torch.rand(2, 3, 40, 40)).shape == (2, 6)


def test_timm_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(InputError, match=r"robustatt\[timm\]"):
        models.resolve("timm:resnet18")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
        lambda state: {key: value.double() if value.is_floating_point() else value for key, value in state.items()},
    ],
)
def test_the_forms_that_training_scripts_leave(tmp_path: Path, wrap: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save(wrap(made()), path)
    got = models.resolve("outsiders:build", weights=path)
    assert got.source == str(path)
    torch.testing.assert_close(got.module.state_dict()["3.weight"], made()["3.weight"])


def test_a_prefix_that_belongs_to_the_network_stays(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({f"model.{key}": value for key, value in made().items()}, path)
    got = models.resolve("outsiders:Wrapped", weights=path)
    assert torch.equal(got.module.state_dict()["model.3.weight"], made()["3.weight"])


def test_safetensors_and_folders_of_the_hub(tmp_path: Path) -> None:
    state = made()
    save_file(state, tmp_path / "w.safetensors")
    single, shards, pickled = tmp_path / "single", tmp_path / "shards", tmp_path / "pickled"
    for folder in (single, shards, pickled):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    save_file(state, single / "model.safetensors")
    torch.save(state, pickled / "pytorch_model.bin")
    places = {key: f"model-{place % 2}.safetensors" for place, key in enumerate(state)}
    for name in set(places.values()):
        save_file({key: state[key] for key in state if places[key] == name}, shards / name)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for path in (tmp_path / "w.safetensors", single, shards, pickled):
        got = models.resolve("outsiders:build", weights=path)
        assert torch.equal(got.module.state_dict()["1.weight"], state["1.weight"])
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../w.safetensors"}}))
    with pytest.raises(InputError, match="not a file in its folder"):
        read_weights(shards)
    with pytest.raises(InputError, match="neither"):
        read_weights(tmp_path)


class Malicious:
    """Pickles to a call that would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.mark, "ran")


@pytest.mark.parametrize("writer", [torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content))])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, writer: Any) -> None:
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    writer({"state_dict": made(), "extra": Malicious(mark)}, path)
    with pytest.raises(InputError, match="would run code") as caught:
        models.resolve("outsiders:build", weights=path)
    assert not mark.exists()
    assert "\n" not in str(caught.value)


def test_damaged_or_unfit_weights_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(made(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"w\.pth") as caught:
            read_weights(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no weights file"):
        read_weights(tmp_path / "none.pth")
    for content, said in (([1, 2], "holds a list"), ({"epoch": 3}, "no named tensors")):
        torch.save(content, path)
        with pytest.raises(InputError, match=said):
            read_weights(path)
    torch.save(made(), path)
    with pytest.raises(InputError, match=r"tensor 1\.weight has shape \(5, 12\), expected \(7, 12\)"):
        models.resolve("outsiders:build", weights=path, options={"hidden": 7})


def test_normalisation() -> None:
    assert statistics(None) is None
    assert statistics("none") is None
    assert statistics("0.1,0.2,0.3/1,2,4") == ((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    plain = models.resolve("outsiders:build").module
    wrapped = models.resolve("outsiders:build", normalize="0.5,0.5,0.5/0.25,0.5,1").module
    x = torch.rand(3, 3, 2, 2)
    scaled = (x - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(wrapped(x), plain(scaled))
    for wrong in ("imagnet", "1,2,3", "1,2/1,2", "a,b,c/1,1,1", "0,0,0/1,0,1", "nan,0,0/1,1,1", ""):
        with pytest.raises(InputError, match="normalisation"):
            statistics(wrong)


def test_family_names_take_bundled_weights_or_a_checkpoint(tmp_path: Path) -> None:
    got = models.resolve("vgg_att3")
    assert got.label == "vgg_att3"
    assert got.source == "bundled digits/vgg_att3.safetensors"
    assert got.card is not None
    path = models.bundled_path("vgg_att3")
    assert models.resolve("vgg_att3_pc", weights=path).label == "vgg_att3"
    with pytest.raises(InputError, match="holds vgg_att3, not vgg: say --model vgg_att3"):
        models.resolve("vgg", weights=path)
    card = got.card.model_copy(update={"adversarial": AdversarialTraining(method="fgsm", eps="8/255")})
    models.save_checkpoint(tmp_path / "adv.safetensors", got.module.state_dict(), card)
    assert models.resolve("vgg_att3", weights=tmp_path / "adv.safetensors").label == "vgg_att3_adv"
    with pytest.raises(InputError, match="leave out --normalize"):
        models.resolve("vgg_att3", normalize="imagenet")
