"""Make one job by hand, as the contestants that are no recipe do: submit, poll, fetch, look at the picture.

It polls every 0.1 s. BFL's own examples wait between 0.5 and 1 s; at jobs of 1 s that would leave a third of the slots
unused.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import time
from pathlib import Path

import httpx
from PIL import Image

PAUSE = 0.1
TOOL = "/v1/flux-tools/deblur-v1"


def arguments() -> argparse.Namespace:
    """Return what every contestant is given: the address, the folders, the chain's length, the slots."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--slots", type=int, default=24)
    parser.add_argument("--share", default="0/1", help="take the photos of one process of several, such as 1/4")
    return parser.parse_args()


def photos_of(given: argparse.Namespace) -> list[Path]:
    """Return the photos of this process."""
    number, processes = map(int, given.share.split("/"))
    return sorted(given.photos.iterdir())[number::processes]


def _body(picture: bytes, seed: int) -> dict[str, object]:
    return {"image": base64.b64encode(picture).decode(), "seed": seed}


async def make(client: httpx.AsyncClient, url: str, picture: bytes, seed: int) -> bytes:
    """Make one job; after a 429, try again a second later."""
    while (answer := await client.post(f"{url}{TOOL}", json=_body(picture, seed))).status_code == 429:
        await asyncio.sleep(1.0)
    job = answer.raise_for_status().json()
    while True:
        await asyncio.sleep(PAUSE)
        poll = (await client.get(job["polling_url"])).raise_for_status().json()
        if poll["status"] == "Ready":
            break
    made = (await client.get(poll["result"]["sample"])).raise_for_status().content
    Image.open(io.BytesIO(made)).verify()
    return made


def make_sync(client: httpx.Client, url: str, picture: bytes, seed: int) -> bytes:
    """Do the same in a thread."""
    while (answer := client.post(f"{url}{TOOL}", json=_body(picture, seed))).status_code == 429:
        time.sleep(1.0)
    job = answer.raise_for_status().json()
    while True:
        time.sleep(PAUSE)
        poll = client.get(job["polling_url"]).raise_for_status().json()
        if poll["status"] == "Ready":
            break
    made = client.get(poll["result"]["sample"]).raise_for_status().content
    Image.open(io.BytesIO(made)).verify()
    return made
