"""The purse: what a run may spend, what it has spent, and what its jobs in flight may cost.

A job takes out what it is expected to cost before it is submitted, and what is left over comes back when the service
says what it cost. A tool whose price is published nowhere is tried with one job at a time until the service has named
its price; only that one job can take the run over its cap. What moderation refuses is free, and so is what was never
submitted; what may have been charged counts as spent, a job that the service ended with an error among it (no document
says that those are given back).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from flux_tasks.errors import (
    BudgetReached,
    DeliveryFailed,
    FluxError,
    JobFailed,
    JobLost,
    StillRunning,
    StoreUnavailable,
    SubmissionUncertain,
)
from flux_tasks.store.commit import patiently
from flux_tasks.store.records import Store
from pipelines.data.history import spent_before

__all__ = ["Reservation", "RunBudget"]

_WARN_AT = 0.8
_MAY_BE_CHARGED = (SubmissionUncertain, StillRunning, DeliveryFailed, JobFailed, JobLost, StoreUnavailable)
_ROUNDING = 1e-6


@dataclass
class Reservation:
    """What one job takes out of the purse; ``cost`` is what it turned out to cost in credits, once that is known."""

    tool: str
    held: float
    is_priced: bool
    cost: float | None = None


@dataclass
class RunBudget:
    """Credits of one run.

    Args:
        cap: the most it may spend; None is no limit.
        warn: told once when four fifths are spent or in flight.

    What a run that was stopped, by its cap or otherwise, or was killed, has spent still counts for the next run of the
    same recipe on the same store: it goes on when the cap is raised, and not before.
    """

    cap: float | None
    store: Store
    recipe: str
    warn: Callable[[str], None] = lambda _: None
    spent: float = 0.0
    held: float = 0.0
    _seen: dict[str, float] = field(default_factory=dict)
    """The most that a job of each tool without a published price has cost."""
    _dearer: dict[str, float] = field(default_factory=dict)
    """How much dearer than expected a job of each tool has been, at most."""
    _trying: Counter[str] = field(default_factory=Counter)
    _in_flight: int = 0
    _warned: bool = False
    _earlier: float = 0.0

    def __post_init__(self) -> None:
        self._change = asyncio.Condition()
        self._writing = asyncio.Lock()
        self._is_written = False

    @property
    def earlier(self) -> float:
        """Credits that runs before this one, which the cap has stopped, have spent."""
        return self._earlier

    async def open(self) -> None:
        """See what earlier runs that were stopped have spent."""
        if self.cap is None:
            return
        with suppress(StoreUnavailable):
            self._earlier = self.spent = await patiently(spent_before, self.store, self.recipe)

    async def close(self, *, is_complete: bool) -> None:
        """Forget what was spent if the run is complete: the next one begins with a full purse."""
        if is_complete and (self.cap is None or self._is_written or self._earlier):
            with suppress(StoreUnavailable):
                await patiently(self.store.remove_record, "budgets", self.recipe)

    async def _keep(self) -> None:
        """Write down what is spent and what is in flight; a run that is killed has spent it all the same."""
        self._is_written = False
        async with self._writing:
            if self._is_written:  # by one that came later and knew more
                return
            self._is_written = True
            with suppress(StoreUnavailable):
                record = {"spent": self.spent, "held": self.held, "cap": self.cap}
                await patiently(self.store.put_record, "budgets", self.recipe, record)

    @asynccontextmanager
    async def pay(self, tool: str, estimate: float | None, *, is_paid: bool = False) -> AsyncIterator[Reservation]:
        """Take out what a job of ``tool`` is expected to cost; set ``cost`` of the bill once it is known.

        Args:
            is_paid: an earlier run has submitted the job; it counted it, and nothing is taken out.

        Raises:
            BudgetReached: there is not enough left, and no job in flight could give something back.
        """
        if is_paid:
            yield Reservation(tool, 0.0, is_priced=True)
            return
        bill = await self._take(tool, estimate)
        if bill.held:
            await self._keep()
        try:
            yield bill
        except FluxError as error:
            await self._settle(bill, bill.held if isinstance(error, _MAY_BE_CHARGED) else 0.0, estimate)
            raise
        except BaseException:  # cancelled: it may have been submitted
            await self._settle(bill, bill.held, estimate)
            raise
        await self._settle(bill, bill.cost if bill.cost is not None else bill.held, estimate)

    async def _take(self, tool: str, estimate: float | None) -> Reservation:
        if self.cap is None:
            return Reservation(tool, 0.0, estimate is not None)
        async with self._change:
            while True:
                price = estimate * self._dearer.get(tool, 1.0) if estimate is not None else self._seen.get(tool)
                total = self.spent + self.held
                if price is None:
                    is_alone = not self._trying[tool]
                    fits = is_alone and total < self.cap
                else:
                    fits = total + price <= self.cap + _ROUNDING
                if fits:
                    break
                if not self._in_flight:
                    needed = f"a job of {tool} costs {price:.2f}" if price is not None else f"{tool} has no known price"
                    before = f", {self._earlier:.2f} of them in earlier runs" if self._earlier else ""
                    raise BudgetReached(
                        f"the budget of {self.cap:g} credits is reached: {self.spent:.2f} are spent{before}, and "
                        f"{needed}; run again with a larger one (--budget) to go on"
                    )
                await self._change.wait()
            bill = Reservation(tool, price or 0.0, price is not None)
            self.held += bill.held
            self._in_flight += 1
            if price is None:
                self._trying[tool] += 1
            self._look()
            return bill

    async def _settle(self, bill: Reservation, cost: float, estimate: float | None) -> None:
        async with self._change:
            self.spent += max(cost, 0.0)
            if self.cap is not None:
                self._in_flight -= 1
                self.held = self.held - bill.held if self._in_flight else 0.0  # nothing is left of rounding
                if not bill.is_priced:
                    self._trying[bill.tool] -= 1
                if bill.cost is not None and estimate is None:
                    self._seen[bill.tool] = max(bill.cost, self._seen.get(bill.tool, 0.0))
                elif bill.cost and estimate:
                    self._dearer[bill.tool] = max(bill.cost / estimate, self._dearer.get(bill.tool, 1.0))
                self._look()
            self._change.notify_all()
        if self.cap is not None and (cost or bill.held):
            await self._keep()

    def _look(self) -> None:
        total = self.spent + self.held
        if self.cap and not self._warned and total >= _WARN_AT * self.cap:
            self._warned = True
            self.warn(f"{total:.2f} of the budget's {self.cap:g} credits are spent or in flight")
