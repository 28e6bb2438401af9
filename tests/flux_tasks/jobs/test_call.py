"""What is found before anything is spent: parameters, pictures, masks and canvases, all at once."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from cases import Cases
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_tasks import ImageRef, InvalidImage, InvalidRequest, Mask, catalog
from flux_tasks.jobs.call import Call, check_content, prepare


def picture(width: int = 96, height: int = 80, mode: str = "RGB", **save: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), 90 if mode == "L" else "olive").save(buffer, **({"format": "PNG"} | save))
    return buffer.getvalue()


def call(task: str, parameters: dict[str, Any], *, model: str | None = None, **options: Any) -> Call:
    return prepare(catalog.tool(task, model), parameters, **options)


def wrong(task: str, parameters: dict[str, Any], **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        call(task, parameters, **options)
    return {p.where: p.what for p in caught.value.problems}


def test_all_problems_are_told_at_once_with_the_nearest_names() -> None:
    problems = wrong("erase", {"image": "nowhere.png", "msk": "x", "dilate_pixls": 3, "seed": "1"})
    assert "no such file" in problems["erase.image"]
    assert "did you mean 'mask'" in problems["erase.msk"]
    assert "did you mean 'dilate_pixels'" in problems["erase.dilate_pixls"]
    assert "not a whole number" in problems["erase.seed"]
    assert "is required" in problems["erase.mask"]


def test_a_mask_of_another_size_says_both_sizes_and_the_remedy() -> None:
    problems = wrong("erase", {"image": picture(), "mask": picture(50, 40, "L")})
    assert "the mask is 50×40 px but the image is 96×80 px" in problems["erase.mask"]
    assert "resize: true" in problems["erase.mask"]


def test_a_mask_of_another_size_is_resized_when_asked_for() -> None:
    made = call("erase", {"image": picture(), "mask": {"file": Image.new("L", (48, 40), 255), "resize": True}})
    mask = made.mask
    assert mask is not None
    assert (mask.picture.width, mask.picture.height) == (96, 80)


def test_a_mask_is_sent_strictly_black_and_white() -> None:
    grey = Image.linear_gradient("L").resize((96, 80))
    made = call("erase", {"image": picture(), "mask": grey})
    sent = Image.open(io.BytesIO(base64.b64decode(made.body()["mask"])))
    assert {value for _, value in sent.getcolors()} == {0, 255}


@pytest.mark.parametrize(("size", "word"), [((63, 80), "at least 64 px"), ((2049, 2048), "more than the 4,194,304 px")])
def test_a_picture_outside_a_tools_limits_is_refused(size: tuple[int, int], word: str) -> None:
    assert word in wrong("deblur", {"image": picture(*size)})["deblur.image"]


def test_a_picture_of_exactly_4_mp_is_taken() -> None:
    assert call("deblur", {"image": picture(2048, 2048)}).output_size == (2048, 2048)


def test_a_picture_that_is_too_large_is_scaled_down_when_allowed() -> None:
    made = call("deblur", {"image": picture(3000, 2000)}, fit="downscale")
    sent = Image.open(io.BytesIO(base64.b64decode(made.body()["image"])))
    assert sent.width * sent.height <= 4_194_304
    assert abs(sent.width / sent.height - 1.5) < 0.01


def test_a_tool_that_reduces_large_inputs_itself_takes_them() -> None:
    call("edit", {"image": picture(3000, 2000), "prompt": "x"}, model="flux-2-pro")


def test_more_than_20_mp_is_refused_for_every_tool() -> None:
    problems = wrong("edit", {"image": picture(5000, 4100, "L"), "prompt": "x"}, model="flux-2-pro")
    assert "more than the 20,000,000 px" in problems["edit.input_image"]


def test_a_file_type_that_the_service_does_not_take_is_refused_or_converted() -> None:
    bmp = picture(format="BMP")
    assert "image/bmp is not accepted" in wrong("deblur", {"image": bmp})["deblur.image"]
    sent = base64.b64decode(call("deblur", {"image": bmp}, fit="downscale").body()["image"])
    assert sent.startswith(b"\x89PNG")


def test_an_unchanged_picture_is_sent_byte_for_byte() -> None:
    data = picture(format="JPEG", quality=83)
    assert base64.b64decode(call("deblur", {"image": data}).body()["image"]) == data


def test_a_picture_that_lies_on_its_side_is_sent_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = call("deblur", {"image": picture(120, 80, format="JPEG", exif=exif)})
    sent = Image.open(io.BytesIO(base64.b64decode(made.body()["image"])))
    assert sent.size == (80, 120)


def test_sides_that_flux_2_will_crop_deserve_a_word() -> None:
    made = call("edit", {"image": picture(100, 80), "prompt": "x"}, model="flux-2-pro")
    assert made.output_size == (96, 80)
    assert "crops 100×80 px to 96×80 px" in made.warnings[0]


def test_a_dilation_above_25_is_allowed_with_a_word() -> None:
    made = call("erase", {"image": picture(), "mask": Mask(boxes=((1, 1, 9, 9),)), "dilate_pixels": 60})
    assert "above 25" in made.warnings[0]


def test_fill_without_a_mask_needs_an_alpha_channel() -> None:
    assert "no alpha channel" in wrong("fill", {"image": picture()})["fill.mask"]
    assert call("fill", {"image": picture(mode="RGBA")}).body().keys() == {"image"}


def test_a_mask_from_boxes_outside_the_picture_is_refused() -> None:
    problems = wrong("erase", {"image": picture(), "mask": {"boxes": [[500, 500, 600, 600]]}})
    assert "outside the picture" in problems["erase.mask"]


def test_a_mask_description_with_a_typo_says_where() -> None:
    problems = wrong("erase", {"image": picture(), "mask": {"fil": "x.png"}})
    assert any(where.startswith("erase.mask") for where in problems)


def test_an_empty_mask_is_is_noop() -> None:
    assert call("erase", {"image": picture(), "mask": Image.new("L", (96, 80))}).is_noop()
    assert not call("erase", {"image": picture(), "mask": Image.new("L", (96, 80), 255)}).is_noop()


def test_a_picture_that_has_the_shape_already_is_is_noop() -> None:
    assert call("outpaint", {"image": picture(1056, 594), "aspect_ratio": "16:9"}).is_noop()
    assert not call("outpaint", {"image": picture(1056, 600), "aspect_ratio": "16:9"}).is_noop()


def test_a_picture_that_is_cut_short_is_refused_before_it_is_sent() -> None:
    noise = Image.effect_noise((200, 160), 90).convert("RGB")
    for name in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        noise.save(buffer, name)
        cut = buffer.getvalue()[: len(buffer.getvalue()) // 2]
        said = wrong("deblur", {"image": cut})["deblur.image"]
        assert "damaged or cut short" in said or "not an image" in said  # a WebP says its length in its first bytes


def test_a_mask_painted_in_colour_is_refused_instead_of_taken_for_empty() -> None:
    mask = Image.new("RGB", (96, 80))
    mask.paste((90, 0, 60), (10, 10, 30, 30))
    made = call("erase", {"image": picture(), "mask": mask})
    with pytest.raises(InvalidImage, match="paint what may change white"):
        made.is_noop()


def test_an_aspect_ratio_becomes_a_canvas_in_the_apis_own_fields() -> None:
    made = call("outpaint", {"image": picture(640, 480), "aspect_ratio": "16:9"})
    assert dict(made.parameters) == {
        "width": 864,
        "height": 480,
        "reference_offset_x": 112,
        "reference_offset_y": 0,
    }


def test_a_canvas_that_would_be_too_large_is_refused_or_the_picture_scaled() -> None:
    large = {"image": picture(2000, 2000), "aspect_ratio": "16:9"}
    assert "more than 4,194,304" in wrong("outpaint", large)["outpaint"]
    made = call("outpaint", large, fit="downscale")
    assert made.parameters["width"] * made.parameters["height"] <= 4_194_304
    assert made.parameters["width"] * made.parameters["height"] > 3_900_000


@given(st.integers(64, 2600), st.integers(64, 2600), st.sampled_from(["16:9", "1:1", "9:16", "3:1", "4:5", "1:4"]))
def test_downscaling_always_finds_a_canvas_that_holds_the_whole_picture(w: int, h: int, ratio: str) -> None:
    if min(w, h) < 64 or max(w, h) / min(w, h) > 8:
        return
    source = ImageRef("0" * 64, "image/png", w, h, 1000, job_id="earlier")
    try:
        made = call("outpaint", {"image": source, "aspect_ratio": ratio}, fit="downscale")
    except InvalidRequest as error:
        assert w * h > 4_194_304 or "64" in str(error)
        return
    width, height = made.parameters["width"], made.parameters["height"]
    left, top = made.parameters["reference_offset_x"], made.parameters["reference_offset_y"]
    size = made.inputs["input_image"].size
    assert width * height <= 4_194_304
    assert (width, height) == size or (width % 16, height % 16) == (0, 0)
    assert 0 <= left <= width - size[0]
    assert 0 <= top <= height - size[1]


def test_an_explicit_canvas_is_snapped_to_16_unless_exactness_is_asked_for() -> None:
    snapped = call("outpaint", {"image": picture(), "width": 201, "height": 96})
    assert snapped.parameters["width"] == 208
    assert "snapped to 208" in snapped.warnings[0]
    exact = call("outpaint", {"image": picture(), "width": 201, "height": 96, "exact": True})
    assert exact.parameters["width"] == 201
    assert "exact" not in exact.body()


def test_a_picture_that_overhangs_its_canvas_is_refused_unless_cropping_is_allowed() -> None:
    smaller = {"image": picture(200, 200), "width": 128, "height": 256}
    assert "does not lie within the canvas" in wrong("outpaint", smaller)["outpaint"]
    assert call("outpaint", {**smaller, "auto_crop": True}).body()["auto_crop"] is True


def test_a_ratio_and_an_expansion_exclude_each_other() -> None:
    both = {"image": picture(), "aspect_ratio": "1:1", "expand": {"left": 16}}
    assert "not both" in wrong("outpaint", both)["outpaint"]


def test_references_fill_the_next_image_fields_and_too_many_are_refused() -> None:
    made = call(
        "edit", {"image": picture(), "prompt": "x", "references": [picture(64, 64)] * 3}, model="flux-2-klein-4b"
    )
    assert list(made.inputs) == ["input_image", "input_image_2", "input_image_3", "input_image_4"]
    many = {"image": picture(), "prompt": "x", "references": [picture(64, 64)] * 4}
    assert "takes 3 more" in wrong("edit", many, model="flux-2-klein-4b")["edit.references"]


def test_webhook_fields_and_the_end_user_are_sent_but_are_not_part_of_the_key() -> None:
    plain = call("deblur", {"image": picture()})
    told = call("deblur", {"image": picture(), "webhook_url": "https://example.com/h", "user": "u-1"})
    assert told.body().keys() == {"image", "webhook_url", "user"}
    assert plain.key("bfl") == told.key("bfl")


def test_the_key_depends_on_the_engine_the_parameters_and_the_pixels() -> None:
    base = call("deblur", {"image": picture()})
    others = [
        call("deblur", {"image": picture(), "seed": 1}),
        call("deblur", {"image": picture(97)}),
        call("deblur", {"image": picture()}, variant=1),
    ]
    keys = {base.key("bfl"), base.key("local:classical@1"), *(o.key("bfl") for o in others)}
    assert len(keys) == 5


def test_the_key_does_not_depend_on_names_or_on_how_a_number_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture(mode="RGBA"))
    first = call("fill", {"image": path, "guidance": 60})
    assert first.key("bfl") == call("fill", {"image": path.read_bytes(), "guidance": 60.0}).key("bfl")
    assert first.key("bfl") == call("fill", {"image": path}).key("bfl")


def test_no_picture_is_decoded_to_make_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    data, mask = picture(format="JPEG"), picture(mode="L")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("a picture was decoded"))
    call("erase", {"image": data, "mask": mask}).key("bfl")


def test_estimates_follow_the_price_table() -> None:
    assert call("outpaint", {"image": picture(), "width": 1024, "height": 2048}).estimate() == 20.0
    assert call("outpaint", {"image": picture(), "width": 1024, "height": 1024, "mode": "fast"}).estimate() is None
    assert call("deblur", {"image": picture()}).estimate() is None
    assert call("fill", {"image": picture(mode="RGBA")}).estimate() == 5.0


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.none(), st.integers(), st.text(max_size=5), st.booleans())))
def test_whatever_is_written_ends_in_a_call_or_in_a_list_of_problems(parameters: dict[str, Any]) -> None:
    for name in ("deblur-v1", "erase-v1", "outpainting-v1", "flux-2-flex", "flux-pro-1.0-fill"):
        try:
            prepare(catalog.TOOLS[name], parameters)
        except InvalidRequest as error:
            assert error.problems


BLANK = [
    "",
    " ",
    "   ",
    "\t",
    "\n \r\n",
    "\u00a0",
    "\u3000\u2003",
    "\u200b",
    "\u2060\ufeff\u200d",
    "\u2800",
    "\u3164",
    "\x00",
]
NEEDS_PROMPT = sorted(name for name, tool in catalog.TOOLS.items() if tool.needs_prompt != "never")


@pytest.mark.parametrize("model", NEEDS_PROMPT)
def test_a_blank_prompt_is_refused_where_nothing_else_says_what_to_make(model: str, cases: Cases) -> None:
    tool = catalog.TOOLS[model]
    required = [name for name, info in tool.request.model_fields.items() if info.is_required()]
    given = {name: picture() if name in tool.image_fields else "me/mine" for name in required}
    for blank in BLANK:
        with cases.case(ascii(blank)), pytest.raises(InvalidRequest, match="prompt: is blank"):
            check_content(prepare(tool, {**given, "prompt": blank}), tool.task)


def test_the_tools_that_need_a_prompt_are_known() -> None:
    assert {"flux-2-pro", "flux-kontext-pro", "flux-pro-1.1", "flux-dev", "vto-v1"} < set(NEEDS_PROMPT)
    assert not {"flux-pro-1.0-fill", "outpainting-v1", "flux-pro-1.0-expand"} & set(NEEDS_PROMPT)


@pytest.mark.parametrize("blank", BLANK, ids=ascii)
def test_a_blank_prompt_is_taken_where_a_picture_says_what_to_make(blank: str) -> None:
    assert call("fill", {"image": picture(mode="RGBA"), "prompt": blank}).parameters["prompt"] == blank
    redux = call("generate", {"image_prompt": picture(), "prompt": blank}, model="flux-pro-1.1")
    assert check_content(redux, "generate").parameters["prompt"] == blank


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(_TEXT, st.sampled_from(["x", "…", "水", "ß", "🦙", "e\u0301", "1"]), _TEXT)
def test_a_prompt_with_a_visible_sign_anywhere_is_sent_as_it_is(before: str, sign: str, after: str) -> None:
    prompt = before + sign + after
    assert call("generate", {"prompt": prompt}).parameters["prompt"] == prompt
