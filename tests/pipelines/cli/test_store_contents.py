"""`store stats`, `ls`, `cat`, `verify` and `gc`: what a store holds, whether it is whole, and what nobody needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Here
from pictures import encoded, noise
from recipes import HEAD, OUTPUT, Place, perform

from flux_tasks.store.records import Store
from pipelines.recipe import Recipe


@pytest.fixture
def recipe(here: Place) -> Recipe:
    text = f"name: stored\n{HEAD}  - edit: {{prompt: hens}}\noutput: {OUTPUT}\n"
    return Recipe.parse(text.replace("FOLDER", str(here.folder)))


@pytest.fixture
def program(here: Place, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Here:
    perform(recipe, here.settings)
    made = Here(here.folder, monkeypatch)
    monkeypatch.setenv("FLUX_STORE", here.settings.store)
    monkeypatch.setenv("FLUX_ENDPOINT", here.settings.endpoint)
    monkeypatch.setenv("BFL_API_KEY", "k")
    return made


def files_of(here: Place) -> dict[str, bytes]:
    return {str(p.relative_to(here.folder)): p.read_bytes() for p in here.folder.rglob("*") if p.is_file()}


def blobs_of(here: Place) -> list[Path]:
    return sorted(Path(here.settings.store, "blobs").rglob("*.png"))


def grow_old(here: Place) -> None:
    long_ago = time.time() - 100 * 86_400
    for path in blobs_of(here):
        os.utime(path, (long_ago, long_ago))


def test_stats_count_files_results_and_credits(here: Place, program: Here) -> None:
    said = json.loads(program("store", "stats", "--json").stdout)
    assert said["store"] == here.settings.store
    assert said["kinds"]["results"]["files"] == said["kinds"]["copies"]["files"] == 2
    assert said["kinds"]["blobs"] == {"files": 2, "bytes": sum(path.stat().st_size for path in blobs_of(here))}
    [(tool, counted)] = said["tools"].items()
    assert counted == {"results": 2, "credits": here.bfl.spent}
    shown = program("store", "stats").stdout
    assert tool in shown
    assert "pictures, as they were delivered" in shown


def test_a_new_store_holds_nothing_and_nothing_is_wrong_with_it(here: Place, program: Here) -> None:
    place = str(here.folder / "elsewhere")
    for command in ("stats", "ls", "verify", "gc"):
        done = program("store", command, "--store", place)
        assert (done.returncode, "no store at" in done.stderr) == (0, True)
    assert not Path(place).exists()


def test_results_are_listed_and_one_is_written_byte_for_byte(here: Place, program: Here) -> None:
    listed = json.loads(program("store", "ls", "--json").stdout)
    assert len(listed) == 2
    lines = program("store", "ls").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [record["key"][:12] for record in listed]
    assert program("store", "ls", "--tool", "no-such").stdout == "no result of no-such is stored\n"
    for record in listed:
        target = here.folder / "taken.png"
        assert program("store", "cat", record["key"][:16], "-o", str(target)).returncode == 0
        assert hashlib.sha256(target.read_bytes()).hexdigest() == record["image"]["digest"]
    environment = {**os.environ, "FLUX_STORE": here.settings.store}
    command = [sys.executable, "-m", "pipelines.cli", "store", "cat", listed[0]["image"]["digest"][:16]]
    piped = subprocess.run(command, capture_output=True, env=environment)
    assert hashlib.sha256(piped.stdout).hexdigest() == listed[0]["image"]["digest"], piped.stderr


@pytest.mark.parametrize(("key", "what"), [("zz", "no result has such a key or digest"), ("", "2 results begin with")])
def test_a_key_that_names_none_or_several_is_refused(program: Here, key: str, what: str) -> None:
    done = program("store", "cat", key, "-o", "never.png")
    assert (done.returncode, what in done.stderr) == (2, True)
    assert not Path("never.png").exists()


def test_damage_is_said_and_without_yes_nothing_is_changed(here: Place, program: Here) -> None:
    assert program("store", "verify").returncode == 0
    blob, record = blobs_of(here)[0], next(Path(here.settings.store, "results").iterdir())
    blob.write_bytes(blob.read_bytes()[:-9])
    record.write_bytes(record.read_bytes()[:40])
    before = files_of(here)
    done = program("store", "verify")
    assert done.returncode == 1
    assert f"blobs/{blob.parent.name}/{blob.name} is damaged" in done.stdout
    assert f"results/{record.name}" in done.stdout
    assert files_of(here) == before


def test_a_picture_is_repaired_from_the_output_that_has_it_and_a_record_from_its_copy(
    here: Place, program: Here, recipe: Recipe
) -> None:
    before = {path: path.read_bytes() for path in (*blobs_of(here), *Path(here.settings.store, "results").iterdir())}
    for path, data in before.items():
        path.write_bytes(data[: len(data) // 2])
    done = program("store", "verify", "--yes")
    assert (done.returncode, "repaired: 4; left: 0" in done.stdout) == (0, True), done.stdout
    assert "taken from " in done.stdout
    assert {path: path.read_bytes() for path in before} == before
    jobs = here.jobs
    run, _ = perform(recipe, here.settings)
    assert (run.summary.is_fine, here.jobs) == (True, jobs)


def test_a_picture_that_is_nowhere_else_is_asked_of_the_service_which_costs_nothing(here: Place, program: Here) -> None:
    before = {path: path.read_bytes() for path in blobs_of(here)}
    for path in (*before, *(here.folder / "out").iterdir()):
        path.unlink()
    spent = here.bfl.spent
    done = program("store", "verify", "--yes")
    assert (done.returncode, done.stdout.count("collected once more")) == (0, 2), done.stdout
    assert {path: path.read_bytes() for path in before} == before
    assert here.bfl.spent == spent


def test_a_picture_that_nobody_has_any_more_is_said_to_be_left(here: Place, program: Here) -> None:
    for path in (*blobs_of(here), *(here.folder / "out").iterdir()):
        path.unlink()
    here.bfl.known.clear()
    done = program("store", "verify", "--yes")
    assert (done.returncode, "repaired: 0; left: 2" in done.stdout) == (1, True)
    assert "store held" in done.stderr


def test_what_records_and_manifests_name_is_never_removed(here: Place, program: Here) -> None:
    grow_old(here)
    before = files_of(here)
    assert program("store", "gc", "--yes").stdout.startswith("nothing to remove: all 2 pictures are named")
    for kind in ("results", "copies"):
        for path in Path(here.settings.store, kind).iterdir():
            path.unlink()
    assert "nothing to remove" in program("store", "gc", "--yes").stdout, "the manifest names them"
    kept = {name: data for name, data in before.items() if "results/" not in name and "copies/" not in name}
    assert files_of(here) == kept


def test_an_old_picture_that_nothing_names_is_removed_when_yes_is_said(here: Place, program: Here) -> None:
    orphan = Path(Store(here.settings.store).put_image(encoded(noise((8, 8)))).uri)
    assert "nothing to remove" in program("store", "gc", "--yes").stdout, "it is young"
    grow_old(here)
    shown = program("store", "gc")
    assert "1 of 3 pictures" in shown.stdout
    assert "write --yes" in shown.stdout
    assert orphan.exists()
    assert "removed: 1" in program("store", "gc", "--yes").stdout
    assert not orphan.exists()
    assert program("store", "verify").returncode == 0
