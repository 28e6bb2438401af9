"""Prepare pictures for the report: previews and thumbnails as data URIs, outlines of masks, and places on a canvas.

A picture that cannot be read becomes a ``Missing`` with the reason: a report is written after the money is spent.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image

from flux_tasks.catalog.boxes import GRID, Row
from flux_tasks.images import masks
from flux_tasks.images.pixels import to_colours
from flux_tasks.images.reference import ImageRef
from pipelines.report.previews import Previews

THUMBNAIL_SIDE = 224
"""Pixels of a thumbnail's long side: twice as many as the page shows, for dense displays."""

_TRACE_SIDE = 720
_MAX_EDGES = 16_000
_STAIR = 3  # pixels; an edge up to this length counts as part of a slope
_MAX_THUMBNAIL_BYTES = 16_000
_QUALITIES = (86, 70, 50)
_LEAST_SHARE = 0.3  # of its bytes that a picture keeps at the lowest quality, at least
_MAX_PROFILE = 20_000

T = TypeVar("T")
Point = tuple[int, int]
Spot = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """An embedded picture: a file as base64; ``width`` and ``height`` are pixels of the original, as people see it."""

    data: str
    width: int
    height: int
    kind: str = "jpeg"

    @property
    def uri(self) -> str:
        """Return its address, which contains it."""
        return f"data:image/{self.kind};base64,{self.data}"

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        return self.width, self.height


@dataclass(frozen=True, slots=True)
class Missing:
    """The reason why a picture cannot be shown."""

    reason: str


