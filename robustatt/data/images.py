"""One encoded picture to 8-bit RGB: the single way in which every command decodes and resizes image files.

docs/data.md says what becomes of each kind of file; what is not decoded exactly as it says is refused.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image, ImageOps

from robustatt.errors import InputError, first_line

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM")  # JPEG includes MPO, of several cameras
MAX_ASPECT_RATIO = 64  # beyond it a damaged header asks for all memory when the shorter side is brought to a size
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # the latter where warnings are errors
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, *TOO_LARGE)
GREY_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF files


def open_picture(content: bytes, where: str) -> Image.Image:
    """The header of an encoded picture, not decoded yet. `where` is for error texts.

    Raises:
        InputError: no picture, a damaged one, or of a kind that has no exact form of 8-bit RGB.
    """
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        animated = picture.format != "MPO" and getattr(picture, "is_animated", False)
    except UNREADABLE as error:
        raise InputError(f"{where} is not an image, or is damaged: expected JPEG, PNG, BMP, WebP, GIF, TIFF or PPM") from error
    if animated:
        raise InputError(f"{where} holds several pictures (an animation or pages): save the one that is meant")
    _refuse_inexact(picture, where)
    return picture


def _refuse_inexact(picture: Image.Image, where: str) -> None:
    """InputError for a kind of pixel that Pillow would round, clip or misread in silence."""
    if picture.mode in ("I", "F") or picture.mode.startswith(("LAB", "HSV")):
        raise InputError(f"{where} has pixels of mode {picture.mode}, whose white is not defined: save it with 8 bits")
    if picture.mode in GREY_16_BIT and _tiff_tag(picture, PHOTOMETRIC) == WHITE_IS_ZERO:
        raise InputError(f"{where} is 16-bit grey with white as 0: save it with black as 0, or with 8 bits")
    tiles = getattr(picture, "tile", ()) if picture.format == "PNG" else ()
    raw = str(tiles[0][3]) if tiles else ""
    if "transparency" in picture.info and raw in ("1", "L;2", "L;4", "RGB;16B"):
        raise InputError(f"{where} marks one colour as transparent at {raw}: save it with an alpha channel of 8 bits")


def _tiff_tag(picture: Image.Image, tag: int) -> object:
    tags = getattr(picture, "tag_v2", None)
    return None if tags is None else tags.get(tag)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation in the header: 1 for upright, 5 to 8 where width and height change places."""
    if picture.format != "TIFF" and "exif" not in picture.info:
        return 1
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        return 1
    return found if isinstance(found, int) and 2 <= found <= 8 else 1


def upright_size(picture: Image.Image, where: str) -> tuple[int, int]:
    """Width and height as the picture is decoded."""
    return picture.size if orientation(picture) < 5 else _upright(picture, where).size


def needs_care(picture: Image.Image) -> bool:
    """Whether pixels depend on more than the stored colours: transparency, orientation or 16-bit grey."""
    return (
        "A" in picture.mode
        or "a" in picture.mode
        or picture.mode in GREY_16_BIT
        or "transparency" in picture.info
        or orientation(picture) != 1
    )


def _upright(picture: Image.Image, where: str) -> Image.Image:
    """Decoded and turned as its EXIF orientation says; an orientation that cannot be read counts as none."""
    try:
        picture.load()
        return ImageOps.exif_transpose(picture) if orientation(picture) != 1 else picture
    except UNREADABLE as error:
        raise InputError(f"{where} is a damaged image: {first_line(error)}") from error


def upright(content: bytes, where: str) -> Image.Image:
    """An encoded picture with the colours it is stored with, turned as its EXIF orientation says.

    Raises:
        InputError: see `open_picture`; or the pixels are damaged.
    """
    return _upright(open_picture(content, where), where)


def decode(content: bytes, where: str) -> Image.Image:
    """An encoded picture as 8-bit RGB, upright, on white where it is transparent.

    Raises:
        InputError: see `open_picture`; or the pixels are damaged.
    """
    return to_rgb(upright(content, where), where)


def to_rgb(picture: Image.Image, where: str) -> Image.Image:
    """A decoded picture as 8-bit RGB: 16-bit grey by its high byte, transparent parts on white.

    Raises:
        InputError: a kind of pixel that has no exact form of 8-bit RGB.
    """
    _refuse_inexact(picture, where)
    try:
        if picture.mode in GREY_16_BIT:
            values = np.asarray(picture).astype(np.uint16)
            grey = (values >> 8).astype(np.uint8)
            grey[values == picture.info.get("transparency", -1)] = 255
            return Image.fromarray(grey).convert("RGB")
        if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
            layers = picture.convert("RGBA")
            white = Image.new("RGB", layers.size, "white")
            white.paste(layers, mask=layers.getchannel("A"))
            return white
        return picture.convert("RGB")
    except UNREADABLE as error:
        raise InputError(f"{where} cannot be brought to RGB: {first_line(error)}") from error


def resize(picture: Image.Image, side: int | None, where: str) -> Image.Image:
    """Shorter side to ``side`` pixels (bilinear, antialiased), then the central square; None leaves it as it is.

    Raises:
        InputError: more than ``MAX_ASPECT_RATIO`` times as long as wide.
    """
    if side is None:
        return picture
    if max(picture.size) > MAX_ASPECT_RATIO * min(picture.size):
        raise InputError(f"{where} is {picture.size[0]}x{picture.size[1]}, which no picture is: damaged?")
    shorter = min(picture.size)
    width, height = (max(side, round(edge * side / shorter)) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))
