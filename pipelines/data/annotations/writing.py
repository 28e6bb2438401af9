"""Write the labels of results beside them, once a run is over: they are in the rows of its manifest."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from flux_tasks import files
from flux_tasks.background import Pool
from flux_tasks.errors import FluxError, RecipeError
from flux_tasks.store.records import Store
from pipelines.data.annotations import coco, labelme, voc, yolo
from pipelines.data.annotations.base import AnnotationSet
from pipelines.data.annotations.model import Labels, labels_of
from pipelines.data.annotations.reading import read_annotations
from pipelines.data.manifest import ManifestRow, OutputRow
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.annotations import LabelFiles
from pipelines.language.document.output import Output

__all__ = ["coco_file", "files_of_target", "former_problem", "remove_labels", "targets_of", "write_annotations"]

_WRITERS = 16
_ENDINGS = {"yolo": ".txt", "voc": ".xml", "labelme": ".json"}
_TOGETHER = 1_000  # files


@dataclass(frozen=True)
class _Result:
    """A picture that was written, its name below the output folder, and its labels."""

    path: str
    name: str
    labels: Labels


def targets_of(recipe: CompiledRecipe) -> dict[tuple[str, str], LabelFiles]:
    """Return where labels are to be written: each path and format once."""
    found = (target for output in recipe.outputs for target in output.annotations)
    return {(target.path, format_of(recipe, target)): target for target in found}


def format_of(recipe: CompiledRecipe, target: LabelFiles) -> str:
    """Return the format that labels are written in: the one they came in, if no other is asked for."""
    if target.format is not None:
        return target.format
    source = recipe.source.annotations
    assert source is not None  # noqa: S101 - the reader has looked
    return source.format or read_annotations(source.path).format


def coco_file(path: str) -> str:
    """Return the COCO file that labels are written to: ``path``, or one in that folder."""
    return path if path.endswith(".json") else files.join(path, "instances.json")


def files_of_target(path: str, kind: str) -> list[str]:
    """Return the files and folders that labels are written to."""
    return [coco_file(path)] if kind == "coco" else [path, *([_data_yaml(path)] if kind == "yolo" else [])]


def former_problem(path: str, kind: str) -> str:
    """Return why labels cannot be added to what is at ``path``, or an empty string."""
    try:
        if kind == "coco" and files.exists(file := coco_file(path)):
            coco.check_former(file)
        if kind == "yolo":
            yolo.numbered({}, _data_yaml(path))
    except RecipeError as error:
        return error.problems[0].what
    except (FluxError, OSError) as error:
        return str(error)
    return ""


def write_annotations(recipe: CompiledRecipe, rows: Callable[[], Iterable[ManifestRow]], store: Store) -> list[str]:
    """Write the labels of results to every place that the outputs of ``recipe`` name; call it on a thread.

    Pictures that are in such a place from an earlier run, and not among the rows, stay there.

    Args:
        rows: returns the rows of the run, as often as it is asked; of each a name stays in memory.
        store: remembers which labels a COCO file has, so that it is written only where they have changed.

    Returns:
        The files, one for each place: the COCO file, or the folder.

    Raises:
        InvalidRequest: what is there already is damaged.
        RecipeError: the annotations of the source cannot be read any more.
        OSError: a file cannot be written.
    """
    targets = targets_of(recipe)
    if not targets or recipe.source.annotations is None:
        return []
    own = read_annotations(recipe.source.annotations.path, recipe.source.annotations.format)
    results = {path: _Results(recipe, rows, path) for path, _ in targets}
    for row in rows():
        for output in row["outputs"]:
            for path in output.get("annotations", ()):
                results[path].learn(output)
    return [
        _write_coco(path, own, results[path], store) if kind == "coco" else _write(path, kind, own, results[path])
        for path, kind in targets
    ]


def remove_labels(recipe: CompiledRecipe, pictures: Sequence[tuple[str, Labels | None, Sequence[str]]]) -> None:
    """Remove the labels of results that are removed; a file that somebody has changed since stays.

    Args:
        pictures: each with its labels, and the places that these were written to.

    Raises:
        InvalidRequest: a COCO file is damaged.
        OSError: a file cannot be written.
    """
    if (source := recipe.source.annotations) is None:
        return
    own = read_annotations(source.path, source.format)
    by_root = sorted(recipe.outputs, key=lambda output: len(output.root), reverse=True)
    for place, kind in targets_of(recipe):
        gone = [
            _Result(picture, _name(picture, by_root), labels)
            for picture, labels, places in pictures
            if labels is not None and place in places
        ]
        names = {result.name for result in gone}
        if kind != "coco":
            numbers = yolo.numbered({}, _data_yaml(place)) if kind == "yolo" else {}
            for result in gone:
                with suppress(FileNotFoundError, KeyError):  # a class has another name by now
                    file, written = _label_file(place, kind, own, result, numbers)
                    if files.read(file) == written:
                        files.remove(file)
        elif names and files.exists(file := coco_file(place)):
            _put_parts(file, coco.written((), names, {}, _extra(own), file))


def _name(path: str, outputs: Sequence[Output]) -> str:
    root = next((o.root for o in outputs if path.startswith(f"{o.root.rstrip('/')}/")), "")
    return path.removeprefix(f"{root.rstrip('/')}/") if root else path


class _Results:
    """The results whose labels go to one place; they are read from the rows anew each time.

    Attributes:
        names: of their pictures, below the output folders.
        classes: what their labels are called.
        root: of the first one.
        digest: of all of them.
    """

    def __init__(self, recipe: CompiledRecipe, rows: Callable[[], Iterable[ManifestRow]], path: str) -> None:
        self._by_root = sorted(recipe.outputs, key=lambda output: len(output.root), reverse=True)
        self._rows, self._path = rows, path
        self.names: set[str] = set()
        self.classes: set[str] = set()
        self.root = "."
        self.digest = hashlib.sha256()

    def learn(self, output: OutputRow) -> None:
        """Take note of a result."""
        name = _name(output["path"], self._by_root)
        if not self.names:
            self.root = output["path"].removesuffix(name)
        self.names.add(name)
        self.classes.update(label["name"] for label in output["labels"]["labels"])
        self.digest.update(json.dumps([name, output["labels"]]).encode())

    def __iter__(self) -> Iterator[_Result]:
        for row in self._rows():
            for output in row["outputs"]:
                labels = labels_of(output) if self._path in output.get("annotations", ()) else None
                if labels is not None:
                    yield _Result(output["path"], _name(output["path"], self._by_root), labels)


def _write(path: str, kind: str, own: AnnotationSet, results: _Results) -> str:
    of_own: Mapping[str, Mapping[str, Any]] = own.classes
    classes = {**of_own, **{name: {} for name in sorted(results.classes) if name not in of_own}}
    numbers: dict[str, int] = {}
    if kind == "yolo":
        file = _data_yaml(path)
        numbers = yolo.numbered(classes, file)
        _put(file, yolo.data_yaml(numbers, _seen_from(file, results.root)))

    def write(result: _Result) -> None:
        _put(*_label_file(path, kind, own, result, numbers))

    left = iter(results)
    with Pool(_WRITERS) as threads:
        while some := [*islice(left, _TOGETHER)]:
            for _ in threads.map(write, some):
                pass
    return path


def _label_file(
    place: str, kind: str, own: AnnotationSet, result: _Result, numbers: Mapping[str, int]
) -> tuple[str, bytes]:
    """Return where the labels of one result are written, and what is written there.

    Args:
        numbers: of the classes, for YOLO.
    """
    name, labels = result.name.rpartition(".")[0], result.labels if own.format == kind else result.labels.plain()
    file = files.join(place, f"{name}{_ENDINGS[kind]}")
    if kind == "yolo":
        return file, yolo.written(labels, numbers)
    if kind == "voc":
        return file, voc.written(labels, files.name(result.path))
    return file, labelme.written(labels, _seen_from(file, result.path))


def _write_coco(path: str, own: AnnotationSet, results: _Results, store: Store) -> str:
    file, prints = coco_file(path), files.Fingerprints()
    results.digest.update(json.dumps([own.format, own.classes, own.extra], default=repr).encode())
    key = hashlib.sha256(file.encode("utf-8", "surrogatepass")).hexdigest()
    wanted = {"file": file, "labels": results.digest.hexdigest()}
    with suppress(OSError):
        known = store.record_or_empty("labels", key)
        fingerprint = known.pop("fingerprint", None)
        if known == wanted and fingerprint and prints.matches(file, fingerprint):
            return file
    classes: dict[str, Mapping[str, Any]] = {}
    for name, said in own.classes.items():
        classes[name] = said if own.format == "coco" else {"id": said["id"] + 1, "supercategory": ""}
    for name in sorted(results.classes):
        classes.setdefault(name, {"supercategory": ""})
    is_own = own.format == "coco"
    pictures = ((result.name, result.labels if is_own else result.labels.plain()) for result in results)
    former = file if files.exists(file) else ""
    _put_parts(file, coco.written(pictures, results.names, classes, _extra(own), former))
    with suppress(OSError):
        store.put_record("labels", key, {**wanted, "fingerprint": prints.of_written(file)})
    return file


def _extra(own: AnnotationSet) -> Mapping[str, Any]:
    """Return what is said of the whole set in a COCO file."""
    return own.extra if own.format == "coco" else {}


def _put_parts(file: str, parts: Iterable[bytes]) -> None:
    """Write a file of these parts, unless it has these bytes."""
    staging = files.Staging(f"{file}.tmp")
    staging.clear()  # of a run that was killed
    try:
        new = staging.new()
        with new.open("wb") as whole:
            whole.writelines(parts)
        if not _is_same(new, file):
            files.patiently(staging.publish, new, file)
    finally:
        staging.clear()


def _is_same(new: Path, file: str) -> bool:
    """Check whether a file has these bytes."""
    if files.size(file) != new.stat().st_size:
        return False
    with new.open("rb") as one, files.stream(file) as other:
        return all(block == other.read(len(block)) for block in iter(partial(one.read, 1 << 20), b""))


def _data_yaml(path: str) -> str:
    """Return where the classes are written: beside a folder ``labels``, as Ultralytics has it, else in the folder."""
    above, _, name = path.rstrip("/").rpartition("/")
    return files.join(above, "data.yaml") if name == "labels" and above else files.join(path, "data.yaml")


def _seen_from(file: str, path: str) -> str:
    """Return ``path`` relative to the folder of ``file``, where both are in one place."""
    here, there = file.rpartition("/")[0] or ".", path.rstrip("/") or "."
    if files.is_local(file) and files.is_local(path):
        return posixpath.relpath(files.local_path(there).absolute(), files.local_path(here).absolute())
    return posixpath.relpath(there, here) if there.split("/")[:3] == here.split("/")[:3] else path


def _put(file: str, data: bytes) -> None:
    """Write a file, unless these bytes are there."""
    write = partial(files.write, file, data)
    if files.size(file) != len(data) or files.read(file) != data:
        files.patiently(write)
