"""Stores of September 2026 get the keys of today, and lose nothing on the way."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden_keys
import pytest
from forked import Forked

from flux_tasks.jobs.identity import Identity
from flux_tasks.jobs.migration import Migration, migrate
from flux_tasks.store.records import Store

ENGINE = "local:classical@1"
CALLS = json.loads((golden_keys.PICTURES / "calls.json").read_text())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that 68a6cf4 has written."""
    return Store(str(shutil.copytree(golden_keys.PICTURES / "store", tmp_path / "store")))


def contents(store: Store) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(store.url).rglob("*") if path.is_file()}


def test_a_dry_run_counts_what_would_be_done_and_changes_nothing(store: Store) -> None:
    before = contents(store)
    found = migrate(store)
    assert found.moved.total() == len(store.records("results")) == 28
    assert found.moved["outpainting-v1"] == 6
    assert (found.present, found.free, found.left) == (0, 0, {})
    assert (found.refusals, found.unsettled) == (1, 1)
    assert contents(store) == before


def test_every_call_is_answered_under_its_present_key_and_no_former_record_is_left(store: Store) -> None:
    migrate(store, is_dry=False)
    for entry in CALLS:
        identity = golden_keys.prepared(entry).identity(ENGINE)
        record = store.result(identity.key)
        assert record is not None
        assert record["image"].digest == entry["digest"]
        assert Identity.of_record(record) == replace(identity, parameters=record["parameters"])
        assert record["variant"] == entry["variant"]
        assert store.record("results", entry["key"]) is None
    assert migrate(store) == Migration(present=28, refusals=1, unsettled=1)


def test_what_cannot_be_verified_is_left_and_named(store: Store) -> None:
    names = store.records("results")
    records: dict[str, dict[str, Any]] = {name: store.record("results", name) or {} for name in names[:4]}
    store.put_record("results", names[0], {**records[names[0]], "tool": "flux-0"})
    store.put_record("results", names[1], {**records[names[1]], "inputs": {}})
    store.put_record("results", names[2], {"image": records[names[2]]["image"]})
    Path(store.location("results", f"{names[3]}.json")).write_text("{")
    store.put_record("results", "1" * 64, {**records[names[0]], "tool": None, "operation": {"operation": "resize"}})
    before = contents(store)
    found = migrate(store, is_dry=False)
    assert (found.moved.total(), found.free, set(found.left)) == (24, 1, set(names[:4]))
    assert "does not follow" in found.left[names[1]]
    assert "does not say" in found.left[names[0]]
    after = contents(store)
    for name in (*names[:4], "1" * 64):
        place = store.location("results", f"{name}.json")
        assert after[place] == before[place]


def test_a_later_result_under_the_present_key_stays_and_so_does_the_former_one(store: Store) -> None:
    identity = golden_keys.prepared(CALLS[0]).identity(ENGINE)
    record = store.record("results", CALLS[0]["key"])
    assert record is not None
    store.put_record(
        "results", identity.key, {**record, **identity.to_record(), "key": identity.key, "job_id": "later"}
    )
    found = migrate(store, is_dry=False)
    assert list(found.left) == [CALLS[0]["key"]]
    later = store.result(identity.key)
    assert later is not None
    assert later["job_id"] == "later"


def test_a_refusal_follows_the_result_that_stands_for_it(store: Store) -> None:
    [refused] = store.records("refusals")
    store.put_record("refusals", refused, {**(store.record("refusals", refused) or {}), "instead": CALLS[0]["key"]})
    migrate(store, is_dry=False)
    refusal = store.record("refusals", refused)
    assert refusal is not None
    assert store.result(refusal["instead"]) is not None


def test_nothing_is_lost_when_it_is_killed_again_and_again(store: Store) -> None:
    record = store.record("results", CALLS[0]["key"])
    assert record is not None
    plain = golden_keys.prepared(CALLS[0]).identity(ENGINE)
    identities = [replace(plain, parameters={"seed": seed}, variant=seed % 3) for seed in range(400)]
    for identity in identities:
        parameters = dict(identity.parameters)
        key = str(identity.former_key)
        store.put_record("results", key, {**record, "key": key, "parameters": parameters})
    script = (
        "import sys; from flux_tasks.jobs.migration import migrate; from flux_tasks.store.records import Store\n"
        "print('begins', flush=True); migrate(Store(sys.argv[1]), is_dry=False)"
    )
    chance = random.Random(5)
    kills = 0
    while True:
        with Forked([sys.executable, "-c", script, store.url], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if kills < 8:
                time.sleep(chance.uniform(0, 0.15))
                process.kill()
        kills += process.returncode != 0
        for identity in identities:
            assert [key for key in identity.keys if store.result(key)], "a result has no record"
        if process.returncode == 0:
            break
    assert kills > 0
    assert migrate(store) == Migration(present=428, refusals=1, unsettled=1)
