"""Masks: black and white and nothing between, and not one pixel changed outside the white."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise
from PIL import Image
from pydantic import ValidationError

from flux_tasks.errors import InvalidImage
from flux_tasks.images import masks
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import ImageRef

WHITE, BLACK = 255, 0


def picture_of(rows: list[list[int]]) -> Image.Image:
    return Image.frombytes("L", (len(rows[0]), len(rows)), bytes(v for row in rows for v in row))


def rows_of(mask: Image.Image) -> list[list[int]]:
    data = mask.tobytes()
    return [list(data[y * mask.width : (y + 1) * mask.width]) for y in range(mask.height)]


@st.composite
def small_masks(draw: st.DrawFn, most: int = 24) -> Image.Image:
    width, height = draw(st.integers(1, most)), draw(st.integers(1, most))
    grains = draw(st.binary(min_size=width * height, max_size=width * height))  # many draws would take long
    return Image.frombytes("L", (width, height), bytes(WHITE if grain % 3 == 2 else BLACK for grain in grains))


def square_dilation(mask: Image.Image, radius: int) -> list[list[int]]:
    """White wherever a white pixel is within ``radius`` in both directions: the definition, pixel by pixel."""
    source = rows_of(mask)
    white = [(x, y) for y, row in enumerate(source) for x, value in enumerate(row) if value]
    return [
        [
            WHITE if any(abs(x - a) <= radius and abs(y - b) <= radius for a, b in white) else BLACK
            for x in range(mask.width)
        ]
        for y in range(mask.height)
    ]


# -- black and white --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
def test_every_picture_becomes_strictly_black_and_white(mode: str) -> None:
    image = Image.linear_gradient("L").resize((40, 40)).convert("L")
    image = image.convert(mode) if mode != "I;16" else Image.frombytes("I;16", (20, 40), image.tobytes())
    assert set(masks.binarise(image).tobytes()) == {WHITE, BLACK}
    assert masks.binarise(image).mode == "L"


def test_white_begins_at_the_threshold() -> None:
    row = picture_of([[0, 127, 128, 255]])
    assert rows_of(masks.binarise(row)) == [[BLACK, BLACK, WHITE, WHITE]]
    assert rows_of(masks.binarise(row, threshold=1)) == [[BLACK, WHITE, WHITE, WHITE]]
    assert rows_of(masks.binarise(row, threshold=255)) == [[BLACK, BLACK, BLACK, WHITE]]


def test_a_sixteen_bit_mask_is_judged_by_its_own_range() -> None:
    deep = Image.new("I;16", (4, 1))
    for x, value in enumerate([0, 300, 30_000, 65_535]):
        deep.putpixel((x, 0), value)
    assert rows_of(masks.binarise(deep)) == [[BLACK, BLACK, BLACK, WHITE]]


def test_white_paint_counts_only_where_it_covers() -> None:
    paint = Image.new("LA", (3, 1))
    for x, value in enumerate([(255, 0), (255, 255), (0, 255)]):
        paint.putpixel((x, 0), value)
    assert rows_of(masks.binarise(paint)) == [[BLACK, WHITE, BLACK]]


def test_a_palette_with_transparency_is_read_without_a_warning() -> None:
    palette = noise((9, 9)).quantize(4)
    palette.info["transparency"] = bytes([0, 255, 255, 255])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks.binarise(palette)


def test_the_transparent_part_becomes_white() -> None:
    image = noise((4, 1), "RGBA")
    image.putalpha(picture_of([[0, 127, 128, 255]]))
    assert rows_of(masks.from_alpha(image)) == [[WHITE, WHITE, BLACK, BLACK]]
    with pytest.raises(InvalidImage, match="the picture has none"):
        masks.from_alpha(noise())


def test_inverting_twice_changes_nothing_and_once_everything() -> None:
    mask = picture_of([[BLACK, WHITE], [WHITE, WHITE]])
    assert rows_of(masks.invert(mask)) == [[WHITE, BLACK], [BLACK, BLACK]]
    assert rows_of(masks.invert(masks.invert(mask))) == rows_of(mask)


def test_an_empty_mask_is_known_and_coverage_is_the_white_share() -> None:
    assert masks.is_empty(Image.new("L", (5, 5)))
    mask = picture_of([[BLACK, BLACK], [BLACK, WHITE]])
    assert not masks.is_empty(mask)
    assert masks.coverage(mask) == 0.25
    assert masks.coverage(Image.new("L", (5, 5))) == 0


# -- boxes ------------------------------------------------------------------------------------------------------------


def test_a_box_covers_from_its_left_and_top_up_to_its_right_and_bottom() -> None:
    mask = masks.from_boxes((4, 3), [(1, 0, 3, 2)])
    assert rows_of(mask) == [[0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]


def test_boxes_may_overlap_and_overhang() -> None:
    mask = masks.from_boxes((4, 2), [(-5, -5, 1, 1), (3, 1, 99, 99), (0, 0, 1, 2)])
    assert rows_of(mask) == [[255, 0, 0, 0], [255, 0, 0, 255]]
    assert masks.coverage(masks.from_boxes((4, 2), [(-(10**12), -(10**12), 10**12, 10**12)])) == 1


@pytest.mark.parametrize("box", [(2, 2, 2, 3), (3, 0, 1, 2), (0, 5, 3, 4), (0.1, 0, 0.4, 5)])
def test_a_box_without_an_area_is_refused(box: Any) -> None:
    with pytest.raises(InvalidImage, match="is empty: write it as left, top, right, bottom"):
        masks.from_boxes((9, 9), [box])


@pytest.mark.parametrize("box", [(9, 0, 12, 3), (-4, 0, 0, 3), (0, 9, 3, 12), (0, -3, 3, 0)])
def test_a_box_outside_the_picture_is_refused(box: Any) -> None:
    with pytest.raises(InvalidImage, match="lies outside the picture of 9×9 px"):
        masks.from_boxes((9, 9), [box])


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_size_is_refused_with_both_sizes_and_the_remedy() -> None:
    mask = Image.new("L", (30, 20), WHITE)
    assert masks.match(mask, (30, 20)) is mask
    with pytest.raises(InvalidImage, match=r"the mask is 30×20 px but the image is 60×40 px: .*resize: true"):
        masks.match(mask, (60, 40))


def test_a_mask_that_is_resized_stays_black_and_white() -> None:
    mask = masks.match(picture_of([[BLACK, WHITE]]), (30, 21), resize=True)
    assert mask.size == (30, 21)
    assert set(mask.tobytes()) == {WHITE, BLACK}
    assert masks.coverage(mask) == 0.5


# -- dilation ---------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(mask=small_masks(), radius=st.integers(0, 130))
def test_dilation_grows_the_white_by_a_square_of_its_radius(mask: Image.Image, radius: int) -> None:
    assert rows_of(masks.dilate(mask, radius)) == square_dilation(mask, radius)


@pytest.mark.parametrize("radius", [1, 15, 99, 100, 101, 127, 128, 200, 255, 500])
def test_one_white_pixel_becomes_a_whole_square_of_any_radius(radius: int) -> None:
    side = 2 * radius + 11
    mask = Image.new("L", (side, side))
    mask.putpixel((radius + 5, radius + 5), WHITE)
    grown = masks.dilate(mask, radius)
    assert grown.getbbox() == (5, 5, side - 5, side - 5)
    assert grown.histogram()[255] == (2 * radius + 1) ** 2


@settings(max_examples=60)
@given(mask=small_masks(), radius=st.integers(1, 30))
def test_a_negative_radius_grows_the_black(mask: Image.Image, radius: int) -> None:
    grown_black = square_dilation(masks.invert(mask), radius)
    assert rows_of(masks.invert(masks.dilate(mask, -radius))) == grown_black


def test_a_radius_of_zero_changes_nothing() -> None:
    mask = picture_of([[BLACK, WHITE]])
    assert rows_of(masks.dilate(mask, 0)) == rows_of(mask)


def test_an_outline_lies_along_the_inner_edge() -> None:
    mask = masks.from_boxes((20, 20), [(5, 5, 15, 15)])
    outline = masks.outline(mask, width=2)
    assert masks.is_empty(Image.composite(outline, Image.new("L", (20, 20)), masks.invert(mask)))
    assert outline.histogram()[255] == 10 * 10 - 6 * 6
    assert outline.getpixel((10, 10)) == BLACK


# -- compositing ------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    mask=small_masks(),
    feather=st.sampled_from([0, 0.3, 1, 2.5, 8, 40]),
    modes=st.tuples(*[st.sampled_from(["RGB", "RGBA", "L"])] * 2),
)
def test_a_composite_is_the_original_bit_for_bit_outside_the_mask(
    mask: Image.Image, feather: float, modes: tuple[str, str]
) -> None:
    original, edited = noise(mask.size, modes[0], 1), noise(mask.size, modes[1], 2)
    result = masks.composite(original, edited, mask, feather=feather)
    assert result.mode == ("RGBA" if modes[0] == "RGBA" else "RGB")
    expected = original.convert(result.mode)
    blank = Image.new(result.mode, result.size)
    assert Image.composite(blank, result, mask).tobytes() == Image.composite(blank, expected, mask).tobytes()


def test_a_composite_without_feather_is_the_edit_inside_the_mask() -> None:
    original, edited = noise((20, 20), seed=1), noise((20, 20), seed=2)
    mask = masks.from_boxes((20, 20), [(5, 5, 15, 15)])
    result = masks.composite(original, edited, mask)
    assert result.crop((5, 5, 15, 15)).tobytes() == edited.crop((5, 5, 15, 15)).tobytes()


def test_a_feathered_composite_is_the_edit_in_the_middle_and_between_both_at_the_edge() -> None:
    original, edited = Image.new("RGB", (80, 80), "black"), Image.new("RGB", (80, 80), "white")
    mask = masks.from_boxes((80, 80), [(10, 10, 70, 70)])
    line = [p[0] for p in (masks.composite(original, edited, mask, feather=6).getpixel((x, 40)) for x in range(41))]
    assert line[:10] == [0] * 10
    assert line[10:] == sorted(line[10:])
    assert 0 < line[14] < 255
    assert line[30] == line[40] == 255


def test_pictures_of_different_sizes_are_not_composited() -> None:
    with pytest.raises(InvalidImage, match="original 4×4 px, edited 5×4 px, mask 4×4 px: resize them first"):
        masks.composite(noise((4, 4)), noise((5, 4)), Image.new("L", (4, 4)))


# -- drift ------------------------------------------------------------------------------------------------------------


def test_identical_pictures_have_not_drifted() -> None:
    image = noise((20, 20))
    for mask in (Image.new("L", (20, 20)), masks.from_boxes((20, 20), [(5, 5, 15, 15)])):
        assert masks.drift(image, image.copy(), mask) == masks.Drift(0.0, 0, 0.0)


def test_drift_counts_what_changed_outside_the_mask_only() -> None:
    original = Image.new("RGB", (10, 10), (100, 100, 100))
    edited = original.copy()
    edited.putpixel((0, 0), (130, 100, 100))  # outside
    edited.putpixel((1, 0), (100, 90, 106))  # outside
    edited.putpixel((9, 9), (0, 0, 0))  # inside
    drift = masks.drift(original, edited, masks.from_boxes((10, 10), [(5, 0, 10, 10)]))
    assert drift.peak == 30
    assert drift.changed == pytest.approx(2 / 50)
    assert drift.mean == pytest.approx((30 + 10 + 6) / (50 * 3))


def test_under_a_mask_of_everything_nothing_can_drift() -> None:
    assert masks.drift(noise(seed=1), noise(seed=2), Image.new("L", (64, 48), 255)) == masks.Drift(0.0, 0, 0.0)


def test_the_drift_of_pictures_of_different_sizes_is_refused() -> None:
    with pytest.raises(InvalidImage, match="10×10"):
        masks.drift(noise((10, 10)), noise((12, 10)), Image.new("L", (10, 10)))
    with pytest.raises(InvalidImage, match="10×10"):
        masks.drift(noise((10, 10)), noise((10, 10)), Image.new("L", (12, 10)))


# -- as written -------------------------------------------------------------------------------------------------------


def test_a_mask_can_be_written_in_every_way_an_image_can(tmp_path: Path) -> None:
    drawn = masks.from_boxes((64, 48), [(8, 8, 24, 24)])
    place = tmp_path / "mask.png"
    drawn.save(place)
    image = ImageRef.of(encoded())
    sources: list[Any] = [place, str(place), place.read_bytes(), drawn, ImageRef.of(place)]
    sources += [{"file": place}, {"boxes": [[8, 8, 24, 24]]}, Mask(file=place), Mask(boxes=((8, 8, 24, 24),))]
    for source in sources:
        assert Mask.of(source).render(image).tobytes() == drawn.tobytes()
    written = Mask(file=place)
    assert Mask.of(written) is written
    assert written.location() == str(place)
    assert Mask.of(drawn).location() == ""


def test_invert_and_dilate_are_done_in_that_order() -> None:
    image = ImageRef.of(encoded())
    mask = Mask(boxes=((8, 8, 24, 24),), invert=True, dilate=3).render(image)
    hole = masks.invert(mask)
    assert hole.getbbox() == (11, 11, 21, 21)


def test_the_alpha_channel_of_the_picture_itself_can_be_the_mask() -> None:
    picture = noise(mode="RGBA")
    picture.putalpha(masks.invert(masks.from_boxes((64, 48), [(8, 8, 24, 24)])))
    assert Mask(alpha=True).render(ImageRef.of(picture)).getbbox() == (8, 8, 24, 24)
    with pytest.raises(InvalidImage, match="alpha channel"):
        Mask(alpha=True).render(ImageRef.of(encoded()))


def test_a_mask_fits_a_turned_photo_as_people_see_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = ImageRef.of(encoded(kind="JPEG", exif=exif))
    assert Mask(boxes=((0, 0, 48, 1),)).render(turned).size == (48, 64)
    assert Mask(file=Image.new("L", (48, 64), 255)).render(turned).size == (48, 64)
    with pytest.raises(InvalidImage, match="the mask is 64×48 px but the image is 48×64 px"):
        Mask(file=Image.new("L", (64, 48), 255)).render(turned)
    assert Mask(file=Image.new("L", (96, 128), 255), resize=True).render(turned).size == (48, 64)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "give exactly one of file, alpha, boxes"),
        ({"file": "a.png", "alpha": True}, "give exactly one of file, alpha, boxes"),
        ({"alpha": False}, "give exactly one of file, alpha, boxes"),
        ({"boxes": [[1, 2, 3]]}, "boxes.0"),
        ({"boxes": [[1, 2, 3, "x"]]}, "boxes.0"),
        ({"file": "a.png", "dilate": 501}, "less than or equal to 500"),
        ({"file": "a.png", "dilate": -501}, "greater than or equal to -500"),
        ({"file": "a.png", "grow": 5}, "grow"),
    ],
)
def test_a_mask_that_makes_no_sense_says_what_is_wrong(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Mask.of(written)


@pytest.mark.parametrize("colour", ["red", "blue", (100, 90, 100)])
def test_a_mask_painted_in_a_colour_is_refused_and_an_all_black_one_is_empty(colour: Any) -> None:
    painted = Image.new("RGB", (64, 48))
    painted.paste(colour, (8, 8, 24, 24))
    with pytest.raises(InvalidImage, match="no white: paint"):
        Mask.of(painted).render(ImageRef.of(encoded()))
    assert masks.is_empty(Mask.of(Image.new("RGB", (64, 48))).render(ImageRef.of(encoded())))


def test_a_mask_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match=r"none\.png: no such file"):
        Mask(file=tmp_path / "none.png").render(ImageRef.of(encoded()))
