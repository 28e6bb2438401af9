"""Bytes in the columns of Parquet and Arrow files, read row after row, so that no column is in memory as a whole."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from flux_tasks.files.access import stream
from flux_tasks.files.failures import Unusable
from flux_tasks.files.locations import Embedded, is_local, local_name, quoted

if TYPE_CHECKING:
    from pyarrow import Array, DataType, RecordBatch, RecordBatchReader
    from pyarrow.parquet import ParquetFile

__all__ = ["Column", "arrow_batches", "bytes_leaf", "is_list", "open_parquet"]

_KEPT, _KEPT_UNREAD = 8 * 1024 * 1024, 64 * 1024 * 1024
"""Bytes of a column that stay in memory, since rows are asked for nearly in their order: read ones, and others."""
_BUFFER = 1024 * 1024  # bytes that are read at a time
_AT_ONCE = 4 * 1024 * 1024  # bytes that are decoded at a time, about


def open_parquet(source: Any) -> ParquetFile:
    """Open a Parquet file: its location, or a file that is open.

    Raises:
        OSError: its library is not installed, or it cannot be read.
        Exception: it is none, or is damaged.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise Unusable("it needs a library that is not installed: pip install 'flux-pipelines[parquet]'") from None
    if isinstance(source, str):
        file = stream(source, block=_BUFFER)
        if is_local(source):  # the library's own file is faster, and closes itself
            file.close()
        source = local_name(source) if is_local(source) else file
    return ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER)  # pre_buffer fetches all row groups at once


