"""Stand in for the service: real HTTP, jobs that take time, 24 slots, 429 above them, and a book of it all.

    python server.py    # prints its address; ends when its standard input is closed

It delivers the picture that it was sent, so it spends next to nothing itself. The n-th job since the book was opened
takes the n-th of a seeded row of durations: each contestant waits for the same work.

``POST /book`` with ``{"seconds": 1.0, "slots": 24, "seed": 7}`` opens a new book, ``GET /book`` reads it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import re
import sys
import time
from binascii import a2b_base64
from typing import Any

from aiohttp import web

SPREAD = 0.15
"""Standard deviation of a job's duration, as a share of its mean."""

# The longest value is the picture; the body is not parsed, because nothing else in it matters here.
_PICTURE = re.compile(rb'"([A-Za-z0-9+/=]{200,})"')


class Book:
    """What happened since it was opened.

    Attributes:
        busy: slot-seconds between each job's submission and its end.
        active: when each active job ends, a heap.
    """

    def __init__(self, seconds: float = 1.0, slots: int = 24, seed: int = 7) -> None:
        self.seconds, self.slots = seconds, slots
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
        self.jobs: dict[str, tuple[float, bytes]] = {}

    async def submit(self, request: web.Request) -> web.Response:
        """Begin a job."""
        body = await request.read()
        end = self.book.submit()
        if end is None:
            return web.json_response({"detail": "too many active jobs"}, status=429)
        found = _PICTURE.search(body)
        job = f"job-{next(self.ids)}"
        self.jobs[job] = (end, found[1] if found else b"")
        polling_url = f"{request.scheme}://{request.host}/v1/get_result?id={job}"
        return web.json_response({"id": job, "polling_url": polling_url, "cost": 3.0})

    async def poll(self, request: web.Request) -> web.Response:
        """Tell whether a job has ended."""
        self.book.polls += 1
        job = request.query["id"]
        if job not in self.jobs:
            return web.json_response({"id": job, "status": "Task not found"}, status=404)
        if time.monotonic() < self.jobs[job][0]:
            return web.json_response({"id": job, "status": "Pending"})
        sample = f"{request.scheme}://{request.host}/files/{job}.png"
        return web.json_response({"id": job, "status": "Ready", "result": {"sample": sample}, "cost": 3.0})

    async def deliver(self, request: web.Request) -> web.Response:
        """Send the picture back."""
        _, picture = self.jobs[request.match_info["job"]]
        return web.Response(body=a2b_base64(picture), content_type="image/png")

    async def credits(self, request: web.Request) -> web.Response:
        """Tell that there is no lack of credits."""
        return web.json_response({"credits": 1_000_000.0})

    async def open_book(self, request: web.Request) -> web.Response:
        """Begin a new book; what was delivered is forgotten."""
        self.jobs.clear()
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
