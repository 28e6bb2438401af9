"""The journal: whatever lies there, nothing that may be paid for is forgotten, and nothing unknown is called known."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from object_stores import forget_filesystems
from store_conformance import encoded

from flux_tasks import background, files
from flux_tasks.settings import Settings
from flux_tasks.store import journal as journal_module
from flux_tasks.store import owner
from flux_tasks.store.commit import reconcile
from flux_tasks.store.journal import LEASE, Entry, Journal
from flux_tasks.store.records import Store

KEY = "k" * 64


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Store(str(tmp_path)))


def intent(**changes: Any) -> Entry:
    return Entry(**{"key": KEY, "tool": "erase-v1", "phase": "intent", "name": "harbour", "estimate": 3.4, **changes})


def put(folder: Path, content: bytes) -> None:
    files.write(folder / "journal" / f"{KEY}.json", content)


def test_an_intent_says_who_had_it_and_when(journal: Journal) -> None:
    before = time.time()
    assert journal.intend(intent())
    found = journal.entry(KEY)
    assert found is not None
    assert (found.phase, found.tool, found.name, found.estimate, found.id) == ("intent", "erase-v1", "harbour", 3.4, "")
    assert found.owner == owner.this_process()
    assert before <= found.at <= time.time()
    assert found.age >= 0


def test_a_submission_keeps_what_the_intent_knew_and_adds_the_services_words(journal: Journal) -> None:
    entry = intent(at=5.0)
    journal.intend(entry)
    known = entry.with_id("job-1", polling_url="https://api.us.bfl.ai/v1/get_result?id=job-1", cost=None)
    journal.put(known)
    assert (known.phase, known.id, known.cost, known.name, known.estimate) == (
        "submitted",
        "job-1",
        None,
        "harbour",
        3.4,
    )
    assert known.at > entry.at
    assert journal.entry(KEY) == known


def test_a_job_is_intended_by_one_only_until_it_is_settled(journal: Journal) -> None:
    assert journal.intend(intent())
    assert not journal.intend(intent(owner="another:1"))
    journal.put(intent().with_id("job-1", polling_url="", cost=3))
    assert not journal.intend(intent())
    journal.settle(KEY)
    assert journal.entry(KEY) is None
    assert journal.intend(intent())


def test_all_unsettled_jobs_are_listed(journal: Journal, tmp_path: Path) -> None:
    assert journal.entries() == []
    for name in ("b", "a", "c"):
        journal.intend(intent(key=name))
    journal.settle("b")
    (tmp_path / "journal" / "notes.txt").write_text("not an entry")
    assert [entry.key for entry in journal.entries()] == ["a", "c"]


WHOLE = {"key": KEY, "tool": "erase-v1", "phase": "submitted", "id": "job-1", "at": 5.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"key": "k", "to',
        b"\xff\xfe\x00",
        b"null",
        b"0",
        b"[]",
        b'"text"',
        b"{}",
        b'{"key": "k"}',
        json.dumps({**WHOLE, "id": ""}).encode(),
        json.dumps({**WHOLE, "phase": "paid"}).encode(),
        json.dumps({**WHOLE, "at": "yesterday"}).encode(),
        json.dumps({**WHOLE, "at": None}).encode(),
        json.dumps({**WHOLE, "at": float("nan")}).encode(),
    ],
)
def test_an_entry_that_cannot_be_read_counts_as_an_old_intent(journal: Journal, tmp_path: Path, content: bytes) -> None:
    put(tmp_path, content)
    found = journal.entry(KEY)
    assert found is not None
    assert (found.key, found.phase, found.id, found.owner) == (KEY, "intent", "", "unknown")
    assert found.age is None
    assert journal.entries() == [found]
    assert not journal.intend(intent())


def test_an_entry_of_a_later_version_is_read_without_what_is_not_known(journal: Journal, tmp_path: Path) -> None:
    put(tmp_path, json.dumps({**WHOLE, "from a later version": [1]}).encode())
    found = journal.entry(KEY)
    assert found is not None
    assert (found.phase, found.id) == ("submitted", "job-1")


def test_an_entry_dated_in_the_future_by_another_machines_clock_is_fresh_and_not_of_negative_age() -> None:
    assert intent(at=time.time() + 1000).age == 0


def test_a_store_that_cannot_be_read_is_an_error_and_never_an_empty_journal(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(location: str) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", location)

    monkeypatch.setattr(files, "read", refuse)
    with pytest.raises(PermissionError):
        journal.entry(KEY)


def test_a_journal_that_is_a_link_to_itself_has_an_end(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "journal").symlink_to(tmp_path / "journal")
    found = journal.entry(KEY)
    assert found is not None
    assert found.phase == "intent"


@given(content=st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_no_content_whatever_makes_an_entry_disappear(content: Any) -> None:
    forget_filesystems()
    store = Store("memory://store")
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    files.write(store.location("journal", f"{KEY}.json"), data)
    assert Journal(store).entry(KEY) is not None
    forget_filesystems()


def test_an_entry_holds_neither_a_key_nor_bytes_nor_a_delivery_address(journal: Journal, tmp_path: Path) -> None:
    journal.intend(intent())
    journal.put(intent().with_id("job-1", polling_url="https://api.bfl.ai/v1/get_result?id=job-1", cost=3))
    written = json.loads((tmp_path / "journal" / f"{KEY}.json").read_bytes())
    names = {
        "key",
        "tool",
        "phase",
        "name",
        "estimate",
        "id",
        "polling_url",
        "cost",
        "input_mp",
        "output_mp",
        "owner",
        "at",
        "attempt",
        "begun",
        "refresh",
        "decision",
        "reason",
        "recipe",
        "part",
        "run",
        "engine",
        "checksum",
        "word",
    }
    assert set(written) == names


# -- leases and attempts ----------------------------------------------------------------------------------------------


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds by which the reader's own clock is moved on."""
    moved = [0.0]
    monkeypatch.setattr(journal_module, "clock", lambda: time.monotonic() + moved[0])
    return moved


