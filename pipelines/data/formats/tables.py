"""Rows of CSV, TSV, JSONL and Parquet files on any location, one at a time: a table is never in memory as a whole.

=============  =========================================================================================
file           its rows
=============  =========================================================================================
.csv, .tsv     UTF-8, with or without a byte-order mark; the first line names the columns. Cells are text
               as written; those that read as a number are ``Number`` and count as one in expressions.
.jsonl,        one object a line, blank lines left out. Values keep their types, nested ones too.
.ndjson
.parquet       needs ``pip install 'flux-pipelines[parquet]'``. Columns of bytes, nested ones too, are not
               read: they are pictures as a rule, and no template could print them. Dates and times are
               text as ISO 8601 writes it (to the microsecond), durations are seconds, decimals are
               ``Number``, a float that is not finite is None.
=============  =========================================================================================
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, quote, reason_of, shown

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

    from pyarrow import DataType, RecordBatch
    from pyarrow.parquet import ColumnSchema, ParquetFile

from flux_tasks.files.inside.cells import open_parquet
from pipelines.data.formats.number import Number, cell
from pipelines.data.formats.steady_file import steady
from pipelines.language.document.recipe import TABLE_TYPES

__all__ = [
    *("Row", "attempt", "embedded", "found", "header", "is_bytes", "is_printable", "rows", "rows_of", "values_of"),
]

LONGEST_LINE = 16 * 1024 * 1024
"""The most bytes of one line of JSONL, or letters of one cell; with a longer one the file is of another kind."""

_BATCH = 500  # rows of Parquet decoded at a time
_WHERE = "source.table"

T = TypeVar("T")
_Read: TypeAlias = tuple[int, dict[str, Any], str]
"""Line, values, error."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        location: the file it is from.
        number: its place in the table, from 0; counted on through all files of a glob.
        line: where it begins in its file, from 1; 0 in Parquet.
        values: its cells by column.
        error: why it cannot be used, or an empty string.
        picture: where its picture is, if its format says so.
        place: its place for people, where that is no row of a table.
    """

    location: str
    number: int
    line: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    picture: str = ""
    place: str = ""

    @property
    def where(self) -> str:
        """Its place for people, such as ``row 7 (line 9) of items.csv``."""
        return self.place or f"row {self.number}{f' (line {self.line})' if self.line else ''} of {self.location}"


def found(pattern: str) -> list[str]:
    """Return the files of a table, sorted; never empty.

    Raises:
        RecipeError: none matches, the folder cannot be listed, or one is not a table.
    """
    try:
        locations = files.glob(pattern)
    except OSError as error:
        raise _broken(f"'{files.quoted(pattern)}' cannot be listed: {reason_of(error)}") from None
    if not locations:
        hint = files.near_misses(pattern, kinds=TABLE_TYPES) or "write another path"
        raise _broken(f"no file matches {files.quoted(pattern)}: {hint}")
    if strange := [location for location in locations if files.extension(location) not in TABLE_TYPES]:
        known = ", ".join(f".{extension}" for extension in TABLE_TYPES)
        raise _broken(f"{strange[0]} is not a table that is read here: give a file that ends in one of {known}")
    return locations


def header(location: str) -> tuple[str, ...] | None:
    """Return the names of the columns of one file, without reading a row; None for JSONL, where each row has its own.

    Raises:
        RecipeError: it cannot be read, or is not a table.
    """
    kind = files.extension(location)
    if kind == "parquet":
        with _open(location) as file:
            return tuple(_parquet_header(_parquet(file, location), location))
    if kind not in ("csv", "tsv"):
        return None
    with _open(location) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        return tuple(name for name in _csv_header(_csv_reader(text, kind), location) if name)


def embedded(location: str) -> frozenset[str]:
    """Return the columns of one file that hold bytes, alone or beside other fields; none but those of Parquet do.

    Raises:
        RecipeError: it cannot be read, or is not a table.
    """
    if files.extension(location) != "parquet":
        return frozenset()
    with _open(location) as file:
        schema = _parquet(file, location).schema
        leaves = (schema.column(index) for index in range(len(schema)))
        return frozenset(leaf.path.partition(".")[0] for leaf in leaves if is_bytes(leaf))


def rows(pattern: str) -> Iterator[Row]:
    """Return the rows of every file that ``pattern`` names, in order; each is read when it is asked for.

    A row that cannot be used comes with its ``error``.

    Raises:
        RecipeError: nothing matches, or a file cannot be read; a damaged one may fail only after some of its rows.
    """
    number = 0
    for location in found(pattern):
        for row in rows_of(location, number):
            yield row
            number += 1


def rows_of(location: str, number: int = 0) -> Iterator[Row]:
    """Return the rows of one file, numbered from ``number`` on; as ``rows`` does."""
    kind = files.extension(location)
    read = _parquet_rows if kind == "parquet" else _csv_rows if kind in ("csv", "tsv") else _json_rows
    for at, (line, values, error) in enumerate(read(location), number):
        yield Row(location, at, line, values, error)


def _broken(what: str) -> RecipeError:
    return RecipeError([Problem(_WHERE, what)])


def _open(location: str) -> BinaryIO:
    return attempt(location, files.stream, location)


def attempt(location: str, act: Callable[..., T], *arguments: Any, damaged: str = "is damaged") -> T:
    """Return ``act(*arguments)``; any error becomes a RecipeError that names ``location``."""
    try:
        return act(*arguments)
    except RecipeError:
        raise
    except IsADirectoryError:
        what = f"is a folder: for all tables in it, write {location.rstrip('/')}/*.csv"
        raise _broken(f"{location} {what}") from None
    except FileNotFoundError:
        raise _broken(f"{location} does not exist") from None
    except OSError as error:
        what = str(error).removeprefix(f"{location}: ")
        raise _broken(f"{location} cannot be read: {what}") from None
    except UnicodeDecodeError:
        raise _broken(f"{location} is not UTF-8 text: save it as UTF-8") from None
    except Exception as error:  # the parsers may raise anything on hostile bytes
        raise _broken(f"{location} {damaged}: {error}") from None


# -- CSV and TSV ------------------------------------------------------------------------------------------------------


def _csv_reader(text: Iterable[str], kind: str) -> CsvReader:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))  # of all readers; it is 131,072 by default
    return csv.reader(text, delimiter="\t" if kind == "tsv" else ",", strict=True)


def _csv_line(reader: CsvReader, location: str) -> list[str] | None:
    damaged = f"is not understood from line {reader.line_num + 1} on; is a quotation mark not closed? The reader says"
    cells: list[str] | None = attempt(location, next, reader, None, damaged=damaged)
    return cells


def _csv_header(reader: CsvReader, location: str) -> list[str]:
    cells = _csv_line(reader, location)
    while cells == []:
        cells = _csv_line(reader, location)
    if cells is None:
        raise _broken(f"{location} is empty: its first line has to name the columns")
    names = [cell.strip() for cell in cells]
    if any("\0" in name for name in names):
        raise _broken(f"{location} is not UTF-8 text, but seems to be UTF-16: save it as UTF-8")
    other = next((sign for sign in ";\t|" if sign in names[0]), "") if len(names) == 1 else ""
    if other and files.extension(location) == "csv":
        remedy = "name it .tsv" if other == "\t" else "save it with commas"
        raise _broken(f"the columns of {location} seem to be separated by {shown(other)}, and not by commas: {remedy}")
    _check_names([name for name in names if name], location)
    return names


def _check_names(names: Sequence[str], location: str) -> None:
    if not names:
        raise _broken(f"{location} has no column that a template could use")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise _broken(f"{location} has several columns called {quote(twice[0])}: give each a name of its own")


def _csv_rows(location: str) -> Iterator[_Read]:
    with steady(_open(location)) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = _csv_reader(text, files.extension(location))
        names = _csv_header(reader, location)
        line = reader.line_num + 1
        while (cells := _csv_line(reader, location)) is not None:
            if len(cells) == len(names):
                pairs = zip(names, cells, strict=True)
                yield line, {name: cell(text) for name, text in pairs if name}, ""
            elif cells:
                what = f"the header names {len(names)} columns; cells here: {len(cells)}"
                yield line, {}, f"{what}: put a cell that holds a separator in quotation marks"
            line = reader.line_num + 1


# -- JSONL ------------------------------------------------------------------------------------------------------------


def _json_rows(location: str) -> Iterator[_Read]:
    with steady(_open(location)) as file:
        line = 0
        while data := attempt(location, file.readline, LONGEST_LINE + 1):
            line += 1
            if len(data) > LONGEST_LINE:
                what = f"has more than {LONGEST_LINE:,} bytes in line {line}: write one object a line"
                raise _broken(f"{location} {what}")
            if line == 1:
                data = data.removeprefix(codecs.BOM_UTF8)
            if data.strip():
                yield line, *_json_row(data)


def _json_row(data: bytes) -> tuple[dict[str, Any], str]:
    try:
        values = json.loads(data.decode(), parse_constant=_finite, parse_float=_finite)
        if b"\\u" in data:
            json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        what = str(error) or "it is nested too deeply"
        return {}, f"it is not JSON: {what}; write one object a line"
    if not isinstance(values, dict):
        kind = {list: "a list", str: "text", type(None): "null"}.get(type(values), "a single value")
        return {}, f'it is {kind}: write one object a line, such as {{"id": 1}}'
    return values, ""


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number: write null")
    return value


# -- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet(file: BinaryIO, location: str) -> ParquetFile:
    return attempt(location, open_parquet, file)


def _parquet_header(table: ParquetFile, location: str) -> list[str]:
    names = [column.name for column in table.schema_arrow if is_printable(column.type)]
    _check_names(names, location)
    return names


def _parquet_rows(location: str) -> Iterator[_Read]:
    with _open(location) as file:
        table = _parquet(file, location)
        _parquet_header(table, location)
        leaves = (table.schema.column(index) for index in range(len(table.schema)))
        wanted = [leaf.path for leaf in leaves if not is_bytes(leaf)]
        batches = table.iter_batches(batch_size=_BATCH, columns=wanted, use_threads=False)
        while (values := attempt(location, _parquet_batch, batches)) is not None:
            for row in values:
                yield 0, row, ""


def _parquet_batch(batches: Iterator[RecordBatch]) -> list[dict[str, Any]] | None:
    batch = next(batches, None)
    return None if batch is None else values_of(batch)


def values_of(batch: RecordBatch) -> list[dict[str, Any]]:
    """Return rows as templates can print them; one without columns has none."""
    columns = (column.cast(_in_microseconds(column.type), safe=False).to_pylist() for column in batch.columns)
    names = batch.schema.names
    return [dict(zip(names, map(_value, cells), strict=True)) for cells in zip(*columns, strict=True)]


def is_bytes(leaf: ColumnSchema) -> bool:
    """Check whether a column of Parquet, or a field of one, holds bytes."""
    return leaf.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") and leaf.logical_type.type == "NONE"


def is_printable(kind: DataType) -> bool:
    """Check whether a column has anything besides bytes."""
    from pyarrow import types

    if types.is_nested(kind):
        return any(is_printable(kind.field(index).type) for index in range(kind.num_fields))
    return not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _in_microseconds(kind: DataType) -> DataType:
    """Return ``kind`` with times in microseconds, as Python has them."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_struct(kind):
        fields = (kind.field(index) for index in range(kind.num_fields))
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in fields])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    return kind


def _value(value: Any) -> Any:
    """Return a value that templates can print and JSON can hold."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return Number(format(value, "f"))
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(name): _value(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_value(inner) for inner in value]
    return str(value)
