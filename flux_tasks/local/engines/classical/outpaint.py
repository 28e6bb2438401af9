"""Continue a picture beyond its edges.

The new region starts as a reflection of the border, folded to and fro and ever more blurred with the distance.
`outpaint_fast` stops there; `outpaint` puts patches of the border in its place, but not far out: they would repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flux_tasks.local.engines.classical.inpaint import fill
from flux_tasks.local.engines.classical.patchmatch import Colours, Guide, Indices, Mask, Picture, shrunk

BAND = 0.22  # of the picture's side: where patches are taken from, so that no subject is cloned
LEAST_BAND = 24  # pixels
CALM_FROM, CALM_AT = 0.3, 0.75  # distances, as shares of the picture's shorter side, between which patches fade out
# Sigma in pixels of each further blur, and the distance (share of the same side) at which it begins to show.
SOFTENING = ((2.0, 0.02), (5.0, 0.08), (12.0, 0.2), (28.0, 0.45), (60.0, 0.9))


def outpaint(rgb: Picture, width: int, height: int, left: int, top: int, *, seed: int = 0) -> Picture:
    """Continue the picture (H, W, 3) at (`left`, `top`) of a canvas of `width` × `height` until the canvas is full.

    The offsets may be negative and the picture may overhang; the part of it that is on the canvas stays bit-exact.
    """
    canvas = Canvas.place(rgb, width, height, left, top)
    if canvas is None or not canvas.new.any():
        return outpaint_fast(rgb, width, height, left, top)
    picture = canvas.softened(canvas.folded(canvas.band))
    window, near = canvas.surroundings(int(np.ceil(CALM_AT * canvas.side)))
    start = picture[window]
    rows, columns = np.broadcast_arrays(*np.ix_(*near.origins(near.band)))
    guide = Guide(start, rows, columns, near.side / min(near.height, near.width))
    patched = fill(start, near.new, allowed=near.border, guide=guide, seed=seed)
    calm = np.clip((near.distance() / near.side - CALM_FROM) / (CALM_AT - CALM_FROM), 0, 1)[..., None]
    picture[window] = np.round(patched + calm * (start.astype(np.float32) - patched))
    return picture


def outpaint_fast(rgb: Picture, width: int, height: int, left: int, top: int, *, seed: int = 0) -> Picture:
    """Do the same with a mirrored, increasingly blurred border: about ten times faster. `seed` has no effect."""
    canvas = Canvas.place(rgb, width, height, left, top)
    if canvas is None:
        return np.broadcast_to(np.round(rgb.mean((0, 1))), (height, width, 3)).astype(np.uint8)
    return canvas.softened(canvas.folded(canvas.seen.shape[:2]))


@dataclass(frozen=True)
class Canvas:
    """The part of the picture that is `seen` (h, w, 3), and its rows and columns on the canvas."""

    seen: Picture
    rows: slice
    columns: slice
    height: int
    width: int

    @classmethod
    def place(cls, rgb: Picture, width: int, height: int, left: int, top: int) -> Canvas | None:
        """Return the canvas, or None if no part of the picture is on it."""
        rows = slice(max(0, top), min(height, top + rgb.shape[0]))
        columns = slice(max(0, left), min(width, left + rgb.shape[1]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        seen = rgb[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return cls(seen, rows, columns, height, width)

    def surroundings(self, reach: int) -> tuple[tuple[slice, slice], Canvas]:
        """Return the part of the canvas within `reach` pixels of the picture, and a canvas of that part."""
        top, left = max(0, self.rows.start - reach), max(0, self.columns.start - reach)
        bottom, right = min(self.height, self.rows.stop + reach), min(self.width, self.columns.stop + reach)
        rows = slice(self.rows.start - top, self.rows.stop - top)
        columns = slice(self.columns.start - left, self.columns.stop - left)
        return np.s_[top:bottom, left:right], Canvas(self.seen, rows, columns, bottom - top, right - left)

    @property
    def new(self) -> Mask:
        new = np.ones((self.height, self.width), np.bool_)
        new[self.rows, self.columns] = False
        return new

    @property
    def side(self) -> float:
        """The picture's shorter side, the measure of distances from it."""
        return max(8.0, float(min(self.seen.shape[:2])))

    def distance(self) -> NDArray[np.float32]:
        """Return the distance of every pixel of the canvas from the picture."""
        return np.asarray(cv2.distanceTransform(self.new.astype(np.uint8), cv2.DIST_L2, 5), np.float32)

    @property
    def band(self) -> tuple[int, int]:
        """Depth of the border band, in rows and in columns."""
        height, width = self.seen.shape[:2]
        return max(LEAST_BAND, int(BAND * height)), max(LEAST_BAND, int(BAND * width))

    @property
    def border(self) -> Mask:
        """The pixels of the picture within the band along the edges that are continued."""

        def inner(seen: slice, length: int, depth: int) -> slice:
            start = seen.start + (depth if seen.start > 0 else 0)
            return slice(start, max(start, seen.stop - (depth if seen.stop < length else 0)))

        down, across = self.band
        border = ~self.new
        border[inner(self.rows, self.height, down), inner(self.columns, self.width, across)] = False
        return border

    def origins(self, depth: tuple[int, ...]) -> tuple[Indices, Indices]:
        """Return for every row and column of the canvas the one that it repeats.

        Each edge of the picture is reflected to and fro within `depth` rows and columns of it.
        """
        rows, columns = _fold(self.height, self.rows, depth[0]), _fold(self.width, self.columns, depth[1])
        return self.rows.start + rows, self.columns.start + columns

    def folded(self, depth: tuple[int, ...]) -> Picture:
        """Fill the canvas by such reflections."""
        rows, columns = self.origins(depth)
        folded: Picture = self.seen[rows[:, None] - self.rows.start, columns[None, :] - self.columns.start]
        return folded

    def softened(self, canvas: Picture) -> Picture:
        """Blur the canvas, more with the distance from the picture, which itself does not change."""
        new = self.new
        if not new.any():
            return canvas
        distance = self.distance() / self.side
        soft = canvas.astype(np.float32)
        for sigma, share in SOFTENING:
            weight = np.clip(distance / share - 0.5, 0, 1)[..., None]
            soft += weight * (_blurred(soft, sigma) - soft)
        return np.where(new[..., None], np.clip(np.round(soft), 0, 255), canvas).astype(np.uint8)


def _blurred(image: Colours, sigma: float) -> Colours:
    """Return a Gaussian blur; wide ones are made on a smaller picture: the result looks the same, many times faster."""
    height, width = image.shape[:2]
    factor = max(1, int(sigma / 3))
    small = image if factor == 1 else shrunk(image, (max(1, width // factor), max(1, height // factor)))
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / factor, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(blurred, (width, height)), np.float32)


def _fold(length: int, seen: slice, depth: int) -> Indices:
    """Return for every canvas coordinate the one inside `seen` (relative to its start) that it repeats."""
    last = seen.stop - seen.start - 1
    depth = min(depth, last + 1)
    position = np.arange(length) - seen.start
    before = np.clip(_triangle(-1 - position, depth), 0, last)
    after = np.clip(last - _triangle(position - last - 1, depth), 0, last)
    return np.asarray(np.where(position < 0, before, np.where(position > last, after, position)), np.intp)


def _triangle(steps: NDArray[np.intp], depth: int) -> NDArray[np.intp]:
    """Return 0, 1, … depth−1, depth−1, … 1, 0, 0, 1, …"""
    turned = np.mod(steps, 2 * depth)
    return np.asarray(np.minimum(turned, 2 * depth - 1 - turned), np.intp)
