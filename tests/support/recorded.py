"""Recorder and replay on ports of their own, and a client's moves towards them."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fake_bfl import FakeBfl
from pictures import encoded
from waiting import PATIENCE

from flux_tasks import catalog
from flux_tasks.api.client import BflClient
from flux_tasks.local.recording.recorder import RecordingApi
from flux_tasks.local.recording.replayer import ReplayApi
from flux_tasks.local.web.faulty_answers import Protocol

__all__ = [
    "DEBLUR",
    "KEY",
    "POST",
    "body",
    "deblur",
    "documents",
    "poll",
    "poll_until_ready",
    "post",
    "ready",
    "recording",
    "replaying",
    "served",
    "with_client",
    "written",
]

KEY = "bfl-3f0c6c1e-key-of-the-test"
DEBLUR = catalog.TOOLS["deblur-v1"]
POST = "POST /v1/flux-tools/deblur-v1"


@contextmanager
def served(make: Callable[[str], Any]) -> Iterator[str]:
    """The application that ``make`` returns for an address, on that address."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sends at once only where it reads that it is TCP
    listener.bind(("127.0.0.1", 0))
    listener.listen(100)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        api = make(url)
    except BaseException:
        listener.close()
        raise
    server = uvicorn.Server(uvicorn.Config(api.app, loop="asyncio", http=Protocol, lifespan="off", log_config=None))

    async def answer() -> None:
        await server.serve(sockets=[listener])
        await api.close()

    thread = threading.Thread(target=asyncio.run, args=(answer(),))
    thread.start()
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def recording(bfl: FakeBfl, folder: Path, *, key: str = KEY) -> Iterator[str]:
    with served(lambda url: RecordingApi(url=url, folder=folder, upstream=bfl.url, key=key)) as url:
        yield url


@contextmanager
def replaying(folder: Path) -> Iterator[str]:
    with served(lambda url: ReplayApi(url=url, folder=folder)) as url:
        yield url


def body(seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(encoded(seed=seed)).decode(), "seed": seed, **more}


def post(url: str, content: dict[str, Any], tool: str = "flux-tools/deblur-v1", **options: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{tool}", json=content, **options)


def poll(url: str, job_id: str = "job-1") -> httpx.Response:
    return httpx.get(f"{url}/v1/get_result", params={"id": job_id})


def with_client(url: str, program: Callable[[BflClient], Any], key: str = "") -> Any:
    async def run() -> Any:
        async with BflClient(url, key, poll_interval=0.002) as client:
            return await program(client)

    return asyncio.run(run())


async def deblur(client: BflClient, **more: Any) -> tuple[Any, bytes]:
    """One job from its submission to its bytes; what does not depend on the server's address."""
    submitted = await client.submit(DEBLUR, body(**more))
    finished = await client.wait(submitted.id, submitted.polling_url, deadline=PATIENCE)
    return (submitted.id, submitted.cost, finished.cost, finished.details), await client.fetch(finished)


def documents(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def written(folder: Path) -> bytes:
    """Every byte and every name in the folder."""
    return b"\n".join(file.name.encode() + b"\n" + file.read_bytes() for file in folder.iterdir())


def ready(bfl: FakeBfl, query: str = "", **more: Any) -> dict[str, Any]:
    return {"id": "job-1", "status": "Ready", "result": {"sample": f"{bfl.url}/sample{query}", "seed": 1}, **more}


def poll_until_ready(url: str) -> str:
    while (answer := poll(url).json())["status"] != "Ready":
        pass
    return str(answer["result"]["sample"])
