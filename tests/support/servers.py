"""Server processes of the tests: one of its own for a block, or one that all processes of a test run share.

Each ends when nobody uses it any more, also when its users were killed: see ``guard``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from waiting import PATIENCE

__all__ = ["running", "shared", "unused_port"]

GUARD = [sys.executable, "-S", "-E", str(Path(__file__).with_name("guard.py"))]


def unused_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, probe: str) -> Iterator[str]:
    """Run ``command`` until the block ends; the block begins with its first answer to a GET of ``probe``."""
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [*GUARD, "-", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the tests, which end it afterwards
        )
    try:
        _wait_for_answer(lambda: guard.poll() is None, log, probe)
        yield probe
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(PATIENCE)


@contextlib.contextmanager
def shared(folder: Path, command: Callable[[int], Sequence[str]], path: str, **environment: str) -> Iterator[str]:
    """Yield the address of a server that all processes of this test run share; the first one starts it.

    Args:
        folder: the same in all processes; it does not exist yet, and goes with the server.
        command: given the descriptor of a listening socket, what serves it.
        path: answers a GET when the server is ready.
        environment: further variables for the server.
    """
    address = folder / "address"
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        user = _join(folder)
        if user is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            user = _start(folder, command, path, environment)
    try:
        yield address.read_text()
    finally:
        os.close(user)


def _join(folder: Path) -> int | None:
    """Return a descriptor that keeps the running server, or nothing if none runs."""
    try:
        return os.open(folder / "users", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # no pipe, or no guard that reads from it
        return None


def _start(folder: Path, command: Callable[[int], Sequence[str]], path: str, environment: Mapping[str, str]) -> int:
    os.mkfifo(folder / "users")
    read = os.open(folder / "users", os.O_RDONLY | os.O_NONBLOCK)
    user = os.open(folder / "users", os.O_WRONLY)
    os.set_blocking(read, True)
    log = folder / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        address = "http://{}:{}".format(*listener.getsockname())
        subprocess.run(
            [*GUARD, str(folder), *command(listener.fileno())],
            stdin=read,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            pass_fds=[listener.fileno()],
            start_new_session=True,
            check=True,
        )
    os.close(read)
    _wait_for_answer(lambda: _is_running(folder), log, address + path)
    (folder / "address").write_text(address)
    return user


def _is_running(folder: Path) -> bool:
    user = _join(folder)
    if user is not None:
        os.close(user)
    return user is not None


def _wait_for_answer(is_running: Callable[[], bool], log: Path, probe: str) -> None:
    over = time.monotonic() + PATIENCE
    while is_running() and time.monotonic() < over:
        try:
            urllib.request.urlopen(probe, timeout=PATIENCE).close()
            return
        except urllib.error.HTTPError as error:  # an answer is an answer
            error.close()
            return
        except OSError:
            time.sleep(0.025)
    pytest.fail(f"no server answers at {probe}: {log.read_text()}", pytrace=False)
