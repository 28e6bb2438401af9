"""Other people's clients against the local server: ``blackforest``, the official one, and litellm's BFL provider.

Both are what the package index has, in an environment of their own (``tests/support/other_clients.py``), and get
nothing but an address and a key: ``blackforest`` as arguments, litellm as ``BFL_API_BASE`` and ``BFL_API_KEY``.
``blackforest`` is not touched at all. In litellm one function is wrapped, because no setting reaches it: the check
that a polling address is https below ``bfl.ai`` lets loopback addresses pass (see ``clients/through_litellm.py``);
one test shows what litellm does without that.

Every call of a client is made once, in one process, before the first test; the tests look at what became of it.
"""

from __future__ import annotations

import base64
import io
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from flux_tasks import catalog
from flux_tasks.local import LocalServer
from flux_tasks.local.service.charges import Entry

pytestmark = pytest.mark.early

pytest_plugins = ["other_clients"]

SCRIPTS = Path(__file__).parent
KEY = "3b3c0f1e-0000-4000-8000-00000000beef"
WRONG_KEY = "3b3c0f1e-0000-4000-8000-00000000dead"
GONE = {"flux-pro", "flux-pro-1.0-canny", "flux-pro-1.0-depth"}
"""Tools that these clients still know and the service has no more (OAS-0919)."""


def photo(width: int = 256, height: int = 256) -> bytes:
    across, down = Image.linear_gradient("L").rotate(90), Image.linear_gradient("L")
    picture = Image.merge("RGB", (across, down, Image.radial_gradient("L"))).resize((width, height))
    return png(picture)


def mask(width: int = 256, height: int = 256) -> bytes:
    picture = Image.new("L", (width, height))
    picture.paste(255, (40, 40, 90, 100))
    return png(picture)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Told:
    """What one client was told by one server, call by call."""

    server: LocalServer
    models: Any
    answers: dict[str, dict[str, Any]]

    def picture(self, name: str) -> tuple[Image.Image, Entry]:
        """What the call brought, fetched from the address that the client was given, and the charge it is for."""
        assert "error" not in self.answers[name], self.answers[name]
        answer = self.answers[name]
        url = answer["result"]["sample"] if "result" in answer else answer["url"]
        before = {entry.id: entry for entry in self.server.charges.entries}
        response = httpx.get(url)
        (entry,) = [entry for entry in self.server.charges.entries if entry != before[entry.id]]
        assert entry.deliveries == before[entry.id].deliveries + 1
        picture = Image.open(io.BytesIO(response.content))
        picture.load()
        assert response.headers["content-type"] == f"image/{str(picture.format).lower()}"
        return picture, entry


def check_paid_once(entry: Entry, tool: str) -> None:
    price = catalog.TOOLS[tool].price
    assert (entry.tool, entry.status, entry.settled) == (tool, "Ready", entry.cost)
    if price.per == "image":
        assert entry.cost == price.first


# -- blackforest ------------------------------------------------------------------------------------------------------

OFFICIAL: dict[str, tuple[str, str, tuple[int, int]]] = {
    # name of the call: tool, format and size of what it brings
    "flux-dev": ("flux-dev", "JPEG", (256, 288)),
    "flux-pro-1.1": ("flux-pro-1.1", "PNG", (288, 256)),
    "flux-pro-1.1, asked for one status at a time": ("flux-pro-1.1", "JPEG", (256, 256)),
    "flux-pro-1.1 by a picture": ("flux-pro-1.1", "JPEG", (256, 256)),
    "flux-pro-1.1-ultra": ("flux-pro-1.1-ultra", "JPEG", (2720, 1536)),
    "flux-pro-1.0-fill": ("flux-pro-1.0-fill", "JPEG", (256, 256)),
    "flux-pro-1.0-expand": ("flux-pro-1.0-expand", "PNG", (288, 320)),
    "flux-kontext-pro": ("flux-kontext-pro", "PNG", (1024, 1024)),
    "flux-kontext-pro on a path": ("flux-kontext-pro", "PNG", (1024, 1024)),
    "flux-kontext-pro on an address": ("flux-kontext-pro", "JPEG", (1024, 1024)),
    "deblur by process_image on a path": ("deblur-v1", "PNG", (256, 256)),
    "erase by process_image on base64": ("erase-v1", "PNG", (256, 256)),
    "fill by process_image on a path": ("flux-pro-1.0-fill", "PNG", (256, 256)),
    "expand by process_image on a path": ("flux-pro-1.0-expand", "PNG", (272, 256)),
}


