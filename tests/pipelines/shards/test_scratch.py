"""Folders of killed runs: what a library leaves there is removed, and so is what it leaves running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.shards.scratch import remove_scratch, scratch

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only /proc tells who has a file open")

_OPENS = "import sys; log = open(*sys.argv[1:]); print('open', flush=True); sys.stdin.read()"


def opened(file: Path, mode: str = "w") -> subprocess.Popen[str]:
    """Start a process that has a file open, as Ray's agents have their logs."""
    program = [sys.executable, "-c", _OPENS, str(file), mode]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_what_still_writes_into_the_folder_of_a_killed_run_ends_with_it_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = tmp_path / f"flux-tmp-{gone.pid}-abc"
    with scratch() as alive, opened(Path(alive, "log")) as living, opened(tmp_path / f"{folder.name}.log") as beside:
        folder.mkdir()
        with opened(folder / "log") as left, opened(folder / "log", "r") as reader:
            remove_scratch()
            assert left.wait() != 0
            assert reader.poll() is None
        assert not folder.exists()
        assert (living.poll(), beside.poll()) == (None, None)
