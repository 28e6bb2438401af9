"""A real Prefect server for the tests: all processes of a test run share one, and its database goes with it.

Starting one takes 8 s of CPU. Prefect's home is in the run's temporary folder too, so that no test reads the user's own
profile or writes beside it.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from servers import shared


@pytest.hookimpl(trylast=True)  # the temporary folder is known then
def pytest_configure(config: pytest.Config) -> None:
    os.environ["PREFECT_HOME"] = str(_shared_folder(config._tmp_path_factory) / "prefect-home")  # type: ignore[attr-defined]
    import pipelines.flows  # noqa: F401 - sets what else Prefect reads when it is imported


def _shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of the test run know."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def _command(descriptor: int) -> Sequence[str]:
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        address = "PREFECT_UI_API_URL=http://{}:{}/api".format(*listener.getsockname())  # what its pages ask
    options = ["--fd", str(descriptor), "--log-level", "error", "--lifespan", "on"]
    server = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    return ["env", address, *server, *options]


def copy_database(home: Path) -> None:
    """Give a home of Prefect the database of the running server: to make a new one takes 5 s of CPU."""
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

    source = str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).partition(":///")[2]
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(home / "prefect.db")) as here:
        there.backup(here)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Prefect server, which all flows and tasks of the test session use."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

    folder = _shared_folder(tmp_path_factory) / "prefect"
    database = f"sqlite+aiosqlite:///{folder}/prefect.db"
    environment = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database, "PREFECT_UI_STATIC_DIRECTORY": f"{folder}/pages"}
    with shared(folder, _command, "/api/health", **environment) as address:
        url = f"{address}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_SERVER_DATABASE_CONNECTION_URL: database}):
            yield url
