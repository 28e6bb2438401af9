"""Undo a known blur.

A *plane* is one channel, float32, (H, W), nominally 0..1; a blur is a *kernel*: float32, odd sides, sum 1, centred.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

PRIOR_EXPONENT = 2.0 / 3.0
# Weights of the splitting term, growing by about 2.8: each solve trusts the shrunken gradients more than the last.
SPLITTING_WEIGHTS = (1.0, 2.83, 8.0, 22.6, 64.0, 181.0, 512.0)
TILE = 1024
OVERLAP = 128


@dataclass(frozen=True)
class Periodic:
    """A plane made periodic, with the transforms every solve needs.

    `plane` is the input framed by `margin` pixels of its own reflection (more at the far ends, up to a size that is
    fast in the FFT), faded to the mean, so that opposite borders meet without a step and do not ring.
    """

    plane: Plane
    spectrum: Spectrum
    gradient_power: Plane
    margin: int
    size: tuple[int, int]

    @classmethod
    def of(cls, plane: Plane, margin: int) -> Self:
        height, width = plane.shape
        padded_height, padded_width = (scipy.fft.next_fast_len(n + 2 * margin, real=True) for n in plane.shape)
        below, right = padded_height - height - margin, padded_width - width - margin
        framed = cv2.copyMakeBorder(plane, margin, below, margin, right, cv2.BORDER_REFLECT)
        fade = np.outer(_fade(padded_height, margin, below), _fade(padded_width, margin, right))
        mean = np.float32(framed.mean())
        whole = np.asarray(mean + fade * (framed - mean), np.float32)
        return cls(whole, fft(whole), _gradient_power(whole.shape), margin, (height, width))

    @cached_property
    def gradient_spectra(self) -> tuple[Spectrum, Spectrum]:
        along_x, along_y = gradients(self.plane)
        return fft(along_x), fft(along_y)

    def crop(self, solution: Plane) -> Plane:
        """Return the part of a solution that is over the original plane."""
        height, width = self.size
        return solution[self.margin : self.margin + height, self.margin : self.margin + width]


def _fade(length: int, before: int, after: int) -> Plane:
    """Return weights along one axis: from 0 to 1 over `before` samples, 1, and back to 0 over `after` samples."""
    weights = np.ones(length, np.float32)
    for count, part in ((before, weights[:before]), (after, weights[::-1][:after])):
        part[:] = 0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count)
    return weights


def fft(plane: Plane) -> Spectrum:
    return np.asarray(scipy.fft.rfft2(plane), np.complex64)


def inverse_fft(spectrum: Spectrum, shape: tuple[int, ...]) -> Plane:
    return np.asarray(scipy.fft.irfft2(spectrum, s=shape), np.float32)


def transfer_function(kernel: Plane, shape: tuple[int, ...]) -> Spectrum:
    """Return the spectrum of a centred kernel on a periodic plane of this shape."""
    height, width = kernel.shape
    plane = np.zeros(shape, np.float32)
    plane[:height, :width] = kernel
    return fft(np.roll(plane, (-(height // 2), -(width // 2)), (0, 1)))


def power(spectrum: Spectrum) -> Plane:
    return np.asarray(spectrum.real**2 + spectrum.imag**2, np.float32)


def multiply(spectrum: Spectrum, factor: Plane | np.float32) -> Spectrum:
    """Multiply a spectrum by real factors, in place: NumPy's own operator multiplies and divides as complex numbers."""
    for part in (spectrum.real, spectrum.imag):
        part *= factor
    return spectrum


