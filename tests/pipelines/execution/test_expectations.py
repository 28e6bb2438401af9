"""Results are judged: each expectation holds, or one sentence says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import read
from pictures import encoded, noise, png_header
from PIL import Image, ImageFilter

from flux_tasks import catalog
from flux_tasks.errors import InvalidImage
from flux_tasks.images import byte_cache
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import prepare
from flux_tasks.store.records import Store
from pipelines.execution.expectations import judge, observe
from pipelines.execution.facts import Facts
from pipelines.language.document.expect import Expect
from pipelines.language.names import IMAGE_FACTS

FACTS = Facts(None)
SIZE = (64, 48)
KNOWN = "size, min_side, aspect, drift, changed, shift, sharpness_gain, solid, condition"


def ref(image: Image.Image, kind: str = "PNG", **options: Any) -> ImageRef:
    return ImageRef.of(encoded(image, kind, **options))


def sized(*size: int) -> ImageRef:
    return ref(noise((size[0], size[1])))


def expected(**given: Any) -> Expect:
    expect, problems = read(Expect, given, where="expect")
    assert problems == []
    assert expect is not None
    return expect


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
    assert judge(expect, FACTS, None, sized(64, 48)) == []
    assert judge(expect, FACTS, None, sized(64, 49)) == ["size: 64×49 px, not 64×48 px"]


@pytest.mark.parametrize("size", [(64, 48), (79, 33), (49, 63)])
def test_the_same_size_allows_for_cropping_to_the_grid_of_sixteen(size: tuple[int, int]) -> None:
    assert judge(expected(size="same"), FACTS, sized(64, 48), sized(*size)) == []


@pytest.mark.parametrize("size", [(80, 48), (64, 32), (48, 64)])
def test_sixteen_px_are_another_size(size: tuple[int, int]) -> None:
    found = judge(expected(size="same"), FACTS, sized(64, 48), sized(*size))
    assert found == [f"size: {size[0]}×{size[1]} px, but the input has 64×48 px"]


def test_a_turned_input_is_compared_as_people_see_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = ref(noise((64, 32)), "JPEG", exif=exif)
    assert judge(expected(size="same"), FACTS, turned, sized(32, 64)) == []
    assert judge(expected(size=[32, 64], aspect="1:2", min_side=32), FACTS, None, turned) == []


def test_the_shorter_side_has_to_be_long_enough() -> None:
    assert judge(expected(min_side=48), FACTS, None, sized(64, 48)) == []
    assert judge(expected(min_side=49), FACTS, None, sized(64, 48)) == ["min_side: 64×48 px, below 49 px"]


def test_an_aspect_is_met_within_one_percent() -> None:
    for width in (198, 200, 202):
        assert judge(expected(aspect="2:1"), FACTS, None, sized(width, 100)) == []


def test_an_aspect_beyond_one_percent_is_told() -> None:
    for width, told in ((203, "2.03:1"), (197, "1.97:1")):
        found = judge(expected(aspect="2:1"), FACTS, None, sized(width, 100))
        assert found == [f"aspect: {width}×100 px is {told}, not 2:1 (2:1)"]
    assert judge(expected(aspect="16:9"), FACTS, None, sized(139, 75)) == [
        "aspect: 139×75 px is 1.853:1, not 16:9 (1.778:1)"
    ]


def test_sizes_are_judged_without_reading_anything() -> None:
    unread = ImageRef("0" * 64, "image/png", 64, 48, 1000, uri="/nowhere/at/all.png")
    expect = expected(size="same", min_side=16, aspect="4:3", condition="width == before.width and megapixels < 1")
    assert judge(expect, FACTS, unread, unread) == []


# -- outside the mask -------------------------------------------------------------------------------------------------


def test_changes_inside_the_mask_are_nobody_s_concern() -> None:
    before = noise(SIZE)
    after = with_patch(before, (0, 0, 32, 48), 90)
    assert judge(expected(drift=0, changed=0), FACTS, ref(before), ref(after), left_half()) == []


def test_changes_outside_the_mask_are_measured() -> None:
    before = noise(SIZE)
    after = with_patch(before, (32, 0, 48, 48), 10)  # half of what is outside
    pair = (ref(before), ref(after), left_half())
    assert judge(expected(drift=5.0, changed=0.5), FACTS, *pair) == []
    assert judge(expected(drift=4.9, changed=0.02), FACTS, *pair) == [
        "drift: 5, above 4.9",
        "changed: 0.5, above 0.02",
    ]


def test_a_figure_is_never_rounded_to_its_limit() -> None:
    before = noise(SIZE)
    pair = (ref(before), ref(with_patch(before, (32, 0, 48, 48), 10)), left_half())
    assert judge(expected(drift=4.9999), FACTS, *pair) == ["drift: 5, above 4.9999"]
    assert judge(expected(changed=0.49999), FACTS, *pair) == ["changed: 0.5, above 0.49999"]
    gain = judge(expected(sharpness_gain=1.001), FACTS, pair[0], pair[0])
    assert gain == ["sharpness_gain: 1, below 1.001"]


def test_what_cannot_be_compared_has_failed() -> None:
    expect, one = expected(drift=4, changed=0.1), sized(64, 48)
    for before, after, mask, why in (
        (None, one, left_half(), "the step has no input picture"),
        (one, one, None, "the step has no mask"),
        (one, sized(64, 32), left_half(), "the result has 64×32 px and the input 64×48 px"),
        (one, one, left_half((32, 32)), "the mask has 32×32 px and the result 64×48 px"),
    ):
        found = judge(expect, FACTS, before, after, mask)
        assert found == [f"drift: cannot be judged, because {why}", f"changed: cannot be judged, because {why}"]


# -- sharpness and colour ---------------------------------------------------------------------------------------------


def test_a_sharper_result_has_gained() -> None:
    sharp = Image.effect_noise(SIZE, 60)
    blurred = sharp.filter(ImageFilter.GaussianBlur(1))
    assert judge(expected(sharpness_gain=1.1), FACTS, ref(blurred), ref(sharp)) == []
    (told,) = judge(expected(sharpness_gain=1.1), FACTS, ref(sharp), ref(blurred))
    assert told.startswith("sharpness_gain: 0.0")
    assert told.endswith(", below 1.1")


def test_a_gain_over_an_input_without_any_detail_is_boundless() -> None:
    flat = ref(Image.new("L", SIZE, 90))
    assert judge(expected(sharpness_gain=1000), FACTS, flat, sized(*SIZE)) == []
    assert judge(expected(sharpness_gain=1), FACTS, flat, flat) == []
    assert judge(expected(sharpness_gain=1.5), FACTS, flat, flat) == ["sharpness_gain: 1, below 1.5"]


def test_a_gain_needs_an_input() -> None:
    assert judge(expected(sharpness_gain=1.1), FACTS, None, sized(*SIZE)) == [
        "sharpness_gain: cannot be judged, because the step has no input picture"
    ]


SOLID = ["solid: the result is one single colour"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("colour", [(0, 160, 90), (30, 40, 250), (0, 0, 0), (255, 255, 255)])
def test_one_single_colour_is_found_in_any_file_type(kind: str, colour: tuple[int, int, int]) -> None:
    assert judge(expected(solid=False), FACTS, None, ref(Image.new("RGB", SIZE, colour), kind)) == SOLID


def test_what_nobody_sees_makes_no_picture() -> None:
    invisible = noise(SIZE, "RGBA")
    invisible.putalpha(0)
    assert judge(expected(solid=False), FACTS, None, ref(invisible)) == SOLID


def test_a_picture_with_anything_on_it_is_not_solid() -> None:
    spot = Image.new("RGB", SIZE, "white")
    spot.putpixel((3, 3), (255, 240, 255))
    shape = Image.new("RGBA", SIZE)
    shape.paste((0, 0, 0, 255), (10, 10, 20, 20))
    for image in (spot, shape, noise(SIZE)):
        assert judge(expected(solid=False), FACTS, None, ref(image)) == []


# -- conditions -------------------------------------------------------------------------------------------------------


def test_a_condition_knows_the_result_and_the_input() -> None:
    expect = expected(condition="brightness > 20 and width >= before.width and not has_alpha")
    assert judge(expect, FACTS, sized(64, 48), sized(64, 48)) == []
    dark = ref(Image.new("RGB", (32, 24), (7, 7, 7)))
    assert judge(expect, FACTS, sized(64, 48), dark) == [
        "condition: 'brightness > 20 and width >= before.width and not has_alpha' is not true: "
        "brightness is 7, has_alpha is false, width is 32, before.width is 64"
    ]


def test_every_fact_is_known_of_both() -> None:
    one = sized(64, 48)
    for name in IMAGE_FACTS:
        expect = expected(condition=f"{name} == before.{name} and {name} == before['{name}']")
        assert judge(expect, FACTS, one, one) == []


def test_a_condition_that_cannot_be_worked_out_has_failed() -> None:
    flat = ref(Image.new("L", SIZE))
    (told,) = judge(expected(condition="sharpness / before.sharpness > 1"), FACTS, flat, flat)
    assert told.startswith("condition: 'sharpness / before.sharpness > 1' cannot be evaluated: ")
    assert told.endswith("division by zero")


def test_a_condition_on_the_input_needs_one() -> None:
    (told,) = judge(expected(condition="width > before.width"), FACTS, None, sized(64, 48))
    assert told == "condition: 'width > before.width' cannot be judged, because the step has no input picture"


def test_all_failures_are_told_at_once() -> None:
    expect = expected(size=[9, 9], min_side=99, aspect="9:1", drift=0, changed=0, sharpness_gain=9, solid=False)
    before, flat = noise(SIZE), ref(Image.new("RGB", SIZE))
    told = [sentence.split(":")[0] for sentence in judge(expect, FACTS, ref(before), flat, left_half())]
    assert told == ["size", "min_side", "aspect", "drift", "changed", "sharpness_gain", "solid"]


# -- pictures that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [{"solid": False}, {"drift": 1}, {"sharpness_gain": 1.1}, {"condition": "brightness > 1"}]
)
def test_a_result_that_cannot_be_decoded_is_invalid_and_named(tmp_path: Path, given: dict[str, Any]) -> None:
    (tmp_path / "cut.png").write_bytes(png_header(*SIZE))
    with pytest.raises(InvalidImage, match=r"cut\.png: the picture is damaged or cut short"):
        judge(expected(**given), FACTS, sized(*SIZE), ImageRef.of(tmp_path / "cut.png"), left_half())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"])
def test_results_of_every_mode_are_judged(mode: str) -> None:
    grey = Image.linear_gradient("L").resize(SIZE)
    image = Image.frombytes("I;16", (32, 48), grey.tobytes()) if mode == "I;16" else grey.convert("RGB").convert(mode)
    result = ref(image, "PNG" if mode in ("P", "I;16") else "TIFF")
    expect = expected(solid=False, drift=255, changed=1, sharpness_gain=0.0001, condition="entropy >= 0")
    assert judge(expect, FACTS, ref(grey.resize(image.size)), result, left_half(image.size)) == []


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
    expect, problems = read(Expect, given_data, where="expect")
    assert (expect is None) == bool(problems)
    assert all(problem.where.startswith("expect") and problem.what for problem in problems)
    if expect is not None:
        assert judge(expect, FACTS, sized(8, 8), sized(8, 8), left_half((8, 8))) is not None


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
    expect, problems = read(Expect, given_fields, where="expect")
    if expect is None:
        assert given_fields["condition"] == "brightness is even"
        assert problems
        return
    try:
        told = judge(expect, FACTS, before, after, mask)
    except InvalidImage:
        return
    assert [sentence.split(":")[0] for sentence in told] == [name for name in KNOWN.split(", ") if name in str(told)]
    assert all(sentence.split(":")[0] in given_fields for sentence in told)


# -- what is seen of a result -----------------------------------------------------------------------------------------


def is_seen_unchanged(tmp_path: Path, before: ImageRef, after: ImageRef) -> bool:
    call = prepare(catalog.TOOLS["deblur-v1"], {"image": before})
    return observe(Store(str(tmp_path)), Facts(None), call, before, after).is_unchanged


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_same_pixels_in_another_file_are_seen_to_be_the_same(tmp_path: Path, kind: str, mode: str) -> None:
    picture = noise((80, 70), mode)
    other = ref(picture, kind, lossless=True, exact=True) if kind == "WEBP" else ref(picture, kind)
    first = ref(picture, compress_level=9)
    assert first != other
    assert is_seen_unchanged(tmp_path, first, other)


@pytest.mark.parametrize("place", [(0, 0), (79, 69), (40, 20)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_one_pixel_that_differs_is_seen_wherever_it_is(tmp_path: Path, mode: str, place: tuple[int, int]) -> None:
    before, after = noise((80, 70), mode), noise((80, 70), mode)
    value = before.getpixel(place)
    assert isinstance(value, tuple)
    after.putpixel(place, (*value[:-1], value[-1] ^ 1))
    assert not is_seen_unchanged(tmp_path, ref(before), ref(after))


def test_a_result_of_another_size_or_one_that_cannot_be_decoded_is_not_seen_to_be_the_same(tmp_path: Path) -> None:
    before = ref(noise((80, 70)))
    assert not is_seen_unchanged(tmp_path, before, ref(noise((70, 80))))
    assert not is_seen_unchanged(tmp_path, before, ImageRef.of(png_header(80, 70)))


def test_what_was_seen_of_a_result_is_kept_so_that_its_pictures_are_never_compared_again(tmp_path: Path) -> None:
    picture = noise((80, 70))
    for name, image in (("before.png", picture), ("after.png", with_patch(picture, (0, 0, 8, 8), 40))):
        (tmp_path / name).write_bytes(encoded(image))
    before, after = (ImageRef.of(str(tmp_path / name)) for name in ("before.png", "after.png"))
    mask = ref(left_half(picture.size))
    call = prepare(catalog.TOOLS["erase-v1"], {"image": before, "mask": mask})
    store = Store(str(tmp_path / "store"))
    seen = observe(store, Facts(store), call, before, after)
    assert seen.drift is not None
    (tmp_path / "after.png").unlink()
    byte_cache.shared._entries.clear()
    assert observe(store, Facts(store), call, before, after) == seen
    for record in (tmp_path / "store" / "facts").iterdir():
        record.write_text("{}")
    assert observe(store, Facts(store), call, before, after).drift is None, "without a record, it must look"
