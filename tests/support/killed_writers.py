"""Runs that write a dataset and are killed at random moments; run as a program, it prints what became of them as JSON.

    killed_writers.py FOLDER FORMAT KILLS SEED [local | s3] [new | changed]

The dataset is in the folder, or in a bucket of an S3 server in this process. With ``changed``, the runs that are killed
replace rows of a dataset that is whole. One process forks all of the runs: the modules are imported once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from object_stores import moto_s3, reach_s3
from PIL import Image, ImageOps

from flux_tasks.settings import Settings
from pipelines.recipe import Recipe
from pipelines.run.run import Run

OUTPUT, STORE = "out", "store"


def write(folder: Path, kind: str, root: str) -> None:
    """One run over the pictures in ``folder``; the dataset goes below ``root``."""
    dataset = {"dataset": f"{root}/{OUTPUT}", "format": kind, "split": {"train": 0.8, "test": 0.2}}
    sharded = {} if kind == "imagefolder" else {"shard_size": "1 MB"}
    recipe = Recipe(
        source=str(folder / "photos" / "*.png"),
        steps=[{"crop": {"box": [0, 0, 200, 200]}}],
        output={**dataset, **sharded, "provenance": True},
    )
    with Run(recipe.compiled, Settings(key="k", store=str(folder / STORE))) as run:
        asyncio.run(run.answer_from_store())
    os._exit(0 if run.summary.is_fine else 1)


class Folder:
    """Where the dataset is: below ``root``."""

    def __init__(self, folder: Path) -> None:
        self.root, self._folder = str(folder), folder

    def files(self) -> dict[str, bytes]:
        """The files of the dataset, by their names in it."""
        place = self._folder / OUTPUT
        found = sorted(path for path in place.rglob("*") if path.is_file())
        return {str(path.relative_to(place)): path.read_bytes() for path in found}

    def put(self, files: Mapping[str, bytes]) -> None:
        """Make the dataset one of these files."""
        shutil.rmtree(self._folder / OUTPUT, ignore_errors=True)
        for name, data in files.items():
            path = self._folder / OUTPUT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


class Bucket:
    """The same in a bucket."""

    root = "s3://bucket"

    def __init__(self, endpoint: str) -> None:
        import boto3  # not what the runs use: they are forked from this process

        self._s3 = boto3.client("s3", endpoint_url=endpoint)
        self._s3.create_bucket(Bucket="bucket")

    def _keys(self) -> list[str]:
        found = self._s3.list_objects_v2(Bucket="bucket", Prefix=f"{OUTPUT}/").get("Contents", ())
        return [one["Key"] for one in found]

    def files(self) -> dict[str, bytes]:
        """The files of the dataset, by their names in it."""
        get = partial(self._s3.get_object, Bucket="bucket")
        return {key.removeprefix(f"{OUTPUT}/"): get(Key=key)["Body"].read() for key in self._keys()}

    def put(self, files: Mapping[str, bytes]) -> None:
        """Make the dataset one of these files."""
        for key in self._keys():
            self._s3.delete_object(Bucket="bucket", Key=key)
        for name, data in files.items():
            self._s3.put_object(Bucket="bucket", Key=f"{OUTPUT}/{name}", Body=data)


def digests(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: hashlib.sha256(data).digest() for name, data in files.items()}


def run(folder: Path, kind: str, root: str, seconds: float | None = None) -> float | None:
    """Fork a run and kill it after so many seconds; returns how many it took, or None if it was killed."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            write(folder, kind, root)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return None
    assert os.WEXITSTATUS(status) == 0, f"the run ended with {status}"
    return time.monotonic() - started


def main(folder: Path, kind: str, kills: int, seed: int, place: Folder | Bucket, *, is_changed: bool) -> None:
    """Kill runs until there were so many kills, and let one come to its end after some of them."""
    chance = random.Random(seed)
    before: dict[str, bytes] = {}
    if is_changed:
        run(folder, kind, place.root)
        before = place.files()
        for photo in sorted((folder / "photos").iterdir())[1::2]:
            photo.write_bytes(_inverted(photo))
    took = run(folder, kind, place.root) or 0.0
    whole = digests(place.files())
    allowed = {*whole.items(), *digests(before).items()}
    killed = halves = different = rounds = 0
    others: list[str] = []
    while killed < kills:
        rounds += 1
        place.put(before)
        shutil.rmtree(folder / STORE)
        ended = None
        while ended is None:
            is_last = killed >= kills or chance.random() < 0.2
            ended = run(folder, kind, place.root, None if is_last else chance.uniform(0.05, took))
            killed += ended is None
            there = digests(place.files())
            shards = ((name, data) for name, data in there.items() if name.startswith("data/") and "_stats" not in name)
            halves += sum(shard not in allowed for shard in shards)
        different += there != whole
        others += sorted(name for name in {*there, *whole} if there.get(name) != whole.get(name))
    figures = {"killed": killed, "halves": halves, "different": different, "rounds": rounds, "files": len(whole)}
    print(json.dumps({**figures, "others": sorted(set(others))}))


def _inverted(photo: Path) -> bytes:
    data = io.BytesIO()
    ImageOps.invert(Image.open(photo).convert("RGB")).save(data, "PNG")
    return data.getvalue()


if __name__ == "__main__":
    where, way = (*sys.argv[5:7], "local", "new")[:2] if len(sys.argv) != 6 else (sys.argv[5], "new")
    with contextlib.ExitStack() as stack:
        home = Path(sys.argv[1])
        shelf: Folder | Bucket = Folder(home)
        if where == "s3":
            endpoint = stack.enter_context(moto_s3())
            stack.enter_context(reach_s3(endpoint))
            shelf = Bucket(endpoint)
        main(home, sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), shelf, is_changed=way == "changed")
