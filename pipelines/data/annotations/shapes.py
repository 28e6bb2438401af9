"""Polygons and run-length encoded masks: their areas, their parts within a picture, and their pixels.

Pixels are worked out here and not by a library of drawings: a mask is a part of a job key, so that one pixel more in a
new version of a library would be paid for again.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

from PIL import Image

from flux_tasks.errors import InvalidRequest
from pipelines.operations.placement import Placement, Point, Size

__all__ = ["Box", "Polygon", "Rle", "area", "bounds", "clip", "decode", "encode", "fill", "missing", "png", "warp"]

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are edges, so that a box of one pixel has an area of 1."""
Polygon: TypeAlias = tuple[Point, ...]
Rle: TypeAlias = Mapping[str, Any]
"""COCO's ``{"size": [height, width], "counts": …}``, compressed (text) or not (a list)."""

_NEEDED = "run-length encoded masks need pycocotools: pip install 'flux-pipelines[annotations]'"


def area(polygon: Polygon) -> float:
    """Return the area of a polygon in square pixels."""
    pairs = zip(polygon, (*polygon[1:], *polygon[:1]), strict=True)
    return abs(math.fsum(x * v - u * y for (x, y), (u, v) in pairs)) / 2


def bounds(points: Sequence[Point]) -> Box:
    """Return the smallest box around points."""
    across, down = zip(*points, strict=True)
    return min(across), min(down), max(across), max(down)


def clip(polygon: Polygon, size: Size) -> Polygon:
    """Return the part of a polygon within a picture (Sutherland and Hodgman); empty if nothing is."""
    found = [*polygon]
    for axis, edge, sign in ((0, 0, 1), (1, 0, 1), (0, size[0], -1), (1, size[1], -1)):
        before, found = found, []
        for one, other in zip(before, (*before[1:], *before[:1]), strict=True):
            here, there = sign * (one[axis] - edge), sign * (other[axis] - edge)
            if here >= 0:
                found.append(one)
            if (here > 0 > there) or (here < 0 < there):
                share = here / (here - there)
                point = [a + share * (b - a) for a, b in zip(one, other, strict=True)]
                point[axis] = float(edge)
                found.append((point[0], point[1]))
    return tuple(found)


def fill(size: Size, polygons: Sequence[Polygon], pixels: bytearray) -> None:
    """Set the pixels to 255 whose centres lie in one of ``polygons``; where one crosses itself, the inside is even-odd.

    Args:
        pixels: of a picture of ``size``, a byte each.
    """
    width, height = size
    for polygon in polygons:
        for row, starts in _crossings(polygon, height):
            for left, right in zip(starts[::2], starts[1::2], strict=False):
                begin, end = max(0, math.ceil(left - 0.5)), min(width, math.ceil(right - 0.5))
                if begin < end:
                    pixels[row * width + begin : row * width + end] = b"\xff" * (end - begin)


def _crossings(polygon: Polygon, height: int) -> Iterator[tuple[int, list[float]]]:
    """Yield each row of pixels, and where its middle crosses the polygon, from left to right."""
    rows: dict[int, list[float]] = {}
    for (x, y), (u, v) in zip(polygon, (*polygon[1:], *polygon[:1]), strict=True):
        if y == v:
            continue
        upper, lower = ((x, y), (u, v)) if y < v else ((u, v), (x, y))
        slope = (lower[0] - upper[0]) / (lower[1] - upper[1])
        for row in range(max(0, math.ceil(upper[1] - 0.5)), min(height, math.ceil(lower[1] - 0.5))):
            rows.setdefault(row, []).append(upper[0] + (row + 0.5 - upper[1]) * slope)
    for row in sorted(rows):
        yield row, sorted(rows[row])


def decode(rle: Rle) -> Image.Image:
    """Return the mask, ``L`` with 0 and 255.

    Raises:
        InvalidRequest: it is damaged, or pycocotools is not installed.
    """
    coder = _coder()
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, str):
            _check_counts(counts, height * width)
            packed = {"size": [height, width], "counts": counts.encode()}
        else:
            if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in counts):
                raise ValueError("its counts are no whole numbers")
            if sum(counts) != height * width:
                raise ValueError(f"its counts make {sum(counts):,} pixels, and its size {height * width:,}")
            packed = coder.frPyObjects({"size": [height, width], "counts": [*counts]}, height, width)
        return Image.fromarray(coder.decode(packed) * 255)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(f"a run-length encoded mask is damaged: {error}") from None


def _check_counts(text: str, pixels: int) -> None:
    """Check that compressed counts make so many pixels: pycocotools reads beyond its memory otherwise.

    Five bits a character from ``0``, the sixth says that more follow; from the third count on, each is the difference
    to the last but one (``rleFrString`` of pycocotools).
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its counts are not compressed as COCO has it")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            if counts[-1] < 0:
                raise ValueError("its counts are not compressed as COCO has it")
            value = shift = 0
    if shift or sum(counts) != pixels:
        raise ValueError(f"its counts make {sum(counts):,} pixels, and its size {pixels:,}")


def encode(mask: Image.Image) -> Rle:
    """Return a mask, ``L`` with 0 and 255, as compressed run lengths."""
    import numpy

    found = _coder().encode(numpy.asfortranarray(numpy.asarray(mask) // 255))
    return {"size": [*found["size"]], "counts": found["counts"].decode()}


def missing() -> str:
    """Return what has to be installed for run lengths, or an empty string."""
    return "" if find_spec("pycocotools") is not None else _NEEDED


def _coder() -> Any:
    if what := missing():
        raise InvalidRequest(what)
    from pycocotools import mask  # type: ignore[import-untyped,unused-ignore]

    return mask


def warp(mask: Image.Image, placement: Placement) -> Image.Image:
    """Return a mask where ``placement`` puts it; each pixel is the nearest one, without greys."""
    back = placement.inverse(mask.size).matrix
    return mask.transform(placement.size, Image.Transform.AFFINE, back, Image.Resampling.NEAREST)


def png(size: Size, pixels: bytes) -> bytes:
    """Return black and white pixels, a byte each, as a PNG whose bytes are the same with every library.

    Its data are stored, not compressed: what zlib makes of them differs from version to version.
    """
    image = Image.frombytes("L", size, pixels).point([0] * 128 + [1] * 128, "1")
    step = -(-size[0] // 8)
    packed = image.tobytes()
    rows = b"".join(b"\0" + packed[start : start + step] for start in range(0, len(packed), step))
    blocks = [rows[start : start + 65_535] for start in range(0, len(rows), 65_535)]
    stored = [b"\x78\x01"]
    for number, block in enumerate(blocks, 1):
        stored += (struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF), block)
    stored.append(struct.pack(">I", zlib.adler32(rows)))
    header = struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b"".join(stored)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
