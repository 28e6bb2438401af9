"""Check annotations before anything is spent: classes that do not exist, places that cannot be used, odd labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flux_tasks import files
from flux_tasks.errors import Problem, listed, nearest, quote
from pipelines.data.annotations.base import AT, LazyLabels
from pipelines.data.annotations.model import RELATIVE, Label
from pipelines.data.annotations.reading import read_annotations
from pipelines.data.annotations.writing import coco_file, files_of_target, former_problem, targets_of
from pipelines.language import templates
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.annotations import MaskLabels
from pipelines.language.model import image_inputs

__all__ = ["annotation_problems", "annotation_warnings"]

_SHOWN = 5
_BEYOND = 1.0  # pixels, or this share of a relative picture divided by 1,000, that rounding may explain


def annotation_problems(recipe: CompiledRecipe) -> Iterator[Problem]:
    """Yield what would keep masks from being made, or labels from being written.

    Raises:
        RecipeError: the annotations of the source cannot be read.
    """
    given = recipe.source.annotations
    if given is None:
        return
    known = read_annotations(given.path, given.format)
    if known.classes:
        yield from _unknown_names(recipe, known.classes)
    for path, kind in targets_of(recipe):
        if any(_is_within(file, place) for file in files_of_target(path, kind) for place in known.places):
            what = f"{files.quoted(path)} is where the source's own annotations are: choose another path"
            yield Problem("output.annotations", what)
        elif what := former_problem(path, kind):
            yield Problem("output.annotations", what)
        elif reason := files.unwritable(coco_file(path)):
            yield Problem("output.annotations", reason)


def _unknown_names(recipe: CompiledRecipe, known: Iterable[str]) -> Iterator[Problem]:
    names = {*known}
    for where, name in _names_of_masks(recipe):
        if name not in names:
            hint = nearest(name, names) or f"; there are {listed(sorted(names)) or 'no labels at all'}"
            yield Problem(where, f"no label of the source is called {quote(name)}{hint}")


def _is_within(file: str, place: str) -> bool:
    """Check whether a file or folder is ``place``, or lies within it."""
    one, other = (str(files.local_path(p).resolve()) if files.is_local(p) else p.rstrip("/") for p in (file, place))
    return one == other or one.startswith(f"{other}/")


def _names_of_masks(recipe: CompiledRecipe) -> Iterator[tuple[str, str]]:
    """Yield the names of classes that masks ask for, as far as no template says them, and where they are written."""
    for step in recipe.steps:
        slots = image_inputs(step.action, step.task)
        for name, value in step.parameters.items():
            at = f"steps.{step.position}.{step.task}.{name}.annotations"
            for one in value if isinstance(value, list) else [value]:
                if name in slots and isinstance(one, Mapping) and "annotations" in one and not _has_template(one):
                    wanted = MaskLabels.model_validate(MaskLabels.expand(one["annotations"] or {}))
                    yield from ((at, label) for label in wanted.label or ())


def _has_template(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_template, value.values()))
    return any(map(_has_template, value)) if isinstance(value, list) else templates.is_template(value)


def annotation_warnings(recipe: CompiledRecipe, items: Iterable[tuple[str, LazyLabels | None]]) -> list[Problem]:
    """Return what a person should know of the annotations: pictures without labels, labels without pictures.

    Args:
        items: where the picture of each is, and its labels.

    Raises:
        RecipeError: the annotations of the source cannot be read.
    """
    given = recipe.source.annotations
    if given is None:
        return []
    known = read_annotations(given.path, given.format)
    found: set[str] = set()
    unlabelled: list[str] = []
    names: set[str] = set()
    beyond: list[str] = []
    flat: list[str] = []
    for location, given_labels in items:
        picture = known.find(location) if location else None
        if picture is None:
            unlabelled.append(location)
            continue
        found.add(picture)
        if given_labels is None or (known.classes and known.is_plain(picture)):
            continue
        labels = given_labels.read()
        names.update(labels.names)
        beyond += (f"{quote(label.name)} in {picture}" for label in labels.labels if _is_beyond(label, labels.size))
        flat += (f"{quote(label.name)} in {picture}" for label in labels.labels if _is_flat(label))
    source = recipe.source
    is_part = bool(source.filter or source.sample or source.limit)
    others = [] if is_part else [picture for picture in known.pictures if picture not in found]
    if known.pictures and not found:
        where, example = files.quoted(known.path), quote(known.pictures[0])
        what = f"{where} is about none of the pictures: it has {example}, and the first item is"
        remedy = "the name, with its folders, has to be the end of the location"
        return [Problem(AT, f"{what} {files.quoted(unlabelled[0])}: {remedy}")]
    unknown = [] if known.classes else [*_unknown_names(recipe, names)]  # labels of other pictures may be called so
    return [*unknown, *(Problem(AT, what) for what in _warnings(known.path, others, unlabelled, beyond, flat))]


def _warnings(
    where: str, others: Sequence[str], unlabelled: Sequence[str], beyond: Sequence[str], flat: Sequence[str]
) -> Iterator[str]:
    where = files.quoted(where)
    if unlabelled:
        yield f"{len(unlabelled):,} of the pictures have no annotations in {where}: {_some(unlabelled)}"
    if others:
        yield f"{where} has {len(others):,} more pictures, which are no items: {_some(others)}"
    if beyond:
        yield f"{len(beyond):,} labels reach beyond their pictures, and are cut there: {_some(beyond)}"
    if flat:
        yield f"{len(flat):,} labels have no area, and are left out: {_some(flat)}"


def _some(names: Sequence[str]) -> str:
    return listed(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


def _is_beyond(label: Label, size: tuple[int, int] | None) -> bool:
    """Check whether a label leaves its picture by more than rounding explains."""
    if size is None:
        return False
    least = _BEYOND / 1_000 if size == RELATIVE else _BEYOND
    left, top, right, bottom = label.box
    return min(left, top) < -least or right > size[0] + least or bottom > size[1] + least


def _is_flat(label: Label) -> bool:
    return not label.is_line and (label.box[2] <= label.box[0] or label.box[3] <= label.box[1])
