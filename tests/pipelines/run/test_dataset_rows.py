"""Rows of a dataset that several versions of a recipe, or several runs at once, write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from recipes import Place, age, perform

from flux_tasks import files
from flux_tasks.errors import RecipeError, StoreUnavailable
from pipelines.data.writers.rows import RowIndex
from pipelines.data.writers.verify import verify
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe
from pipelines.run.datasets import Datasets

FORMATS = ("imagefolder", "parquet", "webdataset")


def recipe(here: Place, kind: str, source: dict[str, Any], **more: Any) -> Recipe:
    output = {"dataset": "FOLDER/out", "format": kind, **more}
    return here.recipe({"source": source, "steps": [{"deblur": {}}], "output": output})


def rows(here: Place) -> list[dict[str, Any]]:
    index = RowIndex(str(here.folder / "out"))
    return [json.loads(line) for part in index.parts for line in index.lines(part)]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cell_that_becomes_what_it_was_is_what_its_row_says_again(here: Place, kind: str) -> None:
    table = here.folder / "t.csv"
    table.write_text("file,caption\np0,a cat\np1,a dog\n")
    age(here.folder)
    made = recipe(here, kind, {"table": "FOLDER/t.csv", "image": "FOLDER/photos/{{ file }}.png"})
    for caption in ("a cat", "a lion", "a cat"):
        table.write_text(f"file,caption\np0,{caption}\np1,a dog\n")
        perform(made, here.settings)
        assert sorted(row["caption"] for row in rows(here)) == sorted([caption, "a dog"])
    assert here.jobs == 2


@pytest.mark.parametrize("kind", FORMATS)
def test_the_rows_of_a_run_that_began_and_ended_while_another_waited_stay(
    here: Place, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Datasets.open

    def wait_for_another(datasets: Datasets, prints: files.Fingerprints) -> None:
        opened(datasets, prints)
        datasets.read()
        monkeypatch.undo()
        perform(recipe(here, kind, {"images": "FOLDER/photos/p1.png"}), here.settings)

    monkeypatch.setattr(Datasets, "open", wait_for_another)
    perform(recipe(here, kind, {"images": "FOLDER/photos/p0.png"}), here.settings)
    assert sorted(row["id"] for row in rows(here)) == ["p0", "p1"]
    assert [finding for finding in verify(str(here.folder / "out")) if finding] == []


@pytest.mark.parametrize("name", ["metadata.jsonl", "p0.png.json"])
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data.replace(b"deblur", b"reblur")])
def test_text_of_an_imagefolder_that_somebody_has_changed_is_written_again(
    here: Place, name: str, damage: Callable[[bytes], bytes]
) -> None:
    age(here.folder)
    made = recipe(here, "imagefolder", {"images": "FOLDER/photos/*.png"}, provenance=True)
    perform(made, here.settings)
    place, jobs = here.folder / "out" / "train" / name, here.jobs
    before = place.read_bytes()
    place.write_bytes(damage(before))
    assert place.read_bytes() != before
    perform(made, here.settings)
    assert (place.read_bytes(), here.jobs) == (before, jobs)
    written = place.stat().st_mtime_ns
    perform(made, here.settings, verify=True)
    assert place.stat().st_mtime_ns == written


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("is_settled", [True, False])
def test_figures_and_card_of_a_dataset_that_somebody_has_changed_are_written_again(
    here: Place, kind: str, is_settled: bool
) -> None:
    age(here.folder)
    made = recipe(here, kind, {"images": "FOLDER/photos/*.png"})
    perform(made, here.settings)
    out, jobs = here.folder / "out", here.jobs
    places = [*out.glob("card/*.jpg"), *out.glob("data/*_stats.json"), out / "README.md"]
    assert len(places) == {"webdataset": 6}.get(kind, 5)
    for place in places:
        for damaged in (place.read_bytes()[:-9], None):
            before = {path: path.read_bytes() for path in places}
            place.unlink()
            if damaged is not None:
                place.write_bytes(damaged)
            if place.name.endswith("_stats.json"):
                assert [finding.location for finding in verify(str(out)) if finding] == [str(place)]
            run, _ = perform(made, here.settings, verify=not is_settled)
            assert run.summary.problem == ""
            assert {path: path.read_bytes() for path in places} == before, place
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    perform(made, here.settings, verify=not is_settled)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written
    assert here.jobs == jobs


def test_a_card_that_somebody_has_made_his_own_stays_and_settles(here: Place) -> None:
    age(here.folder)
    made = recipe(here, "parquet", {"images": "FOLDER/photos/*.png"})
    perform(made, here.settings)
    out = here.folder / "out"
    (out / "README.md").write_text("mine")
    perform(made, here.settings)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    perform(made, here.settings)
    assert (out / "README.md").read_text() == "mine"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("is_settled", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-9],
        lambda data: b"{}\n" + data,
        lambda data: data[: data[:-1].rindex(b"\n") + 1],
        lambda data: data.replace(b'"order": 0', b'"order": "0"'),
    ],
)
def test_a_plan_says_of_damaged_rows_what_the_run_says(
    here: Place, kind: str, is_settled: bool, damage: Callable[[bytes], bytes]
) -> None:
    age(here.folder)
    perform(recipe(here, kind, {"images": "FOLDER/photos/*.png"}), here.settings)
    (here.folder / "out" / ".flux" / "rows" / "notes.txt").write_text("of somebody else")
    (lines,) = here.folder.glob("out/.flux/rows/*.jsonl")
    lines.write_bytes(damage(lines.read_bytes()))
    jobs, made = here.jobs, recipe(here, kind, {"images": "FOLDER/photos/*.png"})
    with pytest.raises(StoreUnavailable, match="is damaged") as told:
        plan(made.compiled, settings=here.settings, verify=not is_settled)
    run, _ = perform(made, here.settings, verify=not is_settled)
    assert str(told.value) in run.summary.problem
    assert str(lines) in str(told.value)
    assert here.jobs == jobs


@pytest.mark.parametrize("damaged", [b"", b"[]", b"5", b"[" * 100_000])
def test_damaged_columns_of_a_dataset_are_told_before_anything_is_spent(here: Place, damaged: bytes) -> None:
    made = recipe(here, "parquet", {"images": "FOLDER/photos/*.png"})
    perform(made, here.settings)
    jobs = here.jobs
    (here.folder / "out" / ".flux" / "dataset.json").write_bytes(damaged)
    for look in (lambda: plan(made.compiled, settings=here.settings), lambda: perform(made, here.settings)):
        with pytest.raises(RecipeError, match=r"dataset\.json is damaged"):
            look()
    with pytest.raises(RecipeError, match=r"dataset\.json is damaged"):
        list(verify(str(here.folder / "out")))
    assert here.jobs == jobs


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"rows": 5}', b'{"rows": {}, "card": 5}', b"[" * 100_000])
def test_a_damaged_marker_of_a_dataset_is_written_again(here: Place, damaged: bytes) -> None:
    age(here.folder)
    made = recipe(here, "webdataset", {"images": "FOLDER/photos/*.png"})
    perform(made, here.settings)
    marker, jobs = here.folder / "out" / "_SUCCESS", here.jobs
    before = marker.read_bytes()
    marker.write_bytes(damaged)
    perform(made, here.settings)
    assert (marker.read_bytes(), here.jobs) == (before, jobs)
