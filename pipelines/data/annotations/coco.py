"""COCO: one JSON file for all pictures, with boxes, polygons and run-length encoded masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, listed, quote, shown
from pipelines.data.annotations.base import AT, AnnotationSet, damaged, number, numbers, read_json
from pipelines.data.annotations.model import Label, Labels
from pipelines.data.annotations.shapes import bounds

__all__ = ["is_coco", "read_coco", "written"]

_OWN = ("bbox", "segmentation", "area", "category_id", "image_id")
_OF_IMAGE = ("file_name", "width", "height")


def is_coco(data: Any) -> bool:
    """Check whether JSON looks like a COCO file."""
    return isinstance(data, Mapping) and isinstance(data.get("images"), list)


def read_coco(path: str) -> AnnotationSet:
    """Read a file such as ``instances_train.json``.

    Raises:
        RecipeError: it cannot be read, or is no COCO file.
    """
    data = read_json(path)
    problems = [
        f"{name} is no list"
        for name in ("images", "annotations", "categories")
        if not isinstance(data, Mapping) or not isinstance(data.get(name), list)
    ]
    if problems:
        what = f"{files.quoted(path)} is no COCO file: {', '.join(problems)}"
        raise RecipeError([Problem(AT, f"{what}: it has images, annotations and categories")])
    names = _categories(path, data["categories"])
    images: dict[str, list[Mapping[str, Any]]] = {}
    for number_, image in enumerate(data["images"]):
        if not isinstance(image, Mapping) or not isinstance(image.get("file_name"), str) or "id" not in image:
            what = f"{files.quoted(path)}: images.{number_}: {shown(image)} has no file_name or no id"
            raise RecipeError([Problem(AT, what)])
        images.setdefault(image["file_name"], []).append(image)
    known = {_key(image["id"]) for found in images.values() for image in found}
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for number_, annotation in enumerate(data["annotations"]):
        image_id = _key(annotation.get("image_id")) if isinstance(annotation, Mapping) else None
        if image_id not in known:
            what = f"annotations.{number_}: there is no image with the id {shown(image_id)}"
            raise RecipeError([Problem(AT, f"{files.quoted(path)}: {what}: correct its image_id, or take it out")])
        by_image.setdefault(image_id, []).append(annotation)

    def load(picture: str) -> Labels:
        found = images[picture]
        if len(found) > 1:
            ids = listed(image["id"] for image in found)
            raise damaged(path, f"{quote(picture)} is the file_name of several images, {ids}: keep one")
        image = found[0]
        size = _size(image, path)
        entries = by_image.get(_key(image["id"]), ())
        labels = tuple(_label(entry, names, size, f"{path}: annotation {entry.get('id')}") for entry in entries)
        return Labels(size, labels, {n: v for n, v in image.items() if n not in _OF_IMAGE}, path)

    classes = {name: dict(category) for name, category in _by_name(names).items()}
    extra = {name: value for name, value in data.items() if name not in ("images", "annotations", "categories")}
    return AnnotationSet(path, "coco", classes, [*images], load, [path], extra, has_extensions=True)


def _key(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else repr(value)


def _categories(path: str, given: Sequence[Any]) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for number_, category in enumerate(given):
        if not isinstance(category, Mapping) or "id" not in category or not isinstance(category.get("name"), str):
            what = f"{files.quoted(path)}: categories.{number_}: {shown(category)} has no id or no name"
            raise RecipeError([Problem(AT, what)])
        found[_key(category["id"])] = category
    return found


def _by_name(categories: Mapping[Any, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {category["name"]: category for category in categories.values()}


def _size(image: Mapping[str, Any], path: str) -> tuple[int, int] | None:
    if image.get("width") is None or image.get("height") is None:
        return None
    where = f"{path}: image {image['id']}"
    return int(number(image["width"], where)), int(number(image["height"], where))


def _label(
    entry: Mapping[str, Any], names: Mapping[Any, Mapping[str, Any]], size: tuple[int, int] | None, where: str
) -> Label:
    category = names.get(_key(entry.get("category_id")))
    if category is None:
        known = listed(sorted(map(str, names)))
        raise damaged(where, f"there is no category with the id {shown(entry.get('category_id'))}; there are {known}")
    segmentation = entry.get("segmentation") or []
    polygons: list[tuple[tuple[float, float], ...]] = []
    rle = None
    if isinstance(segmentation, Mapping):
        rle = {"size": segmentation.get("size"), "counts": segmentation.get("counts")}
        height, width = (int(side) for side in numbers(rle["size"], f"{where}: segmentation.size", count=2))
        if size is not None and (width, height) != size:
            raise damaged(where, f"its mask is {width}×{height} px, and its image {size[0]}×{size[1]} px")
    elif isinstance(segmentation, list):
        for part in segmentation:
            points = numbers(part, f"{where}: segmentation")
            if len(points) < 6 or len(points) % 2:
                raise damaged(where, f"a polygon of {len(points)} numbers: write x and y of three points or more")
            polygons.append(tuple(zip(points[::2], points[1::2], strict=True)))
    else:
        raise damaged(where, f"segmentation is {shown(segmentation)}: write polygons, or run lengths")
    if entry.get("bbox") is not None:
        left, top, width_, height_ = numbers(entry["bbox"], f"{where}: bbox", count=4)
        if width_ < 0 or height_ < 0:
            raise damaged(where, f"the box {shown(entry['bbox'])} is reversed: write x, y, width, height")
        box = (left, top, left + width_, top + height_)
    elif polygons:
        box = bounds([point for part in polygons for point in part])
    else:
        raise damaged(where, "it has no bbox, and no polygons")
    extra = {name: value for name, value in entry.items() if name not in _OWN}
    return Label(category["name"], box, tuple(polygons), rle, extra)


def written(
    pictures: Iterator[tuple[str, Labels]],
    classes: Mapping[str, Mapping[str, Any]],
    extra: Mapping[str, Any],
    former: Mapping[str, Any],
) -> bytes:
    """Return a COCO file.

    Args:
        pictures: their names and labels.
        classes: by name, what is said of each; ``id`` is kept.
        extra: what else is said of the whole set.
        former: the file that was there; what it has of other pictures stays.
    """
    found = [*pictures]
    names = {name for name, _ in found}
    images = [image for image in former.get("images", ()) if image["file_name"] not in names]
    kept_ids = {image["id"] for image in images}
    annotations = [entry for entry in former.get("annotations", ()) if entry["image_id"] in kept_ids]
    categories = _numbered(classes, former.get("categories", ()))
    ids, entry_ids = _Ids(kept_ids), _Ids({entry["id"] for entry in annotations})
    for name, labels in found:
        assert labels.size is not None  # noqa: S101 - of a result
        image_id = ids.take(labels.extra.get("id"))
        shape = {"file_name": name, "width": labels.size[0], "height": labels.size[1]}
        images.append({**labels.extra, "id": image_id, **shape})
        for label in labels.labels:
            entry_id = entry_ids.take(label.extra.get("id"))
            left, top, right, bottom = (round(edge, 4) for edge in label.box)
            segmentation: Any = [[round(v, 4) for point in part for v in point] for part in label.polygons]
            own = {
                "id": entry_id,
                "image_id": image_id,
                "category_id": categories[label.name]["id"],
                "bbox": [left, top, round(right - left, 4), round(bottom - top, 4)],
                "area": round(label.area, 4),
                "segmentation": label.rle or segmentation,
            }
            annotations.append({"iscrowd": 0, **label.extra, **own})
    data = {**extra, "images": images, "annotations": annotations, "categories": [*categories.values()]}
    return orjson.dumps(data) + b"\n"


def _numbered(classes: Mapping[str, Mapping[str, Any]], former: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the categories by name, each with an id of its own; those of the former file keep theirs."""
    found: dict[str, dict[str, Any]] = {category["name"]: dict(category) for category in former}
    ids = _Ids({category["id"] for category in found.values()})
    for name, said in classes.items():
        if name not in found:
            found[name] = {**said, "id": ids.take(said.get("id")), "name": name}
    return found


class _Ids:
    def __init__(self, taken: set[Any]) -> None:
        self._taken = set(taken)
        self._last = max((one for one in taken if isinstance(one, int)), default=0)

    def take(self, wanted: Any) -> Any:
        """Return the wanted id if it is free, else the next number."""
        if wanted is None or not isinstance(wanted, (int, str)) or wanted in self._taken:
            wanted = self._last + 1
        self._taken.add(wanted)
        if isinstance(wanted, int):
            self._last = max(self._last, wanted)
        return wanted


def check_former(data: Any, path: str) -> Mapping[str, Any]:
    """Return the COCO file to which labels are added.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        if not is_coco(data):
            raise TypeError
        _ = [(image["file_name"], image["id"]) for image in data["images"]]
        _ = [(entry["id"], entry["image_id"]) for entry in data["annotations"]]
        _ = [(category["id"], category["name"]) for category in data["categories"]]
    except (KeyError, TypeError):
        raise InvalidRequest(f"{files.quoted(path)} is there, and is no COCO file: choose another path") from None
    return data  # type: ignore[no-any-return]
