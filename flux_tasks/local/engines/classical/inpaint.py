"""Erase what a mask covers and fill the place from its surroundings: each hole in a window of its own.

Thin holes (scratches, wires, specks) are closed by diffusion (Bertalmio et al., "Navier-Stokes, fluid dynamics, and
image and video inpainting", 2001), all others with patches.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from flux_tasks.local.engines.classical.patchmatch import (
    FEWEST_SOURCES,
    Colours,
    Guide,
    Indices,
    Level,
    Mask,
    Matcher,
    Picture,
    grown,
    hole_radius,
    membrane_fill,
    shrunk,
)

THIN_RADIUS = 4.0  # pixels
APART = 24  # pixels: holes closer than this are filled together
LEAST_CONTEXT = 96  # pixels around a hole, and at least its own size
MOST_PIXELS = 1_500_000  # in a window; larger ones are solved at a reduced scale

COARSEST_SIDE = 32
GUIDED_SIDE = 57  # of the known part, with a guide: the coarsest level must still show its content
HOLD = 0.5  # share of the guide's colours that the votes of the coarsest level leave in place

Window = tuple[slice, slice]


def inpaint(rgb: Picture, mask: Mask, *, dilate: int = 0, seed: int = 0) -> Picture:
    """Fill the masked pixels of an RGB picture (H, W, 3) from what surrounds them.

    `mask` is (H, W), True where to fill; `dilate` grows it by a square of that many pixels first, to include the halo
    of what is erased. Pixels outside the grown mask stay bit-exact. The same seed gives the same picture.
    """
    hole = grown(mask, dilate)
    if np.count_nonzero(~hole) < FEWEST_SOURCES:
        return membrane_fill(rgb, hole)
    picture = rgb.copy()
    waiting = hole.copy()
    thin = np.zeros_like(hole)
    thick = []
    for group in _groups(hole):
        if hole_radius(group.hole) <= THIN_RADIUS:
            thin[group.window] |= group.hole
        else:
            thick.append(group)
    if thin.any():
        _close(picture, thin)
        waiting &= ~thin
    for group in thick:
        window = group.with_context(hole.shape)
        here = np.zeros_like(hole)
        here[group.window] = group.hole
        waiting &= ~here
        # Other holes in this window still have what is to be erased: cover them, and take no patches from there.
        view = membrane_fill(picture[window], waiting[window])
        filled = fill(view, here[window], allowed=~grown(waiting[window], 3), seed=seed)
        picture[window][here[window]] = filled[here[window]]
    return picture


@dataclass(frozen=True)
class Group:
    """Holes close to each other: their bounding box in the picture, and the mask inside it."""

    window: Window
    hole: Mask

    def with_context(self, shape: tuple[int, ...]) -> Window:
        context = max(LEAST_CONTEXT, *self.hole.shape)
        rows, columns = (
            slice(max(0, span.start - context), min(length, span.stop + context))
            for span, length in zip(self.window, shape, strict=True)
        )
        return rows, columns


def _groups(hole: Mask) -> list[Group]:
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(grown(hole, APART // 2).astype(np.uint8))
    groups = []
    for label in range(1, count):
        left, top, width, height = (int(value) for value in boxes[label, :4])
        window = slice(top, top + height), slice(left, left + width)
        groups.append(Group(window, hole[window] & (np.asarray(labels)[window] == label)))
    return groups


def _close(picture: Picture, thin: Mask) -> None:
    """Diffuse the surroundings into thin holes, in place."""
    rows, columns = np.flatnonzero(thin.any(1)), np.flatnonzero(thin.any(0))
    window = tuple(slice(max(0, int(span[0]) - 16), int(span[-1]) + 17) for span in (rows, columns))
    view = np.ascontiguousarray(picture[window])
    closed = np.asarray(cv2.inpaint(view, thin[window].astype(np.uint8), 3, cv2.INPAINT_NS), np.uint8)
    picture[window][thin[window]] = closed[thin[window]]


@dataclass(frozen=True)
class Completion:
    """A filled picture (H, W, 3), and for each of its pixels the place its patch was taken from (its own, if known)."""

    picture: Picture
    rows: Indices
    columns: Indices


def complete(
    image: Picture, hole: Mask, *, allowed: Mask | None = None, guide: Guide | None = None, seed: int = 0
) -> Completion:
    """Fill `hole` (H, W) of `image` (H, W, 3); every other pixel comes back as it was.

    `allowed` limits where patches are taken from. Without a `guide` the search starts from a membrane over the hole and
    anywhere. With too few places to take patches from, the first colours are the answer.
    """
    start = membrane_fill(image, hole) if guide is None else guide.start
    coarsest = COARSEST_SIDE if guide is None else GUIDED_SIDE / guide.side
    levels = _pyramid(image.astype(np.float32), hole, np.ones_like(hole) if allowed is None else allowed, coarsest)
    if not levels:
        rows, columns = (np.asarray(axis, np.intp) for axis in np.indices(hole.shape))
        return Completion(np.where(hole[..., None], start, image), rows, columns)
    rng = np.random.default_rng(seed)
    matcher = Matcher(levels[-1], len(levels) - 1, rng, guide)
    matcher.begin(shrunk(start.astype(np.float32), levels[-1].hole.shape[::-1]), hold=HOLD if guide else 0.0)
    for depth in range(len(levels) - 2, -1, -1):
        finer = Matcher(levels[depth], depth, rng, guide)
        finer.go_on_from(matcher)
        matcher = finer
    return Completion(matcher.result(image), *matcher.origins())


def _pyramid(image: Colours, hole: Mask, allowed: Mask, coarsest: float) -> list[Level]:
    """Return levels from fine to coarse, until hole or picture is a few pixels wide; none without enough sources."""
    level = Level.of(image, hole, allowed)
    levels: list[Level] = []
    radius = hole_radius(hole)
    while np.count_nonzero(level.sources) >= FEWEST_SOURCES:
        levels.append(level)
        if min(level.hole.shape) < 2 * coarsest or radius / 2 ** (len(levels) - 1) <= 2.5:
            break
        level, allowed = level.halved(allowed)
    return levels


def fill(
    image: Picture, hole: Mask, *, allowed: Mask | None = None, guide: Guide | None = None, seed: int = 0
) -> Picture:
    """Fill a hole in a picture of any size: large ones are solved small with `complete`, and get their detail back."""
    height, width = hole.shape
    scale = (MOST_PIXELS / hole.size) ** 0.5
    if scale >= 1:
        return complete(image, hole, allowed=allowed, guide=guide, seed=seed).picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    solved = complete(
        _resized(image, size),
        _resized(hole.astype(np.uint8) * 255, size) > 0,
        allowed=None if allowed is None else _resized(allowed.astype(np.uint8) * 255, size) > 127,
        guide=None if guide is None else _resized_guide(guide, size),
        seed=seed,
    )
    return _with_detail(image, hole, solved)


def _resized_guide(guide: Guide, size: tuple[int, int]) -> Guide:
    (height, width), (small_width, small_height) = guide.rows.shape, size
    picked = np.ix_(np.arange(small_height) * height // small_height, np.arange(small_width) * width // small_width)
    rows, columns = guide.rows[picked] * small_height // height, guide.columns[picked] * small_width // width
    return Guide(_resized(guide.start, size), rows, columns, guide.side)


def _with_detail(image: Picture, hole: Mask, solved: Completion) -> Picture:
    """Fill the hole from a solution at reduced scale.

    Shrinking loses detail, the difference between the picture and its shrunken self: each pixel gets that of the place
    its patch was taken from.
    """
    height, width = hole.shape
    small_height, small_width = solved.rows.shape
    soft = _resized(image, (small_width, small_height))
    softened = np.asarray(cv2.resize(soft, (width, height)), np.int16)
    enlarged = np.asarray(cv2.resize(solved.picture, (width, height)), np.uint8)
    rows, columns = np.nonzero(hole)
    small_rows, small_columns = rows * small_height // height, columns * small_width // width
    up = (solved.rows[small_rows, small_columns] - small_rows) * height // small_height
    across = (solved.columns[small_rows, small_columns] - small_columns) * width // small_width
    from_rows, from_columns = np.clip(rows + up, 0, height - 1), np.clip(columns + across, 0, width - 1)
    detail = image[from_rows, from_columns] - softened[from_rows, from_columns]
    detail[hole[from_rows, from_columns]] = 0
    picture = image.copy()
    picture[rows, columns] = np.clip(enlarged[rows, columns] + detail, 0, 255).astype(np.uint8)
    return picture


def _resized(image: Picture, size: tuple[int, int]) -> Picture:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
