"""Read annotations, in whichever format they are; a large file is read once as long as it does not change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from flux_tasks import files
from flux_tasks.errors import FluxError, Problem, RecipeError, reason_of
from pipelines.data.annotations.base import AT, AnnotationSet, labels_in
from pipelines.data.annotations.coco import read_coco
from pipelines.data.annotations.coco_index import entries
from pipelines.data.annotations.labelme import read_labelme
from pipelines.data.annotations.voc import read_voc
from pipelines.data.annotations.yolo import classes_file, read_yolo

__all__ = ["AnnotationSet", "read_annotations"]

_READERS: Mapping[str, Callable[[str], AnnotationSet]] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "voc": read_voc,
    "labelme": read_labelme,
}

_lock = threading.Lock()
_last: tuple[object, AnnotationSet] | None = None


def read_annotations(path: str, kind: str | None = None) -> AnnotationSet:
    """Read the annotations at ``path``: a file, or a folder of files.

    Args:
        kind: ``coco``, ``yolo``, ``voc`` or ``labelme``; it is recognised without.

    Raises:
        RecipeError: there are none, they are damaged, or their format is not known.
    """
    global _last
    path = path.rstrip("/") or "/"
    if not path.endswith(".json"):  # many small files: each is read when its picture comes
        return _read(path, kind)
    with _lock:
        state = (path, kind, files.Fingerprints().of(path))
        if _last is None or _last[0] != state or state[2] is None:
            _last = state, _read(path, kind)
        return _last[1]


def _read(path: str, kind: str | None) -> AnnotationSet:
    try:
        return _READERS[kind or _recognised(path)](path)
    except RecipeError:
        raise
    except (OSError, FluxError) as error:
        raise RecipeError([Problem(AT, f"{files.quoted(path)} cannot be read: {error}")]) from None


def _kind_of_json(path: str) -> str:
    """Return the format of a JSON file, or an empty text; it is read until that is certain.

    Raises:
        RecipeError: it cannot be read, or is no JSON.
    """
    lists = {"images": "coco", "shapes": "labelme"}
    try:
        with files.stream(path) as file:
            return next((lists[one.name] for one in entries(file) if one.name in lists and one.number is not None), "")
    except (OSError, ValueError) as error:
        what = "cannot be read" if isinstance(error, OSError) else "is no JSON object"
        raise RecipeError([Problem(AT, f"{files.quoted(path)} {what}: {reason_of(error)}")]) from None


def _recognised(path: str) -> str:
    """Return the format of the annotations at ``path``.

    Raises:
        RecipeError: it is not certain.
    """
    kind = files.extension(path)
    if kind in ("yaml", "yml", "xml", "json") and not files.exists(path):
        other = files.similar(path)
        hint = f": there is {files.quoted(other)}" if other else ": write where your annotations are"
        raise RecipeError([Problem(AT, f"there is no {files.quoted(path)}{hint}")])
    if kind in ("yaml", "yml", "xml"):
        return "voc" if kind == "xml" else "yolo"
    if kind == "json":
        if found_kind := _kind_of_json(path):
            return found_kind
        what = f"{files.quoted(path)} is neither COCO (images, annotations) nor labelme (shapes)"
        raise RecipeError([Problem(AT, f"{what}: write another file")])
    found = {kind: next(iter(labels_in(path, kind).values()), "") for kind in ("xml", "json", "txt")}
    kinds = {"voc": found["xml"], "labelme": found["json"], "yolo": found["txt"]}
    if names_at := classes_file(path):
        kinds = {"yolo": names_at}
    which = [name for name, file in kinds.items() if file]
    if len(which) == 1:
        if which == ["labelme"] and _kind_of_json(found["json"]) == "coco":
            what = f"{files.quoted(path)} is a folder with a COCO file"
            raise RecipeError([Problem(AT, f"{what}: write the file itself, {files.quoted(found['json'])}")])
        return which[0]
    if which:
        what = f"{files.quoted(path)} has files of several formats: write format: {', or format: '.join(which)}, too"
    else:
        what = f"{files.quoted(path)} has no annotations: write a COCO .json file, data.yaml, or a folder of labels"
    raise RecipeError([Problem(AT, what)])
