"""All files below a folder, on any location, with their sizes and times."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flux_tasks.files.failures import reporting
from flux_tasks.files.locations import is_local, local_path
from flux_tasks.files.remote.filesystems import filesystem_of

__all__ = ["Found", "tree"]

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")  # S3, Azure, Google, and the one in memory


@dataclass(frozen=True, slots=True)
class Found:
    """A file below a folder.

    Attributes:
        name: its path from that folder, with slashes.
        size: bytes.
        modified: seconds since 1970, by the clock of its place; None where that is not known.
    """

    name: str
    size: int
    modified: float | None


@reporting
def tree(location: str) -> list[Found]:
    """Return the files at any depth below a folder, sorted; none if there is no such folder. Links are not followed.

    Raises:
        OSError: a folder cannot be listed.
    """
    found = _local(location) if is_local(location) else _remote(location)
    return sorted(found, key=lambda file: file.name)


def _local(location: str) -> Iterator[Found]:
    top = str(local_path(location))

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, _, names in os.walk(top, onerror=fail):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):  # removed meanwhile
                if stat.S_ISREG((state := path.lstat()).st_mode):
                    yield Found(path.relative_to(top).as_posix(), state.st_size, state.st_mtime)


def _remote(location: str) -> Iterator[Found]:
    filesystem, top = filesystem_of(location)
    top = top.rstrip("/")
    try:
        folders = list(filesystem.walk(top, detail=True, on_error="raise"))
    except FileNotFoundError:
        return
    for _, _, files in folders:
        for entry in files.values():
            path = str(entry["name"])
            if path.startswith(f"{top}/"):
                yield Found(path[len(top) + 1 :], int(entry.get("size") or 0), _modified(entry))


def _modified(entry: dict[str, Any]) -> float | None:
    told = next((entry[name] for name in _TIMES if entry.get(name)), None)
    if isinstance(told, str):
        try:
            told = datetime.fromisoformat(told)
        except ValueError:
            return None
    if isinstance(told, datetime):
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    return float(told) if isinstance(told, int | float) else None
