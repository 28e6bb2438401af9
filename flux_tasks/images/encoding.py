"""Encoded images: headers, decoding, encoding, and the mark of a local preview."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile, ImageOps

from flux_tasks.errors import InvalidImage
from flux_tasks.images.loading import read_location
from flux_tasks.images.pixels import flattened, has_profile_of, is_see_through, normalised, room, to_colours
from flux_tasks.images.png import Png, read_png
from flux_tasks.units import px_size

__all__ = [
    "EXTENSIONS",
    "LONGEST_SIDE",
    "MAX_PIXELS",
    "TRANSPOSED",
    "Header",
    "decode",
    "encode",
    "encode_png",
    "encode_within",
    "inspect",
    "is_complete",
    "plain",
    "read_profile",
]

try:  # since Pillow 11.3, where it is built with libavif
    from PIL import AvifImagePlugin

    _READS_AVIF = bool(AvifImagePlugin.SUPPORTED)
except ImportError:
    _READS_AVIF = False

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded: 100 MP. A file whose header says more is refused unread."""

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/tiff": "tif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/avif": "avif",
}

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF") + (("AVIF",) if _READS_AVIF else ())
FILE_TYPES = (
    "png",
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "webp",
    "tif",
    "tiff",
    "bmp",
    "gif",
    *(("avif",) if _READS_AVIF else ()),
)
"""Extensions of files that are read."""
_MEDIA_TYPES = {name: f"image/{name.lower()}" for name in _FORMATS} | {"MPO": "image/jpeg"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_BEGINNINGS = {
    b"\x89png": "a PNG that is damaged or cut short",
    b"\xff\xd8\xff": "a JPEG that is damaged or cut short",
    b"gif8": "a GIF that is damaged or cut short",
    b"riff": "a WebP that is damaged or cut short, or a film",
    b"version https://git-lfs": "a pointer of Git LFS; git lfs pull fetches the picture",
    b"<!doctype html": "a web page; look at what is at its address",
    b"<html": "a web page; look at what is at its address",
    b"<?xml": "XML or SVG; save it as png",
    b"<svg": "SVG; save it as png",
    b"%pdf": "PDF; save its page as png",
    b"8bps": "Photoshop; save it as png",
}
"""What files that are called pictures are instead, by how they begin, in small letters."""
LONGEST_SIDE = 65_535
"""Longest side of a JPEG, in pixels."""

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
    is_sequence: bool = False
    """Whether there are further frames or pages; the first one is the picture."""
    has_profile: bool = False
    """Whether it has a colour profile."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings: above 89 MP ``MAX_PIXELS`` decides, and damaged EXIF data does no harm."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open a picture; its ``info`` is as of the whole file, though a PNG is read without the chunks that do no good."""
    png = read_png(data, text=_PREVIEW_MARK.encode()) if data.startswith(b"\x89PNG\r\n\x1a\n") else None
    try:
        with _quiet():
            image = Image.open(io.BytesIO(png.data if png else data), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise InvalidImage(
            f"more than the {MAX_PIXELS // 1_000_000} MP that may be decoded: scale it down with another program"
        ) from None
    except Exception:  # the parsers were not written for hostile bytes: they may raise anything
        raise InvalidImage(_not_read(data)) from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            most = f"the {MAX_PIXELS // 1_000_000} MP that may be decoded"
            raise InvalidImage(f"{px_size(image.size)} is more than {most}: scale it down with another program")
        if png is not None:
            _complete(image, png)
        yield image


def _complete(image: Image.Image, png: Png) -> None:
    """Add what was taken out of a PNG to ``info``; give its transparent colour in 8 bits, as Pillow gives the pixels.

    A grey of 16 bits is left as it is: its pixels are, too.
    """
    image.info |= {"icc_profile": png.profile, "is_sequence": png.is_sequence}
    clear = image.info.get("transparency")
    if isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 if png.depth == 16 else value & 255 for value in clear)
    elif isinstance(clear, int) and image.mode == "L":
        image.info["transparency"] = clear * {2: 85, 4: 17}.get(png.depth, 1) & 255


def _not_read(data: bytes) -> str:
    """Return why a file is not read, and what to do about it."""
    if not data:
        return "the file is empty"
    kind = _foreign_kind(data)
    if kind == "AVIF" and _READS_AVIF:
        return "the AVIF file is damaged"
    if kind:
        return f"{kind} is not read here, whatever the file is called: save it as png, jpeg or webp first"
    known = ", ".join(name.lower() for name in _FORMATS)
    begin = data[:512].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    what = next((what for sign, what in _BEGINNINGS.items() if begin.startswith(sign)), "")
    return f"not an image this library reads ({known})" + (f": {what}" if what else "")


def _foreign_kind(data: bytes) -> str:
    """Return the name of a type that cameras and browsers write and Pillow may not read; empty for any other."""
    if data[4:8] == b"ftyp":
        brands = {data[at : at + 4] for at in range(8, min(64, int.from_bytes(data[:4], "big")), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & _HEIF_BRANDS else ""
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    return "JPEG 2000" if data.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")) else ""


def inspect(source: bytes | str | os.PathLike[str]) -> Header:
    """Read the header of encoded bytes or of a file on any location; no pixel is decoded.

    Raises:
        InvalidImage: not an image, empty, or more than ``MAX_PIXELS``.
        OSError: the file cannot be read.
    """
    data = source if isinstance(source, bytes) else read_location(os.fspath(source))
    with _opened(data) as image:
        return Header(
            media_type=_MEDIA_TYPES[image.format or ""],
            width=image.width,
            height=image.height,
            mode=image.mode,
            has_alpha=image.has_transparency_data,
            orientation=_orientation(image),
            preview=preview_mark(image),
            is_sequence=_is_sequence(image),
            has_profile=bool(image.info.get("icc_profile")),
        )


def read_profile(data: bytes) -> bytes | None:
    """Return the colour profile of encoded bytes, without decoding a pixel; None if there is none.

    Raises:
        InvalidImage: as for ``inspect``.
    """
    with _opened(data) as image:
        return image.info.get("icc_profile") or None


def _is_sequence(image: Image.Image) -> bool:
    """Check whether there are further frames or pages. Those of a JPEG are its own previews, and do not count."""
    if image.format in ("PNG", "MPO"):
        return bool(image.info.get("is_sequence"))
    try:
        with _quiet():
            return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame is damaged
        return False


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


def decode(data: bytes, *, keep_depth: bool = False, least: int = 0) -> Image.Image:
    """Return the whole picture as people see it: upright, of mode 1, L, LA, RGB or RGBA; see ``pixels.normalised``.

    Args:
        keep_depth: leave palettes, and greys of 16 and 32 bits, as they are, for masks: small values mean something.
        least: pixels that both sides need at least. A larger JPEG is then decoded at ½, ¼ or ⅛ of its size, which
            takes a fraction of the time; 0 for the whole size.

    Raises:
        InvalidImage: not an image, too many pixels, or truncated.
    """
    with _opened(data) as image, room(image.width * image.height):
        try:
            if least:
                image.draft(None, (least, least))
            upright = _upright(image)
            if not keep_depth:
                return normalised(upright)
            has_alpha_palette = upright.mode == "P" and isinstance(upright.info.get("transparency"), bytes)
            return upright.convert("RGBA") if has_alpha_palette else upright.copy()
        except Exception as error:  # as in _opened
            raise InvalidImage(f"the picture is damaged or cut short: {error}") from None


def _upright(image: Image.Image) -> Image.Image:
    """Return a file's picture, decoded and turned as its EXIF data say."""
    is_turned = _orientation(image) != 1  # read before the pixels, as in ``inspect``
    image.load()
    return ImageOps.exif_transpose(image) if is_turned else image


def plain(image: Image.Image) -> Image.Image:
    """Return a Pillow image in a mode that PNG stores exactly; one that was opened from a file is turned upright.

    Raises:
        ValueError: it is of a mode that Pillow does not convert.
    """
    image = _upright(image) if isinstance(image, ImageFile.ImageFile) else image
    return image if image.mode in ("1", "L", "LA", "RGB", "RGBA") else normalised(image)


def encode(image: Image.Image, kind: str = "PNG", *, engine: str = "", **options: Any) -> bytes:
    """Return the file of a normalised picture: on white where the type has no alpha, with its profile where that fits.

    Args:
        kind: ``PNG``, ``JPEG`` or ``WEBP``.
        engine: the local engine that made it; the file is marked as its preview.
        options: of Pillow's writer, such as ``quality`` (95 by default).

    Raises:
        OSError, ValueError: the type cannot hold it, for one because it has too many pixels.
    """
    if kind != "PNG":
        image = image.convert("L") if image.mode == "1" else image
        image = flattened(image) if kind == "JPEG" else to_colours(image)
    profile = image.info.get("icc_profile")
    settings = {**_SETTINGS[kind], **options, **(mark_preview(image, engine) if engine else {})}
    buffer = io.BytesIO()
    if isinstance(profile, bytes) and has_profile_of(image.mode, profile):
        profile = profile[: max(128, int.from_bytes(profile[:4], "big"))]  # Pillow opens no PNG with 1 MB of padding
        settings["icc_profile"] = profile
    image.save(buffer, kind, **{"icc_profile": None, **settings})
    return buffer.getvalue()


_SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 1, "compress_type": 3},  # four times faster than by default, and no larger
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}


def encode_png(image: Image.Image) -> bytes:
    """Return PNG bytes; the settings are four times faster than Pillow's default, and the file is no larger."""
    return encode(image)


def encode_within(image: Image.Image, limit: int) -> bytes:
    """Return a normalised picture as PNG or, where that has more than ``limit`` bytes, as JPEG of a high quality.

    The PNG is returned all the same where a JPEG cannot stand for it: parts are transparent, or a side is too long.
    """
    data = encode(image)
    if len(data) <= limit or is_see_through(image) or max(image.size) > LONGEST_SIDE:
        return data
    data = encode(image, "JPEG")
    return data if len(data) <= limit else encode(image, "JPEG", quality=90, subsampling=2)


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
