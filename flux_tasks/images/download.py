"""A bounded HTTP GET: size, time and redirects are limited, and a cut body is an error.

Used for deliveries, for inputs given as http(s) URLs, and by the local server for the URLs in its requests. No request
made here carries a key.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import aclosing
from functools import cache
from urllib.parse import urlsplit

import httpx

from flux_tasks.errors import DeliveryFailed
from flux_tasks.images.redirects import MAX_REDIRECTS, Hop, RedirectRefused, follow, host_of, redirect_of

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
    redirects: int = MAX_REDIRECTS,
    is_plain_allowed: bool = True,
    check: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Return the whole body at ``url``, at most ``limit`` bytes.

    Args:
        client: has time-outs and the connection pool; must not have credentials.
        redirects: how many to follow, see ``redirects.follow``.
        is_plain_allowed: whether a redirect may lead from plain http to plain http.
        check: raises ``RedirectRefused`` for an address that must not be asked, the first one too.

    Raises:
        DeliveryFailed: any status but 200, too long, cut short, a redirect that is not followed, no connection. The
            message names host and reason, never the query (a signed URL is a secret while it is valid).
    """
    host, hop = host_of(url), Hop(url)
    for _ in range(redirects + 1):
        try:
            check(hop.url)
            if urlsplit(hop.url).scheme not in ("http", "https"):
                raise DeliveryFailed(f"{host}: not an http(s) address")
            headers = {"accept-encoding": "identity"}  # pictures are compressed already; only a bomb would gain
            async with aclosing(await hop.send(client, headers=headers)) as response:
                if (target := redirect_of(hop.url, response)) is not None:
                    hop = await follow(hop.url, target, is_plain_allowed=is_plain_allowed)
                    continue
                if response.status_code != 200:
                    raise DeliveryFailed(f"{host}: HTTP {response.status_code}")
                if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", "gzip", ""):
                    raise DeliveryFailed(f"{host}: packed in a way that is not unpacked here")
                return await _body(response, host, limit)
        except RedirectRefused as error:
            raise DeliveryFailed(str(error)) from None
        except httpx.HTTPError as error:
            raise DeliveryFailed(f"{host}: {type(error).__name__}: {error}") from None
        except (httpx.InvalidURL, ValueError, OverflowError, ExceptionGroup) as error:
            raise DeliveryFailed(f"{host}: {error}") from None
    raise DeliveryFailed(f"{host}: more than {redirects} redirects")


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
