"""Waiting for something that happens in another thread or process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = ["PATIENCE", "children", "clock_that_ends", "wait_until", "wait_until_still"]

PATIENCE = 300.0
"""Seconds after which a test counts as hanging. A busy machine is slow: no test may be stricter than this."""


def wait_until(condition: Callable[[], Any], *, pause: float = 0.005) -> None:
    """Come back once ``condition`` holds; it is asked again after ``pause`` seconds, longer where asking is dear."""
    over = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < over, "it did not happen"
        time.sleep(pause)


def wait_until_still(count: Callable[[], int], seconds: float = 0.05) -> None:
    """Come back once ``count`` has not changed for ``seconds``."""
    seen = -1

    def is_still() -> bool:
        nonlocal seen
        before, seen = seen, count()
        if before != seen:
            time.sleep(seconds)
        return before == seen

    wait_until(is_still)


def clock_that_ends(happened: Callable[[], Any]) -> SimpleNamespace:
    """What a module has in the place of ``time``: a deadline of PATIENCE has passed as soon as ``happened`` holds.

    So what is seen before the deadline does not depend on how quick the machine is.
    """
    return SimpleNamespace(monotonic=lambda: time.monotonic() + (2 * PATIENCE if happened() else 0.0))


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
    return [int(number) for number in found.stdout.split()]
