"""The programs and commands of the documentation, line by line as their readers have them, with another address.

The two programs behave as the quick starts of FLUX Deblur and FLUX Erase do (SEED-0, SEED-1); the bodies are those of
the endpoint reference, the Kontext description and the Fill reference (SEED-2, SEED-3, SEED-4).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

PROGRAM = """
import base64
import os
import time
import requests

API_KEY = os.environ["BFL_API_KEY"]
BASE = {base!r}
HEADERS = {{"accept": "application/json", "x-key": API_KEY, "Content-Type": "application/json"}}

payload = {payload}
for field, path in {files!r}.items():
    with open(path, "rb") as file:
        payload[field] = base64.b64encode(file.read()).decode()

submit = requests.post(f"{{BASE}}/v1/flux-tools/{tool}", headers=HEADERS, json=payload)
submit.raise_for_status()
meta = submit.json()

task_id = meta["id"]
poll_url = meta.get("polling_url", f"{{BASE}}/v1/get_result?id={{task_id}}")

while True:
    r = requests.get(poll_url, headers={{"accept": "application/json", "x-key": API_KEY}})
    r.raise_for_status()
    result = r.json()

    status = result.get("status")
    if status == "Ready":
        print("Result URL:", result["result"]["sample"])
        break
    if status in {{"Error", "Request Moderated", "Content Moderated", "Task not found"}}:
        raise RuntimeError(f"failed with status: {{status}} | payload: {{result}}")

    time.sleep(0.05)
