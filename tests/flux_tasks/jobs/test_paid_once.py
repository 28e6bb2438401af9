"""Paid once, kept for good: leases between processes, uncertain submissions, stores that fail, and the spool."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from forked import Forked
from object_stores import reach_s3
from pictures import encoded, noise
from scripted import Answer, Request
from waiting import PATIENCE, wait_until

from flux_tasks import background, catalog, files
from flux_tasks.api.slots import Slots
from flux_tasks.errors import (
    DeliveryFailed,
    Interrupted,
    Moderated,
    ServerUnavailable,
    StillRunning,
    StoreUnavailable,
    SubmissionUncertain,
)
from flux_tasks.jobs import job, submission
from flux_tasks.jobs.call import Call, prepare
from flux_tasks.jobs.context import Halt, heed
from flux_tasks.jobs.known import lookup
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from flux_tasks.store import journal
from flux_tasks.store.commit import drain_spool, reconcile
from flux_tasks.store.journal import LEASE, Entry, Journal
from flux_tasks.store.owner import this_process
from flux_tasks.store.records import Store
from flux_tasks.store.spool import Spool

ELSEWHERE = "another-machine:77 another-boot/pid:[1] 0123456789abcdef"
DEBLUR = catalog.TOOLS["deblur-v1"]


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLUX_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr(files.access, "PAUSES", (0.01, 0.01, 0.01))
    return tmp_path / "spool"


def run(call: Call, settings: Settings) -> JobResult:
    return background.run(job.execute(call, settings))


def key_of(call: Call) -> str:
    return call.key("custom:loopback")


def journal_of(settings: Settings) -> Journal:
    return Journal(Store(settings.store))


def written(call: Call, settings: Settings, **changes: Any) -> Entry:
    """An entry that another process has written."""
    entry = Entry(**{"key": key_of(call), "tool": DEBLUR.name, "phase": "intent", "owner": ELSEWHERE, **changes})
    journal_of(settings).put(entry)
    return entry


def a_minute_later(entry: Entry, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has seen ``entry`` a minute ago, by its own time."""
    assert journal_of(settings).entry(entry.key) == entry
    monkeypatch.setattr(journal, "clock", lambda: time.monotonic() + LEASE)


def submitted_elsewhere(bfl: FakeBfl, call: Call) -> str:
    """A job that another process has paid for."""
    answer = bfl._submit(DEBLUR.path, type("Request", (), {"headers": {}, "json": lambda _: call.body()})())
    return str(answer.body["id"])


# -- several processes ------------------------------------------------------------------------------------------------


