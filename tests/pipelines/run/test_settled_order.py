"""New items among settled ones: their jobs come first, and which of two results has a place does not change."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recipes import HEAD, OUTPUT, Place, age, perform

from flux_tasks import background
from flux_tasks.errors import RecipeError
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe
from pipelines.run.context import Event, EventKind
from pipelines.run.run import Run

PICTURES = 6
STEPS = "  - deblur: {}\n  - edit: {prompt: x}"


def recipe(here: Place, output: str = OUTPUT) -> Recipe:
    return Recipe.parse(f"{HEAD}{STEPS}\noutput: {output}\n".replace("FOLDER", str(here.folder)))


def add(here: Place, name: str) -> None:
    Image.new("RGB", (80, 80 + len(name)), "teal").save(here.folder / "photos" / f"{name}.png")


@pytest.fixture
def settled(here: Place) -> Place:
    """A place whose six items are settled."""
    age(here.folder)
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


# -- a source that is edited while the run works ----------------------------------------------------------------------

TABLE = """
source: {table: 'FOLDER/*.csv', image: 'FOLDER/photos/{{ photo }}.png'}
steps: [deblur]
output: 'FOLDER/out/{{ photo }}-{{ tag }}.png'
"""
OLD, NEW = ["p0,1", "p1,1"], [f"p{n},1" for n in range(2, 6)]  # more new rows than are in work at a time


def write_rows(here: Place, *rows: str, name: str = "t", header: str = "photo,tag") -> None:
    new = here.folder / f"{name}.new"
    new.write_text("\n".join([header, *rows]) + "\n")
    new.replace(here.folder / f"{name}.csv")


@pytest.fixture
def table(here: Place) -> Place:
    """A table of six rows, of which the first two are settled."""
    write_rows(here, *OLD)
    age(here.folder, "*.*")
    perform(table_recipe(here), here.settings)
    write_rows(here, *OLD, *NEW)
    return here


def table_recipe(here: Place) -> Recipe:
    return Recipe.parse(TABLE.replace("FOLDER", str(here.folder)))


def run_and(here: Place, edit: Callable[[Place], object]) -> tuple[list[tuple[int, str, str]], list[str], str]:
    """Edit the source when the first job begins; return the rows of the manifest, warnings, and why the run stopped."""
    told: list[str] = []
    edits = [edit]

    def note(event: Event) -> None:
        if event.kind is EventKind.BEGIN and edits:
            edits.pop()(here)
        if event.kind is EventKind.WARNING:
            told.append(event.text)

    run, rows = perform(table_recipe(here), replace(here.settings, max_jobs=1), on_event=note)
    return [(row["index"], row["item"], str(row["outcome"])) for row in rows], told, str(run.stopped or "")


def rewrite_in_place(here: Place) -> None:
    (here.folder / "t.csv").write_text("\n".join(["photo,tag", "x,1", *OLD, *NEW, ""]))


EDITS: list[Callable[[Place], object]] = [
    lambda here: write_rows(here, "p0,1", "p1,2", *NEW),
    lambda here: write_rows(here, "x,1", *OLD, *NEW),
    lambda here: write_rows(here, *reversed(OLD), *NEW),
    lambda here: write_rows(here, "p1,1"),
    lambda here: write_rows(here, "1,p0", header="tag,photo"),
    lambda here: (here.folder / "t.csv").rename(here.folder / "gone"),
    rewrite_in_place,
]
WHOLE = [(0, "p0", "cached"), (1, "p1", "cached"), *((n, f"p{n}", "done") for n in range(2, 6))]


@pytest.mark.parametrize("edit", EDITS)
def test_each_row_is_worked_on_once_as_it_was_whatever_becomes_of_the_table(
    table: Place, edit: Callable[[Place], object]
) -> None:
    assert run_and(table, edit) == (WHOLE, [], "")
    assert table.jobs == len(WHOLE)


def test_a_settled_item_whose_result_goes_meanwhile_is_worked_on(table: Place) -> None:
    rows, _, _ = run_and(table, lambda here: (here.folder / "out" / "p1-1.png").unlink())
    assert rows == WHOLE
    assert (table.folder / "out" / "p1-1.png").is_file()


def damage(here: Place) -> None:
    (here.folder / "u.csv").write_bytes(b"\xff\xff")


def test_what_a_source_has_had_is_worked_on_when_it_cannot_be_read_any_further(table: Place) -> None:
    write_rows(table, *OLD, *NEW[:3])
    write_rows(table, "p5,1", name="u")
    rows, _, stopped = run_and(table, damage)
    assert {row[:2] for row in rows} == {(index, f"p{index}") for index in range(5)}
    assert rows[:2] == WHOLE[:2]
    assert "u.csv is not UTF-8 text" in stopped
    write_rows(table, "p5,1", name="u")
    assert run_and(table, lambda _: None)[0][-1] == (5, "p5", "done")


def test_settled_items_before_a_broken_table_are_in_the_manifest(table: Place) -> None:
    write_rows(table, *OLD)
    write_rows(table, "p4,1", name="u")
    manifest = table.folder / "manifest.jsonl"
    with Run(table_recipe(table).compiled, table.settings, manifest=str(manifest)) as run:
        damage(table)
        with pytest.raises(RecipeError, match=r"u.csv is not UTF-8 text"):
            background.run(run.answer_from_store())
    assert len(manifest.read_text().splitlines()) == 2


@pytest.mark.parametrize("rows", [["p0,1"], [*OLD, "p0,1"]])
def test_a_source_that_has_changed_since_its_items_were_counted_is_told(table: Place, rows: list[str]) -> None:
    told: list[str] = []
    write_rows(table, *OLD)
    with Run(table_recipe(table).compiled, table.settings, on_event=lambda event: told.append(event.text)) as run:
        write_rows(table, *rows)
        assert background.run(run.answer_from_store())
    assert f"the source was changed meanwhile: 2 items were counted, {len(rows)} were read" in "".join(told)


@pytest.mark.parametrize("kept", [0, 1])
def test_without_room_for_temporary_files_each_item_is_worked_on_once(
    table: Place, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    class Full:
        """A file on a disk that is full after ``kept`` writes."""

        def __init__(self, **options: Any) -> None:
            self._file, self._room = made(**options), kept if options else 1_000

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __iter__(self) -> Any:
            return iter(self._file)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: bytes) -> int:
            self._room -= 1
            if self._room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self._file.write(data))

    made = tempfile.TemporaryFile
    monkeypatch.setattr("pipelines.run.backlog.tempfile.TemporaryFile", Full)
    assert run_and(table, lambda _: None) == (WHOLE, [], "")


def test_rows_that_are_large_are_worked_on_once(here: Place) -> None:
    write_rows(here, *(f"{row},{'x' * 40_000}" for row in OLD), header="photo,tag,words")
    for path in here.folder.rglob("*.*"):
        os.utime(path, (time.time() - 60,) * 2)
    perform(table_recipe(here), here.settings)
    write_rows(here, *(f"{row},{'x' * 40_000}" for row in (*OLD, *NEW)), header="photo,tag,words")
    assert run_and(here, EDITS[0])[0] == WHOLE


def test_an_item_that_waits_for_a_slot_is_no_active_job(here: Place) -> None:
    active, seen = 0, []

    def note(event: Event) -> None:
        nonlocal active
        active += {EventKind.ACTIVE: 1, EventKind.END: -1}.get(event.kind, 0)
        seen.append(active)

    perform(recipe(here), replace(here.settings, max_jobs=1), on_event=note)
    assert (max(seen), active) == (1, 0)