def of_this_machine(pid: int) -> str:
    return f"{socket.gethostname()}:{pid} {owner.this_process().split(' ')[1]} 0123456789abcdef"


OTHERS = {
    "another machine": "another-machine:7 another-boot/pid:[1] 0123456789abcdef",
    "another namespace of this machine": f"{socket.gethostname()}:999999 another-boot/pid:[1] 0123456789abcdef",
    "an earlier version": f"{socket.gethostname()}:999999",
    "a living process of this machine": of_this_machine(os.getppid()),
}


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("ahead", [-7200.0, -61.0, 0.0, 59.0, 7200.0])
def test_a_lease_lapses_a_minute_after_the_reader_saw_its_entry_change_whatever_any_clock_says(
    journal: Journal, passed: list[float], who: str, ahead: float
) -> None:
    theirs = intent(owner=OTHERS[who], at=time.time() + ahead)
    journal.put(theirs)
    seen = journal.entry(KEY)
    assert seen is not None
    assert journal.is_leased(seen)
    passed[0] = LEASE - 1
    journal.put(theirs.now())
    seen = journal.entry(KEY)
    assert seen is not None
    passed[0] = 2 * LEASE - 2
    assert journal.is_leased(seen), "it was written again a moment ago, as the reader saw"
    passed[0] = 2 * LEASE
    assert not journal.is_leased(seen)
    seen = Journal(Store(journal._store.url)).entry(KEY)
    assert seen is not None
    assert not journal.is_leased(seen), "another look by the same process does not begin anew"


def test_an_entry_of_ones_own_of_nobody_or_of_a_process_that_is_gone_is_not_leased(journal: Journal) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    earlier_with_our_id = of_this_machine(os.getpid())
    for who in (owner.this_process(), "", of_this_machine(int(gone.stdout)), earlier_with_our_id):
        journal.put(intent(owner=who))
        seen = journal.entry(KEY)
        assert seen is not None
        assert not journal.is_leased(seen)
        if who != owner.this_process():
            assert seen.seems_held
        assert not intent(owner=who, decision="drop").seems_held


def test_a_process_that_is_gone_is_known_in_its_own_boot_and_namespace_only(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert owner.has_ended(of_this_machine(gone.pid))
    assert not owner.has_ended(of_this_machine(gone.pid).replace("pid:[", "pid:[1"))
    assert not owner.has_ended(f"{socket.gethostname()}:{gone.pid}")
    theirs = of_this_machine(gone.pid)
    monkeypatch.setattr(os, "getpid", lambda: 999_999)  # a number that /proc does not give this process
    assert not owner.has_ended(theirs)
    assert not owner.has_ended(f"{socket.gethostname()}:{gone.pid}  0123456789abcdef")


def test_every_process_has_a_word_of_its_own_also_a_forked_one() -> None:
    here = owner.this_process()
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, owner.this_process().encode())
        os._exit(0)
    os.waitpid(child, 0)
    there = os.read(read, 1000).decode()
    assert here.split(" ")[1] == there.split(" ")[1]
    assert here.split(" ")[2] != there.split(" ")[2]
    assert here == owner.this_process()


def test_a_clock_that_is_ahead_is_said_once(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "flux_tasks.job")
    who = "far-away:7 boot/pid:[1] fedcba9876543210"
    for key in ("a", "b"):
        journal.put(intent(key=key, owner=who, at=time.time() + 7200))
        journal.entry(key)
        journal.entry(key)
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("the clock of far-away:7 is 7")
    assert said.endswith("s ahead of this machine's; leases do not depend on it")


