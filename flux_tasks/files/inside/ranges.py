"""A part of a file, and whether it is still the same file."""

from __future__ import annotations

import os

from flux_tasks.files.access import open_local
from flux_tasks.files.failures import reporting
from flux_tasks.files.locations import is_local, local_name
from flux_tasks.files.remote.filesystems import filesystem_of

__all__ = ["read_range", "state"]


@reporting
def read_range(location: str, start: int, end: int) -> bytes:
    """Return the bytes of a file from ``start`` to before ``end``; fewer where it ends earlier.

    Raises:
        OSError: missing or unreadable.
    """
    if is_local(location):
        with open_local(location) as file:
            file.seek(start)
            return file.read(end - start)
    filesystem, path = filesystem_of(location)
    content: bytes = filesystem.cat_file(path, start=start, end=end)
    return content


@reporting
def state(location: str) -> str:
    """Return a text that is another one after the file has changed, as far as its place tells."""
    if is_local(location):
        found = os.stat(local_name(location))  # noqa: PTH116 - once for each picture
        return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"
    filesystem, path = filesystem_of(location)
    known = filesystem.info(path)
    names = ("size", "ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "created")
    return ":".join(str(known.get(name, "")) for name in names)
