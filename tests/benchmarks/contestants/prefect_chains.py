"""Plain Prefect, written for many pictures: an async flow that awaits async tasks, a chain for each picture."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from calls import arguments, make, photos_of
from prefect import flow, task

GIVEN = arguments()


@task(retries=2, persist_result=False)
async def deblur(client: httpx.AsyncClient, photo: Path, seed: int) -> Path:
    made = GIVEN.out / photo.name
    made.write_bytes(await make(client, GIVEN.url, photo.read_bytes(), seed))
    return made


@flow(log_prints=False)
async def restore() -> None:
    slots = asyncio.Semaphore(GIVEN.slots)
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:

        async def chain(photo: Path) -> None:
            for seed in range(GIVEN.steps):
                async with slots:
                    photo = await deblur(client, photo, seed)

        await asyncio.gather(*map(chain, photos_of(GIVEN)))


asyncio.run(restore())
