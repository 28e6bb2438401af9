"""Who owns a job: owners that stop and go on, that look dead and are not, and answers of the store that are lost."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_bfl import FakeBfl
from forked import Forked
from pictures import encoded, noise
from scripted import Answer, Request
from waiting import PATIENCE, wait_until

from flux_tasks import background, catalog, files
from flux_tasks.jobs import job, submission
from flux_tasks.jobs.call import Call, prepare
from flux_tasks.settings import Settings
from flux_tasks.store import journal
from flux_tasks.store.journal import LEASE, Entry, Journal
from flux_tasks.store.records import Store

pytestmark = pytest.mark.early

DEBLUR = catalog.TOOLS["deblur-v1"]
ELSEWHERE = "another-machine:77 another-boot/pid:[1] 0123456789abcdef"


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr(files.access, "PAUSES", (0.01, 0.01, 0.01))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(noise((96, 80))))
    return path


@pytest.fixture
def start(bfl: FakeBfl, settings: Settings, photo: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that makes calls with the seeds 0 to ``calls``; ``first`` is run in it before."""
    processes: list[subprocess.Popen[str]] = []

    def begin(first: str = "", calls: int = 1, on_uncertain: str = "resubmit") -> subprocess.Popen[str]:
        options = {"endpoint": bfl.url, "key": "k", "store": settings.store, "on_uncertain": on_uncertain}
        script = f"""
            import asyncio, os, signal, socket, threading, time
            from flux_tasks import background, catalog
            from flux_tasks.jobs import job, submission
            from flux_tasks.jobs.call import prepare
            from flux_tasks.settings import Settings
            from flux_tasks.store import journal
            settings = Settings(poll_interval=0.01, **{options!r})
            tool = catalog.TOOLS["deblur-v1"]
            calls = [prepare(tool, {{"image": {str(photo)!r}, "seed": seed}}) for seed in range({calls})]
        """
        rest = """
            async def all_of_them():
                return await asyncio.gather(*(job.execute(call, settings) for call in calls), return_exceptions=True)
            for result in background.run(all_of_them()):
                print(repr(result) if isinstance(result, Exception) else result.outcome)
        """
        program = "\n".join(textwrap.dedent(part) for part in (script, first, rest))
        processes.append(Forked([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()  # also one that is stopped
        process.communicate()


def said(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate(timeout=PATIENCE)[0].split("\n")[:-1]


def seeded(photo: Path, seed: int = 0) -> Call:
    return prepare(DEBLUR, {"image": photo, "seed": seed})


def journal_of(settings: Settings) -> Journal:
    return Journal(Store(settings.store))


STOPPED_BEFORE_THE_POST = """
    submission._LATE = 0.0  # as if the stop had lasted for longer
    answered = submission.is_answered
    async def stopping(*arguments):
        submission.is_answered = answered
        # To this thread: one sent to the process may reach another thread first, and this one goes on to its POST.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return await answered(*arguments)
    submission.is_answered = stopping
"""


@pytest.fixture
def stopped_owner(start: Callable[..., subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """A process that was stopped between its intent and its POST."""
    process = start(STOPPED_BEFORE_THE_POST)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    return process


def a_minute_later(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert journal_of(settings).entries()
    monkeypatch.setattr(journal, "clock", lambda: time.monotonic() + LEASE)


@pytest.mark.parametrize("by", ["policy", "a person"])
def test_an_owner_that_was_stopped_for_longer_than_its_lease_does_not_submit_what_another_process_has(
    bfl: FakeBfl,
    settings: Settings,
    photo: Path,
    stopped_owner: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    if by == "a person":
        [entry] = journal_of(settings).entries()
        assert journal_of(settings).decide(entry, "resubmit")
    a_minute_later(settings, monkeypatch)
    chosen = replace(settings, on_uncertain="resubmit" if by == "policy" else "hold")
    assert background.run(job.execute(seeded(photo), chosen)).outcome == "done"
    os.kill(stopped_owner.pid, signal.SIGCONT)
    assert said(stopped_owner) == ["cached"]
    assert bfl.jobs == 1
    assert journal_of(settings).entries() == []


def test_an_owner_that_goes_on_while_another_process_still_has_its_job_waits_for_it(
    bfl: FakeBfl,
    settings: Settings,
    photo: Path,
    stopped_owner: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_minute_later(settings, monkeypatch)
    bfl.hold = True
    running = background.start(job.execute(seeded(photo), replace(settings, on_uncertain="resubmit")))
    wait_until(lambda: bfl.jobs == 1)
    os.kill(stopped_owner.pid, signal.SIGCONT)
    time.sleep(0.3)
    bfl.hold = False
    assert running.result(PATIENCE).outcome == "done"
    assert (said(stopped_owner), bfl.jobs) == (["cached"], 1)


def test_an_owner_that_comes_back_in_time_goes_on_with_its_job(
    bfl: FakeBfl, settings: Settings, stopped_owner: subprocess.Popen[str]
) -> None:
    os.kill(stopped_owner.pid, signal.SIGCONT)
    assert said(stopped_owner) == ["done"]
    assert bfl.jobs == 1
    assert journal_of(settings).entries() == []


def test_an_owner_that_comes_back_at_the_moment_when_it_is_given_up_is_seen(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its entry again right after the next attempt was made: that attempt is taken back."""
    theirs = Entry(key=call.key("custom:loopback"), tool=DEBLUR.name, phase="intent", owner=ELSEWHERE)
    its = journal_of(settings)
    its.put(theirs)
    a_minute_later(settings, monkeypatch)
    intend = Journal.intend

    def returning(self: Journal, entry: Entry) -> bool:
        created = intend(self, entry)
        if created and entry.attempt == 2:
            its.put(theirs.now())
        return created

    monkeypatch.setattr(Journal, "intend", returning)
    waiting = background.start(job.execute(call, replace(settings, on_uncertain="resubmit")))
    time.sleep(0.5)
    assert not waiting.done()
    [left] = its.entries()
    assert (left.attempt, left.owner, bfl.jobs) == (1, ELSEWHERE, 0)
    waiting.cancel()


def test_an_intent_that_was_given_up_by_both_is_submitted_by_its_owner(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_LATE", 0.0)
    its = journal_of(settings)
    confirm, seen = Journal.confirm, []

    def meeting(self: Journal, entry: Entry) -> bool:
        seen.append(entry)
        if len(seen) > 1:
            return confirm(self, entry)
        theirs = replace(entry, attempt=2, owner=ELSEWHERE)
        assert its.intend(theirs)
        found = confirm(self, entry)
        Store(settings.store).remove_record("journal", f"{entry.key}~2")
        return found

    monkeypatch.setattr(Journal, "confirm", meeting)
    assert background.run(job.execute(call, settings)).outcome == "done"
    assert (bfl.jobs, len(seen)) == (1, 2)
    assert its.entries() == []


def test_two_machines_with_one_host_name_do_not_take_each_other_for_dead(
    bfl: FakeBfl, settings: Settings, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Process ids that do not exist here are what another pid namespace looks like; each POST is answered late."""
    accept = bfl._submit

    def late(path: str, request: Request) -> Answer:
        time.sleep(0.2)
        return accept(path, request)

    bfl._submit = late  # type: ignore[method-assign]
    elsewhere = 'os.getpid = lambda: {}; socket.gethostname = lambda: "worker"'
    processes = [start(elsewhere.format(4_000_001 + number), calls=6) for number in range(2)]
    outcomes = [said(process) for process in processes]
    assert bfl.jobs == 6, outcomes
    assert {outcome for some in outcomes for outcome in some} <= {"done", "cached"}
    assert journal_of(settings).entries() == []


@pytest.mark.parametrize("ahead", [-7200, 7200])
def test_a_job_of_a_dead_owner_whose_clock_was_wrong_is_collected_after_a_minute(
    bfl: FakeBfl,
    settings: Settings,
    photo: Path,
    start: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    ahead: int,
) -> None:
    bfl.hold = True
    clock = f"real = time.time; time.time = lambda: real() + {ahead}"
    owner = start(f'{clock}; os.getpid = lambda: 4_000_001; socket.gethostname = lambda: "gone"')
    wait_until(lambda: [entry for entry in journal_of(settings).entries() if entry.phase == "submitted"])
    owner.kill()
    bfl.hold = False
    collecting = background.start(job.execute(seeded(photo), settings))
    time.sleep(0.3)
    assert not collecting.done(), "it may still be alive"
    a_minute_later(settings, monkeypatch)
    assert collecting.result(PATIENCE).outcome == "collected"
    assert bfl.jobs == 1


def test_a_lost_answer_to_the_journals_own_put_holds_nothing(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, cut = files.create, []

    def losing(location: Any, data: bytes) -> bool:
        created = create(location, data)
        if not cut:
            cut.append(location)
            raise OSError("the connection was cut")
        return created

    monkeypatch.setattr(files, "create", losing)
    assert background.run(job.execute(call, settings)).outcome == "done"
    assert (len(cut), bfl.jobs) == (1, 1)
    assert journal_of(settings).entries() == []


def test_after_a_while_it_is_said_once_what_is_waited_for_and_whose_it_is(
    settings: Settings, photo: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(job, "_PATIENCE", 0.0)
    monkeypatch.setattr(job, "_told", set())
    calls = [seeded(photo, seed) for seed in range(2)]
    for call in calls:
        key = call.key("custom:loopback")
        journal_of(settings).put(Entry(key=key, tool=DEBLUR.name, phase="submitted", id="x", owner=ELSEWHERE))
    waiting = [background.start(job.execute(call, settings)) for call in calls]
    wait_until(lambda: caplog.records)
    time.sleep(0.3)
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("deblur photo: waiting for another-machine:77, which works on the same job; ")
    assert bfl.jobs == 0
    for one in waiting:
        one.cancel()


async def test_a_renewal_that_fails_as_its_block_ends_is_nobodys_trouble(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, may_fail = threading.Event(), threading.Event()

    def renew(_: Journal, entry: Entry) -> None:
        begun.set()
        may_fail.wait(PATIENCE)
        raise OSError("the store is gone")

    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    monkeypatch.setattr(submission, "LEASE", 0.01)
    monkeypatch.setattr(Journal, "renew", renew)
    async with submission.keep_lease(Journal(Store(str(tmp_path))), Entry("k", "deblur-v1", "intent")):
        await asyncio.to_thread(begun.wait, PATIENCE)
        asyncio.get_running_loop().call_later(0.05, may_fail.set)
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
