"""Waiting for something that happens in another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], Any], *, seconds: float = 60.0) -> None:
    """Come back once ``condition`` holds; fail if it does not within ``seconds``."""
    over = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < over, "it did not happen"
        time.sleep(0.005)
