"""One call from its key to its stored result.

store → spool → journal → slot → submit → journal → poll → fetch → blob → result record → journal entry removed.

All of it runs on the process's background loop (``background``), so that sync and async callers share connections,
slots and the table of running jobs: the same job asked for twice at once is one job. The journal keeps other processes
on the same store apart: one of them pays, the others wait for its result, or collect the job when its owner has ended.
What the store does not take after a job was paid for waits in the spool on this machine.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace

from flux_tasks.api.client import BflClient
from flux_tasks.api.telemetry import probe
from flux_tasks.errors import JobFailed, RunStopped
from flux_tasks.images.reference import makes_previews
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.collection import Collector
from flux_tasks.jobs.context import Halt, JobContext, Progress
from flux_tasks.jobs.endpoint import Endpoint, check_exclusion, endpoint_for, engine_of
from flux_tasks.jobs.known import changes_nothing, find_result
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.jobs.submission import Submitter
from flux_tasks.settings import Settings
from flux_tasks.store.commit import insist, patiently
from flux_tasks.store.durations import Durations
from flux_tasks.store.journal import Entry
from flux_tasks.store.owner import readable

_log = logging.getLogger("flux_tasks.job")

_PATIENCE = 10.0
"""Seconds of waiting for another process after which it is said."""

_told: set[str] = set()
"""Owners whose jobs were said to be waited for."""

_running: dict[tuple[str, str], tuple[asyncio.Task[JobResult], Halt]] = {}
"""Jobs of this process that have not ended, by store and job key, and what may keep them from being submitted."""

_waiting: Counter[tuple[str, str]] = Counter()
"""How many calls wait for each of them."""


async def execute(
    call: Call,
    settings: Settings,
    *,
    refresh: bool = False,
    on_progress: Progress | None = None,
    is_looked_up: bool = False,
) -> JobResult:
    """Return the stored result of a call, and pay for it at most once.

    Only on the background loop (see ``background``). Joins the same call if it is running already in this process.

    Args:
        refresh: pay again even if the store has a result, and replace it.
        is_looked_up: the caller has just found that the call changes something and that no result of it is known. It
            is looked for once more in any case, after the intent is in the journal and before the job is sent.

    Raises:
        FluxError: see the tree in ``errors``; after every error but ``SubmissionUncertain`` the call may be made
            again without the risk of paying twice.
    """
    if not is_looked_up and await changes_nothing(call):
        image = call.main
        assert image is not None  # noqa: S101 - a mask belongs to a picture
        return JobResult(image, "", JobOutcome.UNCHANGED, 0.0, warnings=call.warnings)
    job = JobContext(call, settings, await engine_of(settings), refresh, on_progress)
    flight = (job.store.url, job.key)
    while True:
        while (running := _running.get(flight)) is not None and running[0].cancelling():
            await asyncio.wait([running[0]])  # it is being cancelled: begin again rather than share its end
        if running is None:
            running = asyncio.create_task(_run(job, is_looked_up=is_looked_up)), job.halt
            _running[flight] = running
            running[0].add_done_callback(lambda _: _running.pop(flight, None))
        task, halt = running
        _waiting[flight] += 1
        try:
            result = await asyncio.shield(task)
        except RunStopped:
            if halt.reason is None or job.halt.reason is not None:
                raise
            continue  # another run that called for it was stopped, and this call's was not
        except asyncio.CancelledError:
            if _waiting[flight] == 1:
                task.cancel()
            raise
        finally:
            _waiting[flight] -= 1
            if not _waiting[flight]:
                del _waiting[flight]
        return result.with_warnings_of(call)


async def _run(job: JobContext, *, is_looked_up: bool) -> JobResult:
    """Take one job from its key to its stored result, and measure it if anybody wants that."""
    if (measured := probe.probe) is None:
        return await _make(job, is_looked_up=is_looked_up)
    tool = job.call.tool.name
    with measured.job(tool, job.settings.base_url) as span:
        try:
            result = await _make(job, is_looked_up=is_looked_up)
        except BaseException as error:
            measured.job_failed(tool, error)
            raise
        span.set_attributes({"gen_ai.response.id": result.job_id, "flux.outcome": str(result.outcome)})
    measured.job_ended(tool, str(result.outcome))
    return result


async def _make(job: JobContext, *, is_looked_up: bool) -> JobResult:
    """Take one job from its key to its stored result."""
    if not job.refresh and not is_looked_up and (found := await _find_settled(job)) is not None:
        return found
    job.settings.require_key()
    endpoint = endpoint_for(job.settings)
    async with endpoint.lease(job.store, job.settings), endpoint.connected() as client:
        return await _pay(job, endpoint, client)


async def _pay(job: JobContext, endpoint: Endpoint, client: BflClient) -> JobResult:
    """Submit one job, unless another process does, and collect it."""
    durations = endpoint.durations(job.store)
    job = await asyncio.to_thread(_prepare, job, durations)
    submitter = Submitter(job, endpoint, client)
    wait = _Wait(job)
    while True:
        # The slot is held from submission to the end of the job; waiting for others and fetching need none.
        async with submitter.prepared(), endpoint.slots.hold(job.call.tool.slots, job.on_slot) as hold:
            claim = await submitter.claim()
            if claim is not None:
                collector = Collector(job, claim, client, durations, hold)
                try:
                    if (finished := await collector.wait_for_end()) is not None:
                        break
                except JobFailed:  # it may have been charged, so nothing is sent again here
                    submitter.distrust_addresses("the job ended with an error")
                    raise
                submitter.resubmit(claim.entry, f"the service no longer knows job {claim.entry.id}")
        if claim is None:
            if not job.refresh and (found := await _find_settled(job)) is not None:
                return found  # another process has just finished it
            await wait.for_another_process(submitter.awaited)
    async with AsyncExitStack() as room:
        data, finished = await collector.fetch(finished, endpoint.fetched, room)
        seconds = None if claim.submitted_at is None else time.monotonic() - claim.submitted_at
        settled = collector.settled(finished)
        image, warnings = await collector.store(data, settled, submitter.warnings)
        endpoint.addresses.delivered(image.digest, finished.sample)
    if probe.probe is not None:
        cost = None if makes_previews(job.engine) else settled["cost"]
        probe.probe.job_paid(job.call.tool.name, client.base_url, seconds, cost)
    is_submitted_here = claim.entry.id in endpoint.submitted
    endpoint.submitted.discard(claim.entry.id)  # it is stored, and is not collected again
    return JobResult(
        image,
        job.key,
        JobOutcome.COLLECTED if claim.is_earlier else JobOutcome.DONE,
        **settled,
        job_id=claim.entry.id,
        run=claim.entry.run,
        seconds=seconds,
        warnings=tuple(warnings),
        is_submitted_here=is_submitted_here,
    )


def _prepare(job: JobContext, durations: Durations) -> JobContext:
    """Read what the store has about a job that is to be made."""
    if insist(job.journal.entry, *job.keys[1:]) is not None:  # unsettled under its former key: go on so
        job = replace(job, is_former=True)
    check_exclusion(job.store, job.settings)
    durations.load(job.call.tool.name)
    return job


class _Wait:
    """Waits for another process that works on the same job."""

    def __init__(self, job: JobContext) -> None:
        self._job, self._begun, self._pause = job, time.monotonic(), 0.0

    async def for_another_process(self, entry: Entry | None) -> None:
        """Wait until the process that has ``entry`` has ended the job, or has given it up.

        A look costs little: two or three files are looked for, on one thread, with longer and longer pauses.
        """
        is_over = False
        while not is_over:
            self._tell(entry)
            self._pause = min(1.5 * self._pause + 0.1, 2.0)
            await asyncio.sleep(self._pause)
            is_over = await asyncio.to_thread(self._is_over)

    def _is_over(self) -> bool:
        job = self._job
        entry = insist(job.journal.entry, job.key)
        if entry is None or not job.journal.is_leased(entry):
            return True
        return (not job.refresh and insist(job.store.has_result, job.key)) or job.spool.job(*job.keys) is not None

    def _tell(self, entry: Entry | None) -> None:
        """Log what ``entry`` keeps waiting for, if nobody was told yet."""
        if entry is None or time.monotonic() - self._begun < _PATIENCE or entry.owner in _told:
            return
        _told.add(entry.owner)
        what = "its job is taken over when its journal entry has not changed for a minute"
        _log.warning(
            "%s: waiting for %s, which works on the same job; %s", self._job.title, readable(entry.owner), what
        )


async def _find_settled(job: JobContext) -> JobResult | None:
    """Return the result of ``job`` if it is known, without an entry in the journal."""
    found = await find_result(job)
    if found is not None:
        # A crash may have come between the record and the end of the entry; an entry of another job is not touched.
        await patiently(job.journal.settle, found.key, found.job_id or "-")
    return found


for _table in (_running, _waiting):
    os.register_at_fork(after_in_child=_table.clear)  # a forked child has none of its parent's tasks
