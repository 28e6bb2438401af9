"""Measure the blur of a picture, from the picture alone, and undo it only if independent measurements agree.

- *motion*: a streak on which several crops agree; the picture's spectrum is dark where that of the streak is dark;
- *kernel*: a compact shape on which the crops agree almost perfectly, as wide as the edges show;
- *gauss*: no agreement on a shape, yet even the sharpest edges are soft: a Gaussian as wide as the edges show;
- *unchanged*: anything else: sharp, noisy and JPEG-compressed pictures.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from flux_tasks.local.engines.classical.deconvolve import (
    Periodic,
    Plane,
    deconvolve,
    fft,
    gradients,
    inverse_fft,
    multiply,
    power,
    sharp_guess,
    within_neighbourhood,
)

Mode = Literal["motion", "kernel", "gauss", "unchanged"]

KERNEL_SIDE = 25
CROP_SIDE = 320
SMALLEST_SIDE = 48  # below this there are too few edges to measure anything
SHARP_SIGMA = 0.10
WIDEST_SIGMA = 6.0  # a softer picture has a smooth subject, or cannot be restored
MOTION_AGREEMENT = 0.92
SHAPE_AGREEMENT = 0.97
SPECTRAL_EVIDENCE = -2.4


@dataclass(frozen=True)
class Blur:
    """The verdict.

    `sigma` is the blur of the strong edges in pixels (Gaussian equivalent), `noise` the noise in grey levels of 255,
    `agreement` how well the crops agreed on one kernel (0..1), `length` and `angle` (pixels, degrees) its longer axis.
    """

    mode: Mode
    sigma: float
    noise: float
    agreement: float = 0.0
    length: float = 0.0
    angle: float = 0.0
    kernel: Plane | None = None


@dataclass(frozen=True, kw_only=True)
class Deblurred(Blur):
    """A deblurred picture, and what was measured."""

    image: NDArray[np.uint8]


def deblur(rgb: NDArray[np.uint8]) -> Deblurred:
    """Undo the blur of an RGB picture (H, W, 3), or return the same pixels where that is not safe.

    Only luma is sharpened: blur of colour is hardly visible, and sharpening it shows the blocks of JPEG.
    """
    if min(rgb.shape[:2]) < SMALLEST_SIDE:
        return Deblurred("unchanged", 0.0, 0.0, image=rgb.copy())
    coded = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb), np.uint8)
    luma = np.asarray(coded[..., 0] / np.float32(255), np.float32)
    blur = measure(luma)
    image = rgb.copy()
    if blur.kernel is not None:
        trust = float(np.clip(3000 * (1.3 / max(blur.noise, 0.1)) ** 2, 300, 3000))
        slack = 0.15 if blur.mode == "motion" and blur.agreement < 0.985 else 0.3
        sharp = within_neighbourhood(deconvolve(luma, blur.kernel, trust), luma, slack)
        coded[..., 0] = np.clip(np.round(sharp * 255), 0, 255).astype(np.uint8)
        image = np.asarray(cv2.cvtColor(coded, cv2.COLOR_YCrCb2RGB), np.uint8)
    return Deblurred(**vars(blur), image=image)


def measure(luma: Plane) -> Blur:
    """Decide what blurred this picture; see the module's docstring for the four verdicts."""
    sigma, noise = edge_sigma(luma), noise_sigma(luma) * 255
    if not SHARP_SIGMA <= sigma <= WIDEST_SIGMA:
        return Blur("unchanged", sigma, noise)
    kernel, agreement = agreed_kernel(luma)
    streak = Streak.of(kernel)

    def verdict(mode: Mode, kernel: Plane | None = None) -> Blur:
        return Blur(mode, sigma, noise, agreement, length=streak.length, angle=streak.angle, kernel=kernel)

    is_compact = 4.0 <= streak.length <= 5.5 * sigma + 1.5 and streak.width > 0.15 * streak.length
    looks_moved = streak.length >= 6.5 and streak.width < 0.35 * streak.length
    if looks_moved and agreement >= MOTION_AGREEMENT and streak.width <= min(2.3, 0.25 * streak.length):
        kernel = straightened(kernel) if streak.length > 11 else kernel
        if spectral_evidence(luma, kernel) < SPECTRAL_EVIDENCE:
            return verdict("motion", kernel)
    elif agreement >= SHAPE_AGREEMENT and sigma >= 1.0 and is_compact:
        return verdict("kernel", kernel)
    may_be_motion = (looks_moved and agreement > 0.85) or (agreement < 0.85 and streak.length > 14)
    if sigma >= 1.35 or (sigma >= 0.85 and not may_be_motion):
        # A slight blur is undone in part only: there the estimate is least certain and overshoot is most visible.
        return verdict("gauss", gaussian(sigma * min(1.0, 0.325 + 0.5 * sigma)))
    return verdict("unchanged")


