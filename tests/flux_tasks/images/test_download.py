"""A bounded GET against a server whose every answer is scripted: also long, cut, redirected and compressed ones."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from object_stores import unused_port
from pictures import encoded
from scripted import Answer, ScriptedServer

from flux_tasks.errors import DeliveryFailed, InvalidImage
from flux_tasks.images import loading
from flux_tasks.images.download import download
from flux_tasks.images.redirects import RedirectRefused
from flux_tasks.images.reference import ImageRef


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


async def get(url: str, **options: Any) -> bytes:
    async with httpx.AsyncClient() as client:
        return await download(url, client=client, **{"limit": 1000, **options})


async def test_the_whole_body_comes_back(server: ScriptedServer) -> None:
    server.on("GET /a", Answer(200, b"x" * 1000))
    assert await get(f"{server.url}/a") == b"x" * 1000


async def test_a_body_announced_as_too_long_is_refused_before_it_is_read(server: ScriptedServer) -> None:
    server.on("GET /a", Answer(200, b"", {"content-length": "1001"}))
    with pytest.raises(DeliveryFailed, match=r"1,001 bytes, more than the limit of 1,000"):
        await get(f"{server.url}/a")


class Chunked(Answer):
    """An answer in chunks, without a length and without an end."""

    def encode(self) -> bytes:
        chunks = b"".join(b"100\r\n" + b"x" * 256 + b"\r\n" for _ in range(40))
        return b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n" + chunks


async def test_a_body_that_does_not_say_its_length_is_read_to_the_limit_only(server: ScriptedServer) -> None:
    server.on("GET /a", Chunked())
    with pytest.raises(DeliveryFailed, match="more than the limit of 1,000 bytes"):
        await get(f"{server.url}/a")


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(server: ScriptedServer) -> None:
    server.on("GET /a", Answer(200, gzip.compress(b"\0" * 100_000), {"content-encoding": "gzip"}))
    with pytest.raises(DeliveryFailed, match="more than the limit"):
        await get(f"{server.url}/a")


async def test_a_body_that_is_not_packed_as_it_says_is_a_failed_delivery(server: ScriptedServer) -> None:
    server.on("GET /a", Answer(200, b"not gzip", {"content-encoding": "gzip"}))
    with pytest.raises(DeliveryFailed, match="DecodingError"):
        await get(f"{server.url}/a")


@pytest.mark.parametrize("cut", [0, 5, 80, 140])
async def test_a_body_that_is_cut_is_a_failed_delivery(server: ScriptedServer, cut: int) -> None:
    server.on("GET /a", Answer(200, b"x" * 500, cut=cut))
    with pytest.raises(DeliveryFailed, match=r"127\.0\.0\.1"):
        await get(f"{server.url}/a")


@pytest.mark.parametrize("status", [201, 204, 304, 400, 403, 404, 410, 500, 503])
async def test_any_status_but_200_is_a_failed_delivery_that_names_it(server: ScriptedServer, status: int) -> None:
    server.on("GET /a", Answer(status, b"" if status in (204, 304) else b"x"))
    with pytest.raises(DeliveryFailed, match=f"HTTP {status}"):
        await get(f"{server.url}/a")


async def test_redirects_are_followed_a_few_times(server: ScriptedServer) -> None:
    for n in range(3):
        server.on(f"GET /{n}", Answer(302, b"", {"location": f"/{n + 1}"}))
    server.on("GET /3", Answer(200, b"found"))
    assert await get(f"{server.url}/0") == b"found"
    with pytest.raises(DeliveryFailed, match="more than 2 redirects"):
        await get(f"{server.url}/0", redirects=2)


async def test_a_circle_of_redirects_ends(server: ScriptedServer) -> None:
    server.on("GET /a", Answer(301, b"", {"location": "/a"}))
    with pytest.raises(DeliveryFailed, match="more than 3 redirects"):
        await get(f"{server.url}/a")
    assert len(server.seen("GET /a")) == 4


async def test_a_redirect_to_a_host_that_must_not_be_asked_is_refused(server: ScriptedServer) -> None:
    def stay(url: str) -> None:
        if not url.startswith(server.url):
            raise RedirectRefused("another host")

    with ScriptedServer() as other:
        other.on("GET /b", Answer(200, b"found"))
        server.on("GET /a", Answer(302, b"", {"location": f"{other.url}/b?sig=secret"}))
        assert await get(f"{server.url}/a") == b"found"
        with pytest.raises(DeliveryFailed, match="another host") as caught:
            await get(f"{server.url}/a", check=stay)
        assert len(other.requests) == 1
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/x", "http://[::1", "http://host:99999/", "//"])
async def test_a_redirect_to_what_is_no_web_address_is_a_failed_delivery(server: ScriptedServer, location: str) -> None:
    server.on("GET /a", Answer(302, b"", {"location": location}))
    with pytest.raises(DeliveryFailed):
        await get(f"{server.url}/a")


@pytest.mark.parametrize("url", ["http://[", "https://", "http://host:port/", "ftp://host/x", "", "http://a b/"])
async def test_what_is_no_web_address_is_a_failed_delivery(url: str) -> None:
    with pytest.raises(DeliveryFailed):
        await get(url)


async def test_a_host_that_does_not_answer_is_a_failed_delivery() -> None:
    with pytest.raises(DeliveryFailed, match="ConnectError"):
        await get(f"http://127.0.0.1:{unused_port()}/a")


async def test_neither_the_query_nor_a_password_appears_in_a_message(server: ScriptedServer) -> None:
    url = server.url.replace("//", "//user:pass-word@") + "/a?sig=secret"
    with pytest.raises(DeliveryFailed, match=r"127\.0\.0\.1:\d+: HTTP 404") as caught:
        await get(url)
    assert "secret" not in str(caught.value)
    assert "pass-word" not in str(caught.value)


# -- as an input ------------------------------------------------------------------------------------------------------


def test_an_image_is_read_from_a_web_address_once_and_keeps_its_bytes(server: ScriptedServer) -> None:
    server.on("GET /in/my%20photo.png", Answer(200, encoded(seed=91)))
    image = ImageRef.of(f"{server.url}/in/my%20photo.png?size=large")
    assert (image.name, image.width, image.height) == ("my photo", 64, 48)
    assert image.read() == encoded(seed=91)
    assert len(server.requests) == 1


def test_an_image_that_is_not_found_on_the_web_is_invalid_and_says_where(server: ScriptedServer) -> None:
    with pytest.raises(InvalidImage, match=r"/a\.png: 127\.0\.0\.1:\d+: HTTP 404"):
        ImageRef.of(f"{server.url}/a.png")


def test_a_web_page_instead_of_an_image_is_invalid(server: ScriptedServer) -> None:
    server.on("GET /a.png", Answer(200, b"<html>Please log in</html>"))
    with pytest.raises(InvalidImage, match=r"a\.png: not an image"):
        ImageRef.of(f"{server.url}/a.png")


def test_an_image_longer_than_the_limit_is_invalid(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MAX_BYTES", 1000)
    server.on("GET /a.png", Answer(200, encoded()))
    with pytest.raises(InvalidImage, match="more than the limit of 1,000"):
        ImageRef.of(f"{server.url}/a.png")
