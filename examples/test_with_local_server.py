"""Test a program that calls the BFL API: without key, network and cost, and with faults on request.

Installing flux-pipelines gives pytest the fixture `bfl_server`; copy this file beside your own program and run pytest.
"""

import time

import httpx
import pytest


def lake(url: str, key: str = "") -> bytes:
    """Stands for your own program: submits, polls, fetches, and submits again when it is told to wait."""
    with httpx.Client(base_url=url, headers={"x-key": key}) as http:
        while (answer := http.post("/v1/flux-2-pro", json={"prompt": "a lake at dawn"})).status_code == 429:
            time.sleep(float(answer.headers["retry-after"]))
        answer.raise_for_status()
        while (job := http.get(answer.json()["polling_url"]).json())["status"] not in ("Ready", "Error"):
            time.sleep(0.01)
        return httpx.get(job["result"]["sample"]).content


def test_a_picture_arrives_and_is_paid_for_once(bfl_server):
    assert lake(bfl_server.url).startswith(b"\xff\xd8")  # a JPEG
    [charge] = bfl_server.charges.entries
    assert (charge.tool, charge.cost, charge.status) == ("flux-2-pro", 3.0, "Ready")


@pytest.mark.bfl_server(faults=[{"fault": "submit.answer", "status": 429, "retry_after": 0.01, "count": 2}])
def test_too_many_requests_are_waited_for(bfl_server):
    lake(bfl_server.url)
    assert bfl_server.requests["submit"] == 3
    assert len(bfl_server.charges) == 1


@pytest.mark.bfl_server(credits=2)
def test_an_empty_account_is_reported(bfl_server):
    with pytest.raises(httpx.HTTPStatusError, match="402"):
        lake(bfl_server.url)


@pytest.mark.bfl_server(virtual_time=True, latency=60)
def test_a_job_that_takes_a_minute_takes_no_minute_of_the_test(bfl_server):
    job = httpx.post(f"{bfl_server.url}/v1/flux-2-pro", json={"prompt": "a lake"}).json()
    assert httpx.get(job["polling_url"]).json()["status"] == "Pending"
    while httpx.get(job["polling_url"]).json()["status"] == "Pending":
        bfl_server.advance(10)
