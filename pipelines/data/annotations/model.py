"""Labels of one picture: where its objects are. They move with the picture, and masks are drawn from them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from flux_tasks.errors import InvalidImage
from flux_tasks.images.reference import ImageRef
from flux_tasks.units import px_size
from pipelines.data.annotations import shapes
from pipelines.data.annotations.shapes import Box, Polygon, Rle
from pipelines.operations.placement import Placement, Size

__all__ = ["RELATIVE", "Label", "Labels", "labels_of"]

RELATIVE: Size = (1, 1)
"""The size of ``Labels`` whose coordinates are shares of the picture's sides, as in YOLO."""

_IN_PIXELS = ("part", "polygon", "robndbox")
"""What Pascal VOC files say in pixels besides the box."""

_SIDE = re.compile(r"(?<![a-z])(left|right|[lr](?=_))", re.IGNORECASE)
_OPPOSITE = {"left": "right", "right": "left", "l": "r", "r": "l"}
_LINES = ("line", "linestrip", "point", "points")


@dataclass(frozen=True, slots=True)
class Label:
    """One object in a picture.

    Attributes:
        name: of its class, such as ``person``.
        box: left, top, right, bottom in pixels; right and bottom are edges.
        polygons: its outline in parts; empty if only the box is known.
        rle: its pixels as COCO has them, or None.
        extra: what else its format says of it (``iscrowd``, ``difficult``, ids), as it was read.
        visible: share of the object that is left after its picture was cut, 0 to 1.
        points: the names of its key points, as its class has them.
    """

    name: str
    box: Box
    polygons: tuple[Polygon, ...] = ()
    rle: Rle | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    visible: float = 1.0
    points: tuple[str, ...] = ()

    @property
    def area(self) -> float:
        """Its area in square pixels: of its pixels, of its polygons, or of its box.

        Raises:
            InvalidRequest: its run lengths cannot be read.
        """
        if self.rle is not None:
            return float(shapes.decode(self.rle).histogram()[255])
        if self.polygons:
            return sum(map(shapes.area, self.polygons))
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])

    @property
    def is_line(self) -> bool:
        """Whether it is a point or a line of labelme, which has no area."""
        return self.extra.get("shape_type") in _LINES

    def placed(self, placement: Placement, least: float = 0.0) -> Label | None:
        """Return the label on a picture that lies elsewhere, cut at its edges, with the key points of COCO.

        What else its format says in pixels, such as the parts of Pascal VOC, is left out as soon as anything moves.

        Args:
            least: share of the whole object that has to be left.

        Returns:
            None if less is left, or nothing.

        Raises:
            InvalidRequest: its run lengths cannot be read.
        """
        if self.extra and not placement.is_identity:
            return replace(self, extra=_moved(self.extra, placement, self.points))._placed(placement, least)
        return self._placed(placement, least)

    def _placed(self, placement: Placement, least: float) -> Label | None:
        left, top, right, bottom = self.box
        corners = [placement.of(point) for point in ((left, top), (right, top), (right, bottom), (left, bottom))]
        box, polygons = shapes.bounds(corners), tuple(tuple(map(placement.of, one)) for one in self.polygons)
        if polygons and placement.is_slanted:  # the box of a box that is turned is larger than the object
            box = shapes.bounds([point for one in polygons for point in one])
        is_inside = _is_inside(box, placement.size) and all(
            _is_inside(shapes.bounds(one), placement.size) for one in polygons
        )
        if self.is_line:
            return replace(self, box=box, polygons=polygons) if is_inside else None
        if self.rle is not None:
            return self._warped(placement, box, least)
        if is_inside:
            whole = replace(self, box=box, polygons=polygons)
            return whole if polygons or whole.area > 0 else None
        cut = _cut(box, placement.size)
        if polygons:
            before = sum(map(shapes.area, polygons))
            polygons = tuple(part for one in polygons if shapes.area(part := shapes.clip(one, placement.size)) > 0)
            share = sum(map(shapes.area, polygons)) / before if before else 0.0
            if polygons:
                cut = _common(cut, shapes.bounds([point for one in polygons for point in one]))
        else:
            share = _area(cut) / _area(box) if _area(box) else 0.0
        visible = self.visible * share
        return replace(self, box=cut, polygons=polygons, visible=visible) if share and visible >= least else None

    def _warped(self, placement: Placement, box: Box, least: float) -> Label | None:
        assert self.rle is not None  # noqa: S101 - the caller has looked
        given = (int(self.rle["size"][1]), int(self.rle["size"][0]))
        if placement.is_identity and placement.size == given:
            return self
        before = shapes.decode(self.rle)
        mask = shapes.warp(before, placement)
        a, b, _, d, e, _ = placement.matrix
        expected = before.histogram()[255] * abs(a * e - b * d)
        share = min(1.0, mask.histogram()[255] / expected) if expected else 0.0
        around = mask.getbbox()
        visible = self.visible * (1.0 if _is_inside(box, placement.size) else share)
        if around is None or visible < least:
            return None
        is_whole = _is_inside(box, placement.size) and not placement.is_slanted
        cut = box if is_whole else _common(_cut(box, placement.size), around)
        return replace(self, box=cut, rle=shapes.encode(mask), visible=visible)

    def paint(self, size: Size, pixels: bytearray, *, by_box: bool = False) -> None:
        """Set its pixels to 255, a byte each, in a picture of ``size``; a point or a line has none.

        Raises:
            InvalidRequest: its run lengths cannot be read.
        """
        if self.is_line:
            return
        if self.rle is not None and not by_box:
            mask = shapes.decode(self.rle)
            mask = mask if mask.size == size else shapes.warp(mask, Placement.scaled(mask.size, size))
            drawn = int.from_bytes(pixels, "big") | int.from_bytes(mask.tobytes(), "big")
            pixels[:] = drawn.to_bytes(len(pixels), "big")
            return
        left, top, right, bottom = self.box
        outline: Polygon = ((left, top), (right, top), (right, bottom), (left, bottom))
        shapes.fill(size, self.polygons if self.polygons and not by_box else (outline,), pixels)


