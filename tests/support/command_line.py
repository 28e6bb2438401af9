"""The command line as people use it: a process of its own, or in this one where that is quicker."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked, run

from pipelines.cli.main import main

__all__ = ["Cli", "Here"]


class Cli:
    """Runs the program in its own process, with a key only if the test gives one.

    Args:
        api_url: of the Prefect server that records the runs; empty for none.
    """

    def __init__(self, folder: Path, api_url: str = "") -> None:
        self.folder = folder
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("BFL_", "FLUX_"))},
            "FLUX_STORE": str(folder / "store"),
            "PREFECT_API_URL": api_url,
            "FLUX_POLL_INTERVAL": "0.03",
            "COLUMNS": "200",
        }

    def __call__(self, *arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = self.environment | ({"BFL_API_KEY": key} if key else {})
        done = run([sys.executable, "-m", "pipelines.cli", *arguments], env=environment)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    def start(self, *arguments: str, key: str) -> subprocess.Popen[str]:
        """Begin a run and do not wait for it."""
        return Forked(
            [sys.executable, "-m", "pipelines.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment | {"BFL_API_KEY": key},
            text=True,
            start_new_session=True,  # so that a signal can be sent to it and its children alone, as a terminal does
        )


class Here:
    """``Cli`` without a process of its own, and without a Prefect server."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _read_commands_once()
        self._monkeypatch = monkeypatch
        for name in [name for name in os.environ if name.startswith(("BFL_", "FLUX_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("FLUX_PREFECT", "off")  # another test may have configured a server for this process
        monkeypatch.setenv("FLUX_STORE", str(folder / "store"))
        monkeypatch.setenv("FLUX_POLL_INTERVAL", "0.03")

    def __call__(self, *arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with self._monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if key:
                patch.setenv("BFL_API_KEY", key)
            try:
                code = main(list(arguments))
            except SystemExit as stop:  # help
                code = int(stop.code or 0)
        done = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done


@functools.cache
def _read_commands_once() -> None:
    """Let Cyclopts keep the annotations of a command, and check no value by Pydantic: half of a call's CPU.

    A new process has not imported Pydantic when the command line is read.
    """
    from cyclopts import field_info
    from cyclopts.argument import _argument

    hints = functools.cache(field_info.get_type_hints)
    field_info.get_type_hints = lambda of, **options: dict(hints(of, **options))  # type: ignore[assignment]
    _argument.parse_version = lambda _: (1,)
