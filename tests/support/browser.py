"""A real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # pages of others may ask services on the internet
]


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
    from playwright.sync_api import sync_playwright

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


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """What all tests of a module share; a module that needs a touch screen has one of its own."""
    with browser.new_context() as context:
        yield context


@pytest.fixture(scope="module")
def _only_page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def tab(_only_page: Page) -> Iterator[Page]:
    """A blank page of 1280 x 900 pixels that all tests of a module share: a page of its own takes 0.6 s of CPU."""
    _only_page.set_viewport_size({"width": 1280, "height": 900})
    _only_page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    _only_page.mouse.move(0, 0)
    yield _only_page
    _only_page.goto("about:blank")
