"""What the seed documents say that only a server can show: sizes, limits of Kontext, error bodies, the error poll."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image, ImageChops
from waiting import PATIENCE

from flux_tasks.api.client import BflClient
from flux_tasks.errors import JobFailed, JobLost, StillRunning
from flux_tasks.local import LocalServer

ERASE = "flux-tools/erase-v1"


def test_erase_has_no_limit_of_area_and_works_on_4_mp_at_most(shared: Any) -> None:
    photo, mask = shared.photo(2400, 2400), shared.mask(2400, 2400, (100, 100, 300, 300))
    made = shared.make(ERASE, {"image": shared.base64(photo), "mask": shared.base64(mask), "dilate_pixels": 0})
    assert made.size == (2048, 2048)
    reduced = photo.resize((2048, 2048), Image.Resampling.LANCZOS)
    changed = ImageChops.difference(made, reduced).getbbox()
    assert changed is not None
    assert changed[0] >= 84
    assert changed[3] <= 258


KONTEXT = {"prompt": "make it dusk"}


@pytest.mark.parametrize("path", ["flux-kontext-pro", "flux-kontext-max", "flux-kontext"])
def test_the_ranges_of_kontexts_older_fields_are_checked_unless_the_server_is_strict(
    serving: Any, gate: Any, path: str
) -> None:
    api = serving()
    for field, low, high in (("steps", 1, 50), ("guidance", 1.5, 10)):
        for value in (low, high):
            assert api.post(path, {**KONTEXT, field: value}).status_code == 200
        for value in (low - 1, high + 1):
            refused = api.post(path, {**KONTEXT, field: value})
            assert refused.status_code == 422
            assert refused.json()["detail"][0]["loc"] == ["body", field]
    if path != "flux-kontext":  # which a strict server does not have
        assert serving(strict=True).post(path, {**KONTEXT, "steps": 0, "guidance": 99}).status_code == 200


def test_a_prompt_of_kontext_has_10_000_characters_at_most_unless_the_server_is_strict(serving: Any, gate: Any) -> None:
    api = serving()
    assert api.post("flux-kontext-pro", {"prompt": "x" * 10_000}).status_code == 200
    refused = api.post("flux-kontext-pro", {"prompt": "x" * 10_001})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "prompt"]
    assert serving(strict=True).post("flux-kontext-pro", {"prompt": "x" * 10_001}).status_code == 200


def test_a_seed_is_at_least_0(shared: Any) -> None:
    for path in ("flux-2-pro", "flux-kontext-pro"):
        refused = shared.post(path, {"prompt": "a", "seed": -1})
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["loc"] == ["body", "seed"]


@pytest.mark.parametrize(("strict", "fields"), [(False, {"detail", "status_code"}), (True, {"detail"})])
def test_an_error_has_its_status_beside_its_detail_unless_the_server_is_strict(
    serving: Any, strict: bool, fields: set[str]
) -> None:
    api = serving(key="right", strict=strict, faults=[{"fault": "submit.answer", "status": 400, "detail": "bad image"}])
    right = {"x-key": "right"}
    for answer, status in (
        (api.post("flux-2-pro", {"prompt": "a"}), 403),
        (api.post("flux-2-pro", {}, headers=right), 422),
        (api.post("flux-2-pro", {"prompt": "a"}, headers=right), 400),
        (api.post("nothing", {}), 404),
        (api.get("/v1/finetune_details", params={"finetune_id": "x"}, headers=right), 404),
    ):
        assert answer.status_code == status
        assert set(answer.json()) == fields
        assert answer.json().get("status_code", status) == status


async def test_a_job_that_failed_says_why_beside_its_status(serving: Any, gate: Any) -> None:
    api = serving(faults=[{"fault": "job.error", "error": "Error description"}])
    submitted = api.post("flux-2-pro", {"prompt": "a"})
    assert api.finish(submitted) == {"id": submitted.json()["id"], "status": "Error", "error": "Error description"}
    async with BflClient(api.url) as client:
        with pytest.raises(JobFailed, match="Error description"):
            await client.wait(submitted.json()["id"])


@pytest.mark.parametrize(
    ("status", "detail", "lost"),
    [(404, "Task not found", True), (410, "gone", True), (404, "Not Found", True), (400, "Task not found", False)],
)
async def test_a_poll_answered_with_detail_and_status_code_says_that_a_job_is_not_known(
    gate: Any, status: int, detail: str, lost: bool
) -> None:
    fault = {"fault": "poll.answer", "status": status, "detail": detail, "times": 0}
    with LocalServer(engine="gate", faults=[fault]) as server:
        async with BflClient(server.url, poll_interval=0.001) as client:
            from flux_tasks import catalog

            job = await client.submit(catalog.TOOLS["flux-2-pro"], {"prompt": "a"})
            with pytest.raises(JobLost if lost else StillRunning):
                await client.wait(job.id, job.polling_url, deadline=PATIENCE if lost else 0.1)


async def test_only_the_endpoints_own_address_says_that_a_job_is_lost(serving: Any, gate: Any) -> None:
    api = serving()
    job = api.post("flux-2-pro", {"prompt": "a"}).json()
    async with BflClient(api.url, poll_interval=0.001) as client:
        assert (await client.wait(job["id"], f"{api.url}/v1/get_results?id={job['id']}")).id == job["id"]
        assert (await client.wait(job["id"], f"{api.url}/v1/get_result?id={job['id']}")).id == job["id"]


def test_try_on_is_charged_for_both_pictures(serving: Any, gate: Any) -> None:
    api = serving()
    body = {
        "prompt": "image 1 wears image 2",
        "person": api.base64(Image.new("1", (512, 512))),
        "garment": api.base64(Image.new("1", (2200, 2100))),
    }
    answer = api.post("flux-tools/vto-v2", body).json()
    assert (answer["cost"], answer["input_mp"]) == (3.75 + 0.5 * 5, 4.66)


def test_a_moderated_job_is_given_back_unless_the_catalogue_says_that_it_is_charged(
    serving: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flux_tasks import catalog

    api = serving(faults=["job.moderated"])
    api.finish(api.post("flux-2-pro", {"prompt": "a"}))
    assert api.server.charges.charged == 0
    object.__setattr__(catalog.TOOLS["flux-2-pro"], "charged_when_refused", "yes")
    try:
        api.finish(api.post("flux-2-pro", {"prompt": "a"}))
    finally:
        object.__setattr__(catalog.TOOLS["flux-2-pro"], "charged_when_refused", "no")
    assert api.server.charges.charged == 3.0
