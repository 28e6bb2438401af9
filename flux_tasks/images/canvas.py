"""The canvas of an outpaint: three ways to give it, one result.

A canvas is given as the API takes it (``width``, ``height``, offsets), as ``aspect_ratio`` with an ``anchor``, or as
pixels to ``expand`` by on each side. All become one ``Canvas`` of at least 64 px a side and at most 4,194,304 px
(DOCS-OUT), snapped to multiples of 16 unless ``exact`` is asked for: results of unaligned sizes and offsets were
reported to be one solid colour (GRIDBUG).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flux_tasks.errors import InvalidRequest, Problem, shown
from flux_tasks.units import px_size

__all__ = [
    "ANCHORS",
    "GRID",
    "MAX_CANVAS",
    "Canvas",
    "parse_aspect_ratio",
    "plan_canvas",
    "resolve_canvas",
    "says_shape",
]

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
    """The final picture, and where the input is on it, in pixels; ``left`` and ``top`` may be negative."""

    width: int
    height: int
    left: int
    top: int

    def overhangs(self, size: tuple[int, int]) -> bool:
        """Check whether an input of ``size`` reaches beyond the canvas."""
        return self.left < 0 or self.top < 0 or self.left + size[0] > self.width or self.top + size[1] > self.height


def parse_aspect_ratio(text: str) -> float | None:
    """Return width over height of ``"16:9"``, or None if it is not two positive numbers with a colon between them."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[:/x]\s*(\d+(?:\.\d+)?)\s*", text)
    if not found or float(found[2]) == 0:
        return None
    ratio = float(found[1]) / float(found[2])
    return ratio if 1e-9 < ratio < 1e9 else None  # nothing beyond that fits a canvas


def plan_canvas(
    size: tuple[int, int],
    *,
    aspect_ratio: str | None = None,
    anchor: str = "center",
    expand: Mapping[str, int] | None = None,
    exact: bool = False,
    where: str = "outpaint",
) -> Canvas:
    """Return the canvas for an input of ``size`` (width, height in pixels).

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
                [Problem(f"{where}.aspect_ratio", f"{shown(aspect_ratio)} is not a ratio: write it like '16:9'")]
            )
        if anchor not in ANCHORS:
            raise InvalidRequest.of(
                [Problem(f"{where}.anchor", f"{shown(anchor)} is unknown: write one of {', '.join(ANCHORS)}")]
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
                    f"the canvas would be {px_size(wanted)} = {wanted[0] * wanted[1]:,} px, more than "
                    f"{MAX_CANVAS:,}: extend less, or scale the image down first (fit: downscale)",
                )
            ]
        )
    return Canvas(*wanted, left, top)


def _snap_up(pixels: int) -> int:
    return -(-pixels // GRID) * GRID


def _snap_offset(offset: int, share: float, room: int) -> int:
    """Return the multiple of 16 nearest to ``offset`` that keeps the input on the canvas; an anchored side stays so."""
    if share == 0 or room <= 0:
        return 0
    if share == 1:
        return room  # the far edge, even where it is no multiple of 16
    return min(round(offset / GRID) * GRID, room // GRID * GRID)


Size = tuple[int, int]
_OURS = ("aspect_ratio", "anchor", "expand", "exact")
_THEIRS = ("width", "height", "reference_offset_x", "reference_offset_y")


def says_shape(parameters: Mapping[str, Any]) -> bool:
    """Check whether the canvas is given by its shape (``aspect_ratio``, ``expand``), not by the API's own fields."""
    return bool(parameters.get("aspect_ratio") or parameters.get("expand"))


def resolve_canvas(
    parameters: Mapping[str, Any], size: Size, *, may_shrink: bool, where: str = "outpaint"
) -> tuple[dict[str, Any], Size, list[str]]:
    """Return the canvas that the caller means, in the API's own fields.

    Args:
        parameters: of an outpaint, each checked by itself before.
        size: of the input, in pixels.
        may_shrink: scale the input down where the canvas would be too large otherwise.

    Returns:
        The parameters to send, the size to which the input is scaled, and a warning for each side that was snapped.

    Raises:
        InvalidRequest: the canvas is too large or contradictory, or the input does not lie within it.
    """
    wire = {name: value for name, value in parameters.items() if name not in _OURS}
    exact = bool(parameters.get("exact"))
    if not says_shape(parameters):
        warnings = [] if exact else _snap_explicit(wire)
        _check_explicit(wire, size, where, warnings)
        return wire, size, warnings
    problems = [
        Problem(f"{where}.{name}", "follows from aspect_ratio or expand: leave it out")
        for name in _THEIRS
        if parameters.get(name) is not None
    ]
    if parameters.get("aspect_ratio") and parameters.get("expand"):
        problems.append(Problem(where, "give aspect_ratio or expand, not both"))
    if problems:
        raise InvalidRequest.of(problems)
    ratio, expand = parameters.get("aspect_ratio"), parameters.get("expand")
    if may_shrink and ratio:
        size = _within_canvas(size, str(ratio))
    plan = partial(
        plan_canvas, size, aspect_ratio=ratio, anchor=parameters.get("anchor", "center"), expand=expand, where=where
    )
    canvas = plan(exact=True)
    if canvas != Canvas(*size, 0, 0):  # where nothing is to be added, the grid adds nothing either
        canvas = plan(exact=exact)
    placed = (canvas.width, canvas.height, canvas.left, canvas.top)
    return {**wire, **dict(zip(_THEIRS, placed, strict=True))}, size, []


def _within_canvas(size: Size, aspect_ratio: str) -> Size:
    """Scale ``size`` down if a snapped canvas of ``aspect_ratio`` around it would have more than 4 MP."""
    ratio = parse_aspect_ratio(aspect_ratio) or 1.0
    width, height = size
    canvas = (max(width, height * ratio), max(height, width / ratio))
    if _snap_up(math.ceil(canvas[0])) * _snap_up(math.ceil(canvas[1])) <= MAX_CANVAS:
        return size
    longest = math.sqrt(MAX_CANVAS * max(ratio, 1 / ratio))
    scale = (longest - 2 * GRID) / max(canvas)
    return max(MIN_SIDE, int(width * scale)), max(MIN_SIDE, int(height * scale))


def _snap_explicit(wire: dict[str, Any]) -> list[str]:
    warnings = []
    for name in ("width", "height"):
        snapped = _snap_up(wire[name])
        if snapped != wire[name]:
            warnings.append(f"{name} {wire[name]} was snapped to {snapped}, a multiple of 16 (exact: true keeps it)")
            wire[name] = snapped
    return warnings


def _check_explicit(wire: Mapping[str, Any], size: Size, where: str, warnings: Sequence[str]) -> None:
    width, height = wire["width"], wire["height"]
    if width * height > MAX_CANVAS:
        snapped = "" if not warnings else f" ({'; '.join(warnings)})"
        what = f"the canvas has {width * height:,} px, more than {MAX_CANVAS:,}{snapped}: make it smaller"
        raise InvalidRequest.of([Problem(where, what)])
    x, y = wire.get("reference_offset_x"), wire.get("reference_offset_y")
    left = (width - size[0]) // 2 if x is None else x
    top = (height - size[1]) // 2 if y is None else y
    if not wire.get("auto_crop") and Canvas(width, height, left, top).overhangs(size):
        what = (
            f"the image of {px_size(size)} does not lie within the canvas of {px_size((width, height))}: "
            "enlarge it, move it, or allow cropping (auto_crop: true)"
        )
        raise InvalidRequest.of([Problem(where, what)])
