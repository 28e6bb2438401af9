"""The classical method for each tool of the catalogue.

Deblur, erase, fill, outpaint and expand have methods of their own. Edit, generate and try-on have none: their result is
a labelled preview of the request.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_tasks.catalog.rules import SizeRule
from flux_tasks.images import encoding, masks
from flux_tasks.local.engines import Progress, Work, offsets
from flux_tasks.local.engines.classical import deblur, inpaint, outpaint, outpaint_fast, preview

__all__ = ["ClassicalEngine", "received"]

EXEMPLAR_LIMIT = 4_194_304
"""Pixels of the largest canvas that is continued from exemplars; above it, expand uses the fast method."""


class ClassicalEngine:
    """Undoes blur, fills holes and continues edges without learned weights."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # several jobs run at once, a thread each; results do not depend on it

    def run(self, work: Work, progress: Progress) -> Image.Image:
        """See ``Engine.run``."""
        methods: dict[str, Callable[[Work, Progress], Image.Image]] = {
            "deblur": _deblur,
            "erase": _inpaint,
            "fill": _inpaint,
            "fill_finetuned": _inpaint,
            "outpaint": _outpaint,
            "expand": _expand,
        }
        return methods.get(work.tool.task, _preview)(work, progress)


def _deblur(work: Work, progress: Progress) -> Image.Image:
    image = _main(work)
    progress(0.2)
    return _like(image, deblur(_pixels(image)).image)


def _inpaint(work: Work, progress: Progress) -> Image.Image:
    image = received(_main(work), work.tool.sizes)
    given = work.pictures.get("mask")
    mask = masks.binarise(encoding.decode(given)) if given else masks.from_alpha(image)
    mask = mask.resize(image.size, Image.Resampling.NEAREST)  # of a picture that was reduced
    progress(0.2)
    hole = np.asarray(mask) > 0
    grow = int(work.parameters.get("dilate_pixels") or 0)
    return _like(image, inpaint(_pixels(image, flatten=False), hole, dilate=grow, seed=work.seed))


def _outpaint(work: Work, progress: Progress) -> Image.Image:
    image = _main(work)
    progress(0.2)
    left, top = offsets(work.parameters, image.size)
    return _extended(image, work, left, top, fast=work.parameters["mode"] == "fast")


def _expand(work: Work, progress: Progress) -> Image.Image:
    image = _main(work)
    progress(0.2)
    left, top = (int(work.parameters.get(side) or 0) for side in ("left", "top"))
    return _extended(image, work, left, top, fast=work.size[0] * work.size[1] > EXEMPLAR_LIMIT)


def _extended(image: Image.Image, work: Work, left: int, top: int, *, fast: bool) -> Image.Image:
    method = outpaint_fast if fast else outpaint
    return _like(image, method(_pixels(image), *work.size, left, top, seed=work.seed))


def _preview(work: Work, progress: Progress) -> Image.Image:
    progress(0.2)
    pictures = [received(encoding.decode(data), work.tool.sizes) for data in work.pictures.values()]
    return preview.compose(
        work.size,
        pictures,
        tool=work.tool.name,
        prompt=str(work.parameters.get("prompt") or ""),
        seed=work.seed,
    )


def received(image: Image.Image, rule: SizeRule) -> Image.Image:
    """Return ``image`` as a tool that reduces its inputs gets it: scaled into its area, cut to its grid (DOCS-F2)."""
    if not rule.reduces:
        return image
    if (size := rule.reduced(image.size)) != image.size:
        image = preview.flattened(image).resize(size, Image.Resampling.LANCZOS)
    grid = rule.multiple
    width, height = max(grid, image.width // grid * grid), max(grid, image.height // grid * grid)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height)) if (width, height) != image.size else image


def _main(work: Work) -> Image.Image:
    return encoding.decode(work.pictures[work.tool.image_field or ""])


def _pixels(image: Image.Image, *, flatten: bool = True) -> NDArray[np.uint8]:
    """Return ``image`` as RGB; transparent pixels become white, unless the colour below them does not matter."""
    if image.has_transparency_data and flatten:
        image = preview.flattened(image)
    return np.array(image.convert("RGB"))  # a copy, because the methods may change it


def _like(image: Image.Image, pixels: NDArray[np.uint8]) -> Image.Image:
    result = Image.fromarray(pixels)
    if image.mode in ("RGB", "RGBA") and "icc_profile" in image.info:
        result.info["icc_profile"] = image.info["icc_profile"]
    return result
