"""Where the content of a picture lies in an edited copy of it: an edit may come back moved or scaled by a few pixels.

The shift is found by phase correlation: the phases of two spectra differ by the shift alone, whatever the brightness.
The scale is the one at which the two agree best. What a mask shows is left out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFilter

if TYPE_CHECKING:
    import numpy as np

__all__ = ["NOTHING", "Registration", "moved_back", "register"]

_COARSE, _FINE = 256, 768  # px of the long side at which the scale and the shift are looked for
_SCALES = 0.25  # a result is taken to be at most so much larger or smaller
_STEP = 0.01  # between two scales that are tried at the coarse size
_DETAIL = 6.0  # px: brightness that changes more slowly says nothing about the place
_LEAST = 0.04  # of 1, which two equal pictures have: below, the two have nothing in common
NOTHING = 0.5
"""Px: a result that has moved by less is left as it is, for resampling costs sharpness."""


@dataclass(frozen=True, slots=True)
class Registration:
    """How the content of a picture has moved.

    Attributes:
        dx, dy: px of the first picture, to the right and down, at its middle.
        scale: larger than 1 where the content has grown.
        score: how well the two agree there, 0 to 1; 0 where they have nothing in common, and no figure means anything.
    """

    dx: float
    dy: float
    scale: float
    score: float

    def distance(self, size: tuple[int, int]) -> float:
        """Return by how many px a corner of a picture of this size has moved at most."""
        width, height = size
        grown = abs(self.scale - 1) / 2
        return float(((abs(self.dx) + grown * width) ** 2 + (abs(self.dy) + grown * height) ** 2) ** 0.5)

    def __str__(self) -> str:
        scaled = f", {self.scale:.2%} of its size" if self.scale != 1 else ""
        return f"moved by {self.dx:+.1f} px, {self.dy:+.1f} px{scaled}"

    @property
    def is_known(self) -> bool:
        """Whether the two pictures have enough in common."""
        return self.score >= _LEAST


def register(before: Image.Image, after: Image.Image, mask: Image.Image | None = None) -> Registration:
    """Return how the content of ``before`` has moved in ``after``, as accurate as a tenth of a pixel on photos.

    A result of another size is compared as if it had the size of the input.

    Args:
        mask: white where the content was to change; of any size.

    Raises:
        ImportError: NumPy is not installed.
    """
    if after.size != before.size:
        after = after.resize(before.size, Image.Resampling.LANCZOS)
    coarse = _Pair(before, after, mask, _COARSE)
    count = round(_SCALES / _STEP)
    tried = {scale: coarse.peak(scale)[0] for scale in (1 + _STEP * n for n in range(-count, count + 1))}
    best = max(tried, key=lambda scale: tried[scale])
    fine = _Pair(before, after, mask, _FINE)
    peak = functools.cache(fine.peak)  # each step asks for the best scale of the step before again
    step = _STEP / 2
    while step > 0.0002:  # 0.1 px at the border of a picture of 1,000
        best = max((best - step, best, best + step), key=lambda scale: peak(scale)[0])
        step /= 2
    if peak(1.0)[0] >= 0.98 * peak(best)[0]:
        best = 1.0
    score, x, y = peak(best)
    return Registration(x / fine.factor, y / fine.factor, 1 / best, score)


def moved_back(before: Image.Image, after: Image.Image, found: Registration) -> Image.Image:
    """Return ``after`` with its content where it was in ``before``, and the size of that.

    Pixels that lie outside of ``after`` are those of ``before``.
    """
    width, height = before.size
    stretch_x, stretch_y = after.width / width, after.height / height
    # from a place in the result to one in ``after``: about the middle, scaled, then moved
    across = (found.scale * stretch_x, 0.0, stretch_x * (width / 2 * (1 - found.scale) + found.dx))
    down = (0.0, found.scale * stretch_y, stretch_y * (height / 2 * (1 - found.scale) + found.dy))
    mode = "RGBA" if after.has_transparency_data else "RGB"
    place = before.size, Image.Transform.AFFINE, (*across, *down)
    moved = after.convert(mode).transform(*place, Image.Resampling.BICUBIC)
    inside = Image.new("L", after.size, 255).transform(*place)
    inside = inside.point(lambda value: 255 if value == 255 else 0).filter(ImageFilter.MinFilter(3))
    return Image.composite(moved, before.convert(mode), inside)


class _Pair:
    """Two pictures at one working size, as what their spectra are compared by."""

    def __init__(self, before: Image.Image, after: Image.Image, mask: Image.Image | None, side: int) -> None:
        import numpy

        self._numpy = numpy
        self.factor = min(1.0, side / max(before.size))
        size = max(16, round(before.width * self.factor)), max(16, round(before.height * self.factor))
        self._before = _grey(before, size)
        self._after = _grey(after, size)
        window = numpy.outer(numpy.hanning(size[1]), numpy.hanning(size[0]))
        if mask is not None:
            kept = mask.convert("L").resize(size, Image.Resampling.BOX).point(lambda value: 0 if value else 255)
            window *= numpy.asarray(kept.filter(ImageFilter.MinFilter(9)).filter(ImageFilter.GaussianBlur(4))) / 255
        self._window = window.astype(numpy.float32)  # spectra of half the size, and accurate enough
        self._spectrum = numpy.conj(self._spectrum_of(self._before))
        rows, columns = numpy.fft.fftfreq(size[1])[:, None], numpy.fft.rfftfreq(size[0])[None, :]
        self._band = numpy.exp(-(rows**2 + columns**2) / (2 * 0.2**2))  # fine noise tells nothing

    def _spectrum_of(self, picture: Image.Image) -> np.ndarray[Any, Any]:
        """Return the spectrum of a picture's detail: what is smooth would tell of the light and not of the place."""
        numpy = self._numpy
        pixels = numpy.asarray(picture, dtype=numpy.float32)
        smooth = numpy.asarray(picture.filter(ImageFilter.GaussianBlur(_DETAIL)), dtype=numpy.float32)
        spectrum: np.ndarray[Any, Any] = numpy.fft.rfft2((pixels - smooth) * self._window)
        return spectrum

    def peak(self, scale: float) -> tuple[float, float, float]:
        """Return how well the two agree when ``after`` is scaled by ``scale`` about its middle, and where: x and y."""
        numpy, (width, height) = self._numpy, self._before.size
        scaled = self._after
        if scale != 1.0:
            inverse = 1 / scale
            about = (inverse, 0.0, width / 2 * (1 - inverse), 0.0, inverse, height / 2 * (1 - inverse))
            scaled = scaled.transform(scaled.size, Image.Transform.AFFINE, about, Image.Resampling.BICUBIC)
        product = self._spectrum * self._spectrum_of(scaled)
        product *= self._band / (numpy.abs(product) + 1e-9)
        surface = numpy.fft.irfft2(product, s=(height, width)) * (width * height / (2 * self._band.sum()))
        row, column = divmod(int(surface.argmax()), width)
        x = column + _vertex(surface[row, (column + numpy.array((-1, 0, 1))) % width])
        y = row + _vertex(surface[(row + numpy.array((-1, 0, 1))) % height, column])
        x, y = (x - width if x > width / 2 else x), (y - height if y > height / 2 else y)
        return float(surface[row, column]), x / scale, y / scale


def _grey(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.convert("L").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _vertex(values: np.ndarray[Any, Any]) -> float:
    """Return where the parabola through three neighbours has its vertex, from the middle one."""
    left, middle, right = (float(value) for value in values)
    curve = left - 2 * middle + right
    return 0.0 if curve >= 0 else max(-0.5, min(0.5, (left - right) / (2 * curve)))
