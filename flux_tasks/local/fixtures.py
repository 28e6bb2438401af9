"""pytest fixtures for anyone who builds on the BFL API; pytest finds them by itself where this package is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flux_tasks.local.server import LocalServer

__all__ = ["bfl_server"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "bfl_server(**options): arguments of flux_tasks.local.LocalServer for the fixture bfl_server"
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Stop the embedded server that Prefect has started for tools outside flows, while its log can still be written.

    Prefect itself stops it when Python exits. By then pytest has closed the stream of that log, so that the last thing
    on the terminal would be a logging error.
    """
    homes = {
        "SubprocessASGIServer": "prefect.server.api.server",
        "APILogWorker": "prefect.logging.handlers",
        "EventsWorker": "prefect.events.worker",
    }
    loaded: list[Any] = [getattr(sys.modules.get(module), name, None) for name, module in homes.items()]
    if None in loaded or not (servers := [*loaded[0]._instances.values()]):
        return
    for worker in loaded[1:]:
        worker.drain_all()  # what still waits to be sent to the server
    for server in servers:
        server.stop()


@pytest.fixture
def bfl_server(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    """Start a local server with an account and charges of its own.

    ``@pytest.mark.bfl_server(credits=2, faults=[...])`` gives it arguments.
    """
    from flux_tasks.local.server import LocalServer

    marker = request.node.get_closest_marker("bfl_server")
    if marker is not None and marker.args:
        raise pytest.UsageError("bfl_server takes named arguments only, such as bfl_server(credits=2)")
    with LocalServer(**(marker.kwargs if marker else {})) as server:
        yield server
