"""Other people's clients of the BFL API, in a virtual environment of their own.

They cannot be installed beside this project (``blackforest`` wants Pillow 10.4.0), so ``tests/data/other_clients.txt``
goes into ``.cache/other-clients-<hash>`` next to the package, once per list and Python, and is used again by the next
run. An environment that lacks a file, has one of another length, or has another version of anything is built anew;
test processes that need it at the same time wait for one another. That it cannot be built is an error, never a skipped
test.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["OtherClients", "other_clients"]

ROOT = Path(__file__).parents[2]
PINS = ROOT / "tests/data/other_clients.txt"

FREEZE = """
import importlib.metadata as metadata, json
found, damaged = {}, []
for package in metadata.distributions():
    found[package.name.lower().replace("_", "-").replace(".", "-")] = package.version
    for file in package.files or ():
        path = file.locate()
        if file.size is not None and not (path.is_file() and path.stat().st_size == file.size):
            damaged.append(str(path))
print(json.dumps([found, damaged]))
"""
"""Prints what is installed, and which of its files are not as they were installed."""


class OtherClients:
    """The environment with the clients.

    Attributes:
        python: its interpreter.
    """

    def __init__(self, python: Path) -> None:
        self.python = python

    def run(self, script: Path, plan: Mapping[str, Any], folder: Path, **environment: str) -> dict[str, Any]:
        """What ``script`` answers to ``plan``; both are JSON files in ``folder``.

        The script sees nothing of this project and of the user's own settings, and no proxy.
        """
        asked, answered = folder / f"{script.stem}-plan.json", folder / f"{script.stem}-answers.json"
        asked.write_text(json.dumps(plan))
        command = [str(self.python), "-I", str(script), str(asked), str(answered)]
        clean = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "NO_PROXY": "*", "no_proxy": "*"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**clean, **environment})
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
        answers: dict[str, Any] = json.loads(answered.read_text())
        return answers


@pytest.fixture(scope="session")
def other_clients() -> OtherClients:
    """The clients, installed if they are not yet."""
    recipe = f"{sys.version}\n{sys.base_prefix}\n".encode() + PINS.read_bytes()
    folder = ROOT / ".cache" / f"other-clients-{hashlib.sha256(recipe).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _flaw(folder):
            shutil.rmtree(folder, ignore_errors=True)
            _build(folder)
            if flaw := _flaw(folder):
                pytest.fail(f"the other clients are not what {PINS.name} says: {flaw}", pytrace=False)
    return OtherClients(folder / "bin/python")


def _build(folder: Path) -> None:
    make = ["-m", "venv", "--without-pip", str(folder)]  # its own pip, and compiling all, would take 12 s of CPU
    pip = ["-m", "pip", "--python", str(folder / "bin/python"), "install", "--no-compile", "--no-deps", "-r", str(PINS)]
    quietly = ["--quiet", "--disable-pip-version-check", "--no-input"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    for command in ([sys.executable, *make], [sys.executable, *pip, *quietly]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            told = (done.stdout + done.stderr)[-2000:]
            shutil.rmtree(folder, ignore_errors=True)
            pytest.fail(
                f"these tests need clients that cannot be installed: {' '.join(command)}\n{told}", pytrace=False
            )


def _flaw(folder: Path) -> str:
    """What is wrong with the environment in ``folder``; empty if nothing is."""
    python = folder / "bin/python"
    try:
        done = subprocess.run([str(python), "-I", "-c", FREEZE], capture_output=True, text=True)
        installed, damaged = json.loads(done.stdout)
    except (OSError, ValueError):
        return f"{python} does not run"
    for line in PINS.read_text().splitlines():
        name, _, version = line.partition("#")[0].partition("==")
        known = name.strip().lower().replace("_", "-").replace(".", "-")
        if known and installed.get(known) != version.strip():
            return f"{line.strip()} is not installed"
    return f"{len(damaged)} files are missing or changed, {damaged[0]} for one" if damaged else ""
