"""Folders for what a library writes on this machine while a run goes on: they go with it, or with the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flux_tasks.store.owner import is_process_alive

__all__ = ["remove_scratch", "scratch"]

_PREFIX = "flux-tmp-"


@contextmanager
def scratch() -> Iterator[str]:
    """Yield a new folder, which is removed at the end of the block. Its path is short where ``RAY_TMPDIR`` is.

    Raises:
        OSError: there is no room for it.
    """
    remove_scratch()
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_root())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _root() -> str:
    return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()


def remove_scratch() -> None:
    """Remove the folders of processes that were killed; so does whatever such a process has started, at its own end."""
    for folder in Path(_root()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not is_process_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
