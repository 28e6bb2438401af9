"""The budgets of a store for calls outside a run, each of which is checked before it is sent.

A run reserves what its jobs in flight may cost. A call has its intent in the journal, with what it is expected to cost,
before what others have spent and intend is read. So of two that want the last credits at one moment, at least one sees
the other; it may be that both are refused.
"""

from __future__ import annotations

import os
import threading

from flux_tasks.errors import BudgetReached
from flux_tasks.store.account.periods import SET_AGAIN, Limit, PeriodBudget, read_limits
from flux_tasks.store.records import Store

__all__ = ["check_call"]

_ROUNDING = 1e-6

_lock = threading.Lock()
_budgets: dict[tuple[str, str, tuple[Limit, ...]], PeriodBudget] = {}
"""By store, engine and limits: what was read of full pages of charges, which do not change."""


def _forget_parent() -> None:
    global _lock
    _lock = threading.Lock()
    _budgets.clear()


os.register_at_fork(after_in_child=_forget_parent)


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
    if not limits:
        return
    with _lock:
        budget = _budgets.setdefault((store.url, engine, tuple(limits)), PeriodBudget(store, limits, "", "", engine))
        budget.read()
        for limit in limits:
            total = budget.spent(limit)  # with this call
            if total > limit.credits + _ROUNDING or (estimate is None and total >= limit.credits):
                raise BudgetReached(budget.reached(limit, total - (estimate or 0.0), tool, estimate))
