"""Operations that make or change masks."""

from __future__ import annotations

from typing import Annotated

from PIL import Image, ImageChops
from pydantic import Field

from flux_tasks.errors import InvalidImage
from flux_tasks.images import masks
from flux_tasks.units import px_size
from pipelines.operations.parameters import Box, Edit, OpaqueColor, Others, parse_colour

__all__ = ["Dilate", "FromAlpha", "FromBoxes", "FromColor", "Invert", "Union"]


class FromAlpha(Edit):
    """Make a mask of the transparent part."""

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return a mask that is white where the picture is more than half transparent."""
        return masks.holes(image)


class FromBoxes(Edit):
    """Make a mask of rectangles."""

    boxes: Annotated[tuple[Box, ...], Field(strict=False, min_length=1)] = Field(
        description="Rectangles: left, top, right, bottom in pixels; right and bottom excluded."
    )

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return a mask that is white in the boxes."""
        return masks.from_boxes(image.size, self.boxes)


class FromColor(Edit):
    """Make a mask of what has a colour."""

    color: OpaqueColor = Field(description="An opaque name or '#rrggbb'.")
    tolerance: int = Field(0, ge=0, le=255, description="How far each of red, green and blue may be off.")

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return a mask that is white where the colour is; what is more than half transparent has no colour."""
        mask = Image.new("L", image.size, 255)
        for band, wanted in zip(image.convert("RGB").split(), parse_colour(self.color), strict=False):
            near = band.point([255 if abs(value - wanted) <= self.tolerance else 0 for value in range(256)])
            mask = ImageChops.darker(mask, near)
        if image.mode.endswith("A"):
            mask = ImageChops.darker(mask, masks.binarise(image.getchannel("A")))
        return mask


class Union(Edit):
    """Put masks together."""

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return a mask that is white where any mask is white."""
        for mask in others["masks"]:
            if mask.size != image.size:
                raise InvalidImage(
                    f"masks of {px_size(image.size)} and {px_size(mask.size)} have no union: resize one first"
                )
            image = ImageChops.lighter(image, mask)
        return image


class Dilate(Edit):
    """Grow the white of a mask, or shrink it."""

    pixels: int = Field(ge=-500, le=500, description="To grow by in every direction; below 0, to shrink by.")

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return the mask, grown by a square, as ``masks.dilate`` does."""
        return masks.dilate(image, self.pixels)


class Invert(Edit):
    """Swap black and white."""

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return the mask with black and white swapped."""
        return masks.invert(image)
