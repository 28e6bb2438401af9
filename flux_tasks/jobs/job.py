"""One tool call from its key to its stored result: the way every paid job goes.

store → spool → journal → slot → submit → journal → poll → fetch → blob → result record → journal entry removed.

All of it runs on the process's background loop (``portal``), so that sync and async callers share connections, slots
and the single-flight table: the same job asked for twice at once is one job. Other processes on the same store are kept
apart by the journal: one of them pays, the others wait for its result, or collect the job when its owner is gone.

A store that cannot be written after a job was paid for gets several chances; then what is known of the job, or its
result, waits in the spool on this machine and is written when the store is back.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from flux_tasks import background
from flux_tasks.api.client import BflClient, Finished
from flux_tasks.errors import (
    DeliveryFailed,
    Interrupted,
    ItemError,
    JobLost,
    Moderated,
    RateLimited,
    RunStopped,
    ServerUnavailable,
    StoreUnavailable,
    SubmissionUncertain,
)
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.endpoint import Endpoint, close, endpoint_for, engine_of, open_account, stop_submitting
from flux_tasks.jobs.result import JobOutcome, JobResult, picture_warnings
from flux_tasks.settings import Settings, is_loopback
from flux_tasks.store.commit import commit, flush, patiently, tidy
from flux_tasks.store.journal import LEASE, Entry, Journal
from flux_tasks.store.records import Store
from flux_tasks.store.spool import Spool

__all__ = [
    "JobResult",
    "Progress",
    "close",
    "endpoint_for",
    "engine_of",
    "execute",
    "flush",
    "is_submitting",
    "lookup",
    "open_account",
    "stop_submitting",
    "substitute",
    "tidy",
]

_log = logging.getLogger("flux_tasks.job")

T = TypeVar("T")

Progress = Callable[[str, float | None], None]
"""Told each status of a running job and the share done (0 to 1, where known). Called on the background loop."""

_KNOWN_FOR = 600.0  # seconds after its submission for which a job that is unknown counts as not known yet
_FETCH_PAUSES = (0.0, 1.0, 4.0)  # seconds between attempts at a delivery, each with a fresh address


_running: dict[tuple[str, str], asyncio.Task[JobResult]] = {}
_waiting: dict[tuple[str, str], int] = {}
_submitting: set[asyncio.Task[Entry]] = set()


async def lookup(call: Call, settings: Settings) -> JobResult | None:
    """The result of ``call`` if the store, or the spool, has it; spends nothing and opens no picture.

    Raises:
        Moderated: it was refused earlier, and is not to be tried again.
        StoreUnavailable: the store cannot be read, so that nothing is known.
    """
    engine = await engine_of(settings)
    return await _Job(call, settings, call.key(engine), engine).known()


async def substitute(refused: Call, made: Call, settings: Settings) -> None:
    """Let the result of ``made`` stand for ``refused`` from now on, which moderation has refused."""
    engine = await engine_of(settings)
    store, key = Store(settings.store), refused.key(engine)
    with suppress(ValueError):
        refusal = await patiently(store.record, "refusals", key)
        if refusal is not None:
            await patiently(store.put_record, "refusals", key, {**refusal, "instead": made.key(engine)})


async def execute(
    call: Call, settings: Settings, *, refresh: bool = False, on_progress: Progress | None = None
) -> JobResult:
    """Run one call to its stored result, paying at most once.

    Only on the background loop (see ``portal``). The same call under way already, in this process, is joined.

    Args:
        refresh: pay again even if the store has a result, and replace it.

    Raises:
        FluxError: see the tree in ``errors``; after every error but ``SubmissionUncertain`` the call may be made
            again without the risk of paying twice.
    """
    if await asyncio.to_thread(call.is_noop):
        image = call.main
        assert image is not None  # noqa: S101 - a mask belongs to a picture
        return JobResult(image, "", JobOutcome.UNCHANGED, 0.0, warnings=call.warnings)
    engine = await engine_of(settings)
    key = call.key(engine)
    flight = (Store(settings.store).url, key)
    while (task := _running.get(flight)) is not None and task.cancelling():
        await asyncio.wait([task])  # it is on its way out: begin anew rather than share its end
    if task is None:
        task = asyncio.create_task(_Job(call, settings, key, engine, refresh, on_progress).run())
        _running[flight] = task
        task.add_done_callback(lambda _: _running.pop(flight, None))
    _waiting[flight] = _waiting.get(flight, 0) + 1
    try:
        result = await asyncio.shield(task)
    except asyncio.CancelledError:
        if _waiting[flight] == 1:
            task.cancel()
        raise
    finally:
        _waiting[flight] -= 1
        if not _waiting[flight]:
            del _waiting[flight]
    return result.with_warnings_of(call)


@dataclass
class _Job:
    """One call on its way."""

    call: Call
    settings: Settings
    key: str
    engine: str
    refresh: bool = False
    on_progress: Progress | None = None
    over: Entry | None = None
    """The attempt that is to be made anew."""
    words: list[str] = field(default_factory=list)
    abandoned: bool = False
    """Whether nobody waits for it any more."""

    def __post_init__(self) -> None:
        self.store = Store(self.settings.store)
        self.journal = Journal(self.store)
        self.spool = Spool(self.store)
        self.submitted = time.monotonic()

    @property
    def _title(self) -> str:
        return f"{self.call.tool.task} {self.call.name}"

    # -- what is known already ------------------------------------------------------------------------------------

    async def known(self) -> JobResult | None:
        """The result, if there is one: in the store, or in the spool because the store could not be written.

        Raises:
            Moderated: it was refused earlier, and is not to be tried again.
            StoreUnavailable: the store cannot be read.
        """
        try:
            found = await patiently(self._from_store)
        except StoreUnavailable:
            if (spooled := await self._from_spool()) is not None:
                return spooled
            raise
        return found or await self._from_spool()

    def _from_store(self) -> JobResult | None:
        record = self.store.result(self.key)
        return self._refused() if record is None else self._cached(record["image"])

    def _cached(self, image: ImageRef, *warnings: str) -> JobResult:
        image = replace(image, name=self.call.name)
        return JobResult(image, self.key, JobOutcome.CACHED, image.cost, image.job_id, warnings=warnings)

    def _refused(self) -> JobResult | None:
        """The result that was made instead of one that moderation refused earlier, if there is one.

        Raises:
            Moderated: there is none.
        """
        if self.settings.retry_moderated:
            return None
        try:
            refusal = self.store.record("refusals", self.key)
        except ValueError:  # damaged: ask the service again
            return None
        if refusal is None or self.journal.entry(self.key) is not None:  # a later attempt is to be collected first
            return None
        instead = self.store.result(str(refusal["instead"])) if refusal.get("instead") else None
        if instead is not None:
            return self._cached(instead["image"], "made with another seed, because moderation refused the first one")
        reasons = refusal.get("reasons")
        raise Moderated(
            str(refusal.get("stage")),
            [str(r) for r in reasons] if isinstance(reasons, list) else [],
            job_id=str(refusal.get("job_id", "")),
            remembered=True,
        )

    async def _from_spool(self) -> JobResult | None:
        kept = await asyncio.to_thread(self.spool.job, self.key)
        if kept is None or kept.facts is None or kept.image is None:
            return None
        data = await asyncio.to_thread(kept.image.read)
        image = replace(kept.image, cost=kept.facts.get("cost"), job_id=kept.entry.id)
        try:
            image = await commit(self.store, kept.entry, kept.facts, data)
            await asyncio.to_thread(self.spool.remove, self.key)
        except (OSError, StoreUnavailable) as error:
            _log.warning("%s: the result still waits in the spool: %s", self._title, error)
        return self._cached(image)

    # -- the way --------------------------------------------------------------------------------------------------

    async def run(self) -> JobResult:
        """From the key to the stored result."""
        if not self.refresh and (found := await self.known()) is not None:
            # A crash may have come between record and settling; an entry of another job is not touched.
            await patiently(self.journal.settle, self.key, found.job_id or "-")
            return found
        self.settings.require_key()
        service = endpoint_for(self.settings)
        client = await service.connect()
        body = await asyncio.to_thread(self.call.body, urls=self.settings.send_urls)
        waited = 0.0
        while True:
            # The slot is held from submission to the end of the job; waiting for others and fetching need none.
            async with service.slots.hold(self.call.tool.slots):
                entry, attached = await self._enter(body, service, client)
                if entry is not None and (finished := await self._end_of(entry, attached, client)) is not None:
                    break
            if entry is None:
                found = None if self.refresh else await self.known()
                if found is not None:  # another process has just finished it
                    await patiently(self.journal.settle, self.key, found.job_id or "-")
                    return found
                waited = min(waited + 0.1, 2.0)
                await asyncio.sleep(waited)
        data, finished = await self._fetch(entry, finished, client)
        seconds = None if attached else time.monotonic() - self.submitted
        cost = finished.cost if finished.cost is not None else entry.cost
        image = await self._keep(entry, cost, data)
        is_submitted_here = entry.id in service.submitted
        service.submitted.discard(entry.id)  # nobody collects it again
        return JobResult(
            image,
            self.key,
            JobOutcome.COLLECTED if attached else JobOutcome.DONE,
            cost,
            entry.id,
            seconds=seconds,
            warnings=tuple(self.words),
            is_submitted_here=is_submitted_here,
        )

    @property
    def _deadline(self) -> float:
        return self.call.tool.deadline if self.settings.deadline is None else self.settings.deadline

    # -- journal and submission -----------------------------------------------------------------------------------

    async def _enter(self, body: dict[str, Any], service: Endpoint, client: BflClient) -> tuple[Entry | None, bool]:
        """An entry with the service's id, and whether it is an earlier one; else by submitting.

        No entry means that another process is at work on it, or that the result has come into the store meanwhile.
        """
        for _ in range(100):
            if service.stopped is not None and await patiently(self.journal.entry, self.key) is None:
                raise type(service.stopped)(f"not begun, because the run was stopped: {service.stopped}")
            entry = Entry(
                key=self.key,
                tool=self.call.tool.name,
                phase="intent",
                name=self.call.name,
                estimate=self.call.estimate(),
                attempt=1 if self.over is None else self.over.attempt + 1,
                refresh=self.refresh,
            )
            if await patiently(self.journal.intend, entry):
                return await self._submitted(entry, body, service, client)
            earlier = await patiently(self.journal.entry, self.key)
            if earlier is None:  # settled between the two looks
                self.over = None
                await asyncio.sleep(0.01)
                continue
            kept = await asyncio.to_thread(self.spool.job, self.key) if earlier.phase == "intent" else None
            if kept is not None and kept.entry.attempt == earlier.attempt:
                earlier = kept.entry
            if earlier.is_leased:
                return None, False
            if earlier.phase == "submitted":
                _log.info("%s: collecting job %s of an earlier attempt", self._title, earlier.id)
                return earlier, True
            if earlier.decision == "drop":
                raise SubmissionUncertain(f"{self._title}: dropped by a person, because it may have been charged")
            if earlier.decision == "resubmit" or self.settings.on_uncertain == "resubmit":
                self._anew(earlier, "an earlier attempt was cut off while submitting and may have been charged")
                continue
            raise SubmissionUncertain(
                f"{self._title}: an earlier attempt was cut off while submitting and may have been charged; held "
                "(see flux-pipelines store held)"
            )
        raise StoreUnavailable(f"the journal of {self.store.url} cannot be written: there is no room for {self.key}")

    def _anew(self, over: Entry, why: str) -> None:
        self.over = over
        self.words.append(f"submitted anew: {why}")
        _log.warning("%s: submitting anew; %s", self._title, why)

    async def _submitted(
        self, entry: Entry, body: dict[str, Any], service: Endpoint, client: BflClient
    ) -> tuple[Entry | None, bool]:
        # Whoever had the entry before may have finished between the first look into the store and this one's intent.
        if not self.refresh and await self._is_settled(entry):
            await patiently(self.journal.withdraw, entry)
            return None, False
        # From the POST to the id in the journal nothing may be interrupted by a cancellation: the id would be lost.
        submitting = asyncio.create_task(self._submit(entry, body, service, client))
        _submitting.add(submitting)
        submitting.add_done_callback(_submitting.discard)
        try:
            return await asyncio.shield(submitting), False
        except asyncio.CancelledError:
            self.abandoned = True
            await asyncio.wait([submitting])
            raise

    async def _is_settled(self, entry: Entry) -> bool:
        """Whether the store has an answer meanwhile: a result, or that moderation has refused it."""
        if await patiently(self.store.result, self.key) is not None:
            return True
        if self.settings.retry_moderated or entry.attempt > 1:
            return False
        try:
            return await patiently(self.store.record, "refusals", self.key) is not None
        except ValueError:  # damaged: ask the service again
            return False

    async def _submit(self, entry: Entry, body: dict[str, Any], service: Endpoint, client: BflClient) -> Entry:
        slots = self.call.tool.slots

        async def refused(seconds: float) -> None:
            """Wait after a 429; nothing was made, so that a stop or a cancellation ends it here."""
            service.slots.refused(slots)
            over = time.monotonic() + seconds
            while (left := over - time.monotonic()) > 0:
                if service.stopped is not None or self.abandoned:
                    raise Interrupted(f"not begun, because the run was stopped: {service.stopped or 'cancelled'}")
                await asyncio.sleep(min(left, 0.2))

        try:
            async with self._leased(entry):
                answer = await client.submit(self.call.tool, body, deadline=self._deadline, on_wait=refused)
        except (ItemError, RunStopped, RateLimited, ServerUnavailable):
            with suppress(StoreUnavailable):
                await patiently(self.journal.withdraw, entry)  # provably not charged
            raise
        except SubmissionUncertain:
            with suppress(OSError):
                await asyncio.to_thread(self.journal.put, replace(entry, owner=""))  # held from now on, not leased
            raise
        service.slots.taken(slots)
        self.submitted = time.monotonic()
        service.submitted.add(answer.id)
        known = entry.with_id(answer.id, polling_url=answer.polling_url or "", cost=answer.cost)
        try:
            try:
                await patiently(self.journal.put, known)
            except RuntimeError:  # the interpreter is on its way out and lends no more threads
                self.journal.put(known)
        except (OSError, StoreUnavailable) as error:
            self._spool(known, error)
        return known

    def _spool(self, entry: Entry, error: Exception, **result: Any) -> None:
        """Keep what is known of a paid job on this machine.

        Raises:
            OSError: that cannot be done, either.
        """
        _log.warning("%s: job %s waits in the spool: %s", self._title, entry.id, error)
        if result:
            self.spool.keep(entry, **result)
            return
        try:
            self.spool.keep(entry)
        except OSError as problem:  # go on with what is known, and leave the id where a person can find it
            _log.warning("%s: job %s can be written nowhere: %s", self._title, entry.id, problem)

    @asynccontextmanager
    async def _leased(self, entry: Entry) -> AsyncIterator[None]:
        """Say again and again that this process is at work on ``entry``."""
        writing: list[asyncio.Future[None]] = []

        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE / 3)
                writing[:] = [asyncio.ensure_future(asyncio.to_thread(self.journal.renew, entry))]
                with suppress(OSError):
                    await asyncio.shield(writing[0])

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing, *writing])  # no renewal may come after what is written next

    # -- the end --------------------------------------------------------------------------------------------------

    async def _end_of(self, entry: Entry, attached: bool, client: BflClient) -> Finished | None:
        """The finished job; None if the service has lost it, and it is to be submitted anew."""
        try:
            if attached:
                with suppress(OSError):
                    await asyncio.to_thread(self.journal.renew, entry)  # its lease is ours now
            async with self._leased(entry):
                return await self._poll(entry, client)
        except JobLost:
            # Submitted a moment ago: that the service does not know it (yet) is no reason to pay again.
            if not attached or (time.time() - entry.begun < _KNOWN_FOR and not is_loopback(client.base_url)):
                raise
            self._anew(entry, f"the service no longer knows job {entry.id}")
            return None
        except Moderated as refusal:
            with suppress(StoreUnavailable):
                await patiently(self.store.put_record, "refusals", self.key, _refusal(self.call, refusal, entry))
            await self._settle(entry)
            raise
        except ItemError:  # it ended without a result: nothing is left to collect
            await self._settle(entry)
            raise

    async def _poll(self, entry: Entry, client: BflClient) -> Finished:
        return await client.wait(entry.id, entry.polling_url, deadline=self._deadline, on_progress=self.on_progress)

    async def _settle(self, entry: Entry) -> None:
        with suppress(StoreUnavailable):  # then the next run finds a job that has ended
            await patiently(self.journal.settle, self.key, entry.id)

    async def _fetch(self, entry: Entry, finished: Finished, client: BflClient) -> tuple[bytes, Finished]:
        """The delivered bytes; after a failure the job is polled once more for a fresh address.

        Raises:
            DeliveryFailed: four times. The job stays in the journal.
        """
        hurry = 0.1 if is_loopback(client.base_url) else 1.0
        async with self._leased(entry):
            for pause in (*_FETCH_PAUSES, None):
                try:
                    return await client.fetch(finished), finished
                except DeliveryFailed as error:
                    if pause is None:
                        raise
                    _log.info("%s: %s; asking again", self._title, error)
                await asyncio.sleep(pause * hurry)
                finished = await self._poll(entry, client)
        raise AssertionError("unreachable")

    async def _keep(self, entry: Entry, cost: float | None, data: bytes) -> ImageRef:
        """Bytes first, then the record, then the journal: at no moment is a paid job without a trace.

        Raises:
            StoreUnavailable: neither the store nor the spool can be written.
        """
        image = ImageRef.of(data, name=self.call.name)
        image = replace(image, engine=image.engine or self.engine, cost=cost, job_id=entry.id, data=data)
        facts = {
            "tool": self.call.tool.name,
            "engine": self.engine,
            "cost": cost,
            "job_id": entry.id,
            "parameters": dict(self.call.parameters),
            "inputs": {name: given.identity for name, given in self.call.inputs.items()},
            "warnings": [*self.call.warnings, *self.words, *picture_warnings(self.call, image)],
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        try:
            return await commit(self.store, entry, facts, data)
        except StoreUnavailable as error:
            try:
                await asyncio.to_thread(partial(self._spool, entry, error, facts=facts, data=data))
            except OSError as problem:
                raise StoreUnavailable(
                    f"{self._title}: job {entry.id} is paid for, and its result can be written nowhere ({problem}); "
                    "run again when there is room: it is collected for as long as the service keeps it"
                ) from error
            self.words.append(f"the store could not be written; the result waits in the spool ({error})")
            return image


def _refusal(call: Call, refusal: Moderated, entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "tool": call.tool.name,
        "name": call.name,
        "stage": refusal.stage,
        "reasons": list(refusal.reasons),
        "job_id": entry.id,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def is_submitting() -> bool:
    """Whether a POST of this process is under way, whose job would be lost if the process ended now."""
    return bool(_submitting)


async def _finish_submitting() -> None:
    if _submitting:
        await asyncio.wait(list(_submitting))  # each is answered or timed out


@atexit.register
def _wait_for_submissions() -> None:
    """A program that ends while a POST is under way waits for its answer: the id would be lost, and with it a job."""
    if _submitting:
        background.run(_finish_submitting())


def _forget_parent() -> None:
    """A forked child has none of its parent's tasks."""
    for shared in (_running, _waiting, _submitting):
        shared.clear()


os.register_at_fork(after_in_child=_forget_parent)
