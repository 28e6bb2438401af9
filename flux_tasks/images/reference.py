"""Images as values: ``ImageRef`` is the small reference that steps pass on; the bytes stay where they are.

To learn an image's type and size, only its header is read; its pixel count is checked before anything is decoded.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias
from urllib.parse import unquote_to_bytes

from PIL import Image

from flux_tasks import files
from flux_tasks.errors import FluxError, InvalidImage, ServerUnavailable
from flux_tasks.files import stem
from flux_tasks.images import byte_cache
from flux_tasks.images.encoding import TRANSPOSED, Header, decode, encode_png, inspect, plain, read_profile
from flux_tasks.images.loading import read_location
from flux_tasks.images.pixels import room

FIRST_ONLY = "it has several frames or pages, and only the first one is used"
"""Warning about a picture that is a sequence of several; see ``Header.is_sequence``."""

DAMAGED = (
    "damaged: its bytes do not fit its name; put a whole copy back, or remove it: then free work is done again, and a "
    "paid job is held (see flux-pipelines store held)"
)
"""What is wrong with a file that is named after its SHA-256, as those of the store are, and what to do about it."""

LOCAL_ENGINE = "local:"
"""How the name of an engine begins that makes previews on this machine; BFL's own is ``bfl``."""

_UNWRITTEN = ("data", "known")
"""Fields that no description of a reference has."""


def makes_previews(engine: str) -> bool:
    """Check whether what this engine makes are previews, which cost nothing and are no results of BFL."""
    return engine.startswith(LOCAL_ENGINE)


class Memory(Protocol):
    """Remembers the pictures in files that have not changed since they were read."""

    def recall(self, location: str) -> ImageRef | None:
        """Return the picture at ``location`` if it is remembered; called before it is read."""

    def keep(self, location: str, image: ImageRef) -> None:
        """Remember the picture that was just read."""


_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def remembering(memory: Memory) -> Iterator[None]:
    """Let ``ImageRef.of`` ask ``memory`` before it reads a file, in the block and in tasks and threads begun there."""
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


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
    known: Header | None = field(default=None, compare=False, repr=False)
    """The header, where the bytes have been looked at; see ``header``."""

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
            raise InvalidImage(_no_image(source))
        location = os.fspath(source)
        if files.is_data(location):
            return cls._of_bytes(_embedded(location), files.quoted(location), name=name, keep=True)
        memory = _memory.get()
        if memory is not None and (known := memory.recall(location)) is not None:
            files.notice(location)
            return replace(known, name=name or stem(location), uri=location)
        try:
            data = read_location(location)
        except ServerUnavailable:
            raise
        except (OSError, FluxError) as error:
            raise InvalidImage(_unreadable(location, error)) from None
        image = cls._of_bytes(
            data,
            files.quoted(location),
            name=name or stem(location),
            uri=location,
            keep=files.is_web(location),
        )
        if memory is not None:
            memory.keep(location, image)
        return image

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
            known=header,
        )

    @property
    def header(self) -> Header:
        """What the file's header says; read from the bytes where it is not known yet.

        Raises:
            InvalidImage, ServerUnavailable: as for ``read``.
        """
        return self.known or inspect(self.read())

    @property
    def has_alpha(self) -> bool:
        """Whether it has transparency, as its header says; it may be opaque all the same.

        Raises:
            InvalidImage, ServerUnavailable: as for ``read``.
        """
        return self.media_type != "image/jpeg" and self.header.has_alpha

    @property
    def profile(self) -> bytes | None:
        """The colour profile in its file, or None.

        Raises:
            InvalidImage, ServerUnavailable: as for ``read``.
        """
        return read_profile(self.read()) if self.header.has_profile else None

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
            what = "its bytes are no longer in memory, and were not stored: give its file again"
            raise InvalidImage(f"{self.name or self.digest}: {what}")
        try:
            data = read_location(self.uri)
        except ServerUnavailable:
            raise
        except (OSError, FluxError) as error:
            raise InvalidImage(_failed(self.uri, error)) from None
        if hashlib.sha256(data).hexdigest() != self.digest:
            changed = "the file has changed since it was first read: read it again with ImageRef.of"
            raise InvalidImage(f"{self.uri}: {DAMAGED if stem(self.uri) == self.digest else changed}")
        byte_cache.put(self.digest, data)
        return data

    def open(self, *, keep_depth: bool = False, least: int = 0) -> Image.Image:
        """Return the picture, decoded and upright, of mode 1, L, LA, RGB or RGBA; see ``encoding.decode``.

        Raises:
            InvalidImage: unreadable, damaged or too large.
        """
        try:
            return decode(self.read(), keep_depth=keep_depth, least=least)
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
        return makes_previews(self.engine)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, without bytes."""
        described = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _UNWRITTEN}
        return {key: value for key, value in described.items() if value not in ("", None)}

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> ImageRef:
        """Return the reference that ``to_dict`` described; unknown keys are ignored."""
        known = cls.__dataclass_fields__.keys() - set(_UNWRITTEN)
        return cls(**{key: value for key, value in described.items() if key in known})

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the picture in a notebook, at most 1,024 px wide."""
        image = self.open()
        image.thumbnail((1024, 1024))
        return {"image/png": base64.b64encode(encode_png(image)).decode(), "text/plain": repr(self)}