def official_calls(folder: Path, address: str) -> dict[str, dict[str, Any]]:
    path, image, white = str(folder / "photo.png"), text(photo()), text(mask())
    tools = "/v1/flux-tools"

    def generate(model: str, **inputs: Any) -> dict[str, Any]:
        return {"do": "generate and wait", "model": model, "inputs": inputs}

    def process(given: Any, endpoint: str, **inputs: Any) -> dict[str, Any]:
        return {"do": "process and wait", "input": given, "endpoint": endpoint, "inputs": inputs}

    small = {"prompt": "a hill", "width": 256, "height": 256}
    return {
        "flux-dev": generate("flux-dev", prompt="a hill", width=256, height=288, steps=1, seed=7),
        "flux-pro-1.1": generate("flux-pro-1.1", prompt="a hill", width=288, height=256, output_format="png"),
        "flux-pro-1.1, asked for one status at a time": {
            **generate("flux-pro-1.1", **small),
            "do": "generate and ask",
        },
        "flux-pro-1.1 by a picture": generate("flux-pro-1.1", **{**small, "prompt": ""}, image_prompt=image),
        "flux-pro-1.1-ultra": generate("flux-pro-1.1-ultra", prompt="a hill", raw=True),
        "flux-pro-1.0-fill": generate("flux-pro-1.0-fill", prompt="grass", image=image, mask=white),
        "flux-pro-1.0-expand": generate(
            "flux-pro-1.0-expand", prompt="sky", image=image, top=64, left=32, output_format="png"
        ),
        "flux-kontext-pro": generate("flux-kontext-pro", prompt="at dusk", input_image=image, input_image_2=image),
        "flux-kontext-pro on a path": generate("flux-kontext-pro", prompt="at dusk", input_image=path),
        "flux-kontext-pro on an address": generate(
            "flux-kontext-pro", prompt="at dusk", input_image=address, aspect_ratio="1:1", output_format="jpeg"
        ),
        "deblur by process_image on a path": process(path, f"{tools}/deblur-v1", output_format="png"),
        "erase by process_image on base64": process(
            {"image_data": image}, f"{tools}/erase-v1", mask=white, output_format="png"
        ),
        "fill by process_image on a path": process(path, "/v1/flux-pro-1.0-fill", mask=white, output_format="png"),
        "expand by process_image on a path": process(path, "/v1/flux-pro-1.0-expand", right=16, output_format="png"),
        # what is refused
        "flux-pro": generate("flux-pro", **small),
        "flux-pro-1.0-canny": generate("flux-pro-1.0-canny", prompt="a hill", control_image=image),
        "flux-pro-1.0-depth": generate("flux-pro-1.0-depth", prompt="a hill", control_image=image),
        "process_image with its default address": {"do": "process with defaults", "input": path},
        "process_image for outpainting": process(path, f"{tools}/outpainting-v1", width=320, height=320),
        "process_image on a folder": process({"folder_path": str(folder / "two")}, f"{tools}/deblur-v1"),
        "process_image on a zip": process({"zip_path": str(folder / "two.zip")}, f"{tools}/deblur-v1"),
        "an unknown job": {"do": "ask", "id": "00000000-0000-4000-8000-000000000000"},
        "a report of usage": {"do": "report usage", "model": "flux-dev"},
        "a wrong key": {"as": "stranger", **generate("flux-dev", **small)},
        "a wrong key and a body that breaks the schema": {
            "as": "stranger",
            **generate("flux-pro-1.1-ultra", prompt="a hill", aspect_ratio="wide"),
        },
        "a body that breaks the schema": generate("flux-pro-1.1-ultra", prompt="a hill", aspect_ratio="wide"),
        "a ratio beyond 9:21": generate("flux-kontext-pro", prompt="at dusk", aspect_ratio="1:4"),
        "a mask of another size": generate("flux-pro-1.0-fill", prompt="grass", image=image, mask=text(mask(256, 128))),
        "out of credits": {"as": "poor", **generate("flux-dev", **small)},
    }


