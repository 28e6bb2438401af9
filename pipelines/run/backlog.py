"""Items whose turn comes later, in a temporary file: a source is read once, whatever becomes of it meanwhile."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

from pipelines.data.annotations import AnnotationSet
from pipelines.data.items import Item

_LARGEST = 16_384
"""Bytes: an item with more, such as a picture in its row, does not wait."""


class Backlog:
    """Items that wait, each as it was read from its source; none of them stays in memory. Close it at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._file: io.RawIOBase | None = None
        self._count = 0
        self._sets: dict[int, AnnotationSet] = {}
        self._is_full = False

    def __enter__(self) -> Backlog:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, item: Item) -> bool:
        """Keep an item for later; False if that is not possible: its turn is now."""
        if self._is_full:
            return False
        try:
            pickled = io.BytesIO()
            _Pickler(pickled, self._sets).dump(item)
            data = pickled.getvalue()
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError):  # of a column that a template made
            return False
        if len(data) > _LARGEST:
            return False
        try:
            if self._file is None:
                # Without a buffer: it is known at once what was not written.
                self._file = self._stack.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - entered
            self._is_full = self._file.write(data) != len(data)
        except OSError:
            self._is_full = True
        self._count += not self._is_full
        return not self._is_full

    def __iter__(self) -> Iterator[Item]:
        if self._file is None:
            return
        self._file.seek(0)
        file = self._stack.enter_context(io.BufferedReader(self._file))
        for _ in range(self._count):
            item: Item = _Unpickler(file, self._sets).load()
            yield item


class _Pickler(pickle.Pickler):
    """Leaves out the annotations that items have in common, and puts them into ``sets``."""

    def __init__(self, file: IO[bytes], sets: dict[int, AnnotationSet]) -> None:
        super().__init__(file)
        self._sets = sets

    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, AnnotationSet):
            return None
        self._sets[id(obj)] = obj
        return id(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], sets: dict[int, AnnotationSet]) -> None:
        super().__init__(file)
        self._sets = sets

    def persistent_load(self, pid: int) -> AnnotationSet:
        return self._sets[pid]
