"""Maps of transformers from timm, torchvision and Hugging Face against their formula in float64, from the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustatt
from robustatt.attention import find
from robustatt.errors import InputError

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DOUBLE = torch.float64


def livened(model: nn.Module) -> nn.Module:
    """The model in evaluation mode with larger weights, so that its attention is far from even."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def timm_vit(fused: bool = True, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "depth": 3, "num_classes": 5} | options
    model = timm.create_model("vit_tiny_patch16_224", **options)
    for block in model.blocks:
        block.attn.fused_attn = fused
    return livened(model)


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    return livened(VisionTransformer(32, 8, 3, 4, 48, 96, num_classes=5))


def hugging_face_vit(implementation: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, image_size=32, patch_size=8,
        num_labels=5, attn_implementation=implementation,
    )  # fmt: skip
    return livened(transformers.ViTForImageClassification(config))


def by_hand(inputs: list[Tensor], weight: Tensor, bias: Tensor, heads: int) -> list[Tensor]:
    """The weights ``(n, heads, tokens, tokens)`` of each block from what enters its projection to q and k, a loop a head."""
    found = []
    for x, w, b in zip(inputs, weight, bias, strict=True):
        width = x.shape[2]
        q, k = (x @ w[i * width : (i + 1) * width].T + b[i * width : (i + 1) * width] for i in range(2))
        per = width // heads
        scores = [
            q[..., h * per : (h + 1) * per] @ k[..., h * per : (h + 1) * per].transpose(1, 2) / math.sqrt(per)
            for h in range(heads)
        ]
        found.append(torch.stack([(s - s.amax(2, keepdim=True)).exp() for s in scores], 1))
        found[-1] /= found[-1].sum(3, keepdim=True)
    return found


def entering(model: nn.Module, names: list[str], images: Tensor) -> list[Tensor]:
    """What enters submodules of a copy of the model in float64."""
    seen: list[Tensor] = []
    model = copy.deepcopy(model).double()
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(images.double())
    return seen


def of_timm(model: nn.Module) -> list[Tensor]:
    parts = [block.attn for block in model.blocks]
    inputs = entering(model, [f"blocks.{i}.attn" for i in range(3)], IMAGES)
    return by_hand(
        inputs, torch.stack([p.qkv.weight for p in parts]).double(), torch.stack([p.qkv.bias for p in parts]).double(), 3
    )


