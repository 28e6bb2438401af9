"""The key is found nowhere, whatever goes wrong, also where the service itself repeats it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import pickle
import ssl
import traceback
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request as WebRequest
from urllib.request import urlopen

import pytest
from fake_bfl import FakeBfl
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from scripted import Answer, Request

from flux_tasks import background, catalog, deblur, use
from flux_tasks.api.client import BflClient
from flux_tasks.errors import DeliveryFailed, FluxError, KeyRefused, RecipeError
from flux_tasks.jobs import collection, job
from flux_tasks.jobs.call import prepare
from flux_tasks.local import LocalServer
from flux_tasks.settings import Settings, from_environment

# Prefect's own client leaves its connections to the server to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DEBLUR = catalog.TOOLS["deblur-v1"]
SIGNATURE = "sv-Signature-Qw83-of-the-delivery"

RECIPE = "source: {images: 'photos/*'}\nsteps: [deblur]\noutput: {path: 'out/{{ stem }}.png'}\n"


def holds(content: bytes | str, secret: str) -> bool:
    """Whether ``secret`` stands in ``content`` as it is, or inside base64 (Prefect keeps some values so)."""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    shifted = (base64.b64encode(b"\0" * shift + secret.encode())[4:-4] for shift in range(3))
    return secret.encode() in raw or any(part in raw for part in shifted)


def files_with(folder: Path, secret: str) -> list[str]:
    """Files below ``folder`` whose name or content holds ``secret``."""
    found = (p for p in folder.rglob("*") if holds(str(p), secret) or (p.is_file() and holds(p.read_bytes(), secret)))
    return sorted(str(p.relative_to(folder)) for p in found)


class Mirror(FakeBfl):
    """Says the key that it was sent in every answer in which there is room for words; each width has its own fate."""

    FATES = (
        "done",
        "refused-422",
        "schema-422",
        "broken-500",
        "cut",
        "moderated",
        "failed",
        "failed-with-address",
        "undelivered",
        "html-502",
    )

    def __init__(self, key: str) -> None:
        super().__init__(key=key)
        self.fates: dict[str, str] = {}

    def _submit(self, path: str, request: Request) -> Answer:
        said = request.headers.get("x-key", "")
        picture = Image.open(io.BytesIO(base64.b64decode(request.json()["image"])))
        fate = self.FATES[(picture.width - 96) % len(self.FATES)]
        refusals = {
            "refused-422": Answer(422, {"detail": f"Invalid API key: {said} is not of this account"}),
            "schema-422": Answer(
                422,
                {"detail": [{"loc": ["body", f"x-key={said}"], "msg": f"the header x-key was {said}", "input": said}]},
            ),
            "broken-500": Answer(500, {"detail": f"KeyError in handle(key='{said}')"}),
            "html-502": Answer(502, f"<html>x-key: {said}</html>".encode()),
            "cut": Answer(200, {"id": said}, cut=20),
        }
        if fate in refusals and fate != "refused-422":
            return refusals[fate]
        if fate == "refused-422":
            return Answer(400, {"detail": f"the account of {said} may not use this tool"})
        answer = super()._submit(path, request)
        self.fates[answer.body["id"]] = fate
        return answer

    def _poll(self, job_id: str) -> Answer:
        said = self.requests[-1].headers.get("x-key", "")
        fate = self.fates[job_id]
        address = f"{self.url}/files/{'none' if fate == 'undelivered' else job_id}.png?se=9&sig={SIGNATURE}"
        if fate == "moderated":
            return Answer(
                200, {"id": job_id, "status": "Content Moderated", "details": {"Moderation Reasons": [said, "other"]}}
            )
        if fate == "failed":
            return Answer(200, {"id": job_id, "status": "Error", "details": {"error": f"no such key: {said}"}})
        if fate == "failed-with-address":
            return Answer(200, {"id": job_id, "status": "Error", "result": {"sample": address, "key": said}})
        result = {"sample": address, "prompt": said, "debug": {"x-key": said}}
        return Answer(200, {"id": job_id, "status": "Ready", "result": result, "cost": 3.0, "details": {"key": said}})


@pytest.fixture
def mirror(key: str) -> Iterator[Mirror]:
    with Mirror(key) as server:
        yield server


def picture(path: Path, width: int) -> str:
    Image.linear_gradient("L").resize((width, 80)).convert("RGB").save(path)
    return str(path)


@pytest.fixture
def fated(tmp_path: Path) -> Path:
    """A picture for each fate."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, fate in enumerate(Mirror.FATES):
        picture(folder / f"{fate}.png", 96 + number)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("recorded")
