"""A store that cannot keep several processes apart: found out before the first job, and used by one process alone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fake_bfl import FakeBfl
from forked import Forked
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from object_stores import forget_filesystems, new_bucket_name, rclone_s3, reach_s3
from waiting import PATIENCE

from flux_tasks import background
from flux_tasks.errors import StillRunning, StoreUnavailable
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store

KEY, SECRET = "throw-away-key", "throw-away-secret"


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_SPOOL", str(tmp_path / "spool"))


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "buckets"
    folder.mkdir()
    with rclone_s3(folder, KEY, SECRET) as endpoint, reach_s3(endpoint, KEY, SECRET):
        yield endpoint


def test_four_processes_on_a_server_that_ignores_conditions_pay_for_nothing(
    bfl: FakeBfl, settings: Settings, rclone: str, tmp_path: Path
) -> None:
    bucket = new_bucket_name()
    fsspec.filesystem("s3").mkdir(bucket)
    script = f"""
        from flux_tasks import background, catalog
        from flux_tasks.errors import FluxError
        from flux_tasks.jobs import job
        from flux_tasks.jobs.call import prepare
        from flux_tasks.settings import Settings
        settings = Settings(endpoint={bfl.url!r}, key="k", store="s3://{bucket}/store", poll_interval=0.002)
        call = prepare(catalog.TOOLS["flux-2-pro"], {{"prompt": "a harbour"}})
        try:
            print(background.run(job.execute(call, settings)).outcome)
        except FluxError as error:
            print(type(error).__name__, error)
    """
    environment = {**os.environ, "FSSPEC_S3_ENDPOINT_URL": rclone, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    processes = [Forked(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert all(line.startswith("StoreUnavailable") and "--alone" in line for line in said), said
    assert bfl.jobs == 0


def test_one_process_alone_uses_such_a_server_and_the_next_one_collects_what_it_left(
    bfl: FakeBfl, settings: Settings, call: Call, rclone: str
) -> None:
    bucket = new_bucket_name()
    fsspec.filesystem("s3").mkdir(bucket)
    alone = replace(settings, store=f"s3://{bucket}/store", alone=True)
    bfl.hold = True
    with pytest.raises(StillRunning):
        background.run(job.execute(call, replace(alone, deadline=0.1)))
    bfl.hold = False
    result = background.run(job.execute(call, alone))
    assert (result.outcome, bfl.jobs) == ("collected", 1)
    assert background.run(job.execute(call, alone)).outcome == "cached"
    assert Journal(Store(alone.store)).entries() == []


class _Overwriting(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem of another package that does not know the mode."""

    protocol = "overwriting"

    def pipe_file(self, path: str, value: bytes, mode: str = "", **_: Any) -> None:
        super().pipe_file(path, value)


class _Looking(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem of another package with fsspec's own way: it looks first, and writes then."""

    protocol = "looking"
    pipe_file = AbstractFileSystem.pipe_file


class _Capable(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem of another package that refuses to create what is there."""

    protocol = "capable"

    def pipe_file(self, path: str, value: bytes, mode: str = "", **_: Any) -> None:
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value)


@pytest.mark.parametrize("kind", [_Overwriting, _Looking, _Capable])
def test_a_filesystem_of_another_package_is_asked_what_it_can(
    bfl: FakeBfl, settings: Settings, call: Call, monkeypatch: pytest.MonkeyPatch, kind: type[MemoryFileSystem]
) -> None:
    monkeypatch.setitem(_registry, kind.protocol, kind)
    settings = replace(settings, store=f"{kind.protocol}://store")
    if kind is not _Capable:
        with pytest.raises(StoreUnavailable, match=r"cannot keep several processes apart .*--alone"):
            background.run(job.execute(call, settings))
        assert bfl.jobs == 0
        settings = replace(settings, alone=True)
    assert background.run(job.execute(call, settings)).outcome == "done"
    forget_filesystems()


def test_what_the_store_answers_needs_no_such_check(bfl: FakeBfl, settings: Settings, call: Call) -> None:
    assert background.run(job.execute(call, settings)).outcome == "done"
    assert not (Path(settings.store) / "probe").exists(), "a local store is not asked"
