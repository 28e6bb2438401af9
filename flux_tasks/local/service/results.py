"""The encoded results of a local server: in temporary files without a name, which no kill leaves behind."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, field
from typing import IO

__all__ = ["Results"]

FILE_BYTES = 64 * 1024**2
"""Bytes after which another file is begun; one goes when none of its results is wanted any more."""


@dataclass(eq=False)
class _File:
    file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    size: int = 0
    results: int = 0


class Results:
    """Results by the ids of their jobs. May be used on any thread."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[_File, int, int]] = {}
        self._file: _File | None = None
        """The one that is written to."""
        self._lock = threading.Lock()

    def put(self, job_id: str, data: bytes) -> None:
        """Keep a result.

        Raises:
            OSError: there is no room for it.
        """
        with self._lock:
            if self._file is None or self._file.size >= FILE_BYTES:
                self._file = _File()
            file = self._file
            file.file.seek(file.size)
            file.file.write(data)
            file.file.flush()
            self._places[job_id] = file, file.size, len(data)
            file.size += len(data)
            file.results += 1

    def get(self, job_id: str) -> bytes | None:
        """Return a result, or None if there is none any more."""
        with self._lock:
            if (place := self._places.get(job_id)) is None:
                return None
            file, begin, size = place
            file.file.seek(begin)
            return file.file.read(size)

    def remove(self, job_id: str) -> None:
        """Forget a result, if there is one."""
        with self._lock:
            if (place := self._places.pop(job_id, None)) is None:
                return
            file = place[0]
            file.results -= 1
            if not file.results:
                file.file.close()
                if file is self._file:
                    self._file = None

    def clear(self) -> None:
        """Forget all results."""
        for job_id in list(self._places):
            self.remove(job_id)
