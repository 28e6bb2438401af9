"""Operations that change the size or the shape of images and masks; one class for each, as in ``images``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from PIL import Image
from pydantic import AfterValidator, Field

from flux_tasks.errors import InvalidImage
from flux_tasks.images.canvas import ANCHORS, parse_aspect_ratio
from flux_tasks.images.reference import ImageRef
from flux_tasks.units import px_size
from pipelines.operations.parameters import AnyColor, Box, Edit, Others, Size, canvas_for
from pipelines.operations.placement import Placement

__all__ = ["AutoOrient", "Crop", "Pad", "PadMask", "Resize", "ResizeMask"]

Anchor: TypeAlias = Literal[
    "center", "left", "right", "top", "bottom", "top-left", "top-right", "bottom-left", "bottom-right"
]


def _is_ratio(text: str) -> str:
    if parse_aspect_ratio(text) is None:
        raise ValueError("is not a ratio: write it like '16:9'")
    return text


Side: TypeAlias = Annotated[int, Field(ge=1, le=65_535)]
Margin: TypeAlias = Annotated[int, Field(ge=0, le=65_535)]
Ratio: TypeAlias = Annotated[str, AfterValidator(_is_ratio)]


class AutoOrient(Edit):
    """Turn the picture upright, as its EXIF orientation says."""

    def is_unchanged(self, main: ImageRef) -> bool | None:
        """Check whether it is upright."""
        return main.orientation == 1


class _Geometry(Edit):
    def is_unchanged(self, main: ImageRef) -> bool | None:
        """Check whether it has the size already."""
        return self.size(main.upright_size) == main.upright_size


class Resize(_Geometry):
    """Scale the picture."""

    exclusive_groups: ClassVar[tuple[tuple[str, ...], ...]] = (("width", "height"), ("max_side",), ("megapixels",))

    width: Side | None = Field(None, description="Pixels. Without height, the height follows.")
    height: Side | None = Field(None, description="Pixels. Without width, the width follows.")
    max_side: Side | None = Field(None, description="Pixels of the longer side.")
    megapixels: float | None = Field(None, gt=0, le=95, description="Area at most, in MP of 1,048,576 px.")
    fit: Literal["contain", "cover", "stretch"] = Field(
        "contain",
        description="With width and height: contain keeps the shape and lies within them; cover keeps the shape, fills "
        "them and cuts off what is beyond; stretch distorts.",
    )
    anchor: Anchor = Field("center", description="With fit: cover, the part that is kept.")
    upscale: bool = Field(
        False,
        description="Whether the picture may grow. Without it, a small picture stays as it is; with fit: cover or "
        "stretch, it gets the shape of width and height at a smaller size.",
    )
    filter: Literal["lanczos", "bicubic", "hamming", "bilinear", "box", "nearest"] = Field(
        "lanczos", description="How pixels are averaged."
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """Return what ``fit`` and ``anchor`` lack: both sides, ``cover``."""
        found = {}
        if given.get("fit") in ("cover", "stretch") and not ("width" in given and "height" in given):
            found["fit"] = f"{given['fit']} needs a width and a height: write both, or leave it out"
        if "anchor" in given and given.get("fit", "contain") in ("contain", "stretch"):
            found["anchor"] = "counts only with fit: cover: write that, too, or leave it out"
        return found

    def size(self, given: Size) -> Size:
        """Return the size that the parameters ask for; at least 1 px a side."""
        width, height = given
        if self.width and self.height and self.fit != "contain":
            shrink = 1.0 if self.upscale else min(1.0, width / self.width, height / self.height)
            return max(1, round(self.width * shrink)), max(1, round(self.height * shrink))
        scales = [
            self.width / width if self.width else math.inf,
            self.height / height if self.height else math.inf,
            self.max_side / max(given) if self.max_side else math.inf,
            math.sqrt(self.megapixels * 1_048_576 / (width * height)) if self.megapixels else math.inf,
        ]
        scale = min(scales) if self.upscale else min(1.0, *scales)
        if self.megapixels:  # an area must not be exceeded by rounding up
            return max(1, math.floor(width * scale + 1e-6)), max(1, math.floor(height * scale + 1e-6))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _kept(self, given: Size) -> tuple[float, float, float, float]:
        """Return the part that fills the result: left, top, right, bottom in pixels."""
        if self.fit != "cover":
            return 0.0, 0.0, float(given[0]), float(given[1])
        size = self.size(given)
        scale = max(size[0] / given[0], size[1] / given[1])
        kept = [min(side, wanted / scale) for side, wanted in zip(given, size, strict=True)]
        x, y = ((side - k) * share for side, k, share in zip(given, kept, ANCHORS[self.anchor], strict=True))
        return x, y, min(given[0], x + kept[0]), min(given[1], y + kept[1])

    def placement(self, given: Size) -> Placement:
        """Return how the part that is kept is scaled."""
        size = self.size(given)
        left, top, right, bottom = (0.0, 0.0, *given) if size == given else self._kept(given)
        x, y = size[0] / (right - left), size[1] / (bottom - top)
        return Placement((x, 0.0, -left * x, 0.0, y, -top * y), size)

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return the picture, scaled; the colours of transparent pixels do not spread."""
        size = self.size(image.size)
        if size == image.size:
            return image
        return image.resize(size, Image.Resampling[self.filter.upper()], self._kept(image.size))


