"""The flow that deployments run, on a real Prefect server: its form, its key, and what the server shows of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from prefect.automations import Automation, DoNothing, EventTrigger
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, Flow, FlowRun, State, StateType
from prefect.events.schemas.automations import Posture
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.utilities.callables import parameter_schema

from pipelines.shards.deployed import deployed_recipe

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    # Prefect's own client leaves its connections to the server to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _environment(folder: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of a worker."""
    monkeypatch.setenv("FLUX_POLL_INTERVAL", "0.005")
    monkeypatch.setenv("FLUX_STORE", str(folder / "store"))
    monkeypatch.setenv("FLUX_ENDPOINT", bfl.url)
    monkeypatch.setenv("BFL_API_KEY", "worker-key")
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
        yield


@pytest.fixture
def recipe(folder: Path) -> str:
    return (folder / "recipe.yaml").read_text().replace("name: clean", f"name: {folder.name}\nvars: {{pixels: 12}}")


async def run(recipe: str, **parameters: Any) -> State[Any]:
    state: State[Any] = await deployed_recipe(recipe, **parameters, return_state=True)
    return state


def of_run(state: State[Any]) -> Any:
    return state.state_details.flow_run_id


async def test_a_recipe_is_run_by_its_text_its_path_and_its_url(bfl: FakeBfl, folder: Path, recipe: str) -> None:
    state = await run(recipe)
    assert state.is_completed(), state.message
    assert await state.result() == {"done": 2}
    assert bfl.jobs == 4
    (folder / "recipe.yaml").write_text(recipe)
    for location in (str(folder / "recipe.yaml"), f"file://{folder}/recipe.yaml"):
        assert await (await run(location)).result() == {"cached": 2}
    assert bfl.jobs == 4
    async with get_client() as client:
        assert (await client.read_flow_run(of_run(state))).name == folder.name


async def test_parameters_of_a_run_replace_what_recipe_and_environment_say(
    bfl: FakeBfl, folder: Path, recipe: str
) -> None:
    text = recipe.replace("dilate_pixels: 12", "dilate_pixels: '{{ pixels }}'")
    state = await run(text, variables={"pixels": 3}, limit=1, store=str(folder / "other"))
    assert await state.result() == {"done": 1}
    assert bfl.jobs == 2
    assert (folder / "other" / "results").is_dir()
    stopped = await run(text, budget=3, store=str(folder / "third"))
    assert stopped.is_failed()
    assert "the budget of 3 credits is reached" in str(stopped.message)
    wrong = await run(text, variables={"pixel": 3})
    assert wrong.is_failed()
    assert "variables.pixel: there is no variable 'pixel' to be set (did you mean 'pixels'?)" in str(wrong.message)


async def test_a_run_that_finds_its_dataset_written_by_another_one_ends_as_busy_and_has_paid_for_nothing(
    bfl: FakeBfl, folder: Path, recipe: str
) -> None:
    text = f"{recipe.partition('output:')[0]}output: {{dataset: '{folder}/made'}}\n"
    place = folder / "made" / ".flux" / "writer.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"owner": "another-machine:1 another", "time": time.time()}))
    state = await run(text)
    assert (state.type, state.name) == (StateType.FAILED, "Busy")
    assert "made is being written by another-machine:1" in str(state.message)
    assert bfl.jobs == 0
    place.unlink()
    assert (await run(text)).is_completed()


def test_its_form_describes_every_parameter_and_has_none_for_the_key() -> None:
    schema = parameter_schema(deployed_recipe).model_dump_for_openapi()
    fields = schema["properties"]
    named = ["recipe", "variables", "limit", "budget", "endpoint", "store", "key_block"]
    assert [*fields] == [*named, "shards", "on", "shard", "part_of"]
    assert schema["required"] == ["recipe"]
    assert all(field["description"] for field in fields.values())
    assert [kind.get("enum") for kind in fields["endpoint"]["anyOf"]] == [["bfl", "eu", "us", "local"], None, None]
    assert (fields["variables"]["default"], fields["limit"]["default"]) == ({}, None)


