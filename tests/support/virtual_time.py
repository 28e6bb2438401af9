"""An event loop whose time costs none: it moves on when nothing is left to do, threads included.

So minutes of waiting pass in milliseconds, and what is measured in them does not depend on the machine's speed.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

import pytest

__all__ = ["run_in_virtual_time", "set_time"]

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type] # chosen by the platform
    """Moves the time on instead of waiting, unless a thread is at work."""

    now = 0.0
    working = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if (found := super().select(0)) or timeout == 0:
            return found  # type: ignore[no-any-return]
        if self.working or timeout is None:
            return super().select(timeout and 0.05)  # type: ignore[no-any-return]
        self.now += timeout
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    def run_in_executor(self, executor: Executor | None, func: Any, *args: Any) -> Any:
        self.selector.working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._worked)
        return future

    def _worked(self, _: object) -> None:
        self.selector.working -= 1

    async def shutdown_default_executor(self, *timeout: Any) -> None:
        """See ``asyncio``, which waits for threads here, from Python 3.13 on for 300 seconds of this loop's time."""
        self.selector.working += 1
        await super().shutdown_default_executor(*timeout)


def run_in_virtual_time(coroutine: Coroutine[Any, Any, T], monkeypatch: pytest.MonkeyPatch) -> T:
    """Run ``coroutine``; ``time.monotonic`` is the time of its loop meanwhile."""
    loop = _Loop()
    with monkeypatch.context() as patch:
        set_time(patch, loop.time, loop)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(coroutine)


def set_time(patch: pytest.MonkeyPatch, clock: Callable[[], float], loop: _Loop | None = None) -> None:
    """Let ``time.monotonic`` be ``clock``, but for what runs in other loops than ``loop``.

    Loops of other threads, those of servers, go on after the test: with this time, one would sleep for as many seconds
    as the machine is up.
    """
    real = time.monotonic

    def monotonic() -> float:
        return clock() if asyncio._get_running_loop() in (None, loop) else real()

    patch.setattr(time, "monotonic", monotonic)
