"""The processes that are killed: forked from a zygote, or started as anybody would start the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import flux_tasks

__all__ = ["Commands", "Launcher", "Process", "Zygote", "ports_of", "prefect_database", "prefect_server"]

HERE = Path(__file__).parent
PATIENCE = 300.0
"""Seconds after which a zygote counts as hanging."""
ROOT = Path(flux_tasks.__file__).parents[1]
"""Of the program that is tried: the same in all processes."""


class Process(Protocol):
    """A run that was started."""

    pid: int
    code: int | None

    def send(self, number: int) -> None: ...


class Launcher(Protocol):
    """Something that starts runs."""

    startup: float

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, stir: threading.Event, **more: Any
    ) -> Process: ...


@dataclass
class _Forked:
    run: int
    zygote: Zygote
    stir: threading.Event
    pid: int = 0
    code: int | None = None
    begun: threading.Event = field(default_factory=threading.Event)
    _handle: int | None = None

    def hold(self, pid: int) -> None:
        """Take hold of the process itself: its number may be given to another one once it is gone."""
        self.pid = pid
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(ProcessLookupError):
                self._handle = os.pidfd_open(pid)
        self.begun.set()

    def ended(self, code: int) -> None:
        self.code = code
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
        self.stir.set()

    def send(self, number: int) -> None:
        handle = self._handle
        if self.code is not None:
            return
        if handle is not None:
            with contextlib.suppress(ProcessLookupError, OSError):
                signal.pidfd_send_signal(handle, number)
        else:
            self.zygote.tell({"kill": self.run, "signal": int(number)})


class Zygote:
    """Starts runs by forking a process that has everything imported; see ``zygote``."""

    startup = 0.02

    def __init__(self, folder: Path) -> None:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
        )
        self._runs: dict[int, _Forked] = {}
        self._count = 0
        self._lock = threading.Lock()
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()) == {"ready": True}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def tell(self, words: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, stir: threading.Event, **more: Any
    ) -> _Forked:
        self._count += 1
        run = self._runs[self._count] = _Forked(self._count, self, stir)
        order = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        self.tell({"run": run.run, **order, "flaky": more.get("flaky")})
        assert run.begun.wait(PATIENCE), "the zygote does not fork"
        return run

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "pid" in said:
                self._runs[said["run"]].hold(said["pid"])
            else:
                self._runs.pop(said["run"]).ended(said["code"])

    def close(self) -> None:
        """End it, and what it has started."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._listener.join(PATIENCE)
        self._process.stdout.close()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Command:
    def __init__(self, process: subprocess.Popen[bytes], stir: threading.Event) -> None:
        self._process = process
        self.pid = process.pid
        self.code: int | None = None

        def wait() -> None:
            self.code = process.wait()
            stir.set()

        threading.Thread(target=wait, daemon=True).start()

    def send(self, number: int) -> None:
        self._process.send_signal(number)


class Commands:
    """Starts runs as anybody would: Python, the command line, and Prefect with a server that lasts.

    Args:
        prefect: address of the server.
    """

    startup = 2.0

    def __init__(self, prefect: str) -> None:
        self._prefect = prefect

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, stir: threading.Event, **_: Any
    ) -> _Command:
        home = environment["HOME"]
        clean = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PREFECT_API_URL": self._prefect,
            "PREFECT_HOME": f"{home}/prefect",
        }
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "pipelines.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**clean, **environment},
            )
        return _Command(process, stir)


@contextlib.contextmanager
def prefect_server() -> Iterator[tuple[str, Path]]:
    """The address of a running Prefect server, and its database."""
    from pipelines.flows import prefect_settings

    prefect_settings.apply()
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value()), prefect_database()


def prefect_database() -> Path:
    """The file behind the Prefect server of these tests."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    return Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition(":///")[2])


def ports_of(pid: int) -> set[int]:
    """Local TCP ports of a process."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        inodes = set()
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(handle.readlink()))
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            parts = line.split()
            if f"socket:[{parts[9]}]" in inodes:
                found.add(int(parts[1].rpartition(":")[2], 16))
    return found
