"""The service behind the recorder: what is sent there, and who is given the key."""

import asyncio
import mimetypes
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from flux_tasks.api.connection import fetch_delivery, may_have_key
from flux_tasks.errors import Problem, RecipeError
from flux_tasks.images.download import certificates
from flux_tasks.images.redirects import host_of
from flux_tasks.local.recording.scrub import media_type_of
from flux_tasks.settings import Settings, is_loopback

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError, httpx.InvalidURL)
"""Errors after which it is certain that nothing arrived."""

FAILED = (httpx.HTTPError, httpx.InvalidURL)
"""All errors of a request."""

POLL = "/v1/get_result"


class Upstream:
    """Sends each request once, follows no redirect, and downloads without the key.

    Args:
        own: address of the server that asks, which must be another one.
        endpoint: ``bfl``, ``eu``, ``us``, or an address; ``url`` is this address, without a trailing slash.
        key: sent as ``x-key``; if empty, the ``x-key`` of each request is passed on. ``keys`` has every key so far.
        transport: any httpx transport, for tests and proxies.

    Raises:
        RecipeError: an endpoint that cannot be used, or a key that must not go there.
    """

    def __init__(self, own: str, endpoint: str, key: str, transport: httpx.AsyncBaseTransport | None) -> None:
        settings = Settings(endpoint=endpoint, key=key)
        self.url = settings.base_url
        if not self.url or urlsplit(self.url).netloc == urlsplit(own).netloc:
            what = f"'{endpoint}' is this server itself: write bfl, eu, us, or an address"
            raise RecipeError([Problem("upstream", what)])
        self._key = settings.key
        self.keys = {settings.key} - {""}
        timeout = httpx.Timeout(60.0, connect=10.0, pool=None)
        options: dict[str, Any] = {"http2": True, "timeout": timeout, "verify": certificates(), "transport": transport}
        options["trust_env"] = not is_loopback(self.url)
        self._api = httpx.AsyncClient(**options, headers={"accept": "application/json"})
        self._downloads = httpx.AsyncClient(**options)  # never has the key

    async def close(self) -> None:
        """Close all connections."""
        await self._api.aclose()
        await self._downloads.aclose()

    async def post(self, path: str, raw: bytes, media_type: str, key: str) -> httpx.Response:
        """Send ``raw`` unchanged; ``key`` is that of the client's request."""
        headers = {"content-type": media_type} if media_type else {}
        return await self._send("POST", f"{self.url}{path}", key, 300, headers, raw)

    async def get(self, url: str, key: str) -> httpx.Response:
        """Send a GET to ``url``; ``key`` is that of the client's request."""
        return await self._send("GET", url, key, 60, {})

    async def _send(
        self, method: str, url: str, given: str, seconds: int, headers: dict[str, str], content: bytes | None = None
    ) -> httpx.Response:
        given = given.strip()
        self.keys |= {given} - {""}
        if (key := self._key or given) and may_have_key(url, self.url):
            headers |= {"x-key": key}
        try:
            async with asyncio.timeout(seconds):  # for the whole answer, because a server that stops waits for it
                return await self._api.request(method, url, content=content, headers=headers)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer in {seconds} s") from None

    async def fetch(self, sample: str) -> tuple[bytes, str]:
        """Return the bytes of a delivery and their media type.

        Raises:
            DeliveryFailed: they did not arrive whole.
        """
        data = await fetch_delivery(self._downloads, sample, title=host_of(sample), seconds=300.0)
        media_type = await asyncio.to_thread(media_type_of, data)
        named = mimetypes.guess_type(urlsplit(sample).path)[0]
        return data, media_type if media_type.startswith("image/") or named is None else named

    def polling_address(self, job_id: str, named: object) -> str:
        """Return where ``job_id`` is polled: the address or host that the service named, if it may have the key."""
        own = f"{POLL}?id={quote(job_id, safe='')}"
        if not isinstance(named, str) or not may_have_key(named, self.url):
            return f"{self.url}{own}"
        return named if urlsplit(named).path else f"{named}{own}"


def origin_of(url: str) -> str:
    """Return scheme, host and port of ``url``."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
