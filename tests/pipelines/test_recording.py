"""Who records a run: Prefect where a server is configured or asked for, else nobody, and Prefect is not imported."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from command_line import Cli
from fake_bfl import FakeBfl
from forked import run

PROGRAM = """
import sys
from flux_tasks import deblur, use
from pipelines import Recipe
recipe, endpoint, store, photo = sys.argv[1:]
with use(endpoint=endpoint, key="k", store=store, poll_interval=0.005):
    deblur(photo, seed=9)
    print(Recipe.load(recipe).run()["counts"], "prefect" in sys.modules)
"""
NOT_RECORDED = "not recorded in Prefect, because no server is configured"


def started(
    folder: Path, code: str, *arguments: str, is_new: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder``, in an environment that says nothing of Prefect but what is given.

    It has our packages imported when it begins, but not Prefect; unless it ``is_new``.
    """
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "FLUX_", "BFL_"))}
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    given = {**clean, "PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": paths, **environment}
    command = [sys.executable, "-c", code, *arguments]
    if is_new:
        return subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True)
    return run(command, env=given, cwd=folder)


def program(folder: Path, bfl: FakeBfl, **environment: str) -> subprocess.CompletedProcess[str]:
    places = ("recipe.yaml", bfl.url, str(folder / "store"), str(folder / "photos/p0.png"))
    return started(folder, PROGRAM, *places, **environment)


def test_a_recipe_and_a_task_without_a_server_do_not_import_prefect_and_say_so_in_one_line(
    folder: Path, bfl: FakeBfl
) -> None:
    done = program(folder, bfl)
    assert done.stdout == "{'done': 2} False\n", done.stderr
    assert done.stderr.count(NOT_RECORDED) == 1
    assert bfl.jobs == 5
    assert not (folder / "prefect").exists()


def test_a_run_that_was_told_not_to_be_recorded_says_nothing_of_it(folder: Path, bfl: FakeBfl) -> None:
    done = program(folder, bfl, FLUX_PREFECT="off", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (done.stdout, done.stderr) == ("{'done': 2} False\n", "")


CALLS = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from flux_tasks import adeblur, deblur, use
endpoint, store, photo = sys.argv[1:]
async def main():
    await asyncio.gather(*(adeblur(photo, seed=seed) for seed in range(3)))
with use(endpoint=endpoint, key="k", store=store, poll_interval=0.005):
    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(deblur, photo, seed=seed) for seed in range(4)]:
            made.result()
    asyncio.run(main())
