"""Bytes at any fsspec URL: read, write atomically, create exclusively.

A location is a local path (``photos/a.jpg``), a ``file://`` URL, or any URL whose protocol fsspec knows
(``s3://``, ``gs://``, ``az://``, ``memory://`` …). Cloud libraries are imported when the first URL asks for them.
Credentials and endpoints are those of ``remote.options`` for the place, else each library looks for them:

* S3: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE`` …; for MinIO, Ceph and the like also
  ``FSSPEC_S3_ENDPOINT_URL=https://minio.example:9000`` (or ``AWS_ENDPOINT_URL``);
* Google: ``GOOGLE_APPLICATION_CREDENTIALS``; for an emulator ``STORAGE_EMULATOR_HOST=http://127.0.0.1:4443``;
* Azure: ``AZURE_STORAGE_CONNECTION_STRING``, or ``AZURE_STORAGE_ACCOUNT_NAME`` and ``AZURE_STORAGE_ACCOUNT_KEY`` …;
* any option of any protocol: ``FSSPEC_<PROTOCOL>_<OPTION>``, or a JSON file in ``~/.config/fsspec``, both read when
  fsspec is imported.

Local writes go through a temporary file in the same folder and a rename (replace) or a hard link (create), because
a reader can see half of what fsspec's own ``pipe_file`` writes. Object stores write whole objects; exclusive creation
is their conditional put. Every failure is an ``OSError``, also where a cloud library has exceptions of its own.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

from flux_tasks.files.failures import Unusable, may_pass, reporting
from flux_tasks.files.locations import is_local, local_name, local_path
from flux_tasks.files.remote.filesystems import filesystem_of, is_conflict, names_in, read_whole
from flux_tasks.files.remote.reading import RemoteFile
from flux_tasks.files.watching import notice

__all__ = [
    "PAUSES",
    "create",
    "exists",
    "folders",
    "listing",
    "open_local",
    "patiently",
    "read",
    "remove",
    "size",
    "stream",
    "write",
    "write_from",
]

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

_memory = threading.Lock()
"""Makes one step of the check and the write of ``memory://``."""

T = TypeVar("T")

PAUSES = (0.2, 1.0, 3.0)
"""Seconds between attempts at a location that fails."""


