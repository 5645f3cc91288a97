"""Each row of the table in docs/data.md: the pixels of a file of known content, computed here by numpy alone."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import ROOT
from PIL import Image

from robustatt import cli, data
from robustatt.data.images import decode, open_picture, resize, upright_size
from robustatt.errors import InputError
from robustatt.studies.attend import read_picture
from robustatt.studies.segment.masks import open_masked

Bytes = NDArray[np.uint8]
TABLE = (ROOT / "docs" / "data.md").read_text().partition("| kind of file |")[2]
ROWS = {row[0]: row[1] for row in re.findall(r"^\| (.+?) \| (.+?) \|$", TABLE, re.M)}
RNG = np.random.default_rng(13)
COLOURS: Bytes = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY: Bytes = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 8, 3)).astype(np.uint16)
ALPHA: Bytes = RNG.integers(0, 256, (6, 8), dtype=np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for depths that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*one) for one in chunks) + pixels + chunk(b"IEND", b"")


def packed(values: Bytes, bits: int) -> list[bytes]:
    per = 8 // bits
    shifts = np.arange(per)[::-1] * bits
    return [(row.reshape(-1, per) << shifts).sum(1).astype(np.uint8).tobytes() for row in values]


def three(grey: NDArray[np.integer]) -> Bytes:
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def on_white(colours: Bytes, alpha: Bytes) -> Bytes:
    share = alpha[..., None].astype(np.float64) / 255
    return np.floor(share * colours + (1 - share) * 255 + 0.5).astype(np.uint8)


def palette(transparency: int | None = None) -> tuple[bytes, Bytes]:
    table = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    index = RNG.integers(0, 16, (6, 8), dtype=np.uint8)
    index[0, 0] = 5
    picture = Image.fromarray(index, "L").copy()
    picture.putpalette(table.ravel().tolist())
    content = saved(picture) if transparency is None else saved(picture, transparency=transparency)
    pixels = table[index]
    if transparency is not None:
        pixels[index == transparency] = 255
    return content, pixels


def keyed() -> tuple[bytes, Bytes]:
    red, green, blue = (int(value) for value in COLOURS[2, 3])
    content = saved(Image.fromarray(COLOURS), transparency=(red, green, blue))
    pixels = COLOURS.copy()
    pixels[(COLOURS[2, 3] == COLOURS).all(2)] = 255
    return content, pixels


def cmyk() -> tuple[bytes, Bytes]:
    inks = RNG.integers(0, 256, (6, 8, 4), dtype=np.uint8)
    white = 255 - inks.astype(np.float64)
    pixels = np.floor(white[..., :3] * white[..., 3:] / 255 + 0.5).astype(np.uint8)
    return saved(Image.fromarray(inks, "CMYK"), "TIFF"), pixels


def small_grey(bits: int) -> tuple[bytes, Bytes]:
    values = RNG.integers(0, 2**bits, (6, 8), dtype=np.uint8)
    return png(8, 6, bits, 0, packed(values, bits)), three(values * (255 // (2**bits - 1)))


def ycbcr() -> tuple[bytes, Bytes]:
    """One flat colour: its blocks hold nothing that JPEG would round away."""
    y, cb, cr = 120.0, 100.0, 160.0
    made = Image.merge("YCbCr", [Image.new("L", (8, 8), int(value)) for value in (y, cb, cr)])
    red, green, blue = y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)
    flat = np.array([red, green, blue]).round().astype(np.uint8)
    return saved(made, "JPEG", quality=100, subsampling=0), np.broadcast_to(flat, (8, 8, 3))


def cameras() -> tuple[bytes, Bytes]:
    first, second = Image.new("RGB", (8, 8), (40, 40, 40)), Image.new("RGB", (8, 8), (200, 200, 200))
    content = saved(first, "MPO", save_all=True, append_images=[second], quality=100)
    return content, np.full((8, 8, 3), 40, dtype=np.uint8)


def profiled() -> tuple[bytes, Bytes]:
    return saved(Image.fromarray(COLOURS), icc_profile=b"not sRGB"), COLOURS


def deep_grey(kind: str) -> tuple[bytes, Bytes]:
    return saved(Image.fromarray(DEEP[..., 0]), kind), three(DEEP[..., 0] // 256)


def deep_keyed() -> tuple[bytes, Bytes]:
    values = DEEP[..., 0]
    rows = [row.astype(">u2").tobytes() for row in values]
    content = png(8, 6, 16, 0, rows, (b"tRNS", struct.pack(">H", int(values[1, 1]))))
    return content, three(np.where(values == values[1, 1], 255, values // 256))


EXACT: dict[str, list[Callable[[], tuple[bytes, Bytes]]]] = {
    "8-bit RGB": [
        lambda kind=kind, options=options: (saved(Image.fromarray(COLOURS), kind, **options), COLOURS)
        for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True}))
    ],
    "8-bit grey": [
        lambda kind=kind: (saved(Image.fromarray(GREY), kind), three(GREY)) for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF")
    ],
    "1-bit": [
        lambda: (saved(Image.fromarray(GREY > 99)), three((GREY > 99) * 255)),
        lambda: (saved(Image.fromarray(GREY > 99), "TIFF"), three((GREY > 99) * 255)),
    ],
    "2-bit and 4-bit grey": [lambda: small_grey(2), lambda: small_grey(4)],
    "16-bit grey": [lambda: deep_grey("PNG"), lambda: deep_grey("TIFF"), deep_keyed],
    "16-bit RGB": [
        lambda: (png(8, 6, 16, 2, [row.astype(">u2").tobytes() for row in DEEP]), (DEEP // 256).astype(np.uint8))
    ],
    "palette": [palette],
    "alpha channel": [
        lambda kind=kind, options=options: (
            saved(Image.fromarray(np.dstack([COLOURS, ALPHA])), kind, **options), on_white(COLOURS, ALPHA)
        )
        for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True}))
    ] + [lambda: (saved(Image.fromarray(np.dstack([GREY, ALPHA]), "LA")), on_white(three(GREY), ALPHA))],
    "palette with transparency": [lambda: palette(5)],
    "one transparent colour (PNG)": [keyed],
    "CMYK": [cmyk],
    "YCbCr (JPEG)": [ycbcr],
    "several cameras (MPO)": [cameras],
    "colour profile, gamma": [
        profiled,
        lambda: (png(8, 6, 8, 2, [row.tobytes() for row in COLOURS], (b"gAMA", struct.pack(">I", 100000))), COLOURS),
    ],
}  # fmt: skip


def frames(kind: str) -> bytes:
    return saved(Image.fromarray(COLOURS), kind, save_all=True, append_images=[Image.fromarray(255 - COLOURS)])


REFUSED: dict[str, list[tuple[Callable[[], bytes], str]]] = {
    "animation, several pages": [(lambda kind=kind: frames(kind), "several pictures") for kind in ("GIF", "PNG", "WEBP", "TIFF")],
    "32-bit and floating-point pixels, CIELAB": [
        (lambda: saved(Image.fromarray(np.arange(48, dtype=np.float32).reshape(6, 8)), "TIFF"), "mode F"),
        (lambda: saved(Image.fromarray(np.arange(48, dtype=np.int32).reshape(6, 8)), "TIFF"), "mode I"),
        (lambda: saved(Image.fromarray(COLOURS, "LAB"), "TIFF"), "mode LAB"),
    ],
    "16-bit grey with white as 0 (TIFF)": [
        (lambda: saved(Image.fromarray(DEEP[..., 0]), "TIFF", tiffinfo={262: 0}), "white as 0")
    ],
    "one transparent colour at 1, 2, 4 or 16 bits (PNG)": [
        (
            lambda bits=bits: png(8, 6, bits, 0, packed(GREY % 2**bits, bits), (b"tRNS", b"\0\1")),
            "one colour as transparent",
        )
        for bits in (1, 2, 4)
    ]
    + [
        (
            lambda: png(8, 6, 16, 2, [row.astype(">u2").tobytes() for row in DEEP], (b"tRNS", b"\0\1\0\1\0\1")),
            "one colour as transparent",
        )
    ],
    "any other format, damaged or cut short": [
        (lambda: b"", "not an image, or is damaged"),
        (lambda: b"no picture", "not an image, or is damaged"),
        (lambda: saved(Image.fromarray(COLOURS))[:120], "damaged image"),
        (lambda: saved(Image.fromarray(np.tile(COLOURS, (9, 9, 1))), "JPEG")[:900], "damaged image"),
        (lambda: saved(Image.fromarray(COLOURS), "ICO"), "not an image, or is damaged"),
        (lambda: saved(Image.fromarray(COLOURS), "TGA"), "not an image, or is damaged"),
    ],
}


@pytest.mark.parametrize(("row", "place"), [(row, k) for row in EXACT for k in range(len(EXACT[row]))])
def test_pixels_are_those_of_the_table(row: str, place: int) -> None:
    content, expected = EXACT[row][place]()
    assert np.array_equal(np.asarray(decode(content, "a.png")), expected)


@pytest.mark.parametrize(("row", "place"), [(row, k) for row in REFUSED for k in range(len(REFUSED[row]))])
def test_what_cannot_be_exact_is_refused(row: str, place: int) -> None:
    make, said = REFUSED[row][place]
    assert ROWS[row] == "refused"
    with pytest.raises(InputError, match=said) as caught:
        decode(make(), "pictures/a.png")
    assert str(caught.value).startswith("pictures/a.png ")
    assert "\n" not in str(caught.value)


def test_every_row_of_the_table_is_held() -> None:
    assert set(ROWS) == {*EXACT, *REFUSED, "EXIF orientation"}
    assert all(ROWS[row] != "refused" for row in EXACT)


#: what brings a picture stored at this orientation upright, by the definition of EXIF tag 0x0112
TURNED: dict[int, Callable[[Bytes], Bytes]] = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("number", TURNED)
def test_exif_orientation(kind: str, number: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(Image.fromarray(COLOURS), kind, exif=exif, **options)
    found = decode(content, "a")
    assert np.array_equal(np.asarray(found), TURNED[number](COLOURS))
    assert upright_size(open_picture(content, "a"), "a") == found.size


def test_an_orientation_outside_the_standard_is_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert np.array_equal(np.asarray(decode(saved(Image.fromarray(COLOURS), exif=exif), "a")), COLOURS)


def test_attend_sweep_and_segment_see_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of each kind, through the reader of each command, whole and resized."""
    monkeypatch.setenv("ROBUSTATT_CACHE", str(tmp_path / "cache"))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {row: makers[0]()[0] for row, makers in EXACT.items()}
    kinds["turned"] = saved(Image.fromarray(COLOURS), exif=exif)
    for number, (row, content) in enumerate(kinds.items()):
        folder = tmp_path / str(number)
        for name in ("images/one", "masks/one"):
            (folder / name).mkdir(parents=True)
        file = folder / "images" / "one" / "a.png"
        file.write_bytes(content)
        expected = np.asarray(decode(content, row))
        mask = np.zeros(expected.shape[:2], dtype=np.uint8)
        mask[:2] = 255
        Image.fromarray(mask).save(folder / "masks" / "one" / "a.png")
        swept = data.load(folder / "images").tensors([0])[0][0].permute(1, 2, 0).numpy()
        attended = read_picture(file, None).pixels.permute(1, 2, 0).numpy()
        (segmented,) = open_masked(folder / "images", folder / "masks").read([0])
        for found in (swept, attended, segmented.image):
            assert np.array_equal(found, expected), row
        small = np.asarray(resize(decode(content, row), 8, row))
        assert np.array_equal(data.load(folder / "images", image_size=8).tensors([0])[0][0].permute(1, 2, 0), small)
        assert np.array_equal(read_picture(file, 8).pixels.permute(1, 2, 0).numpy(), small)


