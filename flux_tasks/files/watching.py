"""Telling which files are read or looked for, to whoever has to know of what something was made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["notice", "watching"]

_watcher: ContextVar[Callable[[str], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Callable[[str], None]) -> Iterator[None]:
    """Tell ``watcher`` the location of each file that is read or looked for in the block, before that happens.

    It is called on the thread that reads, and also in tasks and threads that begin in the block.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def notice(location: str | os.PathLike[str]) -> None:
    """Tell whoever watches that ``location`` is read or looked for."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(os.fspath(location))
