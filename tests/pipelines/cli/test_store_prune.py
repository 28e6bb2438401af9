"""`store prune`: what the store remembers of settled items is forgotten where no run has used it for long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Here
from recipes import HEAD, OUTPUT, Place, age, perform

from flux_tasks.store.records import Store
from pipelines.recipe import Recipe


@pytest.fixture
def program(here: Place, monkeypatch: pytest.MonkeyPatch) -> Here:
    age(here.folder)
    return Here(here.folder, monkeypatch)


def recipe(here: Place, word: str) -> Recipe:
    steps = f"  - edit: {{prompt: {word}}}"
    return Recipe.parse(f"name: {word}\n{HEAD}{steps}\noutput: {OUTPUT}\n".replace("FOLDER", str(here.folder)))


def last_used(here: Place, name: str, day: str) -> None:
    """Let the index of a recipe be of another day."""
    store = Store(here.settings.store)
    for scope in store.records("settled"):
        record = store.record_or_empty("settled", scope)
        if record["recipe"] == name:
            store.put_record("settled", scope, {**record, "used": day})
            for path in Path(store.location("settled", scope)).iterdir():
                path.rename(path.with_name(day.replace("-", "") + path.name[8:]))


def test_what_no_run_has_used_for_long_is_removed_and_nothing_else(here: Place, program: Here) -> None:
    for word in ("old", "new"):
        perform(recipe(here, word), here.settings)
    last_used(here, "old", "2026-01-31")
    before = {path for path in here.folder.rglob("*") if path.is_file()}
    shown = program("store", "prune", "--store", here.settings.store)
    assert shown.stdout.split("\n")[:3] == [
        "recipe  last used",
        "old     2026-01-31",
        "nothing was removed: write --yes to do it",
    ]
    assert {path for path in here.folder.rglob("*") if path.is_file()} == before
    done = program("store", "prune", "--store", here.settings.store, "--yes")
    assert done.returncode == 0
    gone = before - {path for path in here.folder.rglob("*") if path.is_file()}
    assert gone
    assert {path.relative_to(here.settings.store).parts[0] for path in gone} == {"settled"}
    jobs = here.jobs
    run, _ = perform(recipe(here, "old"), here.settings)
    assert (dict(run.summary.counts), here.jobs) == ({"cached": 2}, jobs)


def test_an_index_that_a_run_has_only_read_lately_is_kept(here: Place, program: Here) -> None:
    perform(recipe(here, "old"), here.settings)
    last_used(here, "old", "2026-01-31")
    perform(recipe(here, "old"), here.settings)
    shown = program("store", "prune", "--store", here.settings.store)
    assert shown.stdout == "nothing to remove: runs of the last 30 days have used all that is remembered\n"


@pytest.mark.parametrize("record", ["", "[]", json.dumps({"used": 7})])
def test_an_index_whose_record_is_damaged_is_as_old_as_its_files(here: Place, program: Here, record: str) -> None:
    perform(recipe(here, "old"), here.settings)
    last_used(here, "old", "2026-01-31")
    (path,) = Path(here.settings.store, "settled").glob("*.json")
    path.write_text(record)
    shown = program("store", "prune", "--store", here.settings.store)
    assert "unknown  " in shown.stdout


def test_a_users_own_files_where_the_store_keeps_its_notes_are_never_removed(here: Place, program: Here) -> None:
    perform(recipe(here, "old"), here.settings)
    last_used(here, "old", "2026-01-31")
    settled = Path(here.settings.store, "settled")
    (scope,) = (path for path in settled.iterdir() if path.is_dir())
    names = ("a.json", "customers-2025/photo.jpg", f"{'a' * 40}/b.jsonl", f"{scope.name}/mine.jsonl", f"{'b' * 41}/c")
    own = [settled / name for name in names]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    done = program("store", "prune", "--store", here.settings.store, "--yes")
    assert done.stdout.endswith("removed: 1\n")
    assert {path for path in settled.rglob("*") if path.is_file()} == set(own)
    assert all(path.read_text() == "mine" for path in own)
