"""How long jobs take: what is learned, shared and believed."""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from hypothesis import given
from hypothesis import strategies as st

from flux_tasks.api.polling import Watch
from flux_tasks.store.durations import Duration, Durations, size_class
from flux_tasks.store.records import Store

TOOL, SIZE = "deblur-v1", "1 MP"


def learned(store: Store, *seconds: float, engine: str = "bfl", size: str = SIZE) -> Durations:
    found = Durations(store, engine)
    found.load(TOOL)
    for one in seconds:
        found.add(TOOL, size, one * 0.999, one * 1.001)
    asyncio.run(found.save())
    return found


def read(store: Store, size: str | None = SIZE, engine: str = "bfl") -> Duration | None:
    found = Durations(store, engine)
    found.load(TOOL)
    return found.of(TOOL, size)


def seconds_of(store: Store, size: str | None = SIZE, engine: str = "bfl") -> float | None:
    found = read(store, size, engine)
    return None if found is None else round(found.seconds, 2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_a_later_process_knows_what_was_learned(store: Store) -> None:
    assert read(store) is None
    learned(store, 4.0, 4.0, 4.0)
    assert seconds_of(store) == 4.0


def test_engines_and_size_classes_have_durations_of_their_own(store: Store) -> None:
    learned(store, 4.0)
    learned(store, 9.0, size="4 MP")
    learned(store, 1.0, engine="local:classical@1")
    assert (seconds_of(store), seconds_of(store, "4 MP"), seconds_of(store, engine="local:classical@1")) == (
        4.0,
        9.0,
        1.0,
    )
    assert seconds_of(store, "16 MP") == seconds_of(store, None) == 6.0  # of all sizes: their middle, by ratios


def test_size_classes_are_powers_of_two_apart_and_prices_are_told_apart() -> None:
    classes = [size_class("", (side, side)) for side in (256, 512, 1000, 1024, 1100, 2048)]
    assert classes == ["0.0625 MP", "0.25 MP", "1 MP", "1 MP", "1 MP", "4 MP"]
    assert size_class("fast", (1024, 1024)) == "fast 1 MP"
    assert size_class("", None) == "?"
    assert size_class("", (0, 0)) == size_class("", (1, 1))


def test_a_few_jobs_that_had_to_wait_change_little(store: Store) -> None:
    randomness = random.Random(1)
    plain = [randomness.gauss(5, 0.75) for _ in range(60)]
    learned(store, *plain, 60.0, 90.0, 120.0)
    found = read(store)
    assert found is not None
    assert found.seconds == pytest.approx(5, rel=0.1)
    assert found.spread < 0.25


def test_a_service_that_has_become_faster_is_noticed_though_its_jobs_have_always_ended_before_they_are_polled(
    store: Store,
) -> None:
    found = learned(store, *[10.0] * 128)
    for _ in range(400):
        known = found.of(TOOL, SIZE)
        assert known is not None
        first = known.seconds * math.exp(-known.spread)
        found.add(TOOL, SIZE, 0.0, max(first, 1.0)) if first > 1.0 else found.add(TOOL, SIZE, 0.99, 1.01)
    known = found.of(TOOL, SIZE)
    assert known is not None
    assert known.seconds < 2.0


def test_a_record_stays_small_however_many_jobs_were_seen(store: Store) -> None:
    for engine in range(10):
        found = Durations(store, f"custom:{engine}")
        found.load(TOOL)
        for size in range(10):
            for _ in range(3 if size else 200):
                found.add(TOOL, f"{size} MP", 1.0, 1.1)
        asyncio.run(found.save())
    record = store.record("timings", TOOL) or {}
    rows = [row for classes in record.values() for row in classes.values()]
    assert len(rows) <= 64
    assert max(map(len, rows)) == 128
    assert "custom:9" in record


def test_processes_that_write_at_the_same_time_add_to_each_other(store: Store) -> None:
    program = """
import asyncio, sys
from flux_tasks.store.durations import Durations
from flux_tasks.store.records import Store
found = Durations(Store(sys.argv[1]), "bfl")
found.load("deblur-v1")
for n in range(20):
    found.add("deblur-v1", sys.argv[2], 3.0, 3.0)
    asyncio.run(found.save())
"""
    writers = [Forked([sys.executable, "-c", program, store.url, f"{n} MP"]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    row = (store.record("timings", TOOL) or {})["bfl"]
    assert set(row) == {f"{n} MP" for n in range(3)}
    assert min(map(len, row.values())) >= 15, "only what two have written in one moment, and nobody after them, is lost"


def test_a_write_that_goes_lost_is_made_good_by_the_next(store: Store) -> None:
    one = learned(store, 3.0, 3.0)
    store.put_record("timings", TOOL, {})  # another process, at the same moment
    one.add(TOOL, SIZE, 3.0, 3.0)
    asyncio.run(one.save())
    assert len((store.record("timings", TOOL) or {})["bfl"][SIZE]) == 3


_alien = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def is_duration(value: Any) -> bool:
    """Check whether there is a time and a duration in ``value``."""
    if isinstance(value, dict):
        return any(map(is_duration, value.values()))
    is_pair = isinstance(value, list) and len(value) == 2 and all(isinstance(part, (int, float)) for part in value)
    return is_pair or (isinstance(value, list) and any(map(is_duration, value)))


@given(
    _alien.filter(lambda value: not is_duration(value)),
    st.sampled_from([0, 5e-324, 1e-12, 0.0009, -3.0, math.nan, math.inf, 365 * 86_400.0, 10**400, "4", None, [4.0]]),
)
def test_what_is_not_a_duration_is_passed_over(alien: Any, absurd: Any) -> None:
    store = Store(f"memory://durations-{random.random()}")
    now = time.time()
    record = {
        "bfl": {SIZE: [[now, absurd], [absurd, 4.0], alien, [now - 9, 4.0], [now + 1e9, 4.0]], "x": alien},
        "y": alien,
        "seconds": 8.0,
    }
    store.put_record("timings", TOOL, record)
    found = read(store)
    assert found is not None
    assert found.seconds == pytest.approx(4.0)
    learned(store, 5.0)
    assert {one for _, one in (store.record("timings", TOOL) or {})["bfl"][SIZE]} == {4.0, 5.0}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"bfl": {"1 MP": [[1, 2]]}, "checksum": "0"}', b"\xff"])
def test_a_damaged_record_is_replaced(store: Store, content: bytes) -> None:
    file = Path(store.url, "timings", f"{TOOL}.json")
    file.parent.mkdir()
    file.write_bytes(content)
    assert read(store) is None
    learned(store, 4.0)
    assert seconds_of(store) == 4.0


def test_a_store_that_cannot_be_written_costs_nothing_but_what_was_learned(store: Store) -> None:
    Path(store.url, "timings").write_text("no folder")
    found = learned(store, 4.0)
    assert found.of(TOOL, SIZE) is not None
    Path(store.url, "timings").unlink()
    asyncio.run(found.save())
    assert seconds_of(store) == 4.0


@given(st.floats(), st.floats())
def test_nothing_absurd_is_learned(running: float, ended: float) -> None:
    found = Durations(Store("memory://nothing"), "bfl")
    found.add(TOOL, SIZE, running, ended)
    known = found.of(TOOL, SIZE)
    assert known is None or (0.000_999 < known.seconds <= 86_401 and math.isfinite(known.spread))


@given(st.floats(60, 3_500), st.integers(1, 300))
def test_durations_from_a_clock_that_is_ahead_do_not_push_out_those_of_this_process(ahead: float, own: int) -> None:
    store = Store(f"memory://ahead-{random.random()}")
    now = time.time()
    store.put_record("timings", TOOL, {"bfl": {SIZE: [[now + ahead + n / 1e4, 86_400.0] for n in range(128)]}})
    learned(store, *[1.0] * own)
    assert seconds_of(store) == 1.0


def test_a_process_whose_clock_is_set_back_goes_on_learning(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    found = learned(store, *[9.0] * 128)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now - 1_800)
    for _ in range(128):
        found.add(TOOL, SIZE, 0.999, 1.001)
    asyncio.run(found.save())
    assert (seconds_of(store), found.of(TOOL, SIZE)) == (1.0, read(store))


@given(st.floats(5e-324, 1e300), st.floats(5e-324, 1e300), st.floats(0, 1e9), st.floats(0, 1e300))
def test_when_to_poll_can_be_said_of_any_duration(seconds: float, spread: float, age: float, trip: float) -> None:
    watch = Watch(lambda: Duration(seconds, spread), begun=time.monotonic() - age)
    for _ in range(2):
        assert 0 <= watch.next_poll(trip) <= 30
        assert 0 <= watch.chance_ended() <= 1
        watch.note_poll()
        watch.note_running()
