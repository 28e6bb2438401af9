"""Large files that are written bit by bit on this machine, and get their name on any location when they are whole."""

from __future__ import annotations

import errno
import getpass
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from flux_tasks.files.access import sync_folder, upload
from flux_tasks.files.locations import is_local, local_path

__all__ = ["Staging", "remove_leftovers"]

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.tmp", re.DOTALL)


class Staging:
    """A folder of this machine for files that are not whole yet.

    It is ``folder`` itself where that is on this machine, so that a file gets its name by being renamed; else one in
    the system's folder for temporary files. Only one process may use it at a time: ``clear`` removes what a killed one
    has left.
    """

    def __init__(self, folder: str) -> None:
        if is_local(folder):
            self._folder = local_path(folder)
        else:
            name = hashlib.blake2b(folder.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
            with suppress(OSError, KeyError):  # as in a container whose user has no name
                name = f"{getpass.getuser()}-{name}"
            self._folder = Path(tempfile.gettempdir()) / f"flux-pipelines-{name}"

    def new(self) -> Path:
        """Return the path of a new file, which does not exist yet.

        Raises:
            OSError: the folder cannot be made.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.name == "posix" and self._folder.lstat().st_uid != os.getuid():
            raise PermissionError(errno.EACCES, "belongs to another user", str(self._folder))
        return self._folder / secrets.token_hex(8)

    def publish(self, file: Path, location: str) -> None:
        """Give a whole file its place, replacing what is there; a reader sees the old bytes or the new, never a part.

        Raises:
            OSError: it cannot be written.
        """
        if not is_local(location):
            upload(location, file)
            file.unlink()
            return
        with file.open("rb+") as written:
            os.fsync(written.fileno())
        path = local_path(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        file.replace(path)
        sync_folder(str(path.parent))

    def clear(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def remove_leftovers(folder: str) -> None:
    """Remove the temporary files that killed writers have left below a folder of this machine; see ``write``."""
    if is_local(folder):
        for path in local_path(folder).rglob(".*.tmp"):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
