"""Previews of edits by boxes: what is removed is filled in, what is kept stays, what is new is shown with a label."""

from __future__ import annotations

import pytest
from pictures import noise
from PIL import Image, ImageChops

from flux_tasks.catalog.boxes import Row
from flux_tasks.local.engines.classical import boxes

SIZE = (320, 240)
LEFT_TOP, RIGHT_BOTTOM = (0, 0, 250, 250), (500, 500, 1000, 1000)  # top, left, bottom, right on the grid


def in_pixels(edges: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = edges
    return left * 320 // 1000, top * 240 // 1000, right * 320 // 1000, bottom * 240 // 1000


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Soft noise with a red square in the corner at the top and a blue one in that at the bottom."""
    image = noise((40, 30), "RGB", seed=1).resize(SIZE, Image.Resampling.BICUBIC)
    image.paste("red", in_pixels(LEFT_TOP))
    image.paste("blue", in_pixels(RIGHT_BOTTOM))
    return image


def changed(before: Image.Image, after: Image.Image) -> tuple[int, int, int, int] | None:
    return ImageChops.difference(before, after).getbbox()


def test_what_is_removed_is_filled_from_around_it_and_no_other_pixel_changes(photo: Image.Image) -> None:
    after = boxes.edited(SIZE, [photo], [Row("remove", LEFT_TOP, None, "a square")], seed=1)
    assert after.size == SIZE
    left, top, right, bottom = changed(photo, after) or (0, 0, 320, 240)
    assert (left, top) >= (0, 0)
    assert (right, bottom) <= in_pixels(LEFT_TOP)[2:]
    assert (255, 0, 0) not in [color for _, color in after.crop(in_pixels(LEFT_TOP)).getcolors(10**6) or []]


def test_what_is_kept_stays_even_where_something_else_is_put(photo: Image.Image) -> None:
    rows = [Row("keep", RIGHT_BOTTOM, RIGHT_BOTTOM, "blue"), Row("new", None, (0, 0, 1000, 1000), "a fog")]
    after = boxes.edited(SIZE, [photo], rows, seed=1)
    place = in_pixels(RIGHT_BOTTOM)
    assert after.crop(place).tobytes() == photo.crop(place).tobytes()
    assert changed(photo, after) is not None


@pytest.mark.parametrize(
    ("row", "colour"),
    [
        (Row("move", LEFT_TOP, (600, 100, 900, 400), "a square"), "red"),
        (Row("take", (0, 0, 1000, 1000), (600, 100, 900, 400), "a sign", 1), "lime"),
    ],
)
def test_what_is_moved_or_taken_is_seen_in_its_new_place_with_a_label(
    photo: Image.Image, row: Row, colour: str
) -> None:
    after = boxes.edited(SIZE, [photo, Image.new("RGB", (50, 50), colour)], [row], seed=1)
    place = after.crop(in_pixels((600, 100, 900, 400)))
    colours = {color for _, color in place.getcolors(10**6) or []}
    assert Image.new("RGB", (1, 1), colour).getpixel((0, 0)) in colours
    assert boxes.preview.SIGNAL in colours
    was_red = photo.getpixel((5, 5)) == after.getpixel((5, 5))
    assert was_red is (row.kind == "take")


def test_what_is_new_is_labelled_in_its_box_alone(photo: Image.Image) -> None:
    place = (200, 200, 600, 700)
    after = boxes.edited(SIZE, [photo], [Row("new", None, place, "a door")], seed=1)
    left, top, right, bottom = in_pixels(place)
    box = changed(photo, after)
    assert box is not None
    assert (left, top) <= box[:2]
    assert box[2:] <= (right + 1, bottom + 1)


def test_a_picture_that_is_not_there_is_shown_as_an_empty_box(photo: Image.Image) -> None:
    after = boxes.edited(SIZE, [photo], [Row("take", LEFT_TOP, LEFT_TOP, "a sign", 7)], seed=1)
    assert changed(photo, after) is not None


@pytest.mark.parametrize("edges", [(0, 0, 1, 1), (999, 999, 1000, 1000), (0, 0, 1000, 1000)])
def test_boxes_at_every_edge_of_the_grid_can_be_shown(photo: Image.Image, edges: tuple[int, int, int, int]) -> None:
    for row in (Row("remove", edges, None, "x"), Row("new", None, edges, "x"), Row("move", edges, (0, 0, 9, 9), "x")):
        assert boxes.edited(SIZE, [photo], [row], seed=1).size == SIZE
