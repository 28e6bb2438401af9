"""Wait for the service's call-backs, which say that a job is to be looked at now.

A call-back is never believed: it makes the next poll come at once. One that comes to a receiver in another process is a
record in the store, which the waiting process finds: it lists them once a second for all its jobs::

    callbacks/<digest of the job's id>.json     when it came
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from flux_tasks.errors import reason_of
from flux_tasks.store.records import Store

__all__ = ["Calls", "awaited", "note_callback", "remove_old", "wake"]

_KIND = "callbacks"
_PAUSE = 1.0
"""Seconds between two looks at the store's records."""

_SLOW = 30.0
"""Seconds between two polls of a job whose call-back is awaited: it may be lost."""

_SEVERAL = 3
"""Jobs that have to end without a call-back, with none that had one before, until somebody is told."""

_OLD = 3600.0
"""Seconds after which a record is removed that no job has waited for: it came again after the job's end."""

_log = logging.getLogger("flux_tasks.callbacks")


class Calls:
    """The call-backs of one job. Used on one event loop.

    Args:
        is_fallback: whether the job is polled now and then although nothing was heard.
    """

    def __init__(self, *, is_fallback: bool = True) -> None:
        self._called = asyncio.Event()
        self.came = False
        """Whether there was one."""
        self._loop = asyncio.get_running_loop()
        self._is_fallback = is_fallback

    def call(self) -> None:
        """Let the job be looked at now. From any thread."""
        self.came = True
        with suppress(RuntimeError):  # the loop has just ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._called.set)

    def pause(self, usual: float, *, is_well: bool) -> float:
        """Return the seconds until the next poll, in place of the usual ones where all is well."""
        if not is_well:
            return usual
        return max(usual, _SLOW) if self._is_fallback else float("inf")

    async def sleep(self, seconds: float) -> None:
        """Sleep for so long, or until there is a call-back, which counts once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._called.wait()
        self._called.clear()


class _Waiting:
    """The jobs of one store that wait for their call-backs in this process."""

    def __init__(self) -> None:
        self.jobs: dict[str, Calls] = {}
        self.looking: asyncio.Task[None] | None = None


_MOST_ENDED = 10_000

_lock = threading.Lock()
_ended: dict[tuple[str, str], None] = {}
"""Jobs that this process has waited for, of late; a call-back that comes again writes no record of them."""
_stores: dict[str, _Waiting] = {}
_silent: dict[str, int] = {}
"""By store: jobs that have ended without a call-back since the last one; beyond ``_SEVERAL``, somebody was told."""


def _forget_parent() -> None:
    global _lock
    _lock = threading.Lock()
    _stores.clear()
    _silent.clear()


os.register_at_fork(after_in_child=_forget_parent)


def _name(job_id: str) -> str:
    return hashlib.sha256(job_id.encode(errors="surrogatepass")).hexdigest()[:32]


@asynccontextmanager
async def awaited(
    store: Store, job_id: str, *, is_fallback: bool = True, is_counted: bool = True
) -> AsyncIterator[Calls]:
    """Give the call-backs of a job for a block; its record is removed when the block has ended.

    Args:
        is_fallback: whether the job is polled now and then although nothing was heard.
        is_counted: a job that ends in the block without a call-back is a sign that none arrives. That of an earlier
            attempt is none: it may have been called back long ago.
    """
    calls, name = Calls(is_fallback=is_fallback), _name(job_id)
    with _lock:
        waiting = _stores.setdefault(store.url, _Waiting())
        waiting.jobs[name] = calls
    if waiting.looking is None:
        waiting.looking = asyncio.create_task(_look(store, waiting))
    try:
        yield calls
        if is_counted:
            _count(store, has_come=calls.came)
    finally:
        with _lock:
            del waiting.jobs[name]
            _ended[store.url, name] = None
            if len(_ended) > _MOST_ENDED:
                del _ended[next(iter(_ended))]
            if not waiting.jobs:
                waiting.looking.cancel()
                del _stores[store.url]
        with suppress(OSError):  # the next receiver removes it
            await asyncio.to_thread(store.remove_record, _KIND, name)


def _count(store: Store, *, has_come: bool) -> None:
    """Say once that several jobs have ended, and none was called back."""
    with _lock:
        before = _silent.get(store.url, 0)
        if before > _SEVERAL:
            return
        _silent[store.url] = count = 0 if has_come else before + 1
        if count < _SEVERAL:
            return
        _silent[store.url] = _SEVERAL + 1
    _log.warning(
        "call-backs are awaited, and none has come: the last %d jobs have ended, and were polled every %g s instead. "
        "Check that something listens (flux-pipelines receive on %s, or --webhook-listen), that FLUX_WEBHOOK_URL is "
        "passed on to it, and that both have one FLUX_WEBHOOK_SECRET; flux-pipelines doctor tries it",
        *(count, _SLOW, store.url),
    )


async def _look(store: Store, waiting: _Waiting) -> None:
    """Look for records of the jobs that wait, until it is cancelled."""
    seen: set[str] = set()
    told = ""
    while True:
        try:
            found = set(await asyncio.to_thread(store.records, _KIND))
        except OSError as error:  # the jobs are polled all the same
            if (reason := reason_of(error)) != told:
                _log.warning("call-backs in %s cannot be read: %s", store.url, reason)
                told = reason
        else:
            for name in found - seen:
                if (calls := waiting.jobs.get(name)) is not None:
                    calls.call()
                    seen.add(name)
            seen &= found
        await asyncio.sleep(_PAUSE)


def wake(store: Store, job_id: str) -> bool:
    """Let the job be looked at now if this process waits for it; False if it does not."""
    with _lock:
        calls = _stores[store.url].jobs.get(_name(job_id)) if store.url in _stores else None
    if calls is not None:
        calls.call()
    return calls is not None


def note_callback(store: Store, job_id: str) -> None:
    """Let the process that waits for a job look at it now: this one directly, any other one by a record in the store.

    Raises:
        OSError: the store cannot be written.
    """
    name = _name(job_id)
    with _lock:
        is_ended = (store.url, name) in _ended
    if not wake(store, job_id) and not is_ended:
        store.create_record(_KIND, name, {"at": time.time()})


def remove_old(store: Store) -> None:
    """Remove records that nobody has waited for.

    Raises:
        OSError: the store cannot be read or written.
    """
    for name in store.records(_KIND):
        at = store.record_or_empty(_KIND, name).get("at")
        if not isinstance(at, (int, float)) or at < time.time() - _OLD:
            store.remove_record(_KIND, name)
