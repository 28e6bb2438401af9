"""Erasing and filling: the rest is untouched, textures go on, and no size or mask is too odd."""

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

from flux_tasks.local.engines.classical import inpaint as package_inpaint
from flux_tasks.local.engines.classical import patchmatch
from flux_tasks.local.engines.classical.inpaint import inpaint
from flux_tasks.local.engines.classical.patchmatch import grown, hole_radius, membrane

# The package offers a function of the same name, which hides the module.
inpaint_module = import_module("flux_tasks.local.engines.classical.inpaint")

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def texture(name: str) -> Picture:
    return np.ascontiguousarray(np.dstack([getattr(skimage.data, name)()] * 3))


def box(shape: tuple[int, ...], rows: slice, columns: slice) -> Mask:
    mask = np.zeros(shape[:2], np.bool_)
    mask[rows, columns] = True
    return mask


def spectral_distance(filled: Picture, original: Picture, rows: slice, columns: slice) -> float:
    """How unlike two textures are: mean difference of their log spectra (0: alike; smeared against sharp: above 1)."""

    def log_spectrum(picture: Picture) -> NDArray[np.float64]:
        part = picture[rows, columns, 0].astype(float)
        window = np.outer(np.hanning(part.shape[0]), np.hanning(part.shape[1]))
        return np.log(cv2.GaussianBlur(np.abs(np.fft.rfft2((part - part.mean()) * window)), (0, 0), 1.5) + 1)

    return float(np.abs(log_spectrum(filled) - log_spectrum(original)).mean())


@pytest.mark.parametrize("name", ["brick", "grass", "gravel"])
def test_a_texture_goes_on_where_diffusion_smears(name: str) -> None:
    original, rows, columns = texture(name), slice(180, 300), slice(200, 320)
    mask = box(original.shape, rows, columns)
    ours = spectral_distance(inpaint(original, mask), original, rows, columns)
    for method in (cv2.INPAINT_TELEA, cv2.INPAINT_NS):
        smeared = np.asarray(cv2.inpaint(original, mask.astype(np.uint8), 3, method), np.uint8)
        assert ours < 0.6 * spectral_distance(smeared, original, rows, columns)


def test_a_regular_pattern_is_restored() -> None:
    wave = 128 + 60 * np.sin(np.arange(160) * 2 * np.pi / 16)
    original = np.clip(np.round((wave[:, None] + wave[None, :]) / 2), 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    mask = box(original.shape, slice(60, 100), slice(50, 95))
    error = np.abs(inpaint(original, mask).astype(float) - original)[mask]
    assert error.mean() < 6


@pytest.mark.parametrize("dilate", [0, 5])
def test_pixels_outside_the_dilated_mask_stay_bit_exact(dilate: int) -> None:
    original = skimage.data.astronaut()
    mask = box(original.shape, slice(150, 230), slice(180, 260))
    filled = inpaint(original, mask, dilate=dilate)
    kept = ~box(original.shape, slice(150 - dilate, 230 + dilate), slice(180 - dilate, 260 + dilate))
    assert np.array_equal(filled[kept], original[kept])
    assert not np.array_equal(filled, original)


def test_no_step_in_brightness_is_left_on_the_rim() -> None:
    """On a smooth slope the seam must not show: neighbours across it differ as little as neighbours elsewhere."""
    down, across = np.mgrid[:200, :220]
    slope = (60 + 0.4 * down + 0.3 * across)[..., None] + np.random.default_rng(0).normal(0, 2, (200, 220, 3))
    original = np.clip(np.round(slope), 0, 255).astype(np.uint8)
    filled = inpaint(original, box(original.shape, slice(70, 130), slice(80, 150))).astype(float)
    across_seam = filled[70:130, 76:80].mean(1) - filled[70:130, 80:84].mean(1)
    assert np.abs(across_seam.mean(0)).max() < 4
    assert np.abs(filled[75:125, 85:145].mean((0, 1)) - slope[75:125, 85:145].mean((0, 1))).max() < 6


def test_an_empty_mask_returns_a_copy() -> None:
    original = skimage.data.chelsea()
    filled = inpaint(original, np.zeros(original.shape[:2], np.bool_), dilate=9)
    assert np.array_equal(filled, original)
    assert filled is not original
    assert not np.shares_memory(filled, original)


def test_a_mask_over_everything_gives_the_mean_colour() -> None:
    original = skimage.data.chelsea()
    filled = inpaint(original, np.ones(original.shape[:2], np.bool_))
    assert np.ptp(filled, axis=(0, 1)).max() == 0
    assert np.abs(filled[0, 0] - original.mean((0, 1))).max() <= 0.5


def test_a_mask_over_nearly_everything_gives_something_calm() -> None:
    original = skimage.data.chelsea()
    mask = ~box(original.shape, slice(0, 5), slice(0, 5))
    filled = inpaint(original, mask)
    assert np.array_equal(filled[:5, :5], original[:5, :5])
    assert np.abs(filled.astype(int) - original[:5, :5].mean((0, 1))).max() < 40


def test_the_content_of_the_hole_plays_no_part() -> None:
    original = skimage.data.astronaut()
    mask = box(original.shape, slice(100, 160), slice(40, 100)) | box(original.shape, slice(100, 150), slice(150, 200))
    painted = original.copy()
    painted[mask] = (0, 255, 0)
    assert np.array_equal(inpaint(original, mask), inpaint(painted, mask))


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(0, 60), slice(100, 180)), (slice(120, 300), slice(0, 50)), (slice(260, 300), slice(400, 451))],
    ids=["top", "left-bottom", "corner"],
)
def test_a_hole_may_touch_the_border(rows: slice, columns: slice) -> None:
    original = skimage.data.chelsea()
    mask = box(original.shape, rows, columns)
    filled = inpaint(original, mask)
    assert np.array_equal(filled[~mask], original[~mask])
    assert filled[mask].std() > 1


