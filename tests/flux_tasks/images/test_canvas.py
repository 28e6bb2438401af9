"""Canvases: whatever is asked for, the input lies whole on it and the service takes it, or the reason is said."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flux_tasks.errors import InvalidRequest
from flux_tasks.images.canvas import ANCHORS, GRID, MAX_CANVAS, Canvas, parse_aspect_ratio, plan_canvas

SIZES = st.tuples(st.integers(64, 3000), st.integers(64, 3000))
RATIOS = st.sampled_from(
    ["1:1", "16:9", "9:16", "4:3", "3:2", "21:9", "1.91:1", "2.39:1", "1:4", "100:99", "5/4", "3x2"]
)
SIDES = st.dictionaries(st.sampled_from(["left", "right", "top", "bottom"]), st.integers(0, 2048))


def holds(canvas: Canvas, size: tuple[int, int]) -> bool:
    inside = 0 <= canvas.left <= canvas.width - size[0] and 0 <= canvas.top <= canvas.height - size[1]
    return inside and not canvas.overhangs(size)


# -- by ratio ---------------------------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(size=SIZES, ratio=RATIOS, anchor=st.sampled_from(list(ANCHORS)), exact=st.booleans())
def test_a_canvas_of_a_ratio_holds_the_whole_input_and_fits_the_service_or_is_refused(
    size: tuple[int, int], ratio: str, anchor: str, exact: bool
) -> None:
    wanted = parse_aspect_ratio(ratio)
    assert wanted is not None
    smallest = (max(size[0], size[1] * wanted), max(size[1], size[0] / wanted))
    try:
        canvas = plan_canvas(size, aspect_ratio=ratio, anchor=anchor, exact=exact)
    except InvalidRequest:
        assert (smallest[0] + GRID) * (smallest[1] + GRID) > MAX_CANVAS
        return
    step = 1 if exact else GRID
    assert canvas.width * canvas.height <= MAX_CANVAS
    assert canvas.width % step == canvas.height % step == 0
    assert min(canvas.width, canvas.height) >= 64
    assert holds(canvas, size)
    assert smallest[0] - 1 < canvas.width < max(64, smallest[0]) + step + 1  # no larger than the ratio and the grid ask
    assert smallest[1] - 1 < canvas.height < max(64, smallest[1]) + step + 1


@settings(max_examples=200)
@given(size=SIZES, ratio=RATIOS, anchor=st.sampled_from(list(ANCHORS)))
def test_the_input_sits_where_its_anchor_says(size: tuple[int, int], ratio: str, anchor: str) -> None:
    try:
        canvas = plan_canvas(size, aspect_ratio=ratio, anchor=anchor)
    except InvalidRequest:
        assume(False)
    rooms = (canvas.width - size[0], canvas.height - size[1])
    for offset, room, share in zip((canvas.left, canvas.top), rooms, ANCHORS[anchor], strict=True):
        if share in (0, 1):
            assert offset == room * share
        else:
            assert abs(offset - room / 2) <= GRID


def test_known_canvases() -> None:
    assert plan_canvas((1024, 1024), aspect_ratio="16:9") == Canvas(1824, 1024, 400, 0)
    assert plan_canvas((1024, 1024), aspect_ratio="16:9", exact=True) == Canvas(1821, 1024, 398, 0)
    assert plan_canvas((1024, 1024), aspect_ratio="1:1") == Canvas(1024, 1024, 0, 0)
    assert plan_canvas((1600, 900), aspect_ratio="16:9", exact=True) == Canvas(1600, 900, 0, 0)
    assert plan_canvas((800, 600), aspect_ratio="1:1", anchor="bottom") == Canvas(800, 800, 0, 200)
    assert plan_canvas((800, 600), aspect_ratio="1:1", anchor="top-left") == Canvas(800, 800, 0, 0)
    assert plan_canvas((2048, 2048), aspect_ratio="1:1").width == 2048


@pytest.mark.parametrize("size", [(2049, 2048), (3000, 64), (3000, 1500)])
def test_a_canvas_above_four_megapixels_is_refused_with_its_size_and_the_remedy(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match=r"px, more than 4,194,304: .*fit: downscale") as caught:
        plan_canvas(size, aspect_ratio="1:1", where="steps.2.outpaint")
    assert caught.value.problems[0].where == "steps.2.outpaint"


@pytest.mark.parametrize("ratio", ["", "16", "wide", "16:0", "0:9", "-1:2", "1:2:3", "nan:1", "9" * 400 + ":1", None])
def test_what_is_no_ratio_is_refused_with_an_example(ratio: str | None) -> None:
    with pytest.raises(InvalidRequest, match="write it like '16:9'"):
        plan_canvas((640, 480), aspect_ratio=ratio)


def test_an_unknown_anchor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="'middle' is unknown: write one of center, left"):
        plan_canvas((640, 480), aspect_ratio="1:1", anchor="middle")


@pytest.mark.parametrize(
    ("text", "ratio"),
    [("16:9", 16 / 9), (" 4 : 3 ", 4 / 3), ("1.91:1", 1.91), ("3/2", 1.5), ("3x2", 1.5), ("1:0", None), ("a:b", None)],
)
def test_a_ratio_is_two_positive_numbers(text: str, ratio: float | None) -> None:
    assert parse_aspect_ratio(text) == ratio


@given(text=st.text(max_size=30) | st.from_regex(r"\A[0-9.]{1,20}[:/x][0-9.]{1,20}\Z"))
def test_no_text_whatever_gives_a_ratio_that_cannot_be_planned_with(text: str) -> None:
    ratio = parse_aspect_ratio(text)
    if ratio is not None:
        assert 0 < ratio < float("inf")
        try:
            assert holds(plan_canvas((640, 480), aspect_ratio=text), (640, 480))
        except InvalidRequest as error:
            assert "more than 4,194,304" in str(error)


# -- by sides ---------------------------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(size=SIZES, sides=SIDES, exact=st.booleans())
def test_an_expanded_canvas_has_the_pixels_that_were_asked_for_on_every_side(
    size: tuple[int, int], sides: dict[str, int], exact: bool
) -> None:
    asked = {name: sides.get(name, 0) for name in ("left", "right", "top", "bottom")}
    wanted = (size[0] + asked["left"] + asked["right"], size[1] + asked["top"] + asked["bottom"])
    try:
        canvas = plan_canvas(size, expand=sides, exact=exact)
    except InvalidRequest:
        assert (wanted[0] + GRID) * (wanted[1] + GRID) > MAX_CANVAS
        return
    assert canvas.width * canvas.height <= MAX_CANVAS
    assert holds(canvas, size)
    if exact:
        assert canvas == Canvas(*wanted, asked["left"], asked["top"])
        return
    assert canvas.width % GRID == canvas.height % GRID == 0
    assert 0 <= canvas.width - wanted[0] < GRID
    assert 0 <= canvas.height - wanted[1] < GRID
    assert abs(canvas.left - asked["left"]) < GRID
    assert abs(canvas.top - asked["top"]) < GRID


def test_a_side_that_is_not_expanded_keeps_its_edge() -> None:
    assert plan_canvas((640, 480), expand={"right": 320}) == Canvas(960, 480, 0, 0)
    assert plan_canvas((640, 480), expand={"left": 320}) == Canvas(960, 480, 320, 0)
    left_only = plan_canvas((633, 480), expand={"left": 100})
    assert left_only.left + 633 == left_only.width
    assert plan_canvas((640, 480), expand={}) == Canvas(640, 480, 0, 0)


# -- overhang ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "top", "overhangs"),
    [(0, 0, False), (36, 52, False), (37, 0, True), (0, 53, True), (-1, 0, True), (0, -1, True)],
)
def test_an_input_overhangs_when_a_pixel_of_it_lies_beyond_the_canvas(left: int, top: int, overhangs: bool) -> None:
    assert Canvas(100, 100, left, top).overhangs((64, 48)) is overhangs
