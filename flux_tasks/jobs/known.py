"""What is known of a job before anything is paid: a result in the store or in the spool, or a refusal by moderation."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from flux_tasks.api.answers import number
from flux_tasks.api.telemetry import probe
from flux_tasks.errors import Moderated, StoreUnavailable, SubmissionUncertain
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.context import JobContext
from flux_tasks.jobs.endpoint import endpoint_for, engine_of
from flux_tasks.jobs.result import LOST_ALPHA, LOST_PROFILE, JobOutcome, JobResult
from flux_tasks.settings import Settings
from flux_tasks.store.commit import commit, insist, patiently
from flux_tasks.store.journal import Entry, Standing
from flux_tasks.store.records import DamagedRecord

_log = logging.getLogger("flux_tasks.job")

_KIND = "refusals"
_Early: TypeAlias = dict[str, frozenset[str]]
"""By store, the keys of the refusals that it had when this process first looked."""
_FROM_COPY = "; the result is taken from its copy"


def is_repair(warning: str) -> bool:
    """Check whether a warning says that the record of a result was damaged or missing."""
    return warning.endswith(_FROM_COPY)


async def changes_nothing(call: Call) -> bool:
    """Check whether the result of ``call`` is its picture, so that no job is needed; a mask is read on a thread."""
    return call.is_noop() if call.mask is None else await asyncio.to_thread(call.is_noop)


async def lookup(call: Call, settings: Settings, *, write: bool = False) -> JobResult | None:
    """Return the result of ``call`` if the store or the spool has one. Spends nothing and opens no picture.

    Args:
        write: rebuild a damaged record from its copy, or hold its job where there is none.

    Raises:
        Moderated, StoreUnavailable, SubmissionUncertain: as ``find_result``.
    """
    return await find_result(JobContext(call, settings, await engine_of(settings)), write=write)


async def find_result(job: JobContext, *, write: bool = True) -> JobResult | None:
    """Return the result of ``job``: from the store, or from the spool if the store could not be written earlier.

    Raises:
        Moderated: it was refused earlier, and is not to be tried again.
        SubmissionUncertain: its record is damaged and has no copy, so that it may be paid for; it is held.
        StoreUnavailable: the store cannot be read.
    """
    found = await asyncio.to_thread(_find, job, endpoint_for(job.settings).refusals, write)
    if found is not None and probe.probe is not None:
        probe.probe.hit(job.call.tool.name)
    return found


def _find(job: JobContext, early: _Early, write: bool) -> JobResult | None:
    try:
        found = insist(_read_result, job, write) or _read_refusal(job, early)
    except DamagedRecord as damage:
        return _read_spool(job) or _hold(job, damage, write=write)
    except StoreUnavailable:
        if (spooled := _read_spool(job)) is not None:
            return spooled
        raise
    if found is not None and any(map(is_repair, found.warnings)):
        return _read_spool(job) or found  # its copy alone was written before the store failed
    return found or _read_spool(job)


def _read_result(job: JobContext, write: bool = False) -> JobResult | None:
    """Return the result that the store has; a record that is damaged or missing is rebuilt from its copy.

    Raises:
        DamagedRecord: there is a record, and neither it nor its copy can be used.
    """
    damage: DamagedRecord | None = None
    damaged = job.keys[0]
    for key in job.keys:
        try:
            if (record := job.store.read_result(key)) is not None:
                return _cached(job, key, record["image"], record)
        except DamagedRecord as error:
            damaged, damage = (damaged, damage) if damage else (key, error)
    copy = job.store.read_result(damaged, "copies")
    if copy is not None:
        if write:
            with suppress(IsADirectoryError):  # a folder with something in it: the copy does
                job.store.restore_result(damaged)
        why = f"{damage or f'results/{damaged}.json is missing'}{_FROM_COPY}"
        return _cached(job, damaged, copy["image"], copy, why)
    if damage:
        raise damage
    return None


def _hold(job: JobContext, damage: DamagedRecord, *, write: bool) -> JobResult | None:
    """Hold a job whose record is damaged, as one that may have been charged; return None if the journal knows better.

    Raises:
        SubmissionUncertain: nobody has decided that it may.
    """
    entry = insist(job.journal.entry, *job.keys)
    if entry is None and write:
        call = job.call
        entry = Entry(job.key, call.tool.name, "intent", call.name, call.estimate(), owner="", reason=str(damage))
        if insist(job.journal.intend, entry):
            with suppress(DamagedRecord):  # another process may have put it right meanwhile
                if (found := insist(_read_result, job)) is not None:
                    insist(job.journal.settle, entry.key, entry.id)
                    return found
    may_go_on = job.settings.on_uncertain == "resubmit"
    if entry is not None:
        may_go_on = job.journal.is_leased(entry) or entry.standing(job.settings) is not Standing.HELD
    if not may_go_on:
        raise SubmissionUncertain(
            f"{job.title}: {damage}; its job may be paid for: put the file back, or see flux-pipelines store held"
        )
    return None


def _read_refusal(job: JobContext, early: _Early) -> JobResult | None:
    """Return the result that replaces one that moderation refused earlier; raise ``Moderated`` if nothing does."""
    if job.settings.retry_moderated:
        return None
    _, refusal = _find_refusal(job, early)
    if refusal is None or insist(job.journal.entry, *job.keys) is not None:  # that is to be collected first
        return None
    replacement = insist(job.store.result, str(refusal["instead"])) if refusal.get("instead") else None
    if replacement is not None:
        why = "made with another seed, because moderation refused the first one"
        return _cached(job, job.key, replacement["image"], replacement, why)
    reasons = refusal.get("reasons")
    raise Moderated(
        str(refusal.get("stage")),
        [str(r) for r in reasons] if isinstance(reasons, list) else [],
        job_id=str(refusal.get("job_id", "")),
        remembered=True,
    )


def _find_refusal(job: JobContext, early: _Early) -> tuple[str, dict[str, Any] | None]:
    """Return the record of a refusal and its key.

    Nobody adds refusals under former keys any more, so that one look into the folder is enough for all jobs.
    """
    if job.store.url not in early:
        early[job.store.url] = frozenset(insist(job.store.records, _KIND))
    present, *former = job.keys
    for key in (present, *(key for key in former if key in early[job.store.url])):
        try:
            if (refusal := insist(job.store.record, _KIND, key)) is not None:
                return key, refusal
        except ValueError:
            raise DamagedRecord(f"{_KIND}/{key}.json is damaged") from None
    return present, None


def _read_spool(job: JobContext) -> JobResult | None:
    """Return the result that waits in the spool, and write it into the store if that is possible now."""
    spooled = job.spool.job(*job.keys)
    if spooled is None or spooled.facts is None or spooled.image is None:
        return None
    data = spooled.image.read()
    image = replace(spooled.image, cost=spooled.facts.get("cost"), job_id=spooled.entry.id)
    try:
        image = commit(job.store, spooled.entry, spooled.facts, data)
        job.spool.remove(spooled.entry.key)
    except (OSError, StoreUnavailable) as error:
        _log.warning("%s: the result still waits in the spool: %s", job.title, error)
    return _cached(job, spooled.entry.key, image, spooled.facts)


def _cached(job: JobContext, key: str, image: ImageRef, facts: Mapping[str, Any], *warnings: str) -> JobResult:
    return JobResult(
        image=replace(image, name=job.call.name),
        key=key,
        outcome=JobOutcome.CACHED,
        cost=image.cost,
        input_mp=number(facts.get("input_mp")),
        output_mp=number(facts.get("output_mp")),
        delivery_host=str(facts.get("delivery_host") or ""),
        expanded_prompt=str(facts.get("expanded_prompt") or ""),
        job_id=image.job_id,
        run=str(facts.get("run") or ""),
        warnings=(*warnings, *(text for text in (LOST_ALPHA, LOST_PROFILE) if text in str(facts.get("lost")))),
    )


async def is_answered(job: JobContext, entry: Entry) -> bool:
    """Check whether the store has an answer by now: a result, or a refusal by moderation."""
    early = endpoint_for(job.settings).refusals

    def is_there() -> bool:
        if any(insist(job.store.result, key) for key in job.keys):
            return True
        if job.settings.retry_moderated or entry.attempt > 1:
            return False
        with suppress(DamagedRecord):  # a person has decided to submit it again
            return _find_refusal(job, early)[1] is not None
        return False

    return await asyncio.to_thread(is_there)


async def remember_refusal(job: JobContext, refusal: Moderated, entry: Entry) -> None:
    """Write down that moderation refused ``job``; without a store the next run asks the service again."""
    key = job.keys[0]
    record = {
        **job.identity.to_record(),
        "key": key,
        "name": job.call.name,
        "stage": refusal.stage,
        "reasons": list(refusal.reasons),
        "job_id": entry.id,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with suppress(StoreUnavailable):
        await patiently(job.store.put_record, _KIND, key, record)


async def substitute(refused: Call, replacement: Call, settings: Settings) -> None:
    """Replace ``refused``, which moderation refused, by the result of ``replacement`` from now on.

    Raises:
        StoreUnavailable: the store cannot be read or written.
    """
    engine = await engine_of(settings)
    job, keys = JobContext(refused, settings, engine), replacement.identity(engine).keys
    key, refusal = job.key, None
    with suppress(DamagedRecord):
        key, refusal = await asyncio.to_thread(_find_refusal, job, endpoint_for(settings).refusals)
    if refusal is not None:
        there = [one for one in keys if await patiently(job.store.result, one) is not None]
        instead = (there or keys)[0]
        await patiently(job.store.put_record, _KIND, key, {**refusal, "instead": instead})
        if refusal.get("instead", instead) != instead:
            await patiently(job.store.renew)