def test_holes_far_apart_are_filled_as_if_each_were_alone() -> None:
    original = np.ascontiguousarray(np.tile(texture("gravel"), (1, 2, 1)))
    one, other = (box(original.shape, slice(200, 240), slice(left, left + 40)) for left in (100, 800))
    both = inpaint(original, one | other)
    assert np.array_equal(both[:, :512], inpaint(original, one)[:, :512])
    assert np.array_equal(both[:, 512:], inpaint(original, other)[:, 512:])


def test_thin_scratches_are_closed() -> None:
    original = cv2.GaussianBlur(skimage.data.chelsea(), (0, 0), 2)
    mask = np.zeros(original.shape[:2], np.uint8)
    cv2.line(mask, (20, 30), (430, 250), 1, 3)
    scratched = original.copy()
    scratched[mask > 0] = 255
    error = np.abs(inpaint(scratched, mask > 0).astype(float) - original)[mask > 0]
    assert error.mean() < 3


def test_large_pictures_are_solved_small_and_keep_their_grain(monkeypatch: pytest.MonkeyPatch) -> None:
    original, rows, columns = texture("gravel"), slice(180, 300), slice(200, 320)
    mask = box(original.shape, rows, columns)
    monkeypatch.setattr(inpaint_module, "MOST_PIXELS", 40_000)
    filled = inpaint(original, mask)
    assert np.array_equal(filled[~mask], original[~mask])

    def detail(picture: Picture) -> float:
        return float(cv2.Laplacian(picture[rows, columns, 0], cv2.CV_32F).std())

    assert detail(filled) > 0.6 * detail(original)


def test_the_same_seed_gives_the_same_picture_on_one_thread_and_on_two() -> None:
    original = skimage.data.coffee()
    mask = box(original.shape, slice(150, 230), slice(250, 330))
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            results.append(inpaint(original, mask, seed=7))
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], inpaint(original, mask, seed=8))


@pytest.mark.parametrize("every", [1, 1000])
def test_leaving_out_patches_that_cannot_win_changes_no_pixel(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    original = skimage.data.coffee()[:200, :300]
    mask = box(original.shape, slice(60, 130), slice(100, 180))
    filled = inpaint(original, mask, seed=3)
    monkeypatch.setattr(patchmatch, "CHECKED_EVERY", every)
    assert np.array_equal(inpaint(original, mask, seed=3), filled)


Maker = Callable[[np.random.Generator, int, int], Mask]
SHAPES: dict[str, Maker] = {
    "noise": lambda rng, height, width: rng.random((height, width)) < rng.random(),
    "left half": lambda rng, height, width: np.broadcast_to(np.arange(width) < width / 2, (height, width)),
    "all but one": lambda rng, height, width: np.arange(height * width).reshape(height, width) > 0,
    "frame": lambda rng, height, width: (
        ~np.pad(np.ones((max(0, height - 2), max(0, width - 2)), bool), 1)[:height, :width]
    ),
}


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    shape=st.sampled_from(sorted(SHAPES)),
    dilate=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_any_size_and_any_mask_is_filled(height: int, width: int, shape: str, dilate: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    original = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = np.ascontiguousarray(SHAPES[shape](rng, height, width))
    filled = inpaint(original, mask, dilate=dilate, seed=seed)
    kept = ~grown(mask, dilate)
    assert filled.shape == original.shape
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[kept], original[kept])


def test_a_membrane_goes_through_what_is_known_and_stays_between() -> None:
    values = np.zeros((33, 41, 3), np.float32)
    known = np.zeros((33, 41), np.bool_)
    values[0], values[-1] = 10, 50
    known[0] = known[-1] = True
    surface = membrane(values, known)
    assert np.allclose(surface[known], values[known])
    assert surface.min() >= 10 - 1e-3
    assert surface.max() <= 50 + 1e-3
    assert surface[16].mean() == pytest.approx(30, abs=6)


def test_the_radius_of_a_hole_is_that_of_its_largest_disc() -> None:
    assert hole_radius(box((40, 40), slice(10, 31), slice(5, 35))) == pytest.approx(11, abs=1)
    assert hole_radius(np.zeros((5, 5), np.bool_)) == 0


def test_the_package_offers_the_function() -> None:
    assert package_inpaint is inpaint