# How soft, how noisy


def noise_sigma(luma: Plane) -> float:
    """Return the standard deviation of the noise, in units of the plane.

    Immerkaer, "Fast noise variance estimation", 1996, with the median in place of the mean so that edges do not count.
    """
    laplacian_difference = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return float(np.median(np.abs(cv2.filter2D(luma, cv2.CV_32F, laplacian_difference)))) / 0.6745 / 6


def edge_sigma(luma: Plane) -> float:
    """Return the blur of the sharpest strong edges: the sigma, in pixels, of the Gaussian that softens a step as much.

    An edge of width s blurred once more by b loses a factor √(1 + b²/s²) of its slope; the ratio gives s (Zhuo & Sim,
    "Defocus map estimation from a single image", 2011). The lower quartile is taken: depth of field blurs the rest.
    A picture without edges has no measurable blur: 0.
    """
    calming, again = 0.6, 1.0
    calm = _smooth(luma, calming)
    slope, softened = slopes(calm), slopes(_smooth(calm, again))
    ridge = slope >= np.asarray(cv2.dilate(slope, np.ones((3, 3), np.uint8))) - 1e-7
    strong = ridge & (slope > max(float(np.percentile(slope, 97)), 0.08))
    if np.count_nonzero(strong) < 50:
        strong = slope >= max(float(np.percentile(slope, 99)), 0.02)
    if not strong.any():
        return 0.0
    ratio = np.maximum(slope[strong] / np.maximum(softened[strong], 1e-6), 1.0001)
    squared = again**2 / (ratio**2 - 1) - calming**2
    return float(np.sqrt(max(float(np.percentile(squared, 25)), 0.0)))


def slopes(plane: Plane) -> Plane:
    """Return the magnitude of the Sobel gradient."""
    return np.asarray(np.hypot(cv2.Sobel(plane, cv2.CV_32F, 1, 0), cv2.Sobel(plane, cv2.CV_32F, 0, 1)), np.float32)


def _smooth(plane: Plane, sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)


# One kernel from one crop


