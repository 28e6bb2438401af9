"""``status``, ``jobs``, ``history`` and ``collect``: what any process sees of the runs on a store."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cases import Cases
from command_line import Here
from fake_bfl import FakeBfl
from scripted import Answer
from waiting import wait_until

from flux_tasks.files import access
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.owner import this_process
from flux_tasks.store.records import Store
from pipelines import Recipe
from pipelines.run import state


@pytest.fixture
def store(folder: Path) -> Store:
    return Store(str(folder / "store"))


def perform(here_cli: Here, bfl: FakeBfl, folder: Path) -> Any:
    return here_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--no-report", key="right-key")


def told(here_cli: Here, *arguments: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(here_cli(*arguments, "--json").stdout)


@contextmanager
def going_on(bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run whose jobs have not ended; they end with the block."""
    monkeypatch.setattr(state, "INTERVAL", 0.02)
    bfl.hold = True
    recipe = Recipe.load(folder / "recipe.yaml")
    given: Any = {"endpoint": bfl.url, "key": "right-key", "store": str(folder / "store"), "prefect": "off"}
    run = threading.Thread(target=lambda: recipe.run(**given))
    run.start()
    try:
        wait_until(lambda: bfl.jobs == 2)
        yield
    finally:
        bfl.hold = False
        run.join()