def test_a_run_with_every_kind_of_failure_tells_the_key_and_the_delivery_addresses_to_no_file_and_no_screen(
    cli: Any, mirror: Mirror, fated: Path, key: str
) -> None:
    (fated / "photos" / "undelivered.png").unlink()  # it is asked for again and again, after pauses
    told = cli("run", "recipe.yaml", "--endpoint", mirror.url)
    outcomes = told.outcomes
    assert outcomes["done"] == "done"
    assert outcomes["moderated"] == "moderated"
    assert outcomes["cut"] == outcomes["broken-500"] == "held"
    assert len(outcomes) == len(Mirror.FATES) - 1
    journal = [p.read_text() for p in (fated / "store" / "journal").glob("*.json")]
    assert len(journal) >= 2, "the uncertain ones are in the journal, so that it was looked at"
    assert mirror.requests, "the key was sent"
    assert not holds(told.all, key)
    assert not holds(told.all, SIGNATURE)
    assert files_with(fated, key) == []
    assert files_with(fated, SIGNATURE) == []


def test_a_run_whose_key_is_refused_with_the_key_in_the_answer_does_not_repeat_it(
    cli: Any, bfl: FakeBfl, fated: Path, key: str
) -> None:
    bfl.on("GET /v1/credits", Answer(403, {"detail": f"Not authenticated: '{key}' is unknown"}))
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert told.code == 3
    assert "refused the key" in told.err
    assert not holds(told.all, key)
    assert files_with(fated, key) == []


@pytest.mark.usefixtures("recorded")
def test_a_run_that_the_service_stops_half_way_does_not_repeat_the_key_it_was_told(
    cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path, key: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    bfl.submit_answer = Answer(422, {"detail": f"Invalid API key format: {key}"})
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert told.code == 3
    assert "refused the key" in told.all
    assert not holds(told.all, key)
    assert files_with(tmp_path, key) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "none.yaml"),
        ("run", "recipe.yaml", "--endpoint", "http://api.example.com"),
        ("run", "recipe.yaml", "--endpoint", "http://127.0.0.1:9"),
        ("run", "recipe.yaml", "--endpoint", "https://user:password@api.example.com"),
        ("validate", "recipe.yaml"),
        ("tools", "--json"),
        ("faults",),
    ],
    ids=" ".join,
)
def test_no_command_says_the_key(cli: Any, fated: Path, key: str, arguments: tuple[str, ...]) -> None:
    told = cli(*arguments)
    assert told.all
    assert not holds(told.all, key)
    assert files_with(fated, key) == []


def test_a_result_that_is_not_delivered_is_told_and_journalled_without_its_signed_address(
    mirror: Mirror, fated: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "_FETCH_PAUSES", (0.01, 0.01, 0.01))
    settings = Settings(endpoint=mirror.url, key=key, store=str(fated / "store"), poll_interval=0.002)
    call = prepare(DEBLUR, {"image": str(fated / "photos" / "undelivered.png")})
    with pytest.raises(DeliveryFailed, match="HTTP 404") as caught:
        background.run(job.execute(call, settings))
    assert len(list((fated / "store" / "journal").glob("*.json"))) == 1
    told = "".join(traceback.format_exception(caught.value))
    assert [text for text in (key, SIGNATURE) if holds(told, text) or files_with(fated, text)] == []


# -- Prefect ----------------------------------------------------------------------------------------------------------


async def settled(name: str, tasks: int) -> list[str]:
    """Everything that Prefect's server tells of the flow run called ``name``, once it knows how all of it ended."""
    chosen = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    async with get_client() as client:
        while True:
            runs = await client.read_flow_runs(flow_run_filter=chosen)
            found = await client.read_task_runs(flow_run_filter=chosen)
            ended = [r for r in (*runs, *found) if r.state and r.state.is_final()]
            logs = await client.read_logs()
            if len(runs) == 1 and len(found) == tasks and len(ended) == tasks + 1 and logs:
                return [r.model_dump_json() for r in (*runs, *found, *logs)]
            await asyncio.sleep(0.05)


