"""Daft: a table of pictures, and one async function applied four times as a chain of columns."""

from __future__ import annotations

import asyncio
from pathlib import Path

import daft
import httpx
from calls import arguments, make, photos_of

GIVEN = arguments()
CLIENTS: list[httpx.AsyncClient] = []  # one event loop runs them all; the client is made inside it
SLOTS = asyncio.Semaphore(GIVEN.slots)  # each column has a limit of its own; together they must keep to the account's


@daft.func(max_concurrency=GIVEN.slots)
async def deblur(picture: bytes, seed: int) -> bytes:
    if not CLIENTS:
        CLIENTS.append(httpx.AsyncClient(timeout=60, trust_env=False))
    async with SLOTS:
        return await make(CLIENTS[0], GIVEN.url, picture, seed)


table = daft.from_pydict({"photo": [str(photo) for photo in photos_of(GIVEN)]})
table = table.with_column("picture", daft.col("photo").download())
for seed in range(GIVEN.steps):
    table = table.with_column("picture", deblur(daft.col("picture"), seed))
for row in table.iter_rows():
    (GIVEN.out / Path(row["photo"]).name).write_bytes(row["picture"])
