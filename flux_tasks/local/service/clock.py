"""The time of the local server: the machine's own, or one that a test moves."""

import asyncio
import heapq
import itertools
import time


class Clock:
    """Real time."""

    def now(self) -> float:
        """Return the seconds since some fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        await asyncio.sleep(seconds)


class VirtualClock(Clock):
    """Time that stands still until ``advance``: a test decides when latency, expiry, retention and retries are over.

    Used on the server's event loop only.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._moving = asyncio.Lock()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return the seconds that the clock was moved by so far."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved by ``seconds``."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), waking))
        await waking

    async def advance(self, seconds: float) -> None:
        """Move the clock, and wake each sleeper at its own moment; it may sleep again.

        A task that waits for something else, an engine or a client, is not waited for.
        """
        async with self._moving:
            until = self._now + max(0.0, seconds)
            while self._sleepers and self._sleepers[0][0] <= until:
                self._now, _, waking = heapq.heappop(self._sleepers)
                if not waking.done():
                    waking.set_result(None)
                for _ in range(20):  # let it run until it sleeps again or waits for something else
                    await asyncio.sleep(0)
            self._now = until
