"""The one background loop: from threads, from other loops, after a fork, and with everything cancelled along."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
from waiting import PATIENCE

from flux_tasks import background


async def loop_and_thread() -> tuple[int, str]:
    return id(asyncio.get_running_loop()), threading.current_thread().name


def test_all_threads_and_loops_share_one_loop() -> None:
    async def elsewhere() -> tuple[int, str]:
        return await background.arun(loop_and_thread())

    with ThreadPoolExecutor(8) as pool:
        seen = {f.result() for f in [pool.submit(background.run, loop_and_thread()) for _ in range(32)]}
    seen |= {asyncio.run(elsewhere()) for _ in range(3)} | {background.start(loop_and_thread()).result()}
    assert len(seen) == 1
    assert {name for _, name in seen} == {"flux-background"}


def test_a_result_comes_back_and_so_does_an_error() -> None:
    async def give(value: int) -> int:
        return 10 // value

    assert background.run(give(5)) == 2
    with pytest.raises(ZeroDivisionError):
        background.run(give(0))

    async def elsewhere() -> int:
        return await background.arun(give(0))

    with pytest.raises(ZeroDivisionError):
        asyncio.run(elsewhere())


def test_on_the_loop_itself_waiting_is_refused_and_awaiting_works() -> None:
    async def inner() -> str:
        return "done"

    async def wrong() -> str:
        return background.run(inner())

    async def right() -> str:
        return await background.arun(inner())

    with pytest.raises(RuntimeError, match="would wait for itself"):
        background.run(wrong())
    assert background.run(right()) == "done"


async def test_cancelling_the_one_who_waits_cancels_the_work() -> None:
    started, ended = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(background.arun(work()))
    await asyncio.to_thread(started.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(ended.wait, PATIENCE)


def test_cancelling_the_future_of_started_work_cancels_it() -> None:
    started, ended = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    future = background.start(work())
    started.wait()
    future.cancel()
    assert ended.wait(PATIENCE)
    with pytest.raises(CancelledError):
        future.result()


def test_an_interrupt_of_the_one_who_waits_stops_the_work() -> None:
    code = """
import asyncio, os, signal, threading
from flux_tasks import background
ended = threading.Event()
async def work():
    os.kill(os.getpid(), signal.SIGINT)
    try:
        await asyncio.Event().wait()
    finally:
        ended.set()
try:
    background.run(work())
except KeyboardInterrupt:
    print("interrupted", ended.wait(60))
    background.run(asyncio.sleep(0))  # the task has ended too then, or its end would be noted on stderr
"""
    assert run(code) == "interrupted True"


def test_an_interrupt_that_comes_before_the_work_has_a_future_stops_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def interrupted(coroutine: Any, loop: Any) -> Any:
        begin(coroutine, loop)
        assert begun.wait(PATIENCE)
        raise KeyboardInterrupt

    begin = asyncio.run_coroutine_threadsafe
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        background.run(work())
    assert ended.wait(PATIENCE)


def test_variables_of_the_callers_context_are_seen_on_the_loop() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def who() -> str:
        return name.get()

    name.set("caller")
    assert background.run(who()) == "caller"
    assert contextvars.Context().run(lambda: background.run(who())) == "nobody"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system, so nothing to get wrong")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore")  # newer Pythons warn about every fork in a process with threads
from flux_tasks import background
async def pid():
    return os.getpid()
assert background.run(pid()) == os.getpid()
child = os.fork()
if not child:
    os._exit(0 if background.run(pid()) == os.getpid() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), background.run(pid()) == os.getpid())
"""
    assert run(code) == "0 True"


def test_a_process_that_used_the_loop_ends_by_itself_and_quietly() -> None:
    code = """
import asyncio
from flux_tasks import background
background.start(asyncio.sleep(3600))
background.run(asyncio.sleep(0))
print("end")
"""
    assert run(code) == "end"


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()
