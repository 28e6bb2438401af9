"""Bytes in the columns of Parquet and Arrow files, read row after row, so that no column is in memory as a whole."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from flux_tasks.files.access import Unusable, stream
from flux_tasks.files.locations import Embedded, is_local, local_name, quoted

if TYPE_CHECKING:
    from pyarrow import Array, DataType, RecordBatchReader
    from pyarrow.parquet import ParquetFile

__all__ = ["Column", "arrow_batches", "bytes_leaf", "open_parquet"]

_KEPT = 32 * 1024 * 1024
"""Bytes of a column that stay in memory: rows are asked for nearly in their order."""
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
        file = stream(source)
        if is_local(source):  # the library's own file is faster, and closes itself
            file.close()
        source = local_name(source) if is_local(source) else file
    return ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)  # pre_buffer fetches all row groups at once


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
    if source.read(6) == b"ARROW1":
        source.seek(0)
        file = pa.ipc.open_file(source)
        batches = (file.get_batch(index) for index in range(file.num_record_batches))
        return pa.RecordBatchReader.from_batches(file.schema, batches)
    source.seek(0)
    return pa.ipc.open_stream(source)


def bytes_leaf(kind: DataType) -> str | None:
    """Return where a column of this type has bytes: in a field, ``bytes``, in itself (an empty text), or nowhere."""
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind):
        return ""
    if types.is_struct(kind) and (index := kind.get_field_index("bytes")) >= 0:
        return "bytes" if bytes_leaf(kind.field(index).type) == "" else None
    return None


class Column:
    """The bytes of one column of a file. Any number of threads may use it.

    Attributes:
        state: of the file when it was opened; see ``access.state``.
    """

    def __init__(self, place: Embedded, column: str, state: str) -> None:
        self.state = state
        self._place, self._column = place, column
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, Array]] = deque()
        """Rows in their order, and the number of the first one of each piece."""
        self._size = 0
        self._next = -1
        """The row that comes next; -1 if none does."""
        self._coming: Iterator[Array] = iter(())
        self._table: ParquetFile | None = None

    def read(self, row: int) -> bytes | None:
        """Return the bytes in a row, from 0; None if it has none.

        Raises:
            OSError: the file cannot be read, is damaged, or has no such row or column.
        """
        with self._lock:
            try:
                values, at = self._piece(row)
                cell = values[at]
                return None if not cell.is_valid else bytes(cell.as_buffer())
            except OSError as error:
                raise self._failed(row, error) from error
            except Exception as error:  # the library may raise anything on hostile bytes
                raise self._failed(row, error) from None
            finally:
                self._trim(row)

    def _failed(self, row: int, error: Exception) -> Unusable:
        self._coming, self._next = iter(()), -1
        what = str(error) if isinstance(error, OSError) else f"damaged: {type(error).__name__}: {error}"
        return Unusable(f"row {row} of {quoted(self._place.container)}: {what}"[:400])

    def _piece(self, row: int) -> tuple[Array, int]:
        for first, values in self._kept:
            if first <= row < first + len(values):
                return values, row - first
        start = self._open(row)
        if not (self._next >= 0 and start <= self._next <= row):
            self._kept.clear()
            self._size = 0
            self._next, self._coming = start, self._values(start)
        for values in self._coming:
            first, self._next = self._next, self._next + len(values)
            if row < self._next or self._place.kind == "parquet":
                self._kept.append((first, values))
                self._size += values.nbytes
            if row < self._next:
                return values, row - first
            self._trim(row)
        raise Unusable("there is no such row")

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
        leaf = bytes_leaf(kind)
        if leaf is None:
            raise Unusable(f"its column {quoted(self._column)} has no bytes")
        group = bisect_right(self._starts, start) - 1
        paths = [f"{self._column}.{leaf}" if leaf else self._column]
        rows = max(1, self._table.metadata.row_group(group).num_rows)
        total = self._table.metadata.row_group(group).total_byte_size
        batches = self._table.iter_batches(
            batch_size=max(1, min(256, rows * _AT_ONCE // max(1, total))),
            row_groups=[group],
            columns=paths,
            use_threads=False,
        )
        yield from (_leaf(batch.column(0)) for batch in batches)

    def _trim(self, row: int) -> None:
        """Drop what was read first while more than a piece stays, and too much."""
        while len(self._kept) > 1 and self._size > _KEPT:
            first, values = self._kept[0]
            if first <= row < first + len(values):
                return
            self._kept.popleft()
            self._size -= values.nbytes


def _leaf(values: Array) -> Array:
    """Return the bytes of a column; those of a picture that is null are null."""
    from pyarrow import types

    return values.flatten()[values.type.get_field_index("bytes")] if types.is_struct(values.type) else values
