"""Answers that nobody expects: no raw exception, no second payment, no wait without end."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_bfl import FakeBfl
from scripted import Answer, ScriptedServer
from waiting import PATIENCE, wait_until

from flux_tasks import background, catalog
from flux_tasks.api.client import BflClient, Finished
from flux_tasks.errors import (
    DeliveryFailed,
    EndpointUnreachable,
    FluxError,
    Interrupted,
    InvalidRequest,
    JobLost,
    Moderated,
    RateLimited,
    ServerUnavailable,
    StillRunning,
    SubmissionUncertain,
)
from flux_tasks.images.download import download
from flux_tasks.jobs import collection, job
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.context import Halt, heed
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store

DEBLUR = catalog.TOOLS["deblur-v1"]
SUBMIT = "POST /v1/flux-tools/deblur-v1"
POLL = "GET /v1/get_result"
KEY = "bfl-the-key-of-these-tests"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def settings_for(server: ScriptedServer, tmp_path: Path, **options: Any) -> Settings:
    return Settings(endpoint=server.url, key=KEY, store=str(tmp_path / "store"), **{"poll_interval": 0.002, **options})


async def submit(server: ScriptedServer, **options: Any) -> Any:
    async with BflClient(server.url, KEY, poll_interval=0.001, **options) as client:
        return await client.submit(DEBLUR, {"image": "aGk="})


async def wait(server: ScriptedServer, polling_url: str | None = None, **options: Any) -> Finished:
    async with BflClient(server.url, KEY, poll_interval=0.001) as client:
        return await client.wait("job-1", polling_url, **options)


# -- submissions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 201, 202, 203, 206, 303])
async def test_every_answer_that_names_a_job_is_a_submission(server: ScriptedServer, code: int) -> None:
    server.on(SUBMIT, Answer(code, {"id": "job-1"}))
    assert (await submit(server)).id == "job-1"


@pytest.mark.parametrize("code", [200, 204, 226, 303])
async def test_an_answer_that_may_mean_yes_without_naming_a_job_is_uncertain(server: ScriptedServer, code: int) -> None:
    server.on(SUBMIT, Answer(code, {}))
    with pytest.raises(SubmissionUncertain):
        await submit(server)


async def test_an_id_that_no_address_can_hold_is_none(server: ScriptedServer) -> None:
    server.on(SUBMIT, Answer(200, b'{"id": "\\ud800"}'))
    with pytest.raises(SubmissionUncertain):
        await submit(server)


@pytest.mark.parametrize("loc", [None, 5, {}, [None], "body"])
async def test_a_refusal_of_any_shape_is_a_refusal(server: ScriptedServer, loc: Any) -> None:
    server.on(SUBMIT, Answer(422, {"detail": [{"loc": loc, "msg": "no"}, None, 7]}))
    with pytest.raises(InvalidRequest, match="no"):
        await submit(server)


async def test_an_answer_nested_beyond_reason_is_no_answer(server: ScriptedServer) -> None:
    deep = Answer(200, b"[" * 200_000)
    server.on(SUBMIT, deep)
    server.on(POLL, deep)
    server.on("GET /v1/credits", deep)
    with pytest.raises(SubmissionUncertain):
        await submit(server)
    with pytest.raises(StillRunning):
        await wait(server, deadline=0.1)
    async with BflClient(server.url, KEY) as client:
        assert await client.credits() is None


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "soon", "Wed, 99 Foo 9999 99:99:99 GMT"])
async def test_a_retry_after_that_says_nothing_is_passed_over(server: ScriptedServer, value: str) -> None:
    server.on(SUBMIT, Answer(429, {}, {"retry-after": value}))
    started = time.monotonic()
    with pytest.raises(RateLimited):
        async with BflClient(server.url, KEY) as client:
            await client.submit(DEBLUR, {}, deadline=0.3)
    assert len(server.seen(SUBMIT)) < 10
    assert time.monotonic() - started < PATIENCE


def test_a_call_that_is_stopped_while_it_waits_after_a_429_submits_nothing_more(
    bfl: FakeBfl, tmp_path: Path, call: Call
) -> None:
    bfl.submit_answer = Answer(429, {}, {"retry-after": "60"})
    settings = settings_for(bfl, tmp_path)
    for stop in ("run", "cancel"):
        seen, halt = len(bfl.requests), Halt()
        with heed(halt):
            running = background.start(job.execute(call, settings))
        wait_until(lambda seen=seen: any(r.method == "POST" for r in bfl.requests[seen:]))
        if stop == "run":
            halt.reason = Interrupted("interrupted (Ctrl-C)")
            with pytest.raises(Interrupted):
                running.result(PATIENCE)
        else:
            running.cancel()
        wait_until(lambda: not Journal(Store(settings.store)).entries())
    assert bfl.jobs == 0


async def test_a_connection_that_is_never_made_means_that_nothing_was_sent_however_short_the_time_out() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = [socket.socket() for _ in range(8)]
    try:
        for filler in fillers:  # the backlog is full: further connections are neither made nor refused
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        await asyncio.sleep(0.1)
        async with BflClient(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=2.0) as client:
            with pytest.raises(ServerUnavailable, match="nothing was sent"):
                await client.submit(DEBLUR, {})
    finally:
        for each in (*fillers, listener):
            each.close()


# -- polls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nope", "/v1/get_result\x07?id=job-1"])
async def test_a_polling_url_that_does_not_work_is_given_up_for_the_endpoints_own(
    server: ScriptedServer, path: str
) -> None:
    ready = {"id": "job-1", "status": "Ready", "result": {"sample": f"{server.url}/x.png"}}
    server.on(POLL, Answer(200, ready))
    assert (await wait(server, f"{server.url}{path}", deadline=PATIENCE)).id == "job-1"


BROKEN = {
    "redirects to itself": Answer(302, b"", {"location": "/named?id=job-1"}),
    "redirects nowhere": Answer(302, b""),
    "fails": Answer(500, {"detail": "oops"}),
    "refuses the key": Answer(403, {"detail": "Not authenticated"}),
    "says nothing": Answer(200, cut=0),
    "says something else": Answer(200, b"<html>"),
    "is not allowed": Answer(405, {"detail": "Method Not Allowed"}),
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_after_a_few_failures_of_any_kind_at_a_polling_address_the_endpoints_own_is_asked(
    server: ScriptedServer, broken: str
) -> None:
    server.on("GET /named", BROKEN[broken])
    server.on(POLL, Answer(200, {"id": "job-1", "status": "Ready", "result": {"sample": f"{server.url}/x.png"}}))
    assert (await wait(server, f"{server.url}/named?id=job-1", deadline=PATIENCE)).id == "job-1"


@pytest.mark.parametrize("odd", [" {}", "{} ", "\t{}", "htp:{}", "//{}", "{}\n"])
async def test_a_polling_address_that_is_no_address_does_not_keep_a_result_away(
    server: ScriptedServer, odd: str
) -> None:
    server.on(POLL, Answer(200, {"id": "job-1", "status": "Ready", "result": {"sample": f"{server.url}/x.png"}}))
    assert (await wait(server, odd.format(f"{server.url}/named?id=job-1"), deadline=PATIENCE)).id == "job-1"


async def test_a_polling_address_that_fails_for_a_while_is_asked_again_in_turn(server: ScriptedServer) -> None:
    """A region's job is not known at the global address: that must not make it a lost one."""
    ready = {"id": "job-1", "status": "Ready", "result": {"sample": f"{server.url}/x.png"}}
    server.on("GET /named", *[Answer(503, {})] * 12, Answer(200, ready))
    server.on(POLL, Answer(404, {"id": "job-1", "status": "Task not found"}))
    assert (await wait(server, f"{server.url}/named?id=job-1", deadline=PATIENCE)).id == "job-1"
    assert len(server.seen(POLL)) == 9, "in turn, after four failures"