def dead_owner() -> str:
    """A process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    host, _, rest = this_process().partition(":")
    return f"{host}:{child.pid} {rest.split(' ', 2)[1]} word"


def test_a_run_is_seen_from_elsewhere_while_it_goes_on_and_after_its_end(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with going_on(bfl, folder, monkeypatch):
        wait_until(lambda: told(here_cli, "status")["running"][0]["in_flight"] == 2, pause=0.2)
        [run] = told(here_cli, "status")["running"]
        assert (run["state"], run["recipe"], run["total"], run["items"]) == ("running", "clean", 2, 0)
        assert f"{run['run_id']}  clean   running  0 of 2" in here_cli("status").stdout
        assert "0 of 2" in here_cli("status", "last").stdout
        wait_until(lambda: {job["state"] for job in told(here_cli, "jobs")} == {"running"}, pause=0.2)
        jobs = sorted(told(here_cli, "jobs"), key=lambda job: str(job["item"]))
        assert [(job["item"], job["tool"], job["credits"]) for job in jobs] == [
            ("p0", "deblur-v1", 3.0),
            ("p1", "deblur-v1", 3.0),
        ]
        assert {job["id"] for job in jobs} == {"job-1", "job-2"}
        assert "job-2" in here_cli("jobs").stdout
        wait_until(
            lambda: "of account (2 by jobs)" in here_cli("doctor", "--endpoint", bfl.url, key="right-key").stdout,
            pause=0.5,
        )
    found = told(here_cli, "status")
    assert found["running"] == []
    assert [(one["run_id"], one["state"], one["counts"]) for one in found["ended"]] == [
        (run["run_id"], "fine", {"done": 2})
    ]
    assert found["ended"][0]["credits"] == 12.0
    assert here_cli("jobs").stdout == "no job is in flight\n"


def test_a_run_that_was_killed_is_told_from_one_that_goes_on_and_one_of_a_machine_that_is_silent(
    here_cli: Here, bfl: FakeBfl, folder: Path, store: Store
) -> None:
    perform(here_cli, bfl, folder)
    [run_id] = [path.name for path in (folder / "store" / "runs").iterdir()]
    record = store.record(f"runs/{run_id}", "state") or {}
    store.put_record("begun/x", run_id, {})

    def seen(owner: str, updated: str) -> Any:
        store.put_record(f"runs/{run_id}", "state", {**record, "state": "running", "owner": owner, "updated": updated})
        return told(here_cli, "status")["running"][0]["state"]

    assert seen(this_process(), "2020-01-01T00:00:00Z") == "running"
    assert seen("far:1 another-machine word", "2020-01-01T00:00:00Z") == "silent"
    assert seen("far:1 another-machine word", record["updated"]) == "running"
    assert seen(dead_owner(), record["updated"]) == "killed"
    assert "was killed: run the recipe again, which collects what was paid for" in here_cli("status").stdout
    store.remove_record("begun/x", run_id)  # the next run of the recipe has seen to it
    assert told(here_cli, "status")["running"] == []


def test_history_lists_runs_with_their_ends_also_those_of_an_earlier_version(
    here_cli: Here, bfl: FakeBfl, folder: Path, store: Store
) -> None:
    perform(here_cli, bfl, folder)
    perform(here_cli, bfl, folder)
    first, second = told(here_cli, "history")
    assert (first["counts"], first["credits"]) == ({"done": 2}, 12.0)
    assert (second["counts"], second["credits"]) == ({"cached": 2}, 0.0)
    assert "2 runs, 4 items, 12 credits" in here_cli("history").stdout
    store.remove_record(f"runs/{first['run_id']}", "state")
    (folder / "store" / "runs" / second["run_id"] / "state.json").write_text("{")
    for one, before in zip(told(here_cli, "history"), (first, second), strict=True):
        assert {name: one[name] for name in ("counts", "credits", "recipe", "started", "state")} == {
            name: before[name] for name in ("counts", "credits", "recipe", "started", "state")
        }


def test_damaged_records_of_runs_are_named(here_cli: Here, bfl: FakeBfl, folder: Path) -> None:
    perform(here_cli, bfl, folder)
    [run] = (folder / "store" / "runs").iterdir()
    (run / "state.json").write_text("{")
    for command in ("status", "history"):
        done = here_cli(command)
        assert done.returncode == 0
        assert f"{run}/state.json is damaged" in done.stderr
        assert run.name in done.stdout, "its manifest is whole"
    (run / "run.json").write_text("{")
    for command in ("status", "history"):
        done = here_cli(command)
        assert done.returncode != 0
        assert f"{run}/state.json is damaged" in done.stderr
        assert "no run" not in done.stdout
    assert (
        f"what run {run.name} in {folder / 'store'} has noted cannot be read: {run}/state.json is damaged"
        in here_cli("status", "last").stderr
    )
    told = here_cli("retry", "last").stderr
    assert f"{run}/run.json is missing or damaged: run the recipe itself again" in told
    (run / "state.json").unlink()
    assert f"{run}/run.json is damaged" in here_cli("history").stderr


def test_a_record_that_cannot_be_a_record_is_named_and_the_other_runs_are_shown(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    perform(here_cli, bfl, folder)
    perform(here_cli, bfl, folder)
    runs = folder / "store" / "runs"
    harmed, other = sorted(run.name for run in runs.iterdir())
    read = access.read

    def refuse(location: str, **options: Any) -> bytes:
        if f"{harmed}/{name}.json" in location and kind == "unreadable":
            raise PermissionError(13, "Permission denied", location)
        return read(location, **options)

    monkeypatch.setattr("flux_tasks.files.read", refuse)
    for name, kind in product(("state", "run"), ("folder", "link", "text", "unreadable")):
        place, whole = runs / harmed / f"{name}.json", (runs / harmed / f"{name}.json").read_bytes()
        if kind != "unreadable":
            place.unlink()
        if kind == "folder":
            place.mkdir()
        elif kind == "link":
            place.symlink_to("nowhere")
        elif kind == "text":
            place.write_bytes(b'{"recipe": "\xff"}')
        with cases.case(f"{name} {kind}"):
            for command in ("status", "history"):
                done = here_cli(command)
                assert done.returncode == 0, done.stderr
                assert other in done.stdout
                is_named = f"{place} {'cannot be read' if kind == 'unreadable' else 'is damaged'}" in done.stderr
                assert is_named is (name == "state"), "what is not needed is not looked at"
        place.rmdir() if kind == "folder" else place.unlink()
        place.write_bytes(whole)


def test_an_age_that_is_not_known_is_so_in_the_same_words_everywhere(
    here_cli: Here, folder: Path, store: Store
) -> None:
    (folder / "store" / "journal").mkdir(parents=True)
    (folder / "store" / "journal" / f"{'a' * 64}.json").write_text("{")
    Journal(store).put(Entry("b" * 64, "deblur-v1", "intent", estimate=3.0, at=0.0, begun=1e300, owner=dead_owner()))
    for command in (("jobs",), ("store", "held")):
        assert [job["age"] for job in told(here_cli, *command)] == [None, None]
        [line] = [line for line in here_cli(*command).stdout.splitlines() if "deblur-v1" in line]
        assert "  unknown  " in line


def test_history_can_be_of_one_recipe_by_its_name_or_its_file(here_cli: Here, bfl: FakeBfl, folder: Path) -> None:
    perform(here_cli, bfl, folder)
    for recipe in ("clean", str(folder / "recipe.yaml")):
        assert len(told(here_cli, "history", recipe)) == 1
    assert told(here_cli, "history", "another") == []
    assert "no run of another is known" in here_cli("history", "another").stdout


def test_the_status_of_one_run_names_the_items_that_did_not_end_well_and_why(
    here_cli: Here, bfl: FakeBfl, folder: Path
) -> None:
    bfl.submit_answer = Answer(422, {"detail": "no such animal"})
    perform(here_cli, bfl, folder)
    said = here_cli("status", "last").stdout
    assert "2 of 2 items did not end well: 2 invalid" in said
    assert f"invalid: {folder}/photos/p0.png: deblur-v1: refused by the service (422): no such animal" in said
    found = told(here_cli, "status", "last")
    assert found["state"] == "failed"
    assert sorted(found["sources"]["invalid"]) == [f"{folder}/photos/p{n}.png" for n in range(2)]
    wrong = here_cli("status", "lst")
    assert (wrong.returncode, "has no run 'lst'" in wrong.stderr) == (2, True)


def test_a_run_that_is_broken_off_before_its_first_job_is_stopped_with_the_reason(
    here_cli: Here, bfl: FakeBfl, folder: Path
) -> None:
    assert here_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="wrong").returncode == 3
    [run] = told(here_cli, "history")
    assert run["state"] == "stopped"
    assert "refused the key" in run["problem"]


def left_behind(bfl: FakeBfl, store: Store, **changes: Any) -> Entry:
    """Let the first job of a finished run be in the journal, as if its process had been killed; return its entry."""
    key = next(k for k in store.records("results") if (store.record("results", k) or {}).get("job_id") == "job-1")
    record = store.record("results", key) or {}
    for kind in ("results", "copies"):
        store.remove_record(kind, key)
    entry = Entry(key, record["tool"], "submitted", "p0", 3.0, id="job-1", cost=3.0, owner=dead_owner())
    entry = replace(entry, **changes)
    Journal(store).put(entry)
    return entry


@pytest.fixture
def finished(here_cli: Here, bfl: FakeBfl, folder: Path) -> int:
    """A finished run; how many jobs it had."""
    perform(here_cli, bfl, folder)
    return bfl.jobs


def test_a_job_that_a_killed_run_has_left_is_collected_by_its_id_and_answers_the_next_run(
    here_cli: Here, bfl: FakeBfl, folder: Path, store: Store, finished: int
) -> None:
    entry = left_behind(bfl, store)
    assert [job["state"] for job in told(here_cli, "jobs")] == ["left"]
    done = here_cli("collect", "job-1", "--endpoint", bfl.url, "-o", str(folder / "one.png"), key="right-key")
    assert done.returncode == 0, done.stderr
    result = store.result(entry.key)
    assert result is not None
    assert (result["job_id"], result["cost"], result["tool"]) == ("job-1", 3.0, "deblur-v1")
    assert (folder / "one.png").read_bytes() == result["image"].read() == bfl.known["job-1"]["data"]
    assert Journal(store).entries() == []
    again = here_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--verify", key="right-key")
    assert (again.returncode, bfl.jobs) == (0, finished)


def test_a_held_job_whose_id_was_found_at_bfl_is_collected_instead_of_being_paid_again(
    here_cli: Here, bfl: FakeBfl, folder: Path, store: Store, finished: int
) -> None:
    entry = left_behind(bfl, store, phase="intent", id="", cost=None, owner="")
    told_wrong = here_cli("collect", "job-1", "--key", "zz", "--endpoint", bfl.url, key="right-key")
    assert (told_wrong.returncode, "no held job has a key that begins with 'zz'" in told_wrong.stderr) == (2, True)
    done = here_cli("collect", "job-1", "--key", entry.key[:8], "--endpoint", bfl.url, key="right-key")
    assert done.returncode == 0, done.stderr
    assert here_cli("store", "held").stdout == "no job is held\n"
    perform(here_cli, bfl, folder)
    assert bfl.jobs == finished


def test_a_job_of_another_machine_is_left_once_that_has_been_silent_for_minutes(
    here_cli: Here, bfl: FakeBfl, store: Store, finished: int
) -> None:
    entry = left_behind(bfl, store, owner="far:1 another-machine word")
    assert [job["state"] for job in told(here_cli, "jobs")] == ["running"]
    Journal(store).put(replace(entry, at=entry.at - 600))
    assert [job["state"] for job in told(here_cli, "jobs")] == ["left"]
    assert here_cli("collect", "job-1", "--endpoint", bfl.url, key="right-key").returncode == 0
    assert store.result(entry.key) is not None


def test_a_job_is_joined_to_no_second_call_and_an_id_is_not_empty(
    here_cli: Here, bfl: FakeBfl, store: Store, finished: int
) -> None:
    held = left_behind(bfl, store, phase="intent", id="", cost=None, owner="")
    for job, what in (("", "ID: is empty"), ("job-2", "is the job of another call, whose result is in the store")):
        done = here_cli("collect", job, "--key", held.key[:8], "--endpoint", bfl.url, key="right-key")
        assert (done.returncode, what in done.stderr) == (2, True), done.stderr
    Journal(store).put(Entry("f" * 64, "deblur-v1", "submitted", "x", id="job-9", owner=dead_owner()))
    done = here_cli("collect", "job-9", "--key", held.key[:8], "--endpoint", bfl.url, key="right-key")
    assert (done.returncode, "is the job of ffffffffffff already" in done.stderr) == (2, True)
    assert [entry.id for entry in Journal(store).entries() if entry.key == held.key] == [""]


@pytest.mark.parametrize("harm", ["away", "slow"])
def test_what_a_collected_job_is_waited_for_and_for_how_long_is_said_at_once(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    (folder / "store" / "results").mkdir(parents=True)
    bfl.hold = True
    with socket.create_server(("127.0.0.1", 0)) as unused:
        away = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("FLUX_DEADLINE", "0.3")
    bfl.known["job-9"] = {"polls": 0, "data": b""}
    place = ("--endpoint", away if harm == "away" else bfl.url, "-o", str(folder / "x.png"))
    done = here_cli("collect", "job-9", *place, key="right-key")
    assert done.returncode == 1
    reason = "no answer" if harm == "away" else "still running"
    first, *others, _ = done.stderr.splitlines()
    assert reason in first
    assert first.endswith(" is asked again, for 0.3 s in all")
    assert others == []


def test_a_job_that_the_store_does_not_know_is_written_to_a_file_only(
    here_cli: Here, bfl: FakeBfl, folder: Path, store: Store, finished: int
) -> None:
    bfl.known["elsewhere"] = bfl.known["job-2"]
    before = store.records("results")
    nowhere = here_cli("collect", "elsewhere", "--endpoint", bfl.url, key="right-key")
    assert (nowhere.returncode, "write --output FILE" in nowhere.stderr) == (2, True)
    done = here_cli("collect", "elsewhere", "-o", str(folder / "x.png"), "--endpoint", bfl.url, key="right-key")
    assert (done.returncode, store.records("results"), bfl.jobs) == (0, before, finished)
    assert (folder / "x.png").read_bytes() == bfl.known["job-2"]["data"]
    unknown = here_cli("collect", "never", "-o", str(folder / "y.png"), "--endpoint", bfl.url, key="right-key")
    assert (unknown.returncode, "the service does not know it" in unknown.stderr) == (1, True)
    assert not (folder / "y.png").exists()


def test_a_job_whose_result_is_stored_is_written_from_there_without_a_word_to_the_service(
    here_cli: Here, bfl: FakeBfl, folder: Path, finished: int
) -> None:
    asked = len(bfl.requests)
    done = here_cli("collect", "job-1", "-o", str(folder / "one.png"), "--endpoint", bfl.url)
    assert (done.returncode, len(bfl.requests)) == (0, asked)
    assert (folder / "one.png").read_bytes() == bfl.known["job-1"]["data"]


def test_a_picture_is_written_to_no_folder_under_no_wrong_extension_and_over_no_other_file(
    here_cli: Here, bfl: FakeBfl, folder: Path, finished: int
) -> None:
    def collected(name: str) -> tuple[int, str]:
        done = here_cli("collect", "job-1", "-o", f"{folder}/{name}", "--endpoint", bfl.url)
        return done.returncode, done.stderr

    (folder / "mine.png").write_bytes(b"my only photo")
    (folder / "sub.png").mkdir()
    for name, why in (
        ("one.jpg", "one.png"),
        ("one.txt", "one.png"),
        ("mine.png", "is there already, and is not this picture"),
        ("sub.png", "is a folder"),
        ("new/", "is a folder"),
    ):
        code, said = collected(name)
        assert (code, "--output" in said, why in said) == (2, True, True), said
        assert len(said.splitlines()) == 1
    assert (folder / "mine.png").read_bytes() == b"my only photo"
    assert not [*folder.glob("one.*"), *folder.glob("new*")]
    assert [collected(name)[0] for name in ("one.PNG", "one.PNG", "bare")] == [0, 0, 0]


def test_a_job_that_a_run_waits_for_is_left_to_it(here_cli: Here, bfl: FakeBfl, store: Store, finished: int) -> None:
    left_behind(bfl, store, owner=this_process())
    done = here_cli("collect", "job-1", "--endpoint", bfl.url, key="right-key")
    assert (done.returncode, "waits for this job, and stores its result" in done.stderr) == (2, True)
    assert len(Journal(store).entries()) == 1
