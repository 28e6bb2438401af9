"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import gc
import os
import signal
import ssl
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_bfl import FakeBfl
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from flux_tasks.settings import Settings

pytest_plugins = ["prefect_server", "forked", "cases", "browser"]

# No test asserts a time or leaves anything behind.
hypothesis_settings.register_profile("ours", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("ours")


def pytest_configure(config: pytest.Config) -> None:
    httpx._transports.default.create_ssl_context = _shared_certificates  # type: ignore[attr-defined]
    config.option.randomly_reset_seed = False  # pytest-randomly orders the tests; their random numbers stay random
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background, whose programs inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _shared_certificates(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
    """Read the certificates once for all clients of a process, Prefect's too: that takes 25 ms of CPU."""
    if verify is True and cert is None and trust_env:
        return _certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)


@functools.cache
def _certificates(*_: str | None) -> ssl.SSLContext:
    """Return those that these variables say."""
    return httpx.create_ssl_context()


@pytest.hookimpl(trylast=True)  # in random order otherwise
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that mostly wait evenly over the first part of the suite, so that others use the cores then."""
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    others = [tests for tests in files if not tests[0].get_closest_marker("early")]
    early = [tests for tests in files if tests[0].get_closest_marker("early")]
    apart = max(1, len(others) * 6 // 10 // max(1, len(early)))
    for number, tests in enumerate(early):
        others.insert(number * (apart + 1), tests)
    items[:] = chain.from_iterable(others)


def pytest_collection_finish() -> None:
    gc.freeze()  # ten thousand tests, and what they import, are not looked through again each time


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    """A server that keeps the contract and takes any key."""
    with FakeBfl() as server:
        yield server


@pytest.fixture
def settings(bfl: FakeBfl, tmp_path: Path) -> Settings:
    return Settings(endpoint=bfl.url, key="k", store=str(tmp_path / "store"), poll_interval=0.002)