def of_torchvision(model: nn.Module) -> list[Tensor]:
    names = [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
    parts = [model.get_submodule(f"{name}.self_attention") for name in names]
    inputs = entering(model, [f"{name}.self_attention" for name in names], IMAGES)
    weight, bias = (torch.stack([getattr(p, f"in_proj_{kind}") for p in parts]).double() for kind in ("weight", "bias"))
    return by_hand(inputs, weight, bias, 4)


def of_hugging_face(model: nn.Module) -> list[Tensor]:
    names = sorted(name.removesuffix(".q_proj") for name, _ in model.named_modules() if name.endswith(".q_proj"))
    parts = [(model.get_submodule(f"{name}.q_proj"), model.get_submodule(f"{name}.k_proj")) for name in names]
    inputs = entering(model, [f"{name}.q_proj" for name in names], IMAGES)
    weight, bias = (
        torch.stack([torch.cat([getattr(p, kind) for p in pair]) for pair in parts]).double() for kind in ("weight", "bias")
    )
    return by_hand(inputs, weight, bias, 4)


CASES = {
    "timm fused": (lambda: timm_vit(fused=True), of_timm),
    "timm not fused": (lambda: timm_vit(fused=False), of_timm),
    "torchvision": (torchvision_vit, of_torchvision),
    "hugging face sdpa": (lambda: hugging_face_vit("sdpa"), of_hugging_face),
    "hugging face eager": (lambda: hugging_face_vit("eager"), of_hugging_face),
}


def rolled(weights: list[Tensor]) -> Tensor:
    """Abnar & Zuidema 2020, a loop over images and blocks."""
    found = []
    for image in range(len(weights[0])):
        product = torch.eye(weights[0].shape[2], dtype=DOUBLE)
        for block in weights:
            product = (0.5 * block[image].mean(0) + 0.5 * torch.eye(len(product), dtype=DOUBLE)) @ product
        found.append(product)
    return torch.stack(found)


def patches(row: Tensor) -> Tensor:
    return (row[:, 1:] / row[:, 1:].sum(1, keepdim=True)).view(-1, 4, 4)


@pytest.mark.parametrize(("build", "by_formula"), CASES.values(), ids=CASES)
def test_maps_and_rollout_are_those_of_the_formula(build: Any, by_formula: Any) -> None:
    model = build()
    weights = by_formula(model)
    with torch.no_grad():
        plain = model(IMAGES)
    logits, maps = robustatt.attention_maps(model, IMAGES)
    torch.testing.assert_close(logits, getattr(plain, "logits", plain), rtol=1e-4, atol=1e-5)
    assert list(maps) == ["block1", "block2", "block3", "rollout"]
    for name, block in zip(maps, weights, strict=False):
        torch.testing.assert_close(maps[name].double(), patches(block.mean(1)[:, 0]), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(maps["rollout"].double(), patches(rolled(weights)[:, 0]), rtol=1e-3, atol=1e-6)
    assert max(float((level - 1 / 16).abs().max()) for level in maps.values()) > 0.02  # not even anyway
    _, one = robustatt.attention_maps(model, IMAGES, heads=1, levels=["block2"])
    torch.testing.assert_close(one["block2"].double(), patches(weights[1][:, 1, 0]), rtol=1e-3, atol=1e-6)
    _, most = robustatt.attention_maps(model, IMAGES, "block3", heads="max")
    torch.testing.assert_close(most["block3"].double(), patches(weights[2].amax(1)[:, 0]), rtol=1e-3, atol=1e-6)


def windows_by_hand(block: nn.Module, x: Tensor) -> Tensor:
    """The map of a Swin block of torchvision from its input ``(n, side, side, c)``: a loop over positions in float64."""
    attn, side, (size, _), shift = block.attn, x.shape[1], block.attn.window_size, block.attn.shift_size[0]
    shift = 0 if size >= side else shift
    heads, per = attn.num_heads, x.shape[3] // attn.num_heads
    bias = attn.get_relative_position_bias().double()[0]
    x = nn.functional.layer_norm(x, x.shape[3:], block.norm1.weight.double(), block.norm1.bias.double(), block.norm1.eps)
    qkv = x @ attn.qkv.weight.double().T + attn.qkv.bias.double()
    received = torch.zeros(x.shape[:3], dtype=DOUBLE)

    def region(row: int, column: int) -> tuple[int, int]:
        bands = [0 if place < side - size else 1 if place < side - shift else 2 for place in (row, column)]
        return bands[0], bands[1]

    for image in range(len(x)):
        for top in range(0, side, size):
            for left in range(0, side, size):
                cells = [(top + i, left + j) for i in range(size) for j in range(size)]  # of the shifted image
                true = [((i + shift) % side, (j + shift) % side) for i, j in cells]
                tokens = torch.stack([qkv[image, i, j] for i, j in true])
                for head in range(heads):
                    q, k = (tokens[:, part * x.shape[3] + head * per : part * x.shape[3] + (head + 1) * per] for part in (0, 1))
                    scores = q @ k.T / math.sqrt(per) + bias[head]
                    if shift:
                        apart = torch.tensor([[region(*a) != region(*b) for b in cells] for a in cells])
                        scores = scores - 100.0 * apart
                    weights = scores.softmax(1)
                    for place, (i, j) in enumerate(true):
                        received[image, i, j] += weights[:, place].mean() / heads
    return received / received.sum((1, 2), keepdim=True)


def test_shifted_windows_are_put_back_in_place() -> None:
    from torchvision.models import SwinTransformer

    torch.manual_seed(0)
    model = livened(SwinTransformer([2, 2], 12, [2, 2], [2, 2], [4, 4], num_classes=5))
    blocks = {"features.1.0": "block1", "features.1.1": "block2", "features.3.1": "block4"}
    inputs = entering(model, list(blocks), IMAGES)
    _, maps = robustatt.attention_maps(model, IMAGES)
    assert list(maps) == ["block1", "block2", "block3", "block4"]
    for (name, level), x in zip(blocks.items(), inputs, strict=True):
        with torch.no_grad():
            expected = windows_by_hand(model.get_submodule(name), x)
        torch.testing.assert_close(maps[level].double(), expected, rtol=1e-3, atol=1e-6)


def unfused_swin() -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=12,
                              depths=(2, 2), num_heads=(2, 2), num_classes=5)  # fmt: skip
    for block in (block for stage in model.layers for block in stage.blocks):
        block.attn.fused_attn = False
    return livened(model)


def test_windows_of_a_softmax_are_those_of_a_fused_attention() -> None:
    slow = unfused_swin()
    fast = copy.deepcopy(slow)
    for block in (block for stage in fast.layers for block in stage.blocks):
        block.attn.fused_attn = True
    one, other = robustatt.attention_maps(slow, IMAGES)[1], robustatt.attention_maps(fast, IMAGES)[1]
    assert list(one) == list(other) == ["block1", "block2", "block3", "block4"]
    for level in one:
        torch.testing.assert_close(one[level], other[level], rtol=1e-3, atol=1e-6)


class Encoder(nn.Module):
    """nn.TransformerEncoder as people use it, class token first; its fast path computes no weights that anyone sees."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(16, 5)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).transpose(1, 2)], 1)
        x = self.encoder(x) if self.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x[:, 0])


def test_the_fast_path_of_pytorchs_encoder_is_seen_through() -> None:
    ours, theirs = Encoder().eval(), Encoder(batch_first=False).eval()
    theirs.load_state_dict(ours.state_dict())
    (logits, maps), (_, again) = (robustatt.attention_maps(model, IMAGES) for model in (ours, theirs))
    with torch.no_grad():
        torch.testing.assert_close(logits, ours(IMAGES))
        x = torch.cat([ours.token.expand(3, -1, -1), ours.embed(IMAGES).flatten(2).transpose(1, 2)], 1)
        _, weights = ours.encoder.layers[0].self_attn(x, x, x, need_weights=True)
    assert list(maps) == ["block1", "block2", "rollout"]
    torch.testing.assert_close(maps["block1"], patches(weights[:, 0]))
    for level in maps:
        torch.testing.assert_close(maps[level], again[level])


def test_registers_and_no_class_token() -> None:
    registers = timm_vit(reg_tokens=4, depth=2)
    _, maps = robustatt.attention_maps(registers, IMAGES)
    assert [tuple(level.shape) for level in maps.values()] == [(3, 4, 4)] * 3
    inputs = entering(registers, ["blocks.0.attn"], IMAGES)
    attn = registers.blocks[0].attn
    weights = by_hand(inputs, attn.qkv.weight.double()[None], attn.qkv.bias.double()[None], 3)[0].mean(1)
    row = weights[:, 0, 5:]
    torch.testing.assert_close(maps["block1"].double().flatten(1), row / row.sum(1, keepdim=True), rtol=1e-3, atol=1e-6)
    without = timm_vit(class_token=False, global_pool="avg", depth=2)
    inputs = entering(without, ["blocks.0.attn"], IMAGES)
    attn = without.blocks[0].attn
    weights = by_hand(inputs, attn.qkv.weight.double()[None], attn.qkv.bias.double()[None], 3)[0]
    _, maps = robustatt.attention_maps(without, IMAGES)
    torch.testing.assert_close(maps["block1"].double().flatten(1), weights.mean((1, 2)), rtol=1e-3, atol=1e-6)


def test_registers_without_a_class_token_are_queries_like_others() -> None:
    model = timm_vit(class_token=False, global_pool="avg", reg_tokens=2, depth=2)
    inputs = entering(model, ["blocks.0.attn"], IMAGES)
    attn = model.blocks[0].attn
    weights = by_hand(inputs, attn.qkv.weight.double()[None], attn.qkv.bias.double()[None], 3)[0]
    row = weights.mean((1, 2))[:, 2:]
    _, maps = robustatt.attention_maps(model, IMAGES)
    torch.testing.assert_close(maps["block1"].double().flatten(1), row / row.sum(1, keepdim=True), rtol=1e-3, atol=1e-6)


def test_the_model_is_left_as_it_was_also_after_an_error() -> None:
    model = timm_vit(depth=2).train()
    hooks = lambda: sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())  # noqa: E731
    before = (hooks(), torch.get_rng_state(), [p.requires_grad for p in model.parameters()])
    robustatt.attention_maps(model, IMAGES)
    reader = find(model.eval(), "m", IMAGES)
    model.head.in_features, right = 1, model.head.weight
    model.head.weight = nn.Parameter(torch.ones(5, 1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        reader.attend(model, IMAGES)
    model.head.weight = right
    assert hooks() == before[0] == 0
    assert torch.equal(torch.get_rng_state(), before[1])
    assert [p.requires_grad for p in model.parameters()] == before[2]
    assert torch.overrides._get_current_function_mode() is None


def test_a_copy_is_read_like_the_model_and_the_batch_changes_nothing() -> None:
    model = timm_vit(depth=2)
    reader = find(model, "m", IMAGES)
    with torch.no_grad():
        _, maps = reader.attend(copy.deepcopy(model), IMAGES)
        single = [reader.attend(model, image[None])[1] for image in IMAGES]
    for place, level in enumerate(maps):
        torch.testing.assert_close(level, torch.cat([one[place] for one in single]), rtol=1e-4, atol=1e-7)


def test_large_batches_are_weighed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm_vit(depth=2)
    reader = find(model, "m", IMAGES)
    with torch.no_grad():
        logits, whole = reader.attend(model, IMAGES)
        monkeypatch.setattr("robustatt.attention.listening.CHUNK", 3 * 17 * 17)
        again, parts = reader.attend(model, IMAGES)
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-5)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"levels": "blok2"}, "has no level 'blok2': did you mean 'block2'?"),
        ({"attention": "blocks.*.atn"}, "no level or submodule is of that name; the nearest are blocks."),
        ({"attention": "blocks.*.mlp.fc1"}, "no submodule of that name has a map, they return blocks.0.mlp.fc1 (3, 17, 768)"),
        ({"attention": "block9"}, "the nearest are blocks, block2, block1"),
        ({"attention": "none"}, "attention='none' reads no maps"),
        ({"heads": 7}, "level block1 has 3 heads, there is no head 7"),
        ({"heads": -1}, "heads=-1: give 'mean', 'max' or the number of a head"),
        ({"heads": True}, "heads=True: give"),
        ({"heads": "median"}, "heads='median': give"),
    ],
)
def test_what_cannot_be_had_is_one_line(arguments: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        robustatt.attention_maps(timm_vit(depth=2), IMAGES, **arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_picks_blocks_and_rollout() -> None:
    model = timm_vit(depth=12, num_heads=3)
    names = {
        "blocks.1?.attn": ["block11", "block12"], "block1": ["block1"], "rollout": ["rollout"],
        "blocks.0": ["block1"], "*": [*(f"block{i}" for i in range(1, 13)), "rollout"],
    }  # fmt: skip
    _, every = robustatt.attention_maps(model, IMAGES[:1])
    for pattern, expected in names.items():
        _, maps = robustatt.attention_maps(model, IMAGES[:1], attention=pattern)
        assert list(maps) == expected
        assert all(torch.allclose(maps[name], every[name]) for name in maps)


class Mirrored(Encoder):
    """An encoder asked twice, also for the mirrored image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x.flip(-1))