async def test_the_key_is_the_workers_or_that_of_a_block_which_can_be_changed_at_any_time(
    folder: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = re.sub("[^a-z0-9]+", "-", folder.name.lower()).strip("-")
    with FakeBfl(key="new-key") as bfl:
        refused = await run(recipe, endpoint=bfl.url)
        assert refused.is_failed()
        await Secret(value="old-key").save(name)  # type: ignore[misc]  # awaitable in async code
        assert (await run(recipe, endpoint=bfl.url, key_block=name)).is_failed()
        await Secret(value="new-key").save(name, overwrite=True)  # type: ignore[misc]
        done = await run(recipe, endpoint=bfl.url, key_block=name)
        assert await done.result() == {"done": 2}
        async with get_client() as client:
            shown = (await client.read_flow_run(of_run(done))).model_dump_json()
        assert "new-key" not in shown + done.model_dump_json()
    monkeypatch.delenv("BFL_API_KEY")
    without = await run(recipe, endpoint="bfl")
    assert without.is_failed()
    assert "no key for BFL: there is no Prefect Secret block 'bfl-api-key': set BFL_API_KEY" in str(without.message)


async def test_a_run_divides_itself_among_processes_that_have_the_key_of_the_block(
    folder: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BFL_API_KEY")
    name = re.sub("[^a-z0-9]+", "-", folder.name.lower()).strip("-")
    await Secret(value="of-the-block").save(name)  # type: ignore[misc]  # awaitable in async code
    monkeypatch.setenv("FLUX_PREFECT", "off")  # of the processes: that a shard is a flow run takes a second of CPU
    with FakeBfl(key="of-the-block") as bfl:
        state = await run(recipe, endpoint=bfl.url, key_block=name, shards=2)
        assert state.is_completed(), state.message
        assert (await state.result(), bfl.jobs) == ({"done": 2}, 4)
    assert "BFL_API_KEY" not in os.environ
    rows = json.loads(str((await artifacts_of(state))["table"].data))
    assert [(row["step"], row["done"]) for row in rows] == [("deblur", 2), ("erase", 2), ("all", 4)]


async def test_what_cannot_be_divided_so_is_a_failure_that_says_why(bfl: FakeBfl, recipe: str) -> None:
    for given, told in (
        ({"on": "processes"}, "on: belongs to shards: add that, or leave it out"),
        ({"shards": 2, "shard": "1/2"}, "shard: is one part by hand, and shards starts all of them: give one of them"),
        ({"shards": 2, "on": "dusk"}, "'dusk' is nothing that shards run on (did you mean 'dask'?)"),
    ):
        state = await run(recipe, **given)
        assert state.is_failed()
        assert told in str(state.message)
    assert bfl.jobs == 0


async def artifacts_of(state: State[Any]) -> dict[str, Artifact]:
    async with get_client() as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[of_run(state)]))
        return {str(artifact.type): artifact for artifact in await client.read_artifacts(artifact_filter=wanted)}


async def log_of(state: State[Any], last: str) -> list[str]:
    """Return the log of a flow run, once a line is there: Prefect sends it in batches, after the run too."""
    async with get_client() as client:
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[of_run(state)]))
        while True:
            found = [line.message for line in await client.read_logs(wanted, limit=200)]
            if any(last in line for line in found):
                return found
            await asyncio.sleep(0.05)


