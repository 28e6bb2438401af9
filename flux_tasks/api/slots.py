"""Slots for active jobs: an account may have 24, 6 of them Kontext max (SEED-2, BFL help 7158018353).

A job is active from its submission to its final status, so a slot is held that long, not per HTTP request. Others
may use the same account: each 429 lowers the limit of this process by a quarter, and each round of accepted submissions
raises it by one again, up to the limit that was asked for.

The service frees a slot when a job ends, and this process sees it at the next poll. So a few jobs more are let in when
as many of those that hold slots are expected to have ended (``Hold.chance``). One too many is answered with 429, which
creates and charges nothing (BFL's page on errors, help 7158018353). It is then repeated when one more has probably
ended, and fewer are let in early for a while. With fewer than eight slots none are: too few jobs end at a time.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

__all__ = ["CLASS_LIMITS", "OVERBOOK", "Hold", "Slots"]

CLASS_LIMITS: dict[str, int | None] = {"kontext-max": 6, "flux-3": None}
"""Classes of their own, each with its limit below the account's; None where it is published nowhere."""

OVERBOOK = 3
"""Jobs that may be let in early at a time, at most."""

_QUIET = 1.0  # seconds: 429s that come together count once
_TICK = 0.02  # seconds between two looks at how many jobs have probably ended, while others wait
_SLOTS_PER_EARLY = 8
_MARGIN = 1.5  # jobs that are to have ended, as expected, beyond those let in early: 1 in 11 is refused; 1 in 4 at 0.75
_REGAINED = 0.1  # of an early job that may be let in again, for each that was accepted


class Hold:
    """The slot of one job, in each pool that it belongs to.

    Attributes:
        chance: how likely it is that the job has ended, though nobody has seen it; 0 until it is set.
        on_release: called right before the slot is given back.
    """

    def __init__(self, *pools: "_Pool") -> None:
        self.chance: Callable[[], float] = lambda: 0.0
        self.on_release: Callable[[], None] = lambda: None
        self._pools = pools

    def share_ended(self) -> float:
        """Return ``chance()``; 0 where it fails: a guess about one job must not keep the slot of another."""
        try:
            return self.chance()
        except Exception:
            return 0.0

    def release(self) -> None:
        """Give the slot back: the job is seen to have ended, or there is none. Again: nothing happens."""
        pools, self._pools = self._pools, ()
        if pools:
            self.on_release()
        for pool in pools:
            pool.release(self)