def test_an_entry_whose_write_was_answered_by_a_conflict_is_recognised_by_its_word(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The put arrived, its answer was lost, and it was sent again: the store has an entry already, and it is ours."""
    create = files.create
    monkeypatch.setattr(files, "create", lambda *given: create(*given) and False)
    ours = intent()
    assert journal.intend(ours)
    assert not journal.intend(intent(at=ours.at, begun=ours.begun)), "the same but for its word"


def test_a_decision_holds_for_the_entry_that_a_person_saw_and_for_no_later_one(journal: Journal) -> None:
    theirs = intent(owner=OTHERS["another machine"])
    journal.put(theirs)
    assert journal.decide(theirs, "resubmit")
    decided = journal.entry(KEY)
    assert decided is not None
    assert decided.decision == "resubmit"
    assert journal.is_leased(decided), "who acts on it waits for the lease to end"
    journal.put(theirs.now())  # its owner is alive
    assert journal.entry(KEY) == journal.entries()[0]
    assert journal.entries()[0].decision == ""
    assert not journal.decide(theirs, "drop"), "it has changed since"
    paid = theirs.with_id("job-1", polling_url="", cost=3.0)
    journal.put(paid)
    assert not journal.decide(theirs, "resubmit")
    assert journal.entry(KEY) == paid


def test_settling_a_job_forgets_what_was_decided_about_it(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_seen", {})
    journal.put(intent(owner=""))
    seen = journal.entry(KEY)
    assert seen is not None
    assert journal.decide(seen, "drop")
    journal.settle(KEY)
    assert not journal_module._seen, "what is settled is not remembered"
    assert journal.entry(KEY) is None
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent.parent.name for path in left] == ["charges"], "it may have been charged, which is noted"


def test_a_renewal_never_brings_back_an_entry_that_another_process_has_settled_or_taken(journal: Journal) -> None:
    ours = intent()
    journal.intend(ours)
    journal.renew(ours)
    renewed = journal.entry(KEY)
    assert renewed is not None
    assert (renewed.word, renewed.begun) != (ours.word, ours.begun)
    assert journal.confirm(ours)
    theirs = intent(attempt=2, owner=OTHERS["another machine"])
    journal.intend(theirs)
    journal.renew(ours)
    assert not journal.confirm(ours)
    assert journal.entry(KEY) == theirs
    journal.withdraw(ours)
    assert journal.entry(KEY) == theirs, "without the first attempt nobody would find the second"
    journal.settle(KEY)
    journal.renew(ours)
    assert not journal.confirm(ours)
    assert journal.entry(KEY) is None


def test_an_entry_is_paid_held_dropped_or_free_to_submit() -> None:
    hold, resubmit = Settings(), Settings(on_uncertain="resubmit")
    paid = intent(decision="drop").with_id("job-1", polling_url="", cost=3.0)
    assert [paid.standing(settings) for settings in (hold, resubmit)] == ["paid", "paid"]
    assert [intent().standing(settings) for settings in (hold, resubmit)] == ["held", "free"]
    assert [intent(decision="drop").standing(settings) for settings in (hold, resubmit)] == ["dropped", "dropped"]
    assert [intent(decision="resubmit").standing(settings) for settings in (hold, resubmit)] == ["free", "free"]


def test_the_next_attempt_is_made_by_one_writer_alone_and_is_the_one_that_counts(journal: Journal) -> None:
    first = intent()
    journal.intend(first)
    lost = first.with_id("job-1", polling_url="", cost=3)
    journal.put(lost)
    asked = [intent(attempt=2) for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(journal.intend, asked))
    assert won.count(True) == 1
    anew = asked[won.index(True)]
    assert journal.entry(KEY) == anew
    assert journal.entries() == [anew]
    journal.settle(KEY, lost.id)
    assert journal.entry(KEY) == anew, "settling an earlier attempt must not touch a later one"
    journal.withdraw(anew)
    assert journal.entry(KEY) == lost
    journal.settle(KEY, lost.id)
    assert journal.entries() == []


def test_settling_a_job_forgets_all_its_attempts(journal: Journal, tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        journal.intend(intent(attempt=attempt))
    journal.put(intent(attempt=3).with_id("job-3", polling_url="", cost=3))
    journal.settle(KEY, "job-3")
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_second_attempt_whose_first_was_settled_meanwhile_does_not_stay_in_the_journal(
    settings: Settings, tmp_path: Path
) -> None:
    store = Store(settings.store)
    journal = Journal(store)
    image = store.put_image(encoded())
    store.put_result(KEY, image, {"job_id": "a"})
    journal.put(intent(attempt=2, owner=""))
    assert journal.entry(KEY) is None, "nobody finds it by its key"
    assert background.run(reconcile(settings)) == 0
    assert journal.entries() == []
