"""Images as values: ``ImageRef`` is the small reference that travels between steps; bytes stay where they are.

Nothing is decoded to learn an image's type and size: only its header is read, and its pixel count is checked before
any decoder may allocate for it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from PIL import Image, ImageOps

from flux_tasks import files, recent
from flux_tasks.errors import FluxError, InvalidImage, ServerUnavailable

__all__ = [
    "EXTENSIONS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "Header",
    "ImageLike",
    "ImageRef",
    "decode",
    "eight_bit",
    "encode_png",
    "inspect",
    "is_complete",
]

MAX_BYTES = 64 * 1024 * 1024
"""Longest file that is read at all; each tool's own input limit (20 MB, DOCS-F2) is checked by preflight."""

MAX_PIXELS = 100_000_000
"""Largest picture that may be decoded: 100 MP. A header that says more is refused unread."""

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/tiff": "tif",
    "image/bmp": "bmp",
    "image/gif": "gif",
}

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_MEDIA_TYPES = {name: f"image/{name.lower()}" for name in _FORMATS} | {"MPO": "image/jpeg"}
_PREVIEW_MARK = "flux-pipelines-local-preview"
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations whose upright picture has width and height swapped

_warnings_lock = threading.Lock()  # two threads in catch_warnings may leave the process without any warnings

ImageLike: TypeAlias = "ImageRef | Image.Image | bytes | str | os.PathLike[str]"
"""What every image parameter takes: a reference, a Pillow image, encoded bytes, a path, an fsspec or http(s) URL."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's header says. Sizes in pixels as stored, before any EXIF orientation is applied."""

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
    """Without Pillow's warnings: above 89 MP MAX_PIXELS decides, and damaged EXIF data are nobody's concern."""
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
    except Exception as error:  # the parsers were not written for hostile bytes: anything may come out of them
        if isinstance(error, OSError) and error.errno is not None:
            raise
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        what = "the file is empty" if not size else "not an image this library reads (png, jpeg, webp, tiff, bmp, gif)"
        raise InvalidImage(what) from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise InvalidImage(
                f"{image.width}×{image.height} px is more than the {MAX_PIXELS // 1_000_000} MP that may be decoded"
            )
        yield image


def inspect(source: bytes | str | os.PathLike[str]) -> Header:
    """Read the header of encoded bytes or of a file on any location; no pixel is decoded.

    Raises:
        InvalidImage: not an image, empty, or more than ``MAX_PIXELS``.
        OSError: the file cannot be read.
    """
    if not isinstance(source, bytes):
        source = local if files.is_local(source) and (local := files.local_path(source)) else _read(os.fspath(source))
    with _opened(source) as image:
        return Header(
            media_type=_MEDIA_TYPES[image.format or ""],
            width=image.width,
            height=image.height,
            mode=image.mode,
            has_alpha=image.has_transparency_data,
            orientation=_orientation(image),
            preview=preview_mark(image),
        )


def _exif(image: Image.Image) -> Image.Exif:
    """The EXIF data that stands before the pixels; Pillow's own ``getexif`` decodes a whole PNG to look behind them.

    Damaged EXIF data is no reason to refuse a picture: it counts as none.
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
    if image.format == "TIFF":  # which Pillow itself turns upright, size and all
        return 1
    value = _exif(image).get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def preview_mark(image: Image.Image) -> str:
    """The engine named by a local-preview mark in the image's metadata, or an empty string."""
    text = str(image.info.get(_PREVIEW_MARK, ""))
    if not text:
        software = str(_exif(image).get(0x0131, ""))
        text = software.removeprefix(f"{_PREVIEW_MARK} ") if software.startswith(_PREVIEW_MARK) else ""
    return text


def mark_preview(image: Image.Image, engine: str) -> dict[str, Any]:
    """Keyword arguments for ``Image.save`` that mark a picture as made by a local ``engine``."""
    from PIL.PngImagePlugin import PngInfo

    exif = Image.Exif()
    exif[0x0131] = f"{_PREVIEW_MARK} {engine}"
    info = PngInfo()
    info.add_text(_PREVIEW_MARK, engine)
    return {"exif": exif, "pnginfo": info}


