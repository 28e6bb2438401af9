"""``doctor``: each thing that a run needs is found missing before it is spent for, with what to do."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from command_line import Here
from fake_bfl import FakeBfl
from scripted import Answer, ScriptedServer

from flux_tasks.api.receiver import Receiver
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store
from pipelines.cli.commands.watching import doctor

KEY = "right-key"


@pytest.fixture(autouse=True)
def _enough_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has left is none of the tests' business."""
    monkeypatch.setattr(doctor, "_FREE", 0)


def ask(here_cli: Here, *arguments: str, key: str = KEY) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was found, by what it is about."""
    done = here_cli("doctor", *arguments, "--json", key=key)
    return done.returncode, {found["what"]: found for found in json.loads(done.stdout)}


def problems(here_cli: Here, *arguments: str, key: str = KEY) -> dict[str, tuple[str, str]]:
    """Only what does not work: text and remedy."""
    code, found = ask(here_cli, *arguments, key=key)
    bad = {what: (one["text"], one["remedy"]) for what, one in found.items() if not one["is_ok"]}
    assert code == bool(bad)
    return bad


def test_all_is_well_where_all_is_well_and_nothing_is_paid_or_left(here_cli: Here, bfl: FakeBfl, folder: Path) -> None:
    code, found = ask(here_cli, "--endpoint", bfl.url)
    assert (code, bfl.jobs) == (0, 0)
    assert {"endpoint", "key", "credits", "store", "jobs", "Prefect", "versions", "extras"} <= set(found)
    assert found["credits"]["text"] == "500 left ($5.00)"
    assert "s3" in found["extras"]["text"]
    assert not (folder / "store").exists()
    Store(str(folder / "store")).put_record("facts", "x", {})
    assert "the store's clock" in ask(here_cli, "--endpoint", bfl.url)[1]
    assert [path.name for path in (folder / "store").rglob("*.json")] == ["x.json"]
    said = here_cli("doctor", "--endpoint", bfl.url, key=KEY).stdout
    assert said.endswith("all is well\n")


def test_a_key_that_is_refused_or_missing_is_told_and_never_shown(here_cli: Here, bfl: FakeBfl) -> None:
    found = problems(here_cli, "--endpoint", bfl.url, key="the-wrong-key")
    assert set(found) == {"key"}, found
    assert "refused the key" in found["key"][0]
    assert "BFL_API_KEY" in found["key"][1]
    said = here_cli("doctor", "--endpoint", bfl.url, key="the-wrong-key")
    assert "the-wrong-key" not in said.stdout + said.stderr
    assert problems(here_cli, "--endpoint", bfl.url, key="")["key"][0] == "none is set"


def test_an_endpoint_that_does_not_answer_is_told_with_what_to_check(here_cli: Here) -> None:
    found = problems(here_cli, "--endpoint", "http://127.0.0.1:9")
    assert set(found) == {"endpoint"}, found
    assert "cannot be reached" in found["endpoint"][0]
    assert "FLUX_ENDPOINT" in found["endpoint"][1]


def test_an_account_without_credits_and_a_wrong_clock_are_told(here_cli: Here, bfl: FakeBfl) -> None:
    date = {"date": formatdate(time.time() + 600, usegmt=True)}
    bfl.on("GET /v1/credits", Answer(200, {"credits": 0.0}, date))
    found = problems(here_cli, "--endpoint", bfl.url)
    assert found["credits"] == ("0 left ($0.00)", "top up the account at BFL")
    assert "10 min ahead of this machine's" in found["the service's clock"][0].replace("11 min", "10 min")


def test_a_store_that_cannot_be_written_is_told(here_cli: Here, bfl: FakeBfl, folder: Path) -> None:
    (folder / "file").write_text("")
    found = problems(here_cli, "--endpoint", bfl.url, "--store", str(folder / "file"))
    assert "cannot be used" in found["store"][0]
    assert "FLUX_STORE" in found["store"][1]


def test_who_is_told_at_the_end_is_named_and_a_setting_that_cannot_be_read_is_a_problem(
    here_cli: Here, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_ON_END", '{"webhook": "https://hooks.example/hush", "when": "failed"}')
    _, found = ask(here_cli, "--endpoint", bfl.url)
    assert found["told at the end"]["text"] == "hooks.example (failed)"
    monkeypatch.setenv("FLUX_ON_END", "nobody")
    assert "FLUX_ON_END" in problems(here_cli, "--endpoint", bfl.url)["told at the end"][0]


def test_the_settings_of_callbacks_are_tried_and_each_thing_that_is_wrong_has_a_remedy(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, store = "a-secret-of-the-tests", Store(str(folder / "store"))
    assert "receiver of call-backs" not in ask(here_cli, "--endpoint", bfl.url)[1], "nobody asked for any"
    monkeypatch.setenv("FLUX_WEBHOOK_SECRET", secret)
    with Receiver([store], secret) as receiver, ScriptedServer() as another:
        monkeypatch.setenv("FLUX_WEBHOOK_URL", f"{receiver.url}/cb")
        code, found = ask(here_cli, "--endpoint", bfl.url)
        assert code == 0
        assert found["receiver of call-backs"]["text"].endswith("answers, with the same secret")
        assert store.records("callbacks") == []
        monkeypatch.setenv("FLUX_WEBHOOK_SECRET", "another-secret-of-the-tests")
        text, remedy = problems(here_cli, "--endpoint", bfl.url)["receiver of call-backs"]
        assert "has another secret" in text
        assert "the same FLUX_WEBHOOK_SECRET" in remedy
        monkeypatch.setenv("FLUX_WEBHOOK_URL", another.url)
        assert "which no receiver does" in problems(here_cli, "--endpoint", bfl.url)["receiver of call-backs"][0]
    monkeypatch.setenv("FLUX_WEBHOOK_URL", "http://127.0.0.1:9/")
    text, remedy = problems(here_cli, "--endpoint", bfl.url)["receiver of call-backs"]
    assert "127.0.0.1:9 does not answer" in text
    assert "start flux-pipelines receive" in remedy


@pytest.mark.parametrize(
    ("address", "told"),
    [("http://127.0.0.1:9/", "is this machine"), ("https://10.0.0.9/", "has no public address, as seen from here")],
)
def test_an_address_for_callbacks_that_bfl_cannot_reach_is_told(address: str, told: str) -> None:
    settings = Settings(webhook_url=address, webhook_secret="a-secret-of-the-tests")
    found = doctor._address_of_callbacks(settings)
    assert f"{told}: BFL cannot reach it" in found.text
    assert "public https address" in found.remedy


def test_a_disk_that_is_nearly_full_is_told(here_cli: Here, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_FREE", 10**18)
    found = problems(here_cli, "--endpoint", bfl.url)
    assert {what.partition(" of ")[0] for what in found} == {"disk"}
    assert found["disk of the store"][1].startswith("make room on the disk of /")


def test_a_held_job_is_a_problem_that_a_person_has_to_look_at(here_cli: Here, bfl: FakeBfl, folder: Path) -> None:
    Journal(Store(str(folder / "store"))).put(Entry("a" * 64, "deblur-v1", "intent", "hens", 3.0, owner=""))
    found = problems(here_cli, "--endpoint", bfl.url)
    assert found["jobs"] == (
        "0 in flight, 1 held",
        "look at your BFL account, then decide: flux-pipelines store held",
    )


def test_a_job_whose_result_is_there_is_neither_held_nor_in_flight(here_cli: Here, bfl: FakeBfl, folder: Path) -> None:
    assert here_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key=KEY).returncode == 0
    store = Store(str(folder / "store"))
    [key, *_] = store.records("results")
    Journal(store).put(Entry(key, "deblur-v1", "intent", "hens", 3.0, owner=""))  # its process died at its very end
    assert "jobs" not in problems(here_cli, "--endpoint", bfl.url)
    assert here_cli("store", "held").stdout == "no job is held\n"


def test_a_prefect_server_that_is_configured_and_does_not_answer_is_told(
    here_cli: Here, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("FLUX_PREFECT", "auto")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        found = problems(here_cli, "--endpoint", bfl.url)
    assert "no Prefect server answers" in found["Prefect"][0]