class ResizeMask(Resize):
    """Scale a mask, without greys."""

    filter: Literal["nearest"] = Field(
        "nearest", description="A mask takes the nearest pixel, so that it has no greys."
    )


class Crop(_Geometry):
    """Cut a part out of the picture."""

    exclusive_groups: ClassVar[tuple[tuple[str, ...], ...]] = (("box",), ("width", "height"), ("aspect_ratio",))

    box: Box | None = Field(None, description="Left, top, right, bottom in pixels; right and bottom excluded.")
    width: Side | None = Field(None, description="Pixels. Without it, the whole width.")
    height: Side | None = Field(None, description="Pixels. Without it, the whole height.")
    aspect_ratio: Ratio | None = Field(None, description="Such as '16:9': the largest part of that shape.")
    anchor: Anchor = Field("center", description="Which part is kept, where no box says so.")

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """Return that a box needs no anchor."""
        return {"anchor": "follows from the box: leave it out"} if {"anchor", "box"} <= given.keys() else {}

    def size(self, given: Size) -> Size:
        """Return the size that the parameters ask for; at least 1 px a side."""
        if self.box:
            size = self.box[2] - self.box[0], self.box[3] - self.box[1]
            if self.box[0] < 0 or self.box[1] < 0 or self.box[2] > given[0] or self.box[3] > given[1]:
                raise InvalidImage(
                    f"the box {list(self.box)} reaches beyond the picture of {px_size(given)}: make it smaller"
                )
            return size
        if self.aspect_ratio:
            ratio = parse_aspect_ratio(self.aspect_ratio) or 1.0
            return max(1, min(given[0], round(given[1] * ratio))), max(1, min(given[1], round(given[0] / ratio)))
        size = self.width or given[0], self.height or given[1]
        if size[0] > given[0] or size[1] > given[1]:
            raise InvalidImage(
                f"{px_size(size)} cannot be cut out of a picture of {px_size(given)}: resize or pad it first"
            )
        return size

    def _corner(self, given: Size) -> tuple[int, int]:
        """Return the left top corner of the part."""
        return self.box[:2] if self.box else _place(given, self.size(given), self.anchor)

    def placement(self, given: Size) -> Placement:
        """Return where the picture lies around the part."""
        left, top = self._corner(given)
        return Placement.moved(-left, -top, self.size(given))

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return the part; its pixels are those of the picture."""
        width, height = self.size(image.size)
        left, top = self._corner(image.size)
        return image.crop((left, top, left + width, top + height))


class Pad(_Geometry):
    """Put a border around the picture."""

    exclusive_groups: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("left", "right", "top", "bottom"),
        ("width", "height"),
        ("aspect_ratio",),
    )

    left: Margin = Field(0, description="Pixels to add.")
    right: Margin = Field(0, description="Pixels to add.")
    top: Margin = Field(0, description="Pixels to add.")
    bottom: Margin = Field(0, description="Pixels to add.")
    width: Side | None = Field(None, description="Pixels of the result. Without it, as wide as the picture.")
    height: Side | None = Field(None, description="Pixels of the result. Without it, as high as the picture.")
    aspect_ratio: Ratio | None = Field(None, description="Such as '1:1': adds only as much as this shape needs.")
    anchor: Anchor = Field("center", description="Where the picture sits, where the four sides do not say so.")
    color: AnyColor = Field(
        "white", description="A name, '#rrggbb', '#rrggbbaa' or transparent. A mask is padded with black."
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """Return that margins need no anchor."""
        sides = any(side in given for side in cls.exclusive_groups[0])
        return (
            {"anchor": "follows from left, right, top and bottom: leave it out"} if sides and "anchor" in given else {}
        )

    def size(self, given: Size) -> Size:
        """Return the size that the parameters ask for."""
        if self.aspect_ratio:
            ratio = parse_aspect_ratio(self.aspect_ratio) or 1.0
            return max(given[0], math.ceil(given[1] * ratio - 1e-6)), max(given[1], math.ceil(given[0] / ratio - 1e-6))
        if self.width or self.height:
            size = self.width or given[0], self.height or given[1]
            if size[0] < given[0] or size[1] < given[1]:
                raise InvalidImage(
                    f"the picture of {px_size(given)} does not fit into {px_size(size)}: resize or crop it first"
                )
            return size
        return given[0] + self.left + self.right, given[1] + self.top + self.bottom

    def _corner(self, given: Size) -> tuple[int, int]:
        """Return where the left top corner of the picture comes to."""
        sides = not (self.aspect_ratio or self.width or self.height)
        return (self.left, self.top) if sides else _place(self.size(given), given, self.anchor)

    def placement(self, given: Size) -> Placement:
        """Return where the picture lies within the border."""
        return Placement.moved(*self._corner(given), self.size(given))

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return the picture on the colour; it gets colours, or alpha, only if the border needs them."""
        canvas = canvas_for(image.mode, self.size(image.size), self.color)
        canvas.paste(image.convert(canvas.mode), self._corner(image.size))
        return canvas


class PadMask(Pad):
    """Put a border around a mask."""

    color: Literal["black", "white"] = Field("black", description="A mask is padded with black, or with white.")


def _place(whole: Size, part: Size, anchor: Anchor) -> tuple[int, int]:
    """Return where the left top corner of ``part`` lies on ``whole``."""
    share = ANCHORS[anchor]
    return round((whole[0] - part[0]) * share[0]), round((whole[1] - part[1]) * share[1])
