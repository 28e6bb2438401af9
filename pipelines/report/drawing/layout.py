"""Place the boxes of a drawing in layers from top to bottom: the method of Sugiyama, Tagawa and Toda (1981).

The longest path from the top gives a box its layer. A long arrow gets a point in every layer that it passes. Sorting
each layer by the places of its neighbours avoids crossings; then each point moves near its neighbours.

grandalf does much the same and is no longer maintained; Graphviz needs a binary.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

GAP = 28.0
"""Pixels between boxes side by side."""

_LANE = 18.0  # width of a long arrow where it passes between boxes
_DROP = 36.0  # between layers
_DROP_PER_PIXEL = 0.06  # additional drop for each pixel that an arrow goes sideways
_MAX_DROP = 84.0
_LABEL = 24.0  # height of the straight end of arrows that have a label
_PORT = 22.0  # between arrows that end at the same box
_EDGE = 14.0  # no arrow ends so close to a corner
_SWEEPS = 12

Numbers = Sequence[Sequence[int]]  # of points: those of each layer, or those of each arrow


@dataclass(frozen=True)
class Link:
    """An arrow from box to box, with the width of its label in pixels; a heavy arrow stays straight."""

    start: str
    end: str
    label: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Spot:
    """The place of a box in pixels: its middle from the left, its top, its width and its height."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """The places of all boxes, by name, and of all arrows; width and height are pixels, without a margin.

    A route is the points (x, y) of a link. It goes straight down from the first, third … point to the second, fourth …,
    and in a curve between these pairs.
    """

    spots: Mapping[str, Spot]
    routes: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


@dataclass
class _Point:
    """A box, or a bend of a long arrow."""

    width: float
    height: float
    layer: int
    is_box: bool
    x: float = 0.0
    above: list[tuple[int, float]] = field(default_factory=list)
    below: list[tuple[int, float]] = field(default_factory=list)


def lay_out(sizes: Mapping[str, tuple[float, float]], links: Sequence[Link]) -> Layout:
    """Return places for boxes of these sizes (width, height) in pixels; every box comes after those that lead to it."""
    leading: dict[str, list[Link]] = {name: [] for name in sizes}
    for link in links:
        leading[link.end].append(link)
    boxes: dict[str, _Point] = {}
    for name, (width, height) in sizes.items():
        layer = max((boxes[link.start].layer + 1 for link in leading[name]), default=0)
        boxes[name] = _Point(max(width, _least_width(leading[name])), height, layer, True)
    joined = _Points(list(boxes.values()))
    numbers = {name: number for number, name in enumerate(sizes)}
    ways = [joined.trace(numbers[link.start], numbers[link.end], link) for link in links]
    points = joined.all
    rows = _sort_rows(points)
    _place(points, rows)
    left = min((p.x - p.width / 2 for p in points), default=0.0)
    for point in points:
        point.x -= left
    ports = _ports(links, ways, points)
    tops = _tops(points, rows, links, ways, ports)
    bands = [(top, top + max(points[n].height for n in row)) for top, row in zip(tops, rows, strict=True)]
    spots = {name: Spot(box.x, tops[box.layer], box.width, box.height) for name, box in boxes.items()}
    labelled = {link.end for link in links if link.label}
    routes = tuple(
        _route(way, port, points, bands, _LABEL * (link.end in labelled))
        for link, way, port in zip(links, ways, ports, strict=True)
    )
    width = max((p.x + p.width / 2 for p in points), default=0.0)
    return Layout(spots, routes, width, bands[-1][1] if bands else 0.0)


def _least_width(links: Sequence[Link]) -> float:
    """Return the width of a box on which all labels of its arrows fit side by side."""
    return sum(map(_slot, links)) + 2 * _EDGE if any(link.label for link in links) else 0.0


def _slot(link: Link) -> float:
    return max(_PORT, link.label + 8.0)


class _Points:
    """The boxes and the bends of long arrows, and how arrows join them."""

    def __init__(self, boxes: list[_Point]) -> None:
        self.all = boxes
        self._bends: dict[tuple[int, bool, int], int] = {}

    def trace(self, start: int, end: int, link: Link) -> list[int]:
        """Return the points that an arrow passes, one in every layer; arrows from the same box share their bends."""
        way = [start]
        for layer in range(self.all[start].layer + 1, self.all[end].layer):
            key = (start, bool(link.label), layer)
            if key not in self._bends:
                self._bends[key] = len(self.all)
                self.all.append(_Point(_LANE, 0.0, layer, False))
                self._join(way[-1], self._bends[key], link.weight)
            way.append(self._bends[key])
        self._join(way[-1], end, link.weight)
        return [*way, end]

    def _join(self, upper: int, lower: int, weight: float) -> None:
        weight *= (1, 2, 3)[(not self.all[upper].is_box) + (not self.all[lower].is_box)]
        self.all[upper].below.append((lower, weight))
        self.all[lower].above.append((upper, weight))


# -- order within layers ---------------------------------------------------------------------------------------------


def _sort_rows(points: Sequence[_Point]) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(max((p.layer for p in points), default=-1) + 1)]
    seen: set[int] = set()
    for start in range(len(points)):  # depth first, so that connected boxes start side by side
        stack = [start]
        while stack:
            number = stack.pop()
            if number not in seen:
                seen.add(number)
                rows[points[number].layer].append(number)
                stack += [lower for lower, _ in reversed(points[number].below)]
    best, fewest = [list(row) for row in rows], _crossings(points, rows)
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows[1:] if downwards else reversed(rows[:-1]):
            other = rows[points[row[0]].layer + (-1 if downwards else 1)]
            place = {number: position for position, number in enumerate(other)}
            here = {number: position for position, number in enumerate(row)}
            row.sort(key=lambda n: _middle(points[n], place, downwards, here[n]))
        crossings = _crossings(points, rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return best


def _middle(point: _Point, place: Mapping[int, int], downwards: bool, otherwise: float) -> float:
    neighbours = point.above if downwards else point.below
    return sum(place[n] for n, _ in neighbours) / len(neighbours) if neighbours else otherwise


def _crossings(points: Sequence[_Point], rows: Numbers) -> int:
    total = 0
    for upper, lower in pairwise(rows):
        place = {number: position for position, number in enumerate(lower)}
        seen: list[int] = []
        for number in upper:
            ends = sorted(place[n] for n, _ in points[number].below)
            total += sum(len(seen) - bisect_left(seen, end + 1) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


# -- places ----------------------------------------------------------------------------------------------------------


def _place(points: Sequence[_Point], rows: Numbers) -> None:
    """Move every point near its neighbours, without overlap and in the order of its row."""
    for row in rows:
        _move(points, row, [(0.0, 1.0)] * len(row))
    for sweep in range(2 * _SWEEPS + 1):  # the last one goes down: a box with one arrow stands right below its start
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            wanted = []
            for number in row:
                near = points[number].above if downwards else points[number].below
                places = [(points[n].x, weight) for n, weight in near]
                wanted.append((_median(places), sum(w for _, w in near)) if near else (points[number].x, 0.1))
            _move(points, row, wanted)


def _median(weighted: Sequence[tuple[float, float]]) -> float:
    """Return the middle of places with weights.

    It is one of the places, unless two halves weigh the same: so lines are straight where a mean would make them lean.
    """
    in_order = sorted(weighted)
    half = sum(weight for _, weight in in_order) / 2
    reached = 0.0
    for position, (place, weight) in enumerate(in_order):
        reached += weight
        if reached > half:
            return place
        if reached == half:
            return (place + in_order[position + 1][0]) / 2
    return in_order[-1][0]


def _move(points: Sequence[_Point], row: Sequence[int], wanted: Sequence[tuple[float, float]]) -> None:
    """Move the points of ``row`` as close to their wanted (place, weight) as widths and order allow.

    This is an isotonic regression: neighbours that would overlap form a pool, which moves as one.
    """
    offsets, reach = [], 0.0
    for position, number in enumerate(row):
        if position:
            before = points[row[position - 1]]
            gap = GAP if before.is_box and points[number].is_box else GAP / 2
            reach += (before.width + points[number].width) / 2 + gap
        offsets.append(reach)
    pools: list[tuple[float, list[tuple[float, float]]]] = []
    for (place, weight), offset in zip(wanted, offsets, strict=True):
        pools.append((place - offset, [(place - offset, weight)]))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            together = pools[-2][1] + pools[-1][1]
            pools[-2:] = [(_median(together), together)]
    places = [place for place, members in pools for _ in members]
    for number, place, offset in zip(row, places, offsets, strict=True):
        points[number].x = place + offset


# -- arrows ----------------------------------------------------------------------------------------------------------


def _ports(links: Sequence[Link], ways: Numbers, points: Sequence[_Point]) -> list[float]:
    """Return where each arrow ends on top of its box.

    Arrows end side by side, in the order of their starts; the heaviest one ends in the middle if there is room.
    """
    found = [0.0] * len(links)
    ending: dict[str, list[int]] = {}
    for number, link in enumerate(links):
        ending.setdefault(link.end, []).append(number)
    for numbers in ending.values():
        numbers.sort(key=lambda n: (points[ways[n][-2]].x, n))
        box = points[ways[numbers[0]][-1]]
        slots = [_slot(links[n]) for n in numbers]
        room = box.width - 2 * _EDGE
        slots = [slot * min(1.0, room / sum(slots)) for slot in slots]
        middles = [sum(slots[:n]) + slot / 2 for n, slot in enumerate(slots)]
        heaviest = max(range(len(numbers)), key=lambda n: links[numbers[n]].weight)
        start = min(max(-middles[heaviest], -room / 2), room / 2 - sum(slots))
        for number, middle in zip(numbers, middles, strict=True):
            found[number] = box.x + start + middle
    return found


def _tops(
    points: Sequence[_Point], rows: Numbers, links: Sequence[Link], ways: Numbers, ports: Sequence[float]
) -> list[float]:
    """Return the top of each layer; the space above it is for the curves and labels of its arrows."""
    sideways = [0.0] * len(rows)
    labelled = [0.0] * len(rows)
    for link, way, port in zip(links, ways, ports, strict=True):
        if link.label:
            labelled[points[way[-1]].layer] = _LABEL
        for upper, lower in pairwise(way):
            end = port if lower == way[-1] else points[lower].x
            layer = points[lower].layer
            sideways[layer] = max(sideways[layer], abs(points[upper].x - end))
    tops, y = [], 0.0
    for layer, row in enumerate(rows):
        if layer:
            y += min(_DROP + _DROP_PER_PIXEL * sideways[layer], _MAX_DROP) + labelled[layer]
        tops.append(y)
        y += max(points[n].height for n in row)
    return tops


def _route(
    way: Sequence[int], port: float, points: Sequence[_Point], bands: Sequence[tuple[float, float]], straight: float
) -> tuple[tuple[float, float], ...]:
    """Return the points of one arrow; ``bands`` are the top and bottom of each layer."""
    first = points[way[0]]
    route = [(first.x, bands[first.layer][0] + first.height), (first.x, bands[first.layer][1])]
    for number in way[1:-1]:
        route += [(points[number].x, y) for y in bands[points[number].layer]]
    end = bands[points[way[-1]].layer][0]
    return (*route, (port, end - straight), (port, end))
