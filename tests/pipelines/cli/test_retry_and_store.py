"""After a run: `store held` with its decisions, and `retry` for the items that did not end well."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_bfl import FakeBfl
from object_stores import rclone_s3, reach_s3
from pictures import noise
from scripted import Answer, Request

from flux_tasks import files
from flux_tasks.store import journal
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store
from pipelines.cli.commands.store import jobs as store_jobs

OUTPUT = 'output: {{path: "{folder}/out/{{{{ stem }}}}.png"}}\n'


def entries(folder: Path) -> list[Any]:
    return Journal(Store(str(folder / "store"))).entries()


def perform(here_cli: Any, bfl: FakeBfl, folder: Path) -> Any:
    return here_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--no-report", key="right-key")


def retry(here_cli: Any, bfl: FakeBfl, *arguments: str) -> Any:
    return here_cli("retry", "last", *arguments, "--endpoint", bfl.url, "--no-report", key="right-key")


def cut_the_first(bfl: FakeBfl, count: int = 1) -> None:
    """The first submissions are charged, but their answers never come."""
    accept = bfl._submit
    left = [count]

    def submit(path: str, request: Request) -> Answer:
        answer = accept(path, request)
        if left[0]:
            left[0] -= 1
            answer.cut = 0
        return answer

    bfl._submit = submit  # type: ignore[method-assign]


def test_where_there_is_no_store_every_command_on_it_says_so(here_cli: Any, folder: Path) -> None:
    told = f"there is no store at {folder / 'store'} yet; --store or FLUX_STORE names another one"
    for command in (("held",), ("held", "--json"), ("migrate",), ("explain", "0" * 12)):
        assert told in here_cli("store", *command).stderr
    assert json.loads(here_cli("store", "held", "--json").stdout) == []
    assert "; there is no store there yet" in here_cli("retry", "last", key="right-key").stderr
    assert not (folder / "store").exists()
    files.write(folder / "store" / "runs" / "x" / "run.json", b"{}")
    assert told not in here_cli("store", "held").stderr


def test_held_jobs_are_listed_with_age_and_price(here_cli: Any, bfl: FakeBfl, folder: Path) -> None:
    assert here_cli("store", "held").stdout == "no job is held\n"
    cut_the_first(bfl, 2)
    done = perform(here_cli, bfl, folder)
    assert done.returncode == 1
    assert "2 held" in done.stdout
    shown = here_cli("store", "held")
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["key", "tool", "image", "age", "credits"]
    assert {line.split()[2] for line in lines[1:3]} == {"p0", "p1"}
    assert all("deblur-v1" in line and line.endswith("unknown") for line in lines[1:3])
    assert "each may have been charged" in shown.stdout
    listed = json.loads(here_cli("store", "held", "--json").stdout)
    assert {entry["key"] for entry in listed} == {entry.key for entry in entries(folder)}
    assert all(entry["age"] >= 0 and entry["phase"] == "intent" for entry in listed)
    assert perform(here_cli, bfl, folder).returncode == 1
    assert bfl.jobs == 2, "a held job is never submitted again by itself"


def test_a_person_settles_held_jobs_one_by_one(here_cli: Any, bfl: FakeBfl, folder: Path) -> None:
    cut_the_first(bfl, 2)
    perform(here_cli, bfl, folder)
    first, second = sorted(entry.key for entry in entries(folder))
    settled = here_cli("store", "held", "--resubmit", first[:12], "--drop", second)
    assert settled.returncode == 0
    assert "the next run submits it again" in settled.stdout
    assert "left out from now on" in settled.stdout
    assert settled.stdout.endswith("no job is held\n")
    done = perform(here_cli, bfl, folder)
    assert done.returncode == 1
    assert "1 done, 1 held" in done.stdout
    assert "dropped by a person" in done.stdout
    assert bfl.jobs == 4, "two that were cut, one made again, its second step"
    assert here_cli("store", "held", "--resubmit", "nothing").returncode == 2


FAR = "far-away:7 another-boot/pid:[1] 0123456789abcdef"


def test_what_a_dead_machine_left_of_a_finished_job_is_not_held_and_goes_with_a_run_that_outlasts_its_lease(
    here_cli: Any, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform(here_cli, bfl, folder)
    store = Store(str(folder / "store"))
    left = Entry(store.records("results")[0], "deblur-v1", "intent", owner=FAR, at=time.time() - 3600)
    Journal(store).put(left)
    assert here_cli("store", "held").stdout == "no job is held\n"
    assert perform(here_cli, bfl, folder).returncode == 0
    assert entries(folder) == [left], "a short run cannot know that its owner is dead"
    noise((96, 80)).save(folder / "photos" / "p2.png")
    mask = (folder / "masks" / "p0.png").read_bytes()
    (folder / "masks" / "p2.png").write_bytes(mask)
    jobs = bfl.jobs
    monkeypatch.setattr(journal, "clock", lambda: time.monotonic() + (bfl.jobs - jobs) * journal.LEASE)
    assert perform(here_cli, bfl, folder).returncode == 0
    assert entries(folder) == []


@pytest.mark.parametrize("option", ["--resubmit", "--drop"])
@pytest.mark.parametrize("is_submitted", [False, True])
def test_a_job_whose_owner_writes_between_two_looks_is_left_to_it(
    here_cli: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, option: str, is_submitted: bool
) -> None:
    """Its owner's clock is an hour behind, so that its job looks held."""
    journal = Journal(Store(str(folder / "store")))
    theirs = Entry("k" * 64, "deblur-v1", "intent", owner=FAR, at=time.time() - 3600)
    journal.put(theirs)
    written = theirs.with_id("job-1", polling_url="", cost=3.0) if is_submitted else theirs.now()
    pauses: list[float] = []

    def meanwhile(seconds: float) -> None:
        pauses.append(seconds)
        journal.put(written)

    monkeypatch.setattr(store_jobs, "time", SimpleNamespace(sleep=meanwhile))
    done = here_cli("store", "held", option, "kkkk")
    assert "nothing decided: far-away:7 is at work on it" in done.stdout
    assert "looking again in 5 s" in done.stderr
    assert pauses == [5.0]
    assert entries(folder) == [written]
    assert entries(folder)[0].decision == ""


