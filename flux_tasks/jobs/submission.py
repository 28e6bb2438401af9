"""The submission of a job: the intent in the journal, the POST, and the service's id in the journal.

No job is submitted twice: the process that writes the intent submits it, all others wait for it or collect it.
"""

import asyncio
import atexit
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flux_tasks import background
from flux_tasks.api.client import BflClient, Submission
from flux_tasks.errors import (
    Interrupted,
    InvalidRequest,
    ItemError,
    RateLimited,
    RunStopped,
    ServerUnavailable,
    StoreUnavailable,
    SubmissionUncertain,
)
from flux_tasks.jobs.context import JobContext
from flux_tasks.jobs.endpoint import Endpoint
from flux_tasks.jobs.known import is_answered
from flux_tasks.store.account.calls import check_call
from flux_tasks.store.commit import insist, patiently
from flux_tasks.store.failures import read_failure, shared_failure
from flux_tasks.store.journal import LEASE, Entry, Journal, Standing
from flux_tasks.store.spool import Spool

_log = logging.getLogger("flux_tasks.job")

_LATE = 5.0
"""Seconds after an intent, or after the last look at it, from which its owner looks at it before it sends the job."""


class _TakenOver(Exception):
    """Another process has given this one up, and has the job by now."""


class Stopwatch:
    """Seconds that have passed, also while this process was stopped or this machine slept, if any clock says so."""

    def __init__(self) -> None:
        self._begun = time.monotonic(), time.time()

    def seconds(self) -> float:
        """Return the seconds since it was begun."""
        return max(time.monotonic() - self._begun[0], abs(time.time() - self._begun[1]))


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is submitted and that this process now collects.

    Attributes:
        entry: what the journal has of it, with the service's id.
        submitted_at: when this call submitted it, by ``time.monotonic``; None for a job of an earlier attempt.
    """

    entry: Entry
    submitted_at: float | None = None

    @property
    def is_earlier(self) -> bool:
        """Whether an earlier attempt, of this process or another one, submitted the job."""
        return self.submitted_at is None


class Submitter:
    """Submits one job, unless another attempt has done so.

    Attributes:
        warnings: why the job was submitted again, if it was.
        awaited: what the journal had of the job when it was last left to another process.
    """

    def __init__(self, job: JobContext, endpoint: Endpoint, client: BflClient) -> None:
        self.warnings: list[str] = []
        self.awaited: Entry | None = None
        self._job, self._endpoint, self._client = job, endpoint, client
        self._room = AsyncExitStack()
        """Memory for the request's body."""
        self._body: Mapping[str, Any] = {}
        self._addresses: Mapping[str, str] = {}
        """What the body has in place of pictures."""
        self._replaced: Entry | None = None
        """The attempt that is to be submitted again."""
        self._unsent: Entry | None = None
        """An intent of this call that was certainly not sent, but may not be removed any more."""
        self._is_cancelled = False

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        """Make the request's body before there is a slot for it; it stays in memory until ``claim`` has ended.

        Raises:
            InvalidImage: a picture cannot be read or decoded.
        """
        call, settings = self._job.call, self._job.settings
        async with self._room:
            await self._room.enter_async_context(self._endpoint.sent(call.tool.slots).hold(call.body_bytes))
            self._addresses = await self._endpoint.addresses.of(call, settings)
            self._body = await asyncio.to_thread(call.body, self._addresses)
            self._room.callback(setattr, self, "_body", {})
            yield

    async def claim(self) -> Claim | None:
        """Submit the job, or take over the job of an earlier attempt. To be called within ``prepared``.

        Returns:
            None if another process is at work on the job, or if its result has come into the store.

        Raises:
            RunStopped: nothing is submitted any more.
            SubmissionUncertain: an earlier attempt may have been charged, and nobody allows another one.
            StoreUnavailable: the journal cannot be read or written; nothing was submitted.
            JobFailed: another process has just made the job, and the service ended it with an error.
            FluxError: from ``BflClient.submit``.
        """
        async with self._room:
            return await self._claim()

    async def _claim(self) -> Claim | None:
        job = self._job
        for _ in range(100):
            if job.halt.reason and (self._replaced or await patiently(job.journal.entry, job.key) is None):
                self._check_stop()
            is_first, claim = await self._submit(self._intent())
            if is_first:
                return claim
            if self._unsent is not None and await patiently(job.journal.is_own, self._unsent):
                # It was left to another process, which left it, too.
                return (await self._submit(self._unsent, is_intended=True))[1]
            earlier = await self._earlier()
            if earlier is None:  # settled in the meantime
                self._replaced = None
                await asyncio.sleep(0.01)
                continue
            if job.journal.is_leased(earlier):
                self.awaited = earlier
                return None
            standing = earlier.standing(job.settings)
            if standing is Standing.PAID:
                _log.info("%s: collecting job %s of an earlier attempt", job.title, earlier.id)
                return Claim(earlier)
            if standing in (Standing.DROPPED, Standing.HELD) and await self._has_result():
                return None  # the intent came too late: its owner ended before it could remove it
            if standing is Standing.DROPPED:
                raise SubmissionUncertain(f"{job.title}: dropped by a person, because it may have been charged")
            why = earlier.reason or "an earlier attempt was cut off while submitting and may have been charged"
            if standing is Standing.HELD:
                raise SubmissionUncertain(f"{job.title}: {why}; held (see flux-pipelines store held)")
            self.resubmit(earlier, why)
        raise StoreUnavailable(f"the journal of {job.store.url} cannot be written: there is no room for {job.key}")

    def _intent(self) -> Entry:
        job, call = self._job, self._job.call
        attempt = 1 if self._replaced is None else self._replaced.attempt + 1
        entry = Entry(job.key, call.tool.name, "intent", call.name, call.estimate(), engine=job.engine)
        halt = job.halt
        entry = replace(entry, run=halt.run, recipe=halt.recipe, part=halt.part)
        return replace(entry, attempt=attempt, refresh=job.refresh)

    async def _earlier(self) -> Entry | None:
        """Return the last attempt at the job; its id may wait in the spool, if the journal could not be written."""
        entry = await patiently(self._job.journal.entry, self._job.key)
        if entry is not None and entry.phase == "intent":
            spooled = await asyncio.to_thread(self._job.spool.job, self._job.key)
            if spooled is not None and spooled.entry.attempt == entry.attempt:
                return spooled.entry
        return entry

    def resubmit(self, entry: Entry, why: str) -> None:
        """Let the next ``claim`` submit the job again, in place of the attempt ``entry``."""
        self._replaced = entry
        self.warnings.append(f"submitted again: {why}")
        _log.warning("%s: submitting again; %s", self._job.title, why)

    def _intend(self, intent: Entry) -> bool:
        """Write down ``intent``; False if another attempt has an entry. Call it on a thread."""
        journal, replaced = self._job.journal, self._replaced
        if not insist(journal.intend, intent):
            return False
        if replaced is None or replaced.phase == "submitted" or insist(journal.is_unchanged, replaced):
            return True
        insist(journal.withdraw, intent)  # the owner of the attempt that was to be replaced has come back
        return False

    async def _submit(self, intent: Entry, *, is_intended: bool = False) -> tuple[bool, Claim | None]:
        """Return whether no other attempt has an entry in the journal, and what is claimed if that is so."""
        # From the intent to the id in the journal nothing may be interrupted by a cancellation: an intent alone would
        # be held for a job that may have been charged, and a POST alone would lose its id.
        posting = asyncio.create_task(self._begin(intent, self._body, is_intended=is_intended))
        _posting.add(posting)
        posting.add_done_callback(_posting.discard)
        try:
            return await asyncio.shield(posting)
        except asyncio.CancelledError:
            self._is_cancelled = True
            await asyncio.wait([posting])
            raise

    async def _begin(self, intent: Entry, body: Mapping[str, Any], *, is_intended: bool) -> tuple[bool, Claim | None]:
        begun = None if is_intended else Stopwatch()

        def begin() -> dict[str, Any] | None:
            is_first = is_intended or self._intend(intent)
            return read_failure(self._job.store, intent.key) if is_first else None

        if (failed := await asyncio.to_thread(begin)) is None:
            return False, None
        # Whoever had the entry before may have finished between the first look into the store and this intent.
        if await self._is_answered(intent) or self._is_cancelled:
            await patiently(self._job.journal.withdraw, intent)
            return True, None
        if (failure := shared_failure(failed, self.awaited)) is not None:
            await patiently(self._job.journal.withdraw, intent)
            raise failure
        if not self._job.halt.run:  # a run has reserved what its job may cost
            await self._check_budget(intent)
        return True, await self._post(intent, body, begun)

    async def _check_budget(self, intent: Entry) -> None:
        """Check that a call outside a run fits into the budgets of the store; its intent is withdrawn where not.

        Raises:
            BudgetReached: it does not.
            StoreUnavailable: the store cannot be read.
        """
        try:
            await patiently(check_call, self._job.store, intent.engine, intent.tool, intent.estimate)
        except RunStopped:
            await patiently(self._job.journal.withdraw, intent)
            raise

    async def _post(self, intent: Entry, body: Mapping[str, Any], begun: Stopwatch | None) -> Claim | None:
        job, slots = self._job, self._job.call.tool.slots

        async def look_again() -> None:
            nonlocal begun
            self._check_stop()
            if begun is None or begun.seconds() > _LATE:
                begun = Stopwatch()
                if not await patiently(job.journal.confirm, intent):
                    self._unsent = intent
                    raise _TakenOver
                if await self._is_answered(intent):
                    await patiently(job.journal.withdraw, intent)
                    raise _TakenOver
                self._check_stop()  # a store may take seconds to answer

        try:
            async with keep_lease(job.journal, intent):
                answer = await self._send(body, look_again)
        except _TakenOver:
            _log.info("%s: not submitted, because another process has it by now", job.title)
            return None
        except (ItemError, RunStopped, RateLimited, ServerUnavailable):
            with suppress(StoreUnavailable):
                await patiently(job.journal.withdraw, intent)  # provably not charged
            raise
        except SubmissionUncertain:
            with suppress(OSError):
                await asyncio.to_thread(job.journal.put, replace(intent, owner=""))  # held from now on, not leased
            raise
        self._endpoint.slots.raise_again(slots)
        submitted_at = time.monotonic()
        self._endpoint.submitted.add(answer.id)
        entry = intent.with_id(answer.id, polling_url=answer.polling_url or "", cost=answer.cost)
        entry = replace(entry, input_mp=answer.input_mp, output_mp=answer.output_mp)
        _unwritten[entry.id] = job.spool, entry
        try:
            try:
                await patiently(job.journal.put, entry)
            except RuntimeError:  # the interpreter is ending and lends no more threads
                job.journal.put(entry)
        except (OSError, StoreUnavailable) as error:
            self._spool(entry, error)
        finally:
            del _unwritten[entry.id]
        return Claim(entry, submitted_at)

    async def _send(self, body: Mapping[str, Any], before_post: Callable[[], Awaitable[None]]) -> Submission:
        """Submit ``body``, or the same with bytes where it has addresses and is refused: a refused one is no job."""
        job = self._job
        submit = partial(
            self._client.submit,
            job.call.tool,
            deadline=job.deadline,
            on_wait=self._wait_for_room,
            before_post=before_post,
        )
        called = job.webhook
        try:
            return await submit({**body, **called})
        except InvalidRequest:
            if not self._addresses:
                raise
        answer = await submit({**await asyncio.to_thread(job.call.body), **called})
        self.distrust_addresses("the service took the bytes of a picture, and not its address")
        return answer

    def distrust_addresses(self, why: str) -> None:
        """Send no more addresses like those of this job, which may be the reason why it failed."""
        self._endpoint.addresses.refused(self._addresses.values(), f"{self._job.title}: {why}")
        self._addresses = {}

    async def _has_result(self) -> bool:
        job = self._job
        return not job.refresh and any([await patiently(job.store.result, key) for key in job.keys])

    async def _is_answered(self, intent: Entry) -> bool:
        return not self._job.refresh and await is_answered(self._job, intent)

    async def _wait_for_room(self, seconds: float, is_asked: bool) -> None:
        """Wait after a 429, only until one of this process's jobs has ended where the job was let in early.

        No job exists then, so that a stop or a cancellation ends the wait.
        """
        end = time.monotonic() + seconds
        async with self._endpoint.slots.refused(self._job.call.tool.slots) as has_room:
            is_early = not is_asked and not has_room()
            while (left := end - time.monotonic()) > 0 and not (is_early and has_room()):
                self._check_stop()
                await asyncio.sleep(min(left, 0.02 if is_early else 0.2))

    def _check_stop(self) -> None:
        """Raise why the job is wanted no more: the run was stopped, or the call cancelled."""
        reason = self._job.halt.reason or (Interrupted("cancelled") if self._is_cancelled else None)
        if reason is not None:
            raise type(reason)(f"not begun, because the run was stopped: {reason}")

    def _spool(self, entry: Entry, error: Exception) -> None:
        """Write the id of a paid job to this machine's disk, because the journal cannot be written."""
        _log.warning("%s: job %s waits in the spool: %s", self._job.title, entry.id, error)
        try:
            self._job.spool.put(entry)
        except OSError as problem:  # go on with what is known, and leave the id where a person can find it
            _log.warning("%s: job %s can be written nowhere: %s", self._job.title, entry.id, problem)