def decode(data: bytes) -> Image.Image:
    """The whole picture, upright (EXIF orientation applied), 16-bit greys reduced to 8.

    Raises:
        InvalidImage: not an image, too many pixels, or truncated.
    """
    with _opened(data) as image:
        try:
            turned = _orientation(image) != 1  # asked before the pixels, as ``inspect`` does
            image.load()
            upright = ImageOps.exif_transpose(image) if turned else image.copy()
            if upright.mode == "P" and isinstance(upright.info.get("transparency"), bytes):
                upright = upright.convert("RGBA")  # a palette with an alpha value for each colour
            return eight_bit(upright)
        except Exception as error:  # as in _opened
            raise InvalidImage(f"the picture is damaged or cut short: {error}") from None


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit greys as ``L``; Pillow's own ``convert`` cuts them off at 255, which turns nearly all of them white."""
    if not image.mode.startswith("I;16"):
        return image
    return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def encode_png(image: Image.Image) -> bytes:
    """PNG bytes; the settings are four times faster than Pillow's default and no larger."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1, compress_type=3)
    return buffer.getvalue()


def is_complete(data: bytes) -> bool:
    """Whether encoded bytes reach their format's own end mark, found without decoding (png, jpeg, webp).

    More may follow it: content credentials, padding, a second picture.
    """
    if data.startswith(b"\x89PNG"):
        return b"\0\0\0\0IEND\xaeB`\x82" in data
    if data.startswith(b"\xff\xd8"):
        return data.find(b"\xff\xd9", _scan_of(data)) >= 0
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    return len(data) > 12  # shorter than that no type can be told


def _scan_of(jpeg: bytes) -> int:
    """Where the first scan begins; in the segments before it a thumbnail may have an end mark of its own."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        if jpeg[position + 1] == 0xFF:  # a fill byte
            position += 1
            continue
        if jpeg[position + 1] == 0xDA:
            return position
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return len(jpeg)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A small, serialisable reference to an image. Two references are equal when their bytes are.

    Attributes:
        digest: SHA-256 of the encoded bytes, 64 hex digits.
        media_type: such as ``image/png``.
        width, height: pixels, as stored (before EXIF orientation).
        size: encoded bytes.
        uri: where the bytes can be read: a path or URL.
        name: what people call it (the stem of the file it came from); used for naming task runs.
        engine: which engine made it: ``bfl``, ``local:classical@1``, or empty for an original.
        cost: credits that were paid for it, where known.
        job_id: the service's id of the job that made it.

    In a notebook it shows itself as the picture.
    """

    digest: str
    media_type: str
    width: int
    height: int
    size: int
    uri: str = field(default="", compare=False)
    name: str = field(default="", compare=False)
    engine: str = field(default="", compare=False)
    cost: float | None = field(default=None, compare=False)
    job_id: str = field(default="", compare=False)
    orientation: int = field(default=1, compare=False)
    data: bytes | None = field(default=None, compare=False, repr=False)
    """The bytes themselves, only for an image that has no location (made from bytes or a Pillow image)."""

    @classmethod
    def of(cls, source: ImageLike, *, name: str = "") -> ImageRef:
        """A reference to ``source``: a path, any fsspec or http(s) URL, encoded bytes, a Pillow image, a reference.

        Raises:
            InvalidImage: not an image, empty, damaged header, or too large; the message begins with its location.
            ServerUnavailable: its place fails, and has been tried several times.
        """
        if isinstance(source, ImageRef):
            return replace(source, name=name) if name else source
        if isinstance(source, Image.Image):
            try:
                encoded = encode_png(plain(source))
            except Exception as error:  # opened lazily and damaged, of no size, of a mode that nothing converts
                raise InvalidImage(f"a Pillow image that cannot be encoded: {error}") from None
            return cls._of_bytes(encoded, "a Pillow image", name=name, keep=True)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls._of_bytes(bytes(source), "the bytes given", name=name, keep=True)
        if not isinstance(source, (str, os.PathLike)):
            raise InvalidImage(
                f"{type(source).__name__} is not an image: give a path, a URL, bytes, a Pillow image or an ImageRef"
            )
        location = os.fspath(source)
        try:
            data = _read(location)
        except IsADirectoryError:
            raise InvalidImage(f"{location}: a folder, not an image file") from None
        except FileNotFoundError:
            raise InvalidImage(f"{location}: no such file") from None
        except ServerUnavailable:
            raise
        except (OSError, FluxError) as error:
            raise InvalidImage(f"{location}: {str(error).removeprefix(f'{location}: ')}") from None
        web = location.startswith(("http://", "https://"))
        return cls._of_bytes(data, location, name=name or stem(location), uri=location, keep=web)

    @classmethod
    def _of_bytes(cls, data: bytes, what: str, *, name: str = "", uri: str = "", keep: bool = False) -> ImageRef:
        try:
            header = inspect(data)
        except InvalidImage as error:
            raise InvalidImage(f"{what}: {error}") from None
        digest = hashlib.sha256(data).hexdigest()
        recent.put(digest, data)
        return cls(
            digest=digest,
            media_type=header.media_type,
            width=header.width,
            height=header.height,
            size=len(data),
            uri=uri,
            name=name or digest[:8],
            engine=header.preview,
            orientation=header.orientation,
            data=data if keep else None,
        )

    def read(self) -> bytes:
        """The encoded bytes, checked against the digest.

        Raises:
            InvalidImage: they are gone, or no longer the same as when the reference was made.
            ServerUnavailable: the place where they are kept fails, and has been tried several times.
        """
        data = self.data or recent.get(self.digest)
        if data is not None:
            return data
        if not self.uri:
            raise InvalidImage(f"{self.name or self.digest}: made from bytes that were not kept, and stored nowhere")
        try:
            data = _read(self.uri)
        except ServerUnavailable:
            raise
        except (OSError, FluxError) as error:
            raise InvalidImage(f"{self.uri}: {str(error).removeprefix(f'{self.uri}: ')}") from None
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise InvalidImage(f"{self.uri}: the file has changed since it was first read")
        recent.put(self.digest, data)
        return data

    def open(self) -> Image.Image:
        """The picture, decoded and upright.

        Raises:
            InvalidImage: unreadable, damaged or too large.
        """
        try:
            return decode(self.read())
        except InvalidImage as error:
            raise InvalidImage(f"{self.uri or self.name}: {str(error).removeprefix(f'{self.uri}: ')}") from None

    def save(self, location: str | os.PathLike[str]) -> str:
        """Write the bytes, untouched, to a path or any fsspec URL; returns the location."""
        files.write(location, self.read())
        return os.fspath(location)

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels as people see the picture: EXIF orientation applied."""
        return (self.height, self.width) if self.orientation in _TRANSPOSED else (self.width, self.height)

    @property
    def megapixels(self) -> float:
        """Area in MP of 1,048,576 px (the unit of BFL's prices)."""
        return self.width * self.height / 1_048_576

    @property
    def is_preview(self) -> bool:
        """Whether a local engine made it: a stand-in for what BFL would deliver."""
        return self.engine.startswith("local:")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, without bytes."""
        described = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "data"}
        return {key: value for key, value in described.items() if value not in ("", None)}

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> ImageRef:
        """The inverse of ``to_dict``; unknown keys are ignored."""
        return cls(**{key: value for key, value in described.items() if key in cls.__dataclass_fields__})

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the picture in a notebook, at most 1,024 px wide."""
        image = self.open()
        image.thumbnail((1024, 1024))
        return {"image/png": base64.b64encode(encode_png(plain(image))).decode(), "text/plain": repr(self)}


def stem(location: str) -> str:
    """The file name of a path or URL without folder, query and extension."""
    path = urlsplit(location).path if "://" in location else location
    return PurePosixPath(unquote(path.replace("\\", "/"))).stem


def plain(image: Image.Image) -> Image.Image:
    """``image`` in a mode that PNG keeps exactly, other modes converted to RGB or RGBA."""
    image = eight_bit(image)
    if image.mode in ("1", "L", "LA", "RGB", "RGBA"):
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _read(location: str) -> bytes:
    if location.startswith(("http://", "https://")):
        return _fetch(location)
    try:
        return files.patiently(files.read, location, limit=MAX_BYTES)
    except OSError as error:
        if files.may_pass(error):
            raise ServerUnavailable(f"{location} cannot be read now: {error}") from error
        raise


def _fetch(url: str) -> bytes:
    import httpx

    from flux_tasks import portal
    from flux_tasks.download import download

    async def get() -> bytes:
        try:
            async with asyncio.timeout(120), httpx.AsyncClient(timeout=30) as client:
                return await download(url, client=client, limit=MAX_BYTES)
        except TimeoutError:
            raise InvalidImage("not delivered within 120 s") from None

    return portal.run(get())
