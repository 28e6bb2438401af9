"""Shards from Python: the same run as by the command line, with what the program has given; and ``retry`` in shards."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from cases import Cases
from command_line import Here
from fake_bfl import FakeBfl
from in_shards import alike
from scripted import Answer

from flux_tasks.errors import RecipeError
from pipelines.data.manifest import read_manifest
from pipelines.recipe import Recipe
from pipelines.run.context import Event, EventKind
from pipelines.steps import call, deblur


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    return Recipe.load(folder / "recipe.yaml")


def given(bfl: FakeBfl, folder: Path, **more: Any) -> dict[str, Any]:
    return {"endpoint": bfl.url, "store": str(folder / "store"), "poll_interval": 0.005, "prefect": "off", **more}


def test_a_run_in_shards_returns_what_a_run_by_one_process_returns_and_its_workers_have_the_key(
    recipe: Recipe, folder: Path
) -> None:
    with FakeBfl(key="of-the-program") as bfl:
        one = recipe.run(**given(bfl, folder, key="of-the-program", store=str(folder / "alone")))
        events: list[Event] = []
        settings = given(bfl, folder, key="of-the-program", on_event=events.append)
        many = recipe.run(shards=2, on="processes", **settings)
        assert bfl.jobs == 8
    own = ("manifest", "run_id")
    assert {name: value for name, value in many.items() if name not in own} == {
        name: value for name, value in one.items() if name not in own
    }
    rows = [list(read_manifest(result["manifest"], in_order=True)) for result in (one, many)]
    assert alike(rows[1], str(folder / "store")) == alike(rows[0], str(folder / "alone"))
    assert sum(event.kind is EventKind.ITEM for event in events) == 2


MINE = """
from pipelines import operation

@operation
def flipped(image):
    return image.transpose(0)
