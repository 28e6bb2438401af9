"""A job that fails at the service is submitted once by all processes together, and again by those that begin later."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_bfl import FakeBfl
from forked import Forked
from scripted import Answer
from waiting import PATIENCE

from flux_tasks import background
from flux_tasks.errors import JobFailed
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call
from flux_tasks.settings import Settings
from flux_tasks.store import failures
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store

POLL = "GET /v1/get_result"
ERROR = Answer(200, {"id": "job-1", "status": "Error", "details": {"error": "no GPU"}})
ELSEWHERE = "another-machine:77 another-boot/pid:[1] 0123456789abcdef"


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_SPOOL", str(tmp_path / "spool"))


@pytest.fixture
def start(bfl: FakeBfl, settings: Settings) -> Callable[[], subprocess.Popen[str]]:
    script = f"""
        import asyncio
        from flux_tasks import background, catalog
        from flux_tasks.jobs import job
        from flux_tasks.jobs.call import prepare
        from flux_tasks.settings import Settings
        settings = Settings(endpoint={bfl.url!r}, key="k", store={settings.store!r}, poll_interval=0.01)
        calls = [prepare(catalog.TOOLS["flux-2-pro"], {{"prompt": "a harbour", "seed": seed}}) for seed in range(12)]
        async def all_of_them():
            return await asyncio.gather(*(job.execute(call, settings) for call in calls), return_exceptions=True)
        for result in background.run(all_of_them()):
            print(type(result).__name__, result)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return lambda: Forked(command, stdout=subprocess.PIPE, text=True)


def test_four_processes_submit_twelve_jobs_that_fail_twelve_times_and_a_later_one_submits_them_again(
    bfl: FakeBfl, settings: Settings, start: Callable[[], subprocess.Popen[str]]
) -> None:
    bfl.on(POLL, ERROR)
    processes = [start() for _ in range(4)]
    said = [process.communicate(timeout=PATIENCE)[0].splitlines() for process in processes]
    assert [len(lines) for lines in said] == [12] * 4
    assert all(line.startswith("JobFailed job ") and "no GPU" in line for lines in said for line in lines)
    assert bfl.jobs == 12
    assert sum("made this job at the same time" in line for lines in said for line in lines) == 36
    assert Journal(Store(settings.store)).entries() == []
    assert start().communicate(timeout=PATIENCE)[0].count("JobFailed") == 12
    assert bfl.jobs == 24, "a failure is no result"


def test_a_process_submits_again_what_failed_in_it(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    bfl.on(POLL, ERROR)
    for _ in range(2):
        with pytest.raises(JobFailed, match="no GPU"):
            background.run(job.execute(call, settings))
    assert bfl.jobs == 2


def left(call: Call, settings: Settings, **changes: object) -> None:
    """A failure of another process."""
    key = call.key("custom:loopback")
    record = {"message": "no GPU", "owner": ELSEWHERE, "at": time.time(), "begun": 1.0, "word": "w", **changes}
    Store(settings.store).put_record("failures", key, record)


def test_a_failure_is_given_once_whatever_the_clock_to_who_waited_for_the_job(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_given", set())
    theirs = Entry(key=call.key("custom:loopback"), tool="deblur-v1", phase="intent", owner=ELSEWHERE)
    journal = Journal(Store(settings.store))
    journal.put(theirs)
    is_left, has_seen = Journal.is_leased, threading.Event()

    def look(journal: Journal, entry: Entry) -> bool:
        has_seen.set()
        return is_left(journal, entry)

    monkeypatch.setattr(Journal, "is_leased", look)
    waiting = background.start(job.execute(call, settings))
    assert has_seen.wait(PATIENCE)
    assert not waiting.done()
    left(call, settings, begun=theirs.begun, at=time.time() + 7200)
    journal.settle(theirs.key)
    with pytest.raises(JobFailed, match=r"^no GPU \(in another-machine:77, which made this job at the same time\)$"):
        waiting.result(PATIENCE)
    assert (bfl.jobs, journal.entries()) == (0, [])
    assert background.run(job.execute(call, settings)).outcome == "done"


@pytest.mark.parametrize(
    "changes",
    [{"at": 5.0}, {"at": time.time() + 7200}, {"at": "x"}, {"word": 5}, {"owner": None}],
    ids=["old", "ahead", "no-time", "no-word", "no-owner"],
)
def test_an_old_or_damaged_record_of_a_failure_keeps_nothing_back(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.setattr(failures, "_given", set())
    left(call, settings, **changes)
    assert background.run(job.execute(call, settings)).outcome == "done"


def test_failures_are_forgotten_when_nobody_is_to_share_them_any_more(settings: Settings, call: Call) -> None:
    store = Store(settings.store)
    left(call, settings)
    store.put_record("failures", "old", {"at": time.time() - 601})
    store.put_record("failures", "damaged", {})
    background.run(failures.forget_failures(store))
    assert store.records("failures") == [call.key("custom:loopback")]
