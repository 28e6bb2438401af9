"""Where the rounds keep their results: a folder, S3 or Google Cloud Storage, the last two behind a proxy with faults.

The driver reads the servers directly; the runs reach them through a proxy that cuts connections before or after a
request had its effect, is slow, and answers 500 or 503 in the place of a server that did or did not do its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yarl
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from object_stores import fake_gcs, new_bucket_name, reach_gcs, reach_s3
from servers import running, unused_port

from flux_tasks import files

__all__ = ["KINDS", "LOCAL", "FaultyProxy", "Shelf", "shelf"]

KINDS = ("local", "s3", "gcs")

_FAULTS = ("cut before", "cut after", "500 before", "500 after", "503 before", "503 after", "slow", "slow")
_NOT_PASSED_ON = ("connection", "expect", "host", "keep-alive", "transfer-encoding", "content-length")
_AWS = {
    "AWS_ACCESS_KEY_ID": "throw-away",
    "AWS_SECRET_ACCESS_KEY": "throw-away",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class FaultyProxy:
    """Passes HTTP requests on to ``upstream``; a ``share`` of them meets a fault, and is noted in ``failures``."""

    def __init__(self, upstream: str, seed: str) -> None:
        self.url = f"http://127.0.0.1:{unused_port()}"
        self.share = 0.0
        self.failures: list[tuple[int, str, str, str]] = []
        self._upstream = upstream
        self._random = random.Random(seed)
        self._is_ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    async def _serve(self) -> None:
        app = web.Application(client_max_size=100_000_000)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(self.url.rpartition(":")[2])).start()
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            self._is_ready.set()
            await self._end.wait()
        await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except ConnectionError:  # who asked was killed
            return web.Response(status=500)
        fault = self._random.choice(_FAULTS) if self._random.random() < self.share else ""
        kind, _, when = fault.partition(" ")
        if fault:
            self.failures.append((0, f"{kind} {request.method}", when or "before", request.path))
        if kind == "slow":
            await asyncio.sleep(self._random.uniform(0.1, 1.5))
        if when == "before":
            return self._refuse(request, kind)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_PASSED_ON}
        address = yarl.URL(self._upstream + request.raw_path, encoded=True)
        asked = self._session.request(request.method, address, headers=headers, data=body, allow_redirects=False)
        async with asked as answer:
            content = await answer.read()
        if when == "after":
            return self._refuse(request, kind)
        passed = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_PASSED_ON}
        if request.method == "HEAD" and "Content-Length" in answer.headers:
            passed["Content-Length"] = answer.headers["Content-Length"]
        return web.Response(status=answer.status, body=content or None, headers=passed)

    def _refuse(self, request: web.Request, kind: str) -> web.Response:
        if kind == "cut" and request.transport is not None:
            request.transport.abort()
        return web.Response(status=int(kind) if kind.isdecimal() else 500)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        self._is_ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()


@dataclass
class Shelf:
    """A kind of store.

    Attributes:
        environment: what a run has to be told to reach it.
    """

    kind: str = "local"
    environment: Mapping[str, str] = field(default_factory=dict)
    proxy: FaultyProxy | None = None

    def new_store(self, folder: Path) -> str:
        """Return the address of an empty store, for a round that is played in ``folder``."""
        if self.kind == "local":
            return str(folder / "store")
        import fsspec

        scheme = {"s3": "s3", "gcs": "gs"}[self.kind]
        files.exists(f"{scheme}://any-bucket/any")  # imports its library the way the product does
        bucket = new_bucket_name()
        fsspec.filesystem(scheme).mkdir(bucket)
        return f"{scheme}://{bucket}/store"


LOCAL = Shelf()


@contextlib.contextmanager
def shelf(kind: str, folder: Path, seed: str) -> Iterator[Shelf]:
    """Yield a kind of store; its server and its proxy run until the block ends."""
    if kind == "local":
        yield LOCAL
        return
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(_moto(folder) if kind == "s3" else fake_gcs(folder))
        proxy = stack.enter_context(FaultyProxy(upstream, seed))
        stack.enter_context(reach_s3(upstream) if kind == "s3" else reach_gcs(upstream))
        environment: dict[str, Any] = {**_AWS, "FSSPEC_S3_ENDPOINT_URL": proxy.url}
        if kind == "gcs":
            environment = {"STORAGE_EMULATOR_HOST": proxy.url, "FSSPEC_GS_TOKEN": "anon", "FSSPEC_GS_PROJECT": "p"}
        yield Shelf(kind, environment, proxy)


@contextlib.contextmanager
def _moto(folder: Path) -> Iterator[str]:
    """Yield the address of an S3 server in a process of its own: this one has the service to serve."""
    port = unused_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder / "moto.log", f"http://127.0.0.1:{port}/") as url:
        yield url.rstrip("/")