class Ensemble(nn.Module):
    """Two encoders beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Encoder(), Encoder()

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


class Repeated(Encoder):
    """Each layer called twice, one after the other, as networks with shared weights do."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).transpose(1, 2)], 1)
        for layer in self.encoder.layers:
            x = layer(layer(x))
        return self.head(x[:, 0])


@pytest.mark.parametrize(("build", "rolled"), [(Mirrored, False), (Ensemble, False), (Repeated, True)])
def test_only_blocks_one_after_the_other_are_multiplied(build: type[nn.Module], rolled: bool) -> None:
    _, maps = robustatt.attention_maps(build().eval(), IMAGES)
    assert list(maps) == ["block1", "block2", "block3", "block4", *(["rollout"] if rolled else [])]


def test_attention_between_channels_is_no_map() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("xcit_nano_12_p8_224", img_size=32, num_classes=5).eval()
    assert find(model, "xcit", IMAGES).levels == ("block13", "block14")  # class attention; the twelve before are of channels


def torchvision_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    torch.manual_seed(0)
    return livened(SwinTransformer([2, 2], 24, [2, 2], [3, 6], window_size=[4, 4], num_classes=5))


def test_images_of_another_size_are_read_at_that_size() -> None:
    """Wide and high pictures have the same number of positions, so a map may not be shaped by those of the first look."""
    model = torchvision_swin()
    generator = torch.Generator().manual_seed(2)
    wide, high = torch.rand(2, 3, 32, 48, generator=generator), torch.rand(2, 3, 48, 32, generator=generator)
    with torch.no_grad():
        reader = find(model, "swin", wide)
        assert [tuple(level.shape) for level in reader.attend(model, wide)[1]] == [(2, 16, 24)] * 2 + [(2, 8, 12)] * 2
        expected = find(model, "swin", high).attend(model, high)[1]
        for level, again in zip(expected, reader.attend(model, high)[1], strict=True):
            assert torch.equal(level, again)
            assert level.shape[1] > level.shape[2]