@pytest.mark.parametrize(("ahead", "count"), [(-61, 1), (0, 0), (59, 0), (7200, 1)])
def test_a_job_of_another_machine_is_listed_unless_it_seems_to_be_submitted_right_now(
    here_cli: Any, folder: Path, ahead: float, count: int
) -> None:
    theirs = Entry("k" * 64, "deblur-v1", "intent", owner=FAR, at=time.time() + ahead)
    Journal(Store(str(folder / "store"))).put(theirs)
    assert len(json.loads(here_cli("store", "held", "--json").stdout)) == count


def test_a_run_on_a_server_that_ignores_conditions_says_alone_or_stops_before_it_pays(
    here_cli: Any, bfl: FakeBfl, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "buckets" / "ours").mkdir(parents=True)
    arguments = ("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--no-report", "--store", "s3://ours/store")
    with rclone_s3(tmp_path / "buckets", "throw-away", "throw-away") as endpoint, reach_s3(endpoint):
        refused = here_cli(*arguments, key="right-key")
        assert refused.returncode == 3
        assert "cannot keep several processes apart" in refused.stdout + refused.stderr
        assert "--alone" in refused.stdout + refused.stderr
        assert bfl.jobs == 0
        assert here_cli(*arguments, "--alone", key="right-key").returncode == 0
        paid = bfl.jobs
        assert paid > 0
        assert here_cli(*arguments, key="right-key").returncode == 0, "what is settled needs no such store"
        assert bfl.jobs == paid


def test_failed_items_alone_are_tried_again(here_cli: Any, bfl: FakeBfl, folder: Path) -> None:
    bfl.on("GET /v1/get_result", *([Answer(200, {"id": "x", "status": "Error", "details": {"error": "oops"}})] * 1))
    assert perform(here_cli, bfl, folder).returncode == 1
    del bfl._scripts["GET /v1/get_result"]
    (folder / "photos" / "p9.png").write_bytes((folder / "photos" / "p0.png").read_bytes())
    done = retry(here_cli, bfl)
    assert done.returncode == 0
    assert "2 of 2 items" in done.stdout, "the new photo is no item of that run"
    again = retry(here_cli, bfl)
    assert "no item ended failed" in again.stdout
    assert again.returncode == 0


def test_several_keys_may_stand_after_one_option(here_cli: Any, bfl: FakeBfl, folder: Path) -> None:
    cut_the_first(bfl, 2)
    perform(here_cli, bfl, folder)
    first, second = (entry.key for entry in entries(folder))
    settled = here_cli("store", "held", "--drop", first, second[:20])
    assert (settled.returncode, settled.stdout.count("left out from now on")) == (0, 2)
    assert settled.stdout.endswith("no job is held\n")


def test_a_run_on_the_local_engine_is_retried_without_a_key(here_cli: Any, folder: Path) -> None:
    (folder / "photos" / "p0.png").write_bytes(b"not an image")
    assert here_cli("run", str(folder / "recipe.yaml"), "--endpoint", "local", "--no-report").returncode == 1
    done = here_cli("retry", "last", "--only", "invalid", "--no-report")
    assert "invalid" in done.stdout
    assert ": clean: runs 1 item again\n" in done.stdout, "the run and its recipe are named"
    assert (done.returncode, "no key" in done.stderr) == (1, False)


