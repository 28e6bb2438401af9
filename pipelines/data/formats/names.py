"""The names that a source gives to templates, known before any row is read."""

from __future__ import annotations

from functools import cache

from pipelines.data.formats import dataset, tables
from pipelines.data.formats.listing import Listed, finder_in
from pipelines.language.document.recipe import Source
from pipelines.language.names import ITEM_NAMES, LABEL_NAMES, RESERVED

__all__ = ["is_plain", "known_names", "source_columns", "table_names"]

_HEADERS = 20  # files whose first lines are read to learn what a table's columns are called


def table_names(source: Source) -> frozenset[str] | None:
    """Return the names that the template of a picture, ``source.image``, may use; None if each row has its own (JSONL).

    Raises:
        RecipeError: a table cannot be read.
    """
    if not source.has_rows:
        return frozenset()
    columns = source_columns(source)
    return None if columns is None else frozenset({*filter(is_plain, columns), "row", "index"})


def source_columns(source: Source, listed: Listed | None = None) -> frozenset[str] | None:
    """Return the columns of a source's table or dataset; None if each row has its own.

    Raises:
        RecipeError: it cannot be read.
    """
    if source.dataset:
        return dataset.columns(source, finder_in(listed))
    locations = tables.found(source.table) if source.table else []
    headers = [tables.header(location) for location in locations[:_HEADERS]]
    if len(locations) > _HEADERS or None in headers:
        return None
    return frozenset(name for names in headers for name in names or ())


def known_names(source: Source) -> frozenset[str] | None:
    """Return the names that templates of items may use, besides ``extra``; None if each row has its own (JSONL).

    Raises:
        RecipeError: a table cannot be read.
    """
    names = table_names(source)
    own = (*ITEM_NAMES, *source.columns, *(LABEL_NAMES if source.annotations else ()))
    return None if names is None else names | {*own}


@cache
def is_plain(name: str) -> bool:
    """Check whether templates can use a table's column by its name alone."""
    return name.isidentifier() and name not in RESERVED
