"""Fixtures that every test may use."""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import signal
import ssl
from collections.abc import Iterator, Sequence
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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    gc.disable()  # what is imported and collected stays
    try:
        return (yield)
    finally:
        gc.freeze()  # ten thousand tests, and what they import, are not looked through again each time
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Let each process begin with another folder: what one has compiled and rewritten, the others only read."""
    report = yield
    if isinstance(collector, pytest.Directory) and report.passed:
        number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        begin = len(report.result) * number // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        report.result = report.result[begin:] + report.result[:begin]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    items.sort(key=lambda item: item.path)  # the same order in all processes
    with Path(__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one after the other: what hypothesis notes of the sources, the others read
        yield  # pytest-randomly orders them
    items[:] = chain.from_iterable(_spread([list(tests) for _, tests in groupby(items, key=lambda item: item.path)]))


def _spread(files: Sequence[list[pytest.Item]]) -> list[list[pytest.Item]]:
    """Spread the files that mostly wait over the first part of the suite, so that others use the cores meanwhile."""
    found = [tests for tests in files if not tests[0].get_closest_marker("early")]
    early = [tests for tests in files if tests[0].get_closest_marker("early")]
    apart = max(1, len(found) * 6 // 10 // max(1, len(early)))
    for number, tests in enumerate(early):
        found.insert(number * (apart + 1), tests)
    return found


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    """A server that keeps the contract and takes any key."""
    with FakeBfl() as server:
        yield server


@pytest.fixture
def settings(bfl: FakeBfl, tmp_path: Path) -> Settings:
    return Settings(endpoint=bfl.url, key="k", store=str(tmp_path / "store"), poll_interval=0.002)