def _no_image(value: object) -> str:
    """Return what to say of a value of another type: an array, an open file, or anything else."""
    kind, remedy = type(value), "give a path, a URL, bytes, a Pillow image or an ImageRef"
    if hasattr(value, "__array_interface__"):  # NumPy's own; PIL takes it as it is
        remedy = "write Image.fromarray(array), with Image from PIL"
    elif any(hasattr(value, name) for name in ("__array__", "__dlpack__", "__cuda_array_interface__")):
        remedy = "write Image.fromarray(array) of a NumPy array of it on the CPU, with Image from PIL"
    elif hasattr(value, "read"):
        remedy = "give its path, or its bytes: file.read()"
    elif isinstance(value, (list, tuple)):
        what = "its picture" if len(value) == 1 else f"one of its {len(value)} pictures"
        remedy = f"give {what}, in a recipe such as '{{{{ column[0] }}}}'"
    return f"{kind.__name__} is not an image: {remedy}"


def decoding(*images: ImageRef) -> AbstractContextManager[None]:
    """Wait until these pictures may be decoded together, and count them until the end of the block; see ``room``."""
    return room(sum(image.width * image.height for image in images))


def _embedded(uri: str) -> bytes:
    """Return the bytes in a data URI (RFC 2397).

    Raises:
        InvalidImage: they are not base64.
    """
    head, _, body = uri.partition(",")
    try:
        data = unquote_to_bytes(body)
        return base64.b64decode(b"".join(data.split()), validate=True) if head.lower().endswith(";base64") else data
    except ValueError:
        raise InvalidImage(f"{files.quoted(uri)}: a data URI whose base64 is damaged or cut short") from None


def _unreadable(location: str, error: Exception) -> str:
    """Return why there are no bytes at ``location``, and what to write instead."""
    where = files.quoted(location)
    if isinstance(error, IsADirectoryError):
        return f"{where}: a folder, not an image file"
    if not files.is_location(location):
        return f"{where}: no location of a picture: write a path, an address, or data:image/png;base64,…"
    if isinstance(error, FileNotFoundError):
        other = files.similar(location)
        return f"{where}: no such file" + (f": there is {other}: write its name as it is there" if other else "")
    return _failed(location, error)


def _failed(location: str, error: Exception) -> str:
    """Return what the system says of a location."""
    where = files.quoted(location)
    known = f"[Errno {error.errno}] {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
    return f"{where}: {known.removeprefix(f'{location}: ').removeprefix(f'{where}: ')}"
