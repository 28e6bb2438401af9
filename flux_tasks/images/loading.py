"""Read the bytes of an image from a path or any URL."""

from __future__ import annotations

import asyncio

from flux_tasks import files
from flux_tasks.errors import InvalidImage, ServerUnavailable

__all__ = ["MAX_BYTES", "read_location"]

MAX_BYTES = 64 * 1024 * 1024
"""Longest file that is read; ``jobs.call`` checks the service's own limit for inputs (20 MB, DOCS-F2)."""


def read_location(location: str) -> bytes:
    """Return the bytes at a path or URL.

    Raises:
        ServerUnavailable: its place fails, and was tried several times.
        OSError, FluxError: they cannot be read.
    """
    if files.is_web(location):
        files.notice(location)
        return _fetch(location)
    try:
        return files.patiently(files.read, location, limit=MAX_BYTES)
    except OSError as error:
        if files.may_pass(error):
            raise ServerUnavailable(f"{files.quoted(location)} cannot be read now: {error}") from error
        raise


def _fetch(url: str) -> bytes:
    import httpx

    from flux_tasks import background
    from flux_tasks.images.download import certificates, download

    async def get() -> bytes:
        try:
            async with asyncio.timeout(120), httpx.AsyncClient(timeout=30, verify=certificates()) as client:
                return await download(url, client=client, limit=MAX_BYTES)
        except TimeoutError:
            raise InvalidImage("not delivered within 120 s") from None

    return background.run(get())
