"""Encoded images: headers, decoding, encoding, and the mark of a local preview."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from flux_tasks import files
from flux_tasks.errors import InvalidImage
from flux_tasks.images.loading import read_location
from flux_tasks.units import px_size

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "MEDIA_TYPES",
    "TRANSPOSED",
    "Header",
    "decode",
    "eight_bit",
    "encode_png",
    "inspect",
    "is_complete",
]

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded: 100 MP. A file whose header says more is refused unread."""

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/tiff": "tif",
    "image/bmp": "bmp",
    "image/gif": "gif",
}

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MEDIA_TYPES = {name: f"image/{name.lower()}" for name in _FORMATS} | {"MPO": "image/jpeg"}
_PREVIEW_MARK = "flux-pipelines-local-preview"
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

_warnings_lock = threading.Lock()  # two threads in catch_warnings may switch off all warnings for good


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an image. Sizes are in pixels as stored, before any EXIF orientation is applied."""

    media_type: str
    width: int
    height: int
    mode: str
    has_alpha: bool
    orientation: int = 1
    preview: str = ""
    """The engine that made it, if the file is marked as a local preview."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings: above 89 MP ``MAX_PIXELS`` decides, and damaged EXIF data does no harm."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(data: bytes | Path) -> Iterator[Image.Image]:
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with _quiet():
            image = Image.open(source, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise InvalidImage(f"more than the {MAX_PIXELS // 1_000_000} MP that may be decoded") from None
    except Exception as error:  # the parsers were not written for hostile bytes: they may raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        what = "the file is empty" if not size else "not an image this library reads (png, jpeg, webp, tiff, bmp, gif)"
        raise InvalidImage(what) from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise InvalidImage(
                f"{px_size(image.size)} is more than the {MAX_PIXELS // 1_000_000} MP that may be decoded"
            )
        yield image


def inspect(source: bytes | str | os.PathLike[str]) -> Header:
    """Read the header of encoded bytes or of a file on any location; no pixel is decoded.

    Raises:
        InvalidImage: not an image, empty, or more than ``MAX_PIXELS``.
        OSError: the file cannot be read.
    """
    if not isinstance(source, bytes):
        source = (
            local
            if files.is_local(source) and (local := files.local_path(source))
            else read_location(os.fspath(source))
        )
    with _opened(source) as image:
        return Header(
            media_type=MEDIA_TYPES[image.format or ""],
            width=image.width,
            height=image.height,
            mode=image.mode,
            has_alpha=image.has_transparency_data,
            orientation=_orientation(image),
            preview=preview_mark(image),
        )


def _exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF data before the pixels; Pillow's own ``getexif`` decodes a whole PNG to look for more.

    Damaged EXIF data is no reason to refuse a picture: it is ignored.
    """
    try:
        if image.format != "PNG":
            with _quiet():
                return image.getexif()
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        return exif
    except Exception:
        return Image.Exif()


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow turns it upright itself, and swaps its size
        return 1
    value = _exif(image).get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def preview_mark(image: Image.Image) -> str:
    """Return the engine that a local-preview mark in the image's metadata names, or an empty string."""
    text = str(image.info.get(_PREVIEW_MARK, ""))
    if not text:
        software = str(_exif(image).get(0x0131, ""))
        text = software.removeprefix(f"{_PREVIEW_MARK} ") if software.startswith(_PREVIEW_MARK) else ""
    return text


def mark_preview(image: Image.Image, engine: str) -> dict[str, Any]:
    """Return the arguments of ``Image.save`` that mark a picture as made by a local ``engine``."""
    from PIL.PngImagePlugin import PngInfo

    exif = Image.Exif()
    exif[0x0131] = f"{_PREVIEW_MARK} {engine}"
    info = PngInfo()
    info.add_text(_PREVIEW_MARK, engine)
    return {"exif": exif, "pnginfo": info}


def decode(data: bytes, *, keep_depth: bool = False) -> Image.Image:
    """Return the whole picture, upright (EXIF orientation applied), 16-bit greys reduced to 8.

    Args:
        keep_depth: leave greys of 16 bits as they are.

    Raises:
        InvalidImage: not an image, too many pixels, or truncated.
    """
    with _opened(data) as image:
        try:
            turned = _orientation(image) != 1  # read before the pixels, as in ``inspect``
            image.load()
            upright = ImageOps.exif_transpose(image) if turned else image.copy()
            if upright.mode == "P" and isinstance(upright.info.get("transparency"), bytes):
                upright = upright.convert("RGBA")  # a palette with an alpha value for each colour
            return upright if keep_depth else eight_bit(upright)
        except Exception as error:  # as in _opened
            raise InvalidImage(f"the picture is damaged or cut short: {error}") from None


def eight_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit greys as ``L``; Pillow's own ``convert`` cuts them off at 255, so that nearly all become white."""
    if not image.mode.startswith("I;16"):
        return image
    return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def encode_png(image: Image.Image) -> bytes:
    """Return PNG bytes; the settings are four times faster than Pillow's default, and the file is no larger."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1, compress_type=3)
    return buffer.getvalue()


def is_complete(data: bytes) -> bool:
    """Check whether encoded bytes reach their format's own end mark, without decoding them (png, jpeg, webp).

    More may follow it: content credentials, padding, a second picture.
    """
    if data.startswith(b"\x89PNG"):
        return b"\0\0\0\0IEND\xaeB`\x82" in data
    if data.startswith(b"\xff\xd8"):
        return data.find(b"\xff\xd9", _scan_of(data)) >= 0
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    return len(data) > 12  # a shorter file has no type


def _scan_of(jpeg: bytes) -> int:
    """Return where the first scan begins; before it, a thumbnail may have an end mark of its own."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        if jpeg[position + 1] == 0xFF:  # a fill byte
            position += 1
            continue
        if jpeg[position + 1] == 0xDA:
            return position
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return len(jpeg)


def plain(image: Image.Image) -> Image.Image:
    """Return ``image`` in a mode that PNG stores exactly: other modes become RGB or RGBA."""
    image = eight_bit(image)
    if image.mode in ("1", "L", "LA", "RGB", "RGBA"):
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
