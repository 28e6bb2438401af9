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
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flux_tasks.errors import InvalidImage, Problem, explain, nearest, shown
from flux_tasks.images import mask_reading
from flux_tasks.images.mask_reading import NOISE, levels, mask_reference, read_mask
from flux_tasks.images.pixels import eight_bit
from flux_tasks.images.reference import ImageLike, ImageRef
from flux_tasks.units import px_size

__all__ = [
    "Drift",
    "Mask",
    "binarise",
    "check_fit",
    "composite",
    "coverage",
    "dilate",
    "drift",
    "from_alpha",
    "from_boxes",
    "has_shape_of",
    "holes",
    "invert",
    "is_empty",
    "mask_problems",
    "match",
    "outline",
    "softened",
]

Box = tuple[int, int, int, int]

_RESIZE = "mask: {file: mask.png, resize: true}"


def binarise(image: Image.Image, *, threshold: int = 128) -> Image.Image:
    """Return a black and white ``L`` picture: white where the luminance reaches ``threshold`` (0–255).

    A transparent pixel counts as black. What somebody gives as a mask goes through ``read_mask`` instead, which looks
    whether this is what it means.
    """
    return mask_reading.threshold(levels(eight_bit(image)), threshold)


def from_alpha(image: Image.Image) -> Image.Image:
    """Return white where ``image`` is more than half transparent (as in FLUX Fill's alpha masks, docs fill page).

    Raises:
        InvalidImage: the picture has no alpha channel.
    """
    if not image.has_transparency_data:
        raise InvalidImage(
            "the mask is to come from the alpha channel, but the picture has none: give a mask file, or boxes"
        )
    return invert(binarise(image.convert("RGBA").getchannel("A")))


def holes(image: Image.Image) -> Image.Image:
    """Return ``from_alpha`` of a picture that somebody says to have holes, or to have none.

    Raises:
        InvalidImage: it has no alpha channel, or is a little transparent and nowhere more than half.
    """
    mask = from_alpha(image)
    lowest = int(image.convert("RGBA").getchannel("A").getextrema()[0])  # type: ignore[arg-type]
    if is_empty(mask) and lowest < 255 - NOISE:
        raise InvalidImage(
            f"the picture is nowhere more than half transparent (at most {1 - lowest / 255:.0%}): erase what may change"
        )
    return mask


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
            raise InvalidImage(f"box {shown(list(box))} is empty: write it as left, top, right, bottom")
        if right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
            raise InvalidImage(
                f"box {shown(list(box))} lies outside the picture of {px_size(size)}: boxes are in its pixels"
            )
        inside = (max(left, 0), max(top, 0), min(right, size[0]) - 1, min(bottom, size[1]) - 1)
        draw.rectangle(inside, fill=255)
    return mask


def check_fit(mask: ImageRef, image: ImageRef, *, resize: bool = False, remedy: str = _RESIZE) -> None:
    """Check that ``mask`` has the size of ``image``, as people see them; both are known from headers.

    Args:
        resize: another size is allowed, unless the sides are swapped, as in a mask of a picture before its EXIF turn.
        remedy: how to ask for scaling, for the message.

    Raises:
        InvalidImage: it does not fit; the message begins with its location.
    """
    found, wanted = mask.upright_size, image.upright_size
    is_turned = has_shape_of(found, wanted[::-1]) and not has_shape_of(found, wanted)
    if found == wanted or (resize and not is_turned):
        return
    what = f"{mask.uri or mask.name}: the mask is {px_size(found)} but the image is {px_size(wanted)}"
    if found == (image.width, image.height):
        what += " once it is turned as its EXIF data say: turn the mask, too, or save both upright"
    elif (mask.width, mask.height) == wanted:
        what += ": its own EXIF data turn it; save it without them"
    elif is_turned:
        what += ", as if one of them lay on its side: turn the mask, or make one of this very picture"
    elif has_shape_of(found, wanted):
        what += f": make them equal, or ask for resizing ({remedy})"
    else:
        what += ", which is another shape: make a mask of this very picture"
    raise InvalidImage(what)


def has_shape_of(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Check whether two sizes have the same aspect ratio, as far as sides in whole pixels can."""
    return abs(one[0] * other[1] - other[0] * one[1]) <= max(sum(one), sum(other))


def match(mask: Image.Image, size: tuple[int, int], *, resize: bool = False) -> Image.Image:
    """Return ``mask`` at ``size`` (width, height).

    Raises:
        InvalidImage: the sizes differ and ``resize`` was not asked for.
    """
    if mask.size == size:
        return mask
    if not resize:
        raise InvalidImage(
            f"the mask is {px_size(mask.size)} but the image is {px_size(size)}: "
            f"make them equal, or ask for resizing ({_RESIZE})"
        )
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
            f"pictures of different sizes cannot be put together: original {px_size(original.size)}, edited "
            f"{px_size(edited.size)}, mask {px_size(mask.size)}: resize them first"
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

    def render(self, image: ImageRef, size: tuple[int, int] | None = None) -> Image.Image:
        """Return the black and white mask for ``image``, at ``size``, or at the size in which people see the image.

        Raises:
            InvalidImage: unreadable, of another size, of a meaning that is not certain, without the alpha channel that
                was asked for, or with nothing left once it is shrunk or scaled.
        """
        if self.boxes is not None:
            mask = from_boxes(image.upright_size, self.boxes)
        elif self.alpha:
            mask = holes(image.open())
        else:
            source = mask_reference(self.file)
            check_fit(source, image, resize=self.resize)
            mask = read_mask(source)
        mask = invert(mask) if self.invert else mask
        is_marking = not is_empty(mask)
        mask = dilate(match(mask, image.upright_size, resize=True), self.dilate)
        mask = match(mask, size or image.upright_size, resize=True)
        if is_marking and is_empty(mask):
            change = f"is shrunk by {-self.dilate} px" if self.dilate < 0 else f"has {px_size(mask.size)}"
            raise InvalidImage(f"{image.name}: no white is left of the mask once it {change}: make its parts larger")
        return mask

    def explain_empty(self) -> str:
        """Return why the mask that it renders marks nothing, for a message."""
        if self.boxes is not None:
            return "the mask has no boxes"
        if self.alpha:
            return "the picture is nowhere transparent"
        return "the mask is all white, and inverted" if self.invert else "the mask is all black"

    def location(self) -> str:
        """Return the file that the mask comes from, or an empty string."""
        return os.fspath(self.file) if isinstance(self.file, (str, os.PathLike)) else ""


def mask_problems(error: ValidationError, where: str) -> list[Problem]:
    """Return what is wrong with a mask's description, one sentence each."""
    found: dict[str, str] = {}
    for e in error.errors(include_url=False):
        if e["loc"][:1] == ("boxes",):
            found[f"{where}.boxes"] = "each box is four whole numbers: left, top, right, bottom"
        elif e["type"] == "extra_forbidden":
            name = str(e["loc"][-1])
            hint = nearest(name, Mask.model_fields) or f"; a mask has {', '.join(Mask.model_fields)}"
            found[f"{where}.{name}"] = f"unknown key{hint}"
        else:
            place = ".".join([where, *map(str, e["loc"])])
            found[place] = explain(e)
    return [Problem(place, what) for place, what in found.items()]