@pytest.fixture(scope="module")
def official(other_clients: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("official")
    (folder / "two").mkdir()
    with zipfile.ZipFile(folder / "two.zip", "w") as archive:
        for name in ("photo.png", "two/a.png", "two/b.png"):
            (folder / name).write_bytes(photo())
            archive.write(folder / name)
    with LocalServer(key=KEY) as server, LocalServer(key=KEY, credits=1) as poor:
        address = first_picture(server)
        plan = {
            "url": server.url,
            "key": KEY,
            "others": {
                "stranger": {"api_key": WRONG_KEY, "base_url": server.url},
                "poor": {"api_key": KEY, "base_url": poor.url},
            },
            "calls": official_calls(folder, address),
        }
        answers = other_clients.run(SCRIPTS / "official.py", plan, folder)
        assert len(poor.charges) == 0
        yield Told(server, answers["models"], answers["told"])


def first_picture(server: LocalServer) -> str:
    """The address of a picture that the server made before."""
    body = {"prompt": "a picture to start from", "width": 256, "height": 256}
    job = httpx.post(f"{server.url}/v1/flux-dev", json=body, headers={"x-key": KEY}).json()
    while (answer := httpx.get(job["polling_url"]).json())["status"] == "Pending":
        time.sleep(0.01)
    return str(answer["result"]["sample"])


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_client_makes_a_picture_and_pays_once(official: Told, name: str) -> None:
    tool, file_format, size = OFFICIAL[name]
    picture, entry = official.picture(name)
    assert (picture.format, picture.size) == (file_format, size)
    assert entry.id == official.answers[name]["id"]
    check_paid_once(entry, tool)


def test_every_tool_of_the_official_client_is_called(official: Told) -> None:
    assert {*official.models} == {*official.models} & {*OFFICIAL} | GONE


def test_the_official_client_is_charged_for_its_pictures_and_nothing_else(official: Told) -> None:
    paid = [official.answers[name]["id"] for name in OFFICIAL]
    assert len(official.server.charges) == len({*paid}) + 1  # and the one to start from


def test_the_official_client_polls_the_address_it_was_given(official: Told) -> None:
    answer = official.answers["flux-pro-1.1, asked for one status at a time"]
    assert answer["polling_url"] == f"{official.server.url}/v1/get_result?id={answer['id']}"
    assert answer["status"] == "Ready"


@pytest.mark.parametrize("model", sorted(GONE))
def test_the_official_client_hears_404_of_a_tool_that_the_service_has_no_more(official: Told, model: str) -> None:
    check_refused(official, model, 404, "Not Found", {"detail": "Not Found"})


@pytest.mark.parametrize("name", ["process_image with its default address", "a report of usage"])
def test_the_official_client_hears_404_of_addresses_that_are_not_of_tools(official: Told, name: str) -> None:
    check_refused(official, name, 404, "Not Found", {"detail": "Not Found"})


def test_the_official_client_hears_404_of_an_unknown_job(official: Told) -> None:
    answer = official.answers["an unknown job"]
    assert answer["error"].partition("404 Client Error: Not Found")[1], answer
    assert (answer["status_code"], answer["body"]["status"]) == (404, "Task not found")


@pytest.mark.parametrize("name", ["a wrong key", "a wrong key and a body that breaks the schema"])
def test_the_official_client_hears_403_with_a_wrong_key(official: Told, name: str) -> None:
    check_refused(official, name, 403, "Forbidden", {"detail": "Not authenticated"})


def test_the_official_client_hears_402_when_the_account_is_empty(official: Told) -> None:
    told = {"detail": "Insufficient credits: 2.5 needed, 1 left"}
    check_refused(official, "out of credits", 402, "Payment Required", told)


def test_the_official_client_hears_422_with_a_list_when_a_body_breaks_the_schema(official: Told) -> None:
    body = official.answers["a body that breaks the schema"]["body"]
    check_refused(official, "a body that breaks the schema", 422, "Unprocessable", body)
    assert [(entry["type"], entry["loc"]) for entry in body["detail"]] == [
        ("string_pattern_mismatch", ["body", "aspect_ratio"])
    ]


@pytest.mark.parametrize("name", ["process_image on a folder", "process_image on a zip"])
def test_the_official_client_hears_422_when_it_sends_several_pictures_as_one(official: Told, name: str) -> None:
    body = official.answers[name]["body"]
    check_refused(official, name, 422, "Unprocessable", body)
    assert [(entry["type"], entry["loc"]) for entry in body["detail"]] == [("string_type", ["body", "image"])]


def test_the_official_client_hears_422_when_it_calls_the_picture_image_where_only_input_image_is_taken(
    official: Told,
) -> None:
    body = official.answers["process_image for outpainting"]["body"]
    check_refused(official, "process_image for outpainting", 422, "Unprocessable", body)
    assert [(entry["type"], entry["loc"]) for entry in body["detail"]] == [
        ("missing", ["body", "input_image"]),
        ("extra_forbidden", ["body", "image"]),
    ]


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("a ratio beyond 9:21", "aspect_ratio must be between 21:9 and 9:21"),
        ("a mask of another size", "mask dimensions 256x128 do not match the image dimensions 256x256"),
    ],
)
def test_the_official_client_hears_422_with_a_sentence_when_things_do_not_fit(
    official: Told, name: str, detail: str
) -> None:
    check_refused(official, name, 422, "Unprocessable", {"detail": detail})


