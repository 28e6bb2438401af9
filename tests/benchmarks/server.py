"""Stand in for the service: real HTTP, jobs that take time, 24 slots, 429 above them, and a book of it all.

    python server.py    # prints its address; ends when its standard input is closed

It delivers one of a few pictures of the same size that it has made beforehand, with a comment of its own: so it spends
next to nothing itself, and each result is a new file with other pixels, as a real one is. The n-th job since the book
was opened takes the n-th of a seeded row of durations: each contestant waits for the same work.

``POST /book`` with ``{"seconds": 1.0, "slots": 24, "megapixels": 0.4}`` opens a new book, ``GET /book`` reads it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import sys
import time
from functools import cache
from typing import Any

from aiohttp import web
from workload import commented, grain

SPREAD = 0.15
"""Standard deviation of a job's duration, as a share of its mean."""

_PICTURES = 5


@cache
def results(megapixels: float) -> list[bytes]:
    """Return the pictures that are delivered."""
    return [grain(megapixels) for _ in range(_PICTURES)]


class Book:
    """What happened since it was opened.

    Attributes:
        busy: slot-seconds between each job's submission and its end.
        active: when each active job ends, a heap.
    """

    def __init__(self, seconds: float = 1.0, slots: int = 24, megapixels: float = 0.4, seed: int = 7) -> None:
        self.seconds, self.slots, self.pictures = seconds, slots, results(megapixels)
        self.random = random.Random(seed)
        self.jobs = self.polls = self.refused = 0
        self.busy = self.first = self.last = 0.0
        self.active: list[float] = []
        self.cpu = time.process_time()

    def submit(self) -> float | None:
        """Return when the new job ends; None if all slots are taken."""
        now = time.monotonic()
        while self.active and self.active[0] <= now:
            heapq.heappop(self.active)
        if len(self.active) >= self.slots:
            self.refused += 1
            return None
        share = min(max(self.random.gauss(1.0, SPREAD), 0.5), 1.5)
        end = now + self.seconds * share
        heapq.heappush(self.active, end)
        self.first = self.first or now
        self.last = max(self.last, end)
        self.jobs += 1
        self.busy += end - now
        return end

    def read(self) -> dict[str, Any]:
        """Return the counts, the share of the slots in use, and this server's own share of a core while jobs ran."""
        span = self.last - self.first
        return {
            **{name: getattr(self, name) for name in ("jobs", "polls", "refused", "slots")},
            "use": self.busy / (self.slots * span) if span else 0.0,
            "span": span,
            "server": (time.process_time() - self.cpu) / span if span else 0.0,
        }


class Service:
    """The endpoints of the API that the contestants call."""

    def __init__(self) -> None:
        self.book = Book()
        self.ids = itertools.count(1)
        self.ends: dict[str, float] = {}

    async def submit(self, request: web.Request) -> web.Response:
        """Begin a job."""
        await request.read()  # it is not parsed, because nothing in it matters here
        end = self.book.submit()
        if end is None:
            return web.json_response({"detail": "too many active jobs"}, status=429)
        job = f"job-{next(self.ids)}"
        self.ends[job] = end
        polling_url = f"{request.scheme}://{request.host}/v1/get_result?id={job}"
        return web.json_response({"id": job, "polling_url": polling_url, "cost": 3.0})

    async def poll(self, request: web.Request) -> web.Response:
        """Tell whether a job has ended."""
        self.book.polls += 1
        job = request.query["id"]
        if job not in self.ends:
            return web.json_response({"id": job, "status": "Task not found"}, status=404)
        if time.monotonic() < self.ends[job]:
            return web.json_response({"id": job, "status": "Pending"})
        sample = f"{request.scheme}://{request.host}/files/{job}.png"
        return web.json_response({"id": job, "status": "Ready", "result": {"sample": sample}, "cost": 3.0})

    async def deliver(self, request: web.Request) -> web.Response:
        """Send a picture."""
        job = request.match_info["job"]
        picture = self.book.pictures[int(job.rpartition("-")[2]) % _PICTURES]
        return web.Response(body=commented(picture, job), content_type="image/png")

    async def credits(self, request: web.Request) -> web.Response:
        """Tell that there is no lack of credits."""
        return web.json_response({"credits": 1_000_000.0})

    async def open_book(self, request: web.Request) -> web.Response:
        """Begin a new book; earlier jobs are forgotten."""
        self.ends.clear()
        self.book = Book(**await request.json())
        return web.json_response({})

    async def read_book(self, request: web.Request) -> web.Response:
        """Show the book."""
        return web.json_response(self.book.read())


async def main() -> None:
    """Serve until the standard input is closed."""
    service = Service()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_get("/v1/get_result", service.poll)
    app.router.add_get("/v1/credits", service.credits)
    app.router.add_get("/files/{job}.png", service.deliver)
    app.router.add_post("/book", service.open_book)
    app.router.add_get("/book", service.read_book)
    app.router.add_post("/v1/{tool:.+}", service.submit)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
