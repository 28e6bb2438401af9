"""The options of shards: what is refused before anything is begun, what a plan tells, and one part by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases import Cases
from command_line import Here
from fake_bfl import FakeBfl

from flux_tasks.settings import Settings, with_own_secrets, without_secrets
from pipelines.recipe import Recipe
from pipelines.run.shard import shard_of
from pipelines.shards.engines import choice

REFUSED = [
    (["--on", "dask"], "--on: belongs to --shards"),
    (["--folder", "."], "--folder: belongs to --shards"),
    (["--shards", "2", "--shard", "1/2"], "--shard: is one part by hand, and --shards starts all of them"),
    (["--shards", "1001"], "--shards: 1,001 are too many: write 1,000 or fewer"),
    (
        ["--shards", "2", "--on", "proceses"],
        "--on: 'proceses' is nothing that shards run on (did you mean 'processes'?)",
    ),
    (["--shards", "2", "--on", "spark"], "write one of processes, dask, ray, prefect"),
    (["--shards", "2", "--on", "processes:4"], "processes are of this machine, and have no address"),
    (["--shards", "2", "--on", "prefect"], "prefect needs a work pool: write prefect:POOL"),
    (["--shards", "2", "--folder", "."], "--folder: is for workers elsewhere"),
    (["--shards", "2", "--prefect", "embedded"], "--prefect: embedded is a server for one process"),
    (["--shards", "2", "--alone"], "--shards: several processes use the store, and --alone"),
    (["--shard", "1/2", "--prune"], "--prune: goes with a run over all items only: leave --shard out"),
    (["--shard", "3/2"], "--shard: '3/2' is not a shard: write its number from 1"),
]


def test_options_that_do_not_fit_are_refused_before_a_run(here_cli: Here, folder: Path, cases: Cases) -> None:
    for options, told in REFUSED:
        with cases.case(options):
            done = here_cli("run", str(folder / "recipe.yaml"), "--endpoint", "local", *options)
            assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert not (folder / "store").exists()


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_an_engine_that_is_not_installed_is_named_with_what_to_type(
    here_cli: Here, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    done = here_cli("run", str(folder / "recipe.yaml"), "--endpoint", "local", "--shards", "2", "--on", name)
    assert done.returncode == 2
    assert f"--on: {name} is not installed: pip install 'flux-pipelines[{name}]'" in done.stderr


@pytest.mark.parametrize("name", ["dask:tcp://10.0.0.5:8786", "ray:auto", "prefect:gpu"])
def test_a_recipe_with_relative_paths_does_not_go_to_other_machines(
    here_cli: Here, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (folder / "recipe.yaml").read_text().replace(f"{folder}/", "")
    (folder / "relative.yaml").write_text(text)
    monkeypatch.chdir(folder)
    done = here_cli("run", "relative.yaml", "--endpoint", "eu", "--shards", "2", "--on", name, "--store", "store")
    assert done.returncode == 2
    assert "--store: 'store' is relative to this folder, which a worker may not have" in done.stderr
    assert "relative.yaml:2: source.images: 'photos/*' is relative" in done.stderr


def test_settings_travel_without_key_and_accounts_which_are_the_workers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Settings(key="of-the-run", max_jobs=3, storage_options={"s3://a/": {"profile": "here"}})
    travelling = without_secrets(here)
    assert (travelling.key, travelling.storage_options, travelling.max_jobs) == ("", {}, 3)
    monkeypatch.setenv("BFL_API_KEY", "of-the-worker")
    monkeypatch.setenv("FLUX_MAX_JOBS", "7")
    assert (with_own_secrets(travelling).key, with_own_secrets(travelling).max_jobs) == ("of-the-worker", 3)


def test_a_plan_tells_what_each_shard_holds_and_costs(here_cli: Here, folder: Path) -> None:
    recipe = Recipe.load(folder / "recipe.yaml")
    done = here_cli("plan", str(folder / "recipe.yaml"), "--endpoint", "local", "--shards", "2")
    assert done.returncode == 0, done.stderr
    held = [sum(shard_of(str(folder / "photos" / f"p{n}.png"), 2) == number for n in range(2)) for number in (1, 2)]
    for number, count in zip((1, 2), held, strict=True):
        items = f"{count} {'item' if count == 1 else 'items'}"
        assert f"shard {number}/2: {items}, {f'{2 * count} jobs' if count else 'no job'}" in done.stdout
    assert sum(shard.items for shard in recipe.plan(endpoint="local").shards.values()) == 0


def test_a_part_by_hand_says_what_it_leaves_to_a_run_of_all(here_cli: Here, folder: Path, bfl: FakeBfl) -> None:
    text = (
        (folder / "recipe.yaml")
        .read_text()
        .replace("output: {path:", f"output: {{dataset: '{folder}/set'}}\n# {{path:")
    )
    (folder / "recipe.yaml").write_text(text)
    for number in (1, 2):
        arguments = ["run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--shard", f"{number}/2"]
        done = here_cli(*arguments, key="k")
        assert done.returncode == 0, done.stderr
        assert "needs all items: a shard does not write it" in done.stderr
        assert not (folder / "set").exists()
    done = here_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="k")
    assert "no job was made and nothing was paid" in done.stdout
    assert [one["shard"] for one in json.loads(here_cli("history", "--json").stdout)] == ["1/2", "2/2", ""]
    assert " 1/2 " in here_cli("history").stdout
    assert bfl.jobs == 4
    assert (folder / "set").is_dir()
