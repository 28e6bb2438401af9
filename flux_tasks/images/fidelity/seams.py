"""The border between a picture and what was added around it: the picture is put back, and what was added is judged."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image, ImageChops

__all__ = ["Box", "put_back", "sides"]

Box = tuple[int, int, int, int]

_EDGE = 4  # pixels
_NARROW = 8


def sides(size: tuple[int, int], kept: Box) -> Iterator[tuple[Box, Box]]:
    """Yield the parts of a picture of ``size`` around the box ``kept``, each with the edge of the box next to it.

    What is narrower than 8 px is left out. Boxes are left, top, right, bottom in pixels; right and bottom are excluded.
    """
    left, top, right, bottom = max(0, kept[0]), max(0, kept[1]), min(size[0], kept[2]), min(size[1], kept[3])
    if right <= left or bottom <= top:
        return
    pairs: list[tuple[Box, Box]] = [
        ((0, 0, size[0], top), (left, top, right, min(bottom, top + _EDGE))),
        ((0, bottom, *size), (left, max(top, bottom - _EDGE), right, bottom)),
        ((0, top, left, bottom), (left, top, min(right, left + _EDGE), bottom)),
        ((right, top, size[0], bottom), (max(left, right - _EDGE), top, right, bottom)),
    ]
    for part, edge in pairs:
        if min(part[2] - part[0], part[3] - part[1]) >= _NARROW:
            yield part, edge


def put_back(original: Image.Image, made: Image.Image, corner: tuple[int, int], feather: float = 0) -> Image.Image:
    """Return ``made`` with ``original`` put where it lies, pixel for pixel.

    Args:
        corner: where the left top corner of ``original`` lies on ``made``, in pixels; may be negative.
        feather: softens the edges beyond which something was added, over so many pixels of ``original``.
    """
    mode = "RGBA" if original.has_transparency_data else "RGB"
    result = made.convert(mode)
    left, top = corner
    beyond = left > 0, left + original.width < made.width, top > 0, top + original.height < made.height
    across = _ramp(original.width, feather, before=beyond[0], after=beyond[1]).resize(original.size)
    down = _ramp(original.height, feather, before=beyond[2], after=beyond[3]).transpose(Image.Transpose.ROTATE_270)
    result.paste(original.convert(mode), corner, ImageChops.multiply(across, down.resize(original.size)))
    return result


def _ramp(length: int, feather: float, *, before: bool, after: bool) -> Image.Image:
    """Return the weights of a row of pixels: 255, but rising from 0 over ``feather`` pixels at the ends asked for."""

    def weight(place: int) -> int:
        ends = [place + 0.5] * before + [length - place - 0.5] * after
        share = min(1.0, *(end / feather for end in ends)) if feather > 0 and ends else 1.0
        return round(255 * share * share * (3 - 2 * share))

    return Image.frombytes("L", (length, 1), bytes(map(weight, range(length))))
