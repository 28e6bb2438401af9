"""The processes that are killed: forked from a zygote, or started as anybody would start the command line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from forked import Forked, Nursery

import flux_tasks

__all__ = ["Commands", "Launcher", "Process", "Zygote", "ports_of", "prefect_database", "prefect_server"]

HERE = Path(__file__).parent
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


class Zygote:
    """Starts runs by forking a process that has everything imported; see ``runner``."""

    startup = 0.02

    def __init__(self, folder: Path) -> None:
        self._environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._folder = folder
        self._nursery = Nursery(["runner"], self._environment)
        assert self._fork(["-c", ""], {}, subprocess.DEVNULL).wait() == 0  # so that no run waits for the imports

    def _fork(self, command: Sequence[str], environment: Mapping[str, str], output: Any) -> Forked:
        return Forked(
            [sys.executable, *command],
            nursery=self._nursery,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=self._folder,
            env={**self._environment, **environment},
        )

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, stir: threading.Event, **more: Any
    ) -> _Command:
        flaky = {"CHAOS_FLAKY": json.dumps(more["flaky"])} if more.get("flaky") else {}
        command = ["-c", "import runner, sys; sys.exit(runner.run(sys.argv[1:]))", *arguments]
        with log.open("ab") as output:
            return _Command(self._fork(command, {**environment, "FLUX_PREFECT": "off", **flaky}, output), stir)

    def close(self) -> None:
        """End it, and what it has started."""
        self._nursery.close()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Command:
    def __init__(self, process: subprocess.Popen[Any], stir: threading.Event) -> None:
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
