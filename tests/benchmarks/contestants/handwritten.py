"""What somebody would write by hand: asyncio and httpx, a chain for each picture, a semaphore for the slots.

It keeps no journal and no results between runs. Pydantic and PyYAML are imported because such a program has its
settings in a file.
"""

from __future__ import annotations

import asyncio

import httpx
import pydantic  # noqa: F401
import yaml  # noqa: F401
from calls import arguments, make, photos_of


async def main() -> None:
    given = arguments()
    slots = asyncio.Semaphore(given.slots)
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:

        async def chain(photo):  # type: ignore[no-untyped-def]
            picture = photo.read_bytes()
            for seed in range(given.steps):
                async with slots:
                    picture = await make(client, given.url, picture, seed)
            (given.out / photo.name).write_bytes(picture)

        await asyncio.gather(*map(chain, photos_of(given)))


asyncio.run(main())
