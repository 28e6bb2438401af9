"""The budget of a run: the most it may spend, what it has spent, and what its jobs in flight may cost.

A tool without a price, published or learned from earlier jobs, is tried with one job at a time until the service has
named its price: only that one job can take the run over its cap. What was never submitted is free, and so is what
moderation refuses, unless the catalogue says otherwise. What may have been charged counts as spent, also a job that the
service ended with an error: no document says that its credits are given back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from flux_tasks import errors
from flux_tasks.errors import BudgetReached, FluxError, Moderated, StoreUnavailable
from flux_tasks.store.commit import patiently
from flux_tasks.store.records import Store
from pipelines.data.history import spent_before

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
        run: the id of the run.
        warn: called with one sentence when four fifths of the cap are spent or reserved.
        spent: credits, those of earlier runs that were stopped among them.
        earlier: those alone.
        reserved: credits that jobs in flight are expected to cost.
    """

    cap: float | None
    store: Store
    recipe: str
    run: str = ""
    warn: Callable[[str], None] = lambda _: None
    spent: float = 0.0
    earlier: float = 0.0
    reserved: float = 0.0
    _before: dict[str, float] = field(default_factory=dict)
    """The credits of each earlier run that counts."""
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

    async def open(self) -> None:
        """Read what earlier runs have spent that were stopped."""
        if self.cap is not None:
            with suppress(StoreUnavailable):
                self._before = await patiently(spent_before, self.store, self.recipe)
                self.earlier = self.spent = sum(self._before.values())

    async def close(self, *, is_whole: bool) -> None:
        """Forget what this run has spent, which ended by itself: the next one may spend the whole cap.

        Args:
            is_whole: it went over all items: what earlier runs have spent is forgotten, too.
        """
        with suppress(StoreUnavailable):
            if self._before and not is_whole:
                await patiently(self.store.put_record, "budgets", self.recipe, self._record(self._before))
            elif self._is_written or self.earlier or (is_whole and self.cap is None):
                await patiently(self.store.remove_record, "budgets", self.recipe)

    async def _write(self) -> None:
        """Write what is spent and what is reserved, so that it counts even if the run is killed."""
        self._is_written = False
        async with self._writing:
            if self._is_written:  # by a later call, which knew more
                return
            self._is_written = True
            with suppress(StoreUnavailable):
                runs = self._before | {self.run: self.spent - self.earlier + self.reserved}
                await patiently(self.store.put_record, "budgets", self.recipe, self._record(runs))

    def _record(self, runs: Mapping[str, float]) -> dict[str, Any]:
        """Return what is written; versions before ``runs`` read ``spent`` and ``held``."""
        return {"spent": sum(runs.values()), "held": 0.0, "cap": self.cap, "runs": dict(runs)}

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
        if job.reserved:
            await self._write()
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

    async def _reserve(self, tool: str, estimate: float | None) -> Reservation:
        if self.cap is None:
            return Reservation(tool, 0.0, estimate is not None)
        async with self._change:
            while True:
                price = estimate * self._dearer.get(tool, 1.0) if estimate is not None else self._seen.get(tool)
                total = self.spent + self.reserved
                is_alone = not self._trying[tool]
                fits = is_alone and total < self.cap if price is None else total + price <= self.cap + _ROUNDING
                if fits:
                    break
                if not self._in_flight:
                    needed = f"a job of {tool} costs {price:.2f}" if price is not None else f"{tool} has no known price"
                    before = f", {self.earlier:.2f} of them in earlier runs" if self.earlier else ""
                    raise BudgetReached(
                        f"the budget of {self.cap:g} credits is reached: {self.spent:.2f} are spent{before}, and "
                        f"{needed}; run again with a larger one (--budget) to go on"
                    )
                await self._change.wait()
            job = Reservation(tool, price or 0.0, price is not None)
            self.reserved += job.reserved
            self._in_flight += 1
            if price is None:
                self._trying[tool] += 1
            self._warn_once()
            return job

    async def _release(self, job: Reservation, cost: float, estimate: float | None) -> None:
        """Count ``cost`` as spent in place of what the job has reserved, and learn its price."""
        async with self._change:
            self.spent += max(cost, 0.0)
            if self.cap is not None:
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
        if self.cap is not None and (cost or job.reserved):
            await self._write()

    def _warn_once(self) -> None:
        total = self.spent + self.reserved
        if self.cap and not self._warned and total >= _WARN_AT * self.cap:
            self._warned = True
            self.warn(f"{total:.2f} of the budget's {self.cap:g} credits are spent or in flight")
