"""Call-backs over real HTTP: what is taken, what is refused, and that none of it is believed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_bfl import FakeBfl
from PIL import Image
from scripted import Answer, Request
from waiting import wait_until

from flux_tasks import FluxError, deblur, settings, use
from flux_tasks.api import callbacks, receiver
from flux_tasks.api.connection import Connection
from flux_tasks.api.receiver import Receiver
from flux_tasks.errors import RecipeError
from flux_tasks.local import LocalServer
from flux_tasks.settings import Settings
from flux_tasks.store.records import Store

SECRET = "a-secret-of-the-tests"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def taking(store: Store) -> Iterator[Receiver]:
    with Receiver([store], SECRET) as started:
        yield started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "_PAUSE", 0.02)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def send(to: Receiver, body: Any = None, *, method: str = "POST", **headers: str) -> int:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, f"{to.url}/anything", content=content, headers=names, trust_env=False).status_code


def genuine(to: Receiver, job_id: str) -> int:
    return send(to, {"id": job_id, "status": "Ready"}, x_webhook_secret=SECRET)


def write_record(store: Store, job_id: str) -> None:
    store.create_record("callbacks", callbacks._name(job_id), {"at": time.time()})


def signature(body: bytes) -> str:
    return "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def test_a_genuine_callback_is_one_small_record_that_says_nothing_of_the_result(taking: Receiver, store: Store) -> None:
    body = json.dumps({"id": "job-1", "status": "Ready", "result": {"sample": "https://evil.example/x.png"}}).encode()
    assert send(taking, body, x_webhook_secret=SECRET) == 200
    assert send(taking, body, x_bfl_signature=signature(body)) == 200
    assert genuine(taking, "job-1") == 200
    [name] = store.records("callbacks")
    assert list(store.record("callbacks", name) or {}) == ["at"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"body": {"id": "j"}}, 401),
        ({"body": {"id": "j"}, "x_webhook_secret": "forged"}, 401),
        ({"body": {"id": "j"}, "x_webhook_secret": SECRET[:-1]}, 401),
        ({"body": {"id": "j"}, "x_bfl_signature": signature(b'{"id": "other"}')}, 401),
        ({"body": b"no json", "x_webhook_secret": SECRET}, 400),
        ({"body": b"[" * 100_000, "x_webhook_secret": SECRET}, 400),
        ({"body": {"status": "Ready"}, "x_webhook_secret": SECRET}, 400),
        ({"body": {"id": 7}, "x_webhook_secret": SECRET}, 400),
        ({"body": {"id": "j", "x": "x" * receiver.MAX_BODY}, "x_webhook_secret": SECRET}, 413),
        ({"method": "PUT", "body": {"id": "j"}, "x_webhook_secret": SECRET}, 405),
        ({"method": "GET"}, 405),
        ({"method": "DELETE"}, 405),
    ],
)
def test_what_is_no_genuine_callback_is_refused_and_writes_nothing(
    request_: dict[str, Any], status: int, taking: Receiver, store: Store
) -> None:
    assert send(taking, **request_) == status
    assert store.records("callbacks") == []
    assert genuine(taking, "another") == 200, "it still takes others"


def test_a_body_without_an_end_and_one_that_drips_are_refused(
    taking: Receiver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "_SLOWEST", 0.1)
    port = int(taking.url.rpartition(":")[2])
    head = f"POST / HTTP/1.1\r\nhost: x\r\nx-webhook-secret: {SECRET}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(f'{head}content-length: 100\r\n\r\n{{"id'.encode())
        assert b" 408 " in slow.recv(1000)
    with socket.create_connection(("127.0.0.1", port)) as endless:
        endless.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        endless.sendall(chunk * 5)
        assert b" 413 " in endless.recv(1000)
    assert store.records("callbacks") == []


def test_the_health_of_a_receiver_can_be_asked_for(taking: Receiver) -> None:
    assert httpx.get(f"{taking.url}/health", trust_env=False).status_code == 200


def test_a_callback_that_cannot_be_written_is_asked_for_again(
    taking: Receiver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "create_record", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        assert genuine(taking, "job-1") == 503
    assert genuine(taking, "job-1") == 200
    assert len(store.records("callbacks")) == 1


def test_old_records_are_removed_and_new_ones_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks.note_callback(store, "old")
    monkeypatch.setattr(callbacks, "_OLD", -1.0)
    with Receiver([store], SECRET):
        wait_until(lambda: not store.records("callbacks"))
    monkeypatch.undo()
    callbacks.note_callback(store, "new")
    callbacks.remove_old(store)
    assert len(store.records("callbacks")) == 1


@pytest.mark.parametrize("fault", ["", "webhook.duplicate", "webhook.forged"])
@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_without_polling_a_job_is_polled_once_when_it_is_called_back(
    fault: str, is_elsewhere: bool, taking: Receiver, store: Store, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: list[str] = []
    poll = Connection.poll
    monkeypatch.setattr(Connection, "poll", lambda self, url: polls.append(url) or poll(self, url))  # type: ignore[func-returns-value]
    if is_elsewhere:  # as a receiver in another process does
        monkeypatch.setattr(receiver, "note_callback", write_record)
    with LocalServer(latency=0.05, faults=[{"fault": fault}] if fault else ()) as server:
        changes = {"endpoint": server.url, "store": store.url, "webhook_url": f"{taking.url}/x", "polling": "off"}
        with use(Settings(webhook_secret=SECRET, **changes)):  # type: ignore[arg-type]
            image = deblur(photo)
        assert len(polls) == 1
        assert image.job_id in polls[0]
        wait_until(lambda: taking.counts.total() >= (2 if fault else 1))
    assert taking.counts[401] == (1 if fault == "webhook.forged" else 0)


def test_a_job_whose_callback_is_lost_is_polled_all_the_same(
    taking: Receiver, store: Store, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "_SLOW", 0.05)
    with LocalServer(faults=[{"fault": "webhook.lost"}]) as server:
        changes = {"endpoint": server.url, "store": store.url, "webhook_url": taking.url}
        with use(Settings(webhook_secret=SECRET, **changes)):
            deblur(photo)
    assert taking.counts.total() == 0


def test_it_is_said_once_that_no_callback_comes_with_what_to_check(
    taking: Receiver, store: Store, photo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(callbacks, "_SLOW", 0.05)
    told = []
    with LocalServer(latency=0.01, faults=[{"fault": "webhook.lost"}]) as server:
        changes = {"endpoint": server.url, "store": store.url, "webhook_url": taking.url, "prefect": "off"}
        with use(Settings(webhook_secret=SECRET, **changes)):  # type: ignore[arg-type]
            for number in range(5):
                Image.new("RGB", (64, 64), (number, 0, 0)).save(photo)
                deblur(photo)
                told.append(sum("none has come" in record.message for record in caplog.records))
    assert told == [0, 0, 1, 1, 1]
    for what in ("FLUX_WEBHOOK_URL", "FLUX_WEBHOOK_SECRET", f"flux-pipelines receive on {store.url}", "doctor"):
        assert what in caplog.text
    assert SECRET not in caplog.text


def test_one_callback_that_comes_shows_that_they_arrive(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def end(number: int, *, comes: bool, is_counted: bool = True) -> None:
        async with callbacks.awaited(store, f"job-{number}", is_counted=is_counted) as calls:
            if comes:
                calls.call()

    async def end_all() -> None:
        for number in range(12):
            await end(number, comes=number % 3 == 2)
        for number in range(5):
            await end(number, comes=False, is_counted=False)

    asyncio.run(end_all())
    assert "none has come" not in caplog.text


def test_a_callback_that_comes_early_costs_one_poll_and_says_nothing_of_the_result(
    bfl: FakeBfl, taking: Receiver, store: Store, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bfl.pending_polls = 1  # the first poll finds it running
    submit = bfl._submit

    def submit_and_call(path: str, request: Request) -> Answer:
        answer = submit(path, request)
        body = {"id": answer.body["id"], "status": "Ready", "result": {"sample": f"{bfl.url}/files/evil.png"}}
        assert send(taking, body, x_webhook_secret=SECRET) == 200  # before the answer to the submission
        return answer

    monkeypatch.setattr(bfl, "_submit", submit_and_call)
    monkeypatch.setattr(callbacks, "_SLOW", 0.1)
    with use(endpoint=bfl.url, store=store.url, webhook_url=taking.url, webhook_secret=SECRET):
        deblur(photo)
    assert len(bfl.seen("GET /v1/get_result")) == 2
    assert not bfl.seen("GET /files/evil.png")
    assert store.records("callbacks") == []


def test_a_callback_after_one_that_came_early_is_no_repetition(
    bfl: FakeBfl, taking: Receiver, store: Store, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, came = bfl._poll, []

    def poll_and_call(job_id: str) -> Answer:
        answer = poll(job_id)
        came.append(genuine(taking, job_id))  # the job has ended just after this look at it
        return answer

    submit = bfl._submit

    def submit_and_call(path: str, request: Request) -> Answer:
        answer = submit(path, request)
        came.append(genuine(taking, answer.body["id"]))
        return answer

    monkeypatch.setattr(bfl, "_poll", poll_and_call)
    monkeypatch.setattr(bfl, "_submit", submit_and_call)
    given: Any = {"endpoint": bfl.url, "store": store.url, "webhook_url": taking.url, "webhook_secret": SECRET}
    with use(**given, polling="off", deadline=1e6):
        deblur(photo)
    assert (came[:2], len(bfl.seen("GET /v1/get_result"))) == ([200, 200], 2)


def test_the_secret_is_sent_to_the_service_alone_and_is_in_no_record(
    bfl: FakeBfl, store: Store, photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(callbacks, "_SLOW", 0.01)
    with use(endpoint=bfl.url, store=store.url, webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET):
        deblur(photo)
        refusal = Answer(422, {"detail": [{"loc": ["body", "webhook_secret"], "msg": f"bad {SECRET}", "type": "x"}]})
        bfl.submit_answer = refusal
        Image.new("RGB", (64, 64), "red").save(photo)
        with pytest.raises(FluxError) as refused:
            deblur(photo)
    assert bfl.bodies[0]["webhook_secret"] == SECRET
    assert SECRET not in str(refused.value) + caplog.text + repr(settings.current())
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_a_webhook_changes_no_job_key(bfl: FakeBfl, store: Store, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with use(endpoint=bfl.url, store=store.url):
        deblur(photo)
    with use(endpoint=bfl.url, store=store.url, webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET):
        deblur(photo)
    assert bfl.jobs == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"webhook_url": "nowhere"}, "webhook_url: 'nowhere' is not an address"),
        ({"webhook_url": "http://example.org/x"}, "webhook_url: the secret is not sent over plain http to example.org"),
        ({"webhook_url": "https://u:p@example.org/"}, "webhook_url: holds a user name or password"),
        ({"webhook_url": "https://127.0.0.1/"}, "webhook_url: 'https://127.0.0.1/' is this machine"),
        ({"webhook_url": "https://example.org/", "webhook_secret": ""}, "webhook_secret: is missing"),
        ({"webhook_secret": "short"}, "webhook_secret: has less than 16 characters"),
        ({"webhook_secret": "with a space and more"}, "webhook_secret: holds a character"),
        ({"polling": "off", "webhook_url": ""}, "polling: is off, and nobody calls back"),
        ({"polling": "no"}, "polling: 'no' is not one of auto, off"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Settings(
            **({"key": "k" * 9, "webhook_url": "https://example.org/", "webhook_secret": SECRET} | given)
        ).require_key()
    assert told in str(refused.value)
    assert SECRET not in str(refused.value)


async def test_all_jobs_of_a_process_look_at_the_store_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    records = Store.records
    monkeypatch.setattr(Store, "records", lambda self, kind: looks.append(kind) or records(self, kind))
    called: list[int] = []

    async def wait(number: int) -> None:
        async with callbacks.awaited(store, f"job-{number}") as calls:
            await calls.sleep(60)
            called.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(50)]
    while len(looks) < 3:
        await asyncio.sleep(0.005)
    before = len(looks)
    for number in range(50):
        await asyncio.to_thread(write_record, store, f"job-{number}")
    await asyncio.gather(*waiting)
    assert sorted(called) == list(range(50))
    assert len(looks) - before < 50
    assert store.records("callbacks") == []
