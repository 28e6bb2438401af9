"""No job is paid for whose result only leads to a step that is certain to fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from recipes import Painter, Place, perform, place

from pipelines.plan.planner import plan

DEBLUR = {"deblur": {}}
FAILING = {
    "a mask file that is not there": {"erase": {"mask": "FOLDER/gone.png"}},
    "a mask of another shape": {"erase": {"mask": "FOLDER/wide.png"}},
    "a photo as a mask": {"erase": {"mask": "FOLDER/photo.png"}},
    "a blank prompt": {"edit": {"model": "flux-2-pro", "prompt": "{{ stem[9:] }}"}},
    "a size that is no number": {"edit": {"model": "flux-2-pro", "prompt": "x", "width": "{{ stem }}px"}},
}


@pytest.fixture
def here(painter: Painter) -> Iterator[Place]:
    with place(painter, pictures=1) as found:
        Image.new("L", (160, 20), 255).save(found.folder / "wide.png")
        Image.effect_noise((80, 80), 90).save(found.folder / "photo.png")
        yield found


def work(here: Place, *steps: dict[str, Any], output: Any = "FOLDER/out/{{ stem }}.png") -> dict[str, Any]:
    """Plan and run; the one row. A plan says as many jobs as a run makes."""
    data = {"source": "FOLDER/photos/*", "steps": list(steps), "output": output}
    recipe = here.recipe(data)
    planned = plan(recipe.compiled, settings=here.settings)
    [row] = perform(recipe, here.settings)[1]
    assert planned.jobs == here.jobs, planned
    assert bool(planned.problems) == (row["error"] is not None)
    return row


@pytest.mark.parametrize("step", FAILING.values(), ids=FAILING)
def test_what_is_certain_to_fail_later_is_found_before_the_first_job(here: Place, step: dict[str, Any]) -> None:
    row = work(here, DEBLUR, step, {"outpaint": {"aspect_ratio": "16:9"}})
    assert (row["outcome"], here.jobs) == ("invalid", 0)
    assert row["error"]["step"] == next(iter(step))


def test_a_job_whose_result_is_saved_is_made(here: Place) -> None:
    row = work(here, {**DEBLUR, "save": "FOLDER/sharp/{{ stem }}.png"}, FAILING["a photo as a mask"])
    assert (row["outcome"], here.jobs) == ("invalid", 1)
    assert (here.folder / "sharp" / "p0.png").exists()


def test_a_branch_that_ends_well_is_made_beside_one_that_does_not(here: Place) -> None:
    row = work(
        here,
        {**DEBLUR, "id": "sharp"},
        {**FAILING["a photo as a mask"], "from": "sharp", "id": "clean"},
        {"outpaint": {"aspect_ratio": "16:9"}, "from": "sharp", "id": "wide"},
        output=[
            {"path": "FOLDER/out/{{ stem }}-clean.png", "from": "clean"},
            {"path": "FOLDER/out/{{ stem }}-wide.png", "from": "wide"},
        ],
    )
    assert (row["outcome"], row["error"]["step"], here.jobs) == ("invalid", "clean", 2)
    assert (here.folder / "out" / "p0-wide.png").exists()


def test_a_reference_for_a_step_that_cannot_be_made_is_not_made_either(here: Place) -> None:
    row = work(
        here,
        {"generate": {"model": "flux-2-pro", "prompt": "sky"}, "id": "sky"},
        {**FAILING["a photo as a mask"], "from": "source", "id": "clean"},
        {"edit": {"model": "flux-2-pro", "prompt": "both", "references": [{"step": "sky"}]}, "from": "clean"},
    )
    assert (row["outcome"], row["error"]["step"], here.jobs) == ("invalid", "clean", 0)


def test_a_job_that_is_paid_for_is_collected_though_it_leads_to_nothing_else(here: Place) -> None:
    data = {"source": "FOLDER/photos/*", "steps": [DEBLUR, {"erase": {"mask": "FOLDER/masks/{{ stem }}.png"}}]}
    recipe = here.recipe({**data, "output": "FOLDER/out/{{ stem }}.png"})
    here.bfl.hold = True
    [row] = perform(recipe, replace(here.settings, deadline=0.01))[1]
    assert (row["error"]["kind"], here.jobs) == ("StillRunning", 1)
    here.bfl.hold = False
    shutil.copy(here.folder / "photo.png", here.folder / "masks" / "p0.png")
    assert plan(recipe.compiled, settings=here.settings).jobs == 0
    [row] = perform(recipe, here.settings)[1]
    assert ([step["outcome"] for step in row["steps"]], row["error"]["step"]) == (["done"], "erase")
    [row] = perform(recipe, here.settings)[1]
    assert ([step["outcome"] for step in row["steps"]], here.jobs) == (["cached"], 1)


def test_a_step_that_may_be_skipped_fails_only_when_its_turn_comes(here: Place) -> None:
    step = {**FAILING["a photo as a mask"], "when": "sharpness > 1e9"}
    data = {"source": "FOLDER/photos/*", "steps": [DEBLUR, step], "output": "FOLDER/out/{{ stem }}.png"}
    [row] = perform(here.recipe(data), here.settings)[1]
    assert (row["outcome"], here.jobs) == ("done", 1)
