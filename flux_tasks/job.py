"""One tool call from its key to its stored result: the way every paid job goes.

cache → journal → slot → submit → journal → poll → fetch → blob → result record → journal entry removed.

All of it runs on the process's background loop (``portal``), so that sync and async callers share connections, slots
and the single-flight table: the same job asked for twice at once is one job.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flux_tasks import portal
from flux_tasks.client import BflClient
from flux_tasks.errors import (
    DeliveryFailed,
    InvalidImage,
    ItemError,
    JobLost,
    KeyRefused,
    OutOfCredits,
    RateLimited,
    ServerUnavailable,
    SubmissionUncertain,
)
from flux_tasks.images import ImageRef
from flux_tasks.journal import Entry, Journal
from flux_tasks.limits import Slots
from flux_tasks.preflight import Call
from flux_tasks.settings import Settings
from flux_tasks.store import Store

__all__ = [
    "JobResult",
    "Progress",
    "close",
    "engine_of",
    "execute",
    "is_submitting",
    "lookup",
    "open_account",
    "result_warnings",
    "service_for",
    "was_submitted_here",
]

_log = logging.getLogger("flux_tasks.job")

Progress = Callable[[str, float | None], None]
"""Told each status of a running job and the share done (0 to 1, where known). Called on the background loop."""

_SUBMISSION_GRACE = 65.0  # seconds: a POST is answered or timed out by then
_INTENT_GRACE = 90.0  # seconds in which another process's POST may still be under way (60 s time-out, and some)


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a call gave.

    Attributes:
        image: the result, in the store.
        key: the job key, or empty where no job was due.
        outcome: ``done`` (paid just now), ``attached`` (paid earlier, collected now), ``cached`` (from the store), or
            ``nothing_to_do`` (an empty mask: the input itself).
        cost: credits paid for it, now or earlier; None if the service did not say.
        seconds: how long this call took.
    """

    image: ImageRef
    key: str
    outcome: str
    cost: float | None = None
    job_id: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass
class Service:
    """What the jobs of one endpoint and key share in this process. Lives on the background loop."""

    settings: Settings
    slots: Slots
    client: BflClient | None = None
    engine: str = ""
    server: Any = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def connect(self) -> BflClient:
        """The client, made (and the embedded server started) when it is first needed."""
        async with self.opening:
            if self.client is None:
                base_url = self.settings.base_url or await self._serve()
                self.client = BflClient(
                    base_url,
                    self.settings.key,
                    poll_interval=self.settings.poll_interval,
                    timeout=self.settings.timeout,
                )
            return self.client

    async def _serve(self) -> str:
        from flux_tasks.local import LocalServer

        self.server = LocalServer(engine=self.settings.engine, credits=1_000_000.0, cap=max(24, self.settings.max_jobs))
        await asyncio.to_thread(self.server.start)
        return str(self.server.url)

    async def identify(self) -> str:
        """The engine behind the endpoint; see ``BflClient.engine``."""
        if not self.engine:
            if self.settings.is_bfl:
                self.engine = "bfl"
            elif self.settings.endpoint == "local":
                from flux_tasks.local.engines import identity

                self.engine = identity(self.settings.engine)
            else:
                self.engine = await (await self.connect()).engine()
        return self.engine


_services: dict[tuple[Any, ...], Service] = {}
_running: dict[tuple[str, str], asyncio.Task[JobResult]] = {}
_waiting: dict[tuple[str, str], int] = {}
_submitted_here: set[str] = set()
_submitting: set[asyncio.Task[Entry]] = set()


def _about(settings: Settings) -> tuple[Any, ...]:
    interval, timeout = settings.poll_interval, settings.timeout
    return settings.endpoint, settings.key, settings.max_jobs, interval, timeout, settings.engine


async def close(settings: Settings) -> None:
    """Close the connections of these settings, and their embedded server; they are opened again when needed."""
    service = _services.pop(_about(settings), None)
    if service is None:
        return
    async with service.opening:
        if service.client is not None:
            await service.client.aclose()
        if service.server is not None:
            await asyncio.to_thread(service.server.stop)


def service_for(settings: Settings) -> Service:
    """The shared service of these settings. Only on the background loop."""
    about = _about(settings)
    if about not in _services:
        _services[about] = Service(settings, Slots(settings.max_jobs))
    return _services[about]


def was_submitted_here(job_id: str) -> bool:
    """Whether this process submitted, and so paid for, the job with the service's id ``job_id``."""
    return job_id in _submitted_here


async def engine_of(settings: Settings) -> str:
    """The engine's identity, which is part of every job key: ``bfl``, ``local:classical@1``, ``custom:<host>``.

    Raises:
        EndpointUnreachable: an endpoint that has to be asked does not answer.
    """
    return await service_for(settings).identify()


