"""Checks of results: each expectation holds or is told in one sentence, and whatever is written below ``expect:``
gives a value or problems."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise, png_header
from PIL import Image, ImageFilter
from pydantic import ValidationError

from flux_tasks.errors import InvalidImage
from flux_tasks.images.reference import ImageRef
from pipelines.execution.facts import Facts
from pipelines.language.expect import Expect
from pipelines.language.names import IMAGE_FACTS

FACTS = Facts(None)
SIZE = (64, 48)


def ref(image: Image.Image, kind: str = "PNG", **options: Any) -> ImageRef:
    return ImageRef.of(encoded(image, kind, **options))


def sized(*size: int) -> ImageRef:
    return ref(noise((size[0], size[1])))


def expected(**given: Any) -> Expect:
    expect, problems = Expect.read(given, where="expect")
    assert problems == []
    assert expect is not None
    return expect


def problems_of(data: Any) -> list[str]:
    expect, problems = Expect.read(data, where="steps.0.expect")
    assert expect is None
    return [str(problem).removeprefix("steps.0.expect") for problem in problems]


def left_half(size: tuple[int, int] = SIZE) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def with_patch(image: Image.Image, box: tuple[int, int, int, int], by: int) -> Image.Image:
    """``image`` with every channel in ``box`` lighter or darker by exactly ``by``, wherever there is room for it."""
    patched = image.copy()
    patched.paste(image.crop(box).point([v + by if v + by < 256 else v - by for v in range(256)] * 3), box[:2])
    return patched


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_a_size_has_to_be_met_exactly() -> None:
    expect = expected(size=[64, 48])
    assert expect.failures(FACTS, None, sized(64, 48)) == []
    assert expect.failures(FACTS, None, sized(64, 49)) == ["size: 64×49 px, not 64×48 px"]


@pytest.mark.parametrize("size", [(64, 48), (79, 33), (49, 63)])
def test_the_same_size_allows_for_cropping_to_the_grid_of_sixteen(size: tuple[int, int]) -> None:
    assert expected(size="same").failures(FACTS, sized(64, 48), sized(*size)) == []


@pytest.mark.parametrize("size", [(80, 48), (64, 32), (48, 64)])
def test_sixteen_px_are_another_size(size: tuple[int, int]) -> None:
    found = expected(size="same").failures(FACTS, sized(64, 48), sized(*size))
    assert found == [f"size: {size[0]}×{size[1]} px, but the input has 64×48 px"]


def test_a_turned_input_is_compared_as_people_see_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = ref(noise((64, 32)), "JPEG", exif=exif)
    assert expected(size="same").failures(FACTS, turned, sized(32, 64)) == []
    assert expected(size=[32, 64], aspect="1:2", min_side=32).failures(FACTS, None, turned) == []


def test_the_shorter_side_has_to_be_long_enough() -> None:
    assert expected(min_side=48).failures(FACTS, None, sized(64, 48)) == []
    assert expected(min_side=49).failures(FACTS, None, sized(64, 48)) == ["min_side: 64×48 px, below 49 px"]


def test_an_aspect_is_met_within_one_percent() -> None:
    for width in (198, 200, 202):
        assert expected(aspect="2:1").failures(FACTS, None, sized(width, 100)) == []


def test_an_aspect_beyond_one_percent_is_told() -> None:
    for width, told in ((203, "2.03:1"), (197, "1.97:1")):
        found = expected(aspect="2:1").failures(FACTS, None, sized(width, 100))
        assert found == [f"aspect: {width}×100 px is {told}, not 2:1 (2:1)"]
    assert expected(aspect="16:9").failures(FACTS, None, sized(139, 75)) == [
        "aspect: 139×75 px is 1.853:1, not 16:9 (1.778:1)"
    ]


def test_sizes_are_judged_without_reading_anything() -> None:
    unread = ImageRef("0" * 64, "image/png", 64, 48, 1000, uri="/nowhere/at/all.png")
    expect = expected(size="same", min_side=16, aspect="4:3", condition="width == before.width and megapixels < 1")
    assert expect.failures(FACTS, unread, unread) == []


# -- outside the mask -------------------------------------------------------------------------------------------------


def test_changes_inside_the_mask_are_nobody_s_concern() -> None:
    before = noise(SIZE)
    after = with_patch(before, (0, 0, 32, 48), 90)
    assert expected(drift=0, changed=0).failures(FACTS, ref(before), ref(after), left_half()) == []


def test_changes_outside_the_mask_are_measured() -> None:
    before = noise(SIZE)
    after = with_patch(before, (32, 0, 48, 48), 10)  # half of what is outside
    pair = (ref(before), ref(after), left_half())
    assert expected(drift=5.0, changed=0.5).failures(FACTS, *pair) == []
    assert expected(drift=4.9, changed=0.02).failures(FACTS, *pair) == [
        "drift: 5, above 4.9",
        "changed: 0.5, above 0.02",
    ]


def test_a_figure_is_never_rounded_to_its_limit() -> None:
    before = noise(SIZE)
    pair = (ref(before), ref(with_patch(before, (32, 0, 48, 48), 10)), left_half())
    assert expected(drift=4.9999).failures(FACTS, *pair) == ["drift: 5, above 4.9999"]
    assert expected(changed=0.49999).failures(FACTS, *pair) == ["changed: 0.5, above 0.49999"]
    gain = expected(sharpness_gain=1.001).failures(FACTS, pair[0], pair[0])
    assert gain == ["sharpness_gain: 1, below 1.001"]


def test_what_cannot_be_compared_has_failed() -> None:
    expect, one = expected(drift=4, changed=0.1), sized(64, 48)
    for before, after, mask, why in (
        (None, one, left_half(), "the step has no input picture"),
        (one, one, None, "the step has no mask"),
        (one, sized(64, 32), left_half(), "the result has 64×32 px and the input 64×48 px"),
        (one, one, left_half((32, 32)), "the mask has 32×32 px and the result 64×48 px"),
    ):
        found = expect.failures(FACTS, before, after, mask)
        assert found == [f"drift: cannot be judged, because {why}", f"changed: cannot be judged, because {why}"]


# -- sharpness and colour ---------------------------------------------------------------------------------------------


def test_a_sharper_result_has_gained() -> None:
    sharp = Image.effect_noise(SIZE, 60)
    blurred = sharp.filter(ImageFilter.GaussianBlur(1))
    assert expected(sharpness_gain=1.1).failures(FACTS, ref(blurred), ref(sharp)) == []
    (told,) = expected(sharpness_gain=1.1).failures(FACTS, ref(sharp), ref(blurred))
    assert told.startswith("sharpness_gain: 0.0")
    assert told.endswith(", below 1.1")


def test_a_gain_over_an_input_without_any_detail_is_boundless() -> None:
    flat = ref(Image.new("L", SIZE, 90))
    assert expected(sharpness_gain=1000).failures(FACTS, flat, sized(*SIZE)) == []
    assert expected(sharpness_gain=1).failures(FACTS, flat, flat) == []
    assert expected(sharpness_gain=1.5).failures(FACTS, flat, flat) == ["sharpness_gain: 1, below 1.5"]


def test_a_gain_needs_an_input() -> None:
    assert expected(sharpness_gain=1.1).failures(FACTS, None, sized(*SIZE)) == [
        "sharpness_gain: cannot be judged, because the step has no input picture"
    ]


SOLID = ["solid: the result is one single colour"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("colour", [(0, 160, 90), (30, 40, 250), (0, 0, 0), (255, 255, 255)])
def test_one_single_colour_is_found_in_any_file_type(kind: str, colour: tuple[int, int, int]) -> None:
    assert expected(solid=False).failures(FACTS, None, ref(Image.new("RGB", SIZE, colour), kind)) == SOLID


def test_what_nobody_sees_makes_no_picture() -> None:
    invisible = noise(SIZE, "RGBA")
    invisible.putalpha(0)
    assert expected(solid=False).failures(FACTS, None, ref(invisible)) == SOLID


def test_a_picture_with_anything_on_it_is_not_solid() -> None:
    spot = Image.new("RGB", SIZE, "white")
    spot.putpixel((3, 3), (255, 240, 255))
    shape = Image.new("RGBA", SIZE)
    shape.paste((0, 0, 0, 255), (10, 10, 20, 20))
    for image in (spot, shape, noise(SIZE)):
        assert expected(solid=False).failures(FACTS, None, ref(image)) == []


# -- conditions -------------------------------------------------------------------------------------------------------


def test_a_condition_knows_the_result_and_the_input() -> None:
    expect = expected(condition="brightness > 20 and width >= before.width and not has_alpha")
    assert expect.failures(FACTS, sized(64, 48), sized(64, 48)) == []
    dark = ref(Image.new("RGB", (32, 24), (7, 7, 7)))
    assert expect.failures(FACTS, sized(64, 48), dark) == [
        "condition: 'brightness > 20 and width >= before.width and not has_alpha' is not true: "
        "brightness is 7, has_alpha is false, width is 32, before.width is 64"
    ]


def test_every_fact_is_known_of_both() -> None:
    one = sized(64, 48)
    for name in IMAGE_FACTS:
        expect = expected(condition=f"{name} == before.{name} and {name} == before['{name}']")
        assert expect.failures(FACTS, one, one) == []


def test_a_condition_that_cannot_be_worked_out_has_failed() -> None:
    flat = ref(Image.new("L", SIZE))
    (told,) = expected(condition="sharpness / before.sharpness > 1").failures(FACTS, flat, flat)
    assert told.startswith("condition: 'sharpness / before.sharpness > 1' cannot be worked out: ")
    assert told.endswith("division by zero")


def test_a_condition_on_the_input_needs_one() -> None:
    (told,) = expected(condition="width > before.width").failures(FACTS, None, sized(64, 48))
    assert told == "condition: 'width > before.width' cannot be judged, because the step has no input picture"


def test_all_failures_are_told_at_once() -> None:
    expect = expected(size=[9, 9], min_side=99, aspect="9:1", drift=0, changed=0, sharpness_gain=9, solid=False)
    before, flat = noise(SIZE), ref(Image.new("RGB", SIZE))
    told = [sentence.split(":")[0] for sentence in expect.failures(FACTS, ref(before), flat, left_half())]
    assert told == ["size", "min_side", "aspect", "drift", "changed", "sharpness_gain", "solid"]


# -- pictures that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [{"solid": False}, {"drift": 1}, {"sharpness_gain": 1.1}, {"condition": "brightness > 1"}]
)
def test_a_result_that_cannot_be_decoded_is_invalid_and_named(tmp_path: Path, given: dict[str, Any]) -> None:
    (tmp_path / "cut.png").write_bytes(png_header(*SIZE))
    with pytest.raises(InvalidImage, match=r"cut\.png: the picture is damaged or cut short"):
        expected(**given).failures(FACTS, sized(*SIZE), ImageRef.of(tmp_path / "cut.png"), left_half())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"])
def test_results_of_every_mode_are_judged(mode: str) -> None:
    grey = Image.linear_gradient("L").resize(SIZE)
    image = Image.frombytes("I;16", (32, 48), grey.tobytes()) if mode == "I;16" else grey.convert("RGB").convert(mode)
    result = ref(image, "PNG" if mode in ("P", "I;16") else "TIFF")
    expect = expected(solid=False, drift=255, changed=1, sharpness_gain=0.0001, condition="entropy >= 0")
    assert expect.failures(FACTS, ref(grey.resize(image.size)), result, left_half(image.size)) == []


# -- what is needed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "needs_mask", "needs_before"),
    [
        ({"size": [8, 8], "min_side": 3, "aspect": "1:1", "solid": False}, False, False),
        ({"size": "same"}, False, True),
        ({"drift": 0}, True, True),
        ({"changed": 0.5}, True, True),
        ({"sharpness_gain": 1}, False, True),
        ({"condition": "width > 3"}, False, False),
        ({"condition": "width > before.width"}, False, True),
        ({"condition": "width > 3 and 'before.width' != 'x'"}, False, False),
    ],
)
def test_what_a_step_must_have_is_known_beforehand(given: dict[str, Any], needs_mask: bool, needs_before: bool) -> None:
    expect = expected(**given)
    assert (expect.needs_mask, expect.needs_before) == (needs_mask, needs_before)


# -- reading ----------------------------------------------------------------------------------------------------------

KNOWN = "size, min_side, aspect, drift, changed, sharpness_gain, solid, condition"
FACT_NAMES = f"{', '.join(IMAGE_FACTS)}, and before.width and so on of the input"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, ": has no value: write what the result has to be, such as {size: same, solid: false}"),
        ("same", ": 'same' is not a mapping: write what the result has to be, such as {size: same, solid: false}"),
        ({}, f": says nothing: write at least one of {KNOWN}"),
        ({"drfit": 4}, ".drfit: is not known here (did you mean 'drift'?)"),
        ({"colour": 4}, f".colour: is not known here; known: {KNOWN}"),
        ({7: 4}, f".7: is not known here; known: {KNOWN}"),
        ({"drift": None}, ".drift: has no value: write a number from 0 to 255, such as 4.0"),
        ({"drift": -1}, ".drift: -1 is not understood: write a number from 0 to 255, such as 4.0"),
        ({"drift": float("nan")}, ".drift: nan is not understood: write a number from 0 to 255, such as 4.0"),
        ({"changed": 2}, ".changed: 2 is not understood: write a share from 0 to 1, such as 0.02"),
        ({"changed": "2 %"}, ".changed: '2 %' is not understood: write a share from 0 to 1, such as 0.02"),
        ({"sharpness_gain": 0}, ".sharpness_gain: 0 is not understood: write a number above 0, such as 1.1"),
        ({"min_side": True}, ".min_side: True is not understood: write a whole number of px from 1, such as 512"),
        ({"min_side": 0}, ".min_side: 0 is not understood: write a whole number of px from 1, such as 512"),
        (
            {"size": "1024x768"},
            ".size: '1024x768' is not understood: write same, or [width, height] in px such as [1024, 768]",
        ),
        ({"size": [10]}, ".size: [10] is not understood: write same, or [width, height] in px such as [1024, 768]"),
        ({"size": {3, 4}}, ".size: {3, 4} is not understood: write same, or [width, height] in px such as [1024, 768]"),
        ({"aspect": "wide"}, ".aspect: 'wide' is not understood: write width and height in quotes, such as \"16:9\""),
        ({"aspect": "0:9"}, ".aspect: '0:9' is not understood: write width and height in quotes, such as \"16:9\""),
        ({"aspect": 969}, '.aspect: 969 is what YAML makes of 16:9: write it in quotes, "16:9"'),
        ({"aspect": 1.5}, '.aspect: 1.5 is not understood: write width and height in quotes, such as "16:9"'),
        ({"solid": True}, ".solid: true would ask for one single colour: write false, or leave it out"),
        ({"solid": 0}, ".solid: 0 is not understood: write false, or leave it out"),
        (
            {"condition": True},
            '.condition: True is not understood: write one as text, such as "brightness > 20"',
        ),
        ({"condition": ""}, ".condition: has 0 signs: write from 1 to 2,000"),
        ({"condition": "1+" * 2000 + "1"}, ".condition: has 4,001 signs: write from 1 to 2,000"),
        ({"condition": "width >"}, ".condition: 'width >' is not understood: unexpected 'end of template'"),
        ({"condition": "widht > 3"}, ".condition: 'widht > 3': nothing is called 'widht' (did you mean 'width'?)"),
        ({"condition": "mask > 3"}, f".condition: 'mask > 3': nothing is called 'mask'; known: {FACT_NAMES}"),
        (
            {"condition": "before.brightnes > 3"},
            ".condition: 'before.brightnes > 3': 'before.brightnes' is no fact of a picture "
            "(did you mean 'brightness'?)",
        ),
        (
            {"condition": "width > before"},
            ".condition: 'width > before': 'before' alone is no value: write before.width or another fact of the input",
        ),
        (
            {"condition": "width > '800'"},
            ".condition: 'width > '800'' cannot be worked out: '>' not supported between instances of 'int' and 'str'",
        ),
        ({"condition": "width(3)"}, ".condition: 'width(3)' cannot be worked out: 'int' object is not callable"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_write_instead(data: Any, message: str) -> None:
    assert problems_of(data) == [message]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    told = problems_of({"drift": -1, "sice": "same", "condition": "foo > 1 and before.bar > 2 and before"})
    assert [sentence.split(":")[0] for sentence in told] == [".drift", ".sice", *[".condition"] * 3]


@pytest.mark.parametrize("text", ["9" * 1_990, "(" * 900 + "1" + ")" * 900, "not " * 490 + "1", "\ud800", "a" * 1_999])
def test_a_monstrous_condition_is_told_or_taken(text: str) -> None:
    expect, problems = Expect.read({"condition": text}, where="expect")
    assert (expect is None) == bool(problems)


def test_a_condition_with_a_divisor_that_may_be_zero_is_taken() -> None:
    assert expected(condition="1 / (before.width - width) < 3").needs_before


def test_a_value_can_be_written_down_and_read_again() -> None:
    expect = expected(size=[64, 48], min_side=3, aspect="4:3", drift=4, changed=0.02, solid=False, condition="width")
    written = json.loads(json.dumps(expect.model_dump(exclude_none=True)))
    assert expected(**written) == expect
    assert hash(expected(**written)) == hash(expect)
    assert pickle.loads(pickle.dumps(expect)) == expect


def test_a_value_made_in_python_is_checked_and_cannot_be_changed() -> None:
    for wrong in ({}, {"drift": -1}, {"solid": True}, {"aspect": "wide"}, {"condition": "foo"}, {"colour": 1}):
        with pytest.raises(ValidationError):
            Expect(**wrong)
    with pytest.raises(ValidationError):
        Expect(drift=4).drift = 5  # type: ignore[misc]


def test_every_field_describes_itself_in_the_schema() -> None:
    schema = Expect.model_json_schema()
    assert schema["additionalProperties"] is False
    assert f"{', '.join(schema['properties'])}" == KNOWN
    assert all(len(field["description"]) > 20 for field in schema["properties"].values())


# -- whatever is given ------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=4), st.dates()
)
data = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
words = st.sampled_from(
    [
        *IMAGE_FACTS,
        *("before", "before.width", "before.", ".", "(", ")", "[", "]", "{", "}", "{{", "}}", "'", '"', "|", ",", ":"),
        *("not", "and", "or", "is", "in", "if", "else", "+", "-", "*", "**", "/", "//", "%", "~", "<", "==", "#", "\\"),
        *("1", "0", "1e999", "9" * 30, "'a'", "abs", "length", "number", "none", "true", "loop", "self", "\n"),
    ]
)
conditions = st.one_of(st.text(max_size=30), st.lists(words, max_size=12).map(" ".join))


@given(
    st.one_of(
        data,
        st.dictionaries(
            st.one_of(st.sampled_from([*KNOWN.split(", "), "drfit"]), scalars), st.one_of(data, conditions), max_size=4
        ),
        st.fixed_dictionaries({"condition": conditions}),
    )
)
@settings(max_examples=600)
def test_any_data_gives_a_value_or_problems(given_data: Any) -> None:
    expect, problems = Expect.read(given_data, where="expect")
    assert (expect is None) == bool(problems)
    assert all(problem.where.startswith("expect") and problem.what for problem in problems)
    if expect is not None:
        assert expect.failures(FACTS, sized(8, 8), sized(8, 8), left_half((8, 8))) is not None


sizes = st.sampled_from([(8, 8), (20, 9), (1, 1)])
pictures = st.builds(
    lambda size, mode, kind: ref(noise(size, mode), kind),
    sizes,
    st.sampled_from(["RGB", "L", "RGBA", "LA", "1"]),
    st.sampled_from(["PNG", "TIFF"]),
) | st.just(ImageRef.of(png_header(8, 8)))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "size": st.one_of(st.just("same"), st.tuples(st.integers(1, 99), st.integers(1, 99))),
            "min_side": st.integers(1, 30),
            "aspect": st.sampled_from(["1:1", "20:9", "16:9"]),
            "drift": st.floats(0, 255),
            "changed": st.floats(0, 1),
            "sharpness_gain": st.floats(0.001, 10),
            "solid": st.just(False),
            "condition": st.sampled_from(["width > 3", "entropy / before.entropy > 1", "brightness is even", "true"]),
        },
    ).filter(bool),
    st.none() | pictures,
    pictures,
    st.none() | st.builds(left_half, sizes),
)
@settings(max_examples=300)
def test_judging_raises_nothing_but_invalid_image(
    given_fields: dict[str, Any], before: ImageRef | None, after: ImageRef, mask: Image.Image | None
) -> None:
    expect, problems = Expect.read(given_fields, where="expect")
    if expect is None:
        assert given_fields["condition"] == "brightness is even"
        assert problems
        return
    try:
        told = expect.failures(FACTS, before, after, mask)
    except InvalidImage:
        return
    assert [sentence.split(":")[0] for sentence in told] == [name for name in KNOWN.split(", ") if name in str(told)]
    assert all(sentence.split(":")[0] in given_fields for sentence in told)
