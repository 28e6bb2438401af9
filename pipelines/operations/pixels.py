"""Pixels of local steps: open, compare and encode them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from flux_tasks.errors import InvalidImage
from flux_tasks.images import encoding
from flux_tasks.images.reference import ImageRef
from pipelines.operations.base import describe

__all__ = ["encode", "has_same_pixels", "normalised", "open_pixels", "own_bytes"]

_SPACES = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}


def open_pixels(picture: ImageRef) -> Image.Image:
    """Return the picture, upright, as L, LA, RGB or RGBA, with 8 bits a channel and its colour profile.

    Raises:
        InvalidImage: it is damaged, or of a mode that Pillow does not convert.
    """
    image = picture.open()
    clear = image.info.get("transparency")
    if image.mode == "L" and isinstance(clear, int) and encoding.inspect(picture.read()).mode.startswith("I;16"):
        image.info["transparency"] = round(clear / 257)  # it was given in 16 bits
    try:
        return normalised(image)
    except Exception as error:  # a mode that Pillow reads and does not convert
        what = f"the mode {image.mode} cannot be converted: {error}"
        raise InvalidImage(f"{picture.uri or picture.name}: {what}") from None


def normalised(image: Image.Image) -> Image.Image:
    """Return a copy as L, LA, RGB or RGBA, with its colour profile and nothing else in ``info``.

    Raises:
        ValueError: it is of a mode that Pillow does not convert.
    """
    profile = image.info.get("icc_profile")
    image = encoding.eight_bit(image)
    if image.mode in ("I", "F"):
        image = _by_range(image)
    grey, clear = image.mode in ("1", "L", "LA", "La"), image.has_transparency_data
    mode = ("LA" if clear else "L") if grey else ("RGBA" if clear else "RGB")
    found = image.convert(mode) if image.mode != mode or "transparency" in image.info else image.copy()
    found.info = {"icc_profile": profile} if isinstance(profile, bytes) else {}
    return found


def _by_range(image: Image.Image) -> Image.Image:
    """Return greys of 32 bits as ``L``. No file says their white: it is the least of 1.0, 255 and 65,535 that fits."""
    highest = float(image.getextrema()[1])  # type: ignore[arg-type]
    white = next((top for top in ((1.0,) if image.mode == "F" else ()) + (255.0, 65535.0) if highest <= top), highest)
    scaled = image.point(lambda value: value * (255 / white) + 0.5).convert("L")
    scaled.info = {}
    return scaled


def has_same_pixels(one: Image.Image, other: Image.Image) -> bool:
    """Check whether mode, size and every pixel are equal."""
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


def own_bytes(picture: ImageRef) -> ImageRef:
    """Return the picture's own bytes as a result that cost nothing, in memory."""
    return replace(ImageRef.of(picture.read(), name=picture.name), engine=picture.engine)


def encode(
    image: Image.Image,
    sources: Mapping[str, list[ImageRef]],
    *,
    profile: bytes | None = None,
    kind: str = "PNG",
    **options: Any,
) -> ImageRef:
    """Return ``image`` as a file, in memory.

    A preview mark of any source is kept. Of the metadata only ``profile`` is written, where it fits: a profile for
    RGB in RGB and RGBA, one for greys in L and LA.

    Args:
        sources: the pictures that it was made from, the primary one first.

    Raises:
        InvalidImage: the file type cannot hold it.
    """
    image = image.copy()
    image.info = {}
    if profile is not None and profile[16:20] == _SPACES.get(image.mode):
        image.info["icc_profile"] = options["icc_profile"] = profile
    given = [picture for pictures in sources.values() for picture in pictures]
    marked = next((picture.engine for picture in given if picture.is_preview), "")
    try:
        if kind == "PNG" and not marked:
            data = encoding.encode_png(image)
        else:
            marks = encoding.mark_preview(image, marked) if marked else {}
            fast = {"compress_level": 1, "compress_type": 3} if kind == "PNG" else {}
            buffer = io.BytesIO()
            image.save(buffer, kind, **fast, **options, **marks)
            data = buffer.getvalue()
    except Exception as error:  # too many pixels for the file type, or for the memory
        size = f"{image.width}×{image.height} px"
        raise InvalidImage(f"{given[0].name}: {size} cannot be written as {kind}: {describe(error)}") from None
    return ImageRef.of(data, name=given[0].name)