@dataclass(frozen=True, slots=True)
class Count:
    """Counts labels, in conditions: ``count("person")``."""

    names: tuple[str, ...]

    def __call__(self, *wanted: str) -> int:
        """Return how many labels are called one of ``wanted``; without any, how many there are."""
        return sum(name in wanted for name in self.names) if wanted else len(self.names)


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one picture, in its pixels as people see it (EXIF orientation applied).

    Attributes:
        size: of the picture in pixels; ``RELATIVE``, or None where the file does not say, before ``upon``.
        extra: what else the format says of the picture (``id``, ``license``, ``flags``), as it was read.
        where: the place in the file that it comes from, for messages.
    """

    size: Size | None
    labels: tuple[Label, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)

    @property
    def names(self) -> list[str]:
        """The class of each label, in order."""
        return [label.name for label in self.labels]

    @property
    def context(self) -> dict[str, Any]:
        """What templates and conditions know: ``labels``, the class of each, and ``count``."""
        return {"labels": self.names, "count": Count(tuple(self.names))}

    @property
    def digest(self) -> str:
        """SHA-256 of what they say."""
        return hashlib.sha256(json.dumps(self.to_data(), sort_keys=True).encode()).hexdigest()

    def upon(self, image: ImageRef) -> Labels:
        """Return the labels in the pixels of ``image`` as people see it, cut at its edges.

        A file says which size its picture has: that of the picture as people see it, or as it is stored, before its
        EXIF orientation; coordinates are turned in the second case.

        Raises:
            InvalidImage: the file is about a picture of another size.
        """
        seen, stored = image.upright_size, (image.width, image.height)
        if self.size is None or self.size == seen:
            placement = Placement.moved(0, 0, seen)
        elif self.size == RELATIVE:
            placement = Placement.scaled(RELATIVE, seen)
        elif self.size == stored:
            placement = Placement.upright(image.orientation, stored)
        else:
            what = f"the annotations are of a picture of {px_size(self.size)}, but it is {px_size(seen)}"
            raise InvalidImage(f"{self.where}: {what}: annotate this very picture, or correct the size there")
        return self.placed(placement)

    def placed(self, placement: Placement, least: float = 0.0) -> Labels:
        """Return the labels on a picture that lies elsewhere; those of which less than ``least`` is left are dropped.

        Raises:
            InvalidRequest: run lengths cannot be read.
        """
        found = (label.placed(placement, least) for label in self.labels)
        return replace(self, size=placement.size, labels=tuple(label for label in found if label is not None))

    def without(self, mask: Image.Image, share: float) -> Labels:
        """Return the labels without those of which ``mask`` covers at least ``share``; it is white where it covers.

        Raises:
            InvalidRequest: run lengths cannot be read.
        """
        assert self.size is not None  # noqa: S101 - upon() has set it
        white = mask.getbbox()
        if white is None:
            return self
        if mask.size != self.size:
            mask = shapes.warp(mask, Placement.scaled(mask.size, self.size))
        covering = int.from_bytes(mask.tobytes(), "big")

        def is_left(label: Label) -> bool:
            assert self.size is not None  # noqa: S101 - as above
            if label.is_line:
                points = [point for one in label.polygons for point in one]
                inside = [p for p in points if 0 <= p[0] < mask.width and 0 <= p[1] < mask.height]
                return not inside or not all(mask.getpixel((int(x), int(y))) for x, y in inside)
            pixels = bytearray(self.size[0] * self.size[1])
            label.paint(self.size, pixels)
            own = int.from_bytes(pixels, "big")
            return not own or (own & covering).bit_count() < share * own.bit_count()

        return replace(self, labels=tuple(filter(is_left, self.labels)))

    def draw(self, names: Iterable[str] | None, *, by_box: bool = False) -> bytes:
        """Return a mask of the labels called one of ``names`` (None: of all) as PNG; white is where one of them is.

        Raises:
            InvalidRequest: run lengths cannot be read.
        """
        assert self.size is not None  # noqa: S101 - upon() has set it
        wanted = None if names is None else set(names)
        pixels = bytearray(self.size[0] * self.size[1])
        for label in self.labels:
            if wanted is None or label.name in wanted:
                label.paint(self.size, pixels, by_box=by_box)
        return shapes.png(self.size, bytes(pixels))

    def plain(self) -> Labels:
        """Return the labels without points and lines, and without what only their own format says."""
        areas = (label for label in self.labels if not label.is_line)
        return replace(self, extra={}, labels=tuple(replace(label, extra={}) for label in areas))

    def to_data(self) -> dict[str, Any]:
        """Return the labels as plain data, for JSON; ``from_data`` reads it."""
        entries: list[dict[str, Any]] = []
        for label in self.labels:
            parts = {"polygons": [[[*p] for p in one] for one in label.polygons], "rle": label.rle}
            more = {**parts, "extra": label.extra, "visible": label.visible if label.visible < 1 else None}
            entries.append({"name": label.name, "box": [*label.box], **{n: v for n, v in more.items() if v}})
        found: dict[str, Any] = {"size": [*self.size] if self.size else None, "labels": entries}
        return {**found, **({"extra": self.extra} if self.extra else {})}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Labels:
        """Return the labels that ``to_data`` described."""
        labels = []
        for one in data["labels"]:
            polygons = tuple(tuple((x, y) for x, y in part) for part in one.get("polygons", ()))
            left, top, right, bottom = one["box"]
            rest = (one.get("rle"), one.get("extra", {}), one.get("visible", 1.0))
            labels.append(Label(one["name"], (left, top, right, bottom), polygons, *rest))
        size = data["size"]
        return cls((size[0], size[1]) if size else None, tuple(labels), data.get("extra", {}))


def labels_of(output: Mapping[str, Any]) -> Labels | None:
    """Return the labels of a result, in its pixels; None if its source has no annotations.

    Args:
        output: one of the ``outputs`` in a row of the manifest.
    """
    found = output.get("labels")
    return Labels.from_data(found) if found is not None else None


def _moved(extra: Mapping[str, Any], placement: Placement, names: Sequence[str]) -> dict[str, Any]:
    """Return what a format says besides, with its key points (x, y, visibility …) where they are now.

    In a mirrored picture, a left eye is a right eye.
    """
    found = {name: value for name, value in extra.items() if name not in _IN_PIXELS}
    points = found.get("keypoints")
    if isinstance(points, list) and all(isinstance(value, (int, float)) for value in points):
        moved: list[float] = []
        for x, y, seen in zip(points[::3], points[1::3], points[2::3], strict=False):
            u, v = placement.of((x, y))
            is_there = seen and 0 <= u <= placement.size[0] and 0 <= v <= placement.size[1]
            moved += [round(u, 4), round(v, 4), seen] if is_there else [0, 0, 0]
        if placement.is_mirrored and len(moved) == 3 * len(names):
            places = [_other_side(name, names) for name in names]
            moved = [value for at in places for value in moved[3 * at : 3 * at + 3]]
        found["keypoints"] = moved
        if "num_keypoints" in found:
            found["num_keypoints"] = sum(seen > 0 for seen in moved[2::3])
    return found


def _other_side(name: str, names: Sequence[str]) -> int:
    """Return the place of the key point that a mirror makes of ``name``: of ``left_eye`` that of ``right_eye``."""
    other = _SIDE.sub(lambda side: _OPPOSITE[side[0].lower()], name)
    return next((at for at, one in enumerate(names) if one.lower() == other.lower()), names.index(name))


def _is_inside(box: Box, size: Size) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _cut(box: Box, size: Size) -> Box:
    return _common(box, (0.0, 0.0, float(size[0]), float(size[1])))


def _common(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
