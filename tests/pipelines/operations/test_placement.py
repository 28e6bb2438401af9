"""Where one picture lies on another: compared with what the operations and Pillow do to pixels."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipelines.operations.placement import Placement
from pipelines.operations.registry import OPERATIONS

SIZES = st.tuples(st.integers(8, 60), st.integers(8, 60))
ANCHORS = st.sampled_from(["center", "left", "top-right", "bottom"])
PLACEMENTS = st.one_of(
    st.builds(Placement.scaled, SIZES, SIZES),
    st.builds(Placement.moved, st.integers(-20, 20), st.integers(-20, 20), SIZES),
    st.builds(Placement.upright, st.integers(1, 8), SIZES),
)
POINTS = st.tuples(st.floats(-50, 50), st.floats(-50, 50))


@given(PLACEMENTS, PLACEMENTS, POINTS)
def test_two_placements_together_are_one_after_the_other(one: Placement, other: Placement, point: Any) -> None:
    assert one.then(other).of(point) == pytest.approx(other.of(one.of(point)), abs=1e-6)
    assert one.then(other).size == other.size


@given(PLACEMENTS, SIZES, POINTS)
def test_the_inverse_leads_back(placement: Placement, size: Any, point: Any) -> None:
    assert placement.inverse(size).of(placement.of(point)) == pytest.approx(point, abs=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_has_its_pixels_where_pillow_puts_them(orientation: int) -> None:
    stored = Image.new("L", (7, 5))
    stored.putpixel((1, 3), 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.getexif()[0x0112] = orientation
    seen = ImageOps.exif_transpose(stored)
    x, y = Placement.upright(orientation, (7, 5)).of((1.5, 3.5))
    assert seen.size == Placement.upright(orientation, (7, 5)).size
    assert seen.getpixel((int(x), int(y))) == 255


PARAMETERS = st.one_of(
    st.tuples(st.just("resize"), st.fixed_dictionaries({"width": st.integers(20, 90), "upscale": st.just(True)})),
    st.tuples(
        st.just("resize"),
        st.fixed_dictionaries(
            {
                "width": st.integers(20, 90),
                "height": st.integers(20, 90),
                "fit": st.sampled_from(["contain", "cover", "stretch"]),
                "upscale": st.booleans(),
            }
        ),
    ),
    st.tuples(st.just("crop"), st.fixed_dictionaries({"aspect_ratio": st.just("3:2"), "anchor": ANCHORS})),
    st.tuples(st.just("crop"), st.just({"box": (4, 6, 40, 50)})),
    st.tuples(st.just("pad"), st.fixed_dictionaries({"left": st.integers(0, 20), "bottom": st.integers(1, 20)})),
    st.tuples(st.just("pad"), st.fixed_dictionaries({"aspect_ratio": st.just("2:1"), "anchor": ANCHORS})),
    st.tuples(st.just("flatten"), st.just({})),
    st.tuples(st.just("flip"), st.fixed_dictionaries({"direction": st.sampled_from(["horizontal", "vertical"])})),
    st.tuples(
        st.just("rotate"),
        st.fixed_dictionaries(
            {
                "degrees": st.sampled_from([0, 90, 180, 270, -90, 360]) | st.floats(-360, 360),
                "expand": st.booleans(),
                "color": st.just("black"),
            }
        ),
    ),
)


@settings(max_examples=60, deadline=None)
@given(PARAMETERS, st.integers(8, 40), st.integers(10, 40))
def test_every_operation_puts_a_pixel_where_its_placement_says(choice: Any, x: int, y: int) -> None:
    name, parameters = choice
    operation = OPERATIONS[name]
    image = Image.new("RGB", (60, 70), "black")
    image.paste("white", (x, y, x + 8, y + 8))
    result = operation.perform(parameters, {"image": _reference(image)}).open()
    placement = operation.placement(parameters, image.size)
    assert placement.size == result.size
    middle = placement.of((x + 4, y + 4))
    if 2 <= middle[0] < result.width - 2 and 2 <= middle[1] < result.height - 2:
        assert result.convert("L").getpixel((int(middle[0]), int(middle[1]))) > 128


def _reference(image: Image.Image) -> Any:
    from flux_tasks import ImageRef

    return ImageRef.of(image)
