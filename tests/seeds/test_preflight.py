"""What the seed documents say of pictures and parameters, before anything is spent."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from flux_tasks import InvalidRequest, catalog
from flux_tasks.jobs.call import Call, prepare


def picture(width: int, height: int, file_format: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), 0).save(buffer, file_format)
    return buffer.getvalue()


def call(name: str, parameters: dict[str, Any], **options: Any) -> Call:
    return prepare(catalog.TOOLS[name], parameters, **options)


def erased(width: int, height: int) -> Call:
    return call("erase-v1", {"image": picture(width, height, mode="1"), "mask": {"boxes": [[1, 1, 9, 9]]}})


def refused(name: str, parameters: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call(name, parameters)
    return str(caught.value)


# -- erase ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1024, 1024), (724, 1448), (1448, 724), (724, 725), (1448, 1448)])
def test_a_picture_near_1_mp_and_within_2_to_1_is_erased_without_a_word(size: tuple[int, int]) -> None:
    assert erased(*size).warnings == ()


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((600, 600), "is 0.34 MP: results are best between 0.5 and 2 MP (SEED-1)"),
        ((1600, 1600), "is 2.4 MP: results are best between 0.5 and 2 MP (SEED-1)"),
        ((1500, 400), "is beyond 2:1: results are best up to that (SEED-1)"),
        ((400, 1500), "is beyond 2:1"),
    ],
)
def test_a_picture_far_from_that_is_erased_with_a_warning(size: tuple[int, int], words: str) -> None:
    assert any(words in warning for warning in erased(*size).warnings)


def test_erase_has_no_limit_of_area_and_a_large_picture_comes_back_with_4_mp() -> None:
    made = erased(2800, 2100)
    assert any("the service reduces 2800×2100 px to about 2364×1773 px" in warning for warning in made.warnings)
    assert made.output_size == (2364, 1773)
    assert made.inputs["image"].size == (2800, 2100), "it is sent as it is"


# -- deblur -----------------------------------------------------------------------------------------------------------


def test_a_picture_between_both_readings_of_4_mp_is_deblurred_with_a_warning() -> None:
    assert call("deblur-v1", {"image": picture(2000, 2000, mode="1")}).warnings == ()
    [warning] = call("deblur-v1", {"image": picture(2048, 2048, mode="1")}).warnings
    assert "2048×2048 px is more than 4,000,000 px: the service may refuse it (SEED-0)" in warning


# -- FLUX.2 -----------------------------------------------------------------------------------------------------------

FLUX_2 = {
    name: {"finetune_id": "f"} if "finetune_id" in tool.parameters else {}
    for name, tool in catalog.TOOLS.items()
    if name.startswith("flux-2-")
}
"""What each tool of FLUX.2 requires beside a prompt."""


@pytest.mark.parametrize("name", FLUX_2)
def test_more_than_4_mp_is_refused_before_anything_is_paid(name: str) -> None:
    assert "5008×5008 px is more than 4 MP" in refused(
        name, FLUX_2[name] | {"prompt": "x", "width": 5008, "height": 5008}
    )
    assert call(name, FLUX_2[name] | {"prompt": "x", "width": 2048, "height": 2048}).output_size == (2048, 2048)


@pytest.mark.parametrize("name", FLUX_2)
def test_a_prompt_of_more_than_32_000_tokens_is_sent_with_a_warning(name: str) -> None:
    assert call(name, FLUX_2[name] | {"prompt": "word" * 32_000}).warnings == ()
    [warning] = call(name, FLUX_2[name] | {"prompt": "word" * 32_001}).warnings
    assert warning == "prompt: about 32,001 tokens, more than 32,000 (SEED-2)"


@pytest.mark.parametrize(
    ("wanted", "made"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1920, 1080), (1920, 1072)),
        ((1080, 1920), (1072, 1920)),
        ((1536, 1152), (1536, 1152)),
        ((2048, 1024), (2048, 1024)),
    ],
)
def test_the_common_sizes_are_cut_to_multiples_of_16(wanted: tuple[int, int], made: tuple[int, int]) -> None:
    found = call("flux-2-pro", {"prompt": "x", "width": wanted[0], "height": wanted[1]})
    assert found.output_size == made
    assert bool(found.warnings) is (wanted != made)


def test_max_supports_grounding_search() -> None:
    assert "supports grounding search" in catalog.TOOLS["flux-2-max"].summary


# -- Kontext ----------------------------------------------------------------------------------------------------------

KONTEXT = ["flux-kontext-pro", "flux-kontext-max"]


@pytest.mark.parametrize("name", KONTEXT)
def test_kontexts_older_fields_are_sent_with_a_warning(name: str) -> None:
    made = call(name, {"prompt": "x", "steps": 28, "guidance": 3.5})
    assert made.body() == {"prompt": "x", "steps": 28, "guidance": 3.5}
    assert made.warnings == ("steps and guidance: today's service ignores it, only SEED-3 shows it",)
    assert call(name, {"prompt": "x"}).warnings == ()


@pytest.mark.parametrize("name", KONTEXT)
@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("steps", 51), ("guidance", 1.4), ("guidance", 10.1)])
def test_kontexts_older_fields_keep_their_range(name: str, field: str, value: float) -> None:
    assert f"edit.{field}: {value!r} is" in refused(name, {"prompt": "x", field: value})


@pytest.mark.parametrize("name", KONTEXT)
def test_a_prompt_of_more_than_10_000_characters_is_sent_with_a_warning(name: str) -> None:
    assert call(name, {"prompt": "x" * 10_000}).warnings == ()
    assert call(name, {"prompt": "x" * 10_001}).warnings == ("prompt: 10,001 characters, more than 10,000 (SEED-3)",)


@pytest.mark.parametrize("name", KONTEXT)
def test_width_and_height_of_kontext_are_refused_with_what_to_write_instead(name: str) -> None:
    for field in ("width", "height"):
        found = refused(name, {"prompt": "x", field: 1024})
        assert found == f"edit.{field}: {name} has no such parameter: the result has about 1 MP, write aspect_ratio"


@pytest.mark.parametrize("name", KONTEXT)
def test_a_webp_is_sent_with_a_warning_or_converted_and_both_are_one_job(name: str) -> None:
    image = picture(64, 64, "WEBP")
    sent = call(name, {"prompt": "x", "image": image})
    assert "image/webp: a document names png and jpeg only (fit: downscale converts it)" in sent.warnings[0]
    converted = call(name, {"prompt": "x", "image": image}, fit="downscale")
    assert converted.warnings == ()
    assert base64.b64decode(converted.body()["input_image"]).startswith(b"\x89PNG")
    assert converted.key("bfl") == sent.key("bfl"), "the same pixels"


SIZES = {
    "21:9": (1568, 672),
    "2:1": (1456, 720),
    "16:9": (1392, 752),
    "3:2": (1248, 832),
    "4:3": (1184, 880),
    "1:1": (1024, 1024),
    "3:4": (880, 1184),
    "9:16": (752, 1392),
    "9:21": (672, 1568),
}


@pytest.mark.parametrize(("ratio", "size"), SIZES.items())
def test_the_result_of_kontext_has_one_of_seventeen_sizes(ratio: str, size: tuple[int, int]) -> None:
    assert call("flux-kontext-pro", {"prompt": "x", "aspect_ratio": ratio}).output_size == size


# -- seeds and prices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, tool in catalog.TOOLS.items() if "seed" in tool.parameters])
def test_a_seed_below_0_is_refused(name: str) -> None:
    assert any(".seed: -1 is below 0" in str(problem) for problem in catalog.TOOLS[name].check({"seed": -1}))


@pytest.mark.parametrize("name", ["vto-v1", "vto-v2"])
def test_try_on_is_priced_with_both_pictures(name: str) -> None:
    def estimate(person: tuple[int, int], garment: tuple[int, int]) -> float | None:
        pictures = {"person": picture(*person, mode="1"), "garment": picture(*garment, mode="1")}
        return call(name, {"prompt": "x", **pictures}).estimate()

    assert estimate((512, 512), (512, 512)) == 3.75 + 0.5
    assert estimate((512, 512), (2200, 2100)) == 3.75 + 0.5 * 5
    assert estimate((2048, 2048), (512, 512)) == 3.75 + 0.5 * 4


# -- advice -----------------------------------------------------------------------------------------------------------

TIPS = {
    "deblur-v1": ["still be recognised", "before upscaling", "not exact", "anatomy", "no mask", "least compressed"],
    "erase-v1": [
        "shadow and its reflection",
        "15 to 20 for hair",
        "1:2 to 2:1",
        "raise dilate_pixels",
        "exactly its size",
    ],
    "flux-kontext-max": ["what to change and what to keep"],
    "flux-pro-1.0-fill": ["exactly the picture's size"],
}


@pytest.mark.parametrize(("name", "words"), TIPS.items())
def test_a_tool_has_the_advice_of_its_documents(name: str, words: list[str]) -> None:
    tips = " | ".join(tip.text for tip in catalog.TOOLS[name].tips)
    assert [word for word in words if word not in tips] == []
    assert {tip.source for tip in catalog.TOOLS[name].tips} <= set(catalog.SOURCES)
