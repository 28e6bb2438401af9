"""Shards as processes: what the command line prints and leaves, kills of one of them or of all, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import Cli
from fake_bfl import FakeBfl
from in_shards import alike
from PIL import Image
from waiting import wait_until

from pipelines.data.manifest import read_manifest

PICTURES = 6
RECIPE = """\
name: clean
source: photos/*.png
steps: [deblur: {}]
output: 'out/{{ stem }}.png'
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in a folder with a recipe and pictures of which half belong to each of two shards."""
    (tmp_path / "photos").mkdir()
    for number in range(PICTURES):
        picture = Image.linear_gradient("L").resize((96, 80)).rotate(number * 9).convert("RGB")
        picture.save(tmp_path / "photos" / f"p{number}.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path)


def manifest_of(done: Any) -> list[Any]:
    """The rows of a run, by what it has printed."""
    [place] = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("manifest:")]
    return list(read_manifest(place, in_order=True))


def is_paid_once(bfl: FakeBfl) -> bool:
    return len({json.dumps(body, sort_keys=True) for body in bfl.bodies}) == len(bfl.bodies) == PICTURES


def count_submitted(folder: Path) -> int:
    """How many jobs the journal has with their ids."""
    entries = (folder / "store" / "journal").glob("*.json")
    return sum('"phase": "submitted"' in entry.read_text() for entry in entries)


def children_of(process: Any) -> list[psutil.Process]:
    return [
        one for one in psutil.Process(process.pid).children(recursive=True) if "shards.child" in "".join(one.cmdline())
    ]


def test_shards_by_processes_print_and_leave_what_one_process_does_and_survive_a_kill_of_one(
    cli: Cli, bfl: FakeBfl, tmp_path: Path
) -> None:
    one = cli("run", "recipe.yaml", "--endpoint", bfl.url, "--store", "alone", key="k")
    bfl.bodies.clear()
    bfl.hold = True
    running = cli.start("run", "recipe.yaml", "--endpoint", bfl.url, "--shards", "2", key="k")
    wait_until(lambda: count_submitted(tmp_path) == PICTURES)
    assert "2 on processes" in cli("status").stdout
    children_of(running)[0].kill()
    bfl.hold = False
    out, err = running.communicate()
    assert running.returncode == 0, err
    assert "is begun again where it was left: it was ended by signal 9\n" in err
    assert is_paid_once(bfl)
    running.stdout = None
    many = type("Done", (), {"stdout": out})
    assert alike(manifest_of(many), str(tmp_path / "store")) == alike(manifest_of(one), str(tmp_path / "alone"))
    shown = [line for line in out.splitlines() if line.startswith(("jobs:", "  deblur", "results:"))]
    assert shown == [line for line in one.stdout.splitlines() if line.startswith(("jobs:", "  deblur", "results:"))]
    assert "jobs: 6 paid" in out
    assert (tmp_path / "out" / "p5.png").exists()
    assert "\nshards: 2 on processes\n" in out
    [told] = json.loads(cli("history", "--json").stdout)
    assert (told["shards"], told["shards_on"], told["shard"]) == (2, "processes", "")
    again = cli("run", "recipe.yaml", "--endpoint", bfl.url, "--shards", "2", key="k").stdout
    assert "\nshards: 2 on processes, 0 of them begun\n" in again
    assert "shards" not in cli("history", "--store", "alone").stdout.splitlines()[0], "none there had any"


def test_shards_end_with_the_run_that_is_killed_and_the_same_command_goes_on(
    cli: Cli, bfl: FakeBfl, tmp_path: Path
) -> None:
    bfl.hold = True
    running = cli.start("run", "recipe.yaml", "--endpoint", bfl.url, "--shards", "2", key="k")
    wait_until(lambda: count_submitted(tmp_path) == PICTURES)
    children = children_of(running)
    assert len(children) == 2
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    wait_until(lambda: not any(child.is_running() for child in children))
    bfl.hold = False
    [killed] = (tmp_path / "store" / "runs").iterdir()
    row = {"index": 0, "source": "photos/p0.png", "item": "p0", "outcome": "done"}
    (killed / "shards" / "1" / f"{'0' * 16}.jsonl").write_text(json.dumps(row) + "\n")  # one item had ended
    (killed / "shards" / "1" / f".alive.json.{'0' * 16}.tmp").write_text("{")
    again = cli("run", "recipe.yaml", "--endpoint", bfl.url, "--shards", "2", key="k")
    assert again.returncode == 0, again.stderr
    assert "6 collected from an earlier run" in again.stdout
    assert "Of its 6 items had ended: 1 done. What it paid for" in again.stderr
    assert {path.name for path in killed.iterdir()} <= {"manifest.jsonl", "run.json", "state.json"}
    assert is_paid_once(bfl)


def test_ctrl_c_lets_the_shards_collect_what_is_in_flight_and_ends_them(cli: Cli, bfl: FakeBfl, tmp_path: Path) -> None:
    bfl.hold = True
    running = cli.start("run", "recipe.yaml", "--endpoint", bfl.url, "--shards", "2", "--max-jobs", "2", key="k")
    wait_until(lambda: count_submitted(tmp_path) == 2)
    os.killpg(running.pid, signal.SIGINT)
    wait_until(lambda: list((tmp_path / "store" / "runs").glob("*/stop.json")))
    bfl.hold = False
    out, err = running.communicate()
    assert running.returncode == 3, err
    rows = manifest_of(type("Done", (), {"stdout": out}))
    assert sorted(row["outcome"] for row in rows) == ["done", "done", *["held"] * 4]
    assert "stopped: interrupted (Ctrl-C)" in err
    again = cli("run", "recipe.yaml", "--endpoint", bfl.url, key="k")
    assert again.returncode == 0, again.stderr
    assert is_paid_once(bfl)
