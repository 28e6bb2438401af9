"""The local server: the BFL API on a port of this machine, in a thread of this process or as a program of its own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import math
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_tasks.errors import EndpointUnreachable, Problem, RecipeError
from flux_tasks.local import engines
from flux_tasks.local.faults.schedule import Faults
from flux_tasks.local.service.charges import ChargeLog
from flux_tasks.local.service.clock import Clock, VirtualClock
from flux_tasks.local.service.latency import LatencySpec, latencies
from flux_tasks.settings import is_loopback

if TYPE_CHECKING:
    import uvicorn

    from flux_tasks.local.recording.recorder import RecordingApi
    from flux_tasks.local.recording.replayer import ReplayApi
    from flux_tasks.local.web.app import LocalApi

__all__ = ["LocalServer", "serve"]

KEEP_ALIVE = 75
"""Seconds an idle connection stays open: longer than at clients, or one would send a paid job over a connection that is
being closed."""


class LocalServer:
    """Serves the BFL API without key and network::

        with LocalServer() as server:
            requests.post(f"{server.url}/v1/flux-tools/deblur-v1", json={"image": …})

    Args:
        port: on ``host``; 0 means any free one.
        host: a loopback address.
        key: the only key that is accepted; None accepts any, and none.
        credits: on the account at the start.
        cap: active jobs at a time (24 at BFL).
        expiry: seconds a delivery address is valid; None for BFL's own: 600, and 3600 for FLUX 3.
        engine: name of the engine.
        workers: jobs that the engine works on at a time; None for one per CPU.
        retention: seconds a finished job is remembered.
        strict: follow the newest specification alone: no short paths and field names of the seed documents,
            ``dilate_pixels`` up to 25.
        faults: the fault schedule; see ``flux_tasks.local.faults``. ``faults.set`` changes it while the server runs.
        latency: seconds a job takes at least: for all tools, or by tool (``*`` for the others); each a number or a
            pair of mean and jitter.
        webhook_retries: seconds before each repetition of a call-back that was not answered with 2xx.
        charges: a file that gets a JSON line for every charge.
        virtual_time: latency, expiry, retention and webhook retries wait for ``advance``.
        record: make no pictures: pass everything on to ``upstream`` and record it in this folder. Spends the credits
            of the account there.
        upstream: ``bfl``, ``eu``, ``us``, or the address of a server that speaks the API.
        upstream_key: its key; empty passes on the ``x-key`` of each request.
        replay: answer from the recordings in this folder alone.

    Raises:
        RecipeError: no such engine, a host that is not loopback, a wrong fault schedule, or a file of charges that
            cannot be written.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        key: str | None = None,
        credits: float = 1000.0,
        cap: int = 24,
        expiry: float | None = None,
        engine: str = "classical",
        workers: int | None = None,
        retention: float = 3600.0,
        strict: bool = False,
        faults: Any = (),
        latency: LatencySpec | Mapping[str, LatencySpec] = 0.0,
        webhook_retries: Sequence[float] = (1.0, 5.0, 30.0),
        charges: str | Path | None = None,
        virtual_time: bool = False,
        record: str | Path | None = None,
        upstream: str = "bfl",
        upstream_key: str = "",
        replay: str | Path | None = None,
    ) -> None:
        workers = (os.cpu_count() or 1) if workers is None else workers
        _check(key=key, credits=credits, cap=cap, expiry=expiry, retention=retention, workers=workers)
        if record is not None and replay is not None:
            problem = Problem("record", "cannot be used together with replay: a server does one or the other")
            raise RecipeError([problem])
        if record is not None or replay is not None:
            numbers = {"credits": credits != 1000.0, "cap": cap != 24, "expiry": expiry is not None}
            others = {"faults": bool(faults), "latency": bool(latency), "strict": strict, "virtual_time": virtual_time}
            given = {"key": key is not None, "charges": charges is not None, **numbers, **others}
            mode = "record" if record is not None else "replay"
            if any(given.values()):
                raise RecipeError([Problem(name, f"means nothing with {mode}") for name in given if given[name]])
        self._record = (Path(record), upstream, upstream_key) if record is not None else None
        self._replay = Path(replay) if replay is not None else None
        self._origin = f"http://[{host}]" if ":" in host else f"http://{host}"
        if not is_loopback(self._origin):
            raise RecipeError([Problem("host", f"{host} is not loopback: the local server is for this machine alone")])
        engines.identity(engine)
        self.faults = Faults(faults)
        self._clock = VirtualClock() if virtual_time else Clock()
        self._strict = strict
        self.charges = ChargeLog(credits, file=charges)
        self._host = host
        self._port = port
        self._key = key
        self._engine = engine
        self._options: dict[str, Any] = {"cap": cap, "expiry": expiry, "retention": retention, "workers": workers}
        self._options |= {"latency": latencies(latency), "retries": webhook_retries}
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._url = ""
        self._api: LocalApi | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

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
        if self._record is None and self._replay is None:
            absent += engines.missing(self._engine)
        if absent:
            raise EndpointUnreachable(
                f"the local server needs {', '.join(absent)}, not installed here: pip install 'flux-pipelines[local]'"
            )
        import uvicorn

        from flux_tasks.local.web.faulty_answers import Protocol

        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        self._url = f"{self._origin}:{self._port}"
        try:
            api = self._make()
        except BaseException:
            listener.close()
            raise
        config = uvicorn.Config(
            api.app,
            loop="asyncio",
            http=Protocol,
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
            self._loop = asyncio.get_running_loop()
            try:
                await server.serve(sockets=[listener])
            finally:
                await api.close()

        self._thread = threading.Thread(target=asyncio.run, args=(answer(),), name="flux-local", daemon=True)
        self._thread.start()  # requests need not wait for it: the socket is listening already
        return self

    def _make(self) -> LocalApi | RecordingApi | ReplayApi:
        """Return the application, or raise a RecipeError for recordings or an upstream that cannot be used."""
        if self._replay is not None:
            from flux_tasks.local.recording.replayer import ReplayApi

            return ReplayApi(url=self._url, folder=self._replay)
        if self._record is not None:
            from flux_tasks.local.recording.recorder import RecordingApi

            folder, upstream, key = self._record
            try:
                return RecordingApi(url=self._url, folder=folder, upstream=upstream, key=key)
            except OSError as error:
                raise RecipeError([Problem("record", f"{folder} cannot be written ({error.strerror})")]) from None
        from flux_tasks.local.service.jobs import Jobs
        from flux_tasks.local.web.app import LocalApi

        shared: dict[str, Any] = {"charges": self.charges, "faults": self.faults, "clock": self._clock}
        jobs = Jobs(engine=self._engine, **shared, **self._options)
        self._api = LocalApi(url=self._url, key=self._key, strict=self._strict, jobs=jobs)
        return self._api

    def stop(self) -> None:
        """Stop answering, wait for the engine to finish what it is doing, and remove all results."""
        thread, self._thread = self._thread, None
        if thread is None or self._server is None:
            return
        self._server.should_exit = True
        thread.join()
        self._loop = None
        self.charges.close()

    @property
    def requests(self) -> Counter[str]:
        """How many submissions, polls and fetches arrived, refused ones included."""
        return Counter(self._api.requests) if self._api is not None else Counter()

    def advance(self, seconds: float) -> None:
        """Move the virtual clock, and wake what waits for it.

        An engine works and a webhook's receiver answers in real time. What waits for them goes on after that; a
        webhook's next retry then waits for the clock to be moved again.

        Raises:
            RuntimeError: the server was not started with ``virtual_time``, or not started at all.
        """
        if not isinstance(self._clock, VirtualClock):
            raise RuntimeError("this server runs in real time: make it with virtual_time=True")  # noqa: TRY004
        if self._loop is None:
            raise RuntimeError("the local server is not started")
        asyncio.run_coroutine_threadsafe(self._clock.advance(seconds), self._loop).result()

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
        listener.listen(2048)  # requests wait here from now on, also while the thread starts
    except (OSError, OverflowError) as error:
        listener.close()
        raise RecipeError([Problem("port", f"{port} on {host} cannot be used ({error}): choose another")]) from None
    return listener


def _check(*, key: str | None, **numbers: float | None) -> None:
    """Check the numbers of an account and a server, and raise a RecipeError with every problem."""
    problems = [Problem("key", "is empty: leave it out, and any key and none are accepted")] if key == "" else []
    for name, value in numbers.items():
        least = 1 if name in ("cap", "workers") else 0
        if name == "expiry" and value is None:  # that of each tool
            continue
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= least):
            problems.append(Problem(name, f"{value!r} is not a number of at least {least}"))
    if problems:
        raise RecipeError(problems)


def serve(host: str = "127.0.0.1", port: int = 8765, **options: Any) -> None:
    """Run a local server until it is interrupted; takes the arguments of ``LocalServer``."""
    over = threading.Event()
    with contextlib.suppress(ValueError):  # not on the main thread
        signal.signal(signal.SIGTERM, lambda *_: over.set())
    with LocalServer(port, host=host, **options) as server:
        if options.get("record"):
            does = f"passes everything on to {options.get('upstream', 'bfl')} and records it"
            note = f"in {options['record']}: prompts and pictures, no key. Jobs are paid for."
        elif options.get("replay"):
            does, note = f"answers from the recordings in {options['replay']}", "and nothing else."
        else:
            does = f"serves the BFL API, engine {engines.identity(options.get('engine', 'classical'))}"
            note = "Its pictures are previews, not made by FLUX."
        print(f"{server.url} {does}\n{note} Stop it with Ctrl-C.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            over.wait()
