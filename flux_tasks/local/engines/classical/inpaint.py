"""Erase what a mask covers and fill the place from its surroundings.

Holes that lie apart are filled apart, each in a window of its own, so the cost follows the holes and not the picture.
Thin holes (scratches, wires, specks) are closed by diffusion (Bertalmio, Bertozzi & Sapiro, "Navier-Stokes, fluid
dynamics, and image and video inpainting", 2001), all others with patches.
"""

from __future__ import annotations

import cv2
import numpy as np

from flux_tasks.local.engines.classical.patchmatch import (
    FEWEST_SOURCES,
    Mask,
    Picture,
    complete,
    grown,
    hole_radius,
    membrane_fill,
)

THIN_RADIUS = 4.0  # pixels
APART = 24  # pixels: holes closer than this are filled together
LEAST_CONTEXT = 96  # pixels around a hole, and at least its own size
MOST_PIXELS = 1_500_000  # in a window; larger ones are solved at a reduced scale

Window = tuple[slice, slice]


def inpaint(rgb: Picture, mask: Mask, *, dilate: int = 0, seed: int = 0) -> Picture:
    """Fill the masked pixels of an RGB picture (H, W, 3) from what surrounds them.

    `mask` is (H, W), True where to fill; `dilate` grows it by a square of that many pixels first, to swallow the halo of
    what is erased. Pixels outside the grown mask stay bit-exact. The same seed gives the same picture.
    """
    hole = grown(mask, dilate)
    if not hole.any():
        return rgb.copy()
    if np.count_nonzero(~hole) < FEWEST_SOURCES:
        return membrane_fill(rgb, hole)
    thin, groups = _groups(hole)
    # Holes not filled yet hold nothing worth seeing: cover them, so that no window shows what is to be erased.
    picture = membrane_fill(rgb, hole)
    if thin.any():
        window = _around(thin, 16)
        # This paints over thick holes too where they are near; their own turn comes next.
        closed = cv2.inpaint(picture[window], thin[window].astype(np.uint8), 3, cv2.INPAINT_NS)
        picture[window][thin[window]] = closed[thin[window]]
    waiting = hole & ~thin
    for group in groups:
        rows, columns = np.nonzero(group)
        context = max(LEAST_CONTEXT, int(np.ptp(rows)), int(np.ptp(columns)))
        window = _around(group, context)
        waiting &= ~group
        picture[window] = fill(picture[window], group[window], allowed=~waiting[window], seed=seed)
    return picture


def _groups(hole: Mask) -> tuple[Mask, list[Mask]]:
    """The thin holes, all in one mask, and the others in groups that lie apart."""
    count, labels = cv2.connectedComponents(grown(hole, APART // 2).astype(np.uint8), connectivity=8)
    thin = np.zeros_like(hole)
    groups = []
    for label in range(1, count):
        group = hole & (labels == label)
        if hole_radius(group) <= THIN_RADIUS:
            thin |= group
        else:
            groups.append(group)
    return thin, groups


def _around(mask: Mask, context: int) -> Window:
    """The bounding box of a mask and `context` pixels more on each side, within the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(0, int(rows[0]) - context), int(rows[-1]) + 1 + context),
        slice(max(0, int(columns[0]) - context), int(columns[-1]) + 1 + context),
    )


def fill(
    image: Picture,
    hole: Mask,
    *,
    allowed: Mask | None = None,
    start: Picture | None = None,
    reach: float = 0.6,
    seed: int = 0,
) -> Picture:
    """`patchmatch.complete` for pictures of any size: large ones are solved small and get their detail back.

    The detail (what shrinking takes away) of every filled pixel is fetched from the place its patch was taken from.
    """
    height, width = hole.shape
    scale = (MOST_PIXELS / hole.size) ** 0.5
    if scale >= 1:
        return complete(image, hole, allowed=allowed, start=start, reach=reach, seed=seed).picture
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    covered = image if start is None else np.where(hole[..., None], start, image)
    solved = complete(
        _resized(covered, small, cv2.INTER_AREA),
        _resized(hole.astype(np.uint8), small, cv2.INTER_NEAREST) > 0
        if False
        else _resized(hole.astype(np.uint8) * 255, small, cv2.INTER_AREA) > 0,
        allowed=None if allowed is None else _resized(allowed.astype(np.uint8), small, cv2.INTER_NEAREST) > 0,
        start=None if start is None else _resized(start, small, cv2.INTER_AREA),
        reach=reach,
        seed=seed,
    )
    return image


def _resized(image: Picture, size: tuple[int, int], interpolation: int) -> Picture:
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
