"""Damage to a store: every kind of record, flipped and cut, heals, is named or is held; nothing is paid in silence."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from fake_bfl import FakeBfl
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from pictures import encoded, noise
from scripted import Answer

from flux_tasks import background
from flux_tasks.errors import InvalidImage, Moderated, SubmissionUncertain
from flux_tasks.images import byte_cache
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.known import lookup
from flux_tasks.jobs.migration import migrate
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import DamagedRecord, Store

KEY = "a" * 64


@pytest.fixture
def settings(bfl: FakeBfl, tmp_path: Path) -> Settings:
    return Settings(endpoint=bfl.url, key="k", store=str(tmp_path / "store"), poll_interval=0.002)


def run(call: Call, settings: Settings) -> JobResult:
    return background.run(job.execute(call, settings))


def only(settings: Settings, kind: str) -> Path:
    [place] = Path(settings.store, kind).rglob("*.*")
    return place


DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b'{"checksum": "0", "a": ' + b"[" * 800 + b"]" * 800 + b"}"]
"""Nested beyond what can be read, or beyond what a checksum can be taken of."""


def damages(data: bytes, count: int = 12) -> list[bytes]:
    """Some of the ways to flip one bit of ``data`` or to cut it, always with the same choice; and no bytes at all."""
    choice = random.Random(len(data))
    places = sorted(choice.sample(range(len(data)), min(count, len(data))))
    flipped = [data[:at] + bytes([data[at] ^ 1 << choice.randrange(8)]) + data[at + 1 :] for at in places]
    return [b"", b"\0" * len(data), data[: len(data) // 2], data[:-1], *DEEP, *flipped]


# -- results ----------------------------------------------------------------------------------------------------------


def test_a_damaged_record_of_a_result_is_rebuilt_from_its_copy_and_said(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    first = run(call, settings)
    record = only(settings, "results")
    whole = record.read_bytes()
    for damaged in damages(whole):
        record.write_bytes(damaged)
        planned = background.run(lookup(call, settings))
        assert planned is not None
        assert record.read_bytes() == damaged, "a plan writes nothing"
        result = run(call, settings)
        assert (result.image.digest, result.outcome, result.cost) == (first.image.digest, "cached", first.cost)
        if result.warnings:  # one byte of white space more or less does no harm
            assert result.warnings == planned.warnings == (f"results/{record.name} is damaged; {TAKEN}",)
            assert record.read_bytes() == whole
    assert bfl.jobs == 1


TAKEN = "the result is taken from its copy"


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_file_in_the_place_of_a_record_is_damage_and_nothing_is_paid_again(
    bfl: FakeBfl, settings: Settings, call: Call, kind: str
) -> None:
    run(call, settings)
    for harmed in (["results"], ["results", "copies"]):
        for place in (only(settings, name) for name in harmed):
            if place.is_file():
                place.unlink()
                place.mkdir() if kind == "folder" else place.symlink_to("nowhere")
        planned = background.run(lookup(call, settings)) if len(harmed) == 1 else None
        if planned is not None:
            assert "results/" in planned.warnings[0]
        else:
            with pytest.raises(SubmissionUncertain, match="its job may be paid for"):
                run(call, settings)
    assert bfl.jobs == 1


def test_a_missing_record_of_a_result_is_rebuilt_from_its_copy(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    first = run(call, settings)
    record = only(settings, "results")
    record.unlink()
    again = run(call, settings)
    assert again.warnings == (f"results/{record.name} is missing; {TAKEN}",)
    assert (run(call, settings).warnings, again.image, bfl.jobs) == ((), first.image, 1)


def test_a_damaged_record_without_a_copy_holds_its_job_until_a_person_decides(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    run(call, settings)
    record, journal = only(settings, "results"), Journal(Store(settings.store))
    whole = record.read_bytes()
    only(settings, "copies").unlink()
    record.write_bytes(whole[:100])
    for _ in range(2):
        with pytest.raises(SubmissionUncertain, match=r"results/\w+\.json is damaged; its job may be paid for: put "):
            run(call, settings)
    [entry] = journal.entries()
    assert (entry.seems_held, entry.reason) == (True, f"results/{record.name} is damaged")
    record.write_bytes(whole)
    assert (run(call, settings).outcome, bfl.jobs) == ("cached", 1)
    record.write_bytes(b"")
    journal.put(replace(entry, decision="resubmit"))
    again = run(call, settings)
    assert (again.outcome, bfl.jobs) == ("done", 2)
    assert again.warnings == (f"submitted again: results/{record.name} is damaged",)
    assert journal.entries() == []


def test_a_lookup_that_may_not_write_holds_nothing_in_the_journal(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    run(call, settings)
    for kind in ("copies", "results"):
        only(settings, kind).write_bytes(b"{")
    with pytest.raises(SubmissionUncertain):
        background.run(lookup(call, settings))
    assert Journal(Store(settings.store)).entries() == []


def test_a_record_that_lies_under_another_key_is_not_that_keys_result(settings: Settings) -> None:
    store = Store(settings.store)
    store.put_result("b" * 64, store.put_image(encoded()), {})
    Path(store.location("results", f"{'b' * 64}.json")).rename(store.location("results", f"{KEY}.json"))
    with pytest.raises(DamagedRecord, match="results/aaaa"):
        store.read_result(KEY)
    assert store.result(KEY) is None


FIELDS = st.text().filter(lambda name: name != "checksum")


@given(st.dictionaries(FIELDS, st.none() | st.integers() | st.floats() | st.text() | st.lists(st.text()), max_size=5))
@trials(deadline=None, max_examples=60)
def test_whatever_a_record_holds_its_checksum_is_right(record: dict[str, object]) -> None:
    store = Store("memory://damage")
    store.put_record("runs", "one", record)
    found = store.record("runs", "one")
    assert repr(found) == repr(dict(sorted(record.items()))) or found == {**record}


@pytest.mark.parametrize("checksum", [None, "", "0" * 16])
def test_a_record_cannot_have_a_checksum_of_its_own(settings: Settings, checksum: object) -> None:
    with pytest.raises(ValueError, match="checksum"):
        Store(settings.store).put_record("runs", "one", {"checksum": checksum})
    assert Store(settings.store).record("runs", "one") is None


@pytest.mark.parametrize("content", DEEP)
@pytest.mark.parametrize("kind", ["results", "copies", "journal", "budgets", "prices", "begun", "refusals", "timings"])
def test_a_record_of_any_kind_that_is_nested_too_deeply_is_damaged(
    settings: Settings, kind: str, content: bytes
) -> None:
    place = Path(settings.store, kind, f"{KEY}.json")
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    with pytest.raises(ValueError, match=f"{kind}/{KEY}.json is damaged|Expecting"):
        Store(settings.store).record(kind, KEY)


# -- blobs ------------------------------------------------------------------------------------------------------------


def test_a_blob_of_the_right_size_and_wrong_bytes_is_named_and_replaced_by_the_right_ones(settings: Settings) -> None:
    data, store = encoded(noise((40, 30), seed=9)), Store(settings.store)
    image = store.put_image(data)
    blob = Path(image.uri)
    blob.write_bytes(data[:-9] + b"?" + data[-8:])
    byte_cache.shared._entries.clear()
    with pytest.raises(
        InvalidImage, match=rf"{image.digest}\.png: damaged: its bytes do not fit its name; put a whole"
    ):
        image.read()
    store.put_image(data)
    assert blob.read_bytes() == data


@pytest.mark.parametrize("size", [0, 100, None])
def test_a_blob_that_was_cut_or_removed_holds_its_job_and_names_the_file(
    bfl: FakeBfl, settings: Settings, call: Call, size: int | None
) -> None:
    first = run(call, settings)
    blob = Path(first.image.uri)
    blob.unlink() if size is None else blob.write_bytes(first.image.read()[:size])
    state = "missing" if size is None else "damaged"
    with pytest.raises(SubmissionUncertain, match=rf"blobs/\w\w/{blob.name}, is {state}"):
        run(call, settings)
    blob.write_bytes(first.image.read())
    assert (run(call, settings).outcome, bfl.jobs) == ("cached", 1)


# -- the other kinds --------------------------------------------------------------------------------------------------


def test_a_damaged_refusal_holds_the_job_and_asks_the_service_nothing(
    bfl: FakeBfl, settings: Settings, call: Call
) -> None:
    bfl.on("GET /v1/get_result", Answer(200, {"id": "job-1", "status": "Request Moderated"}))
    with pytest.raises(Moderated):
        run(call, settings)
    refusal = only(settings, "refusals")
    for damaged in damages(refusal.read_bytes()):
        refusal.write_bytes(damaged)
        with pytest.raises((Moderated, SubmissionUncertain)):
            run(call, settings)
    assert bfl.jobs == 1


def test_a_damaged_journal_entry_of_a_paid_job_is_collected_or_held(
    settings: Settings, bfl: FakeBfl, call: Call
) -> None:
    key, journal = call.key("custom:loopback"), Journal(Store(settings.store))
    entry = Entry(key, call.tool.name, "submitted", id="job-1", polling_url=f"{bfl.url}/v1/get_result?id=job-1")
    journal.put(replace(entry, at=0.0, begun=0.0))
    place = only(settings, "journal")
    for damaged in damages(place.read_bytes(), 40):
        place.write_bytes(damaged)
        found = journal.entry(key)
        assert found is not None
        assert found.seems_held or (found.id, found.polling_url) == ("job-1", entry.polling_url)
    assert bfl.jobs == 0


@pytest.mark.parametrize("is_full", [False, True])
def test_a_folder_in_the_place_of_a_record_is_replaced_if_it_is_empty_and_stops_no_run_otherwise(
    bfl: FakeBfl, settings: Settings, call: Call, is_full: bool
) -> None:
    run(call, settings)
    place = only(settings, "results")
    place.unlink()
    place.mkdir()
    if is_full:
        (place / "somebody's.txt").write_text("x")
    assert "is damaged" in run(call, settings).warnings[0]
    assert (place.is_file(), bfl.jobs) == (not is_full, 1)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_file_in_the_place_of_an_entry_is_held_listed_and_gone_once_a_person_has_decided(
    settings: Settings, bfl: FakeBfl, call: Call, kind: str
) -> None:
    journal = Journal(Store(settings.store))
    place = Path(settings.store, "journal", f"{call.key('custom:loopback')}.json")
    place.parent.mkdir(parents=True)
    place.mkdir() if kind == "folder" else place.symlink_to("nowhere")
    with pytest.raises(SubmissionUncertain):
        run(call, settings)
    [entry] = journal.unsettled()
    assert (entry.key, entry.seems_held, entry.age, bfl.jobs) == (place.stem, True, None, 0)
    assert journal.decide(entry, "resubmit")
    run(call, settings)
    run(call, settings)
    assert (bfl.jobs, [*place.parent.iterdir()]) == (1, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 5},
        {"polling_url": None},
        {"key": 1},
        {"tool": []},
        {"name": {}},
        {"cost": "x"},
        {"at": "now"},
        {"owner": 3},
    ],
)
def test_an_entry_with_a_value_of_another_type_counts_as_unreadable(
    settings: Settings, wrong: dict[str, object]
) -> None:
    store = Store(settings.store)
    journal = Journal(store)
    journal.put(Entry(KEY, "deblur-v1", "submitted", id="job-1"))
    store.put_record("journal", KEY, {**(store.record("journal", KEY) or {}), **wrong})
    found = journal.entry(KEY)
    assert found is not None
    assert (found.tool, found.seems_held, len(journal.entries())) == ("unknown", True, 1)


def test_a_migrated_result_has_a_copy_and_a_damaged_one_is_left_with_its_reason(settings: Settings) -> None:
    import shutil

    old = Path(__file__).parents[2] / "data" / "store_of_68a6cf4" / "store"
    shutil.copytree(old, settings.store)
    store = Store(settings.store)
    migrate(store, is_dry=False)
    names = store.records("copies")
    assert names
    Path(store.location("results", f"{names[0]}.json")).write_bytes(b"\0")
    assert migrate(store).left[names[0]]
    assert store.read_result(names[0], "copies") is not None
