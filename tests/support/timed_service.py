"""The service as an httpx transport: its jobs take so long, and each of its answers comes after a round trip."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

__all__ = ["TimedService"]


@dataclass
class TimedJob:
    begun: float
    ends: float
    polls: int = 0
    seen: float = 0.0
    """When a poll that came after its end arrived."""

    @property
    def delay(self) -> float:
        """Seconds from its end to that poll."""
        return self.seen - self.ends


class TimedService(httpx.AsyncBaseTransport):
    """Accepts any job, up to ``cap`` at a time; 429 beyond.

    Attributes:
        refused: submissions that were answered with 429.
        most: jobs that were active at a time.
    """

    def __init__(
        self,
        duration: Callable[[], float],
        data: bytes,
        *,
        cap: int = 24,
        trip: float = 0.1,
        url: str = "http://127.0.0.1:9",
    ) -> None:
        self.duration, self.data, self.cap, self.trip, self.url = duration, data, cap, trip, url
        self.jobs: dict[str, TimedJob] = {}
        self.refused = self.most = 0
        self._ids = itertools.count(1)

    def active(self) -> int:
        return sum(job.ends > time.monotonic() for job in self.jobs.values())

    def in_use(self) -> float:
        """The share of the slots that was in use, from the first submission to the last end."""
        jobs = self.jobs.values()
        seconds = max(job.ends for job in jobs) - min(job.begun for job in jobs)
        return sum(job.ends - job.begun for job in jobs) / (seconds * self.cap)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.trip / 2)
        response = self._answer(request)
        await asyncio.sleep(self.trip / 2)
        return response

    def _answer(self, request: httpx.Request) -> httpx.Response:
        now, path = time.monotonic(), request.url.path
        if request.method == "POST":
            if self.active() >= self.cap:
                self.refused += 1
                return httpx.Response(429, json={"detail": "Too many active tasks"})
            name = f"job-{next(self._ids)}"
            self.jobs[name] = TimedJob(now, now + self.duration())
            self.most = max(self.most, self.active())
            return httpx.Response(
                200, json={"id": name, "polling_url": f"{self.url}/v1/get_result?id={name}", "cost": 3}
            )
        if path == "/v1/get_result":
            name = request.url.params["id"]
            job = self.jobs[name]
            job.polls += 1
            if now < job.ends:
                return httpx.Response(200, json={"id": name, "status": "Pending"})
            job.seen = job.seen or now
            return httpx.Response(
                200, json={"id": name, "status": "Ready", "result": {"sample": f"{self.url}/{name}.png"}}
            )
        return httpx.Response(200, content=self.data)
