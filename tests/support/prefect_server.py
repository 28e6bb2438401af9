"""A real Prefect server for the tests: started once, with a database of its own that goes when the tests end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.flows import prefect_settings

prefect_settings.apply()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The address of a running Prefect server, which all flows and tasks of the test session use."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())
