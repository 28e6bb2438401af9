"""A schedule on a real Prefect server, whose run is divided among two workers of a pool, and what its pages show."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from command_line import Here
from fake_bfl import FakeBfl
from PIL import Image
from prefect.client.orchestration import SyncPrefectClient, get_client
from servers import running, unused_port
from waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [
    pytest.mark.early,
    # Prefect's own client leaves its connections to the server to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PICTURES = 6
RECIPE = """\
name: {name}
vars: {{pixels: 4}}
source: {{images: "{folder}/photos/*", columns: {{mask: "{folder}/mask.png"}}}}
steps:
  - deblur: {{}}
  - erase: {{mask: "{{{{ mask }}}}", dilate_pixels: "{{{{ pixels }}}}"}}
output: {{path: "{folder}/out/{{{{ stem }}}}.png"}}
"""


@dataclass
class Scheduled:
    """A recipe whose schedule has come once, and the run that this has started."""

    folder: Path
    name: str
    bfl: FakeBfl
    address: str
    deployment: dict[str, Any]
    run: dict[str, Any]
    shards: list[dict[str, Any]]

    def ask(self, path: str, **body: Any) -> Any:
        with get_client(sync_client=True) as client:
            return _ask(client, path, **body)

    def of_run(self, path: str, what: str) -> Any:
        """What the server has of the run, and not of its shards."""
        return self.ask(path, **{what: {"flow_run_id": {"any_": [self.run["id"]]}}})


def _ask(client: SyncPrefectClient, path: str, **body: Any) -> Any:
    answer = client.request("POST" if body else "GET", path, **({"json": body} if body else {}))  # type: ignore[arg-type]
    return answer.json()


def _make_recipe(folder: Path, name: str) -> Path:
    (folder / "photos").mkdir()
    mask = Image.new("L", (96, 80))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(folder / "mask.png")
    for number in range(PICTURES):
        picture = Image.linear_gradient("L").resize((96, 80)).rotate(number * 9)
        picture.convert("RGB").save(folder / "photos" / f"hen-{number}.png")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(name=name, folder=folder))
    return recipe


def _worker(pool: str, name: str) -> tuple[list[str], str]:
    """The command of a worker that has two flow runs at a time at most, and the address that says that it is there."""
    port = unused_port()
    program = [str(Path(sys.executable).with_name("prefect")), "worker", "start", "--with-healthcheck"]
    options = ["--pool", pool, "--name", name, "--limit", "2"]
    return ["env", f"PREFECT_WORKER_WEBSERVER_PORT={port}", *program, *options], f"http://127.0.0.1:{port}/health"


@pytest.fixture(scope="module")
def scheduled(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduled]:
    folder, name = tmp_path_factory.mktemp("scheduled"), f"hens-{uuid.uuid4().hex[:6]}"
    recipe, pool, workers = _make_recipe(folder, name), f"pool-of-{name}", [f"{name}-1", f"{name}-2"]
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        deploy = Here(folder, patch)
        for variable, value in {
            "BFL_API_KEY": "of-the-workers",
            "FLUX_POLL_INTERVAL": "0.1",
            "PREFECT_API_URL": prefect_server,
            "PREFECT_LOGGING_TO_API_ENABLED": "true",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }.items():
            patch.setenv(variable, value)
        bfl = stack.enter_context(FakeBfl(key="of-the-workers"))
        bfl.hold = True
        client = stack.enter_context(get_client(sync_client=True))
        _ask(client, "/work_pools/", name=pool, type="process")
        commands = [_worker(pool, worker) for worker in workers]
        for number, (command, probe) in enumerate(commands):
            stack.enter_context(running(command, folder / f"worker-{number}.log", probe))
        options = ["--pool", pool, "--interval", "30", "--shards", "2", "--on", f"prefect:{pool}", "--budget", "100"]
        done = deploy("deploy", str(recipe), *options, "--endpoint", bfl.url, "--store", f"{folder}/store")
        assert done.returncode == 0, done.stderr
        deployment = _ask(client, f"/deployments/name/run-recipe/{name}")

        def runs(of: str, *states: str) -> list[dict[str, Any]]:
            found = {"deployments": {"name": {"any_": [of]}}, "flow_runs": {"state": {"name": {"any_": [*states]}}}}
            return list(_ask(client, "/flow_runs/filter", **found, sort="EXPECTED_START_TIME_ASC"))

        wait_until(lambda: runs(name, "Submitting", "Pending", "Running"), pause=1.0)
        client.request("POST", f"/deployments/{deployment['id']}/pause_deployment")  # it has come once
        parts = f"{name} in shards"
        # Three flow runs at a time, so that each of the workers has one at least.
        wait_until(lambda: len(runs(parts, "Running")) == 2 and bfl.jobs >= 2, pause=1.0)
        [run] = runs(name, "Running")
        bfl.hold = False
        wait_until(lambda: _ask(client, f"/flow_runs/{run['id']}")["end_time"], pause=1.0)
        wait_until(lambda: len(runs(parts, "Completed", "Failed", "Crashed")) == 2, pause=1.0)
        run = _ask(client, f"/flow_runs/{run['id']}")
        shards = runs(parts, "Completed")
        address = prefect_server.removesuffix("/api")
        yield Scheduled(folder, name, bfl, address, deployment, run, shards)
    wait_until(lambda: not any(_is_of(one, folder) for one in psutil.process_iter()), pause=0.5)


def _is_of(process: psutil.Process, folder: Path) -> bool:
    """Check whether a process is one of the workers, or was started by one: all have the folder's store."""
    with suppress(psutil.Error):
        return process.environ().get("FLUX_STORE") == f"{folder}/store"
    return False


