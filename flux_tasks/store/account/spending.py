"""What was spent on a store, by whatever run or program: from its pages of charges, its journal and its results."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from flux_tasks.store.charges import Charge, ChargePages, day_of, uncounted
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store

__all__ = ["NOT_NOTED", "all_charges", "unsettled"]

NOT_NOTED = "(not noted)"
"""Recipe of what was charged before recipes were noted."""


def unsettled(store: Store) -> dict[str, Charge]:
    """Return what jobs in the journal cost, by job id. To be called before pages are read: an entry leaves later.

    Raises:
        OSError: the store cannot be read.
    """
    charges = (entry.charge() for entry in Journal(store).entries())
    return {charge.id: charge for charge in charges if charge.credits}


def all_charges(store: Store, is_wanted: Callable[[str], bool] = lambda day: True) -> tuple[list[Charge], list[str]]:
    """Return all that was charged on some days (UTC), the oldest first, and the pages that are damaged.

    Raises:
        OSError: the store cannot be read.
    """
    pages = ChargePages(store)
    found = unsettled(store)
    found |= {charge.id: charge for charge in itertools.chain(*pages.read())}
    old = [replace(charge, recipe=NOT_NOTED) for charge in uncounted(store, found)]
    charges = (charge for charge in (*found.values(), *old) if is_wanted(day_of(charge.at)))
    return sorted(charges, key=lambda charge: (charge.at, charge.id)), pages.damaged
