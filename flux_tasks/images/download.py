"""A bounded HTTP GET: size, time and redirects are limited, and a cut body is an error.

Used for deliveries, for inputs given as http(s) URLs, and by the local server for the URLs in its requests. No request
made here carries a key.
"""

from __future__ import annotations

import ssl
from functools import cache
from urllib.parse import urljoin, urlsplit

import httpx

from flux_tasks.errors import DeliveryFailed

__all__ = ["certificates", "download"]


@cache
def certificates() -> ssl.SSLContext:
    """Return the certificates that every client trusts: read once, because that takes 25 ms of CPU."""
    return httpx.create_ssl_context()


async def download(
    url: str,
    *,
    client: httpx.AsyncClient,
    limit: int,
    redirects: int = 3,
    same_host: bool = False,
) -> bytes:
    """Return the whole body at ``url``, at most ``limit`` bytes.

    Args:
        client: has time-outs and the connection pool; must not have credentials.
        redirects: how many to follow; with ``same_host`` only those that stay on the host of ``url``.

    Raises:
        DeliveryFailed: any status but 200, too long, cut short, too many or foreign redirects, no connection. The
            message names host and reason, never the query (a signed URL is a secret while it is valid).
    """
    host = _host(url)
    for _ in range(redirects + 1):
        try:
            if urlsplit(url).scheme not in ("http", "https"):
                raise DeliveryFailed(f"{host}: not an http(s) address")
            headers = {"accept-encoding": "identity"}  # pictures are compressed already; only a bomb would gain
            async with client.stream("GET", url, headers=headers, follow_redirects=False) as response:
                if response.has_redirect_location:
                    secure = url.startswith("https://")
                    url = urljoin(url, response.headers["location"])
                    if secure and not url.startswith("https://"):
                        raise DeliveryFailed(f"{host}: redirected out of https")
                    if same_host and _host(url) != host:
                        raise DeliveryFailed(f"{host}: redirected to another host, {_host(url)}")
                    continue
                if response.status_code != 200:
                    raise DeliveryFailed(f"{host}: HTTP {response.status_code}")
                if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", "gzip", ""):
                    raise DeliveryFailed(f"{host}: packed in a way that is not unpacked here")
                return await _body(response, host, limit)
        except httpx.HTTPError as error:
            raise DeliveryFailed(f"{host}: {type(error).__name__}: {error}") from None
        except (httpx.InvalidURL, ValueError, OverflowError, ExceptionGroup) as error:
            raise DeliveryFailed(f"{host}: {error}") from None
    raise DeliveryFailed(f"{host}: more than {redirects} redirects")


def _host(url: str) -> str:
    """Return host and port of ``url``, without the user and password that may stand before them."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return "the address"


async def _body(response: httpx.Response, host: str, limit: int) -> bytes:
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise DeliveryFailed(f"{host}: {int(announced):,} bytes, more than the limit of {limit:,}")
    chunks: list[bytes] = []
    length = 0
    async for chunk in response.aiter_bytes():
        length += len(chunk)
        if length > limit:
            raise DeliveryFailed(f"{host}: more than the limit of {limit:,} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
