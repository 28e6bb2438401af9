"""Runs: items through steps, outcomes, stopping, and never paying twice. No Prefect here: the runner needs none."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from PIL import Image
from scripted import Answer

from flux_tasks import ImageRef, background, catalog, files
from flux_tasks.errors import RecipeError, StoreUnavailable
from flux_tasks.images import byte_cache
from flux_tasks.jobs import job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings, use
from flux_tasks.tasks import direct
from pipelines.recipe import Recipe
from pipelines.run.context import CallTool
from pipelines.run.run import Run

RECIPE = """
name: two-steps
source: {{images: "{folder}/photos/*", columns: {{mask: "{folder}/masks/{{{{ stem }}}}.png"}}}}
steps:
  - deblur: {{}}
  - erase: {{mask: "{{{{ mask }}}}"}}
    when: mask_exists
output: {{path: "{folder}/out/{{{{ stem }}}}.png"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    for number, name in enumerate(("apple", "birch", "cedar")):
        Image.linear_gradient("L").resize((96, 80)).rotate(number * 9).convert("RGB").save(
            tmp_path / "photos" / f"{name}.png"
        )
    mask = Image.new("L", (96, 80))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "masks" / "apple.png")
    return tmp_path


def perform(
    folder: Path, settings: Settings, text: str = RECIPE, call_tool: CallTool | None = None, **options: Any
) -> tuple[Run, dict[str, Any]]:
    """A whole run without Prefect; the rows by item."""

    async def call(task: str, arguments: dict[str, Any]) -> JobResult:
        arguments = dict(arguments)
        tool = catalog.tool(task, arguments.pop("model", None))
        return await background.arun(job.execute(prepare(tool, arguments), settings))

    call_tool = call_tool or call

    async def whole(run: Run) -> None:
        if not await run.answer_from_store():
            await run.run_remaining(call_tool)

    with Run(Recipe.parse(text.format(folder=folder)).compiled, settings, **options) as run:
        asyncio.run(whole(run))
    return run, {row["item"]: row for row in run.rows()}


def test_every_item_goes_through_the_steps_that_apply_to_it(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    run, rows = perform(folder, settings)
    assert dict(run.summary.counts) == {"done": 3}
    assert (run.summary.jobs, run.summary.cost) == (4, 12.0)
    assert [s["outcome"] for s in rows["apple"]["steps"]] == ["done", "done"]
    assert [s["outcome"] for s in rows["birch"]["steps"]] == ["done", "skipped"]
    assert rows["birch"]["steps"][1]["reason"] == "when: mask_exists"
    assert (folder / "out" / "cedar.png").exists()
    assert rows["apple"]["steps"][1]["drift"]["changed"] > 0


def test_a_second_run_makes_no_job_and_opens_no_connection(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    perform(folder, settings)
    before = len([r for r in bfl.requests if r.method == "POST"])
    run, _ = perform(folder, settings)
    assert dict(run.summary.counts) == {"cached": 3}
    assert (run.summary.jobs, run.summary.cached) == (0, 4)
    assert len([r for r in bfl.requests if r.method == "POST"]) == before


def test_a_new_photo_is_the_only_one_that_costs(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    perform(folder, settings)
    Image.radial_gradient("L").resize((96, 80)).convert("RGB").save(folder / "photos" / "dogwood.png")
    run, rows = perform(folder, settings)
    assert run.summary.jobs == 1
    assert rows["dogwood"]["outcome"] == "done"


def test_outputs_are_the_delivered_bytes_when_the_file_type_agrees(
    bfl: FakeBfl, folder: Path, settings: Settings
) -> None:
    _, rows = perform(folder, settings)
    assert (folder / "out" / "birch.png").read_bytes() == ImageRef.from_dict(rows["birch"]["output"]).read()


def test_outputs_are_converted_when_another_file_type_is_asked_for(
    bfl: FakeBfl, folder: Path, settings: Settings
) -> None:
    perform(
        folder, settings, RECIPE.replace('.png"}}\n"', "").replace("out/{{{{ stem }}}}.png", "out/{{{{ stem }}}}.jpg")
    )
    with Image.open(folder / "out" / "birch.jpg") as image:
        assert image.format == "JPEG"


def test_one_bad_item_does_not_stop_the_run(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    (folder / "photos" / "aaa-empty.png").write_bytes(b"")
    (folder / "photos" / "aab-text.jpg").write_text("hello")
    Image.new("L", (10, 10), 255).save(folder / "masks" / "birch.png")
    run, rows = perform(folder, settings)
    assert dict(run.summary.counts) == {"done": 2, "invalid": 3}
    assert "the file is empty" in rows["aaa-empty"]["error"]["message"]
    assert rows["birch"]["error"]["step"] == "erase"
    assert "the mask is 10×10 px but the image is 96×80 px" in rows["birch"]["error"]["message"]
    assert not run.summary.is_fine


def test_an_empty_mask_is_not_paid_for(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    Image.new("L", (96, 80)).save(folder / "masks" / "birch.png")
    run, rows = perform(folder, settings)
    assert rows["birch"]["steps"][1]["outcome"] == "unchanged"
    assert run.summary.jobs == 4


def test_moderated_and_failed_items_say_so(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    shutil.rmtree(folder / "masks")

    def poll(request: Any) -> Answer:
        job_id = request.path.split("id=")[1]
        if job_id == "job-1":
            return Answer(
                200, {"id": "1", "status": "Request Moderated", "details": {"Moderation Reasons": ["Violence"]}}
            )
        if job_id == "job-2":
            return Answer(503, {"id": "2", "status": "Error"})
        return Answer(200, {"id": "3", "status": "Ready", "result": {"sample": f"{bfl.url}/files/{job_id}.png"}})

    bfl.on("GET /v1/get_result", call=poll)
    run, rows = perform(folder, settings)
    assert dict(run.summary.counts) == {"moderated": 1, "failed": 1, "done": 1}
    [moderated] = [r for r in rows.values() if r["outcome"] == "moderated"]
    assert "Violence" in moderated["error"]["message"]


def test_a_refused_key_stops_the_run_and_collects_what_is_in_flight(
    bfl: FakeBfl, folder: Path, settings: Settings
) -> None:
    accepted: list[int] = []

    def submit(request: Any) -> Answer:
        if len(accepted) < 2:
            accepted.append(1)
            return bfl._submit("/v1/flux-tools/deblur-v1", request)
        return Answer(402, {"detail": "Insufficient credits"})

    bfl.on("POST /v1/flux-tools/deblur-v1", call=submit)
    run, rows = perform(folder, settings, RECIPE.replace("when: mask_exists", "when: false"))
    assert "out of credits" in run.summary.stopped
    assert run.summary.counts == {"done": 2, "held": 1}
    assert run.summary.jobs == 2
    del bfl._scripts["POST /v1/flux-tools/deblur-v1"]
    again, _ = perform(folder, settings, RECIPE.replace("when: mask_exists", "when: false"))
    assert again.summary.counts == {"cached": 2, "done": 1}
    assert bfl.jobs == 3


def test_an_interrupted_run_collects_its_jobs_when_it_is_run_again(
    bfl: FakeBfl, folder: Path, settings: Settings
) -> None:
    bfl.hold = True

    async def cut_short() -> None:
        async def call_tool(task: str, arguments: dict[str, Any]) -> JobResult:
            call = prepare(catalog.tool(task), arguments)
            return await background.arun(job.execute(call, settings))

        with Run(Recipe.parse(RECIPE.format(folder=folder)).compiled, settings) as run:
            assert not await run.answer_from_store()
            work = asyncio.create_task(run.run_remaining(call_tool))
            while bfl.jobs < 3 or len(list(Path(settings.store, "journal").glob("*"))) < 3:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    asyncio.run(cut_short())
    bfl.hold = False
    run, _ = perform(folder, settings)
    assert run.summary.collected + run.summary.jobs == 4
    assert bfl.jobs == 4


def test_two_items_that_would_write_the_same_file_are_found(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    (folder / "photos" / "apple.jpg").write_bytes((folder / "photos" / "birch.png").read_bytes())
    run, _ = perform(folder, settings)
    rows = list(run.rows())
    [clash] = [r for r in rows if r["outcome"] == "invalid"]
    assert "is also another result" in clash["error"]["message"]


def test_no_column_leads_out_of_the_output_folder(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    hostile = RECIPE.replace("out/{{{{ stem }}}}.png", "out/{{{{ '../' * 5 }}}}{{{{ stem }}}}.png")
    run, rows = perform(folder, settings, hostile)
    assert run.summary.counts == {"invalid": 3}
    assert "leads out of" in rows["apple"]["error"]["message"]
    assert bfl.jobs == 0


def test_results_are_never_written_over_the_photos_they_are_made_from(
    bfl: FakeBfl, folder: Path, settings: Settings
) -> None:
    before = (folder / "photos" / "apple.png").read_bytes()
    with pytest.raises(
        RecipeError, match="is also a picture that the run reads: write results into a folder of their own"
    ):
        perform(folder, settings, RECIPE.replace("/out/", "/masks/../photos/"))
    assert (folder / "photos" / "apple.png").read_bytes() == before
    assert bfl.jobs == 0


def test_a_step_that_changed_nothing_says_so(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    Image.new("RGB", (96, 80), "teal").save(folder / "photos" / "zinc.png")  # upside down it is the same
    _, rows = perform(folder, settings)
    assert rows["zinc"]["steps"][0]["warnings"] == ["the result has the same pixels as its input"]
    assert "warnings" not in rows["apple"]["steps"][0]


def test_a_call_that_a_run_has_checked_is_made_without_a_second_check(
    bfl: FakeBfl, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "call_of", lambda *_, **__: pytest.fail("it is checked again"))
    with use(settings):
        run, _ = perform(folder, settings, call_tool=direct.call_task)
    assert (dict(run.summary.counts), run.summary.jobs, bfl.jobs) == ({"done": 3}, 4, 4)


def test_a_glob_that_matches_nothing_is_a_recipe_error(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    with pytest.raises(RecipeError, match="no file matches"):
        perform(folder, settings, RECIPE.replace("photos/*", "fotos/*"))


def test_a_limit_bounds_the_items(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    run, rows = perform(folder, settings, limit=2)
    assert list(rows) == ["apple", "birch"]


def test_items_and_results_may_live_on_any_filesystem(bfl: FakeBfl, folder: Path, settings: Settings) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    try:
        for path in (folder / "photos").iterdir():
            memory.pipe_file(f"/bucket/photos/{path.name}", path.read_bytes())
        text = RECIPE.replace("{folder}", "memory://bucket")
        run, rows = perform(folder, settings, text)
        assert run.summary.counts == {"done": 3}
        assert memory.cat_file("/bucket/out/cedar.png").startswith(b"\x89PNG")
    finally:
        memory.store.clear()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_an_output_folder_that_takes_nothing_more_stops_the_run_and_what_was_paid_is_in_the_store(
    bfl: FakeBfl, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: Any) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pipelines.run.item.write_output", full)
    run, rows = perform(folder, settings)
    assert isinstance(run.stopped, StoreUnavailable)
    assert os.strerror(number) in run.summary.stopped
    assert {row["outcome"] for row in rows.values()} == {"held"}
    paid = bfl.jobs
    monkeypatch.undo()
    run, rows = perform(folder, settings)
    assert {row["outcome"] for row in rows.values()} <= {"done", "cached"}
    assert bfl.jobs >= paid
    assert len({json.dumps(body, sort_keys=True) for body in bfl.bodies}) == bfl.jobs, "a job was paid twice"


def test_an_output_that_may_not_be_written_is_that_items_trouble_alone(
    bfl: FakeBfl, folder: Path, settings: Settings
) -> None:
    (folder / "out" / "apple.png").mkdir(parents=True)
    run, rows = perform(folder, settings)
    assert run.stopped is None
    assert rows["apple"]["outcome"] == "invalid"
    assert "apple.png is a folder: name a file" in rows["apple"]["error"]["message"]
    assert {rows["birch"]["outcome"], rows["cedar"]["outcome"]} == {"done"}
    assert bfl.jobs == 2  # nothing is paid for what could not be written


def failing_blobs(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """Each picture in the store cannot be read ``failures`` times; and none is in memory."""
    real, failed = files.read, Counter[str]()

    def read(location: str | os.PathLike[str], **options: Any) -> bytes:
        text = os.fspath(location)
        failed[text] += "/blobs/" in text
        if 0 < failed[text] <= failures:
            raise OSError(errno.EIO, "the store is flaky", text)
        return real(location, **options)

    monkeypatch.setattr(files, "read", read)
    monkeypatch.setattr(files.access, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(byte_cache, "get", lambda digest: None)


def test_an_earlier_steps_picture_is_read_again_when_the_store_fails_for_a_moment(
    bfl: FakeBfl, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_blobs(monkeypatch, 2)
    run, _ = perform(folder, settings)
    assert (dict(run.summary.counts), bfl.jobs) == ({"done": 3}, 4)


def test_an_item_whose_earlier_picture_cannot_be_read_now_failed_and_is_finished_by_the_next_run(
    bfl: FakeBfl, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as trouble:
        failing_blobs(trouble, 1_000)
        _, rows = perform(folder, settings)
        assert rows["apple"]["outcome"] == "failed"
        assert "cannot be read now" in rows["apple"]["error"]["message"]
    run, _ = perform(folder, settings)
    assert (run.summary.is_fine, bfl.jobs) == (True, 4)