def moderate(bfl: FakeBfl) -> None:
    refusal = {"id": "x", "status": "Content Moderated", "details": {"Moderation Reasons": ["Violence"]}}
    bfl.on("GET /v1/get_result", Answer(200, refusal))


def test_moderated_items_are_tried_again_only_when_asked_for(here_cli: Any, bfl: FakeBfl, folder: Path) -> None:
    moderate(bfl)
    done = perform(here_cli, bfl, folder)
    assert "2 moderated" in done.stdout
    assert "(Violence)" in done.stdout
    del bfl._scripts["GET /v1/get_result"]
    done = perform(here_cli, bfl, folder)
    assert "2 moderated" in done.stdout
    assert "not tried again unless asked for" in done.stdout
    assert bfl.jobs == 2
    assert "no item ended failed" in retry(here_cli, bfl).stdout
    done = retry(here_cli, bfl, "--only", "failed,moderated")
    assert done.returncode == 0, done.stdout
    assert bfl.jobs == 6


def test_another_seed_is_another_job(here_cli: Any, bfl: FakeBfl, folder: Path) -> None:
    moderate(bfl)
    perform(here_cli, bfl, folder)
    del bfl._scripts["GET /v1/get_result"]
    done = retry(here_cli, bfl, "--only", "moderated", "--seed", "5")
    assert done.returncode == 0
    assert [body.get("seed") for body in bfl.bodies] == [None, None, 5, 5, 5, 5]


def test_what_was_made_with_another_seed_stands_for_what_was_refused(here_cli: Any, bfl: FakeBfl, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(
        (folder / "recipe.yaml").read_text().split("  - erase")[0] + OUTPUT.format(folder=folder)
    )
    moderate(bfl)
    perform(here_cli, bfl, folder)
    del bfl._scripts["GET /v1/get_result"]
    retry(here_cli, bfl, "--only", "moderated", "--seed", "5")
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, bfl.jobs) == (0, 4)
    assert "2 cached" in done.stdout
    rows = [json.loads(line) for line in newest_manifest(folder).read_text().splitlines()]
    assert all("another seed" in row["steps"][0]["warnings"][0] for row in rows)


def test_held_items_are_submitted_anew_by_retry(here_cli: Any, bfl: FakeBfl, folder: Path) -> None:
    cut_the_first(bfl, 2)
    perform(here_cli, bfl, folder)
    done = retry(here_cli, bfl, "--only", "held")
    assert done.returncode == 0
    assert bfl.jobs == 6
    assert entries(folder) == []
    rows = [json.loads(line) for line in newest_manifest(folder).read_text().splitlines()]
    assert all("submitted again" in row["steps"][0]["warnings"][0] for row in rows)


def newest_manifest(folder: Path) -> Path:
    return sorted((folder / "store" / "runs").glob("*/manifest.jsonl"))[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry", "nothing"], "has no run 'nothing'"),
        (["retry", "last"], "has no run 'last'"),
        (["retry", "last", "--only", "cached"], "'cached' is not a list of failed, moderated, held, invalid"),
    ],
)
def test_what_cannot_be_retried_is_said(here_cli: Any, arguments: list[str], says: str) -> None:
    done = here_cli(*arguments, "--endpoint", "local")
    assert done.returncode == 2
    assert says in done.stderr


def test_retry_on_an_empty_store_says_that_no_run_is_there_before_it_asks_for_a_key(
    here_cli: Any, folder: Path
) -> None:
    done = here_cli("retry", "last")
    assert done.returncode == 2
    assert f"{folder}/store has no run 'last'; there is no store there yet" in done.stderr
    assert "key" not in done.stderr


@pytest.mark.parametrize(
    ("command", "store"),
    [
        ("run RECIPE", "FOLDER/a-file/store"),
        ("run RECIPE", "nobody-knows://store"),
        ("plan RECIPE", "nobody-knows://store"),
        ("retry last", "nobody-knows://store"),
        ("store held", "nobody-knows://store"),
        ("store migrate", "nobody-knows://store"),
    ],
)
def test_a_store_that_cannot_be_used_is_an_error_that_says_how_to_name_another_one(
    here_cli: Any, folder: Path, command: str, store: str
) -> None:
    (folder / "a-file").write_text("no folder")
    words = command.replace("RECIPE", str(folder / "recipe.yaml")).split()
    done = here_cli(*words, "--store", store.replace("FOLDER", str(folder)), key="k")
    assert done.returncode == 3
    assert "; --store or FLUX_STORE names another one" in done.stderr