async def test_a_job_is_not_lost_because_its_address_fails_and_another_one_does_not_know_it(
    server: ScriptedServer,
) -> None:
    server.on("GET /named", Answer(503, {}))
    server.on(POLL, Answer(404, {"id": "job-1", "status": "Task not found"}))
    with pytest.raises(StillRunning):
        await wait(server, f"{server.url}/named?id=job-1", deadline=1.0)


async def test_a_poll_does_not_sleep_beyond_its_deadline(server: ScriptedServer) -> None:
    server.on(POLL, Answer(503, {}, {"retry-after": "600"}))
    started = time.monotonic()
    with pytest.raises(StillRunning):
        await wait(server, deadline=0.3)
    assert time.monotonic() - started < PATIENCE


def test_a_job_of_a_service_that_is_unknown_soon_after_its_submission_is_not_paid_again(
    bfl: FakeBfl, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(bfl, tmp_path)
    bfl.hold = True
    with pytest.raises(StillRunning):
        background.run(job.execute(call, replace(settings, deadline=0.1)))
    monkeypatch.setattr(collection, "is_loopback", lambda url: False)
    known, bfl.known = bfl.known, {}
    with pytest.raises(JobLost):
        background.run(job.execute(call, settings))
    bfl.known, bfl.hold = known, False
    assert background.run(job.execute(call, settings)).outcome == "collected"
    assert bfl.jobs == 1


# -- the account ------------------------------------------------------------------------------------------------------


class Dripping:
    """A server that sends its head at once and then a space a moment, without end."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    async def serve(self) -> None:
        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        async with await asyncio.start_server(drip, sock=self.listener) as server:
            await server.serve_forever()


@pytest.mark.parametrize("question", ["credits", "engine"])
async def test_an_endpoint_that_drips_is_not_waited_for_without_end(question: str) -> None:
    dripping = Dripping()
    serving = asyncio.create_task(dripping.serve())
    try:
        async with BflClient(dripping.url, timeout=0.3) as client:
            with pytest.raises(EndpointUnreachable):
                await getattr(client, question)()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


# -- bodies -----------------------------------------------------------------------------------------------------------


async def test_an_answer_without_end_is_not_read_to_the_end(server: ScriptedServer) -> None:
    server.on(POLL, Answer(200, b" " * (17 * 1024 * 1024)))
    with pytest.raises(StillRunning):
        await wait(server, deadline=0.5)


async def test_what_is_packed_twice_is_not_unpacked(server: ScriptedServer) -> None:
    bomb = gzip.compress(gzip.compress(bytes(50_000_000)))
    server.on("GET /x.png", Answer(200, bomb, {"content-encoding": "gzip, gzip"}))
    async with httpx.AsyncClient() as client:
        with pytest.raises(DeliveryFailed, match="packed"):
            await download(f"{server.url}/x.png", client=client, limit=1_000_000)
    [request] = server.seen("GET /x.png")
    assert request.headers["accept-encoding"] == "identity"


# -- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("submitted", "polled"),
    [
        (Answer(422, {"detail": f"the header was {KEY}"}), None),
        (Answer(400, {"detail": [{"loc": ["header", KEY], "msg": f"{KEY} is odd"}]}), None),
        (Answer(500, {"detail": f"KeyError({KEY!r})"}), None),
        (Answer(403, {"detail": f"{KEY} is unknown"}), None),
        (None, {"status": "Content Moderated", "details": {"Moderation Reasons": [f"{KEY} again"]}}),
        (None, {"status": "Error", "details": {"error": f"no such key: {KEY}"}}),
        (None, {"status": "Error", "result": {"key": KEY, "sample": "https://x/?sig=secret"}}),
    ],
)
async def test_a_key_that_the_service_repeats_is_not_repeated_to_the_caller(
    server: ScriptedServer, submitted: Answer | None, polled: Any
) -> None:
    server.on(SUBMIT, submitted or Answer(200, {"id": "job-1"}))
    server.on(POLL, Answer(200, {"id": "job-1", **(polled or {})}))
    with pytest.raises(FluxError) as caught:
        await submit(server) if submitted else await wait(server)
    said = repr(caught.value) + str(caught.value) + str(getattr(caught.value, "reasons", ""))
    assert KEY not in said
    assert "sig=secret" not in said
    assert "<key>" in said or isinstance(caught.value, Moderated)
    assert server.requests[0].headers["x-key"] == KEY


def test_no_frame_of_the_client_holds_the_key_when_it_fails(server: ScriptedServer) -> None:
    server.on(SUBMIT, Answer(500, {}))

    async def failing() -> BaseException:
        try:
            await submit(server)
        except SubmissionUncertain as error:
            return error
        raise AssertionError

    trace = asyncio.run(failing()).__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith("client.py"):
            assert KEY not in repr(trace.tb_frame.f_locals)
        trace = trace.tb_next
