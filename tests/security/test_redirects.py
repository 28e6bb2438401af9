"""Redirects of polls and deliveries: three at most, over https, never into a private network, the key to BFL alone."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cases import Cases
from names import Names
from pictures import encoded
from scripted import Answer, ScriptedServer
from waiting import PATIENCE, clock_that_ends

from flux_tasks.api import client as client_module
from flux_tasks.api.client import BflClient, Finished
from flux_tasks.errors import DeliveryFailed, ServerUnavailable
from flux_tasks.images.redirects import Hop, RedirectRefused, follow, reach_of

READY = {"id": "job-1", "status": "Ready", "result": {"sample": "https://delivery.bfl.ai/1.png"}}
PUBLIC, OTHER = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"


class Network(httpx.AsyncBaseTransport):
    """Takes every connection to one real server, and notes for whom it was, the host it names, and if it has a key."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._real = httpx.AsyncHTTPTransport(verify=False)  # plain http: no certificates to load
        self.connections: list[tuple[str, str, bool]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.connections.append((request.url.host, request.headers["host"], "x-key" in request.headers))
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._server.port)
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        await self._real.aclose()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """What names mean; others have no address."""
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    return found


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("GET /v1/get_result", Answer(200, READY))
        running.on("GET /1.png", Answer(200, encoded()))
        yield running


def moved(location: str, status: int = 302) -> Answer:
    return Answer(status, b"", {"location": location})


# -- where a redirect may lead ----------------------------------------------------------------------------------------

NOT_PUBLIC = [
    *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "127.0.0.1", "0.0.0.0"),
    *("127.1", "0x7f000001", "0177.0.0.1", "2130706433", "2852039166", "0", "224.0.0.1", "255.255.255.255"),
    *("[::1]", "[::]", "[fd00::1]", "[fe80::1]", "[ff02::1]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]"),
    *("[64:ff9b::a9fe:a9fe]", "[2002:a00:1::]", "localhost"),
]


async def test_from_a_public_host_no_redirect_leads_to_one_that_is_not(names: Names, cases: Cases) -> None:
    for host, scheme in itertools.product(NOT_PUBLIC, ("https", "http")):
        with cases.case(f"{scheme}://{host}"):
            with pytest.raises(RedirectRefused, match=r"delivery\.bfl\.ai redirects to ") as caught:
                await follow("https://delivery.bfl.ai/1.png?sig=secret", f"{scheme}://{host}/x?sig=secret")
            assert host in str(caught.value)
            assert "secret" not in str(caught.value)


async def test_a_name_is_judged_by_all_its_addresses(names: Names) -> None:
    names.means("both.example", [PUBLIC, "10.0.0.1"])
    names.means("inside.example", ["fd00::1"])
    names.means("mapped.example", ["::ffff:169.254.169.254"])
    names.means("public.example", [PUBLIC, OTHER])
    for name in ("both", "inside", "mapped"):
        with pytest.raises(RedirectRefused, match=f"a.example redirects to {name}.example: .* a private network"):
            await follow("https://a.example/", f"https://{name}.example/x")
    assert await follow("https://a.example/", "https://public.example/x") == Hop("https://public.example/x")


async def test_what_a_name_means_later_changes_nothing_in_plain_http(names: Names, server: ScriptedServer) -> None:
    """Over https the certificate has to be for the name, which nobody inside a private network has."""
    names.means("moving.example", [PUBLIC, OTHER], ["10.0.0.1"])
    hop = await follow("http://a.example/", "http://moving.example/1.png", is_plain_allowed=True)
    assert hop.addresses == (PUBLIC, OTHER)
    network = Network(server)
    async with httpx.AsyncClient(transport=network) as client:
        await (await hop.send(client)).aread()
    assert network.connections == [(PUBLIC, "moving.example", False)]


