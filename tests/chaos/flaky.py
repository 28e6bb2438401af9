"""A store that fails now and then: ``flaky:///folder`` is that folder, with errors before or after the effect.

Each process says with ``configure`` how often; what failed is written to a log, which the verdict reads.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from flux_tasks import files

__all__ = ["FlakyFileSystem", "configure", "failures"]

_lock = threading.Lock()
_random = random.Random(0)
_share = 0.0
_log: str | None = None


def configure(*, seed: str, share: float, log: str) -> None:
    """From now on ``share`` of what is asked of the store fails."""
    global _share, _log
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    _random.seed(seed)
    _share, _log = share, log


def failures(log: Path) -> list[tuple[int, str, str, str]]:
    """(process, operation, ``before`` or ``after`` its effect, path) of all that failed."""
    if not log.exists():
        return []
    rows = (line.split(" ", 3) for line in log.read_text().splitlines())
    return [(int(pid), operation, when, path) for pid, operation, when, path in rows]


def _draw() -> tuple[bool, bool]:
    with _lock:
        return _random.random() < _share, _random.random() < 0.5


def _fail(operation: str, when: str, path: str) -> None:
    if _log is not None:
        handle = os.open(_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, f"{os.getpid()} {operation} {when} {path}\n".encode())
        finally:
            os.close(handle)
    raise OSError(errno.EIO, "the store is flaky", path)


class FlakyFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """A local folder whose every operation is whole or not at all, and fails now and then."""

    protocol = "flaky"
    cachable = False

    def _do(self, operation: str, path: str, effect: Any) -> Any:
        fails, before = _draw()
        reads = operation in ("read", "size", "list")
        if fails and (before or reads):
            _fail(operation, "before", path)
        done = effect()
        if fails:
            _fail(operation, "after", path)
        return done

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        found: bytes = self._do("read", path, lambda: files.read(path))
        return found[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        def create() -> None:
            if not files.create(path, value):
                raise FileExistsError(errno.EEXIST, "it is there", path)

        if mode == "create":
            self._do("create", path, create)
        else:
            self._do("write", path, lambda: files.write(path, value))

    def rm_file(self, path: str) -> None:
        self._do("remove", path, lambda: Path(path).unlink())

    def size(self, path: str) -> int:
        return int(self._do("size", path, lambda: Path(path).stat().st_size))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            kind = "directory" if Path(path).is_dir() else "file"
            found = Path(path).stat()
            return {"name": path, "type": kind, "size": found.st_size, "mtime": found.st_mtime}

        return dict(self._do("size", path, look))

    def modified(self, path: str) -> Any:
        return time.gmtime(self.info(path)["mtime"])

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        def look() -> list[Any]:
            with os.scandir(path) as entries:
                return [
                    {"name": e.path, "type": "directory" if e.is_dir() else "file", "size": 0}
                    for e in entries
                    if not e.name.endswith(".tmp")
                ]

        found: list[Any] = self._do("list", path, look)
        return found if detail else [f["name"] for f in found]
