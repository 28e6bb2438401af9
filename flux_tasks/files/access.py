"""Bytes at any fsspec URL: read, write atomically, create exclusively. The only module that opens filesystems.

A location is a local path (``photos/a.jpg``), a ``file://`` URL, or any URL whose protocol fsspec knows
(``s3://``, ``gs://``, ``memory://`` …). Cloud libraries are imported when the first URL asks for them. Credentials and
endpoints are not set here but where each library looks for them:

* S3: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE`` …; for MinIO, Ceph and the like also
  ``FSSPEC_S3_ENDPOINT_URL=https://minio.example:9000`` (or ``AWS_ENDPOINT_URL``);
* Google: ``GOOGLE_APPLICATION_CREDENTIALS``; for an emulator ``STORAGE_EMULATOR_HOST=http://127.0.0.1:4443``;
* any option of any protocol: ``FSSPEC_<PROTOCOL>_<OPTION>``, or a JSON file in ``~/.config/fsspec``, both read when
  fsspec is imported.

Local writes go through a temporary file in the same folder and a rename (replace) or a hard link (create), because
a reader can see half of what fsspec's own ``pipe_file`` writes. Object stores write whole objects; exclusive creation
is their conditional put. Every failure is an ``OSError``, also where a cloud library has exceptions of its own.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from flux_tasks.files.locations import is_local, local_name, local_path, quoted
from flux_tasks.files.watching import notice

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = [
    "PAUSES",
    "Unusable",
    "create",
    "exists",
    "filesystem_of",
    "folders",
    "listing",
    "may_pass",
    "open_local",
    "patiently",
    "read",
    "remove",
    "reporting",
    "size",
    "stream",
    "write",
]

_FILESYSTEM_OPTIONS: dict[str, dict[str, Any]] = {
    # Objects of other processes must be seen at once, so no listing is cached.
    "s3": {"use_listings_cache": False, "config_kwargs": {"max_pool_connections": 64}},
    "gs": {"use_listings_cache": False},
}
_FILESYSTEM_OPTIONS["s3a"] = _FILESYSTEM_OPTIONS["s3"]
_FILESYSTEM_OPTIONS["gcs"] = _FILESYSTEM_OPTIONS["gs"]


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

_memory = threading.Lock()
"""Makes one step of the check and the write of ``memory://``."""

Function = TypeVar("Function", bound=Callable[..., Any])
T = TypeVar("T")

PAUSES = (0.2, 1.0, 3.0)
"""Seconds between attempts at a location that fails."""

_LASTING = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EROFS", "EACCES", "EPERM", "EDQUOT", "ENOTDIR", "EISDIR", "ENOENT"),
        *("ENAMETOOLONG", "ELOOP", "EINVAL", "ENXIO"),
    )
    if hasattr(errno, name)
}
_DECIDED = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # s3fs gives these no errno


class Unusable(OSError):
    """A location that cannot be used, however often it is tried: what is there is wrong, or a library is missing."""


def may_pass(error: OSError) -> bool:
    """Check whether trying again after a pause may help: a store that fails, not a file that is missing."""
    return not isinstance(error, (Unusable, *_DECIDED)) and error.errno not in _LASTING


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


def reporting(function: Function) -> Function:
    """Turn every failure of ``function`` into an ``OSError``: no credentials, HTTP 500, a NUL in a name …"""

    @functools.wraps(function)
    def inner(location: str | os.PathLike[str], *arguments: Any, **options: Any) -> Any:
        try:
            return function(location, *arguments, **options)
        except OSError:
            raise
        except Exception as error:
            is_lasting = is_local(location) or "Credential" in type(error).__name__
            kind = Unusable if is_lasting else OSError
            raise kind(f"{quoted(location)}: {type(error).__name__}: {error}") from error

    return inner  # type: ignore[return-value]


def filesystem_of(location: str) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem of a remote location, and the path in it.

    Raises:
        Unusable: no library knows its protocol, or the library is not installed.
    """
    protocol = location.split("://", 1)[0]
    if protocol in ("gs", "gcs"):
        # Must be set before gcsfs is imported: otherwise each first call asks Google's control API, which hangs
        # for over 40 s against anything else.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec
    import fsspec.config

    options = dict(_FILESYSTEM_OPTIONS.get(protocol, {}))
    own = fsspec.config.conf.get(protocol.replace("s3a", "s3"), {})
    if "config_kwargs" in options and "config_kwargs" in own:  # fsspec would let ours replace the user's
        options["config_kwargs"] = {**options["config_kwargs"], **own["config_kwargs"]}
    try:
        filesystem = fsspec.filesystem(protocol, **options)
    except ImportError as error:
        extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}.get(protocol)
        remedy = f"pip install 'flux-pipelines[{extra}]'" if extra else f"install it: {error}"
        raise Unusable(f"{protocol}:// needs a library that is not installed: {remedy}") from None
    except ValueError as error:
        raise Unusable(f"{quoted(location)}: {error}") from None
    filesystem.invalidate_cache()  # what libraries remember of a listing is not what is there now
    getattr(filesystem, "dircache", {}).clear()  # fsspec's own invalidate_cache does nothing
    return filesystem, filesystem._strip_protocol(location)


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
    content: bytes = filesystem.cat_file(path)
    return content


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
    return cast(BinaryIO, io.BufferedReader(_Remote(text, filesystem.open(path, "rb", block_size=block))))


class _Remote(io.RawIOBase):
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
        if _is_conflict(error):
            return False
        raise
    return True


def _is_conflict(error: BaseException) -> bool:
    """Check whether an object store refused a conditional put: HTTP 412 or 409 somewhere in the chain of causes."""
    seen: BaseException | None = error
    while seen is not None:
        code = getattr(seen, "code", None) or getattr(seen, "status", None)
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode", code)
        if str(code) in ("409", "412"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


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
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the promise holds through a power cut, too; see sync_folder
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
def listing(location: str) -> list[str]:
    """Return the names of the files directly under a folder, sorted; an empty list if there is no such folder."""
    if is_local(location):
        folder = local_path(location)
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_file() and not e.name.endswith(".tmp"))
    return _remote_names(location, "file")


@reporting
def folders(location: str) -> list[str]:
    """Return the names of the folders directly under a folder, sorted; an empty list if there is no such folder."""
    if is_local(location):
        folder = local_path(location)
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return _remote_names(location, "directory")


def _remote_names(location: str, kind: str) -> list[str]:
    filesystem, path = filesystem_of(location)
    try:
        found = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return []
    names = (str(f["name"]).rstrip("/") for f in found if f["type"] == kind)
    return sorted(name.rsplit("/", 1)[-1] for name in names if name.strip("/") != path.strip("/"))
