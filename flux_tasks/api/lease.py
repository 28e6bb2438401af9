"""The slots of an account, over all processes and machines on one store: a block of them is leased by each process.

Nothing is asked for a job: inside its block a process hands out slots as ever (``slots``). Who is alone has all of
them. The block is renewed every other second, and grows and shrinks with what others need; no job is ever ended for
it. If the store cannot be written, the process goes on with a single slot, since others may take the rest.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from flux_tasks.api.slots import Slots
from flux_tasks.store.account.shares import Limit, Party, Round, Write
from flux_tasks.store.account.slots import LAPSE, SlotRecords
from flux_tasks.store.records import Store

__all__ = ["SlotLease"]

_log = logging.getLogger("flux_tasks.client")

_ROUND = 2.0  # seconds between two looks at what others claim
_SOON = 0.4  # the same, until everybody has its share
_RENEWAL = 10.0  # seconds between two writes of who is alone
_CERTAIN = LAPSE / 2  # seconds after the last write for which nobody else can take the claimed slots
_SAFE = 1  # slots without a lease
_TURN = 5.0  # seconds for which a process has a slot at least, where there are fewer slots than processes


class SlotLease:
    """The part of an account's slots that this process has, for the jobs of one store. Used on the background loop."""

    def __init__(self, store: Store, account: str, slots: Slots) -> None:
        self._store, self._account, self._slots = store, account, slots
        self._users = 0
        self._keeping: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Keep a lease for the block, and for a moment longer: another job may follow."""
        self._users += 1
        self._begin()
        try:
            yield
        finally:
            self._users -= 1

    def _begin(self) -> None:
        if self._keeping is None:
            block = _Block(SlotRecords(self._store, self._account), self._slots)
            self._keeping = asyncio.create_task(self._keep(block))

    async def _keep(self, block: _Block) -> None:
        _blocks.add(block)
        try:
            is_idle = False
            while not (is_idle and not self._users):
                is_idle = not self._users
                pause = await block.renew()
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - so that no two go in step
        except RuntimeError:  # the interpreter is ending and lends no more threads
            return
        finally:
            self._keeping = None
            block.leave()
            if self._users:  # of a moment ago
                self._begin()
            await block.remove()
            _blocks.discard(block)

    async def give_back(self) -> None:
        """Give all slots back at once, unless somebody uses them."""
        if self._keeping is not None and not self._users:
            keeping = self._keeping
            keeping.cancel()
            await asyncio.wait([keeping])


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.time()  # on Linux, the first one stands still while the machine is suspended


class _Block:
    """Slots that are leased, from the first of them to the last."""

    def __init__(self, records: SlotRecords, slots: Slots) -> None:
        self.records = records
        self._slots = slots
        self._party = Party(records.name, slots.most)
        self._is_alone = True
        self._written = -math.inf, -math.inf
        """When the last claim that is certainly written was begun to be written, by ``_clocks``."""
        self._since = time.monotonic()
        """Since when it has had slots, or none."""
        self._working: asyncio.Future[Any] | None = None
        slots.share(self, self._party.usable)

    async def renew(self) -> float:
        """Look at what others claim, and claim what is fair; return the seconds until the next look."""
        wanted, now = self._slots.wanted(), time.monotonic()
        had, silent = self._party.usable["account"], self._silent()
        if silent > _CERTAIN:  # this process was stopped for a while, or the store was gone
            self._party.forget()
        waited = int((now - self._since) / _TURN) * (-1 if had else 1)
        is_due = silent > (_RENEWAL if self._is_alone else _ROUND / 2)
        try:
            is_settled = await self._perform(self._party.round(wanted, waited, is_due=is_due))
        except RuntimeError:  # see ``SlotLease._keep``
            raise
        except Exception as error:  # of the store, or of a library that it is reached by
            if not self._is_certain():
                _log.info("one slot only, because the store cannot be used: %s", error)
                self._party.usable = {kind: min(_SAFE, most) for kind, most in self._party.most.items()}
                self._slots.share(self, self._party.usable)
            return _ROUND
        if bool(had) != bool(self._party.usable["account"]):
            self._since = now
        return _ROUND if is_settled else _SOON

    def _silent(self) -> float:
        """Return the seconds since the last claim was written, by the clock that says most."""
        return max(now - then for now, then in zip(_clocks(), self._written, strict=True))

    def _is_certain(self) -> bool:
        """Check whether nobody else can take the claimed slots yet."""
        return self._silent() <= _CERTAIN

    async def _perform(self, steps: Round) -> bool:
        answer: object = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return bool(end.value)
            if isinstance(step, Limit):
                self._slots.share(self, step.usable, self._is_certain)
                answer = self._slots.held()
            elif isinstance(step, Write):
                begun = _clocks()
                answer = await self._on_thread(self.records.write, step.claims)
                self._written = begun
            else:
                answer = await self._on_thread(self.records.read)
                self._is_alone = not answer

    async def _on_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self._working = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
        return await asyncio.shield(self._working)

    def leave(self) -> None:
        """Limit nobody any more."""
        self._slots.share(self, None)

    async def remove(self) -> None:
        """Give the slots back: nothing is written after that."""
        with suppress(OSError, RuntimeError):  # the next process removes it
            if self._working is not None:
                await asyncio.wait([self._working])
            await asyncio.to_thread(self.records.remove)


_blocks: set[_Block] = set()


@atexit.register
def _give_back() -> None:
    """Give back what a program still has that ends; after a kill the next one does it."""
    for block in [*_blocks]:
        with suppress(Exception):  # a cloud library may lend no more threads
            block.records.remove()


os.register_at_fork(after_in_child=_blocks.clear)  # a forked child has none of its parent's slots
