"""Outpainting: the picture stays, the seam does not show, nothing is too large, too small or too far off."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flux_tasks.local.engines.classical import outpaint, outpaint_fast

# The package offers a function of the same name, which hides the module.
inpaint_module = import_module("flux_tasks.local.engines.classical.inpaint")

Picture = NDArray[np.uint8]
Outpaint = Callable[[Picture, int, int, int, int], Picture]
both = pytest.mark.parametrize("function", [outpaint, outpaint_fast], ids=["patches", "fast"])


def photo(name: str) -> Picture:
    return np.ascontiguousarray(getattr(skimage.data, name)()[..., :3])


def smaller(picture: Picture, width: int, height: int) -> Picture:
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def visible(picture: Picture, width: int, height: int, left: int, top: int) -> tuple[Picture, tuple[slice, slice]]:
    """The part of the picture on the canvas, and where it lies there."""
    rows = slice(max(0, top), max(0, min(height, top + picture.shape[0])))
    columns = slice(max(0, left), max(0, min(width, left + picture.shape[1])))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return picture[:0, :0], (slice(0, 0), slice(0, 0))
    return picture[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left], (rows, columns)


@both
@pytest.mark.parametrize(
    "place",
    [
        (400, 300, 60, 50),
        (360, 200, 160, 0),
        (200, 300, 0, 0),
        (150, 260, -30, 40),
        (120, 130, -40, -35),
        (200, 200, 0, 0),
    ],
    ids=["around", "left only", "below only", "overhanging", "cropped", "as it is"],
)
def test_what_is_seen_of_the_picture_stays_bit_exact(function: Outpaint, place: tuple[int, int, int, int]) -> None:
    picture = smaller(photo("astronaut"), 200, 200)
    canvas = function(picture, *place)
    seen, where = visible(picture, *place)
    assert canvas.shape == (place[1], place[0], 3)
    assert canvas.dtype == np.uint8
    assert np.array_equal(canvas[where], seen)


@both
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_the_seam_is_no_sharper_than_the_picture(function: Outpaint, name: str) -> None:
    """The step across each seam, averaged over pieces of 16 pixels so that grain cancels, against such steps inside."""
    picture = smaller(photo(name), 240, 200)
    canvas = function(picture, 360, 280, 60, 40).astype(float)

    def steps(rows: slice, column: int) -> NDArray[np.float64]:
        jump = np.abs(canvas[rows, column - 2 : column].mean(1) - canvas[rows, column : column + 2].mean(1))
        return jump[: len(jump) // 16 * 16].reshape(-1, 16, 3).mean((1, 2))

    inside = np.concatenate([steps(slice(40, 240), column) for column in range(64, 297, 8)])
    seams = np.concatenate([steps(slice(40, 240), 60), steps(slice(40, 240), 300)])
    assert seams.mean() <= inside.mean() + 4


@both
def test_a_constant_picture_goes_on_constant(function: Outpaint) -> None:
    canvas = function(np.full((90, 70, 3), 77, np.uint8), 200, 180, 30, 40)
    assert np.abs(canvas.astype(int) - 77).max() <= 1


@both
def test_a_grey_picture_stays_grey(function: Outpaint) -> None:
    grey = smaller(np.dstack([skimage.data.camera()] * 3), 128, 128)
    canvas = function(grey, 220, 160, 40, 16).astype(int)
    assert np.abs(canvas[..., 0] - canvas[..., 1]).max() <= 1
    assert np.abs(canvas[..., 1] - canvas[..., 2]).max() <= 1


@both
def test_a_canvas_four_times_as_wide_and_high_is_filled_and_calm_far_out(function: Outpaint) -> None:
    picture = smaller(photo("astronaut"), 128, 128)
    canvas = function(picture, 512, 512, 192, 192)
    corner = canvas[:64, :64].astype(np.float32)
    assert cv2.Laplacian(corner, cv2.CV_32F).std() < 4
    assert np.array_equal(canvas[192:320, 192:320], picture)


def test_the_middle_of_the_picture_is_not_cloned() -> None:
    picture = smaller(photo("coffee"), 240, 200) // 2
    picture[60:140, 80:160] = (0, 255, 0)
    canvas = outpaint(picture, 400, 300, 80, 50).astype(int)
    green = (canvas[..., 1] > 200) & (canvas[..., 0] < 100)
    assert np.count_nonzero(green) == 80 * 80


def test_texture_goes_on_beyond_the_edge() -> None:
    gravel = np.ascontiguousarray(np.dstack([skimage.data.gravel()] * 3)[:256, :256])
    canvas = outpaint(gravel, 336, 256, 40, 0)

    def detail(part: Picture) -> float:
        return float(cv2.Laplacian(np.ascontiguousarray(part[..., 0]), cv2.CV_32F).std())

    assert detail(canvas[:, 4:40]) > 0.5 * detail(gravel)
    assert detail(canvas[:, 300:332]) > 0.5 * detail(gravel)


@both
def test_a_picture_off_the_canvas_leaves_its_mean_colour(function: Outpaint) -> None:
    picture = smaller(photo("chelsea"), 40, 30)
    canvas = function(picture, 50, 20, 200, 0)
    assert canvas.shape == (20, 50, 3)
    assert np.abs(canvas - picture.mean((0, 1))).max() <= 0.5


def test_large_canvases_are_solved_at_a_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpaint_module, "MOST_PIXELS", 30_000)
    picture = smaller(photo("coffee"), 300, 200)
    canvas = outpaint(picture, 420, 281, 61, 40)
    assert canvas.shape == (281, 420, 3)
    assert np.array_equal(canvas[40:240, 61:361], picture)


@both
def test_the_input_array_is_left_alone_and_not_shared(function: Outpaint) -> None:
    picture = smaller(photo("chelsea"), 64, 48)
    copy = picture.copy()
    same = function(picture, 64, 48, 0, 0)
    function(picture, 100, 80, 10, 10)
    assert np.array_equal(picture, copy)
    assert np.array_equal(same, picture)
    assert not np.shares_memory(same, picture)


def test_the_same_seed_gives_the_same_picture_on_one_thread_and_on_two() -> None:
    picture = smaller(photo("rocket"), 200, 140)
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            results.append(outpaint(picture, 300, 200, 50, 30, seed=3))
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], outpaint(picture, 300, 200, 50, 30, seed=4))


@both
@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    canvas=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    offset=st.tuples(st.integers(-30, 60), st.integers(-30, 60)),
    seed=st.integers(0, 2**16),
)
def test_any_size_at_any_place_is_continued(
    function: Outpaint, size: tuple[int, int], canvas: tuple[int, int], offset: tuple[int, int], seed: int
) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    result = function(picture, *canvas, *offset)
    seen, where = visible(picture, *canvas, *offset)
    assert result.shape == (canvas[1], canvas[0], 3)
    assert np.array_equal(result[where], seen)
