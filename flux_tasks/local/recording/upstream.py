"""The service behind the recorder: what is sent there, and who is given the key."""

from __future__ import annotations

import asyncio
import mimetypes
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from flux_tasks.api.answers import host_of
from flux_tasks.errors import DeliveryFailed, Problem, RecipeError
from flux_tasks.images.download import certificates, download
from flux_tasks.images.loading import MAX_BYTES
from flux_tasks.local.recording.scrub import media_type_of
from flux_tasks.settings import Settings, is_bfl, is_loopback

__all__ = ["FAILED", "NOT_SENT", "POLL", "Upstream", "origin_of"]

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError, httpx.InvalidURL)
"""Errors after which it is certain that nothing arrived."""

FAILED = (httpx.HTTPError, httpx.InvalidURL)
"""All errors of a request."""

POLL = "/v1/get_result"


class Upstream:
    """Sends each request once, follows no redirect, and downloads without the key.

    Args:
        own: address of the server that asks, which must be another one.
        endpoint: ``bfl``, ``eu``, ``us``, or an address.
        key: sent as ``x-key``; empty sends the one that each request brings.
        transport: any httpx transport, for tests and proxies.

    Attributes:
        url: its address, without a trailing slash.
        keys: every key that was seen so far.

    Raises:
        RecipeError: an endpoint that cannot be used, or a key that must not go there.
    """

    def __init__(self, own: str, endpoint: str, key: str, transport: httpx.AsyncBaseTransport | None) -> None:
        settings = Settings(endpoint=endpoint, key=key)
        self.url = settings.base_url
        if not self.url or urlsplit(self.url).netloc == urlsplit(own).netloc:
            raise RecipeError(
                [Problem("upstream", f"'{endpoint}' is this server itself: write bfl, eu, us, or an address")]
            )
        self._key = settings.key
        self.keys = {settings.key} - {""}
        options: dict[str, Any] = {
            "http2": True,
            "timeout": httpx.Timeout(60.0, connect=10.0, pool=None),
            "trust_env": not is_loopback(self.url),
            "transport": transport,
            "verify": certificates(),
        }
        self._api = httpx.AsyncClient(**options, headers={"accept": "application/json"})
        self._downloads = httpx.AsyncClient(**options)  # has never heard of the key

    async def close(self) -> None:
        """Close all connections."""
        await self._api.aclose()
        await self._downloads.aclose()

    async def post(self, path: str, raw: bytes, media_type: str, key: str) -> httpx.Response:
        """Send ``raw`` as it is; ``key`` is the request's own."""
        url = f"{self.url}{path}"
        headers = {"content-type": media_type} if media_type else {}
        try:
            async with asyncio.timeout(300.0):  # however it drips: a server that stops waits for it
                return await self._api.post(url, content=raw, headers=headers | self._key_for(url, key))
        except TimeoutError:
            raise httpx.ReadTimeout("no whole answer in 300 s") from None

    async def get(self, url: str, key: str) -> httpx.Response:
        """Ask at ``url``; ``key`` is the request's own."""
        try:
            async with asyncio.timeout(60.0):
                return await self._api.get(url, headers=self._key_for(url, key))
        except TimeoutError:
            raise httpx.ReadTimeout("no whole answer in 60 s") from None

    async def fetch(self, sample: str) -> tuple[bytes, str]:
        """The bytes of a delivery and their media type.

        Raises:
            DeliveryFailed: they did not arrive whole.
        """
        if not sample.startswith("https://") and not is_loopback(sample):
            raise DeliveryFailed(f"{host_of(sample)} is not reached over https")
        try:
            async with asyncio.timeout(300.0):
                data = await download(sample, client=self._downloads, limit=MAX_BYTES, same_host=True)
        except TimeoutError:
            raise DeliveryFailed(f"{host_of(sample)}: not delivered within 300 s") from None
        if not data:
            raise DeliveryFailed(f"{host_of(sample)}: it is empty")
        media_type = await asyncio.to_thread(media_type_of, data)
        named = mimetypes.guess_type(urlsplit(sample).path)[0]
        return data, media_type if media_type.startswith("image/") or named is None else named

    def polling_address(self, job_id: str, said: object) -> str:
        """Where ``job_id`` is polled: the address or host that the service named, if that may have the key."""
        own = f"{POLL}?id={quote(job_id, safe='')}"
        if not isinstance(said, str) or not self._may_have_key(said):
            return f"{self.url}{own}"
        return said if urlsplit(said).path else f"{said}{own}"

    def _key_for(self, url: str, given: str) -> dict[str, str]:
        given = given.strip()
        self.keys |= {given} - {""}
        key = self._key or given
        return {"x-key": key} if key and self._may_have_key(url) else {}

    def _may_have_key(self, url: str) -> bool:
        """Whether ``url`` is BFL's, or the upstream's own over https or loopback (as in ``BflClient``)."""
        try:
            own, asked = urlsplit(self.url), urlsplit(url)
        except ValueError:
            return False
        is_own = (own.scheme, own.netloc.lower()) == (asked.scheme, asked.netloc.lower())
        return is_bfl(url) or (is_own and (asked.scheme == "https" or is_loopback(url)))


def origin_of(url: str) -> str:
    """Scheme, host and port of ``url``."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