def check_refused(official: Told, name: str, status: int, reason: str, body: Any) -> None:
    """The client raises ``BFLError`` with the status; the body it keeps to itself, in the exception's cause."""
    answer = official.answers[name]
    assert answer["error"].partition(f"{status} Client Error: {reason}")[1], answer
    assert (answer["status_code"], answer["body"]) == (status, {**body, "status_code": status})


# -- litellm ----------------------------------------------------------------------------------------------------------

LITELLM: dict[str, tuple[str, str, tuple[int, int]]] = {
    # name of the call: tool, format and size of what it brings
    "image_generation flux-pro-1.1": ("flux-pro-1.1", "PNG", (256, 256)),
    "image_generation flux-pro-1.1-ultra": ("flux-pro-1.1-ultra", "JPEG", (2048, 2048)),
    "image_generation flux-dev": ("flux-dev", "PNG", (512, 512)),
    "image_generation flux-kontext-pro": ("flux-kontext-pro", "PNG", (1024, 1024)),
    "image_generation flux-kontext-max": ("flux-kontext-max", "PNG", (1024, 1024)),
    "aimage_generation flux-dev": ("flux-dev", "JPEG", (288, 256)),
    "aimage_generation flux-pro-1.1": ("flux-pro-1.1", "PNG", (1024, 768)),
    "image_edit flux-kontext-pro": ("flux-kontext-pro", "PNG", (1024, 1024)),
    "image_edit flux-kontext-max": ("flux-kontext-max", "JPEG", (1024, 1024)),
    "aimage_edit flux-kontext-pro": ("flux-kontext-pro", "PNG", (1024, 1024)),
}
MISTAKEN = {"flux-pro-1.0-fill", "flux-pro-1.0-expand"}
"""Tools for which litellm sends ``input_image``, whereas the service asks for ``image`` (OAS-0919, SEED-4)."""


