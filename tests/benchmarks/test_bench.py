"""The benchmark runs, and leaves nothing behind; no figure is looked at."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

BENCH = Path(__file__).with_name("bench.py")
ROOT = BENCH.parents[2]


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the smallest benchmark; its temporary files are in ``folder``."""
    command = [sys.executable, str(BENCH), "--smallest", "--page", str(folder / "page.md"), *options]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def left_in(folder: Path) -> list[object]:
    """Return the temporary folders there, and the processes that belong to them."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("BENCH_OF", "").startswith(str(folder)):
                processes.append(process)
        except psutil.Error:
            continue
    return [*folder.glob("flux-bench-*"), *processes]


def test_the_page_has_a_row_for_each_contestant_and_leaves_nothing_behind(tmp_path: Path) -> None:
    bench = start(tmp_path, "--only", "hand,recipe,base,start,settled")
    output, _ = bench.communicate(timeout=300)
    assert bench.returncode == 0, output
    page = (tmp_path / "page.md").read_text()
    assert "Left out" not in page
    rows = re.findall(r"^\| (hand-written|recipe, without Prefect).*\|$", page, re.M)
    assert rows.count("hand-written") == 2
    assert rows.count("recipe, without Prefect") == 5  # beside those: settled, its plan, new photos
    for plot in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (tmp_path / plot).read_text().startswith("<?xml")
    assert not left_in(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_benchmark_that_is_stopped_leaves_no_process_and_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    bench = start(tmp_path, "--only", "hand")
    wait_until(lambda: any("contestants" in " ".join(_command(p)) for p in left_in(tmp_path)))
    bench.send_signal(number)
    bench.communicate(timeout=120)
    assert bench.returncode
    wait_until(lambda: not left_in(tmp_path))
    assert not (tmp_path / "page.md").exists()


def _command(place: object) -> list[str]:
    try:
        return place.cmdline() if isinstance(place, psutil.Process) else []
    except psutil.Error:
        return []
