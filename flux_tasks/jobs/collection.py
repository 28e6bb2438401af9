"""The collection of a submitted job: poll it, fetch its result, and write that into the store."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from flux_tasks.api.callbacks import awaited
from flux_tasks.api.client import BflClient, Finished
from flux_tasks.api.polling import Watch
from flux_tasks.api.slots import Hold
from flux_tasks.api.telemetry import probe
from flux_tasks.api.traffic import TrafficLimit
from flux_tasks.errors import DeliveryFailed, FluxError, ItemError, JobLost, Moderated, StoreUnavailable
from flux_tasks.images.redirects import host_of
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.context import JobContext
from flux_tasks.jobs.endpoint import endpoint_for
from flux_tasks.jobs.known import remember_refusal
from flux_tasks.jobs.result import losses, picture_warnings
from flux_tasks.jobs.submission import Claim, keep_lease
from flux_tasks.settings import Settings, is_loopback
from flux_tasks.store.charges import Charge, add_charges
from flux_tasks.store.commit import commit, patiently
from flux_tasks.store.durations import Durations, size_class
from flux_tasks.store.failures import remember_failure
from flux_tasks.store.journal import Entry
from flux_tasks.store.records import Store

_log = logging.getLogger("flux_tasks.job")

_KNOWN_AFTER = 600.0  # seconds after its submission from which a job that the service does not know counts as lost
_USUAL = 300.0  # seconds for a job that somebody else has submitted to end
_AGAIN = 10.0  # seconds for a job that has ended long ago to be delivered once more
_FETCH_PAUSES = (0.0, 1.0, 4.0)  # seconds between attempts at a delivery, each with a fresh address


class Collector:
    """Collects one submitted job, and learns from it how long such jobs take."""

    def __init__(self, job: JobContext, claim: Claim, client: BflClient, durations: Durations, hold: Hold) -> None:
        self._job, self._claim, self._entry, self._client = job, claim, claim.entry, client
        self._durations, self._hold = durations, hold
        self._about = job.call.tool.name, size_class(job.call.price.label, job.call.output_size)

    async def wait_for_end(self) -> Finished | None:
        """Return the finished job; None if the service has lost it, so that it is to be submitted again.

        The slot is given back as soon as the end is seen.

        Raises:
            JobLost: the service does not know the job, and it may still appear.
            FluxError: from ``BflClient.wait``.
        """
        job, entry = self._job, self._entry
        try:
            if self._claim.is_earlier:
                with suppress(OSError):
                    self._entry = entry = await asyncio.to_thread(job.journal.take_over, entry)
            async with keep_lease(job.journal, entry):
                return await self._watch()
        except JobLost:
            # Submitted a moment ago: that the service does not know it (yet) is no reason to pay again.
            is_recent = time.time() - entry.begun < _KNOWN_AFTER and not is_loopback(self._client.base_url)
            if is_recent or not self._claim.is_earlier:
                raise
            return None
        except Moderated as answer:
            charged = job.call.tool.charged_when_refused
            refusal = Moderated(answer.stage, answer.reasons, job_id=answer.job_id, charged=charged)
            await remember_refusal(job, refusal, entry)
            await self._settle(entry.charge(0.0 if charged == "no" else None, is_certain=charged == "yes"))
            raise refusal from None
        except ItemError as failure:  # it ended without a result: nothing is left to collect
            await remember_failure(job.store, failure, entry)
            await self._settle(entry.charge(is_certain=False))  # no document says that its credits are given back
            raise

    async def _watch(self) -> Finished:
        usual = self._job.call.tool.seconds
        watch = Watch(lambda: self._durations.of(*self._about), usual=usual, begun=self._claim.submitted_at)
        self._hold.chance = watch.chance_ended
        try:
            finished = await self._poll(watch)
        finally:
            self._hold.release()
        if not self._claim.is_earlier:
            self._durations.add(*self._about, watch.running, watch.polled)
            self._durations.save_soon()
        return finished

    async def _poll(self, watch: Watch | None = None) -> Finished:
        job, entry = self._job, self._entry
        wait = partial(self._client.wait, entry.id, entry.polling_url, deadline=job.deadline)
        if watch is None or not job.webhook:
            return await wait(on_progress=job.on_progress, watch=watch)
        about = {"is_fallback": job.settings.polling == "auto", "is_counted": not watch.is_earlier}
        async with awaited(job.store, entry.id, **about) as calls:
            return await wait(on_progress=job.on_progress, watch=watch, calls=calls)

    async def _settle(self, charge: Charge) -> None:
        settle = partial(self._job.journal.settle, charge=charge)
        with suppress(StoreUnavailable):  # then the next run finds a job that has ended
            await patiently(add_charges, self._job.store, [charge])
            await patiently(settle, self._job.key, self._entry.id)

    async def fetch(self, finished: Finished, limit: TrafficLimit, room: AsyncExitStack) -> tuple[bytes, Finished]:
        """Return the delivered bytes, and the last answer to a poll: after a failure it brings a fresh address.

        Args:
            room: holds memory for the bytes, within ``limit``, until it is closed.

        Raises:
            DeliveryFailed: four times. The job stays in the journal.
        """
        share = 0.1 if is_loopback(self._client.base_url) else 1.0
        async with keep_lease(self._job.journal, self._entry):
            await room.enter_async_context(limit.hold(self._job.call.result_bytes))
            for pause in (*_FETCH_PAUSES, None):
                try:
                    return await self._client.fetch(finished), finished
                except DeliveryFailed as error:
                    if pause is None:
                        raise
                    _log.info("%s: %s; asking again", self._job.title, error)
                    if probe.probe is not None:
                        probe.probe.retried("download")
                await asyncio.sleep(pause * share)
                finished = await self._poll()
        raise AssertionError("unreachable")

    def settled(self, finished: Finished) -> dict[str, Any]:
        """Return what the service said about the job: credits, the megapixels that it charges for, and who delivers."""
        entry = self._entry
        return {
            "cost": finished.cost if finished.cost is not None else entry.cost,
            "input_mp": entry.input_mp,
            "output_mp": entry.output_mp,
            "delivery_host": host_of(finished.sample),
            "expanded_prompt": self._expanded_prompt(finished),
        }

    def _expanded_prompt(self, finished: Finished) -> str:
        """Return what the service made of the prompt, if its result says so; empty where it took it as it was."""
        asked = self._job.call.parameters.get("prompt")
        told = (finished.details.get(name) for name in ("expanded_prompt", "prompt"))
        return next((text for text in told if isinstance(text, str) and text not in ("", asked)), "") if asked else ""

    async def store(self, data: bytes, settled: Mapping[str, Any], warnings: list[str]) -> tuple[ImageRef, list[str]]:
        """Write bytes first, then the record, then remove the journal entry: a paid job always leaves a trace.

        Returns:
            The stored picture, and ``warnings`` with what it has lost and whether it is in the spool only.

        Raises:
            StoreUnavailable: neither the store nor the spool can be written.
        """
        return await asyncio.to_thread(self._store, data, settled, warnings)

    def _store(self, data: bytes, settled: Mapping[str, Any], warnings: list[str]) -> tuple[ImageRef, list[str]]:
        job, entry = self._job, self._entry
        image = ImageRef.of(data, name=job.call.name)
        image = replace(image, engine=image.engine or job.engine, cost=settled["cost"], job_id=entry.id, data=data)
        lost = _losses(job.call, image)
        facts = {
            **job.identity.to_record(),
            **settled,
            "job_id": entry.id,
            **({"run": entry.run} if entry.run else {}),
            "warnings": [*job.call.warnings, *warnings, *picture_warnings(job.call, image)],
            "lost": lost,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        try:
            return commit(job.store, entry, facts, image), [*warnings, *lost]
        except StoreUnavailable as error:
            _log.warning("%s: job %s waits in the spool: %s", job.title, entry.id, error)
            try:
                job.spool.put(entry, facts=facts, data=data)
            except OSError as problem:
                raise StoreUnavailable(
                    f"{job.title}: job {entry.id} is paid for, and its result can be written nowhere ({problem}); "
                    "run again when there is room: it is collected for as long as the service keeps it"
                ) from error
            return image, [*warnings, *lost, f"the store could not be written; the result waits in the spool ({error})"]


def _losses(call: Call, image: ImageRef) -> list[str]:
    """Return what a result has lost; nothing if a picture cannot be read: it is paid for, and is stored as it is."""
    try:
        return losses(call, image)
    except (FluxError, OSError):
        return []


async def collect_by_id(
    job_id: str,
    settings: Settings,
    *,
    entry: Entry | None = None,
    polling_url: str = "",
    deadline: float | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> tuple[ImageRef | None, bytes]:
    """Return what the service delivers for a job that was paid for, wherever that was. It costs nothing.

    Args:
        entry: what the journal has of it. Then its result is written into the store, and the entry is removed; the
            record has no parameters, because no entry has them.
        polling_url: as the answer to the submission named it; the endpoint's own address if it may not have the key.
        deadline: seconds to wait for its end; None for the usual one.
        on_wait: receives a line when it is waited for, and another one when the reason changes.

    Returns:
        The picture in the store, if there is an ``entry``; its bytes.

    Raises:
        FluxError: from ``BflClient.wait`` and ``BflClient.fetch``; ``StoreUnavailable``.
    """
    endpoint, patience = endpoint_for(settings), deadline or settings.deadline or _USUAL
    told: set[str] = set()

    def tell(reason: str) -> None:
        if on_wait is not None and reason not in told:
            told.add(reason)
            on_wait(f"job {job_id}: {reason}; {host_of(settings.base_url)} is asked again, for {patience:g} s in all")

    async with endpoint.connected() as client:
        finished = await client.wait(job_id, polling_url or None, deadline=patience, on_wait=tell)
        data = await client.fetch(finished)
    if entry is None:
        return None, data
    facts: dict[str, Any] = {
        "tool": entry.tool,
        "engine": await endpoint.identify(),
        "cost": finished.cost if finished.cost is not None else entry.cost,
        "input_mp": entry.input_mp,
        "output_mp": entry.output_mp,
        "delivery_host": host_of(finished.sample),
        "job_id": job_id,
        "warnings": [],
        "lost": [],
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return await asyncio.to_thread(commit, Store(settings.store), replace(entry, id=job_id), facts, data), data


async def deliver_again(job_id: str, settings: Settings) -> bytes | None:
    """Return what the service delivers for an earlier job; None where it does not any more, or cannot be asked."""
    if not settings.base_url or not (settings.key or is_loopback(settings.base_url)):
        return None
    try:
        return (await collect_by_id(job_id, settings, deadline=_AGAIN))[1]
    except FluxError:
        return None
