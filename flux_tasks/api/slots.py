"""Slots for active jobs: an account may have 24, 6 of them Kontext max (SEED-2, BFL help 7158018353).

A job is active from its submission to its final status, so a slot is held that long, not per HTTP request. Others
may use the same account: each 429 lowers the limit of this process by a quarter, and each round of accepted submissions
raises it by one again, up to the limit that was asked for.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["CLASS_LIMITS", "Slots"]

CLASS_LIMITS: dict[str, int | None] = {"kontext-max": 6, "flux-3": None}
"""Classes of their own, each with its limit below the account's; None where it is published nowhere."""

_QUIET = 1.0  # seconds: 429s that come together count once


class _Pool:
    """Slots whose number changes while they are held."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.allowed = float(total)
        self.active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lowered = -_QUIET

    async def acquire(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release()  # it was given a slot at the same moment
            raise

    def release(self) -> None:
        self.active -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.active < int(self.allowed):
            turn = self._waiting.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)

    def lower(self) -> None:
        now = time.monotonic()
        if now - self._lowered >= _QUIET:
            self._lowered = now
            self.allowed = max(1.0, min(self.allowed, float(self.active)) * 0.75)

    def raise_again(self) -> None:
        self.allowed = min(float(self.total), self.allowed + 1.0 / max(1.0, self.allowed))
        self._admit()


class Slots:
    """The slots of one account in this process.

    Args:
        total: active jobs at a time, at most.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._account = _Pool(total)
        self._classes = {name: _Pool(min(limit or total, total)) for name, limit in CLASS_LIMITS.items()}

    @property
    def active(self) -> int:
        """Slots that are held."""
        return self._account.active

    @property
    def allowed(self) -> int:
        """Slots that may be held now: ``total``, or fewer after a 429."""
        return int(self._account.allowed)

    @asynccontextmanager
    async def hold(self, slot_class: str) -> AsyncIterator[None]:
        """Wait for a slot of ``slot_class`` and hold it for the block."""
        narrow = self._classes.get(slot_class)
        if narrow is not None:
            await narrow.acquire()  # first: waiting for it must not occupy one of the 24
        try:
            await self._account.acquire()
            try:
                yield
            finally:
                self._account.release()
        finally:
            if narrow is not None:
                narrow.release()

    def lower(self, slot_class: str) -> None:
        """Hold fewer slots for a while, because a submission was answered with 429."""
        (self._classes.get(slot_class) or self._account).lower()

    def raise_again(self, slot_class: str) -> None:
        """Allow more slots again, because a submission was accepted."""
        for pool in {self._classes.get(slot_class), self._account} - {None}:
            pool.raise_again()  # type: ignore[union-attr]
