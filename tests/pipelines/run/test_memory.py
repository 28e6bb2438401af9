"""Memory stays flat: what a run, a plan and a manifest keep of each item, and what pictures on their way take."""

from __future__ import annotations

import gc
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from pictures import encoded, noise

from flux_tasks import use
from pipelines import Recipe
from pipelines.data.manifest import read_manifest

PER_ITEM = 1024
"""Bytes that may stay in memory of each item."""

PNG = encoded(noise((64, 64)))
STAND_IN = Path(__file__).parents[2] / "benchmarks" / "server.py"


def recipe_over(folder: Path, name: str, items: int, *steps: dict[str, Any]) -> Recipe:
    """Return a recipe over a table whose items have one picture, a seed of their own, and an output of their own."""
    (folder / "photo.png").write_bytes(PNG)
    rows = (json.dumps({"id": f"{name}-{n:06d}", "photo": f"{folder}/photo.png", "seed": n}) for n in range(items))
    (folder / f"{name}.jsonl").write_text("\n".join(rows))
    source = {"table": f"{folder}/{name}.jsonl", "image": "{{ photo }}"}
    return Recipe(name, source=source, steps=steps, output=f"{folder}/out/{{{{ id }}}}.png")


def growth(measure: Callable[[str, int], object], few: int, many: int) -> float:
    """Return by how many bytes an item what ``measure`` keeps at a time grows; too many are measured once more.

    Some tables of Python double once in a while; not twice in so short a time.
    """

    def peak(name: str, items: int) -> int:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        measure(name, items)
        return tracemalloc.get_traced_memory()[1] - before

    measure("first", few)  # fills caches
    tracemalloc.start()
    try:
        small = peak("few", few)
        found = (peak("many", many) - small) / (many - few)
        return found if found < PER_ITEM else (peak("again", many) - small) / (many - few)
    finally:
        tracemalloc.stop()


def test_less_than_a_kilobyte_stays_of_each_item_of_a_plan(tmp_path: Path) -> None:
    def plan(name: str, items: int) -> None:
        steps = {"deblur": {"seed": "{{ seed }}"}}, {"outpaint": {"width": 96, "height": 96}}
        assert recipe_over(tmp_path, name, items, *steps).plan().jobs == 2 * items

    with use(endpoint="local", store=str(tmp_path / "store")):
        assert growth(plan, 50, 250) < PER_ITEM


def test_less_than_a_kilobyte_stays_of_each_item_of_a_run(tmp_path: Path) -> None:
    def run(name: str, items: int) -> None:
        assert sum(recipe_over(tmp_path, name, items, {"deblur": {}}).run()["counts"].values()) == items

    store = str(tmp_path / "store")
    with FakeBfl(pending_polls=0) as bfl, use(endpoint=bfl.url, key="k", store=store, prefect="off", max_jobs=2):
        assert growth(run, 40, 160) < PER_ITEM
        assert bfl.jobs == 1


def test_less_than_a_kilobyte_stays_of_each_item_whose_turn_comes_later(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with FakeBfl(pending_polls=0) as bfl, use(endpoint=bfl.url, key="k", store=store, prefect="off", max_jobs=2):
        recipe_over(tmp_path, "paid", 1, {"deblur": {}}).run()

        def run_again(name: str, items: int) -> None:
            assert recipe_over(tmp_path, name, items, {"deblur": {}}).run()["counts"] == {"cached": items}

        assert growth(run_again, 40, 160) < PER_ITEM


ROW = {"item": "p", "index": 0, "source": "p.png", "outcome": "done", "error": None, "padding": "x" * 3_000}


@pytest.mark.parametrize("in_order", [False, True])
def test_a_manifest_is_never_in_memory_as_a_whole(tmp_path: Path, in_order: bool) -> None:
    def read(name: str, rows: int) -> None:
        file = tmp_path / f"{name}.jsonl"
        with file.open("w") as manifest:
            for n in reversed(range(rows)):
                manifest.write(json.dumps({**ROW, "item": f'"index": {n + 7}', "index": n}) + "\n")
        first = rows - 1 if not in_order else 0
        last = 0 if not in_order else rows - 1
        seen = [row["index"] for row in read_manifest(str(file), in_order=in_order) if row["index"] in (first, last)]
        assert seen == [first, last]

    assert growth(read, 100, 1_100) < PER_ITEM


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in other units elsewhere")
def test_bodies_and_results_take_memory_only_while_they_are_on_their_way(tmp_path: Path) -> None:
    """A run of 48 pictures of 3 MB, 24 of which are in flight; all of its bodies at a time are 384 MB."""
    (tmp_path / "photos").mkdir()
    common = os.urandom(3_000_000)
    for number in range(48):
        filler = b"%8d" % number + common
        chunk = struct.pack(">I", len(filler)) + b"fiLl" + filler + struct.pack(">I", zlib.crc32(b"fiLl" + filler))
        (tmp_path / "photos" / f"p{number}.png").write_bytes(PNG[:-12] + chunk + PNG[-12:])
    (tmp_path / "r.yaml").write_text("source: photos/*\nsteps: [deblur]\noutput: 'out/{{ stem }}.png'\n")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(STAND_IN)], **pipes) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        url = server.stdout.readline().strip()
        command = ["run", "r.yaml", "--endpoint", url, "--store", "store", "--prefect", "off", "--no-report"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        server.stdin.close()
    code, megabytes = map(int, done.stdout.splitlines()[-1].split())
    assert code == 0, done.stderr
    assert megabytes < 350


# Not ru_maxrss, which begins with that of the parent.
PEAK = """
import sys
from pipelines.cli.main import main
code = main(sys.argv[1:])
print(code, next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
