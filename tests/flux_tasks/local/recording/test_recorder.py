"""What the recorder must never do: lose an id, pay twice, tell a secret."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_bfl import FakeBfl
from pictures import encoded
from recorded import (
    KEY,
    POST,
    body,
    deblur,
    documents,
    poll,
    poll_until_ready,
    post,
    ready,
    recording,
    replaying,
    served,
    with_client,
    written,
)
from scripted import Answer, Request
from waiting import PATIENCE

from flux_tasks.errors import RecipeError
from flux_tasks.local.recording import pairs
from flux_tasks.local.recording.recorder import RecordingApi
from flux_tasks.local.recording.scrub import REMOVED, Scrubber

SECRET = "call-back/secret+1"


# -- no id is lost ----------------------------------------------------------------------------------------------------


def test_the_pair_is_on_disk_before_the_submission_is_answered(bfl: FakeBfl, folder: Path) -> None:
    with recording(bfl, folder) as url:
        assert post(url, body()).json()["id"] == "job-1"
        assert documents(folder)[0]["submit"]["body"]["id"] == "job-1"


def test_a_client_that_leaves_too_early_leaves_the_id_in_the_folder(bfl: FakeBfl, folder: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def submit(_: Request) -> Answer:
        arrived.set()
        assert go_on.wait(PATIENCE)
        return Answer(200, {"id": "job-9"})

    bfl.on(POST, call=submit)
    with recording(bfl, folder) as url:
        with pytest.raises(httpx.ReadTimeout):
            post(url, body(), timeout=httpx.Timeout(PATIENCE, read=0.2))
        assert arrived.wait(PATIENCE)
        go_on.set()
    assert documents(folder)[0]["submit"]["body"]["id"] == "job-9"
    assert len(bfl.seen(POST)) == 1


def test_a_recorder_that_was_started_again_goes_on_with_the_jobs_of_the_first(bfl: FakeBfl, folder: Path) -> None:
    with recording(bfl, folder) as url:
        post(url, body())
        poll(url)
    with recording(bfl, folder) as url:
        assert poll(url).json()["status"] == "Ready"
        post(url, body(1))
    assert [file.name[:5] for file in sorted(folder.glob("*.json"))] == ["0001-", "0002-"]
    assert [poll["body"]["status"] for poll in documents(folder)[0]["polls"]] == ["Pending", "Ready"]


def test_two_recorders_in_one_folder_do_not_overwrite_each_other(bfl: FakeBfl, folder: Path) -> None:
    with recording(bfl, folder) as one, recording(bfl, folder) as other:

        async def both() -> None:
            async with httpx.AsyncClient() as client:
                path = "/v1/flux-tools/deblur-v1"
                posts = [client.post(url + path, json=body()) for url in (one, other) * 10]
                await asyncio.gather(*posts)

        asyncio.run(both())
    ids = {document["submit"]["body"]["id"] for document in documents(folder)}
    assert ids == {f"job-{number}" for number in range(1, 21)}
    assert sorted(file.name[:4] for file in folder.iterdir()) == [f"{number:04d}" for number in range(1, 21)]


def test_a_folder_that_cannot_be_written_costs_the_client_nothing(
    bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pairs, "save", full)
    with recording(bfl, folder) as url:
        _, data = with_client(url, deblur)
    assert data == bfl.known["job-1"]["data"]


# -- nothing secret is written ----------------------------------------------------------------------------------------


def test_no_key_no_secret_and_no_signature_is_written_to_any_file(bfl: FakeBfl, folder: Path) -> None:
    signature = "sig=Zm9vYmFyc2lnbmF0dXJl&se=2026-11-21"
    hook = "https://hooks.example/flux?token=hook-token-1"
    said = f"key {KEY} may not {SECRET}; see https://u:pw-of-u@storage.example/a/b.png?{signature}#frag."
    bfl.on(
        "GET /v1/get_result",
        Answer(200, {"id": "job-1", "status": "Pending", "details": {"said": said, KEY: [SECRET]}}),
        Answer(200, ready(bfl, f"?{signature}", preview=f"{bfl.url}/sample?{signature}", note="Zm9vYmFyc2lnbmF0dXJl")),
    )
    bfl.on("GET /sample", Answer(200, encoded()))
    bfl.on("POST /v1/refused", Answer(403, f"no: {said}".encode(), {"retry-after": KEY}))
    bfl.on("POST /v1/binary", Answer(403, b"\xff\xfe" + KEY.encode()))
    bfl.on(POST, Answer(200, {"id": "job-1", "status": "Pending", "webhook_url": hook}))
    asked = body(webhook_url=hook, webhook_secret=SECRET, prompt=f"like https://x.example/p?{signature} {KEY}")
    with recording(bfl, folder, key="") as url:
        headers = {"x-key": KEY}
        post(url, asked, headers=headers)
        post(url, {"image": f"https://s3.example/a.png?{signature}"}, "refused", headers=headers)
        post(url, {"prompt": KEY}, f"binary?k={KEY}", headers=headers)
        httpx.get(f"{url}/v1/finetune_details?finetune_id={KEY}", headers=headers)
        statuses = [poll(url).json() for _ in range(2)]
    assert bfl.seen(POST)[0].json() == asked
    assert {request.headers["x-key"] for request in bfl.requests if request.method == "POST"} == {KEY}
    assert statuses[0]["details"]["said"] == said
    everything = written(folder)
    pieces = (KEY, SECRET, "Zm9vYmFyc2lnbmF0dXJl", "2026-11-21", "hook-token-1", "hooks.example", "pw-of-u", "x-key")
    assert [piece for piece in pieces if piece.encode() in everything] == []
    assert base64.b64encode(KEY.encode())[:20] not in everything
    for document in documents(folder):
        texts = [answer.get("base64") for answer in [document.get("submit") or {}, *document["polls"]]]
        assert KEY.encode() not in b"".join(base64.b64decode(text) for text in texts if text)
    assert (documents(folder)[0]["request"]["webhook_url"], documents(folder)[0]["request"]["webhook_secret"]) == (
        REMOVED,
        REMOVED,
    )
    with replaying(folder) as url:
        other_hook = {**asked, "webhook_url": "https://mine.example/hook", "webhook_secret": "s"}
        assert post(url, other_hook).json()["webhook_url"] == "https://mine.example/hook"
        assert httpx.get(poll_until_ready(url)).content == encoded()


@pytest.mark.parametrize("secret", ["k", "id", 'a"quoted\\secret', "schlüssel-äöü", "a/b+c=d&e f-long"])
def test_a_secret_is_removed_however_it_is_spelled_and_a_short_one_does_not_eat_up_the_text(secret: str) -> None:
    scrub = Scrubber([secret, "", " "])
    assert scrub.text(f"key={secret}!") == f"key={REMOVED}!"
    assert scrub.value({"status": ["ok, kidding", 1, None]}) == {"status": ["ok, kidding", 1, None]}
    assert json.dumps(secret)[1:-1] not in scrub.text(json.dumps({"x": secret})).replace('"x"', "")
    assert scrub.text(scrub.text("https://a.example/?q=1#x")) == f"https://a.example/?{REMOVED}"


def test_the_key_goes_only_where_it_may_go(bfl: FakeBfl, folder: Path) -> None:
    with FakeBfl() as foreign:
        bfl.on(POST, Answer(200, {"id": "job-1", "polling_url": f"{foreign.url}/v1/get_result?id=job-1"}))
        bfl.on("GET /v1/get_result", Answer(200, {"id": "job-1", "status": "Pending"}))
        with recording(bfl, folder) as url:
            assert post(url, body(), headers={"x-key": "another"}).json()["polling_url"].startswith(url)
            assert poll(url).json()["status"] == "Pending"
        assert foreign.requests == []
    assert {request.headers["x-key"] for request in bfl.requests} == {KEY}


def test_a_job_is_polled_at_the_region_that_made_it_also_by_a_recorder_that_was_started_again(folder: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def bfl(request: httpx.Request) -> httpx.Response:
        asked.append((f"{request.url.scheme}://{request.url.host}", request.headers.get("x-key")))
        if request.method == "POST":
            number = len(asked)
            host = "https://api.eu2.bfl.ai" if number == 1 else "https://api.bfl.ai.evil.example"
            return httpx.Response(200, json={"id": f"job-{number}", "polling_url": f"{host}/v1/get_result?id=x"})
        if request.url.path == "/v1/get_result":
            sample = "https://delivery-eu.bfl.ai/results/a.png?sig=abcdefghijk"
            return httpx.Response(200, json={"id": "job-1", "status": "Ready", "result": {"sample": sample}})
        return httpx.Response(200, content=encoded())

    def recorder(url: str) -> RecordingApi:
        return RecordingApi(url=url, folder=folder, upstream="eu", key=KEY, transport=httpx.MockTransport(bfl))

    with served(recorder) as url:
        post(url, body())
        post(url, body())
    assert [document.get("polled_at") for document in documents(folder)] == ["https://api.eu2.bfl.ai", None]
    with served(recorder) as url:
        assert httpx.get(poll_until_ready(url)).content == encoded()
        poll(url, "job-2")
    assert asked == [
        *[("https://api.eu.bfl.ai", KEY)] * 2,
        ("https://api.eu2.bfl.ai", KEY),
        ("https://delivery-eu.bfl.ai", None),
        ("https://api.eu.bfl.ai", KEY),
        ("https://delivery-eu.bfl.ai", None),
    ]
    assert b"abcdefghijk" not in written(folder)


@pytest.mark.parametrize(
    ("upstream", "key", "said"),
    [
        ("http://api.example", KEY, "plain http"),
        ("local", "", "this server itself"),
        ("http://127.0.0.1:1", "", "this server itself"),
        ("bfi", "", "did you mean 'bfl'"),
        ("bfl", "a key", "holds a character"),
    ],
)
def test_an_upstream_or_a_key_that_cannot_be_used_is_refused_at_once(
    folder: Path, upstream: str, key: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        RecordingApi(url="http://127.0.0.1:1", folder=folder, upstream=upstream, key=key)
    assert KEY not in str(caught.value)


def test_web_pages_and_bent_names_reach_neither_the_key_nor_the_answers(bfl: FakeBfl, folder: Path) -> None:
    with recording(bfl, folder) as url:
        assert post(url, body(), headers={"origin": "https://evil.example"}).status_code == 403
        assert post(url, body(), headers={"host": "evil.example"}).status_code == 421
        assert post(url, body(), headers={"origin": url}).status_code == 200
    assert len(bfl.requests) == 1
    with replaying(folder) as url:
        assert httpx.get(f"{url}/local", headers={"host": "evil.example"}).status_code == 421
