"""The budget of a run: the most it may spend, what it has spent, and what its jobs in flight may cost.

A tool without a price, published or learned from earlier jobs, is tried with one job at a time until the service has
named its price: only that one job can take the run over its cap. What was never submitted is free, and so is what
moderation refuses, unless the catalogue says otherwise. What may have been charged counts as spent, also a job that the
service ended with an error: no document says that its credits are given back.

Each run has a record of its own, with what it has spent and what its jobs in flight may cost. A reservation is written
before the others are read: of two runs that reserve the last credits at one moment, at least one sees the other.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from flux_tasks import errors, files
from flux_tasks.errors import BudgetReached, FluxError, Moderated, StoreUnavailable
from flux_tasks.store.account.periods import SET_AGAIN, Limit, PeriodBudget, needed, read_limits
from flux_tasks.store.commit import patiently
from flux_tasks.store.owner import has_ended, this_process
from flux_tasks.store.records import Store
from pipelines.data.history import budget_records, spent_by

_WARN_AT = 0.8
_MAY_BE_CHARGED = (
    errors.SubmissionUncertain,
    errors.StillRunning,
    errors.DeliveryFailed,
    errors.JobFailed,
    errors.JobLost,
    errors.StoreUnavailable,
)
_ROUNDING = 1e-6
_TRIES = 6  # where runs take each other's last credits in turn
_SILENT = 600.0  # seconds without a change after which a run that another one has seen counts as over
_OLD = 6 * 3600.0  # the same, by the clocks of both


@dataclass
class Reservation:
    """The credits that one job is expected to cost, 0 without a known price, and those that it did cost, once known."""

    tool: str
    reserved: float
    is_priced: bool
    cost: float | None = None


@dataclass
class RunBudget:
    """Credits of one run.

    What a run has spent that was stopped or killed still counts for the next run of the same recipe on the same store,
    until a run over all items ends by itself. What a run over some of them has spent counts if it was stopped.

    Attributes:
        cap: the most it may spend, in credits; None is no limit.
        recipe: the recipe's digest.
        run: the id of the run; a new one where empty.
        part_of: the id of the run that it is a shard of; its own where somebody runs the shard by hand; else empty.
        periods: what is known of the budgets for days and months that hold for it, too.
        warn: called with one sentence when four fifths of the cap are spent or reserved.
        own: credits that this run has spent.
        earlier: what other runs of the recipe have spent or reserved: earlier ones that were stopped, and those beside
            this one. Infinite where a record of it is damaged.
        reserved: credits that jobs in flight are expected to cost.
    """

    cap: float | None
    store: Store
    recipe: str
    run: str = ""
    warn: Callable[[str], None] = lambda _: None
    part_of: str = ""
    periods: PeriodBudget | None = None
    own: float = 0.0
    earlier: float = 0.0
    reserved: float = 0.0
    _seen: dict[str, float] = field(default_factory=dict)
    """The most that a job of each tool without a published price has cost."""
    _dearer: dict[str, float] = field(default_factory=dict)
    """How much dearer than expected a job of each tool has been, at most."""
    _trying: Counter[str] = field(default_factory=Counter)
    _in_flight: int = 0
    _warned: bool = False

    def __post_init__(self) -> None:
        self._change = asyncio.Condition()
        self._writing = asyncio.Lock()
        self._is_written = False
        self._name = files.join(self.recipe, self.run or uuid.uuid4().hex[:16])
        self._others: dict[str, dict[str, Any]] = {}
        self._since: dict[str, float] = {}
        """When each of the other records was first seen as it is, by ``time.monotonic``."""

    @property
    def spent(self) -> float:
        """Credits that count against the cap, those of other runs among them."""
        return self.own + self.earlier

    @property
    def is_limited(self) -> bool:
        """Whether the run, or a day or month, has a cap."""
        return self.cap is not None or (self.periods is not None and bool(self.periods.limits))

    async def open(self, engine: str = "") -> None:
        """Read what earlier runs have spent that were stopped, and what was spent in the periods that have a budget.

        Raises:
            BudgetReached: what the store's budget is cannot be read.
        """
        if self.periods is not None:
            self.periods.engine = engine
            try:
                self.periods.limits += await patiently(read_limits, self.store)
            except ValueError as error:
                raise BudgetReached(f"the store's budget is unknown ({error}): {SET_AGAIN}") from None
            if self.periods.limits:
                await patiently(self.periods.read)
        if self.cap is not None:
            await self._read()

    async def close(self, *, is_stopped: bool, is_whole: bool) -> None:
        """Forget what this run has spent if it ended by itself: the next one may spend the whole cap.

        Args:
            is_stopped: it did not end by itself: what it has spent counts for the next one. So does that of a shard,
                until the run that it is part of has ended by itself, or one over all items.
            is_whole: it went over all items: what runs have spent that are over is forgotten, too.
        """
        with suppress(StoreUnavailable):
            if self.periods is not None:
                await patiently(self.periods.remove)
            if is_stopped or self.part_of:
                if self.cap is not None and (self.own or (self.part_of and self._is_written)):
                    await patiently(self.store.put_record, "budgets", self._name, {**self._record(), "is_over": True})
                return
            if is_whole or self.cap is not None:
                await self._read()
                over = [
                    name
                    for name, record in self._others.items()
                    if (is_whole or (self.run and record.get("part_of") == self.run)) and self._is_over(name, record)
                ]
                for name in (self._name, *over):
                    await patiently(self.store.remove_record, "budgets", name)

    def _record(self) -> dict[str, Any]:
        now = {"at": time.time(), "owner": this_process()}
        part = {"part_of": self.part_of} if self.part_of else {}
        return {"spent": self.own, "held": self.reserved, "cap": self.cap, **now, **part}

    async def _write(self) -> None:
        """Write what is spent and reserved, so that it counts even if the run is killed; then read what others have."""
        self._is_written = False
        async with self._writing:
            if self._is_written:  # by an earlier call, which waited for its turn
                return
            periods = self.periods if self.periods is not None and self.periods.limits else None

            def taken() -> float:
                self._is_written = True  # what is reserved from now on is not in it
                return self.reserved

            def record() -> dict[str, Any]:
                if periods is None:
                    taken()
                return self._record()

            if periods is not None:
                with suppress(StoreUnavailable):
                    await patiently(periods.exchange, taken)
            if self.cap is not None:
                with suppress(StoreUnavailable):
                    await patiently(self.store.put_record, "budgets", self._name, record)
                await self._read()

    async def _read(self) -> bool:
        """Read what other runs have spent and reserved; returns whether it has changed."""
        before = self._others
        with suppress(StoreUnavailable):
            found = await patiently(budget_records, self.store, self.recipe)
            found.pop(self._name, None)
            now = time.monotonic()
            self._since = {
                name: self._since.get(name, now) if before.get(name) == record else now
                for name, record in found.items()
            }
            self._others = found
            self.earlier = sum(map(spent_by, found.values()))
        return self._others != before

    def _is_over(self, name: str, record: Mapping[str, Any]) -> bool:
        """Check whether the run that wrote a record spends nothing any more."""
        if record.get("is_over") or has_ended(str(record.get("owner", ""))):  # an earlier version names no owner
            return True
        return time.monotonic() - self._since[name] > _SILENT or time.time() - float(record.get("at", 0)) > _OLD

    async def _has_change(self) -> bool:
        """Wait until another run gives back what it has reserved; False if none does for a while."""
        for _ in range(_TRIES):
            others = self.periods is not None and self.periods.others_reserve
            held = (record.get("held") and not self._is_over(name, record) for name, record in self._others.items())
            if not (others or any(held)):
                return False
            await asyncio.sleep(random.uniform(0.2, 1.0))  # noqa: S311 - so that two runs do not go in step
            async with self._writing:  # what is read last is the newest
                if others and self.periods is not None:
                    before = self._in_periods()
                    with suppress(StoreUnavailable):
                        await patiently(self.periods.read)
                    if self._in_periods() < before:
                        return True
                if self.cap is not None and await self._read():
                    return True
        return False

    def _in_periods(self) -> float:
        return sum(map(self.periods.spent, self.periods.limits)) if self.periods is not None else 0.0

    def _caps(self) -> Iterator[tuple[Limit | float, float, float]]:
        """Yield each budget that holds: which it is, its credits, and what is spent of it."""
        if self.cap is not None:
            yield self.cap, self.cap, self.spent
        if self.periods is not None:
            for limit in self.periods.limits:
                yield limit, limit.credits, self.periods.spent(limit)

    def _full(self, price: float | None, *, is_alone: bool) -> Limit | float | None:
        """Return the cap that leaves too little for a job, or None; one without a price fits if it is the only one."""
        for which, cap, spent in self._caps():
            total = spent + self.reserved
            fits = is_alone and total < cap if price is None else total + price <= cap + _ROUNDING
            if not fits:
                return which
        return None

    @asynccontextmanager
    async def pay(self, tool: str, estimate: float | None, *, is_paid: bool = False) -> AsyncIterator[Reservation]:
        """Reserve what a job of ``tool`` is expected to cost; set ``cost`` of the reservation once it is known.

        Args:
            estimate: credits, or None without a published price.
            is_paid: an earlier run has submitted the job and counted its cost: nothing is reserved.

        Raises:
            BudgetReached: too little is left, and no job in flight could set anything free.
        """
        if is_paid:
            yield Reservation(tool, 0.0, is_priced=True)
            return
        job = await self._reserve(tool, estimate)
        while job.reserved and await self._is_beyond_cap():  # another run has reserved the same credits
            await self._release(job, 0.0, estimate)
            await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - as above
            job = await self._reserve(tool, estimate)
        try:
            yield job
        except FluxError as error:
            is_charged = isinstance(error, Moderated) and error.charged != "no" and not error.remembered
            may_be_charged = is_charged or isinstance(error, _MAY_BE_CHARGED)
            await self._release(job, job.reserved if may_be_charged else 0.0, estimate)
            raise
        except BaseException:  # cancelled: it may have been submitted
            await self._release(job, job.reserved, estimate)
            raise
        await self._release(job, job.cost if job.cost is not None else job.reserved, estimate)

    async def _is_beyond_cap(self) -> bool:
        """Write the reservations, and check whether they are too much together with those of other runs."""
        await self._write()
        return self._full(0.0, is_alone=True) is not None

    async def _reserve(self, tool: str, estimate: float | None) -> Reservation:
        if not self.is_limited:
            return Reservation(tool, 0.0, estimate is not None)
        async with self._change:
            while True:
                price = estimate * self._dearer.get(tool, 1.0) if estimate is not None else self._seen.get(tool)
                full = self._full(price, is_alone=not self._trying[tool])
                if full is None:
                    break
                if math.isinf(self.earlier):
                    raise BudgetReached(
                        "what earlier runs have spent is unknown, because a record below "
                        f"{self.store.location('budgets')} is damaged: remove that file to spend the whole budget"
                    )
                if not self._in_flight:
                    if await self._has_change():
                        continue
                    raise BudgetReached(self._reached(full, tool, price))
                await self._change.wait()
            job = Reservation(tool, price or 0.0, price is not None)
            self.reserved += job.reserved
            self._in_flight += 1
            if price is None:
                self._trying[tool] += 1
            self._warn_once()
            return job

    def _reached(self, full: Limit | float, tool: str, price: float | None) -> str:
        """Return which budget is used up, and what to do."""
        if isinstance(full, Limit) and self.periods is not None:
            return self.periods.reached(full, self.periods.spent(full), tool, price)
        of_run = [record for record in self._others.values() if self.part_of and record.get("part_of") == self.part_of]
        earlier = self.earlier - sum(map(spent_by, of_run))  # the other shards are no earlier runs
        before = f", {earlier:.2f} of them in earlier runs" if earlier > _ROUNDING else ""
        return (
            f"the budget of {self.cap:g} credits is reached: {self.spent:.2f} are spent{before}, and "
            f"{needed(tool, price)}; run again with a larger one (--budget) to go on"
        )

    async def _release(self, job: Reservation, cost: float, estimate: float | None) -> None:
        """Count ``cost`` as spent in place of what the job has reserved, and learn its price."""
        async with self._change:
            self.own += max(cost, 0.0)
            if self.is_limited:
                if self.periods is not None:
                    self.periods.add(max(cost, 0.0))
                self._in_flight -= 1
                self.reserved = self.reserved - job.reserved if self._in_flight else 0.0  # without rounding errors
                if not job.is_priced:
                    self._trying[job.tool] -= 1
                if job.cost is not None and estimate is None:
                    self._seen[job.tool] = max(job.cost, self._seen.get(job.tool, 0.0))
                elif job.cost and estimate:
                    self._dearer[job.tool] = max(job.cost / estimate, self._dearer.get(job.tool, 1.0))
                self._warn_once()
            self._change.notify_all()
        if self.is_limited and (cost or job.reserved):
            await self._write()

    def _warn_once(self) -> None:
        if self._warned:
            return
        for which, cap, spent in self._caps():
            total = spent + self.reserved
            if cap and total >= _WARN_AT * cap:
                self._warned = True
                what = which.title if isinstance(which, Limit) else f"the budget's {cap:g} credits"
                self.warn(f"{total:.2f} of {what} are spent or in flight")
                return