def test_prefect_is_told_the_key_in_no_parameter_state_log_tag_or_result(
    mirror: Mirror, fated: Path, key: str, prefect_server: str
) -> None:
    fates = [fate for fate in Mirror.FATES if fate != "undelivered"]  # which is repeated, after pauses
    name = f"redaction-{fated.name}"

    @flow(name=name, flow_run_name=name)
    def everything() -> int:
        futures = [deblur.submit(str(fated / "photos" / f"{fate}.png")) for fate in fates]
        for future in futures:
            future.wait()
        return len(futures)

    settings = {"endpoint": mirror.url, "key": key, "store": str(fated / "store"), "poll_interval": 0.002}
    with use(**settings), temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
        assert everything() == len(fates)
        told = asyncio.run(settled(name, len(fates)))
    assert any("may be charged" in text for text in told), "failures are told"
    assert [text for text in told if holds(text, key) or holds(text, SIGNATURE)] == []
    assert files_with(fated, key) == []
    assert files_with(fated, SIGNATURE) == []


def test_prefects_database_holds_neither_a_key_nor_a_delivery_address_after_all_that(
    mirror: Mirror, fated: Path, key: str, prefect_server: str
) -> None:
    name = f"database-{fated.name}"

    @flow(name=name, flow_run_name=name)
    def single() -> None:
        deblur(str(fated / "photos" / "done.png"))
        for fate in ("refused-422", "moderated", "failed-with-address"):
            with suppress(FluxError):
                deblur(str(fated / "photos" / f"{fate}.png"))

    with (
        use(endpoint=mirror.url, key=key, store=str(fated / "store"), poll_interval=0.002),
        temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}),
    ):
        single()
        asyncio.run(settled(name, 4))
    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).split("///", 1)[1])
    stored = [p for p in database.parent.glob(f"{database.name}*") if p.is_file()]
    content = b"".join(p.read_bytes() for p in stored)
    assert name.encode() in content, "this is the database that was written"
    assert not holds(content, key)
    assert not holds(content, SIGNATURE)


# -- words of the program ---------------------------------------------------------------------------------------------


def test_settings_and_clients_show_themselves_without_the_key(key: str) -> None:
    settings = Settings(endpoint="bfl", key=key)
    client = BflClient("https://api.bfl.ai", key)
    shown = [f"{x} {x!r} {x!s} {[x]} { ({'x': x}) }" for x in (settings, client)]
    shown.append("%s %r" % (settings, client))  # noqa: UP031 - as loggers do it
    asyncio.run(client.aclose())
    assert not holds("".join(shown), key)


class Reason(Answer):
    """An answer without a body, whose reason phrase is ``body``."""

    def encode(self) -> bytes:
        return f"HTTP/1.1 {self.status} {self.body}\r\ncontent-length: 0\r\n\r\n".encode()


ECHOES: dict[str, Callable[[str], Answer]] = {
    "401": lambda key: Answer(401, {"detail": f"unknown key {key}"}),
    "403": lambda key: Answer(403, {"detail": f"unknown key {key}"}),
    "422 words": lambda key: Answer(422, {"detail": f"API key {key} is malformed"}),
    "422 list": lambda key: Answer(422, {"detail": [{"loc": ["body", key], "msg": f"{key}?"}]}),
    "422 mapping": lambda key: Answer(422, {"detail": {"x-key": key}}),
    "400": lambda key: Answer(400, {"detail": key}),
    "402": lambda key: Answer(402, {"detail": f"{key} has no credits"}),
    "404": lambda key: Answer(404, {"detail": key}),
    "500": lambda key: Answer(500, {"detail": f"KeyError: {key}"}),
    "reason phrase": lambda key: Reason(403, key),
    "redirect": lambda key: Answer(307, b"", {"location": f"https://evil.example/?x-key={key}"}),
    "cut": lambda key: Answer(200, {"id": "1"}, cut=10),
    "nothing": lambda key: Answer(cut=0),
    "no id": lambda key: Answer(200, {"key": key}),
}


