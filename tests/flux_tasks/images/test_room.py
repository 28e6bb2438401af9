"""Room for decoded pictures: memory has a bound however many threads decode, and no thread waits for ever."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import PATIENCE, wait_until

from flux_tasks.images import pixels
from flux_tasks.images.pixels import MOST_AT_ONCE, room

_WORK = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from flux_tasks.images import pixels
from flux_tasks.images.reference import ImageRef
from pipelines.execution.facts import Facts
if sys.argv[2] == "unbounded":
    pixels.MOST_AT_ONCE = 10**12
for number in range(24):
    Image.new("RGB", (2048, 2048), (number, 0, 0)).save(f"{sys.argv[1]}/{number}.png")
refs = [ImageRef.of(f"{sys.argv[1]}/{number}.png") for number in range(24)]
facts, begin = Facts(None), threading.Barrier(24)
def work(image):
    begin.wait()
    facts.of(image, ["sharpness"])
with ThreadPoolExecutor(24) as pool:
    list(pool.map(work, refs))
# Not ru_maxrss, which begins with that of the parent.
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in other units elsewhere")
def test_24_pictures_of_4_mp_at_once_take_at_most_600_mb(tmp_path: Path) -> None:
    def megabytes(way: str) -> int:
        command = [sys.executable, "-c", _WORK, str(tmp_path), way]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE * 4).stdout)

    assert megabytes("bounded") < 600


def started(pixels: int, inside: threading.Event, leave: threading.Event) -> threading.Thread:
    def work() -> None:
        with room(pixels):
            inside.set()
            assert leave.wait(PATIENCE)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_picture_that_does_not_fit_beside_another_one_waits_for_it_and_a_smaller_one_does_not() -> None:
    events = [threading.Event() for _ in range(3)]
    leave, leave_second = threading.Event(), threading.Event()
    threads = [started(MOST_AT_ONCE - 10, events[0], leave)]
    wait_until(events[0].is_set)
    threads.append(started(11, events[1], leave_second))
    threads.append(started(10, events[2], leave))
    wait_until(events[2].is_set)
    assert not events[1].is_set()
    leave.set()
    wait_until(events[1].is_set)
    leave_second.set()
    for thread in threads:
        thread.join(PATIENCE)


def test_a_picture_larger_than_the_limit_passes_alone_and_one_thread_may_decode_two() -> None:
    with room(3 * MOST_AT_ONCE), room(2 * MOST_AT_ONCE):
        pass
    inside, leave = threading.Event(), threading.Event()
    leave.set()
    thread = started(MOST_AT_ONCE, inside, leave)
    thread.join(PATIENCE)
    assert inside.is_set(), "the room was not given back"


def test_nobody_waits_for_ever_for_a_thread_that_waits_for_him(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_PATIENCE", 0.01)
    inside, leave = threading.Event(), threading.Event()
    leave.set()
    with room(MOST_AT_ONCE):
        thread = started(MOST_AT_ONCE, inside, leave)
        thread.join(PATIENCE)
        assert inside.is_set()


def test_a_thread_with_an_event_loop_never_waits() -> None:
    inside, leave = threading.Event(), threading.Event()
    thread = started(MOST_AT_ONCE, inside, leave)
    wait_until(inside.is_set)

    async def decode() -> None:
        with room(MOST_AT_ONCE):
            leave.set()

    asyncio.run(decode())
    thread.join(PATIENCE)
    assert not thread.is_alive()