def litellm_calls() -> dict[str, dict[str, Any]]:
    image, white = text(photo()), text(mask())

    def generate(model: str, function: str = "image_generation", **inputs: Any) -> dict[str, Any]:
        named = {"model": f"black_forest_labs/{model}", "prompt": "a hill", **inputs}
        return {"function": function, "arguments": named}

    def edit(model: str, function: str = "image_edit", **inputs: Any) -> dict[str, Any]:
        return {**generate(model, function, **inputs), "image": image}

    return {
        "image_generation flux-pro-1.1": generate("flux-pro-1.1", size="256x256", n=1, quality="standard"),
        "image_generation flux-pro-1.1-ultra": generate(
            "flux-pro-1.1-ultra", aspect_ratio="1:1", quality="hd", output_format="jpeg"
        ),
        "image_generation flux-dev": generate("flux-dev", size="512x512", seed=7, safety_tolerance=5),
        "image_generation flux-kontext-pro": generate("flux-kontext-pro", aspect_ratio="1:1"),
        "image_generation flux-kontext-max": generate("flux-kontext-max", prompt_upsampling=True),
        "aimage_generation flux-dev": generate("flux-dev", "aimage_generation", size="288x256", output_format="jpeg"),
        "aimage_generation flux-pro-1.1": generate("flux-pro-1.1", "aimage_generation"),
        "image_edit flux-kontext-pro": edit("flux-kontext-pro"),
        "image_edit flux-kontext-max": edit("flux-kontext-max", seed=7, output_format="jpeg"),
        "aimage_edit flux-kontext-pro": edit("flux-kontext-pro", "aimage_edit", aspect_ratio="1:1"),
        # what is refused
        "flux-pro": generate("flux-pro"),
        "flux-pro-1.0-fill": {**edit("flux-pro-1.0-fill"), "mask": white},
        "flux-pro-1.0-expand": edit("flux-pro-1.0-expand", top=64, left=32),
        "a body that breaks the schema": generate("flux-pro-1.1", size="1792x1024"),
        "a body that breaks the schema, asynchronously": generate(
            "flux-pro-1.1", "aimage_generation", size="1792x1024"
        ),
        "a ratio beyond 9:21": edit("flux-kontext-pro", aspect_ratio="1:4"),
    }


