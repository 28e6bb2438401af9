"""Pixels as people see them: upright, 8 bits a channel, greys or colours with or without alpha, and their profile.

Every picture that is decoded, sent or written goes through here, so that all of them agree on what a file shows.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import math
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from PIL import Image

__all__ = [
    "WHITE",
    "eight_bit",
    "flattened",
    "has_profile_of",
    "is_see_through",
    "is_srgb",
    "normalised",
    "room",
    "scaled",
    "to_colours",
]

WHITE = (255, 255, 255)

MOST_AT_ONCE = 16_000_000
"""Pixels that are decoded at a time, over all threads: 16 MP, about 200 MB with the copies that work needs."""

_PATIENCE = 30.0  # seconds; a thread that waits for another one that waits for it goes on then
_MUCH = 1_000_000
_changed = threading.Condition()
_taken = {"pixels": 0}
_here = threading.local()


@contextmanager
def room(pixels: int) -> Iterator[None]:
    """Wait until a picture of so many pixels may be decoded, and count it until the end of the block.

    One that is larger than the limit is decoded alone. Blocks in blocks of one thread do not wait, and so cannot wait
    for each other; nor does a thread that runs an event loop.
    """
    if getattr(_here, "is_inside", False) or _runs_loop():
        yield
        return
    with _changed:
        _changed.wait_for(lambda: not _taken["pixels"] or _taken["pixels"] + pixels <= MOST_AT_ONCE, _PATIENCE)
        _taken["pixels"] += pixels
    _here.is_inside = True
    try:
        yield
    finally:
        _here.is_inside = False
        with _changed:
            _taken["pixels"] -= pixels
            _changed.notify_all()
        if pixels > _MUCH:
            _trim()


_SPACES = {"1": b"GRAY", "L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK", "LAB": b"Lab "}
"""The colour space that a profile for pixels of each mode names, at bytes 16 to 20."""


def _trim() -> None:
    """Give freed memory back to the system: glibc keeps up to 32 MB for each thread that had a large picture."""
    with suppress(OSError, AttributeError):  # another system has another allocator
        ctypes.CDLL(None).malloc_trim(0)


def _runs_loop() -> bool:
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False


def normalised(image: Image.Image) -> Image.Image:
    """Return a copy as 1, L, LA, RGB or RGBA, with its colour profile, if that is for such pixels, and no other info.

    A colour that stands for transparency, and a palette, become channels. Greys of 16 bits are divided by 257, those of
    32 bits scaled by their range. CMYK and LAB become sRGB through their own profile, where they have one.

    Raises:
        ValueError: it is of a mode that Pillow does not convert.
    """
    profile = image.info.get("icc_profile")
    if image.mode in ("CMYK", "LAB"):
        found = to_colours(image)
    else:
        image = eight_bit(image)
        is_grey, is_clear = image.mode in ("1", "L", "LA", "La"), image.has_transparency_data
        mode = ("LA" if is_clear else "L") if is_grey else ("RGBA" if is_clear else "RGB")
        mode = "1" if image.mode == "1" and not is_clear else mode
        found = image.convert(mode) if image.mode != mode else image.copy()
    found.info = {"icc_profile": profile} if has_profile_of(found.mode, profile) else {}
    return found


def eight_bit(image: Image.Image) -> Image.Image:
    """Return greys of 16 and 32 bits as ``L``; Pillow's own ``convert`` cuts them off at 255.

    No file says the white of 32 bits. Floats up to 1.0 and values up to 255, some above 127, are what they are; all
    others are spread from 0, or the lowest value if that is below, to the highest.
    """
    if image.mode.startswith("I;16"):
        clear = image.info.get("transparency")
        scaled = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
        scaled.info = {**image.info, "transparency": round(clear / 257)} if isinstance(clear, int) else dict(image.info)
        return scaled
    if image.mode not in ("I", "F"):
        return image
    lowest, highest = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    if not math.isfinite(highest - lowest):  # the sky of a depth map
        numbers = [value for value in array("f", image.tobytes()) if math.isfinite(value)] or [0.0]
        lowest, highest = min(numbers), max(numbers)
    black = min(0.0, lowest)
    if lowest >= 0 and highest <= 1 and image.mode == "F":
        highest = 1.0
    elif lowest >= 0 and 127 < highest <= 255:
        highest = 255.0
    factor = 255 / ((highest - black) or 1.0)
    scaled = image.point(lambda value: value * factor + (0.5 - black * factor)).convert("L")
    scaled.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return scaled


def has_profile_of(mode: str, profile: object) -> bool:
    """Check whether ``profile`` is a colour profile for pixels of ``mode``."""
    return isinstance(profile, bytes) and profile[16:20] == _SPACES.get(mode)


def to_colours(image: Image.Image) -> Image.Image:
    """Return RGB or RGBA: sRGB through the profile of ``image`` if it has greys, CMYK or LAB and a profile for them.

    A profile that cannot be used is left out.
    """
    if image.mode in ("RGB", "RGBA"):
        return image
    if image.mode == "LA":
        colours = to_colours(_without_alpha(image))
        colours.putalpha(image.getchannel("A"))
        return colours
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and has_profile_of(image.mode, profile):
        from PIL import ImageCms

        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            made = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or for another device than it says
            made = None
        if made is not None:
            made.info = {}
            return made
    made = image.convert("RGB")
    made.info = {}
    return made


def _without_alpha(image: Image.Image) -> Image.Image:
    grey = image.getchannel("L")
    grey.info = image.info
    return grey


def is_srgb(profile: bytes) -> bool:
    """Check whether a colour profile has the primaries of sRGB, which a picture without a profile is taken for."""
    from PIL import ImageCms

    try:
        found, standard = (
            ImageCms.ImageCmsProfile(given).profile for given in (io.BytesIO(profile), ImageCms.createProfile("sRGB"))
        )
        names = ("red_colorant", "green_colorant", "blue_colorant")
        pairs = [(getattr(found, name), getattr(standard, name)) for name in names]
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    return all(
        one is not None and all(abs(a - b) < 0.003 for a, b in zip(one[0], other[0], strict=True))
        for one, other in pairs
    )


def flattened(image: Image.Image, colour: Sequence[int] = WHITE) -> Image.Image:
    """Return ``image`` without alpha, on ``colour``; greys on a grey stay greys. Its profile stays where it fits."""
    if not image.mode.endswith("A"):
        return image
    below = Image.new("RGBA", image.size, (*colour[:3], 255))
    flat = Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")
    flat = flat.convert("L") if image.mode == "LA" and len(set(colour)) == 1 else flat
    profile = image.info.get("icc_profile")
    flat.info = {"icc_profile": profile} if has_profile_of(flat.mode, profile) else {}
    return flat


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a normalised picture at ``size`` (width, height in pixels), averaged; itself if it has that size."""
    if image.size == size:
        return image
    return (image.convert("L") if image.mode == "1" else image).resize(size, Image.Resampling.LANCZOS)


def is_see_through(image: Image.Image) -> bool:
    """Check whether any pixel of a normalised picture is not opaque."""
    return image.mode.endswith("A") and image.getchannel("A").getextrema()[0] != 255
