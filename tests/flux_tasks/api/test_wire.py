"""What goes over the wire: every tool, every field of it, byte for byte.

The tables below were written by hand from the official OpenAPI document of 2026-09-19 and the docs pages, not from the
catalogue, so that catalogue and client cannot be wrong together. They are written in JSON, as it is to arrive: a test
reads a line as what the user asks for, and compares the same line with the bytes that the server was sent. In these
lines ``<1.png>`` stands for the base64 of that file.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
from cases import Cases
from fake_bfl import FakeBfl
from pictures import encoded, noise
from PIL import Image
from scripted import Request

import flux_tasks
from flux_tasks import background, catalog
from flux_tasks.errors import InvalidRequest
from flux_tasks.jobs import job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings, use
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store

FACTS = json.loads(Path(__file__).parents[2].joinpath("data", "contract_facts.json").read_text(encoding="utf-8"))

# -- what the contract says -------------------------------------------------------------------------------------------

URL = "https://hooks.example/"
WORDS = r'"Grüße aus 東京 🐈: \"now\" \\ C:/x\n\t\u0001 <b>&amp;</b>"'

KINDS: dict[str, tuple[str, str]] = {
    # JSON values that are sent as they are (the lowest and the highest among them); values that are refused.
    "text": (WORDS, '"" | " " | null | 7 | true'),
    "text?": (f'{WORDS} | "" | null', "7 | true"),
    "text0": (f'{WORDS} | ""', "null | 7 | true"),
    "path?": ('"in/1.png" | null', "7"),
    "finetune_id": ('"my-finetune" | "org-id/lora-name"', "null | 7"),
    "user": (f'"u" | "{"ü" * 256}" | null', f'"" | "{"u" * 257}" | 7'),
    "webhook_url": (
        f'"http://a" | "{URL}flux?job=1&of=2" | "{URL.ljust(2083, "x")}" | null',
        f'"" | "{URL.ljust(2084, "x")}" | "hooks.example" | "ftp://hooks.example/" | 7',
    ),
    "webhook_secret": ('"s3cret ß" | "" | null', "7 | true"),
    "words": ('"Grüße aus 東京 🐈"', '"" | " " | null | 7 | true'),
    "preset": ('"auto" | "21:9" | "7:5" | "9:21"', 'null | "7:3" | "16:10" | "" | "AUTO" | 1.5'),
    "tier": ('"768sq" | "1k" | "1.5k" | "2k" | "4k"', 'null | "8k" | "1K" | "" | 1'),
    "0..4": ("0 | 4", 'null | -1 | 5 | 2.5 | true | "2"'),
    "release": ('"latest" | "2026-10-01"', "null | 7"),
    "strength": ("0 | 1.25 | 7", "null | NaN | true"),
    "bool": ("true | false", 'null | 1 | "true"'),
    "bool?": ("true | false | null", '1 | "true"'),
    # Only SEED-3 names a lowest seed.
    "seed": ("0 | 2147483648 | 9007199254740993 | null", '-1 | 0.5 | true | "7"'),
    "output_format": ('"jpeg" | "png" | "webp" | null', '"jpg" | "PNG" | "" | 1'),
    "mode": ('"high" | "fast"', 'null | "low" | "High"'),
    "0..5": ("0 | 5", 'null | -1 | 6 | 2.5 | true | "2"'),
    "0..6": ("0 | 6", 'null | -1 | 7 | 2.5 | true | "2"'),
    # The specification says 25, the docs page 100: 0 to 100 is sent, with a word of warning above 25.
    "dilate_pixels": ("0 | 25 | 100", "null | -1 | 101 | 1.5"),
    "15..50": ("15 | 50", "null | 14 | 51 | 15.5"),
    "15..50?": ("15 | 50 | null", "14 | 51 | 15.5"),
    "1..50?": ("1 | 50 | null", "0 | 51 | 1.5"),
    "0..2048?": ("0 | 2048 | null", "-1 | 2049 | 0.5"),
    "1.5..100": ("1.5 | 60 | 60.0 | 100", "null | 1.49 | 100.01 | NaN | true"),
    "1.5..100?": ("1.5 | 60 | 60.0 | 100 | null", "1.49 | 100.01 | NaN | true"),
    "1.5..10?": ("1.5 | 10 | null", "1.49 | 10.01 | NaN | true"),
    "1.5..5?": ("1.5 | 5 | null", "1.49 | 5.01 | NaN | true"),
    "0..2.0": ("0 | 1.25 | 2", "null | -0.01 | 2.01 | NaN"),
    "0..1.0": ("0 | 0.25 | 1", "null | -0.01 | 1.01 | NaN"),
    "ratio": ('"21:9" | "9:21" | "1:1"', 'null | "22:9" | "9:22" | "0:9" | "١٦:٩" | "16x9" | "wide" | "" | 1.5'),
    "ratio?": ('"21:9" | "9:21" | "1:1" | null', '"22:9" | "9:22" | "0:9" | "١٦:٩" | "16x9" | "wide" | "" | 1.5'),
    "256..1440*32": ("256 | 1024 | 1440", "null | 224 | 255 | 257 | 1439 | 1441 | 1472"),
    "64..": ("64 | 80 | 2048", "0 | 63 | 64.5"),
    "canvas": ("64 | 32768", "null | 0 | 63 | 32784 | 64.5"),  # times 128 is 4,194,304: the largest canvas
    "offset?": ("0 | 7 | 64 | null", "-1 | 65 | 0.5"),  # of a picture of 64 px on 128 px
}

CALL_BACK = "webhook_url webhook_secret"
CALLED_BACK = '"webhook_url":"https://hooks.example/?a=1","webhook_secret":"s3cret"}'
FOUR = "input_image input_image_2 input_image_3 input_image_4"
EIGHT = f"{FOUR} input_image_5 input_image_6 input_image_7 input_image_8"
FOUR_SENT = '"input_image":"<1.png>","input_image_2":"<2.jpg>","input_image_3":"<3.webp>","input_image_4":"<4.png>"'
MORE_SENT = '"input_image_5":"<5.jpg>","input_image_6":"<6.webp>","input_image_7":"<7.png>","input_image_8":"<8.jpg>"'
EIGHT_SENT = f"{FOUR_SENT},{MORE_SENT}"

# One entry a tool: ``pictures`` and ``fields`` (with the name of their kind, unless that is the field's own name),
# bodies with the least and the most that can be said, and further ones. Pictures named in ``alone`` are optional.

DEBLUR = {
    "task": "deblur",
    "pictures": "image",
    "fields": f"user seed safety_tolerance=0..5 output_format {CALL_BACK}",
    "least": '{"image":"<1.png>"}',
    "most": '{"image":"<2.jpg>","seed":42,"safety_tolerance":5,"output_format":"webp","user":"u-1",' + CALLED_BACK,
}
ERASE = {
    "task": "erase",
    "pictures": "image mask",
    "fields": f"user dilate_pixels seed safety_tolerance=0..5 output_format {CALL_BACK}",
    "least": '{"image":"<1.png>","mask":"<mask.png>"}',
    "most": '{"image":"<2.jpg>","mask":"<mask.png>","dilate_pixels":20,"seed":42,"safety_tolerance":0,'
    '"output_format":"jpeg","user":"u-1",' + CALLED_BACK,
}
OUTPAINT = {
    "task": "outpaint",
    "pictures": "input_image",
    "fields": "user width=canvas height=canvas auto_crop=bool safety_tolerance=0..5 output_format prompt=text?"
    " reference_offset_x=offset? reference_offset_y=offset? mode disable_pup=bool",
    "least": '{"input_image":"<1.png>","width":128,"height":128}',
    "most": '{"input_image":"<2.jpg>","width":64,"height":128,"auto_crop":true,"safety_tolerance":5,'
    '"output_format":"webp","prompt":"a beach","reference_offset_x":-16,"reference_offset_y":32,"mode":"fast",'
    '"disable_pup":true,"user":"u-1"}',
}
TRY_ON = {
    "task": "try_on",
    "pictures": "person garment",
    "fields": f"user prompt=text seed safety_tolerance=0..5 output_format {CALL_BACK}",
    "least": '{"person":"<1.png>","garment":"<2.jpg>","prompt":"image 1 wears image 2"}',
    "most": '{"person":"<3.webp>","garment":"<4.png>","prompt":"TRY-ON","seed":0,"safety_tolerance":4,'
    '"output_format":"png","user":"u-1",' + CALLED_BACK,
}
PAINT = f"user prompt=text? steps=15..50? prompt_upsampling=bool? seed guidance=1.5..100? output_format {CALL_BACK}"
FILL = {
    "task": "fill",
    "pictures": "image mask",
    "fields": f"{PAINT} safety_tolerance=0..6",
    "least": '{"image":"<alpha.png>"}',
    "more": ['{"image":"<1.png>","mask":"<mask.png>"}', '{"image":"<alpha.png>","mask":"<mask.png>"}'],
    "most": '{"image":"<2.jpg>","mask":"<mask.png>","prompt":"a red door","steps":20,"prompt_upsampling":true,'
    '"seed":7,"guidance":30.5,"output_format":"png","safety_tolerance":6,"user":"u-1",' + CALLED_BACK,
}
FILL_FINETUNED = {
    "task": "fill_finetuned",
    "pictures": "image mask",
    "fields": f"{PAINT.replace('text?', 'text0').replace('?', '')} seed safety_tolerance=0..6 finetune_id "
    "finetune_strength=0..2.0",
    "least": '{"image":"<alpha.png>","finetune_id":"mine"}',
    "more": ['{"image":"<1.png>","mask":"<mask.png>","finetune_id":"mine"}'],
    "most": '{"image":"<2.jpg>","mask":"<mask.png>","finetune_id":"org/mine","finetune_strength":0.5,"prompt":"a door",'
    '"steps":15,"prompt_upsampling":true,"seed":7,"guidance":100,"output_format":"webp","safety_tolerance":0,'
    '"user":"u-1",' + CALLED_BACK,
}
EXPAND = {
    "task": "expand",
    "pictures": "image",
    "fields": f"top=0..2048? bottom=0..2048? left=0..2048? right=0..2048? {PAINT} safety_tolerance=0..6",
    "least": '{"image":"<1.png>"}',
    "most": '{"image":"<2.jpg>","top":1,"bottom":2048,"left":0,"right":64,"prompt":"sky","steps":50,'
    '"prompt_upsampling":false,"seed":5,"guidance":1.5,"output_format":"webp","safety_tolerance":6,"user":"u-1",'
    + CALLED_BACK,
}
KONTEXT = {
    "task": "edit",
    "pictures": FOUR,
    "fields": "user prompt=text seed aspect_ratio=ratio? output_format prompt_upsampling=bool safety_tolerance=0..6 "
    f"steps=1..50? guidance=1.5..10? {CALL_BACK}",
    "least": '{"prompt":"make it night"}',
    "alone": FOUR,
    "most": f'{{{FOUR_SENT},"prompt":"all four on one table","seed":42,"aspect_ratio":"16:9","output_format":"jpeg",'
    '"prompt_upsampling":true,"safety_tolerance":6,"steps":28,"guidance":3.5,"user":"u-1",' + CALLED_BACK,
}
FLUX_2 = f"user prompt=text seed width=64.. height=64.. safety_tolerance=0..5 output_format {CALL_BACK}"
PRO = {
    "task": "edit",
    "pictures": EIGHT,
    "fields": f"{FLUX_2} disable_pup=bool",
    "least": '{"prompt":"make it night"}',
    "alone": EIGHT,
    "most": f'{{{EIGHT_SENT},"prompt":"all eight","disable_pup":true,"seed":42,"width":1024,"height":768,'
    '"safety_tolerance":5,"output_format":"png","user":"u-1",' + CALLED_BACK,
}
FLEX = {
    "task": "edit",
    "pictures": EIGHT,
    "fields": f"{FLUX_2} prompt_upsampling=bool? input_image_blob_path=path? guidance=1.5..10? steps=1..50?",
    "least": '{"prompt":"make it night"}',
    "alone": EIGHT,
    "most": f'{{{EIGHT_SENT},"prompt":"all eight","seed":42,"width":1024,"height":768,"safety_tolerance":0,'
    '"output_format":"png","prompt_upsampling":false,"input_image_blob_path":"in/1.png","guidance":4.5,"steps":8,'
    '"user":"u-1",' + CALLED_BACK,
}
KLEIN = {
    "task": "edit",
    "pictures": FOUR,
    "fields": FLUX_2,
    "least": '{"prompt":"make it night"}',
    "alone": FOUR,
    "most": f'{{{FOUR_SENT},"prompt":"all four","seed":42,"width":64,"height":1536,"safety_tolerance":1,'
    '"output_format":"webp","user":"u-1",' + CALLED_BACK,
}
SIZED = f"width=256..1440*32 height=256..1440*32 prompt_upsampling=bool seed safety_tolerance=0..6 {CALL_BACK}"
PRO_1_1 = {
    "task": "generate",
    "pictures": "image_prompt",
    "fields": f"user prompt=text? {SIZED} output_format",
    "least": '{"prompt":"a cat"}',
    "more": ['{"image_prompt":"<1.png>"}'],
    "alone": "image_prompt",
    "most": '{"image_prompt":"<1.png>","prompt":"a cat","width":1440,"height":256,"prompt_upsampling":true,"seed":3,'
    '"safety_tolerance":6,"output_format":"webp","user":"u-1",' + CALLED_BACK,
}
DEV = {
    **PRO_1_1,
    "fields": f"user prompt=text0 {SIZED} output_format steps=1..50? guidance=1.5..5?",
    "most": '{"image_prompt":"<1.png>","prompt":"a cat","width":256,"height":1440,"steps":50,"guidance":5,'
    '"prompt_upsampling":true,"seed":3,"safety_tolerance":0,"output_format":"png","user":"u-1",' + CALLED_BACK,
}
SHAPED = "prompt=text? prompt_upsampling=bool seed aspect_ratio=ratio safety_tolerance=0..6 output_format"
ULTRA = {
    **PRO_1_1,
    "fields": f"user {SHAPED} image_prompt_strength=0..1.0 raw=bool {CALL_BACK}",
    "most": '{"image_prompt":"<1.png>","prompt":"a cat","prompt_upsampling":true,"seed":3,"aspect_ratio":"9:21",'
    '"safety_tolerance":6,"output_format":"png","raw":true,"image_prompt_strength":1,"user":"u-1",' + CALLED_BACK,
}
ULTRA_FINETUNED = {  # the one body without an end-user id
    **PRO_1_1,
    "fields": f"{SHAPED} image_prompt_strength=0..1.0 {CALL_BACK} finetune_id finetune_strength=0..2.0",
    "least": '{"prompt":"a cat","finetune_id":"mine"}',
    "more": ['{"image_prompt":"<1.png>","finetune_id":"mine"}'],
    "most": '{"image_prompt":"<1.png>","prompt":"a cat","finetune_id":"org/mine","prompt_upsampling":true,"seed":3,'
    '"aspect_ratio":"21:9","safety_tolerance":6,"output_format":"png","image_prompt_strength":0.5,'
    '"finetune_strength":2,' + CALLED_BACK,
}

KLEIN_FINETUNED = {
    **KLEIN,
    "fields": f"{FLUX_2} finetune_id finetune_strength=strength",
    "least": '{"prompt":"make it night","finetune_id":"mine"}',
    "most": f'{{{FOUR_SENT},"prompt":"all four","finetune_id":"org/mine","finetune_strength":0.7,"seed":42,"width":64,'
    '"height":1536,"safety_tolerance":1,"output_format":"webp","user":"u-1",' + CALLED_BACK,
}
FLUX_3 = {
    "task": "edit",
    "pictures": "images",
    "fields": "prompt=words aspect_ratio=preset resolution=tier safety_tolerance=0..4 grounding=bool version=release",
    "least": '{"prompt":"make it night"}',
    "more": ['{"images":["<256.png>"],"prompt":"make it night"}'],
    "most": '{"images":["<256.png>","<257.jpg>","<258.webp>"],"prompt":"all three","aspect_ratio":"16:9",'
    '"resolution":"4k","safety_tolerance":4,"grounding":true,"version":"latest"}',
    "adds": {"grounding": "false"},
}

PATHS: dict[str, dict[str, Any]] = {
    "/v1/flux-tools/deblur-v1": DEBLUR,
    "/v1/flux-tools/erase-v1": ERASE,
    "/v1/flux-tools/outpainting-v1": OUTPAINT,
    "/v1/flux-tools/vto-v1": TRY_ON,
    "/v1/flux-tools/vto-v2": TRY_ON,
    "/v1/flux-pro-1.0-fill": FILL,
    "/v1/flux-pro-1.0-fill-finetuned": FILL_FINETUNED,
    "/v1/flux-pro-1.0-expand": EXPAND,
    "/v1/flux-kontext-pro": KONTEXT,
    "/v1/flux-kontext-max": KONTEXT,
    "/v1/flux-2-pro": PRO,
    "/v1/flux-2-pro-preview": PRO,
    "/v1/flux-2-max": PRO,
    "/v1/flux-2-flex": FLEX,
    "/v1/flux-2-klein-4b": KLEIN,
    "/v1/flux-2-klein-9b": KLEIN,
    "/v1/flux-2-klein-9b-preview": KLEIN,
    "/v1/flux-pro-1.1": PRO_1_1,
    "/v1/flux-dev": DEV,
    "/v1/flux-pro-1.1-ultra": ULTRA,
    "/v1/flux-pro-1.1-ultra-finetuned": ULTRA_FINETUNED,
}
PATHS |= {
    f"/v1/flux-2-klein-{base}-finetuned": KLEIN_FINETUNED
    for base in ("4b", "9b", "9b-kv", "9b-kv-bf16", "base-4b", "base-9b")
}
PATHS |= {"/v1/flux-3-image": FLUX_3, "/v1/flux-3-image-klein": FLUX_3}
TOOLS = {path.rsplit("/", 1)[1]: {**tool, "path": path} for path, tool in PATHS.items()}

OUR_OWN = {
    "outpainting-v1": {"aspect_ratio", "anchor", "expand", "exact"},
    "flux-3-image": {"boxes"},
    "flux-3-image-klein": {"boxes"},
}
"""Parameters of ours that never reach the wire."""

# What is asked for a picture of 128×64 px, and the width, height and offsets (x, y) that it becomes.
SHAPES = """
    {"aspect_ratio":"1:1"}                                        128 128 0 32
    {"aspect_ratio":"1:1","anchor":"center"}                      128 128 0 32
    {"aspect_ratio":"1:1","anchor":"left"}                        128 128 0 32
    {"aspect_ratio":"1:1","anchor":"right"}                       128 128 0 32
    {"aspect_ratio":"1:1","anchor":"top"}                         128 128 0 0
    {"aspect_ratio":"1:1","anchor":"top-left"}                    128 128 0 0
    {"aspect_ratio":"1:1","anchor":"top-right"}                   128 128 0 0
    {"aspect_ratio":"1:1","anchor":"bottom"}                      128 128 0 64
    {"aspect_ratio":"1:1","anchor":"bottom-left"}                 128 128 0 64
    {"aspect_ratio":"1:1","anchor":"bottom-right"}                128 128 0 64
    {"aspect_ratio":"4:1"}                                        256 64 64 0
    {"aspect_ratio":"4:1","anchor":"center"}                      256 64 64 0
    {"aspect_ratio":"4:1","anchor":"top"}                         256 64 64 0
    {"aspect_ratio":"4:1","anchor":"bottom"}                      256 64 64 0
    {"aspect_ratio":"4:1","anchor":"left"}                        256 64 0 0
    {"aspect_ratio":"4:1","anchor":"top-left"}                    256 64 0 0
    {"aspect_ratio":"4:1","anchor":"bottom-left"}                 256 64 0 0
    {"aspect_ratio":"4:1","anchor":"right"}                       256 64 128 0
    {"aspect_ratio":"4:1","anchor":"top-right"}                   256 64 128 0
    {"aspect_ratio":"4:1","anchor":"bottom-right"}                256 64 128 0
    {"aspect_ratio":"3:2"}                                        128 96 0 16
    {"aspect_ratio":"3:2","exact":false}                          128 96 0 16
    {"aspect_ratio":"3:2","exact":true}                           128 86 0 11
    {"aspect_ratio":"3:2","exact":true,"anchor":"bottom"}         128 86 0 22
    {"expand":{"left":16,"right":32,"top":48,"bottom":64}}        176 176 16 48
    {"expand":{"left":10}}                                        144 64 16 0
    {"expand":{"right":10}}                                       144 64 0 0
    {"expand":{"left":10},"exact":true}                           138 64 10 0
    {"expand":{"top":5,"bottom":5},"exact":true}                  128 74 0 5
    {"width":130,"height":70}                                     144 80
    {"width":130,"height":70,"exact":false}                       144 80
    {"width":130,"height":70,"exact":true}                        130 70
    {"width":2730,"height":1536,"exact":true}                     2730 1536