async def open_account(settings: Settings) -> float | None:
    """Make sure that jobs can be submitted at all, before the first is: there is a key, and the endpoint takes it.

    Returns:
        Credits left, or None where the endpoint does not say.

    Raises:
        KeyRefused, EndpointUnreachable
        OutOfCredits: the balance is zero.
    """
    settings.require_key()
    client = await service_for(settings).connect()
    credits = await client.credits()
    if credits is not None and credits <= 0:
        raise OutOfCredits(f"{client.base_url}: no credits left")
    return credits


async def lookup(call: Call, settings: Settings) -> JobResult | None:
    """The result of ``call`` if the store has it; spends nothing and opens no picture."""
    engine = await engine_of(settings)
    started = time.monotonic()
    return await asyncio.to_thread(_from_store, Store(settings.store), call, call.key(engine), started)


def _from_store(store: Store, call: Call, key: str, started: float) -> JobResult | None:
    record = store.result(key)
    if record is None:
        return None
    image = replace(record["image"], name=call.name)
    return JobResult(image, key, "cached", image.cost, image.job_id, time.monotonic() - started, call.warnings)


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
    started = time.monotonic()
    if await asyncio.to_thread(call.nothing_to_do):
        image = call.main
        assert image is not None  # noqa: S101 - a mask belongs to a picture
        return JobResult(image, "", "nothing_to_do", 0.0, warnings=call.warnings)
    engine = await engine_of(settings)
    key = call.key(engine)
    flight = (Store(settings.store).url, key)
    while (task := _running.get(flight)) is not None and task.cancelling():
        await asyncio.wait([task])  # it is on its way out: begin anew rather than share its end
    if task is None:
        task = asyncio.create_task(_run(call, settings, key, engine, refresh, on_progress))
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
    warnings = (*call.warnings, *result_warnings(call, result.image))
    return replace(result, seconds=time.monotonic() - started, warnings=warnings)


async def _run(
    call: Call, settings: Settings, key: str, engine: str, refresh: bool, on_progress: Progress | None
) -> JobResult:
    store = Store(settings.store)
    journal = Journal(store)
    started = time.monotonic()
    if not refresh:
        found = await asyncio.to_thread(_from_store, store, call, key, started)
        if found is not None:
            # A crash may have come between record and settling; an entry of another job is not touched.
            await asyncio.to_thread(journal.settle, key, found.job_id or "-")
            return found
    settings.require_key()
    service = service_for(settings)
    client = await service.connect()
    body = await asyncio.to_thread(
        call.body, urls=settings.send_urls
    )  # decode and encode before a slot is taken and anything is written
    while True:
        # The slot is held from submission to the end of the job; fetching and storing need none.
        async with service.slots.hold(call.tool.slots):
            entry, attached = await _enter(call, body, settings, key, store, client, refresh=refresh)
            if entry is not None:
                poll = partial(
                    client.wait,
                    entry.id,
                    entry.polling_url,
                    deadline=_deadline(call, settings),
                    on_progress=on_progress,
                )
                try:
                    finished = await poll()
                    break
                except JobLost:
                    if not attached:  # submitted a moment ago: that the service forgot it is no reason to pay again
                        raise
                    _log.warning("%s %s: job %s is unknown now; submitting anew", call.tool.task, call.name, entry.id)
                    await asyncio.to_thread(journal.settle, key, entry.id)
                except ItemError:  # it ended without a result: nothing is left to collect
                    await asyncio.to_thread(journal.settle, key, entry.id)
                    raise
        found = await asyncio.to_thread(_from_store, store, call, key, started)
        if found is not None and not refresh:  # another process has just finished it
            return found
    try:
        data = await client.fetch(finished)
    except DeliveryFailed as error:
        _log.info("%s %s: %s; asking again", call.tool.task, call.name, error)
        finished = await poll()  # for a fresh address
        data = await client.fetch(finished)
    cost = finished.cost if finished.cost is not None else entry.cost
    image = await asyncio.to_thread(_keep, store, journal, call, key, engine, entry, cost, data)
    outcome = "attached" if attached else "done"
    return JobResult(image, key, outcome, cost, entry.id, time.monotonic() - started)


