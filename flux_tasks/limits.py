"""In-flight slots: an account may have 24 active jobs, 6 of them Kontext max (SEED-2, BFL help 7158018353).

A job is active from its submission to its terminal status, so a slot is held that long, not per HTTP request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["CLASS_LIMITS", "Slots"]

CLASS_LIMITS = {"kontext-max": 6}
"""Classes with a limit of their own, below the account's."""


class Slots:
    """The slots of one account in this process.

    Args:
        total: active jobs at a time, at most.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._account = asyncio.Semaphore(total)
        self._classes = {name: asyncio.Semaphore(min(limit, total)) for name, limit in CLASS_LIMITS.items()}
        self.active = 0

    @asynccontextmanager
    async def hold(self, slot_class: str) -> AsyncIterator[None]:
        """Wait for a slot of ``slot_class`` and hold it for the block."""
        narrow = self._classes.get(slot_class)
        if narrow is not None:
            await narrow.acquire()  # first, so that waiting for it does not occupy one of the 24
        try:
            async with self._account:
                self.active += 1
                try:
                    yield
                finally:
                    self.active -= 1
        finally:
            if narrow is not None:
                narrow.release()
