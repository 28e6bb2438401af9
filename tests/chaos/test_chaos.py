"""Chaos, in short: kills at random moments, services and stores that fail; the long form is ``make chaos``.

What happens in a round and what is asked of it stands in ``driver`` and ``verdict``; nothing here depends on when
exactly a process dies.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import Commands, Zygote, prefect_database
from rounds import SECRET, Leg, Outcome, play
from schedule import FAULTS, denser
from stores import shelf

pytestmark = pytest.mark.early


def assert_nothing_is_wrong(outcome: Outcome) -> None:
    assert not outcome.wrong, "\n".join([f"{len(outcome.wrong)} things are wrong in {outcome.name}", *outcome.wrong])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_killed_at_random_moments_no_job_is_paid_for_twice_and_none_is_lost(
    zygote: Zygote, tmp_path: Path, processes: int
) -> None:
    leg = Leg("kills", processes=processes, kills=4 + 2 * processes, items=8)
    outcome = play(leg, f"short:{processes}", tmp_path, zygote)
    assert_nothing_is_wrong(outcome)
    assert outcome.counts["kills"]


def test_neither_does_a_store_that_fails_now_and_then_lose_or_repeat_anything(zygote: Zygote, tmp_path: Path) -> None:
    leg = Leg("kills", processes=2, kills=4, items=5, flaky=0.02, life=1.5, report=True)
    outcome = play(leg, "short:flaky", tmp_path, zygote)
    assert_nothing_is_wrong(outcome)


@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_neither_does_an_object_store_behind_a_proxy_that_cuts_and_delays_and_refuses(
    zygote: Zygote, tmp_path: Path, kind: str
) -> None:
    leg = Leg(kind, processes=2, kills=3, items=3, flaky=0.02, life=1.5, skew=7200.0)
    with shelf(kind, tmp_path / kind, f"short:{kind}") as place:
        outcome = play(leg, f"short:{kind}", tmp_path, zygote, place)
    assert_nothing_is_wrong(outcome)


def test_nor_do_two_machines_of_one_name_with_clocks_hours_apart_and_owners_that_are_stopped(
    zygote: Zygote, tmp_path: Path
) -> None:
    leg = Leg("local", processes=2, kills=4, items=5, skew=7200.0, machines=2, stops=0.3)
    outcome = play(leg, "short:disguised", tmp_path, zygote)
    assert_nothing_is_wrong(outcome)


def test_hundreds_of_faults_leave_every_item_with_the_outcome_that_they_imply(zygote: Zygote, tmp_path: Path) -> None:
    leg = Leg("faults", kills=0, items=40, faults=denser(FAULTS, 4), max_jobs=16)
    outcome = play(leg, "short:faults", tmp_path, zygote)
    assert_nothing_is_wrong(outcome)
    assert outcome.counts["faults"] > 100


def test_the_command_line_with_prefect_is_killed_and_pays_for_nothing_twice(
    prefect_server: str, tmp_path: Path
) -> None:
    leg = Leg("prefect", processes=1, kills=2, items=3, life=2.0, patience=240)
    outcome = play(leg, "short:prefect", tmp_path, Commands(prefect_server))
    assert_nothing_is_wrong(outcome)
    database = prefect_database().parent
    files = [path for path in database.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()], "the database holds the API key"
