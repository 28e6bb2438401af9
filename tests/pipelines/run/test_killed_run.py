"""A run that was killed without a word is told by the next run of its recipe: when, how far, what is settled."""

from __future__ import annotations

import json
import re
import signal
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from command_line import Cli
from waiting import wait_until

from flux_tasks.store.records import Store
from pipelines import Recipe

END = {
    "by itself": "ctypes.CDLL(None)._exit(0)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "never": "time.sleep(600)",
}
FUNCTION = """\
import ctypes
import os
import signal
import time
from pathlib import Path

from pipelines import operation

@operation
def second(image):
    here = Path(__file__).parent
    if (here / "armed").exists():
        if (here / "first").exists():
            (here / "second").touch()
            {end}
        (here / "first").touch()
    return image
"""
RECIPE = """\
source: {folder}/photos/*
steps: [call: '{module}:second']
output: '{folder}/out/{{{{ stem }}}}.png'
"""


@pytest.fixture
def folder(folder: Path) -> Path:
    """The same, renamed: its name is a module's here, and no two tests may have one."""
    return folder.rename(folder.with_name(f"ending_{uuid.uuid4().hex}"))


@pytest.fixture
def cli(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, beside the recipe's functions."""
    monkeypatch.chdir(folder)
    return cli


def written(folder: Path, end: str) -> str:
    """Write a recipe whose function ends its process in the second item; return its place."""
    (folder / f"{folder.name}.py").write_text(FUNCTION.format(end=END[end]))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, module=folder.name))
    (folder / "armed").touch()
    return str(folder / "recipe.yaml")


@pytest.mark.parametrize("end", ["by itself", "SIGKILL"])
def test_the_next_run_tells_when_the_one_before_was_killed_and_how_far_it_had_come(
    cli: Cli, folder: Path, end: str
) -> None:
    recipe = written(folder, end)
    killed = cli("run", recipe, "--endpoint", "local")
    assert (killed.returncode, killed.stdout) == (0 if end == "by itself" else -signal.SIGKILL, "")
    (folder / "armed").unlink()
    [run_id] = sorted(path.name for path in (folder / "store" / "runs").iterdir())
    again = cli("run", recipe, "--endpoint", "local")
    assert again.returncode == 0
    told = rf"the run {run_id} of this recipe, begun 20\S+ \S+ UTC on \S+:\d+, did not come to its end\. "
    told += r"Of its 2 items had ended: 1 skipped\. What it paid for is in the store or is collected now"
    assert len(re.findall(told, again.stderr)) == 1
    third = cli("run", recipe, "--endpoint", "local")
    assert third.stderr.count("did not come") == 0, "it is told once"
    assert not list((folder / "store" / "begun").rglob("*.json"))


def test_a_killed_run_whose_manifest_goes_to_a_store_without_files_leaves_no_temporary_file(
    cli: Cli, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe, temporary = written(folder, "SIGKILL"), tmp_path_factory.mktemp("temporary")
    cli.environment["TMPDIR"] = str(temporary)
    killed = cli("run", recipe, "--store", "memory://killed")
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
    assert not list(temporary.rglob("*"))


def started_with(mark: str) -> list[str]:
    """Return the commands of the processes that have ``mark`` in their environment, by whomever they were started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or is somebody else's
            if process.environ().get("MARK_OF_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def test_of_a_run_that_is_killed_no_process_stays_neither_prefects_server_nor_an_engine(
    cli: Cli, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "recipe.yaml").write_text(
        f"source: '{folder}/photos/*'\nsteps: [{{erase: {{mask: '{folder}/masks/p0.png'}}}}, deblur]\n"
        f"output: '{folder}/out/{{{{ stem }}}}.png'\n"
    )
    mark = uuid.uuid4().hex
    cli.environment |= {"MARK_OF_TEST": mark, "PREFECT_HOME": str(tmp_path_factory.mktemp("home"))}
    options = ("--endpoint", "local", "--prefect", "embedded")
    run = cli.start("run", str(folder / "recipe.yaml"), *options, key="k")

    def parts() -> list[str]:
        assert run.poll() is None, run.communicate()
        commands = started_with(mark)
        return [part for part in ("prefect.server", "local.engines.process") if any(part in c for c in commands)]

    wait_until(lambda: len(parts()) == 2, pause=0.2)
    run.kill()
    run.communicate()
    wait_until(lambda: not started_with(mark), pause=0.2)


def test_a_run_that_goes_on_at_this_moment_is_not_told(cli: Cli, folder: Path) -> None:
    recipe = written(folder, "never")
    running = cli.start("run", recipe, "--endpoint", "local", key="k")
    wait_until((folder / "second").exists)
    (folder / "armed").unlink()
    other = cli("run", recipe, "--endpoint", "local")
    assert (other.returncode, other.stderr.count("come to its end")) == (0, 0)
    running.kill()
    running.communicate()
    assert cli("run", recipe, "--endpoint", "local").stderr.count("did not come to its end") == 1


def test_of_a_run_on_another_machine_it_is_said_that_it_may_still_run(cli: Cli, folder: Path) -> None:
    recipe = written(folder, "by itself")
    (folder / "armed").unlink()
    kind = f"begun/{Recipe.load(recipe).digest}"
    there = {"owner": "elsewhere:7 boot/pid:[1] word", "started": "2026-11-28 01:00:00 UTC", "total": 9}
    Store(str(folder / "store")).put_record(kind, "20261128-010000-000abcd", {**there, "manifest": "s3://none/m"})
    told = cli("run", recipe, "--endpoint", "local").stderr
    assert "begun 2026-11-28 01:00:00 UTC on elsewhere:7, has not come to its end, or still runs there" in told
    assert "Of its 9 items had ended: none that is known" in told


@pytest.mark.parametrize("record", ["", "{}", "[]", json.dumps({"owner": 7, "manifest": ["x"], "total": {}})])
def test_a_damaged_record_of_a_begun_run_ends_no_run(cli: Cli, folder: Path, record: str) -> None:
    recipe = written(folder, "by itself")
    (folder / "armed").unlink()
    place = folder / "store" / "begun" / Recipe.load(recipe).digest
    place.mkdir(parents=True)
    (place / "20261128-010000-000abcd.json").write_text(record)
    assert cli("run", recipe, "--endpoint", "local").returncode == 0
    assert not list(place.iterdir())