@pytest.mark.parametrize("kind", ECHOES)
async def test_no_error_of_a_submission_repeats_the_key_in_its_words_traceback_or_pickle(
    bfl: FakeBfl, key: str, kind: str
) -> None:
    bfl.on("POST /v1/flux-tools/deblur-v1", ECHOES[kind](key))
    async with BflClient(bfl.url, key, verify=False) as client:
        with pytest.raises(FluxError) as caught:
            await client.submit(DEBLUR, {"image": "aGk="})
    assert_silent(caught.value, key)


ENDINGS: dict[str, Callable[[str], Answer]] = {
    "moderated": lambda key: Answer(
        200, {"status": "Request Moderated", "details": {"Moderation Reasons": [f"holds {key}"]}}
    ),
    "error": lambda key: Answer(200, {"status": "Error", "details": {"error": key}}),
    "error in the result": lambda key: Answer(200, {"status": "Error", "result": {"headers": {"x-key": key}}}),
    "refused": lambda key: Answer(403, {"detail": key}),
}


@pytest.mark.parametrize("kind", ENDINGS)
async def test_no_error_of_a_job_repeats_the_key_in_its_words_traceback_or_pickle(
    bfl: FakeBfl, key: str, kind: str
) -> None:
    bfl.on("GET /v1/get_result", ENDINGS[kind](key))
    async with BflClient(bfl.url, key, verify=False) as client:
        with pytest.raises(FluxError) as caught:
            await client.wait("job-1")
    assert_silent(caught.value, key)


async def test_no_error_of_the_account_repeats_the_key(bfl: FakeBfl, key: str) -> None:
    bfl.on("GET /v1/credits", Answer(403, {"detail": f"who is {key}?"}))
    async with BflClient(bfl.url, key, verify=False) as client:
        with pytest.raises(KeyRefused) as caught:
            await client.credits()
    assert_silent(caught.value, key)


def chain_of(error: BaseException | None) -> list[BaseException]:
    """The error and what it was raised in, which Dask sends along."""
    return [] if error is None else [error, *chain_of(error.__cause__ or error.__context__)]


def assert_silent(error: BaseException, key: str) -> None:
    """Neither the error nor its traceback, also with the values of the library's variables, tells the key."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [f for f in told.stack if "/flux_tasks/" in f.filename and "/tests/" not in f.filename]
    assert ours, "the traceback goes through the library"
    assert not holds(str(error), key)
    assert not holds(repr(error) + repr(error.args) + repr(vars(error)), key)
    assert not holds("".join(traceback.format_exception(error)), key)
    assert not holds(pickle.dumps(error), key)
    assert not holds(pickle.dumps([(type(one), one.args, vars(one)) for one in chain_of(error)]), key)
    values = [(f"{f.name}: {name}", value) for f in ours for name, value in (f.locals or {}).items()]
    # httpx shows an answer with its reason phrase, in which no service puts a key.
    assert [place for place, value in values if holds(value, key) and not value.startswith("<Response")] == []


@pytest.mark.parametrize("jobs", ["many", "0"])
def test_a_variable_that_cannot_be_used_does_not_show_the_environment_around_it(
    monkeypatch: pytest.MonkeyPatch, key: str, jobs: str
) -> None:
    monkeypatch.setenv("BFL_API_KEY", key)
    monkeypatch.setenv("FLUX_MAX_JOBS", jobs)
    with pytest.raises(RecipeError) as caught:
        from_environment()
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = [f"{f.name}: {name}" for f in told.stack[1:] for name, v in (f.locals or {}).items() if holds(v, key)]
    assert shown == []


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every logger of the process at its most talkative."""
    with caplog.at_level(logging.DEBUG):
        for name in [*logging.Logger.manager.loggerDict, "hpack", "hpack.hpack", "hpack.table", "h2", "httpcore.http2"]:
            caplog.set_level(logging.DEBUG, name)
        yield caplog


def test_no_logger_says_the_key_at_its_most_talkative(
    cli: Any,
    mirror: Mirror,
    fated: Path,
    key: str,
    prefect_server: str,
    everything_logged: pytest.LogCaptureFixture,
) -> None:
    for fate in Mirror.FATES[2:]:
        (fated / "photos" / f"{fate}.png").unlink()
    told = cli("run", "recipe.yaml", "--endpoint", mirror.url)
    assert told.outcomes["done"] == "done"
    assert any(r.name.startswith("httpcore") for r in everything_logged.records), "requests were logged"
    assert [r.name for r in everything_logged.records if holds(r.getMessage(), key)] == []