@dataclass(frozen=True, slots=True)
class Outline:
    """The border of a mask's white areas, or of the boxes of a prompt, as an SVG path.

    ``coverage`` is their share of the picture, 0 to 1.
    """

    path: str
    width: int
    height: int
    coverage: float
    is_boxes: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """The place of a picture on a canvas, as shares of the canvas; it may reach beyond the canvas.

    ``exact`` is False where the place is a guess.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0
    exact: bool = True

    def within(self, outer: Box) -> Box:
        """Return the same place on the canvas on which ``outer`` lies."""
        return Box(
            outer.left + self.left * outer.width,
            outer.top + self.top * outer.height,
            self.width * outer.width,
            self.height * outer.height,
            self.exact and outer.exact,
        )

    @property
    def css(self) -> str:
        """Return inline style for an absolutely positioned element."""
        sides = {"left": self.left, "top": self.top, "width": self.width, "height": self.height}
        return ";".join(f"{name}:{share * 100:.3f}%" for name, share in sides.items())


WHOLE = Box()


def boxes_outline(rows: Sequence[Row]) -> Outline:
    """Return the outline of the boxes of a prompt, where they are and where they lead, on the grid of the boxes.

    A box in another picture than the first is left out.
    """
    edges = dict.fromkeys(
        found for row in rows for found in (None if row.kind == "take" else row.source, row.target) if found is not None
    )
    path = "".join(
        f"M{left} {top}L{right} {top}L{right} {bottom}L{left} {bottom}Z" for top, left, bottom, right in edges
    )
    area = sum((right - left) * (bottom - top) for top, left, bottom, right in edges)
    return Outline(path, GRID, GRID, min(1.0, area / GRID**2), is_boxes=True)


def digest_of(described: object) -> str:
    """Return the digest of a described image, or an empty text where the description has none."""
    digest = described.get("digest") if isinstance(described, Mapping) else None
    return digest if isinstance(digest, str) else ""


def size_of(described: object) -> tuple[int, int] | None:
    """Return (width, height) in pixels of a described image, as people see it; None where the description has none."""
    try:
        width, height = ImageRef.from_dict(dict(described)).upright_size  # type: ignore[call-overload]
        return (int(width), int(height)) if int(width) > 0 and int(height) > 0 else None
    except Exception:
        return None


def place(before: tuple[int, int], after: tuple[int, int], parameters: Mapping[str, Any], *, task: str = "") -> Box:
    """Return where the input of a step lies on its output; ``before`` and ``after`` are their sizes in pixels.

    The parameters of an outpaint answer it: ``width``, ``height``, ``reference_offset_x``, ``reference_offset_y``, with
    the input in the middle where an offset is missing. An output of the same shape is the input at another scale. For
    every other output the place is a guess: as large as fits, in the middle.
    """
    canvas = _whole_numbers(parameters, "width", "height")
    offsets = ("reference_offset_x", "reference_offset_y")
    if len(canvas) == 2 and min(canvas) > 0 and (task == "outpaint" or any(name in parameters for name in offsets)):
        return _on_canvas(before, (canvas[0], canvas[1]), parameters)
    if abs((before[0] * after[1]) / (before[1] * after[0]) - 1) < 0.02:
        return WHOLE
    scale = min(after[0] / before[0], after[1] / before[1])
    width, height = before[0] * scale / after[0], before[1] * scale / after[1]
    return Box((1 - width) / 2, (1 - height) / 2, width, height, exact=False)


def _on_canvas(before: tuple[int, int], canvas: tuple[int, int], parameters: Mapping[str, Any]) -> Box:
    scale, exact = 1.0, True
    axes = [
        (_whole_numbers(parameters, f"reference_offset_{axis}"), side, room)
        for axis, side, room in zip("xy", before, canvas, strict=True)
    ]
    if any(sum(offset) + side > room for offset, side, room in axes) and not parameters.get("auto_crop"):
        # The input was sent smaller (fit: downscale), by a factor that is not recorded. The canvas is the smallest one
        # that holds it, so it fills one axis, except for the rounding to 16 px.
        scale, exact = min(canvas[0] / before[0], canvas[1] / before[1]), False
    shares = []
    for offset, side, room in axes:
        length = side * scale
        shares.append(((offset[0] if offset else (room - length) / 2) / room, length / room))
    (left, width), (top, height) = shares
    return Box(left, top, width, height, exact)


def _whole_numbers(parameters: Mapping[str, Any], *names: str) -> list[int]:
    found = (parameters.get(name) for name in names)
    return [int(value) for value in found if isinstance(value, (int, float)) and not isinstance(value, bool)]


@dataclass
class Pictures:
    """The pictures of one item, each decoded at most once.

    ``side`` is the long side of a preview in pixels, and ``max_bytes`` the most that it has as a file.
    """

    side: int
    max_bytes: int = 250_000
    previews: Previews = field(default_factory=Previews)
    _copies: dict[str, Image.Image] = field(default_factory=dict)
    _missing: dict[str, Missing] = field(default_factory=dict)

    def preview(self, described: object) -> Picture | Missing:
        """Return the picture at reading size."""
        return self._embedded(described, self.side, self.max_bytes)

    def thumbnail(self, described: object) -> Picture | Missing:
        """Return the picture at the size of a stamp."""
        return self._embedded(described, THUMBNAIL_SIDE, _MAX_THUMBNAIL_BYTES)

    def outline(self, described: object) -> Outline | Missing:
        """Return the outline of a mask."""
        return self._kept(Outline, described, "outline", lambda: _outline(masks.binarise(_open(described))))

    def _embedded(self, described: object, side: int, limit: int) -> Picture | Missing:
        kind = f"{side}-{limit}-of-{self.side}"
        found = self._kept(Picture, described, kind, lambda: _embed(self._scaled(described), side, limit))
        size = size_of(described)
        return found if size is None or isinstance(found, Missing) else Picture(found.data, *size, found.kind)

    def _kept(self, kind: type[T], described: object, form: str, make: Callable[[], T]) -> T | Missing:
        """Return what was made of this picture before, or is made of it now, or why it cannot be."""
        digest = digest_of(described)
        if digest not in self._missing:
            try:
                return self.previews.get(kind, f"{digest}-{form}", make)
            except Exception as error:
                self._missing[digest] = Missing(str(error) or type(error).__name__)
        return self._missing[digest]

    def _scaled(self, described: object) -> Image.Image:
        digest = digest_of(described)
        if digest not in self._copies:
            image = _displayable(_open(described, self.side))
            image.thumbnail((self.side, self.side), Image.Resampling.HAMMING)
            self._copies[digest] = image
        return self._copies[digest]


def _open(described: object, least: int = 0) -> Image.Image:
    return ImageRef.from_dict(dict(described)).open(least=least)  # type: ignore[call-overload]


def _embed(image: Image.Image, side: int, limit: int) -> Picture:
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.HAMMING)
    # JPEG: it takes a tenth of WebP's time, and a report may need hundreds. It has no transparency.
    kind = "webp" if image.has_transparency_data else "jpeg"
    return Picture(_small_file(image, kind, limit), *image.size, kind)


def _displayable(image: Image.Image) -> Image.Image:
    """Return ``image`` in a mode that browsers show, with its colour profile where that still describes the pixels."""
    image = to_colours(image.convert("L") if image.mode == "1" else image)
    profile = image.info.get("icc_profile")
    image.info = {"icc_profile": profile} if profile and len(profile) <= _MAX_PROFILE else {}
    return image


def _small_file(image: Image.Image, kind: str, limit: int) -> str:
    """Return ``image`` as base64 of a file of at most ``limit`` bytes: at lower quality if needed, then smaller."""
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, kind, quality=quality, method=1, icc_profile=image.info.get("icc_profile") or b"")
            if buffer.tell() <= limit or max(image.size) < 64:
                return base64.b64encode(buffer.getvalue()).decode("ascii")
            if buffer.tell() * _LEAST_SHARE > limit:
                break
        image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)), Image.Resampling.HAMMING)


def _outline(mask: Image.Image) -> Outline:
    coverage = masks.coverage(mask)
    small = mask
    for side in (_TRACE_SIDE, _TRACE_SIDE // 2, _TRACE_SIDE // 4):
        small = _shrunk(mask, side)
        edges = list(_edges(small))
        if len(edges) <= _MAX_EDGES:
            break
    path = "".join(_path(_simplified(_smoothed(loop))) for loop in _loops(edges))
    return Outline(path, small.width, small.height, coverage)


def _shrunk(mask: Image.Image, side: int) -> Image.Image:
    scale = side / max(mask.size)
    if scale >= 1:
        return mask
    size = (max(1, round(mask.width * scale)), max(1, round(mask.height * scale)))
    shares = mask.resize(size, Image.Resampling.BOX)
    small = masks.binarise(shares)
    return masks.binarise(shares, threshold=1) if masks.is_empty(small) else small  # thin lines stay visible


def _edges(mask: Image.Image) -> Iterator[tuple[Point, Point]]:
    """Yield the border between black and white along pixel corners, with white to the right of each directed edge."""
    width, height = mask.size
    pixels = mask.tobytes()
    above = bytes(width)
    for y in range(height + 1):
        row = pixels[y * width : (y + 1) * width] if y < height else bytes(width)
        upper, lower = int.from_bytes(above), int.from_bytes(row)
        for start, end in _runs((lower & ~upper).to_bytes(width)):
            yield (start, y), (end, y)
        for start, end in _runs((upper & ~lower).to_bytes(width)):
            yield (end, y), (start, y)
        for start, end in _runs(row):
            yield (start, y + 1), (start, y)
            yield (end, y), (end, y + 1)
        above = row


def _runs(row: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each stretch of white, without its end."""
    start = row.find(b"\xff")
    while start >= 0:
        end = row.find(b"\x00", start)
        yield start, end if end >= 0 else len(row)
        start = row.find(b"\xff", end) if end >= 0 else -1