def test_a_picture_that_is_decoded_with_care_has_a_hash_of_its_own(tmp_path: Path) -> None:
    """Records of an earlier version that saw other pixels must not pass for records of these."""
    import hashlib

    plain, clear = saved(Image.fromarray(COLOURS)), saved(Image.fromarray(np.dstack([COLOURS, ALPHA])))
    hashes = []
    for place, content in enumerate((plain, clear)):
        folder = tmp_path / str(place) / "a"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(content)
        total = hashlib.sha256(b"None (3, 6, 8)")
        total.update(np.zeros(1, dtype=np.int64).tobytes())
        total.update(hashlib.sha256(content).digest())
        hashes.append(data.load(tmp_path / str(place)).fingerprint == total.hexdigest())
    assert hashes == [True, False]


def test_attend_without_a_card_leaves_pictures_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("a.png", (40, 40)), ("b.png", (40, 48))):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    common = ["attend", "--model", "torchvision:squeezenet1_1", "--attack", "fgsm", "--out", str(tmp_path / "o.png")]
    assert cli.main([*common, str(tmp_path / "a.png")]) == 0
    assert "40 x 40 to 40 x 40: as it is" in capsys.readouterr().out
    assert cli.main([*common, str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 2
    said = capsys.readouterr().err
    assert "give --input-size" in said
    assert said.count("\n") == 1
