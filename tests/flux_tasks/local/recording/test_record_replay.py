"""One session, recorded and answered again offline, by real servers on loopback."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_bfl import FakeBfl
from pictures import encoded, noise
from recorded import (
    DEBLUR,
    KEY,
    POST,
    body,
    deblur,
    documents,
    poll,
    post,
    ready,
    recording,
    replaying,
    served,
    with_client,
)
from scripted import Answer, Request

from flux_tasks import background, catalog
from flux_tasks.errors import InvalidRequest, JobFailed, Moderated, OutOfCredits, SubmissionUncertain
from flux_tasks.jobs import job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.endpoint import open_account
from flux_tasks.local.recording.recorder import RecordingApi
from flux_tasks.local.recording.scrub import REMOVED
from flux_tasks.local.service import checks
from flux_tasks.settings import Settings

# -- one session, twice -----------------------------------------------------------------------------------------------


def test_what_the_job_layer_did_while_recording_it_does_again_offline_byte_for_byte(
    tmp_path: Path, folder: Path
) -> None:
    photo = tmp_path / "cat.png"
    photo.write_bytes(encoded(noise((96, 80), seed=3)))

    def program(url: str, store: str) -> tuple[Any, ...]:
        settings = Settings(endpoint=url, key="", store=str(tmp_path / store), poll_interval=0.002)
        credits = background.run(open_account(settings))
        results = [
            background.run(job.execute(prepare(catalog.TOOLS[tool], {"image": photo, **more}), settings))
            for tool, more in (("deblur-v1", {}), ("deblur-v1", {"seed": 5}))
        ]
        return credits, [(r.outcome, r.cost, r.job_id, r.image.name, r.image.read()) for r in results]

    with FakeBfl(key=KEY, pending_polls=3) as bfl, recording(bfl, folder) as url:
        before = program(url, "first")
        charged = bfl.jobs
    with replaying(folder) as url:
        after = program(url, "second")
    assert after == before
    assert (charged, len(list(folder.glob("*-deblur-v1-*.json"))), len(list(folder.glob("*.png")))) == (2, 2, 2)


def test_a_recorder_is_a_custom_endpoint_and_a_replay_an_engine_of_its_own(bfl: FakeBfl, folder: Path) -> None:
    with recording(bfl, folder) as url:
        assert with_client(url, lambda client: client.engine()) == "custom:loopback"
        assert with_client(url, deblur)
        assert bfl.seen("GET /local") == []
    with replaying(folder) as url:
        assert with_client(url, lambda client: client.engine()) == "local:replay@1"
        assert httpx.get(f"{url}/local").json()["tools"] == ["deblur-v1"]


def test_a_pair_is_readable_and_holds_the_same_key_as_the_local_server_s_book(bfl: FakeBfl, folder: Path) -> None:
    asked = body(7, user="somebody", output_format="png")
    raw = json.dumps(asked).encode()
    bfl.pending_polls = 2
    with recording(bfl, folder) as url:
        httpx.post(f"{url}/v1/flux-tools/deblur-v1", content=raw, headers={"content-type": "application/json"})
        assert [poll(url).json()["status"] for _ in range(4)] == ["Pending", "Pending", "Ready", "Ready"]
    assert bfl.seen(POST)[0].body == raw
    [document] = documents(folder)
    key = checks.examine(DEBLUR, raw).key
    [name] = [file.name for file in folder.glob("*.json")]
    picture = {"sha256": hashlib.sha256(encoded(seed=7)).hexdigest(), "bytes": len(encoded(seed=7))}
    assert name == f"0001-deblur-v1-{key[:12]}.json"
    assert (document["format"], document["path"], document["key"]) == (1, "/v1/flux-tools/deblur-v1", key)
    assert document["request"] == {
        "image": {**picture, "media_type": "image/png"},
        "seed": 7,
        "user": REMOVED,
        "output_format": "png",
    }
    assert document["submit"] == {
        "status": 200,
        "headers": {"content-type": "application/json"},
        "body": {"id": "job-1", "polling_url": "<server>/v1/get_result?id=job-1", "cost": 3.0},
    }
    assert [(p["body"]["status"], p["count"]) for p in document["polls"]] == [("Pending", 2), ("Ready", 2)]
    delivered = bfl.known["job-1"]["data"]
    assert document["delivery"]["sha256"] == hashlib.sha256(delivered).hexdigest()
    assert (folder / document["delivery"]["file"]).read_bytes() == delivered


def test_a_replay_walks_each_status_once_and_answers_with_addresses_of_its_own(bfl: FakeBfl, folder: Path) -> None:
    statuses = [
        Answer(404, {"id": "job-1", "status": "Task not found"}),
        Answer(200, {"id": "job-1", "status": "Pending", "progress": 0.25}),
        Answer(500, b"<html>Bad day</html>", {"content-type": "text/html"}),
        Answer(503, {"id": "job-1", "status": "Generating"}),
    ]
    bfl.on("GET /v1/get_result", *statuses, Answer(200, ready(bfl)))
    bfl.on("GET /sample", Answer(200, encoded(), {"content-type": "image/png"}))
    with recording(bfl, folder) as url:
        post(url, body())
        first = [poll(url) for _ in range(6)]
        assert url in first[-1].text
    with replaying(folder) as again:
        submitted = post(again, body()).json()
        second = [httpx.get(submitted["polling_url"]) for _ in range(6)]
        delivered = httpx.get(second[-1].json()["result"]["sample"])
    assert submitted["polling_url"].startswith(f"{again}/v1/")
    assert [(r.status_code, r.headers["content-type"]) for r in second] == [
        (r.status_code, r.headers["content-type"]) for r in first
    ]
    assert [r.text.replace(again, url).replace(" ", "") for r in second] == [r.text.replace(" ", "") for r in first]
    assert (delivered.headers["content-type"], delivered.content) == ("image/png", encoded())


# -- what went wrong then ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(402, {"detail": "Insufficient credits"}), OutOfCredits),
        (Answer(422, {"detail": [{"loc": ["body", "seed"], "msg": "too large", "type": "x"}]}), InvalidRequest),
        (Answer(500, b"Internal Server Error", {"content-type": "text/plain"}), SubmissionUncertain),
        (Answer(200, {"id": "job-1"}, cut=20), SubmissionUncertain),
        (Answer(200, cut=0), SubmissionUncertain),
    ],
)
def test_a_refusal_or_a_cut_at_submission_is_one_pair_and_the_same_error_again(
    bfl: FakeBfl, folder: Path, answer: Answer, error: type[Exception]
) -> None:
    bfl.on(POST, answer)
    with recording(bfl, folder) as url, pytest.raises(error):
        with_client(url, deblur)
    assert len(bfl.seen(POST)) == 1
    assert [file.name[:5] for file in folder.iterdir()] == ["0001-"]
    with replaying(folder) as url, pytest.raises(error):
        with_client(url, deblur)


def test_a_cut_is_replayed_as_a_cut(bfl: FakeBfl, folder: Path) -> None:
    bfl.on(POST, Answer(cut=0))
    bfl.on("GET /v1/credits", Answer(cut=5))
    with recording(bfl, folder) as url:
        assert post(url, body()).status_code == 502
        assert httpx.get(f"{url}/v1/credits").status_code == 502
    with replaying(folder) as url:
        with pytest.raises(httpx.RemoteProtocolError):
            post(url, body())
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/v1/credits")


def test_a_429_is_recorded_with_its_retry_after_and_answers_of_one_key_come_in_turn(bfl: FakeBfl, folder: Path) -> None:
    def submit(_: Request) -> Answer:
        number = len(bfl.seen(POST))
        if number == 1:
            return Answer(429, {"detail": "Too many"}, {"retry-after": "0"})
        return Answer(200, {"id": f"job-{number}", "polling_url": f"{bfl.url}/v1/get_result?id=job-{number}"})

    bfl.on(POST, call=submit)
    with recording(bfl, folder) as url:
        first = [post(url, body()) for _ in range(3)]
    with replaying(folder) as url:
        second = [post(url, body()) for _ in range(4)]
    assert [r.status_code for r in first] == [429, 200, 200]
    assert [(r.status_code, r.headers.get("retry-after"), r.json().get("id")) for r in second] == [
        (429, "0", None),
        (200, None, "job-2"),
        (200, None, "job-3"),
        (200, None, "job-3"),
    ]


@pytest.mark.parametrize(
    ("status", "error"), [("Request Moderated", Moderated), ("Content Moderated", Moderated), ("Error", JobFailed)]
)
def test_a_job_that_ended_without_a_result_ends_so_again(
    bfl: FakeBfl, folder: Path, status: str, error: type[Exception]
) -> None:
    details = {"Moderation Reasons": ["Derivative Works"]}
    bfl.on("GET /v1/get_result", Answer(422, {"id": "job-1", "status": status, "details": details}))
    said = []
    with recording(bfl, folder) as url, pytest.raises(error) as first:
        with_client(url, deblur)
    with replaying(folder) as url, pytest.raises(error) as second:
        with_client(url, deblur)
    said += [str(first.value), str(second.value)]
    assert said[0] == said[1]


def test_an_upstream_that_is_not_reached_answers_that_nothing_was_made_and_leaves_no_pair(folder: Path) -> None:
    with FakeBfl() as bfl:
        address = bfl.url
    with served(lambda url: RecordingApi(url=url, folder=folder, upstream=address)) as url:
        with pytest.raises(InvalidRequest, match="nothing was sent"):
            with_client(url, deblur)
        assert poll(url).status_code == 502
    assert list(folder.iterdir()) == []


def test_a_delivery_that_does_not_arrive_is_asked_for_again_and_recorded_once_it_has(
    bfl: FakeBfl, folder: Path
) -> None:
    bfl.on("GET /v1/get_result", Answer(200, ready(bfl)))
    bfl.on("GET /sample", Answer(500), Answer(200, encoded(), cut=200), Answer(200, encoded()))
    with recording(bfl, folder) as url:
        _, data = with_client(url, deblur)
    assert data == encoded()
    assert [poll["body"]["status"] for poll in documents(folder)[0]["polls"]] == ["Ready"]
    assert [request.headers.get("x-key") for request in bfl.seen("GET /sample")] == [None] * 3
