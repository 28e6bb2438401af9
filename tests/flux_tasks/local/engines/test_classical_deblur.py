"""Deblurring on photos packaged in scikit-image: it gains where the blur is known to it, and never loses."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flux_tasks.local.engines.classical import deblur
from flux_tasks.local.engines.classical.blur import (
    Streak,
    edge_sigma,
    gaussian,
    likeness,
    line,
    noise_sigma,
    straightened,
)
from flux_tasks.local.engines.classical.deconvolve import deconvolve, within_neighbourhood

Picture = NDArray[np.uint8]


def photo(name: str) -> Picture:
    picture = getattr(skimage.data, name)()
    return np.ascontiguousarray(picture if picture.ndim == 3 else np.dstack([picture] * 3))


def middle(name: str) -> Picture:
    """The middle of a photo: half of it, and half of the time."""
    picture = photo(name)
    top, left = ((side - 384) // 2 if side > 384 else 0 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + 384, left : left + 384])


def luma(name: str) -> NDArray[np.float32]:
    return cv2.cvtColor(photo(name), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255


def blurred(picture: Picture, kernel: NDArray[np.float32], noise: float = 0.0) -> Picture:
    soft = cv2.filter2D(picture.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REFLECT)
    return noisy(soft, noise)


def noisy(picture: NDArray[np.generic], sigma: float) -> Picture:
    grain = np.random.default_rng(0).normal(0, sigma, picture.shape)
    return np.clip(np.round(picture + grain), 0, 255).astype(np.uint8)


def jpeg(picture: Picture, quality: int) -> Picture:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def psnr(a: Picture, b: Picture) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def gain(original: Picture, damaged: Picture) -> float:
    """Decibels won by deblurring; 0 if nothing was changed."""
    return psnr(deblur(damaged).image, original) - psnr(damaged, original)


@pytest.mark.parametrize(
    ("name", "sigma", "least"),
    [
        ("astronaut", 1.2, 2.5),
        ("astronaut", 2.0, 2.2),
        ("chelsea", 3.0, 1.0),
        ("camera", 2.0, 1.4),
        ("coffee", 1.6, 0.8),
    ],
)
def test_a_gaussian_blur_is_undone_to_a_good_part(name: str, sigma: float, least: float) -> None:
    original = photo(name)
    assert gain(original, blurred(original, gaussian(sigma))) >= least


@pytest.mark.parametrize(
    ("name", "length", "angle", "least"),
    [("astronaut", 9, 0, 3.5), ("camera", 9, 0, 2.4), ("chelsea", 9, 0, 0.8), ("astronaut", 21, 120, 1.5)],
)
def test_motion_blur_is_recognised_and_undone(name: str, length: float, angle: float, least: float) -> None:
    original = photo(name)
    damaged = blurred(original, line(length, angle))
    result = deblur(damaged)
    assert result.mode == "motion"
    assert psnr(result.image, original) - psnr(damaged, original) >= least
    off = abs(result.angle - angle) % 180
    assert min(off, 180 - off) < 20


@pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket", "camera"])
@pytest.mark.parametrize("damage", ["none", "noise", "jpeg"])
def test_a_sharp_picture_comes_back_unchanged(name: str, damage: str) -> None:
    picture = middle(name)
    picture = {"none": picture, "noise": noisy(picture, 4), "jpeg": jpeg(picture, 70)}[damage]
    result = deblur(picture)
    assert result.mode == "unchanged"
    assert np.array_equal(result.image, picture)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "rocket"])
@pytest.mark.parametrize(
    ("kernel", "noise"),
    [(gaussian(0.8), 0.0), (gaussian(1.6), 3.0), (line(15, 60), 0.0), (line(11, 30), 1.0)],
    ids=["slight", "noisy", "long-motion", "noisy-motion"],
)
def test_no_picture_loses_more_than_half_a_decibel(name: str, kernel: NDArray[np.float32], noise: float) -> None:
    original = middle(name)
    assert gain(original, blurred(original, kernel, noise)) > -0.5


def test_the_same_picture_gives_the_same_result_on_one_thread_and_on_two() -> None:
    damaged = blurred(middle("chelsea"), gaussian(2.0))
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            results.append(deblur(damaged))
    finally:
        cv2.setNumThreads(before)
    assert results[0].mode != "unchanged"
    assert np.array_equal(results[0].image, results[1].image)


def test_the_input_array_is_left_alone() -> None:
    damaged = blurred(middle("chelsea"), gaussian(2.0))
    copy = damaged.copy()
    deblur(damaged)
    assert np.array_equal(damaged, copy)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_constant_picture_has_no_blur_to_undo(level: int) -> None:
    picture = np.full((80, 100, 3), level, np.uint8)
    result = deblur(picture)
    assert result.mode == "unchanged"
    assert np.array_equal(result.image, picture)


def test_a_smooth_ramp_keeps_its_values() -> None:
    picture = np.repeat(np.linspace(20, 230, 200)[None, :, None], 90, 0).repeat(3, 2).astype(np.uint8)
    assert np.abs(deblur(picture).image.astype(int) - picture).max() <= 3


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**16),
    softness=st.sampled_from([0.0, 1.0, 4.0]),
)
def test_any_size_comes_back_in_its_own_size(height: int, width: int, seed: int, softness: float) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if softness:
        picture = cv2.GaussianBlur(picture, (0, 0), softness).reshape(height, width, 3)
    image = deblur(picture).image
    assert image.shape == picture.shape
    assert image.dtype == np.uint8


def test_the_noise_estimate_is_close_to_the_noise() -> None:
    grain = np.random.default_rng(1).normal(0, 5 / 255, (512, 512)).astype(np.float32)
    flat = cv2.GaussianBlur(luma("astronaut"), (0, 0), 3)
    assert noise_sigma(flat + grain) * 255 == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0, 4.0])
def test_the_blur_of_a_step_is_measured_in_pixels(sigma: float) -> None:
    step = np.zeros((128, 128), np.float32)
    step[:, 64:] = 1
    assert edge_sigma(cv2.GaussianBlur(step, (0, 0), sigma)) == pytest.approx(sigma, rel=0.15)


def test_a_line_is_as_long_and_as_steep_as_asked() -> None:
    streak = Streak.of(line(15, 60))
    assert streak.length == pytest.approx(15, abs=1)
    assert streak.angle == pytest.approx(60, abs=1)
    assert streak.width < 0.7


def test_a_ragged_streak_is_straightened() -> None:
    rough = line(15, 60) * np.random.default_rng(0).uniform(0.5, 1.5, line(15, 60).shape)
    kernel = np.asarray(rough / rough.sum(), np.float32)
    clean = straightened(kernel)
    assert likeness(clean, line(15, 60)) > max(0.97, likeness(kernel, line(15, 60)) - 0.01)


def test_large_planes_solved_in_tiles_agree_with_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = cv2.GaussianBlur(luma("astronaut"), (0, 0), 2)
    plane = np.asarray(np.round(plane * 255) / 255, np.float32)
    whole = deconvolve(plane, gaussian(2), 1000)
    monkeypatch.setattr("flux_tasks.local.engines.classical.deconvolve.TILE", 256)
    tiled = deconvolve(plane, gaussian(2), 1000)
    difference = np.abs(tiled - whole)[32:-32, 32:-32] * 255  # at the border the reflection differs with the size
    assert difference.mean() < 0.05
    assert difference.max() < 2


def test_ringing_is_held_within_the_range_of_the_neighbourhood() -> None:
    plane = np.full((20, 20), 0.5, np.float32)
    wild = plane.copy()
    wild[10, 10] = 1.0
    assert within_neighbourhood(wild, plane, 0.3).max() <= 0.5 + 2 / 255 + 1e-6
