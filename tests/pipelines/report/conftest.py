"""Small pictures, rows that describe them, and a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from report_page import described

from pipelines.report.page import RunSummary

Describe = Callable[..., dict[str, Any]]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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


def _find_browser() -> str | None:
    names = (os.environ.get("CHROMIUM", ""), *_NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _install_browser() -> None:
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", "--quiet", *command], check=False, capture_output=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. One per module, because the event loop of Playwright must be gone before an async test begins."""
    path = _find_browser()
    if path is None:
        _install_browser()
        path = _find_browser()
    if path is None:
        pytest.fail("these tests need a browser: apt-get install chromium, or set CHROMIUM to one's path")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=[*_ARGUMENTS, *sandbox])
        yield started
        started.close()
