"""Fill a hole with patches of its surroundings, on one scale; each `Matcher` begins with the result of a coarser one.

Wexler, Shechtman & Irani, "Space-time completion of video", 2007: by turns, find for every 7 × 7 patch that touches the
hole the most similar patch outside it (PatchMatch, Barnes et al. 2009), and let all patches vote on each missing pixel.
At the end what is left on the rim is spread over the hole and subtracted (Pérez et al., "Poisson image editing", 2003).

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
PATCH = [(row, column) for row in range(-RADIUS, RADIUS + 1) for column in range(-RADIUS, RADIUS + 1)]
CHECKERED = [(row, column) for row, column in PATCH if (row + column) % 2 == 0]
ROUNDS = (1, 3, 5, 6, 8, 10, 12)  # of search and vote, from the finest level to the coarsest
FIRST_SEARCHES = 4  # before the first vote: a vote on bad matches would blur the first colours
DECISION = 3.0  # how much good matches outvote bad ones; at 1 texture is averaged away
REACH = 0.6  # first radius of the random search, as a share of the longer side
LEASH = 0.35  # with a guide: how far from home a patch may be taken, as a share of the known part's shorter side
FEWEST_SOURCES = 64
MANY_TARGETS = 40_000  # above this a level is only polished: one round, near the matches of the coarser level
BLOCK = 1 << 14  # rows handled at once: they stay in the processor's cache
CHECKED_EVERY = 7  # pixels of a patch: then those that cannot win any more are left out


@dataclass(frozen=True)
class Level:
    """One scale: colours (H, W, 3), what is missing, and where patches may be taken from (their centres)."""

    image: Colours
    hole: Mask
    sources: Mask

    @classmethod
    def of(cls, image: Colours, hole: Mask, allowed: Mask) -> Level:
        """Make a level; its sources are the allowed pixels whose whole patch is known and inside the picture."""
        sources = allowed & ~grown(hole, RADIUS)
        for edge in (slice(0, RADIUS), slice(-RADIUS, None)):
            sources[edge] = False
            sources[:, edge] = False
        return cls(image, hole, sources)

    def halved(self, allowed: Mask) -> tuple[Level, Mask]:
        """Return this level at half the size, averaged over known pixels only, and `allowed` at that size."""
        size = ((self.hole.shape[1] + 1) // 2, (self.hole.shape[0] + 1) // 2)
        known = (~self.hole).astype(np.float32)
        share = shrunk(known, size)
        sums = shrunk(self.image * known[..., None], size)
        image = np.asarray(sums / np.maximum(share, 1e-3)[..., None], np.float32)
        coarse = shrunk(allowed.astype(np.float32), size) > 0
        return Level.of(image, share < 0.6, coarse), coarse


@dataclass(frozen=True)
class Guide:
    """What the hole should look like.

    Attributes:
        start: its first colours.
        rows, columns: for every pixel of the picture its home; its patch must be taken from near it.
        side: the shorter side of the known part, as a share of the shorter side of the whole.
    """

    start: Picture
    rows: Indices
    columns: Indices
    side: float


class Matcher:
    """The search on one level. A *target* is a patch that touches the hole; it has one *source*, its best match so far.

    Patches are named by the flat index of their centre in the padded picture; the neighbour one row down is `stride`
    further on.
    """

    def __init__(self, level: Level, depth: int, rng: np.random.Generator, guide: Guide | None) -> None:
        self.level, self.depth, self.rng = level, depth, rng
        self.height, self.width = level.hole.shape
        self.stride = self.width + 2 * RADIUS
        self.known = _rows(level.image)
        self.current = self.known.copy()
        framed_hole = _framed(level.hole.astype(np.uint8))
        self.missing = framed_hole.ravel() > 0
        self.places = self._flat(level.sources)
        self.usable = np.zeros(len(self.known), np.bool_)
        self.usable[self.places] = True
        self.targets = self._flat(grown(level.hole, RADIUS))
        self.sources: Indices = np.zeros_like(self.targets)
        self.costs: Colours = np.zeros(len(self.targets), np.float32)
        self.votes: Colours = np.zeros_like(self.known)
        # Pixels deep in the hole count less: they are guesses themselves.
        depth_in_hole = np.asarray(cv2.distanceTransform(framed_hole, cv2.DIST_L2, 3), np.float32).ravel()
        self.confidence = np.maximum(1.3**-depth_in_hole, 0.05).astype(np.float32).repeat(4).reshape(-1, 4)
        self.polishing = len(self.targets) > MANY_TARGETS
        self.homes = None if guide is None else self._homes(guide)
        self.reach = REACH * max(self.height, self.width)
        if guide is not None:
            self.reach = LEASH * guide.side * min(self.height, self.width)

    def _flat(self, mask: Mask) -> Indices:
        rows, columns = np.nonzero(mask)
        return np.asarray((rows + RADIUS) * self.stride + columns + RADIUS, np.intp)

    def _position(self, index: Indices) -> tuple[Indices, Indices]:
        return index // self.stride - RADIUS, index % self.stride - RADIUS

    # Where a level starts from

    def begin(self, start: Colours, hold: float) -> None:
        """Begin the coarsest level: given colours; sources at home or, without a guide, anywhere."""
        self._colour(start)
        self.sources = self._default(np.ones(len(self.targets), np.bool_))
        # A blurred start without a guide has no information: only the smoothest patches would match it. So at first
        # only known pixels count; on the coarsest level almost every patch includes some.
        confidence = self.confidence
        if self.homes is None:
            self.confidence = np.where(self.missing[:, None], np.float32(1e-3), confidence)
        self._search(FIRST_SEARCHES)
        if self.homes is None:
            self._vote(DECISION)
            self.confidence = confidence
        self._solve(hold)

    def go_on_from(self, coarser: Matcher) -> None:
        """Begin a level of twice the size, with the coarser level's colours and sources, scaled up."""
        core = coarser._core(coarser.current)[..., :3]
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
        lost |= ~self._near_home(self.sources, np.arange(len(self.targets)))
        self.sources[lost] = self._default(lost)
        self._solve()

    def _colour(self, core: Colours) -> None:
        self.current[self.missing] = _rows(core)[self.missing]

    def _homes(self, guide: Guide) -> Indices:
        """Return for each target the usable source nearest to the place in the guide."""
        height, width = guide.rows.shape
        row, column = self._position(self.targets)
        fine = row * height // self.height, column * width // self.width
        row, column = guide.rows[fine] * self.height // height, guide.columns[fine] * self.width // width
        _, nearest = cv2.distanceTransformWithLabels(
            (~self.level.sources).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        labels = np.asarray(nearest, np.intp)
        source_of = np.zeros(int(labels.max()) + 1, np.intp)
        source_of[labels[self.level.sources]] = self.places
        nearest_sources: Indices = source_of[labels[row, column]]
        return nearest_sources

    def _default(self, chosen: Mask) -> Indices:
        if self.homes is not None:
            return self.homes[chosen]
        return self.places[self.rng.integers(0, len(self.places), int(np.count_nonzero(chosen)))]

    def _near_home(self, sources: Indices, numbers: Indices) -> Mask:
        """Check which of these sources, one for each of the targets of these numbers, are near enough to home."""
        if self.homes is None:
            return np.ones(len(sources), np.bool_)
        row, column = self._position(sources)
        home_row, home_column = self._position(self.homes[numbers])
        far = np.maximum(np.abs(row - home_row), np.abs(column - home_column)) > self.reach
        return np.asarray(~far, np.bool_)

    # Search and vote

    def _solve(self, hold: float = 0.0) -> None:
        start = self.current.copy() if hold else self.current
        rounds = 1 if self.polishing else ROUNDS[min(self.depth, len(ROUNDS) - 1)]
        for turn in range(rounds):
            self._search(1)
            self._vote(2 * DECISION if turn == rounds - 1 else DECISION)
            if hold:
                self.current += np.float32(hold) * (start - self.current)

    def _search(self, times: int) -> None:
        self.costs = self._cost(self.sources, self.targets)
        for _ in range(times):
            for step in self._steps():
                self._ask_neighbours(step)
            for radius in self._radii():
                self._look_around(radius)

    def _steps(self) -> tuple[int, ...]:
        if self.polishing and self.depth == 0:
            return ()
        return (1, 2, 4) if self.depth >= 2 else (1,)

    def _radii(self) -> Iterator[int]:
        radius, shrink = max(8, int(self.reach)), 2
        if self.polishing:
            radius = 0 if self.depth == 0 else 2
        elif self.depth < 2:
            radius, shrink = (8 if self.depth == 0 else radius // 4), 4
        while radius >= 1:
            yield radius
            radius //= shrink

    def _ask_neighbours(self, step: int) -> None:
        """Try the matches of the neighbours: the place beside a neighbour's good match is likely to be good too."""
        found = np.full(len(self.known) + 2 * step * self.stride, -1, np.intp)
        inner = found[step * self.stride :]
        for offset in (step, step * self.stride, -step, -step * self.stride):
            inner[self.targets] = self.sources
            neighbour = found[self.targets + offset + step * self.stride]
            self._try(np.where(neighbour < 0, -1, neighbour - offset))

    def _look_around(self, radius: int) -> None:
        """Try random places within `radius` pixels of the match."""
        row, column = self._position(self.sources)
        row = row + self.rng.integers(-radius, radius + 1, len(row))
        column = column + self.rng.integers(-radius, radius + 1, len(column))
        inside = (row >= 0) & (row < self.height) & (column >= 0) & (column < self.width)
        self._try(np.where(inside, (row + RADIUS) * self.stride + column + RADIUS, -1))

    def _try(self, candidates: Indices) -> None:
        """Take the candidates that are usable and better than the present sources."""
        possible = np.flatnonzero((candidates >= 0) & (candidates < len(self.known)) & (candidates != self.sources))
        possible = possible[self.usable[candidates[possible]]]
        possible = possible[self._near_home(candidates[possible], possible)]
        cost = self._cost(candidates[possible], self.targets[possible], self.costs[possible])
        better = cost < self.costs[possible]
        chosen = possible[better]
        self.sources[chosen] = candidates[chosen]
        self.costs[chosen] = cost[better]

    def _cost(self, sources: Indices, targets: Indices, limits: Colours | None = None) -> Colours:
        """Return the sum of squared differences of patches, weighted by the confidence in the target's pixels.

        With `limits` a patch that reaches its limit is not followed to its end: its cost is infinite.
        """
        cost = np.full(len(sources), np.inf, np.float32)
        offsets = CHECKERED if self.depth <= 1 else PATCH
        buffers = np.empty((3, min(BLOCK, len(sources)), 4), np.float32)
        for block in _blocks(len(sources)):
            alive, there, here = np.arange(block.start, block.stop), sources[block], targets[block]
            difference, present, confidence = buffers[:, : len(alive)]
            total = np.zeros_like(difference)
            for number, (row, column) in enumerate(offsets, 1):
                offset = row * self.stride + column
                index = here + offset
                self.known.take(there + offset, 0, difference, "clip")
                difference -= self.current.take(index, 0, present, "clip")
                difference *= difference
                difference *= self.confidence.take(index, 0, confidence, "clip")
                total += difference
                if limits is not None and number % CHECKED_EVERY == 0:
                    keep = np.flatnonzero(total[:, 0] + total[:, 1] + total[:, 2] < limits[alive])
                    alive, there, here, total = alive[keep], there[keep], here[keep], total[keep]
                    difference, present, confidence = buffers[:, : len(alive)]
            cost[alive] = total[:, 0] + total[:, 1] + total[:, 2]
        return cost

    def _vote(self, sharpness: float) -> None:
        """Set every missing pixel to the mean of the matches of all patches around it; good matches weigh most."""
        typical = max(float(np.median(self.costs)), 1.0)
        weight = np.exp(-self.costs * np.float32(sharpness / typical)) * self.confidence[self.targets, 0]
        weight = np.repeat(weight + np.float32(1e-6), 4).reshape(-1, 4)
        self.votes[:] = 0
        votes = self.votes.view(np.complex128)[:, 0]  # 16 bytes as one item: assigned to by index many times faster
        for block in _blocks(len(self.targets)):
            for row, column in PATCH:
                offset = row * self.stride + column
                here = self.targets[block] + offset
                colours = self.known.take(self.sources[block] + offset, 0, mode="clip")
                colours *= weight[block]
                colours += self.votes.take(here, 0, mode="clip")
                votes[here] = colours.view(np.complex128)[:, 0]
        voted = self.missing & (self.votes[:, 3] > 0)
        self.current[voted] = self.votes[voted] / self.votes[voted, 3:]

    # The answer

    def _core(self, rows: Colours) -> Colours:
        """Return rows of pixels as a picture again, without the padding."""
        return rows.reshape(-1, self.stride, 4)[RADIUS:-RADIUS, RADIUS:-RADIUS]

    def origins(self) -> tuple[Indices, Indices]:
        rows, columns = (np.asarray(axis, np.intp) for axis in np.indices((self.height, self.width)))
        here = self._position(self.targets)
        rows[here], columns[here] = self._position(self.sources)
        rows[~self.level.hole], columns[~self.level.hole] = np.nonzero(~self.level.hole)
        return rows, columns

    def result(self, image: Picture) -> Picture:
        """Return the picture with its hole filled, less the remaining difference on the rim."""
        hole = self.level.hole
        core, votes = self._core(self.current)[..., :3], self._core(self.votes)
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
    """Pad an image by a reflection, add a fourth channel of ones, and return one row per pixel."""
    rows = cv2.copyMakeBorder(image, RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_REFLECT_101)
    return np.concatenate([rows, np.ones((*rows.shape[:2], 1), np.float32)], 2, dtype=np.float32).reshape(-1, 4)


def shrunk(image: Colours, size: tuple[int, ...]) -> Colours:
    return np.asarray(cv2.resize(image, (size[0], size[1]), interpolation=cv2.INTER_AREA), np.float32)


def grown(mask: Mask, radius: int) -> Mask:
    """Return the mask with everything within a square of `radius` pixels around it."""
    if radius == 0:
        return mask.copy()
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), square), np.uint8) > 0