class Halving(nn.Module):
    """Attention over 64 tokens, then over every second row and column of them, as in LeViT: no features show the smaller grid."""

    def __init__(self, small_only: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.first, self.second = (nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)
        self.small_only = small_only

    def tokens(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        if self.small_only and x.shape[1] > 64:
            return x
        x = x + self.first(x, x, x)[0]
        side = math.isqrt(x.shape[1])
        return self.norm(x.view(len(x), side, side, -1)[:, ::2, ::2].flatten(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for _ in range(2):
            x = x + self.second(x, x, x)[0]
        return self.head(x.mean(1))


def test_every_second_row_and_column_of_the_tokens_is_a_grid() -> None:
    model = livened(Halving())
    with torch.no_grad():
        x = model.tokens(IMAGES)
        expected = model.second(x, x, x)[1].mean(1).view(3, 4, 4)
    _, maps = robustatt.attention_maps(model, IMAGES)
    assert [tuple(level.shape[1:]) for level in maps.values()] == [(8, 8), (4, 4), (4, 4)]
    torch.testing.assert_close(maps["block2"], expected, rtol=1e-4, atol=1e-7)


def test_other_levels_at_another_size_are_one_line() -> None:
    model = livened(Halving(small_only=True))
    reader = find(model, "mine", IMAGES)
    with pytest.raises(
        InputError, match=r"model 'mine': at 64x64 pixels its levels are block1, block2, .*, not block1, block2, block3"
    ):
        reader.attend(model, torch.rand(2, 3, 64, 64))


def test_attention_that_cannot_be_placed_is_not_said_to_be_missing() -> None:
    class BetweenChannels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 12, 4, 4)
            self.mix = nn.MultiheadAttention(64, 2, batch_first=True)
            self.head = nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2)
            return self.head(self.mix(x, x, x)[0].mean(1))

    reason = find(BetweenChannels().eval(), "mine", IMAGES).reason
    assert reason.startswith("it computes attention (mix), but which positions of the image are attended to cannot be told")