async def _enter(
    call: Call, body: dict[str, Any], settings: Settings, key: str, store: Store, client: BflClient, *, refresh: bool
) -> tuple[Entry | None, bool]:
    """A journal entry with the service's id, and whether it is an earlier one; else by submitting.

    No entry means that the result has come into the store meanwhile.
    """
    journal = Journal(store)
    entry = Entry(key=key, tool=call.tool.name, phase="intent", name=call.name, estimate=call.estimate())
    waited = 0.0
    while not await asyncio.to_thread(journal.intend, entry):
        earlier = await asyncio.to_thread(journal.entry, key)
        if earlier is None:
            continue
        if earlier.phase == "submitted":
            _log.info("%s %s: collecting job %s of an earlier attempt", call.tool.task, call.name, earlier.id)
            return earlier, True
        if earlier.is_fresh(_INTENT_GRACE):
            await asyncio.sleep(min(0.1 + waited / 10, 1.0))
            waited += 0.1
            continue
        if settings.on_uncertain == "resubmit":
            _log.warning("%s %s: submitting anew; an earlier attempt may have been charged", call.tool.task, call.name)
            await asyncio.to_thread(journal.settle, key)
            continue
        raise SubmissionUncertain(
            f"{call.tool.task} {call.name}: an earlier attempt was cut off while submitting and may have been charged; "
            "held (set FLUX_ON_UNCERTAIN=resubmit to submit such jobs again)"
        )
    # Whoever had the entry before may have finished between the first look into the store and this one's intent.
    if not refresh and await asyncio.to_thread(store.result, key) is not None:
        await asyncio.to_thread(journal.settle, key)
        return None, False
    # From the POST to the id in the journal nothing may be interrupted by a cancellation: the id would be lost.
    submitting = asyncio.create_task(_submit(call, body, entry, journal, client, _deadline(call, settings)))
    _submitting.add(submitting)
    submitting.add_done_callback(_submitting.discard)
    try:
        return await asyncio.shield(submitting), False
    except asyncio.CancelledError:
        await asyncio.wait([submitting])
        raise


async def _submit(
    call: Call, body: dict[str, Any], entry: Entry, journal: Journal, client: BflClient, deadline: float
) -> Entry:
    try:
        renew = partial(asyncio.to_thread, journal.renew, entry)
        answer = await client.submit(call.tool, body, deadline=deadline, on_wait=renew)
    except (ItemError, KeyRefused, OutOfCredits, RateLimited, ServerUnavailable):
        await asyncio.to_thread(journal.settle, entry.key)  # provably not charged
        raise
    _submitted_here.add(answer.id)
    polling_url = answer.polling_url or ""
    write = partial(journal.submitted, entry, id=answer.id, polling_url=polling_url, cost=answer.cost)
    for pause in (0.5, 2.0, 0.0):
        try:
            return await asyncio.to_thread(write)
        except RuntimeError:  # the interpreter is on its way out and lends no more threads
            return write()
        except OSError as error:
            # The job is paid for: leave its id where a person can find it, and go on with what is known.
            _log.warning("%s %s: job %s cannot be journalled: %s", call.tool.task, call.name, answer.id, error)
            await asyncio.sleep(pause)
    return entry.with_id(answer.id, polling_url=polling_url, cost=answer.cost)


def is_submitting() -> bool:
    """Whether a POST of this process is under way, whose job would be lost if the process ended now."""
    return bool(_submitting)


async def _finish_submitting() -> None:
    if _submitting:
        await asyncio.wait(list(_submitting), timeout=_SUBMISSION_GRACE)


@atexit.register
def _wait_for_submissions() -> None:
    """A program that ends while a POST is under way waits for its answer: the id would be lost, and with it a job."""
    if _submitting:
        portal.run(_finish_submitting())


def _forget_parent() -> None:
    """A forked child has none of its parent's connections, loops and tasks."""
    for shared in (_services, _running, _waiting, _submitting):
        shared.clear()


os.register_at_fork(after_in_child=_forget_parent)


def _deadline(call: Call, settings: Settings) -> float:
    return call.tool.deadline if settings.deadline is None else settings.deadline


def _keep(
    store: Store, journal: Journal, call: Call, key: str, engine: str, entry: Entry, cost: float | None, data: bytes
) -> ImageRef:
    """Bytes first, then the record, then the journal: at no moment is a paid job without a trace."""
    kept = store.put_image(data, name=call.name)
    image = replace(kept, engine=kept.engine or engine, cost=cost, job_id=entry.id)
    store.put_result(
        key,
        image,
        {
            "tool": call.tool.name,
            "engine": engine,
            "cost": cost,
            "job_id": entry.id,
            "parameters": dict(call.parameters),
            "inputs": {name: given.identity for name, given in call.inputs.items()},
            "warnings": [*call.warnings, *result_warnings(call, image)],
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )
    journal.settle(key, entry.id, "")  # an intent: the id could not be written at the time
    return image


def result_warnings(call: Call, image: ImageRef) -> list[str]:
    """A word on a result that is not as the call should give it, by its size or one colour; empty when all is well."""
    found: list[str] = []
    expected = call.output_size
    slack = 0 if not call.tool.sizes.same_size else 16  # the service works on a 16 px grid (DOCS-F2)
    if expected and any(abs(a - b) > slack for a, b in zip(expected, (image.width, image.height), strict=True)):
        found.append(f"the result is {image.width}×{image.height} px, not {expected[0]}×{expected[1]}")
    if _is_solid(image) and not (call.main is not None and _is_solid(call.main)):
        found.append("the result is one solid colour")
    return found


def _is_solid(image: ImageRef) -> bool:
    """Unaligned outpaint canvases were seen to come back solid (GRIDBUG).

    One colour packs into next to nothing, so that other pictures need not be decoded to know that they are none.
    """
    if image.size * 40 > max(image.width * image.height, 200_000):
        return False
    try:
        return image.open().convert("RGB").getcolors(1) is not None
    except InvalidImage:
        return False
