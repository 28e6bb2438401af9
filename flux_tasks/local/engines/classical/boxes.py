"""Previews of edits by boxes: what is to go is filled in, what is to be put somewhere is shown there with a label.

Pixels that no box names stay as they are, but for the scale of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from flux_tasks.catalog.boxes import GRID, Row
from flux_tasks.local.engines.classical import inpaint, preview

__all__ = ["edited", "mark_new"]

Edges = tuple[int, int, int, int]


def edited(size: tuple[int, int], pictures: Sequence[Image.Image], rows: Sequence[Row], *, seed: int) -> Image.Image:
    """Return the first picture at ``size`` (width, height in pixels), edited as ``rows`` say.

    Args:
        pictures: those of the request; rows of pictures that are not there are passed over.
    """
    before = preview.flattened(pictures[0]).resize(size, Image.Resampling.LANCZOS)
    canvas = before.copy()
    hole = np.zeros((size[1], size[0]), bool)
    for row in rows:
        if row.source is not None and row.kind in ("remove", "move"):
            left, top, right, bottom = _pixels(row.source, size)
            hole[top:bottom, left:right] = True
    if hole.any() and not hole.all():
        canvas = Image.fromarray(inpaint(np.array(before), hole, dilate=0, seed=seed))
    for row in rows:
        if row.target is None or row.kind == "keep":
            continue
        place = _pixels(row.target, size)
        source = {"move": before, "take": pictures[row.picture] if row.picture < len(pictures) else None}.get(row.kind)
        if source is not None and row.source is not None:
            part = preview.flattened(source.crop(_pixels(row.source, source.size)))
            canvas.paste(part.resize((place[2] - place[0], place[3] - place[1]), Image.Resampling.LANCZOS), place[:2])
        _mark(canvas, row, is_empty=source is None)
    for row in rows:
        if row.kind == "keep" and row.target is not None:
            place = _pixels(row.target, size)
            canvas.paste(before.crop(place), place[:2])
    return canvas


def mark_new(canvas: Image.Image, rows: Sequence[Row]) -> None:
    """Show on a picture that was made from words where its things are to be."""
    for row in rows:
        if row.target is not None:
            _mark(canvas, row, is_empty=False)


def _mark(canvas: Image.Image, row: Row, *, is_empty: bool) -> None:
    assert row.target is not None  # noqa: S101 - the callers have looked
    words = f"LOCAL PREVIEW · {row.kind}: {row.text}"
    preview.mark_box(canvas, _pixels(row.target, canvas.size), words, is_empty=is_empty)


def _pixels(edges: Edges, size: tuple[int, int]) -> Edges:
    """Return top, left, bottom, right on the grid as left, top, right, bottom in pixels, one pixel large at least."""
    top, left, bottom, right = edges
    width, height = size
    x, y = min(left * width // GRID, width - 1), min(top * height // GRID, height - 1)
    return x, y, max(x + 1, -(-right * width // GRID)), max(y + 1, -(-bottom * height // GRID))
