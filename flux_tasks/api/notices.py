"""Tell a server of something with one POST: signed, tried again, and never at an address that it must not go to.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com), whose libraries check it: the headers
``webhook-id`` (the same one for each try), ``webhook-timestamp`` and ``webhook-signature``, which is ``v1,`` and the
base64 of HMAC-SHA256 over ``<id>.<timestamp>.<body>``.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

import httpx

from flux_tasks.api.answers import reason_of
from flux_tasks.images.redirects import host_of, is_public

__all__ = ["NotDelivered", "post", "signed"]

_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
_TIMEOUT = 10.0  # seconds for one answer
_AGAIN = (408, 409, 425, 429)  # besides all from 500 on


class NotDelivered(Exception):
    """The server did not take it; the message says why, and names the host only."""


def signed(secret: str, message_id: str, body: bytes, at: float) -> dict[str, str]:
    """Return the headers that name a message and, with a ``secret``, sign it.

    Args:
        secret: ``whsec_`` and base64, as Standard Webhooks writes one, or any other text; empty for none.
        at: seconds since 1970.
    """
    stamp = str(int(at))
    headers = {"webhook-id": message_id, "webhook-timestamp": stamp}
    if secret:
        digest = hmac.new(_key(secret), b".".join((message_id.encode(), stamp.encode(), body)), hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _key(secret: str) -> bytes:
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


async def post(url: str, body: bytes, *, message_id: str, secret: str = "", is_trusted: bool = False) -> None:
    """Send a JSON ``body`` to ``url`` until the server takes it; it is the caller who ends that after a while.

    Args:
        message_id: the same one for each try, so that the server can leave out what it has.
        is_trusted: the address may be plain http, and in a private network.

    Raises:
        NotDelivered: the server refuses it, or its address must not be asked.
    """
    if not is_trusted and not await is_public(url):
        raise NotDelivered(f"{host_of(url)} is not https, or in a private network")
    async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False) as client:
        for pause in (*_PAUSES, None):
            headers = {"content-type": "application/json", **signed(secret, message_id, body, time.time())}
            problem = await _try(client, url, body, headers)
            if not problem:
                return
            if pause is None:
                raise NotDelivered(problem)
            await asyncio.sleep(pause)


async def _try(client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]) -> str:
    """Return why it was not taken, but may be the next time; empty if it was.

    Raises:
        NotDelivered: it is refused for good.
    """
    try:
        async with client.stream("POST", url, content=body, headers=headers) as response:
            code = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return f"{host_of(url)}: no answer ({reason_of(error)})"
    if 200 <= code < 300:
        return ""
    if code in _AGAIN or code >= 500:
        return f"{host_of(url)} answers {code}"
    raise NotDelivered(f"{host_of(url)} refuses it ({code})")
