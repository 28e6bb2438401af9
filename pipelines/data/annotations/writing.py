"""Write the labels of results beside them, once a run is over: they are in the rows of its manifest."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flux_tasks import files
from flux_tasks.background import Pool
from flux_tasks.errors import FluxError, InvalidRequest, RecipeError
from pipelines.data.annotations import coco, labelme, voc, yolo
from pipelines.data.annotations.base import AnnotationSet, read_json
from pipelines.data.annotations.model import Labels, labels_of
from pipelines.data.annotations.reading import read_annotations
from pipelines.data.manifest import ManifestRow
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.annotations import LabelFiles
from pipelines.language.document.output import Output

__all__ = ["coco_file", "files_of_target", "former_problem", "targets_of", "write_annotations"]

_WRITERS = 16


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
            coco.check_former(read_json(file), file)
        if kind == "yolo":
            yolo.numbered({}, _data_yaml(path))
    except RecipeError as error:
        return error.problems[0].what
    except (FluxError, OSError) as error:
        return str(error)
    return ""


def write_annotations(recipe: CompiledRecipe, rows: Iterable[ManifestRow]) -> list[str]:
    """Write the labels of results to every place that the outputs of ``recipe`` name; call it on a thread.

    Pictures that are in such a place from an earlier run, and not among ``rows``, stay there.

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
    by_root = sorted(recipe.outputs, key=lambda output: len(output.root), reverse=True)
    found: dict[str, list[_Result]] = {path: [] for path, _ in targets}
    for row in rows:
        for output in row["outputs"]:
            labels = labels_of(output)
            for path in output.get("annotations", ()) if labels is not None else ():
                assert labels is not None  # noqa: S101 - just looked
                found.setdefault(path, []).append(_Result(output["path"], _name(output["path"], by_root), labels))
    return [_write(path, kind, own, found[path]) for path, kind in targets]


def _name(path: str, outputs: Sequence[Output]) -> str:
    root = next((o.root for o in outputs if path.startswith(f"{o.root.rstrip('/')}/")), "")
    return path.removeprefix(f"{root.rstrip('/')}/") if root else path


def _write(path: str, kind: str, own: AnnotationSet, results: Sequence[_Result]) -> str:
    if kind == "coco":
        return _write_coco(path, own, results)
    of_own: Mapping[str, Mapping[str, Any]] = own.classes
    classes = {**of_own, **{name: {} for name in _named(results) if name not in of_own}}
    numbers: dict[str, int] = {}
    if kind == "yolo":
        file = _data_yaml(path)
        numbers = yolo.numbered(classes, file)
        root = results[0].path.removesuffix(results[0].name) if results else "."
        _put(file, yolo.data_yaml(numbers, _seen_from(file, root)))
    is_own = own.format == kind

    def write(result: _Result) -> None:
        name, labels = result.name.rpartition(".")[0], result.labels if is_own else result.labels.plain()
        if kind == "yolo":
            _put(files.join(path, f"{name}.txt"), yolo.written(labels, numbers))
        elif kind == "voc":
            picture = files.name(result.path)
            _put(files.join(path, f"{name}.xml"), voc.written(labels, picture))
        else:
            file = files.join(path, f"{name}.json")
            _put(file, labelme.written(labels, _seen_from(file, result.path)))

    with Pool(_WRITERS) as threads:
        for _ in threads.map(write, results):
            pass
    return path


def _write_coco(path: str, own: AnnotationSet, results: Sequence[_Result]) -> str:
    file = coco_file(path)
    former: Mapping[str, Any] = {}
    if files.exists(file):
        try:
            former = coco.check_former(read_json(file), file)
        except RecipeError as error:
            raise InvalidRequest(error.problems[0].what) from None
    classes: dict[str, Mapping[str, Any]] = {}
    for name, said in own.classes.items():
        classes[name] = said if own.format == "coco" else {"id": said["id"] + 1, "supercategory": ""}
    for name in _named(results):
        classes.setdefault(name, {"supercategory": ""})
    is_own = own.format == "coco"
    extra = own.extra if is_own else {}

    def pictures() -> Iterator[tuple[str, Labels]]:
        for result in results:
            yield result.name, result.labels if is_own else result.labels.plain()

    _put(file, coco.written(pictures(), classes, extra, former))
    return file


def _named(results: Iterable[_Result]) -> list[str]:
    return sorted({name for result in results for name in result.labels.names})


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