class _Pool:
    """Slots whose number changes while they are held.

    Args:
        early: jobs above ``total`` that may be let in when others have probably ended.
        is_certain: asked right before a slot is given out: whether ``total`` still holds.
    """

    def __init__(self, total: int, early: int, is_certain: Callable[[], bool] = lambda: True) -> None:
        self.total = total
        self._is_certain = is_certain
        self.allowed = float(total)
        self.holds: set[Hold] = set()
        self.refused = 0
        """Jobs that hold a slot and that the service has refused with 429: they wait for room."""
        self.wanted = 0
        """The most jobs that have held a slot or waited for one, since it was last asked for."""
        self._early_limit = early
        self._most_early = min(early, total // _SLOTS_PER_EARLY)
        self._early = float(self._most_early)
        self._waiting: deque[tuple[Hold, asyncio.Future[None]]] = deque()
        self._lowered = -_QUIET
        self._tick: asyncio.TimerHandle | None = None

    @property
    def active(self) -> int:
        return len(self.holds)

    @property
    def demand(self) -> int:
        return self.active + sum(not turn.done() for _, turn in self._waiting)

    def resize(self, total: int) -> None:
        """Let ``total`` jobs hold a slot from now on; those that hold one keep it."""
        if total != self.total:
            self.allowed = min(float(total), self.allowed + max(0, total - self.total))
            self.total = total
            most, self._most_early = self._most_early, min(self._early_limit, total // _SLOTS_PER_EARLY)
            self._early = min(float(self._most_early), self._early + max(0, self._most_early - most))
        self._admit()

    async def acquire(self, hold: Hold) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((hold, turn))
        self.wanted = max(self.wanted, self.demand)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release(hold)  # it was given a slot at the same moment
            raise

    def release(self, hold: Hold) -> None:
        self.holds.discard(hold)
        self._admit()

    def _admit(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        while self._waiting and (self._waiting[0][1].done() or (self._has_room() and self._is_certain())):
            hold, turn = self._waiting.popleft()
            if not turn.done():
                self.holds.add(hold)
                turn.set_result(None)
        if self._waiting and self._may_be_early():
            self._tick = asyncio.get_running_loop().call_later(_TICK, self._admit)

    def _has_room(self) -> bool:
        if self.active < int(self.allowed):
            return True
        early = self.active - int(self.allowed) + 1
        return self._may_be_early() and sum(hold.share_ended() for hold in self.holds) >= early - 1 + _MARGIN

    def _may_be_early(self) -> bool:
        return not self.refused and self.active - int(self.allowed) < int(self._early)

    def lower(self) -> None:
        now = time.monotonic()
        if now - self._lowered < _QUIET:
            return
        self._lowered = now
        if self.active > int(self.allowed):
            self._early = max(0.0, self._early - 1.0)
        else:
            self.allowed = min(float(self.total), max(1.0, min(self.allowed, float(self.active)) * 0.75))

    def raise_again(self) -> None:
        self.allowed = min(float(self.total), self.allowed + 1.0 / max(1.0, self.allowed))
        if self.allowed == self.total:
            self._early = min(float(self._most_early), self._early + _REGAINED)
        self._admit()


class Slots:
    """The slots of one account in this process.

    Args:
        total: active jobs at a time, at most.
        early: jobs above ``total`` that may be let in when as many others have probably ended.
    """

    def __init__(self, total: int, early: int = OVERBOOK) -> None:
        self.total = total
        self._shares: dict[object, tuple[Mapping[str, int], Callable[[], bool]]] = {}
        self._account = _Pool(total, early, self._is_certain)
        limits = {name: min(limit or total, total) for name, limit in CLASS_LIMITS.items()}
        self._classes = {
            name: _Pool(limit, 0 if CLASS_LIMITS[name] is None else early, self._is_certain)
            for name, limit in limits.items()
        }

        self._shared = {"account": self._account}
        self._shared |= {name: pool for name, pool in self._classes.items() if CLASS_LIMITS[name] is not None}
        self.most: Mapping[str, int] = {name: pool.total for name, pool in self._shared.items()}
        """Slots that may be held by a process that is alone, by class; ``account`` is all of them."""

    def share(
        self, lease: object, usable: Mapping[str, int] | None, is_certain: Callable[[], bool] = lambda: True
    ) -> None:
        """Let no more than ``usable`` slots be held, by class, as long as ``lease`` has not said otherwise.

        None ends that. Of several leases, each with a store of its own, the smallest number holds.

        Args:
            is_certain: asked right before a slot is given out; while it returns False, none is, until the next call.
        """
        self._shares.pop(lease, None)
        if usable is not None:
            self._shares[lease] = usable, is_certain
        for name, pool in self._shared.items():
            pool.resize(min([self.most[name], *(usable[name] for usable, _ in self._shares.values())]))

    def _is_certain(self) -> bool:
        return all(is_certain() for _, is_certain in self._shares.values())

    def held(self) -> dict[str, int]:
        """Return how many slots are held, by class."""
        return {name: pool.active for name, pool in self._shared.items()}

    def wanted(self) -> dict[str, int]:
        """Return the most slots that jobs have held or waited for since the last call, by class."""
        found = {name: max(pool.wanted, pool.demand) for name, pool in self._shared.items()}
        for pool in self._shared.values():
            pool.wanted = 0
        return found

    @property
    def active(self) -> int:
        """Slots that are held."""
        return self._account.active

    @property
    def waiting(self) -> int:
        """Jobs that wait for a slot. May be asked on any thread."""
        return sum(len(pool._waiting) for pool in (self._account, *self._classes.values()))

    @property
    def allowed(self) -> int:
        """Slots that may be held now: ``total``, or fewer after a 429."""
        return int(self._account.allowed)

    def _pools(self, slot_class: str) -> list[_Pool]:
        narrow = self._classes.get(slot_class)
        return [self._account] if narrow is None else [narrow, self._account]

    @asynccontextmanager
    async def hold(
        self, slot_class: str, on_change: Callable[[bool], None] = lambda is_held: None
    ) -> AsyncIterator[Hold]:
        """Wait for a slot of ``slot_class`` and hold it for the block, or until ``Hold.release``.

        Args:
            on_change: told True when the slot is held, and False right before it is given back.
        """
        pools = self._pools(slot_class)  # the narrow one first: waiting for it must not occupy one of the 24
        hold = Hold(*pools)
        try:
            for pool in pools:
                await pool.acquire(hold)
            on_change(True)
            hold.on_release = partial(on_change, False)
            yield hold
        finally:
            hold.release()

    @asynccontextmanager
    async def refused(self, slot_class: str) -> AsyncIterator[Callable[[], bool]]:
        """Let nobody in early while a job waits after a 429; yields a check whether the service has room for it by now.

        It has if a slot is free, or if one more job than before has probably ended. Fewer slots are held for a while;
        where the 429 was for a job that was let in early, fewer are let in early.
        """
        pools = self._pools(slot_class)
        self.lower(slot_class)
        holds = self._account.holds
        before = {hold: hold.share_ended() for hold in holds}

        def has_room() -> bool:
            ended = sum((hold.share_ended() if hold in holds else 1.0) - chance for hold, chance in before.items())
            return ended >= 1 or all(pool.active - pool.refused < int(pool.allowed) for pool in pools)

        for pool in pools:
            pool.refused += 1
        try:
            yield has_room
        finally:
            for pool in pools:
                pool.refused -= 1

    def lower(self, slot_class: str) -> None:
        """Hold fewer slots for a while, because a submission was answered with 429; early ones first."""
        pools = self._pools(slot_class)
        next((pool for pool in pools if pool.active > int(pool.allowed)), pools[0]).lower()

    def raise_again(self, slot_class: str) -> None:
        """Allow more slots again, because a submission was accepted."""
        for pool in self._pools(slot_class):
            pool.raise_again()