""".strip().splitlines()


def kinds_of(tool: dict[str, Any]) -> dict[str, str]:
    """The fields besides pictures, each with its kind."""
    return {field: kind or field for field, _, kind in (word.partition("=") for word in tool["fields"].split())}


def fields_of(tool: dict[str, Any]) -> set[str]:
    return {*kinds_of(tool), *tool["pictures"].split()}


def with_value(least: str, field: str, value: str) -> str:
    """The JSON text ``least`` with ``field`` as ``value``: in its place if it is there, else at the end."""
    if f'"{field}":' in least:
        return re.sub(rf'"{field}":("[^"]*"|[^,}}]+)', lambda _: f'"{field}":{value}', least)
    return f'{least[:-1]}{"," if least != "{}" else ""}"{field}":{value}}}'


def arriving(name: str, body: str) -> str:
    """The JSON text that arrives for what was asked for as ``body``: some fields are always sent."""
    missing = {field: value for field, value in TOOLS[name].get("adds", {}).items() if f'"{field}":' not in body}
    return body[:-1] + "".join(f',"{field}":{value}' for field, value in missing.items()) + "}"


def with_picture(least: str, field: str) -> str:
    """The JSON text ``least`` with a picture, which comes before everything else."""
    return f'{{"{field}":"<2.jpg>"{"," if least != "{}" else ""}{least[1:]}'


def bodies_of(name: str) -> dict[str, str]:
    """What a tool is asked for in these tests."""
    tool = TOOLS[name]
    return {
        "least": tool["least"],
        **{f"more{n}": body for n, body in enumerate(tool.get("more", []))},
        **{field: with_picture(tool["least"], field) for field in tool.get("alone", "").split()},
        "most": tool["most"],
    }


def values(name: str, which: int) -> list[tuple[str, str]]:
    """Fields of a tool, each with each of its allowed values (0), or of those beyond its range (1)."""
    return [
        (field, value) for field, kind in kinds_of(TOOLS[name]).items() for value in KINDS[kind][which].split(" | ")
    ]


SHAPING = {"width", "height", "aspect_ratio", "resolution", "reference_offset_x", "reference_offset_y"}


def at_once(values: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Values for one call each: the next one of every field, and alone what has to fit the rest of the canvas."""
    found: list[dict[str, str]] = []
    for field, value in values:
        free = (one for one in found if field not in one and SHAPING.isdisjoint({field, *one}))
        if (body := next(free, None)) is None:
            found.append(body := {})
        body[field] = value
    return found


