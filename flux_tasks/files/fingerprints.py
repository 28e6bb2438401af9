"""Fingerprints of files: where one is the same as before, so are the bytes, and nobody has to read them again.

On this machine it is made of size, number, and the times of modification and of change; on an object store of size and
ETag, which come with the listing of a folder: one request tells them of a thousand objects. Bytes inside another file
have the fingerprint of that file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flux_tasks.files.blocks import is_block
from flux_tasks.files.locations import container, is_data, is_local, is_web, local_name
from flux_tasks.files.remote.filesystems import filesystem_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["MISSING", "Fingerprints"]

MISSING = "missing"
"""The fingerprint of a file that is not there."""
_TICK = 20_000_000  # ns: the clock of files moves on at least so often (Linux: 1 to 10 ms)
_COARSE_TICK = 2_000_000_000  # where times are whole seconds (FAT: every other second)
_KEPT = ("st_ino", "st_size", "st_mtime_ns")  # by a file that gets its name
_MOST_LISTINGS = 8  # of folders beside each other, before all that is in any of them is listed
_TAGS = ("ETag", "etag", "md5Hash")  # S3, Azure, Google


class Fingerprints:
    """Fingerprints of files on any location. Any number of threads may use it.

    A folder of an object store is listed once, when the first file in it is asked for; where each file has a folder of
    its own, all of them at once.
    """

    def __init__(self) -> None:
        self._listings: dict[tuple[str, str], dict[str, str]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        """How many folders in this one have been listed."""
        self._whole: set[tuple[str, str]] = set()
        """Folders below which all is known."""
        self._lock = threading.Lock()

    def of(self, location: str) -> str | None:
        """Return the fingerprint of what is at ``location``, be it nothing; None where none can be relied on.

        That is so for the web, for filesystems without ETags, for places that cannot be reached, and for a file that
        has just been changed: a second change within one tick of its clock would not show.
        """
        return self._found(location, is_old=True)

    def of_written(self, location: str, state: os.stat_result | None = None) -> str | None:
        """Return the fingerprint of a file that this program has just written, however young it is.

        Args:
            state: what ``files.write`` has returned; None is returned if another file is there now.
        """
        return self._found(location, is_listed=False, state=state)

    def of_unlisted(self, location: str) -> str | None:
        """Return what ``of`` does, without a listing made earlier."""
        return self._found(location, is_old=True, is_listed=False)

    def still_matches(self, location: str, fingerprint: str) -> bool:
        """Check ``matches`` without a listing made earlier; on this machine the times tell of each change anyway."""
        location = container(location)
        if is_local(location):
            return True
        try:
            return _looked_up(location) == fingerprint
        except FileNotFoundError:
            return fingerprint == MISSING
        except Exception:
            return False

    def matches(self, location: str, fingerprint: str, *, may_wait: bool = True) -> bool:
        """Check whether what is at ``location`` has a fingerprint that ``of`` or ``of_written`` has returned.

        Raises:
            BlockingIOError: a remote folder has to be listed first, and ``may_wait`` is False.
        """
        return self._found(location, may_wait=may_wait) == fingerprint

    def _found(
        self,
        location: str,
        *,
        is_old: bool = False,
        is_listed: bool = True,
        may_wait: bool = True,
        state: os.stat_result | None = None,
    ) -> str | None:
        location = container(location)
        if is_web(location) or is_data(location):
            return None
        try:
            if is_local(location):
                return _local(location, state, is_old=is_old)
            return self._listed(location, may_wait=may_wait) if is_listed else _looked_up(location)
        except Exception as error:
            if isinstance(error, BlockingIOError) and not may_wait:
                raise
            return None  # whoever reads the file tells what is wrong

    def _listed(self, location: str, *, may_wait: bool) -> str | None:
        filesystem, path = filesystem_of(location)
        path = path.rstrip("/")
        folder = path.rpartition("/")[0]
        # A storage block has an account of its own, whatever its bucket is called.
        place = "/".join(location.split("/")[:4]) if is_block(location) else location.partition("://")[0], folder
        if not may_wait and place not in self._listings:
            raise BlockingIOError
        with self._lock:
            if place not in self._listings:
                self._list(filesystem, *place)
            return self._listings[place].get(path, MISSING) or None

    def _list(self, filesystem: AbstractFileSystem, scheme: str, folder: str) -> None:
        """List a folder; with all others beside it if several of them have been listed.

        Raises:
            Exception: the listing failed, and nothing is known by it.
        """
        above = scheme, folder.rpartition("/")[0]
        if above in self._whole:
            self._listings[scheme, folder] = {}
            return
        if self._counts.get(above, 0) >= _MOST_LISTINGS and "/" in above[1] and _finds_or_fails(filesystem):
            found: dict[tuple[str, str], dict[str, str]] = {(scheme, folder): {}}
            for name, entry in filesystem.find(above[1], detail=True).items():
                found.setdefault((scheme, name.rpartition("/")[0]), {})[name] = _tag(entry)
            self._listings = {**found, **self._listings}
            self._whole.add(above)
            return
        try:
            entries = filesystem.ls(folder, detail=True)
        except FileNotFoundError:
            entries = []
        self._listings[scheme, folder] = {str(entry["name"]).rstrip("/"): _tag(entry) for entry in entries}
        self._counts[above] = self._counts.get(above, 0) + 1


def _finds_or_fails(filesystem: AbstractFileSystem) -> bool:
    """Check whether ``find`` raises what goes wrong: fsspec's own leaves out the folders that it cannot list."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    kind = type(filesystem)
    if isinstance(filesystem, AsyncFileSystem):
        return kind._find is not AsyncFileSystem._find
    return kind.find is not AbstractFileSystem.find


def _local(location: str, state: os.stat_result | None, *, is_old: bool) -> str | None:
    try:
        found = os.stat(local_name(location))  # noqa: PTH116 - once for each file of a run
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    if state is not None and any(getattr(found, name) != getattr(state, name) for name in _KEPT):
        return None
    modified, changed = found.st_mtime_ns, found.st_ctime_ns
    if is_old:
        is_coarse = not modified % 1_000_000_000 and not changed % 1_000_000_000
        now = time.time_ns()
        last = max(changed, modified if modified <= now else 0)
        if now - last < (_COARSE_TICK if is_coarse else _TICK):
            return None
    return f"{found.st_size}:{modified}:{changed}:{found.st_ino}"


def _looked_up(location: str) -> str | None:
    filesystem, path = filesystem_of(location)
    return _tag(filesystem.info(path)) or None


def _tag(entry: Mapping[str, Any]) -> str:
    """Return size and ETag of an object, or an empty text where its filesystem knows no ETag.

    Some servers put it between quotes in one answer and not in another (``rclone serve s3``).
    """
    tag = next((str(entry[name]).strip('"') for name in _TAGS if entry.get(name)), "")
    return f"{entry.get('size')}:{tag}" if tag else ""
