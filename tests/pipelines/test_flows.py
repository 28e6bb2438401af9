"""The flows on a real Prefect server: the plain chain, and a recipe with one task run per paid call."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from fake_bfl import FakeBfl
from forked import Forked
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterName,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.context import FlowRunContext

from flux_tasks import ImageRef, ItemsFailed, KeyRefused, RecipeError, RunStopped, use
from flux_tasks.jobs.result import JobResult
from pipelines import Recipe
from pipelines.flows import artifact as artifacts
from pipelines.flows import arun_recipe, recipe_flow, run_recipe
from pipelines.flows.recipe_flow import call_task
from pipelines.flows.restore import restore
from pipelines.run.context import Event
from pipelines.run.shard import shard_of

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    # Prefect's own client leaves its connections to the server to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        image = Image.linear_gradient("L").resize((96, 80)).rotate(number * 9)
        image.convert("RGB").save(tmp_path / "photos" / f"p{number}.png")
    mask = Image.new("L", (96, 80))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "mask.png")
    return tmp_path


def recipe_file(folder: Path, name: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: {name}\n"
        f"source: {{images: '{folder}/photos/*.png'}}\n"
        f"steps:\n  - deblur: {{}}\n  - erase: {{mask: '{folder}/mask.png'}}\n"
        f"output: {{path: '{folder}/out/{{{{ stem }}}}.png'}}\n"
    )
    return str(path)


async def flow_run(name: str, tasks: int = 1) -> tuple[FlowRun, list[TaskRun]]:
    """The flow run called ``name`` and its task runs, once the server has written down how so many of them ended."""
    async with get_client() as client:
        while True:
            runs = await client.read_flow_runs(
                flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])),
                sort=FlowRunSort.END_TIME_DESC,
                limit=1,
            )
            if runs and runs[0].state and runs[0].state.is_final():
                found = await client.read_task_runs(
                    flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])),
                    sort=TaskRunSort.END_TIME_DESC,
                    limit=200,
                )
                if len(found) >= tasks and all(t.state and t.state.is_final() for t in found):
                    return runs[0], found
            await asyncio.sleep(0.05)


async def logged(run: FlowRun, start: str) -> None:
    """Wait until the log of a flow run has a line that begins so: Prefect sends it in batches, after the run too."""
    async with get_client() as client:
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        while not any(line.message.startswith(start) for line in await client.read_logs(of_run)):
            await asyncio.sleep(0.05)


def test_the_restoration_chain_is_a_plain_flow(bfl: FakeBfl, folder: Path) -> None:
    mask = str(folder / "mask.png")
    with use(endpoint=bfl.url, key="k", store=str(folder / "store"), poll_interval=0.005):
        result = restore(str(folder / "photos" / "p0.png"), mask, mask, prompt="grass")
    assert (result.width, result.height) == (144, 80)
    assert sorted(bfl.charged) == [
        "/v1/flux-pro-1.0-fill",
        "/v1/flux-tools/deblur-v1",
        "/v1/flux-tools/erase-v1",
        "/v1/flux-tools/outpainting-v1",
    ]


async def test_a_recipe_makes_one_task_run_for_each_paid_call(bfl: FakeBfl, folder: Path) -> None:
    file = recipe_file(folder, f"nightly-{folder.name}")
    done = await asyncio.to_thread(
        run_recipe, file, endpoint=bfl.url, key="the-secret", store=str(folder / "store"), poll_interval=0.005
    )
    assert done["counts"] == {"done": 3}
    assert (done["jobs"], done["cost"], bfl.jobs) == (6, 18.0, 6)
    run, tasks = await flow_run(f"nightly-{folder.name}", tasks=6)
    assert len(tasks) == 6
    assert sorted(t.name for t in tasks) == sorted(f"{step} p{n}" for step in ("deblur", "erase") for n in range(3))
    assert "the-secret" not in run.model_dump_json() + json.dumps([t.model_dump(mode="json") for t in tasks])


def test_a_flow_run_does_not_keep_where_each_of_its_results_is_from(
    bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    def look(_: Event) -> None:
        if (context := FlowRunContext.get()) is not None:
            kept.append(len(context.run_results))

    monkeypatch.setattr(recipe_flow, "MOST_LINKS", 10)
    options: dict[str, Any] = {"key": "k", "store": str(folder / "store"), "poll_interval": 0.005, "max_jobs": 1}
    done = run_recipe(recipe_file(folder, "links"), endpoint=bfl.url, on_event=look, **options)
    assert done["jobs"] == 6
    assert 0 < max(kept) <= 30, "one result is some eight objects, and six results are more"


async def test_a_recipe_that_has_nothing_left_to_do_makes_no_flow_run(bfl: FakeBfl, folder: Path) -> None:
    settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
    await asyncio.to_thread(run_recipe, recipe_file(folder, "first"), **settings)
    name = f"second-{folder.name}"
    done = await asyncio.to_thread(run_recipe, recipe_file(folder, name), **settings)
    assert (done["jobs"], done["counts"]) == (0, {"cached": 3})
    async with get_client() as client:
        named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        found = await client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.END_TIME_DESC, limit=1)
        assert found == []


async def test_a_paid_call_through_prefect_says_how_its_result_was_come_by(bfl: FakeBfl, folder: Path) -> None:
    photo = ImageRef.of(folder / "photos" / "p0.png")

    @flow
    async def twice() -> list[JobResult]:
        return [await call_task("deblur", {"image": photo}), await call_task("deblur", {"image": photo})]

    with use(endpoint=bfl.url, key="k", store=str(folder / "store"), poll_interval=0.005):
        paid, cached = await twice()
    assert (paid.outcome, paid.cost, paid.job_id, paid.is_submitted_here) == ("done", 3.0, "job-1", True)
    assert paid.seconds is not None
    assert (cached.outcome, cached.cost, cached.job_id, cached.is_submitted_here) == ("cached", 3.0, "job-1", False)
    assert cached.seconds is None
    assert (bfl.jobs, cached.image) == (1, paid.image)


def test_a_recipe_can_be_run_inside_a_flow_of_ones_own(bfl: FakeBfl, folder: Path) -> None:
    file = recipe_file(folder, "inner")

    @flow
    def mine() -> int:
        return int(
            run_recipe(file, endpoint=bfl.url, key="k", store=str(folder / "store"), poll_interval=0.005)["jobs"]
        )

    assert mine() == 6


def test_a_recipe_can_be_run_in_shards_inside_a_flow_of_ones_own(
    bfl: FakeBfl, folder: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)  # for the processes of the shards
    recipe = Recipe.load(recipe_file(folder, "divided"))
    settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}

    @flow
    def mine() -> Any:
        return recipe.run(shards=2, **settings)["counts"]

    assert mine() == {"done": 3}
    assert bfl.jobs == 6
    names = {f"divided {shard_of(str(folder / 'photos' / f'p{number}.png'), 2)}/2" for number in range(3)}
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[*names])))
    assert {run.name for run in found} == names, "a shard is a flow run"
    assert all(run.state is not None and run.state.is_completed() for run in found)


def test_a_stopped_recipe_raises_why(folder: Path) -> None:
    with FakeBfl(key="right") as bfl, pytest.raises(KeyRefused):
        run_recipe(recipe_file(folder, "stopped"), endpoint=bfl.url, key="wrong", store=str(folder / "store"))
    assert bfl.jobs == 0


def broken(folder: Path) -> None:
    """Add an item that cannot end well."""
    (folder / "photos" / "p9.png").write_bytes(b"no picture")


async def test_a_flow_run_whose_items_did_not_all_end_well_ends_as_failed_and_logs_each_item(
    bfl: FakeBfl, folder: Path
) -> None:
    broken(folder)
    name = f"broken-{folder.name}"
    settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
    done = await asyncio.to_thread(run_recipe, recipe_file(folder, name), **settings)
    assert done["counts"] == {"done": 3, "invalid": 1}
    run, _ = await flow_run(name)
    assert run.state is not None
    assert (run.state.type, run.state.name) == (StateType.FAILED, "Failed")
    assert run.state.message == f"1 of 4 items did not end well: 1 invalid. Manifest: {done['manifest']}"


async def test_a_run_from_the_command_line_fails_on_a_prefect_server_too_and_its_log_names_each_item(
    prefect_server: str, bfl: FakeBfl, folder: Path
) -> None:
    broken(folder)
    name, cli = f"cli-{folder.name}", Cli(folder, prefect_server)
    cli.environment.pop("PREFECT_LOGGING_TO_API_ENABLED")  # this process has set it, for it has no server of its own
    done = await asyncio.to_thread(cli, "run", recipe_file(folder, name), "--endpoint", bfl.url, key="k")
    assert done.returncode == 1, done.stderr
    assert "WARNING" not in done.stderr
    run, _ = await flow_run(name)
    assert run.state is not None
    assert run.state.type is StateType.FAILED
    await logged(run, "p9: invalid: input: ")


async def test_a_flow_run_that_was_stopped_ends_as_failed_with_the_reason(bfl: FakeBfl, folder: Path) -> None:
    name = f"stopped-{folder.name}"
    settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
    with pytest.raises(RunStopped, match="budget"):
        await asyncio.to_thread(run_recipe, recipe_file(folder, name), budget=6, **settings)
    run, _ = await flow_run(name)
    assert run.state is not None
    assert run.state.type is StateType.FAILED
    assert "stopped: the budget of 6 credits is reached" in (run.state.message or "")


@pytest.mark.parametrize("raise_on", [True, "invalid", ["failed", "invalid"]])
def test_a_run_raises_when_items_end_as_the_caller_names(bfl: FakeBfl, folder: Path, raise_on: Any) -> None:
    broken(folder)
    settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
    with pytest.raises(ItemsFailed, match="1 of 4 items did not end well: 1 invalid") as caught:
        Recipe.load(recipe_file(folder, "raising")).run(raise_on=raise_on, **settings)
    assert caught.value.result["counts"] == {"done": 3, "invalid": 1}
    assert pickle.loads(pickle.dumps(caught.value)).result == caught.value.result
    assert Recipe.load(recipe_file(folder, "raising")).run(raise_on="held", **settings)["counts"]["invalid"] == 1


def test_an_outcome_that_does_not_exist_is_refused_before_anything_is_paid(bfl: FakeBfl, folder: Path) -> None:
    with pytest.raises(RecipeError, match="raise_on: 'failure' is not an outcome: write True, or some of held, failed"):
        run_recipe(recipe_file(folder, "x"), raise_on="failure", endpoint=bfl.url, key="k", store=str(folder / "store"))
    assert bfl.jobs == 0


@pytest.mark.parametrize("raise_on", [None, 1, ["failed", 3], [["failed"]], b"failed", "failed,held", "", object()])
def test_whatever_else_raise_on_is_it_is_refused_before_anything_is_paid(
    bfl: FakeBfl, folder: Path, raise_on: Any
) -> None:
    with pytest.raises(RecipeError, match=r"raise_on: .* is not an outcome: write True, or some of"):
        run_recipe(recipe_file(folder, "x"), raise_on=raise_on, endpoint=bfl.url, key="k", store=str(folder / "store"))
    assert bfl.jobs == 0


async def test_a_run_that_is_cancelled_loses_no_job_and_holds_none_that_was_not_submitted(
    bfl: FakeBfl, folder: Path
) -> None:
    for number in range(3, 9):
        image = Image.linear_gradient("L").resize((96, 80)).rotate(number * 9)
        image.convert("RGB").save(folder / "photos" / f"p{number}.png")
    settings: dict[str, Any] = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
    bfl.hold = True
    running = asyncio.create_task(arun_recipe(recipe_file(folder, "cancelled"), max_jobs=2, **settings))
    while bfl.jobs < 2:
        await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    bfl.hold = False
    done = await arun_recipe(recipe_file(folder, "cancelled"), **settings)
    assert done["counts"] == {"done": 9}
    assert bfl.jobs == 18


IN_A_NOTEBOOK = """
import asyncio, sys
from pipelines import Recipe

