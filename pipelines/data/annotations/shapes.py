"""Polygons and run-length encoded masks: their areas, their parts within a picture, and their pixels.

Pixels are worked out here and not by a library of drawings: a mask is a part of a job key, so that one pixel more in a
new version of a library would be paid for again.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from PIL import Image

from flux_tasks.errors import InvalidRequest
from flux_tasks.images.encoding import MAX_PIXELS
from pipelines.operations.placement import Placement, Point, Size

__all__ = ["Box", "Polygon", "Rle", "area", "bounds", "clip", "decode", "encode", "fill", "png", "warp"]

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are edges, so that a box of one pixel has an area of 1."""
Polygon: TypeAlias = tuple[Point, ...]
Rle: TypeAlias = Mapping[str, Any]
"""COCO's ``{"size": [height, width], "counts": …}``, compressed (text) or not (a list)."""


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
    """Return the mask, ``L`` with 0 and 255. Counts run down the columns, and begin with black.

    Raises:
        InvalidRequest: it is damaged.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        counts = _unpacked(counts) if isinstance(counts, str) else counts
        if any(isinstance(count, bool) or not isinstance(count, int) or count < 0 for count in counts):
            raise ValueError("its counts are no whole numbers from 0 on")
        if sum(counts) != height * width or not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"its counts make {sum(counts):,} pixels, and its size {height * width:,}")
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(f"a run-length encoded mask is damaged: {error}") from None
    runs = (bytes([255 * (number % 2)]) * count for number, count in enumerate(counts))
    return Image.frombytes("L", (height, width), b"".join(runs)).transpose(Image.Transpose.TRANSPOSE)


def encode(mask: Image.Image) -> Rle:
    """Return a mask, ``L`` with 0 and 255, as compressed run lengths."""
    pixels = mask.transpose(Image.Transpose.TRANSPOSE).tobytes()
    counts, start, value = [], 0, 0
    while start < len(pixels):
        end = pixels.find(255 - value, start)
        end = len(pixels) if end < 0 else end
        counts.append(end - start)
        start, value = end, 255 - value
    return {"size": [mask.height, mask.width], "counts": _packed(counts)}


def _unpacked(text: str) -> list[int]:
    """Return compressed counts as numbers, as ``rleFrString`` of pycocotools does.

    Five bits a character from ``0`` on, the sixth says that more follow; from the fourth count on, each is the
    difference to the last but one.
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
            value -= (1 << shift) if bits & 0x10 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its counts are cut short")
    return counts


def _packed(counts: Sequence[int]) -> str:
    """Return numbers as compressed counts, as ``rleToString`` of pycocotools does."""
    text = bytearray()
    for number, count in enumerate(counts):
        value = count - (counts[number - 2] if number > 2 else 0)
        has_more = True
        while has_more:
            bits = value & 0x1F
            value >>= 5
            has_more = value != (-1 if bits & 0x10 else 0)
            text.append(48 + bits + (0x20 if has_more else 0))
    return text.decode()


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
