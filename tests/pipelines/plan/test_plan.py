"""The plan: what a run would do and cost, told without spending and without writing."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image
from recipes import HEAD, OUTPUT, Painter, Place, perform
from scripted import Answer
from waiting import wait_until

from flux_tasks import background, catalog
from flux_tasks.errors import EndpointUnreachable, RecipeError
from flux_tasks.jobs import job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store
from pipelines.plan.planner import plan
from pipelines.plan.result import Plan, StepPlan, table
from pipelines.recipe import Recipe
from pipelines.run.run import Run

PICTURES = 3
TWO_STEPS = "  - deblur: {}\n  - erase: {mask: '{{ mask }}'}\n    when: mask_exists"


def recipe(here: Place, steps: str, more: str = "", output: str = OUTPUT) -> Recipe:
    return Recipe.parse(f"{HEAD}{steps}\noutput: {output}\n{more}".replace("FOLDER", str(here.folder)))


def planned(here: Place, steps: str, more: str = "", **options: Any) -> Plan:
    return plan(recipe(here, steps, more).compiled, settings=here.settings, **options)


def step(found: Plan, name: str) -> StepPlan:
    return next(step for step in found.steps if step.id == name)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what it counts ---------------------------------------------------------------------------------------------------


def test_jobs_are_counted_by_step_with_what_they_cost(here: Place) -> None:
    found = planned(here, TWO_STEPS)
    assert (found.items, found.jobs, found.unpriced) == (3, 5, 3)
    assert (step(found, "deblur").paid.jobs, step(found, "deblur").paid.unpriced) == (3, 3)
    assert (step(found, "erase").paid.jobs, step(found, "erase").paid.credits) == (2, pytest.approx(6.8))
    assert step(found, "erase").skipped == 1
    assert found.credits == pytest.approx(6.8)


def test_what_the_store_has_is_not_counted_and_what_is_new_is(here: Place) -> None:
    perform(recipe(here, TWO_STEPS), here.settings, limit=2)
    found = planned(here, TWO_STEPS)
    assert (found.jobs, step(found, "deblur").cached, step(found, "erase").cached) == (1, 2, 2)


def test_a_limit_bounds_the_items_that_are_planned(here: Place) -> None:
    assert (planned(here, TWO_STEPS, limit=1).items, planned(here, TWO_STEPS, limit=1).jobs) == (1, 2)


def test_equal_pictures_share_a_job(here: Place) -> None:
    for number in range(3):
        Image.new("RGB", (80, 80), "teal").save(here.folder / "photos" / f"p{number}.png")
    found = planned(here, "  - deblur: {}\n  - edit: {prompt: x}")
    assert found.jobs == 2
    assert [(step.paid.jobs, step.shared) for step in found.steps] == [(1, 2), (1, 2)]
    perform(recipe(here, "  - deblur: {}\n  - edit: {prompt: x}"), here.settings)
    assert here.jobs == 2


def test_a_mask_without_white_costs_nothing_also_if_the_picture_is_not_made_yet(here: Place) -> None:
    Image.new("L", (80, 80)).save(here.folder / "masks" / "p0.png")
    steps = "  - deblur: {}\n  - erase: {mask: '{{ mask }}'}\n    when: mask_exists"
    found = planned(here, steps)
    assert (step(found, "erase").paid.jobs, step(found, "erase").unchanged) == (1, 1)
    steps = (
        "  - deblur: {}\n  - mask_from_boxes: {boxes: [[1, 1, 9, 9]]}\n  - mask_dilate: {pixels: -20}\n"
        "  - erase: {mask: {step: mask_dilate}}"
    )
    found = planned(here, steps)
    assert (found.jobs, step(found, "erase").unchanged, found.total("undecided").jobs) == (3, 3, 0)


def test_a_mask_of_colours_that_are_not_painted_yet_leaves_the_job_undecided(here: Place) -> None:
    steps = "  - deblur: {}\n  - mask_from_color: {color: teal}\n  - erase: {mask: {step: mask_from_color}}"
    found = planned(here, steps)
    assert (found.jobs, found.total("undecided").jobs) == (3, 3)


def test_a_mask_that_does_not_fit_a_picture_of_known_size_is_told_and_not_counted(here: Place) -> None:
    Image.new("L", (10, 10), 255).save(here.folder / "masks" / "p1.png")
    found = planned(here, TWO_STEPS)
    assert (found.jobs, found.problems) == (3, 1)  # p1 is not sharpened either
    assert "p1: erase: " in found.invalid[0]
    assert "the mask is 10×10 px but the image is 96×80 px" in found.invalid[0]


def test_two_items_with_one_result_are_told_and_the_second_is_not_counted(here: Place) -> None:
    found = plan(
        recipe(here, "  - deblur: {}", output="'FOLDER/out/{{ stem[:1] }}.png'").compiled, settings=here.settings
    )
    assert (found.jobs, found.problems) == (1, 2)
    assert "is also another result's" in found.invalid[0]


def test_a_picture_that_is_none_blocks_its_own_item_alone(here: Place) -> None:
    (here.folder / "photos" / "p1.png").write_bytes(b"hello")
    found = planned(here, TWO_STEPS)
    assert (found.items, found.jobs, found.problems) == (3, 3, 1)


# -- what it tells apart ----------------------------------------------------------------------------------------------


def test_conditions_on_sizes_are_decided_beforehand_and_those_on_what_is_painted_are_not(here: Place) -> None:
    steps = (
        "  - deblur: {}\n  - resize: {width: 64, height: 64, fit: stretch}\n"
        "  - edit: {prompt: x}\n    id: small\n    when: width > 64\n"
        "  - edit: {prompt: y}\n    id: dull\n    when: brightness < 90"
    )
    found = planned(here, steps)
    assert step(found, "small").skipped == 3
    assert (step(found, "dull").paid.jobs, step(found, "dull").undecided.jobs) == (0, 3)
    assert (found.jobs, found.total("undecided").credits) == (3, pytest.approx(step(found, "dull").undecided.credits))
    perform(recipe(here, steps), here.settings)
    assert planned(here, steps).total("undecided").jobs == 0


def test_further_tries_are_told_apart(here: Place) -> None:
    steps = "  - deblur: {seed: 1}\n    expect: {solid: false}\n    on_failure: {retry_with: [{seed: 2}, {seed: 3}]}"
    found = planned(here, steps)
    assert (found.jobs, found.total("retries").jobs) == (3, 6)
    perform(recipe(here, steps), here.settings)
    again = planned(here, steps)
    assert (again.jobs, again.total("retries").jobs) == (0, 0)


def test_a_result_in_the_store_that_is_not_as_expected_is_planned_with_its_further_try(here: Place) -> None:
    perform(recipe(here, "  - deblur: {seed: 1}"), here.settings)
    steps = "  - deblur: {seed: 1}\n    expect: {min_side: 4000}\n    on_failure: {retry_with: {seed: 2}, then: keep}"
    assert planned(here, steps).jobs == 3
    before = here.jobs
    perform(recipe(here, steps), here.settings)
    assert here.jobs - before == 3


def interrupted(here: Place, painter: Painter) -> None:
    """A run that ends by itself while its first three jobs are under way."""

    async def cut_short() -> None:
        async def call_tool(task: str, arguments: dict[str, Any]) -> JobResult:
            call = prepare(catalog.tool(task), arguments)
            return await background.arun(job.execute(call, here.settings))

        with Run(recipe(here, TWO_STEPS).compiled, here.settings) as run:
            assert not await run.answer_from_store()
            work = asyncio.create_task(run.run_remaining(call_tool))
            journal = Journal(Store(here.settings.store))
            await asyncio.to_thread(
                wait_until, lambda: sum(entry.phase == "submitted" for entry in journal.entries()) == 3
            )
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    painter.hold = True
    try:
        asyncio.run(cut_short())
    finally:
        painter.hold = False


def test_jobs_that_an_interrupted_run_left_are_collected_not_paid_for(here: Place, painter: Painter) -> None:
    interrupted(here, painter)
    found = planned(here, TWO_STEPS)
    assert (found.jobs, found.collected, here.jobs) == (2, 3, 3)
    run, _ = perform(recipe(here, TWO_STEPS), here.settings)
    assert (here.jobs, run.summary.jobs + run.summary.collected) == (5, 5)


def test_jobs_that_may_have_been_charged_are_held_not_paid_for(here: Place, painter: Painter) -> None:
    painter.submit_answer = Answer(200, cut=0)
    try:
        perform(recipe(here, TWO_STEPS), here.settings)
    finally:
        painter.submit_answer = None
    found = planned(here, TWO_STEPS)
    assert (step(found, "deblur").held, step(found, "deblur").paid.jobs) == (3, 0)
    paid = here.jobs
    run, _ = perform(recipe(here, TWO_STEPS), here.settings)
    assert (run.summary.jobs, here.jobs, dict(run.summary.counts)) == (0, paid, {"held": 3})


def test_what_comes_after_a_held_job_is_no_job_of_a_plan(here: Place, painter: Painter) -> None:
    steps = "  - deblur: {}\n  - edit: {model: flux-2-pro, prompt: x}"
    shutil.copy(here.folder / "photos" / "p0.png", here.folder / "photos" / "twin.png")  # has the same job
    painter.submit_answer = Answer(200, cut=0)
    try:
        perform(recipe(here, steps), here.settings)
    finally:
        painter.submit_answer = None
    found, paid = planned(here, steps), here.jobs
    run, _ = perform(recipe(here, steps), here.settings)
    assert (found.jobs, step(found, "edit").blocked) == (0, 4)
    assert (here.jobs - paid, dict(run.summary.counts)) == (0, {"held": 4})


@pytest.mark.parametrize("policy", ["hold", "resubmit"])
@pytest.mark.parametrize("decision", ["", "drop", "resubmit"])
def test_plan_budget_and_run_agree_on_jobs_that_may_have_been_charged(
    here: Place, painter: Painter, policy: Literal["hold", "resubmit"], decision: Literal["", "drop", "resubmit"]
) -> None:
    edit = recipe(here, "  - edit: {model: flux-2-pro, prompt: x}")
    painter.submit_answer = Answer(200, cut=0)
    try:
        perform(edit, here.settings)
    finally:
        painter.submit_answer = None
    journal = Journal(Store(here.settings.store))
    for entry in journal.entries():
        journal.put(replace(entry, decision=decision))
    settings = replace(here.settings, on_uncertain=policy)
    found = plan(edit.compiled, settings=settings)
    run, _ = perform(edit, settings, budget=found.credits)
    assert run.stopped is None, "the budget has room for what the plan has counted, so nothing else was reserved"
    assert (run.summary.jobs, run.summary.counts["held"]) == (found.jobs, step(found, "edit").held)
    is_paid = decision == "resubmit" or (policy == "resubmit" and not decision)
    assert (found.jobs, step(found, "edit").held) == ((3, 0) if is_paid else (0, 3))


def test_what_moderation_refused_is_not_planned_again(here: Place, painter: Painter) -> None:
    refusal = Answer(200, {"id": "x", "status": "Request Moderated", "details": {"Moderation Reasons": ["Nudity"]}})
    plain, painter._poll = painter._poll, lambda job_id: refusal  # type: ignore[method-assign]
    try:
        perform(recipe(here, TWO_STEPS), here.settings)
    finally:
        painter._poll = plain  # type: ignore[method-assign]
    found = planned(here, TWO_STEPS)
    assert (found.jobs, step(found, "deblur").moderated, step(found, "erase").blocked) == (0, 3, 3)


# -- what it does not do ----------------------------------------------------------------------------------------------


def test_it_writes_nothing_and_sends_no_job(here: Place, painter: Painter) -> None:
    steps = (
        "  - auto_orient: {}\n  - resize: {max_side: 90}\n  - deblur: {}\n    when: sharpness < 5000\n"
        "  - erase: {mask: {boxes: [[1, 1, 9, 9]]}}\n    preserve: true\n    save: 'FOLDER/c/{{ stem }}.png'"
    )
    before = files_in(here.folder)
    assert planned(here, steps).jobs == 6
    assert files_in(here.folder) == before
    assert not (here.folder / "store").exists()
    perform(recipe(here, steps), here.settings)
    before, requests = files_in(here.folder), len(painter.requests)
    assert planned(here, steps).jobs == 0
    assert planned(here, steps.replace("90", "78")).jobs == 6
    assert files_in(here.folder) == before
    assert len(painter.requests) == requests


def test_it_needs_nobody_at_the_endpoint_unless_that_has_to_be_asked_who_it_is(here: Place) -> None:
    found = planned(here, TWO_STEPS, endpoint="bfl", key="k")
    assert (found.engine, found.jobs) == ("bfl", 5)
    with pytest.raises(EndpointUnreachable):
        planned(here, TWO_STEPS, endpoint="http://127.0.0.1:9", key="k")


def test_a_source_without_items_is_told_as_a_run_would(here: Place) -> None:
    with pytest.raises(RecipeError, match="no file matches"):
        plan(
            Recipe.parse("source: 'none/*.png'\nsteps: [deblur]\noutput: 'o/{{ stem }}.png'").compiled,
            settings=here.settings,
        )


# -- what else it says ------------------------------------------------------------------------------------------------


def test_the_duration_follows_from_the_jobs_their_chains_and_how_many_go_at_a_time(here: Place) -> None:
    wide = planned(here, "  - edit: {prompt: x}\n    matrix: {seed: [1, 2, 3, 4]}", max_jobs=2)
    assert (wide.jobs, wide.seconds, wide.max_jobs) == (12, 60.0, 2)
    assert wide.assumed == ["flux-2-pro"]
    chain = planned(here, "  - deblur: {}\n  - edit: {prompt: x}\n  - outpaint: {expand: {left: 16}}")
    assert (chain.jobs, chain.seconds) == (9, 30.0)


def test_after_a_run_the_duration_is_that_of_its_jobs(here: Place) -> None:
    perform(recipe(here, TWO_STEPS), here.settings)
    found = planned(here, TWO_STEPS.replace("{}", "{seed: 3}"))
    assert found.jobs == 5
    assert found.assumed == []


def test_the_budget_is_told_beside_what_is_expected(here: Place) -> None:
    assert planned(here, TWO_STEPS, "budget: 4\n").budget == 4
    assert planned(here, TWO_STEPS, "budget: 4\n", budget=7).budget == 7
    assert planned(here, TWO_STEPS).budget is None


def test_it_is_json(here: Place) -> None:
    data = json.loads(json.dumps(planned(here, TWO_STEPS).to_dict()))
    assert (data["jobs"], data["credits"], data["dollars"], data["unpriced"]) == (5, 6.8, 0.068, 3)
    assert [step["id"] for step in data["steps"]] == ["deblur", "erase"]
    assert data["undecided"] == {"jobs": 0, "credits": 0.0, "unpriced": 0}


@pytest.mark.parametrize(
    ("engine", "head"),
    [
        ("bfl", "2 jobs to pay for: about 6.00 credits"),
        ("local:classical@1", "2 jobs to make here; at BFL: about 6.00 credits"),
    ],
)
def test_a_plan_says_that_jobs_of_this_machine_are_not_paid_for(engine: str, head: str) -> None:
    step = StepPlan("erase", "erase-v1", is_paid=True)
    step.paid.add(3.0)
    step.paid.add(3.0)
    assert head in table(Plan("restore", "local", engine, items=2, steps=[step]))
