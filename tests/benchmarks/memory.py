"""Memory, files and sockets, at the sizes that people have. Asserts nothing.

    make memory                                    # 1,000 and 10,000 items, 24 pictures of 4 MP, 10,000 calls
    make memory ARGS="--items 1000,10000,100000"   # 10 minutes of CPU more
    make memory ARGS="--items= --calls 0"          # the pictures alone
    make memory ARGS="--items= --calls 0 --pictures 0 --rows 1000,10000,100000"

- **Items** are the rows of a table, each with one small picture and a condition that is false: every one is walked, has
  a row in the manifest, and is settled for the run after it, but nothing is paid for.
- **Pictures** go through two jobs each, 24 at a time, as PNG files of 6 MB.
- **Rows** of Parquet files and of tars go into a dataset of the same format, through a local step and through a job of
  the stand-in, and once more when all is settled; a plain loop with pyarrow or webdataset copies them.
- **Calls** are made by one process: what it has open is counted after a hundred of them, at the end, and when its
  connections have been idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rows as rows_module
from arena import Arena
from measuring import Workshop
from rows import RECIPE, RECIPES
from workload import Work, grain, write_photos, write_recipe

TABLE = """\
source: {table: rows.jsonl, image: "{{ photo }}"}
steps: [{deblur: {}, when: width < 10}]
output: "out/{{ id }}.png"
"""

CALLS = """
import asyncio, logging, os, sys, threading, time
from flux_tasks import adeblur, background, use
from flux_tasks.jobs.endpoint import IDLE

photo, url, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
logging.disable(logging.WARNING)  # the stand-in's pictures have a size of their own

def tell(when):
    opened = [entry.path for entry in os.scandir("/proc/self/fd")]
    links = [os.readlink(path) for path in opened if os.path.lexists(path)]
    sockets = sum(link.startswith("socket") for link in links)
    counts = {"files": len(links) - sockets, "sockets": sockets, "tasks": len(asyncio.all_tasks(background._loop))}
    counts["threads"] = threading.active_count()
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    counts["MB"] = int(status["VmRSS"].split()[0]) // 1024
    print(f"  {when:24}", *(f"{count:6,} {name}" for name, count in counts.items()), flush=True)

async def make(begin, end):
    turn = asyncio.Semaphore(48)
    async def one(seed):
        async with turn:
            await adeblur(photo, seed=seed)
    await asyncio.gather(*map(one, range(begin, end)))

with use(endpoint=url, key="k", store="calls", prefect="off"):
    asyncio.run(make(0, 100))
    tell("after 100 calls")
    asyncio.run(make(100, calls))
    tell(f"after {calls:,} calls")
    time.sleep(IDLE + 5)
    tell("when idle")
"""


class Meter:
    """Runs commands in an empty folder and prints the most memory that each of them held."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._options = ("--endpoint", arena.url, "--store", "store")

    def place(self, name: str, recipe: str) -> Path:
        """Return a new folder with a recipe in it."""
        place = self._arena.folder / name
        place.mkdir()
        (place / "recipe.yaml").write_text(recipe)
        return place

    def command(self, what: str, place: Path, name: str, *options: str) -> None:
        """Run a command of the program over the recipe of a folder."""
        given = (*self._options, *(("--prefect", "off") if name == "run" else ()), *options)
        self.run(what, place, ["-m", "pipelines.cli", name, "recipe.yaml", *given])

    def run(self, what: str, place: Path, arguments: Sequence[str], *, is_shown: bool = False) -> None:
        """Run Python, and print what it took."""
        environment = self._arena.workshop.environment(f"{self._arena.folder}:memory", {})
        output = None if is_shown else subprocess.DEVNULL
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=place, env=environment, stdout=output, stderr=output
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        failed = f", exit code {process.returncode}" if process.returncode else ""
        took = time.monotonic() - began
        seconds = used.ru_utime + used.ru_stime
        print(f"{what:44} {used.ru_maxrss // 1024:6} MB, CPU {seconds:7.1f} s, {took:7.1f} s{failed}", flush=True)


def measure_items(meter: Meter, items: int) -> None:
    """Plan so many items, run them twice, and plan them again."""
    place = meter.place(f"items-{items}", TABLE)
    (place / "photo.png").write_bytes(grain(0.01))
    with (place / "rows.jsonl").open("w") as table:
        for number in range(items):
            table.write(json.dumps({"id": f"item-{number:08}", "photo": "photo.png"}) + "\n")
    for what, name in (("plan", "plan"), ("first run", "run"), ("settled run", "run"), ("settled plan", "plan")):
        meter.command(f"{what} of {items:,} items", place, name)


def measure_rows(meter: Meter, rows: int, *, is_paid: bool) -> None:
    """Take a dataset of so many rows through a recipe, and copy it in a plain loop."""
    for kind in ("parquet", "webdataset"):
        for step in ("local", *(["paid"] if is_paid else [])):
            place = meter.place(f"{kind}-{step}-{rows}", RECIPE.format(step=RECIPES[step], kind=kind))
            meter.run(f"{kind}, {rows:,} rows are written", place, [rows_module.__file__, kind, "in", str(rows)])
            for what in ("first", "settled"):
                meter.command(f"{kind}, {rows:,} rows, {step} step, {what}", place, "run")
        (place / "copy").mkdir()
        meter.run(f"{kind}, {rows:,} rows, plain copy", place, [rows_module.__file__, kind, "in", "copy"])


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description="Measure memory, files and sockets.")
    parser.add_argument("--items", default="1000,10000", help="how many, with commas between them")
    parser.add_argument("--calls", type=int, default=10_000, help="how many calls one process makes")
    parser.add_argument("--rows", default="", help="of datasets, how many, with commas between them")
    parser.add_argument("--no-jobs", action="store_true", help="take rows through the local step only")
    parser.add_argument("--pictures", type=int, default=48, help="how many pictures of 4 MP")
    given = parser.parse_args()
    with Workshop() as workshop:
        meter = Meter(arena := Arena(workshop))
        for items in filter(None, given.items.split(",")):
            measure_items(meter, int(items))
        arena.open_book(Work(seconds=0.05, megapixels=0.007))
        for rows in filter(None, given.rows.split(",")):
            measure_rows(meter, int(rows), is_paid=not given.no_jobs)
        if given.pictures:
            arena.open_book(Work(seconds=3.0))
            place = meter.place("pictures", "")
            write_photos(place / "photos", Work(given.pictures, megapixels=4.0))
            write_recipe(place, place / "photos", steps=2)
            meter.command(f"{given.pictures} pictures of 4 MP, 24 in flight", place, "run")
        if given.calls:
            arena.open_book(Work(seconds=0.05))
            place = meter.place("calls", "")
            (place / "photo.png").write_bytes(grain(0.01))
            arguments = ["-c", CALLS, "photo.png", arena.url, str(given.calls)]
            meter.run(f"{given.calls:,} calls of one process", place, arguments, is_shown=True)


if __name__ == "__main__":
    main()
