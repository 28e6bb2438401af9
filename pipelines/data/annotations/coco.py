"""COCO: one JSON file for all pictures, with boxes, polygons and run-length encoded masks."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import IO, Any

import orjson

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, listed, quote, reason_of, shown
from pipelines.data.annotations.base import AnnotationSet, damaged, number, numbers
from pipelines.data.annotations.coco_index import CocoIndex, entries, key_of
from pipelines.data.annotations.model import Label, Labels
from pipelines.data.annotations.shapes import bounds

__all__ = ["check_former", "read_coco", "written"]

_OWN = ("bbox", "segmentation", "area", "category_id", "image_id")
_OF_IMAGE = ("file_name", "width", "height")


def read_coco(path: str) -> AnnotationSet:
    """Read a file such as ``instances_train.json``.

    Raises:
        RecipeError: it cannot be read, or is no COCO file.
    """
    index = CocoIndex(path)

    def load(picture: str) -> Labels:
        try:
            found, entries = index.images(picture), [*index.annotations(picture)]
        except (OSError, ValueError) as error:
            raise damaged(path, f"{quote(picture)} cannot be read: {reason_of(error)}") from None
        if len(found) > 1:
            ids = listed(image["id"] for image in found)
            raise damaged(path, f"{quote(picture)} is the file_name of several images, {ids}: keep one")
        image = found[0]
        size = _size(image, path)
        labels = tuple(
            _label(entry, index.categories, size, f"{path}: annotation {entry.get('id')}") for entry in entries
        )
        return Labels(size, labels, {n: v for n, v in image.items() if n not in _OF_IMAGE}, path)

    classes = {category["name"]: dict(category) for category in index.categories.values()}
    return AnnotationSet(
        path,
        "coco",
        classes,
        [*index.pictures],
        load,
        [path],
        index.extra,
        has_extensions=True,
        is_plain=index.is_plain,
        digest=index.digest,
    )


def _size(image: Mapping[str, Any], path: str) -> tuple[int, int] | None:
    if image.get("width") is None or image.get("height") is None:
        return None
    where = f"{path}: image {image['id']}"
    return int(number(image["width"], where)), int(number(image["height"], where))


def _label(
    entry: Mapping[str, Any], names: Mapping[Any, Mapping[str, Any]], size: tuple[int, int] | None, where: str
) -> Label:
    category = names.get(key_of(entry.get("category_id")))
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
    named = category.get("keypoints") if "keypoints" in entry else None
    called = tuple(map(str, named)) if isinstance(named, list) else ()
    return Label(category["name"], box, tuple(polygons), rle, extra, points=called)


def written(
    pictures: Iterable[tuple[str, Labels]],
    names: Collection[str],
    classes: Mapping[str, Mapping[str, Any]],
    extra: Mapping[str, Any],
    former: str = "",
) -> Iterator[bytes]:
    """Yield the parts of a COCO file; what waits for its turn is in a temporary file.

    Args:
        pictures: their names and labels.
        names: the names of all of them.
        classes: by name, what is said of each; ``id`` is kept.
        extra: what else is said of the whole set.
        former: where the file is to which they are added; what it has of other pictures stays. Empty if there is none.

    Raises:
        InvalidRequest: that file is no COCO file.
        OSError: it cannot be read.
    """
    ids, entry_ids = _Ids(), _Ids()
    with tempfile.TemporaryFile() as images, tempfile.TemporaryFile() as annotations:
        known = []
        for kind, entry in _former(former, "images", "categories"):
            if kind == "categories":
                known.append(entry)
            elif entry["file_name"] not in names:
                ids.take(entry["id"])
                _add(images, entry)
        for _, entry in _former(former, "annotations") if ids else ():
            if entry["image_id"] in ids:
                entry_ids.take(entry["id"])
                _add(annotations, entry)
        categories = _numbered(classes, known)
        for name, labels in pictures:
            assert labels.size is not None  # noqa: S101 - of a result
            image_id = ids.take(labels.extra.get("id"))
            shape = {"file_name": name, "width": labels.size[0], "height": labels.size[1]}
            _add(images, {**labels.extra, "id": image_id, **shape})
            for label in labels.labels:
                own = {"id": entry_ids.take(label.extra.get("id")), "image_id": image_id}
                own["category_id"] = categories[label.name]["id"]
                _add(annotations, {"iscrowd": 0, **label.extra, **own, **_shape(label)})
        yield orjson.dumps(extra)[:-1] + (b"," if extra else b"")
        for name, spooled in (("images", images), ("annotations", annotations)):
            yield b'"%s":[' % name.encode()
            spooled.seek(1)  # after the first comma
            yield from iter(partial(spooled.read, _BLOCK), b"")
            yield b"],"
        yield b'"categories":' + orjson.dumps([*categories.values()]) + b"}\n"


def _add(spooled: IO[bytes], entry: Mapping[str, Any]) -> None:
    spooled.write(b"," + orjson.dumps(entry))


def _shape(label: Label) -> dict[str, Any]:
    left, top, right, bottom = (round(edge, 4) for edge in label.box)
    segmentation: Any = [[round(v, 4) for point in part for v in point] for part in label.polygons]
    return {
        "bbox": [left, top, round(right - left, 4), round(bottom - top, 4)],
        "area": round(label.area, 4),
        "segmentation": label.rle or segmentation,
    }


def _numbered(classes: Mapping[str, Mapping[str, Any]], former: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the categories by name, each with an id of its own; those of the former file keep theirs."""
    found: dict[str, dict[str, Any]] = {category["name"]: dict(category) for category in former}
    ids = _Ids({category["id"] for category in found.values()})
    for name, said in classes.items():
        if name not in found:
            found[name] = {**said, "id": ids.take(said.get("id")), "name": name}
    return found


