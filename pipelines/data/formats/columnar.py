"""Rows of Parquet and Arrow files with pictures in them: the columns that ``datasets`` calls ``Image``, or just bytes.

No picture is read here: in a row stands where it is. A picture that is only named is a file in the dataset's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, listed, quote
from flux_tasks.files.inside.cells import arrow_batches, bytes_leaf, is_list, open_parquet
from pipelines.data.formats.layout import Shard, inside
from pipelines.data.formats.tables import Row, attempt, is_bytes, is_printable, values_of
from pipelines.language.names import RESERVED

if TYPE_CHECKING:
    from pyarrow import RecordBatchReader, Schema
    from pyarrow.parquet import ParquetFile

__all__ = ["columns", "rows"]

_BATCH = 500  # rows
_Batch = tuple[Sequence[Mapping[str, Any]], Mapping[str, Iterator[bool]]]
"""The values of some rows, and whether each of their pictures has bytes."""


def columns(shard: Shard) -> list[str]:
    """Return the columns of a file.

    Raises:
        RecipeError: it cannot be read, or is damaged.
    """
    with _File.opened(shard.location) as file:
        return [
            name
            for name in file.schema.names
            if name in file.pictures or name in file.lists or is_printable(file.schema.field(name).type)
        ]


def rows(shard: Shard, root: str, number: int, *, is_chosen: bool) -> Iterator[Row]:
    """Return the rows of a file, numbered from ``number`` on.

    Args:
        root: the dataset's folder, which no file that a row names may be outside of.
        is_chosen: the recipe says which picture of a row is its item.

    Raises:
        RecipeError: the file cannot be read, or is damaged, maybe only after some rows; or several pictures of a row
            may be meant.
    """
    with _File.opened(shard.location) as file:
        main = "" if is_chosen else _main(list(file.pictures), shard.location)
        at = 0
        batches = file.batches()
        while (batch := attempt(shard.location, next, batches, None)) is not None:
            found, has_bytes = batch
            for values in found:
                row, problem = dict(values), ""
                for name, mask in has_bytes.items():
                    described = row.get(name)
                    called = described.get("path") if isinstance(described, dict) else None
                    row[name] = None
                    try:
                        if attempt(shard.location, next, mask, True):
                            row[name] = files.cell(file.kind, shard.location, name, at, str(called or ""))
                        elif called:
                            row[name] = inside(root, str(called))
                        elif name == main:
                            problem = (
                                f"its column {quote(name)} has no picture: fill it, or leave it out with source.filter"
                            )
                    except InvalidRequest as error:
                        problem = f"{quote(name)}: {error}"
                for name in file.lists & row.keys():
                    try:
                        row[name] = file.listed(name, row[name], at, root)
                    except InvalidRequest as error:
                        problem = f"{quote(name)}: {error}"
                for name in file.labels.keys() & row.keys():
                    row[name] = _label(row[name], file.labels[name])
                row.setdefault("split", shard.split)
                picture = row[main] if main else ""
                place = f"row {at} of {shard.location}"
                yield Row(shard.location, number + at, 0, {} if problem else row, problem, picture or "", place)
                at += 1


def _main(pictures: Sequence[str], location: str) -> str:
    """Return the column with the pictures that are items."""
    for name in ("image", "img", *(pictures if len(pictures) == 1 else ())):
        if name in pictures:
            return name
    if not pictures:
        remedy = "write a table if it has their locations: {table: …, image: '{{ column }}'}"
        raise RecipeError([Problem("source.dataset", f"{location} has no column of pictures: {remedy}")])
    name = pictures[0]
    written = name if name.isidentifier() and name not in RESERVED else f"row[{quote(name)}]"
    remedy = f'write which is the item: image: "{{{{ {written} }}}}"'
    what = f"{location} has several columns of pictures ({listed(sorted(pictures))}): {remedy}"
    raise RecipeError([Problem("source.image", what)])


def _has_lists(kind: Any) -> bool:
    """Check whether a column has lists of pictures, as ``datasets`` has ``List(Image())``: {bytes, path} each."""
    if not is_list(kind) or bytes_leaf(kind.value_type) != "bytes":
        return False
    return bool(kind.value_type.get_field_index("path") >= 0)


def _label(value: Any, names: Sequence[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


@dataclass
class _File:
    """An open file.

    Attributes:
        pictures: its columns with bytes, each with the field that has them, or an empty text.
        lists: its columns of lists of pictures.
        labels: its columns of numbers that stand for names, with these names.
    """

    location: str
    kind: str
    schema: Schema
    table: ParquetFile | None
    reader: RecordBatchReader | None

    @classmethod
    def opened(cls, location: str) -> _File:
        """Open a Parquet file, or an Arrow file."""
        if files.extension(location) == "arrow":
            reader = attempt(location, arrow_batches, location)
            return cls(location, "arrow", reader.schema, None, reader)
        table = attempt(location, open_parquet, location)
        return cls(location, "parquet", table.schema_arrow, table, None)

    def __post_init__(self) -> None:
        leaves = {field.name: bytes_leaf(field.type) for field in self.schema}
        found = {name: leaf for name, leaf in leaves.items() if leaf is not None}
        structs = {name: leaf for name, leaf in found.items() if leaf}
        self.pictures = structs or found
        self.lists = {field.name for field in self.schema if _has_lists(field.type)}
        self.labels: dict[str, list[str]] = {}
        try:
            features = json.loads((self.schema.metadata or {})[b"huggingface"])["info"]["features"]
            for name, feature in features.items():
                if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                    self.labels[name] = [str(label) for label in feature["names"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # written by another program

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        if self.table is not None:
            self.table.close(force=True)
        if self.reader is not None:
            self.reader.close()

    def listed(self, name: str, values: Any, at: int, root: str) -> list[str]:
        """Return where the pictures of a list are.

        Args:
            values: of each what the file calls it.

        Raises:
            InvalidRequest: one leads out of the dataset.
        """
        called = [str((value or {}).get("path") or "") for value in values or ()]
        if name in self._without_bytes:
            return [inside(root, one) for one in called]
        return [files.cell(self.kind, self.location, name, at, one, item=item) for item, one in enumerate(called)]

    @cached_property
    def _without_bytes(self) -> set[str]:
        """Columns of lists whose pictures are files: no list of them has bytes."""
        found = set(self.lists) if self.table is not None else set()
        groups = range(self.table.num_row_groups) if self.table is not None and found else ()
        for about in (self.table.metadata.row_group(group) for group in groups if self.table is not None):
            for chunk in (about.column(index) for index in range(about.num_columns)):
                name, _, leaf = chunk.path_in_schema.partition(".")
                figures = chunk.statistics
                nulls = figures.null_count if figures is not None and figures.has_null_count else 0
                if leaf.endswith("bytes") and nulls < chunk.num_values:
                    found.discard(name)
        return found

    def batches(self) -> Iterator[_Batch]:
        """Yield the rows, some at a time."""
        return self._of_parquet(self.table) if self.table is not None else self._of_arrow()

    def _of_parquet(self, table: ParquetFile) -> Iterator[_Batch]:
        leaves = [table.schema.column(index) for index in range(len(table.schema))]
        wanted = [leaf.path for leaf in leaves if not is_bytes(leaf)]
        count = 0
        for group in range(table.num_row_groups):
            masks = {name: self._mask(table, group, name) for name in self.pictures}
            if not wanted:
                count += table.metadata.row_group(group).num_rows
                yield [{}] * table.metadata.row_group(group).num_rows, masks
                continue
            for batch in table.iter_batches(_BATCH, row_groups=[group], columns=wanted, use_threads=False):
                count += batch.num_rows
                yield values_of(batch), masks
        if count != table.metadata.num_rows:
            raise ValueError(f"it says that it has {table.metadata.num_rows:,} rows, and has {count:,}")

    def _mask(self, table: ParquetFile, group: int, name: str) -> Iterator[bool]:
        """Yield whether each row of a group has bytes in a column; they are read only where some have."""
        path = f"{name}.{self.pictures[name]}" if self.pictures[name] else name
        about = table.metadata.row_group(group)
        chunks = (about.column(index) for index in range(about.num_columns))
        found = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == path), None)
        nulls = found.null_count if found is not None and found.has_null_count else 0
        if nulls in (0, about.num_rows):
            yield from repeat(not nulls)
        for batch in table.iter_batches(16, row_groups=[group], columns=[path], use_threads=False):
            column = batch.column(0)
            yield from (column.flatten()[0] if self.pictures[name] else column).is_valid().to_pylist()

    def _of_arrow(self) -> Iterator[_Batch]:
        import pyarrow as pa

        names = [
            name for name in self.schema.names if name in self.pictures or name in self.lists or self._is_plain(name)
        ]
        for batch in self.reader or ():
            columns, masks = [], {}
            for name in names:
                column = batch.column(name)
                leaf = self.pictures.get(name)
                if leaf is not None:
                    values = column.flatten()[column.type.get_field_index(leaf)] if leaf else column
                    masks[name] = iter(values.is_valid().to_pylist())
                    has_path = bool(leaf) and column.type.get_field_index("path") >= 0
                    path = column.field("path") if has_path else pa.nulls(len(column), pa.string())
                    column = pa.StructArray.from_arrays([path], names=["path"])
                elif name in self.lists:
                    inner = column.values.flatten()[column.type.value_type.get_field_index("path")]
                    paths = pa.StructArray.from_arrays([inner], names=["path"])
                    column = pa.ListArray.from_arrays(column.offsets.cast(pa.int32()), paths, mask=column.is_null())
                columns.append(column)
            yield values_of(pa.RecordBatch.from_arrays(columns, names=names)), masks

    def _is_plain(self, name: str) -> bool:
        """Check whether a column has no bytes in it."""
        from pyarrow import types

        def has_bytes(kind: Any) -> bool:
            if types.is_nested(kind):
                return any(has_bytes(kind.field(index).type) for index in range(kind.num_fields))
            return not is_printable(kind)

        return not has_bytes(self.schema.field(name).type)
