"""Runs that write a dataset and are killed at random moments; run as a program, it prints what became of them as JSON.

One process forks all of the runs: the modules are imported once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from flux_tasks.settings import Settings
from pipelines.recipe import Recipe
from pipelines.run.run import Run

OUTPUT, STORE = "out", "store"


def write(folder: Path, kind: str) -> None:
    """One run over the pictures in ``folder``."""
    dataset = {"dataset": str(folder / OUTPUT), "format": kind, "split": {"train": 0.8, "test": 0.2}}
    sharded = {} if kind == "imagefolder" else {"shard_size": "1 MB"}
    recipe = Recipe(
        source=str(folder / "photos" / "*.png"),
        steps=[{"crop": {"box": [0, 0, 200, 200]}}],
        output={**dataset, **sharded, "provenance": True},
    )
    with Run(recipe.compiled, Settings(key="k", store=str(folder / STORE))) as run:
        asyncio.run(run.answer_from_store())
    os._exit(0 if run.summary.is_fine else 1)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a dataset and their digests."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest() for path in found}


def run(folder: Path, kind: str, seconds: float | None = None) -> float | None:
    """Fork a run and kill it after so many seconds; returns how many it took, or None if it was killed."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            write(folder, kind)
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


def main(folder: Path, kind: str, kills: int, seed: int) -> None:
    """Kill runs until there were so many kills, and let one come to its end after some of them."""
    chance = random.Random(seed)
    took = run(folder, kind) or 0.0
    whole = contents(folder / OUTPUT)
    shards = {name for name in whole if name.startswith("data/") and "_stats" not in name}
    killed = halves = different = rounds = 0
    while killed < kills:
        rounds += 1
        shutil.rmtree(folder / OUTPUT)
        shutil.rmtree(folder / STORE)
        ended = None
        while ended is None:
            is_last = killed >= kills or chance.random() < 0.2
            ended = run(folder, kind, None if is_last else chance.uniform(0.05, took))
            killed += ended is None
            there = contents(folder / OUTPUT) if (folder / OUTPUT).exists() else {}
            halves += any(there.get(name, whole[name]) != whole[name] for name in shards)
            halves += any(name.startswith("data/") and name not in whole and "_stats" not in name for name in there)
        different += there != whole
    print(
        json.dumps({"killed": killed, "halves": halves, "different": different, "rounds": rounds, "files": len(whole)})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
