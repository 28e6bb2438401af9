"""Colours of an edited place that fit its surroundings: an edit often comes back lighter, or of another hue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFilter

if TYPE_CHECKING:
    import numpy as np

__all__ = ["matched_colours"]

_SIDE = 512  # px of the long side at which the field is fitted
_RING = 0.06  # of the long side: how far from the mask its surroundings reach
_FEWEST = 64  # pixels of the ring: with fewer nothing is changed
_OFFSET = 8.0  # of 255: so that dark pixels count no more than others
_WHITE = 250.0  # of 255: what is lighter may have been cut off
_MOST = 0.7  # of the natural logarithm: a factor of 2
_ROUNDS = 4  # of the fit: what fits worst, where the edit has changed the surroundings, is left out
_RIDGE = 1e-3


def matched_colours(before: Image.Image, after: Image.Image, mask: Image.Image) -> Image.Image | None:
    """Return ``after`` with its colours inside ``mask`` as its surroundings ask for; None if these tell nothing.

    Over a ring around the mask, the colours of ``before`` and ``after`` differ by a factor for each channel that
    changes slowly from place to place: a polynomial of the second degree. Inside, ``after`` is multiplied by it.

    Args:
        before, after: of one size.
        mask: white where the tool has worked.

    Raises:
        ImportError: NumPy is not installed.
    """
    import numpy

    factor = min(1.0, _SIDE / max(before.size))
    size = (max(1, round(before.width * factor)), max(1, round(before.height * factor)))
    white = mask.convert("L").point(lambda value: 255 if value else 0)
    inner = white.resize(size, Image.Resampling.BOX).point(lambda value: 255 if value else 0)
    reach = max(2, round(_RING * max(size)))
    ring = numpy.asarray(inner.filter(ImageFilter.BoxBlur(reach))) > 0
    ring &= numpy.asarray(inner.filter(ImageFilter.MaxFilter(3))) == 0
    if ring.sum() < _FEWEST:
        return None
    small = [picture.convert("RGB").resize(size, Image.Resampling.BOX) for picture in (before, after)]
    colours = [numpy.asarray(picture, dtype=numpy.float64)[ring] for picture in small]
    ratios = numpy.log((colours[0] + _OFFSET) / (colours[1] + _OFFSET))
    is_clear = (colours[0] < _WHITE) & (colours[1] < _WHITE)
    rows, columns = numpy.nonzero(ring)
    terms = _terms((columns + 0.5) / size[0], (rows + 0.5) / size[1])
    fits = (_fitted(terms, ratios[:, channel], is_clear[:, channel]) for channel in range(3))
    coefficients = numpy.stack(list(fits), axis=1)

    alpha = after.getchannel("A") if after.mode in ("RGBA", "LA") else None
    made = numpy.asarray(after.convert("RGB")).copy()
    inside = numpy.asarray(white) > 0
    rows, columns = numpy.nonzero(inside)
    field = _terms((columns + 0.5) / after.width, (rows + 0.5) / after.height) @ coefficients
    changed = (made[inside] + _OFFSET) * numpy.exp(field.clip(-_MOST, _MOST)) - _OFFSET
    made[inside] = changed.round().clip(0, 255).astype(numpy.uint8)
    picture = Image.fromarray(made)
    if alpha is not None:
        picture.putalpha(alpha)
    return picture


def _terms(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the terms of a polynomial of the second degree, about the middle of the picture."""
    import numpy

    x, y = 2 * x - 1, 2 * y - 1
    return numpy.stack([numpy.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _fitted(
    terms: np.ndarray[Any, Any], values: np.ndarray[Any, Any], is_clear: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return coefficients by least squares; values that fit much worse than most are left out, and white ones."""
    import numpy

    kept = is_clear if is_clear.sum() >= _FEWEST else numpy.ones(len(values), dtype=bool)
    terms, values = terms[kept], values[kept]
    kept = numpy.ones(len(values), dtype=bool)
    ridge = _RIDGE * numpy.diag([0.0, 1, 1, 1, 1, 1])
    found = numpy.zeros(terms.shape[1])
    for _ in range(_ROUNDS):
        chosen, wanted = terms[kept], values[kept]
        found = numpy.linalg.solve(chosen.T @ chosen / len(chosen) + ridge, chosen.T @ wanted / len(chosen))
        errors = numpy.abs(values - terms @ found)
        kept = errors <= max(3 * float(numpy.median(errors)), 0.01)
    return found