def patiently(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call ``function`` again while it fails in a way that may pass. It sleeps: call it on a thread.

    Raises:
        OSError: the last one.
    """
    for pause in PAUSES:
        try:
            return function(*arguments, **options)
        except OSError as error:
            if not may_pass(error):
                raise
        time.sleep(pause)
    return function(*arguments, **options)


@reporting
def read(location: str | os.PathLike[str], *, limit: int | None = None) -> bytes:
    """Return the bytes at ``location``.

    Raises:
        OSError: missing or unreadable (``FileNotFoundError``, ``IsADirectoryError`` …), or longer than ``limit``
            bytes, which is checked before the whole is read.
    """
    text = os.fspath(location)
    notice(text)
    if is_local(text):
        with open_local(text) as file:
            found = os.fstat(file.fileno()).st_size
            if limit is not None and found > limit:
                raise Unusable(f"{text}: {found:,} bytes, more than the limit of {limit:,}")
            data = file.read(-1 if limit is None or found else limit + 1)  # a device has size 0 and never ends
            if limit is not None and len(data) > limit:
                raise Unusable(f"{text}: more than the limit of {limit:,} bytes")
            return data
    filesystem, path = filesystem_of(text)
    if limit is not None and (found := int(filesystem.size(path) or 0)) > limit:
        raise Unusable(f"{text}: {found:,} bytes, more than the limit of {limit:,}")
    return read_whole(filesystem, path)


def open_local(location: str) -> BinaryIO:
    """Open a file on this machine for reading.

    Raises:
        OSError: missing or unreadable; a pipe, or a link that leads nowhere.
    """
    path = local_name(location)
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - several times for each job
    except FileNotFoundError:
        if os.path.islink(path):  # noqa: PTH114 - as above
            raise OSError(errno.ELOOP, "a link that leads nowhere", location) from None
        raise
    if stat.S_ISFIFO(mode):
        raise Unusable(f"{location}: a pipe, not a file")  # opening it would wait until somebody writes
    return open(path, "rb")


@reporting
def stream(location: str | os.PathLike[str], *, block: int | None = None) -> BinaryIO:
    """Open the file at ``location`` for reading; close it, or use it in a ``with``.

    A remote file is fetched in blocks as it is read, so that a large one is never in memory as a whole.

    Args:
        block: bytes that are fetched at a time of a remote file, for a reader that jumps; the library's own if None.

    Raises:
        OSError: missing or unreadable, when it is opened or while it is read.
    """
    text = os.fspath(location)
    notice(text)
    if is_local(text):
        return open_local(text)
    filesystem, path = filesystem_of(text)
    return cast(BinaryIO, io.BufferedReader(RemoteFile(text, filesystem.open(path, "rb", block_size=block))))


@reporting
def write(location: str | os.PathLike[str], data: bytes) -> os.stat_result | None:
    """Write ``data`` to ``location``, replacing what is there. A reader sees the old bytes or the new, never a part.

    Returns:
        The state of a file on this machine as it was before it got its name.
    """
    text = os.fspath(location)
    if is_local(text):
        path = local_name(text)
        with _temporary(path, data) as temporary:
            state = os.stat(temporary)  # noqa: PTH116 - several times for each job
            Path(temporary).replace(path)
        sync_folder(os.path.dirname(path))  # noqa: PTH120 - as above
        return state
    filesystem, path_in_store = filesystem_of(text)
    filesystem.pipe_file(path_in_store, data)
    return None


@reporting
def upload(location: str, file: Path) -> None:
    """Write a file of this machine to a remote ``location``, in blocks, so that it is never in memory as a whole."""
    filesystem, path = filesystem_of(location)
    filesystem.put_file(os.fspath(file), path)


@reporting
def write_from(location: str | os.PathLike[str], source: IO[bytes]) -> None:
    """Write what ``source`` has left to a remote ``location``, in blocks; nothing gets that name if it fails."""
    filesystem, path = filesystem_of(os.fspath(location))
    target = filesystem.open(path, "wb")
    try:
        shutil.copyfileobj(source, target)
    except BaseException:
        target.discard()
        raise
    target.close()


@reporting
def create(location: str | os.PathLike[str], data: bytes) -> bool:
    """Write ``data`` to ``location`` if nothing is there; return False if something is. Exactly one writer wins."""
    text = os.fspath(location)
    if is_local(text):
        path = local_name(text)
        if os.path.exists(path):  # noqa: PTH110 - once for each job
            return False
        with _temporary(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        sync_folder(os.path.dirname(path))  # noqa: PTH120 - as above
        return True
    filesystem, path_in_store = filesystem_of(text)
    if text.startswith("memory://"):
        with _memory:
            if filesystem.exists(path_in_store):
                return False
            filesystem.pipe_file(path_in_store, data)
            return True
    try:
        filesystem.pipe_file(path_in_store, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if is_conflict(error):
            return False
        raise
    return True


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """Write ``data``, down to the disk, into a file beside ``path`` that is gone at the end of the block."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        handle = os.open(temporary, _NEW, 0o666)
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - as above
        handle = os.open(temporary, _NEW, 0o666)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)  # the promise holds through a power cut, too; see sync_folder
        finally:
            os.close(handle)
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108 - as above


def sync_folder(folder: str) -> None:
    """Write the folder's own entries to disk: after a power cut, a file is found only by its name."""
    with contextlib.suppress(OSError):  # some systems cannot open a folder
        handle = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@reporting
def exists(location: str | os.PathLike[str]) -> bool:
    """Check whether something is at ``location``."""
    text = os.fspath(location)
    notice(text)
    if is_local(text):
        try:
            return local_path(text).exists()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # which no file can have
                raise
            return False
    filesystem, path = filesystem_of(text)
    return bool(filesystem.exists(path))


@reporting
def size(location: str | os.PathLike[str]) -> int | None:
    """Return the bytes at ``location``, or None if nothing is there."""
    text = os.fspath(location)
    notice(text)
    try:
        if is_local(text):
            return os.stat(local_name(text)).st_size  # noqa: PTH116 - several times for each job
        filesystem, path = filesystem_of(text)
        return int(filesystem.size(path) or 0)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


@reporting
def remove(location: str | os.PathLike[str]) -> None:
    """Remove the file at ``location``; nothing happens if there is none."""
    text = os.fspath(location)
    with contextlib.suppress(FileNotFoundError):
        if is_local(text):
            os.unlink(local_name(text))  # noqa: PTH108 - for each job
        else:
            filesystem, path = filesystem_of(text)
            filesystem.rm_file(path)


@reporting
def listing(location: str, *, with_others: bool = False) -> list[str]:
    """Return the names of the files directly under a folder, sorted; an empty list if there is no such folder.

    Args:
        with_others: on this machine also those of folders, and of links that lead nowhere.
    """
    if is_local(location):
        folder = local_path(location)
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if (with_others or e.is_file()) and not e.name.endswith(".tmp"))
    return names_in(location, "file")


@reporting
def folders(location: str) -> list[str]:
    """Return the names of the folders directly under a folder, sorted; an empty list if there is no such folder."""
    if is_local(location):
        folder = local_path(location)
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return names_in(location, "directory")
