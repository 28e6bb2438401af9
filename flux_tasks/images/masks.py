"""Masks: black and white pictures of the image's size; white marks what a tool may change.

Pillow only, no NumPy: a mask is an ``L`` picture whose pixels are 0 or 255. Dilation is two one-dimensional box blurs
and a threshold, which grows the white by a square of side 2r+1 at a cost that does not depend on r.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageStat
from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux_tasks.errors import InvalidImage
from flux_tasks.images.encoding import eight_bit
from flux_tasks.images.reference import ImageLike, ImageRef
from flux_tasks.units import px_size

__all__ = [
    "Drift",
    "Mask",
    "binarise",
    "check_size",
    "composite",
    "coverage",
    "dilate",
    "drift",
    "from_alpha",
    "from_boxes",
    "invert",
    "is_empty",
    "match",
    "outline",
    "softened",
]

Box = tuple[int, int, int, int]


def binarise(image: Image.Image, *, threshold: int = 128) -> Image.Image:
    """Return a black and white ``L`` picture: white where the luminance reaches ``threshold`` (0–255).

    A transparent pixel counts as black: many tools save masks as white paint on transparency.
    """
    image = eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        luminance = ImageChops.multiply(image.convert("L"), image.getchannel("A"))
    else:
        luminance = image.convert("L")
    return luminance.point([0] * threshold + [255] * (256 - threshold))


def from_alpha(image: Image.Image) -> Image.Image:
    """Return white where ``image`` is more than half transparent (as in FLUX Fill's alpha masks, docs fill page).

    Raises:
        InvalidImage: the picture has no alpha channel.
    """
    if not image.has_transparency_data:
        raise InvalidImage("the mask is to come from the alpha channel, but the picture has none")
    return invert(binarise(image.convert("RGBA").getchannel("A")))


def from_boxes(size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> Image.Image:
    """Return white rectangles on black; each box is (left, top, right, bottom) in pixels, right and bottom excluded.

    Raises:
        InvalidImage: a box is empty, reversed, or wholly outside the picture.
    """
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for box in boxes:
        left, top, right, bottom = (round(edge) for edge in box)
        if right <= left or bottom <= top:
            raise InvalidImage(f"box {list(box)} is empty: write it as left, top, right, bottom")
        if right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
            raise InvalidImage(f"box {list(box)} lies outside the picture of {px_size(size)}")
        inside = (max(left, 0), max(top, 0), min(right, size[0]) - 1, min(bottom, size[1]) - 1)
        draw.rectangle(inside, fill=255)
    return mask


def check_size(found: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Check that a mask of the size ``found`` fits an image of the size ``wanted``; both are read from headers.

    Raises:
        InvalidImage: it does not.
    """
    if found != wanted:
        raise InvalidImage(
            f"the mask is {px_size(found)} but the image is {px_size(wanted)}: "
            "make them equal, or ask for resizing (resize: true)"
        )


def match(mask: Image.Image, size: tuple[int, int], *, resize: bool = False) -> Image.Image:
    """Return ``mask`` at ``size`` (width, height).

    Raises:
        InvalidImage: the sizes differ and ``resize`` was not asked for.
    """
    if mask.size == size:
        return mask
    if not resize:
        check_size(mask.size, size)
    return mask.resize(size, Image.Resampling.NEAREST)


def dilate(mask: Image.Image, pixels: int) -> Image.Image:
    """Grow the white by ``pixels`` in every direction (a square neighbourhood); negative values shrink it."""
    if pixels == 0:
        return mask
    if pixels < 0:
        return invert(dilate(invert(mask), -pixels))
    # One white pixel under a box of length 2r+1 leaves 255/(2r+1), so above r = 127 it could round to nothing.
    steps, rest = divmod(pixels, 100)
    for radius in [100] * steps + [rest] * bool(rest):
        for axis in ((radius, 0), (0, radius)):
            mask = mask.filter(ImageFilter.BoxBlur(axis)).point([0] + [255] * 255)
    return mask


def invert(mask: Image.Image) -> Image.Image:
    """Return the mask with black and white swapped."""
    return ImageChops.invert(mask)


def is_empty(mask: Image.Image) -> bool:
    """Check whether no pixel is white, so that the call would change nothing and is not paid for."""
    return mask.getbbox() is None


def coverage(mask: Image.Image) -> float:
    """Return the white share of the area, 0 to 1."""
    return float(ImageStat.Stat(mask).mean[0]) / 255


def composite(original: Image.Image, edited: Image.Image, mask: Image.Image, *, feather: float = 0) -> Image.Image:
    """Return ``edited`` where ``mask`` is white and ``original`` elsewhere, where no pixel changes.

    ``feather`` (pixels) softens the edge inwards only, so that outside the mask nothing changes.

    Raises:
        InvalidImage: the three pictures differ in size.
    """
    if not original.size == edited.size == mask.size:
        raise InvalidImage(
            f"cannot composite pictures of different sizes: original {original.size}, edited {edited.size}, "
            f"mask {mask.size}"
        )
    weight = softened(mask, feather)
    mode = "RGBA" if original.has_transparency_data else "RGB"
    return Image.composite(edited.convert(mode), original.convert(mode), weight)


def softened(mask: Image.Image, feather: float) -> Image.Image:
    """Return ``mask`` with its edge softened over ``feather`` pixels, inwards only: what is black stays black."""
    if feather <= 0:
        return mask
    inner = dilate(mask, -max(1, round(feather))).filter(ImageFilter.GaussianBlur(feather / 2))
    return ImageChops.darker(inner, mask)


@dataclass(frozen=True, slots=True)
class Drift:
    """How much an edited picture differs from its original outside the mask, on the scale of 8-bit channels.

    Attributes:
        mean: mean absolute difference, 0–255, over all pixels outside the mask and their channels.
        peak: the largest difference, 0–255.
        changed: share of the pixels outside the mask that differ at all, 0 to 1.
    """

    mean: float
    peak: int
    changed: float


def drift(original: Image.Image, edited: Image.Image, mask: Image.Image) -> Drift:
    """Measure what changed outside the white of ``mask``. All is zero if the mask covers everything.

    Raises:
        InvalidImage: the pictures differ in size.
    """
    match(edited, original.size)
    outside = invert(match(binarise(mask), original.size))
    if is_empty(outside):
        return Drift(0.0, 0, 0.0)
    difference = ImageChops.difference(original.convert("RGB"), edited.convert("RGB"))
    statistics = ImageStat.Stat(difference, outside)
    bands = difference.split()
    peak = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    changed = ImageStat.Stat(peak.point([0] + [255] * 255), outside)
    return Drift(
        mean=float(sum(statistics.mean) / 3),
        peak=int(max(high for _, high in statistics.extrema)),
        changed=float(changed.mean[0]) / 255,
    )


def outline(mask: Image.Image, *, width: int = 2) -> Image.Image:
    """Return white along the inner edge of the mask's areas only, ``width`` pixels thick, to show what is masked."""
    return ImageChops.subtract(mask, dilate(mask, -width))


def _is_dark(image: Image.Image) -> bool:
    """Check whether no pixel is brighter than what JPEG makes of black."""
    flat = Image.new("RGBA", image.size, "black")
    flat.alpha_composite(image.convert("RGBA"))
    return max(int(high) for _, high in ImageStat.Stat(flat.convert("RGB")).extrema) <= 24


class Mask(BaseModel):
    """Where a mask comes from and what is done to it, as written in Python or in a recipe.

    Exactly one of ``file``, ``alpha`` and ``boxes`` is given. A plain image stands for ``Mask(file=…)``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    file: Any = Field(default=None, description="A black and white picture: white marks what may change.")
    alpha: bool = Field(default=False, description="Take the transparent part of the image itself.")
    boxes: tuple[Box, ...] | None = Field(
        default=None, description="Rectangles: left, top, right, bottom in pixels; right and bottom excluded."
    )
    invert: bool = Field(default=False, description="Swap black and white.")
    dilate: int = Field(default=0, ge=-500, le=500, description="Grow the white by this many pixels, before sending.")
    resize: bool = Field(default=False, description="Scale a mask of another size to the image's size.")

    def __init__(self, file: Any = None, **given: Any) -> None:
        super().__init__(file=file, **given)

    @model_validator(mode="after")
    def _one_origin(self) -> Mask:
        given = (self.file is not None) + self.alpha + (self.boxes is not None)
        if given != 1:
            raise ValueError("give exactly one of file, alpha, boxes")
        return self

    @classmethod
    def of(cls, source: Mask | ImageLike | dict[str, Any]) -> Mask:
        """Return a mask description from any form that a caller may write."""
        if isinstance(source, Mask):
            return source
        return cls.model_validate(source) if isinstance(source, dict) else cls(file=source)

    def render(self, image: ImageRef) -> Image.Image:
        """Return the black and white mask for ``image``, at its size as people see it.

        Raises:
            InvalidImage: unreadable, of another size, or without the alpha channel that was asked for.
        """
        size = image.upright_size
        if self.boxes is not None:
            mask = from_boxes(size, self.boxes)
        elif self.alpha:
            mask = from_alpha(image.open())
        else:
            source = ImageRef.of(self.file)
            if not self.resize:
                check_size(source.upright_size, size)
            painted = source.open()
            mask = match(binarise(painted), size, resize=self.resize)
            if is_empty(mask) and not _is_dark(painted):
                where = source.uri or source.name
                raise InvalidImage(f"{where}: the mask has colours or greys but no white: paint what may change white")
        if self.invert:
            mask = invert(mask)
        return dilate(mask, self.dilate)

    def location(self) -> str:
        """Return the file that the mask comes from, or an empty string."""
        return os.fspath(self.file) if isinstance(self.file, (str, os.PathLike)) else ""
