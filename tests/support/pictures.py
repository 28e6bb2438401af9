"""Small pictures for tests, as encoded bytes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy
from PIL import Image, ImageCms

__all__ = ["GREY_PROFILE", "P3", "SRGB", "encoded", "noise", "png_header"]

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]


def _of_p3() -> bytes:
    """The profile of sRGB with the red of Display P3."""
    at = SRGB.index(b"rXYZ") + 4
    start = int.from_bytes(SRGB[at : at + 4], "big") + 8
    red = b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in (0.51512, 0.24120, -0.00105))
    return SRGB[:start] + red + SRGB[start + 12 :]


P3 = _of_p3()


def noise(size: tuple[int, int] = (64, 48), mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture without two equal neighbours to speak of; the same one for the same arguments."""
    count = size[0] * size[1] * len(Image.new(mode, (1, 1)).getbands())
    # Each state is 1103515245 times the one before, plus 12345, in 32 bits: so the n-th is a power and a sum of powers.
    powers = numpy.cumprod(numpy.full(count, 1103515245, "uint32"), dtype="uint32")
    sums = numpy.cumsum(numpy.concatenate((numpy.ones(1, "uint32"), powers[:-1])), dtype="uint32")
    states = powers * numpy.uint32((seed * 7919 + 12345) & 0xFFFFFFFF) + sums * numpy.uint32(12345)
    return Image.frombytes(mode, size, (states >> 16).astype("uint8").tobytes())


def encoded(image: Image.Image | None = None, kind: str = "PNG", *, seed: int = 0, **options: Any) -> bytes:
    """``image``, or some noise, as a file of ``kind``."""
    buffer = io.BytesIO()
    (image or noise(seed=seed)).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, pixels: bytes = b"no pixels at all") -> bytes:
    """A PNG of any size whose header is right and whose pixel data is whatever is given."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