def hole_radius(hole: Mask) -> float:
    """Return the radius of the largest disc inside the hole, in pixels; outside the picture counts as known."""
    framed = np.pad(hole.astype(np.uint8), 1)
    return float(np.max(cv2.distanceTransform(framed, cv2.DIST_L2, 3)))


# Membranes


def membrane(values: Colours, known: Mask) -> Colours:
    """Return a smooth surface through the known values (H, W, 3), interpolated everywhere else; without any: zeros.

    The method is pull-push, a fast approximation of the Laplace equation (Gortler et al., "The Lumigraph", 1996).
    """
    weight = known.astype(np.float32)[..., None]
    pulled: list[tuple[Colours, Colours]] = []
    total = values * weight
    while max(total.shape[:2]) > 1:
        pulled.append((total, weight))
        size = ((total.shape[1] + 1) // 2, (total.shape[0] + 1) // 2)
        share, sums = shrunk(weight, size)[..., None], shrunk(total, size)
        weight = np.minimum(1, 4 * share)
        total = sums * (weight / np.maximum(share, 1e-6))
    surface = total / np.maximum(weight, 1e-6)
    for total, weight in reversed(pulled):
        size = (total.shape[1], total.shape[0])
        surface = np.asarray(cv2.resize(surface, size), np.float32)
        surface = total + (1 - weight) * surface
    return np.asarray(surface, np.float32)


def membrane_fill(image: Picture, hole: Mask) -> Picture:
    """Cover the hole with a membrane over its rim; a picture that is all hole gets its mean colour."""
    if hole.all():
        return np.broadcast_to(np.round(image.mean((0, 1))), image.shape).astype(np.uint8)
    filled = image.copy()
    filled[hole] = np.clip(np.round(membrane(image.astype(np.float32), ~hole)[hole]), 0, 255).astype(np.uint8)
    return filled
