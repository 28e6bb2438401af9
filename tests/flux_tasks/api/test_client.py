"""The client against a server whose every answer is scripted: each row of the table in ``client``'s docstring."""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from scripted import Answer, Request, ScriptedServer
from waiting import PATIENCE, clock_that_ends, wait_until_still

from flux_tasks import catalog
from flux_tasks.api import client as client_module
from flux_tasks.api.client import BflClient, Finished
from flux_tasks.errors import (
    DeliveryFailed,
    EndpointUnreachable,
    InvalidRequest,
    JobFailed,
    JobLost,
    KeyRefused,
    Moderated,
    OutOfCredits,
    RateLimited,
    ServerUnavailable,
    SubmissionUncertain,
)

DEBLUR = catalog.TOOLS["deblur-v1"]
SUBMIT = "POST /v1/flux-tools/deblur-v1"
POLL = "GET /v1/get_result"
KEY = "7c1f-secret-key"


def png(size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 40).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def client_of(server: ScriptedServer, **options: Any) -> BflClient:
    return BflClient(server.url, KEY, poll_interval=0.001, **options)


def accepted(server: ScriptedServer, job_id: str = "job-1") -> Answer:
    return Answer(200, {"id": job_id, "polling_url": f"{server.url}/v1/get_result?id={job_id}", "cost": 3.0})


# -- submit -----------------------------------------------------------------------------------------------------------


async def test_a_submission_sends_the_key_and_the_body_and_returns_id_polling_url_and_cost(
    server: ScriptedServer,
) -> None:
    server.on(SUBMIT, accepted(server))
    async with client_of(server) as client:
        submission = await client.submit(DEBLUR, {"image": "aGk=", "seed": 3})
    assert (submission.id, submission.cost) == ("job-1", 3.0)
    assert submission.polling_url == f"{server.url}/v1/get_result?id=job-1"
    [request] = server.seen(SUBMIT)
    assert request.headers["x-key"] == KEY
    assert request.json() == {"image": "aGk=", "seed": 3}


async def test_a_submission_sends_whole_numbers_of_any_length(server: ScriptedServer) -> None:
    server.on(SUBMIT, accepted(server))
    async with client_of(server) as client:
        await client.submit(DEBLUR, {"image": "aGk=", "seed": 2**64 + 1})
    [request] = server.seen(SUBMIT)
    assert request.json() == {"image": "aGk=", "seed": 2**64 + 1}


async def test_a_webhook_submission_has_no_polling_url_and_is_understood(server: ScriptedServer) -> None:
    server.on(SUBMIT, Answer(200, {"id": "job-1", "status": "Pending", "webhook_url": "https://example.com/hook"}))
    async with client_of(server) as client:
        submission = await client.submit(DEBLUR, {"image": "aGk=", "webhook_url": "https://example.com/hook"})
    assert submission.polling_url is None
    assert submission.status == "Pending"


@pytest.mark.parametrize("code", [401, 403])
async def test_401_and_403_both_mean_that_the_key_is_refused(server: ScriptedServer, code: int) -> None:
    server.on(SUBMIT, Answer(code, {"detail": "Not authenticated"}))
    async with client_of(server) as client:
        with pytest.raises(KeyRefused, match="Not authenticated"):
            await client.submit(DEBLUR, {})
    assert len(server.seen(SUBMIT)) == 1


async def test_a_malformed_key_answered_with_422_is_a_refused_key(server: ScriptedServer) -> None:
    server.on(SUBMIT, Answer(422, {"detail": "Invalid API key format"}))
    async with client_of(server) as client:
        with pytest.raises(KeyRefused):
            await client.submit(DEBLUR, {})


async def test_402_means_out_of_credits(server: ScriptedServer) -> None:
    server.on(SUBMIT, Answer(402, {"detail": "Insufficient credits"}))
    async with client_of(server) as client:
        with pytest.raises(OutOfCredits, match="Insufficient credits"):
            await client.submit(DEBLUR, {})


async def test_a_schema_error_lists_each_problem_with_its_field(server: ScriptedServer) -> None:
    detail = [
        {"loc": ["body", "seed"], "msg": "Input should be a valid integer", "type": "int_type"},
        {"loc": ["body", "image"], "msg": "Field required", "type": "missing"},
    ]
    server.on(SUBMIT, Answer(422, {"detail": detail}))
    async with client_of(server) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.submit(DEBLUR, {})
    assert [p.where for p in caught.value.problems] == ["deblur.seed", "deblur.image"]
    assert "Field required" in str(caught.value)


