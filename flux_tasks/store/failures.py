"""Failures at the service that are shared: processes that want the same job at the same time are told, and pay nothing.

A job that the service ended with an error leaves ``failures/<key>.json``. It is given, once, to each other process that
waited for this very job, or that was already running when it failed, for ten minutes. It is no result: a process that
begins later, and the process itself, submit the job again.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flux_tasks.errors import ItemError, JobFailed, StoreUnavailable
from flux_tasks.store.commit import insist, patiently
from flux_tasks.store.journal import Entry
from flux_tasks.store.owner import readable, this_process
from flux_tasks.store.records import Store

_KIND = "failures"
_LIFETIME = 600.0
_SKEW = 60.0  # seconds by which the time of a record may lie ahead

_given: set[str] = set()
"""Words of the failures that this process was given."""


async def remember_failure(store: Store, failure: ItemError, entry: Entry) -> None:
    """Write down that the job of ``entry`` failed; without a store the others submit it themselves."""
    record = {
        "message": str(failure),
        "job_id": entry.id,
        "owner": this_process(),
        "at": time.time(),
        "begun": entry.begun,
        "word": entry.word,
    }
    with suppress(StoreUnavailable):
        await patiently(store.put_record, _KIND, entry.key, record)


def read_failure(store: Store, key: str) -> dict[str, Any]:
    """Return the record of a failure of the job ``key``; empty if there is none. Call it on a thread.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    return insist(store.record_or_empty, _KIND, key)


def shared_failure(record: Mapping[str, Any], awaited: Entry | None) -> JobFailed | None:
    """Return the failure of a job in another process, if this one is to share it.

    Args:
        record: what ``read_failure`` has found.
        awaited: the entry that was waited for, if there was one.
    """
    word, owner, begun = (record.get(name) for name in ("word", "owner", "begun"))
    if not isinstance(word, str) or not isinstance(owner, str) or owner == this_process() or word in _given:
        return None
    was_awaited = awaited is not None and awaited.begun == begun
    if not was_awaited and not (_process_start() <= _time_of(record) and _is_recent(record)):
        return None
    _given.add(word)
    return JobFailed(f"{record.get('message')} (in {readable(owner)}, which made this job at the same time)")


async def forget_failures(store: Store) -> None:
    """Remove the records of failures that nobody is to share any more."""
    names = await patiently(store.records, _KIND)

    async def forget(name: str) -> None:
        if not _is_recent(await patiently(store.record_or_empty, _KIND, name)):
            await patiently(store.remove_record, _KIND, name)

    await asyncio.gather(*(forget(name) for name in names))


def _process_start() -> float:
    """Return when this process began, in seconds since 1970: its imports take a while."""
    with suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # see proc(5)
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    return time.time() - time.process_time()


def _time_of(record: Mapping[str, Any]) -> float:
    at = record.get("at")
    return float(at) if isinstance(at, (int, float)) else 0.0


def _is_recent(record: Mapping[str, Any]) -> bool:
    return -_SKEW < time.time() - _time_of(record) < _LIFETIME
