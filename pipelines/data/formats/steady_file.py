"""A table that somebody may write to while it is read: what is read of it is of one version, or an error says so."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO, cast


class _SteadyFile(io.RawIOBase):
    """A file on this machine that ends where it ended when it was opened.

    Where it has changed since, what was read last is compared: a file that was only added to, or that is changed
    further on, is read to its end of now.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._state = os.fstat(file.fileno())
        self._last = b""
        self._place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        state = os.fstat(self._file.fileno())
        if self._place >= self._state.st_size:
            return 0
        if (state.st_mtime_ns, state.st_size) != (self._state.st_mtime_ns, self._state.st_size):
            self._file.seek(self._place - len(self._last))
            if self._file.read(len(self._last)) != self._last:
                remedy = "write changes into a new file, rename it to this one, and run again"
                raise OSError(f"somebody has changed it while it was read: {remedy}")
            self._state = state
        self._last = self._file.read(min(len(buffer), self._state.st_size - self._place)) or b""
        self._place += len(self._last)
        buffer[: len(self._last)] = self._last
        return len(self._last)

    def close(self) -> None:
        self._file.close()
        super().close()


def steady(file: BinaryIO) -> BinaryIO:
    """Return a file that was just opened, so that reading it raises OSError if it is written over meanwhile.

    A remote file, or what is no regular file, is returned as it is.
    """
    if not (isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO)):
        return file
    state = os.fstat(file.fileno())
    if not (stat.S_ISREG(state.st_mode) and state.st_size):  # the system's own files say that they are empty
        return file
    raw = file.raw
    file.detach()
    return cast(BinaryIO, io.BufferedReader(_SteadyFile(raw)))
