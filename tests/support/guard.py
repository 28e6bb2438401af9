"""Run a command for as long as somebody holds the other end of the standard input; then end it.

The processes of the tests start their servers through this script. However those processes end, killed ones included,
the kernel closes their end of the pipe, and the server goes.

Arguments: the folder of a shared server, or ``-``; then the command. The folder is removed with the server. A process
that begins to use a shared server holds the lock beside the folder meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 10.0
"""Seconds that the command has between SIGTERM and SIGKILL."""


def main() -> None:
    folder, *command = sys.argv[1:]
    if folder != "-" and os.fork():  # the server of all is no child of the one that started it
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ending = threading.Event()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # it may serve a socket of ours
    threading.Thread(target=_follow, args=(child, ending), daemon=True).start()
    try:
        _wait_for_users()
        if folder != "-":
            with Path(f"{folder}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                while _has_users():
                    fcntl.flock(lock, fcntl.LOCK_UN)
                    _wait_for_users()
                    fcntl.flock(lock, fcntl.LOCK_EX)
                ending.set()
                _end(child)
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        ending.set()
        _end(child)


def _wait_for_users() -> None:
    """Return once the last process that holds the other end has closed it."""
    while os.read(0, 1):
        pass


def _has_users() -> bool:
    """Check whether another process has opened the pipe since the last one closed it."""
    os.set_blocking(0, False)
    try:
        return os.read(0, 1) != b""
    except BlockingIOError:
        return True
    finally:
        os.set_blocking(0, True)


def _follow(child: subprocess.Popen[bytes], ending: threading.Event) -> None:
    """End when the command does."""
    code = child.wait()
    if not ending.is_set():
        os._exit(code & 255)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main()
