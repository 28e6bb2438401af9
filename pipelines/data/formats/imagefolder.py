"""Items of a folder as ``datasets`` reads one as ``imagefolder``: pictures by class, or beside a metadata file.

Without metadata, each picture is an item and its folder is the column ``label``. With ``metadata.csv``, ``.jsonl`` or
``.parquet``, each of its rows is an item: ``file_name`` says where the picture is, from the folder of the metadata on,
and so does each ``…_file_name`` for another picture, which is the column ``…``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flux_tasks.errors import InvalidRequest
from pipelines.data.formats.layout import Layout, Shard, inside, split_of_folder
from pipelines.data.formats.tables import Row, header, rows_of

__all__ = ["columns", "rows"]

_FILE_NAME = "file_name"


def columns(layout: Layout) -> list[str] | None:
    """Return the columns of the items; None if each has its own (JSONL).

    Raises:
        RecipeError: a metadata file cannot be read.
    """
    if not layout.metadata:
        return ["image", "split", "label"]
    headers = [header(location) for location in layout.metadata]
    if None in headers:
        return None
    names = {name for names in headers for name in names or ()}
    return ["image", "split", *sorted(names), *sorted(_others(names))]


def _others(names: Any) -> dict[str, str]:
    """Return the columns that hold further pictures, by what each is called."""
    return {name.removesuffix(f"_{_FILE_NAME}"): name for name in names if name.endswith(f"_{_FILE_NAME}")}


def rows(layout: Layout, part: Shard, number: int) -> Iterator[Row]:
    """Return the items of a metadata file, or that of a picture, numbered from ``number`` on.

    Raises:
        RecipeError: a metadata file cannot be read, maybe only after some rows.
    """
    if part.location not in layout.metadata:
        values = {"image": part.location, "label": _label(layout, part), "split": part.split}
        yield Row(part.location, number, 0, values, "", part.location, part.location)
        return
    folder = part.location.rpartition("/")[0] or "."
    for row in rows_of(part.location, number):
        if row.error:
            yield row
            continue
        values = dict(row.values)
        try:
            name = values.get(_FILE_NAME)
            if not isinstance(name, str) or not name.strip():
                raise InvalidRequest(f"it has no {_FILE_NAME}: write the picture's path, from the metadata's folder on")
            picture = inside(folder, name)
            for column, source in _others(values).items():
                values.setdefault(column, inside(folder, str(values[source])) if values[source] else None)
        except InvalidRequest as error:
            yield replace(row, values={}, error=str(error))
            continue
        values |= {"image": picture}
        values.setdefault("split", layout.split_of(picture) or part.split)
        yield replace(row, values=values, picture=picture)


def _label(layout: Layout, part: Shard) -> str | None:
    """Return the folder of a picture, if that is below the dataset's, or below that of its split."""
    above = part.location.removeprefix(layout.root.rstrip("/") + "/").split("/")[:-1]
    return above[-1] if above and not split_of_folder(above[-1]) else None
