"""Real paths of files on this machine: many files in few folders, so that each folder's links are followed once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flux_tasks.files.locations import canonical, is_local, local_name

__all__ = ["RealPaths"]

_FOLDERS = 4096


class RealPaths:
    """Real paths of local files. A folder that becomes a link, or another one, is not seen any more: use it briefly.

    Attributes:
        folder: returns the absolute path of a folder, its links followed. It raises RuntimeError or OSError for a link
            that leads to itself, and ValueError for a NUL.
    """

    def __init__(self) -> None:
        self.folder: Callable[[str], str] = lru_cache(_FOLDERS)(_resolved)

    def identity(self, location: str) -> str:
        """Return a text that is the same for every spelling of one location."""
        if not is_local(location):
            return "://".join(canonical(location))
        path = local_name(location)
        folder, _, name = path.rpartition("/")
        try:
            if os.name == "nt" or name in ("", ".", ".."):
                return _resolved(path)
            real = f"{self.folder(folder or path[: -len(name)] or '.').rstrip('/')}/{name}"
            return _resolved(real) if os.path.islink(real) else real  # noqa: PTH114 - once for each file of a run
        except (OSError, RuntimeError, ValueError):  # a link that leads to itself, a NUL in it
            return str(Path(path).absolute())


def _resolved(path: str) -> str:
    return str(Path(path).resolve())
