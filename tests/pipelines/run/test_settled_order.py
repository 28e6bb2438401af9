"""New items among settled ones: their jobs come first, and which of two results has a place does not change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recipes import HEAD, OUTPUT, Place, perform

from pipelines.plan.planner import plan
from pipelines.recipe import Recipe
from pipelines.run.context import Event, EventKind

PICTURES = 6
STEPS = "  - deblur: {}\n  - edit: {prompt: x}"


def recipe(here: Place, output: str = OUTPUT) -> Recipe:
    return Recipe.parse(f"{HEAD}{STEPS}\noutput: {output}\n".replace("FOLDER", str(here.folder)))


def add(here: Place, name: str) -> None:
    Image.new("RGB", (80, 80 + len(name)), "teal").save(here.folder / "photos" / f"{name}.png")


@pytest.fixture
def settled(here: Place) -> Place:
    """A place whose six items are settled."""
    before = time.time() - 60
    for path in here.folder.rglob("*.png"):
        os.utime(path, (before, before))
    time.sleep(0.03)
    perform(recipe(here), here.settings)
    return here


def events(here: Place, made: Recipe, **options: Any) -> list[tuple[str, str]]:
    """What a run tells, in its order: its jobs and its items."""
    found: list[tuple[str, str]] = []

    def note(event: Event) -> None:
        if event.kind in (EventKind.BEGIN, EventKind.ITEM):
            found.append((str(event.kind), event.item))

    perform(made, here.settings, on_event=note, **options)
    return found


@pytest.mark.parametrize("names", [["zebra"], ["p3_and", "zebra"], ["aardvark", "zebra"]])
def test_the_first_job_of_each_new_item_begins_before_a_settled_item_ends(settled: Place, names: list[str]) -> None:
    for name in names:
        add(settled, name)
    before = settled.jobs
    told = events(settled, recipe(settled))
    first = told.index(("item", "p0"))
    assert {("begin", name) for name in names} <= set(told[:first])
    assert settled.jobs - before == 2 * len(names)


def test_a_run_of_settled_and_new_items_has_each_item_once(settled: Place) -> None:
    add(settled, "p3_and")
    run, rows = perform(recipe(settled), settled.settings)
    assert [row["item"] for row in rows] == ["p0", "p1", "p2", "p3", "p3_and", "p4", "p5"]
    assert [row["index"] for row in rows] == [*range(7)]
    assert run.summary.items == run.summary.total == 7


def test_a_limited_run_takes_the_first_items_though_later_ones_are_new(settled: Place) -> None:
    add(settled, "zebra")
    _, rows = perform(recipe(settled), settled.settings, limit=3)
    assert [row["item"] for row in rows] == ["p0", "p1", "p2"]


def test_a_new_item_does_not_take_the_place_of_a_settled_one(settled: Place) -> None:
    (settled.folder / "photos" / "p5.png").rename(settled.folder / "photos" / "a.png")
    made = recipe(settled, "'FOLDER/out/{{ stem | first }}.png'")
    perform(made, settled.settings)
    whole = (settled.folder / "out" / "p.png").read_bytes()
    add(settled, "pz")
    jobs = settled.jobs
    assert plan(made.compiled, settings=settled.settings).jobs == 0
    _, rows = perform(made, settled.settings)
    assert {row["item"]: row["outcome"] for row in rows} | {"p0": "cached", "pz": "invalid"} == {
        row["item"]: row["outcome"] for row in rows
    }
    assert settled.jobs == jobs
    assert (settled.folder / "out" / "p.png").read_bytes() == whole


def replaced(here: Place) -> None:
    """Another picture under the name of a settled item."""
    Image.new("RGB", (99, 80), "navy").save(here.folder / "photos" / "p2.png")


def linked(here: Place) -> None:
    """A link to another picture in the place of one."""
    Image.new("RGB", (99, 80), "navy").save(here.folder / "elsewhere.png")
    (here.folder / "photos" / "p2.png").unlink()
    (here.folder / "photos" / "p2.png").symlink_to(here.folder / "elsewhere.png")


@pytest.mark.parametrize("change", [replaced, linked])
def test_of_a_changed_photo_only_its_own_jobs_are_made(settled: Place, change: Callable[[Place], None]) -> None:
    change(settled)
    jobs = settled.jobs
    found = plan(recipe(settled).compiled, settings=settled.settings)
    told = events(settled, recipe(settled))
    assert {item for kind, item in told if kind == "begin"} == {"p2"}
    assert settled.jobs - jobs == found.jobs == 2


def test_a_changed_recipe_makes_the_jobs_that_the_change_reaches(settled: Place) -> None:
    jobs = settled.jobs
    text = f"{HEAD}{STEPS.replace('prompt: x', 'prompt: y')}\noutput: {OUTPUT}\n".replace("FOLDER", str(settled.folder))
    run, _ = perform(Recipe.parse(text), settled.settings)
    assert settled.jobs - jobs == 6  # of the second step; the first is answered by the store
    assert run.summary.cached == 6


def test_a_store_that_has_moved_is_looked_at(settled: Place, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    Path(settled.settings.store).rename(moved)
    run, rows = perform(recipe(settled), replace(settled.settings, store=str(moved)))
    assert run.summary.jobs == 0
    assert all(str(step["image"]["uri"]).startswith(str(moved)) for row in rows for step in row["steps"])