"""


def test_shards_call_functions_that_the_program_finds_and_leave_the_end_of_the_run_to_it(
    folder: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / "of_the_program.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(folder / "lib"))
    from of_the_program import flipped  # type: ignore[import-not-found]

    recipe = Recipe(
        source=f"{folder}/photos/*",
        steps=[deblur(), call(flipped)],
        output=f"{folder}/out/{{{{ stem }}}}.png",
        on_end={"command": [sys.executable, "-c", f"open({str(folder / 'told')!r}, 'a').write('once')"]},
    )
    done = recipe.run(shards=2, **given(bfl, folder, key="k"))
    assert (done["counts"], bfl.jobs) == ({"done": 2}, 2)
    assert (folder / "told").read_text() == "once"
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["p0.png", "p1.png"]


REFUSED = [
    ({"shards": 0}, "shards: 0 is not a whole number above 0"),
    ({"shards": True}, "shards: True is not a whole number above 0"),
    ({"shards": "4"}, "shards: '4' is not a whole number above 0"),
    ({"shards": 1001}, "shards: 1,001 are too many: write 1,000 or fewer"),
    ({"on": "dask"}, "on: belongs to shards: add that, or leave it out"),
    ({"shards": 2, "on": 7}, "on: 7 is not a text"),
    ({"shards": 2, "on": "spark"}, "on: 'spark' is nothing that shards run on: write one of processes, dask"),
    ({"shards": 2, "on": "prefect"}, "on: prefect needs a work pool"),
    ({"shards": 2, "folder": Path()}, "folder: is for workers elsewhere: leave it out, or name them with on"),
    ({"shards": 2, "shard": "1/2"}, "shard: is one part by hand, and shards starts all of them"),
    ({"shard": "3/2"}, "shard: '3/2' is not a shard: write its number from 1"),
    ({"shards": 2, "prefect": "embedded"}, "prefect: embedded is a server for one process"),
    ({"shards": 2, "alone": True}, "shards: several processes use the store, and alone (FLUX_ALONE) says"),
    ({"shards": 2, "on": "dask"}, "key: does not travel to workers: leave it out, and set BFL_API_KEY here"),
    ({"shards": 2, "on": "dask", "store": "here"}, "key: does not travel"),
    ({"shards": 2, "on": "ray:auto", "store": "here"}, "store: 'here' is relative to this folder"),
]


def test_what_cannot_be_is_refused_before_anything_is_begun_in_the_words_of_python(
    recipe: Recipe, folder: Path, bfl: FakeBfl, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for options, told in REFUSED:
        with cases.case(options):
            with pytest.raises(RecipeError) as refused:
                recipe.run(**{**given(bfl, folder, key="k"), **options})
            assert told in str(refused.value)
            assert "--" not in str(refused.value)
    assert bfl.jobs == 0
    assert not [*folder.glob("store"), *folder.glob("here")]


def test_a_function_of_the_program_itself_is_refused_with_what_to_do(
    folder: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flipped(image: Any) -> Any:
        return image

    flipped.__module__, flipped.__qualname__ = "__main__", "flipped"
    monkeypatch.setattr(sys.modules["__main__"], "flipped", flipped, raising=False)
    recipe = Recipe(source=f"{folder}/photos/*", steps=[call(flipped)], output=f"{folder}/out/{{{{ stem }}}}.png")
    with pytest.raises(RecipeError, match=r"steps: __main__:flipped is written in the program itself.*a module of its"):
        recipe.run(shards=2, **given(bfl, folder, key="k"))


async def test_a_run_that_is_cancelled_ends_its_processes_and_the_next_one_pays_for_nothing_twice(
    recipe: Recipe, folder: Path, bfl: FakeBfl
) -> None:
    bfl.hold = True
    running = asyncio.ensure_future(recipe.arun(shards=2, **given(bfl, folder, key="k")))
    while bfl.jobs < 2:
        assert not running.done(), running.result()
        await asyncio.sleep(0.01)
    children = [one for one in psutil.Process().children() if "shards.child" in "".join(one.cmdline())]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        await asyncio.sleep(0.01)
    [run] = (folder / "store" / "runs").iterdir()
    assert not (run / "division.json").exists(), "workers elsewhere would go on"
    bfl.hold = False
    done = await recipe.arun(shards=2, **given(bfl, folder, key="k"))
    assert (done["counts"], bfl.jobs) == ({"done": 2}, 4)


def test_a_part_by_hand_is_run_from_python(recipe: Recipe, folder: Path, bfl: FakeBfl) -> None:
    parts = [recipe.run(shard=f"{number}/2", **given(bfl, folder, key="k")) for number in (1, 2)]
    assert sum(part["counts"].get("done", 0) for part in parts) == 2
    assert (sum(part["jobs"] for part in parts), bfl.jobs) == (4, 4)


def test_retry_tries_the_failed_items_of_a_run_in_shards_in_shards_again(
    here_cli: Here, folder: Path, bfl: FakeBfl
) -> None:
    own = ["--endpoint", bfl.url, "--no-report", "--shards", "2"]
    refusal = {"id": "x", "status": "Content Moderated", "details": {"Moderation Reasons": ["Violence"]}}
    bfl.on("GET /v1/get_result", Answer(200, refusal))
    assert here_cli("run", str(folder / "recipe.yaml"), *own, key="k").returncode == 1
    del bfl._scripts["GET /v1/get_result"]
    (folder / "photos" / "p9.png").write_bytes((folder / "photos" / "p0.png").read_bytes())
    assert "no item ended failed" in here_cli("retry", "last", *own, key="k").stdout
    done = here_cli("retry", "last", "--only", "moderated", "--seed", "5", *own, key="k")
    assert done.returncode == 0, done.stderr
    assert "runs 2 items again" in done.stdout
    assert "2 of 2 items" in done.stdout, "the new photo is no item of that run"
    assert [body.get("seed") for body in bfl.bodies] == [None, None, 5, 5, 5, 5]
    place = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("manifest:"))
    assert [(row["index"], row["outcome"]) for row in read_manifest(place, in_order=True)] == [(0, "done"), (1, "done")]
    assert not list((folder / "store").glob("runs/*/division.json"))
    assert json.loads((folder / "store" / "runs" / Path(place).parent.name / "state.json").read_text())


def test_retry_refuses_options_of_shards_that_do_not_fit_as_run_does(here_cli: Here, folder: Path) -> None:
    done = here_cli("retry", "last", "--on", "dask")
    assert (done.returncode, "--on: belongs to --shards" in done.stderr) == (2, True), done.stderr
