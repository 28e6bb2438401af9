"""Writing what was paid for: patiently, in the right order, and from the spool once the store is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from flux_tasks import files
from flux_tasks.errors import StoreUnavailable
from flux_tasks.images.reference import ImageRef
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store
from flux_tasks.store.spool import Spool

__all__ = ["commit", "drain_spool", "patiently", "reconcile"]

_log = logging.getLogger("flux_tasks.job")

T = TypeVar("T")


async def patiently(function: Callable[..., T], *arguments: Any) -> T:
    """``function`` on a thread, repeated while the store fails in a way that may pass.

    Raises:
        StoreUnavailable: it does not pass.
    """
    for pause in (*files.PAUSES, None):
        try:
            return await asyncio.to_thread(function, *arguments)
        except OSError as error:
            if pause is None or not files.may_pass(error):
                raise StoreUnavailable(f"the store cannot be used: {error}") from error
            _log.info("the store failed (%s); trying again in %.1f s", error, pause)
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")


async def commit(store: Store, entry: Entry, facts: dict[str, Any], data: bytes) -> ImageRef:
    """Write a result and forget its journal entry.

    Raises:
        StoreUnavailable: the result could not be written.
    """
    kept = await patiently(partial(store.put_image, data, name=entry.name))
    image = replace(kept, engine=kept.engine or str(facts["engine"]), cost=facts["cost"], job_id=entry.id)
    await patiently(store.put_result, entry.key, image, facts)
    with suppress(StoreUnavailable):  # the next run tidies it up
        await patiently(Journal(store).settle, entry.key, entry.id, "")  # "": the id could not be written at the time
    return image


async def reconcile(settings: Settings) -> int:
    """Write what the spool holds, and forget journal entries whose result is recorded; returns the unsettled jobs.

    Raises:
        StoreUnavailable: the store cannot be read or written.
    """
    store = Store(settings.store)
    journal = Journal(store)
    await drain_spool(settings)
    left = 0
    for entry in await patiently(journal.entries):
        is_due = not entry.is_leased and not entry.refresh
        if is_due and await patiently(store.result, entry.key) is not None:
            await patiently(journal.settle, entry.key, entry.id)
        else:
            left += 1
    return left


async def drain_spool(settings: Settings) -> int:
    """Write results that wait in the spool into the store; returns how many were written."""
    store = Store(settings.store)
    spool = Spool(store)
    written = 0
    for key in await asyncio.to_thread(spool.keys):
        kept = await asyncio.to_thread(spool.job, key)
        if kept is None:
            continue
        if kept.facts is None or kept.image is None:  # only its id
            await patiently(Journal(store).put, kept.entry)
        else:
            data = await asyncio.to_thread(kept.image.read)
            await commit(store, kept.entry, kept.facts, data)
            written += 1
        await asyncio.to_thread(spool.remove, key)
    return written