@pytest.fixture(scope="module")
def through_litellm(other_clients: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("litellm")
    calls = litellm_calls()
    with LocalServer(key=KEY) as server, LocalServer(key=KEY, credits=1) as poor, LocalServer(key=KEY) as aside:
        generate, edit = calls["image_generation flux-dev"], calls["image_edit flux-kontext-pro"]
        account = {"api_base": poor.url, "api_key": KEY}
        stranger = {"api_base": server.url, "api_key": WRONG_KEY}
        plan = {
            "untouched": {
                "litellm as it comes": {**edit, "arguments": {**edit["arguments"], "api_base": aside.url}},
            },
            "elsewhere": {
                "a wrong key": {**generate, "environment": {"BFL_API_KEY": WRONG_KEY}},
                "a wrong key as argument": {
                    **edit,
                    "arguments": {**edit["arguments"], **stranger},
                    "environment": {},
                },
                "out of credits": {**generate, "environment": {"BFL_API_BASE": poor.url}},
                "out of credits, editing": {
                    **edit,
                    "arguments": {**edit["arguments"], **account},
                    "environment": {},
                },
            },
            "calls": calls,
        }
        environment = {"BFL_API_BASE": server.url, "BFL_API_KEY": KEY}
        answers = other_clients.run(SCRIPTS / "through_litellm.py", plan, folder, **environment)
        assert len(poor.charges) == 0
        answers["told"]["litellm as it comes"]["charges"] = [entry.tool for entry in aside.charges.entries]
        yield Told(server, answers["models"], answers["told"])


@pytest.mark.parametrize("name", LITELLM)
def test_litellm_makes_a_picture_and_pays_once(through_litellm: Told, name: str) -> None:
    tool, file_format, size = LITELLM[name]
    picture, entry = through_litellm.picture(name)
    assert (picture.format, picture.size) == (file_format, size)
    check_paid_once(entry, tool)


def test_every_tool_of_litellm_is_called(through_litellm: Told) -> None:
    models = through_litellm.models
    known = {f"image_generation {name}" for name in models["generate"]} | {f"image_edit {n}" for n in models["edit"]}
    assert known <= {*LITELLM} | {f"image_generation {name}" for name in GONE} | {f"image_edit {n}" for n in MISTAKEN}
    assert {*models["priced"]} == {*models["generate"], *models["edit"]}


def test_litellm_is_charged_for_its_pictures_and_nothing_else(through_litellm: Told) -> None:
    charges = sorted(entry.tool for entry in through_litellm.server.charges.entries)
    assert charges == sorted(tool for tool, _, _ in LITELLM.values())


@pytest.mark.parametrize("name", LITELLM)
def test_litellm_reckons_with_the_price_that_the_server_charges(through_litellm: Told, name: str) -> None:
    dollars = through_litellm.answers[name]["usd"]
    assert dollars == pytest.approx(catalog.TOOLS[LITELLM[name][0]].price.first / 100)


def test_litellm_hears_404_of_a_tool_that_the_service_has_no_more(through_litellm: Told) -> None:
    check_raised(through_litellm, "flux-pro", 404, "Not Found", {"detail": "Not Found"})


@pytest.mark.parametrize("name", sorted(MISTAKEN))
def test_litellm_hears_422_where_it_sends_the_picture_under_another_name(through_litellm: Told, name: str) -> None:
    missing = {"type": "missing", "loc": ["body", "image"], "msg": "Field required"}
    check_raised(through_litellm, name, 422, "Unprocessable", {"detail": [missing]})


@pytest.mark.parametrize("name", ["a wrong key", "a wrong key as argument"])
def test_litellm_hears_403_with_a_wrong_key(through_litellm: Told, name: str) -> None:
    check_raised(through_litellm, name, 403, "Forbidden", {"detail": "Not authenticated"})


@pytest.mark.parametrize(("name", "needed"), [("out of credits", "2.5"), ("out of credits, editing", "4")])
def test_litellm_hears_402_when_the_account_is_empty(through_litellm: Told, name: str, needed: str) -> None:
    told = {"detail": f"Insufficient credits: {needed} needed, 1 left"}
    check_raised(through_litellm, name, 402, "Payment Required", told)


@pytest.mark.parametrize("name", ["a body that breaks the schema", "a body that breaks the schema, asynchronously"])
def test_litellm_hears_422_with_a_list_when_a_body_breaks_the_schema(through_litellm: Told, name: str) -> None:
    too_wide = {
        "type": "less_than_equal",
        "loc": ["body", "width"],
        "msg": "Input should be less than or equal to 1440",
    }
    check_raised(through_litellm, name, 422, "Unprocessable", {"detail": [too_wide]})


def test_litellm_hears_422_with_a_sentence_when_things_do_not_fit(through_litellm: Told) -> None:
    told = {"detail": "aspect_ratio must be between 21:9 and 9:21"}
    check_raised(through_litellm, "a ratio beyond 9:21", 422, "Unprocessable", told)


def test_litellm_as_it_comes_pays_and_then_refuses_the_polling_address(through_litellm: Told) -> None:
    """Its check of that address is the one thing that the script changes; should this fail, the change can go."""
    answer = through_litellm.answers["litellm as it comes"]
    assert "Rejected polling URL: scheme must be https" in answer["error"]
    assert answer["charges"] == ["flux-kontext-pro"]


def check_raised(through_litellm: Told, name: str, status: int, reason: str, body: Any) -> None:
    """litellm raises ``InternalServerError`` whatever the status, names that, and keeps the body in the causes."""
    answer = through_litellm.answers[name]
    assert answer.get("kind") == "InternalServerError", answer
    assert f"Client error '{status} {reason}" in answer["error"]
    assert (answer["status_code"], answer["body"]) == (status, {**body, "status_code": status})
