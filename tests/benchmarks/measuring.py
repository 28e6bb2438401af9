"""Run commands and measure them from outside: wall time, CPU, memory; Prefect's server is counted apart."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from janitor import VARIABLE, kill, started_by

ROOT = Path(__file__).parents[2]
EVERY = 0.2
"""Seconds between two looks at the processes."""


class Failed(Exception):
    """A contestant did not do its work; the message is the end of what it wrote."""


@dataclass(frozen=True)
class Usage:
    """What one run took.

    Attributes:
        wall: seconds from the first command to the last exit.
        cpu: seconds of the client and its children, user and system.
        server_cpu: the same of a Prefect server that the client started.
        peak: the most memory that the client's processes held at a time, in MB.
    """

    wall: float
    cpu: float
    server_cpu: float
    peak: float


class Workshop:
    """A temporary folder, and the processes that belong to it; nothing of both is left after any end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="flux-bench-"))
        (self.folder / "home").mkdir()
        janitor = [sys.executable, str(Path(__file__).with_name("janitor.py")), str(self.folder)]
        self._janitor = subprocess.Popen(janitor, stdin=subprocess.PIPE, start_new_session=True)
        self._count = 0

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._janitor.stdin is not None
        self._janitor.stdin.close()
        self._janitor.wait()

    def environment(self, mark: str, changes: Mapping[str, str]) -> dict[str, str]:
        """Return ours, without settings, proxies and addresses that would change what is measured.

        Args:
            mark: what tells the process from others; it begins with the folder.
        """
        ours = ("FLUX_", "BFL_", "PREFECT_", "PYTEST_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(ours)}
        kept |= {"HOME": f"{self.folder}/home", "PREFECT_HOME": f"{self.folder}/prefect", "PYTHONPATH": str(ROOT)}
        kept |= {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        return {**kept, **changes, VARIABLE: mark}

    def start(self, command: Sequence[str], **changes: str) -> subprocess.Popen[str]:
        """Start a server; it goes with the workshop."""
        return subprocess.Popen(
            command,
            env=self.environment(f"{self.folder}:server", changes),
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self, commands: Sequence[Sequence[str]], changes: Mapping[str, str], patience: float = 1800.0) -> Usage:
        """Run commands side by side to their end.

        Raises:
            Failed: one of them did not exit with 0, or took longer than ``patience`` seconds.
        """
        self._count += 1
        mark = f"{self.folder}:{self._count}:"
        began, started = time.time(), time.perf_counter()
        outputs = [(self.folder / f"output-{self._count}-{n}").open("w+") for n, _ in enumerate(commands)]
        processes = [
            subprocess.Popen(
                command,
                env=self.environment(mark, changes),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for command, output in zip(commands, outputs, strict=True)
        ]
        watch = _Watch(mark, began)
        ends: list[float] = []
        waits = [threading.Thread(target=_await, args=(process.pid, ends), daemon=True) for process in processes]
        for wait in waits:
            wait.start()
        try:
            while any(wait.is_alive() for wait in waits):
                watch.look()
                if time.perf_counter() - started > patience:
                    raise Failed(f"still running after {patience:g} s")
                for wait in waits:
                    wait.join(EVERY / len(waits))
            usage = watch.usage([process.pid for process in processes], max(ends) - started)
        finally:
            kill(mark)  # nobody shares the machine with the next contestant
        for process, output in zip(processes, outputs, strict=True):
            code = process.wait()
            output.seek(0)
            lines = output.read().strip().splitlines()
            output.close()
            if code:
                raise Failed(f"exit code {code}: {' '.join(lines[-3:])[-200:]}")
        return usage


def _await(pid: int, ends: list[float]) -> None:
    with suppress(ChildProcessError):  # killed, because the benchmark ends
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its figures can be read until it is waited for
    ends.append(time.perf_counter())


class _Watch:
    """Looks at all processes with a mark, now and then."""

    def __init__(self, mark: str, since: float) -> None:
        self._mark, self._since = mark, since - 5.0
        self._servers: dict[int, float] = {}
        self._peak = 0

    def look(self) -> None:
        """Add up the client's memory, and note what a Prefect server has used so far."""
        held = 0
        for process in started_by(self._mark, self._since):
            with suppress(psutil.Error):  # it has just ended
                if "prefect.server" in " ".join(process.cmdline()):
                    self._servers[process.pid] = _seconds(process)
                else:
                    held += process.memory_info().rss
        self._peak = max(self._peak, held)

    def usage(self, pids: Sequence[int], wall: float) -> Usage:
        """Return the figures of ended processes that nobody has waited for yet."""
        self.look()
        server = sum(self._servers.values())
        times = [psutil.Process(pid).cpu_times() for pid in pids]
        own = sum(t.user + t.system for t in times)
        children = sum(t.children_user + t.children_system for t in times)  # a server among them, if it was waited for
        return Usage(wall, own + max(0.0, children - server), server, self._peak / 1e6)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a running process and of its children, those that have ended as well."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    ended = float(times.children_user + times.children_system)
    return ended + sum(_seconds(p) for p in (process, *process.children(recursive=True)))
