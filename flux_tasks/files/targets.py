"""Whether files can be written at a place, and by one of several writers: what looking and what trying tells."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from flux_tasks.files.access import patiently, remove, write
from flux_tasks.files.failures import reporting
from flux_tasks.files.locations import canonical, is_local, join, local_path, plain, quoted
from flux_tasks.files.remote.filesystems import OBJECT_STORES, filesystem_of

__all__ = ["creates_exclusively", "missing_bucket", "try_writing", "unwritable", "unwritable_folder"]

LONGEST_NAME = 255
"""Bytes in the name of a file or a folder (ext4, XFS, APFS, NTFS: 255 characters)."""

LONGEST_PATH = {True: 4096, False: 1024}
"""Bytes in a whole path: of a local file (Linux), and of an object's key (S3, GCS)."""

_TRIED = ".flux-pipelines-try"


def unwritable_folder(folder: str) -> str:
    """Return why no file can be written into a folder on this machine, as far as looking at those that exist tells."""
    place = _nearest_that_exists(Path(folder))
    if not place.is_dir():
        return f"{place} is not a folder, and nothing can be written below it: use another name"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"{place} may not be written to: check its permissions"


def unwritable(location: str, in_folder: Callable[[str], str] = unwritable_folder) -> str:
    """Return why no file can be written at ``location``, as far as looking tells; empty if nothing is in its way.

    It looks at the length of names, and on this machine at the folders that are there. Nothing is written.

    Args:
        in_folder: ``unwritable_folder``, or what remembers its answers.
    """
    is_here = is_local(location)
    path = local_path(location).absolute() if is_here else Path(location.partition("://")[2].partition("/")[2])
    if (length := _bytes(str(path))) > LONGEST_NAME:
        name = max(path.parts, key=_bytes, default="")
        if is_here and _bytes(name) > LONGEST_NAME:
            return f"{quoted(name)} has {_bytes(name)} bytes: a name may have {LONGEST_NAME}. Use a shorter one"
        if length > LONGEST_PATH[is_here]:
            return f"{quoted(location)} has {length} bytes: a path may have {LONGEST_PATH[is_here]}"
    if not is_here:
        return ""
    if path.is_dir() and not path.is_symlink():  # a link is replaced
        return f"{path} is a folder: name a file"
    return in_folder(str(path.parent))


def missing_bucket(location: str) -> str:
    """Return the bucket of ``location`` if its store says that there is none of that name; empty otherwise.

    Nothing is known of a bucket that may not be asked about, or whose store does not answer.
    """
    kind, path = canonical(location)
    bucket = path.partition("/")[0].partition("@")[0]
    if kind not in OBJECT_STORES or not bucket:
        return ""
    try:
        filesystem, _ = filesystem_of(location)
        if kind == "s3":  # its exists() is False, too, where asking is not allowed, and without a network
            filesystem.call_s3("head_bucket", Bucket=bucket)
        elif not filesystem.exists(bucket):
            raise FileNotFoundError
    except FileNotFoundError:
        return f"{plain(location).partition('://')[0]}://{path.partition('/')[0]}"
    except Exception:
        return ""  # trying to write will tell
    return ""


@reporting
def try_writing(location: str) -> None:
    """Write something into the folder of ``location`` and remove it, to find out whether that is possible.

    On this machine it is a file without a name, in the nearest folder that exists; in a bucket it is an empty object
    called ``.flux-pipelines-try`` beside ``location``.

    Raises:
        OSError: it is not possible.
    """
    if is_local(location):
        with tempfile.TemporaryFile(dir=_nearest_that_exists(local_path(location).absolute().parent)):
            return
    tried = join(location.rpartition("/")[0], _TRIED)
    patiently(write, tried, b"")
    with contextlib.suppress(OSError):  # some may write and not remove
        remove(tried)


def _nearest_that_exists(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _bytes(name: str) -> int:
    return len(os.fsencode(name))


def creates_exclusively(location: str) -> bool | None:
    """Check whether ``create`` has exactly one winner at ``location``; None where only the server there can tell.

    Raises:
        Unusable: no library knows its protocol, or the library is not installed.
    """
    if is_local(location) or location.startswith("memory://"):
        return True
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    kind = type(filesystem_of(location)[0])
    own = getattr(kind, "_pipe_file", None) if issubclass(kind, AsyncFileSystem) else kind.pipe_file
    # fsspec's own looks first and writes then, so that two writers may both see nothing.
    return False if own in (AbstractFileSystem.pipe_file, AsyncFileSystem._pipe_file) else None
