"""A remote file that is read as a stream."""

from __future__ import annotations

import io
import os
from typing import Any

from flux_tasks.files.failures import reporting

__all__ = ["RemoteFile"]


class RemoteFile(io.RawIOBase):
    """A file that fsspec opened, with every failure an ``OSError``. ``reporting`` reads its location from it."""

    def __init__(self, location: str, file: Any) -> None:
        self._location = location
        self._file = file

    def __fspath__(self) -> str:
        return self._location

    @reporting
    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    @reporting
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
