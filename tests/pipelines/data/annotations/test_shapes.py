"""Polygons, run lengths and labels: their areas, their parts within a picture, their pixels."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw

from flux_tasks.errors import InvalidRequest
from pipelines.data.annotations import Label, Labels, shapes
from pipelines.operations.placement import Placement

SIZE = (48, 40)
EDGES = st.integers(-20, 70)
POINT = st.tuples(EDGES, EDGES)


@st.composite
def boxes(draw: Any) -> Any:
    left, top = draw(POINT)
    return float(left), float(top), float(left + draw(st.integers(1, 50))), float(top + draw(st.integers(1, 50)))


def outline(box: Any) -> Any:
    left, top, right, bottom = box
    return (left, top), (right, top), (right, bottom), (left, bottom)


def drawn(*labels: Label, size: Any = SIZE, **options: Any) -> Image.Image:
    data = Labels(size, labels).draw(None, **options)
    return Image.open(io.BytesIO(data)).convert("L")


@given(boxes())
def test_a_box_is_cut_as_its_outline_is(box: Any) -> None:
    part = shapes.clip(outline(box), SIZE)
    label = Label("car", box).placed(Placement.moved(0, 0, SIZE))
    assert (label is None) == (not part or shapes.area(part) == 0)
    if label is not None:
        assert label.area == pytest.approx(shapes.area(part))
        assert label.box == pytest.approx(shapes.bounds(part))


@given(st.lists(POINT, min_size=3, max_size=7, unique=True))
def test_a_part_is_never_larger_and_lies_within_the_picture(points: Any) -> None:
    part = shapes.clip(tuple(points), SIZE)
    assume(part)
    left, top, right, bottom = shapes.bounds(part)
    assert left >= 0 and top >= 0 and right <= SIZE[0] and bottom <= SIZE[1]  # noqa: PT018 - one box
    assert shapes.area(shapes.clip(part, SIZE)) == pytest.approx(shapes.area(part))


@settings(deadline=None)
@given(boxes())
def test_the_pixels_of_a_box_are_those_of_its_outline(box: Any) -> None:
    by_outline = drawn(Label("car", box, (outline(box),)))
    assert ImageChops.difference(by_outline, drawn(Label("car", box))).getbbox() is None
    expected = Image.new("L", SIZE)
    expected.paste(255, tuple(int(edge) for edge in box))
    assert ImageChops.difference(by_outline, expected).getbbox() is None


def test_the_pixels_of_a_polygon_are_about_those_that_pillow_draws() -> None:
    star = ((24.0, 2.0), (30.0, 15.0), (45.0, 16.0), (33.0, 25.0), (38.0, 38.0), (24.0, 30.0), (9.0, 37.0))
    ours, theirs = drawn(Label("x", shapes.bounds(star), (star,))), Image.new("L", SIZE)
    ImageDraw.Draw(theirs).polygon(star, fill=255)
    white = [image.histogram()[255] for image in (ours, theirs)]
    assert white[0] == pytest.approx(shapes.area(star), rel=0.05)
    assert ImageChops.difference(ours, theirs).histogram()[255] < 0.15 * white[1]  # Pillow draws its edge as well


def test_a_mask_has_the_same_bytes_with_every_library() -> None:
    """They are a part of job keys: should these digests change, users would pay again."""
    star = ((24.3, 2.1), (30.0, 15.7), (45.2, 16.0), (33.0, 25.0), (38.1, 38.9), (24.0, 30.0), (9.5, 37.0))
    labels = Labels(SIZE, (Label("x", shapes.bounds(star), (star,)), Label("y", (3.2, 4.9, 9.5, 11.0))))
    digests = [hashlib.sha256(labels.draw(None, by_box=by_box)).hexdigest()[:16] for by_box in (False, True)]
    assert digests == ["f236dbadedebdba8", "754afd09cd69439e"]


@settings(max_examples=40, deadline=None)
@given(boxes(), st.integers(-30, 30), st.integers(-30, 30), st.tuples(st.integers(20, 60), st.integers(20, 60)))
def test_cut_and_moved_twice_is_no_more_than_cut_once(box: Any, x: int, y: int, size: Any) -> None:
    """What a crop has cut off does not come back with a border."""
    first, second = Placement.moved(x, y, size), Placement.moved(-x, -y, SIZE)
    once = Label("car", box).placed(Placement.moved(0, 0, SIZE))
    there = Label("car", box).placed(first)
    back = there.placed(second) if there is not None else None
    if back is not None:
        assert once is not None
        assert back.area <= once.area + 1e-9
        assert back.visible <= 1
        assert back.visible == pytest.approx(back.area / Label("car", box).area)


def test_a_label_of_which_less_than_the_share_is_left_is_dropped() -> None:
    label = Label("car", (0, 0, 10, 10))
    cut = Placement.moved(-8, 0, SIZE)
    assert label.placed(cut, 0.2) is not None
    assert label.placed(cut, 0.21) is None
    half = label.placed(Placement.moved(-5, 0, SIZE))
    assert half is not None
    assert half.placed(Placement.moved(-3, 0, SIZE), 0.25) is None  # of the whole object, not of the rest of it


def test_run_lengths_move_like_the_box_that_they_fill() -> None:
    box = (10, 6, 30, 26)
    mask = Image.new("L", SIZE)
    mask.paste(255, box)
    label = Label("car", tuple(map(float, box)), rle=shapes.encode(mask))
    assert label.area == 400
    for placement in (
        Placement.scaled(SIZE, (96, 80)),
        Placement.moved(-15, 4, (40, 40)),
        Placement.upright(6, SIZE),
    ):
        moved, plain = label.placed(placement), Label("car", label.box).placed(placement)
        assert moved is not None
        assert plain is not None
        assert moved.box == plain.box
        by_mask, by_box = drawn(moved, size=placement.size), drawn(plain, size=placement.size)
        assert ImageChops.difference(by_mask, by_box).getbbox() is None
        assert moved.visible == pytest.approx(plain.visible)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [4, 4], "counts": [3, 4]},
        {"size": [4, 4], "counts": [3, -4, 17]},
        {"size": [4, 4], "counts": "zzzz"},
        {"size": [4, 4], "counts": "o" * 40},
        {"size": [4, 4], "counts": "52ä"},
        {"size": [4], "counts": "52"},
        {"size": [4, 4], "counts": 7},
        {"size": None, "counts": None},
    ],
)
def test_damaged_run_lengths_are_refused_and_never_decoded(rle: Any) -> None:
    with pytest.raises(InvalidRequest, match="damaged"):
        shapes.decode(rle)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_run_lengths_are_read_compressed_and_not(counts: list[int]) -> None:
    height = 8
    counts.append(-sum(counts) % height)
    assume(sum(counts))
    plain = shapes.decode({"size": [height, sum(counts) // height], "counts": counts})
    assert ImageChops.difference(plain, shapes.decode(shapes.encode(plain))).getbbox() is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_run_lengths_are_those_of_pycocotools(seed: int, width: int, height: int) -> None:
    coder, numpy = pytest.importorskip("pycocotools.mask"), pytest.importorskip("numpy")
    pixels = (numpy.random.default_rng(seed).random((height, width)) > 0.6).astype("uint8") * 255
    found = coder.encode(numpy.asfortranarray(pixels // 255))
    ours = shapes.encode(Image.fromarray(pixels))
    assert ours == {"size": [height, width], "counts": found["counts"].decode()}
    assert shapes.decode(ours).tobytes() == pixels.tobytes()


def test_key_points_move_with_their_label_and_parts_in_old_pixels_are_left_out() -> None:
    points = [5, 5, 2, 30, 10, 1, 0, 0, 0]
    label = Label(
        "person", (4, 4, 40, 20), extra={"keypoints": points, "num_keypoints": 2, "part": [["x", "1"]], "id": 7}
    )
    same, cut = (label.placed(placement) for placement in (Placement.moved(0, 0, SIZE), Placement.moved(-10, 2, SIZE)))
    assert same == label
    assert cut is not None
    assert cut.extra == {"keypoints": [0, 0, 0, 20, 12, 1, 0, 0, 0], "num_keypoints": 1, "id": 7}


@pytest.mark.parametrize(("covered", "is_left"), [(0, True), (4, True), (5, False), (10, False)])
def test_a_label_goes_with_the_part_that_a_mask_covers(covered: int, is_left: bool) -> None:
    mask = Image.new("L", SIZE)
    mask.paste(255, (0, 0, covered, 40))
    labels = Labels(SIZE, (Label("car", (0, 0, 10, 10)), Label("far", (40, 30, 48, 40))))
    left = labels.without(mask, 0.5).names
    assert left == (["car", "far"] if is_left else ["far"])


def test_labels_come_back_from_a_manifest_as_they_were() -> None:
    rle = {"size": [40, 48], "counts": "abc"}
    more = Label("b", (0.5, 1, 2, 3), (((1.0, 2.0), (3.0, 4.0), (5.0, 6.5)),), rle, {"iscrowd": 1}, 0.4)
    labels = Labels(SIZE, (Label("a", (1, 2, 3, 4)), more), {"id": 7})
    assert Labels.from_data(labels.to_data()) == labels
