"""The classical method for each tool; edit, generate and try-on have none: they get a labelled preview."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_tasks.catalog.boxes import rows_in, text_of
from flux_tasks.catalog.rules import SizeRule
from flux_tasks.images import encoding, masks
from flux_tasks.local.engines import Progress, Work, offsets
from flux_tasks.local.engines.classical import boxes, deblur, inpaint, outpaint, outpaint_fast, preview

EXEMPLAR_LIMIT = 4_194_304
"""Pixels of the largest canvas that is continued from exemplars; above it, expand uses the fast method."""


class ClassicalEngine:
    """Undoes blur, fills holes and continues edges without learned weights."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # several jobs run at once, a process each; results do not depend on it

    def run(self, work: Work, progress: Progress) -> Image.Image:
        """See ``Engine.run``."""
        progress(0.2)
        match work.tool.task:
            case "deblur":
                image = _main(work)
                return _like(image, deblur(_pixels(image)).image)
            case "erase" | "fill" | "fill_finetuned":
                return _inpaint(work)
            case "outpaint" | "expand":
                return _outpaint(work)
        pictures = [received(encoding.decode(data), work.tool.sizes) for data in work.pictures.values()]
        prompt = str(work.parameters.get("prompt") or "")
        rows = rows_in(prompt) if work.tool.takes_boxes else []
        if rows and pictures:
            return boxes.edited(work.size, pictures, rows, seed=work.seed)
        words = text_of(prompt) if rows else prompt
        canvas = preview.compose(work.size, pictures, tool=work.tool.name, prompt=words, seed=work.seed)
        boxes.mark_new(canvas, rows)
        return canvas


def _inpaint(work: Work) -> Image.Image:
    image = received(_main(work), work.tool.sizes)
    given = work.pictures.get("mask")
    mask = masks.binarise(encoding.decode(given)) if given else masks.from_alpha(image)
    hole = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)) > 0  # of a picture that was reduced
    grow = int(work.parameters.get("dilate_pixels") or 0)
    return _like(image, inpaint(_pixels(image, flatten=False), hole, dilate=grow, seed=work.seed))


def _outpaint(work: Work) -> Image.Image:
    image = _main(work)
    if work.tool.task == "outpaint":
        is_fast = work.parameters["mode"] == "fast"
        left, top = offsets(work.parameters, image.size)
    else:
        is_fast = work.size[0] * work.size[1] > EXEMPLAR_LIMIT
        left, top = (int(work.parameters.get(side) or 0) for side in ("left", "top"))
    method = outpaint_fast if is_fast else outpaint
    return _like(image, method(_pixels(image), *work.size, left, top, seed=work.seed))


def received(image: Image.Image, rule: SizeRule) -> Image.Image:
    """Return ``image`` as a tool that reduces its inputs gets it: scaled into its area, cut to its grid (DOCS-F2)."""
    if not rule.reduces:
        return image
    if (size := rule.reduced(image.size)) != image.size:
        image = preview.flattened(image).resize(size, Image.Resampling.LANCZOS)
    kept = rule.kept(image.size)
    return image.crop(kept) if kept != (0, 0, *image.size) else image


def _main(work: Work) -> Image.Image:
    return encoding.decode(work.pictures[work.tool.main_slot])


def _pixels(image: Image.Image, *, flatten: bool = True) -> NDArray[np.uint8]:
    """Return ``image`` as RGB; transparent pixels become white, unless the colour below them does not matter."""
    plain = preview.flattened(image) if flatten else image.convert("RGB")
    return np.array(plain)  # a copy, because the methods may change it


def _like(image: Image.Image, pixels: NDArray[np.uint8]) -> Image.Image:
    result = Image.fromarray(pixels)
    if image.mode in ("RGB", "RGBA") and "icc_profile" in image.info:
        result.info["icc_profile"] = image.info["icc_profile"]
    return result
