"""A plan of what runs have settled: known from what they noted, and the same as a plan that looks at everything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image
from recipes import HEAD, OUTPUT, Painter, Place, age, perform, place, recipes

from flux_tasks import files
from flux_tasks.images import loading, reference
from pipelines.plan.planner import plan
from pipelines.plan.result import Plan
from pipelines.recipe import Recipe

PICTURES = 3
STEPS = {
    "a chain with a condition": "  - deblur: {}\n  - erase: {mask: '{{ mask }}'}\n    when: mask_exists",
    "free steps": "  - resize: {width: 120}\n  - crop: {aspect_ratio: '1:1'}\n  - deblur: {}",
    "a step that changes nothing": "  - crop: {width: 80, height: 80}\n    when: width == 80\n  - deblur: {}",
    "variants": "  - deblur: {seed: '{{ n }}'}\n    matrix: {n: [1, 2]}",
    "results that are tried again and kept": (
        "  - deblur: {}\n    expect: {condition: 'brightness > 300'}\n"
        "    on_failure: {retry_with: [{seed: 7}], then: keep}"
    ),
    "pixels that are put back": "  - erase: {mask: {boxes: [[4, 4, 30, 30]]}}\n    preserve: {feather: 2}",
}


def recipe(here: Place, steps: str) -> Recipe:
    return Recipe.parse(f"{HEAD}{steps}\noutput: {OUTPUT}\n".replace("FOLDER", str(here.folder)))


def planned(here: Place, made: Recipe, **options: Any) -> Plan:
    return plan(made.compiled, settings=here.settings, **options)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that are read."""
    found: list[str] = []
    read = loading.read_location

    def counted(location: str) -> bytes:
        found.append(Path(location).stem)
        return read(location)

    monkeypatch.setattr(reference, "read_location", counted)
    return found


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_a_settled_plan_opens_no_picture_and_says_what_a_plan_says_that_looks(
    here: Place, looks: list[str], steps: str
) -> None:
    age(here.folder)
    made = recipe(here, steps)
    perform(made, here.settings)
    looks.clear()
    found = planned(here, made)
    assert looks == []
    assert found.to_dict() == planned(here, made, verify=True).to_dict()
    assert (found.items, found.jobs) == (3, 0)
    assert set(looks) >= {"p0", "p1", "p2"}


def test_neither_a_plan_nor_a_run_looks_up_results_of_settled_items(here: Place) -> None:
    age(here.folder)
    made = recipe(here, STEPS["a chain with a condition"])
    perform(made, here.settings)
    seen: list[str] = []
    with files.watching(seen.append):
        planned(here, made)
        perform(made, here.settings)
    assert [place for place in seen if "/runs/" in place]
    assert not [place for place in seen if re.search("/(results|copies|blobs|journal/.|photos|masks|out)/", place)]


@settings(max_examples=18, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=recipes(doubtful=True))
def test_whatever_the_recipe_a_plan_and_a_run_of_settled_items_say_what_those_say_that_look(
    shared_painter: Painter, data: dict[str, Any]
) -> None:
    with place(shared_painter, 3) as here:
        age(here.folder)
        made = here.recipe(data)
        perform(made, here.settings)
        jobs = here.jobs
        assert planned(here, made).to_dict() == planned(here, made, verify=True).to_dict()
        settled, rows = perform(made, here.settings)
        looked_at, others = perform(made, here.settings, verify=True)
        assert without_times(rows) == without_times(others)
        assert settled.summary.counts == looked_at.summary.counts
        assert here.jobs == jobs


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        row["seconds"] = 0
        for step in row["steps"]:
            step.pop("seconds", None)
    return rows


def test_only_what_is_new_or_has_changed_is_planned(here: Place, looks: list[str]) -> None:
    age(here.folder)
    made = recipe(here, STEPS["a chain with a condition"])
    perform(made, here.settings)
    Image.new("RGB", (90, 90), "teal").save(here.folder / "photos" / "new.png")
    Image.new("RGB", (96, 80), "navy").save(here.folder / "photos" / "p1.png")
    looks.clear()
    found = planned(here, made)
    assert set(looks) <= {"new", "p1"}
    run, _ = perform(made, here.settings)
    assert found.jobs == run.summary.jobs == 3


def test_an_output_that_is_gone_is_no_job_in_a_plan(here: Place) -> None:
    age(here.folder)
    made = recipe(here, STEPS["free steps"])
    perform(made, here.settings)
    (here.folder / "out" / "p1.png").unlink()
    assert planned(here, made).jobs == 0


def test_a_plan_writes_nothing_where_items_are_settled(here: Place) -> None:
    age(here.folder)
    made = recipe(here, STEPS["free steps"])
    perform(made, here.settings)
    before = {path: path.stat().st_mtime_ns for path in here.folder.rglob("*")}
    planned(here, made)
    assert {path: path.stat().st_mtime_ns for path in here.folder.rglob("*")} == before
