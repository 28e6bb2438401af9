"""What the security tests share: a key that is easy to find again, the command line in this process, small pictures."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from PIL import Image

from pipelines.cli.main import main

KEY = "bfl-7Zq9-never-tell-anyone-Xk42"


@pytest.fixture
def key() -> str:
    """A key that stands nowhere else."""
    return KEY


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    """A server that speaks the API and takes this one key only."""
    with FakeBfl(key=KEY) as server:
        yield server


@dataclass(frozen=True)
class Told:
    """What a run of the program came to."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        """Everything that it said."""
        return self.out + self.err

    def file(self, what: str) -> Path:
        """The manifest or report that it names."""
        return Path(next(line.split(None, 1)[1] for line in self.out.splitlines() if line.startswith(f"{what}:")))

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The manifest's rows by item."""
        lines = self.file("manifest").read_text("utf-8").splitlines()
        return {row["item"]: row for row in map(json.loads, lines)}

    @property
    def outcomes(self) -> dict[str, str]:
        """How each item ended."""
        return {item: row["outcome"] for item, row in self.rows.items()}


class Cli:
    """The program in this process, with the key in its environment and a store of its own."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: str) -> Told:
        self._capfd.readouterr()
        code = main(arguments)
        out, err = self._capfd.readouterr()
        assert "Traceback" not in out + err, err
        return Told(code, out, err)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Runs the program in ``tmp_path``; interrupts work as before when the test is over."""
    for name in [name for name in os.environ if name.startswith(("BFL_", "FLUX_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BFL_API_KEY", KEY)
    monkeypatch.setenv("FLUX_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FLUX_PREFECT", "off")  # another test may have configured a server for this process
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")  # as the program sets it, which is too late here: see below
    monkeypatch.chdir(tmp_path)
    loggers = [logging.getLogger(f"prefect{name}") for name in ("", ".task_runs", ".flow_runs")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    before = signal.getsignal(signal.SIGINT)
    yield Cli(capfd)
    signal.signal(signal.SIGINT, before)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def recorded(cli: Cli, prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Prefect server records the program's runs."""
    monkeypatch.delenv("FLUX_PREFECT")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two good pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        image = Image.linear_gradient("L").resize((96, 80)).rotate(number * 9).convert("RGB")
        image.save(folder / f"good{number}.png")
    return folder