@pytest.mark.parametrize("code", [400, 404, 413, 418, 422])
async def test_other_client_errors_are_invalid_requests_with_the_servers_words(
    server: ScriptedServer, code: int
) -> None:
    server.on(SUBMIT, Answer(code, {"detail": "the canvas is too large"}))
    async with client_of(server) as client:
        with pytest.raises(InvalidRequest, match="the canvas is too large"):
            await client.submit(DEBLUR, {})


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_a_submission_answered_with_5xx_is_never_repeated(server: ScriptedServer, code: int) -> None:
    server.on(SUBMIT, Answer(code, {"detail": "oops"}))
    async with client_of(server) as client:
        with pytest.raises(SubmissionUncertain):
            await client.submit(DEBLUR, {})
    assert len(server.seen(SUBMIT)) == 1


@pytest.mark.parametrize("cut", [0, 10, 60])
async def test_a_connection_cut_after_the_request_leaves_the_submission_uncertain(
    server: ScriptedServer, cut: int
) -> None:
    server.on(SUBMIT, Answer(200, {"id": "job-1", "polling_url": "x"}, cut=cut))
    async with client_of(server) as client:
        with pytest.raises(SubmissionUncertain, match="may be charged"):
            await client.submit(DEBLUR, {})
    assert len(server.seen(SUBMIT)) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", {"polling_url": "x"}, [], {"id": 7}, {"id": ""}])
async def test_an_accepted_submission_without_a_readable_id_is_uncertain(server: ScriptedServer, body: Any) -> None:
    server.on(SUBMIT, Answer(200, body))
    async with client_of(server) as client:
        with pytest.raises(SubmissionUncertain):
            await client.submit(DEBLUR, {})


async def test_a_429_is_waited_for_as_the_server_asks_and_then_submitted_once(server: ScriptedServer) -> None:
    busy = Answer(429, {"detail": "Too many active tasks"}, headers={"retry-after": "0"})
    server.on(SUBMIT, busy, busy, accepted(server))
    async with client_of(server) as client:
        submission = await client.submit(DEBLUR, {})
    assert submission.id == "job-1"
    assert len(server.seen(SUBMIT)) == 3


@pytest.mark.parametrize("asked", ["0", "Mon, 01 Jan 2024 00:00:00 GMT"])
async def test_a_429_that_asks_for_no_wait_at_all_is_repeated_less_and_less_often(
    server: ScriptedServer, asked: str
) -> None:
    server.on(SUBMIT, Answer(429, {"detail": "busy"}, headers={"retry-after": asked}))
    async with client_of(server) as client:
        with pytest.raises(RateLimited):
            await client.submit(DEBLUR, {}, deadline=1.0)
    assert 1 < len(server.seen(SUBMIT)) <= 5  # after 0.05, 0.1, 0.2 and 0.4 s


async def test_a_429_whose_wait_is_longer_than_the_deadline_is_reported(server: ScriptedServer) -> None:
    from dataclasses import replace

    server.on(SUBMIT, Answer(429, {"detail": "busy"}, headers={"retry-after": "30"}))
    async with client_of(server) as client:
        with pytest.raises(RateLimited) as caught:
            await client.submit(replace(DEBLUR, deadline=1.0), {})
    assert caught.value.retry_after == 30.0


async def test_a_refused_connection_says_that_nothing_was_sent() -> None:
    with ScriptedServer() as gone:
        url = gone.url
    async with BflClient(url, KEY) as client:
        with pytest.raises(ServerUnavailable, match="nothing was sent"):
            await client.submit(DEBLUR, {})


async def test_a_redirect_of_a_submission_is_not_followed(server: ScriptedServer) -> None:
    server.on(SUBMIT, Answer(307, b"", headers={"location": "http://127.0.0.2:9/steal"}))
    async with client_of(server) as client:
        with pytest.raises(InvalidRequest, match="redirect"):
            await client.submit(DEBLUR, {})


# -- poll -------------------------------------------------------------------------------------------------------------


def status(name: str, code: int = 200, **more: Any) -> Answer:
    return Answer(code, {"id": "job-1", "status": name, **more})


READY = status("Ready", result={"sample": "https://delivery.example/x.png", "seed": 7}, cost=4.5)