def test_a_schedule_starts_a_run_that_two_workers_divide_and_each_job_is_paid_once(scheduled: Scheduled) -> None:
    run, bfl = scheduled.run, scheduled.bfl
    assert (run["state"]["name"], run["auto_scheduled"]) == ("Completed", True), run["state"]["message"]
    assert sorted(shard["name"] for shard in scheduled.shards) == [f"{scheduled.name} {n}/2" for n in (1, 2)]
    assert run["name"] == scheduled.name
    infrastructure = {one["infrastructure_pid"] for one in (run, *scheduled.shards)}
    assert len(infrastructure) == 3, "each is a process of its own"
    names = sorted(path.name for path in (scheduled.folder / "out").iterdir())
    assert names == [f"hen-{number}.png" for number in range(PICTURES)]
    assert bfl.jobs == len({json.dumps(body, sort_keys=True) for body in bfl.bodies}) == 2 * PICTURES


def test_the_server_has_a_bar_a_table_a_summary_a_line_for_each_item_and_the_events_of_the_run(
    scheduled: Scheduled,
) -> None:
    found = {artifact["type"]: artifact for artifact in scheduled.of_run("/artifacts/filter", "artifacts")}
    assert sorted(found) == ["markdown", "progress", "table"]
    assert (found["progress"]["data"], found["progress"]["description"]) == (
        100.0,
        f"{PICTURES} of {PICTURES} items, 0 not fine",
    )
    rows = json.loads(found["table"]["data"])
    assert [(row["step"], row["done"], row["credits"], row["budget"]) for row in rows] == [
        ("deblur", 6, "18", ""),
        ("erase", 6, "18", ""),
        ("all", 12, "36", "100"),
    ]
    assert "| cost | 36.00 credits ($0.36) |" in found["markdown"]["data"]
    wait_until(lambda: any("manifest: " in line for line in lines_of(scheduled)), pause=0.2)
    lines = lines_of(scheduled)
    for number in range(PICTURES):
        assert sum(line.startswith(f"hen-{number}: done; deblur: job job-") for line in lines) == 1, lines
    assert sum("6 of 6 items: 6 done; 12 jobs paid, 36.00 credits ($0.36)" in line for line in lines) == 1
    [run_folder] = (scheduled.folder / "store" / "runs").iterdir()
    assert sum(f"/flow-run/{shard['id']}" in line for shard in scheduled.shards for line in lines) == 2

    def events() -> list[tuple[str, str]]:
        own = {"event": {"prefix": ["flux.run."]}, "resource": {"labels": {"flux.recipe": scheduled.name}}}
        found = scheduled.ask("/events/filter", filter={**own, "order": "ASC"})["events"]
        return [(event["event"], event["resource"]["prefect.resource.id"]) for event in found]

    wait_until(lambda: len(events()) >= 2, pause=0.2)
    resource = f"flux.run.{run_folder.name}"
    assert events() == [("flux.run.started", resource), ("flux.run.ended", resource)], "of the run, and of no shard"