# -- the server and the files -----------------------------------------------------------------------------------------


class Wire(FakeBfl):
    """Delivers the same picture for whatever it is sent."""

    @staticmethod
    def _work(body: dict[str, Any]) -> bytes:
        return DELIVERED


DELIVERED = encoded(noise((64, 64)))


@pytest.fixture(scope="module")
def server() -> Iterator[Wire]:
    with Wire(key="the-key", pending_polls=0) as server:
        yield server


@pytest.fixture
def wire(server: Wire) -> Wire:
    server.requests.clear()
    return server


@pytest.fixture
def settings(wire: Wire) -> Iterator[Settings]:
    """With a store of its own, so that nothing is answered from an earlier test's results."""
    yield Settings(endpoint=wire.url, key="the-key", store="memory://wire", poll_interval=0.0)
    forget_results()


def forget_results() -> None:
    memory = fsspec.filesystem("memory")
    while memory.exists("/wire"):
        with suppress(OSError):  # the durations of the last job may be written at this moment
            memory.rm("/wire", recursive=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 64×64 px, each with other bytes, and lengths that need every kind of base64 padding."""
    folder = tmp_path_factory.mktemp("files")
    for n in range(1, 9):
        suffix = ("webp", "png", "jpg")[n % 3]
        data = encoded(noise((64, 64), seed=n), {"jpg": "JPEG"}.get(suffix, suffix.upper()))
        data += bytes((n - len(data)) % 3)  # padding after the end of the picture belongs to the file, too
        (folder / f"{n}.{suffix}").write_bytes(data)
    for side, suffix in ((256, "png"), (257, "jpg"), (258, "webp")):
        Image.new("RGB", (side, side + 4), (side % 256, 90, 40)).save(folder / f"{side}.{suffix}")
    noise((64, 64), "RGBA").save(folder / "alpha.png")
    noise((128, 64)).save(folder / "wide.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 16, 40, 48))
    mask.save(folder / "mask.png")
    return folder


def asked(text: str, files: Path) -> dict[str, Any]:
    """What a user writes to have ``text`` sent."""
    found = json.loads(text)
    return {n: [_file(one, files) for one in v] if isinstance(v, list) else _file(v, files) for n, v in found.items()}


def _file(value: Any, files: Path) -> Any:
    return files / value[1:-1] if isinstance(value, str) and re.fullmatch(r"<\S+>", value) else value


def run(name: str, parameters: dict[str, Any], settings: Settings) -> JobResult:
    return background.run(job.execute(prepare(catalog.TOOLS[name], parameters), settings))


def the_post(wire: Wire) -> Request:
    [post] = [r for r in wire.requests if r.method == "POST"]
    return post


@functools.cache
def as_base64(files: Path) -> dict[str, str]:
    return {path.name: base64.b64encode(path.read_bytes()).decode() for path in files.iterdir()}


def the_body(wire: Wire, files: Path) -> str:
    """The raw body that arrived, with the names of files for their base64; its mask is looked at as a picture."""
    text = the_post(wire).body.decode()
    for name, encoded_file in as_base64(files).items():
        text = text.replace(f'"{encoded_file}"', f'"<{name}>"')
    if sent := re.search(r'"mask":"([A-Za-z0-9+/]+={0,2})"', text):
        data = base64.b64decode(sent[1], validate=True)
        with Image.open(io.BytesIO(data)) as mask, Image.open(files / "mask.png") as painted:
            assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (64, 64))
            assert mask.tobytes() == painted.tobytes()
        text = text.replace(sent[1], "<mask.png>")
    return text


def assert_is_in_any_order(arrived: str, body: str) -> None:
    """What arrived has the fields of ``body``, in another order perhaps, but written the same."""
    assert json.loads(arrived) == json.loads(body)
    assert len(arrived) == len(body)


# -- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOOLS)
def test_a_call_arrives_as_these_bytes_and_no_others(
    name: str, wire: Wire, settings: Settings, files: Path, cases: Cases
) -> None:
    for what, body in bodies_of(name).items():
        wire.requests.clear()
        forget_results()
        with cases.case(what):
            run(name, asked(body, files), settings)
            assert the_post(wire).path == TOOLS[name]["path"]
            assert the_body(wire, files) == arriving(name, body)


@pytest.mark.parametrize("name", TOOLS)
def test_every_allowed_value_of_a_field_arrives_as_it_was_written(
    name: str, wire: Wire, settings: Settings, files: Path, cases: Cases
) -> None:
    for values_sent in at_once(values(name, 0)):
        body = TOOLS[name]["least"]
        for field, value in values_sent.items():
            body = with_value(body, field, value)
        wire.requests.clear()
        forget_results()
        with cases.case(values_sent):
            run(name, asked(body, files), settings)
            assert_is_in_any_order(the_body(wire, files), arriving(name, body))


@pytest.mark.parametrize("name", TOOLS)
def test_a_value_beyond_the_range_of_its_field_is_refused_and_nothing_arrives(
    name: str, wire: Wire, settings: Settings, files: Path, cases: Cases
) -> None:
    for field, value in values(name, 1):
        with cases.case(f"{field}={value}"):
            with pytest.raises(InvalidRequest, match=f"{field}|canvas"):
                run(name, asked(with_value(TOOLS[name]["least"], field, value), files), settings)
            assert wire.requests == []


@pytest.mark.parametrize("name", TOOLS)
def test_a_call_without_a_required_field_is_refused_and_nothing_arrives(
    name: str, wire: Wire, settings: Settings, files: Path
) -> None:
    least = asked(TOOLS[name]["least"], files)
    optional = {field for field, kind in kinds_of(TOOLS[name]).items() if kind in ("text?", "text0")}
    for field in least.keys() - optional:
        with pytest.raises(InvalidRequest, match=field):
            run(name, {n: v for n, v in least.items() if n != field}, settings)
    assert wire.requests == []


@pytest.mark.parametrize("name", TOOLS)
def test_a_field_that_only_other_tools_have_is_refused_and_nothing_arrives(
    name: str, wire: Wire, settings: Settings, files: Path
) -> None:
    every = set().union(*map(fields_of, TOOLS.values()), *OUR_OWN.values())
    others = every - {*fields_of(TOOLS[name]), *OUR_OWN.get(name, ()), "image"}  # image: the main picture
    assert others
    for field in others:
        with pytest.raises(InvalidRequest, match=f"{field}: .* has no such parameter"):
            run(name, {**asked(TOOLS[name]["least"], files), field: 2}, settings)
    assert wire.requests == []


@pytest.mark.parametrize(
    "prompt", ["\ud800", "a cat, and a very long story about it, too, \udfff"], ids=["short", "long"]
)
def test_text_that_cannot_be_written_as_utf_8_is_refused_and_leaves_nothing_behind(
    prompt: str, wire: Wire, settings: Settings
) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        run("flux-2-pro", {"prompt": prompt}, settings)
    assert wire.requests == []
    assert Journal(Store(settings.store)).entries() == []


def test_dilating_by_more_than_the_specification_says_is_sent_with_a_warning(
    wire: Wire, settings: Settings, files: Path
) -> None:
    for pixels, warned in ((25, False), (26, True), (100, True)):
        wire.requests.clear()
        result = run("erase-v1", asked(with_value(ERASE["least"], "dilate_pixels", str(pixels)), files), settings)
        assert the_post(wire).json()["dilate_pixels"] == pixels
        assert any("dilate_pixels above 25" in word for word in result.warnings) is warned


@pytest.mark.parametrize("name", TOOLS)
def test_a_submission_has_these_headers_and_no_others(name: str, wire: Wire, settings: Settings, files: Path) -> None:
    run(name, asked(TOOLS[name]["most"], files), settings)
    post = the_post(wire)
    assert post.headers == {
        "host": f"127.0.0.1:{wire.port}",
        "accept": "application/json",
        "accept-encoding": post.headers["accept-encoding"],
        "connection": "keep-alive",
        "user-agent": post.headers["user-agent"],
        "content-type": "application/json",
        "content-length": str(len(post.body)),
        "x-key": "the-key",
    }
    assert re.fullmatch(r"[a-z, ]+", post.headers["accept-encoding"])
    assert re.fullmatch(r"[\w-]+/[\d.]+", post.headers["user-agent"])


def test_besides_the_one_post_a_job_only_asks_for_its_result(wire: Wire, settings: Settings, files: Path) -> None:
    run("deblur-v1", asked(DEBLUR["most"], files), settings)
    seen = [(r.method, re.sub(r"job-\d+", "ID", r.path), r.headers.get("x-key"), r.body) for r in wire.requests]
    assert [s for s in seen if s[1] != "/local"] == [
        ("POST", "/v1/flux-tools/deblur-v1", "the-key", the_post(wire).body),
        ("GET", "/v1/get_result?id=ID", "the-key", b""),
        ("GET", "/files/ID.png", None, b""),  # a delivery address is never given the key
    ]
    assert {s for s in seen if s[1] == "/local"} <= {("GET", "/local", None, b"")}


# -- pictures ---------------------------------------------------------------------------------------------------------

FORMATS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "16-bit-png": ("PNG", "I;16", {}),
    "grey-png": ("PNG", "L", {}),
    "palette-png": ("PNG", "P", {"transparency": 3}),
    "alpha-png": ("PNG", "RGBA", {"dpi": (300, 300)}),
    "jpeg": ("JPEG", "RGB", {"quality": 97, "comment": b"Mine", "icc_profile": b"any profile"}),
    "progressive-jpeg": ("JPEG", "L", {"progressive": True}),
    "cmyk-jpeg": ("JPEG", "CMYK", {}),
    "webp": ("WEBP", "RGB", {"quality": 50}),
    "lossless-webp": ("WEBP", "RGBA", {"lossless": True}),
}


@pytest.mark.parametrize("given_as", ["path", "bytes", "file-url"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_is_sent_with_the_very_bytes_of_its_file(
    kind: str, given_as: str, wire: Wire, settings: Settings, tmp_path: Path
) -> None:
    kind_of_file, mode, options = FORMATS[kind]
    data = encoded(noise((65, 64), "L").convert(mode), kind_of_file, **options)
    path = tmp_path / "a photo"
    path.write_bytes(data)
    run("deblur-v1", {"image": {"path": path, "bytes": data, "file-url": path.as_uri()}[given_as]}, settings)
    assert the_post(wire).body == b'{"image":"' + base64.b64encode(data) + b'"}'


def test_the_files_of_these_tests_need_every_sign_and_every_padding_of_base64(files: Path) -> None:
    sent = [base64.b64encode(path.read_bytes()) for path in files.glob("[1-8].*")]
    assert len({*sent}) == 8
    assert {len(s) - len(s.rstrip(b"=")) for s in sent} == {0, 1, 2}
    assert {b"+", b"/"} <= {bytes([sign]) for sign in b"".join(sent)}


SEVERAL = [name for name, tool in TOOLS.items() if " " in tool.get("alone", "")]


@pytest.mark.parametrize("with_image", [True, False], ids=["after-the-image", "alone"])
@pytest.mark.parametrize("name", SEVERAL)
def test_references_fill_the_numbered_fields_in_their_order(
    name: str, with_image: bool, wire: Wire, settings: Settings, files: Path
) -> None:
    count = len(TOOLS[name]["alone"].split())
    pictures = [files / f"{n}.{('webp', 'png', 'jpg')[n % 3]}" for n in range(1, count + 1)]
    given = {"image": pictures[0], "references": pictures[1:]} if with_image else {"references": pictures}
    needed = {"finetune_id": "mine"} if "finetune_id" in fields_of(TOOLS[name]) else {}
    run(name, {**given, "prompt": "mix", **needed}, settings)
    also = ',"finetune_id":"mine"' if needed else ""
    assert the_body(wire, files) == f'{{{FOUR_SENT if count == 4 else EIGHT_SENT},"prompt":"mix"{also}}}'


@pytest.mark.parametrize("name", SEVERAL)
def test_one_reference_too_many_is_refused_and_nothing_arrives(
    name: str, wire: Wire, settings: Settings, files: Path
) -> None:
    many = [files / "1.png"] * len(TOOLS[name]["alone"].split())
    with pytest.raises(InvalidRequest, match="references"):
        run(name, {"image": files / "1.png", "references": many, "prompt": "mix"}, settings)
    assert wire.requests == []


# -- the pictures and boxes of FLUX 3 ---------------------------------------------------------------------------------

THREE = '"images":["<256.png>","<257.jpg>","<258.webp>"]'


@pytest.mark.parametrize("given_as", ["image and references", "references", "images"])
def test_the_pictures_of_flux_3_arrive_as_one_list_in_their_order(
    given_as: str, wire: Wire, settings: Settings, files: Path
) -> None:
    first, *others = pictures = [files / "256.png", files / "257.jpg", files / "258.webp"]
    given: dict[str, dict[str, Any]] = {
        "image and references": {"image": first, "references": others},
        "references": {"references": pictures},
        "images": {"images": pictures},
    }
    run("flux-3-image", {**given[given_as], "prompt": "mix"}, settings)
    assert the_body(wire, files) == f'{{{THREE},"prompt":"mix","grounding":false}}'


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"images": ["256.png"] * 11}, "images: 11 pictures, but flux-3-image takes 10"),
        ({"image": "256.png", "references": ["256.png"] * 10}, "references: 10 pictures, but flux-3-image takes 9"),
        ({"images": ["256.png", "1.png"]}, r"images\.1: 64×64 px: flux-3-image takes at least 256 px a side"),
        ({"images": ["256.png", "none.png"]}, r"images\.1: .*none\.png"),
        ({"images": ["256.png"], "seed": 3}, "seed: flux-3-image has no such parameter: it has no seed, write variant"),
        ({"images": ["256.png"], "width": 64}, "width: .* write aspect_ratio and resolution"),
    ],
)
def test_pictures_and_fields_that_flux_3_does_not_take_are_refused_and_nothing_arrives(
    given: dict[str, Any], what: str, wire: Wire, settings: Settings, files: Path
) -> None:
    placed = {
        n: [files / one for one in v] if isinstance(v, list) else files / v if isinstance(v, str) else v
        for n, v in given.items()
    }
    with pytest.raises(InvalidRequest, match=what):
        run("flux-3-image", {**placed, "prompt": "mix"}, settings)
    assert wire.requests == []


# What is asked for a picture of 256×260 px and a second one of 257×261, and the row that it becomes.
ROWS = [
    (
        {"keep": [0, 65, 128, 260], "text": "the cow"},
        '{"id":"box_1","from":"ref_image_0","src_bbox":[250,0,1000,500],"tgt_bbox":[250,0,1000,500],"desc":"the cow"}',
    ),
    (
        {"move": [64, 130, 128, 195], "to": [0.0, 0.0, 0.25, 0.5], "text": "the big lamp"},
        '{"id":"box_1","from":"ref_image_0","src_bbox":[500,250,750,500],"tgt_bbox":[0,0,500,250],'
        '"desc":"the big lamp"}',
    ),
    (
        {"new": [0.1, 0.2, 0.3, 0.4], "text": "eine Tür", "id": "door_1"},
        '{"id":"door_1","from":null,"src_bbox":null,"tgt_bbox":[200,100,400,300],"desc":"eine Tür"}',
    ),
    (
        {"remove": [0, 0, 256, 26]},
        '{"id":"box_1","from":"ref_image_0","src_bbox":[0,0,100,1000],"tgt_bbox":null,"desc":"what is in this box"}',
    ),
    (
        {"take": [0, 0, 257, 261], "picture": 2, "to": [128, 0, 256, 130], "text": "the clock"},
        '{"id":"box_1","from":"ref_image_1","src_bbox":[0,0,1000,1000],"tgt_bbox":[0,500,500,1000],"desc":"the clock"}',
    ),
]


def sent_prompt(wire: Wire) -> str:
    return str(the_post(wire).json()["prompt"])


@pytest.mark.parametrize("given_as", ["mapping", "Box", "JSON"])
@pytest.mark.parametrize(("box", "row"), ROWS, ids=[next(iter(box)) for box, _ in ROWS])
def test_a_box_arrives_as_a_row_after_the_prompt(
    box: dict[str, Any], row: str, given_as: str, wire: Wire, settings: Settings, files: Path
) -> None:
    boxes: Any = {"mapping": [box], "Box": (flux_tasks.Box(**box),), "JSON": json.dumps([box])}[given_as]
    pictures = {"image": files / "256.png", "references": [files / "257.jpg"]}
    run("flux-3-image", {**pictures, "prompt": "tidy up", "boxes": boxes}, settings)
    assert sent_prompt(wire) == f"tidy up [{row}]"


def test_boxes_of_a_picture_from_words_arrive_as_its_layout(wire: Wire, settings: Settings) -> None:
    boxes = [
        {"new": [0, 0, 1, 1], "text": "A flat field of neon yellow-green.", "id": "background_1"},
        {"new": [0.15, 0.15, 0.85, 0.85], "text": "A black silhouette of a runner.", "id": "silhouette_1"},
    ]
    words = "A person <silhouette_1> centered against a solid background <background_1>."
    run("flux-3-image", {"prompt": words, "boxes": boxes}, settings)
    assert sent_prompt(wire) == (
        f'{words} [{{"id":"background_1","bbox":[0,0,1000,1000],"desc":"A flat field of neon yellow-green."}},'
        '{"id":"silhouette_1","bbox":[150,150,850,850],"desc":"A black silhouette of a runner."}]'
    )


def test_boxes_in_pixels_of_a_result_from_words_are_in_the_size_of_its_tier(wire: Wire, settings: Settings) -> None:
    box = {"new": [0, 0, 1024, 512], "text": "sky"}
    run("flux-3-image", {"prompt": "x", "boxes": [box], "aspect_ratio": "1:1", "resolution": "2k"}, settings)
    assert sent_prompt(wire) == 'x [{"id":"box_1","bbox":[0,0,250,500],"desc":"sky"}]'


@pytest.mark.parametrize(
    ("boxes", "more", "what"),
    [
        ([{"remove": [0, 0, 300, 10]}], {}, r"boxes\.0\.remove: .* reaches out of the picture of 256×260 px"),
        ([{"remove": [-0.1, 0, 0.5, 1]}], {}, r"boxes\.0\.remove: .* reaches out of the picture"),
        ([{"remove": [10, 10, 10, 20]}], {}, r"boxes\.0\.remove: box \[10, 10, 10, 20\] is empty"),
        ([{"remove": [0.1, 0.1, 0.1001, 0.2]}], {}, r"boxes\.0\.remove: .* less than a thousandth"),
        ([{"remove": [0, 0, 1]}], {}, r"boxes\.0\.remove: "),
        ([{"remove": [0, 0, float("nan"), 1]}], {}, r"boxes\.0\.remove\.2: "),
        ([{"remove": [0, 0, 1, 1], "keep": [0, 0, 1, 1]}], {}, r"boxes\.0: write exactly one of keep, move"),
        ([{"text": "x"}], {}, r"boxes\.0: write exactly one of"),
        ([{"new": [0, 0, 1, 1]}], {}, r"boxes\.0: new needs text"),
        ([{"move": [0, 0, 1, 1], "text": "x"}], {}, r"boxes\.0: move needs to"),
        ([{"keep": [0, 0, 1, 1], "to": [0, 0, 1, 1]}], {}, r"boxes\.0: keep takes no to"),
        ([{"take": [0, 0, 1, 1], "to": [0, 0, 1, 1]}], {}, r"boxes\.0: take needs picture"),
        ([{"take": [0, 0, 1, 1], "to": [0, 0, 1, 1], "picture": 2}], {}, r"boxes\.0\.picture: 2 is not .*: 1 is sent"),
        ([{"erase": [0, 0, 1, 1]}], {}, r"boxes\.0: a box has no erase; it has keep"),
        ([{"keep": [0, 0, 1, 1], "id": "a_1"}] * 2, {}, r"boxes\.1\.id: 'a_1' is the id of another box"),
        ([{"keep": [0, 0, 1, 1], "id": "ref_image_0"}], {}, r"boxes\.0\.id: 'ref_image_0' is not a name"),
        ([{"new": [0, 0, 9, 9], "text": "x"}], {"aspect_ratio": "1:1"}, r"boxes\.0\.new: .* not known: write shares"),
        ("no JSON", {}, r"boxes: .*no JSON.* is not a list of boxes"),
        ([{"remove": [0, 0, 1, 1]}], {"image": None}, r"boxes\.0\.remove: needs a picture"),
        ([{"new": [0, 0, 9, 9], "text": "x"}], {"image": None}, r"boxes\.0\.new: .* size is not known: write shares"),
    ],
)  # fmt: skip
def test_a_box_that_cannot_be_meant_is_refused_with_its_number_and_nothing_arrives(
    boxes: Any, more: dict[str, Any], what: str, wire: Wire, settings: Settings, files: Path
) -> None:
    with pytest.raises(InvalidRequest, match=what):
        run("flux-3-image", {"image": files / "256.png", "prompt": "x", "boxes": boxes, **more}, settings)
    assert wire.requests == []


# -- outpaint's own words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", SHAPES)
def test_a_canvas_in_our_words_arrives_in_the_words_of_the_service(
    line: str, wire: Wire, settings: Settings, files: Path
) -> None:
    given, *numbers = line.split()
    run("outpainting-v1", {"image": files / "wide.png", **json.loads(given)}, settings)
    names = ("width", "height", "reference_offset_x", "reference_offset_y")
    canvas = ",".join(f'"{name}":{number}' for name, number in zip(names, numbers, strict=False))
    assert the_body(wire, files) == f'{{"input_image":"<wide.png>",{canvas}}}'


def test_other_fields_of_an_outpaint_keep_their_order_where_ours_are_taken_out(
    wire: Wire, settings: Settings, files: Path
) -> None:
    given = {"prompt": "sea", "aspect_ratio": "1:1", "mode": "fast", "anchor": "top", "user": "u", "exact": True}
    run("outpainting-v1", {**given, "input_image": files / "wide.png", "disable_pup": False}, settings)
    assert the_body(wire, files) == (
        '{"input_image":"<wide.png>","prompt":"sea","mode":"fast","disable_pup":false,"width":128,"height":128,'
        '"reference_offset_x":0,"reference_offset_y":0,"user":"u"}'
    )


def test_a_canvas_that_is_just_the_picture_is_not_sent(wire: Wire, settings: Settings, files: Path) -> None:
    for given in ({"aspect_ratio": "2:1"}, {"expand": {"left": 0}}, {"width": 128, "height": 64}):
        assert run("outpainting-v1", {"image": files / "wide.png", **given}, settings).outcome == "unchanged"
    assert wire.requests == []


# -- as tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True], ids=["", "async"])
@pytest.mark.parametrize("name", TOOLS)
def test_the_python_tasks_send_the_same_fields(
    name: str, asynchronous: bool, wire: Wire, settings: Settings, files: Path, cases: Cases
) -> None:
    for what, body in bodies_of(name).items():
        if what in ("least", "more0", "most"):
            wire.requests.clear()
            forget_results()
            with cases.case(what):
                the_task_sends(name, body, asynchronous, wire, settings, files)


def the_task_sends(name: str, body: str, asynchronous: bool, wire: Wire, settings: Settings, files: Path) -> None:
    """The task of a tool, called for what the line asks, sends this line, in any order."""
    body = re.sub(r',"webhook_url":"[^"]*","webhook_secret":"[^"]*"', "", body)  # a task waits; it is not called back
    given, task = asked(body, files), TOOLS[name]["task"]
    if task in ("edit", "outpaint") and "input_image" in given:
        given["image"] = given.pop("input_image")
        if references := [given.pop(n) for n in EIGHT.split() if n in given]:
            given["references"] = references
    elif task == "edit" and "images" in TOOLS[name]["pictures"]:
        pictures = given.pop("images", [files / "256.png"])
        given |= {"image": pictures[0], "references": pictures[1:]}
        body = body if '"images"' in body else f'{{"images":["<256.png>"],{body[1:]}'
    elif task == "edit":
        given["image"] = files / "1.png"  # which this task asks for
        body = f'{{"input_image":"<1.png>",{body[1:]}'
    elif task == "generate" and "prompt" not in given:
        given["prompt"] = ""  # the same
        body = with_value(body, "prompt", '""')
    if task in ("edit", "generate", "try_on"):
        given["model"] = name
    function = getattr(flux_tasks, f"a{task}" if asynchronous else task).fn
    with use(endpoint=settings.endpoint, key=settings.key, store=settings.store, poll_interval=0.0):
        asyncio.run(function(**given)) if asynchronous else function(**given)
    assert the_post(wire).path == TOOLS[name]["path"]
    assert_is_in_any_order(the_body(wire, files), arriving(name, body))


# -- nothing is forgotten ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOOLS)
def test_every_field_of_the_contract_is_sent_by_a_test(name: str) -> None:
    tool = TOOLS[name]
    fields = fields_of(tool)
    bodies = [tool["least"], *tool.get("more", [])]
    said = [(field, str(v).lstrip("['")) for body in bodies for field, v in json.loads(body).items()]
    pictures = {field for field, value in said if value.startswith("<")}
    assert set(json.loads(tool["most"])) == fields, "everything at once has every field"
    assert pictures | set(tool.get("alone", "").split()) == set(tool["pictures"].split()), "each picture is tried"
    seed_fields = {"steps", "guidance"} if "kontext" in name else set()  # only SEED-3 shows them
    assert set(FACTS["bodies"][tool["path"]]["fields"]) == fields - seed_fields, "the official document"
    assert set(catalog.TOOLS[name].request.model_fields) == fields, "our catalogue"
    assert set(catalog.TOOLS[name].options.model_fields) == OUR_OWN.get(name, set())


def test_every_tool_is_in_the_table() -> None:
    assert set(TOOLS) == set(catalog.TOOLS)
    assert {tool["path"] for tool in TOOLS.values()} == set(FACTS["bodies"])