async def test_polling_goes_on_until_ready_and_brings_the_settled_cost(server: ScriptedServer) -> None:
    progress: list[tuple[str, float | None]] = []
    server.on(POLL, status("Pending"), status("Generating", progress=0.5), READY)
    async with client_of(server) as client:
        finished = await client.wait("job-1", on_progress=lambda s, p: progress.append((s, p)))
    assert finished.sample == "https://delivery.example/x.png"
    assert (finished.cost, finished.details["seed"]) == (4.5, 7)
    assert progress == [("Pending", None), ("Generating", 0.5)]


async def test_the_returned_polling_url_is_the_one_that_is_polled(server: ScriptedServer) -> None:
    server.on("GET /region/7/get_result", READY)
    async with client_of(server) as client:
        await client.wait("job-1", f"{server.url}/region/7/get_result?id=job-1")
    assert not server.seen(POLL)


async def test_an_unknown_status_means_still_running(server: ScriptedServer) -> None:
    server.on(POLL, status("Processing"), status("Queued"), status("Dreaming"), READY)
    async with client_of(server) as client:
        assert (await client.wait("job-1")).id == "job-1"


@pytest.mark.parametrize("code", [200, 422, 500, 503])
async def test_a_failed_job_is_known_by_its_status_whatever_the_http_code(server: ScriptedServer, code: int) -> None:
    server.on(POLL, status("Error", code, details={"message": "boom"}))
    async with client_of(server) as client:
        with pytest.raises(JobFailed, match="boom"):
            await client.wait("job-1")


@pytest.mark.parametrize(("name", "stage"), [("Request Moderated", "request"), ("Content Moderated", "content")])
@pytest.mark.parametrize("code", [200, 422])
async def test_moderation_carries_its_stage_and_reasons(
    server: ScriptedServer, name: str, stage: str, code: int
) -> None:
    server.on(POLL, status(name, code, details={"Moderation Reasons": ["Violence", "Derivative Works Filter"]}))
    async with client_of(server) as client:
        with pytest.raises(Moderated) as caught:
            await client.wait("job-1")
    assert (caught.value.stage, caught.value.reasons) == (stage, ("Violence", "Derivative Works Filter"))
    assert "not charged" in str(caught.value)


async def test_the_first_polls_may_not_know_the_job_yet(server: ScriptedServer) -> None:
    missing = status("Task not found", 404)
    server.on(POLL, missing, missing, missing, status("Pending"), READY)
    async with client_of(server) as client:
        assert (await client.wait("job-1")).id == "job-1"


async def test_a_job_that_stays_unknown_is_lost(server: ScriptedServer) -> None:
    server.on(POLL, status("Task not found", 404))
    async with client_of(server) as client:
        with pytest.raises(JobLost):
            await client.wait("job-1")
    assert len(server.seen(POLL)) == 6


async def test_failing_polls_are_repeated_because_they_are_free(server: ScriptedServer) -> None:
    server.on(POLL, Answer(500, b"oops"), Answer(200, b"", cut=0), Answer(429, b""), Answer(200, b"<html>"), READY)
    async with client_of(server) as client:
        assert (await client.wait("job-1")).id == "job-1"


async def test_a_job_that_never_ends_is_given_up_at_its_deadline_and_can_be_asked_for_again(
    server: ScriptedServer,
) -> None:
    server.on(POLL, status("Pending"))
    async with client_of(server) as client:
        with pytest.raises(ServerUnavailable, match="can be asked for again"):
            await client.wait("job-1", deadline=0.05)


async def test_a_process_that_was_stopped_beyond_the_deadline_of_its_job_asks_for_it_once_more(
    server: ScriptedServer,
) -> None:
    server.on(POLL, status("Pending"), READY)
    async with client_of(server) as client:
        finished = await client.wait("job-1", deadline=0.2, on_progress=lambda *_: time.sleep(0.3))
    assert finished.id == "job-1"