def blind_kernel(crop: Plane, side: int = KERNEL_SIDE) -> Plane:
    """Find the kernel of a crop, from coarse to fine, in turns with a cartoon of the sharp crop (Xu et al. 2013).

    The kernel step is least squares on gradients in Fourier space (Cho & Lee, "Fast motion deblurring", 2009).
    """
    scales = [2 ** (-n / 2) for n in range(7) if n == 0 or side * 2 ** (-n / 2) >= 4]
    kernel = np.zeros((3, 3), np.float32)
    kernel[1, :2] = 0.5
    for scale in reversed(scales):
        small = crop if scale == 1 else _resized(crop, scale)
        here = max(3, round(side * scale) // 2 * 2 + 1)
        if scale != scales[-1]:
            kernel = np.maximum(np.asarray(cv2.resize(kernel, (here, here)), np.float32), 0)
            kernel /= kernel.sum()
        blurred = Periodic.of(small, here)
        weight = 4e-3
        for _ in range(4):
            kernel = _fit_kernel(sharp_guess(blurred, kernel, weight), blurred, here)
            weight /= 1.1
    return kernel


def _resized(plane: Plane, scale: float) -> Plane:
    return np.asarray(cv2.resize(plane, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.float32)


def _fit_kernel(sharp: Plane, blurred: Periodic, side: int, ridge: float = 2.0) -> Plane:
    """Return the kernel that turns the strong gradients of `sharp` into those of `blurred`, cleaned and centred."""
    along_x, along_y = gradients(sharp)
    magnitude = np.hypot(along_x, along_y)
    strongest = int(0.12 * magnitude.size)
    threshold = float(np.partition(magnitude.ravel(), -strongest)[-strongest])
    faint = magnitude < max(0.5 * threshold, 1e-3)
    along_x[faint] = 0
    along_y[faint] = 0
    sharp_x, sharp_y = fft(along_x), fft(along_y)
    blurred_x, blurred_y = blurred.gradient_spectra
    matched = np.asarray(np.conj(sharp_x) * blurred_x + np.conj(sharp_y) * blurred_y, np.complex64)
    whole = inverse_fft(
        multiply(matched, np.reciprocal(power(sharp_x) + power(sharp_y) + np.float32(ridge))), sharp.shape
    )
    kernel = np.roll(whole, (side // 2, side // 2), (0, 1))[:side, :side]
    return _cleaned(kernel)


def _cleaned(kernel: Plane) -> Plane:
    """Remove faint values and small islands, and move the centre of mass to the middle, by whole pixels."""
    side = kernel.shape[0]
    kernel = np.where(kernel < 0.05 * kernel.max(), 0, kernel).astype(np.float32)
    count, labels = cv2.connectedComponents((kernel > 0).astype(np.uint8), connectivity=8)
    total = kernel.sum()
    for island in range(1, count):
        if kernel[labels == island].sum() < 0.08 * total:
            kernel[labels == island] = 0
    if kernel.sum() <= 0:
        kernel[side // 2, side // 2] = 1
    kernel /= kernel.sum()
    row, column = _centre_of_mass(kernel)
    return np.roll(kernel, (side // 2 - round(row), side // 2 - round(column)), (0, 1))


def _centre_of_mass(kernel: Plane) -> tuple[float, float]:
    total = float(kernel.sum())
    rows, columns = np.arange(kernel.shape[0]), np.arange(kernel.shape[1])
    return float(kernel.sum(1) @ rows) / total, float(kernel.sum(0) @ columns) / total


def centred(kernel: Plane) -> Plane:
    """Move a kernel by a fraction of a pixel, so that its centre of mass is exactly the middle; its sum is 1."""
    height, width = kernel.shape
    row, column = _centre_of_mass(kernel)
    shift = np.array([[1, 0, (width - 1) / 2 - column], [0, 1, (height - 1) / 2 - row]], np.float32)
    moved = np.maximum(np.asarray(cv2.warpAffine(kernel, shift, (width, height)), np.float32), 0)
    return np.asarray(moved / moved.sum(), np.float32)


# One kernel on which several crops agree


def agreed_kernel(luma: Plane) -> tuple[Plane, float]:
    """Return the mean kernel of the crops that agree best, and the likeness (0..1) of the closest pair."""
    kernels = [centred(blind_kernel(crop)) for crop in rich_crops(luma)]
    if len(kernels) == 1:
        return kernels[0], 0.0
    alike = np.eye(len(kernels))
    for a, b in product(range(len(kernels)), repeat=2):
        if a != b:
            alike[a, b] = likeness(kernels[a], kernels[b])
    best_partner = np.sort(alike, 1)[:, -2]
    speaker = int(np.argmax(best_partner + 0.25 * alike.mean(1)))
    agreement = float(best_partner[speaker])
    party = [k for k, like in zip(kernels, alike[speaker], strict=True) if like > max(0.8, agreement - 0.1)]
    kernel = centred(np.mean(party, axis=0, dtype=np.float32) if party else kernels[speaker])
    return centred(np.where(kernel < 0.03 * kernel.max(), 0, kernel).astype(np.float32)), agreement


def rich_crops(luma: Plane) -> list[Plane]:
    """Return one crop from each quarter (half, or the whole) of the picture, with most gradient; richest first."""
    height, width = luma.shape
    side = min(CROP_SIDE, height, width)
    crops = [
        richest_crop(luma[rows, columns], side)
        for rows, columns in product(_halves(height, side), _halves(width, side))
    ]
    return sorted(crops, key=lambda crop: -float(np.percentile(slopes(crop), 95)))


def _halves(length: int, side: int) -> list[slice]:
    """Return two overlapping halves if they can differ enough, else the whole."""
    if length < 1.35 * side:
        return [slice(0, length)]
    half = length // 2
    extent = half + (side // 4 if half < side else 0)
    return [slice(0, extent), slice(length - extent, length)]


def richest_crop(plane: Plane, side: int) -> Plane:
    """Return the square of this side with the largest sum of (clipped) gradients, on a grid of about 7 × 7 places."""
    height, width = min(side, plane.shape[0]), min(side, plane.shape[1])
    gradient = slopes(plane)
    total = cv2.integral(np.minimum(gradient, np.percentile(gradient, 98)))
    best, place = -1.0, (0, 0)
    for top in range(0, plane.shape[0] - height + 1, max(1, (plane.shape[0] - height) // 6)):
        for left in range(0, plane.shape[1] - width + 1, max(1, (plane.shape[1] - width) // 6)):
            low, right = top + height, left + width
            inside = float(total[low, right] - total[top, right] - total[low, left] + total[top, left])
            if inside > best:
                best, place = inside, (top, left)
    return np.ascontiguousarray(plane[place[0] : place[0] + height, place[1] : place[1] + width])


def likeness(a: Plane, b: Plane, reach: int = 2) -> float:
    """Return the largest normalised correlation of two smoothed kernels, over shifts of up to `reach` pixels."""
    side = max(*a.shape, *b.shape) + 2 * reach
    a, b = _smooth(_framed(a, side), 0.8), _smooth(_framed(b, side), 0.8)
    around = range(-reach, reach + 1)
    shifted = (np.roll(b, shift, (0, 1)) for shift in product(around, around))
    return max(float((a * moved).sum()) for moved in shifted) / _norms(a, b)


def _framed(kernel: Plane, side: int) -> Plane:
    top, left = (side - kernel.shape[0]) // 2, (side - kernel.shape[1]) // 2
    return np.pad(kernel, ((top, side - kernel.shape[0] - top), (left, side - kernel.shape[1] - left)))


def _norms(a: Plane, b: Plane) -> float:
    return float(np.sqrt((a**2).sum() * (b**2).sum()))


# Shapes of kernels


@dataclass(frozen=True)
class Streak:
    """Second moments of a kernel: `length` of the uniform line with the same spread, its `angle` in degrees from the x
    axis downwards, and `width`, the standard deviation across it (pixels)."""

    length: float
    angle: float
    width: float

    @classmethod
    def of(cls, kernel: Plane) -> Self:
        row, column = _centre_of_mass(kernel)
        down, across = np.mgrid[: kernel.shape[0], : kernel.shape[1]].astype(np.float64)
        down, across, share = down - row, across - column, kernel / kernel.sum()
        mixed = float((share * down * across).sum())
        spread = np.array([[float((share * across**2).sum()), mixed], [mixed, float((share * down**2).sum())]])
        (small, large), axes = np.linalg.eigh(spread)
        angle = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))) % 180
        return cls(float(np.sqrt(12 * max(large, 0.0))), angle, float(np.sqrt(max(small, 0.0))))


def gaussian(sigma: float) -> Plane:
    radius = max(1, int(np.ceil(3.5 * sigma)))
    profile = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel = np.outer(profile, profile)
    return np.asarray(kernel / kernel.sum(), np.float32)


def line(length: float, angle: float) -> Plane:
    """Return the kernel of even motion along a line of this length (pixels) and angle (degrees), one pixel wide."""
    middle = int(np.ceil(length / 2)) + 1
    along = np.linspace(-length / 2, length / 2, 16 * middle)
    across, down = along * np.cos(np.radians(angle)), along * np.sin(np.radians(angle))
    grid = np.arange(-middle, middle + 1)
    near_row = np.maximum(0, 1 - np.abs(grid[:, None] - down))
    near_column = np.maximum(0, 1 - np.abs(grid[:, None] - across))
    kernel = near_row @ near_column.T
    return np.asarray(kernel / kernel.sum(), np.float32)


def straightened(kernel: Plane) -> Plane:
    """Return the line most like a streaky kernel, or the kernel if none is close: blind kernels are ragged."""
    streak = Streak.of(kernel)
    best, closest = 0.9, kernel
    for length in np.linspace(0.7, 1.1, 9) * streak.length:
        for angle in streak.angle + np.arange(-12, 13, 3):
            candidate = line(float(length), float(angle))
            side = max(*candidate.shape, *kernel.shape)
            a, b = _smooth(_framed(candidate, side), 1.0), _smooth(_framed(kernel, side), 0.7)
            similarity = float((a * b).sum()) / _norms(a, b)
            if similarity > best:
                best, closest = similarity, candidate
    return closest


def spectral_evidence(luma: Plane, kernel: Plane) -> float:
    """Return the log power of the picture where the kernel passes little, minus where it passes much, at equal radius.

    Independent of how the kernel was found: real motion blur leaves dark bands (about −3), streaky subjects do not (0).
    """
    crop = richest_crop(luma, min(512, min(luma.shape) // 2 * 2))
    height, width = crop.shape
    windowed = (crop - crop.mean()) * np.outer(np.hanning(height), np.hanning(width))
    log_power = np.log(cv2.GaussianBlur(np.abs(np.fft.fft2(windowed)) ** 2, (0, 0), 1.0) + 1e-9)
    passed = np.abs(np.fft.fft2(kernel, (height, width)))
    down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    radius = np.hypot(down, across)
    off_axis = (np.abs(down) > 2 / height) & (np.abs(across) > 2 / width)
    total, count = 0.0, 0
    for inner in np.arange(0.03, 0.40, 0.02):
        ring = off_axis & (radius >= inner) & (radius < inner + 0.02)
        if np.count_nonzero(ring) < 60:
            continue
        gain, level = passed[ring], log_power[ring]
        little, much = np.percentile(gain, [20, 80])
        if much < max(0.15, 2.5 * little):
            continue  # the kernel passes all directions alike at this radius
        total += float(level[gain <= little].mean() - level[gain >= much].mean()) * gain.size
        count += gain.size
    return total / count if count else 0.0
