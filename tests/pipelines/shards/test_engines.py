"""Engines: the task that Dask gets, the flow run that a Prefect worker gets; ``make engines`` runs them for real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from command_line import Cli
from fake_bfl import FakeBfl
from in_shards import Threads, alike, perform_in_shards
from recipes import perform
from waiting import PATIENCE, wait_until

from flux_tasks.errors import RunStopped
from flux_tasks.settings import Settings
from pipelines.data.manifest import read_manifest
from pipelines.flows import deployed_recipe
from pipelines.recipe import Recipe
from pipelines.run.context import Event
from pipelines.shards.engines.base import Engine
from pipelines.shards.engines.dask import Dask
from pipelines.shards.task import ShardTask


@pytest.fixture
def settings(folder: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of a worker, whose environment has the key."""
    monkeypatch.setenv("BFL_API_KEY", "of-the-worker")
    monkeypatch.setenv("FLUX_POLL_INTERVAL", "0.005")
    return Settings(endpoint=bfl.url, store=str(folder / "store"), poll_interval=0.005, prefect="off")


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    return Recipe.load(folder / "recipe.yaml")


def as_one_process(recipe: Recipe, settings: Settings, rows: list[dict[str, Any]], folder: Path) -> bool:
    """Whether one process, with a store of its own, has the same manifest."""
    _, alone = perform(recipe, replace(settings, store=str(folder / "alone")))
    return bool(alike(rows, settings.store) == alike(alone, str(folder / "alone")))


async def test_shards_are_tasks_of_a_cluster_of_dask(
    recipe: Recipe, settings: Settings, bfl: FakeBfl, folder: Path
) -> None:
    import dask
    from distributed import LocalCluster

    options: dict[str, Any] = {"n_workers": 2, "processes": False, "dashboard_address": None, "asynchronous": True}
    with dask.config.set({"temporary-directory": str(folder)}):
        async with LocalCluster(**options) as cluster:  # type: ignore[no-untyped-call]
            engine = Dask(cluster.scheduler_address, 2)
            run, rows = await asyncio.to_thread(perform_in_shards, recipe, settings, 2, engine)
    assert engine.is_elsewhere
    assert (run.summary.is_fine, bfl.jobs) == (True, 4)
    assert await asyncio.to_thread(as_one_process, recipe, settings, rows, folder)


def running_in(place: str) -> list[psutil.Process]:
    """Return the processes that name a folder in their command; a dead one that nobody has waited for has none."""
    return [one for one in psutil.process_iter(["cmdline"]) if place in str(one.info["cmdline"])]


def test_shards_are_tasks_of_a_cluster_of_ray_that_ends_with_the_run(
    cli: Cli, recipe: Recipe, settings: Settings, bfl: FakeBfl, folder: Path
) -> None:
    with TemporaryDirectory(prefix="r") as place:  # the paths of its sockets have to be short
        cli.environment["RAY_TMPDIR"] = place
        options = ["--shards", "2", "--on", "ray", "--endpoint", bfl.url, "--no-report"]
        done = cli("run", str(folder / "recipe.yaml"), *options, key="of-the-worker")
        assert (done.returncode, bfl.jobs) == (0, 4), done.stderr
        wait_until(lambda: not running_in(place))
        assert list(Path(place).iterdir()) == []
    [manifest] = (folder / "store" / "runs").glob("*/manifest.jsonl")
    assert as_one_process(recipe, settings, list(read_manifest(str(manifest), in_order=True)), folder)
    assert bfl.jobs == 8


def test_a_killed_run_leaves_nothing_of_its_cluster_of_dask_behind(
    cli: Cli, recipe: Recipe, bfl: FakeBfl, folder: Path
) -> None:
    temporary = folder / "tmp"
    temporary.mkdir()
    cli.environment["TMPDIR"] = str(temporary)
    bfl.hold = True
    options = ["--shards", "2", "--on", "dask", "--endpoint", bfl.url, "--no-report"]
    with cli.start("run", str(folder / "recipe.yaml"), *options, key="k") as killed:
        wait_until(lambda: bfl.jobs, pause=0.1)
        assert list(temporary.iterdir()), "a cluster was there"
        family = psutil.Process(killed.pid).children(recursive=True)
        killed.kill()
    assert not psutil.wait_procs(family, PATIENCE)[1]
    assert list(temporary.iterdir()) == []


def test_a_killed_run_leaves_nothing_of_its_cluster_of_ray_behind_either(
    cli: Cli, recipe: Recipe, bfl: FakeBfl, folder: Path
) -> None:
    with TemporaryDirectory(prefix="r") as place:
        cli.environment["RAY_TMPDIR"] = place
        bfl.hold = True
        options = ["--shards", "2", "--on", "ray", "--endpoint", bfl.url, "--no-report"]
        with cli.start("run", str(folder / "recipe.yaml"), *options, key="k") as killed:
            wait_until(lambda: bfl.jobs, pause=0.1)
            killed.kill()
        wait_until(lambda: not list(Path(place).iterdir()), pause=0.1)
        wait_until(lambda: not running_in(place), pause=0.1)


async def test_a_scheduler_that_does_not_answer_stops_the_run_with_what_to_do(
    recipe: Recipe, settings: Settings, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.shards.engines.dask._PATIENCE", 0.1)
    with pytest.raises(
        RunStopped, match=r"no cluster of Dask answers at tcp://127.0.0.1:9.*Start one with `dask scheduler`"
    ):
        await asyncio.to_thread(perform_in_shards, recipe, settings, 2, Dask("tcp://127.0.0.1:9", 2))
    assert bfl.jobs == 0


class AsFlows(Engine):
    """Calls the flow of a deployment, as a worker does."""

    is_elsewhere = True

    async def run(self, task: ShardTask, on_event: Callable[[Event], None]) -> str:
        options: Any = {"endpoint": task.settings.endpoint, "store": task.settings.store, "return_state": True}
        state = await deployed_recipe(task.recipe, shard=str(task.shard), part_of=task.shard.of, **options)
        return "" if state.is_completed() else str(state.message)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_are_flow_runs_of_a_deployment(recipe: Recipe, settings: Settings, bfl: FakeBfl, folder: Path) -> None:
    run, rows = perform_in_shards(recipe, settings, 2, AsFlows(), limit=1)
    assert (run.summary.is_fine, bfl.jobs, len(rows)) == (True, 2, 1)
    run, rows = perform_in_shards(recipe, settings, 2, AsFlows())
    assert (run.summary.is_fine, bfl.jobs) == (True, 4)
    assert sorted(path.name for path in (folder / "store" / "runs").iterdir())[-1] == run.summary.run_id


def test_a_worker_without_a_key_says_so_and_another_one_gets_its_shard(
    recipe: Recipe, settings: Settings, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.shards.coordinator._PAUSE", 0.01)
    tried: list[int] = []

    class Elsewhere(Threads):
        is_elsewhere = True

        async def run(self, task: ShardTask, on_event: Callable[[Event], None]) -> str:
            tried.append(task.shard.number)
            first = tried.count(task.shard.number) == 1
            chosen = replace(task.settings, endpoint="bfl") if first else task.settings
            if first:
                monkeypatch.delenv("BFL_API_KEY", raising=False)
            else:
                monkeypatch.setenv("BFL_API_KEY", "of-the-worker")
            return await super().run(replace(task, settings=chosen), on_event)

    told: list[str] = []
    run, _ = perform_in_shards(recipe, settings, 1, Elsewhere(), on_event=lambda event: told.append(event.text))
    assert run.summary.is_fine
    assert "no key for BFL: set BFL_API_KEY" in next(text for text in told if "is begun again" in text)
