"""Python processes that have everything imported when they begin: forked, where others spend a second of CPU on that.

They are processes of their own in all that a test can see: signals, kills, streams, exit codes, what runs at exit. How
Python itself starts, and what is imported when, is for tests that start it themselves.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from waiting import PATIENCE

__all__ = ["Forked", "Nursery", "run"]

SCRIPT = Path(__file__).with_name("nursery.py")
MODULES = (
    *("pipelines.cli.main", "pipelines.cli.progress", "pipelines.recipe", "pipelines.report", "pipelines.run.run"),
    *("pipelines.plan.planner", "flux_tasks.tasks", "anyio._backends._asyncio", "httpcore", "h2.connection"),
)
RECORDED = ("pipelines.flows", "prefect.flows", "prefect.client.orchestration")
"""Imported as well for what the Prefect server of the tests records."""


class Nursery:
    """A process that has imported ``modules`` in this environment, and forks; see ``nursery``."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.asked, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *modules],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the tests
            )

    def close(self) -> None:
        """End it, and what it has forked."""
        self.asked.close()
        self._process.wait(PATIENCE)


_nurseries: dict[frozenset[tuple[str, str]], Nursery] = {}


class Forked(subprocess.Popen[str]):
    """``Popen`` of ``[sys.executable, …]``, except that its parent is a nursery.

    So its number is not ours to wait for: the nursery tells how it ended.

    Args:
        nursery: the one that forks it; by default one that has what the program needs in this environment.
        limits: what it may take at most, by the names of ``resource``: ``{"CPU": 20}``.
    """

    _channel: socket.socket

    def __init__(
        self,
        command: Sequence[Any],
        *,
        nursery: Nursery | None = None,
        limits: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        self._nursery, self._limits = nursery, limits or {}
        super().__init__(command, **options)

    def _execute_child(self, args: Sequence[Any], *others: Any) -> None:
        _, _, _, passed, folder, environment, _, _, _, *pipes = others
        executable, *command = map(str, args)
        assert (executable, [*passed]) == (sys.executable, []), args
        given = dict(os.environ if environment is None else environment)
        order = {"command": command, "folder": str(folder or Path.cwd()), "environment": given}
        order |= {"session": pipes[-2], "limits": self._limits}
        data = json.dumps(order).encode() + b"\n"
        self._channel, theirs = socket.socketpair()
        with theirs:
            socket.send_fds((self._nursery or _nursery(given)).asked, [b"x"], [theirs.fileno()])
        streams = [own if pipe == -1 else pipe for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        sent = socket.send_fds(self._channel, [data], streams)
        self._channel.sendall(data[sent:])
        self.pid = self._number()
        self._child_created = True
        self._close_pipe_fds(*pipes[:6])  # type: ignore[attr-defined]

    def _number(self) -> int:
        """Return the next number that the nursery writes; that of a kill, if it is no more."""
        line = b""
        while not line.endswith(b"\n") and (byte := self._channel.recv(1)):
            line += byte
        return int(line or 9)

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if flags == os.WNOHANG and not select.select([self._channel], [], [], 0)[0]:
            return 0, 0
        with self._channel:
            return self.pid, self._number()

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def run(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end, and return what it wrote; ``options`` are those of ``Popen``."""
    with Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _nursery(environment: Mapping[str, str]) -> Nursery:
    """Return what forks for this environment: Prefect reads its variables when it is imported."""
    home = os.environ["PREFECT_HOME"]
    is_recorded = bool(environment.get("PREFECT_API_URL")) and environment.get("PREFECT_HOME") == home
    prefect = {n: v for n, v in environment.items() if n.startswith("PREFECT_") and is_recorded}
    key = frozenset(prefect.items())
    if key not in _nurseries:
        others = {n: v for n, v in os.environ.items() if not n.startswith(("BFL_", "FLUX_", "PREFECT_"))}
        _nurseries[key] = Nursery([*MODULES, *(RECORDED if is_recorded else ())], {**others, **prefect})
    return _nurseries[key]


def pytest_sessionfinish() -> None:
    """Let the nurseries end."""
    for nursery in _nurseries.values():
        nursery.close()
    _nurseries.clear()
