"""The local server: the BFL API on a port of this machine, in a thread of this process or as a program of its own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_tasks.errors import EndpointUnreachable, Problem, RecipeError
from flux_tasks.local import engines
from flux_tasks.local.book import Book
from flux_tasks.settings import is_loopback

if TYPE_CHECKING:
    import uvicorn

__all__ = ["LocalServer", "serve"]

KEEP_ALIVE = 75
"""Seconds an idle connection stays open: longer than clients keep theirs, or one would send a paid job into a
connection that is just being closed."""


class LocalServer:
    """Serves the BFL API without key and network::

        with LocalServer() as server:
            requests.post(f"{server.url}/v1/flux-tools/deblur-v1", json={"image": …})

    Args:
        port: on ``host``; 0 takes a free one.
        host: a loopback address.
        key: the only key that is accepted; None accepts any, and none.
        credits: on the account to begin with.
        cap: active jobs at a time (24 at BFL).
        expiry: seconds a delivery address is valid (600 at BFL).
        engine: name of the engine.
        workers: engine threads; None for one per CPU.
        retention: seconds a finished job is remembered.

    Raises:
        RecipeError: no such engine, or a host that is not loopback.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        key: str | None = None,
        credits: float = 1000.0,
        cap: int = 24,
        expiry: float = 600.0,
        engine: str = "classical",
        workers: int | None = None,
        retention: float = 3600.0,
    ) -> None:
        if not is_loopback(f"http://[{host}]" if ":" in host else f"http://{host}"):
            raise RecipeError([Problem("host", f"{host} is not loopback: the local server is for this machine alone")])
        engines.identity(engine)
        self.book = Book(credits)
        self._host = host
        self._port = port
        self._key = key
        self._engine = engine
        self._options: dict[str, Any] = {
            "cap": cap,
            "expiry": expiry,
            "retention": retention,
            "workers": workers or os.cpu_count() or 1,
        }
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._url = ""
        self._tidy: weakref.finalize[Any, Any] | None = None

    @property
    def url(self) -> str:
        """Its address, without a trailing slash; known once it is started.

        Raises:
            RuntimeError: it is not started yet.
        """
        if not self._url:
            raise RuntimeError("the local server is not started: call start(), or use it as a context manager")
        return self._url

    def start(self) -> LocalServer:
        """Listen, and answer from a thread.

        Raises:
            RecipeError: the port is taken.
            EndpointUnreachable: the libraries it needs are not installed.
        """
        if self._thread is not None:
            return self
        absent = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
        if absent := [*absent, *engines.missing(self._engine)]:
            raise EndpointUnreachable(
                f"the local server needs {', '.join(absent)}, not installed here: pip install 'flux-pipelines[local]'"
            )
        import uvicorn

        from flux_tasks.local.app import LocalApi
        from flux_tasks.local.jobs import Jobs

        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        self._url = f"http://[{self._host}]:{self._port}" if ":" in self._host else f"http://{self._host}:{self._port}"
        folder = Path(tempfile.mkdtemp(prefix="flux-local-"))
        self._tidy = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        api = LocalApi(
            url=self._url,
            engine=self._engine,
            key=self._key,
            book=self.book,
            jobs=Jobs(engine=self._engine, book=self.book, folder=folder, **self._options),
        )
        config = uvicorn.Config(
            api.app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=5,
        )
        server = self._server = uvicorn.Server(config)

        async def answer() -> None:
            try:
                await server.serve(sockets=[listener])
            finally:
                await api.close()

        self._thread = threading.Thread(target=asyncio.run, args=(answer(),), name="flux-local", daemon=True)
        self._thread.start()  # requests need not wait for it: the socket has been listening for a while
        return self

    def stop(self) -> None:
        """Stop answering, wait for the engine to finish what it is doing, and remove all results."""
        thread, self._thread = self._thread, None
        if thread is None or self._server is None:
            return
        self._server.should_exit = True
        thread.join()
        if self._tidy is not None:
            self._tidy()

    def __enter__(self) -> LocalServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"LocalServer({self._url or 'not started'})"


def _listen(host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's delay off (40 ms an answer) only on sockets that are said to be TCP.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)  # requests wait here from now on, also while the thread is only starting
    except (OSError, OverflowError) as error:
        listener.close()
        raise RecipeError([Problem("port", f"{port} on {host} cannot be used ({error}): choose another")]) from None
    return listener


def serve(host: str = "127.0.0.1", port: int = 8765, **options: Any) -> None:
    """Run a local server until it is interrupted; takes the arguments of ``LocalServer``."""
    over = threading.Event()
    with contextlib.suppress(ValueError):  # not on the main thread
        signal.signal(signal.SIGTERM, lambda *_: over.set())
    with LocalServer(port, host=host, **options) as server:
        print(f"{server.url} serves the BFL API, engine {engines.identity(options.get('engine', 'classical'))}")
        print("What it makes is a preview, not made by FLUX. Stop it with Ctrl-C.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            over.wait()