async def test_a_ready_job_whose_result_is_not_named_is_asked_for_again_and_never_given_up(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on(POLL, status("Ready", result=None), status("Ready"), READY)
    async with client_of(server) as client:
        assert (await client.wait("job-1")).id == "job-1"
    server.on(POLL, status("Ready", result={}))
    asked = len(server.seen(POLL))
    monkeypatch.setattr(client_module, "time", clock_that_ends(lambda: len(server.seen(POLL)) > asked))
    async with client_of(server) as client:
        with pytest.raises(ServerUnavailable, match="ready, but without a result"):
            await client.wait("job-1", deadline=PATIENCE)


async def test_a_404_that_does_not_come_from_the_api_says_nothing_about_the_job(server: ScriptedServer) -> None:
    server.on(POLL, *[Answer(404, b"<html>no such page</html>")] * 7, READY)
    async with client_of(server) as client:
        assert (await client.wait("job-1")).id == "job-1"


async def test_a_job_that_is_unknown_now_and_then_is_not_lost(server: ScriptedServer) -> None:
    now_and_then = [status("Task not found", 404), status("Pending")] * 9
    server.on(POLL, *now_and_then, READY)
    async with client_of(server) as client:
        assert (await client.wait("job-1")).id == "job-1"


@pytest.mark.parametrize("odd", ["http://[::1", {}, 7, "ftp://x", "//"])
async def test_an_odd_polling_url_does_not_lose_the_job(server: ScriptedServer, odd: Any) -> None:
    server.on(SUBMIT, Answer(200, {"id": "job-1", "polling_url": odd, "cost": 10**400}))
    server.on(POLL, READY)
    async with client_of(server) as client:
        submission = await client.submit(DEBLUR, {})
        assert submission.cost is None
        assert (await client.wait("job-1", submission.polling_url)).id == "job-1"


async def test_a_polling_url_on_a_foreign_host_never_gets_the_key_and_the_endpoint_is_asked_instead(
    server: ScriptedServer,
) -> None:
    server.on(POLL, READY)
    async with client_of(server) as client:
        assert (await client.wait("job-1", "https://evil.example/v1/get_result?id=job-1")).id == "job-1"
    assert server.seen(POLL)[0].path == "/v1/get_result?id=job-1"


@pytest.mark.parametrize(
    ("base", "url", "allowed"),
    [
        ("https://api.bfl.ai", "https://api.eu2.bfl.ai/v1/get_result?id=1", True),
        ("https://api.bfl.ai", "https://gateway.bfl.ai/x", True),
        ("https://api.bfl.ai", "http://api.bfl.ai/x", False),
        ("https://api.bfl.ai", "https://evil-bfl.ai/x", False),
        ("https://api.bfl.ai", "https://bfl.ai.evil.example/x", False),
        ("https://api.bfl.ai", "https://api.bfl.ai@evil.example/x", False),
        ("https://own.example", "https://own.example/x", True),
        ("https://own.example", "https://other.example/x", False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/x", True),
        ("http://127.0.0.1:8000", "http://127.0.0.1:9000/x", False),
    ],
)
async def test_the_key_goes_to_bfl_and_to_the_endpoints_own_host_only(base: str, url: str, allowed: bool) -> None:
    import httpx

    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"id": "1", "status": "Ready", "result": {"sample": "https://d.example/1"}})

    async with BflClient(base, KEY, transport=httpx.MockTransport(handle)) as client:
        await client.wait("1", url)
    asked_directly = str(sent[0].url) == url
    assert asked_directly is allowed
    assert sent[0].url.host == (httpx.URL(url).host if allowed else httpx.URL(base).host)


# -- fetch ------------------------------------------------------------------------------------------------------------


async def test_a_delivery_is_fetched_untouched_and_without_the_key(server: ScriptedServer) -> None:
    data = png()
    server.on("GET /delivery/1.png", Answer(200, data))
    async with client_of(server) as client:
        assert await client.fetch(Finished("1", f"{server.url}/delivery/1.png?signature=abc")) == data
    assert "x-key" not in server.requests[0].headers
    assert KEY not in str(server.requests[0].headers)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b""),
        Answer(200, b"not an image at all"),
        Answer(200, png()[:-20]),
        Answer(200, png(), cut=400),
        Answer(403, b"expired"),
        Answer(404, b""),
        Answer(500, b""),
        Answer(302, b"", headers={"location": "http://127.0.0.2:9/elsewhere"}),
        Answer(200, png(), headers={"content-length": str(10**12)}),
    ],
    ids=["empty", "garbage", "truncated", "cut", "expired", "gone", "broken", "redirected", "oversized"],
)
async def test_a_delivery_that_did_not_arrive_whole_is_refused(server: ScriptedServer, answer: Answer) -> None:
    server.on("GET /d.png", answer)
    async with client_of(server) as client:
        with pytest.raises(DeliveryFailed):
            await client.fetch(Finished("1", f"{server.url}/d.png"))


async def test_a_delivery_address_that_is_neither_https_nor_loopback_is_not_fetched(server: ScriptedServer) -> None:
    async with client_of(server) as client:
        with pytest.raises(DeliveryFailed, match="not https"):
            await client.fetch(Finished("1", "http://delivery.example/x.png"))


