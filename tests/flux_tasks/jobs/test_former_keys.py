"""After an upgrade: what a store has under the keys of September 2026 answers, is collected, or is held as before."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden_keys
import pytest
from fake_bfl import FakeBfl
from pictures import encoded, noise
from scripted import Answer

from flux_tasks import background, catalog, files
from flux_tasks.errors import Moderated, SubmissionUncertain
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call, prepare
from flux_tasks.jobs.identity import Identity
from flux_tasks.jobs.known import lookup, substitute
from flux_tasks.jobs.migration import migrate
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.local.server import LocalServer
from flux_tasks.settings import Settings
from flux_tasks.store import journal as journal_module
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store
from flux_tasks.store.spool import Spool

DEBLUR = catalog.TOOLS["deblur-v1"]
CALLS = json.loads((golden_keys.PICTURES / "calls.json").read_text())


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLUX_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr(files.access, "PAUSES", (0.01, 0.01, 0.01))
    return tmp_path / "spool"


@pytest.fixture
def call() -> Call:
    return prepare(DEBLUR, {"image": encoded(noise((96, 80)))})


def run(call: Call, settings: Settings, **options: Any) -> JobResult:
    return background.run(job.execute(call, settings, **options))


def former(call: Call) -> str:
    return str(call.identity("custom:loopback").former_key)


def journal(settings: Settings) -> Journal:
    return Journal(Store(settings.store))


def begun(call: Call, settings: Settings, **changes: Any) -> Entry:
    """An entry that a process of the former version has written, which is gone."""
    entry = Entry(**{"key": former(call), "tool": DEBLUR.name, "phase": "intent", "owner": "", **changes})
    journal(settings).put(entry)
    return entry


def submitted(bfl: FakeBfl, call: Call, settings: Settings) -> Entry:
    """A job that a process of the former version has paid for and not collected."""
    request = type("Request", (), {"headers": {}, "json": lambda _: call.body()})()
    answer = bfl._submit(DEBLUR.path, request)
    assert isinstance(answer.body, dict)
    return begun(call, settings, phase="submitted", id=answer.body["id"], polling_url=answer.body["polling_url"])


# -- the store that 68a6cf4 has written -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_migrated", [False, True], ids=["as it is", "migrated"])
def test_every_call_of_a_store_of_68a6cf4_is_a_hit_and_its_refusal_and_its_held_job_are_found(
    bfl_server: LocalServer, tmp_path: Path, is_migrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = itertools.count(step=int(journal_module.LEASE))
    monkeypatch.setattr(
        journal_module, "clock", lambda: next(minutes)
    )  # the owner, of an earlier version, wrote nothing more
    store = Store(str(shutil.copytree(golden_keys.PICTURES / "store", tmp_path / "old")))
    settings = Settings(endpoint=bfl_server.url, store=store.url)
    if is_migrated:
        migrate(store, is_dry=False)
    for entry in CALLS:
        call = golden_keys.prepared(entry)
        for result in (background.run(lookup(call, settings)), run(call, settings)):
            assert result is not None
            assert (result.outcome, result.image.digest) == (JobOutcome.CACHED, entry["digest"])
    image = golden_keys.PICTURES / "inputs" / "a.png"
    refused, held = (prepare(DEBLUR, {"image": image, "seed": seed}) for seed in (100, 99))
    for attempt in (lookup(refused, settings), job.execute(refused, settings)):
        with pytest.raises(Moderated, match="synthetic"):
            background.run(attempt)
    assert background.run(lookup(held, settings)) is None
    with pytest.raises(SubmissionUncertain, match="held"):
        run(held, settings)
    assert not [path for path in bfl_server.requests if path.startswith("POST")]
    assert [entry.seems_held for entry in Journal(store).entries()] == [True]


# -- jobs that were begun under a former key --------------------------------------------------------------------------


def test_a_job_that_was_submitted_under_the_former_key_is_collected_and_not_paid_again(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    entry = submitted(bfl, call, settings)
    result = run(call, settings)
    assert (result.outcome, result.job_id, bfl.jobs) == (JobOutcome.COLLECTED, entry.id, 1)
    assert journal(settings).entries() == []
    assert run(call, settings).outcome is JobOutcome.CACHED
    assert migrate(Store(settings.store), is_dry=False).moved.total() == 1
    assert run(call, settings).outcome is JobOutcome.CACHED
    assert bfl.jobs == 1


def test_a_job_of_the_former_key_that_moderation_refuses_is_not_tried_again(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    assert background.run(lookup(call, settings)) is None
    entry = submitted(bfl, call, settings)
    bfl.on("GET /v1/get_result", Answer(200, {"id": entry.id, "status": "Request Moderated"}))
    for attempt in (job.execute(call, settings), lookup(call, settings), job.execute(call, settings)):
        with pytest.raises(Moderated):
            background.run(attempt)
    assert bfl.jobs == 1
    assert journal(settings).entries() == []


def test_a_refresh_collects_what_was_begun_under_the_former_key(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    submitted(bfl, call, settings)
    assert run(call, settings, refresh=True).outcome is JobOutcome.COLLECTED
    assert bfl.jobs == 1


@pytest.mark.parametrize("decision", ["resubmit", "drop"])
def test_a_decision_about_a_held_job_of_the_former_key_holds(
    bfl: FakeBfl, settings: Settings, call: Call, decision: str
) -> None:
    begun(call, settings)
    with pytest.raises(SubmissionUncertain, match="held"):
        run(call, settings)
    [entry] = journal(settings).entries()
    journal(settings).put(replace(entry, decision=decision))  # type: ignore[arg-type]
    if decision == "drop":
        with pytest.raises(SubmissionUncertain, match="dropped"):
            run(call, settings)
    else:
        assert run(call, settings).outcome is JobOutcome.DONE
        assert run(call, settings).outcome is JobOutcome.CACHED
    assert bfl.jobs == (decision == "resubmit")


def test_a_result_that_comes_under_the_former_key_at_the_last_moment_is_not_paid_for_again(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody settles the job of the former key between the look into the store and the intent."""
    store, intend = Store(settings.store), Journal.intend

    def late(self: Journal, entry: Entry) -> bool:
        image = replace(store.put_image(encoded()), job_id="theirs", cost=3.0)
        store.put_result(former(call), image, {"job_id": "theirs"})
        return intend(self, entry)

    monkeypatch.setattr(Journal, "intend", late)
    result = run(call, settings)
    assert (result.outcome, result.job_id, bfl.jobs) == (JobOutcome.CACHED, "theirs", 0)
    assert journal(settings).entries() == []


