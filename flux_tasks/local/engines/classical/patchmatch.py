"""Fill a hole with patches of its surroundings, from coarse to fine.

Wexler, Shechtman & Irani, "Space-time completion of video", 2007: by turns, find for every 7 × 7 patch that touches the
hole the most similar patch outside it, and let all patches vote on the colour of each missing pixel. The search is
PatchMatch (Barnes et al. 2009): keep a guess, try the guesses of neighbours and random ones ever closer by. At the end
the difference still seen on the rim of the hole is spread smoothly over it and taken off, like a membrane (Pérez et
al., "Poisson image editing", 2003), so that no step in brightness remains.

Pixels are rows of four float32: red, green, blue and 1. The fourth makes a row 16 bytes long, which NumPy gathers much
faster than 12, cancels out of differences, and in a weighted sum adds up the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colours = NDArray[np.float32]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

RADIUS = 3
SIDE = 2 * RADIUS + 1
PATCH = [(row, column) for row in range(-RADIUS, RADIUS + 1) for column in range(-RADIUS, RADIUS + 1)]
CHECKERED = [(row, column) for row, column in PATCH if (row + column) % 2 == 0]
ROUNDS = (1, 3, 5, 6, 8, 10, 12)  # of search and vote, from the finest level to the coarsest
COARSEST_SIDE = 32
FEWEST_SOURCES = 64
MANY_TARGETS = 40_000  # beyond this a level is only polished: one round, near the guesses of the coarser level
BLOCK = 1 << 14  # rows handled at once: they stay in the processor's cache


@dataclass(frozen=True)
class Level:
    """One scale: colours (H, W, 3), what is missing, and where patches may be taken from (their centres)."""

    image: Colours
    hole: Mask
    sources: Mask

    @classmethod
    def of(cls, image: Colours, hole: Mask, allowed: Mask) -> Level:
        """Sources are the allowed pixels whose whole patch is known and inside the picture."""
        sources = allowed & ~grown(hole, RADIUS)
        for edge in (slice(0, RADIUS), slice(-RADIUS, None)):
            sources[edge] = False
            sources[:, edge] = False
        return cls(image, hole, sources)

    def halved(self, allowed: Mask) -> tuple[Level, Mask]:
        """This level at half the size, missing pixels left out of the averages; and `allowed` likewise."""
        size = ((self.hole.shape[1] + 1) // 2, (self.hole.shape[0] + 1) // 2)
        known = (~self.hole).astype(np.float32)
        share = _shrunk(known, size)
        image = _shrunk(self.image * known[..., None], size) / np.maximum(share, 1e-3)[..., None]
        coarse = _shrunk(allowed.astype(np.float32), size) > 0
        return Level.of(image, share < 0.6, coarse), coarse

    @property
    def usable(self) -> bool:
        return int(np.count_nonzero(self.sources)) >= FEWEST_SOURCES


@dataclass(frozen=True)
class Completion:
    """A filled picture (H, W, 3), and for each of its pixels the place its patch was taken from (its own, if known)."""

    picture: Picture
    rows: Indices
    columns: Indices


def complete(
    image: Picture,
    hole: Mask,
    *,
    allowed: Mask | None = None,
    start: Picture | None = None,
    reach: float = 0.6,
    seed: int = 0,
) -> Completion:
    """Fill `hole` (H, W) of `image` (H, W, 3); every other pixel comes back as it was.

    `allowed` limits where patches are taken from, `start` gives the first colours of the hole (default: a membrane over
    it), `reach` the first radius of the random search as a share of the longer side. With too few places to take
    patches from, the first colours are the answer.
    """
    first = start if start is not None else membrane_fill(image, hole)
    levels = _pyramid(image.astype(np.float32), hole, np.ones_like(hole) if allowed is None else allowed)
    if not levels:
        rows, columns = np.indices(hole.shape)
        return Completion(np.where(hole[..., None], first, image), rows, columns)
    rng = np.random.default_rng(seed)
    matcher = Matcher(levels[-1], len(levels) - 1, rng)
    matcher.begin(np.asarray(_shrunk(first.astype(np.float32), levels[-1].hole.shape[::-1]), np.float32))
    matcher.solve(reach)
    for depth in range(len(levels) - 2, -1, -1):
        finer = Matcher(levels[depth], depth, rng)
        finer.continue_from(matcher)
        finer.solve(reach)
        matcher = finer
    return Completion(matcher.result(image), *matcher.origins())


def _pyramid(image: Colours, hole: Mask, allowed: Mask) -> list[Level]:
    """Levels from fine to coarse, until the hole is a few pixels wide or the picture small; none if it is hopeless."""
    level = Level.of(image, hole, allowed)
    levels: list[Level] = []
    width = hole_radius(hole)
    while level.usable:
        levels.append(level)
        if min(level.hole.shape) < 2 * COARSEST_SIDE or width / 2 ** (len(levels) - 1) <= 2.5:
            break
        level, allowed = level.halved(allowed)
    return levels


class Matcher:
    """The search on one level: a *target* is a patch that touches the hole; each has one *source*, its best match yet.

    Patches are named by the flat index of their centre in the padded picture; the neighbour one row down is `stride`
    further on.
    """

    def __init__(self, level: Level, depth: int, rng: np.random.Generator) -> None:
        self.level, self.depth, self.rng = level, depth, rng
        self.height, self.width = level.hole.shape
        self.stride = self.width + 2 * RADIUS
        self.known = _rows(level.image)
        self.current = self.known.copy()
        self.missing = _framed(level.hole.astype(np.uint8)).ravel() > 0
        self.usable = np.zeros(len(self.known), np.bool_)
        self.places = self._flat(level.sources)
        self.usable[self.places] = True
        self.targets = self._flat(grown(level.hole, RADIUS))
        self.sources: Indices = np.zeros_like(self.targets)
        self.costs: Colours = np.zeros(len(self.targets), np.float32)
        self.votes: Colours = np.zeros_like(self.known)
        # Pixels count less the deeper they lie in the hole: there they are guesses themselves.
        depth_in_hole = cv2.distanceTransform(_framed(level.hole.astype(np.uint8)), cv2.DIST_L2, 3)
        self.confidence = np.maximum(1.3 ** -np.asarray(depth_in_hole, np.float32).ravel(), 0.05).astype(np.float32)
        self.polishing = len(self.targets) > MANY_TARGETS

    def _flat(self, mask: Mask) -> Indices:
        rows, columns = np.nonzero(mask)
        return np.asarray((rows + RADIUS) * self.stride + columns + RADIUS, np.intp)

    # Where a level starts from

    def begin(self, start: Colours) -> None:
        """The coarsest level: given colours, random sources."""
        self._colour(start)
        self.sources = self._anywhere(len(self.targets))

    def continue_from(self, coarser: Matcher) -> None:
        """Twice the size: the coarser level's colours and sources, scaled up."""
        core = coarser.current.reshape(-1, coarser.stride, 4)[RADIUS:-RADIUS, RADIUS:-RADIUS, :3]
        self._colour(np.asarray(cv2.resize(core, (self.width, self.height)), np.float32))
        field = np.full(len(coarser.known), -1, np.intp)
        field[coarser.targets] = coarser.sources
        row, column = self._position(self.targets)
        coarse_row = np.minimum(row // 2, coarser.height - 1)
        coarse_column = np.minimum(column // 2, coarser.width - 1)
        found = field[(coarse_row + RADIUS) * coarser.stride + coarse_column + RADIUS]
        source_row, source_column = coarser._position(found)
        source_row = np.minimum(2 * source_row + row % 2, self.height - 1)
        source_column = np.minimum(2 * source_column + column % 2, self.width - 1)
        self.sources = np.where(found < 0, 0, (source_row + RADIUS) * self.stride + source_column + RADIUS)
        lost = ~self.usable[self.sources]
        self.sources[lost] = self._anywhere(int(np.count_nonzero(lost)))

    def _position(self, index: Indices) -> tuple[Indices, Indices]:
        return index // self.stride - RADIUS, index % self.stride - RADIUS

    def _anywhere(self, count: int) -> Indices:
        return self.places[self.rng.integers(0, len(self.places), count)]

    def _colour(self, core: Colours) -> None:
        self.current[self.missing] = _rows(core)[self.missing]

    # Search and vote

    def solve(self, reach: float) -> None:
        rounds = 1 if self.polishing else ROUNDS[min(self.depth, len(ROUNDS) - 1)]
        for turn in range(rounds):
            self.costs = self._cost(self.sources, self.targets)
            for step in self._steps():
                self._ask_neighbours(step)
            for radius in self._radii(reach):
                self._look_around(radius)
            self._vote(sharpness=2.0 if turn == rounds - 1 else 1.0)

    def _steps(self) -> tuple[int, ...]:
        if self.polishing and self.depth == 0:
            return ()
        return (1, 2, 4) if self.depth >= 2 else (1,)

    def _radii(self, reach: float) -> Iterator[int]:
        radius, shrink = max(8, int(reach * max(self.height, self.width))), 2
        if self.polishing:
            radius = 0 if self.depth == 0 else 2
        elif self.depth < 2:
            radius, shrink = (8 if self.depth == 0 else radius // 4), 4
        while radius >= 1:
            yield radius
            radius //= shrink

    def _ask_neighbours(self, step: int) -> None:
        """Propagation: if the neighbour's match is good, the place beside it is likely to be good for me."""
        found = np.full(len(self.known) + 2 * step * self.stride, -1, np.intp)
        inner = found[step * self.stride :]
        for offset in (step, step * self.stride, -step, -step * self.stride):
            inner[self.targets] = self.sources
            neighbour = found[self.targets + offset + step * self.stride]
            self._try(np.where(neighbour < 0, -1, neighbour - offset))

    def _look_around(self, radius: int) -> None:
        """Random search within `radius` pixels of the match."""
        row, column = self._position(self.sources)
        row = row + self.rng.integers(-radius, radius + 1, len(row))
        column = column + self.rng.integers(-radius, radius + 1, len(column))
        inside = (row >= 0) & (row < self.height) & (column >= 0) & (column < self.width)
        self._try(np.where(inside, (row + RADIUS) * self.stride + column + RADIUS, -1))

    def _try(self, candidates: Indices) -> None:
        """Take the candidates that are usable and better than the present sources."""
        possible = np.flatnonzero((candidates >= 0) & (candidates < len(self.known)) & (candidates != self.sources))
        possible = possible[self.usable[candidates[possible]]]
        cost = self._cost(candidates[possible], self.targets[possible])
        better = cost < self.costs[possible]
        chosen = possible[better]
        self.sources[chosen] = candidates[chosen]
        self.costs[chosen] = cost[better]

    def _cost(self, sources: Indices, targets: Indices) -> Colours:
        """Sum of squared differences of patches, weighted by the confidence in the target's pixels."""
        cost = np.empty(len(sources), np.float32)
        offsets = CHECKERED if self.depth <= 1 else PATCH
        for block in _blocks(len(sources)):
            total = np.zeros((block.stop - block.start, 4), np.float32)
            for row, column in offsets:
                offset = row * self.stride + column
                here = targets[block] + offset
                difference = np.take(self.known, sources[block] + offset, 0)
                difference -= np.take(self.current, here, 0)
                difference *= difference
                difference *= np.take(self.confidence, here)[:, None]
                total += difference
            cost[block] = total[:, 0] + total[:, 1] + total[:, 2]
        return cost

    def _vote(self, sharpness: float) -> None:
        """Every missing pixel becomes the mean of what the matches of the patches around it say, good ones counting
        most."""
        typical = max(float(np.median(self.costs)), 1.0)
        weight = np.exp(-self.costs * np.float32(sharpness / typical)) * self.confidence[self.targets]
        weight = (weight + np.float32(1e-6))[:, None]
        self.votes[:] = 0
        for block in _blocks(len(self.targets)):
            for row, column in PATCH:
                offset = row * self.stride + column
                said = np.take(self.known, self.sources[block] + offset, 0)
                said *= weight[block]
                self.votes[self.targets[block] + offset] += said
        told = self.missing & (self.votes[:, 3] > 0)
        self.current[told] = self.votes[told] / self.votes[told, 3:]

    # The answer

    def origins(self) -> tuple[Indices, Indices]:
        rows, columns = (np.asarray(axis, np.intp) for axis in np.indices((self.height, self.width)))
        here = self._position(self.targets)
        rows[here], columns[here] = self._position(self.sources)
        rows[~self.level.hole], columns[~self.level.hole] = np.nonzero(~self.level.hole)
        return rows, columns

    def result(self, image: Picture) -> Picture:
        """The picture with its hole filled and the rim's remaining difference taken off."""
        hole = self.level.hole
        core = self.current.reshape(-1, self.stride, 4)[RADIUS:-RADIUS, RADIUS:-RADIUS, :3]
        votes = self.votes.reshape(-1, self.stride, 4)[RADIUS:-RADIUS, RADIUS:-RADIUS]
        rim = grown(hole, 1) & ~hole & (votes[..., 3] > 0)
        difference = np.zeros_like(self.level.image)
        difference[rim] = np.clip(self.level.image[rim] - votes[rim, :3] / votes[rim, 3:], -40, 40)
        filled = core[hole] + membrane(difference, rim)[hole]
        picture = image.copy()
        picture[hole] = np.clip(np.round(filled), 0, 255).astype(np.uint8)
        return picture


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, min(count, start + BLOCK))


def _framed(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    frame = cv2.copyMakeBorder(plane, RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_REFLECT_101)
    return np.asarray(frame, np.uint8)


def _rows(image: Colours) -> Colours:
    """Padded by a reflection, with a fourth channel of ones, one row per pixel."""
    rows = cv2.copyMakeBorder(image, RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_REFLECT_101)
    return np.concatenate([rows, np.ones((*rows.shape[:2], 1), np.float32)], 2, dtype=np.float32).reshape(-1, 4)


def _shrunk(image: Colours, size: tuple[int, ...]) -> Colours:
    return np.asarray(cv2.resize(image, (size[0], size[1]), interpolation=cv2.INTER_AREA), np.float32)


def grown(mask: Mask, radius: int) -> Mask:
    """The mask and everything within a square of `radius` pixels around it."""
    if radius == 0:
        return mask.copy()
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), square), np.uint8) > 0


