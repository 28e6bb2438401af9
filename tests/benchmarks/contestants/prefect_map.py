"""Plain Prefect, as its pages show it: sync tasks in a thread pool, one ``.map`` for each step of the chain.

Tasks hand on paths, as Prefect advises for what is large.
"""

from __future__ import annotations

from pathlib import Path

import httpx
from calls import arguments, make_sync, photos_of
from prefect import flow, task, unmapped
from prefect.task_runners import ThreadPoolTaskRunner

GIVEN = arguments()
CLIENT = httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=64))


@task(retries=2)
def deblur(photo: Path, seed: int) -> Path:
    made = GIVEN.out / photo.name
    made.write_bytes(make_sync(CLIENT, GIVEN.url, photo.read_bytes(), seed))
    return made


@flow(task_runner=ThreadPoolTaskRunner(max_workers=GIVEN.slots), log_prints=False)
def restore() -> None:
    photos = photos_of(GIVEN)
    for seed in range(GIVEN.steps):
        photos = deblur.map(photos, unmapped(seed))
    photos.result()


restore()