def test_a_result_that_waits_in_the_spool_under_its_former_key_answers(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    store = Store(settings.store)
    entry = Entry(key=former(call), tool=DEBLUR.name, phase="submitted", id="theirs")
    Spool(store).put(entry, facts={"engine": "custom:loopback", "cost": 3.0}, data=encoded())
    assert run(call, settings).job_id == "theirs"
    assert bfl.jobs == 0
    assert store.result(former(call)) is not None
    assert Spool(store).keys() == []


def test_a_result_under_the_present_key_comes_first(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    store = Store(settings.store)
    for key, data in ((former(call), encoded()), (call.key("custom:loopback"), encoded(noise((64, 64))))):
        store.put_result(key, store.put_image(data), {})
    assert run(call, settings).image.width == 64


def test_a_refusal_of_the_former_key_takes_the_result_that_stands_for_it(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    store = Store(settings.store)
    store.put_record("refusals", former(call), {"stage": "content", "reasons": ["Violence"]})
    other = prepare(DEBLUR, {"image": encoded(noise((96, 80))), "seed": 5})
    run(other, settings)
    background.run(substitute(call, other, settings))
    found = background.run(lookup(call, settings))
    assert found is not None
    assert "another seed" in found.warnings[0]
    assert bfl.jobs == 1


def test_another_result_that_stands_for_a_refusal_is_another_generation_of_the_store(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    store = Store(settings.store)
    store.put_record("refusals", call.key("custom:loopback"), {"stage": "content", "reasons": ["Violence"]})
    found = []
    for seed in (5, 5, 6):
        other = prepare(DEBLUR, {"image": encoded(noise((96, 80))), "seed": seed})
        run(other, settings)
        background.run(substitute(call, other, settings))
        found.append(store.generation())
    assert found[0] == found[1] != found[2]


def test_a_refusal_and_a_result_are_recorded_with_what_identifies_their_calls(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    run(call, settings)
    refused = replace(call, variant=2)
    moderated = Answer(200, {"id": "job-2", "status": "Content Moderated", "details": {"Moderation Reasons": ["x"]}})
    bfl.on("GET /v1/get_result", moderated)
    with pytest.raises(Moderated):
        run(refused, settings)
    for kind, one in (("results", call), ("refusals", refused)):
        identity = one.identity("custom:loopback")
        record = Store(settings.store).record(kind, identity.key)
        assert record is not None
        assert Identity.of_record(record) == identity


def test_a_miss_looks_for_one_key_more(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(files, "read", lambda location, _read=files.read: (read.append(location), _read(location))[1])
    assert background.run(lookup(call, settings)) is None
    places = [os.path.relpath(place, settings.store) for place in read if place.startswith(settings.store)]
    keys = call.identity("custom:loopback").keys
    assert places == [*(f"results/{key}.json" for key in keys), f"copies/{keys[0]}.json", f"refusals/{keys[0]}.json"]
    run(call, settings)
    read.clear()
    assert background.run(lookup(call, settings)) is not None
    assert len(read) == 1, "a hit needs no second look"
