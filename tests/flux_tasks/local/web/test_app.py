"""The routes, from submission to delivery, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops, ImageCms
from scripted import Answer, ScriptedServer
from waiting import PATIENCE, wait_until

from flux_tasks import catalog, verify_webhook
from flux_tasks.api.client import BflClient
from flux_tasks.errors import EndpointUnreachable, RecipeError
from flux_tasks.images.encoding import inspect
from flux_tasks.local import LocalServer, engines
from flux_tasks.local.service import checks, jobs, results
from flux_tasks.local.service.jobs import MEDIA_TYPES

DEBLUR = "flux-tools/deblur-v1"
ERASE = "flux-tools/erase-v1"
OUTPAINT = "flux-tools/outpainting-v1"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def body_for(tool: catalog.Tool, api: Any, **more: Any) -> dict[str, Any]:
    """The least that ``tool`` takes."""
    required = {name for name, info in tool.request.model_fields.items() if info.is_required()}
    values: dict[str, Any] = {"prompt": "a lake", "finetune_id": "mine", "width": 128, "height": 96}
    body = {name: values[name] for name in required if name in values}
    body |= {name: api.base64(api.photo()) for name in required & set(tool.image_fields)}
    if "mask" in tool.image_fields:
        body["mask"] = api.base64(api.mask())
    return {**body, **more}


# -- submit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", catalog.TOOLS.values(), ids=lambda tool: tool.name)
def test_every_tool_of_the_catalogue_delivers_a_marked_preview_in_its_default_format(
    shared: Any, tool: catalog.Tool
) -> None:
    answer = shared.finish(shared.http.post(tool.path, json=body_for(tool, shared)))
    delivery = shared.deliver(answer)
    header = inspect(delivery.content)
    assert header.media_type == delivery.headers["content-type"] == MEDIA_TYPES[tool.output_format]
    assert header.preview == "local:classical@1"
    if tool.sizes.same_size:
        assert (header.width, header.height) == (96, 80)


def test_the_answer_to_a_submission_names_id_address_cost_and_megapixels(serving: Any, gate: Any) -> None:
    api = serving()
    answer = api.post("flux-2-pro", {"prompt": "a lake", "width": 1920, "height": 1088}).json()
    assert set(answer) == {"id", "polling_url", "cost", "input_mp", "output_mp"}
    assert re.fullmatch(UUID, answer["id"])
    assert answer["polling_url"] == f"{api.url}/v1/get_result?id={answer['id']}"
    assert (answer["cost"], answer["input_mp"], answer["output_mp"]) == (4.5, 0, 1.99)
    photo = api.base64(Image.new("L", (1024, 1536)))
    answer = api.post("flux-2-pro", {"prompt": "a", "input_image": photo, "input_image_2": photo}).json()
    assert (answer["cost"], answer["input_mp"], answer["output_mp"]) == (3 + 1.5 * (1 + 2 + 2), 3.0, 1.5)


def test_an_answer_with_webhook_has_no_polling_url_and_the_webhook_is_called_once(serving: Any, gate: Any) -> None:
    api = serving()
    with ScriptedServer() as receiver:
        receiver.on("POST /told", Answer(200))
        body = {"prompt": "a lake", "webhook_url": f"{receiver.url}/told", "webhook_secret": "hush"}
        submitted = api.post("flux-2-pro", body).json()
        assert set(submitted) == {"id", "status", "webhook_url", "cost", "input_mp", "output_mp"}
        assert submitted["status"] == "Pending"
        wait_until(lambda: receiver.seen("POST /told"))
        [told] = receiver.seen("POST /told")
        assert told.headers["x-webhook-secret"] == "hush"
        assert told.headers["x-bfl-signature"].startswith("sha256=")
        content = verify_webhook(told.headers, told.body, "hush")
        verify_webhook({"x-bfl-signature": told.headers["x-bfl-signature"]}, told.body, "hush")
        assert content == api.poll(submitted["id"])
        assert content["status"] == "Ready"


def test_a_webhook_that_nobody_answers_does_the_job_no_harm(serving: Any, gate: Any) -> None:
    api = serving()
    submitted = api.post("flux-2-pro", {"prompt": "a", "webhook_url": "http://127.0.0.1:9/"}).json()
    assert api.finish(submitted["id"])["status"] == "Ready"


def test_the_short_paths_of_the_seed_lead_to_the_real_tools(serving: Any, gate: Any) -> None:
    api = serving()
    api.finish(api.post("flux-kontext", {"prompt": "a"}))
    api.finish(api.post("flux-fill", {"image": api.base64(api.photo()), "mask": api.base64(api.mask())}))
    assert [work.tool.name for work in gate.works] == ["flux-kontext-pro", "flux-pro-1.0-fill"]


def test_addresses_lead_back_to_the_name_the_server_was_asked_by(serving: Any, gate: Any) -> None:
    api = serving()
    port = httpx.URL(api.url).port
    answer = httpx.post(f"http://localhost:{port}/v1/flux-2-pro", json={"prompt": "a"}).json()
    assert answer["polling_url"].startswith(f"http://localhost:{port}/")
    assert api.finish(answer["id"])["result"]["sample"].startswith(f"http://localhost:{port}/delivery/")


# -- poll -------------------------------------------------------------------------------------------------------------


def test_a_job_is_pending_until_the_engine_is_done_and_then_ready(serving: Any, gate: Any) -> None:
    api = serving()
    gate.shut()
    submitted = api.post("flux-2-pro", {"prompt": "a lake", "seed": 7}).json()
    wait_until(lambda: api.poll(submitted["id"])["progress"] == 0.5)
    pending = api.poll(submitted["id"])
    assert pending["status"] == "Pending"
    assert pending["result"] is None
    assert "cost" not in pending
    gate.open()
    ready = api.finish(submitted["id"])
    assert (ready["id"], ready["progress"], ready["cost"]) == (submitted["id"], 1.0, submitted["cost"])
    assert set(ready["result"]) == {"sample", "prompt", "seed", "start_time", "end_time", "duration"}
    assert (ready["result"]["prompt"], ready["result"]["seed"]) == ("a lake", 7)
    assert ready["result"]["end_time"] >= ready["result"]["start_time"]


def test_an_unknown_job_is_404_with_a_status(shared: Any) -> None:
    response = shared.get("/v1/get_result", params={"id": "nobody"})
    assert response.status_code == 404
    assert response.json()["id"] == "nobody"
    assert response.json()["status"] == "Task not found"


def test_a_poll_without_an_id_is_422(shared: Any) -> None:
    response = shared.get("/v1/get_result")
    assert response.status_code == 422
    assert response.json()["detail"] == [{"type": "missing", "loc": ["query", "id"], "msg": "Field required"}]


def test_a_job_whose_engine_fails_ends_with_error_and_is_refunded(serving: Any, gate: Any) -> None:
    api = serving(credits=10)
    gate.failing = RuntimeError("out of luck")
    ended = api.finish(api.post("flux-2-pro", {"prompt": "a"}))
    assert ended["status"] == "Error"
    assert ended["details"] == {"error": "RuntimeError: out of luck"}
    assert (ended["result"], ended["cost"]) == (None, 0)
    assert api.get("/v1/credits").json() == {"credits": 10}


def test_pixels_that_turn_out_damaged_end_the_job_with_error(shared: Any) -> None:
    data = bytearray(shared.bytes(Image.effect_noise((128, 128), 80)))
    data[1000:3000] = bytes(2000)
    ended = shared.finish(shared.post(DEBLUR, {"image": base64.b64encode(data).decode()}))
    assert ended["status"] == "Error"
    assert "damaged" in ended["details"]["error"]


# -- delivery ---------------------------------------------------------------------------------------------------------


def test_a_delivery_has_its_type_and_length_and_no_cors_header(serving: Any, gate: Any) -> None:
    api = serving(key="secret")
    answer = api.finish(api.post("flux-2-pro", {"prompt": "a"}, headers={"x-key": "secret"}))
    url = answer["result"]["sample"]
    assert not url.startswith(f"{api.url}/v1/")
    delivery = httpx.get(url, headers={"origin": "https://page.example"})
    assert delivery.headers["content-type"] == "image/jpeg"
    assert int(delivery.headers["content-length"]) == len(delivery.content)
    assert not [name for name in delivery.headers if name.startswith("access-control")]
    assert Image.open(io.BytesIO(delivery.content)).size == (1024, 1024)


def test_an_expired_address_is_403_and_the_next_poll_gives_a_fresh_one(serving: Any, gate: Any) -> None:
    api = serving(expiry=0.2)
    answer = api.finish(api.post("flux-2-pro", {"prompt": "a"}))
    old = answer["result"]["sample"]
    wait_until(lambda: api.get(old).status_code == 403)
    fresh = api.poll(answer["id"])["result"]["sample"]
    assert fresh != old
    assert api.get(fresh).status_code == 200
    assert api.get(old).status_code == 403


def test_an_address_stays_the_same_while_it_is_valid(serving: Any, gate: Any) -> None:
    api = serving()
    answer = api.finish(api.post("flux-2-pro", {"prompt": "a"}))
    assert api.poll(answer["id"])["result"]["sample"] == answer["result"]["sample"]


def test_an_address_that_was_never_given_out_is_404(serving: Any, gate: Any) -> None:
    api = serving()
    answer = api.finish(api.post("flux-2-pro", {"prompt": "a"}))
    assert api.get("/delivery/guess/sample.jpeg").status_code == 404
    assert api.get(answer["result"]["sample"].replace("sample.jpeg", "other.jpeg")).status_code == 404


def open_files(folder: Path) -> list[str]:
    """The files of a folder that this process has open, those without a name too."""
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link for link in links if link.startswith(str(folder))]


def test_results_are_in_several_files_each_of_which_goes_with_its_last_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(results, "FILE_BYTES", 5)
    kept = results.Results()
    for name in "abcd":
        kept.put(name, name.encode() * 3)
    assert [kept.get(name) for name in "dabc"] == [b"ddd", b"aaa", b"bbb", b"ccc"]
    assert len(open_files(tmp_path)) == 2
    for name in "abcd":
        kept.remove(name)
        assert kept.get(name) is None
        assert len(open_files(tmp_path)) == {"a": 2, "b": 1, "c": 1, "d": 0}[name]
    kept.put("e", b"e")
    assert (kept.get("e"), list(tmp_path.iterdir())) == (b"e", [])
    kept.clear()
    assert not open_files(tmp_path)


def test_a_finished_job_is_forgotten_after_a_while_and_its_file_removed(
    serving: Any, gate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    api = serving(retention=0.2)
    answer = api.finish(api.post("flux-2-pro", {"prompt": "a"}))
    assert open_files(tmp_path)
    wait_until(lambda: api.poll(answer["id"])["status"] == "Task not found")
    assert api.get(answer["result"]["sample"]).status_code == 404
    assert not open_files(tmp_path)


def test_results_beyond_the_room_there_is_are_forgotten_fetched_ones_first(
    serving: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serving(workers=1)
    first, second = (api.finish(api.post("flux-2-pro", {"prompt": p})) for p in ("one", "two"))
    size = len(api.deliver(second).content)
    monkeypatch.setattr(jobs, "KEPT_BYTES", round(2.5 * size))
    api.finish(api.post("flux-2-pro", {"prompt": "three"}))
    assert api.poll(second["id"])["status"] == "Task not found"
    assert api.poll(first["id"])["status"] == "Ready"


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_job_above_the_cap_is_429_and_neither_created_nor_charged(serving: Any, gate: Any) -> None:
    api = serving(cap=2, credits=100)
    gate.shut()
    first, second = (api.post("flux-2-pro", {"prompt": "a"}) for _ in range(2))
    refused = api.post("flux-2-pro", {"prompt": "a"})
    assert refused.status_code == 429
    assert isinstance(refused.json()["detail"], str)
    assert api.get("/v1/credits").json() == {"credits": 94}
    assert len(api.server.charges) == 2
    gate.open()
    api.finish(first)
    api.finish(second)
    assert api.post("flux-2-pro", {"prompt": "a"}).status_code == 200


def test_kontext_max_has_six_slots_of_the_twenty_four(serving: Any, gate: Any) -> None:
    api = serving()
    gate.shut()
    assert [api.post("flux-kontext-max", {"prompt": "a"}).status_code for _ in range(7)] == [200] * 6 + [429]
    assert [api.post("flux-kontext-pro", {"prompt": "a"}).status_code for _ in range(19)] == [200] * 18 + [429]


def test_without_credits_it_is_402_before_it_is_429(serving: Any, gate: Any) -> None:
    api = serving(credits=4, cap=1)
    gate.shut()
    assert api.post("flux-2-pro", {"prompt": "a"}).status_code == 200
    refused = api.post("flux-2-pro", {"prompt": "a"})
    assert refused.status_code == 402
    assert isinstance(refused.json()["detail"], str)
    assert api.get("/v1/credits").json() == {"credits": 1}


def test_hundreds_of_submissions_at_once_are_each_taken_or_refused_whole(serving: Any, gate: Any) -> None:
    api = serving(cap=100)
    gate.shut()

    small = {"width": 64, "height": 64}

    async def storm() -> list[httpx.Response]:
        # A client looks through all its connections at each answer: one with 300 of them takes 4 s of CPU.
        clients = [httpx.AsyncClient(base_url=api.url, timeout=PATIENCE) for _ in range(30)]
        async with AsyncExitStack() as stack:
            for client in clients:
                await stack.enter_async_context(client)
            posts = (
                clients[n % 30].post("/v1/flux-2-klein-4b", json={"prompt": f"picture {n}", **small})
                for n in range(300)
            )
            return await asyncio.gather(*posts)

    answers = asyncio.run(storm())
    taken = [answer.json()["id"] for answer in answers if answer.status_code == 200]
    assert len(taken) == len(set(taken)) == 100
    assert sum(answer.status_code == 429 for answer in answers) == 200
    assert {entry.id for entry in api.server.charges.entries} == set(taken)
    assert api.server.charges.charged == pytest.approx(140)
    gate.open()
    for job_id in taken:
        assert api.finish(job_id)["status"] == "Ready"


# -- what the classical engine makes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_every_format_can_be_asked_for_and_carries_the_mark(shared: Any, file_format: str) -> None:
    answer = shared.finish(shared.post(DEBLUR, {"image": shared.base64(shared.photo()), "output_format": file_format}))
    delivery = shared.deliver(answer)
    header = inspect(delivery.content)
    assert header.media_type == delivery.headers["content-type"] == f"image/{file_format}"
    assert header.preview == "local:classical@1"
    assert answer["result"]["sample"].endswith(f"/sample.{file_format}")


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(shared: Any) -> None:
    def make(**more: Any) -> bytes:
        answer = shared.finish(shared.post("flux-2-pro", {"prompt": "a lake", "width": 64, "height": 64, **more}))
        return bytes(shared.deliver(answer).content)

    assert make() == make()
    assert make(seed=1) == make(seed=1) != make(seed=2)
    assert make(seed=5) == make(seed=5)


def test_erase_leaves_everything_outside_the_grown_mask_as_it_was(shared: Any) -> None:
    photo, mask = shared.photo(), shared.mask(box=(40, 30, 56, 44))
    body = {"image": shared.base64(photo), "mask": shared.base64(mask)}
    for grow in (0, 6):
        made = shared.make(ERASE, {**body, "dilate_pixels": grow})
        changed = ImageChops.difference(made, photo).getbbox()
        assert made.size == photo.size
        assert changed is not None
        assert changed[0] >= 40 - grow
        assert changed[1] >= 30 - grow
        assert changed[2] <= 56 + grow
        assert changed[3] <= 44 + grow


def test_fill_takes_the_transparent_part_as_its_mask(shared: Any) -> None:
    photo = shared.photo()
    holed = photo.copy()
    holed.putalpha(Image.eval(shared.mask(box=(40, 30, 56, 44)), lambda v: 255 - v))
    made = shared.make("flux-pro-1.0-fill", {"image": shared.base64(holed), "output_format": "png"})
    assert made.mode == "RGB"
    changed = ImageChops.difference(made, photo).getbbox()
    assert changed is None or (changed[0] >= 40 and changed[1] >= 30 and changed[2] <= 56 and changed[3] <= 44)


@pytest.mark.parametrize("mode", ["high", "fast"])
def test_outpaint_puts_the_picture_where_it_is_told_and_else_in_the_middle(shared: Any, mode: str) -> None:
    photo = shared.photo(96, 80)
    body = {"input_image": shared.base64(photo), "width": 160, "height": 128, "mode": mode}
    for offsets, corner in (
        ({}, (32, 24)),
        ({"reference_offset_x": 0, "reference_offset_y": 48}, (0, 48)),
        ({"reference_offset_x": 10}, (10, 24)),
    ):
        made = shared.make(OUTPAINT, {**body, **offsets})
        assert made.size == (160, 128)
        left, top = corner
        assert ImageChops.difference(made.crop((left, top, left + 96, top + 80)), photo).getbbox() is None


def test_outpaint_crops_what_overhangs_if_it_may(shared: Any) -> None:
    photo = shared.photo(96, 80)
    body = {"input_image": shared.base64(photo), "width": 128, "height": 64, "auto_crop": True}
    made = shared.make(OUTPAINT, {**body, "reference_offset_x": -16, "reference_offset_y": 0})
    assert ImageChops.difference(made.crop((0, 0, 80, 64)), photo.crop((16, 0, 96, 64))).getbbox() is None
    assert shared.make(OUTPAINT, {**body, "reference_offset_x": 10**30}).size == (128, 64)


def test_expand_adds_its_sides(shared: Any) -> None:
    photo = shared.photo(96, 80)
    sides = {"left": 10, "top": 20, "right": 30, "bottom": 0}
    made = shared.make("flux-pro-1.0-expand", {"image": shared.base64(photo), "output_format": "png", **sides})
    assert made.size == (136, 100)
    assert ImageChops.difference(made.crop((10, 20, 106, 100)), photo).getbbox() is None


def test_a_turned_photo_comes_back_upright(shared: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = {"image": shared.base64(shared.photo(96, 80), "JPEG", exif=exif)}
    made = shared.make(DEBLUR, body)
    assert made.size == (80, 96)
    assert made.getexif().get(0x0112, 1) == 1


def test_a_colour_profile_is_carried_over(shared: Any) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for file_format in ("png", "jpeg", "webp"):
        image = shared.base64(shared.photo(), icc_profile=profile)
        made = shared.make(DEBLUR, {"image": image, "output_format": file_format})
        assert made.info["icc_profile"] == profile
    assert "icc_profile" not in shared.make(DEBLUR, {"image": shared.base64(shared.photo())}).info


def test_pictures_of_every_mode_are_taken(shared: Any) -> None:
    photo = shared.photo()
    for mode in ("L", "1", "P", "LA", "RGBA", "CMYK", "I;16"):
        image = Image.new("I;16", (96, 80), 30_000) if mode == "I;16" else photo.convert(mode)
        file_format = "JPEG" if mode == "CMYK" else "PNG"
        assert shared.make(DEBLUR, {"image": shared.base64(image, file_format)}).mode == "RGB"


SIZES = [
    ("flux-2-pro", {}, None, (1024, 1024)),
    ("flux-2-pro", {"width": 1000, "height": 500}, None, (992, 496)),
    ("flux-2-pro", {}, (333, 100), (320, 96)),
    ("flux-2-pro", {}, (4000, 3000), (2352, 1760)),
    ("flux-2-pro", {"width": 512}, (400, 200), (512, 256)),
    ("flux-2-pro", {"height": 2048}, None, (512, 2048)),
    ("flux-pro-1.1", {}, None, (1024, 768)),
    ("flux-dev", {"width": 256, "height": 1440}, None, (256, 1440)),
    ("flux-kontext-pro", {}, (1920, 1080), (1392, 752)),
    ("flux-kontext-pro", {"aspect_ratio": "1:1"}, (1920, 1080), (1024, 1024)),
    ("flux-kontext-pro", {"aspect_ratio": "9:21"}, None, (672, 1568)),
    ("flux-kontext-pro", {}, (64, 4000), (672, 1568)),
    ("flux-pro-1.1-ultra", {}, None, (2720, 1536)),
    ("flux-pro-1.1-ultra", {"aspect_ratio": "1:1"}, None, (2048, 2048)),
]


@pytest.mark.parametrize(("name", "parameters", "picture", "size"), SIZES)
def test_a_made_picture_has_the_size_the_service_would_give_it(
    serving: Any,
    gate: Any,
    name: str,
    parameters: dict[str, Any],
    picture: tuple[int, int] | None,
    size: tuple[int, int],
) -> None:
    api = serving()
    given = {"input_image": api.base64(Image.new("L", picture))} if picture else {}
    made = api.make(name, {"prompt": "a", **parameters, **given})
    assert made.size == size


# -- about itself -----------------------------------------------------------------------------------------------------


def test_it_says_which_engine_it_is_and_which_tools_it_has(shared: Any) -> None:
    told = shared.get("/local").json()
    assert told["engine"] == "local:classical@1"
    assert told["tools"] == list(catalog.TOOLS)
    assert isinstance(told["version"], str)
    assert "not made by FLUX" in shared.get("/").text


def test_the_engines_version_is_the_one_the_engine_itself_says() -> None:
    from flux_tasks.local.engines import classical

    assert engines.identity(classical.NAME) == f"local:classical@{classical.VERSION}"


def test_an_openapi_document_describes_every_tool_and_all_its_references_lead_somewhere(shared: Any) -> None:
    document = shared.get("/openapi.json").json()
    assert {tool.path for tool in catalog.TOOLS.values()} < set(document["paths"])
    schemas = document["components"]["schemas"]
    for reference in re.findall(r"#/components/schemas/(\w+)", json.dumps(document)):
        assert reference in schemas
    assert schemas["OutpaintRequest"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["DeblurRequest"]
    assert schemas["EraseRequest"]["required"] == ["image", "mask"]


def test_there_are_no_finetunes(shared: Any) -> None:
    assert shared.get("/v1/my_finetunes").json() == {"finetunes": []}
    assert shared.get("/v1/finetune_details", params={"finetune_id": "x"}).status_code == 404
    assert shared.get("/v1/finetune_details").status_code == 422
    assert shared.post("delete_finetune", {"finetune_id": "x"}).status_code == 404
    assert shared.post("delete_finetune", {}).status_code == 422
    assert shared.post("delete_finetune", {"finetune_id": 5}).status_code == 422


def test_wrong_paths_and_methods_are_told_in_json(shared: Any) -> None:
    for response in (shared.get("/v1/nothing"), shared.post("flux-2-pro/", {}), shared.post("flux-pro", {})):
        assert (response.status_code, response.json()) == (404, {"detail": "Not Found", "status_code": 404})
    for response in (shared.get("/v1/flux-2-pro"), shared.http.post("/v1/get_result"), shared.http.put("/v1/credits")):
        assert response.json() == {"detail": "Method Not Allowed", "status_code": 405}
        assert response.status_code == 405


def test_a_page_whose_name_was_bent_to_this_machine_gets_no_answer(shared: Any) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        assert shared.get("/v1/credits", headers={"host": host}).status_code == 421
    for host in ("localhost", "127.0.0.1:1", "[::1]:80", "flux.localhost:8000"):
        assert shared.get("/v1/credits", headers={"host": host}).status_code == 200


def test_an_error_inside_is_a_bare_500(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(checks, "examine", broken)
    response = serving().post("flux-2-pro", {"prompt": "a"})
    assert response.json() == {"detail": "Internal Server Error", "status_code": 500}
    assert response.status_code == 500


# -- the server as a whole --------------------------------------------------------------------------------------------


async def test_our_own_client_gets_along_with_it(serving: Any) -> None:
    api = serving(key="secret")
    async with BflClient(api.url, "secret") as client:
        assert await client.engine() == "local:classical@1"
        assert await client.credits() == 1000.0
        submitted = await client.submit(catalog.TOOLS["deblur-v1"], {"image": api.base64(api.photo())})
        finished = await client.wait(submitted.id, submitted.polling_url)
        assert inspect(await client.fetch(finished)).preview == "local:classical@1"


def test_stopping_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(threading.enumerate())
    with LocalServer(workers=1, engine="gate") as server:
        with httpx.Client(base_url=server.url) as client:
            ids = [client.post("/v1/flux-2-pro", json={"prompt": "a"}).json()["id"] for _ in range(3)]
            wait_until(lambda: client.get("/v1/get_result", params={"id": ids[0]}).json()["status"] == "Ready")
        assert open_files(tmp_path)
    assert (open_files(tmp_path), list(tmp_path.iterdir())) == ([], [])
    assert set(threading.enumerate()) <= before
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/local")
    server.stop()
    assert len(server.charges) == 3


def test_it_can_be_stopped_as_soon_as_it_is_started() -> None:
    for _ in range(3):
        LocalServer().start().stop()


def test_libraries_that_are_missing_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.ENGINES, "dream", engines.Entry("1", "", needs=("numpy", "no_such_library")))
    with pytest.raises(EndpointUnreachable, match=r"needs no_such_library, .*flux-pipelines\[local\]"):
        LocalServer(engine="dream").start()


def test_two_servers_are_two_accounts(serving: Any, gate: Any) -> None:
    one, other = serving(), serving(credits=5)
    assert one.url != other.url
    job = one.finish(one.post("flux-2-pro", {"prompt": "a"}))
    assert other.poll(job["id"])["status"] == "Task not found"
    assert other.get("/v1/credits").json() == {"credits": 5}


def test_what_cannot_be_served_is_said_before_it_is_tried(serving: Any) -> None:
    with pytest.raises(RecipeError, match="loopback"):
        LocalServer(host="0.0.0.0")
    with pytest.raises(RecipeError, match="did you mean 'classical'"):
        LocalServer(engine="clasical")
    taken = httpx.URL(serving().url).port
    assert taken
    with pytest.raises(RecipeError, match="choose another"):
        LocalServer(taken).start()
    with pytest.raises(RuntimeError, match="not started"):
        _ = LocalServer().url


def test_importing_it_is_cheap_and_knows_no_prefect() -> None:
    code = (
        "import sys, flux_tasks.local\n"
        "from flux_tasks.local.engines import identity\n"
        "assert identity('classical') == 'local:classical@1'\n"
        "print([m for m in ('cv2', 'numpy', 'scipy', 'prefect', 'starlette', 'uvicorn') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_runs_as_a_program_until_it_is_told_to_stop(tmp_path: Path) -> None:
    code = "from flux_tasks.local import serve; serve(port=0)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stdout is not None
        url = program.stdout.readline().split()[0]
        assert httpx.get(f"{url}/local").json()["engine"] == "local:classical@1"
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_killed_leaves_no_result_behind(tmp_path: Path) -> None:
    code = "from flux_tasks.local import serve; serve(port=0)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stdout is not None
        url = program.stdout.readline().split()[0]
        job = httpx.post(f"{url}/v1/flux-2-pro", json={"prompt": "x", "width": 64, "height": 64}).json()
        wait_until(lambda: httpx.get(job["polling_url"]).json()["status"] == "Ready")
        sample = httpx.get(job["polling_url"]).json()["result"]["sample"]
        assert httpx.get(sample).content
        program.kill()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_stopped_while_a_request_is_open_prints_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with LocalServer(faults=[{"fault": "submit.slow", "seconds": 3600, "times": 0}]) as server:
            asking = pool.submit(httpx.post, f"{server.url}/v1/flux-2-pro", json={"prompt": "x"}, timeout=PATIENCE)
            wait_until(lambda: server.requests)
        with suppress(httpx.HTTPError):
            asking.result()
    assert [record for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in caplog.text
