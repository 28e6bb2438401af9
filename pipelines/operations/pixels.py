"""Pixels of local steps: open, compare and encode them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from flux_tasks.errors import InvalidImage
from flux_tasks.images import encoding, pixels
from flux_tasks.images.reference import ImageRef
from flux_tasks.units import px_size
from pipelines.operations.base import describe

__all__ = ["encode", "has_same_pixels", "normalised", "open_pixels", "own_bytes"]


def open_pixels(picture: ImageRef) -> Image.Image:
    """Return the picture, upright, as L, LA, RGB or RGBA, with 8 bits a channel and its colour profile.

    Raises:
        InvalidImage: it is damaged, or of a mode that Pillow does not convert.
    """
    return normalised(picture.open())


def normalised(image: Image.Image) -> Image.Image:
    """Return a copy as L, LA, RGB or RGBA, with its colour profile and nothing else in ``info``.

    Raises:
        ValueError: it is of a mode that Pillow does not convert.
    """
    found = pixels.normalised(image)
    return found.convert("L") if found.mode == "1" else found


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
    image.info = {"icc_profile": profile}
    given = [picture for pictures in sources.values() for picture in pictures]
    engine = next((picture.engine for picture in given if picture.is_preview), "")
    try:
        data = encoding.encode(image, kind, engine=engine, **options)
    except Exception as error:  # too many pixels for the file type, or for the memory
        what = f"{px_size(image.size)} cannot be written as {kind}: {describe(error)}"
        raise InvalidImage(f"{given[0].name}: {what}") from None
    return ImageRef.of(data, name=given[0].name)
