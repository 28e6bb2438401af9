"""What was spent on a store, by whatever run or program: from its pages of charges, its journal and its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flux_tasks.store.charges import Charge, ChargePages, day_of, uncounted
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store

__all__ = ["NOT_NOTED", "all_charges", "spent_in"]

NOT_NOTED = "(not noted)"
"""Recipe of what was charged before recipes were noted."""


def spent_in(pages: ChargePages, store: Store, is_wanted: Callable[[str], bool]) -> dict[str, Charge]:
    """Return what was charged on some days (UTC), by job id, with what is in flight; nothing is counted twice.

    Raises:
        OSError: the store cannot be read.
    """
    # The journal first: an entry leaves it only when its charge is on a page.
    entries = [entry.charge() for entry in Journal(store).entries()]
    found = {charge.id: charge for charge in entries if charge.credits and is_wanted(day_of(charge.at))}
    return {**found, **pages.read(is_wanted)}


def all_charges(store: Store, is_wanted: Callable[[str], bool] = lambda day: True) -> tuple[list[Charge], list[str]]:
    """Return all that was charged on some days (UTC), the oldest first, and the pages that are damaged.

    Raises:
        OSError: the store cannot be read.
    """
    pages = ChargePages(store)
    found = spent_in(pages, store, lambda day: True)
    old = [replace(charge, recipe=NOT_NOTED) for charge in uncounted(store, found)]
    charges = (charge for charge in (*found.values(), *old) if is_wanted(day_of(charge.at)))
    return sorted(charges, key=lambda charge: (charge.at, charge.id)), pages.damaged
