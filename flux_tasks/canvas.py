"""The canvas of an outpaint: three ways to say it, one result.

A canvas is given as the API takes it (``width``, ``height``, offsets), as ``aspect_ratio`` with an ``anchor``, or as
pixels to ``expand`` by on each side. All become one ``Canvas`` of at least 64 px a side and at most 4,194,304 px
(DOCS-OUT), snapped to multiples of 16 unless ``exact`` is asked for: unaligned sizes and offsets were reported to
come back as one solid colour (GRIDBUG).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flux_tasks.errors import InvalidRequest, Problem

__all__ = ["ANCHORS", "GRID", "MAX_CANVAS", "Canvas", "parse_aspect_ratio", "plan_canvas"]

MAX_CANVAS = 4_194_304
"""Largest canvas in pixels (DOCS-OUT: 4 MP = 2048 × 2048)."""

GRID = 16
MIN_SIDE = 64

ANCHORS: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
    "top-left": (0.0, 0.0),
    "top-right": (1.0, 0.0),
    "bottom-left": (0.0, 1.0),
    "bottom-right": (1.0, 1.0),
}
"""Where the picture sits on the canvas, as shares of the free space to its left and above it."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """The final picture and where the input lies on it, in pixels; ``left`` and ``top`` may be negative."""

    width: int
    height: int
    left: int
    top: int

    def overhangs(self, size: tuple[int, int]) -> bool:
        """Whether an input of ``size`` reaches beyond the canvas."""
        return self.left < 0 or self.top < 0 or self.left + size[0] > self.width or self.top + size[1] > self.height


def parse_aspect_ratio(text: str) -> float | None:
    """Width over height of ``"16:9"``, or None if it is not two positive numbers with a colon between them."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[:/x]\s*(\d+(?:\.\d+)?)\s*", text)
    if not found or float(found[2]) == 0:
        return None
    ratio = float(found[1]) / float(found[2])
    return ratio if 1e-9 < ratio < 1e9 else None  # nothing beyond that fits a canvas, and infinity is no number


def plan_canvas(
    size: tuple[int, int],
    *,
    aspect_ratio: str | None = None,
    anchor: str = "center",
    expand: Mapping[str, int] | None = None,
    exact: bool = False,
    where: str = "outpaint",
) -> Canvas:
    """The canvas for an input of ``size`` (width, height in pixels).

    Args:
        aspect_ratio: such as ``"16:9"``; the canvas is the smallest of that shape that holds the whole input.
        anchor: one of ``ANCHORS``.
        expand: pixels to add: ``left``, ``right``, ``top``, ``bottom``.
        exact: keep sizes that are not multiples of 16.

    Raises:
        InvalidRequest: the canvas would be too large, or the ratio or a side is not understood.
    """
    width, height = size
    if expand is not None:
        left, top = expand.get("left", 0), expand.get("top", 0)
        wanted = (width + left + expand.get("right", 0), height + top + expand.get("bottom", 0))
        share = (left / max(1, wanted[0] - width), top / max(1, wanted[1] - height))
    else:
        ratio = parse_aspect_ratio(aspect_ratio or "")
        if ratio is None:
            raise InvalidRequest.of(
                [Problem(f"{where}.aspect_ratio", f"{aspect_ratio!r} is not a ratio: write it like '16:9'")]
            )
        if anchor not in ANCHORS:
            raise InvalidRequest.of(
                [Problem(f"{where}.anchor", f"{anchor!r} is unknown: write one of {', '.join(ANCHORS)}")]
            )
        wanted = (
            max(width, math.ceil(height * ratio - 1e-6)),
            max(height, math.ceil(width / ratio - 1e-6)),
        )
        share = ANCHORS[anchor]
        left, top = round((wanted[0] - width) * share[0]), round((wanted[1] - height) * share[1])
    wanted = (max(wanted[0], MIN_SIDE), max(wanted[1], MIN_SIDE))
    if not exact:
        wanted = (_snap_up(wanted[0]), _snap_up(wanted[1]))
        left = _snap_offset(left, share[0], wanted[0] - width)
        top = _snap_offset(top, share[1], wanted[1] - height)
    if wanted[0] * wanted[1] > MAX_CANVAS:
        raise InvalidRequest.of(
            [
                Problem(
                    where,
                    f"the canvas would be {wanted[0]}×{wanted[1]} px = {wanted[0] * wanted[1]:,} px, more than "
                    f"{MAX_CANVAS:,}: extend less, or scale the image down first (fit: downscale)",
                )
            ]
        )
    return Canvas(*wanted, left, top)


def _snap_up(pixels: int) -> int:
    return -(-pixels // GRID) * GRID


def _snap_offset(offset: int, share: float, room: int) -> int:
    """The multiple of 16 nearest to ``offset`` that keeps the input on the canvas; an anchored side stays anchored."""
    if share == 0 or room <= 0:
        return 0
    if share == 1:
        return room  # flush with the far edge, which no multiple of 16 may be
    return min(round(offset / GRID) * GRID, room // GRID * GRID)
