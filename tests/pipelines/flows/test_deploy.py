"""``serve`` and ``deploy``: what is registered on a Prefect server, what is refused before that, and how it ends."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from command_line import Cli, Here
from fake_bfl import FakeBfl
from forked import Forked
from prefect.cli._utilities import load_json_key_values
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import load_flow_from_entrypoint
from servers import unused_port
from waiting import PATIENCE, children, wait_until

from flux_tasks.local import LocalServer
from flux_tasks.store.owner import is_process_alive
from pipelines.flows import deployed_recipe
from pipelines.flows.deployed import read_recipe
from pipelines.recipe import Recipe

pytestmark = [
    pytest.mark.early,
    pytest.mark.usefixtures("prefect_server"),
    # Prefect's own client leaves its connections to the server to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def name(folder: Path) -> str:
    """What the recipe and its deployment are called."""
    found = f"clean-{uuid.uuid4().hex[:8]}"
    recipe = folder / "recipe.yaml"
    text = recipe.read_text().replace("name: clean", f"name: {found}\nvars: {{pixels: 12, style: oak}}")
    recipe.write_text(text.replace("dilate_pixels: 12", "dilate_pixels: '{{ pixels }}'"))
    return found


@pytest.fixture
def relative(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recipe with relative paths, in the current folder."""
    text = (folder / "recipe.yaml").read_text().replace(f"{folder}/", "")
    (folder / "relative.yaml").write_text(text)
    monkeypatch.chdir(folder)
    return "relative.yaml"


async def pool(kind: str = "process") -> str:
    made = f"pool-{uuid.uuid4().hex[:8]}"
    async with get_client() as client:
        await client.request("POST", "/work_pools/", json={"name": made, "type": kind})
    return made


async def deployment(name: str) -> DeploymentResponse:
    async with get_client() as client:
        return await client.read_deployment_by_name(f"run-recipe/{name}")


async def runs_of(found: DeploymentResponse) -> list[FlowRun]:
    async with get_client() as client:
        only = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        return await client.read_flow_runs(deployment_filter=only)