class _Ids:
    """Ids that are taken."""

    def __init__(self, taken: Iterable[Any] = ()) -> None:
        self._taken = set(taken)
        self._last = max((one for one in self._taken if isinstance(one, int)), default=0)

    def __contains__(self, one: Any) -> bool:
        return one in self._taken

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, wanted: Any) -> Any:
        """Return the wanted id if it is free, else the next number."""
        if wanted is None or not isinstance(wanted, (int, str)) or wanted in self._taken:
            wanted = self._last + 1
        self._taken.add(wanted)
        if isinstance(wanted, int):
            self._last = max(self._last, wanted)
        return wanted


_LOOKED_AT = 50_000  # entries of a file
_BLOCK = 1 << 20
_NEEDED = {"images": ("file_name", "id"), "annotations": ("id", "image_id"), "categories": ("id", "name")}


def _former(path: str, *names: str) -> Iterator[tuple[str, Any]]:
    """Yield the entries of lists in the COCO file to which labels are added, each with the list's name.

    Raises:
        InvalidRequest: it is no COCO file.
        OSError: it cannot be read.
    """
    left = {*_NEEDED} if path else set()
    try:
        with files.stream(path) if path else nullcontext() as file:
            for entry in entries(file) if file else ():
                if entry.name in _NEEDED and entry.number is not None:
                    left.discard(entry.name)
                    if entry.number >= 0:
                        _ = [entry.value[needed] for needed in _NEEDED[entry.name]]
                        if entry.name in names:
                            yield entry.name, entry.read()
    except (KeyError, TypeError, ValueError):
        left.add("")
    if left:
        raise InvalidRequest(f"{files.quoted(path)} is there, and is no COCO file: choose another path")


def check_former(path: str) -> None:
    """Check that labels can be added to a COCO file, as far as its beginning shows.

    Raises:
        InvalidRequest: it is none.
        OSError: it cannot be read.
    """
    for _ in islice(_former(path, *_NEEDED), _LOOKED_AT):
        pass