print("prefect" in sys.modules)
"""


@pytest.mark.parametrize(("choice", "lines"), [("auto", 1), ("off", 0)])
def test_plain_calls_without_a_server_say_once_in_a_process_that_they_are_not_recorded(
    folder: Path, bfl: FakeBfl, choice: str, lines: int
) -> None:
    places = (bfl.url, str(folder / "store"), str(folder / "photos/p0.png"))
    done = started(folder, CALLS, *places, FLUX_PREFECT=choice)
    assert (done.stdout, done.stderr.count(NOT_RECORDED)) == ("False\n", lines), done.stderr
    assert len(done.stderr.splitlines()) == lines


OTHER_PROFILE = 'active = "a"\n[profiles.a]\n[profiles.b]\nPREFECT_API_URL = "x"\n'
NO_SERVER = {
    "an empty variable": ("PREFECT_API_URL", "", "", ""),
    "another profile": ("", "", "prefect/profiles.toml", OTHER_PROFILE),
    "other settings": ("", "", "prefect.toml", '[logging]\nlevel = "INFO"\n'),
    "another variable": ("", "", ".env", "PREFECT_LOGGING_LEVEL=INFO\n"),
    "another project": ("", "", "pyproject.toml", "[project]\nname = 'prefect'\n"),
}
SERVER = {
    "a variable": ("PREFECT_API_URL", "http://127.0.0.1:9/api", "", ""),
    "the profile": (
        "",
        "",
        "prefect/profiles.toml",
        'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n',
    ),
    "a profile that is named": (
        "PREFECT_PROFILE",
        "a",
        "prefect/profiles.toml",
        '[profiles.a]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n',
    ),
    "prefect.toml": ("", "", "prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"\n'),
    "a file of variables": ("", "", ".env", "export PREFECT_API_URL='http://127.0.0.1:9/api'\n"),
    "the project": ("", "", "pyproject.toml", '[tool.prefect.api]\nurl = "http://127.0.0.1:9/api"\n'),
}
ASK = (
    "import sys; from flux_tasks.tasks.recording import is_server_configured as f; print(f(), 'prefect' in sys.modules)"
)


def answer(folder: Path, variable: str, value: str, file: str, text: str) -> list[str]:
    if file:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
    done = started(folder, ASK, **({variable: value} if variable else {}))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("where", NO_SERVER)
def test_that_no_server_is_configured_is_known_without_importing_prefect(tmp_path: Path, where: str) -> None:
    assert answer(tmp_path, *NO_SERVER[where]) == ["False", "False"]


@pytest.mark.parametrize("where", SERVER)
def test_a_server_is_found_wherever_prefect_would_find_it(tmp_path: Path, where: str) -> None:
    assert answer(tmp_path, *SERVER[where])[0] == "True"


@pytest.mark.parametrize(
    ("choice", "address", "is_said"),
    [("auto", "http://127.0.0.1:9/api", True), ("auto", "", False), ("off", "http://127.0.0.1:9/api", False)],
)
def test_a_run_that_makes_no_job_needs_no_server_and_says_that_prefect_has_no_flow_run_of_it(
    folder: Path, bfl: FakeBfl, choice: str, address: str, is_said: bool
) -> None:
    cli = Cli(folder)
    arguments = ("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--no-report", "--prefect")
    assert cli(*arguments, "off", key="k").returncode == 0
    cli.environment |= {"PREFECT_API_URL": address, "PREFECT_HOME": str(folder / "prefect")}
    again = cli(*arguments, choice, key="k")
    assert again.returncode == 0
    assert "no job was made and nothing was paid" in again.stdout
    assert ("no flow run in Prefect: no job was left to make" in again.stdout + again.stderr) is is_said


def test_the_embedded_server_records_a_run_and_ends_with_it(folder: Path, bfl: FakeBfl) -> None:
    cli = Cli(folder)
    cli.environment["PREFECT_HOME"] = str(folder / "prefect")
    done = cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--prefect", "embedded", key="k")
    assert done.returncode == 0, done.stderr
    assert bfl.jobs == 4
    with closing(sqlite3.connect(folder / "prefect" / "prefect.db")) as database:
        assert database.execute("select state_name from flow_run").fetchall() == [("Completed",)]
        names = database.execute("select name, state_name from task_run order by name").fetchall()
    assert names == [(f"{step} p{n}", "Completed") for step in ("deblur", "erase") for n in range(2)]


ASKED_DURING_IMPORT = """
import sys, threading, time
from flux_tasks import deblur
from flux_tasks.local.fixtures import pytest_sessionfinish
from flux_tasks.tasks import recording
importing = threading.Thread(target=__import__, args=("prefect.tasks",))
importing.start()
answers = set()
while importing.is_alive():
    pytest_sessionfinish()
    answers |= {recording.is_in_flow(), isinstance(deblur, str)}
    time.sleep(0.001)
import prefect
print(answers, recording.is_server_configured(), isinstance(deblur, prefect.Task))
"""


def test_whether_a_call_is_in_a_flow_can_be_asked_while_another_thread_imports_prefect(tmp_path: Path) -> None:
    done = started(tmp_path, ASKED_DURING_IMPORT, is_new=True)
    assert (done.returncode, done.stdout) == (0, "{False} False True\n"), done.stderr


IMPORTED_DURING_IMPORT = """
import sys, threading, time
importing = threading.Thread(target=__import__, args=("prefect",))
importing.start()
while "prefect.context" not in sys.modules:
    time.sleep(0.0005)
import flux_tasks
importing.join()
from prefect.settings import get_current_settings
print(get_current_settings().server.analytics_enabled)
"""


def test_the_package_can_be_imported_while_another_thread_imports_prefect(tmp_path: Path) -> None:
    done = started(tmp_path, IMPORTED_DURING_IMPORT, is_new=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


CALLED_DURING_IMPORT = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from flux_tasks import deblur, use
endpoint, store, photo = sys.argv[1:]

def later(seed):
    while "prefect.context" not in sys.modules:
        time.sleep(0.001)
    return deblur(photo, seed=seed)

with use(endpoint=endpoint, key="k", store=store, poll_interval=0.005), ThreadPoolExecutor(4) as pool:
    made = [pool.submit(deblur, photo, seed=0), *(pool.submit(later, seed) for seed in (1, 2, 3))]
    print(len({one.result().digest for one in made}))
"""


def test_threads_that_call_while_the_first_of_them_imports_prefect_get_their_pictures(
    folder: Path, bfl: FakeBfl, prefect_server: str
) -> None:
    places = (bfl.url, str(folder / "store"), str(folder / "photos/p0.png"))
    done = started(folder, CALLED_DURING_IMPORT, *places, is_new=True, PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stderr
    assert bfl.jobs == 4