def arrow_batches(location: str) -> RecordBatchReader:
    """Open an Arrow file, as a stream or not; on this machine nothing of it is read before it is used.

    Raises:
        Unusable: its library is not installed.
        Exception: it is none, or is damaged.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise Unusable("it needs a library that is not installed: pip install 'flux-pipelines[parquet]'") from None
    source = pa.memory_map(local_name(location)) if is_local(location) else pa.PythonFile(stream(location), "r")
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)

    def checked() -> Iterator[RecordBatch]:
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            batch.validate(full=True)  # the library believes offsets otherwise, and a damaged one ends the process
            yield batch

    return pa.RecordBatchReader.from_batches(reader.schema, checked())


def bytes_leaf(kind: DataType) -> str | None:
    """Return where a column of this type has bytes: in a field, ``bytes``, in itself (an empty text), or nowhere."""
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind):
        return ""
    if types.is_struct(kind) and (index := kind.get_field_index("bytes")) >= 0:
        return "bytes" if bytes_leaf(kind.field(index).type) == "" else None
    return None


@dataclass
class _Piece:
    """Some rows of a column.

    Attributes:
        first: the number of the first one.
        unread: those that nobody has asked for.
    """

    first: int
    values: Array
    unread: set[int]

    def __contains__(self, row: int) -> bool:
        return self.first <= row < self.first + len(self.values)


class Column:
    """The bytes of one column of a file. Any number of threads may use it.

    Attributes:
        state: of the file when it was opened; see ``ranges.state``.
    """

    def __init__(self, place: Embedded, column: str, state: str) -> None:
        self.state = state
        self._place, self._column = place, column
        self._lock = threading.Lock()
        self._kept: list[_Piece] = []
        self._start = self._next = -1
        """The first row of the row group that is read, and the row that comes next."""
        self._coming: Iterator[Array] = iter(())
        self._table: ParquetFile | None = None

    def read(self, row: int, item: int | None = None) -> bytes | None:
        """Return the bytes in a row, from 0; None if it has none.

        Args:
            item: of a column of lists, the place in the row's list, from 0.

        Raises:
            OSError: the file cannot be read, is damaged, or has no such row or column.
        """
        with self._lock:
            try:
                piece = next((piece for piece in self._kept if row in piece), None) or self._piece(row)
                piece.unread.discard(row)
                cell = piece.values[row - piece.first]
                if (item is not None) != is_list(piece.values.type):
                    raise Unusable(
                        f"its column {quoted(self._column)} has {'no list' if item is not None else 'a list'} in a row"
                    )
                if item is not None:
                    inner = _leaf(cell.values) if cell.is_valid else ()
                    if item >= len(inner):
                        raise Unusable(f"its list has {len(inner)} entries")
                    cell = inner[item]
                return bytes(cell.as_buffer()) if cell.is_valid else None
            except Exception as error:  # the library may raise anything on hostile bytes
                self._coming, self._start = iter(()), -1
                is_unread = isinstance(error, OSError)
                what = str(error) if is_unread else f"damaged: {type(error).__name__}: {error}"
                may_pass = is_unread and not isinstance(error, Unusable) and not is_local(self._place.container)
                kind = OSError if may_pass else Unusable
                raise kind(f"row {row} of {quoted(self._place.container)}: {' '.join(what.split())}"[:400]) from None

    def close(self) -> None:
        """Close the file, and drop what is in memory; who reads on opens it again."""
        with self._lock:
            self._coming, self._start, self._kept = iter(()), -1, []
            if self._table is not None:
                self._table.close(force=True)
                self._table = None

    def _piece(self, row: int) -> _Piece:
        """Read on to a row, or from the beginning of its row group."""
        start = self._open(row)
        if start != self._start or self._next > row:
            self._start, self._next, self._coming = start, start, self._values(start)
        for values in self._coming:
            piece = _Piece(self._next, values, set(range(self._next, self._next + len(values))))
            self._next += len(values)
            if row in piece or self._place.kind == "parquet":  # what Arrow passes over costs nothing
                self._kept.append(piece)
            self._trim()
            if row in piece:
                return piece
        raise Unusable("there is no such row")

    def _trim(self) -> None:
        """Drop what has been read while it is too much; what nobody has asked for yet, when it is far too much."""
        size = sum(piece.values.nbytes for piece in self._kept)
        for piece in self._kept[:-1]:
            if size > (_KEPT_UNREAD if piece.unread else _KEPT):
                self._kept.remove(piece)
                size -= piece.values.nbytes

    def _open(self, row: int) -> int:
        """Return the first row of the row group that has ``row``; an Arrow file has one group."""
        if self._place.kind == "arrow":
            return 0
        if self._table is None:
            self._table = open_parquet(self._place.container)
            groups = range(self._table.num_row_groups)
            self._starts = [0, *accumulate(self._table.metadata.row_group(group).num_rows for group in groups)]
        if not row < self._starts[-1]:
            raise Unusable(f"it has {self._starts[-1]:,} rows")
        start: int = self._starts[bisect_right(self._starts, row) - 1]
        return start

    def _values(self, start: int) -> Iterator[Array]:
        """Yield the bytes of the column from a row group's first row on."""
        if self._table is None:
            reader = arrow_batches(self._place.container)
            yield from (_leaf(batch.column(self._column)) for batch in reader)
            return
        kind = self._table.schema_arrow.field(self._column).type
        leaf = bytes_leaf(kind.value_type if is_list(kind) else kind)
        if leaf is None:
            raise Unusable(f"its column {quoted(self._column)} has no bytes")
        group = bisect_right(self._starts, start) - 1
        paths = [_path_of(self._table, self._column, leaf)]
        rows = max(1, self._table.metadata.row_group(group).num_rows)
        total = self._table.metadata.row_group(group).total_byte_size
        batches = self._table.iter_batches(
            batch_size=max(1, min(256, rows * _AT_ONCE // max(1, total))),
            row_groups=[group],
            columns=paths,
            use_threads=False,
        )
        yield from (_leaf(batch.column(0)) for batch in batches)


def is_list(kind: DataType) -> bool:
    """Check whether a column of this type has lists."""
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind))


def _path_of(table: ParquetFile, column: str, leaf: str) -> str:
    """Return what Parquet calls the bytes of a column; between a list and its entries, every writer has other names."""
    if is_list(table.schema_arrow.field(column).type):
        paths = (str(table.schema.column(index).path) for index in range(len(table.schema)))
        return next(path for path in paths if path.startswith(f"{column}.") and path.endswith(f".{leaf}"))
    return f"{column}.{leaf}" if leaf else column


def _leaf(values: Array) -> Array:
    """Return the bytes of a column, or its lists; those of a picture that is null are null."""
    from pyarrow import types

    return values.flatten()[values.type.get_field_index("bytes")] if types.is_struct(values.type) else values
