"""Inputs that a run has read are known by their fingerprints: a changed recipe does not read them again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image
from recipes import HEAD, OUTPUT, Place, age, perform

from flux_tasks.images import loading, reference
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

PICTURES = 3
STEPS = "  - deblur: {}\n  - erase: {mask: '{{ mask }}'}\n    when: mask_exists\n  - edit: {prompt: WORD}"


def recipe(here: Place, word: str) -> Recipe:
    return Recipe.parse(f"{HEAD}{STEPS}\noutput: {OUTPUT}\n".replace("FOLDER", str(here.folder)).replace("WORD", word))


@pytest.fixture
def settled(here: Place) -> Place:
    """A place whose items are settled, with the word x."""
    age(here.folder)
    perform(recipe(here, "x"), here.settings)
    return here


@pytest.fixture
def inputs(settled: Place, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The photos and masks that are read."""
    found: list[str] = []
    read = loading.read_location

    def counted(location: str) -> bytes:
        if Path(location).parent.name in ("photos", "masks"):
            found.append("/".join(Path(location).parts[-2:]))
        return read(location)

    monkeypatch.setattr(reference, "read_location", counted)
    return found


def test_a_changed_recipe_reads_no_input_again_in_a_plan_and_in_a_run(settled: Place, inputs: list[str]) -> None:
    jobs = settled.jobs
    assert plan(recipe(settled, "y").compiled, settings=settled.settings).jobs == 3
    run, _ = perform(recipe(settled, "y"), settled.settings)
    assert run.summary.jobs == settled.jobs - jobs == 3
    assert [name for name in inputs if name.startswith("photos")] == []


def test_an_input_that_has_changed_is_read_again(settled: Place, inputs: list[str]) -> None:
    Image.new("RGB", (96, 80), "navy").save(settled.folder / "photos" / "p1.png")
    found = plan(recipe(settled, "y").compiled, settings=settled.settings)
    assert {name for name in inputs if name.startswith("photos")} == {"photos/p1.png"}
    run, rows = perform(recipe(settled, "y"), settled.settings)
    assert run.summary.jobs == found.jobs
    assert rows[1]["input"]["digest"] != rows[0]["input"]["digest"]


@pytest.mark.parametrize("damage", [b"", b"\x00" * 300, b"{}\n"])
def test_damaged_notes_of_inputs_are_as_good_as_none(settled: Place, inputs: list[str], damage: bytes) -> None:
    (notes,) = Path(settled.settings.store).glob("inputs/*.jsonl")
    notes.write_bytes(damage)
    run, _ = perform(recipe(settled, "y"), settled.settings)
    assert run.summary.jobs == 3
    assert {name for name in inputs if name.startswith("photos")} == {f"photos/p{number}.png" for number in range(3)}


def test_verifying_reads_every_input(settled: Place, inputs: list[str]) -> None:
    plan(recipe(settled, "y").compiled, settings=settled.settings, verify=True)
    assert {name for name in inputs if name.startswith("photos")} == {f"photos/p{number}.png" for number in range(3)}


def test_the_facts_of_an_input_that_is_not_read_are_those_of_its_file(settled: Place, inputs: list[str]) -> None:
    steps = "  - deblur: {seed: 3}\n    when: has_alpha\n  - edit: {prompt: y}\n    when: width == 80"
    made = Recipe.parse(f"{HEAD}{steps}\noutput: {OUTPUT}\n".replace("FOLDER", str(settled.folder)))
    found = plan(made.compiled, settings=settled.settings)
    assert inputs == []
    assert found.to_dict() == plan(made.compiled, settings=settled.settings, verify=True).to_dict()


def test_a_users_own_tables_in_a_folder_of_the_stores_name_are_never_removed(here: Place) -> None:
    folder = Path(here.settings.store, "inputs")
    folder.mkdir(parents=True)
    names = [f"shard-{number}.jsonl" for number in range(9)] + ["20261129-105452-517d69e.jsonl.jsonl", "2026.jsonl"]
    for name in names:
        (folder / name).write_text('{"photo": "p0"}\n')
    for _ in range(2):
        perform(recipe(here, "x"), here.settings)
    assert {name: (folder / name).read_text() for name in names} == dict.fromkeys(names, '{"photo": "p0"}\n')


@pytest.mark.parametrize("folder", ["inputs", "results", "copies", "facts", "timings", "runs", "blobs/ab", "settled"])
def test_a_file_of_the_user_is_seen_in_whatever_folder_of_the_store_it_is(here: Place, folder: str) -> None:
    place = Path(here.settings.store, folder)
    place.mkdir(parents=True)
    steps = f"  - deblur: {{}}\n    when: go_exists\noutput: {OUTPUT}\n".replace("FOLDER", str(here.folder))
    source = f"source: {{images: '{here.folder}/photos/*.png', columns: {{go: '{place}/{{{{ stem }}}}.go.json'}}}}"
    made = Recipe.parse(f"{source}\nsteps:\n{steps}")
    for path in here.folder.rglob("*.png"):
        os.utime(path, (time.time() - 60, time.time() - 60))
    time.sleep(0.03)
    for _ in range(2):
        run, _ = perform(made, here.settings)
        assert dict(run.summary.counts) == {"skipped": PICTURES}
    (place / "p1.go.json").write_text("x")
    run, rows = perform(made, here.settings)
    assert [row["outcome"] for row in rows] == ["skipped", "done", "skipped"]