def _gradient_power(shape: tuple[int, ...]) -> Plane:
    """Return |Dx|² + |Dy|² of the forward differences, in closed form: 4 sin²(πf) along each axis."""
    down = 4 * np.sin(np.pi * np.arange(shape[0]) / shape[0]) ** 2
    across = 4 * np.sin(np.pi * np.arange(shape[1] // 2 + 1) / shape[1]) ** 2
    return np.asarray(down[:, None] + across[None, :], np.float32)


def gradients(plane: Plane) -> tuple[Plane, Plane]:
    """Return forward differences along x and y, wrapping around."""
    along_x, along_y = np.empty_like(plane), np.empty_like(plane)
    np.subtract(plane[:, 1:], plane[:, :-1], along_x[:, :-1])
    np.subtract(plane[:, 0], plane[:, -1], along_x[:, -1])
    np.subtract(plane[1:], plane[:-1], along_y[:-1])
    np.subtract(plane[0], plane[-1], along_y[-1])
    return along_x, along_y


def _divergence(along_x: Plane, along_y: Plane) -> Plane:
    """Return the adjoint of `gradients`."""
    sums = np.empty_like(along_x)
    np.subtract(along_x[:, :-1], along_x[:, 1:], sums[:, 1:])
    np.subtract(along_x[:, -1], along_x[:, 0], sums[:, 0])
    sums[1:] += along_y[:-1] - along_y[1:]
    sums[0] += along_y[-1] - along_y[0]
    return sums


def sharp_guess(blurred: Periodic, kernel: Plane, weight: float, *, growth: float = 4.0, ceiling: float = 1e5) -> Plane:
    """Return a cartoon of what `kernel` blurred: gradients below √(weight/β) become zero while β grows to `ceiling`.

    Only good for finding a kernel. Xu et al., "Image smoothing via L0 gradient minimization", 2011, and "Unnatural L0
    sparse representation", 2013.
    """
    shape = blurred.plane.shape
    blur = transfer_function(kernel, shape)
    data, data_power = np.conj(blur) * blurred.spectrum, power(blur)
    guess, beta = blurred.plane, 2 * weight
    while beta < ceiling:
        along_x, along_y = gradients(guess)
        strong = along_x**2 + along_y**2 >= weight / beta
        target = data.copy()
        if strong.any():  # not in the first turns
            along_x *= strong
            along_y *= strong
            target += multiply(fft(_divergence(along_x, along_y)), np.float32(beta))
        guess = inverse_fft(
            multiply(target, np.reciprocal(data_power + np.float32(beta) * blurred.gradient_power)), shape
        )
        beta *= growth
    return guess


class _Shrinkage:
    """The gradient that minimises |x|^(2/3) + β/2 (x − v)², tabulated over |v| once for each β."""

    ENTRIES = 8192
    REACH = 1.5  # gradients of an image in 0..1 stay below this; above it the last entry is used

    def __init__(self, beta: float) -> None:
        value = np.linspace(0, self.REACH, self.ENTRIES)
        best = value.copy()
        for _ in range(3):  # Newton; three steps from above reach float32 precision
            best = np.maximum(best, 1e-6)
            slope = PRIOR_EXPONENT * best ** (PRIOR_EXPONENT - 1) + beta * (best - value)
            curvature = PRIOR_EXPONENT * (PRIOR_EXPONENT - 1) * best ** (PRIOR_EXPONENT - 2) + beta
            best = np.clip(best - slope / curvature, 0, value)
        # Zero is the other candidate: the cost is not convex, so both have to be tried.
        keeps = best**PRIOR_EXPONENT + beta / 2 * (best - value) ** 2 < beta / 2 * value**2
        self._table = np.where(keeps, best, 0).astype(np.float32)

    def __call__(self, gradient: Plane) -> Plane:
        entry = (np.abs(gradient) * np.float32((self.ENTRIES - 1) / self.REACH)).astype(np.int32)
        np.minimum(entry, self.ENTRIES - 1, out=entry)
        return np.copysign(self._table[entry], gradient)


def deconvolve(plane: Plane, kernel: Plane, data_weight: float) -> Plane:
    """Return the sharp plane whose blur by `kernel` is `plane`, by half-quadratic splitting.

    Krishnan & Fergus, "Fast image deconvolution using hyper-Laplacian priors", 2009.
    `data_weight` (λ of the paper) is the trust in the input: 3000 for a clean image, 300 for a noisy one.
    Large planes are solved in overlapping tiles, so memory stays at about 150 MB whatever the size.
    """
    margin = max(16, *kernel.shape)
    result = np.empty_like(plane)
    for inner, outer in _tiles(plane.shape, OVERLAP + margin):
        solved = _deconvolve_whole(plane[outer], kernel, data_weight, margin)
        top, left = inner[0].start - outer[0].start, inner[1].start - outer[1].start
        height, width = inner[0].stop - inner[0].start, inner[1].stop - inner[1].start
        result[inner] = solved[top : top + height, left : left + width]
    return result


def _deconvolve_whole(plane: Plane, kernel: Plane, data_weight: float, margin: int) -> Plane:
    blurred = Periodic.of(plane, margin)
    shape = blurred.plane.shape
    blur = transfer_function(kernel, shape)
    data, data_power = np.conj(blur) * blurred.spectrum, power(blur) + np.float32(1e-8)
    sharp = blurred.plane
    for beta in SPLITTING_WEIGHTS:
        shrink = _Shrinkage(beta)
        along_x, along_y = gradients(sharp)
        ratio = np.float32(beta / data_weight)
        target = multiply(fft(_divergence(shrink(along_x), shrink(along_y))), ratio)
        target += data
        sharp = inverse_fft(multiply(target, np.reciprocal(data_power + ratio * blurred.gradient_power)), shape)
    return blurred.crop(sharp)


Box = tuple[slice, slice]


def _tiles(shape: tuple[int, ...], overlap: int) -> Iterator[tuple[Box, Box]]:
    """Yield boxes that partition a plane, each with the larger box to solve for it."""
    for rows in _spans(shape[0]):
        for columns in _spans(shape[1]):
            outer = tuple(
                slice(max(0, span.start - overlap), min(length, span.stop + overlap))
                for span, length in ((rows, shape[0]), (columns, shape[1]))
            )
            yield (rows, columns), (outer[0], outer[1])


def _spans(length: int) -> list[slice]:
    count = max(1, round(length / TILE))
    edges = [length * n // count for n in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def within_neighbourhood(sharp: Plane, plane: Plane, slack: float) -> Plane:
    """Clip `sharp` to the range of `plane` within 3 pixels, widened by `slack` of that range, against ringing."""
    around = np.ones((7, 7), np.uint8)
    high, low = cv2.dilate(plane, around), cv2.erode(plane, around)
    extra = slack * (high - low) + 2 / 255
    return np.asarray(np.clip(sharp, low - extra, high + extra), np.float32)
