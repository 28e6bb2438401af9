"""FLUX 3 at the local server: a strict body with a list of pictures, tiers, an expanded prompt, a longer delivery."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
from PIL import Image

from flux_tasks.local import LocalServer

PATH = "flux-3-image"


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"seed": 3}, "seed"),
        ({"width": 64}, "width"),
        ({"webhook_url": "https://a.example/"}, "webhook_url"),
        ({"output_format": "png"}, "output_format"),
        ({"user": "u"}, "user"),
        ({"boxes": []}, "boxes"),
        ({"images": []}, "images"),
        ({"images": ["a"] * 11}, "images"),
        ({"resolution": "8k"}, "resolution"),
        ({"aspect_ratio": "7:3"}, "aspect_ratio"),
        ({"safety_tolerance": 5}, "safety_tolerance"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_what_the_strict_body_does_not_have_is_refused(shared: Any, more: dict[str, Any], place: str) -> None:
    answer = shared.post(PATH, {"prompt": "a lake", **more})
    assert answer.status_code == 422
    assert place in {str(part) for problem in answer.json()["detail"] for part in problem["loc"]}


@pytest.mark.parametrize(
    ("size", "what"), [((255, 300), "at least 256 px"), ((4100, 4100), "exceeds the maximum image area of 16777216 px")]
)
def test_a_picture_that_is_too_small_or_too_large_is_refused_by_its_place(
    shared: Any, size: tuple[int, int], what: str
) -> None:
    pictures = [shared.base64(Image.new("L", (256, 256))), shared.base64(Image.new("L", size))]
    answer = shared.post(PATH, {"prompt": "a lake", "images": pictures})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("images.1: ")
    assert what in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "size", "cost"),
    [
        ({}, (1024, 1024), 4.8),
        ({"resolution": "768sq"}, (768, 768), 4.1),
        ({"aspect_ratio": "21:9", "resolution": "768sq"}, (1168, 496), 4.1),
    ],
)
def test_a_result_has_about_the_megapixels_of_its_tier_and_its_price(
    shared: Any, body: dict[str, Any], size: tuple[int, int], cost: float
) -> None:
    submitted = shared.post(PATH, {"prompt": "a lake", **body})
    assert submitted.json()["cost"] == cost
    delivery = shared.deliver(shared.finish(submitted))
    assert delivery.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(delivery.content)).size == size


def test_one_picture_may_stand_for_a_list_and_the_first_one_decides_on_the_shape(shared: Any) -> None:
    wide, high = (shared.base64(shared.photo(*size)) for size in ((512, 256), (256, 512)))
    small = {"prompt": "a lake", "resolution": "768sq"}
    assert shared.make(PATH, {**small, "images": wide}).size == (1088, 544)
    assert shared.make(PATH, {**small, "images": [high, wide]}).size == (544, 1088)


def test_a_result_says_what_the_prompt_was_expanded_to(shared: Any) -> None:
    result = shared.finish(shared.post(PATH, {"prompt": "a lake", "resolution": "768sq"}))["result"]
    assert result["prompt"] == "a lake"
    assert result["expanded_prompt"].endswith("a lake")
    assert result["expanded_prompt"] != "a lake"
    other = shared.finish(shared.post("flux-2-pro", {"prompt": "a lake", "width": 64, "height": 64}))["result"]
    assert "expanded_prompt" not in other


def test_boxes_in_the_prompt_are_seen_in_the_result(shared: Any) -> None:
    photo = shared.photo(512, 512)
    photo.paste("red", (0, 0, 64, 64))
    row = '[{"id":"box_1","from":"ref_image_0","src_bbox":[0,0,130,130],"tgt_bbox":null,"desc":"a red square"}]'
    body = {"prompt": f"remove it {row}", "images": [shared.base64(photo)], "resolution": "768sq"}
    red, green, blue = shared.make(PATH, body).convert("RGB").getpixel((20, 20))
    assert (red, green, blue) != (255, 0, 0)
    assert red < 200


@pytest.mark.parametrize(("expiry", "flux_3", "other"), [(None, 3600, 600), (5.0, 5, 5)])
def test_a_delivery_of_flux_3_lives_for_an_hour_unless_the_server_is_told_otherwise(
    expiry: float | None, flux_3: float, other: float
) -> None:
    with LocalServer(virtual_time=True, expiry=expiry, retention=10_000) as server, httpx.Client(
        base_url=server.url, verify=False
    ) as client:  # fmt: skip
        for path, seconds in ((PATH, flux_3), ("flux-2-pro", other)):
            body = {"prompt": "a", **({"resolution": "768sq"} if path == PATH else {"width": 64, "height": 64})}
            job = client.post(f"/v1/{path}", json=body).json()["id"]
            answer: dict[str, Any] = {}
            while answer.get("status") != "Ready":
                answer = client.get("/v1/get_result", params={"id": job}).json()
            sample = answer["result"]["sample"]
            server.advance(seconds - 1)
            assert client.get(sample).status_code == 200
            server.advance(2)
            assert client.get(sample).status_code == 403