async def test_a_signed_delivery_address_is_in_no_error_and_no_repr(server: ScriptedServer) -> None:
    finished = Finished("1", f"{server.url}/d.png?sig=topsecret")
    async with client_of(server) as client:
        with pytest.raises(DeliveryFailed) as caught:
            await client.fetch(finished)
    assert "topsecret" not in str(caught.value)
    assert "topsecret" not in repr(finished)


# -- account and engine -----------------------------------------------------------------------------------------------


async def test_credits_are_read_with_the_key(server: ScriptedServer) -> None:
    server.on("GET /v1/credits", Answer(200, {"credits": 41.5}))
    async with client_of(server) as client:
        assert await client.credits() == 41.5
    assert server.requests[0].headers["x-key"] == KEY


async def test_an_endpoint_that_does_not_tell_its_credits_is_no_error(server: ScriptedServer) -> None:
    async with client_of(server) as client:
        assert await client.credits() is None


async def test_a_refused_key_is_found_by_asking_for_credits(server: ScriptedServer) -> None:
    server.on("GET /v1/credits", Answer(403, {"detail": "Not authenticated"}))
    async with client_of(server) as client:
        with pytest.raises(KeyRefused):
            await client.credits()


async def test_nobody_at_the_endpoint_is_said_so() -> None:
    with ScriptedServer() as gone:
        url = gone.url
    async with BflClient(url, KEY) as client:
        with pytest.raises(EndpointUnreachable, match="cannot be reached"):
            await client.credits()


@pytest.mark.parametrize(
    ("answer", "engine"),
    [
        (Answer(200, {"engine": "local:classical@1"}), "local:classical@1"),
        (Answer(200, {"engine": "bfl"}), "custom:loopback"),
        (Answer(404, {"detail": "Not Found"}), "custom:loopback"),
        (Answer(200, b"<html>"), "custom:loopback"),
    ],
)
async def test_no_other_engine_passes_for_bfl(server: ScriptedServer, answer: Answer, engine: str) -> None:
    server.on("GET /local", answer)
    async with client_of(server) as client:
        assert await client.engine() == engine
    assert await BflClient("https://api.eu.bfl.ai", KEY).engine() == "bfl"


async def test_the_key_is_not_in_the_clients_repr(server: ScriptedServer) -> None:
    async with client_of(server) as client:
        assert KEY not in repr(client)


# -- transport --------------------------------------------------------------------------------------------------------


async def test_connections_are_used_again(server: ScriptedServer) -> None:
    server.on(POLL, *[status("Pending")] * 30, READY)
    async with client_of(server) as client:
        await client.wait("job-1")
        await client.wait("job-1")
    assert len(server.requests) > 30
    assert server.connections == 1


async def test_cancelling_a_wait_stops_its_polling(server: ScriptedServer) -> None:
    server.on(POLL, status("Pending"))
    async with client_of(server) as client:
        waiting = asyncio.create_task(client.wait("job-1"))
        while not server.seen(POLL):
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.to_thread(wait_until_still, lambda: len(server.seen(POLL)))


async def listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            await writer.wait_closed()
            return


async def test_http_2_is_spoken_where_the_server_offers_it() -> None:
    import trustme
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    versions: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        versions.append(scope["http_version"])
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"credits": 1}'})

    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    config = Config()
    with certificate.private_key_and_cert_chain_pem.tempfile() as pem:
        config.bind = ["127.0.0.1:0"]
        config.certfile = config.keyfile = pem
        config.errorlog = None
        sockets = config.create_sockets()
        port = sockets.secure_sockets[0].getsockname()[1]
        config.create_sockets = lambda: sockets  # type: ignore[method-assign]
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
        context = ssl.create_default_context()
        authority.configure_trust(context)
        await listening(port)
        async with BflClient(f"https://127.0.0.1:{port}", KEY, verify=context) as client:
            assert await client.credits() == 1.0
        stop.set()
        await serving
    assert versions == ["2"]


def test_the_request_body_is_what_the_call_says_and_nothing_else(server: ScriptedServer) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Answer:
        seen.append(request)
        return accepted(server)

    server.on(SUBMIT, call=answer)

    async def submit() -> None:
        async with client_of(server) as client:
            await client.submit(DEBLUR, {"image": "aGk="})

    asyncio.run(submit())
    assert seen[0].json() == {"image": "aGk="}
    assert seen[0].headers["content-type"] == "application/json"