async def cell():
    Recipe.load(sys.argv[1]).run(max_jobs=2, endpoint=sys.argv[2], key="k", store=sys.argv[3], poll_interval=0.005)

asyncio.new_event_loop().run_until_complete(cell())
"""


def test_an_interruption_where_an_event_loop_runs_already_ends_the_run(
    prefect_server: str, bfl: FakeBfl, folder: Path
) -> None:
    recipe, store = recipe_file(folder, "notebook"), str(folder / "store")
    bfl.hold = True  # else the run would end by itself
    command = [sys.executable, "-c", IN_A_NOTEBOOK, recipe, bfl.url, store]
    with Forked(command, env=os.environ | {"PREFECT_API_URL": prefect_server}, stderr=-1, text=True) as cell:
        while bfl.jobs < 2:
            assert cell.poll() is None, cell.stderr and cell.stderr.read()
            time.sleep(0.005)
        cell.send_signal(signal.SIGINT)
        _, printed = cell.communicate()
    assert "KeyboardInterrupt" in printed
    assert bfl.jobs < 6  # no new job is begun
    bfl.hold = False
    done = run_recipe(recipe, endpoint=bfl.url, key="k", store=store, poll_interval=0.005)
    assert (done["counts"], bfl.jobs) == ({"done": 3}, 6)


def test_a_flow_of_ones_own_fails_with_its_recipe(bfl: FakeBfl, folder: Path) -> None:
    broken(folder)

    @flow
    def nightly() -> int:
        settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
        return run_recipe(recipe_file(folder, "inner"), raise_on=True, **settings)["jobs"]

    state = nightly(return_state=True)
    assert state.is_failed()
    assert "1 of 4 items did not end well" in (state.message or "")


async def test_a_recipe_runs_where_an_event_loop_runs_already(bfl: FakeBfl, folder: Path) -> None:
    settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
    assert Recipe.load(recipe_file(folder, "notebook")).run(**settings)["counts"] == {"done": 3}


def test_each_item_that_did_not_end_well_is_logged_without_prefect_too(
    bfl: FakeBfl, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
    run_recipe(recipe_file(folder, "logged"), **settings)
    broken(folder)
    caplog.clear()
    run_recipe(recipe_file(folder, "logged"), **settings)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"p9: invalid: input: {folder}/photos/p9.png: not an image")


async def artifacts_of(name: str) -> list[Artifact]:
    run, _ = await flow_run(name)
    async with get_client() as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return await client.read_artifacts(artifact_filter=wanted)


async def test_a_run_is_a_markdown_artifact_on_a_server_with_its_counts_credits_and_what_did_not_end_well(
    bfl: FakeBfl, folder: Path
) -> None:
    for number in range(12):
        (folder / "photos" / f"q_{number:02}|.png").write_bytes(b"nothing")
    settings = {"endpoint": bfl.url, "key": "k-secret-97", "store": str(folder / "store"), "poll_interval": 0.005}
    result = await asyncio.to_thread(run_recipe, recipe_file(folder, "Nightly shots"), **settings)
    (artifact,) = [one for one in await artifacts_of("Nightly shots") if one.type == "markdown"]
    text = str(artifact.data)
    assert (artifact.type, artifact.key) == ("markdown", "flux-pipelines-nightly-shots")
    assert f"| invalid | 12 |\n| jobs, paid | {result['jobs']} |\n" in text
    assert "| done | 3 |" in text
    assert "12 of 15 items did not end well" in text
    named = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(named) == 10
    assert all(line.startswith("- q\\_") and ": invalid: input: " in line for line in named)
    assert result["manifest"].replace("_", "\\_") in text
    assert "k-secret-97" not in artifact.model_dump_json()


async def test_a_run_by_the_command_line_names_its_report_in_its_artifact(prefect_cli: Cli, folder: Path) -> None:
    recipe = recipe_file(folder, "reported")
    ran = await asyncio.to_thread(prefect_cli, "run", recipe, "--endpoint", "local", "--report", f"{folder}/out/r.html")
    assert ran.returncode == 0, ran.stderr
    (artifact,) = [one for one in await artifacts_of("reported") if one.type == "markdown"]
    assert f"| report | {folder}/out/r.html |".replace("_", "\\_") in str(artifact.data)


def test_a_server_that_refuses_the_artifact_does_not_fail_the_run(
    bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: Any) -> None:
        raise ConnectionError("no artifacts here")

    monkeypatch.setattr(artifacts, "acreate_markdown_artifact", refuse)
    settings = {"endpoint": bfl.url, "key": "k", "store": str(folder / "store"), "poll_interval": 0.005}
    assert run_recipe(recipe_file(folder, "refused"), **settings)["counts"] == {"done": 3}
    assert "the artifact of the run could not be created: ConnectionError: no artifacts here" in caplog.text


@pytest.mark.parametrize("imports", ["from prefect import flow; import pipelines", "import pipelines; import prefect"])
def test_the_embedded_server_of_a_flow_of_ones_own_has_time_and_reports_to_nobody(imports: str) -> None:
    code = (
        f"{imports}; from prefect.settings import get_current_settings as now\n"
        "print(now().server.ephemeral.startup_timeout_seconds, now().server.analytics_enabled)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_SERVER_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True)
    assert done.stdout == "180 False\n"