def hole_radius(hole: Mask) -> float:
    """Radius of the largest disc inside the hole, in pixels; what lies beyond the picture counts as known."""
    framed = np.pad(hole.astype(np.uint8), 1)
    return float(np.max(cv2.distanceTransform(framed, cv2.DIST_L2, 3)))


# Membranes


def membrane(values: Colours, known: Mask) -> Colours:
    """A smooth surface through the known values (H, W, 3), everywhere else interpolated: pull-push, a quick stand-in
    for the Laplace equation (Gortler et al., "The Lumigraph", 1996). Without any known value: zeros."""
    weight = known.astype(np.float32)[..., None]
    pulled: list[tuple[Colours, Colours]] = []
    total = values * weight
    while max(total.shape[:2]) > 1:
        pulled.append((total, weight))
        size = ((total.shape[1] + 1) // 2, (total.shape[0] + 1) // 2)
        share, sums = _shrunk(weight, size)[..., None], _shrunk(total, size)
        weight = np.minimum(1, 4 * share)
        total = sums * (weight / np.maximum(share, 1e-6))
    surface = total / np.maximum(weight, 1e-6)
    for total, weight in reversed(pulled):
        size = (total.shape[1], total.shape[0])
        surface = np.asarray(cv2.resize(surface, size), np.float32)
        surface = total + (1 - weight) * surface
    return surface


def membrane_fill(image: Picture, hole: Mask) -> Picture:
    """The hole covered by a membrane over its rim; a picture that is all hole becomes its own mean colour."""
    if hole.all():
        return np.broadcast_to(np.round(image.mean((0, 1))), image.shape).astype(np.uint8)
    filled = image.copy()
    filled[hole] = np.clip(np.round(membrane(image.astype(np.float32), ~hole)[hole]), 0, 255).astype(np.uint8)
    return filled
