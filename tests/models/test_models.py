"""The networks against the paper's numbers, attention against a plain loop, checkpoints against damage."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.fx.experimental.optimization import fuse
from torch.utils.flop_counter import FlopCounterMode

from robustatt import models
from robustatt.errors import InputError
from robustatt.models.attention import Attention
from robustatt.models.card import Card, read_card
from robustatt.models.checkpoint import load_checkpoint, save_checkpoint
from robustatt.models.families import FAMILIES, baseline_of

VGG_NAMES = ("vgg", "vgg_gap", "vgg_pan", "vgg_att1", "vgg_att2", "vgg_att3", "vgg_att2_indep_dp", "vgg_cbam")
RESNET_NAMES = ("resnet164", "resnet164_att1", "resnet164_att2")


def small(name: str, **options: object) -> models.Network:
    """A network small enough for a test, with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    if name.startswith("resnet"):
        options = {"depth": 11, **options}
    network = models.build(name, classes=7, width=0.0625, **options)
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(8, 3, 32, 32))
    return network.eval()


def card_of(network: models.Network) -> Card:
    it = network.architecture
    return Card(
        name=it.name, options=dict(it.options), width=it.width, classes=it.classes,
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), data="digits",
    )  # fmt: skip


def test_everything_listed_is_there_and_no_module_takes_its_place() -> None:
    modules = {path.stem for path in Path(models.__file__).parent.glob("*.py")}
    assert not modules & set(models.__all__)
    assert all(callable(getattr(models, name)) for name in models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        models.nothing  # noqa: B018


def test_sizes_are_the_papers() -> None:
    rows = {row.name: row for row in models.catalogue()}
    assert round(rows["vgg"].parameters / 1e6, 1) == 15.0
    assert round(rows["vgg"].gflop, 2) == 0.63
    assert round(rows["vgg_att3"].parameters / 1e6, 1) == 19.9
    assert round(rows["vgg_att3"].gflop, 1) == 7.6
    assert round(rows["resnet164"].parameters / 1e6, 1) == 1.7
    assert tuple(rows) == models.names()


@pytest.mark.parametrize("name", models.names())
def test_what_is_stated_of_a_network_is_what_it_has(name: str) -> None:
    with torch.device("meta"):
        network = models.build(name).eval()
        image = torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    assert counter.get_total_flops() / 1e9 == pytest.approx(FAMILIES[name].gflop, abs=1e-6)
    assert sum(parameter.numel() for parameter in network.parameters()) == FAMILIES[name].parameters
    assert network.levels == FAMILIES[name].levels


@pytest.mark.parametrize(
    ("name", "levels", "sides"),
    [
        ("vgg", (), ()),
        ("vgg_gap", ("l3",), (8,)),
        ("vgg_pan", ("l2", "l3"), (16, 8)),
        ("vgg_att1", ("l3",), (8,)),
        ("vgg_att2", ("l2", "l3"), (16, 8)),
        ("vgg_att3", ("l1", "l2", "l3"), (32, 16, 8)),
        ("vgg_cbam", ("l1", "l2", "l3"), (32, 16, 8)),
        ("vit", ("block1", "block2", "block3", "block4", "block5", "block6", "rollout"), (8,) * 7),
        ("resnet164_att1", ("l3",), (8,)),
        ("resnet164_att2", ("l2", "l3"), (16, 8)),
    ],
)
def test_map_sizes_are_the_papers(name: str, levels: tuple[str, ...], sides: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = models.build(name).eval()
        logits, maps = network.attend(torch.empty(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert network.levels == levels
    assert [tuple(m.shape) for m in maps] == [(2, side, side) for side in sides]


@pytest.mark.parametrize(
    ("label", "baseline"),
    [
        ("vgg_att1", "vgg"), ("vgg_att2_indep_dp", "vgg"), ("vgg_att3_adv", "vgg"), ("resnet164_att2", "resnet164"),
        ("vgg_cbam", "vgg"), ("vgg", ""), ("vgg_gap", ""), ("vgg_pan", ""), ("mine_att2", "mine"), ("mine", ""),
    ],
)  # fmt: skip
def test_a_network_is_compared_with_the_baseline_of_its_family(label: str, baseline: str) -> None:
    assert baseline_of(label) == baseline


def test_baselines_are_networks_without_attention() -> None:
    compared = {name: family.baseline for name, family in FAMILIES.items() if family.baseline}
    levels = {row.name: row.levels for row in models.catalogue()}
    assert all(levels[name] and not levels[baseline] for name, baseline in compared.items())


def test_the_attended_widths_are_the_papers() -> None:
    with torch.device("meta"):
        network = models.build("vgg_att3").eval()
        assert network.features(torch.empty(2, 3, 32, 32)).shape == (2, 256 + 512 + 512)
        assert models.build("resnet164_att2").eval().features(torch.empty(2, 3, 32, 32)).shape == (
            2,
            128 + 256,
        )
    project = network.attention[0].project
    assert [type(layer) for layer in project] == [nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]
    assert tuple(project[3].weight.shape) == (256, 512)
    assert isinstance(network.attention[1].project, nn.Identity)


def test_dropout_stands_where_the_paper_has_it() -> None:
    with torch.device("meta"):
        rates = [m.p for m in models.build("vgg").modules() if isinstance(m, nn.Dropout)]
        halved = [m.p for m in models.build("vgg", dropout=0.5).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5, 0.5]
    assert halved == [rate / 2 for rate in rates]


@pytest.mark.parametrize("compatibility", ["pc", "dp"])
@pytest.mark.parametrize("query", [6, 9])
def test_attention_equals_a_plain_loop(compatibility: str, query: int) -> None:
    torch.manual_seed(1)
    attention = Attention(6, query, compatibility, 0.5).double().eval()
    features = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    g = torch.randn(3, query, dtype=torch.float64)
    vector, weights = attention(features, g)
    projected = attention.project(g)
    for b in range(3):
        scores = []
        for i in range(4):
            for j in range(5):
                local = features[b, :, i, j]
                if compatibility == "pc":
                    u, bias = attention.score.weight[0], attention.score.bias[0]
                    scores.append((u * (local + projected[b])).sum() + bias)
                else:
                    scores.append((local * projected[b]).sum())
        shares = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        total = torch.zeros(6, dtype=torch.float64)
        for place, share in enumerate(shares):
            total += share * features[b, :, place // 5, place % 5]
        torch.testing.assert_close(weights[b].flatten(), shares, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(vector[b], total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*VGG_NAMES, *RESNET_NAMES, "vit"])
@pytest.mark.parametrize("side", [32, 50])
def test_maps_are_distributions(name: str, side: int) -> None:
    network = small(name)
    x = torch.rand(3, 3, side, side)

    @jaxtyped(typechecker=beartype)
    def shapes(logits: Float[Tensor, "b classes"], maps: list[Float[Tensor, "b _h _w"]]) -> None:
        assert logits.shape[1] == 7
        assert len(maps) == len(network.levels)

    with torch.no_grad():
        logits, maps = network.attend(x)
        torch.testing.assert_close(network(x), logits)
        assert network.features(x).shape[0] == 3
    shapes(logits, maps)
    for weights in maps:
        assert bool((weights >= 0).all())
        torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(3))


def test_an_even_activation_map_is_uniform() -> None:
    network = small("vgg_gap")
    with torch.no_grad():
        network.classify.weight.zero_()
        _, (weights,) = network.attend(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(weights, torch.full((2, 8, 8), 1 / 64))


@pytest.mark.parametrize("name", [*VGG_NAMES, *RESNET_NAMES])
def test_batch_norm_folds_into_the_convolutions(name: str) -> None:
    network = small(name)
    x = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(symbolic_trace(network)(x), expected)
        folded = fuse(network).to(memory_format=torch.channels_last)
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)
    if name.startswith("vgg"):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_the_parametrised_score_does_not_see_the_global_descriptor() -> None:
    attention = Attention(6, 6, "pc", 0.0).double().eval()
    features = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    one = attention(features, torch.randn(2, 6, dtype=torch.float64))[1]
    other = attention(features, torch.randn(2, 6, dtype=torch.float64))[1]
    torch.testing.assert_close(one, other)


def test_indep_head_sums_the_logits_of_the_levels() -> None:
    network = small("vgg_att2_indep")
    vectors = [torch.rand(2, part.in_features) for part in network.head.classify]
    parts = [c(p(v)) for c, p, v in zip(network.head.classify, network.head.prepare, vectors, strict=True)]
    torch.testing.assert_close(network.head(vectors), parts[0] + parts[1])


def test_names_and_options() -> None:
    assert models.canonical("vgg_att2_dp_indep") == "vgg_att2_indep_dp"
    assert models.canonical("vgg_att2_concat_pc") == "vgg_att2"
    network = models.build("vgg_att2_dp", width=0.03125, head="indep")
    assert network.architecture.name == "vgg_att2_indep_dp"
    again = models.build(network.architecture.name, width=0.03125, **dict(network.architecture.options))
    assert again.architecture == network.architecture


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("vgg_at3", {}, "did you mean 'vgg_att3'"),
        ("vgg_att3_indep_indep", {}, "unknown model"),
        ("vgg_dp", {}, "no compatibility"),
        ("vgg_pan_indep", {}, "no head"),
        ("vgg_att1", {"compatibilty": "dp"}, "did you mean 'compatibility'"),
        ("vgg_att1_dp", {"compatibility": "pc"}, "says compatibility dp"),
        ("vgg_att1", {"head": "concatt"}, "did you mean 'concat'"),
        ("vgg", {"width": 0.0}, "width"),
        ("vgg", {"width": float("nan")}, "width"),
        ("vgg", {"classes": 1}, "classes"),
        ("vgg", {"dropout": -1.0}, "dropout"),
        ("vgg", {"mean": (0.5, 0.5)}, "three numbers"),
        ("vgg", {"std": (0.5, 0.5, 0.0)}, "above 0"),
        ("vgg", {"input_size": 16}, "input_size"),
        ("resnet164", {"depth": 165}, "9n + 2"),
        ("vgg", {"depth": 164}, "unknown option 'depth'"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(name: str, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        models.build(name, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_round_trip(tmp_path: Path, half: bool) -> None:
    network = small("vgg_att2_indep", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    path = tmp_path / "deep" / "w.safetensors"
    save_checkpoint(path, network.state_dict(), card_of(network), half=half)
    again, card = load_checkpoint(path)
    assert card == card_of(network) == read_card(path)
    assert not again.training
    assert all(t.dtype == torch.float32 for t in again.state_dict().values() if t.is_floating_point())
    x = torch.rand(2, 3, 32, 32)
    tolerance = 1e-2 if half else 0.0
    torch.testing.assert_close(again(x), network(x), rtol=tolerance, atol=tolerance)
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    network = small("vgg")
    save_checkpoint(tmp_path / "w.safetensors", network.state_dict(), card_of(network))
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "w.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    network = small("vgg_att1")
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, network.state_dict(), card_of(network))
    whole = path.read_bytes()
    bad = {
        "cut in the weights": whole[: len(whole) // 2],
        "cut in the header": whole[:100],
        "text": b"not weights at all",
        "empty": b"",
        "endless header": struct.pack("<Q", 2**60) + b"{}",
    }
    for content in bad.values():
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a complete safetensors file") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no weights file"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_weights_of_another_architecture_name_the_first_tensor(tmp_path: Path) -> None:
    network = small("vgg_att1")
    path = tmp_path / "w.safetensors"
    wide = card_of(network).model_copy(update={"width": 0.125})
    save_checkpoint(path, network.state_dict(), wide)
    with pytest.raises(InputError, match=r"bottom\.0\.0\.weight has shape \(4, 3, 3, 3\), expected \(8, 3, 3, 3\)"):
        load_checkpoint(path)
    save_checkpoint(path, network.state_dict(), card_of(network).model_copy(update={"name": "vgg"}))
    with pytest.raises(InputError, match="its card asks for a network that cannot be built: unknown option"):
        load_checkpoint(path)
    save_checkpoint(path, network.state_dict(), card_of(network).model_copy(update={"name": "vgg_pan"}))
    with pytest.raises(InputError, match="its card asks"):
        load_checkpoint(path)
    save_checkpoint(path, network.state_dict(), card_of(small("vgg")))
    with pytest.raises(InputError, match=r"tensor trunk\.0\.0\.weight is missing, expected shape \(4, 3, 3, 3\)"):
        load_checkpoint(path)
    save_checkpoint(path, small("vgg_att2").state_dict(), card_of(network))
    with pytest.raises(InputError, match=r"expected|not part of this network"):
        load_checkpoint(path)
    state = network.state_dict()
    state["head.classify.bias"] = torch.full((7,), torch.nan)
    save_checkpoint(path, state, card_of(network))
    with pytest.raises(InputError, match="NaN"):
        load_checkpoint(path)


def test_a_card_that_is_missing_or_wrong_is_said(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="no card"):
        load_checkpoint(path)
    for card, said in (("{", "card"), (json.dumps({"name": "vgg"}), "width")):
        save_file({"a": torch.zeros(1)}, path, metadata={"card": card})
        with pytest.raises(InputError, match=said):
            load_checkpoint(path)


def test_an_unwritable_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    network = small("vgg")
    with pytest.raises(InputError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "w.safetensors", network.state_dict(), card_of(network))


def test_bundled_weights_load_and_say_what_they_are() -> None:
    have = models.bundled()
    assert {"vgg", "vgg_att3"} <= set(have["digits"])
    for data, stems in have.items():
        for stem in stems:
            path = models.bundled_path(stem, data)
            assert path.stat().st_size < 2_000_000
            _, card = models.load_checkpoint(path)
            assert card.data == data
            assert stem in (card.name, f"{card.name}_adv")
            if data == "digits":
                assert card.clean_accuracy is not None
                assert card.clean_accuracy >= (0.98 if stem.startswith("vgg") else 0.95)
    with pytest.raises(InputError, match="did you mean 'vgg_att3'"):
        models.load("vgg_att3_dp", "digits")
    with pytest.raises(InputError, match="no weights are bundled for data 'moon'"):
        models.load("vgg", "moon")
    with pytest.raises(InputError, match=r"say --weights .*cub20/vgg_att2\.safetensors"):
        models.load("vgg_att2", "/data/cub20")


def test_stored_kernels_are_half_and_vectors_full(tmp_path: Path) -> None:
    network = small("vgg")
    save_checkpoint(tmp_path / "w.safetensors", network.state_dict(), card_of(network), half=True)
    stored = load_file(tmp_path / "w.safetensors")
    assert stored["trunk.0.0.weight"].dtype == torch.float16
    assert stored["normalise.mean"].dtype == torch.float32
    assert stored["trunk.0.1.running_var"].dtype == torch.float32