async def test_a_recipe_is_deployed_with_its_text_its_variables_as_fields_and_its_schedule(
    here_cli: Here, folder: Path, name: str
) -> None:
    where = await pool()
    recipe = str(folder / "recipe.yaml")
    options = ["--pool", where, "--endpoint", "eu", "--budget", "50", "--set", "pixels=3", "--shards", "2"]
    nowhere = await asyncio.to_thread(here_cli, "deploy", recipe, *options, "--on", "prefect:nowhere-at-all")
    assert "--on: there is no work pool 'nowhere-at-all'; there is" in nowhere.stderr
    for schedule in (["--interval", "2h"], ["--cron", "0 3 * * *", "--timezone", "Europe/Berlin"]):
        done = await asyncio.to_thread(here_cli, "deploy", recipe, *options, *schedule)
        assert done.returncode == 0, done.stderr
    assert f"deployed run-recipe/{name} to {where}: '0 3 * * *', Europe/Berlin; http" in done.stdout
    found = await deployment(name)
    (schedule_now,) = found.schedules  # that of the last time, in place of the first
    assert (schedule_now.schedule.cron, schedule_now.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")  # type: ignore[union-attr]
    assert (found.work_pool_name, found.pull_steps or [], found.path) == (where, [], None)
    assert load_flow_from_entrypoint(str(found.entrypoint)) is deployed_recipe
    parameters = found.parameters
    assert (parameters["endpoint"], parameters["budget"], parameters["shards"]) == ("eu", 50, 2)
    assert parameters["variables"] == {"pixels": 3, "style": "oak"}
    again = read_recipe(parameters["recipe"], parameters["variables"])
    assert again.digest == Recipe.load(recipe, {"pixels": "3"}).digest
    fields = found.parameter_openapi_schema["properties"]  # type: ignore[index]
    assert {n: (f["type"], f["default"]) for n, f in fields["variables"]["properties"].items()} == {
        "pixels": ("number", 3),
        "style": ("string", "oak"),
    }
    async with get_client() as client:
        with pytest.raises(PrefectHTTPStatusError, match="409"):
            await client.create_flow_run_from_deployment(found.id, parameters={"variables": {"pixel": 3}})
        given = load_json_key_values(_documented("variables="), "parameter")
        run = await client.create_flow_run_from_deployment(found.id, parameters=given)
        assert run.parameters == {**parameters, "variables": {"pixels": 5, "style": "oak"}}


def _documented(what: str) -> list[str]:
    """The parameters of the example in the documentation that gives ``what``, as a shell passes them."""
    lines = (Path(__file__).parents[3] / "docs" / "deploy.md").read_text().splitlines()
    (example,) = (line for line in lines if line.startswith("$ prefect deployment run") and what in line)
    words = shlex.split(example)
    return [word for option, word in pairwise(words) if option == "--param"]


async def test_a_prefect_yaml_has_a_recipe_that_prefect_does_not_fill_in(
    here_cli: Here, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.cli.deploy._core import _run_single_deploy
    from rich.console import Console

    where = await pool()
    arguments = ["deploy", str(folder / "recipe.yaml"), "--pool", where, "--interval", "900", "--yaml"]
    done = await asyncio.to_thread(here_cli, *arguments)
    assert done.returncode == 0, done.stderr
    (entry,) = yaml.safe_load(done.stdout)["deployments"]
    assert entry["pull"] == []
    with pytest.raises(ObjectNotFound):
        await deployment(name)
    monkeypatch.chdir(folder)
    console = Console(quiet=True)
    await _run_single_deploy(entry, {}, console=console, is_interactive=lambda: False)
    found = await deployment(name)
    assert found.entrypoint == "pipelines.shards.deployed.deployed_recipe"
    assert found.schedules[0].schedule.interval.total_seconds() == 900  # type: ignore[union-attr]
    again = read_recipe(found.parameters["recipe"], found.parameters["variables"])
    assert again.digest == Recipe.load(str(folder / "recipe.yaml")).digest


async def test_relative_paths_are_refused_unless_they_have_a_folder_on_the_workers(
    here_cli: Here, folder: Path, name: str, relative: str
) -> None:
    where = await pool()
    refused = await asyncio.to_thread(here_cli, "deploy", relative, "--pool", where, "--store", "out/store")
    assert refused.returncode == 2
    for line in (
        "--store: 'out/store' is relative to this folder, which a worker may not have: write an absolute path or a URL",
        "relative.yaml:3: source.images: 'photos/*' is relative",
        "relative.yaml:3: source.columns.mask: 'masks/{{ stem }}.png' is relative",
        "relative.yaml:7: output: 'out/{{ stem }}.png' is relative",
    ):
        assert line in refused.stderr, refused.stderr
    with pytest.raises(ObjectNotFound):
        await deployment(name)
    done = await asyncio.to_thread(here_cli, "deploy", relative, "--pool", where, "--folder", ".")
    assert done.returncode == 0, done.stderr
    assert (await deployment(name)).job_variables == {"working_dir": str(folder)}
    elsewhere = await pool("docker")
    refused = await asyncio.to_thread(here_cli, "deploy", relative, "--pool", elsewhere, "--folder", ".")
    assert refused.returncode == 2
    assert "--folder: belongs to a work pool of the type process" in refused.stderr


def test_a_function_beside_a_recipe_is_refused_where_it_does_not_travel(
    here_cli: Here, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"ops_{uuid.uuid4().hex[:8]}"
    (folder / f"{module}.py").write_text("def same(image):\n    return image\n")
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("  - deblur: {}\n", f"  - deblur: {{}}\n  - call: {module}:same\n"))
    monkeypatch.chdir(folder)
    refused = here_cli("deploy", "recipe.yaml", "--pool", "p")
    assert refused.returncode == 2
    assert f"{module}:same is in this folder, which a worker does not have" in refused.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cron", "61 * * * *"], "--cron: '61 * * * *' is no schedule: write five fields such as '0 3 * * *'"),
        (["--cron", "0 3 * * * *"], "--cron: '0 3 * * * *' is no schedule"),
        (["--cron", "H * * * *"], "--cron: 'H * * * *' is no schedule"),
        (["--rrule", "FREQ=NEVER"], "--rrule: 'FREQ=NEVER' is no schedule: write a rule of RFC 5545"),
        (["--interval", "soon"], "'soon' is not a duration such as 900, 15m, 2h or 1d"),
        (["--interval", "0"], "'0' is not a duration"),
        (["--interval", "-5"], "'-5' is not a duration"),
        (["--interval", "99999999999d"], "'99999999999d' is not a duration"),
        (["--cron", "0 0 31 2 *"], "--cron: '0 0 31 2 *' names no time to come: write five fields"),
        (["--rrule", "FREQ=DAILY;COUNT=0"], "--rrule: 'FREQ=DAILY;COUNT=0' names no time to come"),
        (["--rrule", "FREQ=DAILY;COUNT=3"], "without DTSTART its COUNT begins on 2020-01-01; write a DTSTART"),
        (["--rrule", "FREQ=DAILY;UNTIL=20200101"], "'FREQ=DAILY;UNTIL=20200101' names no time to come"),
        (
            ["--rrule", "FREQ=DAILY;UNTIL=20990101T000000Z"],
            "is not read by Prefect: write UNTIL without Z, or a DTSTART",
        ),
        (["--rrule", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"], "names no time to come"),
        (["--rrule", "FREQ=DAILY;INTERVAL=0"], "is no schedule, as its INTERVAL is 0"),
        (
            ["--cron", "0 3 * * *", "--cron", "-"],
            "--cron: is given 2 times for 1 recipes: once for all, or once for each",
        ),
        (["--cron", "0 3 * * *", "--interval", "1h"], "--interval: cannot be used together with --cron"),
        (["--cron", "0 3 * * *", "--timezone", "Mars/Base"], "--timezone: 'Mars/Base' is not known"),
        (["--cron", "0 3 * * *", "--timezone", "localtime"], "--timezone: 'localtime' is not known"),
        (["--timezone", "UTC"], "--timezone: belongs to a schedule"),
        (["--endpoint", "locl"], "'locl' is not an endpoint (did you mean 'local'?)"),
        (["--name", "a/b"], "--name: 'a/b' holds one of / % & < >"),
        (["--name", "a", "--name", "b"], "--name: is given 2 times for 1 recipes: once for each"),
        (["--set", "colour=red"], "there is no variable 'colour' to be set"),
        (["--on", "dask"], "--on: belongs to --shards: add that, or leave it out"),
        (["--shards", "2", "--on", "dusk"], "--on: 'dusk' is nothing that shards run on (did you mean 'dask'?)"),
        (["--pool", "nowhere-at-all"], "--pool: there is no work pool 'nowhere-at-all'"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_registered(
    options: list[str], told: str, here_cli: Here, folder: Path, name: str
) -> None:
    refused = await asyncio.to_thread(here_cli, "deploy", str(folder / "recipe.yaml"), "--pool", "p", *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert told in refused.stderr
    with pytest.raises(ObjectNotFound):
        await deployment(name)


def test_what_is_wrong_with_the_schedule_and_with_each_recipe_is_said_at_once(
    here_cli: Here, folder: Path, relative: str
) -> None:
    for wrong in ("a.yaml", "b.yaml"):
        text = (folder / relative).read_text().replace("  - deblur: {}", f"  - deblurr_{wrong[0]}: {{}}")
        (folder / wrong).write_text(text)
    options = ["--cron", "0 0 30 2 *", "--timezone", "Mars/Base", "--endpoint", "locl"]
    refused = here_cli("deploy", "a.yaml", "b.yaml", relative, "--pool", "p", *options)
    assert refused.returncode == 2
    told = ("--cron: ", "--timezone: ", "endpoint: ", "deblurr_a", "deblurr_b", "relative.yaml:3: source.images: ")
    assert [word for word in told if word not in refused.stderr] == []


async def test_each_recipe_has_its_own_schedule_where_each_is_given_one(
    here_cli: Here, folder: Path, name: str
) -> None:
    names = [f"{name}-{n}" for n in range(3)]
    options = [f"--name={one}" for one in names]
    options += [
        "--cron",
        "0 3 * * *",
        "--cron",
        "-",
        "--cron=-",
        "--interval",
        "-",
        "--interval",
        "2h",
        "--interval",
        "-",
    ]
    recipes = [str(folder / "recipe.yaml")] * 3
    done = await asyncio.to_thread(here_cli, "deploy", *recipes, "--pool", await pool(), *options)
    assert done.returncode == 0, done.stderr
    kinds = [[type(one.schedule).__name__ for one in (await deployment(each)).schedules] for each in names]
    assert kinds == [["CronSchedule"], ["IntervalSchedule"], []]


def test_two_recipes_of_one_name_are_refused(here_cli: Here, folder: Path, name: str) -> None:
    both = [str(folder / "recipe.yaml")] * 2
    refused = here_cli("serve", *both, "--endpoint", "local")
    assert refused.returncode == 2
    assert f"--name: two recipes are called the same ({name}, {name}): give each its own" in refused.stderr


@pytest.mark.parametrize(
    ("api", "told"),
    [
        ("", "no Prefect server is configured: start one with `prefect server start`, and set PREFECT_API_URL"),
        ("http://127.0.0.1:1/api", "no Prefect server answers at http://127.0.0.1:1/api: start it with"),
    ],
)
def test_without_a_server_a_recipe_is_not_served(api: str, told: str, folder: Path, name: str) -> None:
    cli = Cli(folder, api)
    done = cli("serve", str(folder / "recipe.yaml"), "--cron", "0 3 * * *", "--endpoint", "local")
    assert done.returncode == 3
    assert told in done.stderr


def test_a_key_that_is_nowhere_is_missed_before_a_recipe_is_served(here_cli: Here, folder: Path) -> None:
    done = here_cli("serve", str(folder / "recipe.yaml"), "--cron", "0 3 * * *")
    assert done.returncode == 3
    assert "no key for BFL: there is no Prefect Secret block 'bfl-api-key'" in done.stderr


async def test_ctrl_c_ends_serve_and_its_runs_without_a_word_of_prefect_also_one_that_begins_to_start(
    prefect_cli: Cli, bfl: FakeBfl, relative: str, folder: Path, name: str
) -> None:
    bfl.hold = True
    prefect_cli.environment |= {"FLUX_ENDPOINT": bfl.url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with prefect_cli.start("serve", relative, "--cron", "0 3 * * *", "--limit", "1", key="k") as served:
        assert served.stdout is not None
        assert "serving run-recipe/" in await asyncio.to_thread(served.stdout.readline)
        async with get_client() as client:
            await client.create_flow_run_from_deployment((await deployment(name)).id)
        while bfl.jobs < 1:
            assert served.poll() is None, served.stderr and served.stderr.read()
            await asyncio.sleep(0.05)
        async with get_client() as client:
            await client.create_flow_run_from_deployment((await deployment(name)).id)
        await asyncio.to_thread(wait_until, lambda: len(children(served.pid)) == 2, pause=0.05)
        os.killpg(served.pid, signal.SIGINT)  # as a terminal does
        out, err = await asyncio.to_thread(served.communicate, timeout=PATIENCE)
    assert served.returncode == 0
    assert not any(word in err for word in ("Traceback", "unhandled", "TerminationSignal", "ERROR")), err
    assert f"{name}: broken off" in out
    found = await deployment(name)
    assert found.paused
    states = [run.state for run in await runs_of(found) if run.state is not None and not run.state.is_scheduled()]
    assert all(state.is_cancelled() or state.is_crashed() for state in states), states
    assert sum(state.is_crashed() for state in states) <= 1, "the one that was about to start, which has done nothing"
    bfl.hold = False
    charged = bfl.jobs
    done = await asyncio.to_thread(prefect_cli, "run", relative, "--limit", "1", "--prefect", "off", key="k")
    assert done.returncode == 0, done.stderr
    assert (charged, bfl.jobs) == (1, 2), "the job that was in work was collected, and only the other one paid"


async def test_serve_takes_the_callbacks_of_its_runs_and_has_a_line_for_each_that_ended(
    prefect_cli: Cli, relative: str, folder: Path, name: str
) -> None:
    prefect_cli.environment |= {"FLUX_POLLING": "off", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    port = unused_port()
    called = ["--webhook-url", f"http://127.0.0.1:{port}/x", "--webhook-listen", str(port)]
    with (
        LocalServer(latency=0.05) as server,
        prefect_cli.start("serve", relative, "--endpoint", server.url, *called, key="k") as served,
    ):
        assert served.stdout is not None
        assert "serving run-recipe/" in await asyncio.to_thread(served.stdout.readline)
        async with get_client() as client:
            await client.create_flow_run_from_deployment((await deployment(name)).id)
        while not (line := await asyncio.to_thread(served.stdout.readline)).startswith(f"{name}: "):
            assert line, served.stderr and served.stderr.read()
        served.send_signal(signal.SIGTERM)
        _, err = await asyncio.to_thread(served.communicate, timeout=PATIENCE)
        requests = httpx.get(f"{server.url}/local", trust_env=False).json()["requests"]
    assert line.startswith(f"{name}: fine after "), line
    [run] = (folder / "store" / "runs").iterdir()
    for told in ("2 of 2 items: 2 done; 4 jobs made here", f"; report: {run}/report.html"):
        assert told in line
    assert requests["submit"] == requests["poll"] == 4, "each job is polled once, when it is called back"
    assert served.returncode == 0
    assert not any(word in err for word in ("Traceback", "ERROR")), err


async def test_a_served_run_ends_soon_when_serve_is_killed_and_the_next_one_collects_its_job(
    prefect_cli: Cli, bfl: FakeBfl, relative: str, folder: Path, name: str
) -> None:
    bfl.hold = True
    temporary = folder / "tmp"
    temporary.mkdir()
    prefect_cli.environment |= {
        "FLUX_ENDPOINT": bfl.url,
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "TMPDIR": str(temporary),
    }
    with prefect_cli.start("serve", relative, "--limit", "1", key="k") as served:
        assert served.stdout is not None
        assert "serving run-recipe/" in await asyncio.to_thread(served.stdout.readline)
        async with get_client() as client:
            await client.create_flow_run_from_deployment((await deployment(name)).id)
        await asyncio.to_thread(wait_until, lambda: bfl.jobs)
        [run] = children(served.pid)
        served.kill()
        await asyncio.to_thread(wait_until, lambda: not is_process_alive(run))
    assert list(temporary.iterdir()) == []
    bfl.hold = False
    done = await asyncio.to_thread(prefect_cli, "run", relative, "--limit", "1", "--prefect", "off", key="k")
    assert (done.returncode, bfl.jobs) == (0, 2), done.stderr


OVERLAPPING = """
import sys
from prefect import flow
from flux_tasks.store.owner import is_process_alive
from pipelines.flows import deployed_recipe
import asyncio
state = asyncio.run(deployed_recipe(sys.argv[1], return_state=True))
print(state.name, state.message or "")
"""


async def test_runs_of_one_recipe_that_overlap_pay_nothing_twice_and_leave_one_clean_result(
    prefect_cli: Cli, bfl: FakeBfl, folder: Path, name: str
) -> None:
    bfl.hold = True
    environment = prefect_cli.environment | {"FLUX_ENDPOINT": bfl.url, "BFL_API_KEY": "k"}
    command = [sys.executable, "-c", OVERLAPPING, str(folder / "recipe.yaml")]
    both: list[Any] = [Forked(command, env=environment, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    runs = folder / "store" / "runs"
    while bfl.jobs < 2 or len(list(runs.iterdir())) < 2:
        await asyncio.sleep(0.02)
    bfl.hold = False
    for one in both:
        out, err = await asyncio.to_thread(one.communicate, timeout=PATIENCE)
        assert out.startswith("Completed"), out + err
    assert bfl.jobs == 4
    assert sorted(file.name for file in (folder / "out").iterdir()) == ["p0.png", "p1.png"]