@asynccontextmanager
async def keep_lease(journal: Journal, entry: Entry) -> AsyncIterator[None]:
    """Renew the lease of ``entry`` again and again while the block runs."""
    writing: list[asyncio.Future[None]] = []

    async def renew() -> None:
        while True:
            await asyncio.sleep(LEASE / 3)
            writing[:] = [asyncio.ensure_future(asyncio.to_thread(journal.renew, entry))]
            with suppress(OSError):
                await asyncio.shield(writing[0])

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait([renewing, *writing])  # no renewal may come after what is written next
        for renewal in writing:
            renewal.exception()  # a store that fails just then is nobody's trouble


_posting: set[asyncio.Task[tuple[bool, Claim | None]]] = set()
"""Submissions of this process between the intent and the id in the journal."""

_unwritten: dict[str, tuple[Spool, Entry]] = {}
"""Jobs whose ids are known and not in the journal yet."""


def spool_ids() -> None:
    """Write the ids that a slow store has not taken yet to this machine's disk: the process ends now."""
    for spool, entry in [*_unwritten.values()]:
        with suppress(OSError):
            spool.put(entry)


def is_submitting() -> bool:
    """Check whether a POST of this process waits for its answer: the job would be lost if the process ended now."""
    return bool(_posting)


@atexit.register
def _finish_submissions() -> None:
    """Let a program that ends wait for the answers to its POSTs: without their ids the jobs would be lost."""
    if posting := list(_posting):
        background.run(asyncio.wait(posting))  # each is answered or timed out


os.register_at_fork(after_in_child=_posting.clear)  # a forked child has none of its parent's tasks
os.register_at_fork(after_in_child=_unwritten.clear)
