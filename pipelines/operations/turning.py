"""Operations that turn and mirror images and masks; one class for each, as in ``images``."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

from PIL import Image
from pydantic import Field

from flux_tasks.images.reference import ImageRef
from pipelines.operations.parameters import AnyColor, Edit, Others, Size, canvas_for
from pipelines.operations.placement import Placement

__all__ = ["Flip", "Rotate", "RotateMask"]

_QUARTERS = {0: 1, 90: 6, 180: 3, 270: 8}
"""By degrees, the EXIF orientation of a picture that is to be turned so."""
_TRANSPOSED = {
    0: None,
    90: Image.Transpose.ROTATE_270,  # Pillow turns the other way round
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


class Rotate(Edit):
    """Turn the picture."""

    degrees: float = Field(
        ge=-360,
        le=360,
        description="Clockwise; below 0, the other way round. Multiples of 90 only move pixels.",
    )
    expand: bool = Field(
        True,
        description="Whether the result is as large as the whole turned picture. With false, it keeps its size, and "
        "what lies beyond is cut off.",
    )
    color: AnyColor = Field(
        "white",
        description="Of the corners: a name, '#rrggbb', '#rrggbbaa' or transparent. Those of a mask are black.",
    )
    filter: Literal["bicubic", "bilinear", "nearest"] = Field(
        "bicubic", description="How pixels are averaged where degrees are no multiple of 90."
    )

    def is_unchanged(self, main: ImageRef) -> bool | None:
        """Check whether it is turned all the way round, or not at all."""
        return True if self.degrees % 360 == 0 else None

    def size(self, given: Size) -> Size:
        """Return the size of the turned picture, or of the picture itself where it keeps that."""
        return self.placement(given).size

    def placement(self, given: Size) -> Placement:
        """Return how the picture is turned about its centre."""
        turn = self.degrees % 360
        if turn in _QUARTERS:
            turned = Placement.upright(_QUARTERS[int(turn)], given)
            if self.expand or turned.size == given:
                return turned
            return turned.then(Placement.moved(*_middle(turned.size, given), given))
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        width, height = given
        size = given
        if self.expand:
            sides = abs(width * cos) + abs(height * sin), abs(width * sin) + abs(height * cos)
            size = math.ceil(sides[0] - 1e-6), math.ceil(sides[1] - 1e-6)
        x, y = width / 2, height / 2
        u, v = size[0] / 2, size[1] / 2
        return Placement((cos, -sin, u - cos * x + sin * y, sin, cos, v - sin * x - cos * y), size)

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return the turned picture; it gets colours, or alpha, only if its corners need them."""
        placement = self.placement(image.size)
        if self.degrees % 90 == 0:
            turn = _TRANSPOSED[int(self.degrees % 360)]
            turned = image if turn is None else image.transpose(turn)
            if turned.size == placement.size:
                return turned
            canvas = canvas_for(image.mode, placement.size, self.color)
            canvas.paste(turned.convert(canvas.mode), _middle(turned.size, placement.size))
            return canvas
        back = placement.inverse(image.size).matrix
        canvas = canvas_for(image.mode, placement.size, self.color)
        place = partial(Image.Image.transform, size=placement.size, method=Image.Transform.AFFINE, data=back)
        inside = place(Image.new("L", image.size, 255), resample=Image.Resampling.NEAREST)
        canvas.paste(place(image.convert(canvas.mode), resample=Image.Resampling[self.filter.upper()]), (0, 0), inside)
        return canvas


def _middle(part: Size, whole: Size) -> tuple[int, int]:
    """Return where the left top corner of ``part`` lies in the middle of ``whole``."""
    return (whole[0] - part[0]) // 2, (whole[1] - part[1]) // 2


class RotateMask(Rotate):
    """Turn a mask, without greys."""

    color: Literal["black", "white"] = Field("black", description="Of the corners: black, or white.")
    filter: Literal["nearest"] = Field(
        "nearest", description="A mask takes the nearest pixel, so that it has no greys."
    )


class Flip(Edit):
    """Mirror the picture."""

    direction: Literal["horizontal", "vertical"] = Field(
        description="horizontal: left becomes right; vertical: top becomes bottom."
    )

    def placement(self, given: Size) -> Placement:
        """Return how the picture is mirrored."""
        return Placement.upright(2 if self.direction == "horizontal" else 4, given)

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return the mirrored picture."""
        is_across = self.direction == "horizontal"
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT if is_across else Image.Transpose.FLIP_TOP_BOTTOM)