async def test_a_host_that_redirects_counts_as_public_whatever_its_name_means(names: Names) -> None:
    names.means("mine.example", ["127.0.0.1"])
    with pytest.raises(RedirectRefused, match="a private network"):
        await follow("https://mine.example/", "https://127.0.0.1/x")
    assert await follow("https://mine.example/a", "https://mine.example/b") == Hop("https://mine.example/b")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:9000/b"),
        ("http://127.0.0.1:8000/a", "http://localhost:8000/b"),
        ("http://localhost/a", "http://[::1]:80/b"),
        ("https://10.0.0.1/a", "https://10.0.0.2/b"),
        ("http://127.0.0.1:8000/a", "https://unknown.example/b"),
    ],
)
async def test_within_a_network_and_out_of_it_a_redirect_is_followed(source: str, target: str, names: Names) -> None:
    assert await follow(source, target) == Hop(target)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("http://127.0.0.1/a", "https://10.0.0.1/b"),
        ("https://10.0.0.1/a", "https://127.0.0.1/b"),
        ("https://10.0.0.1/a", "http://10.0.0.2/b"),
        ("https://a.example/a", "http://public.example/b"),
        ("https://a.example/a", "https://user@public.example/b"),
        ("https://a.example/a", "file:///etc/passwd"),
        ("https://a.example/a", "https://"),
        ("https://a.example/a", "https://[::1"),
    ],
)
async def test_from_one_network_to_another_or_out_of_https_none_is(source: str, target: str, names: Names) -> None:
    names.means("public.example", [PUBLIC])
    with pytest.raises(RedirectRefused, match="redirects to"):
        await follow(source, target)


def test_addresses_that_carry_another_one_are_judged_by_it() -> None:
    assert reach_of("::ffff:8.8.8.8") == reach_of("64:ff9b::808:808") == reach_of("2002:808:808::1") == "public"
    assert reach_of("::ffff:127.0.0.1") == reach_of("64:ff9b::7f00:1") == "loopback"
    assert reach_of("fe80::1%eth0") == "private"


# -- deliveries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("https://delivery-eu.bfl.ai/1.png", "delivery-eu.bfl.ai"),
        ("//storage.example/1.png", "storage.example"),
        ("https://storage.example:444/1.png", "storage.example:444"),
    ],
)
async def test_a_delivery_that_moves_to_another_public_host_is_fetched_there_without_the_key(
    server: ScriptedServer, names: Names, key: str, location: str, name: str
) -> None:
    names.means(name.partition(":")[0], [PUBLIC])
    server.on("GET /moved.png", moved(location))
    network = Network(server)
    async with BflClient("https://api.bfl.ai", key, transport=network) as client:
        assert await client.fetch(Finished("1", "https://delivery.bfl.ai/moved.png")) == encoded()
    first = ("delivery.bfl.ai", "delivery.bfl.ai", False)
    assert network.connections == [first, (name.partition(":")[0], name, False)]
    assert [value for r in server.requests for value in r.headers.values() if key in value] == []


async def test_a_delivery_is_followed_three_times_and_no_more(server: ScriptedServer, key: str) -> None:
    with ScriptedServer() as other:
        for n in range(3):
            here, there = (server, other) if n % 2 == 0 else (other, server)
            here.on(f"GET /{n}", moved(f"{there.url}/{n + 1}", (301, 303, 307)[n]))
        other.on("GET /3", Answer(200, encoded()))
        server.on("GET /4", moved(f"{server.url}/0"))
        async with BflClient(server.url, key) as client:
            assert await client.fetch(Finished("1", f"{server.url}/0")) == encoded()
            with pytest.raises(DeliveryFailed, match="more than 3 redirects"):
                await client.fetch(Finished("1", f"{server.url}/4"))
        assert all("x-key" not in r.headers for r in (*server.requests, *other.requests))


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "2852039166", "[::ffff:10.0.0.1]", "127.0.0.1"])
async def test_a_public_endpoint_names_no_delivery_in_a_private_network(
    server: ScriptedServer, names: Names, key: str, host: str
) -> None:
    network = Network(server)
    async with BflClient("https://api.bfl.ai", key, transport=network) as client:
        with pytest.raises(DeliveryFailed, match=r"api\.bfl\.ai redirects to "):
            await client.fetch(Finished("1", f"https://{host}/1.png"))
    assert network.connections == []


# -- polls ------------------------------------------------------------------------------------------------------------


async def test_a_poll_that_moves_within_bfl_is_asked_there_with_the_key(
    server: ScriptedServer, names: Names, key: str
) -> None:
    names.means("api.eu2.bfl.ai", [PUBLIC])
    server.on("GET /v1/get_result", moved("https://api.eu2.bfl.ai/v2/get_result?id=job-1", 307))
    server.on("GET /v2/get_result", Answer(200, READY))
    network = Network(server)
    async with BflClient("https://api.bfl.ai", key, poll_interval=0.001, transport=network) as client:
        assert (await client.wait("job-1")).id == "job-1"
    first = ("api.bfl.ai", "api.bfl.ai", True)
    assert network.connections == [first, ("api.eu2.bfl.ai", "api.eu2.bfl.ai", True)]


