"""`robustatt attend`: pictures of any kind come in, maps of the pictures the network really saw come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TwoClassLinear, small_net

from robustatt import cli
from robustatt.attack import recipe_files as recipes
from robustatt.errors import InputError
from robustatt.evaluate.gradcam import grad_cam
from robustatt.models import load
from robustatt.studies.attend import (
    Picture,
    PictureRow,
    attend,
    attended_png,
    drift_by_head,
    heads_png,
    map_note,
    read_picture,
)


def photo(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    """A grey ramp from left to right with a white centre."""
    ramp = np.tile(np.linspace(0, 120, width, dtype=np.uint8), (height, 1))
    ramp[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 255
    Image.fromarray(ramp).convert(mode).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_any_format_becomes_the_central_square(tmp_path: Path, name: str, mode: str) -> None:
    picture = read_picture(photo(tmp_path / name, 96, 48, mode), 24)
    assert picture.pixels.shape == (3, 24, 24)
    assert picture.pixels.dtype == torch.uint8
    assert picture.fitted == "96 x 48 to 24 x 24: its central square, resized"
    assert int(picture.pixels[:, 12, 12].min()) > 240
    assert 20 < float(picture.pixels[:, 2, 2].float().mean()) < 60  # a quarter into the ramp, not its start


def test_a_picture_of_the_right_size_is_left_alone(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 32, 32)
    picture = read_picture(path, 32)
    assert picture.fitted.endswith("as it is")
    assert np.array_equal(picture.pixels.permute(1, 2, 0).numpy(), np.array(Image.open(path).copy()))


def test_transparent_parts_are_white_and_cameras_may_lie_on_their_side(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png", 16).pixels == 255).all()
    image = Image.new("RGB", (40, 40), "black")
    image.paste("white", (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    pixels = read_picture(tmp_path / "turned.jpg", 16).pixels.float()
    assert pixels[:, :6].mean() < 10
    assert pixels[:, 10:].mean() > 245


def test_maps_are_those_of_the_images_shown() -> None:
    network = load("vgg_att3", "digits")
    from robustatt import data

    pixels = data.load("digits").tensors(range(3))[0]
    seen = attend(network, "vgg_att3", [Picture(str(i), p, "") for i, p in enumerate(pixels)], recipes.load("fgsm"), "8/255")
    for one, image in zip(seen, pixels, strict=True):
        attacked = torch.from_numpy(one.entry.adversarial).permute(2, 0, 1)
        assert np.array_equal(one.entry.image, image.permute(1, 2, 0).numpy())
        assert float((attacked - image / 255).abs().max()) <= 8 / 255 + 1e-6
        with torch.no_grad():
            logits, maps = network.attend(torch.stack([image / 255, attacked.float()]))
        chance = logits.softmax(1)
        assert one.clean_probability == pytest.approx(float(chance[0].max()), abs=1e-4)
        assert one.adv_probability == pytest.approx(float(chance[1].max()), abs=1e-4)
        assert (one.entry.clean_pred, one.entry.adv_pred) == tuple(logits.argmax(1).tolist())
        for level, expected in zip(("l1", "l2", "l3"), maps, strict=True):
            for found, row in ((one.entry.clean_maps, 0), (one.entry.attacked_maps, 1)):
                np.testing.assert_allclose(found[level], expected[row].numpy(), atol=1e-5)


def test_a_network_without_attention_shows_its_saliency() -> None:
    net = small_net()
    pixels = torch.randint(0, 256, (2, 3, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    seen = attend(net, "net", [Picture(str(i), p, "") for i, p in enumerate(pixels)], recipes.load("fgsm"), "4/255")
    expected = grad_cam(net, pixels / 255)
    for one, cam in zip(seen, expected, strict=True):
        assert one.entry.levels == ["gradcam"]
        np.testing.assert_allclose(one.entry.clean_maps["gradcam"], cam.numpy(), atol=1e-4)
        assert "saliency" in map_note(one.entry)
    png = attended_png([PictureRow("x", "a 1 %", "b 2 %", one.entry) for one in seen], "net", "fgsm", "4/255")
    assert png.startswith(b"\x89PNG")


def test_a_network_without_any_map_still_shows_the_images() -> None:
    (one,) = attend(TwoClassLinear(), "linear", [Picture("a", torch.full((3, 8, 8), 90, dtype=torch.uint8), "")],
                    recipes.load("fgsm"), "8/255")  # fmt: skip
    assert one.entry.levels == []
    assert "neither" in map_note(one.entry)
    assert attended_png([PictureRow("a", "", "", one.entry)], "linear", "fgsm", "8/255")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [photo(tmp_path / "one.png", 50, 40), photo(tmp_path / "two.jpg", 32, 32)]
    out = tmp_path / "maps.png"
    arguments = ["attend", *map(str, paths), "--model", "vgg_att3", "--data", "digits", "--attack", "fgsm"]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "50 x 40 to 32 x 32: its central square, resized" in printed
    assert "32 x 32 to 32 x 32: as it is" in printed
    assert "Maps: attention" in printed
    assert printed.count(" %") >= 4
    with Image.open(out) as image:
        width, height = image.size
    assert width > 2000
    assert height > 300


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cut.jpg"], "cut.jpg is a damaged image"),
        (["text.png"], "text.png is not an image, or is damaged"),
        (["none.png"], "no image none.png"),
        (["."], "no image ."),
        (["good.png", "--eps", "1..4"], "--eps 1..4: give one radius"),
        (["good.png", "--eps", "0"], "--eps 0: give one radius"),
        (["good.png", "--eps", "999"], "--eps 999: give one radius"),
        (["good.png", "--attack", "fgms"], "fgsm"),
        (["good.png", "--input-size", "4"], "--input-size 4"),
        (["good.png", "--weights", "none.st"], "--weights none.st"),
        (["good.png", "--seed", "-1"], "--seed -1"),
        (["good.png"] * 51, "at most 50"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "good.png", 32, 32)
    whole = photo(tmp_path / "whole.jpg", 200, 200).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    before = set(tmp_path.iterdir())
    assert cli.main(["attend", *arguments, "--model", "vgg", "--data", "digits"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_pictures_of_another_size_are_refused_by_side() -> None:
    with pytest.raises(InputError, match="input-size"):
        read_picture(Path("any"), 5000)


def tokens_net() -> torch.nn.Module:
    """A transformer of 16 patches and 4 heads whose first head looks at all patches alike, whatever the image."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Conv2d(3, 16, 4, 4)
            self.attend_to = torch.nn.MultiheadAttention(16, 4, batch_first=True)
            self.classify = torch.nn.Linear(16, 10)
            with torch.no_grad():
                self.attend_to.in_proj_weight[:4] = 0  # the queries of the first head
                self.attend_to.in_proj_weight[4:32] *= 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            return self.classify(self.attend_to(tokens, tokens, tokens)[0].mean(1))

    torch.manual_seed(0)
    return Net().eval()


def test_drift_by_head_is_that_of_each_heads_own_map(tmp_path: Path) -> None:
    shown = [read_picture(photo(tmp_path / f"{side}.png", side, 48), 16) for side in (48, 96)]
    network = tokens_net()
    seen = attend(network, "tokens", shown, recipes.load("pgd"), "32/255")
    moved = drift_by_head(network, "tokens", seen, "block1")
    assert moved.shape == (2, 4)
    assert moved[:, 0].abs().max() < 1e-6  # uniform before and after
    assert (moved[:, 1:] > 1e-4).all()
    assert heads_png(["a.png", "b.png"], moved, "Drift")[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="did you mean 'block1'"):
        drift_by_head(network, "tokens", seen, "block2")
    plain = small_net()
    seen = attend(plain, "small", shown, recipes.load("fgsm"), "8/255")
    with pytest.raises(InputError, match="none of its levels has heads"):
        drift_by_head(plain, "small", seen, "l1")
