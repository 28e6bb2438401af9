"""A Prefect server of this process's own: it gets no key, and ends with the process, whatever ends that."""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import cache

import httpx

from flux_tasks.errors import RunStopped, cut
from flux_tasks.settings import is_secret

__all__ = ["EmbeddedServer", "arecorded", "recorded", "startup_seconds"]

_SERVER = """
import os, sys, threading, time

def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

threading.Thread(target=watch, args=(int(sys.argv[1]),), daemon=True).start()
import uvicorn
uvicorn.run(
    "prefect.server.api.server:create_app", factory=True, fd=int(sys.argv[2]), log_level="error", lifespan="on"
)
"""
"""Serves Prefect's API on the socket it is given, and ends when it has another parent than the process it is for."""

_LAST_WORDS = 10.0
"""Seconds that the server has to write down what it was told before it is stopped."""

_REMEDY = (
    "Give it more time with PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start a lasting one with "
    "`prefect server start` and set PREFECT_API_URL to its address, or run without one (--prefect off)"
)


def startup_seconds() -> int:
    """Return how many seconds Prefect's settings give an embedded server to start."""
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    return int(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())


class EmbeddedServer:
    """Prefect's server in a process of its own, which starts at once; ``url`` waits until it answers.

    It uses the database in Prefect's home, so that ``prefect server start`` shows later what it was told.
    """

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - ``stop`` closes it
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            self._url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            given = {n: v for n, v in os.environ.items() if n.startswith("PREFECT_") or not is_secret(n)}
            own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _SERVER, str(os.getpid()), str(listener.fileno())],
                env={**given, **own, "PREFECT_API_URL": self._url},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,  # the Ctrl-C that stops a run is not for its server
            )

    def url(self) -> str:
        """Return the address of its API when it answers there.

        Raises:
            RunStopped: it did not start, or not in the time that Prefect's settings give it.
        """
        seconds = startup_seconds()
        try:  # the socket listens already: one request waits until the server takes it, or ends
            with httpx.Client(trust_env=False, timeout=seconds) as client:
                client.get(f"{self._url}/health").raise_for_status()
        except httpx.TimeoutException:
            what = f"did not answer within {seconds:g} s"
        except httpx.HTTPError as error:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").split("\n")
            told = next((line for line in reversed(lines) if line.strip()), str(error))
            what = f"did not start: {cut(told.strip())}"
        else:
            return self._url
        raise RunStopped(f"Prefect's embedded server {what}. {_REMEDY}")

    def stop(self) -> None:
        """End it; it writes down first what it was told."""
        self._process.terminate()
        try:
            self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@cache
def _shared() -> EmbeddedServer:
    """Return the server for calls outside runs; it stays until the process ends."""
    server = EmbeddedServer()
    atexit.register(server.stop)
    return server


@contextmanager
def _recorded_at(address: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address}):
        yield


def recorded() -> AbstractContextManager[None]:
    """Let Prefect record what is called in the block, on one embedded server for all such blocks."""
    return _recorded_at(_shared().url())


@asynccontextmanager
async def arecorded(server: EmbeddedServer | None = None) -> AsyncIterator[None]:
    """See ``recorded``; on ``server``, if it is given."""
    with _recorded_at(await asyncio.to_thread((server or _shared()).url)):
        yield
