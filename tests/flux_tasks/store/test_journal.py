"""The journal: whatever lies there, nothing that may be paid for is forgotten, and nothing unknown is called known."""

from __future__ import annotations

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

from flux_tasks import files
from flux_tasks.settings import Settings
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
    assert found.owner == f"{socket.gethostname()}:{os.getpid()}"
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
    assert found.age > 10**9
    assert journal.entries() == [found]
    assert not journal.intend(intent())


def test_an_entry_of_a_later_version_is_read_without_what_is_not_known(journal: Journal, tmp_path: Path) -> None:
    put(tmp_path, json.dumps({**WHOLE, "from a later version": [1]}).encode())
    found = journal.entry(KEY)
    assert found is not None
    assert (found.phase, found.id) == ("submitted", "job-1")


def test_an_entry_dated_in_the_future_by_another_machines_clock_is_fresh_and_not_of_negative_age() -> None:
    assert intent(at=time.time() + 1000).age == 0


def test_a_store_that_cannot_be_read_is_an_error_and_never_an_empty_journal(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "journal" / f"{KEY}.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
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
        "checksum",
    }
    assert set(written) == names


# -- leases and attempts ----------------------------------------------------------------------------------------------


def test_an_entry_of_a_living_process_is_leased_for_a_minute_after_its_last_word() -> None:
    other = f"{socket.gethostname()}:{os.getppid()}"
    assert intent(owner=other).is_leased
    assert not intent(owner=other, at=time.time() - LEASE).is_leased
    assert intent(owner="another-machine:7").is_leased
    assert not intent(owner="another-machine:7", at=time.time() - LEASE).is_leased


def test_an_entry_of_ones_own_of_nobody_or_of_a_process_that_is_gone_is_not_leased() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for owner in (f"{socket.gethostname()}:{os.getpid()}", "", f"{socket.gethostname()}:{gone.stdout.strip()}"):
        assert not intent(owner=owner).is_leased
        assert intent(owner=owner).is_held
        assert not intent(owner=owner, decision="drop").is_held


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
    anew = intent(attempt=2)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda _: journal.intend(anew), range(16)))
    assert won.count(True) == 1
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
