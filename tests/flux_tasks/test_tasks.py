"""The tasks as their users meet them: in flows, submitted, mapped, changed, repeated. A real Prefect server."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from forked import run
from PIL import Image
from prefect import flow, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
from prefect.client.schemas.objects import TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from scripted import Answer

from flux_tasks import (
    ImageRef,
    InvalidRequest,
    adeblur,
    aerase,
    catalog,
    deblur,
    edit,
    erase,
    files,
    generate,
    outpaint,
    tasks,
    use,
)

pytestmark = [
    pytest.mark.early,
    pytest.mark.usefixtures("prefect_server"),
    # Prefect's own client leaves its connections to the server to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def bfl(tmp_path: Path) -> Iterator[FakeBfl]:
    with FakeBfl() as server, use(endpoint=server.url, key="k-1", store=str(tmp_path / "store"), poll_interval=0.005):
        yield server


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (96, 80)) -> str:
    image = Image.linear_gradient("L").resize(size).rotate(seed * 7).convert("RGB")
    image.save(path)
    return str(path)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    return picture(tmp_path / "cat.png")


@pytest.fixture
def mask(tmp_path: Path) -> str:
    mask = Image.new("L", (96, 80))
    mask.paste(255, (20, 20, 40, 40))
    mask.save(tmp_path / "mask.png")
    return str(tmp_path / "mask.png")


async def recorded(name: str) -> TaskRun:
    """The task run called ``name``, once the server has written down how it ended."""
    async with get_client() as client:
        while True:
            runs = await client.read_task_runs(
                task_run_filter=TaskRunFilter(name=TaskRunFilterName(any_=[name])),
                sort=TaskRunSort.END_TIME_DESC,
                limit=1,
            )
            if runs and runs[0].state and runs[0].state.is_final():
                return runs[0]
            await asyncio.sleep(0.05)


def test_tasks_chain_in_a_plain_flow(bfl: FakeBfl, photo: str, mask: str) -> None:
    @flow
    def clean(photo: str, mask: str) -> ImageRef:
        return outpaint(erase(deblur(photo), mask=mask), aspect_ratio="16:9")

    result = clean(photo, mask)
    assert (result.width, result.height) == (144, 80)
    assert result.name == "cat"
    assert bfl.jobs == 3
    assert bfl.bodies[2].keys() == {"input_image", "width", "height", "reference_offset_x", "reference_offset_y"}


async def test_async_tasks_chain_in_an_async_flow(bfl: FakeBfl, photo: str, mask: str) -> None:
    @flow
    async def clean(photo: str, mask: str) -> ImageRef:
        return await aerase(await adeblur(photo), mask=mask)

    result = await clean(photo, mask)
    assert isinstance(result, ImageRef)
    assert bfl.jobs == 2


def test_a_task_can_be_mapped_over_photos_with_one_mask_for_all(bfl: FakeBfl, tmp_path: Path, mask: str) -> None:
    photos = [picture(tmp_path / f"{n}.png", n) for n in range(5)]

    @flow
    def clean(photos: list[str]) -> list[ImageRef]:
        sharp = deblur.map(photos)
        return erase.map(sharp, mask=unmapped(mask)).result()

    results = clean(photos)
    assert [r.name for r in results] == ["0", "1", "2", "3", "4"]
    assert bfl.jobs == 10


def test_a_single_reference_is_a_constant_when_mapping(bfl: FakeBfl, tmp_path: Path, mask: str) -> None:
    photos = [picture(tmp_path / f"{n}.png", n) for n in range(2)]
    reference = ImageRef.of(mask)

    @flow
    def clean() -> list[ImageRef]:
        return erase.map(photos, mask=reference).result()

    assert len(clean()) == 2


def test_a_submitted_task_passes_its_future_on(bfl: FakeBfl, photo: str, mask: str) -> None:
    @flow
    def clean() -> ImageRef:
        return erase.submit(deblur.submit(photo), mask=mask).result()

    assert isinstance(clean(), ImageRef)
    assert bfl.jobs == 2


def test_a_task_works_outside_any_flow(bfl: FakeBfl, photo: str) -> None:
    assert isinstance(deblur(photo), ImageRef)
    assert bfl.jobs == 1


async def test_an_async_task_works_outside_any_flow(bfl: FakeBfl, photo: str) -> None:
    assert isinstance(await adeblur(photo), ImageRef)


def test_a_repeated_call_ends_cached_in_the_same_process(bfl: FakeBfl, photo: str) -> None:
    first = deblur(photo, return_state=True)
    second = deblur(photo, return_state=True)
    assert (first.name, second.name) == ("Completed", "Cached")
    assert second.result() == first.result()
    assert second.result().read() == first.result().read()
    assert bfl.jobs == 1


async def test_the_sync_and_the_async_form_share_their_results(bfl: FakeBfl, photo: str) -> None:
    await adeblur(photo)
    state = await adeblur(photo, return_state=True)
    assert state.name == "Cached"
    assert (await asyncio.to_thread(deblur, photo, return_state=True)).name == "Cached"
    assert bfl.jobs == 1


def test_a_repeated_call_ends_cached_in_another_process_with_another_spelling_of_the_store(
    bfl: FakeBfl, photo: str, tmp_path: Path, prefect_server: str
) -> None:
    first = deblur(photo)
    program = textwrap.dedent(
        f"""
        from flux_tasks import deblur, use
        with use(endpoint={bfl.url!r}, store="file://{tmp_path}/store"):
            state = deblur({photo!r}, return_state=True)
            print(state.name, state.result().digest, len(state.result().read()))
        """
    )
    known = {**os.environ, "PREFECT_API_URL": prefect_server}  # else it would start a server of its own
    done = run([sys.executable, "-c", program], env=known)
    assert done.stdout.split() == ["Cached", first.digest, str(first.size)], done.stderr
    assert done.returncode == 0
    assert bfl.jobs == 1


def test_a_hit_whose_blob_has_gone_is_no_hit_and_not_paid_for_again_by_itself(bfl: FakeBfl, photo: str) -> None:
    files.remove(deblur(photo).uri)
    state = deblur(photo, return_state=True)
    assert (state.name, bfl.jobs) == ("Failed", 1)
    assert "see flux-pipelines store held" in (state.message or "")
    with use(on_uncertain="resubmit"):
        assert deblur(photo, return_state=True).name == "Completed"
    assert bfl.jobs == 2


def test_options_change_a_task_and_keep_its_cache(bfl: FakeBfl, photo: str) -> None:
    patient = deblur.with_options(name="sharpen", retries=1, tags=["nightly"])
    assert patient(photo, return_state=True).name == "Completed"
    assert patient(photo, return_state=True).name == "Cached"
    assert deblur(photo, return_state=True).name == "Cached"
    assert patient.with_options(retries=0)(photo, return_state=True).name == "Cached"


def test_refreshing_the_cache_pays_again_because_it_was_asked_for(bfl: FakeBfl, photo: str) -> None:
    deblur(photo)
    state = deblur.with_options(refresh_cache=True)(photo, return_state=True)
    assert state.name == "Completed"
    assert bfl.jobs == 2
    assert deblur(photo, return_state=True).name == "Cached"


def test_a_delivery_that_keeps_failing_is_repeated_by_prefect_without_paying_again(bfl: FakeBfl, photo: str) -> None:
    first = deblur(photo)
    broken = Answer(503, b"")
    bfl.on("GET /files/job-2.png", broken, broken, broken, Answer(200, first.read()))
    quick = deblur.with_options(retry_delay_seconds=0)
    assert quick(photo, seed=2).read() == first.read()
    assert bfl.jobs == 2


def test_bad_input_is_not_repeated_and_says_everything_that_is_wrong(bfl: FakeBfl, photo: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        erase(photo, mask="nowhere.png", dilate_pixels=140, seed="x")
    assert {p.where for p in caught.value.problems} == {"erase.mask", "erase.dilate_pixels", "erase.seed"}
    assert bfl.jobs == 0


def test_a_typo_in_a_parameter_is_refused_with_the_nearest_name(bfl: FakeBfl, photo: str) -> None:
    for call in (erase, erase.submit, erase.map):
        with pytest.raises(InvalidRequest, match="did you mean 'dilate_pixels'"):
            call(photo, mask=photo, dilate_pixel=3)
    with pytest.raises(InvalidRequest, match=r"erase\.mask: is required"):
        erase(photo)
    with pytest.raises(InvalidRequest, match="takes 1 arguments without a name"):
        deblur(photo, 3)
    assert bfl.jobs == 0


async def test_a_task_run_shows_tool_image_cost_and_job_in_prefect(bfl: FakeBfl, tmp_path: Path) -> None:
    name = f"tabby-{time.time_ns()}"
    await asyncio.to_thread(deblur, picture(tmp_path / f"{name}.png"))
    found = await recorded(f"deblur {name}")
    assert {"deblur-v1", "3 credits", "job job-1", "done"} <= set(found.tags)


async def test_the_key_is_in_nothing_that_prefect_keeps(bfl: FakeBfl, tmp_path: Path) -> None:
    name = f"secret-{time.time_ns()}"
    with use(key="do-not-keep-me"):
        await asyncio.to_thread(deblur, picture(tmp_path / f"{name}.png"))
    found = await recorded(f"deblur {name}")
    assert "do-not-keep-me" not in found.model_dump_json()


def test_edit_takes_a_model_and_references(bfl: FakeBfl, tmp_path: Path) -> None:
    room, sofa = picture(tmp_path / "room.png"), picture(tmp_path / "sofa.png", 2)
    edit(room, "put the sofa into the room", references=[sofa], model="flux-2-klein-9b")
    assert dict(bfl.charged) == {"/v1/flux-2-klein-9b": 1}
    assert bfl.bodies[0].keys() == {"prompt", "input_image", "input_image_2"}


def test_generate_takes_a_model_and_no_image(bfl: FakeBfl) -> None:
    generate("a red barn", model="flux-pro-1.1", width=512, height=512)
    assert bfl.bodies == [{"prompt": "a red barn", "width": 512, "height": 512}]


@pytest.mark.parametrize("model", ["flux-2-pro", "flux-pro-1.1", "flux-dev"])
@pytest.mark.parametrize("blank", ["", "   ", "\t\n", "\u200b\u00a0"], ids=ascii)
def test_a_blank_prompt_is_refused_before_anything_is_sent(bfl: FakeBfl, model: str, blank: str) -> None:
    with pytest.raises(InvalidRequest, match="prompt: is blank"):
        generate(blank, model=model)
    assert bfl.jobs == 0


def test_every_tool_has_a_task_in_sync_and_async_form_with_typed_parameters() -> None:
    for name in catalog.TASKS:
        sync, asynchronous = getattr(tasks, name), getattr(tasks, f"a{name}")
        assert not sync.isasync
        assert asynchronous.isasync
        assert sync.name == name
        assert inspect.signature(sync.fn) == inspect.signature(asynchronous.fn)
        for parameter in inspect.signature(sync.fn).parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty


def test_every_tool_of_the_catalogue_can_be_called_through_its_task(
    bfl: FakeBfl, tmp_path: Path, photo: str, mask: str
) -> None:
    images: dict[str, Any] = {"image": photo, "input_image": photo, "person": photo, "garment": photo, "mask": mask}
    for tool in catalog.TOOLS.values():
        task = getattr(tasks, tool.task)
        accepted = inspect.signature(task.fn).parameters
        arguments = {n: images[n] for n in ("image", "person", "garment", "mask") if n in accepted}
        extra = {"prompt": "a hat", "aspect_ratio": "16:9" if tool.task == "outpaint" else None}
        extra |= {"finetune_id": "mine", "model": tool.name}
        arguments |= {n: v for n, v in extra.items() if n in accepted and v is not None}
        if tool.sizes.min_side > 96 and "image" in arguments:
            arguments["image"] = picture(tmp_path / "large.png", size=(256, 256))
        if "finetuned" not in tool.name:
            arguments.pop("finetune_id", None)
        task(**arguments)
    assert set(bfl.charged) == {tool.path for tool in catalog.TOOLS.values()}


ALONE = """
import sys
{before}
from flux_tasks import deblur, use
with use(endpoint=sys.argv[1], key="k", store=sys.argv[2]):
    deblur(sys.argv[3])
    deblur.with_options(name="mine", refresh_cache=True)(sys.argv[3])
"""


@pytest.mark.parametrize("before", ["", "import prefect", "from pipelines import flows"])
def test_a_tool_used_alone_warns_of_nothing_that_a_server_does_not_get(
    bfl: FakeBfl, tmp_path: Path, photo: str, prefect_server: str, before: str
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_LOGGING")}
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", ALONE.format(before=before), bfl.url, str(tmp_path / "store"), photo],
        env={**kept, "PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "attempted to send logs" not in ran.stderr
    assert "Warning" not in ran.stderr
    assert bfl.jobs == 2