async def events_of(resource: str, count: int) -> list[dict[str, Any]]:
    """Return the events of a resource in their order, once so many are there."""
    wanted = {"filter": {"resource": {"id": [resource]}, "order": "ASC"}, "limit": 50}
    async with get_client() as client:
        while True:
            answer = await client.request("POST", "/events/filter", json=wanted)
            found: list[dict[str, Any]] = answer.json()["events"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


async def test_a_run_has_one_bar_one_table_and_one_summary_a_line_an_item_and_events(
    bfl: FakeBfl, folder: Path, recipe: str
) -> None:
    (folder / "photos" / "p9.png").write_bytes(b"no picture")
    state = await run(recipe, budget=100)
    assert (state.type, state.name) == (StateType.FAILED, "Failed")
    assert "1 of 3 items did not end well: 1 invalid" in str(state.message)
    found = await artifacts_of(state)
    assert sorted(found) == ["markdown", "progress", "table"]
    assert (found["progress"].data, found["progress"].description) == (
        100.0,
        "3 of 3 items, 1 not fine",
    )
    rows = json.loads(str(found["table"].data))
    assert [(row["step"], row["done"], row["credits"], row["budget"]) for row in rows] == [
        ("deblur", 2, "6", ""),
        ("erase", 2, "6", ""),
        ("all", 4, "12", "100"),
    ]
    text = str(found["markdown"].data)
    (run_folder,) = (folder / "store" / "runs").iterdir()
    for line in (
        "| cost | 12.00 credits ($0.12) |",
        "| budget | 100.00 credits ($1.00) |",
        f"| output | {folder}/out/{{{{ stem }}}}.png |",
        f"| report | {run_folder}/report.html |",
    ):
        assert re.sub(r"([{_}])", r"\\\1", line) in text
    assert (run_folder / "report.html").is_file()
    lines = await log_of(state, "report.html")
    assert sum(line.startswith("p0: done; deblur: job job-") for line in lines) == 1
    assert sum(line.startswith("p1: done; deblur: job job-") for line in lines) == 1
    assert sum(line.startswith("p9: invalid: input: ") for line in lines) == 1
    assert sum("3 of 3 items: 2 done, 1 invalid; 4 jobs paid, 12.00 credits ($0.12)" in line for line in lines) == 1
    started, ended = await events_of(f"flux.run.{run_folder.name}", 2)
    assert (started["event"], ended["event"]) == ("flux.run.started", "flux.run.ended")
    assert ended["resource"]["flux.outcome"] == "failed"
    assert ended["resource"]["flux.recipe"] == folder.name
    payload = ended["payload"]
    assert (payload["counts"], payload["credits"], payload["jobs"]) == ({"done": 2, "invalid": 1}, 12.0, 4)
    assert f"prefect.flow-run.{of_run(state)}" in [one["prefect.resource.id"] for one in ended["related"]]
    assert "worker-key" not in json.dumps([started, ended, lines, text])


async def test_the_budget_and_items_that_are_held_are_events_of_their_own(folder: Path, recipe: str) -> None:
    stopped = await run(recipe, budget=3)
    assert stopped.is_failed()
    (run_folder,) = (folder / "store" / "runs").iterdir()
    events = await events_of(f"flux.run.{run_folder.name}", 5)
    assert [(event["event"].removeprefix("flux.run."), event["resource"]["flux.outcome"]) for event in events] == [
        ("started", "started"),
        ("budget", "near"),
        ("budget", "reached"),
        ("held", "stopped"),
        ("ended", "stopped"),
    ]


async def test_a_settled_run_says_so_in_a_line_and_not_in_one_for_each_item(bfl: FakeBfl, recipe: str) -> None:
    await run(recipe)
    settled = await run(recipe)
    lines = await log_of(settled, "manifest: ")
    assert await settled.result() == {"cached": 2}
    assert not [line for line in lines if line.startswith(("p0", "p1"))]
    assert [line for line in lines if "2 of 2 items: 2 cached; 0 jobs paid" in line]
    assert sorted(await artifacts_of(settled)) == ["markdown", "progress", "table"]


async def test_hooks_of_the_flow_are_called(folder: Path, recipe: str) -> None:
    called: list[tuple[str, str, str]] = []

    def ended(flow: Flow, flow_run: FlowRun, state: State[Any]) -> None:
        called.append((flow.name, flow_run.name, state.name or ""))

    mine = deployed_recipe.with_options(name="nightly", on_completion=[ended], on_failure=[ended])
    await mine(recipe, return_state=True)
    (folder / "photos" / "p9.png").write_bytes(b"no picture")
    await mine(recipe, return_state=True)
    assert [(flow, state) for flow, _, state in called] == [("nightly", "Completed"), ("nightly", "Failed")]


async def test_an_automation_acts_on_the_end_of_a_run_that_was_stopped(folder: Path, recipe: str) -> None:
    trigger = EventTrigger(
        expect={"flux.run.ended"},
        match={"flux.recipe": folder.name, "flux.outcome": "stopped"},
        posture=Posture.Reactive,
        threshold=1,
    )
    made = await Automation(name=folder.name, trigger=trigger, actions=[DoNothing()]).acreate()
    await run(recipe)
    await run(recipe, budget=0, store=str(folder / "empty"))
    _, triggered, *_ = await events_of(f"prefect.automation.{made.id}", 2)  # the first says that it was made
    assert triggered["event"] == "prefect.automation.triggered"
    by = triggered["payload"]["triggering_event"]
    assert (by["event"], by["resource"]["flux.outcome"]) == ("flux.run.ended", "stopped")
