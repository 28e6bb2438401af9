"""Where the key goes: to BFL over https and to the configured endpoint, whatever address the service names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cases import Cases
from fake_bfl import FakeBfl
from pictures import encoded, noise
from scripted import Answer, Request, ScriptedServer

from flux_tasks import background, catalog
from flux_tasks.api.client import BflClient, Finished
from flux_tasks.errors import DeliveryFailed, InvalidRequest, RecipeError, ServerUnavailable, SubmissionUncertain
from flux_tasks.jobs import endpoint, job
from flux_tasks.jobs.call import prepare
from flux_tasks.settings import Settings, current, use

DEBLUR = catalog.TOOLS["deblur-v1"]
READY = {"id": "job-1", "status": "Ready", "result": {"sample": "https://delivery.bfl.ai/1.png"}}


class Elsewhere(httpx.AsyncBaseTransport):
    """Takes every connection, whoever it is meant for, to one real server, and notes who was meant and who got the key.

    What it notes is what httpx itself would have connected to: scheme, host and port as httpx reads them.
    """

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._real = httpx.AsyncHTTPTransport(verify=False)  # plain http: no certificates to load
        self.meant: list[str] = []
        self.given: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        place = f"{request.url.scheme}://{request.url.netloc.decode()}"
        self.meant.append(place)
        if "x-key" in request.headers:
            self.given.append(place)
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._server.port, userinfo=b"")
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        await self._real.aclose()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("GET /v1/get_result", Answer(200, READY))
        yield running


FOREIGN = [
    "https://evil.example/v1/get_result?id=job-1",
    "https://bfl.ai.evil.example/v1/get_result",
    "https://api.bfl.ai.evil.example/v1/get_result",
    "https://evilbfl.ai/v1/get_result",
    "https://evil-bfl.ai/v1/get_result",
    "https://api-bfl.ai/v1/get_result",
    "https://bfl.ai.com/v1/get_result",
    "https://bfl.aii/v1/get_result",
    "https://api.bfl.ai@evil.example/v1/get_result",
    "https://user@api.bfl.ai@evil.example/v1/get_result",
    "https://api.bfl.ai:443@evil.example/v1/get_result",
    "https://api.bfl.ai%40evil.example/v1/get_result",
    "https://evil.example#@api.bfl.ai/v1/get_result",
    "https://evil.example/@api.bfl.ai/v1/get_result",
    "https://evil.example?@api.bfl.ai/v1/get_result",
    "https://evil.example\\@api.bfl.ai.evil.example/v1/get_result",
    "https://evil.example\n.bfl.ai.evil.example/v1/get_result",
    "https://api.bfl.ai\t.evil.example/v1/get_result",
    "https://api.bfl.ai\x00.evil.example/v1/get_result",
    "https://api.bfl.ai%2eevil.example/v1/get_result",
    "https://api.bfl.ai。evil.example/v1/get_result",
    "https://api.bfl。ai.evil.example/v1/get_result",
    "https://api．bfl．ai．evil．example/v1/get_result",
    "https://api.bfl.ai／.evil.example/v1/get_result",
    "https://api.bfl.ai？.evil.example/v1/get_result",
    "https://аpi.bfl.аi/v1/get_result",  # Cyrillic а
    "https://api.xn--bl-jja.ai/v1/get_result",
    "https://api.ｂｆｌ.ai/v1/get_result",
    "https://api.b\u00adfl.ai.evil.example/v1/get_result",
    "https://[::ffff:93.184.216.34]/v1/get_result",
    "https://[api.bfl.ai]/v1/get_result",
    "https://api.bfl.ai:99999/v1/get_result",
    "https://api.bfl.ai:evil/v1/get_result",
    "http://api.bfl.ai/v1/get_result",
    "HTTP://api.bfl.ai/v1/get_result",
    "http://api.bfl.ai:443/v1/get_result",
    "ftp://api.bfl.ai/v1/get_result",
    "ws://api.bfl.ai/v1/get_result",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "//evil.example/v1/get_result",
    "///api.bfl.ai/v1/get_result",
    "https:evil.example/v1/get_result",
    "https:/evil.example/v1/get_result",
    "https:///evil.example/v1/get_result",
    "https:\\\\api.bfl.ai/v1/get_result",
    "/v1/get_result?id=job-1",
    "api.bfl.ai/v1/get_result",
    " https://evil.example/v1/get_result",
    "https://",
    "",
    "http://127.0.0.1:1/v1/get_result",
    "http://localhost:1/v1/get_result",
    "http://169.254.169.254/latest/meta-data",
    "https://2130706433/v1/get_result",
    "https://" + "a" * 70_000 + ".bfl.ai.evil.example/",
]


async def test_a_polling_address_elsewhere_is_not_asked_and_never_given_the_key(
    server: ScriptedServer, key: str, cases: Cases
) -> None:
    for url in FOREIGN:
        elsewhere = Elsewhere(server)
        with cases.case(ascii(url)[:60]):
            async with BflClient("https://api.bfl.ai", key, poll_interval=0.001, transport=elsewhere) as client:
                assert (await client.wait("job-1", url)).id == "job-1", "nothing paid for is lost"
            assert set(elsewhere.given) <= {"https://api.bfl.ai"}
            assert set(elsewhere.meant) <= {"https://api.bfl.ai"}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.bfl.ai/v1/get_result?id=job-1", "api.bfl.ai"),
        ("https://api.eu2.bfl.ai/v1/get_result?id=job-1", "api.eu2.bfl.ai"),
        ("https://API.US1.BFL.AI/v1/get_result?id=job-1", "api.us1.bfl.ai"),
        ("HTTPS://gateway.bfl.ai/v1/get_result?id=job-1", "gateway.bfl.ai"),
        ("https://api.bfl.ai:443/v1/get_result?id=job-1", "api.bfl.ai"),
    ],
)
async def test_a_polling_address_of_bfl_is_asked_with_the_key(
    server: ScriptedServer, key: str, url: str, host: str
) -> None:
    elsewhere = Elsewhere(server)
    async with BflClient("https://api.bfl.ai", key, poll_interval=0.001, transport=elsewhere) as client:
        await client.wait("job-1", url)
    assert elsewhere.given == [f"https://{host}"]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example\\@api.bfl.ai/v1/get_result",
        "https://evil.example\\.bfl.ai/v1/get_result",
        "https://evil.example;api.bfl.ai/v1/get_result",
        "https://evil.example:443;api.bfl.ai/v1/get_result",
        "https://evil.example!.bfl.ai/v1/get_result",
        "https://evil.example%2f.bfl.ai/v1/get_result",
        "https://evil.example%00.bfl.ai/v1/get_result",
        "https://evil.example%23.bfl.ai/v1/get_result",
        "https://evil.example：443.bfl.ai/v1/get_result",
        "https://evil.example／.bfl.ai/v1/get_result",
        "https://evil.example\x00.bfl.ai/v1/get_result",
        "https://evil.example\r\n.bfl.ai/v1/get_result",
        "https://evil.example .bfl.ai/v1/get_result",
        "https://evil.example。.bfl.ai/v1/get_result",
        "https://user:password@api.bfl.ai/v1/get_result",
        "https://.bfl.ai/v1/get_result",
        "https://api.bfl.ai./v1/get_result",
    ],
    ids=ascii,
)
async def test_whatever_is_made_of_a_strange_address_the_key_stays_within_bfl(
    server: ScriptedServer, key: str, url: str
) -> None:
    elsewhere = Elsewhere(server)
    async with BflClient("https://api.bfl.ai", key, poll_interval=0.001, transport=elsewhere) as client:
        try:
            await client.wait("job-1", url, deadline=0.02)
        except ServerUnavailable as error:
            assert key not in str(error)
    host = r"https://(?:[a-z0-9-]+\.)+bfl\.ai\.?"
    assert [place for place in elsewhere.given if not re.fullmatch(host, place)] == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{other}/v1/get_result?id=job-1",
        "http://localhost:{own}/v1/get_result?id=job-1",
        "http://127.0.0.2:{own}/v1/get_result?id=job-1",
        "http://127.0.0.1:{own}@127.0.0.1:{other}/v1/get_result?id=job-1",
        "http://user@127.0.0.1:{own}/v1/get_result?id=job-1",
        "https://127.0.0.1:{own}/v1/get_result?id=job-1",
        "http://127.0.0.1.evil.example:{own}/v1/get_result?id=job-1",
        "http://0.0.0.0:{other}/v1/get_result?id=job-1",
        "http://[::1]:{other}/v1/get_result?id=job-1",
        "http://2130706433:{other}/v1/get_result?id=job-1",
    ],
)
async def test_an_endpoint_of_ones_own_shares_the_key_with_no_other_server_of_the_same_machine(
    server: ScriptedServer, key: str, url: str
) -> None:
    with ScriptedServer() as other:
        other.on("GET /v1/get_result", Answer(200, READY))
        async with BflClient(server.url, key, poll_interval=0.001, verify=False) as client:
            await client.wait("job-1", url.format(own=server.port, other=other.port))
        assert other.requests == []
    assert [r.headers["x-key"] for r in server.requests] == [key]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_poll_that_is_redirected_goes_nowhere(key: str, status: int) -> None:
    with ScriptedServer() as server, ScriptedServer() as other:
        for path in ("/v1/get_result", "/steal"):
            other.on(f"GET {path}", Answer(200, READY))
        server.on("GET /v1/get_result", Answer(status, b"", {"location": f"{other.url}/steal"}), Answer(200, READY))
        async with BflClient(server.url, key, poll_interval=0.001, verify=False) as client:
            await client.wait("job-1")
        assert other.requests == []
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_submission_or_a_question_for_credits_that_is_redirected_goes_nowhere(key: str, status: int) -> None:
    with ScriptedServer() as server, ScriptedServer() as other:
        for route in ("POST /v1/flux-tools/deblur-v1", "GET /v1/credits", "GET /local"):
            server.on(route, Answer(status, b"", {"location": other.url + route.split()[1]}))
        async with BflClient(server.url, key, poll_interval=0.001, verify=False) as client:
            with pytest.raises((InvalidRequest, SubmissionUncertain)):  # after a 303 the job may have been made
                await client.submit(DEBLUR, {})
            assert await client.credits() is None
            assert await client.engine() == "custom:loopback"
        assert other.requests == []


async def test_who_an_endpoint_is_is_asked_without_the_key(server: ScriptedServer, key: str) -> None:
    async with BflClient(server.url, key, verify=False) as client:
        await client.engine()
    assert [r.path for r in server.requests if "x-key" not in r.headers] == ["/local"]


# -- deliveries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sample",
    [
        "http://delivery.bfl.ai/1.png",
        "http://api.bfl.ai/1.png",
        "http://192.168.0.1/1.png",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost.evil.example/1.png",
        "http://127.0.0.1.evil.example/1.png",
        "http://127.0.0.1@evil.example/1.png",
        "http://evil.example#@127.0.0.1/1.png",
        "http://2130706433/1.png",
        "http://0.0.0.0/1.png",
        "ftp://127.0.0.1/1.png",
        "file:///etc/passwd",
        "file://127.0.0.1/etc/passwd",
        "data:image/png;base64,AAAA",
        "//127.0.0.1/1.png",
        "/1.png",
        "",
    ],
)
async def test_a_delivery_that_is_not_https_is_not_fetched_unless_from_this_machine(
    server: ScriptedServer, key: str, sample: str
) -> None:
    elsewhere = Elsewhere(server)
    async with BflClient("https://api.bfl.ai", key, transport=elsewhere) as client:
        with pytest.raises(DeliveryFailed):
            await client.fetch(Finished("job-1", sample))
    assert elsewhere.meant == []


@pytest.mark.parametrize(
    "sample",
    [
        "https://delivery.bfl.ai/1.png",
        "https://api.bfl.ai/1.png",
        "https://delivery-eu1.bfl.ai/1.png?sig=1",
        "https://storage.example/1.png",
        "{own}/1.png",
    ],
)
async def test_a_delivery_is_fetched_without_the_key_also_from_bfl_and_from_the_endpoint_itself(
    server: ScriptedServer, key: str, sample: str
) -> None:
    server.on("GET /1.png", Answer(200, encoded()))
    elsewhere = Elsewhere(server)
    base = server.url if "{own}" in sample else "https://api.bfl.ai"
    async with BflClient(base, key, transport=elsewhere) as client:
        assert await client.fetch(Finished("job-1", sample.format(own=server.url))) == encoded()
    assert len(elsewhere.meant) == 1
    assert elsewhere.given == []
    assert [name for r in server.requests for name, value in r.headers.items() if key in value] == []


@pytest.mark.parametrize(
    "location",
    [
        "https://delivery.bfl.ai@evil.example/1.png",
        "http://delivery.bfl.ai/1.png",
        "http://127.0.0.1/1.png",
        "https://127.0.0.1/1.png",
        "file:///etc/passwd",
        "ftp://delivery.bfl.ai/1.png",
    ],
)
async def test_a_delivery_that_is_redirected_out_of_https_or_to_this_machine_is_not_followed(
    server: ScriptedServer, key: str, location: str
) -> None:
    server.on("GET /moved.png", Answer(302, b"", {"location": location}))
    server.on("GET /1.png", Answer(200, encoded()))
    elsewhere = Elsewhere(server)
    async with BflClient("https://api.bfl.ai", key, transport=elsewhere) as client:
        with pytest.raises(DeliveryFailed) as caught:
            await client.fetch(Finished("job-1", "https://delivery.bfl.ai/moved.png?sig=secret"))
    assert elsewhere.meant == ["https://delivery.bfl.ai"]
    assert "secret" not in str(caught.value)


async def test_a_delivery_that_moves_on_its_own_host_is_followed_without_the_key(
    server: ScriptedServer, key: str
) -> None:
    server.on("GET /moved.png", Answer(302, b"", {"location": "/1.png"}))
    server.on("GET /1.png", Answer(200, encoded()))
    elsewhere = Elsewhere(server)
    async with BflClient("https://api.bfl.ai", key, transport=elsewhere) as client:
        assert await client.fetch(Finished("job-1", "https://delivery.bfl.ai/moved.png")) == encoded()
    assert elsewhere.given == []


# -- whole jobs -------------------------------------------------------------------------------------------------------


class Misleading(FakeBfl):
    """Names another server as the place to ask and to fetch from."""

    def __init__(self, key: str, elsewhere: str) -> None:
        super().__init__(key=key)
        self._elsewhere = elsewhere

    def _submit(self, path: str, request: Request) -> Answer:
        answer = super()._submit(path, request)
        answer.body["polling_url"] = answer.body["polling_url"].replace(self.url, self._elsewhere)
        return answer


def test_a_whole_job_whose_polling_address_points_to_another_server_ends_well_and_that_server_is_not_asked(
    key: str, tmp_path: Path
) -> None:
    with ScriptedServer() as thief, Misleading(key, thief.url) as bfl:
        settings = Settings(endpoint=bfl.url, key=key, store=str(tmp_path / "store"), poll_interval=0.001)
        result = background.run(job.execute(prepare(DEBLUR, {"image": encoded(noise((96, 80)))}), settings))
        background.run(endpoint.close(settings))
        assert result.outcome == "done"
        assert thief.requests == []


def test_a_picture_given_as_an_address_is_fetched_without_the_key(
    bfl: FakeBfl, key: str, tmp_path: Path, server: ScriptedServer
) -> None:
    server.on("GET /photo.png", Answer(302, b"", {"location": f"{bfl.url}/moved.png"}))
    bfl.on("GET /moved.png", Answer(200, encoded(noise((96, 80)))))
    settings = Settings(endpoint=bfl.url, key=key, store=str(tmp_path / "store"), poll_interval=0.001)
    with use(settings):
        result = background.run(job.execute(prepare(DEBLUR, {"image": f"{server.url}/photo.png"}), current()))
    background.run(endpoint.close(settings))
    assert result.outcome == "done"
    assert all("x-key" not in r.headers for r in (*server.requests, *bfl.seen("GET /moved.png")))


# -- the endpoint itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://api.bfl.ai",
        "http://api.example.com",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://2130706433",
        "http://0.0.0.0:8000",
        "http://192.168.0.1:8000",
        "http://169.254.169.254",
        "http://[::ffff:192.168.0.1]",
        "https://user:word@api.bfl.ai",
        "https://api.bfl.ai@evil.example",
        "https://api.bfl.ai?x=1",
        "https://api.bfl.ai#x",
        "https://",
        "https://[",
        "https://api.bfl.ai:99999",
        "ftp://api.bfl.ai",
        "//api.bfl.ai",
        "api.bfl.ai",
        "javascript:alert(1)",
        "https://api.bfl.ai\\@evil.example",
        "https://api.bfl.ai /x",
        "https://api\n.bfl.ai",
    ],
    ids=ascii,
)
def test_an_endpoint_that_the_key_may_not_be_sent_to_is_refused_before_anything_is(
    cli: Any, key: str, endpoint: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "source: {images: 'photos/*'}\nsteps: [deblur]\noutput: {path: 'out/{{ stem }}.png'}\n"
    )
    told = cli("run", "recipe.yaml", "--endpoint", endpoint)
    assert told.code == 2, told.all
    assert "endpoint" in told.err
    assert key not in told.all
    with pytest.raises(RecipeError):
        Settings(endpoint=endpoint, key=key)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "recipe.yaml"]
