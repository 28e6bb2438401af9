"""Pictures that are sent as addresses in place of their bytes, where ``Settings.transport`` asks for that.

An address is sent only of a picture whose bytes are known and are sent as they are, so it changes no job key. It is of
the web, of an object in a bucket, signed for an hour, or the service's own delivery of an earlier job, which lives for
ten minutes (SEED-0, DOCS-F2). With ``auto`` it is https, and its host public. Who refuses one gets the bytes: a refused
request is no job. Addresses that are signed are secrets: none is logged, recorded or part of a message.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from flux_tasks import files
from flux_tasks.images import byte_cache
from flux_tasks.images.redirects import host_of, is_public
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.settings import Settings

_log = logging.getLogger("flux_tasks.job")

_SIGNED_FOR = 3600  # seconds; a request may wait for a slot
_DELIVERY_LIVES = 300.0  # seconds of the ten minutes that it is offered to the service again
_MOST = 1_000  # deliveries that are remembered


class Addresses:
    """What is known about addresses at one endpoint: its own deliveries, and hosts that it does not fetch from."""

    def __init__(self) -> None:
        self._delivered: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._refused: set[str] = set()

    def delivered(self, digest: str, address: str) -> None:
        """Remember where the service delivers the picture with this digest."""
        self._delivered[digest] = address, time.monotonic() + _DELIVERY_LIVES
        while len(self._delivered) > _MOST:
            self._delivered.popitem(last=False)

    def refused(self, addresses: Collection[str], why: str) -> None:
        """Send no address of these hosts any more, and say so once."""
        for host in sorted({host_of(address) for address in addresses} - self._refused):
            self._refused.add(host)
            _log.warning("%s; pictures at %s are sent as bytes from now on", why, host)

    async def of(self, call: Call, settings: Settings) -> Mapping[str, str]:
        """Return the addresses to send, by the places of the pictures in the request."""
        if settings.transport == "bytes" and not settings.send_urls:
            return {}
        found: dict[str, str] = {}
        for slot, given in call.inputs.items():
            is_taken = call.tool.image_fields[slot.partition(".")[0]].url
            if is_taken and given.mask is None and not given.reencode:
                address = await self._address(given.source, settings)
                if address and host_of(address) not in self._refused:
                    found[slot] = address
        return found

    async def _address(self, picture: ImageRef, settings: Settings) -> str | None:
        if files.is_web(picture.uri) and settings.send_urls:
            return picture.uri
        if settings.transport == "bytes":
            return None
        is_asked = settings.transport == "url"
        address, until = self._delivered.get(picture.digest, ("", 0.0))
        if time.monotonic() < until and (is_asked or urlsplit(address).scheme == "https"):
            return address
        found: str | None = picture.uri if files.is_web(picture.uri) else None
        if found is None and picture.uri:
            sign = files.presigned
            data = byte_cache.get(picture.digest)
            found = await asyncio.to_thread(sign, picture.uri, _SIGNED_FOR, size=picture.size, data=data)
        return found if found and (is_asked or await is_public(found)) else None
