"""Images as values: ``ImageRef`` is the small reference that steps pass on; the bytes stay where they are.

To learn an image's type and size, only its header is read; its pixel count is checked before anything is decoded.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from PIL import Image

from flux_tasks import files
from flux_tasks.errors import FluxError, InvalidImage, ServerUnavailable
from flux_tasks.images import byte_cache
from flux_tasks.images.encoding import TRANSPOSED, decode, encode_png, inspect, plain
from flux_tasks.images.loading import read_location

__all__ = ["ImageLike", "ImageRef"]

ImageLike: TypeAlias = "ImageRef | Image.Image | bytes | str | os.PathLike[str]"
"""What every image parameter takes: a reference, a Pillow image, encoded bytes, a path, an fsspec or http(s) URL."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A small, serialisable reference to an image. Two references are equal when their bytes are.

    Attributes:
        digest: SHA-256 of the encoded bytes, 64 hex digits.
        media_type: such as ``image/png``.
        width, height: pixels, as stored (before EXIF orientation).
        size: encoded bytes.
        uri: where the bytes can be read: a path or URL.
        name: what people call it (the stem of the file it came from); task runs are named after it.
        engine: the engine that made it: ``bfl``, ``local:classical@1``, or empty for an original.
        cost: credits that were paid for it, where known.
        job_id: the service's id of the job that made it.

    A notebook shows the picture.
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
        """Return a reference to ``source``: a path, an fsspec or http(s) URL, bytes, a Pillow image or a reference.

        Raises:
            InvalidImage: not an image, empty, damaged header, or too large; the message begins with its location.
            ServerUnavailable: its place fails, and was tried several times.
        """
        if isinstance(source, ImageRef):
            return replace(source, name=name) if name else source
        if isinstance(source, Image.Image):
            try:
                encoded = encode_png(plain(source))
            except Exception as error:  # damaged, without a size, or of a mode that cannot be converted
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
            data = read_location(location)
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
        byte_cache.put(digest, data)
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
        """Return the encoded bytes, checked against the digest.

        Raises:
            InvalidImage: they are gone, or differ from those that the reference was made of.
            ServerUnavailable: their place fails, and was tried several times.
        """
        data = self.data or byte_cache.get(self.digest)
        if data is not None:
            return data
        if not self.uri:
            raise InvalidImage(f"{self.name or self.digest}: its bytes are no longer in memory, and were not stored")
        try:
            data = read_location(self.uri)
        except ServerUnavailable:
            raise
        except (OSError, FluxError) as error:
            raise InvalidImage(f"{self.uri}: {str(error).removeprefix(f'{self.uri}: ')}") from None
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise InvalidImage(f"{self.uri}: the file has changed since it was first read")
        byte_cache.put(self.digest, data)
        return data

    def open(self, *, keep_depth: bool = False) -> Image.Image:
        """Return the picture, decoded and upright; greys of 16 bits become 8, unless ``keep_depth``.

        Raises:
            InvalidImage: unreadable, damaged or too large.
        """
        try:
            return decode(self.read(), keep_depth=keep_depth)
        except InvalidImage as error:
            raise InvalidImage(f"{self.uri or self.name}: {str(error).removeprefix(f'{self.uri}: ')}") from None

    def save(self, location: str | os.PathLike[str]) -> str:
        """Write the bytes, untouched, to a path or any fsspec URL; returns the location."""
        files.write(location, self.read())
        return os.fspath(location)

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels as people see the picture: EXIF orientation applied."""
        return (self.height, self.width) if self.orientation in TRANSPOSED else (self.width, self.height)

    @property
    def megapixels(self) -> float:
        """Area in MP of 1,048,576 px (the unit of BFL's prices)."""
        return self.width * self.height / 1_048_576

    @property
    def is_preview(self) -> bool:
        """Whether a local engine made it, in place of BFL."""
        return self.engine.startswith("local:")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, without bytes."""
        described = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "data"}
        return {key: value for key, value in described.items() if value not in ("", None)}

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> ImageRef:
        """Return the reference that ``to_dict`` described; unknown keys are ignored."""
        return cls(**{key: value for key, value in described.items() if key in cls.__dataclass_fields__})

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the picture in a notebook, at most 1,024 px wide."""
        image = self.open()
        image.thumbnail((1024, 1024))
        return {"image/png": base64.b64encode(encode_png(plain(image))).decode(), "text/plain": repr(self)}


def stem(location: str) -> str:
    """Return the file name of a path or URL without folder, query and extension."""
    path = urlsplit(location).path if "://" in location else location
    return PurePosixPath(unquote(path.replace("\\", "/"))).stem