def test_a_job_that_another_process_is_at_work_on_is_waited_for_and_comes_from_the_store(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    entry = written(call, settings, phase="submitted", id="theirs")
    waiting = background.start(job.execute(call, settings))
    time.sleep(0.3)
    assert not waiting.done()
    assert bfl.requests == [] or all("theirs" not in r.path for r in bfl.requests), "it is theirs to poll"
    store = Store(settings.store)
    image = replace(store.put_image(encoded()), job_id="theirs", cost=3.0)
    store.put_result(entry.key, image, {})
    result = waiting.result(PATIENCE)
    assert (result.outcome, result.job_id, bfl.jobs) == ("cached", "theirs", 0)
    assert journal_of(settings).entries() == []


def test_a_call_that_waits_looks_and_writes_nothing(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble
) -> None:
    entry = written(call, settings)
    touched: list[tuple[str, str]] = []

    def note(operation: str, location: str) -> None:
        touched.append((operation, location))

    trouble.failing = note
    waiting = background.start(job.execute(call, settings))
    wait_until(lambda: sum(f"/journal/{entry.key}.json" in location for _, location in touched) > 6)
    assert sum(operation == "create" for operation, _ in touched) == 1, "the intent, once"
    journal_of(settings).settle(entry.key)
    assert waiting.result(PATIENCE).outcome == "done"


@pytest.mark.parametrize("kind", ["results", "refusals"])
def test_a_result_or_refusal_that_came_after_the_callers_own_look_is_found_before_the_job_is_sent(
    bfl: FakeBfl, settings: Settings, call: Call, kind: str
) -> None:
    if kind == "results":
        run(call, settings)
        assert background.run(job.execute(call, settings, is_looked_up=True)).outcome == "cached"
    else:
        Store(settings.store).put_record(kind, key_of(call), {"stage": "content", "reasons": ["Violence"]})
        with pytest.raises(Moderated, match="Violence"):
            background.run(job.execute(call, settings, is_looked_up=True))
    assert bfl.jobs == (kind == "results")
    assert journal_of(settings).entries() == []


def test_a_waiting_call_holds_no_slot(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    settings = replace(settings, max_jobs=1)
    written(call, settings, phase="submitted", id="theirs")
    waiting = background.start(job.execute(call, settings))
    other = prepare(DEBLUR, {"image": encoded(noise((96, 80), seed=5))})
    assert run(other, settings).outcome == "done"
    waiting.cancel()


def test_a_job_whose_lease_has_lapsed_is_collected_and_not_paid_again(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submitted_elsewhere(bfl, call)
    entry = written(call, settings, phase="submitted", id=job_id)
    a_minute_later(entry, settings, monkeypatch)
    result = run(call, settings)
    assert (result.outcome, result.job_id, bfl.jobs) == ("collected", job_id, 1)


def test_a_lease_is_renewed_while_its_job_runs(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "LEASE", 0.06)
    bfl.hold = True
    running = background.start(job.execute(call, settings))
    its = journal_of(settings)
    wait_until(lambda: bfl.jobs and [e for e in its.entries() if e.phase == "submitted"])
    first = its.entries()[0].at
    wait_until(lambda: its.entries()[0].at > first)
    bfl.hold = False
    assert running.result(PATIENCE).outcome == "done"
    time.sleep(0.1)
    assert its.entries() == [], "a late renewal must not bring the entry back"


def test_a_lost_job_is_submitted_anew_once_by_all_processes_together(
    bfl: FakeBfl, settings: Settings, call: Call, tmp_path: Path
) -> None:
    written(call, settings, phase="submitted", id="job-that-is-gone", owner="")
    (tmp_path / "photo.png").write_bytes(encoded(noise((96, 80))))
    script = textwrap.dedent(f"""
        from flux_tasks import background, catalog
        from flux_tasks.jobs import job
        from flux_tasks.jobs.known import lookup
        from flux_tasks.store.commit import drain_spool, reconcile
        from flux_tasks.jobs.call import prepare
        from flux_tasks.settings import Settings
        settings = Settings(endpoint={bfl.url!r}, key="k", store={settings.store!r}, poll_interval=0.002)
        call = prepare(catalog.TOOLS["deblur-v1"], {{"image": {str(tmp_path / "photo.png")!r}}})
        result = background.run(job.execute(call, settings))
        print(result.outcome, *result.warnings)
    """)
    processes = [Forked([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert bfl.jobs == 1, said
    assert sum("submitted again: the service no longer knows job job-that-is-gone" in line for line in said) >= 1
    assert all(line.split()[0] in ("done", "cached", "collected") for line in said)
    background.run(reconcile(settings))  # as the next run does: an intent that met a later one is left to it
    assert journal_of(settings).entries() == []


def test_what_a_person_should_know_of_a_job_is_kept_for_the_manifest(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    written(call, settings, phase="submitted", id="gone", owner="")
    result = run(call, settings)
    assert result.warnings == ("submitted again: the service no longer knows job gone",)
    record = Store(settings.store).result(key_of(call))
    assert record is not None
    assert record["warnings"] == ["submitted again: the service no longer knows job gone"]


@pytest.mark.parametrize("decision", ["", "drop"])
def test_an_intent_of_a_dead_process_holds_no_job_whose_result_is_there_by_now(
    bfl: FakeBfl, settings: Settings, call: Call, decision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finished the job after the dead one had looked for it, and before this one meets the intent."""
    first = run(call, settings)
    stale = written(call, settings, phase="intent", owner="")
    if decision:
        assert journal_of(settings).decide(stale, "drop")
    looks = []
    find = job.find_result

    async def at_the_second_look(context: Any) -> JobResult | None:
        looks.append(context)
        return None if len(looks) == 1 else await find(context)

    monkeypatch.setattr(job, "find_result", at_the_second_look)
    found = run(call, settings)
    assert found.image == first.image
    assert len(looks) == 2
    assert bfl.jobs == 1
    background.run(reconcile(settings))
    assert journal_of(settings).entries() == []


# -- uncertain submissions --------------------------------------------------------------------------------------------


def test_an_uncertain_submission_is_held_at_once_for_everybody(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    bfl.submit_answer = Answer(500, {"detail": "oops"})
    with pytest.raises(SubmissionUncertain):
        run(call, settings)
    [entry] = journal_of(settings).entries()
    assert entry.seems_held
    assert entry.owner == ""
    assert not journal_of(settings).is_leased(entry)
    assert not replace(entry, owner=ELSEWHERE).seems_held, "or others would wait for it for a minute"


@pytest.mark.parametrize("policy", ["resubmit", "decision"])
def test_a_held_job_is_submitted_again_by_policy_or_by_a_persons_decision(
    bfl: FakeBfl, settings: Settings, call: Call, policy: str
) -> None:
    entry = written(call, settings, owner="", at=1.0)
    with pytest.raises(SubmissionUncertain, match="flux-pipelines store held"):
        run(call, settings)
    if policy == "resubmit":
        settings = replace(settings, on_uncertain="resubmit")
    else:
        journal_of(settings).put(replace(entry, decision="resubmit"))
    assert run(call, settings).outcome == "done"
    assert bfl.jobs == 1
    assert journal_of(settings).entries() == []


def test_a_job_that_a_person_dropped_is_not_submitted_whatever_the_policy(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    written(call, settings, owner="", decision="drop")
    with pytest.raises(SubmissionUncertain, match="dropped by a person"):
        run(call, replace(settings, on_uncertain="resubmit"))
    assert bfl.jobs == 0


def test_an_intent_of_another_machine_is_waited_for_until_its_lease_lapses(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = written(call, settings, at=time.time() + 7200)
    waiting = background.start(job.execute(call, settings))
    time.sleep(0.3)
    assert not waiting.done()
    a_minute_later(entry, settings, monkeypatch)
    with pytest.raises(SubmissionUncertain, match="held"):
        waiting.result(PATIENCE)
    assert bfl.jobs == 0


# -- moderation -------------------------------------------------------------------------------------------------------


def test_what_moderation_refused_is_not_tried_again_unless_asked_for(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    refusal = {"id": "job-1", "status": "Content Moderated", "details": {"Moderation Reasons": ["Violence"]}}
    bfl.on("GET /v1/get_result", Answer(200, refusal))
    with pytest.raises(Moderated, match=r"withheld by moderation \(Violence\); it is not charged"):
        run(call, settings)
    for ask in (job.execute, lookup):
        with pytest.raises(Moderated, match=r"\(Violence\) earlier; it is not tried again unless asked for") as caught:
            background.run(ask(call, settings))
        assert (caught.value.reasons, caught.value.remembered) == (("Violence",), True)
    assert bfl.jobs == 1
    del bfl._scripts["GET /v1/get_result"]
    assert run(call, replace(settings, retry_moderated=True)).outcome == "done"
    assert run(call, settings).outcome == "cached", "a result is worth more than an earlier refusal"


def test_a_process_that_waited_for_a_job_that_was_refused_does_not_submit_it_anew(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    entry = written(call, settings)
    waiting = background.start(job.execute(call, settings))
    time.sleep(0.2)
    Store(settings.store).put_record("refusals", entry.key, {"stage": "content", "reasons": ["Violence"]})
    journal_of(settings).settle(entry.key)
    with pytest.raises(Moderated, match="Violence"):
        waiting.result(PATIENCE)
    assert bfl.jobs == 0
    assert journal_of(settings).entries() == []


def test_a_paid_job_is_collected_although_an_earlier_attempt_was_refused(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    job_id = submitted_elsewhere(bfl, call)
    written(call, settings, phase="submitted", id=job_id, owner="")
    Store(settings.store).put_record("refusals", key_of(call), {"stage": "content", "reasons": ["Violence"]})
    assert background.run(lookup(call, settings)) is None, "not refused: something is to be collected"
    result = run(call, settings)
    assert (result.outcome, result.job_id, bfl.jobs) == ("collected", job_id, 1)
    assert run(call, settings).outcome == "cached"


# -- stores that fail -------------------------------------------------------------------------------------------------


class Trouble:
    """Makes ``files`` fail on chosen locations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: Callable[[str, str], OSError | None] = lambda operation, location: None
        for name in ("read", "write", "create", "size", "remove", "listing"):
            monkeypatch.setattr(files, name, self._wrapped(name, getattr(files, name)))

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def troubled(location: Any, *arguments: Any, **options: Any) -> Any:
            error = self.failing(name, os.fspath(location))
            if error is not None:
                raise error
            return function(location, *arguments, **options)

        return troubled


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch)


def full(*kinds: str) -> Callable[[str, str], OSError | None]:
    """A store whose folders ``kinds`` take nothing any more."""

    def failing(operation: str, location: str) -> OSError | None:
        inside = any(f"/store/{kind}/" in location for kind in kinds)
        return OSError(errno.ENOSPC, "No space left on device") if inside and operation in ("write", "create") else None

    return failing


def test_a_store_that_fails_for_a_moment_is_asked_again(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble
) -> None:
    failed: dict[tuple[str, str], int] = {}

    def once(operation: str, location: str) -> OSError | None:
        failed[operation, location] = failed.get((operation, location), 0) + 1
        return OSError("503 Slow Down") if "/store/" in location and failed[operation, location] == 1 else None

    trouble.failing = once
    assert run(call, settings).outcome == "done"
    assert bfl.jobs == 1
    trouble.failing = lambda *_: None
    assert journal_of(settings).entries() == []


def test_a_store_that_cannot_be_written_stops_before_anything_is_paid_for(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble
) -> None:
    trouble.failing = full("journal")
    with pytest.raises(StoreUnavailable, match="No space left"):
        run(call, settings)
    assert bfl.jobs == 0


def test_a_store_that_cannot_be_read_stops_before_anything_is_paid_for(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble
) -> None:
    trouble.failing = lambda operation, location: OSError("bucket is gone") if "/results/" in location else None
    with pytest.raises(StoreUnavailable, match="bucket is gone"):
        run(call, settings)
    assert bfl.jobs == 0


def test_a_result_that_the_store_does_not_take_waits_in_the_spool_and_is_written_when_it_does(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble, spool: Path
) -> None:
    trouble.failing = full("blobs")
    result = run(call, settings)
    assert result.outcome == "done"
    assert result.image.open().size == (96, 80), "the caller has its picture all the same"
    assert any("the result waits in the spool" in word for word in result.warnings)
    assert Store(settings.store).result(key_of(call)) is None
    assert [entry.phase for entry in journal_of(settings).entries()] == ["submitted"], "no claim that is not true"
    again = run(call, settings)
    assert (again.outcome, bfl.jobs) == ("cached", 1), "while it waits it answers, too"
    trouble.failing = lambda *_: None
    assert background.run(drain_spool(settings)) == 1
    assert run(call, settings).outcome == "cached"
    assert journal_of(settings).entries() == []
    assert not [path for path in spool.rglob("*") if path.is_file()]
    assert bfl.jobs == 1


def test_the_next_call_writes_what_waits_in_the_spool(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble
) -> None:
    trouble.failing = full("results")
    run(call, settings)
    trouble.failing = lambda *_: None
    found = background.run(lookup(call, settings))
    assert found is not None
    assert found.job_id == "job-1"
    assert Store(settings.store).result(key_of(call)) is not None
    assert Spool(Store(settings.store)).keys() == []


def test_an_id_that_the_journal_does_not_take_waits_in_the_spool(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble
) -> None:
    def failing(operation: str, location: str) -> OSError | None:
        gone = "/store/" in location and operation == "write"  # the intent is created, everything later fails
        return OSError(errno.EROFS, "Read-only file system") if gone else None

    trouble.failing = failing
    bfl.hold = True
    with pytest.raises(StillRunning):
        run(call, replace(settings, deadline=0.2))
    trouble.failing = lambda *_: None
    assert [entry.phase for entry in journal_of(settings).entries()] == ["intent"]
    bfl.hold = False
    result = run(call, settings)
    assert (result.outcome, result.job_id, bfl.jobs) == ("collected", "job-1", 1)
    assert journal_of(settings).entries() == []


def test_with_room_nowhere_the_job_stays_with_the_service_and_is_collected_later(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble
) -> None:
    def failing(operation: str, location: str) -> OSError | None:
        everywhere = "/spool/" in location or "/blobs/" in location
        return OSError(errno.ENOSPC, "No space left on device") if everywhere and operation == "write" else None

    trouble.failing = failing
    with pytest.raises(StoreUnavailable, match=r"job job-1 is paid for.*run again when there is room"):
        run(call, settings)
    trouble.failing = lambda *_: None
    result = run(call, settings)
    assert (result.outcome, bfl.jobs) == ("collected", 1)


def test_a_bucket_that_is_not_there_stops_before_anything_is_paid_for(
    bfl: FakeBfl, settings: Settings, call: Call, s3_endpoint: str
) -> None:
    with reach_s3(s3_endpoint), pytest.raises(StoreUnavailable, match="the store cannot be used"):
        run(call, replace(settings, store="s3://there-is-no-such-bucket/store"))
    assert bfl.jobs == 0


def test_tidying_forgets_entries_whose_result_is_recorded_and_counts_the_rest(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    result = run(call, settings)
    written(call, settings, phase="submitted", id=result.job_id, owner="")
    other = Entry(key="f" * 64, tool="deblur-v1", phase="submitted", id="job-9", owner="")
    journal_of(settings).put(other)
    assert background.run(reconcile(settings)) == 1
    assert journal_of(settings).entries() == [other]
    for attempt in (1, 2):
        written(call, settings, phase="submitted", id=f"attempt-{attempt}", owner="", attempt=attempt)
    assert background.run(reconcile(settings)) == 1, "nobody will collect it any more"
    written(call, settings, phase="submitted", id="a-refresh", owner="", refresh=True)
    assert background.run(reconcile(settings)) == 2, (
        "it is to replace the result, and is collected when asked for again"
    )


def test_a_dangling_link_in_the_journal_is_an_entry_that_cannot_be_read_and_no_endless_loop(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    folder = Path(settings.store) / "journal"
    folder.mkdir(parents=True)
    (folder / f"{key_of(call)}.json").symlink_to(folder / "nowhere")
    with pytest.raises(SubmissionUncertain, match="held"):
        run(call, settings)
    assert bfl.jobs == 0


# -- attempts do not multiply -----------------------------------------------------------------------------------------


def test_only_what_was_never_sent_is_worth_repeating_as_a_whole() -> None:
    from flux_tasks.api.client import is_free_to_repeat

    assert is_free_to_repeat(ServerUnavailable("no connection"))
    for error in (StillRunning("x"), DeliveryFailed("x"), StoreUnavailable("x"), SubmissionUncertain("x")):
        assert not is_free_to_repeat(error)


def test_a_429_lowers_the_limit_and_submissions_that_are_taken_raise_it_again() -> None:
    async def scenario() -> None:
        slots = Slots(16)
        async with slots.hold("account"), slots.hold("account"), slots.hold("account"), slots.hold("account"):
            slots.lower("account")
            assert slots.allowed == 3
            slots.lower("account")
            assert slots.allowed == 3, "answers that come together are one piece of news"
        for _ in range(200):
            slots.raise_again("account")
        assert slots.allowed == 16

    asyncio.run(scenario())


def test_a_lowered_limit_holds_back_calls_until_slots_are_given_back() -> None:
    async def scenario() -> list[int]:
        slots, seen = Slots(8), []

        async def one() -> None:
            async with slots.hold("account"):
                seen.append(slots.active)
                await asyncio.sleep(0)

        async with slots.hold("account"), slots.hold("account"):
            slots.lower("account")  # two are held, one is allowed
            waiting = [asyncio.create_task(one()) for _ in range(5)]
            await asyncio.sleep(0.01)
            assert seen == []
        await asyncio.gather(*waiting)
        assert slots.active == 0
        return seen

    assert asyncio.run(scenario()) == [1] * 5


def test_a_cancelled_wait_for_a_slot_gives_its_turn_to_the_next() -> None:
    async def scenario() -> None:
        slots = Slots(1)

        async def one() -> str:
            async with slots.hold("account"):
                return "in"

        async with slots.hold("account"):
            first, second = asyncio.create_task(one()), asyncio.create_task(one())
            await asyncio.sleep(0)
            first.cancel()
        assert await second == "in"
        assert slots.active == 0

    asyncio.run(scenario())


# -- the end of a program ---------------------------------------------------------------------------------------------


def test_jobs_that_wait_for_a_slot_are_not_submitted_once_the_run_is_stopped(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    settings = replace(settings, max_jobs=1)
    bfl.hold = True
    other = prepare(DEBLUR, {"image": encoded(noise((96, 80), seed=5))})
    halt = Halt()
    with heed(halt):
        running = [background.start(job.execute(call, settings))]
        wait_until(lambda: bfl.jobs == 1)
        running.append(background.start(job.execute(other, settings)))
    time.sleep(0.1)
    halt.reason = Interrupted("interrupted (Ctrl-C)")
    bfl.hold = False
    assert running[0].result(PATIENCE).outcome == "done"
    with pytest.raises(Interrupted, match=r"not begun.*Ctrl-C"):
        running[1].result(PATIENCE)
    assert bfl.jobs == 1
    assert run(other, settings).outcome == "done"


def test_a_call_that_waits_for_the_same_job_as_a_run_that_is_stopped_gets_its_result(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    settings = replace(settings, max_jobs=1)
    bfl.hold = True
    other, halt = prepare(DEBLUR, {"image": encoded(noise((96, 80), seed=5))}), Halt()
    first = background.start(job.execute(call, settings))
    wait_until(lambda: bfl.jobs == 1)
    with heed(halt):
        of_run = background.start(job.execute(other, settings))
    time.sleep(0.1)
    with heed(Halt()):
        of_others = [background.start(job.execute(other, settings)) for _ in range(3)]
    time.sleep(0.1)
    halt.reason = Interrupted("interrupted (Ctrl-C)")
    bfl.hold = False
    with pytest.raises(Interrupted, match=r"not begun.*Ctrl-C"):
        of_run.result(PATIENCE)
    assert [one.result(PATIENCE).outcome for one in (first, *of_others)] == ["done"] * 4
    assert bfl.jobs == 2


@pytest.mark.parametrize("why", ["policy", "decision", "lost by the service"])
def test_a_held_or_lost_job_is_not_submitted_again_after_a_stop(
    bfl: FakeBfl, settings: Settings, call: Call, why: str
) -> None:
    if why == "policy":
        settings = replace(settings, on_uncertain="resubmit")
    left = {
        "policy": {"owner": "", "at": 1.0},
        "decision": {"owner": "", "at": 1.0, "decision": "resubmit"},
        "lost by the service": {"owner": "", "at": 1.0, "begun": 1.0, "phase": "submitted", "id": "gone"},
    }
    entry = written(call, settings, **left[why])
    with heed(Halt(Interrupted("interrupted (Ctrl-C)"))), pytest.raises(Interrupted, match=r"not begun.*Ctrl-C"):
        run(call, settings)
    [stays] = journal_of(settings).entries()
    assert (bfl.jobs, stays.key, stays.attempt, stays.phase) == (0, entry.key, 1, entry.phase)
    assert run(call, settings).outcome == "done"
    assert (bfl.jobs, journal_of(settings).entries()) == (1, [])


def test_a_paid_job_of_an_earlier_attempt_is_collected_after_a_stop(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    written(call, settings, owner="", at=1.0, phase="submitted", id=submitted_elsewhere(bfl, call))
    with heed(Halt(Interrupted("interrupted (Ctrl-C)"))):
        assert run(call, settings).outcome == "collected"
    assert bfl.jobs == 1


@pytest.mark.parametrize("asked", ["0", "Mon, 01 Jan 2024 00:00:00 GMT", "0.01"])
def test_a_job_that_is_refused_for_a_while_is_not_sent_again_after_a_stop(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    halt = Halt()

    def refuse(path: str, request: Request) -> Answer:
        if len(bfl.seen("POST /v1/flux-tools/deblur-v1")) == 2:
            halt.reason = Interrupted("interrupted (Ctrl-C)")
        return Answer(429, {"detail": "busy"}, headers={"retry-after": asked})

    monkeypatch.setattr(bfl, "_submit", refuse)
    with heed(halt), pytest.raises(Interrupted, match=r"not begun.*Ctrl-C"):
        run(call, settings)
    assert len(bfl.seen("POST /v1/flux-tools/deblur-v1")) == 2
    assert journal_of(settings).entries() == []


def test_no_job_is_begun_when_the_stop_comes_while_a_slow_store_confirms_its_entry(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Halt()
    confirm = Journal.confirm

    def slowly(journal: Journal, entry: Entry) -> bool:
        halt.reason = Interrupted("interrupted (Ctrl-C)")
        return confirm(journal, entry)

    monkeypatch.setattr(submission, "_LATE", -1.0)
    monkeypatch.setattr(Journal, "confirm", slowly)
    with heed(halt), pytest.raises(Interrupted, match=r"not begun.*Ctrl-C"):
        run(call, settings)
    assert (bfl.jobs, journal_of(settings).entries()) == (0, [])


def test_an_id_that_a_slow_store_has_not_taken_is_on_the_disk_when_the_process_ends_at_once(
    bfl: FakeBfl, settings: Settings, call: Call, trouble: Trouble
) -> None:
    is_quick = threading.Event()

    def failing(operation: str, location: str) -> None:
        if bfl.jobs and operation == "write" and "/journal/" in location:
            assert is_quick.wait(PATIENCE)

    trouble.failing = failing
    running = background.start(job.execute(call, settings))
    wait_until(lambda: submission._unwritten)
    submission.spool_ids()
    spooled = Spool(Store(settings.store)).job(*Spool(Store(settings.store)).keys())
    assert spooled is not None
    assert (spooled.entry.id, spooled.facts) == ("job-1", None)
    is_quick.set()
    assert running.result(PATIENCE).outcome == "done"
    assert not submission._unwritten
    assert background.run(reconcile(settings)) == 0
    assert Spool(Store(settings.store)).keys() == []
    assert (run(call, settings).outcome, bfl.jobs) == ("cached", 1)


def test_an_entry_names_machine_and_process(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    bfl.hold = True
    running = background.start(job.execute(call, settings))
    folder = Path(settings.store) / "journal"
    wait_until(lambda: folder.is_dir() and list(folder.glob("*.json")))
    [file] = folder.glob("*.json")
    assert json.loads(file.read_text())["owner"] == this_process()
    bfl.hold = False
    running.result(PATIENCE)
