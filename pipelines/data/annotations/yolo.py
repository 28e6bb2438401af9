"""YOLO (Ultralytics): ``data.yaml`` with the classes, and a text file for each picture, with boxes or outlines.

A line is a class and a box (``0 cx cy width height``), or a class and the points of an outline (``0 x y x y x y …``);
all are shares of the picture's sides, as people see it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, quote, reason_of, shown
from pipelines.data.annotations.base import AT, AnnotationSet, damaged, read_text
from pipelines.data.annotations.model import RELATIVE, Label, Labels
from pipelines.data.annotations.shapes import Polygon, bounds
from pipelines.language.reading.yaml import load

__all__ = ["classes_file", "data_yaml", "read_yolo", "written"]

_NAMES = ("data.yaml", "data.yml", "classes.txt")
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt", "requirements.txt")


def classes_file(folder: str) -> str | None:
    """Return the file with the names of the classes: in the folder of the labels, or in the one above; None if none."""
    above = folder.rstrip("/").rpartition("/")[0] or "."
    places = [folder, *([above] if files.name(folder.rstrip("/")) == "labels" else [])]
    return next((file for p in places for name in _NAMES if files.exists(file := files.join(p, name))), None)


def read_yolo(path: str) -> AnnotationSet:
    """Read a data set: its ``data.yaml``, or the folder of its labels.

    Raises:
        RecipeError: it cannot be read, or its classes are not named.
    """
    if files.extension(path) in ("yaml", "yml"):
        names_at: str | None = path
        top = path.rpartition("/")[0] or "."
        inner = files.join(top, "labels")
        folder = inner if files.glob(files.join(inner, "**/*.txt")) else top
    else:
        inner = files.join(path, "labels")
        folder = inner if files.glob(files.join(inner, "**/*.txt")) else path.rstrip("/")
        names_at = classes_file(folder) or classes_file(path.rstrip("/"))
    if names_at is None:
        what = f"the classes of {files.quoted(folder)} have no names"
        remedy = "write data.yaml beside the labels, such as names: {0: person, 1: car}"
        raise RecipeError([Problem(AT, f"{what}: {remedy}")])
    names = _names(names_at)
    prefix = folder.rstrip("/") + "/"
    found = [file for file in files.glob(files.join(folder, "**/*.txt")) if files.name(file).lower() not in _NO_LABELS]
    if not found:
        raise RecipeError([Problem(AT, f"{files.quoted(folder)} has no .txt files with labels")])
    files_of = {file.removeprefix(prefix).removeprefix("./").removesuffix(".txt"): file for file in found}

    def read(picture: str) -> Labels:
        file = files_of[picture]
        lines = enumerate(read_text(file).splitlines(), 1)
        labels = tuple(_label(line.split(), names, f"{file}:{number}") for number, line in lines if line.strip())
        return Labels(RELATIVE, labels, where=file)

    classes = {name: {"id": index} for index, name in names.items()}
    return AnnotationSet(path, "yolo", classes, [*files_of], read, [folder, names_at])


def _names(file: str) -> dict[int, str]:
    """Return the names of the classes by their numbers.

    Raises:
        RecipeError: there are none.
    """
    try:
        text = files.read(file, limit=10_000_000).decode("utf-8-sig")
    except OSError as error:
        raise RecipeError([Problem(AT, f"{files.quoted(file)} cannot be read: {reason_of(error)}")]) from None
    except UnicodeDecodeError:
        raise RecipeError([Problem(AT, f"{files.quoted(file)} is no text in UTF-8")]) from None
    if file.endswith(".txt"):
        given: Any = text.strip().splitlines()
    else:
        document = load(text)
        if document.problems:
            problem = document.problems[0]
            line = f" in line {problem.line}" if problem.line else ""
            raise RecipeError([Problem(AT, f"{files.quoted(file)} is no YAML{line}: {problem.what}")])
        given = document.data.get("names") if isinstance(document.data, Mapping) else None
    if isinstance(given, list):
        given = dict(enumerate(given))
    is_right = isinstance(given, dict) and given and all(str(index).isdecimal() for index in given)
    if not is_right or len({str(name) for name in given.values()}) < len(given):
        what = f"{files.quoted(file)}: names is {shown(given)}: write each class once, such as names: [person, car]"
        raise RecipeError([Problem(AT, what)])
    return {int(index): str(name).strip() for index, name in given.items()}


def _label(words: Sequence[str], names: Mapping[int, str], where: str) -> Label:
    try:
        index, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise damaged(where, f"{quote(' '.join(words))} is not a class and numbers") from None
    if index not in names:
        raise damaged(where, f"there is no class {index}: add it to the names of data.yaml, or correct the line")
    if not all(map(math.isfinite, values)) or any(abs(value) > 2 for value in values):
        raise damaged(where, "its numbers are no shares from 0 to 1: divide pixels by the picture's sides")
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        if width < 0 or height < 0:
            raise damaged(where, "its width or height is below 0")
        extra = {"confidence": values[4]} if len(values) == 5 else {}
        return Label(names[index], (x - width / 2, y - height / 2, x + width / 2, y + height / 2), extra=extra)
    if len(values) < 6 or len(values) % 2:
        raise damaged(
            where, f"{len(values)} numbers after the class: write a box (4), or three points or more (6, 8 …)"
        )
    polygon = tuple(zip(values[::2], values[1::2], strict=True))
    return Label(names[index], bounds(polygon), (polygon,))


def written(labels: Labels, numbers: Mapping[str, int]) -> bytes:
    """Return the file of one picture; ``numbers`` are those of the classes, by name."""
    assert labels.size is not None  # noqa: S101 - of a result
    width, height = labels.size
    lines = []
    for label in labels.labels:
        if label.polygons:
            values = [v for x, y in _joined(label.polygons) for v in (x / width, y / height)]
        else:
            left, top, right, bottom = label.box
            values = [(left + right) / 2 / width, (top + bottom) / 2 / height]
            values += [(right - left) / width, (bottom - top) / height]
            values += [label.extra["confidence"]] if "confidence" in label.extra else []
        lines.append(f"{numbers[label.name]} {' '.join(f'{value:.8g}' for value in values)}\n")
    return "".join(lines).encode()


def _joined(polygons: Sequence[Polygon]) -> Polygon:
    """Return parts as one outline, each joined where it is nearest: a line of YOLO has one outline only."""
    whole, *rest = polygons
    for part in rest:
        pairs = ((math.dist(p, q), i, k) for i, p in enumerate(whole) for k, q in enumerate(part))
        _, at, start = min(pairs)
        whole = (*whole[: at + 1], *part[start:], *part[: start + 1], *whole[at:])
    return whole


def data_yaml(numbers: Mapping[str, int], pictures: str) -> bytes:
    """Return ``data.yaml``; ``pictures`` is the folder of the pictures, as seen from it."""
    data: dict[str, Any] = {"train": pictures, "val": pictures}  # without path, both are seen from the file
    names = {number: name for name, number in sorted(numbers.items(), key=lambda one: one[1])}
    return yaml.safe_dump({**data, "names": names}, sort_keys=False, allow_unicode=True).encode()


def numbered(classes: Mapping[str, Mapping[str, Any]], file: str) -> dict[str, int]:
    """Return the numbers of classes by name; those of a ``data.yaml`` that is there already keep theirs.

    Raises:
        InvalidRequest: the file that is there has no names.
    """
    found: dict[str, int] = {}
    if files.exists(file):
        try:
            found = {name: index for index, name in _names(file).items()}
        except RecipeError as error:
            raise InvalidRequest(error.problems[0].what) from None
    for name in classes:
        found.setdefault(name, max(found.values(), default=-1) + 1)
    return found
