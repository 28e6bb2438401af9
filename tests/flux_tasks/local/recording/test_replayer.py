"""What a replay says to what was not recorded, and to a folder that is no recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_bfl import FakeBfl
from recorded import (
    POST,
    body,
    deblur,
    documents,
    poll,
    post,
    recording,
    replaying,
    with_client,
)
from scripted import Answer

from flux_tasks.errors import RecipeError
from flux_tasks.local.recording.replayer import ReplayApi
from flux_tasks.local.recording.scrub import request_key

# -- what was not recorded --------------------------------------------------------------------------------------------


def test_what_was_not_recorded_is_refused_with_the_field_that_differs(bfl: FakeBfl, folder: Path) -> None:
    with recording(bfl, folder) as url:
        post(url, body(1, prompt="a lake"))
        post(url, body(2, safety_tolerance=3))
    with replaying(folder) as url:

        def said(content: dict[str, Any], tool: str = "flux-tools/deblur-v1") -> str:
            answer = post(url, content, tool)
            assert answer.status_code == 404
            return str(answer.json()["detail"])

        other_seed = said({**body(1, prompt="a lake"), "seed": 4})
        assert other_seed.startswith("not recorded: deblur-v1 was not called like this; the nearest is 0001-deblur-v1-")
        assert other_seed.endswith(": seed is 4, recorded is 1")
        assert "image is image/png of" in said({**body(2, safety_tolerance=3), "image": body(5)["image"]})
        assert "safety_tolerance is missing (recorded: 3)" in said(body(2))
        assert "output_format was not given then" in said(body(2, safety_tolerance=3, output_format="png"))
        assert "erase-v1 was never called; these were: deblur-v1" in said(body(), "flux-tools/erase-v1")
        assert httpx.get(f"{url}/v1/credits").json() == {"detail": "not recorded: GET /v1/credits"}
        unknown = poll(url, "nobody")
        assert (unknown.status_code, unknown.json()["status"], unknown.json()["id"]) == (
            404,
            "Task not found",
            "nobody",
        )
        assert httpx.get(f"{url}/delivery/x/y.png").status_code == 404


def test_other_answers_of_the_account_are_replayed_in_turn(bfl: FakeBfl, folder: Path) -> None:
    bfl.on("GET /v1/credits", Answer(200, {"credits": 9}), Answer(200, {"credits": 6}))
    with recording(bfl, folder) as url:
        assert [httpx.get(f"{url}/v1/credits").json()["credits"] for _ in range(3)] == [9, 6, 6]
        assert poll(url, "elsewhere").status_code == 404
    with replaying(folder) as url:
        assert [httpx.get(f"{url}/v1/credits").json()["credits"] for _ in range(3)] == [9, 6, 6]
        assert poll(url, "elsewhere").json() == {"id": "elsewhere", "status": "Task not found"}
    assert [document["kind"] for document in documents(folder)] == ["get", "get"]


def test_a_folder_that_is_no_recording_is_refused_with_everything_that_is_wrong(bfl: FakeBfl, folder: Path) -> None:
    with recording(bfl, folder) as url:
        for seed in range(4):
            with_client(url, lambda client, seed=seed: deblur(client, seed=seed))
    files = sorted(folder.glob("*.json"))
    files[0].write_text("{ cut")
    files[1].write_text(json.dumps({**json.loads(files[1].read_text()), "format": 2}))
    files[2].with_suffix(".png").write_bytes(b"changed")
    files[3].with_suffix(".png").unlink()
    (folder / "holiday.jpg").write_bytes(b"x")
    (folder / "package.json").write_text("{}")
    (folder / "README.md").write_text("a note")
    (folder / ".gitignore").write_text("")
    with pytest.raises(RecipeError) as caught:
        ReplayApi(url="http://127.0.0.1:1", folder=folder)
    told = {problem.where: problem.what for problem in caught.value.problems}
    assert told == {
        files[0].name: "is damaged: it holds no JSON object",
        files[1].name: "is not a recorded pair: format Input should be 1",
        files[2].with_suffix(".png").name: "is damaged: its bytes are not those that were delivered",
        files[3].with_suffix(".png").name: "cannot be read: No such file or directory",
        "holiday.jpg": "belongs to no recorded pair: move it elsewhere",
        "package.json": told["package.json"],
    }
    assert "path Field required" in told["package.json"]
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", ".hidden", "a\\b"])
def test_a_pair_that_names_a_file_elsewhere_is_refused(bfl: FakeBfl, folder: Path, name: str) -> None:
    with recording(bfl, folder) as url:
        with_client(url, deblur)
    [file] = folder.glob("*.json")
    document = json.loads(file.read_text())
    document["delivery"]["file"] = name
    file.write_text(json.dumps(document))
    with pytest.raises(RecipeError, match=r"delivery\.file"):
        ReplayApi(url="http://127.0.0.1:1", folder=folder)


def test_an_empty_or_absent_folder_says_how_recordings_are_made(folder: Path) -> None:
    with pytest.raises(RecipeError, match="no recordings: make some with flux-pipelines local --record"):
        ReplayApi(url="http://127.0.0.1:1", folder=folder)


@pytest.mark.parametrize("raw", [b"", b"no json", b"[1]", b"\xff", b'{"prompt": "\\ud800"}'])
def test_a_body_that_is_no_request_passes_as_it_is_and_is_found_again(bfl: FakeBfl, folder: Path, raw: bytes) -> None:
    bfl.on(POST, Answer(422, {"detail": [{"loc": ["body"], "msg": "no", "type": "x"}]}))
    with recording(bfl, folder) as url:
        assert httpx.post(f"{url}/v1/flux-tools/deblur-v1", content=raw).status_code == 422
    assert bfl.seen(POST)[0].body == raw
    with replaying(folder) as url:
        assert httpx.post(f"{url}/v1/flux-tools/deblur-v1", content=raw).status_code == 422
    assert documents(folder)[0]["key"] == request_key(raw)


def test_a_body_that_is_nested_beyond_reason_costs_no_id(bfl: FakeBfl, folder: Path) -> None:
    raw = b'{"prompt": ' + b"[" * 400 + b"]" * 400 + b"}"
    bfl.on(POST, Answer(200, {"id": "job-1"}))
    bfl.on("GET /v1/get_result", Answer(200, {"id": "job-1", "status": "Error", "details": json.loads(raw)}))
    for server in (recording(bfl, folder), replaying(folder)):
        with server as url:
            answer = httpx.post(f"{url}/v1/flux-tools/deblur-v1", content=raw)
            assert answer.json()["id"] == "job-1"
            assert poll(url).json()["details"] == json.loads(raw)