def lines_of(scheduled: Scheduled) -> list[str]:
    return [str(line["message"]) for line in scheduled.of_run("/logs/filter", "logs")]


@pytest.fixture(scope="module")
def context(scheduled: Scheduled, browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=f"{scheduled.address}/v2/") as context:
        yield context


@pytest.fixture
def page(tab: Page) -> Page:
    """A page of Prefect's own: as high as all lines of a log, of which it draws only those in sight."""
    tab.set_viewport_size({"width": 1280, "height": 1900})
    tab.emulate_media(reduced_motion="reduce")
    tab.set_default_timeout(1000 * PATIENCE)
    return tab


def show(page: Page, path: str, *texts: str, picture: Path) -> None:
    """Open a page, and wait until it shows these texts; take a picture if it does not."""
    page.goto(path)
    try:
        for text in texts:
            page.get_by_text(text).first.wait_for()
    except Exception:
        page.screenshot(path=picture)
        raise


def test_the_pages_of_the_server_show_the_run_with_its_artifacts(
    scheduled: Scheduled, page: Page, tmp_path: Path
) -> None:
    place, summary = f"runs/flow-run/{scheduled.run['id']}", f"{PICTURES} of {PICTURES} items"
    lines = ["auto-scheduled", "shard 1/2: ", "hen-0: done; deblur: job job-", f": {summary}: 6 done"]
    show(page, f"{place}?tab=Logs", "Completed", *lines, picture=tmp_path / "run.png")
    key, [run_folder] = f"flux-pipelines-{scheduled.name}", (scheduled.folder / "store" / "runs").iterdir()
    cards = [f"Run {run_folder.name}", f"{key}-steps", "Results of each step", f"{key}-progress"]
    show(page, f"{place}?tab=Artifacts", *cards, f"{summary}, 0 not fine", picture=tmp_path / "artifacts.png")
    found = {artifact["type"]: artifact["id"] for artifact in scheduled.of_run("/artifacts/filter", "artifacts")}
    table = f"artifacts/artifact/{found['table']}"
    show(page, table, "from the store", "active jobs", "deblur", "erase", picture=tmp_path / "table.png")
    show(page, f"artifacts/artifact/{found['markdown']}", "36.00 credits ($0.36)", picture=tmp_path / "summary.png")


def test_the_form_for_a_run_has_a_described_field_for_each_parameter_and_none_that_nobody_fills_in(
    scheduled: Scheduled, page: Page, tmp_path: Path
) -> None:
    told = ["pixels", "The most to spend in credits", "Who makes the jobs: bfl", "Work on the items in so many parts"]
    place = f"deployments/deployment/{scheduled.deployment['id']}/run"
    show(page, place, "Take the first so many", *told, "Where these parts run", picture=tmp_path / "form.png")
    assert page.get_by_text("part_of").count() == 0
    values = page.locator("input, textarea").evaluate_all("fields => fields.map(field => field.value)")
    assert {"4", "100", "2", f"{scheduled.folder}/store", scheduled.deployment["parameters"]["on"]} <= {*values}
