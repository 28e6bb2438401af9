"""Latency, expiry and webhook retries on a clock that the test moves; the file of charges; the strict profile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import Answer, ScriptedServer
from waiting import wait_until

from flux_tasks.errors import RecipeError
from flux_tasks.local import LocalServer
from flux_tasks.local.service.latency import Latency, latencies, parse

PRO = {"prompt": "a lake"}


def test_a_job_takes_as_long_as_its_tool_is_told_to(serving: Callable[..., Any], gate: Any) -> None:
    api = serving(virtual_time=True, latency={"flux-2-pro": 30, "*": 5})
    slow, quick = (api.post(tool, PRO).json()["id"] for tool in ("flux-2-pro", "flux-2-max"))
    wait_until(lambda: len(gate.works) == 2)
    api.server.advance(4.9)
    assert [api.poll(job)["status"] for job in (slow, quick)] == ["Pending", "Pending"]
    api.server.advance(0.2)
    wait_until(lambda: api.poll(quick)["status"] == "Ready")
    assert api.poll(slow)["status"] == "Pending"
    api.server.advance(25)
    wait_until(lambda: api.poll(slow)["status"] == "Ready")


def test_jitter_stays_within_its_bounds_and_is_the_same_for_the_same_request() -> None:
    drawn = [Latency(3, 1).draw(str(n)) for n in range(300)]
    assert drawn == [Latency(3, 1).draw(str(n)) for n in range(300)]
    assert 2 <= min(drawn) < 2.2
    assert 3.8 < max(drawn) <= 4
    assert Latency(1, 5).draw("x") >= 0


def test_latency_is_said_in_short_on_the_command_line() -> None:
    assert parse("2") == {"*": (2.0, 0.0)}
    assert parse("deblur-v1=3~1,*=2") == {"deblur-v1": (3.0, 1.0), "*": (2.0, 0.0)}
    assert latencies({"erase": 4})["erase-v1"] == Latency(4)


@pytest.mark.parametrize("spec", [{"derase-v1": 1}, -1, {"*": float("nan")}, {"*": "2"}])
def test_a_latency_that_means_nothing_is_refused(spec: Any) -> None:
    with pytest.raises(RecipeError, match="latency"):
        LocalServer(latency=spec)


def test_an_address_expires_and_a_job_is_forgotten_on_the_virtual_clock(serving: Callable[..., Any], gate: Any) -> None:
    api = serving(virtual_time=True)
    job = api.post("flux-2-pro", PRO).json()["id"]
    answer = api.finish(job)
    assert api.deliver(answer).status_code == 200
    api.server.advance(601)
    assert api.deliver(answer).status_code == 403
    assert api.deliver(api.poll(job)).status_code == 200
    api.server.advance(3600)
    assert api.poll(job)["status"] == "Task not found"


def test_the_clock_is_moved_over_http_where_it_is_virtual(serving: Callable[..., Any], gate: Any) -> None:
    api = serving(virtual_time=True, latency=10)
    job = api.post("flux-2-pro", PRO).json()["id"]
    wait_until(lambda: gate.works)
    assert api.http.post("/local/clock", json={"seconds": 11}).json() == {"now": 11.0}
    wait_until(lambda: api.poll(job)["status"] == "Ready")
    assert api.http.post("/local/clock", json={"seconds": "x"}).status_code == 422
    real = serving()
    refused = real.http.post("/local/clock", json={"seconds": 1})
    assert (refused.status_code, "--virtual-time" in refused.json()["detail"]) == (409, True)
    with pytest.raises(RuntimeError, match="virtual_time"):
        real.server.advance(1)


def test_a_webhook_is_repeated_after_1_5_and_30_seconds_and_then_no_more(
    serving: Callable[..., Any], gate: Any
) -> None:
    api = serving(virtual_time=True)
    with ScriptedServer() as receiver:
        receiver.on("POST /told", Answer(500))
        api.finish(api.post("flux-2-pro", {**PRO, "webhook_url": f"{receiver.url}/told"}))
        earliest = {1: 0.0, 2: 1.0, 3: 6.0, 4: 36.0}
        now = 0.0
        while (calls := len(receiver.seen("POST /told"))) < 4:
            assert calls == 0 or now >= earliest[calls], f"call {calls} came at {now} s"
            api.server.advance(0.25)
            now += 0.25
            time.sleep(0.002)
        assert now >= 36
        api.server.advance(3000)
        assert len(receiver.seen("POST /told")) == 4


def test_a_webhook_that_is_taken_late_is_not_repeated(serving: Callable[..., Any], gate: Any) -> None:
    api = serving(webhook_retries=[0.01, 0.01])
    with ScriptedServer() as receiver:
        receiver.on("POST /told", Answer(500), Answer(204))
        api.finish(api.post("flux-2-pro", {**PRO, "webhook_url": f"{receiver.url}/told"}))
        wait_until(lambda: len(receiver.seen("POST /told")) == 2)
    api.server.stop()
    assert len(receiver.seen("POST /told")) == 2


# -- the file of charges ----------------------------------------------------------------------------------------------


def test_every_charge_is_a_line_of_the_books_file_before_its_answer_goes_out(
    serving: Callable[..., Any], gate: Any, tmp_path: Path
) -> None:
    file = tmp_path / "charges.jsonl"
    api = serving(charges=file, faults=[{"fault": "submit.cut", "count": 1}])
    with pytest.raises(Exception, match="disconnected"):
        api.post("flux-2-pro", PRO)
    [line] = [json.loads(line) for line in file.read_text().splitlines() if '"charge"' in line]
    assert (line["tool"], line["cost"], line["status"]) == ("flux-2-pro", 3.0, "Pending")
    wait_until(lambda: '"settle"' in file.read_text())
    settled = json.loads(file.read_text().splitlines()[-1])
    assert (settled["id"], settled["status"], settled["settled"]) == (line["id"], "Ready", 3.0)
    assert settled["faults"] == ["submit.cut"]


def test_what_is_still_running_when_the_server_stops_is_given_back(gate: Any, tmp_path: Path) -> None:
    file = tmp_path / "charges.jsonl"
    with LocalServer(engine="gate", charges=file, faults=["job.never_ends"]) as server:
        httpx.post(f"{server.url}/v1/flux-2-pro", json=PRO)
    [entry] = server.charges.entries
    assert (entry.status, entry.settled, server.charges.credits) == ("Stopped", 0.0, 1000.0)
    assert json.loads(file.read_text().splitlines()[-1])["status"] == "Stopped"


def test_a_book_that_cannot_be_written_is_said_so_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be written"):
        LocalServer(charges=tmp_path / "nowhere" / "charges.jsonl")


# -- strict -----------------------------------------------------------------------------------------------------------


def test_the_strict_profile_keeps_to_the_newest_specification_alone(serving: Callable[..., Any], gate: Any) -> None:
    api = serving(strict=True)
    erase = {"image": api.base64(api.photo()), "mask": api.base64(api.mask())}
    assert api.post("flux-tools/erase-v1", {**erase, "dilate_pixels": 25}).status_code == 200
    [reason] = api.post("flux-tools/erase-v1", {**erase, "dilate_pixels": 26}).json()["detail"]
    assert (reason["loc"], reason["type"]) == (["body", "dilate_pixels"], "less_than_equal")
    assert api.post("flux-kontext", PRO).status_code == 404
    api.post("flux-kontext-pro", {**PRO, "image": "not looked at"})
    assert "input_image" not in gate.works[-1].pictures


def test_without_it_what_a_seed_document_shows_is_taken(serving: Callable[..., Any], gate: Any) -> None:
    api = serving()
    erase = {"image": api.base64(api.photo()), "mask": api.base64(api.mask()), "dilate_pixels": 100}
    assert api.post("flux-tools/erase-v1", erase).status_code == 200
