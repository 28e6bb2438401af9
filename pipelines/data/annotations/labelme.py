"""labelme: a JSON file for each picture, with polygons, rectangles, circles, lines and points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, listed, shown
from pipelines.data.annotations.base import AT, AnnotationSet, damaged, number, numbers, read_text
from pipelines.data.annotations.model import Label, Labels
from pipelines.data.annotations.shapes import bounds

__all__ = ["is_labelme", "read_labelme", "written"]

_KINDS = ("polygon", "rectangle", "circle", "line", "linestrip", "point", "points", "mask")
_LEAST = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "mask": 2}
_OWN = ("label", "points", "mask")
_OF_PICTURE = ("shapes", "imagePath", "imageData", "imageHeight", "imageWidth")
_CORNERS = 64  # of the polygon that stands for a circle


def is_labelme(data: Any) -> bool:
    """Check whether JSON looks like a file of labelme."""
    return isinstance(data, Mapping) and isinstance(data.get("shapes"), list)


def read_labelme(path: str) -> AnnotationSet:
    """Read a folder of JSON files, or one of them.

    Raises:
        RecipeError: there are none.
    """
    folder = path.rstrip("/")
    found = [path] if path.endswith(".json") else files.glob(files.join(folder, "**/*.json"))
    if not found:
        raise RecipeError([Problem(AT, f"{files.quoted(path)} has no .json files")])
    prefix = f"{path.rpartition('/')[0]}/" if path.endswith(".json") else f"{folder}/"
    files_of = {file.removeprefix(prefix).removeprefix("./").removesuffix(".json"): file for file in found}
    return AnnotationSet(path, "labelme", {}, [*files_of], lambda picture: _read(files_of[picture]), [path])


def _read(file: str) -> Labels:
    text = read_text(file)
    try:
        data = orjson.loads(text)
    except ValueError as error:
        raise damaged(file, f"it is no JSON: {error}") from None
    if not is_labelme(data):
        raise damaged(file, "it has no list of shapes, and is no file of labelme")
    size = None
    if data.get("imageWidth") and data.get("imageHeight"):
        size = (int(number(data["imageWidth"], file)), int(number(data["imageHeight"], file)))
    labels = tuple(_label(shape, f"{file}: shapes.{count}") for count, shape in enumerate(data["shapes"]))
    return Labels(size, labels, {name: value for name, value in data.items() if name not in _OF_PICTURE}, file)


def _label(shape: Any, where: str) -> Label:
    if not isinstance(shape, Mapping) or not isinstance(shape.get("label"), str):
        raise damaged(where, "it has no label")
    kind = shape.get("shape_type") or "polygon"
    if kind not in _KINDS:
        raise damaged(where, f"shape_type is {shown(kind)}; known are {listed(_KINDS)}")
    given = shape.get("points")
    if not isinstance(given, list):
        raise damaged(where, f"points is {shown(given)} and no list")
    points = []
    for point in given:
        x, y = numbers(point, f"{where}: points", count=2)
        points.append((x, y))
    if len(points) < (least := _LEAST.get(kind, 1)):
        raise damaged(where, f"a {kind} of {len(points)} points: it needs {least}")
    extra = {name: value for name, value in shape.items() if name not in _OWN}
    if kind == "circle":
        points, extra = _round(points), {**extra, "shape_type": "polygon"}
    if kind in ("rectangle", "mask"):
        return Label(shape["label"], bounds(points), extra={**extra, "shape_type": "rectangle"})
    return Label(shape["label"], bounds(points), (tuple(points),), extra=extra)


def _round(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the polygon that stands for a circle, which is given by its centre and a point of its edge."""
    (x, y), edge = points[0], points[1]
    radius = math.dist((x, y), edge)
    angles = (2 * math.pi * step / _CORNERS for step in range(_CORNERS))
    return [(round(x + radius * math.cos(a), 3), round(y + radius * math.sin(a), 3)) for a in angles]


def written(labels: Labels, picture: str) -> bytes:
    """Return the file of one picture; ``picture`` is where it is, as seen from the file."""
    assert labels.size is not None  # noqa: S101 - of a result
    shapes: list[dict[str, Any]] = []
    for number_, label in enumerate(labels.labels, 1):
        usual: dict[str, Any] = {"group_id": None, "description": "", "flags": {}}
        said = {**usual, **label.extra}
        if len(label.polygons) > 1 and said["group_id"] is None:
            said["group_id"] = number_  # parts of one object
        left, top, right, bottom = label.box
        outlines = label.polygons or (((left, top), (right, bottom)),)
        kind = said.pop("shape_type", None) or "polygon"
        kind = kind if label.polygons else "rectangle"
        for outline in outlines:
            points = [[round(x, 4), round(y, 4)] for x, y in outline]
            shapes.append({"label": label.name, "points": points, "shape_type": kind, **said})
    width, height = labels.size
    about = {"imagePath": picture, "imageData": None, "imageHeight": height, "imageWidth": width}
    start = {"version": "5.5.0", "flags": {}, **labels.extra}
    return orjson.dumps({**start, "shapes": shapes, **about}, option=orjson.OPT_INDENT_2) + b"\n"
