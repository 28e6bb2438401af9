"""HTTP to one endpoint with one key.

Who is given the key: ``https://*.bfl.ai`` and the configured endpoint's own host (over https, or loopback). Never a
delivery address. Polls and deliveries follow three redirects, see ``flux_tasks.images.redirects``: polls to hosts that
may have the key, deliveries to any host over https. No other request follows one.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from flux_tasks.api.telemetry import probe
from flux_tasks.errors import DeliveryFailed
from flux_tasks.images.download import certificates, download
from flux_tasks.images.loading import MAX_BYTES
from flux_tasks.images.redirects import MAX_REDIRECTS, Hop, RedirectRefused, follow, host_of, redirect_of
from flux_tasks.settings import SHORTEST_KEY, is_bfl, is_in_region, is_loopback

logging.getLogger("hpack.hpack").addFilter(lambda _: False)  # it logs every header of HTTP/2, and so the key

_VERBATIM = ("id", "polling_url", "sample")
_LONGEST = 16 * 1024 * 1024  # bytes of an answer; most have a kilobyte or two


class _XKey(httpx.Auth):
    """Puts the key into a request while it is sent, so that no other variable holds it, and no exception of httpx."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """See ``httpx.Auth``."""
        request.headers["x-key"] = self._key
        try:
            yield request
        finally:
            del request.headers["x-key"]

    def __repr__(self) -> str:
        return "_XKey(…)"


class Connection:
    """Two connection pools: one for requests that may carry the key, one for deliveries, which never has it.

    The arguments are those of ``BflClient``.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout: float,
        transport: httpx.AsyncBaseTransport | None = None,
        verify: Any = True,
        is_region_strict: bool = False,
        secret: str = "",
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._is_region_strict = is_region_strict
        self.connect_timeout = min(10.0, timeout)
        self._key = key.strip()
        self._secrets = [one for one in (self._key, secret) if len(one) >= SHORTEST_KEY]
        options: dict[str, Any] = {
            "http2": True,
            "timeout": httpx.Timeout(timeout, connect=self.connect_timeout, pool=None),
            # Each request asks every idle connection whether it was closed, so those beyond need are not kept for long.
            # The number that is kept counts busy ones, too: with a small one, each request would open its own.
            "limits": httpx.Limits(max_connections=100, max_keepalive_connections=32, keepalive_expiry=10.0),
            "transport": transport,
            "verify": certificates() if verify is True else verify,
            "trust_env": not is_loopback(base_url),
        }
        self._api = httpx.AsyncClient(**options, headers={"accept": "application/json", "accept-encoding": "identity"})
        self._deliveries = httpx.AsyncClient(**options)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.aclose()
        await self._deliveries.aclose()

    @property
    def key_hint(self) -> str:
        """The end of a message about a refused key: what to do if none was sent, else an empty string."""
        return "" if self._key else ": no key was sent, set BFL_API_KEY"

    async def ask(self, method: str, url: str, *, keyed: bool = True, **options: Any) -> httpx.Response:
        """Send one request, with the key if ``url`` may have it, and read the whole answer.

        Raises:
            httpx.HTTPError, httpx.InvalidURL: no answer, or one of more than 16 MiB.
        """
        request = self._api.build_request(method, url, **options)
        auth = self._auth_for(url) if keyed else None
        if probe.probe is None:
            return await self._whole(await self._api.send(request, auth=auth, follow_redirects=False, stream=True))
        with probe.probe.request(method, url, "submit" if method == "POST" else "account") as answered:
            response = await self._api.send(request, auth=auth, follow_redirects=False, stream=True)
            answered(response.status_code)
            return await self._whole(response)

    async def poll(self, url: str) -> httpx.Response:
        """Ask ``url`` with the key, and where its answer redirects to.

        Raises:
            RedirectRefused: it redirects too often, or to where it is not followed.
            httpx.HTTPError, httpx.InvalidURL: as ``ask``.
        """
        if probe.probe is None:
            return await self._poll(url)
        with probe.probe.request("GET", url, "poll") as answered:
            response = await self._poll(url)
            answered(response.status_code)
            return response

    async def _poll(self, url: str) -> httpx.Response:
        hop = Hop(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._whole(await hop.send(self._api, auth=self._auth_for(hop.url)))
            if (target := redirect_of(hop.url, response)) is None:
                return response
            if not may_have_key(target, self.base_url):
                raise RedirectRefused(f"{host_of(hop.url)} redirects to {host_of(target)}, which may not have the key")
            self.check_region(target)
            hop = await follow(hop.url, target)
        raise RedirectRefused(f"{host_of(url)}: more than {MAX_REDIRECTS} redirects, the last to {host_of(hop.url)}")

    def check_region(self, url: str) -> None:
        """Raise ``RedirectRefused`` for an address outside the region, if ``is_region_strict``."""
        if self._is_region_strict and not is_in_region(self.base_url, url):
            own, other = host_of(self.base_url), host_of(url)
            raise RedirectRefused(f"{other} is not in the region of {own}, and the setting region is strict")

    def _auth_for(self, url: str) -> httpx.Auth | None:
        return _XKey(self._key) if self._key and may_have_key(url, self.base_url) else None

    @staticmethod
    async def _whole(response: httpx.Response) -> httpx.Response:
        data = bytearray()
        try:
            if response.headers.get("content-encoding", "identity").strip().lower() in ("identity", "gzip", ""):
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > _LONGEST:
                        raise httpx.ReadError(f"an answer of more than {_LONGEST:,} bytes")
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-encoding"]
        return httpx.Response(response.status_code, headers=headers, content=bytes(data))

    def has_key(self, text: str) -> bool:
        """Check whether the key stands in ``text``, as it is or as an address writes it."""
        return len(self._key) >= SHORTEST_KEY and any(self._key in form for form in (text, unquote(text)))

    def without_key(self, answer: Any) -> Any:
        """Return what the service answered without key and secret, which it may repeat; ids and addresses stay so."""
        if not self._secrets:
            return answer
        if isinstance(answer, str):
            for secret in self._secrets:
                answer = answer.replace(secret, "<key>")
            return answer
        if isinstance(answer, dict):
            return {
                name: value if name in _VERBATIM else self.without_key(value)
                for name, value in answer.items()
                if not any(secret in name for secret in self._secrets)
            }
        return [self.without_key(value) for value in answer] if isinstance(answer, list) else answer

    async def fetch(self, sample: str, *, title: str, seconds: float) -> bytes:
        """Return the bytes at a delivery address, without the key; see ``fetch_delivery``."""
        try:
            await follow(self.base_url, sample, is_looked_up=False)
        except RedirectRefused as error:
            raise DeliveryFailed(f"{title}: the delivery address is not https, or is refused ({error})") from None
        with probe.OFF if probe.probe is None else probe.probe.request("GET", sample, "download"):
            return await fetch_delivery(self._deliveries, sample, title=title, seconds=seconds, check=self.check_region)


def may_have_key(url: str, endpoint: str) -> bool:
    """Check whether ``url`` is BFL's, or of the same server as ``endpoint`` over https or loopback."""
    try:
        own, asked = urlsplit(endpoint), urlsplit(url)
    except ValueError:
        return False
    is_own = (own.scheme, own.netloc.lower()) == (asked.scheme, asked.netloc.lower())
    return is_bfl(url) or (is_own and (asked.scheme == "https" or is_loopback(url)))


async def fetch_delivery(
    client: httpx.AsyncClient,
    sample: str,
    *,
    title: str,
    seconds: float,
    check: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Return the bytes at the delivery address ``sample``.

    Args:
        client: must not carry a key.
        title: what messages begin with.
        check: see ``download``.

    Raises:
        DeliveryFailed: they did not arrive whole, or the address is not https.
    """
    if not sample.startswith("https://") and not is_loopback(sample):
        raise DeliveryFailed(f"{title}: the delivery address is not https")
    try:
        async with asyncio.timeout(seconds):
            data = await download(sample, client=client, limit=MAX_BYTES, is_plain_allowed=False, check=check)
    except TimeoutError:
        raise DeliveryFailed(f"{title}: not delivered within {seconds:g} s") from None
    if not data:
        raise DeliveryFailed(f"{title}: the delivery is empty")
    return data
