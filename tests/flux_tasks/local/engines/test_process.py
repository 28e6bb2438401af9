"""The engine beside the program: the same pictures and errors, and no process outlives the program."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from forked import Forked
from PIL import Image

from flux_tasks.catalog import TOOLS
from flux_tasks.errors import InvalidImage
from flux_tasks.local import engines
from flux_tasks.local.engines.process import EngineProcesses


def work(data: bytes) -> engines.Work:
    tool = next(tool for tool in TOOLS.values() if tool.task == "deblur")
    return engines.Work(tool, {}, {tool.main_slot: data}, (120, 90), seed=5)


def photo() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).resize((120, 90)).resize((120, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def ignore(share: float) -> None:
    """Nobody asks for progress."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that this test starts."""
    found: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        found.append(start(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    return found


@pytest.fixture
def processes() -> Iterator[EngineProcesses]:
    engine = EngineProcesses("classical")
    yield engine
    engine.close()


def test_a_process_gives_the_same_picture_reports_progress_and_stays_for_the_next_job(
    processes: EngineProcesses, started: list[subprocess.Popen[bytes]]
) -> None:
    shares: list[float] = []
    made = [processes.run(work(photo()), shares.append) for _ in range(2)]
    here = engines.imported("classical").run(work(photo()), ignore)
    assert [image.tobytes() for image in made] == [here.tobytes()] * 2
    assert shares == [0.2, 0.2]
    assert len(started) == 1


def test_an_error_of_the_engine_is_raised_as_it_is_and_the_process_stays(processes: EngineProcesses) -> None:
    with pytest.raises(InvalidImage):
        processes.run(work(b"no picture"), ignore)
    assert processes.run(work(photo()), ignore).size == (120, 90)


def test_a_process_that_is_killed_ends_its_job_and_no_other(
    processes: EngineProcesses, started: list[subprocess.Popen[bytes]]
) -> None:
    def kill(share: float) -> None:
        started[0].kill()

    with pytest.raises(RuntimeError, match="the engine's process ended with code -9"):
        processes.run(work(photo()), kill)
    assert processes.run(work(photo()), ignore).size == (120, 90)


PROGRAM = """
import os, sys
from flux_tasks.catalog import TOOLS
from flux_tasks.local import engines
tool = next(tool for tool in TOOLS.values() if tool.task == "deblur")
job = engines.Work(tool, {}, {tool.main_slot: sys.stdin.buffer.read()}, (120, 90), 5)
def progress(share):
    if sys.argv[1] == "kill within the job":
        os.kill(os.getpid(), 9)
engines.load("classical").run(job, progress)
if sys.argv[1] == "kill after it":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("way", "code"), [("end", 0), ("kill within the job", -9), ("kill after it", -9)])
def test_no_process_outlives_the_program(way: str, code: int) -> None:
    """An engine's process holds the program's standard error: that ends when both have ended, or the test fails."""
    command = [sys.executable, "-c", PROGRAM, way]
    program = Forked(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    with program:
        _, said = program.communicate(photo(), timeout=120)
    assert (program.returncode, said) == (code, b"")


def test_an_engine_sees_no_secret(
    processes: EngineProcesses, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BFL_API_KEY", "a-secret-of-the-program")
    processes.run(work(photo()), ignore)
    assert b"a-secret-of-the-program" not in Path(f"/proc/{started[0].pid}/environ").read_bytes()
