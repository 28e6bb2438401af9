"""Time as the local server sees it: the machine's own, or one that a test moves by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time

__all__ = ["Clock", "VirtualClock"]


class Clock:
    """Real time."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Come back after ``seconds``."""
        await asyncio.sleep(seconds)


class VirtualClock(Clock):
    """Stands still until ``advance``: latency, expiry, retention and webhook retries happen when a test says so.

    Belongs to the server's event loop, like everything that sleeps on it.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._moving = asyncio.Lock()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Seconds that were advanced so far."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Come back once the clock was moved by ``seconds``."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), waking))
        await waking

    async def advance(self, seconds: float) -> None:
        """Move on, waking one sleeper after the other at its own moment; what it starts then may sleep again.

        What waits for something outside of the clock, an engine or somebody's answer, is not waited for.
        """
        async with self._moving:
            await self._advance(seconds)

    async def _advance(self, seconds: float) -> None:
        until = self._now + max(0.0, seconds)
        while self._sleepers and self._sleepers[0][0] <= until:
            self._now, _, waking = heapq.heappop(self._sleepers)
            if not waking.done():
                waking.set_result(None)
            for _ in range(20):  # let it go on until it sleeps again or waits for something outside
                await asyncio.sleep(0)
        self._now = until
