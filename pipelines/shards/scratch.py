"""Folders for what a library writes on this machine while a run goes on: they go with it, or with the next one."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    """Remove the folders of processes that were killed, and end what still writes there.

    So does whatever such a process has started, at its own end.
    """
    for folder in Path(_root()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not is_process_alive(int(pid)):
            _end_writers(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _end_writers(folder: Path) -> None:
    """End the processes that write to a file of this folder: Ray's agents outlive a killed cluster by a minute.

    A system without ``/proc`` leaves them that minute. One that only reads, such as ``tail -f`` of a log, goes on.
    """
    inside = f"{folder.resolve()}{os.sep}"
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        process, pid = descriptor.parents[1], int(descriptor.parts[2])
        with suppress(OSError):  # it has ended, or is another user's
            if pid == os.getpid() or not str(descriptor.readlink()).startswith(inside):
                continue
            facts = dict(line.split(":", 1) for line in (process / "fdinfo" / descriptor.name).read_text().splitlines())
            if int(facts["flags"], 8) & os.O_ACCMODE != os.O_RDONLY:
                os.kill(pid, signal.SIGKILL)
