"""Rows of a dataset, whatever its format; a file of it that is damaged costs its own rows only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, quote, reason_of
from pipelines.data.formats import columnar, imagefolder, webdataset
from pipelines.data.formats.folders import pattern_below
from pipelines.data.formats.known_tars import KnownTars
from pipelines.data.formats.layout import Find, Layout, Shard, layout_of
from pipelines.data.formats.tables import Row
from pipelines.language.document.recipe import Source

__all__ = ["columns", "patterns", "rows", "warnings"]

_HEADERS = 20  # files whose columns are looked up


def columns(source: Source, find: Find) -> frozenset[str] | None:
    """Return the columns of the dataset of a source; None if each item has its own.

    Raises:
        RecipeError: there is no such dataset, or none of its files can be read.
    """
    layout = layout_of(source, find)
    if layout.kind == "webdataset":
        return None
    if layout.kind == "imagefolder":
        found = imagefolder.columns(layout)
        return None if found is None else frozenset(found)
    known: set[str] = {"split"}
    problem: RecipeError | None = None
    for shard in layout.shards[:_HEADERS]:
        try:
            known.update(columnar.columns(shard))
            problem = None
        except RecipeError as error:
            problem = error
    if problem is not None and known == {"split"}:
        raise _of_dataset(problem)
    return frozenset(known)


def rows(source: Source, find: Find, known: KnownTars | None = None) -> Iterator[Row]:
    """Return the rows of the dataset of a source, file by file; each is read when it is asked for.

    A row that cannot be used comes with its ``error``, and so does a file.

    Args:
        known: tars that have been listed before.

    Raises:
        RecipeError: there is no such dataset, split or config, or the recipe has to say which picture is the item.
    """
    layout = layout_of(source, find)
    number = 0
    for shard in layout.shards:
        try:
            for row in _rows_of(layout, shard, number, known, is_chosen=bool(source.image)):
                if source.split and row.values and row.values.get("split") != source.split:
                    continue
                yield row
                number += 1
        except RecipeError as error:
            if any(problem.where == "source.image" for problem in error.problems):
                raise
            yield _failed(shard, number, "; ".join(problem.what for problem in error.problems))
            number += 1
        except OSError as error:
            yield _failed(shard, number, reason_of(error))
            number += 1


def _rows_of(layout: Layout, shard: Shard, number: int, known: KnownTars | None, *, is_chosen: bool) -> Iterator[Row]:
    if layout.kind == "imagefolder":
        return imagefolder.rows(layout, shard, number)
    if layout.kind == "webdataset":
        return webdataset.rows(shard, number, known, is_chosen=is_chosen)
    return columnar.rows(shard, layout.root, number, is_chosen=is_chosen)


def _failed(shard: Shard, number: int, what: str) -> Row:
    what = " ".join(what.split()).removeprefix(f"{shard.location} ").removeprefix(f"{shard.location}: ")
    remedy = "write the file anew, or take it out of the dataset"
    return Row(shard.location, number, 0, {}, f"{what}: {remedy}", "", shard.location)


def warnings(source: Source, find: Find) -> list[Problem]:
    """Return what the dataset of a source has besides its items, and a person may have meant.

    Raises:
        RecipeError: there is no such dataset.
    """
    layout = layout_of(source, find)
    found = []
    if layout.left:
        found.append(f"{_counted(layout.left, 'file')} in no split, and left out, as datasets does: name its split")
    if layout.metadata:
        rows_here = (row for shard in layout.shards for row in imagefolder.rows(layout, shard, 0))
        named = {value for row in rows_here for value in row.values.values() if isinstance(value, str)}
        if left := [one for one in layout.splits if one not in named]:
            remedy = f"add a row, or write images: {quote(layout.root)}"
            found.append(f"{_counted(left, 'picture')} in no metadata file: {remedy}")
    return [Problem("source.dataset", what) for what in found]


def _counted(left: Sequence[str], what: str) -> str:
    return f"{len(left):,} {what}{' is' if len(left) == 1 else 's are'} (such as {quote(left[0])})"


def _of_dataset(error: RecipeError) -> RecipeError:
    return RecipeError([Problem("source.dataset", problem.what) for problem in error.problems])


def patterns(source: Source, find: Find) -> list[str]:
    """Return the patterns of files that would be items of the dataset if they were there.

    Raises:
        RecipeError: there is no such dataset.
    """
    layout = layout_of(source, find) if source.dataset else None
    if layout is None or layout.kind != "imagefolder" or layout.metadata:
        return []
    return [place if files.has_wildcards(place) else pattern_below(place) for place in source.dataset]
