"""The budgets of a store for calls outside a run, each of which is checked before it is sent.

A run reserves what its jobs in flight may cost. A call has its intent in the journal, with what it is expected to cost,
before what others have spent and intend is read. So of two that want the last credits at one moment, at least one sees
the other; it may be that both are refused.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from flux_tasks.errors import BudgetReached
from flux_tasks.store.account.periods import SET_AGAIN, Limit, PeriodBudget, read_limits
from flux_tasks.store.records import Store

__all__ = ["check_call"]

_ROUNDING = 1e-6


@dataclass
class _Reader:
    """What is known of the budgets of one store; of several calls that come at once, one reads for all."""

    budget: PeriodBudget
    begun: int = 0
    done: int = 0
    """The number of the last reading that has succeeded, and so saw all that was written before it began."""
    reading: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> None:
        came = self.begun
        with self.reading:
            if self.done <= came:
                self.begun += 1
                self.budget.read()
                self.done = self.begun

    def check(self, tool: str, estimate: float | None) -> None:
        budget = self.budget
        for limit in budget.limits:
            total = budget.spent(limit)  # with this call
            if total > limit.credits + _ROUNDING or (estimate is None and total >= limit.credits):
                raise BudgetReached(budget.reached(limit, total - (estimate or 0.0), tool, estimate))


_readers: dict[tuple[str, str, tuple[Limit, ...]], _Reader] = {}
"""By store, engine and limits: what was read of full pages of charges, which do not change."""

os.register_at_fork(after_in_child=_readers.clear)  # another thread of the parent may have been reading


def check_call(store: Store, engine: str, tool: str, estimate: float | None) -> None:
    """Check that a call fits into the budgets of its store; its intent is in the journal. Call it on a thread.

    Args:
        estimate: credits; None without a published price: such a call fits where anything is left.

    Raises:
        BudgetReached: it does not fit, or what the budgets are cannot be read.
        OSError: the store cannot be read.
    """
    try:
        limits = read_limits(store)
    except ValueError as error:
        raise BudgetReached(f"the store's budget is unknown ({error}): {SET_AGAIN}") from None
    if limits:
        place = store.url, engine, tuple(limits)
        reader = _readers.get(place) or _readers.setdefault(place, _Reader(PeriodBudget(store, limits, "", "", engine)))
        reader.read()
        reader.check(tool, estimate)
