"""What the server refuses, with which status and words, and in which order."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scripted import Answer, ScriptedServer

from flux_tasks import catalog
from flux_tasks.local.service import checks
from flux_tasks.local.web import wire

DEBLUR = "flux-tools/deblur-v1"
ERASE = "flux-tools/erase-v1"
OUTPAINT = "flux-tools/outpainting-v1"


def reasons(response: Any) -> list[tuple[list[Any], str]]:
    """Place and type of each schema error; fails if an error has more or less than the contract says."""
    assert response.status_code == 422, response.text
    detail = response.json()["detail"]
    assert all(set(error) == {"loc", "msg", "type"} for error in detail)
    return [(error["loc"], error["type"]) for error in detail]


def sentence(response: Any) -> str:
    assert response.status_code == 422, response.text
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    return detail


# -- key --------------------------------------------------------------------------------------------------------------


def test_without_a_key_configured_any_key_and_none_are_accepted(shared: Any) -> None:
    for headers in ({}, {"x-key": "anything"}, {"x-key": "with spaces in it"}):
        assert shared.get("/v1/credits", headers=headers).status_code == 200


def test_a_missing_or_wrong_key_is_403_on_every_route_but_polls_and_deliveries(serving: Any, gate: Any) -> None:
    api = serving(key="right")
    for headers in ({}, {"x-key": "wrong"}, {"x-key": ""}):
        for response in (
            api.get("/v1/credits", headers=headers),
            api.get("/v1/my_finetunes", headers=headers),
            api.get("/v1/finetune_details", headers=headers),
            api.post("delete_finetune", {"finetune_id": "x"}, headers=headers),
            api.post("flux-2-pro", {"prompt": "a lake"}, headers=headers),
        ):
            assert response.status_code == 403
            assert response.json() == {"detail": "Not authenticated", "status_code": 403}
    right = {"X-Key": "right"}
    assert api.get("/v1/credits", headers=right).json() == {"credits": 1000.0}
    answer = api.finish(api.post("flux-2-pro", {"prompt": "a lake"}, headers=right))
    assert api.deliver(answer).status_code == 200


def test_a_malformed_key_is_422_before_it_is_compared(serving: Any) -> None:
    api = serving(key="right")
    for key in ("two words", "k" * 300):
        response = api.post("flux-2-pro", {}, headers={"x-key": key})
        assert response.json() == {"detail": "Invalid API key format", "status_code": 422}
        assert response.status_code == 422


def test_the_key_is_looked_at_before_the_body(serving: Any) -> None:
    api = serving(key="right")
    assert api.post("flux-2-pro", content=b"not json", headers={"x-key": "wrong"}).status_code == 403
    assert api.post("flux-2-pro", {}, headers={"x-key": "right"}).status_code == 422


# -- body -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "missing"),
        (b"{", "json_invalid"),
        (b"\xff\xfe{}", "json_invalid"),
        (b'{"prompt": "\xe9"}', "json_invalid"),
        (b"[" * 100_000, "json_invalid"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "json_invalid"),
        (b"[]", "model_attributes_type"),
        (b"null", "model_attributes_type"),
        (b'"text"', "model_attributes_type"),
    ],
)
def test_a_body_that_is_no_json_object_is_told_as_fastapi_tells_it(shared: Any, raw: bytes, kind: str) -> None:
    response = shared.post("flux-2-pro", content=raw, headers={"content-type": "application/json"})
    [(place, found)] = reasons(response)
    assert place[0] == "body"
    assert found == kind


def test_nesting_of_any_depth_is_read_or_refused(shared: Any) -> None:
    for depth in (*range(850, 1010, 3), 5000):
        raw = b'{"prompt": "a", "width": 1, "other": ' + b"[" * depth + b"]" * depth + b"}"
        assert shared.post("flux-2-pro", content=raw, headers={"content-type": "application/json"}).status_code == 422


def test_a_body_of_another_media_type_is_not_read_as_json(shared: Any) -> None:
    raw = json.dumps({"prompt": "a lake"}).encode()
    form = shared.post("flux-2-pro", content=raw, headers={"content-type": "application/x-www-form-urlencoded"})
    assert reasons(form) == [(["body"], "model_attributes_type")]
    for kind in ("application/json; charset=utf-8", "application/problem+json"):
        assert shared.post("flux-2-pro", content=raw, headers={"content-type": kind}).status_code == 200
    assert shared.post("flux-2-pro", content=raw).status_code == 200


def test_every_violation_of_the_schema_is_listed_with_its_place(shared: Any) -> None:
    response = shared.post(ERASE, {"dilate_pixels": 101, "output_format": "gif", "seed": "many"})
    assert reasons(response) == [
        (["body", "image"], "missing"),
        (["body", "mask"], "missing"),
        (["body", "dilate_pixels"], "less_than_equal"),
        (["body", "seed"], "int_parsing"),
        (["body", "output_format"], "literal_error"),
    ]


def test_an_explicit_width_of_zero_is_refused_by_every_flux_2_model(shared: Any) -> None:
    for tool in catalog.TOOLS.values():
        if tool.name.startswith("flux-2-"):
            response = shared.http.post(tool.path, json={"prompt": "a lake", "finetune_id": "mine", "width": 0})
            assert reasons(response) == [(["body", "width"], "greater_than_equal")]


def test_unknown_fields_are_refused_by_the_strict_tool_alone(shared: Any) -> None:
    picture = shared.base64(shared.photo())
    canvas = {"input_image": picture, "width": 128, "height": 96}
    assert reasons(shared.post(OUTPAINT, {**canvas, "seed": 1, "webhook_url": "http://127.0.0.1:1/"})) == [
        (["body", "seed"], "extra_forbidden"),
        (["body", "webhook_url"], "extra_forbidden"),
    ]
    assert shared.post(DEBLUR, {"image": picture, "propmt": "a typo", "strength": 1}).status_code == 200


def test_a_refusal_can_be_told_whatever_the_request_holds(shared: Any) -> None:
    raw = b'{"input_image": "x", "width": 64, "height": 64, "\\ud800": 1, "prompt": "\\udfff"}'
    response = shared.post(OUTPAINT, content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert shared.get("/v1/get_result", params={"id": "\u2028 ü"}).json()["id"] == "\u2028 ü"


def test_a_field_under_its_seed_name_is_named_so_in_errors(shared: Any) -> None:
    assert reasons(shared.post("flux-kontext-pro", {"prompt": "a", "image": 5})) == [(["body", "image"], "string_type")]


def test_the_seed_name_of_a_field_does_not_outdo_the_real_one(serving: Any, gate: Any) -> None:
    api = serving()
    one, other = api.base64(api.photo(64, 64)), api.base64(api.photo(128, 64))
    api.finish(api.post("flux-kontext-pro", {"prompt": "a", "image": other, "input_image": one}))
    api.finish(api.post("flux-kontext-pro", {"prompt": "a", "image": other, "steps": 28, "guidance": 3.5}))
    assert [Image.open(io.BytesIO(work.pictures["input_image"])).size for work in gate.works] == [
        (64, 64),
        (128, 64),
    ]


def test_a_body_beyond_the_limit_is_413(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BODY", 300_000)
    response = shared.post("flux-2-pro", {"prompt": "x" * 400_000})
    assert response.status_code == 413
    assert "larger than" in response.json()["detail"]
    assert shared.post("flux-2-pro", {"prompt": "x" * 200_000}).status_code == 200


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<string>", "neither valid base64"),
        ("", "not an image|empty"),
        ("aGVsbG8gd29ybGQ=", "not an image"),
        ("aGVsbG8", "neither valid base64"),
        ("http://127.0.0.1:9/nobody.png", "could not fetch"),
        ("http://[broken", "could not fetch"),
        ("https://", "could not fetch"),
        ("ftp://host/a.png", "neither valid base64"),
        ("ünicode", "neither valid base64"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(shared: Any, text: str, why: str) -> None:
    found = sentence(shared.post(DEBLUR, {"image": text}))
    assert found.startswith("image: ")
    assert re.search(why, found), found


def test_base64_may_carry_a_data_uri_prefix_and_line_breaks(serving: Any, gate: Any) -> None:
    api = serving()
    data = api.bytes(api.photo())
    text = api.base64(api.photo())
    broken = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    for written in (text, f"data:image/png;base64,{text}", broken):
        api.finish(api.post(DEBLUR, {"image": written}))
    assert {work.pictures["image"] for work in gate.works} == {data}


def test_a_picture_may_be_given_as_an_address_wherever_one_is_taken(serving: Any, gate: Any) -> None:
    api = serving()
    data = api.bytes(api.photo(), "JPEG")
    with ScriptedServer() as web:
        web.on("GET /a.jpg", Answer(302, b"", {"location": "/b.jpg"}))
        web.on("GET /b.jpg", Answer(200, data))
        web.on("GET /page", Answer(200, b"<html>"))
        web.on("GET /gone", Answer(404, b""))
        web.on("GET /round", Answer(302, b"", {"location": "/round"}))
        url = f"{web.url}/a.jpg"
        mask = api.base64(api.mask())
        api.finish(api.post(DEBLUR, {"image": url}))
        api.finish(api.post("flux-pro-1.0-fill", {"image": url.replace("http", "HTTP", 1), "mask": mask}))
        api.finish(api.post("flux-2-pro", {"prompt": "a", "input_image": url, "input_image_2": url}))
        assert [set(work.pictures.values()) - {api.bytes(api.mask())} for work in gate.works] == [{data}] * 3
        assert "x-key" not in web.requests[0].headers
        assert "not an image" in sentence(api.post(DEBLUR, {"image": f"{web.url}/page"}))
        assert "HTTP 404" in sentence(api.post(DEBLUR, {"image": f"{web.url}/gone"}))
        assert "redirects" in sentence(api.post(DEBLUR, {"image": f"{web.url}/round"}))


def test_a_picture_beyond_20_mb_is_refused(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_INPUT_BYTES", 1000)
    noise = Image.effect_noise((80, 80), 90)
    assert "20 MB" in sentence(shared.post(DEBLUR, {"image": shared.base64(noise)}))
    monkeypatch.setattr(checks, "MAX_INPUT_BYTES", 1_000_000)
    assert "20 MB" in sentence(shared.post(DEBLUR, {"image": "A" * 4_000_000}))


def test_a_truncated_or_tiny_picture_is_refused(shared: Any) -> None:
    data = shared.bytes(shared.photo())
    assert "cut short" in sentence(shared.post(DEBLUR, {"image": base64.b64encode(data[:-40]).decode()}))
    assert "at least 64" in sentence(shared.post(DEBLUR, {"image": shared.base64(shared.photo(63, 200))}))


def flat(width: int, height: int) -> Image.Image:
    return Image.new("1", (width, height))


@pytest.mark.parametrize(
    "tool", [t for t in catalog.TOOLS.values() if t.sizes.same_size and not t.sizes.reduces], ids=lambda t: t.name
)
def test_an_edited_picture_above_the_catalogues_area_is_refused(shared: Any, tool: catalog.Tool) -> None:
    assert tool.sizes.max_area is not None
    width = tool.sizes.max_area // 1000
    body = {name: shared.base64(flat(width + 1, 1000)) for name in tool.image_fields}
    body["finetune_id"] = "any"
    why = sentence(shared.http.post(tool.path, json=body))
    assert "exceeds" in why or "20 MP" in why


def test_any_picture_above_20_mp_is_refused(shared: Any) -> None:
    body = {"prompt": "a", "input_image": shared.base64(flat(5001, 4000))}
    assert "20 MP" in sentence(shared.post("flux-2-pro", body))


def test_a_canvas_above_4_mp_is_refused_and_one_of_exactly_4_mp_is_not(serving: Any, gate: Any) -> None:
    api = serving()
    body = {"input_image": api.base64(api.photo())}
    assert "4194304" in sentence(api.post(OUTPAINT, {**body, "width": 2049, "height": 2048}))
    for width, height in ((2048, 2048), (2730, 1536), (1024, 4096), (65536, 64)):
        assert api.post(OUTPAINT, {**body, "width": width, "height": height, "auto_crop": True}).status_code == 200
    too_long = {**body, "width": 65536, "height": 64, "auto_crop": True, "output_format": "jpeg"}
    assert "output format" in sentence(api.post(OUTPAINT, too_long))
    assert "maximum area" in sentence(api.post("flux-2-pro", {"prompt": "a", "width": 2064, "height": 2048}))


def test_an_input_that_overhangs_needs_auto_crop(serving: Any, gate: Any) -> None:
    api = serving()
    body = {"input_image": api.base64(api.photo(96, 80)), "width": 128, "height": 96}
    for offsets in ({"reference_offset_x": -1}, {"reference_offset_y": 17}, {"reference_offset_x": 33}):
        assert "auto_crop" in sentence(api.post(OUTPAINT, {**body, **offsets}))
        assert api.post(OUTPAINT, {**body, **offsets, "auto_crop": True}).status_code == 200
    assert api.post(OUTPAINT, {**body, "reference_offset_x": 32, "reference_offset_y": 16}).status_code == 200
    assert "auto_crop" in sentence(api.post(OUTPAINT, {**body, "width": 64}))


@pytest.mark.parametrize("path", [ERASE, "flux-pro-1.0-fill"])
def test_a_mask_of_another_size_is_refused(shared: Any, path: str) -> None:
    body = {"image": shared.base64(shared.photo(96, 80)), "mask": shared.base64(shared.mask(80, 96))}
    why = sentence(shared.post(path, body))
    assert "80x96" in why
    assert "96x80" in why


def test_a_mask_is_compared_with_the_picture_as_people_see_it(serving: Any, gate: Any) -> None:
    api = serving()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = api.base64(api.photo(96, 80), "JPEG", exif=exif)
    assert api.post(ERASE, {"image": turned, "mask": api.base64(api.mask(80, 96))}).status_code == 200
    assert api.post(ERASE, {"image": turned, "mask": api.base64(api.mask(96, 80))}).status_code == 422


def test_fill_without_a_mask_needs_an_alpha_channel(serving: Any, gate: Any) -> None:
    api = serving()
    for path in ("flux-pro-1.0-fill", "flux-fill", "flux-pro-1.0-fill-finetuned"):
        body = {"image": api.base64(api.photo()), "finetune_id": "mine"}
        assert "alpha" in sentence(api.post(path, body))
        holed = api.photo()
        holed.putalpha(128)
        assert api.post(path, {**body, "image": api.base64(holed)}).status_code == 200


def test_an_aspect_ratio_beyond_21_to_9_is_refused(shared: Any) -> None:
    for ratio in ("22:9", "9:22", "0:1", "1:0"):
        assert "aspect_ratio" in sentence(shared.post("flux-kontext-pro", {"prompt": "a", "aspect_ratio": ratio}))
    assert reasons(shared.post("flux-kontext-pro", {"prompt": "a", "aspect_ratio": "wide"}))


def test_a_request_that_is_refused_charges_nothing(serving: Any) -> None:
    api = serving(credits=10)
    api.post(DEBLUR, {"image": "nothing"})
    api.post(DEBLUR, {})
    assert api.get("/v1/credits").json() == {"credits": 10}
    assert api.server.charges.entries == ()


# -- anything at all --------------------------------------------------------------------------------------------------

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAALUlEQVR4nO3MMQEAAAjDMEAm/oUgYg9H+je9lTXhDwAAAAAAAAAAAAAAAOA9cNbtANoGVbeYAAAAAElFTkSuQmCC"  # noqa: E501 - 64×64 px, grey
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["16:9", "png", "webp", "fast", PICTURE, "64", "http://127.0.0.1:9/x", 64, 65_536, 2**31])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    """A path, and a body that is sometimes nearly right and sometimes anything."""
    tool = draw(st.sampled_from(list(catalog.TOOLS.values())))
    if draw(st.integers(0, 9)) == 0:
        return tool.path, draw(JSON)
    names = [*tool.request.model_fields, *tool.accepts, "unknown"]
    body = draw(st.dictionaries(st.sampled_from(names), JSON, max_size=5))
    for name, info in tool.request.model_fields.items():
        if info.is_required() and draw(st.integers(0, 9)):
            body[name] = PICTURE if name in tool.image_fields else draw(st.sampled_from([64, 128, 65_537, 10**400]))
            if name in ("prompt", "finetune_id"):
                body[name] = draw(st.text(max_size=20))
    body.pop("webhook_url", None)
    return tool.path, body


def test_no_json_body_whatever_makes_a_server_error(serving: Any, gate: Any) -> None:
    api = serving(credits=1e9)

    @settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(requests())
    def ask(request: tuple[str, Any]) -> None:
        path, body = request
        raw = json.dumps(body).encode()
        response = api.http.post(path, content=raw, headers={"content-type": "application/json"})
        assert response.status_code in (200, 422, 429), response.text
        if response.status_code == 200:
            assert api.finish(response)["status"] == "Ready"
        elif response.status_code == 422:
            assert response.json()["detail"]

    ask()


def test_no_bytes_whatever_make_a_server_error(shared: Any) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(st.binary(max_size=200), st.sampled_from(["", "application/json", "text/plain", "application/json; x=y"]))
    def ask(raw: bytes, kind: str) -> None:
        headers = {"content-type": kind} if kind else {}
        assert shared.post(OUTPAINT, content=raw, headers=headers).status_code == 422

    ask()