def _loops(edges: list[tuple[Point, Point]]) -> Iterator[list[Point]]:
    following: dict[Point, list[Point]] = {}
    for start, end in edges:
        following.setdefault(start, []).append(end)
    while following:
        start = point = next(iter(following))
        loop = [start]
        while ends := following.get(point):
            last, point = point, ends.pop()
            if not ends:
                del following[last]
            loop.append(point)
        yield loop


def _smoothed(loop: list[Point]) -> list[Spot]:
    """Return the line that a closed ``loop`` of pixel edges stands for: stairs become slopes, true corners stay."""
    ahead = loop[1:-1] + loop[:1]
    behind = [loop[-2], *loop[:-2]]
    turns = [p for q, p, r in zip(behind, loop, ahead, strict=False) if (q[0] == p[0]) != (p[0] == r[0])]
    after = turns[1:] + turns[:1]
    lengths = [abs(q[0] - p[0]) + abs(q[1] - p[1]) for p, q in zip(turns, after, strict=True)]
    sharp = [min(lengths[i - 1], lengths[i]) > _STAIR for i in range(len(turns))]
    points: list[Spot] = []
    for i, (p, q) in enumerate(zip(turns, after, strict=True)):
        if sharp[i]:
            points.append(p)
        if not (sharp[i] and sharp[(i + 1) % len(turns)]):
            points.append(((p[0] + q[0]) / 2, (p[1] + q[1]) / 2))
    return points


def _simplified(points: list[Spot], tolerance: float = 0.5) -> list[Spot]:
    """Return the closed line without points that lie closer to it than ``tolerance`` pixels (Douglas and Peucker)."""
    loop = [*points, points[0]]
    far = max(range(len(loop)), key=lambda i: (loop[i][0] - loop[0][0]) ** 2 + (loop[i][1] - loop[0][1]) ** 2)
    chosen = {0, far, len(loop) - 1}
    spans = [(0, far), (far, len(loop) - 1)]
    while spans:
        first, last = spans.pop()
        (x0, y0), (x1, y1) = loop[first], loop[last]
        dx, dy = x1 - x0, y1 - y0
        length = (dx * dx + dy * dy) ** 0.5 or 1.0
        furthest, index = tolerance, -1
        for i in range(first + 1, last):
            distance = abs(dx * (loop[i][1] - y0) - dy * (loop[i][0] - x0)) / length
            if distance > furthest:
                furthest, index = distance, i
        if index >= 0:
            chosen.add(index)
            spans += [(first, index), (index, last)]
    return [loop[i] for i in sorted(chosen)][:-1]


def _path(points: list[Spot]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z"
