"""What a run promises holds whoever records it: nobody, a Prefect server, or one that is started for the run."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from command_line import Cli, Here
from fake_bfl import FakeBfl
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect_server import copy_database
from scripted import Answer
from waiting import PATIENCE, wait_until

from flux_tasks.api.client import BflClient
from flux_tasks.errors import ServerUnavailable
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store
from flux_tasks.tasks import embedded

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MODES = {"off": "off", "server": "auto", "embedded": "embedded"}

Run: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(folder: Path) -> str:
    """What the recipe is called, and so its flow runs."""
    found = f"clean-{uuid.uuid4().hex[:8]}"
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: clean", f"name: {found}"))
    return found


@pytest.fixture
def run(
    mode: str, name: str, here_cli: Here, bfl: FakeBfl, folder: Path, prefect_server: str, monkeypatch: Any
) -> Iterator[Run]:
    """Run the recipe in a mode. An embedded server takes seconds to start: the one that the tests share stands in."""

    class Shared:
        begun = stopped = 0

        def __init__(self) -> None:
            Shared.begun += 1

        def url(self) -> str:
            return prefect_server

        def stop(self) -> None:
            Shared.stopped += 1

    monkeypatch.setattr(embedded, "EmbeddedServer", Shared)

    def carried_out(*options: str) -> subprocess.CompletedProcess[str]:
        given = ("--endpoint", bfl.url, "--prefect", MODES[mode], *options)
        return here_cli("run", str(folder / "recipe.yaml"), *given, key="k")

    yield carried_out
    assert (Shared.begun > 0, Shared.begun) == (mode == "embedded", Shared.stopped)


def recorded(name: str) -> list[str]:
    """Return how the flow runs of the recipe called ``name`` ended, as the server that the tests share knows it."""
    with get_client(sync_client=True) as client:

        def read() -> list[str]:
            found = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
            return sorted(run.state_type.value for run in found if run.state_type)

        wait_until(lambda: {"RUNNING", "PENDING", "SCHEDULED"}.isdisjoint(read()))
        return read()


def told_by(mode: str, *states: str) -> list[str]:
    """Return what is recorded in a mode of runs that ended so."""
    return [] if mode == "off" else sorted(states)


def test_a_call_that_failed_without_charge_is_made_again(
    mode: str, name: str, run: Run, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, refused = BflClient.submit, list[str]()

    async def flaky(self: BflClient, tool: Any, *arguments: Any, **options: Any) -> Any:
        if not refused:
            refused.append(tool.name)
            raise ServerUnavailable("no connection; nothing was sent")
        return await submit(self, tool, *arguments, **options)

    monkeypatch.setattr(BflClient, "submit", flaky)
    done = run()
    assert (done.returncode, bfl.jobs, refused) == (0, 4, ["deblur-v1"]), done.stderr
    assert recorded(name) == told_by(mode, "COMPLETED")


def test_no_credits_stop_a_run_and_the_next_one_goes_on(mode: str, name: str, run: Run, bfl: FakeBfl) -> None:
    first = bfl._submit
    bfl._submit = lambda path, request: first(path, request) if bfl.jobs < 2 else Answer(402, {"detail": "empty"})  # type: ignore[method-assign]
    stopped = run()
    assert (stopped.returncode, bfl.jobs) == (3, 2)
    assert "out of credits (empty)" in stopped.stderr
    bfl._submit = first  # type: ignore[method-assign]
    assert (run().returncode, bfl.jobs) == (0, 4)
    assert recorded(name) == told_by(mode, "FAILED", "COMPLETED")


def test_a_budget_holds_and_a_larger_one_completes_the_run(mode: str, name: str, run: Run, bfl: FakeBfl) -> None:
    stopped = run("--budget", "7")
    assert (stopped.returncode, bfl.jobs) == (3, 2), "each is 3 credits"
    assert "the budget of 7 credits is reached" in stopped.stderr
    assert (run("--budget", "20").returncode, bfl.jobs) == (0, 4)
    assert recorded(name) == told_by(mode, "FAILED", "COMPLETED")


def test_a_second_run_takes_everything_from_the_store_and_is_no_flow_run(
    mode: str, name: str, run: Run, bfl: FakeBfl
) -> None:
    assert (run().returncode, bfl.jobs) == (0, 4)
    for options in ((), ("--verify",)):
        again = run(*options)
        assert again.returncode == 0
        assert "no job was made and nothing was paid: 4 results came from the store" in again.stdout
    assert bfl.jobs == 4
    assert recorded(name) == told_by(mode, "COMPLETED")


def test_sigterm_begins_no_new_job_and_collects_those_in_flight(
    mode: str, name: str, prefect_cli: Cli, bfl: FakeBfl, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if mode == "embedded":  # a real one
        home = tmp_path_factory.mktemp("home")
        copy_database(home)
        prefect_cli.environment |= {"PREFECT_API_URL": "", "PREFECT_HOME": str(home)}
    bfl.hold = True
    options = ("--endpoint", bfl.url, "--prefect", MODES[mode])
    program = prefect_cli.start("run", str(folder / "recipe.yaml"), *options, key="k")
    journal = Journal(Store(str(folder / "store")))

    def are_submitted() -> bool:
        assert program.poll() is None, program.communicate()
        return sum(entry.phase == "submitted" for entry in journal.entries()) == 2

    wait_until(are_submitted)
    program.send_signal(signal.SIGTERM)
    assert program.stderr is not None
    while "no new job is begun" not in program.stderr.readline():
        assert program.poll() is None
    bfl.hold = False
    out, err = program.communicate(timeout=PATIENCE)
    assert (program.returncode, bfl.jobs) == (3, 2), err
    [path] = [line.split()[1] for line in out.splitlines() if line.startswith("manifest:")]
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert Counter(row["outcome"] for row in rows) == {"held": 2}
    assert [row["steps"][0]["outcome"] for row in rows] == ["done", "done"]
    if mode != "embedded":
        assert recorded(name) == told_by(mode, "FAILED")