@asynccontextmanager
async def http_2_server() -> Any:
    """An https server that speaks HTTP/2, as the service does: its address and what a client needs to trust it."""
    import trustme
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        keys = [value for name, value in scope["headers"] if name == b"x-key"]
        await receive()
        head = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
        await send(head)
        body = {"credits": len(keys), "version": scope["http_version"]}
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    authority = trustme.CA()
    config = Config()
    with authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.tempfile() as pem:
        config.bind = ["127.0.0.1:0"]
        config.certfile = config.keyfile = pem
        config.errorlog = None
        sockets = config.create_sockets()
        config.create_sockets = lambda: sockets  # type: ignore[method-assign]
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
        context = ssl.create_default_context()
        authority.configure_trust(context)
        port = sockets.secure_sockets[0].getsockname()[1]
        for _ in range(500):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                break
            await asyncio.sleep(0.01)
        try:
            yield f"https://127.0.0.1:{port}", context
        finally:
            stop.set()
            await serving


async def test_no_logger_says_the_key_over_http_2_either(key: str, everything_logged: pytest.LogCaptureFixture) -> None:
    async with http_2_server() as (url, context), BflClient(url, key, verify=context) as client:
        assert await client.credits() == 1.0
    assert any("http2" in r.name for r in everything_logged.records), "HTTP/2 was spoken and logged"
    assert sorted({r.name for r in everything_logged.records if holds(r.getMessage(), key)}) == []


# -- the local server -------------------------------------------------------------------------------------------------


def ask(url: str, key: str, body: Any = None) -> bytes:
    """What the server answers, errors included."""
    from urllib.error import HTTPError

    headers = {"x-key": key, "content-type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(WebRequest(url, content, headers)) as answer:
            return bytes(answer.read())
    except HTTPError as error:
        with error:
            return error.read()


def test_the_local_server_keeps_and_tells_no_key(tmp_path: Path, key: str, capfd: pytest.CaptureFixture[str]) -> None:
    charges = tmp_path / "charges.jsonl"
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(image, "PNG")
    body = {"image": base64.b64encode(image.getvalue()).decode()}
    with LocalServer(key=key, charges=charges) as server:
        answers = [
            ask(f"{server.url}{path}", key) for path in ("/", "/local", "/v1/credits", "/local/charges", "/nowhere")
        ]
        answers += [ask(f"{server.url}/v1/flux-tools/deblur-v1", k, body) for k in (key, f"{key}x", "")]
        answers.append(ask(f"{server.url}/v1/flux-tools/deblur-v1", key, {"image": 5}))
        shown = repr(server) + repr(server.charges) + repr(server.charges.entries)
    assert b'"id"' in answers[5]
    assert charges.read_text(), "the job is in the charge log"
    assert not holds(b"".join(answers), key)
    assert not holds(shown, key)
    assert files_with(tmp_path, key) == []
    assert not holds("".join(capfd.readouterr()), key)


def test_recordings_hold_neither_the_key_nor_an_echo_of_it(tmp_path: Path, mirror: Mirror, key: str) -> None:
    image = io.BytesIO()
    Image.new("RGB", (96, 64), "teal").save(image, "PNG")
    body = {"image": base64.b64encode(image.getvalue()).decode()}
    mirror.on("POST /v1/flux-tools/erase-v1", Answer(422, {"detail": f"unknown key {key}"}))
    with LocalServer(record=tmp_path / "tape", upstream=mirror.url, upstream_key=key) as server:
        submitted = json.loads(ask(f"{server.url}/v1/flux-tools/deblur-v1", "", body))
        ask(submitted["polling_url"], "")
        ask(f"{server.url}/v1/flux-tools/erase-v1", "", {**body, "mask": body["image"]})
    assert [r for r in mirror.requests if r.headers.get("x-key") == key], "the key was sent on"
    assert list((tmp_path / "tape").rglob("*")), "something was recorded"
    assert files_with(tmp_path, key) == []
    assert files_with(tmp_path, SIGNATURE) == []
