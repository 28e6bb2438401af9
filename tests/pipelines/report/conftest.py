"""Small pictures, and rows that describe them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from report_page import described

from pipelines.report.page import RunSummary

Describe = Callable[..., dict[str, Any]]


@pytest.fixture
def describe(tmp_path: Path) -> Describe:
    """Saves a picture, or a plain one of a colour and size, and returns its description as a manifest holds it."""
    return partial(described, tmp_path)


@pytest.fixture
def run(a_run: RunSummary) -> RunSummary:
    return replace(a_run)


@pytest.fixture(scope="session")
def a_run() -> RunSummary:
    """To look at only."""
    return RunSummary(
        name="restore",
        run_id="20260302-211402-a1b2c3",
        started="2026-03-02 21:14:02 UTC",
        seconds=83.2,
        endpoint="https://api.bfl.ai",
        engine="bfl",
        recipe="name: restore\nsteps:\n  - deblur: {}\n",
        jobs=3,
        cached=2,
        cost=12.4,
    )