"""


def run(tool: str, base: str, payload: dict[str, Any], files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(base=base, tool=tool, payload=payload, files=files)
    environment = {**os.environ, "BFL_API_KEY": "any key at all"}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)


@pytest.fixture
def pictures(shared: Any, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "input.png").write_bytes(shared.bytes(shared.photo()))
    (tmp_path / "mask.png").write_bytes(shared.bytes(shared.mask()))
    return {"image": str(tmp_path / "input.png"), "mask": str(tmp_path / "mask.png")}


def result_of(done: subprocess.CompletedProcess[str]) -> httpx.Response:
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Result URL: ")
    return httpx.get(done.stdout.split()[-1])


def test_the_quick_start_of_deblur_runs_with_only_its_address_changed(shared: Any, pictures: dict[str, str]) -> None:
    done = run("deblur-v1", shared.url, {"output_format": "png"}, {"image": pictures["image"]})
    assert result_of(done).headers["content-type"] == "image/png"


def test_the_quick_start_of_erase_runs_with_only_its_address_changed(shared: Any, pictures: dict[str, str]) -> None:
    done = run("erase-v1", shared.url, {"dilate_pixels": 10, "output_format": "png"}, pictures)
    assert result_of(done).headers["content-type"] == "image/png"


def test_a_mask_of_another_size_stops_the_quick_start_with_422(shared: Any, pictures: dict[str, str]) -> None:
    Path(pictures["mask"]).write_bytes(shared.bytes(shared.mask(64, 64)))
    done = run("erase-v1", shared.url, {"dilate_pixels": 10}, pictures)
    assert done.returncode == 1
    assert "422 Client Error" in done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_submits_and_polls_as_the_deblur_page_shows(shared: Any, tmp_path: Path) -> None:
    request = tmp_path / "deblur_request.json"
    request.write_text(json.dumps({"image": shared.base64(shared.photo()), "output_format": "png"}))
    headers = ["-H", "accept: application/json", "-H", "Content-Type: application/json", "-H", "x-key: any"]
    submit = ["curl", "-sS", "-X", "POST", f"{shared.url}/v1/flux-tools/deblur-v1", *headers]
    answer = subprocess.run([*submit, "--data-binary", f"@{request}"], capture_output=True, text=True, check=True)
    job = json.loads(answer.stdout)["id"]
    poll = ["curl", "-sS", f"{shared.url}/v1/get_result?id={job}", "-H", "accept: application/json"]
    polled = json.loads(subprocess.run(poll, capture_output=True, text=True, check=True).stdout)
    assert polled["id"] == job
    assert shared.finish(job)["status"] == "Ready"


def test_the_bodies_of_the_endpoint_reference_are_taken(serving: Any, gate: Any) -> None:
    api = serving()
    source = api.finish(api.post("flux-2-pro", {"prompt": "a picture to start from"}))["result"]["sample"]
    requests: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
        (
            "flux-2-pro",
            {"prompt": "A serene mountain landscape at golden hour", "width": 1024, "height": 1024},
            (1024, 1024),
        ),
        (
            "flux-2-max",
            {
                "prompt": "Professional headshot of a business executive",
                "width": 1024,
                "height": 1280,
                "seed": 42,
                "safety_tolerance": 2,
                "output_format": "png",
                "webhook_url": "http://127.0.0.1:9/webhook",
                "webhook_secret": "your-secret-key",
            },
            (1024, 1280),
        ),
        (
            "flux-kontext",
            {"prompt": "Change the background to a beach sunset", "input_image": source},
            (1024, 1024),
        ),
        (
            "flux-kontext-max",
            {
                "prompt": "Person from image 1 wearing outfit from image 2 in setting from image 3",
                "input_image": source,
                "input_image_2": source,
                "input_image_3": source,
            },
            (1024, 1024),
        ),
        (
            "flux-2-flex",
            {"prompt": 'A poster with text "SUMMER SALE" in bold typography', "steps": 50, "guidance": 7.0},
            (1024, 1024),
        ),
    ]
    for path, body, size in requests:
        job = api.post(path, body, headers={"x-key": "YOUR_API_KEY"}).json()["id"]
        answer = api.finish(job)
        assert answer["result"]["prompt"] == body["prompt"]
        assert gate.works[-1].size == size
    for size in ((1024, 1024), (1920, 1080), (1080, 1920), (1536, 1152), (2048, 1024)):
        assert api.post("flux-2-pro", {"prompt": "a", "width": size[0], "height": size[1]}).status_code == 200


def test_the_kontext_body_with_image_steps_and_guidance_is_taken(serving: Any, gate: Any) -> None:
    api = serving()
    body = {
        "prompt": "Change the car color to red, keep the background and surroundings unchanged",
        "image": api.base64(api.photo(), "JPEG"),
        "steps": 28,
        "guidance": 3.5,
        "seed": 0,
        "safety_tolerance": 2,
        "output_format": "jpeg",
        "prompt_upsampling": False,
    }
    for path in ("flux-kontext-pro", "flux-kontext-max"):
        answer = api.finish(api.post(path, body, headers={"X-Key": "any"}))
        assert answer["result"]["seed"] == 0
        assert api.deliver(answer).headers["content-type"] == "image/jpeg"
        assert gate.works[-1].pictures["input_image"] == api.bytes(api.photo(), "JPEG")


def test_the_fill_body_of_its_reference_is_taken_and_answered_with_all_five_fields(shared: Any) -> None:
    body = {
        "image": shared.base64(shared.photo()),
        "mask": shared.base64(shared.mask()),
        "prompt": "ein fantastisches bild",
        "steps": 50,
        "prompt_upsampling": False,
        "seed": 123,
        "guidance": 60,
        "output_format": "jpeg",
        "safety_tolerance": 2,
    }
    submitted = shared.post("flux-pro-1.0-fill", body, headers={"x-key": "<api-key>"})
    assert set(submitted.json()) == {"id", "polling_url", "cost", "input_mp", "output_mp"}
    assert submitted.json()["cost"] == 5
    answer = shared.finish(submitted)
    assert (answer["result"]["prompt"], answer["result"]["seed"]) == ("ein fantastisches bild", 123)
    assert shared.deliver(answer).headers["content-type"] == "image/jpeg"
