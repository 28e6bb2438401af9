"""Memory for pictures on their way: however many jobs are in flight, only so many bytes are made or fetched at a time.

A job whose body is sent holds none while the service works on it. Twelve PNG files of a megapixel fit, or sixty JPEG
files; the next ones wait only until those before them are sent, which takes no longer on a connection that they share.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["TrafficLimit"]


class TrafficLimit:
    """Lets blocks in, in their order, while their bytes are ``most`` together; a larger one is let in alone.

    On one event loop only.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Wait until ``size`` bytes more may be in memory, and count them until the end of the block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._taken -= size
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if self._taken and self._taken + size > self._most:
                    return
                self._taken += size
                turn.set_result(None)
            self._waiting.popleft()