async def test_a_poll_that_moves_on_the_endpoints_own_host_is_asked_there_with_the_key(
    server: ScriptedServer, key: str
) -> None:
    server.on("GET /v1/get_result", moved("/v2/get_result?id=job-1", 308))
    server.on("GET /v2/get_result", Answer(200, READY))
    async with BflClient(server.url, key, poll_interval=0.001) as client:
        assert (await client.wait("job-1")).id == "job-1"
    assert [r.headers["x-key"] for r in server.requests] == [key, key]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("https://evil.example/x", "api.bfl.ai redirects to evil.example, which may not have the key"),
        ("https://api.bfl.ai.evil.example/x", "redirects to api.bfl.ai.evil.example, which may not have the key"),
        ("http://api.bfl.ai/x", "redirects to api.bfl.ai, which may not have the key"),
        ("https://10.0.0.1/x", "redirects to 10.0.0.1, which may not have the key"),
        ("https://inside.bfl.ai/x", "api.bfl.ai redirects to inside.bfl.ai: that is in a private network"),
        ("/v1/get_result", "api.bfl.ai: more than 3 redirects"),
    ],
)
async def test_a_poll_that_is_redirected_elsewhere_is_refused_with_both_hosts_and_asked_again_until_the_deadline(
    server: ScriptedServer, names: Names, key: str, location: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.means("inside.bfl.ai", ["10.0.0.1"])
    server.on("GET /v1/get_result", moved(location))
    monkeypatch.setattr(client_module, "time", clock_that_ends(lambda: server.seen("GET /v1/get_result")))
    network = Network(server)
    async with BflClient("https://api.bfl.ai", key, poll_interval=0.001, transport=network) as client:
        with pytest.raises(ServerUnavailable, match=reason):
            await client.wait("job-1", deadline=PATIENCE)
    assert {connection[0] for connection in network.connections} == {"api.bfl.ai"}


# -- regions ----------------------------------------------------------------------------------------------------------


async def test_in_a_strict_region_a_polling_address_elsewhere_is_not_asked(server: ScriptedServer, key: str) -> None:
    for endpoint, url, asked in (
        ("https://api.eu.bfl.ai", "https://api.us.bfl.ai/v1/get_result?id=job-1", "api.eu.bfl.ai"),
        ("https://api.eu.bfl.ai", "https://api.bfl.ai/v1/get_result?id=job-1", "api.eu.bfl.ai"),
        ("https://api.eu.bfl.ai", "https://api.eu2.bfl.ai/v1/get_result?id=job-1", "api.eu2.bfl.ai"),
    ):
        network = Network(server)
        async with BflClient(endpoint, key, transport=network, is_region_strict=True) as client:
            await client.wait("job-1", url)
        assert [connection[0] for connection in network.connections] == [asked]


async def test_in_a_strict_region_a_poll_is_not_redirected_elsewhere(
    server: ScriptedServer, names: Names, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("GET /v1/get_result", moved("https://api.us.bfl.ai/v1/get_result?id=job-1"))
    monkeypatch.setattr(client_module, "time", clock_that_ends(lambda: server.seen("GET /v1/get_result")))
    network = Network(server)
    options: dict[str, Any] = {"transport": network, "is_region_strict": True, "poll_interval": 0.001}
    async with BflClient("https://api.eu.bfl.ai", key, **options) as client:
        with pytest.raises(ServerUnavailable, match=r"api\.us\.bfl\.ai is not in the region of api\.eu\.bfl\.ai"):
            await client.wait("job-1", deadline=PATIENCE)
    assert {connection[0] for connection in network.connections} == {"api.eu.bfl.ai"}


async def test_in_a_strict_region_a_delivery_from_elsewhere_is_refused_with_both_hosts(
    server: ScriptedServer, names: Names, key: str
) -> None:
    server.on("GET /moved.png", moved("https://delivery-us.bfl.ai/1.png"))
    network = Network(server)
    async with BflClient("https://api.eu.bfl.ai", key, transport=network, is_region_strict=True) as client:
        for sample in ("delivery-eu1.bfl.ai/1.png", "delivery.eu.bfl.ai/1.png"):
            assert await client.fetch(Finished("1", f"https://{sample}")) == encoded()
        names.means("delivery-us.bfl.ai", [PUBLIC])
        for sample in (
            "delivery-us.bfl.ai/1.png",
            "delivery.bfl.ai/1.png",
            "storage.example/1.png",
            "delivery-eu1.bfl.ai/moved.png",
        ):
            with pytest.raises(DeliveryFailed, match=r"is not in the region of api\.eu\.bfl\.ai"):
                await client.fetch(Finished("1", f"https://{sample}"))
    assert {connection[0] for connection in network.connections} == {"delivery-eu1.bfl.ai", "delivery.eu.bfl.ai"}
