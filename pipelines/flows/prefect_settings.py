"""Prefect settings that suit many small tasks on an embedded server; must be in force before Prefect is imported.

Only what the user has not set is set. Measured on Prefect 3.8.8: recorder batches cut the server's CPU per task run
from 23 to 6 ms; without them 1,000 task runs keep the next flow waiting for half a minute.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

_DEFAULTS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "pipelines.run",  # a line for each item that did not end well
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # a task outside a flow warns otherwise
    "PREFECT_CLI_COLORS": "false",
}


def apply() -> None:
    """Put the defaults into the environment, where nothing else is set."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("PREFECT_API_URL", "-"):
        del os.environ["PREFECT_API_URL"]  # empty means no server, but breaks the events of the embedded one
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:  # nor in a profile; logs are for those who watch a lasting server
        os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")


def shield_server() -> None:
    """Let Prefect start its embedded server without the key, and where the terminal's Ctrl-C does not reach it.

    A run that is interrupted still collects its jobs, and its task runs still report to their server. The server ends
    with this process, also when that is killed. Only to be called where that server will be needed: this imports the
    whole of it, 3 s of CPU.
    """
    from prefect.server.api import server

    server.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _start_server})  # type: ignore[attr-defined, assignment]


_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)

_UNTIL_PARENT_ENDS = """
import os, runpy, sys, threading

def watch():
    while os.read(0, 1):
        pass
    os._exit(1)

threading.Thread(target=watch, daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module like ``python -m``, and ends when nobody holds the other end of its standard input any more."""


def _start_server(
    args: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start ``python -m module …`` in a session of its own, without secrets other than Prefect's own."""
    executable, flag, *module = args
    command = [executable, "-c", _UNTIL_PARENT_ENDS, *module] if flag == "-m" else [*args]
    given = os.environ if env is None else env
    shown = {name: value for name, value in given.items() if name.startswith("PREFECT_") or not _SECRET.search(name)}
    end, _held = os.pipe()  # the other end stays open as long as this process lives; no child inherits it
    try:
        return subprocess.Popen(command, env=shown, stdin=end, start_new_session=True, **options)  # noqa: S603
    finally:
        os.close(end)
