"""Write what was paid for: several times if needed, in the right order, and from the spool once the store is back."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from flux_tasks import files
from flux_tasks.errors import StoreUnavailable
from flux_tasks.images.reference import ImageRef
from flux_tasks.settings import Settings
from flux_tasks.store.charges import add_charges
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store
from flux_tasks.store.spool import Spool

_log = logging.getLogger("flux_tasks.job")

T = TypeVar("T")


def insist(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call ``function`` on this thread, again while the store fails in a way that may pass: see ``patiently``.

    So several calls that follow one another need one thread, and each has patience of its own.

    Raises:
        StoreUnavailable: it does not pass.
    """
    try:
        return files.patiently(function, *arguments, **options)
    except OSError as error:
        raise StoreUnavailable.of("used", error) from error


async def patiently(function: Callable[..., T], *arguments: Any) -> T:
    """Call ``function`` on a thread, again while the store fails in a way that may pass.

    Raises:
        StoreUnavailable: it does not pass.
    """
    for pause in (*files.access.PAUSES, None):
        try:
            return await asyncio.to_thread(function, *arguments)
        except OSError as error:
            if pause is None or not files.may_pass(error):
                raise StoreUnavailable.of("used", error) from error
            _log.info("the store failed (%s); trying again in %.1f s", error, pause)
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")


def commit(store: Store, entry: Entry, facts: dict[str, Any], data: bytes | ImageRef) -> ImageRef:
    """Write a result, given as its bytes or as a picture that has them, and remove its journal entry.

    Call it on a thread.

    Raises:
        StoreUnavailable: the result could not be written.
    """
    stored = insist(store.put_image, data, name=entry.name)
    image = replace(stored, engine=stored.engine or str(facts["engine"]), cost=facts["cost"], job_id=entry.id)
    insist(store.put_result, entry.key, image, facts, is_paid=True)
    with suppress(StoreUnavailable):  # the next run removes it
        charge = entry.charge(facts["cost"])
        insist(add_charges, store, [charge])
        insist(Journal(store).settle, entry.key, entry.id, "", charge=charge)  # "": the id could not be written then
    return image


async def reconcile(settings: Settings) -> int:
    """Write what waits in the spool, and remove journal entries whose result is stored; return how many are left.

    Raises:
        StoreUnavailable: the store cannot be read or written.
    """
    store = Store(settings.store)
    journal = Journal(store)
    await drain_spool(settings)
    left = 0
    for entry in await patiently(journal.entries):
        result = None if entry.refresh else await patiently(store.result, entry.key)
        if result is not None and (result.get("job_id") == entry.id or not journal.is_leased(entry)):
            await patiently(journal.settle, entry.key, entry.id)
            await patiently(journal.remove_orphan, entry)
        else:
            left += 1
    return left


async def drain_spool(settings: Settings) -> int:
    """Write what waits in the spool into the store; return how many results were written."""
    store = Store(settings.store)
    spool = Spool(store)
    written = 0
    for key in await asyncio.to_thread(spool.keys):
        spooled = await asyncio.to_thread(spool.job, key)
        if spooled is None:
            continue
        if spooled.facts is None or spooled.image is None:  # only its id
            await patiently(Journal(store).put, spooled.entry)
        else:
            data = await asyncio.to_thread(spooled.image.read)
            await asyncio.to_thread(commit, store, spooled.entry, spooled.facts, data)
            written += 1
        await asyncio.to_thread(spool.remove, key)
    return written
