"""Where a redirect may lead: over https, and never from a public host to one of a private network.

The name of a host proves nothing: it is resolved here, whatever its spelling, and all its addresses are checked. What
the name may mean a moment later changes nothing: over https the certificate must be for that name, and over plain http
the connection goes to an address that was checked. A name that cannot be resolved is left to the connection, which
fails, or to the proxy that makes it. The host that redirects counts as public unless its very address says otherwise.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

__all__ = ["MAX_REDIRECTS", "Hop", "RedirectRefused", "follow", "host_of", "is_public", "reach_of", "redirect_of"]

MAX_REDIRECTS = 3

Reach = Literal["public", "private", "loopback"]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class RedirectRefused(Exception):
    """A redirect that is not followed; the message names both hosts."""


@dataclass(frozen=True, slots=True)
class Hop:
    """An address that may be asked.

    Attributes:
        url: as it was named.
        addresses: of a host that is asked in plain http: IP addresses that were checked, to connect to one of them.
    """

    url: str
    addresses: tuple[str, ...] = ()

    async def send(
        self, client: httpx.AsyncClient, *, auth: httpx.Auth | None = None, **options: Any
    ) -> httpx.Response:
        """Send a GET with ``client``, and return the answer, whose body is still to be read; follow no redirect.

        Each of ``addresses`` is tried in turn. The server is told the name of the host.

        Raises:
            httpx.HTTPError, httpx.InvalidURL, ValueError: no answer, or no address that can be asked.
        """
        for address in (*self.addresses[:-1], None):
            request = client.build_request("GET", self.url, **options)
            if self.addresses:
                request.url = request.url.copy_with(host=address or self.addresses[-1])
            try:
                return await client.send(request, auth=auth, follow_redirects=False, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address is None:
                    raise
        raise AssertionError("unreachable")


def host_of(url: str) -> str:
    """Return host and port of an address, without anything in it that may be secret."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "an address"
    except ValueError:
        return "an address that cannot be read"


def redirect_of(url: str, response: httpx.Response) -> str | None:
    """Return the address that ``response`` to a GET of ``url`` redirects to, or None."""
    return urljoin(url, response.headers["location"]) if response.has_redirect_location else None


async def follow(source: str, target: str, *, is_plain_allowed: bool = False, is_looked_up: bool = True) -> Hop:
    """Check a redirect from ``source`` to ``target``.

    Args:
        is_plain_allowed: follow from plain http to plain http; that is else done from loopback to loopback only.
        is_looked_up: resolve names; without it only an IP address, in any form, is checked.

    Raises:
        RedirectRefused: it leads out of https or into a private network, or is no web address.
    """
    between = f"{host_of(source)} redirects to {host_of(target)}"
    try:
        start, end = httpx.URL(source), httpx.URL(target)  # as the connection will read them
    except (httpx.InvalidURL, ValueError):
        raise RedirectRefused(f"{between}: that is no web address") from None
    if end.scheme not in ("http", "https") or not end.host or end.userinfo:
        raise RedirectRefused(f"{between}: that is no web address")
    if (start.scheme, start.netloc) == (end.scheme, end.netloc):
        return Hop(target)
    addresses = await _resolve(end, 0 if is_looked_up else socket.AI_NUMERICHOST)
    reaches = {reach_of(address) for address in addresses}
    if end.scheme == "http" and reaches != {"loopback"} and not (is_plain_allowed and start.scheme == "http"):
        raise RedirectRefused(f"{between}: out of https")
    if reaches - {"public", _literal_reach(start)}:
        raise RedirectRefused(f"{between}: that is in a private network")
    is_pinned = end.scheme == "http" and reaches == {"public"} and not _is_proxied(end)
    return Hop(target, tuple(addresses) if is_pinned else ())


def reach_of(address: str) -> Reach:
    """Return from where the IP ``address`` can be reached; what is not public is private, link-local addresses too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else inner
        ip = ip if inner is None else inner
    if ip.is_loopback:
        return "loopback"
    return "public" if ip.is_global and not ip.is_multicast else "private"


async def is_public(url: str) -> bool:
    """Check whether ``url`` is https, and all that its host means lies outside private networks."""
    try:
        asked = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return False
    addresses = await _resolve(asked, 0) if asked.scheme == "https" and asked.host and not asked.userinfo else ()
    return bool(addresses) and {reach_of(address) for address in addresses} == {"public"}


def _literal_reach(url: httpx.URL) -> Reach:
    try:
        return "loopback" if url.host == "localhost" else reach_of(url.host)
    except ValueError:  # a name: what it means may change at any moment
        return "public"


async def _resolve(url: httpx.URL, flags: int) -> Sequence[str]:
    """Return every IP address of a host, in whatever form it is written; none if it has none."""
    loop, host = asyncio.get_running_loop(), url.raw_host.decode("ascii")
    if host == "localhost":
        return ("127.0.0.1",)
    try:
        found = await loop.getaddrinfo(host, url.port or 443, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_proxied(url: httpx.URL) -> bool:
    """Check whether another program makes the connection, as the environment says."""
    return bool({url.scheme, "all"} & set(getproxies())) and not proxy_bypass(url.host)
